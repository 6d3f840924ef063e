package loki

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantgate/tenantgate/internal/clock"
	core "github.com/tenantgate/tenantgate/internal/loki"
)

// collector is all metrics of shippers. What they have counted is read from them
// when it is asked for, so that it survives reloads.
type collector struct {
	counters []counter
	gauges   []gauge
	reasons  []labelled
	requests *prometheus.HistogramVec
}

type counter struct {
	desc  *prometheus.Desc
	value func(*core.Stats) int64
}

type gauge struct {
	desc  *prometheus.Desc
	value func(*core.Stats) float64
}

// labelled are counters with a second label.
type labelled struct {
	desc   *prometheus.Desc
	values func(*core.Stats) map[string]int64
}

var metrics = newCollector()

func newCollector() *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tenantgate_loki_"+name, help, append([]string{"buffer"}, labels...), nil)
	}
	return &collector{
		counters: []counter{
			{desc("lines_accepted_total", "Lines taken from the log."), func(s *core.Stats) int64 { return s.AcceptedLines }},
			{desc("bytes_accepted_total", "Bytes of lines taken from the log."), func(s *core.Stats) int64 { return s.AcceptedBytes }},
			{desc("lines_stored_total", "Lines put into the buffer on disk."), func(s *core.Stats) int64 { return s.StoredLines }},
			{desc("lines_sent_total", "Lines sent to Loki, each time they were."), func(s *core.Stats) int64 { return s.SentLines }},
			{desc("bytes_sent_total", "Bytes of requests sent to Loki, compressed."), func(s *core.Stats) int64 { return s.SentBytes }},
			{desc("lines_acknowledged_total", "Lines that Loki has taken."), func(s *core.Stats) int64 { return s.AcknowledgedLines }},
			{desc("lines_truncated_total", "Lines that were too long for Loki and were cut."), func(s *core.Stats) int64 { return s.TruncatedLines }},
		},
		gauges: []gauge{
			{desc("buffer_bytes", "Bytes of the buffer on disk."), func(s *core.Stats) float64 { return float64(s.BufferBytes) }},
			{desc("buffer_lines", "Lines in the buffer on disk."), func(s *core.Stats) float64 { return float64(s.BufferLines) }},
			{desc("oldest_unsent_seconds", "Age of the oldest line that Loki has not taken."), oldest},
		},
		reasons: []labelled{
			{desc("lines_resent_total", "Lines sent again although Loki may have taken them already.", "reason"), func(s *core.Stats) map[string]int64 { return s.ResentLines }},
			{desc("lines_rejected_total", "Lines that Loki has refused for good.", "reason"), func(s *core.Stats) map[string]int64 { return s.RejectedLines }},
			{desc("lines_dropped_total", "Lines that were given up here.", "reason"), func(s *core.Stats) map[string]int64 { return s.DroppedLines }},
			{desc("label_overflow_total", "Lines whose value of a label was beyond the first 100.", "label"), func(s *core.Stats) map[string]int64 { return s.OverflowedValues }},
		},
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tenantgate_loki_request_seconds", Help: "Time of requests to Loki, by status; none if there was no answer.",
		}, []string{"buffer", "code"}),
	}
}

func oldest(s *core.Stats) float64 {
	if s.Oldest.IsZero() {
		return 0
	}
	return max(0, clock.System{}.Now().Sub(s.Oldest).Seconds())
}

// register makes the metrics part of a configuration's.
func (c *collector) register(registry *prometheus.Registry) error {
	err := registry.Register(c)
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) { // by another log
		return nil
	}
	return err
}

// request counts a request to Loki.
func (c *collector) request(dir string, status int, took time.Duration) {
	code := "none"
	if status != 0 {
		code = strconv.Itoa(status)
	}
	c.requests.WithLabelValues(label(dir), code).Observe(took.Seconds())
}

// forget removes the requests of a shipper that has ended.
func (c *collector) forget(dir string) {
	c.requests.DeletePartialMatch(prometheus.Labels{"buffer": label(dir)})
}

// label makes a folder fit to be the value of a label.
func label(dir string) string { return strings.ToValidUTF8(dir, "\uFFFD") }

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.counters {
		ch <- m.desc
	}
	for _, m := range c.gauges {
		ch <- m.desc
	}
	for _, m := range c.reasons {
		ch <- m.desc
	}
	c.requests.Describe(ch)
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	outlets.Range(func(dir, value any) bool {
		if s, ok := value.(*outlet).stats(); ok { //nolint:forcetypeassert // there is nothing else in it
			c.collect(ch, label(dir.(string)), &s) //nolint:forcetypeassert // as above
		}
		return true
	})
	c.requests.Collect(ch)
}

func (c *collector) collect(ch chan<- prometheus.Metric, dir string, s *core.Stats) {
	for _, m := range c.counters {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(m.value(s)), dir)
	}
	for _, m := range c.gauges {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value(s), dir)
	}
	for _, m := range c.reasons {
		for name, n := range m.values(s) {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(n), dir, strings.ToValidUTF8(name, "\uFFFD"))
		}
	}
}

var _ prometheus.Collector = (*collector)(nil)
