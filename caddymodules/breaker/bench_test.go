package breaker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/breaker"
)

// instant answers without a network.
type instant struct{ status int }

func (i instant) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: i.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody,
	}, nil
}

// BenchmarkProxy compares reverse_proxy as it is with reverse_proxy behind a
// breaker; the network is left out.
func BenchmarkProxy(b *testing.B) {
	for _, transport := range []string{"http", "breaker"} {
		for _, upstreams := range []int{1, 3} {
			b.Run(fmt.Sprintf("%s, %d upstreams", transport, upstreams), func(b *testing.B) {
				serve := benchProxy(b, transport, upstreams, http.StatusOK)
				b.ReportAllocs()
				for b.Loop() {
					if err := serve(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
	b.Run("breaker, open", func(b *testing.B) {
		serve := benchProxy(b, "breaker", 1, http.StatusInternalServerError)
		for range 3 {
			require.NoError(b, serve())
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := serve(); err == nil {
				b.Fatal("not refused")
			}
		}
	})
}

// benchName gives every run circuits of its own: nothing takes these proxies down.
var benchName atomic.Int64

func benchProxy(b *testing.B, transport string, upstreams, status int) (serve func() error) {
	b.Helper()
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
	})
	require.NoError(b, err)
	config := `{"transport":{"protocol":"http"},"upstreams":[`
	if transport == "breaker" {
		name := fmt.Sprint("bench", benchName.Add(1))
		config = fmt.Sprintf(`{"transport":{"protocol":"breaker","name":%q},"load_balancing":{"selection_policy":{"policy":"breaker","name":%q}},"upstreams":[`, name, name)
	}
	for i := range upstreams {
		if i > 0 {
			config += ","
		}
		config += fmt.Sprintf(`{"dial":"10.0.0.%d:80"}`, i+1)
	}
	module, err := ctx.LoadModuleByID("http.handlers.reverse_proxy", json.RawMessage(config+"]}"))
	require.NoError(b, err)
	proxy := module.(*reverseproxy.Handler)
	switch t := proxy.Transport.(type) {
	case *reverseproxy.HTTPTransport:
		t.Transport.RegisterProtocol("http", instant{status})
	case *breaker.Transport:
		t.Transport.RegisterProtocol("http", instant{status})
	}
	handler := caddyhttp.MiddlewareHandler(proxy)
	request := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	return func() error {
		w := httptest.NewRecorder()
		w.Body = nil
		r := caddyhttp.PrepareRequest(request, caddy.NewReplacer(), w, &caddyhttp.Server{})
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return handler.ServeHTTP(w, r, nil)
		})
		if transport == "breaker" {
			return breaker.Handler{}.ServeHTTP(w, r, next)
		}
		return next(w, r)
	}
}
