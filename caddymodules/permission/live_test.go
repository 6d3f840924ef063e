package permission_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	_ "github.com/tenantgate/tenantgate/caddymodules/problem"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

func init() {
	caddy.RegisterModule(fakeAuth{})
	caddy.RegisterModule(echo{})
	httpcaddyfile.RegisterHandlerDirective("fake_auth", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return fakeAuth{}, nil })
	caddy.RegisterModule(echoIdentity{})
	httpcaddyfile.RegisterHandlerDirective("echo_identity", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return echoIdentity{}, nil })
	httpcaddyfile.RegisterHandlerDirective("echo", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return echo{}, nil })
}

// fakeAuth stands for jwt_auth: the header Test-User is "<user>@<tenant>", and
// Test-Roles are the claimed roles between "|".
type fakeAuth struct{}

func (fakeAuth) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.fake_auth", New: func() caddy.Module { return new(fakeAuth) }}
}

func (fakeAuth) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if user, tenant, ok := strings.Cut(r.Header.Get("Test-User"), "@"); ok {
		who := &identity.Principal{UserID: user, TenantID: tenant, Seat: new(identity.Seat)}
		if roles := r.Header.Get("Test-Roles"); roles != "" {
			who.Roles = strings.Split(roles, "|")
		}
		gateway.SetPrincipal(r.Context(), who)
	}
	return next.ServeHTTP(w, r)
}

// echo answers with X-Permission.
type echo struct{}

func (echo) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.echo", New: func() caddy.Module { return new(echo) }}
}

func (echo) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	_, err := io.WriteString(w, r.Header.Get("X-Permission"))
	return err
}

// echoIdentity stands for a backend: it answers with the headers that say who is
// calling.
type echoIdentity struct{}

func (echoIdentity) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.echo_identity", New: func() caddy.Module { return new(echoIdentity) }}
}

func (echoIdentity) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	for _, name := range identityHeaders {
		w.Header()[name] = r.Header.Values(name)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// gate is a running Caddy.
type gate struct {
	url      string
	log      string
	listen   string
	snippets string // of the Caddyfile
}

// startGate runs Caddy with the given database and directives behind
// fake_auth. Only one Caddy runs in a process: such tests are not parallel.
func startGate(t *testing.T, database, directives string) *gate {
	t.Helper()
	g := newGate(t)
	g.load(t, database, "poll 20ms", directives)
	return g
}

// newGate makes room for a Caddy, which the test's end stops.
func newGate(t *testing.T) *gate {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	return &gate{log: filepath.Join(t.TempDir(), "caddy.log")}
}

// load loads a configuration, the first or a further one.
func (g *gate) load(t *testing.T, database, permissions, directives string) {
	t.Helper()
	require.NoError(t, g.tryLoad(t, database, permissions, directives))
	g.find(t)
}

// loadSite is load with all of a site's directives.
func (g *gate) loadSite(t *testing.T, database, permissions, site string) {
	t.Helper()
	require.NoError(t, g.tryLoadSite(t, database, permissions, site))
	g.find(t)
}

// find notes where the running Caddy listens.
func (g *gate) find(t *testing.T) {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	g.url = "http://" + app.(*caddyhttp.App).Servers["srv0"].Listeners()[0].Addr().String()
}

func (g *gate) tryLoad(t *testing.T, database, permissions, directives string) error {
	t.Helper()
	return g.tryLoadSite(t, database, permissions, "fake_auth\n"+directives+"\necho")
}

// tryLoadSite is tryLoad with all of a site's directives but log and handle_errors.
func (g *gate) tryLoadSite(t *testing.T, database, permissions, site string) error {
	t.Helper()
	option := ""
	if database != "" {
		option = "database " + database
	}
	input := fmt.Sprintf(`{
		admin off
		persist_config off
		order fake_auth before check_permission
		order echo after handle
		order echo_identity after handle
		tenantgate {
			%s
			permissions {
				%s
			}
		}
		log {
			output file %s
			level DEBUG
		}
	}
	%s
	http://127.0.0.1:9080 {
		log
		%s
		handle_errors {
			problem_details
		}
	}`, option, permissions, g.log, g.snippets, site)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	require.NoError(t, err)
	return caddy.Load(bytes.ReplaceAll(adapted, []byte(`":9080"`), []byte(`"`+cmp.Or(g.listen, "127.0.0.1:0")+`"`)), true)
}

// ask sends a request as "<user>@<tenant>" and returns status, header and body.
func (g *gate) ask(t *testing.T, method, who string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, g.url+"/", nil)
	require.NoError(t, err)
	r.Host = "127.0.0.1:9080"
	r.Header.Set("Test-User", who)
	r.Close = true
	response, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header, string(body)
}

func (g *gate) status(t *testing.T, method, who string) int {
	t.Helper()
	status, _, _ := g.ask(t, method, who)
	return status
}

// lines returns the log lines with the given message.
func (g *gate) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	content, err := os.ReadFile(g.log)
	require.NoError(t, err)
	var found []map[string]any
	for line := range bytes.Lines(content) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil && fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}

func TestTheGatewayDecidesFromTheDatabase(t *testing.T) {
	db, url := newDatabase(t)
	g := startGate(t, url, "check_permission abc dashboard")

	status, _, body := g.ask(t, "GET", "vic@1")
	require.Equal(t, 200, status, "the table is there as soon as the configuration is")
	require.Equal(t, "abc/dashboard/read", body)

	status, header, body := g.ask(t, "POST", "vic@1")
	require.Equal(t, 403, status)
	require.Equal(t, "application/problem+json", header.Get("Content-Type"))
	require.Equal(t, `Bearer error="insufficient_scope", scope="abc/dashboard/write"`, header.Get("WWW-Authenticate"))
	var problem map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &problem))
	require.Equal(t, map[string]any{
		"type": "urn:tenantgate:problem:permission-denied", "code": "permission-denied", "title": "Forbidden", "status": 403.0,
		"detail":     "Your role in this tenant does not have the permission abc/dashboard/write.",
		"permission": "abc/dashboard/write", "reason": "role_lacks_action", "tenant_id": "1",
	}, problem)

	status, header, _ = g.ask(t, "GET", "")
	require.Equal(t, 401, status)
	require.Equal(t, "Bearer", header.Get("WWW-Authenticate"))

	// A revoked right is refused, a new one granted, within a poll.
	change(t, db, `DELETE FROM role_feature_permissions WHERE role_id = 13`, `INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (13, 1, 'write')`)
	require.Eventually(t, func() bool { return g.status(t, "GET", "vic@1") == 403 && g.status(t, "POST", "vic@1") == 200 }, 10*time.Second, 5*time.Millisecond)

	var denial map[string]any
	require.Eventually(t, func() bool {
		for _, line := range g.lines(t, "handled request") {
			if line["status"] == 403.0 {
				denial = line
			}
		}
		return denial != nil
	}, 10*time.Second, 5*time.Millisecond)
	require.Contains(t, denial["permission"], "abc/dashboard/")
	line := g.lines(t, "permission denied")[0]
	require.Equal(t, "info", line["level"])
	require.Equal(t, "http.handlers.check_permission", line["logger"])
	require.Equal(t, "vic", line["user_id"])
	require.Equal(t, "1", line["tenant_id"])
	require.Equal(t, "abc/dashboard/write", line["permission"])
	require.Equal(t, "role_lacks_action", line["reason"])
	require.InDelta(t, 3, g.lines(t, "permission table loaded")[0]["tenants"], 0)
}

func TestTheDatabaseMayComeLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later.db")
	g := startGate(t, "sqlite://"+path, "check_permission abc dashboard")
	status, header, body := g.ask(t, "GET", "vic@1")
	require.Equal(t, 503, status)
	require.Equal(t, "1", header.Get("Retry-After"))
	require.Contains(t, body, "permissions-not-loaded")
	require.NoFileExists(t, path)

	db, err := database.Open(t.Context(), "sqlite://"+path, clock.System{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, db.Migrate(t.Context()))
	change(t, db, demo...)
	require.Eventually(t, func() bool { return g.status(t, "GET", "vic@1") == 200 }, 10*time.Second, 5*time.Millisecond)
}

func TestWithoutADatabaseTheConfigurationIsRefused(t *testing.T) {
	g := &gate{log: filepath.Join(t.TempDir(), "caddy.log")}
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	err := g.tryLoad(t, "", "poll 1s", "check_permission abc dashboard")
	require.ErrorContains(t, err, `check_permission abc dashboard: no database is configured: add "database sqlite://<file>" or "database postgres://`)
}

func TestReloadsKeepTheTableAndLeakNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { // Caddy never closes its log files
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"), goleak.IgnoreTopFunction("github.com/DeRuina/timberjack.(*Logger).millRun"))
	})
	db, url := newDatabase(t)
	g := startGate(t, url, "check_permission abc dashboard")
	loads := len(g.lines(t, "permission table loaded"))
	for i := range 20 {
		// Each configuration differs, the poll interval too.
		g.load(t, url, fmt.Sprintf("poll %dms", 20+i), fmt.Sprintf(`check_permission abc dashboard
			permission_answers /me
			authorize /authorize {
				fake_auth
				check_permission abc dashboard
			}
			header X-Generation %d`, i))
		require.Equal(t, 200, g.status(t, "GET", "vic@1"), "reload %d", i)
	}
	// A configuration that fails half-way leaves nothing of itself.
	address := strings.TrimPrefix(g.url, "http://")
	occupied, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer occupied.Close()
	g.listen = occupied.Addr().String()
	require.Error(t, g.tryLoad(t, url, "poll 1h", "check_permission abc dashboard"))
	require.Equal(t, "http://"+address, g.url)
	require.Equal(t, 200, g.status(t, "GET", "vic@1"))
	require.Len(t, g.lines(t, "permission table loaded"), loads, "no reload read the table again")

	change(t, db, `DELETE FROM role_feature_permissions`)
	require.Eventually(t, func() bool { return g.status(t, "GET", "vic@1") == 403 }, 10*time.Second, 5*time.Millisecond)
}

func TestADatabaseThatGoesAwayIsNotMissed(t *testing.T) {
	db, url := newDatabase(t)
	path := strings.TrimPrefix(url, "sqlite://")
	g := startGate(t, url, "check_permission abc dashboard")
	require.NoError(t, db.Close())
	require.NoError(t, os.Rename(path, path+".away"))
	require.Eventually(t, func() bool { return len(g.lines(t, "permission table lost: deciding from the last one")) == 1 }, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, 200, g.status(t, "GET", "vic@1"))
	require.Equal(t, 403, g.status(t, "POST", "vic@1"))

	// A reload without the database keeps the table too; with max_stale it ends.
	g.load(t, url, "poll 10ms\nmax_stale 30ms", "check_permission abc dashboard")
	require.Eventually(t, func() bool { return g.status(t, "GET", "vic@1") == 503 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, os.Rename(path+".away", path))
	require.Eventually(t, func() bool { return g.status(t, "GET", "vic@1") == 200 }, 10*time.Second, 5*time.Millisecond)
	require.Len(t, g.lines(t, "permission table lost: deciding from the last one"), 1)
}
