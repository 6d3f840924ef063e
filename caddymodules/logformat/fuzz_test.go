package logformat_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/logformat"
)

func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{"tenantgate", "tenantgate console", "tenantgate json {\n service x\n}", "tenantgate xml", "tenantgate {env.X} {\n}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		var e logformat.Encoder
		if err := e.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)); err != nil {
			return
		}
		if !strings.Contains(e.Style, "{") {
			require.Contains(t, []string{"", "json", "console"}, e.Style)
		}
	})
}
