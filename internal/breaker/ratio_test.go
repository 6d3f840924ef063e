package breaker_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// ratioOf returns the default settings with a ratio.
func ratioOf(ratio float64) breaker.Settings {
	settings := breaker.DefaultSettings()
	settings.MinRatio = ratio
	return settings
}

// sender is a breaker that lets a test send requests.
type sender interface {
	send(t *testing.T, o breaker.Outcome) bool
	Passes() bool
}

type benchSender struct{ *bench }

func (b benchSender) send(t *testing.T, o breaker.Outcome) bool { return b.bench.send(t, o) }

func sendMany(t *testing.T, s sender, n int, o breaker.Outcome) {
	t.Helper()
	for range n {
		require.True(t, s.send(t, o))
	}
}

// TestARatioIsTheShareOfAllRequestsInTheWindow runs on every store. Its requests
// all fall into one second, so nothing leaves the window.
func TestARatioIsTheShareOfAllRequestsInTheWindow(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T, settings breaker.Settings) sender{
		"memory": func(t *testing.T, settings breaker.Settings) sender { return benchSender{newBench(t, settings)} },
		"redis": func(t *testing.T, settings breaker.Settings) sender {
			r := newReplica(t, redistest.Start(t).Addr(), settings)
			shared(t, r)
			return r
		},
		"shared without redis": func(t *testing.T, settings breaker.Settings) sender { return newReplica(t, "", settings) },
	}
	for name, c := range map[string]struct {
		ratio     float64
		successes int
		failures  int
		opens     bool
	}{
		"3 among 1,003 are less than 1%":  {0.01, 1000, 3, false},
		"3 among 20 are more":             {0.01, 17, 3, true},
		"9 among 1,009 are less than 1%":  {0.01, 1000, 9, false},
		"11 among 1,011 are more":         {0.01, 1000, 11, true},
		"half of them is not all of them": {1, 1, 5, false},
		"all of them are":                 {1, 0, 3, true},
		"without a ratio 3 are enough":    {0, 1000, 3, true},
		"7 of 100 are 7%":                 {0.07, 93, 7, true},
		"6 of 100 are not":                {0.07, 94, 6, false},
		"fewer than the threshold never":  {0.01, 0, 2, false},
	} {
		for on, start := range stores {
			t.Run(name+" on "+on, func(t *testing.T) {
				t.Parallel()
				s := start(t, ratioOf(c.ratio))
				sendMany(t, s, c.successes, breaker.Success)
				for n := range c.failures {
					require.True(t, s.send(t, breaker.Failure), "after %d failures", n)
				}
				switch {
				case on != "redis":
					require.Equal(t, c.opens, !s.Passes())
				case c.opens:
					eventually(t, func() bool { return !s.Passes() }, "open")
				default: // the answer takes a moment
					require.Never(t, func() bool { return !s.Passes() }, 200*time.Millisecond, 10*time.Millisecond)
				}
			})
		}
	}
}

func TestWhatLeftTheWindowIsNoPartOfTheRatio(t *testing.T) {
	t.Parallel()
	b := newBench(t, ratioOf(0.5))
	s := benchSender{b}
	sendMany(t, s, 1000, breaker.Success)
	b.clock.Advance(time.Second)
	sendMany(t, s, 1, breaker.Success) // takes those that wait with it
	b.clock.Advance(67 * time.Second)
	sendMany(t, s, 3, breaker.Failure)
	require.False(t, s.Passes())
}

// Successes are counted some at a time. Those that a pause kept from being
// counted are not of the time after it.
func TestSuccessesFromBeforeAPauseAreNotOfTheTimeAfterIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, ratioOf(0.1))
	s := benchSender{b}
	sendMany(t, s, 1000, breaker.Success) // within the time for which successes may wait
	b.clock.Advance(time.Hour)
	sendMany(t, s, 17, breaker.Success)
	sendMany(t, s, 3, breaker.Failure)
	require.False(t, s.Passes(), "3 of 20 are more than a tenth")
}

func TestSuccessesAtAnotherReplicaCount(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := ratioOf(0.05)
	a, b := newReplica(t, server.Addr(), settings), newReplica(t, server.Addr(), settings)
	shared(t, a, b)
	client := plainClient(t, server.Addr())
	counted := func() (n int) {
		tallies, err := client.HVals(t.Context(), scriptPrefix+"tallies:billing@10.0.0.1:80").Result()
		require.NoError(t, err)
		for _, text := range tallies {
			var some int
			_, err := fmt.Sscan(text, &some)
			require.NoError(t, err)
			n += some
		}
		return n
	}
	sendMany(t, b, 500, breaker.Success)
	eventually(t, func() bool { // what waits goes with a later success
		b.send(t, breaker.Success)
		return counted() >= 500
	}, "counted")
	sendMany(t, a, 10, breaker.Failure)
	eventually(t, func() bool { return counted() >= 510 }, "counted")
	require.True(t, a.Passes(), "10 of 510, though 10 of 10 that this replica has seen")
	for range 30 {
		a.send(t, breaker.Failure)
	}
	for _, r := range []*replica{a, b} {
		eventually(t, func() bool { return !r.Passes() }, "40 of 540 are 7%")
		require.Equal(t, breaker.Open, r.Record().State)
	}
}

// countingStore is a store that counts what it is told.
type countingStore struct {
	*breaker.Memory
	counts, successes, reports atomic.Int64
}

func (s *countingStore) Count(key breaker.Key, n int64, settings breaker.Settings) {
	s.counts.Add(1)
	s.successes.Add(n)
	s.Memory.Count(key, n, settings)
}

func (s *countingStore) Report(key breaker.Key, r breaker.Report, settings breaker.Settings) {
	s.reports.Add(1)
	s.Memory.Report(key, r, settings)
}

func newCounting(t *testing.T, settings breaker.Settings, c clock.Clock) (*countingStore, *breaker.Registry, *breaker.Breaker) {
	t.Helper()
	s := &countingStore{Memory: breaker.NewMemory(c, nil)}
	registry := breaker.New(s, c)
	group, err := registry.Join("billing", &breaker.Member{Generation: 1, Settings: &settings})
	require.NoError(t, err)
	return s, registry, group.Breaker("u", "")
}

func TestWithoutARatioNoSuccessIsCounted(t *testing.T) {
	t.Parallel()
	c := clock.NewFake(time.Unix(1_800_000_000, 0))
	s, _, b := newCounting(t, breaker.DefaultSettings(), c)
	for n := range 1000 {
		p, ok := b.Acquire(t.Context())
		require.True(t, ok)
		outcome := breaker.Success
		if n%500 == 1 {
			outcome = breaker.Failure
		}
		p.Done(outcome)
		c.Advance(time.Millisecond)
	}
	require.Zero(t, s.counts.Load())
	require.Equal(t, int64(2), s.reports.Load())
}

func TestASuccessAllocatesNothing(t *testing.T) { // not parallel: it counts the allocations of the whole process
	for name, settings := range map[string]breaker.Settings{"without a ratio": breaker.DefaultSettings(), "with one": ratioOf(0.5)} {
		_, _, b := newCounting(t, settings, clock.System{})
		ctx := context.Background()
		require.Zero(t, testing.AllocsPerRun(10_000, func() {
			p, _ := b.Acquire(ctx)
			p.Done(breaker.Success)
		}), name)
	}
}

func TestAReloadChangesAtOnceWhetherSuccessesCount(t *testing.T) {
	t.Parallel()
	c := clock.NewFake(time.Unix(1_800_000_000, 0))
	s, registry, b := newCounting(t, breaker.DefaultSettings(), c)
	send := func(n int, o breaker.Outcome) {
		for range n {
			p, ok := b.Acquire(t.Context())
			require.True(t, ok)
			p.Done(o)
		}
		c.Advance(time.Second) // longer than successes wait
	}
	join := func(generation int, ratio float64) (leave func()) {
		settings := ratioOf(ratio)
		m := &breaker.Member{Generation: generation, Settings: &settings}
		group, err := registry.Join("billing", m)
		require.NoError(t, err)
		return func() { group.Leave(m) }
	}
	send(100, breaker.Success)
	require.Zero(t, s.counts.Load())

	early, ok := b.Acquire(t.Context())
	require.True(t, ok)
	leave := join(2, 0.1)
	send(100, breaker.Success)
	early.Done(breaker.Success) // it was admitted when they did not count
	send(1, breaker.Success)
	require.InDelta(t, 101, s.successes.Load(), 0, "all but the early one")
	send(3, breaker.Failure)
	require.True(t, b.Passes(), "3 of 104")

	late, ok := b.Acquire(t.Context())
	require.True(t, ok)
	leave()
	before := s.counts.Load()
	send(100, breaker.Success)
	require.Equal(t, before, s.counts.Load(), "not counted any more")
	require.NotPanics(t, func() { late.Done(breaker.Success) })
	send(1, breaker.Failure)
	require.False(t, b.Passes(), "4 of any number are enough again")
}

func TestAReloadDoesNotForgetFailures(t *testing.T) {
	t.Parallel()
	c := clock.NewFake(time.Unix(1_800_000_000, 0))
	_, registry, b := newCounting(t, breaker.DefaultSettings(), c)
	for range 2 {
		p, _ := b.Acquire(t.Context())
		p.Done(breaker.Failure)
	}
	settings := ratioOf(0.5)
	_, err := registry.Join("billing", &breaker.Member{Generation: 2, Settings: &settings})
	require.NoError(t, err)
	p, _ := b.Acquire(t.Context())
	p.Done(breaker.Failure)
	require.False(t, b.Passes(), "the third, and all of the requests that count")
}

func TestNoSuccessIsCountedTwiceOrLostAmongGoroutines(t *testing.T) {
	t.Parallel()
	settings := ratioOf(1)
	s, registry, b := newCounting(t, settings, clock.System{})
	const goroutines, each = 8, 2000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for n := range each {
				p, ok := b.Acquire(context.Background())
				if ok {
					p.Done(breaker.Success)
				}
				if n%1000 == 0 {
					b.Record()
				}
			}
		})
	}
	wg.Go(func() { // reloads that change nothing
		for n := range 50 {
			m := &breaker.Member{Generation: n, Settings: &settings}
			group, err := registry.Join("billing", m)
			if err == nil {
				group.Leave(m)
			}
		}
	})
	wg.Wait()
	p, _ := b.Acquire(t.Context())
	p.Done(breaker.Failure) // takes what is left with it
	require.Equal(t, int64(goroutines*each), s.successes.Load())
	require.True(t, b.Passes())
}

func TestReloadsThatSwitchTheRatioMeetRequests(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newReplica(t, server.Addr(), breaker.DefaultSettings())
	shared(t, r)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if p, ok := r.Acquire(context.Background()); ok {
					p.Done(map[bool]breaker.Outcome{true: breaker.Failure, false: breaker.Success}[n%1000 == 999])
				}
			}
		})
	}
	for n := range 100 {
		settings := ratioOf([]float64{0.9, 0}[n%2])
		m := &breaker.Member{Generation: n + 10, Settings: &settings}
		group, err := r.registry.Join("billing", m)
		require.NoError(t, err)
		group.Leave(m)
	}
	close(done)
	wg.Wait()
}
