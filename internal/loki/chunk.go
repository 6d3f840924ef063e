package loki

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// Tags of Loki's protobuf: pkg/push/push.proto.
const (
	tagStream = 1<<3 | 2 // PushRequest.streams

	tagLabels = 1<<3 | 2 // StreamAdapter.labels
	tagEntry  = 2<<3 | 2 // StreamAdapter.entries

	tagTimestamp = 1<<3 | 2 // EntryAdapter.timestamp
	tagLine      = 2<<3 | 2 // EntryAdapter.line
	tagMetadata  = 3<<3 | 2 // EntryAdapter.structuredMetadata

	tagSeconds = 1 << 3 // Timestamp.seconds
	tagNanos   = 2 << 3 // Timestamp.nanos

	tagName  = 1<<3 | 2 // LabelPairAdapter.name
	tagValue = 2<<3 | 2 // LabelPairAdapter.value
)

// metadatum is one piece of structured metadata. Neither text is empty.
type metadatum struct {
	name  string
	value []byte
}

// size returns the bytes of its protobuf without tag and length.
func (m metadatum) size() int { return sizeOf(len(m.name)) + sizeOf(len(m.value)) }

// sizeOf returns the bytes of a field of n bytes with its tag and length.
func sizeOf(n int) int { return 1 + uvarintLen(uint64(n)) + n }

func uvarintLen(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }

// appendHead appends the tag and the length of a field of n bytes.
func appendHead(dst []byte, tag byte, n int) []byte {
	return binary.AppendUvarint(append(dst, tag), uint64(n))
}

// appendEntry appends one entry of a stream, with its tag and length.
func appendEntry(dst []byte, ns int64, line []byte, metadata []metadatum) []byte {
	seconds, nanos := ns/1e9, ns%1e9
	if nanos < 0 {
		seconds, nanos = seconds-1, nanos+1e9
	}
	timestamp := 0
	if seconds != 0 {
		timestamp += 1 + uvarintLen(uint64(seconds))
	}
	if nanos != 0 {
		timestamp += 1 + uvarintLen(uint64(nanos))
	}
	size := sizeOf(timestamp)
	if len(line) > 0 {
		size += sizeOf(len(line))
	}
	for i := range metadata {
		size += sizeOf(metadata[i].size())
	}

	dst = appendHead(dst, tagEntry, size)
	dst = appendHead(dst, tagTimestamp, timestamp)
	if seconds != 0 {
		dst = binary.AppendUvarint(append(dst, tagSeconds), uint64(seconds))
	}
	if nanos != 0 {
		dst = binary.AppendUvarint(append(dst, tagNanos), uint64(nanos))
	}
	if len(line) > 0 {
		dst = append(appendHead(dst, tagLine, len(line)), line...)
	}
	for i := range metadata {
		m := &metadata[i]
		dst = appendHead(dst, tagMetadata, m.size())
		dst = append(appendHead(dst, tagName, len(m.name)), m.name...)
		dst = append(appendHead(dst, tagValue, len(m.value)), m.value...)
	}
	return dst
}

// stream is one stream of a push request: its labels as Loki writes them, and its
// entries, which are concatenated on the wire.
type stream struct {
	labels  string
	lines   int
	entries [][]byte
}

// appendPush appends a logproto.PushRequest to dst.
func appendPush(dst []byte, streams []stream) []byte {
	for i := range streams {
		s := &streams[i]
		size := sizeOf(len(s.labels))
		for _, e := range s.entries {
			size += len(e)
		}
		dst = appendHead(dst, tagStream, size)
		dst = append(appendHead(dst, tagLabels, len(s.labels)), s.labels...)
		for _, e := range s.entries {
			dst = append(dst, e...)
		}
	}
	return dst
}

// A chunk is a number of streams, then for each its labels, the number of its
// lines, and its entries as they go to Loki. Numbers and lengths are uvarints.

// maxStreamHead is more than a stream takes in a chunk besides its labels and its
// entries.
const maxStreamHead = 32

// appendChunkHead appends what stands before the streams of a chunk.
func appendChunkHead(dst []byte, streams int) []byte {
	return binary.AppendUvarint(dst, uint64(streams))
}

// appendStreamHead appends what stands in a chunk before the entries of a stream.
func appendStreamHead(dst []byte, labels string, lines, entries int) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(labels))), labels...)
	dst = binary.AppendUvarint(dst, uint64(lines))
	return binary.AppendUvarint(dst, uint64(entries))
}

var errChunk = errors.New("chunk is malformed: it was not written by this program")

// readChunk calls yield for each stream of a chunk that [encoder.flush] made. It
// returns an error if the payload is malformed, or yield's, which ends it. entries
// is part of the payload.
func readChunk(payload []byte, yield func(labels string, lines int, entries []byte) error) error {
	streams, rest, ok := cutUvarint(payload)
	for ; ok && streams > 0; streams-- {
		var labels, entries []byte
		var lines uint64
		if labels, rest, ok = cutBytes(rest); !ok {
			break
		}
		if lines, rest, ok = cutUvarint(rest); !ok {
			break
		}
		if entries, rest, ok = cutBytes(rest); !ok || !holds(entries, lines) {
			return errChunk
		}
		if err := yield(string(labels), int(lines), entries); err != nil {
			return err
		}
	}
	if !ok || len(rest) > 0 {
		return errChunk
	}
	return nil
}

// holds reports whether entries are as many as lines says.
func holds(entries []byte, lines uint64) bool {
	for ; lines > 0; lines-- {
		_, rest, ok := nextEntry(entries)
		if !ok {
			return false
		}
		entries = rest
	}
	return len(entries) == 0
}

// nextEntry cuts the first entry, with its tag and length, from the entries of a
// stream. It reports false at the end and for what is no entry.
func nextEntry(entries []byte) (entry, rest []byte, ok bool) {
	if len(entries) == 0 || entries[0] != tagEntry {
		return nil, entries, false
	}
	_, rest, ok = cutBytes(entries[1:])
	if !ok {
		return nil, entries, false
	}
	return entries[:len(entries)-len(rest)], rest, true
}

// cutUvarint cuts a number from b.
func cutUvarint(b []byte) (n uint64, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, b, false
	}
	return n, b[size:], true
}

// cutBytes cuts a length, and as many bytes, from b.
func cutBytes(b []byte) (part, rest []byte, ok bool) {
	n, rest, ok := cutUvarint(b)
	if !ok || n > uint64(len(rest)) {
		return nil, b, false
	}
	return rest[:n], rest[n:], true
}
