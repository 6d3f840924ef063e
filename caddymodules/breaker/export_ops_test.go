package breaker

import (
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// BreakersCommand is the command `breakers`.
func BreakersCommand(c clock.Clock) *cobra.Command {
	cmd := &cobra.Command{Use: "breakers", SilenceUsage: true}
	addBreakerCommands(cmd, c)
	return cmd
}

// Text is how a person sees an answer of the admin API.
func Text(answer string, colours bool) (string, error) {
	var (
		l   listing
		out bytes.Buffer
	)
	err := json.Unmarshal([]byte(answer), &l)
	writeText(&out, l, colours)
	return out.String(), err
}

// Show gives looks at the circuits to what watch uses on a terminal of that
// many rows.
func Show(out io.Writer, rows int, looks ...any) error {
	s := &fullScreen{out: out, interval: time.Second, size: func() (int, int) { return 80, rows }}
	defer s.end()
	return showAll(s, looks)
}

// ShowChanges gives looks at the circuits to what watch uses elsewhere.
func ShowChanges(out io.Writer, c clock.Clock, asJSON bool, looks ...any) error {
	return showAll(&changes{out: out, json: asJSON, clock: c}, looks)
}

// showAll shows answers of the admin API and errors.
func showAll(s screen, looks []any) error {
	for _, look := range looks {
		var l listing
		failure, _ := look.(error)
		if text, ok := look.(string); ok {
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				return err
			}
		}
		if err := s.show(l, failure); err != nil {
			return err
		}
	}
	return nil
}

// Metrics is what the metrics endpoint asks.
func Metrics() prometheus.Collector { return metrics }

// CountRejections counts a refusal of each upstream under a breaker's name,
// until release is called.
func CountRejections(name string, upstreams ...string) (release func(), err error) {
	c, release, err := holdCounters(name)
	for _, upstream := range upstreams {
		c.addAt(metrics.rejected, upstream)
	}
	return release, err
}
