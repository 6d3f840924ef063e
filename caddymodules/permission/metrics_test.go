package permission_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
)

// decisions returns tenantgate_permission_decisions_total by "result reason",
// without those that are zero.
func decisions(t *testing.T) map[string]int {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	require.NoError(t, err)
	found := map[string]int{}
	for _, family := range families {
		if family.GetName() != "tenantgate_permission_decisions_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if n := int(metric.GetCounter().GetValue()); n > 0 {
				found[labels["result"]+" "+labels["reason"]] = n
			}
		}
	}
	return found
}

func TestDecisionsAreCountedOverReloads(t *testing.T) {
	_, url := newDatabase(t)
	g := startGate(t, url, "check_permission abc dashboard")
	before := decisions(t)
	want := map[string]int{}
	for what, n := range before {
		want[what] = n
	}
	ask := func(method, who, what string) {
		g.status(t, method, who)
		want[what]++
	}
	ask("GET", "vic@1", "allowed allowed")
	ask("GET", "vic@1", "allowed allowed")
	ask("POST", "vic@1", "denied role_lacks_action")
	ask("GET", "vic@2", "denied not_a_member")
	ask("GET", "vic@77", "denied unknown_tenant")
	ask("GET", "ian@3", "denied tenant_suspended")
	ask("GET", "", "error missing")
	ask("PROPFIND", "vic@1", "error method_not_allowed")
	require.Equal(t, want, decisions(t))

	for i := range 5 { // the handler is another each time, or there are several
		g.load(t, url, fmt.Sprintf("poll %dms", 20+i), "check_permission abc dashboard read\ncheck_permission abc dashboard\ncheck_permission xyz a {\n mode shadow\n}")
		require.Equal(t, want, decisions(t), "a reload counts nothing and forgets nothing")
		g.status(t, "GET", "vic@1")
		want["allowed allowed"] += 2
		want["would_deny unknown_product"]++
		require.Equal(t, want, decisions(t))
	}
}

func TestWhatIsAllowedIsLoggedAsTheOptionSays(t *testing.T) {
	_, url := newDatabase(t)
	g := startGate(t, url, "check_permission abc dashboard")
	require.Equal(t, 200, g.status(t, "GET", "vic@1"))
	require.Empty(t, g.lines(t, "permission allowed"))
	g.load(t, url, "log_allowed 100%", "check_permission abc dashboard")
	require.Equal(t, 200, g.status(t, "GET", "vic@1"))
	var lines []map[string]any
	require.Eventually(t, func() bool {
		lines = g.lines(t, "permission allowed")
		return len(lines) > 0
	}, 10*time.Second, 5*time.Millisecond)
	for _, name := range []string{"level", "logger", "user_id", "permission", "role", "rule"} {
		require.Contains(t, lines[0], name)
	}
	require.Equal(t, "Viewer: abc/dashboard/read", lines[0]["rule"])
	require.Equal(t, "abc/dashboard/read", lines[0]["permission"])
	require.InDelta(t, 1, lines[0]["seq"], 0)
}
