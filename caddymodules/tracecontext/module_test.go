package tracecontext_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/caddymodules/tracecontext"
)

func provisioned(t testing.TB, h *tracecontext.Handler) *tracecontext.Handler {
	t.Helper()
	require.NoError(t, h.Provision(caddy.Context{Context: t.Context()}))
	return h
}

// prepared returns a request as Caddy hands it to handlers.
func prepared(w http.ResponseWriter) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
}

func TestErrorsKeepTheirStatusAndCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for name, test := range map[string]struct {
		err    error
		status int
	}{
		"a plain error is a 500":            {cause, http.StatusInternalServerError},
		"a handler error keeps its status":  {caddyhttp.Error(http.StatusForbidden, cause), http.StatusForbidden},
		"a wrapped handler error is found":  {errors.Join(caddyhttp.Error(http.StatusTeapot, cause)), http.StatusTeapot},
		"a handler error without id is too": {caddyhttp.HandlerError{StatusCode: http.StatusGone, Err: cause}, http.StatusGone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			r := prepared(w)
			err := provisioned(t, &tracecontext.Handler{}).ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
				return test.err
			}))
			var he caddyhttp.HandlerError
			require.ErrorAs(t, err, &he)
			require.ErrorIs(t, err, cause)
			require.Equal(t, test.status, he.StatusCode)
			require.Equal(t, gateway.Trace(r.Context()).TraceID, he.ID)
		})
	}
}

// TestTheResponseIsOursHoweverItIsWritten covers every way to send the header.
func TestTheResponseIsOursHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(w http.ResponseWriter) error{
		"WriteHeader": func(w http.ResponseWriter) error { w.WriteHeader(http.StatusNoContent); return nil },
		"Write":       func(w http.ResponseWriter) error { _, err := w.Write([]byte("x")); return err },
		"ReadFrom": func(w http.ResponseWriter) error {
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("x"))
			return err
		},
		"Flush": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			r := prepared(w)
			err := provisioned(t, &tracecontext.Handler{}).ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Add("X-Trace-Id", "upstream")
				w.Header().Add("X-Request-Id", "upstream")
				return write(w)
			}))
			require.NoError(t, err)
			trace := gateway.Trace(r.Context())
			header := w.Result().Header
			require.Equal(t, []string{trace.TraceID}, header["X-Trace-Id"])
			require.Equal(t, []string{trace.RequestID}, header["X-Request-Id"])
		})
	}
}

func TestRequestAndResponseShareNoMemory(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	r := prepared(w)
	require.NoError(t, provisioned(t, &tracecontext.Handler{}).ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		r.Header["X-Trace-Id"][0] = "changed" // as Caddy's header replacements do
		r.Header.Add("X-Trace-Id", "appended")
		w.WriteHeader(http.StatusOK)
		return nil
	})))
	trace := gateway.Trace(r.Context())
	require.Equal(t, []string{trace.TraceID}, w.Header()["X-Trace-Id"])
	require.Equal(t, []string{trace.RequestID}, r.Header["X-Request-Id"])
}

func TestCaddysHandlerContractWithoutAServer(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "/", nil) // no variables, no replacer, no log fields
	w := httptest.NewRecorder()
	require.NoError(t, provisioned(t, &tracecontext.Handler{}).ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })))
	require.NotEmpty(t, r.Header.Get("traceparent"))
}

func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"", "{\n}", "{\ntrust private_ranges 10.0.0.0/8\nheader X-A\nresponse off\nsampled 0.5\n}", "{\ntrust all\ntrust none\n}",
		"on", "{\ntrust {\n}\n}", "{\nsampled -1\n}", "{\nheader \"\"\n}", "{\nresponse\n}", "{", "}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, block string) {
		tokens, err := caddyfile.Tokenize([]byte("trace_context "+block), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			t.Skip("not a Caddyfile")
		}
		h := new(tracecontext.Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			require.Contains(t, err.Error(), "Caddyfile:", "an error names file and line")
			return
		}
		require.NoError(t, h.Provision(caddy.Context{Context: t.Context()}), "what the Caddyfile accepts can be provisioned")
	})
}

func BenchmarkServeHTTP(b *testing.B) {
	header := http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Accept-Language": {"de"}, "Authorization": {"Bearer x"}, "Connection": {"keep-alive"},
		"Content-Type": {"application/json"}, "Cookie": {"a=b"}, "User-Agent": {"bench"}, "X-Forwarded-For": {"10.0.0.1"},
	}
	for name, test := range map[string]struct {
		client string
		header http.Header
	}{
		"new":             {"198.51.100.7", nil},
		"continued":       {"10.0.0.1", http.Header{"Traceparent": {clientParent}}},
		"with tracestate": {"10.0.0.1", http.Header{"Traceparent": {clientParent}, "Tracestate": {"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"}}},
	} {
		b.Run(name, func(b *testing.B) {
			h := provisioned(b, &tracecontext.Handler{})
			w := httptest.NewRecorder()
			r := prepared(w)
			for _, lines := range []http.Header{header, test.header} {
				for name, values := range lines {
					r.Header[name] = values
				}
			}
			vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
			vars[caddyhttp.ClientIPVarKey] = test.client
			extra := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			fresh := *repl
			next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
			b.ReportAllocs()
			for b.Loop() {
				delete(vars, "tenantgate.trace")
				*extra = caddyhttp.ExtraLogFields{}
				*repl = fresh
				for name, values := range test.header {
					r.Header[name] = values
				}
				if err := h.ServeHTTP(w, r, next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
