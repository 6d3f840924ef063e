package logging

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// NewConsoleEncoder returns an encoder with the fields of [NewEncoder] that
// writes lines for a person's eyes. color adds ANSI colours.
func NewConsoleEncoder(service string, summarise func(any) (Request, bool), color bool) *Encoder {
	return wrap(&console{MapObjectEncoder: zapcore.NewMapObjectEncoder(), color: color}, service, summarise)
}

// console renders a line as "15:04:05.000 INFO service message key=value …".
type console struct {
	*zapcore.MapObjectEncoder
	color bool
}

var buffers = buffer.NewPool()

// Clone implements zapcore.Encoder.
func (c *console) Clone() zapcore.Encoder {
	clone := zapcore.NewMapObjectEncoder()
	maps.Copy(clone.Fields, c.Fields)
	return &console{MapObjectEncoder: clone, color: c.color}
}

// first are the fields whose values say enough without a name, in the order
// a person reads them.
var first = []string{"method", "path", "status", "duration_ms"}

// last are the fields that matter when one looks for something.
var last = []string{"trace_id", "span_id", "request_id", "host", "client_ip", "logger"}

// EncodeEntry implements zapcore.Encoder.
func (c *console) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	all := c.Clone().(*console)
	for i := range fields {
		fields[i].AddTo(all)
	}
	service, _ := all.Fields["service"].(string)
	delete(all.Fields, "service")

	line := buffers.Get()
	line.AppendString(entry.Time.Local().Format("15:04:05.000 "))
	line.AppendString(c.paint(entry.Level, fmt.Sprintf("%-5s", entry.Level.CapitalString())))
	fmt.Fprintf(line, " %-18s %s", service, entry.Message)
	for _, key := range first {
		if value, ok := all.Fields[key]; ok {
			delete(all.Fields, key)
			line.AppendByte(' ')
			fmt.Fprint(line, value)
			if key == "duration_ms" {
				line.AppendString("ms")
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all.Fields)) {
		if !slices.Contains(last, key) {
			appendPair(line, key, all.Fields[key])
		}
	}
	for _, key := range last {
		if value, ok := all.Fields[key]; ok {
			appendPair(line, key, value)
		}
	}
	if entry.Stack != "" {
		line.AppendString("\n" + entry.Stack)
	}
	line.AppendByte('\n')
	return line, nil
}

// appendPair writes key=value, quoted where the value has spaces or what a
// terminal would obey: a line stays one line.
func appendPair(line *buffer.Buffer, key string, value any) {
	text := fmt.Sprint(value)
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r == ' ' || r == '"' || !unicode.IsPrint(r) }) {
		text = fmt.Sprintf("%q", text)
	}
	line.AppendString(" " + key + "=" + text)
}

// paint colours a level with ANSI codes.
func (c *console) paint(level zapcore.Level, text string) string {
	if !c.color {
		return text
	}
	switch {
	case level >= zapcore.ErrorLevel:
		return "\x1b[31m" + text + "\x1b[0m"
	case level == zapcore.WarnLevel:
		return "\x1b[33m" + text + "\x1b[0m"
	case level == zapcore.InfoLevel:
		return "\x1b[36m" + text + "\x1b[0m"
	}
	return "\x1b[90m" + text + "\x1b[0m"
}
