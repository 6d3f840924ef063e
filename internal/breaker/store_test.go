package breaker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// remote stands for a store whose arbiter is elsewhere: it answers nothing by
// itself, and its pushes come when the test says so.
type remote struct {
	push    func(breaker.Record)
	reports []breaker.Report
	grant   breaker.Grant
	asked   int
	results []breaker.Outcome
}

func (s *remote) Watch(key breaker.Key, push func(breaker.Record)) (stop func()) {
	s.push = push
	push(breaker.Record{Key: key, Seq: 3})
	return func() {}
}

func (s *remote) Report(_ breaker.Key, r breaker.Report, _ breaker.Settings) {
	s.reports = append(s.reports, r)
}

func (s *remote) Acquire(context.Context, breaker.Key, uint64, breaker.Settings) breaker.Grant {
	s.asked++
	return s.grant
}

func (s *remote) Result(_ breaker.Key, _ uint64, o breaker.Outcome, _ breaker.Settings) {
	s.results = append(s.results, o)
}

func (*remote) Order(context.Context, breaker.Key, breaker.Order) error { return nil }

func (*remote) Records() []breaker.Record { return nil }

func (*remote) Count(breaker.Key, int64, breaker.Settings) {}

func TestTheViewFollowsARemoteArbiter(t *testing.T) {
	t.Parallel()
	store, c := new(remote), clock.NewFake(time.Unix(1_800_000_000, 0))
	registry := breaker.New(store, c)
	settings := breaker.DefaultSettings()
	var heard []breaker.Transition
	group, err := registry.Join("x", &breaker.Member{Settings: &settings, Listener: func(tr breaker.Transition) { heard = append(heard, tr) }})
	require.NoError(t, err)
	b := group.Breaker("u", "")

	for range 5 {
		p, ok := b.Acquire(t.Context())
		require.True(t, ok)
		p.Done(breaker.Failure)
	}
	require.Len(t, store.reports, 5)
	require.Equal(t, uint64(3), store.reports[0].Admitted)
	require.NotEqual(t, store.reports[0].Event, store.reports[1].Event)
	require.True(t, b.Passes(), "the arbiter decides")

	open := breaker.Record{Key: b.Key(), Seq: 5, State: breaker.Open, Remaining: 40 * time.Second}
	store.push(open)
	store.push(breaker.Record{Key: b.Key(), Seq: 4, From: breaker.Open})
	store.push(open)
	require.Len(t, heard, 1, "late and repeated pushes change nothing")
	require.True(t, group.Refusing())
	c.Advance(10 * time.Second)
	p, ok := b.Acquire(t.Context())
	require.False(t, ok)
	require.Equal(t, 30*time.Second, p.RetryAfter(), "by the local clock")
	require.Zero(t, store.asked, "an open circuit asks nobody")

	c.Advance(30 * time.Second)
	store.grant = breaker.Grant{State: breaker.HalfOpen, RetryAfter: 20 * time.Second}
	p, ok = b.Acquire(t.Context())
	require.False(t, ok)
	require.Equal(t, time.Second, p.RetryAfter())
	store.grant = breaker.Grant{State: breaker.Open, RetryAfter: 7 * time.Second} // another replica's probe failed
	p, ok = b.Acquire(t.Context())
	require.False(t, ok)
	require.Equal(t, 7*time.Second, p.RetryAfter())
	store.grant = breaker.Grant{Probe: true, State: breaker.HalfOpen}
	p, ok = b.Acquire(t.Context())
	require.True(t, ok)
	p.Done(breaker.Success)
	require.Equal(t, []breaker.Outcome{breaker.Success}, store.results)
	store.grant = breaker.Grant{Closed: true, Seq: 9}
	p, ok = b.Acquire(t.Context())
	require.True(t, ok)
	p.Done(breaker.Failure)
	require.Equal(t, uint64(9), store.reports[5].Admitted)

	store.push(breaker.Record{Key: b.Key(), Seq: 6, From: breaker.Open})
	require.True(t, b.Passes())
	require.False(t, group.Refusing())
}
