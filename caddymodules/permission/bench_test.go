package permission_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	core "github.com/tenantgate/tenantgate/internal/permission"
)

// BenchmarkServeHTTP is the handler on a usual request: allowed, and denied.
func BenchmarkServeHTTP(b *testing.B) {
	table, _ := newTable(b, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for name, method := range map[string]string{"allowed": "GET", "denied": "POST"} {
		b.Run(name, func(b *testing.B) {
			r := request(method, "/api/dashboard/17", user("vic", "1"),
				"Accept", "*/*", "Accept-Encoding", "gzip", "Authorization", "Bearer x", "User-Agent", "bench", "Traceparent", "x", "X-Trace-Id", "x")
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				err := h.ServeHTTP(w, r, next)
				if (err == nil) != (method == "GET") {
					require.NoError(b, err)
				}
			}
		})
	}
}
