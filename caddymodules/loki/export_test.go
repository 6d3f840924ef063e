package loki

import "github.com/prometheus/client_golang/prometheus"

// Metrics returns what collects the metrics of all shippers.
func Metrics() prometheus.Collector { return metrics }
