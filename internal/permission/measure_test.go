package permission_test

import (
	"os"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// What a table of a million permission rows and a million members may take.
const (
	mostMemory = 200 << 20
	mostTime   = 5 * time.Second
)

// TestMeasureLoad loads the two largest tables and compares time and memory
// with what the design allows. It asks for a quiet machine, and for a minute to
// fill each database: TENANTGATE_MEASURE=1 go test -run TestMeasureLoad -v.
func TestMeasureLoad(t *testing.T) {
	if os.Getenv("TENANTGATE_MEASURE") == "" {
		t.Skip("TENANTGATE_MEASURE is not set")
	}
	for _, z := range sizes[2:] {
		// One after the other, unlike other tests.
		t.Run(z.name+" sqlite", func(t *testing.T) { z.measure(t, dbtest.SQLite(t)) })
		t.Run(z.name+" postgres", func(t *testing.T) { z.measure(t, dbtest.Postgres(t)) })
	}
}

func (z size) measure(t *testing.T, url string) {
	s := openStore(t, url)
	z.fill(t, s)
	first, live := measure(t, "the first load", func() *permission.Snapshot { return load(t, s, nil) })
	require.InEpsilon(t, live, first.Stats().Bytes, 0.25, "its own estimate")
	s.change(t, nil)
	again, _ := measure(t, "the same again beside it", func() *permission.Snapshot { return load(t, s, first) })
	for _, snapshot := range []*permission.Snapshot{first, again} {
		require.Equal(t, z.tenants*z.members, snapshot.Stats().Members)
		require.InEpsilon(t, z.tenants*z.roles*z.perRole, snapshot.Stats().Rows, 0.01)
	}
}

// measure returns what f loads and how much memory stays in use.
func measure(t *testing.T, what string, f func() *permission.Snapshot) (snapshot *permission.Snapshot, live int) {
	t.Helper()
	before := liveHeap()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() { peak <- watchHeap(stop) }()
	began := time.Now()
	snapshot = f()
	took := time.Since(began)
	close(stop)
	most := <-peak - before
	live = int(liveHeap() - before)
	t.Logf("%s: %v, %d MiB live, %d MiB at the peak, %d MiB by its own estimate", what, took.Round(time.Millisecond), live>>20, most>>20, snapshot.Stats().Bytes>>20)
	require.Less(t, took, mostTime)
	require.Less(t, most, uint64(mostMemory))
	return snapshot, live
}

// liveHeap returns the bytes in use after a collection.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	return heap()
}

// heap returns the bytes of objects, garbage that was not collected yet included.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// watchHeap returns the largest heap until stop is closed.
func watchHeap(stop <-chan struct{}) (peak uint64) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		peak = max(peak, heap())
		select {
		case <-stop:
			return max(peak, heap())
		case <-ticker.C:
		}
	}
}
