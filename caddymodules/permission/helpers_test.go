package permission_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/caddymodules/permission"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// demo: tenant 1 with ann (Admin), ed (Editor: read, write) and vic (Viewer:
// read); tenant 2 with gil (Admin) and ann (Viewer); tenant 3 suspended, with ian.
var demo = []string{
	`INSERT INTO tenants (id, name, status, created_at, updated_at) VALUES (1, 'acme', 'active', 1, 1), (2, 'globex', 'active', 1, 1), (3, 'initech', 'suspended', 1, 1)`,
	`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('ann', 'ann', 'ann', 1, 1), ('ed', 'ed', 'ed', 1, 1), ('vic', 'vic', 'vic', 1, 1), ('gil', 'gil', 'gil', 1, 1), ('ian', 'ian', 'ian', 1, 1)`,
	`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 1, 1)`,
	`INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (1, 1, 'dashboard', 1, 1)`,
	`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (11, 1, 'Admin', 1, 1), (12, 1, 'Editor', 1, 1), (13, 1, 'Viewer', 1, 1), (21, 2, 'Admin', 1, 1), (23, 2, 'Viewer', 1, 1), (31, 3, 'Admin', 1, 1)`,
	`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'ann', 11, 1, 1), (1, 'ed', 12, 1, 1), (1, 'vic', 13, 1, 1), (2, 'gil', 21, 1, 1), (2, 'ann', 23, 1, 1), (3, 'ian', 31, 1, 1)`,
	`INSERT INTO role_feature_permissions (role_id, feature_id, action) SELECT r.id, 1, a.value FROM roles r, json_each('["read","write","delete"]') a
		WHERE r.name = 'Admin' OR a.value = 'read' OR r.name = 'Editor' AND a.value = 'write'`,
}

// newDatabase makes a migrated SQLite file with the demo table.
func newDatabase(tb testing.TB) (*database.DB, string) {
	tb.Helper()
	url := "sqlite://" + filepath.Join(tb.TempDir(), "t.db")
	db, err := database.Open(tb.Context(), url, clock.System{})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	require.NoError(tb, db.Migrate(tb.Context()))
	change(tb, db, demo...)
	return db, url
}

// change runs statements and makes gateways read everything again.
func change(tb testing.TB, db *database.DB, statements ...string) {
	tb.Helper()
	require.NoError(tb, db.InTx(context.Background(), func(tx *database.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		return core.TouchCatalogue(context.Background(), tx)
	}))
}

// newTable returns a running table of the demo database.
func newTable(tb testing.TB, settings core.Settings) (*core.Table, *database.DB) {
	tb.Helper()
	db, url := newDatabase(tb)
	return runTable(tb, url, settings), db
}

func runTable(tb testing.TB, url string, settings core.Settings) *core.Table {
	tb.Helper()
	table, err := core.New(url, settings, clock.System{})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		table.Run(ctx)
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
		require.NoError(tb, table.Close())
	})
	<-table.Attempted()
	return table
}

// logs collects log lines.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// take returns the lines so far without their time, and forgets them.
func (l *logs) take(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []map[string]any
	decoder := json.NewDecoder(&l.buf)
	for decoder.More() {
		var line map[string]any
		require.NoError(t, decoder.Decode(&line))
		delete(line, "time")
		lines = append(lines, line)
	}
	l.buf.Reset()
	return lines
}

// outcome is what became of one request.
type outcome struct {
	status   int
	problem  *problem.Error // nil if the request passed
	header   http.Header    // of the response
	upstream http.Header    // what the next handler saw, nil if it saw nothing
	who      *identity.Principal
	repl     *caddy.Replacer
}

func (o outcome) code() string {
	if o.problem == nil {
		return ""
	}
	return o.problem.Code
}

// request makes a request as Caddy hands it to handlers. who may be nil.
func request(method, target string, who *identity.Principal, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Method, r.RequestURI = method, target
	if u, err := r.URL.Parse(target); err == nil {
		r.URL = u
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header[headers[i]] = append(r.Header[headers[i]], headers[i+1])
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
	if who != nil {
		gateway.SetPrincipal(r.Context(), who)
		r.Header.Set("X-User-Id", who.UserID)
		r.Header.Set("X-Tenant-Id", who.TenantID)
		r.Header.Set("X-Roles", strings.Join(who.Roles, ","))
	}
	return r
}

// serve hands a request to h.
func serve(t require.TestingT, h *permission.Handler, r *http.Request) outcome {
	var o outcome
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		o.upstream = r.Header.Clone()
		o.who = gateway.Principal(r.Context())
		return nil
	}))
	o.header, o.status = w.Header(), http.StatusOK
	o.repl, _ = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if err == nil {
		require.NotNil(t, o.upstream, "neither refused nor passed on")
		return o
	}
	require.Nil(t, o.upstream, "refused and passed on")
	var he caddyhttp.HandlerError
	require.ErrorAs(t, err, &he)
	o.status = he.StatusCode
	require.ErrorAs(t, err, &o.problem)
	require.Equal(t, o.status, o.problem.Status)
	return o
}

func user(id, tenant string, roles ...string) *identity.Principal {
	return &identity.Principal{UserID: id, TenantID: tenant, Roles: roles, ExpiresAt: time.Unix(1<<40, 0)}
}

func dashboard(table *core.Table) *permission.Handler {
	h := &permission.Handler{Product: "abc", Feature: "dashboard"}
	h.Start(table, slog.New(slog.DiscardHandler))
	return h
}
