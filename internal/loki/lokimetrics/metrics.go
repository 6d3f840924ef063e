// Package lokimetrics shows the figures of shippers as Prometheus metrics, the
// same for the gateway and the backends.
package lokimetrics

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/loki"
)

// Collector is all metrics of some shippers, which the label buffer tells apart.
type Collector struct {
	each     func(yield func(buffer string, s *loki.Stats))
	counters []counter
	gauges   []gauge
	reasons  []labelled
	requests *prometheus.HistogramVec
}

type counter struct {
	desc  *prometheus.Desc
	value func(*loki.Stats) int64
}

type gauge struct {
	desc  *prometheus.Desc
	value func(*loki.Stats) float64
}

// labelled are counters with a second label.
type labelled struct {
	desc   *prometheus.Desc
	values func(*loki.Stats) map[string]int64
}

// New returns the metrics of shippers. Whenever they are asked for, each yields
// what every shipper has counted until then, and the folder of its buffer.
func New(each func(yield func(buffer string, s *loki.Stats))) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tenantgate_loki_"+name, help, append([]string{"buffer"}, labels...), nil)
	}
	return &Collector{
		each: each,
		counters: []counter{
			{desc("lines_accepted_total", "Lines taken from the log."), func(s *loki.Stats) int64 { return s.AcceptedLines }},
			{desc("bytes_accepted_total", "Bytes of lines taken from the log."), func(s *loki.Stats) int64 { return s.AcceptedBytes }},
			{desc("lines_stored_total", "Lines put into the buffer on disk."), func(s *loki.Stats) int64 { return s.StoredLines }},
			{desc("lines_sent_total", "Lines sent to Loki, each time they were."), func(s *loki.Stats) int64 { return s.SentLines }},
			{desc("bytes_sent_total", "Bytes of requests sent to Loki, compressed."), func(s *loki.Stats) int64 { return s.SentBytes }},
			{desc("lines_acknowledged_total", "Lines that Loki has taken."), func(s *loki.Stats) int64 { return s.AcknowledgedLines }},
			{desc("lines_truncated_total", "Lines that were too long for Loki and were cut."), func(s *loki.Stats) int64 { return s.TruncatedLines }},
		},
		gauges: []gauge{
			{desc("buffer_bytes", "Bytes of the buffer on disk."), func(s *loki.Stats) float64 { return float64(s.BufferBytes) }},
			{desc("buffer_lines", "Lines in the buffer on disk."), func(s *loki.Stats) float64 { return float64(s.BufferLines) }},
			{desc("oldest_unsent_seconds", "Age of the oldest line that Loki has not taken."), oldest},
		},
		reasons: []labelled{
			{desc("lines_resent_total", "Lines sent again although Loki may have taken them already.", "reason"), func(s *loki.Stats) map[string]int64 { return s.ResentLines }},
			{desc("lines_rejected_total", "Lines that Loki has refused for good.", "reason"), func(s *loki.Stats) map[string]int64 { return s.RejectedLines }},
			{desc("lines_dropped_total", "Lines that were given up here.", "reason"), func(s *loki.Stats) map[string]int64 { return s.DroppedLines }},
			{desc("label_overflow_total", "Lines whose value of a label was beyond the first 100.", "label"), func(s *loki.Stats) map[string]int64 { return s.OverflowedValues }},
		},
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tenantgate_loki_request_seconds", Help: "Time of requests to Loki, by status; none if there was no answer.",
		}, []string{"buffer", "code"}),
	}
}

func oldest(s *loki.Stats) float64 {
	if s.Oldest.IsZero() {
		return 0
	}
	return max(0, clock.System{}.Now().Sub(s.Oldest).Seconds())
}

// Request counts a request to Loki of the shipper with this buffer: its status,
// 0 if there was no answer, and how long it took.
func (c *Collector) Request(buffer string, status int, took time.Duration) {
	code := "none"
	if status != 0 {
		code = strconv.Itoa(status)
	}
	c.requests.WithLabelValues(label(buffer), code).Observe(took.Seconds())
}

// Forget removes the requests of a shipper that has ended.
func (c *Collector) Forget(buffer string) {
	c.requests.DeletePartialMatch(prometheus.Labels{"buffer": label(buffer)})
}

// label makes a folder fit to be the value of a label.
func label(dir string) string { return strings.ToValidUTF8(dir, "\uFFFD") }

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
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
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.each(func(buffer string, s *loki.Stats) { c.collect(ch, label(buffer), s) })
	c.requests.Collect(ch)
}

func (c *Collector) collect(ch chan<- prometheus.Metric, buffer string, s *loki.Stats) {
	for _, m := range c.counters {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(m.value(s)), buffer)
	}
	for _, m := range c.gauges {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value(s), buffer)
	}
	for _, m := range c.reasons {
		for name, n := range m.values(s) {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(n), buffer, strings.ToValidUTF8(name, "\uFFFD"))
		}
	}
}

var _ prometheus.Collector = (*Collector)(nil)
