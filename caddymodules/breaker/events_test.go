package breaker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func init() {
	caddy.RegisterModule(new(listener))
	caddy.RegisterModule(new(execStub))
}

// heard are the events that the listener has heard, unless it is held up.
var heard struct {
	sync.Mutex
	events []caddy.Event
}

// listener is a handler of events.
type listener struct{}

func (*listener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_listener", New: func() caddy.Module { return new(listener) }}
}

func (*listener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
	}
	return nil
}

func (*listener) Handle(_ context.Context, e caddy.Event) error {
	heard.Lock()
	defer heard.Unlock()
	heard.events = append(heard.events, e)
	return nil
}

// execStub takes the syntax of the plugin github.com/mholt/caddy-events-exec.
type execStub struct {
	listener
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
}

func (*execStub) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec", New: func() caddy.Module { return new(execStub) }}
}

func (e *execStub) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if !d.NextArg() {
			return d.ArgErr()
		}
		e.Command, e.Args = d.Val(), d.RemainingArgs()
	}
	return nil
}

// events returns what has been heard once there are n, and forgets it.
func events(t testing.TB, n int) (found []caddy.Event) {
	t.Helper()
	require.Eventually(t, func() bool {
		heard.Lock()
		defer heard.Unlock()
		return len(heard.events) >= n
	}, 5*time.Second, time.Millisecond)
	heard.Lock()
	defer heard.Unlock()
	found, heard.events = heard.events, nil
	require.Len(t, found, n)
	return found
}

const listening = "events {\n on circuit_opened test_listener\n on circuit_half_open test_listener\n on circuit_closed test_listener\n on circuit_forced test_listener\n }"

func TestEveryTransitionIsAnEvent(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.global = listening
	o.load(t, "breaker_proxy billing "+up.addr())
	o.trip(t)
	require.Equal(t, 503, o.get(t, "/").status)
	require.Equal(t, 503, o.get(t, "/").status)
	o.clock.Advance(2 * time.Minute)
	require.Equal(t, 200, o.get(t, "/").status)
	o.order(t, "billing/open", `{"ttl":"1m"}`)
	o.order(t, "billing/auto", "")
	var got []string
	for _, e := range events(t, 5) {
		require.Equal(t, "http.reverse_proxy.transport.breaker", string(e.Origin().CaddyModule().ID))
		require.Equal(t, "billing", e.Data["breaker"])
		require.Equal(t, up.addr(), e.Data["upstream"])
		require.Empty(t, e.Data["tenant"])
		require.Equal(t, "enforce", e.Data["mode"])
		got = append(got, fmt.Sprint(e.Name(), ": ", e.Data["from"], " -> ", e.Data["to"], ", ", e.Data["reason"], ", ",
			e.Data["failures"], " ", e.Data["trips"], " ", e.Data["remaining_ms"], " ", e.Data["suppressed"]))
	}
	require.Equal(t, []string{
		"circuit_opened: closed -> open, failures, 3 1 120000 0",
		"circuit_half_open: open -> half-open, open period over, 3 1 0 1",
		"circuit_closed: half-open -> closed, probe succeeded, 0 0 0 0",
		"circuit_forced: closed -> forced-open, forced, 0 0 60000 0",
		"circuit_closed: forced-open -> closed, forced, 0 0 0 0",
	}, got)
}

func TestASlowListenerHoldsUpNoRequest(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.global = listening
	o.load(t, "breaker_proxy billing "+up.addr())
	heard.Lock() // the listener cannot hear
	o.trip(t)
	require.Equal(t, 503, o.get(t, "/").status)
	for range 300 {
		o.order(t, "billing/open", "")
		o.order(t, "billing/auto", "")
	}
	heard.Unlock()
	require.InDelta(t, 1+600-257, o.scrape(t)[`events_dropped_total{breaker="billing"}`], 1)
	require.Eventually(t, func() bool {
		heard.Lock()
		defer heard.Unlock()
		return len(heard.events) >= 256
	}, 5*time.Second, time.Millisecond)
	heard.Lock()
	heard.events = nil
	heard.Unlock()
}

func TestEventsGoToTheNewestConfigurationAndLeaveNoGoroutine(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.global = listening
	run := func(loads int) {
		for i := range loads {
			g.load(t, fmt.Sprintf("breaker_proxy billing %s {\n header_up X-I %d\n breaker {\n failures 1\n }\n }", up.addr(), i))
			require.Equal(t, 500, g.get(t, "/?status=500").status)
			g.clock.Advance(2 * time.Minute)
			require.Equal(t, 200, g.get(t, "/").status)
			events(t, 3)
		}
		g.client.CloseIdleConnections()
		require.NoError(t, caddy.Stop())
	}
	run(2)
	before := goleak.IgnoreCurrent()
	run(50)
	up.Close()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")) // ends by itself seconds later
}

func TestWithoutAListenerNothingIsEmitted(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	for i, global := range []string{"", "events {\n on other test_listener\n }", "debug"} {
		g.global = global
		g.load(t, "breaker_proxy billing "+up.addr())
		g.trip(t)
		require.Len(t, g.lines(t, "circuit opened", i+1), i+1)
		require.NoError(t, caddy.Stop())
	}
	heard.Lock()
	defer heard.Unlock()
	require.Empty(t, heard.events)
}

func TestTheCaddyfileOfEventsInTheREADMEAdapts(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, _ := strings.Cut(string(readme), "\n## Events\n")
	_, example, _ := strings.Cut(section, "```\n")
	example, _, _ = strings.Cut(example, "```")
	require.Contains(t, example, "on circuit_opened")
	out, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(example), nil)
	require.NoError(t, err)
	require.Empty(t, warnings)
	var config struct {
		Apps struct {
			Events struct {
				Subscriptions []struct {
					Events   []string
					Handlers []map[string]any
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(out, &config))
	require.Equal(t, []string{"circuit_opened"}, config.Apps.Events.Subscriptions[0].Events)
	require.Equal(t, "exec", config.Apps.Events.Subscriptions[0].Handlers[0]["handler"])
}
