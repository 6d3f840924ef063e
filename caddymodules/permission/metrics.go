package permission

import (
	"errors"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	core "github.com/tenantgate/tenantgate/internal/permission"
)

// The reasons that no table gives.
const (
	reasonNotLoaded core.Reason = "not_loaded"
	reasonMissing   core.Reason = "missing"
	reasonTarget    core.Reason = "bad_request_target"
	reasonMethod    core.Reason = "method_not_allowed"
	reasonNoRoute   core.Reason = "no_route"
	reasonIdentity  core.Reason = "bad_identity"
)

// reasons are all reasons in the order of their counters, the usual ones first.
// The ones from firstError on are no answers of the table.
var reasons = [...]core.Reason{
	core.Allowed, core.RoleLacksAction, core.NotAMember, core.UnknownTenant, core.TenantSuspended,
	core.UnknownProduct, core.UnknownFeature, core.UnknownAction, reasonNoRoute,
	reasonNotLoaded, reasonMissing, reasonTarget, reasonMethod, reasonIdentity,
}

const firstError = 9

// tally counts decisions: one counter for each reason and, in the second half,
// for those in shadow mode. Handlers share few of them, so that processors
// seldom wait for one another.
type tally struct {
	counts [2 * len(reasons)]atomic.Uint64
	_      [32]byte // the next one begins in another cache line
}

// allowed counts a decision that allowed.
func (t *tally) allowed() { t.counts[0].Add(1) }

// refused counts a decision that refused, or in shadow mode would have.
func (t *tally) refused(reason core.Reason, shadow bool) {
	for i, known := range reasons {
		if known == reason {
			if shadow {
				i += len(reasons)
			}
			t.counts[i].Add(1)
			return
		}
	}
}

// tallies are the counters of all handlers. They live as long as any
// configuration has a handler, so that totals survive reloads.
type tallies struct {
	next atomic.Uint32
	each [32]tally
}

// Destruct implements caddy.Destructor.
func (*tallies) Destruct() error { return nil }

var tallyPool = caddy.NewUsagePool()

// tallyKey is the key of the one entry of tallyPool.
const tallyKey = "decisions"

// newTally returns counters for one handler, which gives them back by
// releaseTally when it is done. Requests may use them even after that.
func newTally() (*tally, error) {
	held, _, err := tallyPool.LoadOrNew(tallyKey, func() (caddy.Destructor, error) { return new(tallies), nil })
	if err != nil {
		return nil, err
	}
	all := held.(*tallies) //nolint:forcetypeassert // the pool holds nothing else
	return &all.each[all.next.Add(1)%uint32(len(all.each))], nil
}

func releaseTally() { _, _ = tallyPool.Delete(tallyKey) } // Destruct cannot fail

// collector is the metrics of decisions. It holds nothing itself, so that one
// will do for all configurations.
type collector struct{ decisions *prometheus.Desc }

var metrics = collector{prometheus.NewDesc("tenantgate_permission_decisions_total",
	"Decisions of check_permission: allowed, denied, would_deny (shadow mode let through what enforce mode would have refused), "+
		"or error (there was nothing to decide, or nothing to decide by).", []string{"result", "reason"}, nil)}

// register makes the metrics part of the configuration's.
func (c collector) register(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(c)
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) { // by another handler
		return nil
	}
	return err
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.decisions }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	var total [2 * len(reasons)]uint64
	tallyPool.Range(func(_, held any) bool {
		all := held.(*tallies) //nolint:forcetypeassert // the pool holds nothing else
		for i := range all.each {
			for j := range total {
				total[j] += all.each[i].counts[j].Load()
			}
		}
		return true
	})
	for i, n := range total {
		if i == len(reasons) { // allowed counts the same in shadow mode
			continue
		}
		ch <- prometheus.MustNewConstMetric(c.decisions, prometheus.CounterValue, float64(n), result(i), string(reasons[i%len(reasons)]))
	}
}

// result is the label of a counter.
func result(i int) string {
	switch {
	case i == 0:
		return "allowed"
	case i >= len(reasons):
		return "would_deny"
	case i >= firstError:
		return "error"
	}
	return "denied"
}

var _ prometheus.Collector = collector{}
