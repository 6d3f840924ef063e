package loki

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	core "github.com/tenantgate/tenantgate/internal/loki"
	"github.com/tenantgate/tenantgate/internal/loki/lokimetrics"
)

// metrics are those of all outlets, over all reloads.
var metrics = lokimetrics.New(func(yield func(buffer string, s *core.Stats)) {
	outlets.Range(func(dir, value any) bool {
		if s, ok := value.(*outlet).stats(); ok { //nolint:forcetypeassert // there is nothing else in it
			yield(dir.(string), &s) //nolint:forcetypeassert // as above
		}
		return true
	})
})

// registerMetrics makes the metrics part of a configuration's.
func registerMetrics(registry *prometheus.Registry) error {
	err := registry.Register(metrics)
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) { // by another log
		return nil
	}
	return err
}
