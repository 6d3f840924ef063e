package breaker

import (
	"log/slog"
	"time"

	core "github.com/tenantgate/tenantgate/internal/breaker"
)

const (
	// hairTrigger is the share of requests that must be able to fail in a window
	// without opening the circuit.
	hairTrigger = 0.001
	// lintAfter is how long traffic must have been watched to judge by it.
	lintAfter = 10 * time.Second
)

// lint warns of settings that are allowed and yet hardly meant. How much traffic
// there is becomes known while the gateway runs, so that it is judged at a reload.
func lint(logger *slog.Logger, name string, s core.Settings, group *core.Group, hasRedis bool) {
	logger = logger.With(slog.String("breaker", name))
	if s.MinReporters > 1 && !hasRedis {
		logger.Warn("min_reporters counts for nothing without redis: add redis to the global option tenantgate, or remove it",
			slog.Int("min_reporters", s.MinReporters))
	}
	if s.MinRatio > 0 {
		return
	}
	if s.Failures == 1 {
		logger.Warn("a single failure opens the circuit: raise failures, or set min_ratio")
		return
	}
	rate, over := group.Rate()
	expected := rate * s.Window.Seconds()
	if over < lintAfter || float64(s.Failures) >= hairTrigger*expected {
		return
	}
	logger.Warn("very few failures open the circuit for so much traffic: set min_ratio, such as 1%, or raise failures",
		slog.Int("failures", s.Failures), slog.Duration("window", s.Window),
		slog.Float64("requests_per_second", rate), slog.Float64("failing_percent", 100*float64(s.Failures)/expected))
}
