package app

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tenantgate/tenantgate/internal/database"
)

// metrics is what METRICS_LISTEN shows: requests, the store's connections, lines
// shipped to Loki, and Go's and the process's own figures.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
}

// newMetrics returns the metrics of a process with this store; others are those
// of what it has beside it.
func newMetrics(db *database.DB, others ...prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tenantgate_backend_request_seconds", Help: "Time of requests to the services.",
		}, []string{"service", "method", "code"}),
	}
	m.registry.MustRegister(append(others, m.requests, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewDBStatsCollector(db.Reader(), "store"))...)
	return m
}

// observe returns next, whose requests count as those of a service.
func (m *metrics) observe(service string, next http.Handler) http.Handler {
	return promhttp.InstrumentHandlerDuration(m.requests.MustCurryWith(prometheus.Labels{"service": service}), next)
}

// handler answers GET /metrics.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}))
	return mux
}
