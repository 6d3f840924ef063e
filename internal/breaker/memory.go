package breaker

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// Memory is the store of a single process. A circuit lives as long as somebody
// watches it.
type Memory struct {
	clock   clock.Clock
	random  func() float64
	version atomic.Uint64 // of the newest change of any circuit

	mu       sync.RWMutex
	circuits map[Key]*circuit
}

// NewMemory returns an empty store. The clock must not run backwards. random
// returns numbers in [0, 1) for the jitter; nil means math/rand.
func NewMemory(c clock.Clock, random func() float64) *Memory {
	if random == nil {
		random = rand.Float64
	}
	return &Memory{clock: c, random: random, circuits: map[Key]*circuit{}}
}

// circuit is the arbiter's side of one breaker.
type circuit struct {
	mu       sync.Mutex
	record   Record
	until    time.Time // end of the open period
	stamps   []stamp   // the newest failures, oldest first; no more than the threshold
	leases   []lease   // probes under way
	verdicts int       // probes that succeeded in this half-open round
	watchers []*func(Record)
}

// stamp is one failure in the window.
type stamp struct {
	at    time.Time
	event uint64
}

// lease is one probe under way.
type lease struct {
	token   uint64
	expires time.Time
}

// Watch implements [Store].
func (m *Memory) Watch(key Key, push func(Record)) (stop func()) {
	m.mu.Lock()
	c := m.circuits[key]
	if c == nil {
		c = &circuit{record: Record{Key: key}}
		m.circuits[key] = c
	}
	c.mu.Lock()
	c.watchers = append(slices.Clip(c.watchers), &push)
	present := c.tell(m.clock.Now())
	c.mu.Unlock()
	m.mu.Unlock()
	push(present)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watchers = slices.DeleteFunc(slices.Clone(c.watchers), func(f *func(Record)) bool { return f == &push })
		if len(c.watchers) == 0 && m.circuits[key] == c {
			delete(m.circuits, key)
		}
	}
}

// change runs f on the circuit and pushes the new record if f reports a change.
func (m *Memory) change(key Key, f func(c *circuit, now time.Time) bool) (known bool) {
	m.mu.RLock()
	c := m.circuits[key]
	m.mu.RUnlock()
	if c == nil {
		return false
	}
	now := m.clock.Now()
	c.mu.Lock()
	if !f(c, now) {
		c.mu.Unlock()
		return true
	}
	c.record.Version = m.version.Add(1)
	if c.record.State == Closed && c.record.Forced == NotForced {
		c.record.ClosedAt = c.record.Version
	}
	record, watchers := c.tell(now), c.watchers
	c.mu.Unlock()
	record.Local = true
	for _, push := range watchers {
		(*push)(record)
	}
	return true
}

// Report implements [Store].
func (m *Memory) Report(key Key, r Report, s Settings) {
	m.change(key, func(c *circuit, now time.Time) bool {
		return c.fail(now, r, s) && c.open(now, s.openPeriod(1, m.random()), ReasonFailures)
	})
}

// Acquire implements [Store].
func (m *Memory) Acquire(_ context.Context, key Key, token uint64, s Settings) Grant {
	var g Grant
	known := m.change(key, func(c *circuit, now time.Time) (changed bool) {
		g, changed = c.acquire(now, token, s)
		return changed
	})
	if !known { // the breaker was dropped while the request was under way
		return Grant{Closed: true}
	}
	return g
}

// Result implements [Store].
func (m *Memory) Result(key Key, token uint64, o Outcome, s Settings) {
	m.change(key, func(c *circuit, now time.Time) bool {
		if !c.giveBack(now, token) {
			return false
		}
		switch o {
		case Success:
			c.verdicts++
			return c.verdicts >= s.Need && c.close(ReasonProbeSucceeded)
		case Failure:
			return c.open(now, s.openPeriod(c.record.Trips+1, m.random()), ReasonProbeFailed)
		}
		return false
	})
}

// Order implements [Store].
func (m *Memory) Order(_ context.Context, key Key, o Order) error {
	known := m.change(key, func(c *circuit, _ time.Time) bool {
		switch o {
		case OrderOpen:
			return c.force(ForcedOpen)
		case OrderClose:
			return c.force(ForcedClosed)
		case OrderAuto:
			return c.record.Forced != NotForced && c.close(ReasonForced)
		}
		return c.close(ReasonReset)
	})
	if !known {
		return ErrUnknown
	}
	return nil
}

// Snapshot implements [Store].
func (m *Memory) Snapshot(context.Context) ([]Record, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	now := m.clock.Now()
	records := make([]Record, 0, len(m.circuits))
	for _, c := range m.circuits {
		c.mu.Lock()
		records = append(records, c.tell(now))
		c.mu.Unlock()
	}
	return records, nil
}

// tell returns the record with the time left.
func (c *circuit) tell(now time.Time) Record {
	r := c.record
	if r.State == Open {
		r.Remaining = max(0, c.until.Sub(now))
	}
	return r
}

// fail counts one failure and reports whether the threshold is reached. Results
// of requests from before the current closed period are dropped: they tell of the
// upstream that was cut off then, not of the one that works now.
func (c *circuit) fail(now time.Time, r Report, s Settings) (tripped bool) {
	if c.record.State != Closed || c.record.Forced != NotForced || r.Admitted < c.record.ClosedAt || r.Age >= s.Window {
		return false
	}
	if slices.ContainsFunc(c.stamps, func(st stamp) bool { return st.event == r.Event }) {
		return false
	}
	at := now.Add(-max(0, r.Age))
	i, _ := slices.BinarySearchFunc(c.stamps, at, func(st stamp, t time.Time) int {
		return cmp.Or(st.at.Compare(t), -1) // behind its equals
	})
	c.stamps = slices.Insert(c.stamps, i, stamp{at: at, event: r.Event})
	start := now.Add(-s.Window)
	old, _ := slices.BinarySearchFunc(c.stamps, start, func(st stamp, t time.Time) int {
		return cmp.Or(st.at.Compare(t), -1) // a failure exactly one window ago is out
	})
	old = max(old, len(c.stamps)-s.Failures) // only the newest can ever matter
	c.stamps = slices.Delete(c.stamps, 0, old)
	return len(c.stamps) >= s.Failures
}

// open starts an open period.
func (c *circuit) open(now time.Time, period time.Duration, why Reason) bool {
	c.until = now.Add(period)
	c.record.State, c.record.Reason = Open, why
	c.record.Trips++
	c.record.Failures = len(c.stamps)
	c.stamps, c.leases = nil, nil
	return true
}

// close starts a closed period, whatever was before.
func (c *circuit) close(why Reason) bool {
	c.record.State, c.record.Forced, c.record.Reason = Closed, NotForced, why
	c.record.Trips, c.record.Failures = 0, 0
	c.stamps, c.leases = nil, nil
	return true
}

// force obeys an order and forgets everything else, so that the circuit is
// closed and clean once the order is lifted.
func (c *circuit) force(f Forced) bool {
	if c.record.Forced == f {
		return false
	}
	c.close(ReasonForced)
	c.record.Forced = f
	return true
}

// acquire decides about a probe and reports whether the state changed.
func (c *circuit) acquire(now time.Time, token uint64, s Settings) (g Grant, changed bool) {
	switch {
	case c.record.Forced == ForcedOpen:
		return Grant{State: Open, RetryAfter: s.Open}, false
	case c.record.Forced == ForcedClosed || c.record.State == Closed:
		return Grant{Closed: true, Version: c.record.Version}, false
	case c.record.State == Open && now.Before(c.until):
		return Grant{State: Open, RetryAfter: c.until.Sub(now)}, false
	case c.record.State == Open:
		c.record.State, c.record.Reason = HalfOpen, ReasonOpenPeriodOver
		c.leases, c.verdicts = nil, 0
		changed = true
	}
	c.leases = slices.DeleteFunc(c.leases, func(l lease) bool { return !now.Before(l.expires) })
	if len(c.leases) >= s.Probes {
		first := slices.MinFunc(c.leases, func(a, b lease) int { return a.expires.Compare(b.expires) })
		return Grant{State: HalfOpen, RetryAfter: first.expires.Sub(now)}, changed
	}
	c.leases = append(c.leases, lease{token: token, expires: now.Add(s.Lease)})
	return Grant{Probe: true, State: HalfOpen}, changed
}

// giveBack ends a lease and reports whether it was still valid. That is the
// fence: a probe that lost its lease no longer decides anything.
func (c *circuit) giveBack(now time.Time, token uint64) bool {
	if c.record.State != HalfOpen || c.record.Forced != NotForced {
		return false
	}
	i := slices.IndexFunc(c.leases, func(l lease) bool { return l.token == token })
	if i < 0 {
		return false
	}
	valid := now.Before(c.leases[i].expires)
	c.leases = slices.Delete(c.leases, i, i+1)
	return valid
}

var _ Store = (*Memory)(nil)
