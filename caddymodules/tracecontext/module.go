// Package tracecontext is the Caddy handler trace_context: it opens the trace
// of every request and removes what clients may not say.
package tracecontext

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/http/httpguts"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/sanitize"
	core "github.com/tenantgate/tenantgate/internal/tracecontext"
)

func init() {
	caddy.RegisterModule((*Handler)(nil))
	httpcaddyfile.RegisterHandlerDirective("trace_context", parseCaddyfile)
}

// Handler is the HTTP handler `trace_context`. It stands first in a route and
// does four things on every request:
//
//   - it deletes headers and trailers that a client may not send to a backend
//     (identity, overrides of URL, method and client address) and reduces the
//     Connection header, so that it can't delete what the gateway sets;
//   - it continues the caller's W3C trace (Trace Context level 2) if the caller is
//     trusted, or starts a new one;
//   - it sets traceparent, tracestate, X-Trace-Id and X-Request-Id on the request
//     to the upstream, and X-Trace-Id and X-Request-Id in the response, in place of
//     the upstream's own;
//   - it adds trace_id, span_id, request_id and client_trace_id to the access log
//     and to the lines of all handlers, and makes the trace id the id of errors
//     ({err.id}, err_id).
//
// It works with Caddy's `tracing` before or after it: all use one trace id.
//
// Placeholders:
//
// Placeholder | Description
// ------------|-------------
// `{http.trace.id}` | The trace id, 32 hex digits
// `{http.trace.span_id}` | This hop's span id, 16 hex digits
// `{http.trace.request_id}` | The request id, 32 hex digits
// `{http.trace.traceparent}` | The traceparent header sent to the upstream
// `{http.trace.client_trace_id}` | The trace id that an untrusted client sent, or empty
type Handler struct {
	// Trust says whose trace is continued: IP addresses and CIDR ranges of
	// clients, `private_ranges` among them, or one of `all` and `none`. The client's
	// address is the one that Caddy finds by `trusted_proxies`. A caller that is
	// not trusted gets a new trace. Default: `private_ranges`.
	Trust []string `json:"trust,omitempty"`

	// Header is the header that carries the trace id for humans. It is set on the
	// request and in the response, and read if a trusted caller sends no
	// traceparent. Default: `X-Trace-Id`.
	Header string `json:"header,omitempty"`

	// Response says whether the trace id and the request id are in the response.
	// If false, the upstream's copies are deleted too. Default: true.
	Response *bool `json:"response,omitempty"`

	// Sampled decides the sampled flag: `parent` (a continued trace keeps its
	// flag, a new one is sampled), `always`, or a ratio from 0 to 1 of new traces to
	// be sampled while continued ones keep their flag. Default: `parent`.
	Sampled string `json:"sampled,omitempty"`

	trustAll bool
	trusted  []netip.Prefix
	options  core.Options
	silent   bool // no ids in the response
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.trace_context",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision prepares the handler for requests.
func (h *Handler) Provision(caddy.Context) error {
	var err error
	if h.trustAll, h.trusted, err = parseTrust(h.Trust); err != nil {
		return err
	}
	if h.options.Header, err = parseHeader(h.Header); err != nil {
		return err
	}
	if h.options.Sampling, err = core.ParseSampling(h.Sampled); err != nil {
		return err
	}
	h.silent = h.Response != nil && !*h.Response
	return nil
}

// ServeHTTP opens the trace and hands the request on. Errors leave it as
// [caddyhttp.HandlerError] with the trace id as their id.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	sanitize.Headers(r.Header)
	sanitize.Connection(r.Header)
	sanitize.Trailers(r)

	ctx := r.Context()
	x := &exchange{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, header: h.options.Header, silent: h.silent}
	if trace := gateway.Trace(ctx); trace != nil { // a second trace_context on the way
		x.trace = *trace
	} else {
		vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
		x.trace = h.start(r, vars)
		gateway.SetTrace(ctx, &x.trace)
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.Field{Key: logKey, Type: zapcore.InlineMarshalerType, Interface: &x.trace})
		}
		if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			repl.Map(x.placeholder)
		}
	}
	x.setRequest(r.Header)

	err := next.ServeHTTP(x, r)
	x.beforeHeader() // for an error, or a response without a body, nobody has sent it yet
	if err == nil {
		return nil
	}
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok { // Caddy answers other errors with 500 as well
		he = caddyhttp.HandlerError{StatusCode: http.StatusInternalServerError, Err: err}
	}
	he.ID = x.trace.TraceID
	return he
}

// logKey names our log field to ExtraLogFields. It is one field that writes
// several, because each further Set allocates; the name is never written.
const logKey = "tenantgate.trace"

// start returns the trace of r as it arrived.
func (h *Handler) start(r *http.Request, vars map[string]any) core.Trace {
	options := h.options
	options.Trusted = h.trusts(vars)
	if ranTracing(r.Header, vars) {
		// Caddy's tracing has opened the span of this hop: its ids hold, even
		// if it took the trace id from a caller that we don't trust.
		trusted := options.Trusted
		options.Trusted, options.KeepSpanID = true, true
		trace := core.Start(r.Header, options)
		if !trusted {
			trace.State = ""
		}
		return trace
	}
	if !options.Trusted {
		dropForeign(r.Header)
	}
	return core.Start(r.Header, options)
}

// trusts reports whether the client's trace may be continued.
func (h *Handler) trusts(vars map[string]any) bool {
	if h.trustAll || len(h.trusted) == 0 {
		return h.trustAll
	}
	client, _ := vars[caddyhttp.ClientIPVarKey].(string)
	addr, err := netip.ParseAddr(client)
	if err != nil { // no address, such as a Unix socket's peer
		return false
	}
	addr = addr.Unmap()
	for _, prefix := range h.trusted {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// ranTracing reports whether Caddy's tracing handler has run: it sets these
// variables and writes their values into traceparent.
func ranTracing(header http.Header, vars map[string]any) bool {
	traceID, _ := vars["trace_id"].(string)
	if traceID == "" {
		return false
	}
	spanID, _ := vars["span_id"].(string)
	parent, ok := core.FromHeader(header)
	return ok && parent.TraceID == traceID && parent.SpanID == spanID
}

// dropForeign deletes what a caller that isn't trusted says of tracing in other
// formats: baggage, and sampling decisions that would run up a tracing bill.
func dropForeign(header http.Header) {
	for _, name := range [...]string{"Baggage", "B3", "X-B3-Traceid", "X-B3-Sampled", "X-B3-Flags", "Uber-Trace-Id"} {
		delete(header, name)
	}
}

// exchange is one request with its response. It is one allocation that holds
// the trace, the values of all headers and the response writer.
type exchange struct {
	caddyhttp.ResponseWriterWrapper

	trace  core.Trace
	values [6]string
	header string
	silent bool
	wrote  bool
}

// setRequest sets the trace headers on the request to the upstream.
func (x *exchange) setRequest(header http.Header) {
	t := &x.trace
	x.values = [...]string{t.Traceparent(), t.State, t.TraceID, t.RequestID, t.TraceID, t.RequestID}
	header[core.HeaderTraceparent] = x.values[0:1:1]
	if t.State != "" {
		header[core.HeaderTracestate] = x.values[1:2:2]
	} else {
		delete(header, core.HeaderTracestate)
	}
	if x.header != core.HeaderTraceID {
		sanitize.Delete(header, x.header)
		delete(header, core.HeaderTraceID)
	}
	header[x.header] = x.values[2:3:3]
	header[core.HeaderRequestID] = x.values[3:4:4]
}

// beforeHeader sets the ids in the response header if it has not been sent.
// It waits until then because reverse_proxy adds the upstream's headers to those
// that exist.
func (x *exchange) beforeHeader() {
	if x.wrote {
		return
	}
	header := x.Header()
	if x.silent {
		delete(header, x.header)
		delete(header, core.HeaderRequestID)
		return
	}
	header[x.header] = x.values[4:5:5]
	header[core.HeaderRequestID] = x.values[5:6:6]
}

// WriteHeader sends the header with our ids.
func (x *exchange) WriteHeader(status int) {
	x.beforeHeader()
	x.wrote = x.wrote || status >= 200 || status == http.StatusSwitchingProtocols
	x.ResponseWriter.WriteHeader(status)
}

// Write writes a part of the body.
func (x *exchange) Write(p []byte) (int, error) {
	x.beforeHeader()
	x.wrote = true
	return x.ResponseWriter.Write(p)
}

// ReadFrom implements [io.ReaderFrom], which saves copies of large bodies.
func (x *exchange) ReadFrom(r io.Reader) (int64, error) {
	x.beforeHeader()
	x.wrote = true
	return x.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError sends what is buffered; [http.ResponseController] calls it.
func (x *exchange) FlushError() error {
	x.beforeHeader()
	x.wrote = true
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// placeholder returns the value of a placeholder of this module.
func (x *exchange) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.trace.")
	if !ok {
		return nil, false
	}
	switch name {
	case "id":
		return x.trace.TraceID, true
	case "span_id":
		return x.trace.SpanID, true
	case "request_id":
		return x.trace.RequestID, true
	case "traceparent":
		return x.trace.Traceparent(), true
	case "client_trace_id":
		return x.trace.ClientTraceID, true
	default:
		return nil, false
	}
}

// parseTrust returns the ranges that values name, or all.
func parseTrust(values []string) (all bool, ranges []netip.Prefix, err error) {
	if len(values) == 0 {
		values = []string{"private_ranges"}
	}
	if len(values) > 1 && (slices.Contains(values, "all") || slices.Contains(values, "none")) {
		return false, nil, fmt.Errorf("trust is %q, but all and none stand alone", strings.Join(values, " "))
	}
	for _, value := range values {
		switch value {
		case "all":
			return true, nil, nil
		case "none":
			return false, nil, nil
		case "private_ranges":
			for _, private := range caddyhttp.PrivateRangesCIDR() {
				prefix, err := caddyhttp.CIDRExpressionToPrefix(private)
				if err != nil {
					return false, nil, err
				}
				ranges = append(ranges, prefix)
			}
		default:
			prefix, err := caddyhttp.CIDRExpressionToPrefix(value)
			if err != nil {
				return false, nil, fmt.Errorf("trust has %q, want private_ranges, all, none, an IP address or a CIDR range", value)
			}
			ranges = append(ranges, prefix)
		}
	}
	return false, ranges, nil
}

// parseHeader returns the canonical name of the header for the trace id.
func parseHeader(name string) (string, error) {
	if name == "" {
		return core.HeaderTraceID, nil
	}
	if !httpguts.ValidHeaderFieldName(name) || strings.ContainsAny(name, "_.") {
		return "", fmt.Errorf("header is %q, want a header name without _ and dots", name)
	}
	canonical := http.CanonicalHeaderKey(name)
	probe := http.Header{canonical: nil}
	sanitize.Headers(probe)
	if len(probe) == 0 || slices.Contains(reservedHeaders, canonical) {
		return "", fmt.Errorf("header is %q, which has another meaning; want a name of its own, such as X-Trace-Id", name)
	}
	return canonical, nil
}

// reservedHeaders can't carry the trace id, besides those that sanitize deletes.
var reservedHeaders = []string{
	core.HeaderTraceparent, core.HeaderTracestate, core.HeaderRequestID,
	"Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Cookie",
	"Host", "Keep-Alive", "Location", "Set-Cookie", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Www-Authenticate",
	"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
	_ http.ResponseWriter         = (*exchange)(nil)
	_ io.ReaderFrom               = (*exchange)(nil)
)
