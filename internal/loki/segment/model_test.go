package segment_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

const modelSegmentBytes = 400

// modelFrame is a frame that is not acknowledged, or damaged and not skipped yet.
type modelFrame struct {
	segment.Frame
	segment      int
	offset, size int64
	given        bool // by this process or an earlier one
	damaged      bool
	// readable says that the header of a damaged frame is good: whether it fits into
	// a batch is decided before its payload is read.
	readable bool
}

// modelBatch is what a Next passed: frames it gave, and damaged ones.
type modelBatch struct {
	frames []*modelFrame
	batch  *segment.Batch
	done   bool
}

// model is a log in memory. waiting are all frames from the acknowledged place on;
// unread are the last of them.
type model struct {
	dir             string
	log             *segment.Log
	waiting, unread []*modelFrame
	pending         []*modelBatch
	files           []int
	active          int // 0: none
	activeSize      int64
	last            int
	appended        int
}

func (m *model) inFile(file int) func(*modelFrame) bool {
	return func(f *modelFrame) bool { return f.segment == file }
}

// trim forgets the files at the front of which nothing waits.
func (m *model) trim(least int64) {
	for len(m.files) > 0 && !slices.ContainsFunc(m.waiting, m.inFile(m.files[0])) {
		if m.files[0] == m.active {
			if m.activeSize < least {
				return
			}
			m.active = 0
		}
		m.files = m.files[1:]
	}
}

func (m *model) append(t *rapid.T) {
	m.appended++
	payload := rapid.SliceOfN(rapid.Byte(), 0, 150).Draw(t, "payload")
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0: // what looks like a frame of another place
		payload = encode(segment.Frame{Lines: 1, Payload: payload}, 1<<40, uint64(m.activeSize))
	case 1: // large enough to be a file that is worth deleting
		payload = bytes.Repeat([]byte{1}, 65<<10)
	}
	f := &modelFrame{
		Frame: segment.Frame{Lines: rapid.IntRange(0, 9).Draw(t, "lines"), Oldest: int64(2 * m.appended), Newest: int64(2*m.appended + 1), Payload: payload},
		size:  36 + int64(len(payload)),
	}
	require.NoError(t, m.log.Append(f.Frame))
	if m.active == 0 || m.activeSize+f.size > modelSegmentBytes {
		m.last++
		m.active, m.activeSize = m.last, 0
		m.files = append(m.files, m.last)
	}
	f.segment, f.offset = m.active, m.activeSize
	m.activeSize += f.size
	m.waiting, m.unread = append(m.waiting, f), append(m.unread, f)
}

func (m *model) next(t *rapid.T) {
	maxBytes := rapid.IntRange(0, 500).Draw(t, "maxBytes")
	b, err := m.log.Next(maxBytes)
	require.NoError(t, err)
	passed := &modelBatch{batch: b}
	var want []segment.Frame
	room := maxBytes
	for _, f := range m.unread {
		if len(want) > 0 && len(f.Payload) > room && (!f.damaged || f.readable) {
			break
		}
		if !f.damaged {
			room -= len(f.Payload)
			want = append(want, f.Frame)
			f.given = true
		}
		passed.frames = append(passed.frames, f)
	}
	if len(want) == 0 {
		require.Nil(t, b)
		return
	}
	require.NotNil(t, b)
	require.Len(t, b.Frames, len(want))
	for i, f := range b.Frames {
		require.Equal(t, want[i].Lines, f.Lines)
		require.Equal(t, want[i].Oldest, f.Oldest)
		require.Equal(t, want[i].Newest, f.Newest)
		require.True(t, bytes.Equal(want[i].Payload, f.Payload))
	}
	m.unread = m.unread[len(passed.frames):]
	m.pending = append(m.pending, passed)
}

func (m *model) done(t *rapid.T) {
	if len(m.pending) == 0 {
		t.Skip("nothing is given out")
	}
	b := rapid.SampledFrom(m.pending).Draw(t, "batch")
	require.NoError(t, m.log.Done(b.batch))
	b.done = true
	for len(m.pending) > 0 && m.pending[0].done {
		m.waiting = slices.DeleteFunc(m.waiting, func(f *modelFrame) bool { return slices.Contains(m.pending[0].frames, f) })
		m.pending = m.pending[1:]
	}
	m.trim(64 << 10)
}

func (m *model) dropOldest(t *rapid.T) {
	before := diskBytes(t, m.dir)
	lines, size, err := m.log.DropOldest()
	require.NoError(t, err)
	require.Equal(t, before-size, diskBytes(t, m.dir))
	i := slices.IndexFunc(m.files, func(file int) bool {
		return !slices.ContainsFunc(m.pending, func(b *modelBatch) bool {
			return !b.done && slices.ContainsFunc(b.frames, func(f *modelFrame) bool { return !f.damaged && f.segment == file })
		})
	})
	if i < 0 {
		require.Zero(t, size)
		require.Zero(t, lines)
		return
	}
	file := m.files[i]
	m.files = slices.Delete(m.files, i, i+1)
	if m.active == file {
		m.active = 0
	}
	var want int64
	for _, f := range m.unread {
		if f.segment == file && !f.damaged {
			want += int64(f.Lines)
		}
	}
	require.Equal(t, want, lines)
	m.waiting = slices.DeleteFunc(m.waiting, m.inFile(file))
	m.unread = slices.DeleteFunc(slices.Clone(m.unread), m.inFile(file))
}

// reopen opens the log anew: after Close, or as after a kill.
func (m *model) reopen(t *rapid.T) {
	if rapid.Bool().Draw(t, "close") {
		require.NoError(t, m.log.Close())
	}
	m.open(t)
}

func (m *model) open(t *rapid.T) {
	var err error
	m.log, err = segment.Open(m.dir, segment.Options{SegmentBytes: modelSegmentBytes})
	require.NoError(t, err)
	m.pending, m.active = nil, 0
	// The damaged end of the last file is cut off, files without a good frame are gone.
	for n := len(m.waiting); n > 0 && m.waiting[n-1].damaged && m.waiting[n-1].segment == m.files[len(m.files)-1]; n-- {
		m.waiting = m.waiting[:n-1]
	}
	m.files = slices.DeleteFunc(m.files, func(file int) bool {
		return !slices.ContainsFunc(m.waiting, func(f *modelFrame) bool { return !f.damaged && f.segment == file })
	})
	m.waiting = slices.DeleteFunc(m.waiting, func(f *modelFrame) bool { return !slices.Contains(m.files, f.segment) })
	m.unread = slices.Clone(m.waiting)
	var resent int64
	for _, f := range m.waiting {
		if f.given && !f.damaged {
			resent += int64(f.Lines)
		}
	}
	require.Equal(t, resent, m.log.Stats().Resent)
}

// damage flips a byte of a segment, or cuts off the end of the last one, while no
// process has the log open. The frames it hits are lost, and no others.
func (m *model) damage(t *rapid.T) {
	if len(m.files) == 0 {
		t.Skip("there is no file")
	}
	cut := rapid.Bool().Draw(t, "cut")
	last := m.files[len(m.files)-1]
	file := last
	if !cut {
		file = rapid.SampledFrom(m.files).Draw(t, "file")
	}
	path := segments(t, m.dir)[slices.Index(m.files, file)]
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	if len(b) == 0 {
		t.Skip("the file is empty")
	}
	at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
	for _, f := range m.waiting {
		if f.segment == file && f.damaged && int64(at) >= f.offset && int64(at) < f.offset+f.size {
			t.Skip("two wrongs could make a right")
		}
	}
	if cut {
		b = b[:at]
	} else {
		b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
	}
	require.NoError(t, os.WriteFile(path, b, 0o600))
	var corrupt int64
	for _, f := range m.waiting {
		end := f.offset + f.size
		if f.segment == file && int64(at) < end && (cut || int64(at) >= f.offset) {
			f.damaged, f.readable = true, !cut && int64(at) >= f.offset+36
			corrupt += f.size
		}
	}
	var all int64
	for _, f := range m.waiting {
		if f.damaged {
			all += f.size
		}
	}
	m.open(t)
	if file != last && !cut {
		require.GreaterOrEqual(t, m.log.Stats().Corrupt, corrupt)
	}
	require.LessOrEqual(t, m.log.Stats().Corrupt, all)
}

// losePosition damages a slot of the position file. Nothing that waits is lost, and
// what comes back in addition was acknowledged late.
func (m *model) losePosition(t *rapid.T) {
	path := filepath.Join(m.dir, "position")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	offset := rapid.SampledFrom([]int{0, 4096}).Draw(t, "slot") + rapid.IntRange(0, 47).Draw(t, "byte")
	b[offset] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
	require.NoError(t, os.WriteFile(path, b, 0o600))
	m.log, err = segment.Open(m.dir, segment.Options{SegmentBytes: modelSegmentBytes})
	require.NoError(t, err)
	batch, err := m.log.Next(everything)
	require.NoError(t, err)
	var got, want []int64
	if batch != nil {
		for _, f := range batch.Frames {
			got = append(got, f.Oldest)
		}
		require.NoError(t, m.log.Done(batch))
	}
	for _, f := range m.waiting {
		if !f.damaged {
			want = append(want, f.Oldest)
		}
	}
	require.True(t, slices.IsSorted(got))
	require.GreaterOrEqual(t, len(got), len(want))
	require.Equal(t, want, append([]int64(nil), got[len(got)-len(want):]...))
	require.NoError(t, m.log.Close())
	m.waiting, m.files = nil, nil
	m.open(t)
}

func (m *model) check(t *rapid.T) {
	st := m.log.Stats()
	var lines, unreadLines, unreadBytes, oldest int64
	for _, b := range m.pending {
		for _, f := range b.frames {
			if !b.done && !f.damaged {
				lines += int64(f.Lines)
				if oldest == 0 {
					oldest = f.Oldest
				}
			}
		}
	}
	for _, f := range m.unread {
		if !f.damaged {
			unreadLines, unreadBytes = unreadLines+int64(f.Lines), unreadBytes+int64(len(f.Payload))
			if oldest == 0 {
				oldest = f.Oldest
			}
		}
	}
	require.Equal(t, lines+unreadLines, st.Lines)
	require.Equal(t, unreadLines, st.UnreadLines)
	require.Equal(t, unreadBytes, st.UnreadBytes)
	if !slices.ContainsFunc(m.unread, func(f *modelFrame) bool { return f.readable && f.Oldest == st.Oldest }) {
		require.Equal(t, oldest, st.Oldest)
	}
	require.Equal(t, diskBytes(t, m.dir), st.Bytes)
	require.Len(t, segments(t, m.dir), len(m.files))
	require.Zero(t, st.Lost)
}

func TestTheLogDoesWhatAListInMemoryDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "segment-model")
		require.NoError(t, err)
		defer func() { require.NoError(t, os.RemoveAll(dir)) }()
		m := &model{dir: dir}
		m.open(t)
		t.Repeat(map[string]func(*rapid.T){
			"":             m.check,
			"append":       m.append,
			"append more":  m.append,
			"next":         m.next,
			"done":         m.done,
			"dropOldest":   m.dropOldest,
			"sync":         func(t *rapid.T) { require.NoError(t, m.log.Sync()) },
			"reopen":       m.reopen,
			"damage":       m.damage,
			"losePosition": m.losePosition,
		})
	})
}
