package loki

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
)

func TestTheQueueKeepsLinesInOrderWithTimesOfTheirOwn(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 5)
	c := clock.NewFake(at)
	q := newQueue(c)
	require.True(t, q.put([]byte("one\n")))
	require.True(t, q.put([]byte("two")), "the clock stands still")
	c.Advance(-time.Hour)
	require.True(t, q.put([]byte("three\n")), "the clock goes back")
	require.True(t, q.put(nil))
	var got []string
	q.take(func(ns int64, line []byte) { got = append(got, fmt.Sprint(ns-at.UnixNano(), string(line))) })
	require.Equal(t, []string{"0one", "1two", "2three", "3"}, got)
	q.take(func(int64, []byte) { t.Error("the queue was emptied") })
	lines, bytes, overflowed := q.counts()
	require.Equal(t, []int64{4, 11, 0}, []int64{lines, bytes, overflowed})
}

func TestTheQueueCountsWhatHasNoRoom(t *testing.T) {
	t.Parallel()
	q := newQueue(clock.System{})
	line := make([]byte, 1000)
	const fit = blockBytes / (1000 + recordHeader)
	for range fit + 5 {
		require.True(t, q.put(line))
	}
	taken := 0
	q.take(func(int64, []byte) {
		if taken++; taken == 1 {
			require.True(t, q.put(line), "there is room again while lines are taken")
		}
	})
	require.Equal(t, fit, taken)
	_, _, overflowed := q.counts()
	require.Equal(t, int64(5), overflowed)

	require.True(t, q.put(make([]byte, blockBytes)), "of a line that is too long the beginning is kept")
	lengths := []int{}
	q.take(func(_ int64, line []byte) { lengths = append(lengths, len(line)) })
	require.Equal(t, []int{1000, maxTaken}, lengths)

	q.close()
	require.False(t, q.put(line))
}

func TestTheQueueLosesNothingUnderConcurrentWriters(t *testing.T) {
	t.Parallel()
	q := newQueue(clock.System{})
	const writers, each = 8, 2000
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for i := range each {
				q.put(fmt.Appendf(nil, "%d %d", w, i))
			}
		})
	}
	next, last, total := [writers]int{}, int64(0), 0
	collect := func() {
		q.take(func(ns int64, line []byte) {
			var w, i int
			_, err := fmt.Sscan(string(line), &w, &i)
			require.NoError(t, err)
			require.Equal(t, next[w], i)
			require.Greater(t, ns, last)
			next[w], last, total = i+1, ns, total+1
		})
	}
	finished := make(chan struct{})
	go func() { done.Wait(); close(finished) }()
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-q.some:
		}
		collect()
	}
	require.Equal(t, writers*each, total)
}
