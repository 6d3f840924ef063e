package breaker

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	core "github.com/tenantgate/tenantgate/internal/breaker"
)

const (
	// maxLabels bounds the upstreams of one breaker that have series of their own.
	// Addresses can come from placeholders, and the core forgets idle ones.
	maxLabels = 1024
	// otherUpstreams is the label of those beyond; it has no port, so that it is
	// no address.
	otherUpstreams = "other"
	// maxLabelBytes is more than a host name and a port can have.
	maxLabelBytes = 300
)

// counterPool holds the counters of each breaker's name as long as a
// configuration has a transport of that name. So they survive reloads, and the
// series of a breaker that was removed are gone.
var counterPool = caddy.NewUsagePool()

// counters are the counters of one breaker. None of them is touched by a
// request that succeeds.
type counters struct {
	mu        sync.Mutex
	upstreams map[string]struct{}
	values    map[series]float64
}

// series is one counter: the metric and the values of its labels behind breaker.
type series struct {
	metric *prometheus.Desc
	labels [3]string
}

// holdCounters returns the counters of a breaker, which are kept until release
// is called, once or more often. Requests may use them even after that.
func holdCounters(name string) (c *counters, release func(), err error) {
	held, _, err := counterPool.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &counters{upstreams: map[string]struct{}{}, values: map[series]float64{}}, nil
	})
	if err != nil {
		return nil, nil, err
	}
	return held.(*counters), sync.OnceFunc(func() { //nolint:forcetypeassert // the pool holds nothing else
		_, _ = counterPool.Delete(name) // Destruct cannot fail
	}), nil
}

// Destruct implements caddy.Destructor.
func (*counters) Destruct() error { return nil }

// add counts one more.
func (c *counters) add(metric *prometheus.Desc, labels ...string) {
	s := series{metric: metric}
	copy(s.labels[:], labels)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[s]++
}

// addAt is add for a metric whose first label is the upstream.
func (c *counters) addAt(metric *prometheus.Desc, upstream string, labels ...string) {
	upstream = label(upstream)
	s := series{metric: metric}
	copy(s.labels[1:], labels)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.upstreams[upstream]; !ok {
		if len(c.upstreams) >= maxLabels {
			upstream = otherUpstreams
		} else {
			c.upstreams[upstream] = struct{}{}
		}
	}
	s.labels[0] = upstream
	c.values[s]++
}

// collect sends every counter.
func (c *counters) collect(ch chan<- prometheus.Metric, name string) {
	c.mu.Lock()
	values := maps.Clone(c.values) // requests must not wait for who reads them
	c.mu.Unlock()
	for s, value := range values {
		labels := append([]string{name}, s.labels[:metrics.labels[s.metric]-1]...)
		ch <- prometheus.MustNewConstMetric(s.metric, prometheus.CounterValue, value, labels...)
	}
}

// label makes an address fit to be the value of a label.
func label(address string) string {
	if len(address) > maxLabelBytes {
		address = address[:maxLabelBytes]
	}
	if !utf8.ValidString(address) {
		address = strings.ToValidUTF8(address, "\uFFFD")
	}
	return address
}

// word makes a reason or a state the value of a label: "open period over" is
// open_period_over.
func word(text string) string { return underscores.Replace(text) }

var underscores = strings.NewReplacer(" ", "_", "-", "_")

// stateName is where a circuit stands, an order included.
func stateName(s core.State, f core.Forced) string {
	if f != core.NotForced {
		return f.String()
	}
	return s.String()
}

// The states in the order of their series.
var stateWords = [...]string{"closed", "open", "half_open", "forced_open", "forced_closed"}

// collector is all metrics of breakers. What has a present value is read from
// the registry when it is asked for. It holds nothing itself, so that one will
// do for all configurations.
type collector struct {
	labels map[*prometheus.Desc]int

	state, mode, age, dropped, errors                                          *prometheus.Desc
	failures, rejected, wouldReject, transitions, probes, excluded, lostEvents *prometheus.Desc
}

var metrics = newCollector()

func newCollector() *collector {
	c := &collector{labels: map[*prometheus.Desc]int{}}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc("tenantgate_breaker_"+name, help, labels, nil)
		c.labels[d] = len(labels)
		return d
	}
	c.state = desc("state", "Circuits by state: 1 for the present one, or how many of the upstream's tenants are there.", "breaker", "upstream", "state")
	c.mode = desc("store_mode", "Who decides about circuits: alone (no redis), local (redis does not answer) or shared.", "mode")
	c.age = desc("store_age_seconds", "Time since redis last answered. Absent without redis.")
	c.dropped = desc("reports_dropped_total", "Reports that found the queue to redis full and went later.")
	c.errors = desc("store_errors_total", "Calls to redis that failed.", "op")
	c.failures = desc("failures_total", "Attempts that failed.", "breaker", "upstream", "reason")
	c.rejected = desc("rejected_total", "Attempts that were refused.", "breaker", "upstream")
	c.wouldReject = desc("would_reject_total", "Attempts that shadow mode let through and enforce mode would have refused.", "breaker", "upstream")
	c.transitions = desc("transitions_total", "Changes of state that this gateway caused.", "breaker", "from", "to", "reason")
	c.probes = desc("probes_total", "Requests that were sent to a half-open circuit.", "breaker", "upstream", "result")
	c.excluded = desc("excluded_total", "Attempts that failed for a reason that is not the upstream's.", "breaker", "reason")
	c.lostEvents = desc("events_dropped_total", "Events that found their queue full.", "breaker")
	return c
}

// register makes the metrics part of the configuration's.
func (c *collector) register(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(c)
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) { // by another breaker
		return nil
	}
	return err
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for d := range c.labels {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	if r := current(); r != nil {
		c.collectStore(ch, r.store.Status())
		for _, g := range r.Groups() {
			c.collectStates(ch, g)
		}
	}
	counterPool.Range(func(name, held any) bool {
		held.(*counters).collect(ch, name.(string)) //nolint:forcetypeassert // the pool holds nothing else
		return true
	})
}

func (c *collector) collectStore(ch chan<- prometheus.Metric, s core.Status) {
	for _, mode := range []core.Mode{core.ModeAlone, core.ModeLocal, core.ModeShared} {
		var present float64
		if mode == s.Mode {
			present = 1
		}
		ch <- prometheus.MustNewConstMetric(c.mode, prometheus.GaugeValue, present, mode.String())
	}
	ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(s.Dropped))
	if s.Mode != core.ModeAlone {
		ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, s.Age.Seconds())
	}
	for op, n := range s.Errors {
		ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(n), op)
	}
}

// collectStates counts the circuits of each upstream by state.
func (c *collector) collectStates(ch chan<- prometheus.Metric, g *core.Group) {
	counts := map[string]map[string]int{}
	for _, b := range g.Breakers() {
		r := b.Record()
		upstream := label(r.Key.Upstream)
		if counts[upstream] == nil {
			if len(counts) >= maxLabels {
				upstream = otherUpstreams
			}
			if counts[upstream] == nil {
				counts[upstream] = map[string]int{}
			}
		}
		counts[upstream][word(stateName(r.State, r.Forced))]++
	}
	for upstream, states := range counts {
		for _, state := range stateWords {
			ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, float64(states[state]), g.Name(), upstream, state)
		}
	}
}

// countTransition counts a change of state where it was caused, so that the sum
// over all gateways is right.
func (c *counters) countTransition(t core.Transition) {
	if t.Local {
		c.add(metrics.transitions, word(stateName(t.From, t.FromForced)), word(stateName(t.State, t.Forced)), word(string(t.Reason)))
	}
}

// countRefusal counts an attempt that was refused, or would have been.
func (c *counters) countRefusal(p core.Permit) {
	metric := metrics.rejected
	if p.Shadowed() {
		metric = metrics.wouldReject
	}
	c.addAt(metric, p.Breaker().Key().Upstream)
}

// countOutcome counts an attempt that failed or was a probe.
func (c *counters) countOutcome(p core.Permit, v verdict) {
	upstream := p.Breaker().Key().Upstream
	switch v.outcome {
	case core.Failure:
		if !p.Shadowed() {
			c.addAt(metrics.failures, upstream, word(v.reason))
		}
	case core.Ignored:
		c.add(metrics.excluded, word(v.reason))
	}
	if p.Probe() {
		c.addAt(metrics.probes, upstream, [...]string{"success", "failure", "ignored"}[v.outcome])
	}
}

var _ prometheus.Collector = (*collector)(nil)
