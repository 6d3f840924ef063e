package breaker

import (
	"fmt"
	"math"
	"time"
)

// State is where a circuit stands.
type State uint8

// The states. Closed is the good one: requests flow.
const (
	Closed State = iota
	Open
	HalfOpen
)

// String returns the state's name as logs show it.
func (s State) String() string {
	switch s {
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return "closed"
}

// Forced is an operator's order that overrides what failures say.
type Forced uint8

// The orders. NotForced leaves the circuit to itself.
const (
	NotForced Forced = iota
	ForcedOpen
	ForcedClosed
)

// String returns the order's name as logs show it, empty for none.
func (f Forced) String() string {
	switch f {
	case ForcedOpen:
		return "forced-open"
	case ForcedClosed:
		return "forced-closed"
	}
	return ""
}

// Reason is why a circuit changed.
type Reason string

// The reasons.
const (
	ReasonFailures       Reason = "failures"         // too many failures in the window
	ReasonOpenPeriodOver Reason = "open period over" // the first request after it asks for a probe
	ReasonProbeSucceeded Reason = "probe succeeded"
	ReasonProbeFailed    Reason = "probe failed"
	ReasonForced         Reason = "forced"
	ReasonReset          Reason = "reset"
	ReasonOrderOver      Reason = "order over" // an operator's order had a time limit
	ReasonMerged         Reason = "merged"     // opened by a replica while it was on its own
	ReasonPlaceFree      Reason = "place free" // a probe came back, the next may go
)

// Key names one circuit: the breaker's name in the configuration, the address of
// the upstream and, with [Settings.PerTenant], the tenant.
type Key struct {
	Name     string
	Upstream string
	Tenant   string
}

// String returns "name@upstream" or "name@upstream@tenant".
func (k Key) String() string {
	if k.Tenant == "" {
		return k.Name + "@" + k.Upstream
	}
	return k.Name + "@" + k.Upstream + "@" + k.Tenant
}

// Record is the state of one circuit as a store tells it. It holds durations,
// never points in time, so that it means the same to a process with another clock.
type Record struct {
	Key Key
	// Seq numbers the changes as this process came to know them: of two records
	// the higher counts.
	Seq uint64
	// Version is the arbiter's number of the last change, the same on all
	// replicas; 0 if there never was one.
	Version uint64
	// State is where the circuit stands; Forced overrides it.
	State  State
	Forced Forced
	// Remaining is the rest of the open period.
	Remaining time.Duration
	// ForcedFor is how long the order still holds, 0 until it is lifted.
	ForcedFor time.Duration
	// Trips counts the open periods since the circuit was last closed.
	Trips int
	// Failures is how many failures in the window opened the circuit.
	Failures int
	// Reason is why it last changed.
	Reason Reason
	// OrderReason is what the operator said about the order that holds, if anything.
	OrderReason string
	// Local says that a call of this process caused the change, so that of all
	// replicas exactly one announces it.
	Local bool
	// From and FromForced are what State and Forced were before the last change.
	From       State
	FromForced Forced
}

// Transition is one change of a circuit.
type Transition struct {
	Record
	// Suppressed is how many refusals no log line has told of yet.
	Suppressed int64
}

// Settings say when a circuit opens and closes. They travel with every call to
// the store, so that old and new settings can live side by side.
type Settings struct {
	// Failures is how many failures open the circuit, at least 1 and at most 1,000.
	Failures int
	// Window is the time within which they must fall.
	Window time.Duration
	// Open is how long the circuit stays open.
	Open time.Duration
	// OpenMax lets the open period double after every failed probe, up to this.
	// 0 keeps it the same.
	OpenMax time.Duration
	// Jitter spreads the open period by this fraction up and down, 0 to 0.5.
	Jitter float64
	// Probes is how many probes may be under way at once.
	Probes int
	// Need is how many probes must succeed to close the circuit.
	Need int
	// Lease is how long a probe holds its place before it counts as lost.
	Lease time.Duration
	// Shadow counts and changes state like the real thing but refuses nothing.
	Shadow bool
	// MinRatio opens the circuit only if also this fraction of the requests in the
	// window failed, 0 to 1. 0 asks for no ratio and counts no successes.
	MinRatio float64
	// MinReporters is how many replicas must have seen a failure in the window. A
	// replica that is on its own opens by what it alone has seen.
	MinReporters int
	// PerTenant gives every tenant circuits of its own.
	PerTenant bool
}

// maxPeriod bounds every duration: more is a slip of the pen.
const maxPeriod = 366 * 24 * time.Hour

// maxFailures bounds the memory of a window; the exact window needs one stamp a failure.
const maxFailures = 1000

// DefaultSettings returns 3 failures in 60 s, open for 120 s, one probe.
func DefaultSettings() Settings {
	return Settings{
		Failures: 3, Window: time.Minute, Open: 2 * time.Minute,
		Probes: 1, Need: 1, Lease: 20 * time.Second, MinReporters: 1,
	}
}

// Validate reports the first setting that makes no sense.
func (s Settings) Validate() error {
	switch {
	case s.Failures < 1 || s.Failures > maxFailures:
		return fmt.Errorf("failures is %d, must be 1 to %d", s.Failures, maxFailures)
	case s.Window <= 0:
		return fmt.Errorf("window is %s, must be more than 0", s.Window)
	case s.Open <= 0:
		return fmt.Errorf("open is %s, must be more than 0", s.Open)
	case s.OpenMax != 0 && s.OpenMax < s.Open:
		return fmt.Errorf("the maximum of open is %s, must not be less than open, which is %s", s.OpenMax, s.Open)
	case max(s.Window, s.Open, s.OpenMax, s.Lease) > maxPeriod:
		return fmt.Errorf("a duration is %s, must be at most 366 days", max(s.Window, s.Open, s.OpenMax, s.Lease))
	case math.IsNaN(s.Jitter) || s.Jitter < 0 || s.Jitter > 0.5:
		return fmt.Errorf("jitter is %g%%, must be 0%% to 50%%", s.Jitter*100)
	case s.Probes < 1 || s.Probes > maxFailures:
		return fmt.Errorf("probes is %d, must be 1 to %d", s.Probes, maxFailures)
	case s.Need < 1 || s.Need > maxFailures:
		return fmt.Errorf("need is %d, must be 1 to %d", s.Need, maxFailures)
	case math.IsNaN(s.MinRatio) || s.MinRatio < 0 || s.MinRatio > 1:
		return fmt.Errorf("min_ratio is %g%%, must be 0%% to 100%%", s.MinRatio*100)
	case s.MinReporters < 1 || s.MinReporters > maxFailures:
		return fmt.Errorf("min_reporters is %d, must be 1 to %d", s.MinReporters, maxFailures)
	case s.Lease <= 0:
		return fmt.Errorf("lease is %s, must be more than 0", s.Lease)
	}
	return nil
}

// openPeriod returns how long the circuit stays open at the given trip, counted
// from 1. random is in [0, 1).
func (s Settings) openPeriod(trip int, random float64) time.Duration {
	period := s.Open
	for range trip - 1 {
		if period >= s.OpenMax {
			break
		}
		period = min(2*period, s.OpenMax)
	}
	if s.Jitter == 0 {
		return period
	}
	return time.Duration(float64(period) * (1 + s.Jitter*(2*random-1)))
}
