package loki

import (
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

const (
	// maxLine is the longest line that is sent as it is. Loki's max_line_size is
	// 256 KiB, of the line alone.
	maxLine = 250 << 10
	// maxMetadataValue bounds a value of structured metadata; Loki takes 64 KiB of
	// all in a line.
	maxMetadataValue = 1 << 10
	// maxStreams is how many streams an encoder remembers between flushes.
	maxStreams = 1000
	// tenantOverflow names the tenant among the labels that have too many values.
	tenantOverflow = "tenant"
)

// keptFields are what is left of a line that is too long, if they are short.
var keptFields = []string{"ts", "level", "service", "logger", "msg", "trace_id", "user_id", "tenant_id"}

// encoder makes chunks of lines: what goes to disk, and from there to Loki. It is
// not safe for concurrent use.
type encoder struct {
	// notes is told once of each label, and of the tenant, with more than maxValues
	// values. It may be nil.
	notes func(string)
	// truncated counts lines that were too long for Loki and were cut.
	truncated int64

	limit    int
	fields   fields
	labels   []label
	tenants  tenants
	metadata []string
	slots    []int // of metadata, in fields
	overflow map[string]int64

	// entries are those since the last flush, in the order of the lines; records
	// say where they end and which streams they are of.
	entries []byte
	records []record
	size    int // of all chunks
	streams map[string]*openStream
	lanes   map[string]*openLane
	active  []*openLane // those with lines, in the order of their first

	// What follows is used again for each line or chunk.
	key, valid, short, payload []byte
	found                      []metadatum
}

// record is one entry; entries are chained by stream.
type record struct {
	begin, end int
	next       int // the index of the stream's next record, or 0
}

// openStream is a stream since the last flush.
type openStream struct {
	lane        *openLane
	labels      string
	lines       int
	bytes       int
	first, last int // records
}

// openLane is a tenant since the last flush.
type openLane struct {
	tenant         string
	streams        []*openStream // those with lines
	lines          int
	oldest, newest int64
}

// newEncoder returns an encoder of chunks of at most limit bytes, if no line is
// longer than an eighth of that; else of limit and one line. apply comes first.
func newEncoder(limit int) *encoder {
	return &encoder{
		limit: limit, overflow: map[string]int64{},
		streams: map[string]*openStream{}, lanes: map[string]*openLane{},
	}
}

// apply gives the labels, metadata and tenant of lines that are added from now on.
// The settings are complete. Labels that stay keep the values they have had.
func (e *encoder) apply(s Settings) {
	e.fields = fields{}
	e.labels = newLabels(s.Labels, e.labels, &e.fields)
	e.tenants = newTenants(s.Tenant, e.tenants.seen, &e.fields)
	e.metadata, e.slots = s.Metadata, nil
	for _, name := range s.Metadata {
		e.slots = append(e.slots, e.fields.slot(name))
	}
}

// add takes a line without its newline; ns is its time in unix nanoseconds, later
// than that of the line before. full says that it is time to flush.
func (e *encoder) add(ns int64, line []byte) (full bool) {
	if !utf8.Valid(line) {
		e.valid = appendValid(e.valid[:0], line)
		line = e.valid
	}
	// Of a line that is too long the end may be missing already.
	if tooLong := len(line) > maxLine; !e.fields.scan(line) && !tooLong {
		clear(e.fields.values)
	} else if tooLong {
		line = e.shorten(line)
	}
	e.append(e.stream(), ns, line)
	return e.size >= e.limit-e.limit/8
}

// stream returns the stream of the line whose fields are at hand, and puts its
// metadata into found.
func (e *encoder) stream() *openStream {
	e.found = e.found[:0]
	for i, name := range e.metadata {
		e.find(name, e.fields.values[e.slots[i]])
	}
	tenant, overflow := e.tenants.Static, false
	if e.tenants.slot >= 0 {
		tenant, overflow = e.tenants.of(e.fields.values[e.tenants.slot])
	}
	if overflow {
		e.overflowing(tenantOverflow, func() string { return tenantNote(&e.tenants) })
	}
	e.key = append(append(e.key[:0], tenant...), '{')
	for i := range e.labels {
		l := &e.labels[i]
		text := l.static
		if l.slot >= 0 {
			value := e.fields.values[l.slot]
			if text, overflow = l.pairOf(value); overflow {
				e.overflowing(l.name, func() string { return overflowNote(l) })
				e.find(l.otherName, value)
			}
		}
		e.appendPair(len(tenant)+1, text)
	}
	if len(e.key) == len(tenant)+1 {
		e.appendPair(len(tenant)+1, pair(e.labels[0].name, unknownValue))
	}
	e.key = append(e.key, '}')
	if s, ok := e.streams[string(e.key)]; ok {
		return s
	}
	return e.open(tenant, string(e.key[len(tenant):]))
}

// appendPair appends one label to the key, whose labels begin at begin.
func (e *encoder) appendPair(begin int, text string) {
	if text == "" {
		return
	}
	if len(e.key) > begin {
		e.key = append(e.key, ", "...)
	}
	e.key = append(e.key, text...)
}

// find keeps a piece of metadata for the line at hand.
func (e *encoder) find(name string, value []byte) {
	if len(value) > 0 {
		e.found = append(e.found, metadatum{name, cutText(value, maxMetadataValue)})
	}
}

// overflowing counts a value of a label, or of the tenant, that is one too many.
func (e *encoder) overflowing(name string, note func() string) {
	if e.overflow[name]++; e.overflow[name] == 1 && e.notes != nil {
		e.notes(note())
	}
}

// open makes a stream.
func (e *encoder) open(tenant, labels string) *openStream {
	lane, ok := e.lanes[tenant]
	if !ok {
		lane = &openLane{tenant: tenant}
		e.lanes[tenant] = lane
	}
	s := &openStream{lane: lane, labels: labels}
	e.streams[tenant+labels] = s
	return s
}

// append adds an entry with the metadata at hand to a stream.
func (e *encoder) append(s *openStream, ns int64, line []byte) {
	begin := len(e.entries)
	e.entries = appendEntry(e.entries, ns, line, e.found)
	at := len(e.records)
	e.records = append(e.records, record{begin: begin, end: len(e.entries)})
	if s.lines == 0 {
		if s.lane.lines == 0 {
			s.lane.oldest = ns
			e.active = append(e.active, s.lane)
		}
		s.lane.streams = append(s.lane.streams, s)
		e.size += len(s.labels) + maxStreamHead
		s.first = at
	} else {
		e.records[s.last].next = at
	}
	s.last = at
	s.lines++
	s.bytes += len(e.entries) - begin
	s.lane.lines++
	s.lane.newest = ns
	e.size += len(e.entries) - begin
}

// flush yields everything that was added since the last one as chunks, one for
// each tenant. The payload is valid during yield only. An error of yield ends
// flush, which returns it: the next flush begins with the same chunk.
func (e *encoder) flush(yield func(tenant string, f segment.Frame) error) error {
	for i, lane := range e.active {
		f := segment.Frame{Lines: lane.lines, Oldest: lane.oldest, Newest: lane.newest, Payload: e.chunk(lane)}
		if err := yield(lane.tenant, f); err != nil {
			e.active = slices.Delete(e.active, 0, i)
			return err
		}
		for _, s := range lane.streams {
			s.lines, s.bytes = 0, 0
		}
		lane.lines, lane.streams = 0, lane.streams[:0]
	}
	e.entries, e.records, e.active, e.size = e.entries[:0], e.records[:0], e.active[:0], 0
	if len(e.streams) > maxStreams {
		clear(e.streams)
		clear(e.lanes)
	}
	return nil
}

// chunk returns the payload of a tenant: see [readChunk].
func (e *encoder) chunk(lane *openLane) []byte {
	p := appendChunkHead(e.payload[:0], len(lane.streams))
	for _, s := range lane.streams {
		p = appendStreamHead(p, s.labels, s.lines, s.bytes)
		for i, n := s.first, s.lines; n > 0; i, n = e.records[i].next, n-1 {
			p = append(p, e.entries[e.records[i].begin:e.records[i].end]...)
		}
	}
	e.payload = p
	return p
}

// shorten returns an object that stands for a line which is too long: what tells
// where it came from, and its beginning.
func (e *encoder) shorten(line []byte) []byte {
	e.truncated++
	kept := fields{}
	for _, name := range keptFields {
		kept.slot(name)
	}
	kept.scan(line)
	out := append(e.short[:0], '{')
	for i, v := range kept.values {
		if len(v) > 0 && len(v) <= maxMetadataValue {
			out = append(strconv.AppendQuote(out, kept.names[i]), ':')
			out, _ = appendQuoted(out, v, maxLine)
			out = append(out, ',')
		}
	}
	const end = `,"truncated_bytes":` // and a number of at most 20 digits, and }
	out, taken := appendQuoted(append(out, `"line":`...), line, maxLine-len(out)-len(`"line":`)-len(end)-21)
	out = strconv.AppendInt(append(out, end...), int64(len(line)-taken), 10)
	e.short = append(out, '}')
	return e.short
}

// overflowed returns by label how many lines had a value beyond the first
// maxValues.
func (e *encoder) overflowed() map[string]int64 { return maps.Clone(e.overflow) }
