// Package lokitest gives tests a Loki to ship lines to: a [Fake] that answers as
// Loki does, and the real one where its program is there. Only tests import it.
package lokitest

import (
	"testing"
	"time"
)

// Loki is what the fake and the real one have in common.
type Loki interface {
	// URL returns where Loki is, without a path.
	URL() string
	// Kill ends it at once, Restart starts it again on the same address. What it
	// has acknowledged it has afterwards.
	Kill()
	Restart(tb testing.TB)
	// Freeze stops it from doing anything, Thaw lets it go on.
	Freeze()
	Thaw()
	// Query returns all lines of a query from start to before end, sorted by time.
	Query(tb testing.TB, tenant, logql string, start, end time.Time) []Entry
}

var _ Loki = (*Fake)(nil)
