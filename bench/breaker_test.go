package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// The settings that all breakers of the comparison have.
const (
	tripFailures = 3
	tripWindow   = 60 * time.Second
	tripOpen     = 120 * time.Second
)

var errFailed = errors.New("failed")

// succeed and fail are the guarded calls. They do nothing, so that what is
// measured is the guard.
//
//go:noinline
func succeed() error { return nil }

//go:noinline
func fail() error { return errFailed }

// contestant is a way to guard a call.
type contestant struct {
	name string
	// guard returns two guarded calls of one new breaker, one that succeeds and one
	// that fails. They report whether they were admitted.
	guard func(testing.TB) (succeeding, failing func() bool)
}

var contestants = []contestant{
	{"bare_call", func(testing.TB) (succeeding, failing func() bool) {
		return func() bool { return succeed() == nil }, func() bool { return fail() != nil }
	}},
	{"tenantgate", guardTenantgate},
	{"gobreaker_fixed", func(testing.TB) (succeeding, failing func() bool) { return guardGobreaker(0) }},
	{"gobreaker_rolling", func(testing.TB) (succeeding, failing func() bool) { return guardGobreaker(time.Second) }},
	{"failsafe_permit", guardFailsafePermit},
	{"failsafe_run", guardFailsafeRun},
}

func guardTenantgate(t testing.TB) (succeeding, failing func() bool) {
	settings := breaker.DefaultSettings()
	settings.Failures, settings.Window, settings.Open = tripFailures, tripWindow, tripOpen
	registry := breaker.New(breaker.NewMemory(clock.System{}, nil), clock.System{})
	group, err := registry.Join("bench", &breaker.Member{Settings: &settings})
	require.NoError(t, err)
	guarded, ctx := group.Breaker("10.0.0.1:80", ""), context.Background()
	// Two closures rather than one that takes the call: the other contestants'
	// calls are known to the compiler as well.
	succeeding = func() bool {
		p, ok := guarded.Acquire(ctx)
		if ok {
			p.Done(outcomeOf(succeed()))
		}
		return ok
	}
	failing = func() bool {
		p, ok := guarded.Acquire(ctx)
		if ok {
			p.Done(outcomeOf(fail()))
		}
		return ok
	}
	return succeeding, failing
}

func outcomeOf(err error) breaker.Outcome {
	if err != nil {
		return breaker.Failure
	}
	return breaker.Success
}

// guardGobreaker guards with a window that starts anew every minute or, with a
// bucket, one that rolls by it.
func guardGobreaker(bucket time.Duration) (succeeding, failing func() bool) {
	guarded := gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Interval: tripWindow, BucketPeriod: bucket, Timeout: tripOpen, MaxRequests: 1,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.TotalFailures >= tripFailures },
	})
	succeeding = func() bool {
		_, err := guarded.Execute(func() (struct{}, error) { return struct{}{}, succeed() })
		return err == nil
	}
	failing = func() bool {
		_, err := guarded.Execute(func() (struct{}, error) { return struct{}{}, fail() })
		return !errors.Is(err, gobreaker.ErrOpenState)
	}
	return succeeding, failing
}

func newFailsafe() circuitbreaker.CircuitBreaker[any] {
	return circuitbreaker.NewBuilder[any]().WithFailureThresholdPeriod(tripFailures, tripWindow).WithDelay(tripOpen).Build()
}

func guardFailsafePermit(testing.TB) (succeeding, failing func() bool) {
	guarded := newFailsafe()
	succeeding = func() bool {
		ok := guarded.TryAcquirePermit()
		if ok && succeed() == nil {
			guarded.RecordSuccess()
		}
		return ok
	}
	failing = func() bool {
		ok := guarded.TryAcquirePermit()
		if ok && fail() != nil {
			guarded.RecordFailure()
		}
		return ok
	}
	return succeeding, failing
}

func guardFailsafeRun(testing.TB) (succeeding, failing func() bool) {
	executor := failsafe.With[any](newFailsafe())
	succeeding = func() bool { return executor.Run(succeed) == nil }
	failing = func() bool { return !errors.Is(executor.Run(fail), circuitbreaker.ErrOpen) }
	return succeeding, failing
}

// TestEveryContestantOpensAtTheThirdFailure holds the comparison to its word
// that the settings are the same.
func TestEveryContestantOpensAtTheThirdFailure(t *testing.T) {
	t.Parallel()
	for _, c := range contestants[1:] {
		succeeding, failing := c.guard(t)
		require.True(t, succeeding(), c.name)
		for i := range tripFailures {
			require.True(t, failing(), "%s, failure %d", c.name, i+1)
		}
		require.False(t, succeeding(), c.name)
	}
}

// BenchmarkBreakerClosed is a successful call through a closed circuit.
func BenchmarkBreakerClosed(b *testing.B) {
	for _, c := range contestants {
		for _, goroutines := range []int{1, 2, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d_goroutines", c.name, goroutines), func(b *testing.B) {
				succeeding, _ := c.guard(b)
				spread(b, goroutines, succeeding, true)
			})
		}
	}
}

// BenchmarkBreakerOpen is a call that an open circuit refuses.
func BenchmarkBreakerOpen(b *testing.B) {
	for _, c := range contestants[1:] {
		for _, goroutines := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d_goroutines", c.name, goroutines), func(b *testing.B) {
				succeeding, failing := c.guard(b)
				for range tripFailures {
					failing()
				}
				spread(b, goroutines, succeeding, false)
			})
		}
	}
}

// spread makes b.N calls over a number of goroutines; all must report want.
func spread(b *testing.B, goroutines int, call func() bool, want bool) {
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range goroutines {
		n := b.N / goroutines
		if i == 0 {
			n += b.N % goroutines
		}
		wg.Go(func() {
			for range n {
				if call() != want {
					b.Errorf("admitted: %v, want %v", !want, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
