package breaker

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// meterInterval is how long successes may wait to be counted.
const meterInterval = 250 * time.Millisecond

// meter counts what many goroutines do. They spread over several counters, so
// that they seldom meet.
type meter struct {
	shards [8]struct {
		n atomic.Int64
		_ [56]byte // the rest of a cache line
	}
	next atomic.Int64 // when to take them, ns since the registry's start
}

func (m *meter) add() {
	m.shards[rand.Uint32()%uint32(len(m.shards))].n.Add(1) // #nosec G404 -- any spread will do
}

// due reports that it is time to take.
func (m *meter) due(at time.Duration) bool { return int64(at) >= m.next.Load() }

// take returns the count since the last time, and how long ago the newest of it
// was at least.
func (m *meter) take(at time.Duration) (n int64, age time.Duration) {
	age = max(0, at-time.Duration(m.next.Swap(int64(at+meterInterval))))
	for i := range m.shards {
		n += m.shards[i].n.Swap(0)
	}
	return n, age
}

// total returns the count since the last time it was taken.
func (m *meter) total() (n int64) {
	for i := range m.shards {
		n += m.shards[i].n.Load()
	}
	return n
}
