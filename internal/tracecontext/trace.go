// Package tracecontext implements W3C Trace Context level 2
// (https://www.w3.org/TR/trace-context-2/): what a hop reads from the request
// it received and what it writes on the requests it sends.
//
// The parser is strict and our own: the propagators of OpenTelemetry and Caddy
// accept two traceparent headers, read only the first tracestate header and
// reject the tracestate keys of level 2.
package tracecontext

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"

	"go.uber.org/zap/zapcore"
)

// The headers of a trace, in canonical form.
const (
	HeaderTraceparent = "Traceparent"
	HeaderTracestate  = "Tracestate"
	HeaderTraceID     = "X-Trace-Id"
	HeaderRequestID   = "X-Request-Id"
)

// The trace-flags of level 2. All other bits are sent as zero.
const (
	// FlagSampled says that the caller may have recorded the trace.
	FlagSampled byte = 1 << iota
	// FlagRandom says that the right-most 7 bytes of the trace id are random.
	FlagRandom

	knownFlags = FlagSampled | FlagRandom
)

// Trace is the trace context of one request at this hop. It is a plain value;
// copies are independent.
type Trace struct {
	// TraceID is the trace's id: 32 lower-case hex digits.
	TraceID string
	// SpanID is this hop's id, the parent-id the upstream sees: 16 lower-case hex digits.
	SpanID string
	// RequestID is new for every request, never taken from the client.
	RequestID string
	// ClientTraceID is the trace id that an untrusted client sent, empty otherwise.
	ClientTraceID string
	// Flags are the trace-flags: bit 0 sampled, bit 1 random.
	Flags byte
	// State is the tracestate list to send on, empty for none.
	State string

	traceparent string // the formatted header that the ids above are parts of, if Start or Child made it
}

// Options are the terms on which [Start] reads a request.
type Options struct {
	// Trusted callers have their trace continued. Others get a new trace,
	// theirs is kept as Trace.ClientTraceID, and their tracestate and flags
	// are ignored.
	Trusted bool
	// Sampling decides the sampled flag. The zero value follows the parent.
	Sampling Sampling
	// Header is the canonical name of the header that may carry a bare trace
	// id when there is no traceparent. Empty means X-Trace-Id.
	Header string
	// KeepRequestID takes over a well-formed X-Request-Id. Only services
	// behind the gateway set it.
	KeepRequestID bool
	// KeepSpanID takes over the span id of the traceparent as well: it was
	// written by this very hop, by a tracing middleware in front of this one.
	KeepSpanID bool
	// Rand returns 64 random bits. It must be safe for concurrent use. Nil
	// means math/rand/v2.Uint64: the runtime's ChaCha8 generators, one per
	// thread, seeded by the operating system. Ids have to be unique and hard
	// to guess, but open no door, so a system call for each buys nothing.
	Rand func() uint64
}

// Start returns the trace context of a request that arrived with the headers
// h: the caller's trace with a new span id, or a new trace if there is none to
// continue. It doesn't change h.
//
// A trace is continued if the caller is trusted and sent exactly one valid
// traceparent. Without a traceparent, a trusted caller may name the trace in
// X-Trace-Id: 32 hex digits or a UUID. An invalid traceparent starts a new
// trace and drops tracestate; an invalid tracestate is dropped alone.
func Start(h http.Header, o Options) Trace {
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	var t Trace
	parent, continued := parentOf(h)
	if !continued {
		parent.TraceID = namedTrace(h, o.Header)
	}
	switch {
	case !o.Trusted:
		t.ClientTraceID = parent.TraceID
		parent, continued = Trace{}, false
	case continued:
		t.State = ParseTracestate(h[HeaderTracestate])
	}

	var ids ids
	if parent.TraceID == "" {
		ids.random(traceIDAt, 16, o.Rand)
		t.Flags = FlagRandom
	} else {
		copy(ids.traceID(), parent.TraceID)
		t.Flags = parent.Flags
	}
	t.Flags = o.Sampling.apply(t.Flags, ids.traceID(), continued)
	if continued && o.KeepSpanID {
		copy(ids.spanID(), parent.SpanID)
	} else {
		ids.random(spanIDAt, 8, o.Rand)
	}
	if o.KeepRequestID {
		t.RequestID = requestID(h)
	}
	if t.RequestID == "" {
		ids.random(requestIDAt, 16, o.Rand)
	}
	t.format(&ids)
	return t
}

// ids is the text that all ids of a Trace are parts of: a traceparent header
// followed by a request id.
type ids [requestIDAt + 32]byte

const (
	traceIDAt   = 3
	spanIDAt    = 36
	flagsAt     = 53
	requestIDAt = 55 // also the length of a traceparent of version 00
)

func (b *ids) traceID() []byte { return b[traceIDAt : traceIDAt+32] }
func (b *ids) spanID() []byte  { return b[spanIDAt : spanIDAt+16] }

// random writes n random bytes in hex, n a multiple of 8. They are not all
// zero: an id of zeros is invalid.
func (b *ids) random(at, n int, random func() uint64) {
	var raw [16]byte
	for set := uint64(0); set == 0; {
		for i := 0; i < n; i += 8 {
			v := random()
			set |= v
			binary.LittleEndian.PutUint64(raw[i:], v)
		}
	}
	hex.Encode(b[at:], raw[:n])
}

// format sets the ids of t as parts of one string: one allocation. A request id
// that t already has stays.
func (t *Trace) format(b *ids) {
	const digits = "0123456789abcdef"
	b[0], b[1], b[2], b[35], b[52] = '0', '0', '-', '-', '-'
	b[flagsAt], b[flagsAt+1] = digits[t.Flags>>4], digits[t.Flags&15]
	n := len(b)
	if t.RequestID != "" {
		n = requestIDAt
	}
	text := string(b[:n])
	t.traceparent = text[:requestIDAt]
	t.TraceID, t.SpanID = text[traceIDAt:traceIDAt+32], text[spanIDAt:spanIDAt+16]
	if t.RequestID == "" {
		t.RequestID = text[requestIDAt:]
	}
}

// Traceparent returns the traceparent header of a request sent by this hop.
func (t Trace) Traceparent() string {
	if p := t.traceparent; p != "" && p[traceIDAt:traceIDAt+32] == t.TraceID && p[spanIDAt:spanIDAt+16] == t.SpanID && unhexByte(p[flagsAt], p[flagsAt+1]) == t.Flags {
		return p
	}
	const digits = "0123456789abcdef"
	return "00-" + t.TraceID + "-" + t.SpanID + "-" + string([]byte{digits[t.Flags>>4], digits[t.Flags&15]})
}

// Child returns the context of one call that this hop makes: the same trace
// and request id with a new span id. A trace without a request id gets one.
func (t Trace) Child() Trace {
	var ids ids
	copy(ids.traceID(), t.TraceID)
	ids.random(spanIDAt, 8, rand.Uint64)
	if t.RequestID == "" {
		ids.random(requestIDAt, 16, rand.Uint64)
	}
	t.format(&ids)
	return t
}

// Inject sets the trace headers on a request to be sent: traceparent,
// tracestate, X-Trace-Id and X-Request-Id. Headers without a value are deleted.
func (t Trace) Inject(h http.Header) {
	values := []string{t.Traceparent(), t.State, t.TraceID, t.RequestID}
	for i, name := range [...]string{HeaderTraceparent, HeaderTracestate, HeaderTraceID, HeaderRequestID} {
		if values[i] == "" {
			delete(h, name)
			continue
		}
		h[name] = values[i : i+1 : i+1]
	}
}

// Sampled reports whether the sampled flag is set.
func (t Trace) Sampled() bool { return t.Flags&FlagSampled != 0 }

// MarshalLogObject adds the trace's log fields: trace_id, span_id, request_id
// and, if an untrusted client sent one, client_trace_id. Use it with
// zap.Inline(&t).
func (t *Trace) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("trace_id", t.TraceID)
	enc.AddString("span_id", t.SpanID)
	if t.RequestID != "" {
		enc.AddString("request_id", t.RequestID)
	}
	if t.ClientTraceID != "" {
		enc.AddString("client_trace_id", t.ClientTraceID)
	}
	return nil
}

var _ zapcore.ObjectMarshaler = (*Trace)(nil)
