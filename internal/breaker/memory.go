package breaker

import (
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
	clock  clock.Clock
	random func() float64
	seq    atomic.Uint64 // of the newest change of any circuit

	mu       sync.RWMutex
	circuits map[Key]*circuit
	// copies reports whether the circuits are copies of another arbiter's: they
	// stay although nobody watches them, and orders end when the arbiter says so.
	copies func() bool
}

// NewMemory returns an empty store. The clock must not run backwards. random
// returns numbers in [0, 1) for the jitter; nil means math/rand.
func NewMemory(c clock.Clock, random func() float64) *Memory {
	if random == nil {
		random = rand.Float64
	}
	return &Memory{clock: c, random: random, circuits: map[Key]*circuit{}, copies: func() bool { return false }}
}

// Watch implements [Store].
func (m *Memory) Watch(key Key, push func(Record)) (stop func()) {
	m.mu.Lock()
	c := m.circuits[key]
	if c == nil {
		c = &circuit{key: key, record: Record{Key: key}}
		m.circuits[key] = c
	}
	c.mu.Lock()
	c.watchers = append(slices.Clip(c.watchers), &push)
	present := c.tell(m.clock.Now())
	c.mu.Unlock()
	m.mu.Unlock()
	push(present)
	return func() { m.unwatch(key, c, &push) }
}

func (m *Memory) unwatch(key Key, c *circuit, push *func(Record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers = slices.DeleteFunc(slices.Clone(c.watchers), func(f *func(Record)) bool { return f == push })
	if len(c.watchers) == 0 && m.circuits[key] == c && !m.copies() {
		delete(m.circuits, key)
	}
}

// find returns the circuit or nil.
func (m *Memory) find(key Key) *circuit {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.circuits[key]
}

// findOrAdd returns the circuit and makes it if there is none.
func (m *Memory) findOrAdd(key Key) *circuit {
	if c := m.find(key); c != nil {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.circuits[key]
	if c == nil {
		c = &circuit{key: key, record: Record{Key: key}}
		m.circuits[key] = c
	}
	return c
}

// all returns the circuits, in no order.
func (m *Memory) all() []*circuit {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]*circuit, 0, len(m.circuits))
	for _, c := range m.circuits {
		all = append(all, c)
	}
	return all
}

// change runs f on the circuit and tells the watchers if f reports a change.
func (m *Memory) change(c *circuit, f func(now time.Time) (changed bool)) {
	now := m.clock.Now()
	c.mu.Lock()
	if !m.copies() {
		m.step(c, now, func() bool { return c.lapse(now) })
	}
	m.step(c, now, func() bool { return f(now) })
	waiting := len(c.outbox) > 0
	c.mu.Unlock()
	if waiting {
		c.deliver()
	}
}

// step is one change under the circuit's lock. It counts as this process's own
// unless f says otherwise.
func (m *Memory) step(c *circuit, now time.Time, f func() bool) {
	before := c.record
	c.record.From, c.record.FromForced, c.record.Local = before.State, before.Forced, true
	if !f() {
		c.record = before
		return
	}
	c.record.Seq = m.seq.Add(1)
	if c.record.State == Closed && c.record.Forced == NotForced {
		c.closedSeq = c.record.Seq
	}
	c.outbox = append(c.outbox, c.tell(now))
}

// Report implements [Store].
func (m *Memory) Report(key Key, r Report, s Settings) {
	if c := m.find(key); c != nil {
		m.change(c, func(now time.Time) bool {
			_, tripped := c.fail(now, r, s)
			return tripped && c.open(now, s.openPeriod(1, m.random()), ReasonFailures)
		})
	}
}

// Count implements [Store].
func (m *Memory) Count(key Key, successes int64, s Settings) {
	if c := m.find(key); c != nil {
		m.change(c, func(now time.Time) bool {
			c.count(now, successes, s)
			return false
		})
	}
}

// Acquire implements [Store].
func (m *Memory) Acquire(_ context.Context, key Key, token uint64, s Settings) (g Grant) {
	c := m.find(key)
	if c == nil { // the breaker was dropped while the request was under way
		return Grant{Closed: true}
	}
	m.change(c, func(now time.Time) (changed bool) {
		g, changed = c.acquire(now, token, s)
		return changed
	})
	return g
}

// Result implements [Store].
func (m *Memory) Result(key Key, token uint64, o Outcome, s Settings) {
	if c := m.find(key); c != nil {
		m.change(c, func(now time.Time) bool { return c.result(now, token, o, s, m.random()) })
	}
}

// Order implements [Store].
func (m *Memory) Order(_ context.Context, key Key, o Order) error {
	c := m.find(key)
	if c == nil {
		return ErrUnknown
	}
	m.change(c, func(now time.Time) bool { return c.obey(now, o) })
	return nil
}

// Records implements [Store].
func (m *Memory) Records() []Record {
	now := m.clock.Now()
	all := m.all()
	records := make([]Record, 0, len(all))
	for _, c := range all {
		c.mu.Lock()
		records = append(records, c.tell(now))
		c.mu.Unlock()
	}
	return records
}

var _ Store = (*Memory)(nil)
