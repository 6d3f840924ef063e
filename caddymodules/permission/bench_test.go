package permission_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
)

// BenchmarkServeHTTP is the handler on a usual request: allowed, and denied.
func BenchmarkServeHTTP(b *testing.B) {
	table, _ := newTable(b, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for name, method := range map[string]string{"allowed": "GET", "denied": "POST"} {
		b.Run(name, func(b *testing.B) {
			who := user("vic", "1")
			who.Seat = new(identity.Seat)
			r := request(method, "/api/dashboard/17", who,
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

// BenchmarkAnswers is what a user interface asks, of a table with a thousand
// permissions that the user has: everything anew, the same again, and a check of
// them all.
func BenchmarkAnswers(b *testing.B) {
	db, url := newDatabase(b)
	change(b, db, `WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 334)
		INSERT INTO features (id, product_id, name, created_at, updated_at) SELECT i, 1, 'feature-' || i, 1, 1 FROM n`,
		`INSERT INTO role_wildcards (role_id, product_id) VALUES (11, 1)`)
	a := newAnswers(runTable(b, url, core.Settings{Poll: time.Hour}), "", "")
	first := askAnswers(b, a, request("GET", "/me", user("ann", "1")))
	require.Equal(b, 200, first.status)
	var me struct{ Permissions []string }
	require.NoError(b, json.Unmarshal([]byte(first.body), &me))
	body, err := json.Marshal(map[string]any{"permissions": me.Permissions[:1000]})
	require.NoError(b, err)
	b.Run("me", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.Equal(b, 200, askAnswers(b, a, request("GET", "/me", user("ann", "1"))).status)
		}
	})
	b.Run("me not modified", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.Equal(b, 304, askAnswers(b, a, request("GET", "/me", user("ann", "1"), "If-None-Match", first.header.Get("ETag"))).status)
		}
	})
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.Equal(b, 200, check(b, a, user("ann", "1"), "application/json", string(body)).status)
		}
	})
}
