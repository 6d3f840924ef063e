// Package logging is the one form that every line takes, in the gateway and in
// the backends: one JSON object of the schema in docs/logs.md.
package logging

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// TimeLayout is how "ts" is written: RFC 3339 in UTC with microseconds.
const TimeLayout = "2006-01-02T15:04:05.000000Z07:00"

// Request is what a line may show of an HTTP request: never the query, a
// header or a cookie, which may hold a secret.
type Request struct {
	Method, Host, Path, ClientIP string
}

// Encoder is a zapcore.Encoder for the schema. It renames what zap and Caddy
// call differently and drops what may hold a secret.
type Encoder struct {
	zapcore.Encoder
	service   string
	summarise func(any) (Request, bool)
}

// NewEncoder returns an encoder of JSON lines with the given service name. A
// field named "service" overrides the name for its line. summarise turns the
// value of a field named "request" into what may be shown; of a value for which
// it is nil or says false no more is shown either.
func NewEncoder(service string, summarise func(any) (Request, bool)) *Encoder {
	return wrap(zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", NameKey: "logger", MessageKey: "msg", StacktraceKey: "stack",
		EncodeTime: func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
			enc.AppendString(t.UTC().Format(TimeLayout))
		},
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.MillisDurationEncoder,
		LineEnding:     zapcore.DefaultLineEnding,
	}), service, summarise)
}

func wrap(inner zapcore.Encoder, service string, summarise func(any) (Request, bool)) *Encoder {
	if summarise == nil {
		summarise = func(any) (Request, bool) { return Request{}, false }
	}
	return &Encoder{Encoder: inner, service: service, summarise: summarise}
}

// New returns a logger that writes JSON lines of the given service to w.
func New(service string, w zapcore.WriteSyncer, level zapcore.LevelEnabler) *zap.Logger {
	return zap.New(zapcore.NewCore(NewEncoder(service, nil), w, level))
}

// Clone implements zapcore.Encoder.
func (e *Encoder) Clone() zapcore.Encoder {
	return &Encoder{Encoder: e.Encoder.Clone(), service: e.service, summarise: e.summarise}
}

// The Add methods below see the fields of Logger.With, EncodeEntry those of
// the line itself.

// AddString implements zapcore.ObjectEncoder.
func (e *Encoder) AddString(key, value string) { e.add(zap.String(key, value)) }

// AddInt64 implements zapcore.ObjectEncoder.
func (e *Encoder) AddInt64(key string, value int64) { e.add(zap.Int64(key, value)) }

// AddDuration implements zapcore.ObjectEncoder.
func (e *Encoder) AddDuration(key string, value time.Duration) { e.add(zap.Duration(key, value)) }

// AddReflected implements zapcore.ObjectEncoder.
func (e *Encoder) AddReflected(key string, value any) error {
	e.add(zap.Reflect(key, value))
	return nil
}

// AddObject implements zapcore.ObjectEncoder.
func (e *Encoder) AddObject(key string, value zapcore.ObjectMarshaler) error {
	if key == "request" {
		if _, ok := e.summarise(value); !ok {
			return e.addParts(value)
		}
	}
	e.add(zap.Object(key, value))
	return nil
}

// addParts adds a request that is known by its parts alone, as Caddy's filter
// encoder hands it on: its marshaler adds the filtered parts to this encoder,
// whatever encoder it is given (modules/logging/filterencoder.go).
func (e *Encoder) addParts(request zapcore.ObjectMarshaler) error {
	line, parts := e.Encoder, zapcore.NewMapObjectEncoder()
	e.Encoder = partsEncoder{parts}
	err := request.MarshalLogObject(e)
	e.Encoder = line
	for _, names := range [...][2]string{{"method", "method"}, {"host", "host"}, {"uri", "path"}, {"client_ip", "client_ip"}} {
		if text, ok := parts.Fields[names[0]].(string); ok {
			e.Encoder.AddString(names[1], text)
		}
	}
	return err
}

// partsEncoder gathers fields; it never makes a line.
type partsEncoder struct{ *zapcore.MapObjectEncoder }

func (p partsEncoder) Clone() zapcore.Encoder { return p }

func (partsEncoder) EncodeEntry(zapcore.Entry, []zapcore.Field) (*buffer.Buffer, error) {
	return nil, errors.New("the parts of a request are no line")
}

func (e *Encoder) add(f zapcore.Field) {
	if f.Key == "service" {
		e.service = f.String
		return
	}
	for _, renamed := range e.rename(nil, &f) {
		renamed.AddTo(e.Encoder)
	}
}

// fieldSlices are reused: every line needs one.
var fieldSlices = sync.Pool{New: func() any { s := make([]zapcore.Field, 0, 32); return &s }}

// EncodeEntry implements zapcore.Encoder.
func (e *Encoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	pooled := fieldSlices.Get().(*[]zapcore.Field)
	out := append((*pooled)[:0], zap.String("service", e.service))
	for i := range fields {
		if fields[i].Key == "service" && fields[i].Type == zapcore.StringType {
			out[0].String = fields[i].String
			continue
		}
		out = e.rename(out, &fields[i])
	}
	line, err := e.Encoder.EncodeEntry(entry, out)
	clear(out) // the pool must not keep requests alive
	*pooled = out
	fieldSlices.Put(pooled)
	return line, err
}

// rename appends the schema's form of f to out.
func (e *Encoder) rename(out []zapcore.Field, f *zapcore.Field) []zapcore.Field {
	switch f.Key {
	case "request":
		return e.appendRequest(out, f)
	case "duration":
		return append(out, milliseconds(f))
	case "size":
		return append(out, zapcore.Field{Key: "bytes", Type: f.Type, Integer: f.Integer})
	case "err_id":
		// trace_context makes the trace id the id of the error; without it
		// Caddy's own random id would pose as one.
		if len(f.String) != 32 {
			return out
		}
		return append(out, zap.String("trace_id", f.String))
	case "user_id", "tenant_id":
		if f.Type == zapcore.Int64Type { // a text in every line, or no index takes them all
			id := zap.String(f.Key, strconv.FormatInt(f.Integer, 10))
			return appendOnce(out, &id)
		}
		return appendOnce(out, f)
	case "uri", "url":
		path, _, _ := strings.Cut(f.String, "?")
		return append(out, zapcore.Field{Key: f.Key, Type: f.Type, String: path, Interface: f.Interface})
	case "resp_headers", "headers", "bytes_read", "err_trace":
		return out
	}
	return append(out, *f)
}

// appendOnce drops an empty value and lets a later value replace an earlier
// one: Caddy adds user_id to every access line.
func appendOnce(out []zapcore.Field, f *zapcore.Field) []zapcore.Field {
	if f.Type == zapcore.StringType && f.String == "" {
		return out
	}
	for i := range out {
		if out[i].Key == f.Key {
			out[i] = *f
			return out
		}
	}
	return append(out, *f)
}

func (e *Encoder) appendRequest(out []zapcore.Field, f *zapcore.Field) []zapcore.Field {
	r, ok := e.summarise(f.Interface)
	if !ok {
		return out
	}
	return append(out, zap.String("method", r.Method), zap.String("host", r.Host), zap.String("path", r.Path),
		zap.String("client_ip", r.ClientIP))
}

// milliseconds returns the duration f as duration_ms, cut to a microsecond.
// Caddy writes durations as such, or as seconds through slog.
func milliseconds(f *zapcore.Field) zapcore.Field {
	switch f.Type {
	case zapcore.DurationType:
		return zap.Float64("duration_ms", math.Round(float64(f.Integer)/1e3)/1e3)
	case zapcore.Float64Type:
		return zap.Float64("duration_ms", math.Round(math.Float64frombits(uint64(f.Integer))*1e6)/1e3)
	}
	return *f
}
