package e2e

import (
	"bytes"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	_ "github.com/mattn/go-sqlite3"
	"github.com/stretchr/testify/require"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

func TestTheRequestPath(t *testing.T) {
	t.Parallel()
	dev := StartDev(t, binaries)
	viewer := dev.Login(t, "viewer@acme.test", Password)
	dashboard := dev.URL + "/api/permissions/dashboard/"

	t.Run("a viewer reads, and one trace id runs through everything", func(t *testing.T) {
		answer := Call(t, http.MethodGet, dashboard, nil, append(viewer, "traceparent", traceparent)...)
		require.Equal(t, http.StatusOK, answer.StatusCode, "%s", answer.Body)
		require.Equal(t, []string{traceID}, answer.Header.Values("X-Trace-Id"))
		require.Len(t, answer.Header.Values("X-Request-Id"), 1)

		lines := dev.Lines(t, traceID, 2)
		byService := map[any]map[string]any{}
		for _, line := range lines {
			if line["msg"] == "handled request" {
				byService[line["service"]] = line
			}
		}
		gateway, backend := byService["tenantgate"], byService["tenant-service"]
		for _, line := range []map[string]any{gateway, backend} {
			require.Equal(t, traceID, line["trace_id"])
			require.Equal(t, answer.Header.Get("X-Request-Id"), line["request_id"])
			require.Equal(t, "1", line["tenant_id"])
			require.NotEmpty(t, line["user_id"])
			require.Equal(t, "/api/permissions/dashboard/", line["path"])
			require.InDelta(t, 200, line["status"], 0)
			require.Contains(t, line, "duration_ms")
		}
		require.NotEqual(t, gateway["span_id"], backend["span_id"], "every hop has a span of its own")
		require.Equal(t, "abc/dashboard/read", gateway["permission"])
		require.Equal(t, "tenant", gateway["breaker"])
	})

	t.Run("a viewer may not write: 403 names the missing right", func(t *testing.T) {
		answer := Call(t, http.MethodPost, dashboard, map[string]string{"note": "x"}, viewer...)
		problem := requireProblem(t, answer, http.StatusForbidden, "permission-denied")
		require.Equal(t, "abc/dashboard/write", problem["permission"])
		require.Equal(t, answer.Header.Get("X-Trace-Id"), problem["trace_id"])
	})

	t.Run("without a token: 401 and how to log in", func(t *testing.T) {
		answer := Call(t, http.MethodGet, dashboard, nil)
		requireProblem(t, answer, http.StatusUnauthorized, "token-missing")
		require.True(t, strings.HasPrefix(answer.Header.Get("WWW-Authenticate"), "Bearer"))
		require.NotContains(t, answer.Header.Get("WWW-Authenticate"), "error=")
	})

	t.Run("a token signed by another key: 401", func(t *testing.T) {
		answer := Call(t, http.MethodGet, dashboard, nil, "Authorization", "Bearer "+resign(t, viewer[1]))
		requireProblem(t, answer, http.StatusUnauthorized, "")
		require.Contains(t, answer.Header.Get("WWW-Authenticate"), `error="invalid_token"`)
	})

	t.Run("three failures open the breaker", func(t *testing.T) {
		var arrivals int
		for range 3 {
			answer := Call(t, http.MethodGet, dev.URL+"/api/billing/?status=500", nil, viewer...)
			require.Equal(t, http.StatusInternalServerError, answer.StatusCode)
			arrivals += len(dev.Lines(t, answer.Header.Get("X-Trace-Id"), 2)) - 1
		}
		answer := Call(t, http.MethodGet, dev.URL+"/api/billing/?status=500", nil, viewer...)
		problem := requireProblem(t, answer, http.StatusServiceUnavailable, "circuit-open")
		require.NotEmpty(t, answer.Header.Get("Retry-After"))
		require.InDelta(t, 119, problem["retry_after"], 2)
		for _, line := range dev.Lines(t, answer.Header.Get("X-Trace-Id"), 1) {
			require.Equal(t, "tenantgate", line["service"], "the refusal never reached the upstream: %v", line)
		}
		require.GreaterOrEqual(t, arrivals, 3)
		require.Contains(t, dev.Stdout.String(), `"breaker":"billing"`)

		other := Call(t, http.MethodGet, dashboard, nil, viewer...)
		require.Equal(t, http.StatusOK, other.StatusCode, "the other upstreams go on")
	})

	t.Run("nothing else is there", func(t *testing.T) {
		requireProblem(t, Call(t, http.MethodGet, dev.URL+"/nowhere", nil), http.StatusNotFound, "not-found")
	})

	t.Run("no secret is in any line", func(t *testing.T) {
		var lines []string // of stdout; the screen itself shows the demo's password
		for line := range strings.Lines(dev.Stdout.String()) {
			if strings.HasPrefix(line, "{") {
				lines = append(lines, line)
			}
		}
		require.NotEmpty(t, lines)
		for _, text := range []string{strings.Join(lines, ""), dev.Stderr.String(), readAll(t, dev.Data, "logs")} {
			for _, private := range []string{Password, strings.TrimPrefix(viewer[1], "Bearer "), dev.Env(t)["GATEWAY_SECRET"]} {
				require.NotContains(t, text, private)
			}
		}
	})
}

func TestInvitations(t *testing.T) {
	t.Parallel()
	dev := StartDev(t, binaries)
	admin := dev.Login(t, "admin@acme.test", Password)
	viewer := dev.Login(t, "viewer@acme.test", Password)
	invitations := dev.URL + "/api/invitations/"
	const newPassword = "plum tree river stone"

	invite := func(email string) (id, token string) {
		answer := Call(t, http.MethodPost, invitations, map[string]any{
			"email": email, "role": "Editor", "metadata": map[string]string{"ip_address": "203.0.113.9", "note": "from sales"},
		}, admin...)
		require.Equal(t, http.StatusCreated, answer.StatusCode, "%s", answer.Body)
		require.NotContains(t, string(answer.Body), "inv_", "the token is in the mail only")
		created := answer.JSON(t)
		require.Equal(t, "pending", created["status"])
		require.Equal(t, map[string]any{"ip_address": "203.0.113.9", "note": "from sales"}, created["metadata"])
		return created["id"].(string), mailToken(t, dev.Data, email)
	}
	accept := func(token string) Answer {
		return Call(t, http.MethodPost, invitations+"accept/", map[string]string{"token": token, "password": newPassword})
	}

	t.Run("accepted once, and the new user logs in", func(t *testing.T) {
		id, token := invite("ann@example.com")
		weak := Call(t, http.MethodPost, invitations+"accept/", map[string]string{"token": token, "password": "short"})
		requireProblem(t, weak, http.StatusUnprocessableEntity, "")
		first := accept(token)
		require.Equal(t, http.StatusCreated, first.StatusCode, "%s", first.Body)
		requireProblem(t, accept(token), http.StatusGone, "invitation-accepted")

		ann := dev.Login(t, "ann@example.com", newPassword)
		require.Eventually(t, func() bool { // the table is polled
			return Call(t, http.MethodGet, dev.URL+"/api/permissions/dashboard/", nil, ann...).StatusCode == http.StatusOK
		}, secs(5), ms(50))
		got := Call(t, http.MethodGet, invitations+id+"/", nil, admin...)
		require.Equal(t, "accepted", got.JSON(t)["status"])
	})

	t.Run("a cancelled one refuses", func(t *testing.T) {
		id, token := invite("bob@example.com")
		cancelled := Call(t, http.MethodPost, invitations+id+"/cancel/", nil, admin...)
		require.Equal(t, http.StatusOK, cancelled.StatusCode, "%s", cancelled.Body)
		requireProblem(t, accept(token), http.StatusGone, "invitation-cancelled")
		requireProblem(t, Call(t, http.MethodPost, invitations+id+"/cancel/", nil, admin...), http.StatusConflict, "")
	})

	t.Run("an expired one refuses, at once and after the command", func(t *testing.T) {
		id, token := invite("eve@example.com")
		db, err := sql.Open("sqlite3", "file:"+filepath.Join(dev.Data, "tenantgate.db")+"?_busy_timeout=5000")
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		var created, expires int64
		require.NoError(t, db.QueryRow(`SELECT created_at, expires_at FROM invitations WHERE id = $1`, id).Scan(&created, &expires))
		require.Equal(t, int64(7*24*60*60*1000), expires-created, "seven days")
		_, err = db.Exec(`UPDATE invitations SET expires_at = created_at - 1 WHERE id = $1`, id)
		require.NoError(t, err)
		requireProblem(t, accept(token), http.StatusGone, "invitation-expired")

		cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "backends"), "mark-expired-invitations", "--output", "json")
		cmd.Env = append(os.Environ(), "DATABASE_URL=sqlite://"+filepath.Join(dev.Data, "tenantgate.db"))
		out, err := cmd.Output()
		require.NoError(t, err, "%s", out)
		require.True(t, json.Valid(out), "%s", out)
		var status string
		require.NoError(t, db.QueryRow(`SELECT status FROM invitations WHERE id = $1`, id).Scan(&status))
		require.Equal(t, "expired", status)
		requireProblem(t, accept(token), http.StatusGone, "invitation-expired")
	})

	t.Run("a viewer may look at none and make none", func(t *testing.T) {
		problem := requireProblem(t, Call(t, http.MethodPost, invitations, map[string]string{"email": "x@example.com"}, viewer...),
			http.StatusForbidden, "permission-denied")
		require.Equal(t, "abc/invitations/write", problem["permission"])
	})

	t.Run("another tenant sees nothing of it", func(t *testing.T) {
		id, _ := invite("zoe@example.com")
		globex := dev.Login(t, "admin@globex.test", Password)
		requireProblem(t, Call(t, http.MethodGet, invitations+id+"/", nil, globex...), http.StatusNotFound, "")
		requireProblem(t, Call(t, http.MethodPost, invitations+id+"/cancel/", nil, globex...), http.StatusNotFound, "")
	})
}

// TestNothingAClientSendsPosesAsTheGateway puts an echo behind every route and
// compares what it sees with and without the attack.
func TestNothingAClientSendsPosesAsTheGateway(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen http.Header
	echo := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = r.Header.Clone()
	}))
	t.Cleanup(echo.Close)
	dev := StartDev(t, binaries)
	env := dev.Env(t)
	upstream := strings.TrimPrefix(echo.URL, "http://")
	address := FreeAddress(t)

	// The same Caddyfile; only the auth service, for the keys, is the real one.
	gateway := Start(t, root, []string{
		"TENANTGATE_ADMIN=" + FreeAddress(t), "TENANTGATE_ADDRESS=http://" + address, "TENANTGATE_BIND=127.0.0.1",
		"TENANTGATE_LOG_FILE=" + filepath.Join(t.TempDir(), "log"), "DATABASE_URL=" + env["DATABASE_URL"],
		"AUTH_UPSTREAM=" + env["AUTH_UPSTREAM"], "TENANT_UPSTREAM=" + upstream, "INVITATION_UPSTREAM=" + upstream,
		"BILLING_UPSTREAM=" + upstream, "GATEWAY_SECRET=the-real-one",
	}, filepath.Join(binaries, "tenantgate"), "run", "--config", "Caddyfile")
	gateway.WaitFor(t, "serving initial configuration")

	names := []string{"X-User-Id", "X-Tenant-Id", "X-Roles", "X-Permission", "X-Gateway-Secret", "Traceparent", "X-Trace-Id", "X-Request-Id"}
	look := func(path string, header ...string) http.Header {
		mu.Lock()
		seen = nil
		mu.Unlock()
		answer := Call(t, http.MethodGet, "http://"+address+path, nil, header...)
		require.Equal(t, http.StatusOK, answer.StatusCode, "%s: %s", path, answer.Body)
		mu.Lock()
		defer mu.Unlock()
		require.NotNil(t, seen, path)
		return seen
	}
	admin := dev.Login(t, "admin@acme.test", Password)
	require.Eventually(t, func() bool { // until the keys and the table are there
		return Call(t, http.MethodGet, "http://"+address+"/api/billing/", nil, admin...).StatusCode == http.StatusOK
	}, secs(20), ms(50))

	for _, route := range []struct {
		path string
		auth []string
	}{
		{"/invite", nil},
		{"/api/invitations/accept/", nil},
		{"/api/invitations/look/", nil},
		{"/api/billing/", admin},
		{"/api/permissions/dashboard/", admin},
		{"/api/invitations/", admin},
		{"/api/members/", admin},
		{"/api/tenants/", admin},
		{"/api/tenant/log/", admin},
	} {
		want := look(route.path, route.auth...)
		for _, attack := range [][]string{
			{"X-User-Id", "root"},
			{"X-Tenant-Id", "2"},
			{"X-Roles", "Owner"},
			{"X_User_Id", "root", "X_Tenant_Id", "2", "x_roles", "Owner"},
			{"X.User.Id", "root"},
			{"X-Permission", "abc/dashboard/write", "X-Gateway-Secret", "guess"},
			{"Connection", "X-User-Id, traceparent"},
			{"Connection", "close, X-Tenant-Id, X-Roles, X-Permission, X-Trace-Id, X-Request-Id, X-Gateway-Secret"},
		} {
			got := look(route.path, append(slices.Clone(route.auth), attack...)...)
			for _, name := range names {
				if strings.HasPrefix(name, "T") || strings.HasSuffix(name, "Trace-Id") || strings.HasSuffix(name, "Request-Id") {
					require.Len(t, got[name], 1, "%s with %v: %s", route.path, attack, name) // new for every request
					continue
				}
				require.Equal(t, want[name], got[name], "%s with %v: %s", route.path, attack, name)
			}
			for name := range got {
				require.NotContains(t, name, "_")
				require.NotContains(t, name, ".")
			}
		}
	}
	require.Equal(t, []string{"the-real-one"}, look("/invite")[textproto.CanonicalMIMEHeaderKey("x-gateway-secret")])
}

func requireProblem(t *testing.T, answer Answer, status int, code string) map[string]any {
	t.Helper()
	require.Equal(t, status, answer.StatusCode, "%s", answer.Body)
	require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
	problem := answer.JSON(t)
	require.InDelta(t, status, problem["status"], 0)
	if code != "" {
		require.Equal(t, code, problem["code"])
	}
	require.Equal(t, answer.Header.Get("X-Trace-Id"), problem["trace_id"])
	return problem
}

// resign returns the token with the same content, signed by a key of our own.
func resign(t *testing.T, authorization string) string {
	t.Helper()
	parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
	require.Len(t, parts, 3)
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	signed := parts[0] + "." + parts[1]
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(signed)))
}

var tokenPattern = regexp.MustCompile(`inv_[A-Za-z0-9_-]{43}`)

// mailToken returns the token in the mail to an address.
func mailToken(t *testing.T, data, email string) string {
	t.Helper()
	mails, err := filepath.Glob(filepath.Join(data, "mail", "*.eml"))
	require.NoError(t, err)
	for _, mail := range mails {
		content, err := os.ReadFile(mail)
		require.NoError(t, err)
		if bytes.Contains(content, []byte(email)) {
			unfolded := bytes.ReplaceAll(content, []byte("=\r\n"), nil) // quoted-printable
			token := tokenPattern.Find(unfolded)
			require.NotNil(t, token, "%s", content)
			return string(token)
		}
	}
	require.FailNow(t, "no mail", "to %s among %d", email, len(mails))
	return ""
}

// readAll returns the content of all files in a folder.
func readAll(t *testing.T, parts ...string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(append(parts, "*")...))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		fmt.Fprintf(&all, "%s\n", content)
	}
	return all.String()
}
