package breaker_test

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/breaker"
)

// scrape returns the samples of breakers that the admin API's metrics endpoint
// shows. Every scrape must be sound.
func (o *operated) scrape(t testing.TB) map[string]float64 {
	t.Helper()
	a := o.call(t, "GET", "/metrics", "")
	require.Equal(t, 200, a.status, a.body)
	samples := map[string]float64{}
	for line := range strings.Lines(a.body) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "tenantgate_breaker_"); ok {
			i := strings.LastIndex(name, " ")
			value, err := strconv.ParseFloat(name[i+1:], 64)
			require.NoError(t, err, line)
			samples[name[:i]] = value
		}
	}
	return samples
}

func TestMetricsTellOfStatesFailuresAndRefusals(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr()+"\n breaker_proxy /other other "+up.addr())
	at := `breaker="billing",upstream="` + up.addr() + `"`
	states := func(want string) {
		t.Helper()
		got := o.scrape(t)
		for _, state := range []string{"closed", "open", "half_open", "forced_open", "forced_closed"} {
			expected := 0.0
			if state == want {
				expected = 1
			}
			series := `state{breaker="billing",state="` + state + `",upstream="` + up.addr() + `"}`
			require.Contains(t, got, series)
			require.InDelta(t, expected, got[series], 0, state)
		}
	}
	states("closed")
	require.Equal(t, 200, o.get(t, "/").status)
	states("closed")
	o.trip(t)
	states("open")
	for range 4 {
		require.Equal(t, 503, o.get(t, "/").status)
	}
	o.clock.Advance(2 * time.Minute)
	require.Equal(t, 500, o.get(t, "/?status=500").status)
	o.clock.Advance(2 * time.Minute)
	require.Equal(t, 200, o.get(t, "/").status)
	states("closed")
	o.order(t, "billing/open", "")
	states("forced_open")
	o.order(t, "billing/close", "")
	states("forced_closed")

	got := o.scrape(t)
	for series, want := range map[string]float64{
		`failures_total{breaker="billing",reason="status",upstream="` + up.addr() + `"}`: 4,
		`rejected_total{` + at + `}`: 4,
		`probes_total{breaker="billing",result="failure",upstream="` + up.addr() + `"}`:              1,
		`probes_total{breaker="billing",result="success",upstream="` + up.addr() + `"}`:              1,
		`transitions_total{breaker="billing",from="closed",reason="failures",to="open"}`:             1,
		`transitions_total{breaker="billing",from="open",reason="open_period_over",to="half_open"}`:  2,
		`transitions_total{breaker="billing",from="half_open",reason="probe_failed",to="open"}`:      1,
		`transitions_total{breaker="billing",from="half_open",reason="probe_succeeded",to="closed"}`: 1,
		`transitions_total{breaker="billing",from="closed",reason="forced",to="forced_open"}`:        1,
		`transitions_total{breaker="billing",from="forced_open",reason="forced",to="forced_closed"}`: 1,
		`store_mode{mode="alone"}`:  1,
		`store_mode{mode="local"}`:  0,
		`store_mode{mode="shared"}`: 0,
		`reports_dropped_total`:     0,
	} {
		value, ok := got[series]
		require.True(t, ok, "%s in %v", series, got)
		require.InDelta(t, want, value, 0, series)
	}
	require.NotContains(t, got, "store_age_seconds", "without redis nothing has an age")
	require.NotContains(t, fmt.Sprint(got), "would_reject")
}

func TestMetricsCountWhatIsNotTheUpstreamsFault(t *testing.T) {
	o := newOperated(t)
	addr, hits, release := blocking(t)
	o.load(t, "breaker_proxy billing "+addr)
	conn, err := net.Dial("unix", o.socket)
	require.NoError(t, err)
	_, err = fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: gate\r\n\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return hits.Load() == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool {
		return o.scrape(t)[`excluded_total{breaker="billing",reason="client_gone"}`] == 1
	}, 5*time.Second, 5*time.Millisecond)
	release <- 200

	o.load(t, "breaker_proxy billing "+newFaulty(t).addr())
	conn, err = net.Dial("unix", o.socket)
	require.NoError(t, err)
	_, err = fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return o.scrape(t)[`excluded_total{breaker="billing",reason="body"}`] == 1
	}, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, conn.Close())
	require.NotContains(t, fmt.Sprint(o.scrape(t)), "failures_total")
}

func TestMetricsOfShadowModeCountWhatWouldBeRefused(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n mode shadow\n }\n }")
	for range 5 {
		require.Equal(t, 500, o.get(t, "/?status=500").status)
	}
	got := o.scrape(t)
	require.InDelta(t, 2, got[`would_reject_total{breaker="billing",upstream="`+up.addr()+`"}`], 0)
	require.InDelta(t, 3, got[`failures_total{breaker="billing",reason="status",upstream="`+up.addr()+`"}`], 0)
	require.NotContains(t, fmt.Sprint(got), "rejected_total")
}

func TestMetricsCountTenantsTogether(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n scope upstream+tenant\n }\n }")
	for i := range 5 {
		o.order(t, "billing/"+[]string{"open", "close"}[i%2], fmt.Sprintf(`{"upstream":%q,"tenant":"%d"}`, up.addr(), i))
	}
	require.Equal(t, 200, o.get(t, "/").status)
	got := o.scrape(t)
	for state, want := range map[string]float64{"closed": 1, "forced_open": 3, "forced_closed": 2, "open": 0} {
		require.InDelta(t, want, got[`state{breaker="billing",state="`+state+`",upstream="`+up.addr()+`"}`], 0, state)
	}
}

func TestCountersSurviveReloadsAndGoWithTheirBreaker(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	addr, hits, release := blocking(t)
	both := "breaker_proxy /slow gone " + addr + "\n breaker_proxy billing " + up.addr()
	o.load(t, both)
	o.get(t, "/?status=500")
	go func() { release <- 500 }()
	require.Equal(t, 500, o.get(t, "/slow").status)
	o.load(t, both+" {\n header_up X-A b\n }")
	o.get(t, "/?status=500")
	series := func(name, upstream string) string {
		return `failures_total{breaker="` + name + `",reason="status",upstream="` + upstream + `"}`
	}
	got := o.scrape(t)
	require.InDelta(t, 2, got[series("billing", up.addr())], 0)
	require.InDelta(t, 1, got[series("gone", addr)], 0)

	before := hits.Load()
	late := make(chan int)
	go func() {
		a, _ := o.try("GET", "/slow", "")
		late <- a.status
	}()
	require.Eventually(t, func() bool { return hits.Load() > before }, 5*time.Second, time.Millisecond)
	o.load(t, "breaker_proxy billing "+up.addr())
	release <- 500
	require.Equal(t, 500, <-late, "a request that outlives its breaker")
	got = o.scrape(t)
	require.InDelta(t, 2, got[series("billing", up.addr())], 0)
	require.NotContains(t, fmt.Sprint(got), `"gone"`)

	o.load(t, both)
	require.NotContains(t, fmt.Sprint(o.scrape(t)), `failures_total{breaker="gone"`, "it begins anew")
}

func TestMetricsOfRedis(t *testing.T) {
	o, up, redis := newOperated(t), newFaulty(t), miniredis.RunT(t)
	o.global = "tenantgate {\n redis redis://" + redis.Addr() + "\n }"
	o.load(t, "breaker_proxy billing "+up.addr())
	require.Eventually(t, func() bool { return o.scrape(t)[`store_mode{mode="shared"}`] == 1 }, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, o.scrape(t), "store_age_seconds")
	o.trip(t)
	require.Eventually(t, func() bool {
		return o.scrape(t)[`transitions_total{breaker="billing",from="closed",reason="failures",to="open"}`] == 1
	}, 10*time.Second, 10*time.Millisecond, "once, although it was opened here before redis said so")
	redis.Close()
	require.Eventually(t, func() bool {
		got := o.scrape(t)
		return got[`store_mode{mode="local"}`] == 1 && got[`store_errors_total{op="poll"}`] > 0
	}, 10*time.Second, 10*time.Millisecond)
}

// Addresses can come from placeholders, and so from requests.
func TestLabelsFromRequestsAreBoundedAndSound(t *testing.T) {
	o := newOperated(t)
	o.load(t, "breaker_proxy billing {query.host}:1")
	for _, host := range []string{"%ff", "%fe", "%22%0a%5c", strings.Repeat("a", 600)} {
		require.Equal(t, 502, o.get(t, "/?host="+host).status)
	}
	got := fmt.Sprint(o.scrape(t))
	require.Contains(t, got, "\uFFFD:1")
	require.NotContains(t, got, strings.Repeat("a", 400))

	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
	}
	release, err := breaker.CountRejections("many", many...)
	require.NoError(t, err)
	defer release()
	found := 0
	for name, value := range o.scrape(t) {
		if strings.Contains(name, `breaker="many"`) {
			found++
			if strings.Contains(name, `upstream="other"`) {
				require.InDelta(t, 3000-1024, value, 0)
			}
		}
	}
	require.Equal(t, 1025, found)
}

func TestMetricsWhileTheyAreCounted(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(breaker.Metrics()))
	var counting sync.WaitGroup
	for i := range 4 {
		counting.Go(func() {
			for j := range 200 {
				release, err := breaker.CountRejections("busy", fmt.Sprint(i, ":", j))
				if err != nil {
					t.Error(err)
				}
				release()
				release()
			}
		})
	}
	for range 50 {
		_, err := registry.Gather()
		require.NoError(t, err)
	}
	counting.Wait()
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families, "nobody has breakers any more")
}

func TestTheREADMEListsEveryMetric(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	descs := make(chan *prometheus.Desc, 100)
	breaker.Metrics().Describe(descs)
	close(descs)
	require.NotEmpty(t, descs)
	for desc := range descs {
		_, name, _ := strings.Cut(desc.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		require.Contains(t, string(readme), "`"+name, name)
	}
}
