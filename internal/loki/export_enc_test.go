package loki

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

// pushedChunk, pushedStream and pushedEntry are what the encoder made, as read by
// code of its own.
type pushedChunk struct {
	tenant         string
	oldest, newest int64
	streams        []pushedStream
}

type pushedStream struct {
	labels  string
	entries []pushedEntry
}

type pushedEntry struct {
	ns       int64
	line     string
	metadata []string // names and values in turns
}

func (c pushedChunk) lines() (n int) {
	for _, s := range c.streams {
		n += len(s.entries)
	}
	return n
}

// encode returns what lines become, the first with the time 1 ns.
func encode(t *testing.T, s Settings, lines ...string) []pushedChunk {
	t.Helper()
	e := newEncoder(1 << 20)
	e.apply(s)
	for i, line := range lines {
		e.add(int64(i+1), []byte(line))
	}
	return flushed(t, e)
}

// flushed empties an encoder, and sends its chunks the whole way to a push request
// and back.
func flushed(t testing.TB, e *encoder) []pushedChunk {
	t.Helper()
	var chunks []pushedChunk
	err := e.flush(func(tenant string, f segment.Frame) error {
		chunks = append(chunks, readFrame(t, tenant, f))
		return nil
	})
	require.NoError(t, err)
	return chunks
}

func readFrame(t testing.TB, tenant string, f segment.Frame) pushedChunk {
	t.Helper()
	var streams []stream
	lines := 0
	require.NoError(t, readChunk(f.Payload, func(labels string, n int, entries []byte) error {
		streams = append(streams, stream{labels: labels, lines: n, entries: splitEntries(t, entries)})
		lines += n
		return nil
	}))
	require.Equal(t, f.Lines, lines)
	c := pushedChunk{tenant: tenant, oldest: f.Oldest, newest: f.Newest, streams: decodePush(t, appendPush(nil, streams))}
	require.Equal(t, f.Lines, c.lines())
	return c
}

// splitEntries cuts entries into single ones.
func splitEntries(t testing.TB, entries []byte) (single [][]byte) {
	t.Helper()
	for {
		entry, rest, ok := nextEntry(entries)
		if !ok {
			require.Empty(t, rest)
			return single
		}
		single, entries = append(single, entry), rest
	}
}

// eachField calls f for each field of a protobuf message.
func eachField(t testing.TB, message []byte, f func(field, number uint64, text []byte)) {
	t.Helper()
	uvarint := func() uint64 {
		n, size := binary.Uvarint(message)
		require.Positive(t, size)
		message = message[size:]
		return n
	}
	for len(message) > 0 {
		tag, number := uvarint(), uvarint()
		var text []byte
		if kind := tag & 7; kind != 0 {
			require.EqualValues(t, 2, kind)
			require.LessOrEqual(t, number, uint64(len(message)))
			text, message = message[:number], message[number:]
		}
		f(tag>>3, number, text)
	}
}

func decodePush(t testing.TB, request []byte) (streams []pushedStream) {
	t.Helper()
	eachField(t, request, func(field, _ uint64, text []byte) {
		require.EqualValues(t, 1, field)
		var s pushedStream
		eachField(t, text, func(field, _ uint64, text []byte) {
			if field == 1 {
				s.labels = string(text)
				return
			}
			require.EqualValues(t, 2, field)
			s.entries = append(s.entries, decodeEntry(t, text))
		})
		streams = append(streams, s)
	})
	return streams
}

func decodeEntry(t testing.TB, message []byte) (e pushedEntry) {
	t.Helper()
	eachField(t, message, func(field, _ uint64, text []byte) {
		switch field {
		case 1:
			eachField(t, text, func(field, number uint64, _ []byte) {
				if field == 2 {
					require.Less(t, number, uint64(time.Second))
				}
				e.ns += map[uint64]int64{1: int64(time.Second), 2: 1}[field] * int64(number)
			})
		case 2:
			e.line = string(text)
		case 3:
			eachField(t, text, func(_, _ uint64, text []byte) { e.metadata = append(e.metadata, string(text)) })
		default:
			t.Fatalf("field %d of an entry", field)
		}
	})
	return e
}
