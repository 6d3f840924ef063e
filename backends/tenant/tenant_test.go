package tenant_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/backends/tenant"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// plain stands for argon2.
type plain struct{}

func (plain) Hash(_ context.Context, password string) (string, error) {
	return "plain$" + password, nil
}

// tb is a *testing.T or a *rapid.T.
type tb interface {
	require.TestingT
	Helper()
}

// fixture is a service over the demo installation, behind something that sets
// the headers that a gateway would.
type fixture struct {
	t        tb
	postgres bool
	db       *database.DB
	clock    *clock.Fake
	log      *bytes.Buffer
	service  *tenant.Service
	handler  http.Handler
	gateway  *http.ServeMux // finds the permission of a route
}

// each runs f on each kind of database. The parts of one test share one
// installation, so that a test costs one database of each kind.
func each(t *testing.T, f func(t *testing.T, f *fixture)) {
	t.Helper()
	dbtest.Each(t, func(t *testing.T, url string) { f(t, setUp(t, url)) })
}

func setUp(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{t: t, postgres: strings.HasPrefix(url, "postgres"), clock: clock.NewFake(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)), log: &bytes.Buffer{}, gateway: http.NewServeMux()}
	f.db = dbtest.Open(t, url, f.clock)
	require.NoError(t, seed.Demo(t.Context(), f.db, plain{}))
	var err error
	f.service, err = tenant.New(tenant.Config{DB: f.db, Clock: f.clock, Log: logging.New("tenant-service", zapcore.Lock(zapcore.AddSync(f.log)), zapcore.DebugLevel)})
	require.NoError(t, err)
	f.handler = f.service.Handler()
	for _, rt := range f.service.Routes() {
		f.gateway.HandleFunc(rt.Method+" "+rt.Path+"{$}", func(_ http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-Permission", rt.Permission)
		})
	}
	return f
}

// exec changes the database behind the service's back.
func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	require.NoError(f.t, f.db.InTx(context.Background(), func(tx *database.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	}))
}

// scalar returns one number.
func (f *fixture) scalar(query string, args ...any) (n int64) {
	f.t.Helper()
	require.NoError(f.t, f.db.Reader().QueryRow(query, args...).Scan(&n))
	return n
}

// user returns the id of a user.
func (f *fixture) user(email string) (id string) {
	f.t.Helper()
	require.NoError(f.t, f.db.Reader().QueryRow(`SELECT id FROM users WHERE email_key = $1`, email).Scan(&id))
	return id
}

// role returns the id of a role.
func (f *fixture) role(tenantID int64, name string) int64 {
	f.t.Helper()
	return f.scalar(`SELECT id FROM roles WHERE tenant_id = $1 AND name = $2`, tenantID, name)
}

func (f *fixture) product(name string) int64 {
	f.t.Helper()
	return f.scalar(`SELECT id FROM products WHERE name = $1`, name)
}

func (f *fixture) feature(product, name string) int64 {
	f.t.Helper()
	return f.scalar(`SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = $1 AND f.name = $2`, product, name)
}

// seq is the number of the newest change of the permission table, and whose it is.
func (f *fixture) seq() (seq, tenantID int64) {
	f.t.Helper()
	return f.scalar(`SELECT COALESCE(MAX(seq), 0) FROM permission_changes`),
		f.scalar(`SELECT COALESCE((SELECT tenant_id FROM permission_changes ORDER BY seq DESC LIMIT 1), 0)`)
}

// audits counts the audit rows of an action.
func (f *fixture) audits(action string) int64 {
	f.t.Helper()
	return f.scalar(`SELECT COUNT(*) FROM audit_events WHERE action = $1 AND trace_id = $2 AND actor_id <> ''`, action, traceID)
}

// addUser makes an account without a tenant.
func (f *fixture) addUser(id, email string) {
	f.t.Helper()
	f.exec(`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ($1, $2, $2, 1, 1)`, id, email)
}

// addMember makes an account with a role of its own in a tenant.
func (f *fixture) addMember(id string, tenantID, roleID int64) {
	f.t.Helper()
	f.addUser(id, id+"@x.test")
	f.exec(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES ($1, $2, $3, 1, 1)`, tenantID, id, roleID)
}

// newRole makes a role with rights given as product/feature/action, also with "*".
func (f *fixture) newRole(tenantID int64, name string, rights ...string) int64 {
	f.t.Helper()
	f.exec(`INSERT INTO roles (tenant_id, name, created_at, updated_at) VALUES ($1, $2, 1, 1)`, tenantID, name)
	id := f.role(tenantID, name)
	for _, g := range rights {
		part := strings.Split(g, "/")
		if strings.Contains(g, "*") {
			f.exec(`INSERT INTO role_wildcards (role_id, product_id, feature_id, action) VALUES ($1,
				(SELECT id FROM products WHERE name = $2), (SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = $2 AND f.name = $3),
				NULLIF($4, '*'))`, id, part[0], part[1], part[2])
			continue
		}
		f.exec(`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES ($1, $2, $3)`, id, f.feature(part[0], part[1]), part[2])
	}
	return id
}

// inherit makes a role inherit from another.
func (f *fixture) inherit(tenantID, roleID, parentID int64) {
	f.t.Helper()
	f.exec(`INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES ($1, $2, $3)`, tenantID, roleID, parentID)
}

// owner returns the id of a tenant's built-in role.
func (f *fixture) owner(tenantID int64) int64 {
	f.t.Helper()
	return f.scalar(`SELECT id FROM roles WHERE tenant_id = $1 AND kind = 'owner'`, tenantID)
}

// grants and parents are the paths below a role.
func grants(roleID int64) string  { return fmt.Sprintf("/api/roles/%d/permissions/", roleID) }
func parents(roleID int64) string { return fmt.Sprintf("/api/roles/%d/parents/", roleID) }

// named is the body of a PUT of parents.
func named(parents ...string) string {
	body, _ := json.Marshal(map[string][]string{"parents": append([]string{}, parents...)}) // never fails
	return string(body)
}

// one is the body of one right, given as product/feature/action; set is that of many.
func one(right string) string {
	part := strings.Split(right, "/")
	return fmt.Sprintf(`{"product":%q,"feature":%q,"action":%q}`, part[0], part[1], part[2])
}

func set(rights ...string) string {
	all := []string{}
	for _, right := range rights {
		all = append(all, one(right))
	}
	return `{"permissions":[` + strings.Join(all, ",") + `]}`
}

// rights returns the rights in an answer as product/feature/action, with the
// role that they come from if it says so.
func (a answer) rights() []string {
	all := []string{}
	items, _ := a.body["permissions"].([]any)
	for _, item := range items {
		g := item.(map[string]any)
		text := fmt.Sprintf("%v/%v/%v", g["product"], g["feature"], g["action"])
		if from, ok := g["from"].(map[string]any); ok {
			text += fmt.Sprint(" ", from["name"])
		}
		all = append(all, text)
	}
	return all
}

// answer is a decoded response.
type answer struct {
	*httptest.ResponseRecorder
	body map[string]any
}

func (a answer) text(name string) string { s, _ := a.body[name].(string); return s }
func (a answer) id() int64               { n, _ := a.body["id"].(float64); return int64(n) }

// names returns a member of every item of a list.
func (a answer) names(name string) []any {
	var all []any
	items, _ := a.body["items"].([]any)
	for _, item := range items {
		all = append(all, item.(map[string]any)[name])
	}
	return all
}

// caller sends requests as a user in a tenant.
type caller struct {
	f        *fixture
	userID   string
	tenantID int64
}

func (f *fixture) as(email string, tenantID int64) caller {
	f.t.Helper()
	return caller{f: f, userID: f.user(email), tenantID: tenantID}
}

func (c caller) call(method, target, body string) answer {
	c.f.t.Helper()
	r := c.request(method, target, body)
	c.f.gateway.ServeHTTP(httptest.NewRecorder(), r)
	return c.f.serve(r)
}

func (c caller) request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
	r.Header.Set("X-Forwarded-For", "192.0.2.7")
	r.Header.Set("X-User-Id", c.userID)
	r.Header.Set("X-Tenant-Id", strconv.FormatInt(c.tenantID, 10))
	return r
}

func (f *fixture) serve(r *http.Request) answer {
	f.t.Helper()
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	a := answer{ResponseRecorder: w}
	if w.Body.Len() > 0 {
		require.NoError(f.t, json.Unmarshal(w.Body.Bytes(), &a.body), w.Body.String())
	}
	if w.Code >= 400 {
		require.Equal(f.t, "application/problem+json", w.Header().Get("Content-Type"))
		require.Equal(f.t, traceID, a.body["trace_id"])
	}
	return a
}

// refuse requires a status and a problem code.
func (c caller) refuse(status int, code, method, target, body string) answer {
	c.f.t.Helper()
	changes, _ := c.f.seq()
	audits := c.f.scalar(`SELECT COUNT(*) FROM audit_events`)
	a := c.call(method, target, body)
	require.Equal(c.f.t, fmt.Sprintf("%d %s", status, code), fmt.Sprintf("%d %s", a.Code, a.text("code")), "%s %s %s: %s", method, target, body, a.Body.String())
	after, _ := c.f.seq()
	require.Equal(c.f.t, changes, after, "a refused change is not announced")
	require.Equal(c.f.t, audits, c.f.scalar(`SELECT COUNT(*) FROM audit_events`), "nor recorded")
	return a
}

// changed requires a status, one audit row of the action and one announcement
// for the tenant, 0 for the catalogue.
func (c caller) changed(status int, action string, tenantID int64, method, target, body string) answer {
	c.f.t.Helper()
	changes, _ := c.f.seq()
	audits := c.f.audits(action)
	a := c.call(method, target, body)
	require.Equal(c.f.t, status, a.Code, "%s %s %s: %s", method, target, body, a.Body.String())
	after, whose := c.f.seq()
	require.Equal(c.f.t, changes+1, after, "announced once")
	require.Equal(c.f.t, tenantID, whose, "announced for the tenant")
	require.Equal(c.f.t, audits+1, c.f.audits(action), "recorded once")
	c.f.announced(action)
	return a
}

// announced requires that the newest announcement says no more of a tenant than
// what an action changes: gateways read that again.
func (f *fixture) announced(action string) {
	f.t.Helper()
	var scope, userID, target string
	require.NoError(f.t, f.db.Reader().QueryRow(`SELECT scope, COALESCE(user_id, '') FROM permission_changes ORDER BY seq DESC LIMIT 1`).Scan(&scope, &userID))
	require.NoError(f.t, f.db.Reader().QueryRow(`SELECT target FROM audit_events ORDER BY id DESC LIMIT 1`).Scan(&target))
	kind, _, _ := strings.Cut(action, ".")
	switch {
	case kind == "member":
		require.Equal(f.t, "member "+target, scope+" user/"+userID, action)
	case kind == "product", kind == "feature", action == "tenant.created", action == "tenant.deleted":
		require.Equal(f.t, "tenant", scope+userID, action)
	default:
		require.Equal(f.t, "roles", scope+userID, action)
	}
}

func TestEveryRouteWantsThePermissionThatItsMethodStandsFor(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@acme.test", 1)
		for _, rt := range f.service.Routes() {
			action := map[string]string{"GET": "read", "POST": "write", "PUT": "write", "PATCH": "write", "DELETE": "delete"}[rt.Method]
			require.True(t, strings.HasSuffix(rt.Permission, "/"+action), rt)
			path := strings.NewReplacer("{id}", "1", "{user_id}", "u", "{feature_id}", "1", "{product}", "abc", "{feature}", "reports", "{action}", "read").Replace(rt.Path)

			r := admin.request(rt.Method, path, `{}`)
			a := f.serve(r)
			require.Equal(t, 403, a.Code, "%v without a check by the gateway", rt)
			require.Equal(t, rt.Permission, a.text("permission"))

			r = admin.request(rt.Method, path, `{}`)
			r.Header.Set("X-Permission", strings.TrimSuffix(rt.Permission, action)+"other")
			require.Equal(t, 403, f.serve(r).Code, "%v with another permission", rt)

			r = admin.request(rt.Method, path, `{}`)
			r.Header.Del("X-User-Id")
			r.Header.Set("X-Permission", rt.Permission)
			require.Equal(t, 401, f.serve(r).Code, "%v without a user", rt)

			r = admin.request(rt.Method, strings.TrimSuffix(path, "/"), `{}`)
			r.Header.Set("X-Permission", rt.Permission)
			a = f.serve(r)
			require.False(t, a.Code == 301 || a.Code == 307 || a.Code == 405, "%v without the slash: %d", rt, a.Code)
		}
		require.Equal(t, 405, admin.call("DELETE", "/api/members/", "").Code)
		require.Equal(t, 404, admin.call("GET", "/api/members/x/y/", "").Code)
	})
}

func TestOwnTenant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		globex := f.as("admin@globex.test", 2)
		a := globex.call("GET", "/api/tenant/", "")
		require.Equal(t, 200, a.Code)
		require.Equal(t, "globex active", a.text("name")+" "+a.text("status"))
		require.Equal(t, "2026-11-23T12:00:00.000Z", a.text("created_at"))

		f.clock.Advance(time.Second)
		a = globex.changed(200, "tenant.updated", 2, "PATCH", "/api/tenant/", `{"name":"Globex GmbH & Söhne"}`)
		require.Equal(t, "Globex GmbH & Söhne", a.text("name"))
		require.Equal(t, "2026-11-23T12:00:01.000Z", a.text("updated_at"))
		changes, _ := f.seq()
		require.Equal(t, 200, globex.call("PATCH", "/api/tenant/", `{"name":"Globex GmbH & Söhne"}`).Code)
		same, _ := f.seq()
		require.Equal(t, changes, same, "nothing changed, nothing is announced")

		globex.refuse(409, "already-exists", "PATCH", "/api/tenant/", `{"name":"acme"}`)
		globex.refuse(422, "invalid-fields", "PATCH", "/api/tenant/", `{}`)
		globex.refuse(400, "bad-json", "PATCH", "/api/tenant/", `{"status":"active"}`)
		for _, name := range []string{``, ` x`, `x `, `123`, `a\nb`, `a\u202eb`, `a\u200bb`, strings.Repeat("x", 101)} {
			globex.refuse(422, "invalid-fields", "PATCH", "/api/tenant/", `{"name":"`+name+`"}`)
		}
	})
}

func TestOperatorManagesTenants(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		require.Equal(t, []any{"acme", "globex"}, op.call("GET", "/api/tenants/", "").names("name"))

		f.addUser("ann", "ann@initech.test")
		a := op.changed(201, "tenant.created", 3, "POST", "/api/tenants/", `{"name":"initech","admin_email":"Ann@Initech.test"}`)
		require.Equal(t, "/api/tenants/3/", a.Header().Get("Location"))
		require.Equal(t, 200, op.call("GET", "/api/tenants/3/", "").Code)
		ann := f.as("ann@initech.test", 3)
		require.Equal(t, []any{"ann"}, ann.call("GET", "/api/members/", "").names("user_id"))
		rights := ann.call("GET", fmt.Sprintf("/api/roles/%d/permissions/", f.role(3, "Admin")), "").Body.String()
		require.Contains(t, rights, `"members"`)
		require.Contains(t, rights, `"billing"`)
		require.NotContains(t, rights, `"platform"`)

		a = op.changed(201, "tenant.created", 4, "POST", "/api/tenants/", `{"name":"hooli"}`)
		require.EqualValues(t, 4, a.id())
		op.changed(201, "tenant.created", 5, "POST", "/api/tenants/", `{"name":"umbrella","admin_user_id":"ann"}`)

		op.refuse(409, "already-exists", "POST", "/api/tenants/", `{"name":"initech"}`)
		op.refuse(422, "invalid-fields", "POST", "/api/tenants/", `{"name":"x","admin_email":"nobody@x.test"}`)
		op.refuse(422, "invalid-fields", "POST", "/api/tenants/", `{"name":"x","admin_email":"no address"}`)
		op.refuse(422, "invalid-fields", "POST", "/api/tenants/", `{"name":"x","admin_email":"ann@initech.test","admin_user_id":"ann"}`)
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM tenants WHERE name = 'x'`), "a refused tenant is not half made")

		a = op.changed(200, "tenant.updated", 3, "PATCH", "/api/tenants/3/", `{"name":"initrode","status":"suspended"}`)
		require.Equal(t, "initrode suspended", a.text("name")+" "+a.text("status"))
		op.refuse(422, "invalid-fields", "PATCH", "/api/tenants/3/", `{"status":"gone"}`)
		op.refuse(404, "not-found", "PATCH", "/api/tenants/99/", `{"name":"y"}`)
		op.refuse(409, "own-tenant", "PATCH", "/api/tenants/1/", `{"status":"suspended"}`)
		op.changed(200, "tenant.updated", 1, "PATCH", "/api/tenants/1/", `{"name":"acme2","status":"active"}`)

		op.refuse(409, "own-tenant", "DELETE", "/api/tenants/1/", "")
		op.changed(204, "tenant.deleted", 3, "DELETE", "/api/tenants/3/", "")
		op.refuse(404, "not-found", "DELETE", "/api/tenants/3/", "")
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM memberships WHERE tenant_id = 3`)+f.scalar(`SELECT COUNT(*) FROM roles WHERE tenant_id = 3`))
		require.Equal(t, "ann", f.user("ann@initech.test"), "the account stays")
		for _, id := range []string{"0", "-1", "01", "x", "1;--", "9223372036854775808"} {
			op.refuse(404, "not-found", "GET", "/api/tenants/"+id+"/", "")
		}
	})
}

func TestMembers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		f.addUser("bob", "bob@x.test")
		f.addUser("eve", "eve@x.test")
		f.exec(`UPDATE users SET status = 'disabled' WHERE id = 'eve'`)

		a := admin.changed(201, "member.added", 2, "POST", "/api/members/", `{"email":"Bob@X.test","role":"Editor"}`)
		require.Equal(t, "/api/members/bob/", a.Header().Get("Location"))
		require.Equal(t, "bob bob@x.test Editor", strings.Join([]string{a.text("user_id"), a.text("email"), a.body["role"].(map[string]any)["name"].(string)}, " "))
		require.Equal(t, 200, admin.call("GET", "/api/members/bob/", "").Code)
		admin.refuse(409, "already-exists", "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"nobody","role":"Viewer"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"eve","role":"Viewer"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"email":"x","role":"Viewer"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"role":"Viewer"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"bob","email":"bob@x.test","role":"Viewer"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"bob"}`)
		admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"bob","role":"Nope"}`)

		a = admin.changed(200, "member.updated", 2, "PATCH", "/api/members/bob/", `{"role":"Viewer"}`)
		require.Equal(t, "Viewer", a.body["role"].(map[string]any)["name"])
		require.Equal(t, 200, admin.call("PATCH", "/api/members/bob/", `{"role":"Viewer"}`).Code, "no change is fine")
		admin.refuse(422, "invalid-fields", "PATCH", "/api/members/bob/", `{"role":"Nope"}`)
		admin.refuse(422, "invalid-fields", "PATCH", "/api/members/bob/", `{}`)
		admin.refuse(404, "not-found", "PATCH", "/api/members/nobody/", `{"role":"Viewer"}`)
		admin.changed(204, "member.removed", 2, "DELETE", "/api/members/bob/", "")
		admin.refuse(404, "not-found", "DELETE", "/api/members/bob/", "")
		admin.refuse(404, "not-found", "GET", "/api/members/bob/", "")
		require.Equal(t, "bob", f.user("bob@x.test"), "the account stays")
	})
}

func TestLastManagerStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		self, role := "/api/members/"+admin.userID+"/", fmt.Sprintf("/api/roles/%d/permissions/", f.role(2, "Admin"))
		for _, c := range [][3]string{
			{"DELETE", self, ""},
			{"PATCH", self, `{"role":"Viewer"}`},
			{"DELETE", role + "tenantgate/members/write/", ""},
			{"PUT", role, `{"permissions":[]}`},
		} {
			a := admin.refuse(409, "last-holder", c[0], c[1], c[2])
			require.Equal(t, "tenantgate/members/write", a.text("permission"))
		}
		f.addMember("deputy", 2, f.role(2, "Admin"))
		f.exec(`UPDATE users SET status = 'disabled' WHERE id = 'deputy'`)
		admin.refuse(409, "last-holder", "DELETE", self, "")
		f.exec(`UPDATE users SET status = 'active' WHERE id = 'deputy'`)
		admin.changed(204, "member.removed", 2, "DELETE", self, "")

		op := f.as("admin@acme.test", 1)
		f.addMember("manager", 1, f.newRole(1, "Manager", "tenantgate/members/write"))
		a := op.refuse(409, "last-holder", "DELETE", "/api/members/"+op.userID+"/", "")
		require.Equal(t, "tenantgate/platform/write", a.text("permission"), "the installation keeps an operator")
	})
}

func TestNobodyGrantsWhatTheyDoNotHold(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		limited := f.newRole(2, "HR", "tenantgate/members/write", "tenantgate/members/delete", "tenantgate/permissions/write", "abc/reports/read")
		f.addMember("hr", 2, limited)
		f.addUser("bob", "bob@x.test")
		hr := caller{f, "hr", 2}
		own := fmt.Sprintf("/api/roles/%d/permissions/", limited)

		a := hr.refuse(403, "beyond-own-rights", "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)
		require.Equal(t, "abc/billing/read", a.text("permission"))
		hr.refuse(403, "beyond-own-rights", "PATCH", "/api/members/hr/", `{"role":"Admin"}`)
		a = hr.refuse(403, "beyond-own-rights", "POST", own, `{"product":"abc","feature":"reports","action":"delete"}`)
		require.Equal(t, "abc/reports/delete", a.text("permission"))
		hr.refuse(403, "beyond-own-rights", "PUT", own, `{"permissions":[{"product":"tenantgate","feature":"platform","action":"write"}]}`)
		hr.changed(201, "member.added", 2, "POST", "/api/members/", `{"user_id":"bob","role":"HR"}`)
		viewer := fmt.Sprintf("/api/roles/%d/permissions/", f.role(2, "Viewer"))
		hr.changed(200, "role.permissions_changed", 2, "PUT", viewer,
			`{"permissions":[{"product":"abc","feature":"reports","action":"read"},{"product":"abc","feature":"billing","action":"read"}]}`)
		require.Equal(t, int64(2), f.scalar(`SELECT COUNT(*) FROM role_feature_permissions WHERE role_id = $1`, f.role(2, "Viewer")),
			"what the role has already is no grant")
	})
}

func TestRoles(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		a := admin.changed(201, "role.created", 2, "POST", "/api/roles/", `{"name":"Support level 2"}`)
		path := fmt.Sprintf("/api/roles/%d/", a.id())
		require.Equal(t, path, a.Header().Get("Location"))
		require.Equal(t, "Support level 2", admin.call("GET", path, "").text("name"))
		admin.refuse(409, "already-exists", "POST", "/api/roles/", `{"name":"Admin"}`)
		for _, name := range []string{``, `a,b`, ` a`, `a\r\nX-Roles: Admin`, `Ädmin`, strings.Repeat("x", 64)} {
			admin.refuse(422, "invalid-fields", "POST", "/api/roles/", `{"name":"`+name+`"}`)
			admin.refuse(422, "invalid-fields", "PATCH", path, `{"name":"`+name+`"}`)
		}
		require.Equal(t, "Help desk", admin.changed(200, "role.renamed", 2, "PATCH", path, `{"name":"Help desk"}`).text("name"))
		require.Equal(t, 200, admin.call("PATCH", path, `{"name":"Help desk"}`).Code, "no change is fine")
		admin.refuse(409, "already-exists", "PATCH", path, `{"name":"Viewer"}`)
		admin.refuse(404, "not-found", "PATCH", "/api/roles/999/", `{"name":"x"}`)
		admin.refuse(409, "role-in-use", "DELETE", fmt.Sprintf("/api/roles/%d/", f.role(2, "Viewer")), "")
		admin.changed(204, "role.deleted", 2, "DELETE", path, "")
		admin.refuse(404, "not-found", "DELETE", path, "")
		admin.refuse(404, "not-found", "GET", path, "")
	})
}

func TestGrants(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		role := fmt.Sprintf("/api/roles/%d/permissions/", f.newRole(2, "Support"))
		const reports, billing = `{"product":"abc","feature":"reports","action":"read"}`, `{"product":"abc","feature":"billing","action":"write"}`

		require.JSONEq(t, `{"permissions":[]}`, admin.call("GET", role, "").Body.String())
		a := admin.changed(200, "role.permissions_changed", 2, "POST", role, reports)
		require.JSONEq(t, `{"permissions":[`+reports+`]}`, a.Body.String())
		changes, _ := f.seq()
		require.Equal(t, 200, admin.call("POST", role, reports).Code, "twice is fine")
		same, _ := f.seq()
		require.Equal(t, changes, same)

		a = admin.changed(200, "role.permissions_changed", 2, "PUT", role, `{"permissions":[`+billing+`,`+billing+`]}`)
		require.JSONEq(t, `{"permissions":[`+billing+`]}`, a.Body.String())
		var detail string
		require.NoError(t, f.db.Reader().QueryRow(`SELECT detail FROM audit_events ORDER BY id DESC LIMIT 1`).Scan(&detail))
		require.JSONEq(t, `{"role":"Support","added":[`+billing+`],"removed":[`+reports+`]}`, detail)

		a = admin.refuse(422, "invalid-fields", "PUT", role, `{"permissions":[`+reports+`,{"product":"abc","feature":"reports","action":"fly"}]}`)
		require.Contains(t, a.Body.String(), `"/permissions/1"`)
		admin.refuse(422, "invalid-fields", "POST", role, `{}`)
		admin.refuse(422, "invalid-fields", "PUT", role, `{}`)
		admin.refuse(400, "bad-json", "PUT", role, `{"permissions":[{"role":1}]}`)
		for _, method := range []string{"GET", "PUT", "POST"} {
			admin.refuse(404, "not-found", method, "/api/roles/999/permissions/", map[string]string{"PUT": `{"permissions":[]}`, "POST": reports}[method])
		}
		admin.changed(204, "role.permissions_changed", 2, "DELETE", role+"abc/billing/write/", "")
		admin.refuse(404, "not-found", "DELETE", role+"abc/billing/write/", "")
		admin.refuse(404, "not-found", "DELETE", role+"abc/x'--/write/", "")
	})
}

func TestCatalogue(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		require.Equal(t, []any{"abc", "tenantgate"}, op.call("GET", "/api/products/", "").names("name"))

		a := op.changed(201, "product.created", 0, "POST", "/api/products/", `{"name":"crm"}`)
		path := fmt.Sprintf("/api/products/%d/", a.id())
		require.Equal(t, path, a.Header().Get("Location"))
		op.refuse(409, "already-exists", "POST", "/api/products/", `{"name":"crm"}`)
		op.refuse(422, "invalid-fields", "POST", "/api/products/", `{"name":"C R M"}`)
		op.refuse(422, "invalid-fields", "POST", "/api/products/", `{}`)
		require.Equal(t, "crm2", op.changed(200, "product.renamed", 0, "PATCH", path, `{"name":"crm2"}`).text("name"))
		require.Equal(t, "crm2", op.call("GET", path, "").text("name"))
		op.refuse(409, "already-exists", "PATCH", path, `{"name":"abc"}`)

		a = op.changed(201, "feature.created", 0, "POST", path+"features/", `{"name":"leads","actions":["export","read","export"]}`)
		require.Equal(t, []any{"read", "write", "delete", "export"}, a.body["actions"])
		leads := fmt.Sprintf("%sfeatures/%d/", path, a.id())
		require.Equal(t, leads, a.Header().Get("Location"))
		require.Equal(t, "leads", op.call("GET", leads, "").text("name"))
		require.Equal(t, []any{"leads"}, op.call("GET", path+"features/", "").names("name"))
		require.Equal(t, []any{"read", "write", "delete"}, op.changed(201, "feature.created", 0, "POST", path+"features/", `{"name":"deals"}`).body["actions"])
		op.refuse(409, "already-exists", "POST", path+"features/", `{"name":"leads"}`)
		op.refuse(422, "invalid-fields", "POST", path+"features/", `{}`)
		op.refuse(422, "invalid-fields", "POST", path+"features/", `{"name":"x","actions":["a,b"]}`)
		many := `["a1","a2","a3","a4","a5","a6","a7","a8","a9","b1","b2","b3","b4"]`
		op.refuse(422, "invalid-fields", "POST", path+"features/", `{"name":"x","actions":`+many[:len(many)-1]+`,"b5"]}`)
		op.changed(201, "feature.created", 0, "POST", path+"features/", `{"name":"sixteen","actions":`+many+`}`)
		op.refuse(404, "not-found", "POST", "/api/products/99/features/", `{"name":"x"}`)
		op.refuse(404, "not-found", "GET", "/api/products/99/features/", "")
		op.refuse(404, "not-found", "GET", fmt.Sprintf("/api/products/%d/features/%d/", f.product("abc"), a.id()), "")

		right := `{"role":"Admin","permissions":[{"product":"crm2","feature":"leads","action":"export"},{"product":"crm2","feature":"leads","action":"read"}]}`
		op.changed(200, "role.permissions_changed", 2, "POST", "/api/tenants/2/permissions/", right)
		require.Equal(t, 200, op.call("POST", "/api/tenants/2/permissions/", right).Code, "twice is fine")
		op.refuse(404, "not-found", "POST", "/api/tenants/2/permissions/", `{"role":"Nope","permissions":[{"product":"abc","feature":"reports","action":"read"}]}`)
		op.refuse(404, "not-found", "POST", "/api/tenants/99/permissions/", right)
		op.refuse(422, "invalid-fields", "POST", "/api/tenants/2/permissions/", `{"role":"Admin"}`)
		require.EqualValues(t, 1, f.scalar(`SELECT COUNT(*) FROM role_feature_permissions WHERE action = 'export'`))

		a = op.changed(200, "feature.updated", 0, "PATCH", leads, `{"name":"prospects","actions":[]}`)
		require.Equal(t, []any{"read", "write", "delete"}, a.body["actions"])
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM role_feature_permissions WHERE action = 'export'`), "grants of the action are gone")
		require.Equal(t, 200, op.call("PATCH", leads, `{"name":"prospects"}`).Code, "no change is fine")
		op.refuse(422, "invalid-fields", "PATCH", leads, `{}`)
		op.refuse(409, "already-exists", "PATCH", leads, `{"name":"deals"}`)
		op.changed(204, "feature.deleted", 0, "DELETE", leads, "")
		op.refuse(404, "not-found", "DELETE", leads, "")
		op.changed(204, "product.deleted", 0, "DELETE", path, "")
		op.refuse(404, "not-found", "DELETE", path, "")
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM features WHERE name = 'deals'`), "features go with their product")
	})
}

func TestBuiltInProductStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		path := fmt.Sprintf("/api/products/%d/", f.product("tenantgate"))
		members := fmt.Sprintf("%sfeatures/%d/", path, f.feature("tenantgate", "members"))
		op.refuse(409, "built-in", "PATCH", path, `{"name":"x"}`)
		op.refuse(409, "built-in", "DELETE", path, "")
		op.refuse(409, "built-in", "POST", path+"features/", `{"name":"x"}`)
		op.refuse(409, "built-in", "PATCH", members, `{"name":"x"}`)
		op.refuse(409, "built-in", "DELETE", members, "")
	})
}

func TestListsPageByKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		for i := range 25 {
			f.addMember(fmt.Sprintf("u%02d", i), 2, f.role(2, "Viewer"))
			f.newRole(2, fmt.Sprintf("r%02d", i))
			f.exec(`INSERT INTO products (name, created_at, updated_at) VALUES ($1, 1, 1)`, fmt.Sprintf("p%02d", i))
			f.exec(`INSERT INTO features (product_id, name, created_at, updated_at) VALUES (1, $1, 1, 1)`, fmt.Sprintf("f%02d", i))
		}
		for path, want := range map[string]int64{
			"/api/members/":             f.scalar(`SELECT COUNT(*) FROM memberships WHERE tenant_id = 2`),
			"/api/roles/":               f.scalar(`SELECT COUNT(*) FROM roles WHERE tenant_id = 2`),
			"/api/products/":            f.scalar(`SELECT COUNT(*) FROM products`),
			"/api/products/1/features/": f.scalar(`SELECT COUNT(*) FROM features WHERE product_id = 1`),
			"/api/tenants/":             2,
		} {
			for _, limit := range []int{1, 7, 20, 100} {
				seen, pages := map[any]bool{}, 0
				for next := fmt.Sprintf("%s?limit=%d", path, limit); next != ""; pages++ {
					a := admin.call("GET", next, "")
					require.Equal(t, 200, a.Code, a.Body.String())
					require.LessOrEqual(t, len(a.body["items"].([]any)), limit)
					for _, item := range a.body["items"].([]any) {
						seen[fmt.Sprint(item)] = true
					}
					link := a.Header().Get("Link")
					require.Equal(t, link == "", a.body["next_cursor"] == nil)
					if next = ""; link != "" {
						require.True(t, strings.HasSuffix(link, `>; rel="next"`))
						next = strings.TrimPrefix(strings.TrimSuffix(link, `>; rel="next"`), "<")
						require.Contains(t, next, "after="+a.text("next_cursor"))
					}
				}
				require.Len(t, seen, int(want), path)
				require.EqualValues(t, (want+int64(limit)-1)/int64(limit), pages, "%s in pages of %d", path, limit)
			}
			for _, query := range []string{"limit=0", "limit=101", "limit=x", "after=%21", "after=YQ==", "after=" + strings.Repeat("QUFB", 100)} {
				admin.refuse(400, "bad-query", "GET", path+"?"+query, "")
			}
		}
		for _, key := range []string{"x", "-1", "01", "1 OR 1=1"} {
			admin.refuse(400, "bad-query", "GET", "/api/roles/?after="+tenant.EncodeCursor(key), "")
		}
	})
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		viewer := f.as("viewer@globex.test", 2)
		now := f.clock.Now().UnixMilli()
		for i, expires := range []int64{now + 1, now, now + 1000} {
			f.exec(`INSERT INTO invitations (id, tenant_id, email, email_key, expires_at, created_at, updated_at) VALUES ($1, $2, 'a', $1, $3, 1, 1)`,
				strconv.Itoa(i), 2, expires)
		}
		roles := f.scalar(`SELECT COUNT(*) FROM roles WHERE tenant_id = 2`)
		require.JSONEq(t, fmt.Sprintf(`{"tenant":{"id":2,"name":"globex"},"members":3,"roles":%d,"pending_invitations":2,"notes":0}`, roles),
			viewer.call("GET", "/api/permissions/dashboard/", "").Body.String())

		editor := f.as("editor@globex.test", 2)
		a := editor.call("POST", "/api/permissions/dashboard/", `{"note":"Budget closed"}`)
		require.Equal(t, 201, a.Code)
		require.Equal(t, traceID, a.text("trace_id"))
		require.EqualValues(t, 1, f.scalar(`SELECT COUNT(*) FROM audit_events WHERE tenant_id = 2 AND actor_id = $1 AND request_ip = '192.0.2.7' AND detail = '{"note":"Budget closed"}'`, editor.userID))
		require.InDelta(t, 1, viewer.call("GET", "/api/permissions/dashboard/", "").body["notes"], 0)
		for _, note := range []string{``, `a\nb`, strings.Repeat("x", 501)} {
			editor.refuse(422, "invalid-fields", "POST", "/api/permissions/dashboard/", `{"note":"`+note+`"}`)
		}
		caller{f, "u", 99}.refuse(404, "not-found", "GET", "/api/permissions/dashboard/", "")
	})
}

func TestLogEvent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		c := caller{f, "ann", 7}
		for _, method := range []string{"GET", "POST"} {
			a := c.call(method, "/api/tenant/log/?tenant_id=3&user_id=bob", "")
			require.Equal(t, 200, a.Code)
			require.JSONEq(t, `{"message":"logged","service":"tenant-service","trace_id":"`+traceID+`","tenant_id":3,"user_id":"bob"}`, a.Body.String())
		}
		require.Contains(t, f.log.String(), `"about_user_id":"bob","about_tenant_id":3`)
		a := c.call("GET", "/api/tenant/log", "")
		require.Equal(t, "ann", a.text("user_id"))
		require.InDelta(t, 7, a.body["tenant_id"], 0)

		nobody := caller{f, "", 0}
		require.Equal(t, 200, nobody.call("GET", "/api/tenant/log/?user_id=bob", "").Code)
		nobody.refuse(400, "bad-query", "GET", "/api/tenant/log/", "")
		for _, query := range []string{"tenant_id=x", "tenant_id=0", "tenant_id=01", "user_id=a%0Ab", "user_id=" + strings.Repeat("x", 256)} {
			c.refuse(400, "bad-query", "GET", "/api/tenant/log/?"+query, "")
		}
	})
}

func TestNewRefusesBadSettings(t *testing.T) {
	t.Parallel()
	_, err := tenant.New(tenant.Config{})
	require.ErrorContains(t, err, "required")
}
