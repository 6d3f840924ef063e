package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	core "github.com/tenantgate/tenantgate/internal/breaker"
)

// maxEvents is how many events may wait for their handlers.
const maxEvents = 256

// emitter turns the transitions of one transport's breaker into events of
// Caddy. They are emitted one after the other on a goroutine that runs only
// while there are any, because a handler may take as long as it likes and a
// transition is told of on a request's goroutine.
type emitter struct {
	ctx     context.Context // ends with the configuration
	should  func(name string) bool
	emit    func(name string, data map[string]any)
	dropped func() // counts an event that found the queue full
	mode    string

	mu      sync.Mutex
	started bool // the configuration runs
	running bool // a goroutine emits
	queue   []core.Transition
}

// newEmitter returns nil if the configuration has no app "events": it is not
// made for our sake.
func newEmitter(ctx caddy.Context, mode string, dropped func()) (*emitter, error) {
	configured, err := ctx.AppIfConfigured("events")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	app, ok := configured.(*caddyevents.App)
	if !ok {
		return nil, fmt.Errorf("the app events is a %T", configured)
	}
	e := &emitter{
		ctx:     ctx,
		should:  app.ShouldEmit,
		emit:    func(name string, data map[string]any) { app.Emit(ctx, name, data) },
		dropped: dropped,
		mode:    mode,
	}
	// The circuits live already, while the app has no subscriptions before it is
	// started and must not be asked while it is being started.
	return e, app.On("started", onStarted(e.start))
}

// observe sets up what is told of the breaker besides its log lines of single
// requests, and returns the listener of its transitions.
func (t *Transport) observe(ctx caddy.Context, shadow bool) (listener func(core.Transition), err error) {
	if err := metrics.register(ctx); err != nil {
		return nil, err
	}
	if t.counters, t.uncount, err = holdCounters(t.Name); err != nil {
		return nil, err
	}
	mode := modeEnforce
	if shadow {
		mode = modeShadow
	}
	logger, counters := ctx.Logger(), t.counters
	events, err := newEmitter(ctx, mode, func() { counters.add(metrics.lostEvents) })
	if err != nil {
		return nil, err
	}
	return func(tr core.Transition) {
		logTransition(logger, tr, shadow)
		counters.countTransition(tr)
		events.tell(tr)
	}, nil
}

// onStarted is the handler of Caddy's event "started".
type onStarted func()

// Handle implements caddyevents.Handler.
func (f onStarted) Handle(context.Context, caddy.Event) error {
	f()
	return nil
}

// start lets the events go.
func (e *emitter) start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = true
	e.run()
}

// tell emits the event of a transition that this gateway caused, soon. It does
// nothing on a nil emitter.
func (e *emitter) tell(t core.Transition) {
	if e == nil || !t.Local {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) >= maxEvents {
		e.dropped()
		return
	}
	e.queue = append(e.queue, t)
	e.run()
}

// run sees to it that a goroutine emits what waits. It expects mu to be held.
func (e *emitter) run() {
	if !e.started || e.running || len(e.queue) == 0 || e.ctx.Err() != nil {
		return
	}
	e.running = true
	go e.drain()
}

// drain emits what waits, until nothing does or the configuration is gone.
func (e *emitter) drain() {
	for {
		e.mu.Lock()
		if len(e.queue) == 0 || e.ctx.Err() != nil {
			e.running, e.queue = false, nil
			e.mu.Unlock()
			return
		}
		t := e.queue[0]
		e.queue = e.queue[1:]
		e.mu.Unlock()
		if name := eventName(t); e.should(name) {
			e.emit(name, e.data(t))
		}
	}
}

func eventName(t core.Transition) string {
	switch {
	case t.Forced != core.NotForced:
		return "circuit_forced"
	case t.State == core.Open:
		return "circuit_opened"
	case t.State == core.HalfOpen:
		return "circuit_half_open"
	}
	return "circuit_closed"
}

// data is what handlers learn, as {event.data.breaker} and so on.
func (e *emitter) data(t core.Transition) map[string]any {
	left := t.Remaining
	if t.Forced != core.NotForced {
		left = t.ForcedFor
	}
	return map[string]any{
		"breaker":      t.Key.Name,
		"upstream":     t.Key.Upstream,
		"tenant":       t.Key.Tenant,
		"from":         stateName(t.From, t.FromForced),
		"to":           stateName(t.State, t.Forced),
		"reason":       string(t.Reason),
		"failures":     t.Failures,
		"trips":        t.Trips,
		"remaining_ms": left.Milliseconds(),
		"suppressed":   t.Suppressed,
		"mode":         e.mode,
	}
}

var _ caddyevents.Handler = onStarted(nil)
