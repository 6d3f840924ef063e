package segment_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzSegment reads segments of arbitrary bytes. So that the fuzzer gets past the
// checksums, seal makes that of each header right for its place.
func FuzzSegment(f *testing.F) {
	var good []byte
	for n := 1; n <= 4; n++ {
		good = append(good, encode(frame(n), 1, uint64(len(good)))...)
	}
	f.Add(good, []byte{}, false)
	f.Add(good[:len(good)-3], good, true)
	f.Add(bytes.Repeat([]byte("\xffTG1"), 500), good[36:], true)
	f.Add(bytes.Repeat([]byte("\xffTG1\x00\x01\x00\x00"), 500), []byte("\xffTG1\xff\xff\xff\xff"), true)
	f.Add(bytes.Repeat(make([]byte, 36), 10), make([]byte, 35), true)
	f.Fuzz(func(t *testing.T, first, second []byte, sealed bool) {
		if sealed {
			first, second = seal(first, 1), seal(second, 2)
		}
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "0000000000000001.log"), first, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "0000000000000002.log"), second, 0o600))
		size := int64(len(first) + len(second))

		allocated := allocations()
		l := open(t, dir, 0)
		st := l.Stats()
		var frames, payload, lines int64
		for {
			b := next(t, l, 100)
			if b == nil {
				break
			}
			for _, f := range b.Frames {
				frames, payload, lines = frames+1, payload+int64(len(f.Payload)), lines+int64(f.Lines)
			}
		}
		require.Less(t, allocations()-allocated, uint64(1<<20+500*size))
		require.Equal(t, size, 36*frames+payload+st.Corrupt+st.Torn, "each byte is in a frame or counted")
		require.Equal(t, st.UnreadLines, lines)
		require.Equal(t, st.UnreadBytes, payload)
		require.Equal(t, lines, l.Stats().Lines)
		require.Equal(t, st.Corrupt, l.Stats().Corrupt)
		require.Zero(t, l.Stats().Lost)

		l = open(t, dir, 0)
		require.Equal(t, lines, l.Stats().Resent)
		require.Equal(t, lines, l.Stats().Lines)
	})
}

// FuzzPosition reads position files of arbitrary bytes, with right checksums if
// sealed, over four segments of a frame each.
func FuzzPosition(f *testing.F) {
	f.Add(slot(4, 1, 0, 3, 0), slot(5, 2, 0, 3, 0), false)
	f.Add(slot(4, 1, 0, 3, 0), slot(3, 2, 0, 3, 0)[:47], false)
	f.Add(slot(0, 3, 0, 1, 0), []byte{}, true)
	f.Add(slot(1<<62, 1<<62, 1<<62, 1<<62, 1<<62), slot(1<<63, 1<<63, 1<<63, 1<<63, 1<<63), true)
	f.Fuzz(func(t *testing.T, first, second []byte, sealed bool) {
		if sealed {
			first, second = sealSlot(first), sealSlot(second)
		}
		dir := t.TempDir()
		appendFrames(t, open(t, dir, 1), 1, 4)
		b := make([]byte, 4096+len(second))
		copy(b, first)
		copy(b[4096:], second)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "position"), b, 0o600))

		l := open(t, dir, 1)
		st := l.Stats()
		ns := numbers(t, next(t, l, everything))
		var lines int64
		for i, n := range ns {
			lines += int64(n)
			require.Equal(t, 4-len(ns)+1+i, n, "the last ones, in order")
		}
		require.Equal(t, lines, st.Lines)
		require.LessOrEqual(t, st.Resent, lines)
		require.Zero(t, st.Corrupt+st.Torn)
		require.Equal(t, ns, numbers(t, next(t, open(t, dir, 1), everything)), "none was acknowledged by that")
	})
}

func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// seal makes the checksums of all headers in a segment right.
func seal(b []byte, number uint64) []byte {
	b = bytes.Clone(b)
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], []byte("\xffTG1"))
		if at += i; i < 0 || at+36 > len(b) {
			return b
		}
		if length := binary.LittleEndian.Uint32(b[at+4:]); uint64(length) <= uint64(len(b)-at-36) && b[at+12] != 0 {
			binary.LittleEndian.PutUint32(b[at+12:], checksum(b[at+36:at+36+int(length)]))
		}
		place := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, number), uint64(at))
		binary.LittleEndian.PutUint32(b[at+32:], checksum(append(place, b[at:at+32]...)))
	}
}

func sealSlot(b []byte) []byte {
	if len(b) < 48 {
		return b
	}
	b = append([]byte("\xffTP1\x00\x00\x00\x00"), b[8:]...)
	binary.LittleEndian.PutUint32(b[4:], checksum(b[8:48]))
	return b
}
