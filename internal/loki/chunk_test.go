package loki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// chunk returns the payload of a chunk with a stream of two lines and one of one.
func chunk() (payload []byte, first, second []byte) {
	first = appendEntry(appendEntry(nil, 1, []byte("one"), nil), 2, []byte("two"), []metadatum{{"k", []byte("v")}})
	second = appendEntry(nil, 3, nil, nil)
	payload = appendChunkHead(nil, 2)
	payload = append(appendStreamHead(payload, `{a="b"}`, 2, len(first)), first...)
	return append(appendStreamHead(payload, `{c="d"}`, 1, len(second)), second...), first, second
}

func TestReadChunk(t *testing.T) {
	t.Parallel()
	payload, first, second := chunk()
	var got []stream
	require.NoError(t, readChunk(payload, func(labels string, lines int, entries []byte) error {
		got = append(got, stream{labels, lines, [][]byte{entries}})
		return nil
	}))
	require.Equal(t, []stream{{`{a="b"}`, 2, [][]byte{first}}, {`{c="d"}`, 1, [][]byte{second}}}, got)
}

func TestReadChunkEndsWithTheErrorOfYield(t *testing.T) {
	t.Parallel()
	payload, _, _ := chunk()
	full, calls := errors.New("full"), 0
	err := readChunk(payload, func(string, int, []byte) error { calls++; return full })
	require.ErrorIs(t, err, full)
	require.Equal(t, 1, calls)
}

func TestMalformedChunks(t *testing.T) {
	t.Parallel()
	payload, first, _ := chunk()
	stream := func(lines, size int, entries []byte) []byte {
		return append(appendStreamHead(appendChunkHead(nil, 1), "{}", lines, size), entries...)
	}
	cases := map[string][]byte{
		"nothing":                nil,
		"a byte too many":        append(bytes.Clone(payload), 0),
		"a line fewer than said": stream(3, len(first), first),
		"a line more than said":  stream(1, len(first), first),
		"lines, and none said":   stream(0, len(first), first),
		"no entries":             stream(0, 3, []byte("abc")),
		"half an entry":          stream(2, len(first)-1, first[:len(first)-1]),
		"more than there is":     stream(2, len(first)+1, first),
		"a length beyond all":    binary.AppendUvarint([]byte{1}, math.MaxUint64),
		"a number without end":   bytes.Repeat([]byte{0xff}, 11),
		"streams without end":    binary.AppendUvarint(nil, math.MaxUint64),
	}
	for name, payload := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.ErrorIs(t, readChunk(payload, func(string, int, []byte) error { return nil }), errChunk)
		})
	}
	for n := range payload {
		require.ErrorIs(t, readChunk(payload[:n], func(string, int, []byte) error { return nil }), errChunk, "the first %d bytes", n)
	}
}

func TestNextEntry(t *testing.T) {
	t.Parallel()
	a, b := appendEntry(nil, 1, []byte("one"), nil), appendEntry(nil, 2, nil, nil)
	entry, rest, ok := nextEntry(append(bytes.Clone(a), b...))
	require.True(t, ok)
	require.Equal(t, a, entry)
	require.Equal(t, b, rest)
	entry, rest, ok = nextEntry(rest)
	require.True(t, ok)
	require.Equal(t, b, entry)
	require.Empty(t, rest)
	for _, none := range [][]byte{nil, {tagLine}, {tagLabels, 0}, {tagEntry}, {tagEntry, 2, 0}} {
		_, rest, ok = nextEntry(none)
		require.False(t, ok)
		require.Equal(t, none, rest)
	}
}

func TestEntryTimes(t *testing.T) {
	t.Parallel()
	for _, ns := range []int64{0, 1, 999_999_999, 1e9, 1_795_000_000_123_456_789, math.MaxInt64, -1, -1e9, -1_500_000_000, math.MinInt64} {
		_, message, ok := nextEntryMessage(appendEntry(nil, ns, []byte("x"), nil))
		require.True(t, ok)
		require.Equal(t, pushedEntry{ns: ns, line: "x"}, decodeEntry(t, message))
	}
}

// nextEntryMessage returns an entry without its tag and length.
func nextEntryMessage(entries []byte) (rest, message []byte, ok bool) {
	entry, rest, ok := nextEntry(entries)
	if !ok {
		return rest, nil, false
	}
	message, _, ok = cutBytes(entry[1:])
	return rest, message, ok
}

func TestPushOfNothing(t *testing.T) {
	t.Parallel()
	require.Empty(t, appendPush(nil, nil))
	require.Equal(t, []byte("x"), appendPush([]byte("x"), nil))
}

func FuzzReadChunk(f *testing.F) {
	payload, _, _ := chunk()
	f.Add(payload)
	f.Add(appendChunkHead(nil, 0))
	f.Add(payload[:len(payload)-1])
	f.Fuzz(func(t *testing.T, payload []byte) {
		again := []byte{}
		streams := 0
		err := readChunk(payload, func(labels string, lines int, entries []byte) error {
			require.Len(t, splitEntries(t, entries), lines)
			streams++
			again = append(appendStreamHead(again, labels, lines, len(entries)), entries...)
			return nil
		})
		if err != nil {
			require.ErrorIs(t, err, errChunk)
			return
		}
		// Numbers can be written in more than one way: ours is the shortest.
		require.LessOrEqual(t, len(appendChunkHead(nil, streams))+len(again), len(payload))
	})
}
