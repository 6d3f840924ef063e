package tracecontext_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

const (
	uuidID = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"
	hexID  = "4bf92f3577b34da6a3ce929d0e0e4736"
)

// counter returns a source of the given values, then 1, 2, 3 and so on.
func counter(values ...uint64) func() uint64 {
	next := uint64(0)
	return func() uint64 {
		if len(values) > 0 {
			v := values[0]
			values = values[1:]
			return v
		}
		next++
		return next
	}
}

func TestStartOfANewTraceUsesTheRandomSource(t *testing.T) {
	t.Parallel()
	trace := tracecontext.Start(nil, tracecontext.Options{Trusted: true, Rand: counter()})
	require.Equal(t, "01000000000000000200000000000000", trace.TraceID)
	require.Equal(t, "0300000000000000", trace.SpanID)
	require.Equal(t, "04000000000000000500000000000000", trace.RequestID)
	require.Equal(t, tracecontext.FlagSampled|tracecontext.FlagRandom, trace.Flags)
	require.Equal(t, "00-01000000000000000200000000000000-0300000000000000-03", trace.Traceparent())
	require.Empty(t, trace.State)
}

func TestStartNeverMakesAnIDOfZeros(t *testing.T) {
	t.Parallel()
	trace := tracecontext.Start(nil, tracecontext.Options{Rand: counter(0, 0, 0, 7, 0, 0, 9, 0, 0, 0, 11)})
	require.Equal(t, "00000000000000000700000000000000", trace.TraceID)
	require.Equal(t, "0900000000000000", trace.SpanID)
	require.Equal(t, "00000000000000000b00000000000000", trace.RequestID)
}

func TestStartTrust(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header  http.Header
		trusted bool
		trace   string // "" for a new one
		client  string
		state   string
		flags   byte
	}{
		"a trusted caller's trace is continued": {
			header:  http.Header{"Traceparent": {parent01}, "Tracestate": {"a=1"}},
			trusted: true, trace: w3cTrace, state: "a=1", flags: 1,
		},
		"an untrusted caller's trace is only noted": {
			header: http.Header{"Traceparent": {parent00}, "Tracestate": {"a=1"}},
			client: w3cTrace, flags: 3,
		},
		"a trusted caller may name the trace in hex": {
			header: http.Header{"X-Trace-Id": {hexID}}, trusted: true, trace: hexID, flags: 1,
		},
		"a trusted caller may name the trace by a UUID": {
			header: http.Header{"X-Trace-Id": {uuidID}}, trusted: true, trace: hexID, flags: 1,
		},
		"capitals in a named trace are lowered": {
			header: http.Header{"X-Trace-Id": {strings.ToUpper(uuidID)}}, trusted: true, trace: hexID, flags: 1,
		},
		"an untrusted caller's named trace is only noted": {
			header: http.Header{"X-Trace-Id": {uuidID}}, client: hexID, flags: 3,
		},
		"a named trace drops the tracestate": {
			header: http.Header{"X-Trace-Id": {hexID}, "Tracestate": {"a=1"}}, trusted: true, trace: hexID, flags: 1,
		},
		"traceparent wins over a named trace": {
			header: http.Header{"Traceparent": {parent00}, "X-Trace-Id": {hexID}}, trusted: true, trace: w3cTrace,
		},
		"a named trace doesn't replace an invalid traceparent": {
			header: http.Header{"Traceparent": {"x"}, "X-Trace-Id": {hexID}}, trusted: true, flags: 3,
		},
		"two named traces are none":          {header: http.Header{"X-Trace-Id": {hexID, hexID}}, trusted: true, flags: 3},
		"a named trace of zeros is none":     {header: http.Header{"X-Trace-Id": {strings.Repeat("0", 32)}}, trusted: true, flags: 3},
		"a named trace of 31 digits is none": {header: http.Header{"X-Trace-Id": {hexID[1:]}}, trusted: true, flags: 3},
		"a named trace with a space is none": {header: http.Header{"X-Trace-Id": {hexID[1:] + " "}}, trusted: true, flags: 3},
		"a UUID with misplaced dashes is none": {
			header: http.Header{"X-Trace-Id": {"4bf92f357-7b3-4da6-a3ce-929d0e0e4736"}}, trusted: true, flags: 3,
		},
		"a UUID with a dash too many is none": {
			header: http.Header{"X-Trace-Id": {"4bf92f35-77b3-4da6-a3ce-929d0e0e47-6"}}, trusted: true, flags: 3,
		},
		"flags that level 2 doesn't know are dropped": {
			header:  http.Header{"Traceparent": {"00-" + w3cTrace + "-" + w3cParent + "-ff"}},
			trusted: true, trace: w3cTrace, flags: 3,
		},
		"a bad tracestate is dropped alone": {
			header:  http.Header{"Traceparent": {parent01}, "Tracestate": {"a=1", "B=2"}},
			trusted: true, trace: w3cTrace, flags: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trace := tracecontext.Start(test.header, tracecontext.Options{Trusted: test.trusted})
			if test.trace != "" {
				require.Equal(t, test.trace, trace.TraceID)
			} else {
				require.NotEqual(t, w3cTrace, trace.TraceID)
				require.NotEqual(t, hexID, trace.TraceID)
			}
			require.Regexp(t, "^[0-9a-f]{32}$", trace.TraceID)
			require.Equal(t, test.client, trace.ClientTraceID)
			require.Equal(t, test.state, trace.State)
			require.Equal(t, test.flags, trace.Flags)
		})
	}
}

func TestStartReadsTheNamedTraceFromAnotherHeader(t *testing.T) {
	t.Parallel()
	h := http.Header{"X-Correlation-Id": {uuidID}, "X-Trace-Id": {w3cTrace}}
	trace := tracecontext.Start(h, tracecontext.Options{Trusted: true, Header: "X-Correlation-Id"})
	require.Equal(t, hexID, trace.TraceID)
}

func TestStartRequestID(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header http.Header
		keep   bool
		want   string // "" for a new one
	}{
		"a client's request id is never taken":       {header: http.Header{"X-Request-Id": {"mine"}}},
		"a service keeps the gateway's request id":   {header: http.Header{"X-Request-Id": {"gw-1.a_B"}}, keep: true, want: "gw-1.a_B"},
		"a request id with a line feed is not kept":  {header: http.Header{"X-Request-Id": {"a\nb"}}, keep: true},
		"a request id of 129 characters is not kept": {header: http.Header{"X-Request-Id": {strings.Repeat("a", 129)}}, keep: true},
		"an empty request id is not kept":            {header: http.Header{"X-Request-Id": {""}}, keep: true},
		"two request ids are not kept":               {header: http.Header{"X-Request-Id": {"a", "b"}}, keep: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trace := tracecontext.Start(test.header, tracecontext.Options{Trusted: true, KeepRequestID: test.keep})
			if test.want != "" {
				require.Equal(t, test.want, trace.RequestID)
				return
			}
			require.Regexp(t, "^[0-9a-f]{32}$", trace.RequestID)
		})
	}
}

func TestSampling(t *testing.T) {
	t.Parallel()
	const (
		low  = 0x0000000000000000 // little-endian halves of the trace id
		high = 0xffffffffffffffff
	)
	for name, test := range map[string]struct {
		rule    string
		parent  string
		random  uint64
		sampled bool
	}{
		"parent samples a new trace":                     {rule: "parent", sampled: true},
		"the empty rule is parent":                       {rule: "", parent: parent00},
		"parent follows a parent that is sampled":        {rule: "parent", parent: parent01, sampled: true},
		"parent follows a parent that isn't":             {rule: "parent", parent: parent00},
		"always samples against the parent":              {rule: "always", parent: parent00, sampled: true},
		"always samples a new trace":                     {rule: "always", sampled: true},
		"ratio 0 samples no new trace":                   {rule: "0", random: high},
		"ratio 1 samples every new trace":                {rule: "1", random: low, sampled: true},
		"a ratio samples new traces above its threshold": {rule: "0.5", random: high, sampled: true},
		"a ratio rejects new traces below its threshold": {rule: "0.5", random: low},
		"a ratio follows the parent that is sampled":     {rule: "0", parent: parent01, sampled: true},
		"a ratio follows the parent that isn't":          {rule: "1", parent: parent00},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sampling, err := tracecontext.ParseSampling(test.rule)
			require.NoError(t, err)
			h := http.Header{}
			if test.parent != "" {
				h.Set("traceparent", test.parent)
			}
			trace := tracecontext.Start(h, tracecontext.Options{Trusted: true, Sampling: sampling, Rand: counter(1, test.random)})
			require.Equal(t, test.sampled, trace.Sampled())
		})
	}
	for _, rule := range []string{"1.1", "-0.1", "NaN", "Inf", "never", "50%", "Always"} {
		_, err := tracecontext.ParseSampling(rule)
		require.EqualError(t, err, `sampled is "`+rule+`", want parent, always or a ratio from 0 to 1`)
	}
}

func TestTracestateKeepsAtLeast512Characters(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 256) + "=" + strings.Repeat("v", 256)
	require.Equal(t, long+",a=1", tracecontext.ParseTracestate([]string{long, "a=1"}))
	require.Empty(t, tracecontext.ParseTracestate([]string{"a=" + strings.Repeat("v", 257)}))
	require.Equal(t, "a= b", tracecontext.ParseTracestate([]string{"a= b"}), "a value may begin with a space")
	require.Empty(t, tracecontext.ParseTracestate([]string{"a"}))
	require.Empty(t, tracecontext.ParseTracestate([]string{"=1"}))
	require.Empty(t, tracecontext.ParseTracestate([]string{"a=\x7f"}))
	require.Empty(t, tracecontext.ParseTracestate([]string{"a=é"}))
	require.Empty(t, tracecontext.ParseTracestate(nil))
	require.Equal(t, "a=1,b=2", tracecontext.ParseTracestate([]string{",a=1,,b=2,"}))
}

func TestTraceContextGoesFromServiceToService(t *testing.T) {
	t.Parallel()
	gateway := tracecontext.Start(nil, tracecontext.Options{})
	gateway.State = "a=1"
	wire := http.Header{"Tracestate": {"stale=1"}}
	gateway.Inject(wire)
	require.Equal(t, http.Header{
		"Traceparent":  {gateway.Traceparent()},
		"Tracestate":   {"a=1"},
		"X-Trace-Id":   {gateway.TraceID},
		"X-Request-Id": {gateway.RequestID},
	}, wire)

	received, ok := tracecontext.FromHeader(wire)
	require.True(t, ok)
	require.Equal(t, gateway.SpanID, received.SpanID, "FromHeader tells the sender's context")

	service := tracecontext.Start(wire, tracecontext.Options{Trusted: true, KeepRequestID: true})
	require.Equal(t, gateway.TraceID, service.TraceID)
	require.Equal(t, gateway.RequestID, service.RequestID)
	require.NotEqual(t, gateway.SpanID, service.SpanID)
	require.Equal(t, gateway.Flags, service.Flags)

	call := service.Child()
	require.Equal(t, service.TraceID, call.TraceID)
	require.Equal(t, service.RequestID, call.RequestID)
	require.Equal(t, service.State, call.State)
	require.NotEqual(t, service.SpanID, call.SpanID)
	require.Equal(t, "00-"+call.TraceID+"-"+call.SpanID+"-03", call.Traceparent())
}

func TestInjectDeletesWhatTheTraceDoesNotHave(t *testing.T) {
	t.Parallel()
	h := http.Header{"Tracestate": {"stale=1"}, "X-Request-Id": {"stale"}}
	trace := tracecontext.Trace{TraceID: hexID, SpanID: w3cParent, Flags: 1}
	trace.Inject(h)
	require.Equal(t, http.Header{"Traceparent": {"00-" + hexID + "-" + w3cParent + "-01"}, "X-Trace-Id": {hexID}}, h)
}

func TestTraceparentFollowsChangedFields(t *testing.T) {
	t.Parallel()
	trace := tracecontext.Start(nil, tracecontext.Options{})
	trace.SpanID, trace.Flags = w3cParent, 0
	require.Equal(t, "00-"+trace.TraceID+"-"+w3cParent+"-00", trace.Traceparent())
}

func TestLogFields(t *testing.T) {
	t.Parallel()
	enc := zapcore.NewMapObjectEncoder()
	zap.Inline(&tracecontext.Trace{TraceID: "t", SpanID: "s", RequestID: "r", ClientTraceID: "c"}).AddTo(enc)
	require.Equal(t, map[string]any{"trace_id": "t", "span_id": "s", "request_id": "r", "client_trace_id": "c"}, enc.Fields)

	enc = zapcore.NewMapObjectEncoder()
	zap.Inline(&tracecontext.Trace{TraceID: "t", SpanID: "s"}).AddTo(enc)
	require.Equal(t, map[string]any{"trace_id": "t", "span_id": "s"}, enc.Fields)
}

func BenchmarkStart(b *testing.B) {
	for name, h := range map[string]http.Header{
		"new":       {},
		"continued": {"Traceparent": {parent01}, "Tracestate": {"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"}},
		"named":     {"X-Trace-Id": {hexID}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var trace tracecontext.Trace
			for b.Loop() {
				trace = tracecontext.Start(h, tracecontext.Options{Trusted: true})
			}
			require.NotEmpty(b, trace.TraceID)
		})
	}
}

func BenchmarkInject(b *testing.B) {
	trace := tracecontext.Start(nil, tracecontext.Options{})
	h := make(http.Header)
	b.ReportAllocs()
	for b.Loop() {
		trace.Inject(h)
	}
}
