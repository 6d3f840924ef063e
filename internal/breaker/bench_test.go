package breaker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

//go:noinline
func upstream() breaker.Outcome { return breaker.Success }

func systemBreaker(b *testing.B) *breaker.Breaker {
	b.Helper()
	settings := breaker.DefaultSettings()
	registry := breaker.New(breaker.NewMemory(clock.System{}, nil), clock.System{})
	group, err := registry.Join("bench", &breaker.Member{Settings: &settings})
	if err != nil {
		b.Fatal(err)
	}
	return group.Breaker("10.0.0.1:80", "")
}

// spread runs f b.N times over a number of goroutines.
func spread(b *testing.B, goroutines int, f func()) {
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
				f()
			}
		})
	}
	wg.Wait()
}

func BenchmarkBareCall(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d goroutines", goroutines), func(b *testing.B) {
			spread(b, goroutines, func() { upstream() })
		})
	}
}

func BenchmarkClosedSuccess(b *testing.B) {
	for _, goroutines := range []int{1, 2, 8, 64} {
		b.Run(fmt.Sprintf("%d goroutines", goroutines), func(b *testing.B) {
			guarded := systemBreaker(b)
			ctx := context.Background()
			spread(b, goroutines, func() {
				if p, ok := guarded.Acquire(ctx); ok {
					p.Done(upstream())
				}
			})
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	settings := breaker.DefaultSettings()
	registry := breaker.New(breaker.NewMemory(clock.System{}, nil), clock.System{})
	group, err := registry.Join("bench", &breaker.Member{Settings: &settings})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10 {
		group.Breaker(fmt.Sprintf("10.0.0.%d:8080", i), "")
	}
	b.ReportAllocs()
	for b.Loop() {
		group.Breaker("10.0.0.7:8080", "")
	}
}

func BenchmarkOpenRefusal(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d goroutines", goroutines), func(b *testing.B) {
			guarded := systemBreaker(b)
			ctx := context.Background()
			for range 3 {
				p, _ := guarded.Acquire(ctx)
				p.Done(breaker.Failure)
			}
			spread(b, goroutines, func() {
				if _, ok := guarded.Acquire(ctx); ok {
					b.Error("admitted by an open circuit")
				}
			})
		})
	}
}

func BenchmarkClosedFailure(b *testing.B) {
	settings := breaker.DefaultSettings()
	settings.Failures, settings.Window = 1000, 1 // one nanosecond: it never trips
	registry := breaker.New(breaker.NewMemory(clock.System{}, nil), clock.System{})
	group, err := registry.Join("bench", &breaker.Member{Settings: &settings})
	if err != nil {
		b.Fatal(err)
	}
	guarded := group.Breaker("10.0.0.1:80", "")
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		p, _ := guarded.Acquire(ctx)
		p.Done(breaker.Failure)
	}
}
