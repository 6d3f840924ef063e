package permission_test

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/permission"
)

// FuzzCaddyfile: no input panics, and what is accepted is valid and survives JSON.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"check_permission abc dashboard", "check_permission abc dashboard read {\n\tsubject claims\n\ttenant {http.request.uri.path.1}\n\tmode shadow\n}",
		"check_permission", "check_permission a b c d", "check_permission a b {", "check_permission a b {\n\tsubject {\n\t\tx\n\t}\n}", "check_permission a b \"\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		h := new(permission.Handler)
		if h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		require.NoError(t, h.Validate())
		encoded, err := json.Marshal(h)
		require.NoError(t, err)
		again := new(permission.Handler)
		require.NoError(t, json.Unmarshal(encoded, again))
		require.Equal(t, h, again)
	})
}
