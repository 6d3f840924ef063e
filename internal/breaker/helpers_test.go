package breaker_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// bench is a breaker with a clock that stands still and a record of what happened.
type bench struct {
	*breaker.Breaker
	clock    *clock.Fake
	store    *breaker.Memory
	registry *breaker.Registry
	group    *breaker.Group
	member   *breaker.Member

	mu          sync.Mutex
	transitions []breaker.Transition
}

// newBench returns a breaker named "billing" in front of 10.0.0.1:80.
func newBench(t testing.TB, settings breaker.Settings) *bench {
	t.Helper()
	b := &bench{clock: clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))}
	b.store = breaker.NewMemory(b.clock, func() float64 { return 0.75 })
	b.registry = breaker.New(b.store, b.clock)
	b.member = &breaker.Member{Generation: 1, Settings: &settings, Listener: func(tr breaker.Transition) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.transitions = append(b.transitions, tr)
	}}
	group, err := b.registry.Join("billing", b.member)
	require.NoError(t, err)
	b.group = group
	b.Breaker = group.Breaker("10.0.0.1:80", "")
	require.NotNil(t, b.Breaker)
	return b
}

// send admits a request and reports its outcome; it reports whether it was admitted.
func (b *bench) send(t testing.TB, o breaker.Outcome) bool {
	t.Helper()
	p, ok := b.Acquire(t.Context())
	if ok {
		p.Done(o)
	}
	return ok
}

// trip opens the closed circuit.
func (b *bench) trip(t testing.TB) {
	t.Helper()
	for range b.group.Settings().Failures {
		require.True(t, b.send(t, breaker.Failure))
	}
	require.Equal(t, breaker.Open, b.Record().State)
}

// seen returns the states that were entered so far.
func (b *bench) seen() []breaker.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	var states []breaker.State
	for _, tr := range b.transitions {
		states = append(states, tr.State)
	}
	return states
}
