package gateway_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
)

// measure returns a metric of the configuration by name and labels.
func measure(t *testing.T, ctx caddy.Context, name string, labels ...string) (float64, bool) {
	t.Helper()
	families, err := ctx.GetMetricsRegistry().Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var values []string
			for _, label := range metric.GetLabel() {
				values = append(values, label.GetValue())
			}
			if len(values) == len(labels) && (len(labels) == 0 || values[0] == labels[0] && values[1] == labels[1]) {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue(), true
			}
		}
	}
	return 0, false
}

// newConfiguration provisions the app in a context of its own.
func newConfiguration(t *testing.T, config string) (caddy.Context, *gateway.App) {
	t.Helper()
	disabled := false
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &disabled}},
		AppsRaw: caddy.ModuleMap{"tenantgate": json.RawMessage(config)},
	})
	require.NoError(t, err)
	app, err := gateway.FromContext(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, app.Cleanup()) })
	return ctx, app
}

func TestTheTableIsMeasured(t *testing.T) {
	path := newDatabase(t)
	ctx, app := newConfiguration(t, config(path, `, "permissions": {"poll": "10ms"}`))
	_, ok := measure(t, ctx, "tenantgate_permission_age_seconds")
	require.False(t, ok, "no table, no age")
	require.NoError(t, app.Start())
	changeTable(t, path)
	require.Eventually(t, func() bool {
		seq, _ := measure(t, ctx, "tenantgate_permission_seq")
		return seq == 1
	}, 10*time.Second, time.Millisecond)
	for _, name := range []string{"tenants", "members", "rows", "bytes", "age_seconds", "load_seconds"} {
		value, ok := measure(t, ctx, "tenantgate_permission_"+name)
		require.True(t, ok, name)
		require.GreaterOrEqual(t, value, 0.0, name)
	}
	loads, _ := measure(t, ctx, "tenantgate_permission_loads_total", "full", "ok")
	require.InDelta(t, 2, loads, 0, "the start, and the catalogue that changed")

	// A reload: the counts go on, in the new configuration's registry.
	next, second := newConfiguration(t, config(path, `, "permissions": {"poll": "20ms"}`))
	require.NoError(t, second.Start())
	require.NoError(t, app.Stop())
	require.NoError(t, app.Cleanup())
	loads, _ = measure(t, next, "tenantgate_permission_loads_total", "full", "ok")
	require.InDelta(t, 2, loads, 0)
	failed, ok := measure(t, next, "tenantgate_permission_loads_total", "any", "error")
	require.True(t, ok)
	require.InDelta(t, 0, failed, 0)
	require.NoError(t, second.Stop())
}

func TestWithoutADatabaseNothingIsMeasured(t *testing.T) {
	ctx, _ := newConfiguration(t, `{}`)
	_, ok := measure(t, ctx, "tenantgate_permission_seq")
	require.False(t, ok)
}
