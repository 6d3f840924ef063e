package gateway

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// tableMetrics is the metrics of a configuration's permission table. All are
// read from the table when they are asked for; the table and its counts survive
// reloads.
type tableMetrics struct{ table *sharedTable }

var (
	descTenants = describe("tenants", "Tenants in the permission table.")
	descMembers = describe("members", "Active members of tenants in the permission table.")
	descRows    = describe("rows", "Rows in the permission table that grant something.")
	descBytes   = describe("bytes", "About how much memory the permission table takes.")
	descSeq     = describe("seq", "Number of the newest change that the permission table holds.")
	descAge     = describe("age_seconds", "Time since the database last confirmed the permission table. Absent while none was ever loaded.")
	descLoad    = describe("load_seconds", "How long it last took to read what had changed, or everything.")
	descLoads   = describe("loads_total", "Loads of the permission table: full, partial (what had changed), or any for those that failed.", "kind", "result")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tenantgate_permission_"+name, help, labels, nil)
}

// registerMetrics makes the metrics of a table part of the configuration's.
func registerMetrics(ctx caddy.Context, table *sharedTable) error {
	return ctx.GetMetricsRegistry().Register(tableMetrics{table})
}

// Describe implements prometheus.Collector.
func (m tableMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descTenants, descMembers, descRows, descBytes, descSeq, descAge, descLoad, descLoads} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m tableMetrics) Collect(ch chan<- prometheus.Metric) {
	info := m.table.Info()
	gauge := func(d *prometheus.Desc, value float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	gauge(descTenants, float64(info.Stats.Tenants))
	gauge(descMembers, float64(info.Stats.Members))
	gauge(descRows, float64(info.Stats.Rows))
	gauge(descBytes, float64(info.Stats.Bytes))
	gauge(descSeq, float64(info.Seq))
	gauge(descLoad, info.LastLoad.Seconds())
	if info.Loaded {
		gauge(descAge, info.Age.Seconds())
	}
	for _, load := range []struct {
		kind, result string
		count        int64
	}{
		{"full", "ok", info.FullLoads},
		{"partial", "ok", info.PartialLoads},
		{"any", "error", info.Failures},
	} {
		ch <- prometheus.MustNewConstMetric(descLoads, prometheus.CounterValue, float64(load.count), load.kind, load.result)
	}
}

var _ prometheus.Collector = tableMetrics{}
