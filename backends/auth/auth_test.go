package auth_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// plain stands for argon2: the hash of a password is "plain$" and the password,
// or "old$" and the password if it should be hashed again. It notes the hashes
// it was asked to verify.
type plain struct {
	mu     sync.Mutex
	hashes []string
	onHash func() // called by Hash if set
}

func (p *plain) Hash(_ context.Context, password string) (string, error) {
	if p.onHash != nil {
		p.onHash()
	}
	return "plain$" + password, nil
}

func (p *plain) Verify(_ context.Context, phc, password string) (ok, needsRehash bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hashes = append(p.hashes, phc)
	return phc == "plain$"+password || phc == "old$"+password, phc == "old$"+password, nil
}

// fixture is a service over the demo installation.
type fixture struct {
	t         *testing.T
	db        *database.DB
	clock     *clock.Fake
	passwords *plain
	log       *syncBuffer
	config    auth.Config
	service   *auth.Service
	handler   http.Handler
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func openDemo(t *testing.T, url string, c clock.Clock) *database.DB {
	t.Helper()
	db := dbtest.Open(t, url, c)
	require.NoError(t, seed.Demo(t.Context(), db, &plain{}))
	return db
}

func setUp(t *testing.T, url string, change ...func(*auth.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: clock.NewFake(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)), passwords: &plain{}, log: &syncBuffer{}}
	f.db = openDemo(t, url, f.clock)
	f.config = auth.Config{
		DB: f.db, Clock: f.clock, Passwords: f.passwords, Issuer: "https://auth.test", Audience: "tenantgate",
		Log: logging.New("auth-service", zapcore.AddSync(f.log), zapcore.DebugLevel),
	}
	for _, c := range change {
		c(&f.config)
	}
	service, err := auth.New(t.Context(), f.config)
	require.NoError(t, err)
	f.service, f.handler = service, service.Handler()
	return f
}

// exec changes the database behind the service's back.
func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	require.NoError(f.t, f.db.InTx(f.t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	}))
}

// scalar returns one number.
func (f *fixture) scalar(query string, args ...any) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.db.Reader().QueryRow(query, args...).Scan(&n))
	return n
}

// userID returns the id of a demo user.
func (f *fixture) userID(email string) (id string) {
	f.t.Helper()
	require.NoError(f.t, f.db.Reader().QueryRow(`SELECT id FROM users WHERE email_key = $1`, email).Scan(&id))
	return id
}

// join makes a demo user a member of a tenant with its role of that name, later
// than all others.
func (f *fixture) join(email string, tenantID int, role string) {
	f.t.Helper()
	f.exec(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at)
		SELECT $1, u.id, r.id, 9000000000000, 9000000000000 FROM users u, roles r WHERE u.email_key = $2 AND r.tenant_id = $1 AND r.name = $3`, tenantID, email, role)
}

// answer is a decoded response.
type answer struct {
	*httptest.ResponseRecorder
	body map[string]any
}

func (a answer) text(name string) string { s, _ := a.body[name].(string); return s }

// call sends body as JSON; header holds pairs.
func (f *fixture) call(method, target, body string, header ...string) answer {
	f.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	a := answer{ResponseRecorder: w}
	if w.Body.Len() > 0 {
		require.NoError(f.t, json.Unmarshal(w.Body.Bytes(), &a.body), w.Body.String())
	}
	return a
}

// as are the gateway's headers for a user in a tenant.
func as(userID string, tenantID int) []string {
	return []string{"X-User-Id", userID, "X-Tenant-Id", strconv.Itoa(tenantID)}
}

func (f *fixture) login(email string) answer {
	f.t.Helper()
	a := f.call("POST", "/api/auth/login", `{"email":"`+email+`","password":"`+seed.Password+`"}`)
	require.Equal(f.t, http.StatusOK, a.Code, a.Body.String())
	return a
}

func (f *fixture) refresh(token string) answer {
	f.t.Helper()
	return f.call("POST", "/api/auth/refresh", `{"refresh_token":"`+token+`"}`)
}

// publicKeys returns the published keys by kid.
func (f *fixture) publicKeys() (keys map[string]ed25519.PublicKey, order []string) {
	f.t.Helper()
	a := f.call("GET", "/.well-known/jwks.json", "")
	require.Equal(f.t, http.StatusOK, a.Code)
	keys = map[string]ed25519.PublicKey{}
	for _, k := range a.body["keys"].([]any) {
		key := k.(map[string]any)
		require.Equal(f.t, "OKP Ed25519 EdDSA sig", strings.Join([]string{key["kty"].(string), key["crv"].(string), key["alg"].(string), key["use"].(string)}, " "))
		require.Len(f.t, key, 6, "nothing private is published")
		x, err := base64.RawURLEncoding.DecodeString(key["x"].(string))
		require.NoError(f.t, err)
		keys[key["kid"].(string)] = x
		order = append(order, key["kid"].(string))
	}
	return keys, order
}

// verify checks an access token against the published keys.
func (f *fixture) verify(token string) (jwt.MapClaims, error) {
	f.t.Helper()
	keys, _ := f.publicKeys()
	parsed, err := jwt.Parse(token, func(t *jwt.Token) (any, error) {
		require.Equal(f.t, "JWT", t.Header["typ"])
		if key, ok := keys[t.Header["kid"].(string)]; ok {
			return key, nil
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer("https://auth.test"), jwt.WithAudience("tenantgate"),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(f.clock.Now))
	if err != nil {
		return nil, err
	}
	return parsed.Claims.(jwt.MapClaims), nil
}

func TestLoginIssuesTokensThatThePublishedKeysVerify(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		a := f.login("Viewer@ACME.test")
		id := f.userID("viewer@acme.test")
		require.Equal(t, "no-store", a.Header().Get("Cache-Control"))
		require.Equal(t, "Bearer", a.text("token_type"))
		require.InDelta(t, 900, a.body["expires_in"], 0)
		require.Equal(t, map[string]any{"id": id, "email": "viewer@acme.test", "name": "Viewer of acme"}, a.body["user"])
		require.Equal(t, map[string]any{"id": 1.0, "name": "acme"}, a.body["tenant"])
		require.Equal(t, []any{"Viewer"}, a.body["roles"])
		require.Regexp(t, `^rt_[A-Za-z0-9_-]{43}$`, a.text("refresh_token"))

		claims, err := f.verify(a.text("access_token"))
		require.NoError(t, err)
		require.Equal(t, id, claims["sub"])
		require.Equal(t, "1", claims["tenant_id"])
		require.Equal(t, []any{"Viewer"}, claims["roles"])
		now := float64(f.clock.Now().Unix())
		require.InDelta(t, now, claims["iat"], 0)
		require.InDelta(t, now+900, claims["exp"], 0)
		require.NotEmpty(t, claims["jti"])
		require.NotEmpty(t, claims["sid"])

		require.Equal(t, 1, f.scalar(`SELECT COUNT(*) FROM audit_events WHERE action = 'session.started' AND actor_id = $1 AND trace_id = $2 AND tenant_id = 1`, id, traceID))
		require.NotContains(t, f.log.String(), a.text("refresh_token"))
		require.NotContains(t, f.log.String(), seed.Password)
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM refresh_tokens WHERE token_hash = $1`, []byte(a.text("refresh_token"))), "only a digest is stored")
	})
}

func TestLoginChoosesTheTenant(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		f.join("viewer@acme.test", 2, "Editor")
		for _, c := range []struct {
			tenant string // JSON
			want   float64
			role   string
		}{
			{`null`, 1, "Viewer"},
			{`1`, 1, "Viewer"},
			{`"1"`, 1, "Viewer"},
			{`"acme"`, 1, "Viewer"},
			{`2`, 2, "Editor"},
			{`"2"`, 2, "Editor"},
			{`"globex"`, 2, "Editor"},
		} {
			a := f.call("POST", "/api/auth/login", `{"email":"viewer@acme.test","password":"`+seed.Password+`","tenant":`+c.tenant+`}`)
			require.Equal(t, http.StatusOK, a.Code, c.tenant)
			require.InDelta(t, c.want, a.body["tenant"].(map[string]any)["id"], 0, c.tenant)
			require.Equal(t, []any{c.role}, a.body["roles"], c.tenant)
		}
	})
}

func TestEveryRefusedLoginIsTheSame(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		f.exec(`UPDATE users SET status = 'disabled' WHERE email_key = 'editor@acme.test'`)
		f.exec(`UPDATE users SET password_hash = NULL WHERE email_key = 'editor@globex.test'`)
		f.exec(`DELETE FROM memberships WHERE user_id = $1`, f.userID("viewer@globex.test"))
		f.exec(`UPDATE tenants SET status = 'suspended' WHERE id = 2`)
		const right = `"password":"` + seed.Password + `"`
		bodies := map[string]string{}
		for name, body := range map[string]string{
			"wrong password":                `{"email":"admin@acme.test","password":"no"}`,
			"unknown user":                  `{"email":"nobody@acme.test",` + right + `}`,
			"not an address":                `{"email":"' OR 1=1 --",` + right + `}`,
			"disabled user":                 `{"email":"editor@acme.test",` + right + `}`,
			"user without a password":       `{"email":"editor@globex.test",` + right + `}`,
			"user without a tenant":         `{"email":"viewer@globex.test",` + right + `}`,
			"user of a suspended tenant":    `{"email":"admin@globex.test",` + right + `}`,
			"tenant of others by id":        `{"email":"admin@acme.test",` + right + `,"tenant":2}`,
			"tenant of others by name":      `{"email":"admin@acme.test",` + right + `,"tenant":"globex"}`,
			"tenant that does not exist":    `{"email":"admin@acme.test",` + right + `,"tenant":99}`,
			"password of 10000 characters":  `{"email":"admin@acme.test","password":"` + strings.Repeat("x", 10000) + `"}`,
			"password with a zero byte end": `{"email":"admin@acme.test","password":"` + seed.Password + `\u0000"}`,
		} {
			before := len(f.passwords.hashes)
			a := f.call("POST", "/api/auth/login", body)
			require.Equal(t, http.StatusUnauthorized, a.Code, name)
			require.Equal(t, "invalid-credentials", a.text("code"), name)
			require.Equal(t, "Bearer", a.Header().Get("WWW-Authenticate"), name)
			require.Len(t, f.passwords.hashes, before+1, "%s: exactly one password is verified", name)
			bodies[a.Body.String()] = name
		}
		require.Len(t, bodies, 1, "the answers differ: %v", bodies)
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM sessions`))
	})
}

func TestLoginRefusesBadRequests(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	for _, c := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"empty body", ``, 400, "bad-json"},
		{"not JSON", `email=a`, 400, "bad-json"},
		{"unknown field", `{"email":"a@b.co","password":"x","admin":true}`, 400, "bad-json"},
		{"two values", `{"email":"a@b.co","password":"x"}{}`, 400, "bad-json"},
		{"wrong type", `{"email":1,"password":"x"}`, 400, "bad-json"},
		{"no email", `{"password":"x"}`, 422, "/email"},
		{"no password", `{"email":"a@b.co"}`, 422, "/password"},
		{"tenant of a wrong type", `{"email":"a@b.co","password":"x","tenant":[1]}`, 422, "/tenant"},
		{"tenant below one", `{"email":"a@b.co","password":"x","tenant":0}`, 422, "/tenant"},
		{"tenant with a fraction", `{"email":"a@b.co","password":"x","tenant":1.5}`, 422, "/tenant"},
		{"empty tenant", `{"email":"a@b.co","password":"x","tenant":""}`, 422, "/tenant"},
		{"too large", `{"email":"` + strings.Repeat("x", 70_000) + `"}`, 413, "body-too-large"},
	} {
		a := f.call("POST", "/api/auth/login", c.body)
		require.Equal(t, c.status, a.Code, c.name)
		require.Equal(t, "application/problem+json", a.Header().Get("Content-Type"), c.name)
		require.Contains(t, a.Body.String(), c.want, c.name)
	}
	require.Empty(t, f.passwords.hashes, "no password was verified")
	require.Equal(t, 415, f.call("POST", "/api/auth/login", `{}`, "Content-Type", "text/plain").Code)
	require.Equal(t, 405, f.call("GET", "/api/auth/login", "").Code)
	require.Equal(t, 404, f.call("GET", "/api/auth/nothing", "").Code)
}

func TestLoginHashesAgainWhenTheParametersChanged(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		id := f.userID("viewer@acme.test")
		f.exec(`UPDATE users SET password_hash = $1 WHERE id = $2`, "old$"+seed.Password, id)
		f.login("viewer@acme.test")
		require.Equal(t, 1, f.scalar(`SELECT COUNT(*) FROM users WHERE id = $1 AND password_hash = $2`, id, "plain$"+seed.Password))
	})
}

func TestHashingAgainDoesNotUndoAChangeOfThePassword(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		id := f.userID("viewer@acme.test")
		f.exec(`UPDATE users SET password_hash = $1 WHERE id = $2`, "old$"+seed.Password, id)
		f.passwords.onHash = func() { f.exec(`UPDATE users SET password_hash = 'plain$new' WHERE id = $1`, id) }
		f.login("viewer@acme.test")
		require.Equal(t, 1, f.scalar(`SELECT COUNT(*) FROM users WHERE id = $1 AND password_hash = 'plain$new'`, id))
	})
}

func TestLoginThrottlesGuessersByAccountAndByAddress(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	try := func(email, password, ip string) answer {
		return f.call("POST", "/api/auth/login", `{"email":"`+email+`","password":"`+password+`"}`, "X-Forwarded-For", ip)
	}
	for _, email := range []string{"admin@acme.test", "nobody@acme.test"} {
		for i := range auth.AccountBurst {
			require.Equal(t, 401, try(email, "no", "10.0.0."+strconv.Itoa(i)).Code)
		}
		verified := len(f.passwords.hashes)
		a := try(email, seed.Password, "10.0.1.1")
		require.Equal(t, http.StatusTooManyRequests, a.Code, "known and unknown accounts are throttled alike")
		require.Equal(t, "60", a.Header().Get("Retry-After"))
		require.Equal(t, "too-many-attempts", a.text("code"))
		require.Len(t, f.passwords.hashes, verified, "a throttled attempt costs no hash")
	}
	f.clock.Advance(time.Minute)
	require.Equal(t, 200, try("admin@acme.test", seed.Password, "10.0.1.1").Code)

	for i := range auth.AddressBurst {
		require.Equal(t, 401, try("user"+strconv.Itoa(i)+"@x.test", "no", "2001:db8::"+strconv.Itoa(i+1)).Code)
	}
	a := try("viewer@acme.test", seed.Password, "2001:db8::ffff")
	require.Equal(t, 429, a.Code, "a /64 is one address")
	require.Equal(t, "10", a.Header().Get("Retry-After"))
	require.Equal(t, 200, try("viewer@acme.test", seed.Password, "2001:db8:0:1::1").Code)
}

func TestSuccessfulLoginsAreNeverThrottled(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	for range auth.AddressBurst + 5 {
		f.login("viewer@acme.test")
	}
}

func TestMe(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		id := f.userID("admin@acme.test")
		f.join("admin@acme.test", 2, "Viewer")

		a := f.call("GET", "/api/auth/me", "", as(id, 1)...)
		require.Equal(t, 200, a.Code)
		require.Equal(t, "admin@acme.test", a.body["user"].(map[string]any)["email"])
		require.Equal(t, map[string]any{"id": 1.0, "name": "acme"}, a.body["tenant"])
		require.Equal(t, []any{"Admin"}, a.body["roles"])
		require.Equal(t, []any{
			map[string]any{"id": 1.0, "name": "acme", "status": "active", "role": "Admin"},
			map[string]any{"id": 2.0, "name": "globex", "status": "active", "role": "Viewer"},
		}, a.body["tenants"])

		a = f.call("GET", "/api/auth/me", "", as(id, 77)...)
		require.Equal(t, 200, a.Code)
		require.Nil(t, a.body["tenant"])
		require.Empty(t, a.body["roles"])

		require.Equal(t, 404, f.call("GET", "/api/auth/me", "", as("stranger", 1)...).Code)
		require.Equal(t, 401, f.call("GET", "/api/auth/me", "").Code)
	})
}

func TestLogEventCallsTheTenantServiceWithTheTrace(t *testing.T) {
	t.Parallel()
	var got *http.Request
	tenant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		_, _ = w.Write([]byte(`{"service":"tenant-service"}`))
	}))
	t.Cleanup(tenant.Close)
	f := setUp(t, dbtest.SQLite(t), func(c *auth.Config) { c.TenantURL = tenant.URL; c.GatewaySecret = "hunter22" })
	secret := []string{"X-Gateway-Secret", "hunter22"}

	for _, method := range []string{"GET", "POST"} {
		a := f.call(method, "/api/auth/log/?user_id=bob%26x%3D1", "", append(as("ann", 7), secret...)...)
		require.Equal(t, 200, a.Code, a.Body.String())
		require.Equal(t, traceID, a.text("trace_id"))
		require.Equal(t, "bob&x=1", a.text("user_id"))
		require.Equal(t, map[string]any{"service": "tenant-service"}, a.body["tenant"])
		require.Contains(t, got.Header.Get("Traceparent"), traceID)
		require.Equal(t, "hunter22", got.Header.Get("X-Gateway-Secret"))
		require.Equal(t, "ann", got.Header.Get("X-User-Id"))
		require.Equal(t, "bob&x=1", got.URL.Query().Get("user_id"))
		require.Equal(t, "7", got.URL.Query().Get("tenant_id"))
	}
	require.Contains(t, f.log.String(), `"about_user_id":"bob&x=1"`)

	a := f.call("GET", "/api/auth/log/", "", append(as("ann", 7), secret...)...)
	require.Equal(t, "ann", a.text("user_id"), "the caller is the default")
	require.Equal(t, 200, f.call("GET", "/api/auth/log?user_id=x", "", secret...).Code, "no caller is needed if the query names a user")
	for _, query := range []string{"", "?user_id=a%0Ab", "?user_id=%E2%80%AEx", "?user_id=%ff", "?user_id=" + strings.Repeat("x", 256)} {
		require.Equal(t, 400, f.call("GET", "/api/auth/log/"+query, "", secret...).Code, query)
	}
	tenant.Close()
	a = f.call("GET", "/api/auth/log/?user_id=x", "", secret...)
	require.Equal(t, 502, a.Code)
	require.NotContains(t, a.Body.String(), "127.0.0.1", "the address of the service stays inside")
}

func TestGatewaySecretGuardsAllButTheKeySet(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t), func(c *auth.Config) { c.GatewaySecret = "hunter22" })
	for _, route := range []string{"POST /api/auth/login", "POST /api/auth/refresh", "POST /api/auth/logout", "POST /api/auth/switch-tenant", "GET /api/auth/me", "GET /api/auth/log/"} {
		method, path, _ := strings.Cut(route, " ")
		require.Equal(t, "not-from-gateway", f.call(method, path, `{}`, as("u", 1)...).text("code"), route)
		require.Equal(t, "not-from-gateway", f.call(method, path, `{}`, "X-Gateway-Secret", "hunter2").text("code"), route)
	}
	require.Equal(t, 200, f.call("GET", "/.well-known/jwks.json", "").Code)
}

func TestNewRefusesBadSettings(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	for want, change := range map[string]func(*auth.Config){
		"required":                         func(c *auth.Config) { c.DB = nil },
		"issuer and audience are required": func(c *auth.Config) { c.Issuer = "" },
		"AccessTTL is 31m0s":               func(c *auth.Config) { c.AccessTTL = 31 * time.Minute },
		"AccessTTL is -1ns":                func(c *auth.Config) { c.AccessTTL = -1 },
		"SessionTTL is -1s":                func(c *auth.Config) { c.SessionTTL = -time.Second },
		"at least 32":                      func(c *auth.Config) { c.KeySecret = "short" },
	} {
		config := f.config
		change(&config)
		_, err := auth.New(t.Context(), config)
		require.ErrorContains(t, err, want)
	}
}
