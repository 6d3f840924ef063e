package breaker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents/eventsconfig"
	_ "github.com/caddyserver/caddy/v2/modules/metrics"
	"github.com/stretchr/testify/require"
)

// operated is a gate with an admin API on a Unix socket.
type operated struct {
	*gate
	admin string
	api   http.Client
}

func newOperated(t *testing.T) *operated {
	t.Helper()
	return operate(t, newGate(t))
}

func operate(t *testing.T, g *gate) *operated {
	t.Helper()
	o := &operated{gate: g}
	o.admin = strings.TrimSuffix(o.socket, "s") + "a"
	o.api.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", o.admin)
		},
	}
	t.Cleanup(func() { // Stop leaves the admin API on
		require.NoError(t, caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}}}`), true))
	})
	return o
}

// load runs the site with the admin API.
func (o *operated) load(t testing.TB, site string) {
	t.Helper()
	require.NoError(t, caddy.Load(o.config(t, site), true))
	o.client.CloseIdleConnections()
}

func (o *operated) config(t testing.TB, site string) []byte {
	t.Helper()
	caddyfile := fmt.Sprintf("{\n admin unix/%s\n persist_config off\n auto_https off\n log {\n output file %s\n format json\n }\n servers {\n listener_wrappers {\n handover {\n settle 1ms\n }\n }\n }\n %s\n}\nhttp:// {\n bind unix/%s\n log\n %s\n}\n",
		o.admin, o.log, o.global, o.socket, site)
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	require.NoError(t, err)
	return out
}

// call calls the admin API.
func (o *operated) call(t testing.TB, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body))
	require.NoError(t, err)
	res, err := o.api.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, string(content)}
}

// circuit is one circuit as the admin API tells of it.
type circuit struct {
	Name, Upstream, Tenant, State, Reason string
	OrderReason                           string `json:"order_reason"`
	RemainingMS                           *int64 `json:"remaining_ms"`
	ForcedForMS                           *int64 `json:"forced_for_ms"`
	Trips, Failures                       int
	Version                               uint64
	Configured                            bool
}

// listing is an answer of the admin API.
type listing struct {
	Order, Note, Replica, Mode string
	Cause                      string
	Everywhere                 *bool
	Redis                      *string
	AgeMS                      *int64 `json:"age_ms"`
	Version                    uint64
	Settings                   map[string]any
	Breakers                   []circuit
}

func (o *operated) list(t testing.TB, path string) (l listing) {
	t.Helper()
	a := o.call(t, "GET", "/tenantgate/breakers"+path, "")
	require.Equal(t, 200, a.status, a.body)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	require.NoError(t, json.Unmarshal([]byte(a.body), &l))
	return l
}

func (o *operated) order(t testing.TB, path, body string) (l listing) {
	t.Helper()
	a := o.call(t, "POST", "/tenantgate/breakers/"+path, body)
	require.Equal(t, 200, a.status, a.body)
	require.NoError(t, json.Unmarshal([]byte(a.body), &l))
	return l
}

// trip opens the circuit of the only upstream.
func (g *gate) trip(t testing.TB) {
	t.Helper()
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
}

func ptr[T any](v T) *T { return &v }

func TestAdminListsCircuitsAndBreakersWithoutTraffic(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy /shop shop {query.shop}\n breaker_proxy billing "+up.addr()+" {\n breaker {\n open 120s max 15m\n mode shadow\n }\n }")
	l := o.list(t, "")
	require.Len(t, l.Replica, 12)
	require.Equal(t, "alone", l.Mode)
	require.Nil(t, l.Redis)
	require.Nil(t, l.AgeMS)
	require.Equal(t, []circuit{{Name: "billing", Upstream: up.addr(), State: "closed", Configured: true}, {Name: "shop", State: "closed", Configured: true}}, l.Breakers)

	o.trip(t)
	o.clock.Advance(20 * time.Second)
	require.Equal(t, []circuit{
		{Name: "billing", Upstream: up.addr(), State: "open", RemainingMS: ptr(int64(100_000)), Trips: 1, Failures: 3, Reason: "failures", Configured: true},
		{Name: "shop", State: "closed", Configured: true},
	}, o.list(t, "/").Breakers)

	l = o.list(t, "/billing")
	require.Len(t, l.Breakers, 1)
	require.Equal(t, map[string]any{
		"failures": 3.0, "window_ms": 60_000.0, "open_ms": 120_000.0, "open_max_ms": 900_000.0, "probes": 1.0, "need": 1.0,
		"lease_ms": 18_000.0, "jitter": 0.0, "min_ratio": 0.0, "min_reporters": 1.0, "scope": "upstream", "mode": "shadow",
	}, l.Settings)
	head := o.call(t, "HEAD", "/tenantgate/breakers", "")
	require.Equal(t, 200, head.status)
}

func TestAdminWithoutAnyBreaker(t *testing.T) {
	dir, err := os.MkdirTemp("", "gate")
	require.NoError(t, err)
	o := operate(t, &gate{client: new(http.Client), socket: filepath.Join(dir, "s"), log: filepath.Join(dir, "log")})
	t.Cleanup(func() {
		require.NoError(t, caddy.Stop())
		_ = os.RemoveAll(dir)
	})
	o.load(t, "respond 200")
	a := o.call(t, "GET", "/tenantgate/breakers", "")
	require.JSONEq(t, `{"replica":"","mode":"alone","redis":null,"age_ms":null,"version":0,"breakers":[]}`, a.body)
	for _, path := range []string{"GET /x", "POST /x/open"} {
		method, path, _ := strings.Cut(path, " ")
		a = o.call(t, method, "/tenantgate/breakers"+path, "")
		require.Equal(t, 404, a.status)
		require.JSONEq(t, `{"error":"no breaker \"x\" is configured on this gateway, and none is known from others: GET /tenantgate/breakers lists them"}`, a.body)
	}
}

func TestOrdersHoldUntilTheyAreLiftedOrTheirTimeIsOver(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr())
	require.Equal(t, 200, o.get(t, "/").status)

	l := o.order(t, "billing/open", `{"actor":"ann","ttl":"10m","reason":"maintenance"}`)
	require.Equal(t, "open", l.Order)
	require.False(t, *l.Everywhere)
	require.Equal(t, "there is no redis: it holds on this gateway only", l.Note)
	require.Equal(t, []circuit{{Name: "billing", Upstream: up.addr(), State: "forced-open", ForcedForMS: ptr(int64(600_000)), Reason: "forced", OrderReason: "maintenance", Configured: true}}, l.Breakers)
	require.Equal(t, l.Breakers, o.list(t, "").Breakers)
	a := o.get(t, "/")
	require.Equal(t, 503, a.status)
	require.Equal(t, "600", a.header.Get("Retry-After"))
	o.clock.Advance(10 * time.Minute)
	require.Equal(t, 200, o.get(t, "/").status)
	require.Equal(t, "closed", o.list(t, "").Breakers[0].State)

	require.Equal(t, "order over", o.list(t, "").Breakers[0].Reason)
	require.Empty(t, o.list(t, "").Breakers[0].OrderReason)

	require.Equal(t, "forced-closed", o.order(t, "billing/close", "").Breakers[0].State)
	for range 5 {
		require.Equal(t, 500, o.get(t, "/?status=500").status)
	}
	require.Equal(t, []circuit{{Name: "billing", Upstream: up.addr(), State: "closed", Configured: true}}, o.order(t, "billing/auto", `{"reason":"done"}`).Breakers,
		"nothing is forced any more")
	o.trip(t)
	require.Equal(t, "open", o.order(t, "billing/auto", "").Breakers[0].State, "auto lifts an order, and there is none")
	require.Equal(t, "closed", o.order(t, "billing/reset", `{"actor":"eve\"}"}`).Breakers[0].State)
	require.Equal(t, 200, o.get(t, "/").status)

	lines := o.lines(t, "breaker ordered", 5)
	require.Len(t, lines, 5)
	first := lines[0]
	require.Equal(t, "warn", first["level"])
	require.Equal(t, "admin.api.breakers", first["logger"])
	for field, want := range map[string]any{
		"order": "open", "breaker": "billing", "upstreams": []any{up.addr()}, "circuits": 1.0,
		"actor": "ann", "ttl": "10m", "reason": "maintenance", "everywhere": false,
	} {
		require.Equal(t, want, first[field], field)
	}
	require.Equal(t, "unknown", lines[1]["actor"])
	require.NotContains(t, lines[1], "ttl")
	require.Equal(t, `eve"}`, lines[4]["actor"])
	forced := o.lines(t, "circuit forced-open", 1)[0]
	require.Equal(t, "closed", forced["from"])
	require.InDelta(t, 600_000, forced["forced_for_ms"], 0)
	require.Equal(t, "forced-open", o.lines(t, "circuit closed", 1)[0]["from"])
}

func TestAnOrderForAnUpstreamThatHasSeenNoRequest(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy /known known "+up.addr()+"\n breaker_proxy billing 127.0.0.1:{query.port}")
	require.Equal(t, up.addr(), o.order(t, "known/open", "").Breakers[0].Upstream, "it stands in the configuration")
	_, port, _ := strings.Cut(up.addr(), ":")
	a := o.call(t, "POST", "/tenantgate/breakers/billing/open", "")
	require.Equal(t, 409, a.status)
	require.Contains(t, a.body, `has no circuit like that yet, for no request has come: name the upstream, such as 10.0.0.1:80`)

	l := o.order(t, "billing/open", `{"upstream":"tcp/`+up.addr()+`"}`)
	require.Equal(t, up.addr(), l.Breakers[0].Upstream, "as the transport knows it")
	require.Equal(t, 503, o.get(t, "/?port="+port).status)
	require.Zero(t, up.hits.Load())
	require.Equal(t, "forced-closed", o.order(t, "billing/close", "").Breakers[0].State, "now it has one")
	require.Contains(t, l.Note, "warning: no request has gone to ")
	l = o.order(t, "billing/open", `{"upstream":"unix//run/x.sock"}`)
	require.Equal(t, `there is no redis: it holds on this gateway only; warning: no request has gone to "unix//run/x.sock" and no configuration names it: see that there is no typing mistake, and reset it if there is`, l.Note)
	require.NotContains(t, o.order(t, "billing/open", `{"upstream":"unix//run/x.sock"}`).Note, "warning", "it is known by now")
	l = o.list(t, "/billing")
	require.Len(t, l.Breakers, 2)
	for _, c := range l.Breakers {
		require.False(t, c.Configured, "no configuration has these addresses")
	}
	require.Equal(t, 200, o.get(t, "/?port="+port).status, "the other is forced closed")
}

// others is the address of nothing.
const others = "10.9.9.9:80"

func TestAnUpstreamThatNoBreakerHasIsRefused(t *testing.T) {
	o, up, second := newOperated(t), newFaulty(t), newFaulty(t)
	dynamic := `"dynamic_upstreams":{"source":"test","addresses":["` + up.addr() + `"]}`
	o.load(t, "breaker_proxy /a static "+up.addr()+" "+second.addr()+` {
		breaker {
			scope upstream+tenant
		}
	}
	reverse_proxy /b `+up.addr()+` {
		transport breaker plain
		lb_policy breaker plain
	}
	breaker_proxy /c fromquery `+up.addr()+` 127.0.0.1:{query.port}
	breaker_proxy /d wide `+up.addr()+`
	breaker_proxy /e wide {query.up}`)
	refused := func(path, body, want string) {
		t.Helper()
		a := o.call(t, "POST", "/tenantgate/breakers/"+path, body)
		require.Equal(t, 404, a.status, a.body)
		var refusal struct{ Error string }
		require.NoError(t, json.Unmarshal([]byte(a.body), &refusal))
		require.Equal(t, want, refusal.Error)
	}
	both := []string{up.addr(), second.addr()}
	slices.Sort(both)
	for _, verb := range []string{"open", "close", "reset", "auto"} {
		refused("static/"+verb, `{"upstream":"`+others+`"}`, `breaker "static" has no upstream "10.9.9.9:80" on this gateway: it has `+strings.Join(both, ", "))
	}
	refused("static/open", `{"upstream":"tcp/10.9.9.9:80","tenant":"1"}`, `breaker "static" has no upstream "10.9.9.9:80" on this gateway: it has `+strings.Join(both, ", "))
	refused("plain/open", `{"upstream":"`+others+`"}`, `breaker "plain" has no upstream "10.9.9.9:80" on this gateway: it has `+up.addr())
	for _, c := range o.list(t, "").Breakers {
		require.NotEqual(t, others, c.Upstream)
		require.True(t, c.Configured)
	}

	l := o.order(t, "plain/open", `{"upstream":"`+up.addr()+`"}`)
	require.True(t, l.Breakers[0].Configured, "it has seen no request and is in the configuration")
	require.NotContains(t, l.Note, "warning")
	require.Len(t, o.order(t, "static/open", `{"upstream":"`+up.addr()+`","tenant":"7"}`).Breakers, 1)
	for _, name := range []string{"fromquery", "wide"} {
		l = o.order(t, name+"/open", `{"upstream":"`+up.addr()+`"}`)
		require.NotContains(t, l.Note, "warning", name)
		require.True(t, l.Breakers[0].Configured, name)
		l = o.order(t, name+"/open", `{"upstream":"`+others+`"}`)
		require.Contains(t, l.Note, `; warning: no request has gone to "10.9.9.9:80"`, name)
		require.False(t, l.Breakers[0].Configured, name)
	}

	config := string(o.config(t, "breaker_proxy static 127.0.0.1:1"))
	require.Contains(t, config, `"upstreams":[{"dial":"127.0.0.1:1"}]`)
	require.NoError(t, caddy.Load([]byte(strings.Replace(config, `"upstreams":[{"dial":"127.0.0.1:1"}]`, dynamic, 1)), true))
	require.Contains(t, o.order(t, "static/open", `{"upstream":"`+others+`"}`).Note, "warning", "a source of upstreams may name it")

	o.load(t, "breaker_proxy static "+second.addr())
	known := map[string]bool{}
	for _, c := range o.list(t, "/static").Breakers {
		known[c.Upstream] = c.Configured
	}
	require.True(t, known[second.addr()])
	require.False(t, known[up.addr()], "no configuration has it any more")
	require.Equal(t, "closed", o.order(t, "static/reset", `{"upstream":"`+others+`"}`).Breakers[0].State, "what is there can be lifted")
}

func TestOrdersForTenants(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n scope upstream+tenant\n }\n }\n breaker_proxy /b plain "+up.addr())
	body := func(tenant string) string { return `{"upstream":"` + up.addr() + `","tenant":"` + tenant + `"}` }
	o.order(t, "billing/open", body("1"))
	o.order(t, "billing/close", body("2"))
	require.Len(t, o.order(t, "billing/close", `{"tenant":"1"}`).Breakers, 1)
	l := o.order(t, "billing/open", `{"upstream":"tcp/`+up.addr()+`"}`)
	require.Len(t, l.Breakers, 3, "those of all tenants and of nobody, however the address is written")
	for i, c := range l.Breakers {
		require.Equal(t, []string{"", "1", "2"}[i], c.Tenant)
		require.Equal(t, "forced-open", c.State)
	}
	require.Equal(t, "1", o.lines(t, "circuit forced-open", 1)[0]["tenant_id"])
	require.Equal(t, "1", o.lines(t, "breaker ordered", 1)[0]["tenant_id"])
	a := o.call(t, "POST", "/tenantgate/breakers/plain/open", body("1"))
	require.Equal(t, 400, a.status)
	require.Contains(t, a.body, "has no circuits of tenants: leave tenant out, or give it the scope upstream+tenant")
}

func TestAdminRefusesWhatItCannotUnderstand(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr())
	require.Equal(t, 200, o.get(t, "/").status)
	for name, test := range map[string]struct {
		request, body string
		status        int
		want          string
	}{
		"a list with POST":           {"POST ", "", 405, "read with GET, or POST to /tenantgate/breakers/<name>/open, close, reset or auto"},
		"a detail with DELETE":       {"DELETE /billing", "", 405, "method DELETE is not for this path"},
		"an order with GET":          {"GET /billing/open", "", 405, "an order needs POST"},
		"no such order":              {"POST /billing/explode", "", 404, `"explode" is no order: use open, close, reset or auto`},
		"a path too long":            {"POST /billing/open/now", "", 404, `"open/now" is no order`},
		"no such breaker":            {"GET /shop", "", 404, `no breaker "shop" is configured`},
		"an order for none":          {"POST /shop/open", "", 404, `no breaker "shop" is configured`},
		"no JSON":                    {"POST /billing/open", "ttl=1", 400, `send nothing, or any of {"actor":"ann"`},
		"two values":                 {"POST /billing/open", "{}{}", 400, "there is more than one value"},
		"an unknown field":           {"POST /billing/open", `{"tll":"1m"}`, 400, `unknown field "tll"`},
		"a number as TTL":            {"POST /billing/open", `{"ttl":10}`, 400, "cannot unmarshal number"},
		"a negative TTL":             {"POST /billing/open", `{"ttl":"-1m"}`, 400, `ttl "-1m" must be a duration of at most 366d`},
		"a TTL of nothing":           {"POST /billing/open", `{"ttl":"0s"}`, 400, "leave it out for an order that holds until it is lifted"},
		"a TTL of a century":         {"POST /billing/close", `{"ttl":"36500d"}`, 400, "at most 366d"},
		"a TTL that is none":         {"POST /billing/close", `{"ttl":"soon"}`, 400, `ttl "soon" must be`},
		"a TTL for reset":            {"POST /billing/reset", `{"ttl":"1m"}`, 400, "ttl is for open and close only"},
		"a TTL for auto":             {"POST /billing/auto", `{"ttl":"1m"}`, 400, "ttl is for open and close only"},
		"an actor of two lines":      {"POST /billing/open", `{"actor":"ann\n{\"level\":\"info\"}"}`, 400, "actor must be one line of at most 100 printable characters"},
		"a reason with an escape":    {"POST /billing/open", `{"reason":"\u001b[2J"}`, 400, "reason must be one line"},
		"an actor without end":       {"POST /billing/open", `{"actor":"` + strings.Repeat("a", 101) + `"}`, 400, "actor must be one line"},
		"a body without end":         {"POST /billing/open", `{"reason":"` + strings.Repeat("a", 70_000) + `"}`, 413, "body is longer than 65536 bytes"},
		"an upstream without a port": {"POST /billing/open", `{"upstream":"10.0.0.1"}`, 400, `upstream "10.0.0.1" must be an address with a port`},
		"an upstream without a host": {"POST /billing/open", `{"upstream":":80"}`, 400, "must be an address with a port"},
		"an upstream of nobody":      {"POST /billing/open", `{"upstream":"10.0.0.1:80"}`, 404, `breaker "billing" has no upstream "10.0.0.1:80" on this gateway: it has 127.0.0.1:`},
		"a range of ports":           {"POST /billing/open", `{"upstream":"10.0.0.1:80-90"}`, 400, "must be an address with a port"},
	} {
		t.Run(name, func(t *testing.T) {
			method, path, _ := strings.Cut(test.request, " ")
			a := o.call(t, method, "/tenantgate/breakers"+path, test.body)
			require.Equal(t, test.status, a.status, a.body)
			var refusal struct{ Error string }
			require.NoError(t, json.Unmarshal([]byte(a.body), &refusal))
			require.Contains(t, refusal.Error, test.want)
			require.Equal(t, test.status == 405, a.header.Get("Allow") != "")
		})
	}
	require.Equal(t, 200, o.get(t, "/").status)
	content, err := os.ReadFile(o.log)
	require.NoError(t, err)
	require.NotContains(t, string(content), "breaker ordered")
	for line := range bytes.Lines(content) {
		require.True(t, json.Valid(line), "%s", line)
	}
}

func TestOrdersOnRedisHoldEverywhere(t *testing.T) {
	o, up, redis := newOperated(t), newFaulty(t), miniredis.RunT(t)
	redis.RequireAuth("s3cret")
	o.global = "tenantgate {\n redis redis://:s3cret@" + redis.Addr() + "\n }"
	o.load(t, "breaker_proxy billing "+up.addr())
	require.Equal(t, 200, o.get(t, "/").status)
	require.Eventually(t, func() bool { return o.list(t, "").Mode == "shared" }, 10*time.Second, 10*time.Millisecond)
	l := o.list(t, "")
	require.Equal(t, "redis://"+redis.Addr()+"/0", *l.Redis)
	require.NotNil(t, l.AgeMS)

	l = o.order(t, "billing/open", `{"ttl":"10m","reason":"4711"}`)
	require.Equal(t, "4711", l.Breakers[0].OrderReason)
	require.True(t, *l.Everywhere)
	require.Equal(t, "it holds on all gateways", l.Note)
	require.Equal(t, "forced-open", l.Breakers[0].State)
	require.Positive(t, l.Breakers[0].Version)
	require.Equal(t, 503, o.get(t, "/").status)

	require.Empty(t, o.list(t, "").Cause)

	redis.Close()
	require.Eventually(t, func() bool { return o.list(t, "").Mode == "local" }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, "4711", o.list(t, "").Breakers[0].OrderReason)
	require.Contains(t, o.list(t, "").Cause, "connection refused")
	l = o.order(t, "billing/auto", "")
	require.False(t, *l.Everywhere)
	require.Equal(t, "redis does not answer: it holds on this gateway, and on the others when redis is back", l.Note)
	require.Equal(t, "closed", l.Breakers[0].State)
	require.Equal(t, 200, o.get(t, "/").status)
	content, err := os.ReadFile(o.log)
	require.NoError(t, err)
	require.NotContains(t, string(content), "s3cret")
}

func TestTheCauseIsNamedWhyRedisDoesNotDecide(t *testing.T) {
	o, up, redis := newOperated(t), newFaulty(t), miniredis.RunT(t)
	redis.RequireAuth("s3cret")
	o.global = "tenantgate {\n redis redis://:wr0ng@" + redis.Addr() + "\n }"
	o.load(t, "breaker_proxy billing "+up.addr())
	require.Eventually(t, func() bool { return strings.Contains(o.list(t, "").Cause, "WRONGPASS") }, 10*time.Second, 10*time.Millisecond)
	stdout, stderr, code := run(t.Context(), "list", "--address", "unix/"+o.admin)
	require.Zero(t, code, stderr)
	require.Regexp(t, `^local: redis://\S+ has failed for \d+s \(.*WRONGPASS .*\), each gateway decides by itself \(replica \w+\)\n`, stdout)
	for _, secret := range []string{"wr0ng", "s3cret"} {
		require.NotContains(t, stdout, secret)
	}
}

func TestAnOrderInShadowModeSaysThatNothingIsRefused(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n mode shadow\n }\n }")
	require.Equal(t, 200, o.get(t, "/").status)
	require.Contains(t, o.order(t, "billing/open", "").Note, "; the breaker is in shadow mode and refuses nothing")
	require.Equal(t, 200, o.get(t, "/").status)
}
