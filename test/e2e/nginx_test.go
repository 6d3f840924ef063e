package e2e

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// nginxTable is tenant 1 with vic, a Viewer of the product abc, and tenant 2
// with gil, who may do everything of it.
var nginxTable = []string{
	`INSERT INTO tenants (id, name, status, created_at, updated_at) VALUES (1, 'acme', 'active', 1, 1), (2, 'globex', 'active', 1, 1)`,
	`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('vic', 'vic', 'vic', 1, 1), ('gil', 'gil', 'gil', 1, 1)`,
	`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 1, 1)`,
	`INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (1, 1, 'dashboard', 1, 1), (2, 1, 'reports', 1, 1)`,
	`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (11, 1, 'Viewer', 1, 1), (21, 2, 'Admin', 1, 1)`,
	`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'vic', 11, 1, 1), (2, 'gil', 21, 1, 1)`,
	`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (11, 1, 'read'), (11, 2, 'read')`,
	`INSERT INTO role_wildcards (role_id, product_id) VALUES (21, 1)`,
}

// TestNginxAsksTenantgate runs examples/nginx: nginx in front of an application,
// and Tenantgate beside it.
func TestNginxAsksTenantgate(t *testing.T) {
	t.Parallel()
	n := startNginx(t)
	vic := []string{"Authorization", "Bearer " + n.token(t, "vic", "1")}

	t.Run("the application learns who is calling", func(t *testing.T) {
		answer := Call(t, http.MethodGet, n.url+"/api/dashboard/17?x=1", nil, append(vic,
			"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")...)
		require.Equal(t, http.StatusOK, answer.StatusCode, "%s", answer.Body)
		got := n.app.last()
		require.Equal(t, "/api/dashboard/17?x=1", got.RequestURI)
		require.Equal(t, []string{"vic"}, got.Header["X-User-Id"])
		require.Equal(t, []string{"1"}, got.Header["X-Tenant-Id"])
		require.Equal(t, []string{"Claimed"}, got.Header["X-Roles"])
		require.Equal(t, []string{"abc/dashboard/read"}, got.Header["X-Permission"])
		require.Equal(t, []string{"4bf92f3577b34da6a3ce929d0e0e4736"}, got.Header["X-Trace-Id"], "the client is on loopback, so its trace goes on")
		require.Contains(t, got.Header.Get("Traceparent"), "4bf92f3577b34da6a3ce929d0e0e4736")
	})

	t.Run("who is nobody gets 401, who may not 403", func(t *testing.T) {
		before := n.app.count()
		answer := Call(t, http.MethodGet, n.url+"/api/dashboard", nil)
		require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
		require.Equal(t, `Bearer realm="tenantgate"`, answer.Header.Get("WWW-Authenticate"))
		answer = Call(t, http.MethodGet, n.url+"/api/dashboard", nil, "Authorization", vic[1]+"x")
		require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
		require.Contains(t, answer.Header.Get("WWW-Authenticate"), "invalid_token")
		for method, path := range map[string]string{
			http.MethodPost: "/api/dashboard", http.MethodDelete: "/api/dashboard", http.MethodGet: "/api/unknown", http.MethodPut: "/api/", "PROPFIND": "/api/dashboard",
		} {
			answer := Call(t, method, n.url+path, nil, vic...)
			require.Equal(t, http.StatusForbidden, answer.StatusCode, "%s %s", method, path)
		}
		require.Equal(t, before, n.app.count())
	})

	t.Run("the method and the body are those of the request", func(t *testing.T) {
		gil := n.token(t, "gil", "2")
		answer := Call(t, http.MethodPost, n.url+"/api/reports", map[string]string{"a": "b"}, "Authorization", "Bearer "+gil)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.Equal(t, http.MethodPost, n.app.last().Method)
		require.JSONEq(t, `{"a": "b"}`, n.app.last().body)
		require.Equal(t, "abc/reports/write", n.app.last().Header.Get("X-Permission"))
	})

	t.Run("another tenant's path is refused", func(t *testing.T) {
		require.Equal(t, http.StatusOK, Call(t, http.MethodGet, n.url+"/api/orgs/1/reports", nil, vic...).StatusCode)
		require.Equal(t, http.StatusForbidden, Call(t, http.MethodGet, n.url+"/api/orgs/2/reports", nil, vic...).StatusCode)
	})

	t.Run("a client can't say who it is or what it asks for", func(t *testing.T) {
		lies := append(vic, "X-User-Id", "gil", "X-Tenant-Id", "2", "X-Roles", "Admin", "X-Permission", "abc/dashboard/delete", "X_User_Id", "gil",
			"X-Forwarded-Uri", "/api/dashboard", "X-Forwarded-Method", "GET", "X-Original-Url", "/api/dashboard", "X-Rewrite-Url", "/api/dashboard",
			"X-Http-Method-Override", "DELETE", "Connection", "X-User-Id, X-Tenant-Id")
		require.Equal(t, http.StatusOK, Call(t, http.MethodGet, n.url+"/api/dashboard", nil, lies...).StatusCode)
		got := n.app.last()
		require.Equal(t, []string{"vic"}, got.Header["X-User-Id"])
		require.Equal(t, []string{"1"}, got.Header["X-Tenant-Id"])
		require.Equal(t, []string{"Claimed"}, got.Header["X-Roles"])
		require.Equal(t, []string{"abc/dashboard/read"}, got.Header["X-Permission"])
		for _, name := range []string{"X-Forwarded-Uri", "X-Forwarded-Method", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "X_User_Id"} {
			require.NotContains(t, got.Header, name)
		}
		for _, path := range []string{"/api/unknown", "/api/orgs/2/reports"} {
			require.Equal(t, http.StatusForbidden, Call(t, http.MethodGet, n.url+path, nil, lies...).StatusCode, path)
		}
		require.Equal(t, http.StatusForbidden, Call(t, http.MethodPost, n.url+"/api/dashboard", nil, lies...).StatusCode)
		require.Equal(t, http.StatusNotFound, Call(t, http.MethodGet, n.url+"/_authorize", nil, lies...).StatusCode, "it is internal")
		require.Equal(t, http.StatusNotFound, Call(t, http.MethodGet, n.url+"/authorize", nil, lies...).StatusCode)
	})

	t.Run("a path that reads in two ways goes nowhere", func(t *testing.T) {
		before := n.app.count()
		for _, target := range []string{
			"/api/dashboard/../reports", "/api/x/%2e%2e/dashboard", "/api//dashboard", "//api/dashboard", "/api%2fdashboard", "/api/dashboard%2f..%2freports", "/api/dashboard;x=1",
			`/api/x\..\dashboard`, "/api/dashboard%5c..", "/api/dashboard%00", "/api/dashboard%252e%252e", "/api/dashboard#x", "/x/../api/dashboard", "/api/./dashboard",
			"http://elsewhere.example//api/dashboard",
		} {
			status := n.raw(t, "GET "+target+" HTTP/1.1\r\nHost: x\r\nAuthorization: "+vic[1]+"\r\nConnection: close\r\n\r\n")
			require.Contains(t, []int{http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound}, status, target)
		}
		require.Equal(t, before, n.app.count())
	})

	t.Run("to whatever host the question is addressed", func(t *testing.T) {
		for _, host := range []string{"elsewhere.example", "127.0.0.1", "localhost:9100"} {
			status := n.raw(t, "POST /api/dashboard HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 0\r\nAuthorization: "+vic[1]+"\r\nConnection: close\r\n\r\n")
			require.Equal(t, http.StatusForbidden, status, host)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.authorizer+"/nowhere", nil)
			require.NoError(t, err)
			r.Host = host
			resp, err := client.Do(r)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusForbidden, resp.StatusCode, "another path of the authorizer")
		}
	})

	t.Run("a right that is revoked is refused within a second", func(t *testing.T) {
		require.Equal(t, http.StatusOK, Call(t, http.MethodGet, n.url+"/api/reports", nil, vic...).StatusCode)
		n.change(t, `DELETE FROM role_feature_permissions WHERE role_id = 11 AND feature_id = 2`)
		began := time.Now()
		require.Eventually(t, func() bool {
			return Call(t, http.MethodGet, n.url+"/api/reports", nil, vic...).StatusCode == http.StatusForbidden
		}, secs(20), ms(10))
		t.Logf("refused after %v", time.Since(began))
		require.Equal(t, http.StatusOK, Call(t, http.MethodGet, n.url+"/api/dashboard", nil, vic...).StatusCode)
	})

	t.Run("without Tenantgate nothing passes", func(t *testing.T) {
		before := n.app.count()
		require.Equal(t, 0, n.tenantgate.Stop(t, syscall.SIGTERM))
		for range 5 {
			answer := Call(t, http.MethodGet, n.url+"/api/dashboard", nil, vic...)
			require.Contains(t, []int{http.StatusInternalServerError, http.StatusServiceUnavailable}, answer.StatusCode)
		}
		require.Equal(t, before, n.app.count())
	})
}

// nginxExample is examples/nginx, running.
type nginxExample struct {
	url, authorizer string
	tenantgate      *Process
	app             *nginxBackend
	db              *database.DB
	key             ed25519.PrivateKey
}

// startNginx runs the example on free ports.
func startNginx(t *testing.T) *nginxExample {
	t.Helper()
	program := "nginx"
	if path, err := exec.LookPath("/usr/sbin/nginx"); err == nil {
		program = path // Debian's is on root's PATH only
	}
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("TENANTGATE_REQUIRE_SERVICES") == "1" {
			require.FailNow(t, "nginx is not installed")
		}
		t.Skip("nginx is not installed")
	}
	n := &nginxExample{app: startNginxBackend(t)}
	databaseURL := dbtest.SQLite(t)
	n.db = dbtest.Open(t, databaseURL, clock.System{})
	n.change(t, nginxTable...)
	jwks := n.serveKeys(t)

	address := FreeAddress(t)
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	n.authorizer = "http://" + address
	n.tenantgate = Start(t, root, []string{
		"TENANTGATE_ADMIN=off", "DATABASE_URL=" + databaseURL, "JWKS_URL=" + jwks, "AUTHORIZE_PORT=" + port,
	}, filepath.Join(binaries, "tenantgate"), "run", "--config", "examples/nginx/Caddyfile")

	prefix := t.TempDir()
	conf, err := os.ReadFile(filepath.Join(root, "examples", "nginx", "nginx.conf"))
	require.NoError(t, err)
	front := FreeAddress(t)
	n.url = "http://" + front
	text := string(conf)
	for old, replacement := range map[string]string{"127.0.0.1:8080": front, "127.0.0.1:9100": address, "127.0.0.1:8000": n.app.address} {
		require.Equal(t, 1, strings.Count(text, old), old)
		text = strings.Replace(text, old, replacement, 1)
	}
	require.NoError(t, os.WriteFile(filepath.Join(prefix, "nginx.conf"), []byte(text), 0o600))
	process := Start(t, prefix, nil, program, "-p", prefix, "-e", "stderr", "-c", filepath.Join(prefix, "nginx.conf"), "-g", "daemon off; user root;")
	t.Cleanup(func() { // a master that is killed would leave its workers
		select {
		case <-process.done:
		default:
			process.Stop(t, syscall.SIGTERM)
		}
	})

	vic := "Bearer " + n.token(t, "vic", "1")
	require.Eventually(t, func() bool { // both listen, and the keys are there
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+"/api/dashboard", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", vic)
		resp, err := client.Do(r)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, secs(60), ms(20))
	return n
}

// serveKeys serves the key set of an issuer and returns its URL.
func (n *nginxExample) serveKeys(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	n.key = private
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "1", "x": base64.RawURLEncoding.EncodeToString(public),
	}}})
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(set)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/jwks.json"
}

// token returns an access token.
func (n *nginxExample) token(t *testing.T, user, tenant string) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "tenantgate", "aud": "tenantgate", "sub": user, "tenant_id": tenant, "roles": []string{"Claimed"},
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	token.Header["kid"] = "1"
	signed, err := token.SignedString(n.key)
	require.NoError(t, err)
	return signed
}

// change changes the permission table.
func (n *nginxExample) change(t *testing.T, statements ...string) {
	t.Helper()
	require.NoError(t, n.db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, statement := range statements {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return permission.TouchCatalogue(t.Context(), tx)
	}))
}

// raw sends a request that no client library would, and returns the status.
func (n *nginxExample) raw(t *testing.T, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(secs(30))))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// nginxBackend is the application behind nginx. It keeps the requests that
// it got.
type nginxBackend struct {
	address string

	mu       sync.Mutex
	requests []received
}

func startNginxBackend(t *testing.T) *nginxBackend {
	t.Helper()
	a := new(nginxBackend)
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.address = server.Listener.Addr().String()
	return a
}

func (a *nginxBackend) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, received{r, string(body)})
}

// count returns how many requests came.
func (a *nginxBackend) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

// last returns the newest request.
func (a *nginxBackend) last() received {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[len(a.requests)-1]
}
