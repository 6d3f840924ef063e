package segment_test

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

func TestAFullDisk(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small disk can't be mounted (it takes root): %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(mount, 0)) })
	dir := filepath.Join(mount, "log")
	l := open(t, dir, 100_000)
	payload := bytes.Repeat([]byte("x"), 30_001)
	n := 0 // frames appended
	fill := func() {
		t.Helper()
		for {
			err := l.Append(segment.Frame{Lines: 1, Oldest: int64(n), Newest: int64(n), Payload: payload})
			if err != nil {
				require.ErrorIs(t, err, syscall.ENOSPC)
				require.ErrorContains(t, err, dir)
				break
			}
			n++
		}
		require.Equal(t, diskBytes(t, dir), l.Stats().Bytes, "nothing is left of what failed")
		require.ErrorIs(t, l.Append(segment.Frame{Payload: payload}), syscall.ENOSPC)
	}
	fill()
	require.Greater(t, n, 25)
	appended := int64(n)
	require.Equal(t, appended, l.Stats().Lines)

	// A full disk does not stop what is on it from being sent.
	b := next(t, l, 3*len(payload))
	require.Len(t, b.Frames, 3)
	require.NoError(t, l.Sync())
	require.Equal(t, appended, open(t, dir, 100_000).Stats().Lines, "a start on a full disk")
	require.NoError(t, l.Done(b))
	fill()
	require.Equal(t, appended+3, int64(n), "the space is used again")

	lines, size, err := l.DropOldest()
	require.NoError(t, err)
	require.Equal(t, int64(3), lines)
	require.Equal(t, 3*int64(len(payload)+36), size)
	fill()
	require.Equal(t, appended+6, int64(n))

	l = open(t, dir, 100_000)
	require.Equal(t, segment.Stats{
		Lines: appended, UnreadLines: appended, UnreadBytes: appended * int64(len(payload)),
		Bytes: diskBytes(t, dir), Oldest: 6,
	}, l.Stats())
	b = next(t, l, everything)
	for i, f := range b.Frames {
		require.Equal(t, int64(6+i), f.Oldest)
	}
	require.NoError(t, l.Done(b))
	require.NoError(t, l.Close())
	require.Empty(t, segments(t, dir))
}

// A write that goes through in part is cut off, and the next one takes its place.
func TestAWriteThatGoesThroughInPart(t *testing.T) {
	if dir := os.Getenv("SEGMENT_LIMIT_DIR"); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5000, Max: 5000}))
		l := open(t, dir, 10_000)
		appendFrames(t, l, 20, 30)
		size := diskBytes(t, dir)
		large := segment.Frame{Lines: 1, Payload: make([]byte, 4000)}
		for range 2 {
			require.ErrorIs(t, l.Append(large), syscall.EFBIG)
			require.Equal(t, size, diskBytes(t, dir))
			require.Len(t, segments(t, dir), 1)
		}
		appendFrames(t, l, 31, 32)
		require.NoError(t, l.Close())

		large.Payload = make([]byte, 6000)
		l = open(t, filepath.Join(dir, "b"), 1)
		for range 2 {
			require.ErrorIs(t, l.Append(large), syscall.EFBIG)
			require.Empty(t, segments(t, filepath.Join(dir, "b")))
			require.Zero(t, l.Stats())
		}
		appendFrames(t, l, 1, 1)
		require.Equal(t, []int{1}, numbers(t, next(t, l, everything)))
		return
	}
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "SEGMENT_LIMIT_DIR="+dir)
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	require.Contains(t, string(output), "--- PASS", strings.TrimSpace(string(output)))
	l := open(t, dir, 0)
	require.Zero(t, l.Stats().Corrupt+l.Stats().Torn)
	require.Equal(t, []int{20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32}, numbers(t, next(t, l, everything)))
}
