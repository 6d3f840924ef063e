package gateway_test

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
)

// FuzzCaddyfile: no input panics, and what is accepted survives JSON.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"tenantgate", "tenantgate {\n\tdatabase sqlite://x.db\n\tnamespace prod\n\tpermissions {\n\t\tpoll 500ms\n\t\tmax_stale 1h\n\t}\n}",
		"tenantgate {\n\tredis redis://:p@x:1/2\n}", "tenantgate {\n\tredis \"\"\n}", "tenantgate {\n\tredis redis+sentinel://s,t/m?sentinel_password=p\n}",
		"tenantgate {\n\tredis unix:///x {\n\t}\n}", "tenantgate {\n\tredis {env.X}\n}", "tenantgate {\n\tpermissions {\n\t\tpoll -1s\n\t}\n}", "tenantgate {\n\tdatabase {env.X}\n}", "tenantgate {", "tenantgate x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		app := new(gateway.App)
		if app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		encoded, err := json.Marshal(app)
		require.NoError(t, err)
		again := new(gateway.App)
		require.NoError(t, json.Unmarshal(encoded, again))
		require.Equal(t, app, again)
	})
}
