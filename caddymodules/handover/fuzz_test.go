package handover_test

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/handover"
)

func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{"handover", "handover {\n settle 50ms\n}", "handover {\n settle 1h\n}", "handover x", "handover {\n settle\n}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		var w handover.Wrapper
		if err := w.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)); err != nil {
			return
		}
		require.GreaterOrEqual(t, time.Duration(w.Settle), time.Duration(0))
		require.LessOrEqual(t, time.Duration(w.Settle), 5*time.Second)
	})
}
