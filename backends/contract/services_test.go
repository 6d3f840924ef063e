package contract_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/backends/contract"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/backends/tenant"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const description = "../openapi.yaml"

// The limits of the site's invitations.
const perTenant, pending, perAddress = 500, 30, 60

// plain stands for argon2.
type plain struct{}

func (plain) Hash(_ context.Context, password string) (string, error) {
	return "plain$" + password, nil
}

func (plain) Verify(_ context.Context, phc, password string) (ok, needsRehash bool, err error) {
	return phc == "plain$"+password, false, nil
}

// outbox keeps the newest mail, or fails with an error.
type outbox struct {
	mu   sync.Mutex
	text string
	err  error
}

func (o *outbox) Send(_ context.Context, m invitation.Mail) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.text = m.Text
	return nil
}

// site is the three services over the demo installation, behind something that
// sets the headers that a gateway would and checks every answer.
type site struct {
	t       *testing.T
	doc     *contract.Document
	db      *database.DB
	clock   *clock.Fake
	mails   *outbox
	tenants *httptest.Server // the tenant service as the auth service calls it
	// routes finds the operation of a request, services who serves it.
	routes   *http.ServeMux
	services map[string]http.Handler
	// registered are the routes in the code, seen the answers there were.
	registered []string
	seen       map[string]bool
	keys       int // how many Idempotency-Keys were used
}

// caller is who is logged in, nobody if the id is empty.
type caller struct {
	id     string
	tenant int
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		t: t, clock: clock.NewFake(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)), mails: &outbox{},
		routes: http.NewServeMux(), services: map[string]http.Handler{}, seen: map[string]bool{},
	}
	var err error
	s.doc, err = contract.Load(description)
	require.NoError(t, err)
	s.db, err = database.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "t.db"), s.clock)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.db.Close()) })
	require.NoError(t, s.db.Migrate(t.Context()))
	require.NoError(t, seed.Demo(t.Context(), s.db, plain{}))

	tenants, err := tenant.New(tenant.Config{DB: s.db, Log: zap.NewNop(), Clock: s.clock})
	require.NoError(t, err)
	s.tenants = httptest.NewServer(tenants.Handler())
	t.Cleanup(s.tenants.Close)
	logins, err := auth.New(t.Context(), auth.Config{
		DB: s.db, Log: zap.NewNop(), Clock: s.clock, Passwords: plain{}, Issuer: "i", Audience: "a", TenantURL: s.tenants.URL,
	})
	require.NoError(t, err)
	hook, err := webhook.New(webhook.Config{DB: s.db, Clock: s.clock, URL: "https://hook.test", Secrets: []secret.String{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}})
	require.NoError(t, err)
	invitations, err := invitation.New(invitation.Config{
		DB: s.db, Log: zap.NewNop(), Clock: s.clock, Hasher: plain{}, Mail: s.mails, From: mail.Address{Address: "no-reply@gate.test"},
		PublicURL: &url.URL{Scheme: "https", Host: "app.example.com"}, Random: rand.Reader,
		Limits: invitation.Limits{PerTenant: perTenant, Pending: pending, PerAddress: perAddress}, Webhook: hook,
	})
	require.NoError(t, err)
	for _, h := range []http.Handler{logins.Handler(), tenants.Handler(), invitations.Handler()} {
		for _, pattern := range h.(interface{ Patterns() []string }).Patterns() {
			route := withoutSlash(strings.TrimSuffix(pattern, "{$}"))
			s.registered = append(s.registered, route)
			s.services[route] = h
		}
	}
	for i, o := range s.doc.Operations {
		if o.Gateway {
			continue
		}
		s.routes.HandleFunc(strings.TrimSuffix(o.String(), "/"), func(_ http.ResponseWriter, r *http.Request) { r.Header.Set("operation", strconv.Itoa(i)) })
	}
	return s
}

// withoutSlash makes one of the two spellings that every path has.
func withoutSlash(route string) string { return strings.TrimSuffix(route, "/") }

// find returns the operation that a request is for.
func (s *site) find(method, target string) contract.Operation {
	s.t.Helper()
	path, _, _ := strings.Cut(target, "?")
	r := httptest.NewRequestWithContext(s.t.Context(), method, withoutSlash(path), http.NoBody)
	s.routes.ServeHTTP(httptest.NewRecorder(), r)
	i, err := strconv.Atoi(r.Header.Get("operation"))
	require.NoError(s.t, err, "%s %s is not documented", method, target)
	return s.doc.Operations[i]
}

// do sends a request that the gateway let through and checks the answer. If it
// is a good one, its conditional forms are sent too: a change first with a tag
// that nothing has, a look again with the tag that it got, and what takes an
// Idempotency-Key first with one that is none, and then with one twice.
func (s *site) do(who caller, method, target, body string, status int) map[string]any {
	s.t.Helper()
	o := s.find(method, target)
	send := func(status int, condition ...string) (map[string]any, http.Header) {
		s.t.Helper()
		return s.send(who, o.Permission, "application/json", method, target, body, status, condition...)
	}
	if status < 300 && slices.Contains(s.doc.Statuses(o), 412) {
		send(412, "If-Match", `"none"`)
		answer, _ := send(400, "If-Match", `no tag`)
		require.Equal(s.t, "bad-header", answer["code"])
	}
	if status < 300 && slices.Contains(s.doc.Parameters(o, "header"), "Idempotency-Key") {
		answer, _ := send(400, "Idempotency-Key", `"`)
		require.Equal(s.t, "bad-header", answer["code"])
		s.keys++
		key := strconv.Itoa(s.keys)
		answer, header := send(status, "Idempotency-Key", key)
		require.Empty(s.t, header.Get("Idempotency-Replayed"))
		again, replayed := send(status, "Idempotency-Key", key)
		require.Equal(s.t, "true", replayed.Get("Idempotency-Replayed"))
		require.Equal(s.t, header.Get("Location"), replayed.Get("Location"))
		require.Equal(s.t, answer["id"], again["id"])
		require.NotContains(s.t, fmt.Sprint(again), "inv_", "no answer that is kept holds a token")
		return answer
	}
	answer, header := send(status)
	if status == 200 && slices.Contains(s.doc.Statuses(o), 304) {
		send(304, "If-None-Match", header.Get("Etag"))
	}
	return answer
}

// send sends a request with headers, given as names and values.
func (s *site) send(who caller, permission, contentType, method, target, body string, status int, headers ...string) (map[string]any, http.Header) {
	s.t.Helper()
	o := s.find(method, target)
	r := httptest.NewRequestWithContext(s.t.Context(), method, target, strings.NewReader(body))
	if body != "" && contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if who.id != "" {
		r.Header.Set("X-User-Id", who.id)
		r.Header.Set("X-Tenant-Id", strconv.Itoa(who.tenant))
		r.Header.Set("X-Permission", permission)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.services[withoutSlash(o.String())].ServeHTTP(w, r)
	require.Equal(s.t, status, w.Code, "%s %s: %s", method, target, w.Body)
	require.Empty(s.t, s.doc.CheckResponse(o, status, w.Header(), w.Body.Bytes()), "%s %s: %s", method, target, w.Body)
	if status < 300 {
		require.Empty(s.t, s.doc.CheckRequest(o, []byte(body)), "%s %s takes what is not documented", method, target)
	}
	s.seen[fmt.Sprint(o, " ", status)] = true
	var answer map[string]any
	if strings.HasSuffix(w.Header().Get("Content-Type"), "json") {
		require.NoError(s.t, json.Unmarshal(w.Body.Bytes(), &answer))
	}
	if code, _ := answer["code"].(string); code != "" && status >= 400 {
		require.Contains(s.t, s.doc.Codes(o, status), code, "%s %d", o, status)
	}
	return answer, w.Header()
}

// refuse is do for a refusal with a code.
func (s *site) refuse(who caller, method, target, body string, status int, code string) {
	s.t.Helper()
	require.Equal(s.t, code, s.do(who, method, target, body, status)["code"])
}

func (s *site) exec(statement string, args ...any) {
	s.t.Helper()
	require.NoError(s.t, s.db.InTx(s.t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	}))
}

// user returns the id of a user of the demo.
func (s *site) user(address string) (id string) {
	s.t.Helper()
	require.NoError(s.t, s.db.Reader().QueryRow(`SELECT id FROM users WHERE email_key = $1`, address).Scan(&id))
	return id
}

// id returns the number of a row.
func (s *site) id(query string, args ...any) (id int) {
	s.t.Helper()
	require.NoError(s.t, s.db.Reader().QueryRow(query, args...).Scan(&id))
	return id
}

func (s *site) admin() caller { return caller{s.user("admin@acme.test"), 1} }

func TestDescriptionIsSound(t *testing.T) {
	t.Parallel()
	doc, err := contract.Load(description)
	require.NoError(t, err)
	require.Empty(t, doc.Check())
}

func TestEveryRouteIsDocumentedAndEveryOperationServed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var documented []string
	for _, o := range s.doc.Services() {
		documented = append(documented, withoutSlash(o.String()))
	}
	require.ElementsMatch(t, s.registered, documented)
}

// TestPermissionsAreThoseOfTheCode asks the services: they name the permission
// that the gateway should have checked.
func TestPermissionsAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, o := range s.doc.Services() {
		path := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(o.Path, "1")
		r := httptest.NewRequestWithContext(t.Context(), o.Method, path, http.NoBody)
		r.Header.Set("X-User-Id", "somebody")
		r.Header.Set("X-Tenant-Id", "1")
		w := httptest.NewRecorder()
		s.services[withoutSlash(o.String())].ServeHTTP(w, r)
		var answer struct{ Code, Permission string }
		_ = json.Unmarshal(w.Body.Bytes(), &answer) // the page is no JSON
		require.Equal(t, o.Permission, answer.Permission, o)
		require.Equal(t, o.Permission != "", answer.Code == "permission-not-checked", o)
	}
}

// TestServicesAnswerAsDocumented walks through every documented status of every
// operation: what is answered is in the description, and what is in the
// description is answered.
func TestServicesAnswerAsDocumented(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.refusals()
	s.logins()
	s.members()
	s.roles()
	s.catalogue()
	s.platform()
	s.ownTenant()
	s.invitations()
	s.bulk()
	s.limits()
	s.accepts()
	s.deliver()
	s.events()
	s.tenants.Close()
	s.refuse(s.admin(), "GET", "/api/auth/log/", "", 502, "tenant-service-failed")
	s.refuse(s.admin(), "POST", "/api/auth/log/", "", 502, "tenant-service-failed")

	var unseen []string
	for _, o := range s.doc.Services() {
		for _, status := range s.doc.Statuses(o) {
			// Where no permission is needed the gateway alone may be the one who insists on a token.
			if status != 401 || o.Public || o.Permission != "" {
				if answer := fmt.Sprint(o, " ", status); !s.seen[answer] {
					unseen = append(unseen, answer)
				}
			}
		}
	}
	require.Empty(t, unseen, "documented, but no test has seen it")
}

// refusals sends what every operation of a kind refuses in the same way.
func (s *site) refusals() {
	s.t.Helper()
	nobody, admin := caller{}, s.admin()
	missing := strings.NewReplacer("{id}", "999999", "{feature_id}", "999999", "{user_id}", "nobody",
		"{product}", "abc", "{feature}", "dashboard", "{action}", "read")
	existing := strings.NewReplacer("{id}", "1", "{feature_id}", "1", "{user_id}", "nobody",
		"{product}", "abc", "{feature}", "dashboard", "{action}", "read")
	for _, o := range s.doc.Services() {
		path, has := existing.Replace(o.Path), s.doc.Statuses(o)
		if strings.HasPrefix(path, "/api/invitations/1/") { // where ids are no numbers
			path = strings.Replace(path, "/1/", "/019ca9a4-9e00-7c5b-8c0e-5d6a3c1f2b10/", 1)
		}
		if o.Permission != "" {
			s.do(nobody, o.Method, path, "", 401)
			s.send(admin, "abc/dashboard/none", "", o.Method, path, "", 403)
		}
		if slices.Contains(s.doc.Parameters(o, "query"), "limit") {
			s.refuse(admin, o.Method, path+"?limit=0", "", 400, "bad-query")
			s.refuse(admin, o.Method, path+"?after=!", "", 400, "bad-query")
		}
		example, takesBody := s.doc.HasBody(o)
		body := ""
		if takesBody {
			require.NotNil(s.t, example, "%s: its body has no example", o)
			encoded, err := json.Marshal(example)
			require.NoError(s.t, err)
			body = string(encoded)
			s.refuse(admin, o.Method, path, `{`, 400, "bad-json")
			s.refuse(admin, o.Method, path, `{"no_such_member":1}`, 400, "bad-json")
			s.refuse(admin, o.Method, path, `{"x":"`+strings.Repeat("x", 512<<10)+`"}`, 413, "body-too-large")
			answer, _ := s.send(admin, o.Permission, "text/plain", o.Method, path, body, 415)
			require.Equal(s.t, "not-json", answer["code"])
			if !regexp.MustCompile(`/(accept|look|resend)/$`).MatchString(path) { // there the token or the invitation comes first
				s.refuse(admin, o.Method, path, `{}`, 422, "invalid-fields")
			}
		}
		if o.Permission != "" && slices.Contains(has, 404) && !slices.Contains(s.doc.Codes(o, 404), "tenant-not-found") {
			s.do(caller{admin.id, 888888}, o.Method, missing.Replace(o.Path), body, 404)
		}
	}
}

func (s *site) logins() {
	s.t.Helper()
	nobody, admin := caller{}, s.admin()
	s.do(nobody, "GET", "/.well-known/jwks.json", "", 200)
	login := func(address, password string) string {
		return `{"email":"` + address + `","password":"` + password + `"}`
	}
	tokens := s.do(nobody, "POST", "/api/auth/login", login("admin@acme.test", seed.Password), 200)
	s.do(nobody, "POST", "/api/auth/login", strings.Replace(login("admin@acme.test", seed.Password), "{", `{"tenant":1,`, 1), 200)
	for range 10 {
		s.refuse(nobody, "POST", "/api/auth/login", login("nobody@acme.test", "wrong"), 401, "invalid-credentials")
	}
	s.refuse(nobody, "POST", "/api/auth/login", login("nobody@acme.test", "wrong"), 429, "too-many-attempts")

	refresh := func() string { return fmt.Sprintf(`{"refresh_token":%q}`, tokens["refresh_token"]) }
	tokens = s.do(nobody, "POST", "/api/auth/refresh", refresh(), 200)
	s.refuse(nobody, "POST", "/api/auth/refresh", `{"refresh_token":"rt_x"}`, 401, "invalid-refresh-token")
	change := func(tenant string) string {
		return fmt.Sprintf(`{"tenant":%s,"refresh_token":%q}`, tenant, tokens["refresh_token"])
	}
	s.do(nobody, "POST", "/api/auth/switch-tenant", change("1"), 401)
	s.refuse(admin, "POST", "/api/auth/switch-tenant", change(`"globex"`), 404, "tenant-unknown")
	s.refuse(caller{s.user("viewer@acme.test"), 1}, "POST", "/api/auth/switch-tenant", change("1"), 401, "invalid-refresh-token")
	tokens = s.do(admin, "POST", "/api/auth/switch-tenant", change(`"acme"`), 200)
	s.do(admin, "POST", "/api/auth/logout", refresh(), 204)

	s.do(admin, "GET", "/api/auth/me", "", 200)
	s.do(caller{admin.id, 2}, "GET", "/api/auth/me", "", 200) // tenant is null
	s.do(nobody, "GET", "/api/auth/me", "", 401)
	s.refuse(caller{"somebody", 1}, "GET", "/api/auth/me", "", 404, "user-unknown")
	for _, path := range []string{"/api/auth/log/", "/api/tenant/log/"} {
		for _, method := range []string{"GET", "POST"} {
			s.do(admin, method, path, "", 200)
			s.do(nobody, method, path+"?user_id=ann", "", 200)
			s.refuse(nobody, method, path, "", 400, "bad-query")
		}
	}
	s.do(admin, "GET", "/api/tenant/log/?tenant_id=2", "", 200)
	s.refuse(admin, "GET", "/api/tenant/log/?tenant_id=x", "", 400, "bad-query")
}

func (s *site) members() {
	s.t.Helper()
	admin, manager := s.admin(), caller{s.user("editor@acme.test"), 1} // the editor holds less than Admin
	s.do(admin, "GET", "/api/members/?limit=1", "", 200)
	member := "/api/members/" + s.user("viewer@globex.test") + "/"
	body := `{"email":"viewer@globex.test","role":"Viewer"}`
	s.do(admin, "POST", "/api/members/", body, 201)
	s.refuse(admin, "POST", "/api/members/", body, 409, "already-exists")
	s.exec(`UPDATE tenants SET seats = 1 WHERE id = 1`)
	s.refuse(admin, "POST", "/api/members/", `{"email":"editor@globex.test","role":"Viewer"}`, 409, "seats-full")
	s.exec(`UPDATE tenants SET seats = NULL WHERE id = 1`)
	s.refuse(manager, "POST", "/api/members/", `{"email":"editor@globex.test","role":"Admin"}`, 403, "beyond-own-rights")
	s.refuse(admin, "POST", "/api/members/", `{"user_id":"nobody","role":"Viewer"}`, 422, "invalid-fields")
	s.do(admin, "GET", member, "", 200)
	s.do(admin, "PATCH", member, `{"role":"Editor"}`, 200)
	s.refuse(manager, "PATCH", member, `{"role":"Admin"}`, 403, "beyond-own-rights")
	s.refuse(admin, "PATCH", "/api/members/"+admin.id+"/", `{"role":"Viewer"}`, 409, "last-holder")
	s.refuse(admin, "DELETE", "/api/members/"+admin.id+"/", "", 409, "last-holder")
	s.do(admin, "DELETE", member, "", 204)
}

func (s *site) roles() {
	s.t.Helper()
	admin, editor := s.admin(), caller{s.user("editor@acme.test"), 1}
	s.do(admin, "GET", "/api/roles/?limit=1", "", 200)
	made := s.do(admin, "POST", "/api/roles/", `{"name":"Clerk"}`, 201)
	s.refuse(admin, "POST", "/api/roles/", `{"name":"Clerk"}`, 409, "already-exists")
	role := fmt.Sprintf("/api/roles/%v/", made["id"])
	s.do(admin, "GET", role, "", 200)
	s.do(admin, "PATCH", role, `{"name":"Cashier"}`, 200)
	s.refuse(admin, "PATCH", role, `{"name":"Viewer"}`, 409, "already-exists")

	const read = `{"product":"abc","feature":"dashboard","action":"read"}`
	const remove = `{"product":"abc","feature":"dashboard","action":"delete"}`
	s.do(admin, "PUT", role+"permissions/", `{"permissions":[`+read+`]}`, 200)
	s.do(admin, "POST", role+"permissions/", read, 200)
	s.do(admin, "GET", role+"permissions/", "", 200)
	s.refuse(editor, "POST", role+"permissions/", remove, 403, "beyond-own-rights")
	s.refuse(editor, "PUT", role+"permissions/", `{"permissions":[`+remove+`]}`, 403, "beyond-own-rights")
	s.do(admin, "DELETE", role+"permissions/abc/dashboard/read/", "", 204)
	admins := fmt.Sprintf("/api/roles/%d/", s.id(`SELECT id FROM roles WHERE tenant_id = 1 AND name = 'Admin'`))
	s.refuse(admin, "PUT", admins+"permissions/", `{"permissions":[]}`, 409, "last-holder")
	s.refuse(admin, "DELETE", admins+"permissions/tenantgate/members/write/", "", 409, "last-holder")
	s.refuse(admin, "DELETE", admins, "", 409, "role-in-use")

	s.do(admin, "PUT", role+"parents/", `{"parents":["Viewer"]}`, 200)
	s.do(admin, "GET", role+"parents/", "", 200)
	s.do(admin, "GET", role+"permissions/?effective=true", "", 200)
	s.refuse(admin, "GET", role+"permissions/?effective=maybe", "", 400, "bad-query")
	s.do(admin, "POST", "/api/tenants/1/permissions/", `{"role":"Cashier","permissions":[{"product":"abc","feature":"*","action":"read"}]}`, 200)
	s.do(admin, "DELETE", role+"permissions/abc/*/read/", "", 204)
	s.refuse(editor, "PUT", role+"parents/", `{"parents":["Admin"]}`, 403, "beyond-own-rights")
	viewers := fmt.Sprintf("/api/roles/%d/", s.id(`SELECT id FROM roles WHERE tenant_id = 1 AND name = 'Viewer'`))
	s.refuse(admin, "PUT", viewers+"parents/", `{"parents":["Cashier"]}`, 409, "role-cycle")
	s.refuse(admin, "DELETE", viewers, "", 409, "role-in-use")
	s.owner()
	s.do(admin, "DELETE", role, "", 204)
}

// owner tries to change the owner of a new tenant, which must not work.
func (s *site) owner() {
	s.t.Helper()
	admin := s.admin()
	s.do(admin, "POST", "/api/tenants/", `{"name":"hooli","admin_email":"admin@acme.test"}`, 201)
	at := s.id(`SELECT id FROM tenants WHERE name = 'hooli'`)
	boss := caller{admin.id, at}
	role := fmt.Sprintf("/api/roles/%d/", s.id(`SELECT id FROM roles WHERE tenant_id = $1 AND kind = 'owner'`, at))
	s.do(boss, "GET", role, "", 200)
	s.do(boss, "GET", role+"permissions/", "", 200)
	s.refuse(boss, "POST", role+"permissions/", `{"product":"abc","feature":"reports","action":"read"}`, 409, "built-in")
	s.refuse(admin, "POST", fmt.Sprintf("/api/tenants/%d/permissions/", at), `{"role":"Owner","permissions":[{"product":"abc","feature":"reports","action":"read"}]}`, 409, "built-in")
	s.refuse(boss, "DELETE", role+"permissions/*/*/*/", "", 409, "built-in")
	s.refuse(boss, "PUT", role+"parents/", `{"parents":["Admin"]}`, 409, "built-in")
	s.refuse(boss, "DELETE", role, "", 409, "built-in")
}

func (s *site) catalogue() {
	s.t.Helper()
	admin := s.admin()
	builtIn := fmt.Sprintf("/api/products/%d/", s.id(`SELECT id FROM products WHERE name = 'tenantgate'`))
	builtInFeature := fmt.Sprintf("%sfeatures/%d/", builtIn, s.id(`SELECT id FROM features WHERE name = 'members'`))
	s.do(admin, "GET", "/api/products/?limit=1", "", 200)
	product := fmt.Sprintf("/api/products/%v/", s.do(admin, "POST", "/api/products/", `{"name":"shop"}`, 201)["id"])
	s.refuse(admin, "POST", "/api/products/", `{"name":"shop"}`, 409, "already-exists")
	s.do(admin, "GET", product, "", 200)
	s.do(admin, "PATCH", product, `{"name":"store"}`, 200)
	s.refuse(admin, "PATCH", product, `{"name":"abc"}`, 409, "already-exists")
	s.refuse(admin, "PATCH", builtIn, `{"name":"mine"}`, 409, "built-in")
	s.refuse(admin, "DELETE", builtIn, "", 409, "built-in")

	features := product + "features/"
	feature := fmt.Sprintf("%s%v/", features, s.do(admin, "POST", features, `{"name":"orders","actions":["approve"]}`, 201)["id"])
	s.do(admin, "POST", features, `{"name":"stock"}`, 201)
	s.do(admin, "GET", features+"?limit=1", "", 200)
	s.do(admin, "GET", feature, "", 200)
	s.do(admin, "PATCH", feature, `{"name":"purchases","actions":[]}`, 200)
	s.refuse(admin, "POST", features, `{"name":"stock"}`, 409, "already-exists")
	s.refuse(admin, "PATCH", feature, `{"name":"stock"}`, 409, "already-exists")
	s.refuse(admin, "POST", builtIn+"features/", `{"name":"stock"}`, 409, "built-in")
	s.refuse(admin, "PATCH", builtInFeature, `{"name":"stock"}`, 409, "built-in")
	s.refuse(admin, "DELETE", builtInFeature, "", 409, "built-in")
	s.do(admin, "DELETE", feature, "", 204)
	s.do(admin, "DELETE", product, "", 204)
}

func (s *site) platform() {
	s.t.Helper()
	admin := s.admin()
	s.do(admin, "GET", "/api/tenants/?limit=1", "", 200)
	made := s.do(admin, "POST", "/api/tenants/", `{"name":"initech","admin_email":"viewer@acme.test"}`, 201)
	s.refuse(admin, "POST", "/api/tenants/", `{"name":"initech"}`, 409, "already-exists")
	path := fmt.Sprintf("/api/tenants/%v/", made["id"])
	s.do(admin, "GET", path, "", 200)
	s.do(admin, "PATCH", path, `{"status":"suspended"}`, 200)
	s.refuse(admin, "PATCH", path, `{"name":"acme"}`, 409, "already-exists")
	s.do(admin, "POST", path+"permissions/", `{"role":"Admin","permissions":[{"product":"abc","feature":"reports","action":"read"}]}`, 200)
	s.refuse(admin, "PATCH", "/api/tenants/1/", `{"status":"suspended"}`, 409, "own-tenant")
	s.refuse(admin, "DELETE", "/api/tenants/1/", "", 409, "own-tenant")
	s.do(admin, "PATCH", path, `{"seats":3,"invitation_domains":{"allowed":["*.example.com"],"denied":["dev.example.com"]}}`, 200)
	s.do(admin, "PATCH", path, `{"seats":null}`, 200)
	s.refuse(admin, "PATCH", path, `{"seats":0}`, 422, "invalid-fields")
	s.do(admin, "DELETE", path, "", 204)
	seated := s.do(admin, "POST", "/api/tenants/", `{"name":"seated","seats":5}`, 201)
	s.do(admin, "DELETE", fmt.Sprintf("/api/tenants/%v/", seated["id"]), "", 204)
}

func (s *site) ownTenant() {
	s.t.Helper()
	admin := s.admin()
	s.do(admin, "GET", "/api/tenant/", "", 200)
	s.do(admin, "PATCH", "/api/tenant/", `{"name":"Acme Ltd"}`, 200)
	s.do(admin, "PATCH", "/api/tenant/", `{"invitation_domains":{"denied":["evil.test"]}}`, 200)
	s.refuse(admin, "PATCH", "/api/tenant/", `{"invitation_domains":{"denied":["*"]}}`, 422, "invalid-fields")
	s.refuse(admin, "PATCH", "/api/tenant/", `{"name":"globex"}`, 409, "already-exists")
	s.do(admin, "GET", "/api/permissions/dashboard/", "", 200)
	s.do(admin, "POST", "/api/permissions/dashboard/", `{"note":"Call Peter"}`, 201)
}

// invite makes an invitation and returns its path and the token of its mail.
func (s *site) invite(address string) (path, token string) {
	s.t.Helper()
	made := s.do(s.admin(), "POST", "/api/invitations/", fmt.Sprintf(`{"email":%q,"metadata":{"note":"hello"}}`, address), 201)
	found := regexp.MustCompile(`Token: (inv_[A-Za-z0-9_-]+)`).FindStringSubmatch(s.mails.text)
	require.NotNil(s.t, found)
	return fmt.Sprintf("/api/invitations/%v/", made["id"]), found[1]
}

func (s *site) invitations() {
	s.t.Helper()
	admin, editor := s.admin(), caller{s.user("editor@acme.test"), 1}
	path, _ := s.invite("nina@example.com")
	s.invite("otto@example.com")
	s.do(admin, "GET", "/api/invitations/?status=pending&limit=1", "", 200)
	s.do(admin, "GET", "/api/invitations/?email=nina@example.com&created_from=2026-11-23T00:00:00Z&created_before=2026-11-24T00:00:00Z", "", 200)
	s.refuse(admin, "GET", "/api/invitations/?created_from=yesterday", "", 400, "bad-query")
	s.refuse(admin, "GET", "/api/invitations/?status=lost", "", 400, "bad-query")
	s.refuse(admin, "POST", "/api/invitations/", `{"email":"nina@example.com"}`, 409, "invitation-already-pending")
	s.refuse(admin, "POST", "/api/invitations/", `{"email":"viewer@acme.test"}`, 409, "already-member")
	s.refuse(admin, "POST", "/api/invitations/", `{"email":"x@example.com","tenant":2}`, 404, "tenant-not-found")
	s.refuse(editor, "POST", "/api/invitations/", `{"email":"x@example.com","role":"Admin"}`, 403, "role-exceeds-yours")
	s.do(admin, "GET", path, "", 200)
	s.refuse(admin, "POST", path+"resend/", "", 429, "resend-cooldown")
	for range 9 {
		s.clock.Advance(time.Minute)
		s.do(admin, "POST", path+"resend/", "", 200)
	}
	s.clock.Advance(time.Minute)
	s.refuse(admin, "POST", path+"resend/", "", 429, "resend-limit")
	s.do(admin, "POST", path+"cancel/", "", 200)
	s.refuse(admin, "POST", path+"cancel/", "", 409, "invitation-not-pending")
	s.refuse(admin, "POST", path+"resend/", "", 409, "invitation-not-pending")
	s.mails.err = errors.New("nobody listens")
	lost := s.do(admin, "POST", "/api/invitations/", `{"email":"lost@example.com","locale":"de-AT"}`, 201)
	s.mails.err = &invitation.SendError{Reason: "refused-permanently", Err: errors.New("no such mailbox")}
	s.do(admin, "POST", "/api/invitations/", `{"email":"nobody@example.com"}`, 201)
	s.mails.err = nil
	require.Equal(s.t, "de", lost["locale"])
	require.Contains(s.t, lost["delivery"], "next_attempt_at")
}

// deliver makes invitations whose token the caller gets.
func (s *site) deliver() {
	s.t.Helper()
	admin, editor := s.admin(), caller{s.user("editor@acme.test"), 1}
	made := s.do(admin, "POST", "/api/invitations/", `{"email":"hand@example.com","deliver":false}`, 201)
	require.Equal(s.t, fmt.Sprintf("https://app.example.com/invite#token=%v", made["token"]), made["link"])
	require.Equal(s.t, "none", made["delivery"].(map[string]any)["status"])
	s.refuse(editor, "POST", "/api/invitations/", `{"email":"x@example.com","deliver":false}`, 403, "permission-denied")

	const hand = `{"deliver":false}`
	resend := fmt.Sprintf("/api/invitations/%v/resend/", made["id"])
	s.clock.Advance(time.Minute)
	again := s.do(admin, "POST", resend, hand, 200)
	require.NotEmpty(s.t, again["token"])
	require.NotEqual(s.t, made["token"], again["token"])
	require.NotContains(s.t, s.do(admin, "GET", fmt.Sprintf("/api/invitations/%v/", made["id"]), "", 200), "token")
	s.refuse(editor, "POST", resend, hand, 403, "permission-denied")
	s.refuse(caller{admin.id, 888888}, "POST", resend, "", 404, "invitation-not-found")
	s.refuse(caller{admin.id, 888888}, "POST", resend, hand, 404, "tenant-not-found")
	s.exec(`UPDATE tenants SET status = 'suspended' WHERE id = 1`)
	s.refuse(admin, "POST", resend, hand, 409, "tenant-inactive")
	s.refuse(admin, "POST", "/api/invitations/bulk/", `{"invitations":[{"email":"x@example.com"}]}`, 409, "tenant-inactive")
	s.exec(`UPDATE tenants SET status = 'active' WHERE id = 1`)
	product, feature := s.id(`SELECT id FROM products WHERE name = 'abc'`), s.id(`SELECT id FROM features WHERE name = 'invitations'`)
	s.do(admin, "PATCH", fmt.Sprintf("/api/products/%d/features/%d/", product, feature), `{"actions":["read_token"]}`, 200)
	s.do(admin, "POST", "/api/roles/", `{"name":"Boss"}`, 201)
	s.do(admin, "POST", "/api/tenants/1/permissions/", `{"role":"Boss","permissions":[{"product":"abc","feature":"invitations","action":"read_token"}]}`, 200)
	s.do(admin, "PATCH", "/api/members/"+editor.id+"/", `{"role":"Boss"}`, 200)
	s.refuse(editor, "POST", resend, hand, 403, "role-exceeds-yours")
}

// bulk invites several people at once.
func (s *site) bulk() {
	s.t.Helper()
	admin := s.admin()
	const path = "/api/invitations/bulk/"
	both := s.do(admin, "POST", path, `{"invitations":[{"email":"b1@example.com","role":"Editor"},{"email":"b2@example.com","deliver":false}]}`, 200)
	require.EqualValues(s.t, 2, both["created"])
	require.Contains(s.t, fmt.Sprint(both["results"].([]any)[1]), "inv_")
	some := s.do(admin, "POST", path, `{"invitations":[{"email":"b3@example.com"},{"email":"B3@example.com"},{"email":"x"}]}`, 200)
	require.Equal(s.t, []any{201.0, 409.0, 422.0}, statuses(some))
	none, _ := s.send(admin, "abc/invitations/write", "application/json", "POST", path,
		`{"invitations":[{"email":"b4@example.com"},{"email":"b3@example.com"}],"atomic":true}`, 200)
	require.Equal(s.t, []any{424.0, 409.0}, statuses(none))
	require.EqualValues(s.t, 0, none["created"])
	s.refuse(admin, "POST", path, `{"invitations":[]}`, 422, "invalid-fields")
	s.refuse(caller{admin.id, 888888}, "POST", path, `{"invitations":[{"email":"b5@example.com"}]}`, 404, "tenant-not-found")
}

// statuses returns those of a bulk's results.
func statuses(answer map[string]any) (all []any) {
	for _, r := range answer["results"].([]any) {
		all = append(all, r.(map[string]any)["status"])
	}
	return all
}

// events holds what the webhook is told against the description.
func (s *site) events() {
	s.t.Helper()
	rows, err := s.db.Reader().QueryContext(s.t.Context(), `SELECT type, payload FROM webhook_events`)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, rows.Close()) }()
	types := map[string]bool{}
	for rows.Next() {
		var kind, payload string
		require.NoError(s.t, rows.Scan(&kind, &payload))
		require.Empty(s.t, s.doc.CheckSchema("InvitationEvent", []byte(payload)), payload)
		require.NotContains(s.t, payload, "inv_")
		types[kind] = true
	}
	require.NoError(s.t, rows.Err())
	require.Len(s.t, types, 5, "all events of the description were seen: %v", types)
}

// limits meets what bounds invitations, and keys that are used twice.
func (s *site) limits() {
	s.t.Helper()
	admin := s.admin()
	const path, someone = "/api/invitations/", `{"email":"more@example.com"}`
	made := s.do(admin, "POST", path, `{"email":"first@example.com"}`, 201)
	resend := fmt.Sprintf("%s%v/resend/", path, made["id"])
	for _, target := range []string{path, path + "bulk/", resend} {
		o := s.find("POST", target)
		body := map[string]string{path: `{"email":"once@example.com"}`, path + "bulk/": `{"invitations":[{"email":"twice@example.com"}]}`, resend: ""}[target]
		other := map[string]string{path: someone, path + "bulk/": `{"invitations":[` + someone + `]}`, resend: `{"deliver":false}`}[target]
		s.clock.Advance(time.Minute)
		status := 200
		if target == path {
			status = 201
		}
		s.send(admin, o.Permission, "application/json", "POST", target, body, status, "Idempotency-Key", "k")
		answer, _ := s.send(admin, o.Permission, "application/json", "POST", target, other, 422, "Idempotency-Key", "k")
		require.Equal(s.t, "idempotency-key-reused", answer["code"])
	}

	s.exec(`UPDATE tenants SET seats = 1 WHERE id = 1`)
	s.refuse(admin, "POST", path, someone, 409, "seats-full")
	s.exec(`UPDATE tenants SET seats = NULL, denied_domains = 'example.org' WHERE id = 1`)
	s.refuse(admin, "POST", path, `{"email":"more@example.org"}`, 422, "invalid-fields")
	s.refuse(admin, "POST", path, `{"email":"more@example.com","locale":"ja"}`, 422, "invalid-fields")
	s.exec(`UPDATE tenants SET denied_domains = '' WHERE id = 1`)

	for i := s.id(`SELECT COUNT(*) FROM invitations WHERE tenant_id = 1 AND status = 'pending'`); i < pending; i++ {
		s.do(admin, "POST", path, fmt.Sprintf(`{"email":"crowd%d@example.com"}`, i), 201)
	}
	s.refuse(admin, "POST", path, someone, 429, "too-many-pending")
	s.exec(`UPDATE invitations SET status = 'cancelled' WHERE tenant_id = 1 AND status = 'pending' AND id <> $1`, made["id"])
	for range perTenant {
		s.exec(`INSERT INTO rate_uses (id, key, at) VALUES (lower(hex(randomblob(16))), 'tenant/1', $1)`, s.clock.Now().UnixMilli())
	}
	s.clock.Advance(time.Minute)
	s.refuse(admin, "POST", path, someone, 429, "too-many-invitations")
	s.refuse(admin, "POST", resend, "", 429, "too-many-invitations")
	s.exec(`DELETE FROM rate_uses`)
}

func (s *site) accepts() {
	s.t.Helper()
	nobody, admin := caller{}, s.admin()
	s.do(nobody, "GET", "/invite", "", 200)
	accept := func(token, password string) string { return fmt.Sprintf(`{"token":%q,"password":%q}`, token, password) }
	const good, path = "nine quiet otters swim", "/api/invitations/accept/"
	look := func(token string, status int, code string) {
		s.t.Helper()
		s.refuse(nobody, "POST", "/api/invitations/look/", fmt.Sprintf(`{"token":%q}`, token), status, code)
	}
	look("inv_x", 404, "invitation-unknown")
	s.refuse(nobody, "POST", path, accept("inv_x", good), 404, "invitation-unknown")
	_, token := s.invite("paul@example.com")
	s.do(nobody, "POST", "/api/invitations/look/", fmt.Sprintf(`{"token":%q}`, token), 200)
	s.refuse(nobody, "POST", path, accept(token, "short"), 422, "invalid-fields")
	s.do(nobody, "POST", path, accept(token, good), 201)
	s.refuse(nobody, "POST", path, accept(token, good), 410, "invitation-accepted")
	look(token, 410, "invitation-accepted")
	cancelled, token := s.invite("rita@example.com")
	s.do(admin, "POST", cancelled+"cancel/", "", 200)
	s.refuse(nobody, "POST", path, accept(token, good), 410, "invitation-cancelled")

	roleGone, token := s.invite("sam@example.com")
	s.exec(`UPDATE invitations SET role_id = NULL WHERE id = $1`, strings.Split(roleGone, "/")[3])
	s.do(admin, "GET", roleGone, "", 200) // role is null
	s.refuse(nobody, "POST", path, accept(token, good), 409, "role-gone")
	look(token, 409, "role-gone")
	tom, token := s.invite("tom@example.com")
	s.clock.Advance(time.Minute)
	for change, code := range map[string]string{
		`UPDATE tenants SET seats = 1 WHERE id = 1`:                                "seats-full",
		`UPDATE tenants SET allowed_domains = 'example.org' WHERE id = 1`:          "domain-not-allowed",
		`UPDATE users SET status = 'disabled' WHERE email_key = 'admin@acme.test'`: "inviter-not-allowed",
	} {
		s.exec(change)
		s.refuse(nobody, "POST", path, accept(token, good), 409, code)
		look(token, 409, code)
		s.refuse(admin, "POST", tom+"resend/", "", 409, code)
		s.exec(`UPDATE tenants SET seats = NULL, allowed_domains = '' WHERE id = 1`)
		s.exec(`UPDATE users SET status = 'active'`)
	}
	_, token = s.invite("viewer@globex.test")
	for range 5 {
		s.refuse(nobody, "POST", path, accept(token, "wrong"), 422, "invalid-fields")
	}
	s.refuse(nobody, "POST", path, accept(token, "wrong"), 429, "too-many-attempts")
	s.exec(`UPDATE users SET status = 'disabled' WHERE email_key = 'viewer@globex.test'`)
	s.refuse(nobody, "POST", path, accept(token, good), 409, "account-disabled")
	s.exec(`UPDATE users SET status = 'active', password_hash = NULL WHERE email_key = 'viewer@globex.test'`)
	s.refuse(nobody, "POST", path, accept(token, good), 409, "account-without-password")
	s.do(admin, "POST", "/api/members/", `{"email":"viewer@globex.test","role":"Viewer"}`, 201)
	s.refuse(nobody, "POST", path, accept(token, good), 409, "already-member")
	s.clock.Advance(time.Minute)
	for range perAddress {
		look("inv_x", 404, "invitation-unknown")
	}
	look("inv_x", 429, "too-many-attempts")
	s.refuse(nobody, "POST", path, accept(token, good), 429, "too-many-attempts")
	s.clock.Advance(8 * 24 * time.Hour)
	s.refuse(nobody, "POST", path, accept(token, good), 410, "invitation-expired")
	s.invite("tom@example.com") // whose invitation has expired
	s.do(admin, "GET", "/api/invitations/?status=accepted", "", 200)

	s.exec(`UPDATE tenants SET status = 'suspended' WHERE id = 1`)
	s.refuse(admin, "POST", "/api/invitations/", `{"email":"tina@example.com"}`, 409, "tenant-inactive")
	s.exec(`UPDATE tenants SET status = 'active' WHERE id = 1`)
}
