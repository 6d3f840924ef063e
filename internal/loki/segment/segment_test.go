package segment_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everything is more than any log of these tests holds.
const everything = 1 << 30

func open(t testing.TB, dir string, segmentBytes int64) *segment.Log {
	t.Helper()
	l, err := segment.Open(dir, segment.Options{SegmentBytes: segmentBytes})
	require.NoError(t, err)
	return l
}

// frame is the n-th frame of a test: n lines, taken at n ms.
func frame(n int) segment.Frame {
	payload := []byte(strings.Repeat(fmt.Sprintf("line %d\n", n), n))
	return segment.Frame{Lines: n, Oldest: int64(n) * 1e6, Newest: int64(n)*1e6 + 999, Payload: payload}
}

func appendFrames(t testing.TB, l *segment.Log, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		require.NoError(t, l.Append(frame(n)))
	}
}

func next(t testing.TB, l *segment.Log, maxBytes int) *segment.Batch {
	t.Helper()
	b, err := l.Next(maxBytes)
	require.NoError(t, err)
	return b
}

// numbers says which of the frames a batch holds, and that they are whole.
func numbers(t testing.TB, b *segment.Batch) []int {
	t.Helper()
	if b == nil {
		return nil
	}
	var ns []int
	var bytes, lines int64
	for _, f := range b.Frames {
		ns = append(ns, f.Lines)
		require.Equal(t, frame(f.Lines), f)
		bytes, lines = bytes+int64(len(f.Payload)), lines+int64(f.Lines)
	}
	require.Equal(t, bytes, b.Bytes())
	require.Equal(t, lines, b.Lines())
	return ns
}

func segments(t require.TestingT, dir string) []string {
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	return paths
}

func diskBytes(t require.TestingT, dir string) (n int64) {
	for _, path := range segments(t, dir) {
		info, err := os.Stat(path)
		require.NoError(t, err)
		n += info.Size()
	}
	return n
}

func TestFramesComeBackInOrder(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), 200)
	require.Nil(t, next(t, l, everything), "of an empty log")
	appendFrames(t, l, 1, 9)
	require.Equal(t, segment.Stats{
		Lines: 45, UnreadLines: 45, UnreadBytes: 45 * 7, Bytes: 45*7 + 9*36, Oldest: 1e6,
	}, l.Stats())

	size := func(n int) int { return len(frame(n).Payload) }
	first := next(t, l, size(1)+size(2)+size(3)+size(4)-1)
	require.Equal(t, []int{1, 2, 3}, numbers(t, first), "the fourth does not fit")
	second := next(t, l, 1)
	require.Equal(t, []int{4}, numbers(t, second), "at least one")
	third := next(t, l, size(5)+size(6))
	require.Equal(t, []int{5, 6}, numbers(t, third), "they fit exactly, over several segments")
	require.Equal(t, []int{7, 8, 9}, numbers(t, next(t, l, everything)))
	require.Nil(t, next(t, l, everything), "nothing is left")
	appendFrames(t, l, 10, 10)
	require.Equal(t, []int{10}, numbers(t, next(t, l, everything)))

	st := l.Stats()
	require.Equal(t, int64(55), st.Lines, "none is acknowledged")
	require.Zero(t, st.UnreadLines)
	require.Zero(t, st.UnreadBytes)
}

func TestAFrameMayBeEmpty(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), 0)
	require.NoError(t, l.Append(segment.Frame{}))
	require.NoError(t, l.Append(segment.Frame{}))
	b := next(t, l, 0)
	require.Len(t, b.Frames, 2)
	require.NoError(t, l.Done(b))
}

func TestAFrameThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), 100)
	large := segment.Frame{Lines: 1, Payload: make([]byte, segment.MaxPayload+1)}
	require.ErrorContains(t, l.Append(large), "at most 16777216 bytes")
	require.ErrorContains(t, l.Append(segment.Frame{Lines: -1}), "a frame of -1 lines")
	large.Payload = large.Payload[1:]
	require.NoError(t, l.Append(large))
	appendFrames(t, l, 1, 1)
	require.Len(t, next(t, l, 1).Frames, 1)
	require.Equal(t, []int{1}, numbers(t, next(t, l, 1)))
}

func TestChangedTellsOfAppends(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), 0)
	require.Empty(t, l.Changed())
	appendFrames(t, l, 1, 3)
	require.Len(t, l.Changed(), 1)
	<-l.Changed()
	require.Empty(t, l.Changed())
}

func TestOnlyWhatIsDoneWithoutAGapIsAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 5)
	var batches []*segment.Batch
	for range 4 {
		batches = append(batches, next(t, l, 1))
	}
	require.NoError(t, l.Done(batches[0]))
	require.NoError(t, l.Done(batches[2]))
	require.Equal(t, int64(2+4+5), l.Stats().Lines)
	require.Equal(t, int64(2e6), l.Stats().Oldest)
	require.NoError(t, l.Done(batches[2]), "twice is once")

	l = open(t, dir, 0)
	require.Equal(t, int64(2+3+4), l.Stats().Resent, "3 was done, but that is not known any more")
	require.Equal(t, []int{2, 3, 4, 5}, numbers(t, next(t, l, everything)))

	l = open(t, dir, 0)
	require.Equal(t, int64(2+3+4+5), l.Stats().Resent)
	l = open(t, dir, 0)
	require.Equal(t, int64(2+3+4+5), l.Stats().Resent, "a process that sent nothing does not change it")
	b := next(t, l, everything)
	require.NoError(t, l.Done(b))
	require.Zero(t, l.Stats().Lines)
	require.Zero(t, l.Stats().Oldest)

	l = open(t, dir, 0)
	require.Zero(t, l.Stats())
	require.Nil(t, next(t, l, everything))
}

func TestWhatIsAcknowledgedIsDeleted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 1<<20)
	one := segment.Frame{Lines: 1, Payload: make([]byte, 100<<10)}
	for range 25 { // 10 a segment
		require.NoError(t, l.Append(one))
	}
	require.Len(t, segments(t, dir), 3)
	first, second, third := next(t, l, 11*len(one.Payload)), next(t, l, 10*len(one.Payload)), next(t, l, everything)
	require.NoError(t, l.Done(second))
	require.Len(t, segments(t, dir), 3, "the first one holds the others")
	require.NoError(t, l.Done(first))
	require.Len(t, segments(t, dir), 1)
	require.NoError(t, l.Done(third))
	require.Empty(t, segments(t, dir), "the active one too")
	require.Zero(t, l.Stats())

	for range 3 {
		appendFrames(t, l, 7, 7)
		require.NoError(t, l.Done(next(t, l, everything)))
	}
	require.Len(t, segments(t, dir), 1, "a small one stays in use")
	require.NoError(t, l.Close())
	require.Empty(t, segments(t, dir))
}

func TestDropOldestIsExact(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 1) // a frame a segment
	drop := func(lines, frames int64) {
		t.Helper()
		before := diskBytes(t, dir)
		gotLines, gotBytes, err := l.DropOldest()
		require.NoError(t, err)
		require.Equal(t, lines, gotLines)
		require.Equal(t, before-gotBytes, diskBytes(t, dir))
		require.Equal(t, diskBytes(t, dir), l.Stats().Bytes)
		require.Equal(t, frames, int64(len(segments(t, dir))))
	}
	drop(0, 0)
	appendFrames(t, l, 1, 7)
	drop(1, 6)
	second, third := next(t, l, 1), next(t, l, 1)
	require.Equal(t, []int{2}, numbers(t, second))
	drop(4, 5)
	require.NoError(t, l.Done(third))
	drop(0, 4) // the third, of which nothing is unread
	require.Equal(t, int64(2+5+6+7), l.Stats().Lines)
	require.Equal(t, int64(2e6), l.Stats().Oldest)
	fifth := next(t, l, 1)
	require.Equal(t, []int{5}, numbers(t, fifth))
	drop(6, 3)
	drop(7, 2) // the active one
	drop(0, 2)
	appendFrames(t, l, 8, 8)
	require.Equal(t, []int{8}, numbers(t, next(t, l, everything)))

	l = open(t, dir, 1)
	require.Equal(t, int64(2+5+8), l.Stats().Resent)
	require.Equal(t, []int{2, 5, 8}, numbers(t, next(t, l, everything)))
}

func TestDropOldestOfASegmentThatIsBeingRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 4)
	b := next(t, l, 1)
	lines, bytes, err := l.DropOldest()
	require.NoError(t, err)
	require.Zero(t, lines+bytes, "a batch of it is on its way")
	require.NoError(t, l.Done(b))
	lines, bytes, err = l.DropOldest()
	require.NoError(t, err)
	require.Equal(t, int64(2+3+4), lines)
	require.Equal(t, int64(4*36+10*7), bytes)
	appendFrames(t, l, 5, 5)
	require.Equal(t, []int{5}, numbers(t, next(t, open(t, dir, 0), everything)))
	require.Equal(t, []int{5}, numbers(t, next(t, l, everything)))
}

func TestAClosedLogRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 2)
	b := next(t, l, 1)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	_, err := l.Next(1)
	_, _, dropErr := l.DropOldest()
	for _, err := range []error{err, dropErr, l.Append(frame(1)), l.Done(b), l.Sync()} {
		require.ErrorIs(t, err, fs.ErrClosed)
		require.ErrorContains(t, err, dir)
	}
	require.Equal(t, int64(3), l.Stats().Lines)
	require.Equal(t, []int{1, 2}, numbers(t, next(t, open(t, dir, 0), everything)))
}

func TestDamageIsSkippedAndCounted(t *testing.T) {
	t.Parallel()
	at := func(n int) int { // offset of a frame in its segment
		offset := 0
		for i := 1; i < n; i++ {
			offset += 36 + len(frame(i).Payload)
		}
		return offset
	}
	flip := func(offset int) func([]byte) []byte {
		return func(b []byte) []byte { b[offset] ^= 1; return b }
	}
	for _, test := range []struct {
		name          string
		damage        func([]byte) []byte
		want          []int
		corrupt, torn int // if it is the first of two segments, or the last
	}{
		{"a payload", flip(at(3) + 36), []int{1, 2, 4, 5}, at(4) - at(3), 0},
		{"a magic", flip(at(3)), []int{1, 2, 4, 5}, at(4) - at(3), 0},
		{"a length", flip(at(3) + 4), []int{1, 2, 4, 5}, at(4) - at(3), 0},
		{"a number of lines", flip(at(3) + 8), []int{1, 2, 4, 5}, at(4) - at(3), 0},
		{"a time", flip(at(3) + 16), []int{1, 2, 4, 5}, at(4) - at(3), 0},
		{"the first frame", flip(0), []int{2, 3, 4, 5}, at(2), 0},
		{"the last frame", flip(at(5) + 40), []int{1, 2, 3, 4}, at(6) - at(5), at(6) - at(5)},
		{"nothing but zeros", func(b []byte) []byte { return make([]byte, len(b)) }, nil, at(6), at(6)},
		{"a hole", func(b []byte) []byte { clear(b[at(2)+5 : at(4)+5]); return b }, []int{1, 5}, at(5) - at(2), 0},
		{"bytes too many in the middle", func(b []byte) []byte {
			return slices.Insert(b, at(3), []byte("\xffTG1 and so on")...)
		}, []int{1, 2}, at(6) - at(3) + 14, at(6) - at(3) + 14},
		{"bytes too many at the end", func(b []byte) []byte { return append(b, "\xffTG1"...) }, []int{1, 2, 3, 4, 5}, 4, 4},
		{"a torn header", func(b []byte) []byte { return b[:at(5)+20] }, []int{1, 2, 3, 4}, 20, 20},
		{"a torn payload", func(b []byte) []byte { return b[:at(5)+37] }, []int{1, 2, 3, 4}, 37, 37},
		{"an empty file", func(b []byte) []byte { return nil }, nil, 0, 0},
		{"a frame of another place", func(b []byte) []byte {
			return append(b, b[at(1):at(2)]...)
		}, []int{1, 2, 3, 4, 5}, at(2), at(2)},
	} {
		for _, last := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, last segment %v", test.name, last), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				appendFrames(t, open(t, dir, 0), 1, 5)
				b, err := os.ReadFile(segments(t, dir)[0])
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(segments(t, dir)[0], test.damage(b), 0o600))
				want, corrupt, torn := test.want, test.corrupt-test.torn, test.torn
				if !last {
					path := filepath.Join(dir, "00000000000000ff.log")
					require.NoError(t, os.WriteFile(path, encode(frame(6), 255, 0), 0o600))
					want, corrupt, torn = append(slices.Clone(want), 6), test.corrupt, 0
				}
				l := open(t, dir, 0)
				require.Equal(t, int64(corrupt), l.Stats().Corrupt)
				require.Equal(t, int64(torn), l.Stats().Torn)
				require.Equal(t, diskBytes(t, dir), l.Stats().Bytes)
				appendFrames(t, l, 7, 7)
				require.Equal(t, append(slices.Clone(want), 7), numbers(t, next(t, l, everything)))
				require.Equal(t, int64(corrupt), l.Stats().Corrupt, "reading counts nothing twice")
				require.Zero(t, l.Stats().Lost)

				l = open(t, dir, 0)
				if len(test.want) == 0 {
					corrupt = 0 // the file is gone
				}
				require.Equal(t, int64(corrupt), l.Stats().Corrupt)
				require.Zero(t, l.Stats().Torn, "it was cut off")
				b2 := next(t, l, everything)
				require.Equal(t, append(slices.Clone(want), 7), numbers(t, b2))
				require.NoError(t, l.Done(b2))
				require.NoError(t, l.Close())
				require.Empty(t, segments(t, dir))
			})
		}
	}
}

func TestDamageWhileTheLogIsOpenIsCountedAsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 1)
	appendFrames(t, l, 1, 6)
	files := segments(t, dir)
	b, err := os.ReadFile(files[1])
	require.NoError(t, err)
	b[len(b)-1] ^= 1
	require.NoError(t, os.WriteFile(files[1], b, 0o600))
	require.NoError(t, os.Remove(files[3]))
	require.NoError(t, os.Truncate(files[4], 40))
	got := next(t, l, everything)
	require.Equal(t, []int{1, 3, 6}, numbers(t, got))
	st := l.Stats()
	require.Equal(t, int64(2+4+5), st.Lost)
	require.Equal(t, int64(len(b)), st.Corrupt)
	require.Equal(t, int64(10), st.Lines)
	require.Zero(t, st.UnreadLines)
	require.NoError(t, l.Done(got))
	require.NoError(t, l.Close())
	require.Empty(t, segments(t, dir))
}

func TestADeletedFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 3)
	onItsWay := next(t, l, 1)
	require.NoError(t, os.RemoveAll(dir))
	_, err := l.Next(everything)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "5 lines are lost")
	require.Equal(t, int64(5), l.Stats().Lost)
	require.Nil(t, next(t, l, everything), "it says so once")
	require.NoError(t, l.Sync())
	require.NoError(t, l.Done(onItsWay))
	appendFrames(t, l, 4, 5)
	require.Equal(t, []int{4, 5}, numbers(t, next(t, l, everything)))
	require.Equal(t, int64(9), l.Stats().Lines)
	require.Equal(t, []int{4, 5}, numbers(t, next(t, open(t, dir, 0), everything)))

	require.NoError(t, os.RemoveAll(dir))
	appendFrames(t, l, 6, 6)
	require.Equal(t, []int{6}, numbers(t, next(t, l, everything)))
	require.NoError(t, os.RemoveAll(dir))
	_, _, err = l.DropOldest()
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func TestAFolderThatCantBeMade(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "log")
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 1)
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	require.ErrorContains(t, l.Append(frame(2)), dir)
	require.ErrorContains(t, l.Append(frame(2)), dir)
	_, err := segment.Open(dir, segment.Options{})
	require.ErrorContains(t, err, dir)
	require.NoError(t, os.Remove(dir))
	appendFrames(t, l, 3, 3)
	require.Equal(t, []int{3}, numbers(t, next(t, l, everything)))
	require.Equal(t, int64(1), l.Stats().Lost)
}

// A batch whose position could not be written is given out by the next call.
func TestAPositionThatCantBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 2)
	path := filepath.Join(dir, "position")
	block := func() {
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700))
	}
	block()
	for range 2 {
		_, err := l.Next(1)
		require.ErrorContains(t, err, path)
	}
	require.Equal(t, int64(3), l.Stats().Lines)
	_, err := segment.Open(dir, segment.Options{})
	require.ErrorContains(t, err, path+" is not a regular file: delete it")
	require.NoError(t, os.Remove(path))
	b := next(t, l, everything)
	require.Equal(t, []int{1}, numbers(t, b))
	block()
	require.ErrorContains(t, l.Done(b), path)
	require.NoError(t, os.Remove(path))
	require.Equal(t, []int{2}, numbers(t, next(t, l, everything)))
	require.Equal(t, []int{2}, numbers(t, next(t, open(t, dir, 0), everything)), "Done was made up for")
}

func TestPositions(t *testing.T) {
	t.Parallel()
	end := func(n int) uint64 { return uint64(36 + len(frame(n).Payload)) }
	for _, test := range []struct {
		name     string
		position func(valid []byte) []byte // nil: no file
		want     []int
		resent   int64
	}{
		{"as it was left", func(b []byte) []byte { return b }, []int{2, 3, 4}, 2},
		{"deleted", nil, []int{1, 2, 3, 4}, 10},
		{"empty", func([]byte) []byte { return []byte{} }, []int{1, 2, 3, 4}, 10},
		{"zeros", func([]byte) []byte { return make([]byte, 5000) }, []int{1, 2, 3, 4}, 10},
		{"cut off", func(b []byte) []byte { return b[:47] }, []int{1, 2, 3, 4}, 10},
		{"the newer slot torn", func(b []byte) []byte { return tearNewest(b) }, []int{1, 2, 3, 4}, 3},
		{"behind the files", func([]byte) []byte { return slot(1, 0, 0, 0, 0) }, []int{1, 2, 3, 4}, 0},
		{"ahead of the files", func([]byte) []byte { return slot(1, 99, 0, 99, 0) }, nil, 0},
		{"at the end of a file", func([]byte) []byte { return slot(1, 2, end(2), 3, end(3)) }, []int{3, 4}, 3},
		{"beyond the end of a file", func([]byte) []byte { return slot(1, 2, 1<<40, 3, 1<<40) }, []int{3, 4}, 3},
		{"in the middle of a frame", func([]byte) []byte { return slot(1, 2, 5, 2, 6) }, []int{3, 4}, 0},
		{"issued before acknowledged", func([]byte) []byte { return slot(1, 3, 0, 2, 0) }, []int{3, 4}, 0},
		{"numbers too large", func([]byte) []byte { return slot(1, 1<<63, 0, 1<<63, 0) }, []int{1, 2, 3, 4}, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := open(t, dir, 1)
			appendFrames(t, l, 1, 4)
			before := make(map[string][]byte)
			for _, path := range segments(t, dir) {
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				before[path] = b
			}
			first := next(t, l, 1)
			next(t, l, 1)
			require.NoError(t, l.Done(first))
			for path, b := range before {
				require.NoError(t, os.WriteFile(path, b, 0o600))
			}
			path := filepath.Join(dir, "position")
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Remove(path))
			if test.position != nil {
				require.NoError(t, os.WriteFile(path, test.position(b), 0o600))
			}

			l = open(t, dir, 1)
			require.Equal(t, test.resent, l.Stats().Resent)
			require.Equal(t, test.want, numbers(t, next(t, l, everything)))
			appendFrames(t, l, 5, 5)
			l = open(t, dir, 1)
			require.Equal(t, append(slices.Clone(test.want), 5), numbers(t, next(t, l, everything)), "a new frame is never before the position")
		})
	}
}

// A position that was written late must not hide frames in a segment whose end a
// power failure took.
func TestAFileThatLostItsEndIsNotAppendedTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 4)
	require.NoError(t, l.Done(next(t, l, everything)))
	for _, size := range []int64{100, 0} {
		require.NoError(t, os.Truncate(filepath.Join(dir, "0000000000000001.log"), size))
		l = open(t, dir, 0)
		appendFrames(t, l, 5, 5)
		b := next(t, l, everything)
		require.Equal(t, []int{5}, numbers(t, b))
		require.NoError(t, l.Done(b))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "0000000000000001.log"), make([]byte, 200), 0o600))
	}
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names := []string{"1.log", "000000000000000A.log", "ffffffffffffffff.log", "0000000000000001.log2", "readme", "quarantine.jsonl"}
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "0000000000000001.log"), 0o700))
	l := open(t, dir, 1)
	require.Zero(t, l.Stats())
	appendFrames(t, l, 1, 3)
	require.NoError(t, l.Done(next(t, l, everything)))
	require.NoError(t, l.Close())
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, name, string(b))
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 1)
	require.NoError(t, l.Sync())
	for path, mode := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "position"): 0o600, segments(t, dir)[0]: 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
}

func TestSyncTriesAgainWhatItCouldNotForce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"0000000000000001.log", "position"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := open(t, dir, 0)
			require.NoError(t, l.Sync())
			appendFrames(t, l, 1, 1)
			next(t, l, 1) // writes the position
			path := filepath.Join(dir, name)
			require.NoError(t, os.Rename(path, path+".aside"))
			require.NoError(t, os.Symlink(path, path)) // can't be opened
			for range 2 {
				require.ErrorContains(t, l.Sync(), path)
			}
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Rename(path+".aside", path))
			require.NoError(t, l.Sync())
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink(path, path))
			require.NoError(t, l.Sync(), "there is nothing new")
		})
	}
}

// encode writes a frame as the manual of the format says.
func encode(f segment.Frame, number, offset uint64) []byte {
	b := []byte("\xffTG1")
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Payload)))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Lines))
	b = binary.LittleEndian.AppendUint32(b, checksum(f.Payload))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Oldest))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Newest))
	place := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, number), offset)
	b = binary.LittleEndian.AppendUint32(b, checksum(append(place, b...)))
	return append(b, f.Payload...)
}

// slot writes a slot of the position file as the manual says.
func slot(numbers ...uint64) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return append(binary.LittleEndian.AppendUint32([]byte("\xffTP1"), checksum(b)), b...)
}

func tearNewest(b []byte) []byte {
	newest := 0
	if binary.LittleEndian.Uint64(b[4096+8:]) > binary.LittleEndian.Uint64(b[8:]) {
		newest = 4096
	}
	b[newest+20] ^= 1
	return b
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func TestTheFormatIsThatOfTheManual(t *testing.T) {
	t.Parallel()
	require.Equal(t, "ff5447310200000003000000c2d99df50100000000000000feffffffffffffff73ae387b6869",
		hex.EncodeToString(encode(segment.Frame{Lines: 3, Oldest: 1, Newest: -2, Payload: []byte("hi")}, 7, 40)), "the test's own encoder")
	dir := t.TempDir()
	l := open(t, dir, 0)
	appendFrames(t, l, 1, 3)
	var want []byte
	for n := 1; n <= 3; n++ {
		want = append(want, encode(frame(n), 1, uint64(len(want)))...)
	}
	got, err := os.ReadFile(filepath.Join(dir, "0000000000000001.log"))
	require.NoError(t, err)
	require.Equal(t, want, got)

	read := next(t, l, 1)
	next(t, l, 1)
	require.NoError(t, l.Done(read))
	got, err = os.ReadFile(filepath.Join(dir, "position"))
	require.NoError(t, err)
	second, third := uint64(36+len(frame(1).Payload)), uint64(2*36+len(frame(1).Payload)+len(frame(2).Payload))
	// Two slots at Open, two Next, one Done.
	require.Equal(t, slot(4, 0, 0, 1, third), got[:48])
	require.Equal(t, slot(5, 1, second, 1, third), got[4096:])
	require.Equal(t, make([]byte, 4096-48), got[48:4096])
}

func TestAllMethodsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, 2000)
	const total = 2000
	stop := make(chan struct{})
	var work, background sync.WaitGroup
	var dropped int64
	background.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = l.Sync()
				if st := l.Stats(); st.Bytes > 100_000 {
					lines, _, _ := l.DropOldest()
					dropped += lines
				}
			}
		}
	})
	work.Go(func() {
		for n := 1; n <= total; n++ {
			if err := l.Append(frame(n % 50)); err != nil {
				panic(err)
			}
		}
	})
	var sent int64
	var last int64
	work.Go(func() {
		var done sync.WaitGroup
		defer done.Wait()
		for deadline := time.After(20 * time.Second); ; {
			b, err := l.Next(3000)
			if err != nil {
				panic(err)
			}
			if b == nil {
				select {
				case <-l.Changed():
					continue
				case <-time.After(300 * time.Millisecond):
					return
				case <-deadline:
					panic("no end")
				}
			}
			sent += b.Lines()
			last = b.Frames[len(b.Frames)-1].Newest
			done.Go(func() {
				if err := l.Done(b); err != nil {
					panic(err)
				}
			})
		}
	})
	work.Wait()
	close(stop)
	background.Wait()
	var want int64
	for n := 1; n <= total; n++ {
		want += int64(n % 50)
	}
	require.Equal(t, want, sent+dropped, "%d were dropped", dropped)
	require.NotZero(t, last)
	require.Zero(t, l.Stats().Lines)
	require.Zero(t, l.Stats().Corrupt+l.Stats().Lost)
	require.NoError(t, l.Close())
	require.Empty(t, segments(t, dir))
}

func TestAppendDoesNotKeepThePayload(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), 0)
	f := frame(3)
	f.Payload = bytes.Clone(f.Payload)
	require.NoError(t, l.Append(f))
	clear(f.Payload)
	require.Equal(t, []int{3}, numbers(t, next(t, l, everything)))
}
