// Package server is the HTTP frame that every backend shares: it continues the
// trace, knows the caller that the gateway named, writes one access line per
// request and turns returned errors into problem+json.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/sanitize"
	"github.com/tenantgate/tenantgate/internal/secret"
	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

// Handler answers a request or returns an error. A [problem.Error] is shown to
// the client; any other error is logged and becomes a 500 that says nothing.
// A handler that returns an error must not have written anything.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Config is what a [Router] needs.
type Config struct {
	// Log gets the access lines; it carries the service's name.
	Log *zap.Logger
	// GatewaySecret, if not empty, must come with every request in
	// X-Gateway-Secret: identity headers are believed only from the gateway.
	GatewaySecret secret.String
	// Clock measures the time of a request.
	Clock clock.Clock
}

// Router routes requests by the exact patterns of http.ServeMux.
type Router struct {
	config   Config
	mux      *http.ServeMux
	patterns []string
}

// NewRouter returns a router without routes.
func NewRouter(config Config) *Router {
	return &Router{config: config, mux: http.NewServeMux()}
}

// Handle registers h for requests from the gateway. A pattern that ends in
// "/{$}" also answers without the slash.
func (rt *Router) Handle(pattern string, h Handler) {
	rt.Public(pattern, func(w http.ResponseWriter, r *http.Request) error {
		if want := rt.config.GatewaySecret; want != "" && !want.Equal(r.Header.Get(sanitize.HeaderGatewaySecret)) {
			return problem.New(http.StatusForbidden, "not-from-gateway", "This service answers the gateway only.")
		}
		return h(w, r)
	})
}

// Public registers h for requests from anybody who reaches the service, with
// or without the gateway's secret. It is for keys and health, never for data.
func (rt *Router) Public(pattern string, h Handler) {
	rt.patterns = append(rt.patterns, pattern)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state(r.Context()).err = h(w, r)
	})
	rt.mux.Handle(pattern, handler)
	if bare, ok := strings.CutSuffix(pattern, "/{$}"); ok {
		rt.mux.Handle(bare, handler)
	}
}

// Patterns returns what was registered, in that order, so that a test can hold
// the API's description against it.
func (rt *Router) Patterns() []string { return slices.Clone(rt.patterns) }

// requestState is what the frame knows of one request.
type requestState struct {
	trace tracecontext.Trace
	log   *zap.Logger
	err   error
}

type stateKey struct{}

func state(ctx context.Context) *requestState {
	s, _ := ctx.Value(stateKey{}).(*requestState)
	return s
}

// ServeHTTP implements http.Handler.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := rt.config.Clock.Now()
	s := &requestState{trace: tracecontext.Start(r.Header, tracecontext.Options{Trusted: true, KeepRequestID: true})}
	s.log = rt.config.Log.With(traceFields(s.trace, r.Header)...)
	r = r.WithContext(context.WithValue(r.Context(), stateKey{}, s))
	rec := &recorder{ResponseWriter: w}
	rec.Header().Set(sanitize.HeaderTraceID, s.trace.TraceID)

	rt.serve(rec, r, s)
	if s.err != nil {
		e := problem.From(s.err)
		if rec.status == 0 {
			_ = e.Write(rec, s.trace.TraceID) // the client is gone if this fails
		}
	}
	rt.logRequest(s, r, rec, rt.config.Clock.Now().Sub(start))
}

// serve runs the route's handler. A panic becomes the request's error.
func (rt *Router) serve(w http.ResponseWriter, r *http.Request, s *requestState) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(cause) // net/http's own way to drop a connection
		}
		s.log.Error("panic", zap.Any("panic", cause), zap.ByteString("stack", debug.Stack()))
		s.err = fmt.Errorf("panic: %v", cause)
	}()
	handler, pattern := rt.mux.Handler(r)
	if pattern == "" {
		s.err = unrouted(handler, r)
		return
	}
	rt.mux.ServeHTTP(w, r)
}

// unrouted turns ServeMux's plain-text 404 or 405 into a problem.
func unrouted(handler http.Handler, r *http.Request) error {
	probe := &recorder{ResponseWriter: discard{header: http.Header{}}}
	handler.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		e := problem.New(http.StatusMethodNotAllowed, "method-not-allowed", "This path does not answer "+r.Method+".")
		e.Header = http.Header{"Allow": {probe.Header().Get("Allow")}}
		return e
	}
	return problem.New(http.StatusNotFound, "not-found", "There is nothing at this path.")
}

func (rt *Router) logRequest(s *requestState, r *http.Request, rec *recorder, took time.Duration) {
	status := rec.status
	if status == 0 {
		status = http.StatusOK
	}
	level := zapcore.InfoLevel
	if status >= http.StatusInternalServerError {
		level = zapcore.ErrorLevel
	}
	line := s.log.Check(level, "handled request")
	if line == nil {
		return
	}
	fields := []zap.Field{
		zap.String("method", r.Method), zap.String("path", r.URL.EscapedPath()),
		zap.Int("status", status), zap.Int64("bytes", rec.bytes), zap.Duration("duration", took),
	}
	if s.err != nil {
		fields = append(fields, zap.String("error", s.err.Error()))
	}
	line.Write(fields...)
}

func traceFields(t tracecontext.Trace, h http.Header) []zap.Field {
	fields := []zap.Field{zap.Inline(&t)}
	for _, f := range [...]struct{ key, header string }{{"user_id", sanitize.HeaderUserID}, {"tenant_id", sanitize.HeaderTenantID}} {
		if value := h.Get(f.header); value != "" {
			fields = append(fields, zap.String(f.key, value))
		}
	}
	return fields
}

// Logger returns the request's logger: its lines carry the trace id, the
// user and the tenant.
func Logger(ctx context.Context) *zap.Logger {
	if s := state(ctx); s != nil {
		return s.log
	}
	return zap.NewNop()
}

// Trace returns the request's trace context.
func Trace(ctx context.Context) tracecontext.Trace {
	if s := state(ctx); s != nil {
		return s.trace
	}
	return tracecontext.Trace{}
}

// ClientIP returns the client's address as the gateway saw it: the first value
// of X-Forwarded-For, which the gateway sets, or else the peer's address. It is
// empty if neither is an address.
func ClientIP(r *http.Request) string {
	first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
	if ip := net.ParseIP(strings.TrimSpace(first)); ip != nil {
		return ip.String()
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	if ip := net.ParseIP(host); ip != nil {
		return ip.String()
	}
	return ""
}

// recorder notes the status and the size of a response.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader implements http.ResponseWriter.
func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 && status >= http.StatusOK {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(p)
	rec.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// discard is a response that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
