package breaker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// model is the circuit as one would write it down: it keeps the complete log of
// failures of the closed period and looks at all of it every time.
type model struct {
	settings breaker.Settings
	now      time.Duration
	state    breaker.State
	period   int // number of the closed period
	log      []time.Duration
	until    time.Duration
	trips    int
	verdicts int
	leases   map[int]time.Duration // permit number → expiry
}

func (m *model) open() {
	m.state, m.log, m.leases = breaker.Open, nil, map[int]time.Duration{}
	m.trips++
	period := m.settings.Open
	for range m.trips - 1 {
		if m.settings.OpenMax > 0 {
			period = min(period*2, m.settings.OpenMax)
		}
	}
	m.until = m.now + period
}

func (m *model) fail(period int) {
	if m.state != breaker.Closed || period != m.period {
		return
	}
	m.log = append(m.log, m.now)
	inWindow := 0
	for _, at := range m.log {
		if at > m.now-m.settings.Window {
			inWindow++
		}
	}
	if inWindow >= m.settings.Failures {
		m.open()
	}
}

// held is a permit that was given out, with what the model knows of it.
type held struct {
	permit breaker.Permit
	probe  bool
	period int
	number int
}

// TestTheStateMachineEqualsABruteForceLog drives breaker and model with the same
// random requests, results in any order, lost results and jumps in time.
func TestTheStateMachineEqualsABruteForceLog(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seconds := func(label string, from, to int) time.Duration {
			return time.Duration(rapid.IntRange(from, to).Draw(t, label)) * time.Second
		}
		settings := breaker.Settings{
			Failures: rapid.IntRange(1, 5).Draw(t, "failures"),
			Window:   seconds("window", 1, 10),
			Open:     seconds("open", 1, 10),
			Probes:   rapid.IntRange(1, 3).Draw(t, "probes"),
			Need:     rapid.IntRange(1, 3).Draw(t, "need"),
			Lease:    seconds("lease", 1, 6), MinReporters: 1,
		}
		if rapid.Bool().Draw(t, "back-off") {
			settings.OpenMax = settings.Open + seconds("max", 0, 30)
		}
		c := clock.NewFake(time.Unix(1_800_000_000, 0))
		registry := breaker.New(breaker.NewMemory(c, nil), c)
		group, err := registry.Join("x", &breaker.Member{Settings: &settings})
		require.NoError(t, err)
		b := group.Breaker("u", "")
		m := &model{settings: settings, leases: map[int]time.Duration{}}
		var flying []held
		number := 0

		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 12).Draw(t, "half seconds")) * time.Second / 2
				c.Advance(d)
				m.now += d
			},
			"request": func(t *rapid.T) {
				number++
				wantProbe, want := false, m.state == breaker.Closed
				if m.state == breaker.Open && m.now >= m.until {
					m.state, m.verdicts = breaker.HalfOpen, 0
				}
				if m.state == breaker.HalfOpen {
					live := 0
					for _, expiry := range m.leases {
						if m.now < expiry {
							live++
						}
					}
					if wantProbe = live < settings.Probes; wantProbe {
						want = true
						m.leases[number] = m.now + settings.Lease
					}
				}
				p, ok := b.Acquire(t.Context())
				require.Equal(t, want, ok)
				require.Equal(t, wantProbe, p.Probe())
				if !ok && m.state == breaker.Open {
					require.Equal(t, m.until-m.now, p.RetryAfter())
				}
				if ok {
					flying = append(flying, held{p, wantProbe, m.period, number})
				}
			},
			"result": func(t *rapid.T) {
				if len(flying) == 0 {
					t.Skip("nothing under way")
				}
				i := rapid.IntRange(0, len(flying)-1).Draw(t, "which")
				h := flying[i]
				outcome := rapid.SampledFrom([]breaker.Outcome{breaker.Success, breaker.Failure, breaker.Failure, breaker.Ignored}).Draw(t, "outcome")
				if !rapid.Bool().Draw(t, "and again later") {
					flying = slices.Delete(flying, i, i+1)
				} else if !h.probe {
					t.Skip("only a probe's result may arrive twice; a failure's event is new each time")
				}
				h.permit.Done(outcome)
				if !h.probe {
					if outcome == breaker.Failure {
						m.fail(h.period)
					}
					return
				}
				expiry, live := m.leases[h.number]
				delete(m.leases, h.number)
				if m.state != breaker.HalfOpen || !live || m.now >= expiry {
					return
				}
				switch outcome {
				case breaker.Failure:
					m.open()
				case breaker.Success:
					if m.verdicts++; m.verdicts >= settings.Need {
						m.state, m.trips, m.log, m.leases = breaker.Closed, 0, nil, map[int]time.Duration{}
						m.period++
					}
				}
			},
			"": func(t *rapid.T) {
				got := b.Record()
				require.Equal(t, m.state, got.State)
				require.Equal(t, m.trips, got.Trips)
				require.Equal(t, m.state == breaker.Closed, b.Passes())
				require.Equal(t, m.state != breaker.Closed, group.Refusing())
				if m.state == breaker.Open {
					require.Equal(t, max(0, m.until-m.now), got.Remaining)
				}
			},
		})
	})
}
