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
	stop  func() // ends the store's pushes

	suppressed atomic.Int64 // refusals not yet told in a log line
	nextLine   atomic.Int64 // earliest time of the next line, ns since the registry's start
}

// view is what this process believes of a circuit. It is never changed, only replaced.
type view struct {
	Record
	passes   bool      // requests go through without asking anybody
	deadline time.Time // end of the open period on the local monotonic clock
}

// permitKind says what a permit's result means.
type permitKind uint8

const (
	refused  permitKind = iota
	admitted            // an ordinary request in the closed state
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
	ref        uint64 // admitted: version of the view; probe: token of the lease; else: the wait in ns
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
	r := v.Record
	r.Remaining = max(0, v.deadline.Sub(b.group.registry.clock.Now()))
	return r
}

// Acquire asks to send a request. If it returns false the request must not be
// sent; the permit then tells how long to wait. It blocks only for a probe, as
// long as the store's Acquire does.
func (b *Breaker) Acquire(ctx context.Context) (Permit, bool) {
	v := b.view.Load()
	if v.passes {
		return Permit{breaker: b, ref: v.Version, kind: admitted}, true
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
		return Permit{breaker: b, ref: v.Version, kind: admitted}, true
	}
	return b.try(ctx, v, b.group.registry.clock.Now(), b.group.Settings())
}

func (b *Breaker) try(ctx context.Context, v *view, now time.Time, settings Settings) (Permit, bool) {
	refusal := Permit{breaker: b, suppressed: -1, kind: refused}
	switch {
	case v.Forced == ForcedOpen:
		return refusal.after(settings.Open)
	case v.State == Open && now.Before(v.deadline):
		return refusal.after(v.deadline.Sub(now))
	}
	r := b.group.registry
	token := r.sequence.Add(1)
	grant := r.store.Acquire(ctx, b.key, token, settings)
	switch {
	case grant.Probe:
		return Permit{breaker: b, ref: token, kind: probe}, true
	case grant.Closed:
		return Permit{breaker: b, ref: grant.Version, kind: admitted}, true
	case grant.State == HalfOpen:
		return refusal.after(min(grant.RetryAfter, halfOpenRetry))
	}
	return refusal.after(grant.RetryAfter)
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
	if v.Forced == ForcedOpen {
		return Standing{RetryAfter: settings.Open}
	}
	if v.State == HalfOpen {
		return Standing{MayProbe: true, RetryAfter: halfOpenRetry}
	}
	if left := v.deadline.Sub(b.group.registry.clock.Now()); left > 0 {
		return Standing{RetryAfter: left}
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
	case probe:
		p.breaker.result(p.ref, o)
	}
}

func (b *Breaker) report(version uint64) {
	r := b.group.registry
	r.store.Report(b.key, Report{Event: r.sequence.Add(1), Admitted: version}, b.group.Settings())
}

func (b *Breaker) result(token uint64, o Outcome) {
	b.group.registry.store.Result(b.key, token, o, b.group.Settings())
}

// apply takes a pushed record for the view, unless the view is newer.
func (b *Breaker) apply(rec Record) {
	next := &view{
		Record:   rec,
		passes:   rec.Forced == ForcedClosed || rec.Forced == NotForced && rec.State == Closed,
		deadline: b.group.registry.clock.Now().Add(rec.Remaining),
	}
	for {
		old := b.view.Load()
		if old != nil && old.Epoch == rec.Epoch && rec.Version <= old.Version {
			return
		}
		if !b.view.CompareAndSwap(old, next) {
			continue
		}
		if wasPassing := old == nil || old.passes; wasPassing != next.passes {
			b.group.countRefusing(next.passes)
		}
		if old != nil {
			b.group.notify(Transition{From: old.State, FromForced: old.Forced, Record: rec, Suppressed: b.suppressed.Swap(0)})
		}
		return
	}
}
