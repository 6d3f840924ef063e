// Package breaker is the circuit breaker: it counts the failures of an upstream
// in an exact sliding window, cuts it off when there are too many, and lets a
// few leased probes through to find out when it is well again.
//
//	        N failures within the window
//	closed ──────────────────────────────▶ open ◀───────────┐
//	  ▲                                      │ open period over│ a probe failed
//	  │ `need` probes succeeded              ▼                 │
//	  └─────────────────────────────────  half-open ──────────┘
//
// The work is split in two. A [Breaker] is what a request meets: it decides from
// an immutable view, so a success in the closed state costs one atomic load, no
// write, no clock and no lock. A [Store] is the arbiter: it counts, opens,
// grants probes and closes, and pushes every change into the views. [Memory] is
// the arbiter of one process; one that all replicas share fits the same interface.
package breaker

import (
	"context"
	"sync/atomic"
	"time"
)

// halfOpenRetry is what a client is told to wait while a probe is under way:
// how long that takes nobody knows, but it is rarely long.
const halfOpenRetry = time.Second

// lineInterval is the shortest time between two log lines about refused
// requests of one breaker.
const lineInterval = time.Second

// orderCheck is how often the end of an order is asked for that is overdue.
const orderCheck = time.Second

// Outcome is how an admitted request went.
type Outcome uint8

// The outcomes. Ignored says nothing about the upstream: the client went away,
// or its own request body could not be read.
const (
	Success Outcome = iota
	Failure
	Ignored
)

// Breaker guards one upstream address. It is safe for concurrent use.
type Breaker struct {
	key   Key
	group *Group
	view  atomic.Pointer[view]
	meter atomic.Pointer[meter] // of successes, if there is a ratio to know
	stop  func()                // ends the store's pushes

	orderTimer atomic.Pointer[time.Timer]
	suppressed atomic.Int64 // refusals not yet told in a log line
	nextLine   atomic.Int64 // earliest time of the next line, ns since the registry's start
}

// view is what this process believes of a circuit. It is never changed, only replaced.
type view struct {
	Record
	passes    bool       // requests go through without asking anybody
	kind      permitKind // of their permits
	deadline  time.Time  // end of the open period on the local monotonic clock
	orderEnds time.Time  // end of the operator's order, zero if it has none
}

// permitKind says what a permit's result means.
type permitKind uint8

const (
	refused  permitKind = iota
	admitted            // an ordinary request in the closed state
	counted             // the same, and its success counts too
	probe               // holds a lease of a half-open circuit
	shadowed            // would have been refused; its result says nothing
)

// Permit is the right to send one request. It is a plain value: report its
// result with [Permit.Done] exactly once, when the response headers are there.
// A permit that is lost does no harm: a probe's lease runs out by itself.
type Permit struct {
	// No more than four fields: beyond that the compiler keeps it in memory
	// instead of registers, which doubles the cost of a success.
	breaker    *Breaker
	ref        uint64 // admitted: Seq of the view; probe: token of the lease; else: the wait in ns
	suppressed int64  // of a refusal: -1 if it isn't to be logged
	kind       permitKind
}

// Key names the guarded upstream.
func (b *Breaker) Key() Key { return b.key }

// Passes reports whether requests go through unasked, as they do when closed.
func (b *Breaker) Passes() bool { return b.view.Load().passes }

// Record returns what this process believes of the circuit, with the time left now.
func (b *Breaker) Record() Record {
	v := b.view.Load()
	r, now := v.Record, b.group.registry.clock.Now()
	r.Remaining = max(0, v.deadline.Sub(now))
	if !v.orderEnds.IsZero() {
		r.ForcedFor = max(0, v.orderEnds.Sub(now))
	}
	return r
}

// Acquire asks to send a request. If it returns false the request must not be
// sent; the permit then tells how long to wait. It blocks only for a probe, as
// long as the store's Acquire does.
func (b *Breaker) Acquire(ctx context.Context) (Permit, bool) {
	v := b.view.Load()
	if v.passes {
		return Permit{breaker: b, ref: v.Seq, kind: v.kind}, true
	}
	return b.acquire(ctx, v)
}

// acquire is Acquire for a circuit that isn't closed. In shadow mode a request
// that is refused is sent all the same, and counted as if it had not been.
func (b *Breaker) acquire(ctx context.Context, v *view) (Permit, bool) {
	now := b.group.registry.clock.Now()
	settings := b.group.Settings()
	p, ok := b.try(ctx, v, now, settings)
	if ok {
		return p, true
	}
	if settings.Shadow {
		p.kind = shadowed
	}
	at := int64(now.Sub(b.group.registry.start))
	next := b.nextLine.Load()
	if at >= next && b.nextLine.CompareAndSwap(next, at+int64(lineInterval)) {
		p.suppressed = b.suppressed.Swap(0)
	} else {
		b.suppressed.Add(1)
	}
	return p, settings.Shadow
}

// Try is Acquire for a caller that has another upstream to turn to: a refusal
// counts as no refused request, and shadow mode does not matter.
func (b *Breaker) Try(ctx context.Context) (Permit, bool) {
	v := b.view.Load()
	if v.passes {
		return Permit{breaker: b, ref: v.Seq, kind: v.kind}, true
	}
	return b.try(ctx, v, b.group.registry.clock.Now(), b.group.Settings())
}

func (b *Breaker) try(ctx context.Context, v *view, now time.Time, settings Settings) (Permit, bool) {
	refusal := Permit{breaker: b, suppressed: -1, kind: refused}
	switch {
	case v.Forced == ForcedOpen && v.ordered(now):
		return refusal.after(v.orderWait(now, settings))
	case v.Forced == NotForced && v.State == Open && now.Before(v.deadline):
		return refusal.after(v.deadline.Sub(now))
	}
	r := b.group.registry
	token := r.sequence.Add(1)
	grant := r.store.Acquire(ctx, b.key, token, settings)
	switch {
	case grant.Probe:
		if grant.Token != 0 {
			token = grant.Token
		}
		return Permit{breaker: b, ref: token, kind: probe}, true
	case grant.Closed:
		return Permit{breaker: b, ref: grant.Seq, kind: admitted}, true
	case grant.State == HalfOpen:
		return refusal.after(min(grant.RetryAfter, halfOpenRetry))
	}
	return refusal.after(grant.RetryAfter)
}

// ordered reports whether the operator's order still holds.
func (v *view) ordered(now time.Time) bool {
	return v.orderEnds.IsZero() || now.Before(v.orderEnds)
}

// orderWait is how long a client should wait that an order refuses: to the end
// of the order, or as long as for an open circuit if it has none.
func (v *view) orderWait(now time.Time, s Settings) time.Duration {
	if v.orderEnds.IsZero() {
		return s.Open
	}
	return v.orderEnds.Sub(now)
}

// after completes a refusal with the time to wait.
func (p Permit) after(wait time.Duration) (Permit, bool) {
	p.ref = uint64(max(0, wait))
	return p, false
}

// Standing is what a load balancer needs to know of an upstream.
type Standing struct {
	// Passes: requests go through.
	Passes bool
	// MayProbe: a request may be admitted as a probe; only Acquire knows.
	MayProbe bool
	// RetryAfter is how long until the upstream may be tried, if it is neither.
	RetryAfter time.Duration
}

// Standing tells whether it is any use to choose this upstream. It changes nothing.
func (b *Breaker) Standing() Standing {
	v := b.view.Load()
	settings := b.group.Settings()
	if v.passes || settings.Shadow {
		return Standing{Passes: true}
	}
	now := b.group.registry.clock.Now()
	switch {
	case v.Forced == ForcedOpen && v.ordered(now):
		return Standing{RetryAfter: v.orderWait(now, settings)}
	case v.State == HalfOpen:
		return Standing{MayProbe: true, RetryAfter: halfOpenRetry}
	case v.deadline.After(now):
		return Standing{RetryAfter: v.deadline.Sub(now)}
	}
	return Standing{MayProbe: true}
}

// Breaker returns the breaker that gave the permit.
func (p Permit) Breaker() *Breaker { return p.breaker }

// RetryAfter is how long a refused request should wait.
func (p Permit) RetryAfter() time.Duration {
	if p.kind != refused && p.kind != shadowed {
		return 0
	}
	return time.Duration(p.ref)
}

// Probe reports whether the request decides about a half-open circuit.
func (p Permit) Probe() bool { return p.kind == probe }

// Shadowed reports whether the request would have been refused in enforce mode.
func (p Permit) Shadowed() bool { return p.kind == shadowed }

// Announce reports whether this refusal is to be logged, and how many before it
// were not. At most one refusal a second is; together the lines count every one.
func (p Permit) Announce() (suppressed int64, ok bool) {
	return p.suppressed, p.suppressed >= 0 && (p.kind == refused || p.kind == shadowed)
}

// Done reports how the request went.
func (p Permit) Done(o Outcome) {
	if p.kind != admitted || o == Failure {
		p.done(o)
	}
}

func (p Permit) done(o Outcome) {
	switch p.kind {
	case admitted:
		p.breaker.report(p.ref)
	case counted:
		p.breaker.countOrReport(p.ref, o)
	case probe:
		p.breaker.result(p.ref, o)
	}
}

func (b *Breaker) report(seq uint64) {
	r := b.group.registry
	r.store.Report(b.key, Report{Event: r.sequence.Add(1), Admitted: seq}, b.group.Settings())
}

func (b *Breaker) result(token uint64, o Outcome) {
	b.group.registry.store.Result(b.key, token, o, b.group.Settings())
}

// countOrReport is done for a circuit with a ratio: it needs to know of successes
// too, which it hears of some at a time.
func (b *Breaker) countOrReport(seq uint64, o Outcome) {
	m, r := b.meter.Load(), b.group.registry
	at := r.clock.Now().Sub(r.start)
	switch {
	case o == Failure || o == Success && m.due(at):
		settings := b.group.Settings()
		n, age := m.take(at)
		if age >= settings.Window {
			n = 0 // they are none of this window's
		}
		if o == Success {
			n++
		}
		if n > 0 {
			r.store.Count(b.key, n, settings)
		}
	case o == Success:
		m.add()
	}
	if o == Failure {
		b.report(seq)
	}
}

// apply takes a pushed record for the view, unless the view is newer.
func (b *Breaker) apply(rec Record) {
	now := b.group.registry.clock.Now()
	next := &view{Record: rec, deadline: now.Add(rec.Remaining)}
	if rec.ForcedFor > 0 {
		next.orderEnds = now.Add(rec.ForcedFor)
	}
	old, ok := b.replace(next, func(old *view) bool { return old == nil || rec.Seq > old.Seq })
	if !ok {
		return
	}
	b.expectEnd(rec.ForcedFor)
	if old != nil && (rec.State != rec.From || rec.Forced != rec.FromForced) {
		b.group.notify(Transition{Record: rec, Suppressed: b.suppressed.Swap(0)})
	}
}

// replace puts next in the place of the view if it may.
func (b *Breaker) replace(next *view, may func(old *view) bool) (old *view, ok bool) {
	next.passes = next.Forced == ForcedClosed || next.Forced == NotForced && next.State == Closed
	for {
		old = b.view.Load()
		if !may(old) {
			return old, false
		}
		next.kind = admitted
		if b.group.Settings().MinRatio > 0 {
			b.meter.CompareAndSwap(nil, new(meter))
			next.kind = counted
		}
		if !b.view.CompareAndSwap(old, next) {
			continue
		}
		if wasPassing := old == nil || old.passes; wasPassing != next.passes {
			b.group.countRefusing(next.passes)
		}
		return old, true
	}
}

// refresh makes the view follow new settings.
func (b *Breaker) refresh() {
	for {
		old := b.view.Load()
		next := *old
		if _, ok := b.replace(&next, func(now *view) bool { return now == old }); ok {
			return
		}
	}
}

// expectEnd sees to it that an order with a time limit ends although requests
// that pass never look at a clock.
func (b *Breaker) expectEnd(in time.Duration) {
	var next *time.Timer
	if in > 0 {
		next = time.AfterFunc(in, b.endOrder)
	}
	if old := b.orderTimer.Swap(next); old != nil {
		old.Stop()
	}
}

// endOrder has an order lifted whose time is over. The arbiter's clock may be
// behind ours: it is asked again until it agrees.
func (b *Breaker) endOrder() {
	r := b.group.registry
	_ = r.store.Order(context.Background(), b.key, Order{Kind: orderLapse}) // ErrUnknown: it is gone
	if v := b.view.Load(); !v.orderEnds.IsZero() && !v.ordered(r.clock.Now()) {
		b.expectEnd(orderCheck)
	}
}

// end gives the breaker up.
func (b *Breaker) end() {
	b.stop()
	b.expectEnd(0)
}
