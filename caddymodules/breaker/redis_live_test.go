package breaker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

func init() {
	caddy.RegisterModule(new(tenantHandler))
	httpcaddyfile.RegisterHandlerDirective("test_tenant", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(tenantHandler), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_tenant", httpcaddyfile.Before, "respond")
}

// tenantHandler stands for jwt_auth: the request speaks for the tenant that its
// query names.
type tenantHandler struct{}

func (*tenantHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_tenant", New: func() caddy.Module { return new(tenantHandler) }}
}

func (*tenantHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if tenant := r.URL.Query().Get("tenant"); tenant != "" {
		gateway.SetPrincipal(r.Context(), &identity.Principal{UserID: "u", TenantID: tenant})
	}
	return next.ServeHTTP(w, r)
}

func TestOneTenantsFailuresCutOffThatTenantOnly(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "test_tenant\n breaker_proxy billing "+up.addr()+" {\n breaker {\n scope upstream+tenant\n }\n }")
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?tenant=1&status=500").status)
	}
	require.Equal(t, 503, g.get(t, "/?tenant=1").status)
	require.Equal(t, 200, g.get(t, "/?tenant=2").status)
	require.Equal(t, 200, g.get(t, "/").status, "nobody's requests have a circuit of their own")
	opened := g.lines(t, "circuit opened", 1)
	require.Equal(t, "1", opened[0]["tenant_id"])

	g.load(t, "test_tenant\n breaker_proxy billing "+up.addr())
	require.Equal(t, 200, g.get(t, "/?tenant=1").status, "without the scope tenants share one circuit")
}

func TestOneTenantsCircuitLeavesTheOtherUpstreamsToIt(t *testing.T) {
	g, bad, good := newGate(t), newFaulty(t), newFaulty(t)
	g.load(t, "test_tenant\n breaker_proxy billing "+bad.addr()+" "+good.addr()+" {\n lb_policy first\n breaker {\n scope upstream+tenant\n }\n }")
	bad.fail.Store(true)
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?tenant=1").status)
	}
	require.Equal(t, 200, g.get(t, "/?tenant=1").status)
	require.Equal(t, 500, g.get(t, "/?tenant=2").status)
}

// knowsOf reports whether Redis holds a circuit that is not closed.
func knowsOf(t *testing.T, server *redistest.Server, namespace, id string) bool {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { require.NoError(t, client.Close()) }()
	known, err := client.HExists(t.Context(), namespace+":{breaker}:states", id).Result()
	require.NoError(t, err)
	return known
}

func TestReloadsTakeTheCircuitsToAnotherRedisAndBack(t *testing.T) {
	one, other := redistest.Start(t), redistest.Start(t)
	g, up := newGate(t), newFaulty(t)
	site := "breaker_proxy billing " + up.addr()
	g.load(t, site)
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	for _, step := range []struct {
		server    *redistest.Server
		namespace string
	}{{one, "prod"}, {other, "prod"}, {other, "test"}, {one, "prod"}, {nil, ""}, {one, "last"}} {
		g.global = ""
		if step.server != nil {
			g.global = fmt.Sprintf("tenantgate {\n redis %s\n namespace %s\n }", step.server.URL(), step.namespace)
		}
		g.load(t, site)
		require.Equal(t, 503, g.get(t, "/").status)
		if step.server != nil {
			require.Eventually(t, func() bool { return knowsOf(t, step.server, step.namespace, "billing@"+up.addr()) }, 10*time.Second, 5*time.Millisecond)
		}
		require.Equal(t, 503, g.get(t, "/").status)
	}
	require.Equal(t, int64(3), up.hits.Load())
}

func TestAReloadThatFailsKeepsTheRedisInUse(t *testing.T) {
	server := redistest.Start(t)
	g, up := newGate(t), newFaulty(t)
	site := "breaker_proxy billing " + up.addr()
	g.global = "tenantgate {\n redis " + server.URL() + "\n }"
	g.load(t, site)
	require.Equal(t, 200, g.get(t, "/").status)
	g.global = ""
	busy := newFaulty(t)
	require.ErrorContains(t, caddy.Load(withServer(t, g.config(t, site), busy.addr()), true), "address already in use")
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	require.Eventually(t, func() bool { return knowsOf(t, server, "tenantgate", "billing@"+up.addr()) }, 10*time.Second, 5*time.Millisecond)
}

// withServer adds an HTTP server to a configuration.
func withServer(t *testing.T, config []byte, address string) []byte {
	t.Helper()
	var all map[string]any
	require.NoError(t, json.Unmarshal(config, &all))
	servers := all["apps"].(map[string]any)["http"].(map[string]any)["servers"].(map[string]any) //nolint:forcetypeassert // of our own making
	servers["other"] = map[string]any{"listen": []string{address}}
	changed, err := json.Marshal(all)
	require.NoError(t, err)
	return changed
}

func TestARedisThatIsNotThereFailsNoLoadAndNoRequest(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.global = "tenantgate {\n redis redis://127.0.0.1:1\n }"
	g.load(t, "breaker_proxy billing "+up.addr())
	require.Equal(t, 200, g.get(t, "/").status)
	lost := g.lines(t, "redis does not answer: breakers work on each replica by itself until it does", 1)
	require.Len(t, lost, 1)
	require.Equal(t, "warn", lost[0]["level"])
	require.Equal(t, "redis://127.0.0.1:1/0", lost[0]["redis"])
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	require.Equal(t, 503, g.get(t, "/").status)
}

func TestSettingsThatAreHardlyMeantAreWarnedOf(t *testing.T) {
	const (
		single    = "a single failure opens the circuit: raise failures, or set min_ratio"
		reporters = "min_reporters counts for nothing without redis: add redis to the global option tenantgate, or remove it"
		trigger   = "very few failures open the circuit for so much traffic: set min_ratio, such as 1%, or raise failures"
	)
	g, up := newGate(t), newFaulty(t)
	site := func(options string) string {
		return "breaker_proxy billing " + up.addr() + " {\n breaker {\n window 1000s\n " + options + "\n }\n }"
	}
	g.load(t, site("failures 1\n min_reporters 2"))
	require.Len(t, g.lines(t, single, 1), 1)
	require.Len(t, g.lines(t, reporters, 1), 1)

	for range 60 {
		require.Equal(t, 200, g.get(t, "/").status)
	}
	g.clock.Advance(15 * time.Second) // 4 requests a second, 4,000 in a window
	g.load(t, site("failures 3\n min_ratio 1%"))
	g.load(t, site("failures 5"))
	require.Empty(t, g.lines(t, trigger, 0), "enough failures, or a ratio")
	g.load(t, site("failures 3"))
	warned := g.lines(t, trigger, 1)
	require.Len(t, warned, 1)
	require.Equal(t, "billing", warned[0]["breaker"])
	require.InDelta(t, 4, warned[0]["requests_per_second"], 0.1)
	require.InDelta(t, 0.075, warned[0]["failing_percent"], 0.01)
}
