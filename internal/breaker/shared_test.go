package breaker_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// replica is one gateway of several, as far as breakers go.
type replica struct {
	*breaker.Breaker
	store    *breaker.Shared
	registry *breaker.Registry
	group    *breaker.Group
	heard    chan breaker.Transition
}

func newReplica(t *testing.T, address string, settings breaker.Settings) *replica {
	t.Helper()
	r := &replica{store: breaker.NewShared(clock.System{}), heard: make(chan breaker.Transition, 1000)}
	r.registry = breaker.New(r.store, clock.System{})
	if address != "" {
		r.connect(address)
	}
	t.Cleanup(func() { r.store.Use(nil, nil) })
	var err error
	r.group, err = r.registry.Join("billing", &breaker.Member{Settings: &settings, Listener: func(tr breaker.Transition) { r.heard <- tr }})
	require.NoError(t, err)
	r.Breaker = r.group.Breaker("10.0.0.1:80", "")
	return r
}

func (r *replica) connect(address string) {
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, ContextTimeoutEnabled: true})
	r.store.Use(breaker.NewRedisLink(client, "test"), nil)
}

func (r *replica) send(t *testing.T, o breaker.Outcome) bool {
	t.Helper()
	p, ok := r.Acquire(t.Context())
	if ok {
		p.Done(o)
	}
	return ok
}

func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond, what)
}

func TestOneFailureAtEachOfThreeReplicasOpensAllOfThem(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	settings.Open = time.Second
	var replicas []*replica
	for range 3 {
		r := newReplica(t, server.Addr(), settings)
		eventually(t, func() bool { return r.store.Status().Mode == breaker.ModeShared }, "shared")
		replicas = append(replicas, r)
	}
	for _, r := range replicas {
		require.True(t, r.send(t, breaker.Failure))
	}
	for _, r := range replicas {
		eventually(t, func() bool { return !r.Passes() }, "open")
	}
	announced := 0
	for _, r := range replicas {
		tr := <-r.heard
		require.Equal(t, breaker.Open, tr.State)
		require.Equal(t, breaker.Closed, tr.From)
		require.Equal(t, 3, tr.Failures)
		if tr.Local {
			announced++
		}
	}
	require.Equal(t, 1, announced)
	eventually(t, func() bool { return replicas[1].Standing().MayProbe }, "due")
	eventually(t, func() bool { return replicas[1].send(t, breaker.Success) }, "probe")
	for _, r := range replicas {
		eventually(t, r.Passes, "closed")
	}
}

// shared waits until the arbiter decides for all replicas.
func shared(t *testing.T, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, func() bool { return r.store.Status().Mode == breaker.ModeShared }, "shared")
	}
}

// local waits until every replica is on its own.
func local(t *testing.T, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, func() bool { return r.store.Status().Mode == breaker.ModeLocal }, "local")
	}
}

func TestACircuitThatOpenedWhileRedisWasAwayIsMerged(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	settings := breaker.DefaultSettings()
	a, b := newReplica(t, server.Addr(), settings), newReplica(t, server.Addr(), settings)
	local(t, a, b)
	for range 3 {
		require.True(t, a.send(t, breaker.Failure))
	}
	require.False(t, a.Passes(), "by what it alone has seen")
	require.True(t, b.Passes())
	require.True(t, b.send(t, breaker.Failure))
	server.Restart()
	shared(t, a, b)
	eventually(t, func() bool { return !b.Passes() }, "merged")
	require.InDelta(t, 120, b.Record().Remaining.Seconds(), 20)
	require.InDelta(t, a.Record().Remaining.Seconds(), b.Record().Remaining.Seconds(), 5)
}

func TestFailuresFromWhileRedisWasAwayAreReplayed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	a, b := newReplica(t, server.Addr(), settings), newReplica(t, server.Addr(), settings)
	shared(t, a, b)
	require.True(t, a.send(t, breaker.Failure))
	server.Restart() // it forgets that one
	server.Freeze()
	local(t, a, b)
	require.True(t, a.send(t, breaker.Failure))
	require.True(t, b.send(t, breaker.Failure))
	require.True(t, a.Passes())
	server.Thaw()
	shared(t, a, b)
	eventually(t, func() bool { return !a.Passes() && !b.Passes() }, "two replayed by one and one by the other")
}

func TestRedisLosingItsDataClosesNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	a, b := newReplica(t, server.Addr(), settings), newReplica(t, server.Addr(), settings)
	shared(t, a, b)
	for range 3 {
		require.True(t, a.send(t, breaker.Failure))
	}
	eventually(t, func() bool { return !b.Passes() }, "open")
	epoch, version := a.store.Status().Epoch, a.store.Status().Version
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { require.NoError(t, client.Close()) }()
	require.NoError(t, client.FlushAll(t.Context()).Err())
	for _, r := range []*replica{a, b} {
		eventually(t, func() bool { st := r.store.Status(); return st.Epoch != epoch && st.Version > version }, "new epoch")
		require.False(t, r.Passes())
		require.InDelta(t, 120, r.Record().Remaining.Seconds(), 15)
	}
	c := newReplica(t, server.Addr(), settings)
	require.False(t, c.Passes(), "a new replica knows before its first request")
}

func TestAFrozenRedisKeepsNoRequestWaiting(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	settings.Open = 500 * time.Millisecond
	r := newReplica(t, server.Addr(), settings)
	shared(t, r)
	for range 3 {
		require.True(t, r.send(t, breaker.Failure))
	}
	server.Freeze()
	var slowest time.Duration
	probed := false
	for started := time.Now(); time.Since(started) < 5*time.Second && !probed; {
		asked := time.Now()
		p, ok := r.Acquire(t.Context())
		slowest = max(slowest, time.Since(asked))
		if probed = ok && p.Probe(); probed {
			p.Done(breaker.Success)
		}
	}
	require.True(t, probed, "on its own it probes by itself")
	require.True(t, r.Passes())
	require.Less(t, slowest, 450*time.Millisecond, "25 ms, on a machine that does nothing else; Redis is waited for 500 ms")
	server.Thaw()
	shared(t, r)
}

func TestAChangeOfRedisKeepsTheCircuits(t *testing.T) {
	t.Parallel()
	one, other := redistest.Start(t), redistest.Start(t)
	r := newReplica(t, "", breaker.DefaultSettings())
	for range 3 {
		require.True(t, r.send(t, breaker.Failure))
	}
	require.False(t, r.Passes())
	for _, server := range []*redistest.Server{one, other} {
		r.connect(server.Addr())
		shared(t, r)
		require.False(t, r.Passes())
		require.False(t, newReplica(t, server.Addr(), breaker.DefaultSettings()).Passes(), "the others hear of it")
	}
	r.store.Use(nil, nil)
	require.False(t, r.Passes())
	require.Equal(t, breaker.ModeAlone, r.store.Status().Mode)
}

func TestMinReportersWantsFailuresSeenByMoreThanOneReplica(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	settings.MinReporters = 2
	a, b := newReplica(t, server.Addr(), settings), newReplica(t, server.Addr(), settings)
	shared(t, a, b)
	for range 10 {
		require.True(t, a.send(t, breaker.Failure))
	}
	require.True(t, a.Passes())
	require.True(t, b.send(t, breaker.Failure))
	eventually(t, func() bool { return !a.Passes() && !b.Passes() }, "open")
}

func TestWhatWaitsIsSentBeforeAReplicaEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for range 20 {
		a, b := newReplica(t, server.Addr(), breaker.DefaultSettings()), newReplica(t, server.Addr(), breaker.DefaultSettings())
		shared(t, a, b)
		require.True(t, a.send(t, breaker.Failure))
		require.True(t, a.send(t, breaker.Failure))
		a.store.Use(nil, nil)
		require.True(t, b.send(t, breaker.Failure))
		eventually(t, func() bool { return !b.Passes() }, "three failures")
		require.NoError(t, b.store.Order(t.Context(), b.Key(), breaker.Order{Kind: breaker.OrderReset}))
		b.store.Use(nil, nil)
	}
}
