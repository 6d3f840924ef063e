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
)

func TestOneCircuitThroughItsLife(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())

	require.True(t, b.send(t, breaker.Failure))
	require.True(t, b.send(t, breaker.Success))
	require.True(t, b.send(t, breaker.Failure))
	require.True(t, b.Passes(), "two failures are not three, whatever lies between")
	require.False(t, b.group.Refusing())
	require.True(t, b.send(t, breaker.Failure))
	require.False(t, b.Passes())
	require.True(t, b.group.Refusing())

	b.clock.Advance(30 * time.Second)
	p, ok := b.Acquire(t.Context())
	require.False(t, ok)
	require.Equal(t, 90*time.Second, p.RetryAfter())
	require.Equal(t, 90*time.Second, b.Record().Remaining)
	require.Equal(t, breaker.Standing{RetryAfter: 90 * time.Second}, b.Standing())

	b.clock.Advance(90 * time.Second)
	require.Equal(t, breaker.Standing{MayProbe: true}, b.Standing())
	probe, ok := b.Acquire(t.Context())
	require.True(t, ok)
	require.True(t, probe.Probe())
	second, ok := b.Acquire(t.Context())
	require.False(t, ok, "one probe at a time")
	require.Equal(t, time.Second, second.RetryAfter())
	probe.Done(breaker.Success)
	require.True(t, b.Passes())
	require.False(t, b.group.Refusing())

	require.Equal(t, []breaker.State{breaker.Open, breaker.HalfOpen, breaker.Closed}, b.seen())
	opened := b.transitions[0]
	require.Equal(t, breaker.Closed, opened.From)
	require.Equal(t, 3, opened.Failures)
	require.Equal(t, 1, opened.Trips)
	require.Equal(t, 2*time.Minute, opened.Remaining)
	require.Equal(t, breaker.ReasonFailures, opened.Reason)
	require.True(t, opened.Local)
	require.Equal(t, breaker.Key{Name: "billing", Upstream: "10.0.0.1:80"}, opened.Key)
}

func TestTheWindowIsExact(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.send(t, breaker.Failure) // at 0
	b.clock.Advance(59 * time.Second)
	b.send(t, breaker.Failure) // at 59
	b.clock.Advance(time.Second)
	b.send(t, breaker.Failure) // at 60: the first is out
	require.True(t, b.Passes())
	b.clock.Advance(59*time.Second - 1)
	b.send(t, breaker.Failure) // at 119 - 1 ns: 59, 60 and this
	require.False(t, b.Passes())
}

func TestLateFailuresFromBeforeTheTripDoNotCountAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	var late []breaker.Permit
	for range 5 {
		p, ok := b.Acquire(t.Context())
		require.True(t, ok)
		late = append(late, p)
	}
	b.trip(t)
	late[0].Done(breaker.Failure)
	require.Equal(t, 2*time.Minute, b.Record().Remaining, "a failure while open does not prolong it")

	b.clock.Advance(2 * time.Minute)
	probe, ok := b.Acquire(t.Context())
	require.True(t, ok)
	late[1].Done(breaker.Failure)
	late[2].Done(breaker.Success)
	require.Equal(t, breaker.HalfOpen, b.Record().State, "only the probe decides")
	probe.Done(breaker.Success)
	require.True(t, b.Passes())

	for _, p := range late {
		p.Done(breaker.Failure)
	}
	require.True(t, b.Passes(), "they tell of the upstream that was cut off")
}

func TestALostProbeDoesNotWedgeTheCircuit(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	b.clock.Advance(2 * time.Minute)
	lost, ok := b.Acquire(t.Context())
	require.True(t, ok)

	b.clock.Advance(20*time.Second - 1)
	require.False(t, b.send(t, breaker.Success))
	b.clock.Advance(1)
	next, ok := b.Acquire(t.Context())
	require.True(t, ok, "the lease of the lost one is over")

	lost.Done(breaker.Success)
	require.Equal(t, breaker.HalfOpen, b.Record().State, "the fence: a probe without a lease decides nothing")
	next.Done(breaker.Failure)
	require.Equal(t, breaker.Open, b.Record().State)
	lost.Done(breaker.Success)
	require.Equal(t, breaker.Open, b.Record().State)
}

func TestAProbesResultAfterItsLeaseIsStaleEvenIfNobodyTookThePlace(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	b.clock.Advance(2 * time.Minute)
	p, ok := b.Acquire(t.Context())
	require.True(t, ok)
	b.clock.Advance(20 * time.Second)
	p.Done(breaker.Success)
	require.Equal(t, breaker.HalfOpen, b.Record().State)
}

func TestACancelledProbeGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	b.clock.Advance(2 * time.Minute)
	require.True(t, b.send(t, breaker.Ignored))
	require.Equal(t, breaker.HalfOpen, b.Record().State)
	require.True(t, b.send(t, breaker.Success))
	require.True(t, b.Passes())
}

func TestCancelledRequestsAreNeutral(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	for range 10 {
		require.True(t, b.send(t, breaker.Ignored))
	}
	require.True(t, b.Passes())
}

func TestFailedProbesDoubleTheOpenPeriodUpToTheMaximum(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.OpenMax = 5 * time.Minute
	b := newBench(t, settings)
	b.trip(t)
	for _, want := range []time.Duration{2, 4, 5, 5} {
		require.Equal(t, want*time.Minute, b.Record().Remaining)
		b.clock.Advance(want * time.Minute)
		require.True(t, b.send(t, breaker.Failure))
	}
	b.clock.Advance(5 * time.Minute)
	require.True(t, b.send(t, breaker.Success))
	b.trip(t)
	require.Equal(t, 2*time.Minute, b.Record().Remaining, "a close starts over")
}

func TestWithoutAMaximumTheOpenPeriodStaysTheSame(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	for range 3 {
		require.Equal(t, 2*time.Minute, b.Record().Remaining)
		b.clock.Advance(2 * time.Minute)
		require.True(t, b.send(t, breaker.Failure))
	}
}

func TestJitterSpreadsTheOpenPeriod(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Jitter = 0.1
	b := newBench(t, settings)
	b.trip(t)
	require.Equal(t, 126*time.Second, b.Record().Remaining, "0.75 of the way from -10% to +10%")
}

func TestNeedSuccessesOfSeveralProbesClose(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Probes, settings.Need = 2, 3
	b := newBench(t, settings)
	b.trip(t)
	b.clock.Advance(2 * time.Minute)
	first, ok := b.Acquire(t.Context())
	require.True(t, ok)
	second, ok := b.Acquire(t.Context())
	require.True(t, ok)
	_, ok = b.Acquire(t.Context())
	require.False(t, ok)
	first.Done(breaker.Success)
	second.Done(breaker.Success)
	require.Equal(t, breaker.HalfOpen, b.Record().State)
	require.True(t, b.send(t, breaker.Success))
	require.True(t, b.Passes())
}

func TestShadowModeCountsButNeverRefuses(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Shadow = true
	b := newBench(t, settings)
	b.trip(t)
	require.Equal(t, breaker.Standing{Passes: true}, b.Standing())
	p, ok := b.Acquire(t.Context())
	require.True(t, ok)
	require.True(t, p.Shadowed())
	p.Done(breaker.Failure)
	require.Equal(t, 1, b.Record().Trips, "what enforcing would not have sent does not count")

	b.clock.Advance(2 * time.Minute)
	probe, ok := b.Acquire(t.Context())
	require.True(t, ok)
	require.True(t, probe.Probe())
	other, ok := b.Acquire(t.Context())
	require.True(t, ok)
	require.True(t, other.Shadowed())
	probe.Done(breaker.Success)
	require.True(t, b.Passes())
	require.Equal(t, []breaker.State{breaker.Open, breaker.HalfOpen, breaker.Closed}, b.seen())
}

func TestRefusalsAreAnnouncedOnceASecondAndCountedExactly(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	var lines, refusals, told int64
	refuse := func(n int) {
		for range n {
			p, ok := b.Acquire(t.Context())
			require.False(t, ok)
			refusals++
			if suppressed, announce := p.Announce(); announce {
				lines++
				told += suppressed
			}
		}
	}
	refuse(1000)
	require.Equal(t, int64(1), lines)
	b.clock.Advance(time.Second)
	refuse(10)
	require.Equal(t, int64(2), lines)
	require.Equal(t, int64(999), told)
	b.clock.Advance(time.Second / 2)
	refuse(5)
	require.Equal(t, int64(2), lines)

	b.clock.Advance(2 * time.Minute)
	require.True(t, b.send(t, breaker.Success))
	for _, tr := range b.transitions {
		told += tr.Suppressed
	}
	require.Equal(t, refusals, lines+told, "the transitions tell the rest")
}

func TestOperatorOrders(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	order := func(k breaker.OrderKind) {
		require.NoError(t, b.store.Order(t.Context(), b.Key(), breaker.Order{Kind: k}))
	}

	order(breaker.OrderOpen)
	p, ok := b.Acquire(t.Context())
	require.False(t, ok)
	require.Equal(t, 2*time.Minute, p.RetryAfter())
	require.Equal(t, breaker.Standing{RetryAfter: 2 * time.Minute}, b.Standing())
	b.clock.Advance(time.Hour)
	require.False(t, b.send(t, breaker.Success), "until lifted")

	order(breaker.OrderClose)
	for range 10 {
		require.True(t, b.send(t, breaker.Failure))
	}
	order(breaker.OrderAuto)
	require.True(t, b.Passes())
	b.send(t, breaker.Failure)
	b.send(t, breaker.Failure)
	require.True(t, b.Passes(), "failures under the order are forgotten")

	b.send(t, breaker.Failure)
	require.False(t, b.Passes())
	order(breaker.OrderAuto)
	require.False(t, b.Passes(), "nothing to lift")
	order(breaker.OrderReset)
	require.True(t, b.Passes())

	require.ErrorIs(t, b.store.Order(t.Context(), breaker.Key{Name: "x"}, breaker.Order{Kind: breaker.OrderOpen}), breaker.ErrUnknown)
	records := b.store.Records()
	require.Len(t, records, 1)
}

func TestAnEventCountsOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	for range 10 {
		b.store.Report(b.Key(), breaker.Report{Event: 1}, b.group.Settings())
	}
	require.True(t, b.Passes())
}

func TestReportsThatHadToWaitCountWhenTheyHappened(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	report := func(event uint64, age time.Duration) {
		b.store.Report(b.Key(), breaker.Report{Event: event, Age: age}, b.group.Settings())
	}
	report(1, 0)
	report(2, 50*time.Second)
	report(3, time.Minute) // too old
	require.True(t, b.Passes())
	b.clock.Advance(10 * time.Second) // the second is out now
	report(4, -time.Second)
	require.True(t, b.Passes())
	report(5, 59*time.Second)
	require.False(t, b.Passes())
}

func TestUpstreamsOfOneNameAreSeparate(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	other := b.group.Breaker("10.0.0.2:80", "")
	require.True(t, other.Passes())
	require.Same(t, other, b.group.Breaker("10.0.0.2:80", ""))
	require.Len(t, b.group.Breakers(), 2)
}

func TestNewSettingsApplyToALiveBreakerAndKeepItsState(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.send(t, breaker.Failure)
	b.send(t, breaker.Failure)
	stricter := breaker.DefaultSettings()
	stricter.Failures, stricter.Open = 5, time.Hour
	next := &breaker.Member{Generation: 2, Settings: &stricter}
	group, err := b.registry.Join("billing", next)
	require.NoError(t, err)
	require.Same(t, b.group, group)
	b.group.Leave(b.member)
	b.group.Leave(b.member) // twice is once

	b.send(t, breaker.Failure)
	b.send(t, breaker.Failure)
	require.True(t, b.Passes(), "four of five")
	b.send(t, breaker.Failure)
	require.Equal(t, time.Hour, b.Record().Remaining)

	lenient := breaker.DefaultSettings()
	lenient.Open = time.Second
	rejected := &breaker.Member{Generation: 3, Settings: &lenient}
	_, err = b.registry.Join("billing", rejected)
	require.NoError(t, err)
	require.Equal(t, time.Hour, b.Record().Remaining, "an open period that began stays as it is")
	b.group.Leave(rejected)
	require.Equal(t, 5, b.group.Settings().Failures, "a configuration that didn't come up changes nothing")

	b.group.Leave(next)
	again, err := b.registry.Join("billing", next)
	require.NoError(t, err)
	require.True(t, again.Breaker("10.0.0.1:80", "").Passes(), "the last one out takes the state along", "")
}

func TestTheLastOneOutLeavesInFlightRequestsAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	p, ok := b.Acquire(t.Context())
	require.True(t, ok)
	b.trip(t)
	b.group.Leave(b.member)
	p.Done(breaker.Failure)
	b.clock.Advance(time.Hour)
	require.True(t, b.send(t, breaker.Failure), "nobody keeps count any more")
}

func TestMembersOfOneConfigurationMustAgree(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	same := breaker.DefaultSettings()
	same.Lease = time.Minute
	_, err := b.registry.Join("billing", &breaker.Member{Generation: 1, Settings: &same})
	require.NoError(t, err)
	require.Equal(t, time.Minute, b.group.Settings().Lease, "the longest lease")
	_, err = b.registry.Join("billing", &breaker.Member{Generation: 1})
	require.NoError(t, err)

	different := breaker.DefaultSettings()
	different.Failures = 4
	_, err = b.registry.Join("billing", &breaker.Member{Generation: 1, Settings: &different})
	require.EqualError(t, err, `breaker "billing" has different settings in two places; give it the same ones or another name`)
	different.Failures = 0
	_, err = b.registry.Join("billing", &breaker.Member{Generation: 2, Settings: &different})
	require.EqualError(t, err, "failures is 0, must be 1 to 1000")
}

func TestAddressesFromRequestsCannotFillTheMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	b.trip(t)
	for i := range 3000 {
		require.NotNil(t, b.group.Breaker(fmt.Sprintf("10.1.0.1:%d", i), ""))
	}
	require.LessOrEqual(t, len(b.group.Breakers()), 1024)
	require.Same(t, b.Breaker, b.group.Breaker("10.0.0.1:80", ""), "an open circuit is never dropped", "")
	records := b.store.Records()
	require.LessOrEqual(t, len(records), 1024)
}

func TestWhenEveryPlaceIsTakenByAnOpenCircuitOthersAreNotGuarded(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	for i := range 1024 {
		if u := b.group.Breaker(fmt.Sprintf("10.1.0.1:%d", i), ""); u != nil {
			require.NoError(t, b.store.Order(t.Context(), u.Key(), breaker.Order{Kind: breaker.OrderOpen}))
		}
	}
	for i := range 10 {
		if u := b.group.Breaker(fmt.Sprintf("10.2.0.1:%d", i), ""); u != nil {
			require.NoError(t, b.store.Order(t.Context(), u.Key(), breaker.Order{Kind: breaker.OrderOpen}))
		}
	}
	require.Nil(t, b.group.Breaker("10.3.0.1:80", ""))
}

func TestSettingsValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, breaker.DefaultSettings().Validate())
	for want, spoil := range map[string]func(*breaker.Settings){
		"failures is 0, must be 1 to 1000":                                     func(s *breaker.Settings) { s.Failures = 0 },
		"failures is 1001, must be 1 to 1000":                                  func(s *breaker.Settings) { s.Failures = 1001 },
		"window is 0s, must be more than 0":                                    func(s *breaker.Settings) { s.Window = 0 },
		"open is -1s, must be more than 0":                                     func(s *breaker.Settings) { s.Open = -time.Second },
		"the maximum of open is 1s, must not be less than open, which is 2m0s": func(s *breaker.Settings) { s.OpenMax = time.Second },
		"jitter is 60%, must be 0% to 50%":                                     func(s *breaker.Settings) { s.Jitter = 0.6 },
		"probes is 0, must be 1 to 1000":                                       func(s *breaker.Settings) { s.Probes = 0 },
		"need is 0, must be 1 to 1000":                                         func(s *breaker.Settings) { s.Need = 0 },
		"lease is 0s, must be more than 0":                                     func(s *breaker.Settings) { s.Lease = 0 },
		"a duration is 8785h0m0s, must be at most 366 days":                    func(s *breaker.Settings) { s.Open = 366*24*time.Hour + time.Hour },
		"min_ratio is 101%, must be 0% to 100%":                                func(s *breaker.Settings) { s.MinRatio = 1.01 },
		"min_reporters is 0, must be 1 to 1000":                                func(s *breaker.Settings) { s.MinReporters = 0 },
	} {
		settings := breaker.DefaultSettings()
		spoil(&settings)
		require.EqualError(t, settings.Validate(), want)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "closed open half-open", fmt.Sprint(breaker.Closed, breaker.Open, breaker.HalfOpen))
	require.Equal(t, "forced-open", breaker.ForcedOpen.String())
	require.Equal(t, "forced-closed", breaker.ForcedClosed.String())
	require.Empty(t, breaker.NotForced.String())
	require.Equal(t, "a@b:1", breaker.Key{Name: "a", Upstream: "b:1"}.String())
}

// TestExactlyProbesAreAdmittedInEveryRound lets 300 goroutines at a half-open
// circuit, round after round.
func TestExactlyProbesAreAdmittedInEveryRound(t *testing.T) {
	t.Parallel()
	for _, probes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d probes", probes), func(t *testing.T) {
			t.Parallel()
			settings := breaker.DefaultSettings()
			settings.Probes, settings.Need = probes, probes
			b := newBench(t, settings)
			b.trip(t)
			for round := range 20 {
				b.clock.Advance(2 * time.Minute)
				var admitted atomic.Int64
				permits := make(chan breaker.Permit, 300)
				var wg sync.WaitGroup
				for range 300 {
					wg.Go(func() {
						if p, ok := b.Acquire(context.Background()); ok {
							admitted.Add(1)
							permits <- p
						}
					})
				}
				wg.Wait()
				require.Equal(t, int64(probes), admitted.Load(), "round %d", round)
				(<-permits).Done(breaker.Failure)
				for len(permits) > 0 {
					(<-permits).Done(breaker.Success) // late, void
				}
				require.Equal(t, breaker.Open, b.Record().State)
			}
		})
	}
}

// TestEverythingAtOnce is for the race detector: all operations on one circuit
// while time passes. It ends with a circuit that still recovers.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Open, settings.Lease = 10*time.Millisecond, 5*time.Millisecond
	c := clock.System{}
	registry := breaker.New(breaker.NewMemory(c, nil), c)
	group, err := registry.Join("x", &breaker.Member{Settings: &settings, Listener: func(breaker.Transition) {}})
	require.NoError(t, err)
	ctx := context.Background()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				b := group.Breaker(fmt.Sprint("u", i%3), "")
				b.Standing()
				b.Record()
				if p, ok := b.Acquire(ctx); ok {
					p.Done(breaker.Outcome((i + worker) % 3))
				}
				if i%500 == 0 {
					m := &breaker.Member{Generation: worker*10 + i, Settings: &settings}
					_, err := registry.Join("x", m)
					require.NoError(t, err)
					group.Leave(m)
				}
			}
		})
	}
	wg.Wait()
	for _, b := range group.Breakers() {
		require.Eventually(t, func() bool {
			p, ok := b.Acquire(ctx)
			if ok {
				p.Done(breaker.Success)
			}
			return b.Passes()
		}, 10*time.Second, time.Millisecond)
	}
	require.False(t, group.Refusing())
}

func TestTryRefusesWithoutCounting(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Shadow = true
	b := newBench(t, settings)
	p, ok := b.Try(t.Context())
	require.True(t, ok)
	p.Done(breaker.Ignored)
	b.trip(t)
	p, ok = b.Try(t.Context())
	require.False(t, ok)
	require.Equal(t, 2*time.Minute, p.RetryAfter())
	_, announce := p.Announce()
	require.False(t, announce)

	p, _ = b.Acquire(t.Context())
	suppressed, announce := p.Announce()
	require.True(t, announce)
	require.Zero(t, suppressed)

	b.clock.Advance(2 * time.Minute)
	p, ok = b.Try(t.Context())
	require.True(t, ok)
	require.True(t, p.Probe())
	require.Zero(t, p.RetryAfter())
	require.Same(t, b.Breaker, p.Breaker())
}
