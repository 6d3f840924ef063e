package loki

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
)

const (
	// maxTraceBytes bounds the lines that are kept. One request has a few.
	maxTraceBytes = 16 << 20
	// maxTraceValue is how many characters of a value people see.
	maxTraceValue = 500
)

// traceLine is a line of the trace.
type traceLine struct {
	raw    []byte
	time   time.Time // zero if nobody knows
	fields map[string]any
}

// parseTraceLine returns a line whose trace_id or client_trace_id is id, nil if it
// has another one, and an error if it is no JSON object. The line has no newline.
func parseTraceLine(raw []byte, id string) (*traceLine, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF || fields == nil {
		return nil, fmt.Errorf("not one JSON object")
	}
	if fields["trace_id"] != id && fields["client_trace_id"] != id {
		return nil, nil
	}
	line := &traceLine{raw: bytes.Clone(raw), fields: fields}
	if text, ok := fields["ts"].(string); ok {
		line.time, _ = time.Parse(time.RFC3339Nano, text) // else nobody knows
	}
	return line, nil
}

// text returns a field as text, "" if the line lacks it.
func (l *traceLine) text(name string) string {
	switch value := l.fields[name].(type) {
	case nil:
		return ""
	case string:
		return value
	case json.Number:
		return value.String()
	default:
		content, _ := json.Marshal(value) // it came from JSON
		return string(content)
	}
}

// traceKey is what two copies of one line share.
type traceKey struct {
	time int64
	line string
}

// traceLines is what was found, and what was left out.
type traceLines struct {
	id    string
	from  time.Time // older lines are left out
	lines []*traceLine

	seen   map[traceKey]bool
	bytes  int // of lines
	noJSON int // lines that are no JSON object
	// tooLong are lines of over [maxTraceLine], beyond those of the trace past
	// [maxTraceBytes], broken the files that can't be read to their end.
	tooLong, beyond int
	broken          []string
}

// add takes a line, without its newline, in which the id stands somewhere. at is
// when the source says it was written, zero if it does not.
func (f *traceLines) add(raw []byte, at time.Time) {
	line, err := parseTraceLine(raw, f.id)
	if err != nil {
		f.noJSON++
		return
	}
	if line == nil {
		return
	}
	if line.time.IsZero() {
		line.time = at
	}
	if !line.time.IsZero() && line.time.Before(f.from) {
		return
	}
	key := traceKey{line.time.UnixNano(), string(line.raw)}
	if f.seen[key] {
		return
	}
	if f.bytes += len(raw); f.bytes > maxTraceBytes {
		f.beyond++
		return
	}
	f.seen[key] = true
	f.lines = append(f.lines, line)
}

// sort orders the lines by time; those of one time stay as they were found.
func (f *traceLines) sort() {
	slices.SortStableFunc(f.lines, func(a, b *traceLine) int { return a.time.Compare(b.time) })
}

// notes tells what the lines do not show.
func (f *traceLines) notes() []string {
	var notes []string
	count := func(n int, one, many string) {
		if n == 1 {
			notes = append(notes, "1 line "+one)
		} else if n > 1 {
			notes = append(notes, fmt.Sprintf("%d lines %s", n, many))
		}
	}
	count(f.noJSON, "is no JSON and was skipped", "are no JSON and were skipped")
	count(f.tooLong, "is longer than 1 MiB and was skipped", "are longer than 1 MiB and were skipped")
	count(f.beyond, "more of this trace does not fit into memory", "more of this trace do not fit into memory")
	for _, name := range f.broken {
		notes = append(notes, name+" ends in the middle: it is being compressed now, or damaged")
	}
	if others := f.otherTraces(); len(others) > 0 {
		notes = append(notes, fmt.Sprintf("a client outside trust sent this id, and its trace was not continued: the gateway's own is %s", strings.Join(others, ", ")))
	}
	return notes
}

// otherTraces returns the traces that the gateway opened for requests which came
// with the id, at most five.
func (f *traceLines) otherTraces() []string {
	others := map[string]bool{}
	for _, line := range f.lines {
		if own := line.text("trace_id"); own != f.id && own != "" && len(others) < 5 {
			others[own] = true
		}
	}
	return slices.Sorted(maps.Keys(others))
}

// writeJSON writes the lines as they are, but for what a terminal could obey.
func (f *traceLines) writeJSON(out io.Writer) error {
	for _, line := range f.lines {
		if err := operator.WriteJSON(out, json.RawMessage(line.raw), ""); err != nil {
			return err
		}
	}
	return nil
}

// The fields with a place of their own in a text, those that follow first by name,
// and those that say nothing within one trace, or too much. All others come last.
var (
	tracePlaced = []string{"ts", "service", "level", "msg", "method", "path", "status", "duration_ms"}
	traceNamed  = []string{"user_id", "tenant_id", "error", "upstream", "breaker", "permission", "client_trace_id"}
	traceHidden = []string{"trace_id", "span_id", "request_id", "host", "client_ip", "bytes", "logger", "stack"}
)

// writeText writes the lines for people: a heading, and a line each.
func (f *traceLines) writeText(out *bytes.Buffer, zone *time.Location, colours bool) {
	services, width := map[string]bool{}, 0
	for _, line := range f.lines {
		service := traceText(line.text("service"))
		services[service] = true
		width = max(width, utf8.RuneCountInString(service))
	}
	heading, layout := f.span(zone)
	lines := "1 line"
	if len(f.lines) > 1 {
		lines = fmt.Sprintf("%d lines", len(f.lines))
	}
	fmt.Fprintf(out, "trace %s: %s of %s%s\n", f.id, lines, strings.Join(slices.Sorted(maps.Keys(services)), ", "), heading)
	p := tracePainter(colours)
	for _, line := range f.lines {
		service := traceText(line.text("service"))
		at := line.time.In(zone).Format(layout)
		if line.time.IsZero() {
			at = strings.Repeat("-", len(at))
		}
		fmt.Fprintf(out, "%s  %s%s  %s  %s\n", p.paint("90", at), service,
			strings.Repeat(" ", width-utf8.RuneCountInString(service)), p.level(line.text("level")), line.describe(p))
	}
}

// span tells of the time of all lines, and how to write that of one.
func (f *traceLines) span(zone *time.Location) (heading, layout string) {
	const clock = "15:04:05.000000"
	timed := slices.IndexFunc(f.lines, func(l *traceLine) bool { return !l.time.IsZero() })
	if timed < 0 {
		return "", clock
	}
	first, last := f.lines[timed].time.In(zone), f.lines[len(f.lines)-1].time.In(zone)
	layout = clock
	if first.Format(time.DateOnly) != last.Format(time.DateOnly) {
		layout = time.DateOnly + " " + clock
	}
	return fmt.Sprintf(", %s, %s from first to last", first.Format("2006-01-02 MST"), last.Sub(first).Round(time.Microsecond)), layout
}

// describe is a line without time, service and level: its message, the request,
// and the other fields by name.
func (l *traceLine) describe(p tracePainter) string {
	words := []string{traceText(l.text("msg"))}
	for _, name := range []string{"method", "path"} {
		if text := l.text(name); text != "" {
			words = append(words, traceText(text))
		}
	}
	if status := l.text("status"); status != "" {
		words = append(words, p.status(traceText(status)))
	}
	if duration := l.text("duration_ms"); duration != "" {
		words = append(words, traceText(duration)+"ms")
	}
	names := slices.Clone(traceNamed)
	for _, name := range slices.Sorted(maps.Keys(l.fields)) {
		if !slices.Contains(tracePlaced, name) && !slices.Contains(traceNamed, name) && !slices.Contains(traceHidden, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if text := l.text(name); text != "" {
			if _, ok := l.fields[name].(string); ok && strings.ContainsAny(text, ` "`) {
				text = strconv.Quote(text)
			}
			words = append(words, traceText(name)+"="+traceText(text))
		}
	}
	return strings.Join(words, " ")
}

// traceText is a text from a line that is safe on a terminal, and not too long.
func traceText(text string) string {
	if utf8.RuneCountInString(text) > maxTraceValue {
		text = string([]rune(text)[:maxTraceValue]) + "…"
	}
	return operator.Printable(text)
}

// tracePainter writes colours if it is true.
type tracePainter bool

func (p tracePainter) paint(code, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// level is a level in its colour, five wide.
func (p tracePainter) level(level string) string {
	text := fmt.Sprintf("%-5s", traceText(level))
	switch level {
	case "error", "dpanic", "panic", "fatal":
		return p.paint("31", text)
	case "warn":
		return p.paint("33", text)
	}
	return text
}

// status is an HTTP status in its colour.
func (p tracePainter) status(status string) string {
	switch cmp.Or(status, " ")[0] {
	case '5':
		return p.paint("31", status)
	case '4':
		return p.paint("33", status)
	}
	return status
}
