package lokitest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// pushed is one stream of a push request.
type pushed struct {
	labels  []pair // sorted by name
	name    string // the labels as Loki writes them
	entries []entry
}

type pair struct{ name, value string }

func mapOf(pairs []pair) map[string]string {
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		m[p.name] = p.value
	}
	return m
}

// decodePush reads a push request. The error is what Loki answers with a 400.
func decodePush(header http.Header, body []byte) ([]pushed, error) {
	encoding := header.Get("Content-Encoding")
	switch encoding {
	case "", "snappy":
	case "gzip":
		reader, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body, err = io.ReadAll(reader); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("Content-Encoding %q not supported", encoding)
	}
	contentType, _, err := mime.ParseMediaType(cmp.Or(header.Get("Content-Type"), "application/x-protobuf"))
	if err != nil {
		return nil, err
	}
	if contentType == "application/json" {
		return decodeJSON(body)
	}
	raw, err := decompress(body)
	if err != nil {
		return nil, err
	}
	return decodeProtobuf(string(raw)) // entries share this one copy
}

func decodeProtobuf(message string) ([]pushed, error) {
	var streams []pushed
	err := fields(message, func(number int, value string, _ uint64) error {
		if number != 1 {
			return nil
		}
		var p pushed
		labels := ""
		err := fields(value, func(number int, value string, _ uint64) error {
			switch number {
			case 1:
				labels = value
			case 2:
				e, err := readEntry(value)
				p.entries = append(p.entries, e)
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := p.setLabels(labels); err != nil {
			return err
		}
		streams = append(streams, p)
		return nil
	})
	return streams, err
}

var errProto = errors.New("unexpected EOF")

// fields calls f for each field of a protobuf message: with its bytes, or with its
// number if it is a varint.
func fields(message string, f func(number int, value string, n uint64) error) error {
	for message != "" {
		tag, size := uvarint(message)
		if size <= 0 || tag>>3 == 0 || tag>>3 > 1<<28 {
			return errProto
		}
		message = message[size:]
		n, size := uvarint(message)
		value := ""
		switch {
		case size <= 0:
			return errProto
		case tag&7 == 0: // varint
			message = message[size:]
		case tag&7 == 2: // length and bytes
			if n > uint64(len(message)-size) {
				return errProto
			}
			value, message = message[size:size+int(n)], message[size+int(n):]
		default:
			return fmt.Errorf("proto: wrong wireType = %d for field %d", tag&7, tag>>3)
		}
		if err := f(int(tag>>3), value, n); err != nil {
			return err
		}
	}
	return nil
}

func uvarint(s string) (uint64, int) {
	var short [binary.MaxVarintLen64]byte
	return binary.Uvarint(short[:copy(short[:], s)])
}

// entry is what [readEntry] finds in the bytes of one.
type entry struct {
	raw                            string
	ns                             int64
	line                           string
	metadataEntries, metadataBytes int
	badName                        error // Loki refuses the whole request for it
}

func (e entry) bytes() int { return len(e.line) + e.metadataBytes }

// readEntry reads an EntryAdapter message.
func readEntry(raw string) (entry, error) {
	e := entry{raw: raw}
	err := fields(raw, func(number int, value string, _ uint64) error {
		switch number {
		case 1:
			return fields(value, func(number int, _ string, n uint64) error {
				switch number {
				case 1:
					e.ns += int64(n) * 1e9
				case 2:
					e.ns += int64(n)
				}
				return nil
			})
		case 2:
			e.line = value
		case 3:
			name, text, err := readPair(value)
			e.metadataEntries++
			e.metadataBytes += len(name) + len(text)
			if strings.Trim(name, "_") == "" {
				e.badName = fmt.Errorf("normalization for label name %q resulted in invalid name %q", name, "_")
			}
			return err
		}
		return nil
	})
	return e, err
}

func readPair(message string) (name, value string, err error) {
	err = fields(message, func(number int, v string, _ uint64) error {
		switch number {
		case 1:
			name = v
		case 2:
			value = v
		}
		return nil
	})
	return name, value, err
}

// metadata returns the structured metadata.
func (e entry) metadata() map[string]string {
	m := map[string]string{}
	_ = fields(e.raw, func(number int, value string, _ uint64) error { // readEntry has read it
		if number == 3 {
			name, text, err := readPair(value)
			m[name] = text
			return err
		}
		return nil
	})
	return m
}

func (p *pushed) setLabels(text string) (err error) {
	if p.labels, err = parseLabels(text); err != nil {
		return fmt.Errorf("couldn't parse labels: %w", err)
	}
	p.name = formatLabels(p.labels)
	return nil
}

// decodeJSON reads the JSON form of a push request.
func decodeJSON(body []byte) ([]pushed, error) {
	var request struct {
		Streams []struct {
			Stream map[string]string
			Values [][]json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	var streams []pushed
	for _, s := range request.Streams {
		var p pushed
		for name, value := range s.Stream {
			p.labels = append(p.labels, pair{name, value})
		}
		if err := p.setLabels(formatLabels(p.labels)); err != nil {
			return nil, err
		}
		for _, value := range s.Values {
			raw, err := encodeEntry(value)
			if err != nil {
				return nil, err
			}
			e, err := readEntry(raw)
			if err != nil {
				return nil, err
			}
			p.entries = append(p.entries, e)
		}
		streams = append(streams, p)
	}
	return streams, nil
}

// encodeEntry makes an EntryAdapter of a JSON array: time, line and metadata.
func encodeEntry(value []json.RawMessage) (string, error) {
	var at, line string
	var metadata map[string]string
	if len(value) < 2 || len(value) > 3 {
		return "", fmt.Errorf("an entry has 2 or 3 values, not %d", len(value))
	}
	for i, target := range []any{&at, &line, &metadata}[:len(value)] {
		if err := json.Unmarshal(value[i], target); err != nil {
			return "", err
		}
	}
	ns, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return "", err
	}
	when := binary.AppendUvarint([]byte{1 << 3}, uint64(ns/1e9))
	when = binary.AppendUvarint(append(when, 2<<3), uint64(ns%1e9))
	raw := appendBytes(nil, 1, string(when))
	raw = appendBytes(raw, 2, line)
	for name, text := range metadata {
		raw = appendBytes(raw, 3, string(appendBytes(appendBytes(nil, 1, name), 2, text)))
	}
	return string(raw), nil
}

func appendBytes(dst []byte, number int, value string) []byte {
	dst = binary.AppendUvarint(append(dst, byte(number<<3|2)), uint64(len(value)))
	return append(dst, value...)
}

// parseLabels reads labels like {a="b", c="d"}.
func parseLabels(text string) ([]pair, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("parse error: invalid UTF-8 rune")
	}
	matchers, rest, err := parseSelector(text)
	if err != nil {
		return nil, err
	}
	if rest != "" {
		return nil, fmt.Errorf("parse error : syntax error: unexpected %q", rest)
	}
	var labels []pair
	for _, m := range matchers {
		if m.op != "=" {
			return nil, fmt.Errorf("parse error : syntax error: unexpected %s", m.op)
		}
		if m.value != "" { // is none
			labels = append(labels, pair{m.name, m.value})
		}
	}
	slices.SortStableFunc(labels, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	return labels, nil
}

func formatLabels(labels []pair) string {
	parts := make([]string, len(labels))
	for i, p := range labels {
		parts[i] = p.name + "=" + strconv.Quote(p.value)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
