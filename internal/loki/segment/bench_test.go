package segment_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%d KiB", size>>10), func(b *testing.B) {
			l := open(b, b.TempDir(), 0)
			f := segment.Frame{Lines: 200, Oldest: 1, Newest: 2, Payload: make([]byte, size)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, l.Append(f))
				if l.Stats().Bytes > 64<<20 {
					b.StopTimer()
					require.NoError(b, l.Done(next(b, l, everything)))
					b.StartTimer()
				}
			}
		})
	}
}

// One turn is Next of up to 512 KiB, and Done.
func BenchmarkNextAndDone(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%d KiB", size>>10), func(b *testing.B) {
			l := open(b, b.TempDir(), 0)
			f := segment.Frame{Lines: 200, Oldest: 1, Newest: 2, Payload: make([]byte, size)}
			b.SetBytes(512 << 10)
			b.ReportAllocs()
			for b.Loop() {
				if l.Stats().UnreadBytes < 512<<10 {
					b.StopTimer()
					for range 64 << 20 / size {
						require.NoError(b, l.Append(f))
					}
					b.StartTimer()
				}
				batch, err := l.Next(512 << 10)
				if err != nil || batch.Bytes() != 512<<10 {
					b.Fatal(err, batch.Bytes())
				}
				if err := l.Done(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// One turn opens a log of 256 MiB.
func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{1 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%d KiB", size>>10), func(b *testing.B) {
			dir := b.TempDir()
			l := open(b, dir, 0)
			f := segment.Frame{Lines: 3, Oldest: 1, Newest: 2, Payload: make([]byte, size)}
			for range 256 << 20 / size {
				require.NoError(b, l.Append(f))
			}
			b.SetBytes(256 << 20)
			b.ReportAllocs()
			for b.Loop() {
				require.Equal(b, int64(3*256<<20/size), open(b, dir, 0).Stats().Lines)
			}
		})
	}
}

// One turn is an Append of 64 KiB, made durable.
func BenchmarkAppendAndSync(b *testing.B) {
	l := open(b, b.TempDir(), 0)
	f := segment.Frame{Lines: 200, Payload: make([]byte, 64<<10)}
	b.SetBytes(64 << 10)
	for b.Loop() {
		require.NoError(b, l.Append(f))
		require.NoError(b, l.Sync())
		if l.Stats().Bytes > 64<<20 {
			b.StopTimer()
			require.NoError(b, l.Done(next(b, l, everything)))
			b.StartTimer()
		}
	}
}
