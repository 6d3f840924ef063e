package permission_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	_ "github.com/tenantgate/tenantgate/caddymodules/jwtauth"
	"github.com/tenantgate/tenantgate/internal/database"
	core "github.com/tenantgate/tenantgate/internal/permission"
)

const hmacSecret = "correct horse battery staple, and more of it"

// surfaces is a site with everything that asks the table, each with roles from
// the table (t) and from claims (c), and with the tenant of the token and that
// of the path (tp, cp).
const surfaces = `
	authorize /authorize {
		import token
		import check
	}
	trace_context
	handle {
		import token
		import check
		handle /answers/t/* {
			permission_answers
		}
		handle /answers/c/* {
			permission_answers {
				subject claims
			}
		}
		handle /answers/tp/* {
			permission_answers {
				tenant {path.2}
			}
		}
		handle /answers/cp/* {
			permission_answers {
				subject claims
				tenant {path.2}
			}
		}
		echo_identity
	}`

const surfaceSnippets = `
(token) {
	jwt_auth {
		issuer test {
			hmac_secret "` + hmacSecret + `"
			audience gate
			algorithms HS256
		}
		claims {
			tenant /org/id
			roles /realm_access/roles
		}
	}
}
(check) {
	handle /t/* {
		check_permission p1 f1
	}
	handle /c/* {
		check_permission p1 f1 {
			subject claims
		}
	}
	handle /tp/* {
		check_permission p1 f1 {
			tenant {path.1}
		}
	}
	handle /cp/* {
		check_permission p1 f1 {
			subject claims
			tenant {path.1}
		}
	}
}`

// isolated is a random permission table, and what it means.
type isolated struct {
	suspended map[string]bool
	rights    map[string]map[string][]string // tenant → role → actions of p1/f1, all in all
	member    map[string]map[string]string   // tenant → active user → role
}

var (
	worldTenants = []string{"1", "2", "3"}
	worldUsers   = []string{"ann", "bob", "eve"}
	worldRoles   = []string{"Admin", "Editor", "Owner", "Viewer"} // the parents of a role stand behind it
	worldActions = []string{"delete", "read", "write"}
)

// drawWorld draws a table and returns the statements that make it.
func drawWorld(rt *rapid.T) (isolated, []string) {
	w := isolated{map[string]bool{}, map[string]map[string][]string{}, map[string]map[string]string{}}
	statements := []string{
		`DELETE FROM memberships`, `DELETE FROM role_parents`, `DELETE FROM role_wildcards`, `DELETE FROM role_feature_permissions`,
		`DELETE FROM roles`, `DELETE FROM users`, `DELETE FROM tenants`,
	}
	run := func(format string, args ...any) { statements = append(statements, fmt.Sprintf(format, args...)) }
	disabled := map[string]bool{}
	for _, user := range worldUsers {
		disabled[user] = rapid.IntRange(0, 3).Draw(rt, user+" is disabled") == 0
		run(`INSERT INTO users (id, email, email_key, status, created_at, updated_at) VALUES ('%[1]s', '%[1]s', '%[1]s', '%[2]s', 1, 1)`,
			user, map[bool]string{true: "disabled", false: "active"}[disabled[user]])
	}
	for _, tenant := range worldTenants {
		w.suspended[tenant] = rapid.IntRange(0, 3).Draw(rt, tenant+" is suspended") == 0
		w.rights[tenant], w.member[tenant] = map[string][]string{}, map[string]string{}
		run(`INSERT INTO tenants (id, name, status, created_at, updated_at) VALUES (%[1]s, 't%[1]s', '%[2]s', 1, 1)`,
			tenant, map[bool]string{true: "suspended", false: "active"}[w.suspended[tenant]])
		w.drawRoles(rt, tenant, run)
		for _, user := range worldUsers {
			if len(w.rights[tenant]) == 0 || rapid.Bool().Draw(rt, user+" is no member of "+tenant) {
				continue
			}
			role := rapid.SampledFrom(slices.Sorted(maps.Keys(w.rights[tenant]))).Draw(rt, "role of "+user+" in "+tenant)
			run(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (%s, '%s', (SELECT id FROM roles WHERE tenant_id = %[1]s AND name = '%[3]s'), 1, 1)`,
				tenant, user, role)
			if !disabled[user] {
				w.member[tenant][user] = role
			}
		}
	}
	return w, statements
}

// drawRoles draws the roles of a tenant, the parents before their children.
func (w isolated) drawRoles(rt *rapid.T, tenant string, run func(string, ...any)) {
	for _, role := range slices.Backward(worldRoles) {
		name := role + " of " + tenant
		if rapid.IntRange(0, 3).Draw(rt, name+" is not there") == 0 {
			continue
		}
		kind, rights := "custom", []string(nil)
		if role == "Owner" && rapid.Bool().Draw(rt, name+" is built in") {
			kind, rights = "owner", worldActions
		}
		run(`INSERT INTO roles (tenant_id, name, kind, created_at, updated_at) VALUES (%s, '%s', '%s', 1, 1)`, tenant, role, kind)
		id := fmt.Sprintf(`(SELECT id FROM roles WHERE tenant_id = %s AND name = '%s')`, tenant, role)
		for _, action := range worldActions {
			if rapid.IntRange(0, 2).Draw(rt, name+" may "+action) == 0 {
				run(`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (%s, 1, '%s')`, id, action)
				rights = append(slices.Clone(rights), action)
			}
		}
		switch rapid.IntRange(0, 9).Draw(rt, "wildcards of "+name) {
		case 0:
			run(`INSERT INTO role_wildcards (role_id) VALUES (%s)`, id)
			rights = worldActions
		case 1:
			run(`INSERT INTO role_wildcards (role_id, product_id, action) VALUES (%s, 1, 'read')`, id)
			rights = append(slices.Clone(rights), "read")
		}
		for _, parent := range slices.Sorted(maps.Keys(w.rights[tenant])) {
			if rapid.IntRange(0, 3).Draw(rt, name+" inherits") == 0 {
				run(`INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (%s, %s, (SELECT id FROM roles WHERE tenant_id = %[1]s AND name = '%[3]s'))`, tenant, id, parent)
				rights = append(slices.Clone(rights), w.rights[tenant][parent]...)
			}
		}
		w.rights[tenant][role] = rights
	}
}

// question is one random request.
type question struct {
	token         string // how it is: valid, forged, expired, or none
	user, tenant  string // of the token
	roles         []string
	surface, path string // which way it is asked, and the tenant in the path as it is sent
	action        string
}

func drawQuestion(rt *rapid.T) question {
	q := question{
		token:   rapid.SampledFrom([]string{"valid", "valid", "valid", "valid", "valid", "valid", "forged", "expired", "none"}).Draw(rt, "token"),
		user:    rapid.SampledFrom(append([]string{"Ann", "ann ann", "nobody", "ａnn"}, slices.Repeat(worldUsers, 4)...)).Draw(rt, "user"),
		tenant:  rapid.SampledFrom(append([]string{"", "01", "1e0", "１", "0x1", "9", "-1", "1.0"}, slices.Repeat(worldTenants, 6)...)).Draw(rt, "tenant"),
		surface: rapid.SampledFrom([]string{"t", "c", "tp", "cp"}).Draw(rt, "surface"),
		path:    rapid.SampledFrom(append([]string{"01", "%31", "1e0", "%EF%BC%91", "9", "1,2", "%201", "{env.HOME}"}, slices.Repeat(worldTenants, 6)...)).Draw(rt, "tenant of the path"),
		action:  rapid.SampledFrom(worldActions).Draw(rt, "action"),
	}
	for range rapid.IntRange(0, 3).Draw(rt, "number of roles") {
		q.roles = append(q.roles, rapid.SampledFrom(append([]string{"admin", "Root", "*"}, slices.Repeat(worldRoles, 2)...)).Draw(rt, "role"))
	}
	return q
}

// method returns what stands for the action.
func (q question) method() string {
	return map[string]string{"read": "GET", "write": "POST", "delete": "DELETE"}[q.action]
}

// refused reports whether jwt_auth refuses the token: ids are plain ASCII.
func (q question) refused() bool {
	return q.token != "valid" || strings.ContainsAny(q.user+q.tenant, "ａ１")
}

// asked returns the tenant that the question is about, and whether claims count.
func (q question) asked() (tenant string, claims bool) {
	tenant = q.tenant
	if strings.HasSuffix(q.surface, "p") {
		tenant, _ = url.PathUnescape(q.path)
	}
	return tenant, strings.HasPrefix(q.surface, "c")
}

// counted returns the roles that count, and all that they may do.
func (w isolated) counted(q question) (roles, actions []string) {
	tenant, claims := q.asked()
	if suspended, ok := w.suspended[tenant]; !ok || suspended {
		return nil, nil
	}
	if !claims {
		role, ok := w.member[tenant][q.user]
		if !ok {
			return nil, nil
		}
		return []string{role}, w.rights[tenant][role]
	}
	if tenant != q.tenant {
		return nil, nil
	}
	for _, role := range q.roles {
		if held, ok := w.rights[tenant][role]; ok {
			roles, actions = q.roles, append(actions, held...)
		}
	}
	return roles, actions
}

// sign returns the Authorization header, empty for none.
func (q question) sign(t require.TestingT) string {
	if q.token == "none" {
		return ""
	}
	expires, secret := time.Now().Add(time.Hour), hmacSecret
	switch q.token {
	case "expired":
		expires = time.Now().Add(-time.Hour)
	case "forged":
		secret += "!"
	}
	claims := jwt.MapClaims{
		"iss": "test", "aud": "gate", "sub": q.user, "exp": expires.Unix(), "iat": expires.Add(-time.Hour).Unix(),
		"tenant_id": "1", "roles": []string{"Admin", "Owner"}, // not where the configuration looks
	}
	if q.tenant != "" {
		claims["org"] = map[string]any{"id": q.tenant}
	}
	if q.roles != nil {
		claims["realm_access"] = map[string]any{"roles": q.roles}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	signed, err := token.SignedString([]byte(secret))
	require.NoError(t, err)
	return "Bearer " + signed
}

// TestIsolation asks every handler random questions about random tables, and
// compares the answers with what the table means. No answer may depend on
// another tenant's rows.
func TestIsolation(t *testing.T) {
	db, dbURL := newDatabase(t)
	change(t, db, `DELETE FROM memberships`, `DELETE FROM role_feature_permissions`, `DELETE FROM features`, `DELETE FROM products`,
		`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'p1', 1, 1)`,
		`INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (1, 1, 'f1', 1, 1)`)
	g := newGate(t)
	g.snippets = surfaceSnippets
	g.loadSite(t, dbURL, "poll 10ms", surfaces)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	rapid.Check(t, func(rt *rapid.T) {
		world, statements := drawWorld(rt)
		change(t, db, statements...)
		waitForTable(t, db)
		for range 15 {
			q := drawQuestion(rt)
			requireChecked(rt, g, client, world, q)
			requireAnswered(rt, g, client, world, q)
		}
	})
}

// waitForTable waits until the gateway has the newest table.
func waitForTable(t *testing.T, db *database.DB) {
	t.Helper()
	var seq int64
	require.NoError(t, db.Reader().QueryRowContext(context.Background(), `SELECT MAX(seq) FROM permission_changes`).Scan(&seq))
	app, err := caddy.ActiveContext().App("tenantgate")
	require.NoError(t, err)
	table, err := app.(*gateway.App).PermissionTable()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return table.Snapshot() != nil && table.Snapshot().Seq() == seq }, 20*time.Second, time.Millisecond)
}

// send sends a request that claims in headers to be somebody else.
func (g *gate) send(t require.TestingT, client *http.Client, method, target, body string, q question, headers ...string) (*http.Response, string) {
	r, err := http.NewRequestWithContext(context.Background(), method, g.url+target, strings.NewReader(body))
	require.NoError(t, err)
	r.Host = "127.0.0.1:9080"
	if authorization := q.sign(t); authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for name, value := range map[string]string{"X-User-Id": "ann", "X-Tenant-Id": "1", "X-Roles": "Owner", "X-Permission": "p1/f1/" + q.action, "Content-Type": "application/json"} {
		r.Header.Set(name, value)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(content)
}

// requireChecked compares check_permission and authorize with the oracle.
func requireChecked(rt *rapid.T, g *gate, client *http.Client, world isolated, q question) {
	tenant, _ := q.asked()
	roles, actions := world.counted(q)
	want := http.StatusForbidden
	switch {
	case q.refused():
		want = http.StatusUnauthorized
	case slices.Contains(actions, q.action):
		want = http.StatusOK
	}
	if tenant == q.tenant {
		roles = q.roles // X-Roles of the token's own tenant are the token's
	}
	target := "/" + q.surface + "/" + q.path
	direct, said := g.send(rt, client, q.method(), target, "", q)
	asked, body := g.send(rt, client, "GET", "/authorize", "", q, "X-Forwarded-Method", q.method(), "X-Forwarded-Uri", target)
	require.Equal(rt, want, direct.StatusCode, "check_permission %+v: %s", q, said)
	require.Equal(rt, want, asked.StatusCode, "authorize %+v: %s", q, body)
	for name, value := range map[string]string{
		"X-User-Id": q.user, "X-Tenant-Id": tenant, "X-Roles": strings.Join(roles, ","), "X-Permission": "p1/f1/" + q.action,
	} {
		if want != http.StatusOK {
			value = ""
		}
		require.Equal(rt, value, direct.Header.Get(name), "check_permission %+v", q)
		require.Equal(rt, value, asked.Header.Get(name), "authorize %+v", q)
	}
}

// requireAnswered compares permission_answers with the oracle.
func requireAnswered(rt *rapid.T, g *gate, client *http.Client, world isolated, q question) {
	tenant, _ := q.asked()
	roles, actions := world.counted(q)
	target := "/answers/" + q.surface + "/" + q.path
	me, body := g.send(rt, client, "GET", target+"/me", "", q)
	checked, results := g.send(rt, client, "POST", target+"/check", `{"permissions": ["p1/f1/delete", "p1/f1/read", "p1/f1/write"]}`, q)
	if q.refused() {
		require.Equal(rt, http.StatusUnauthorized, me.StatusCode, "%+v", q)
		require.Equal(rt, http.StatusUnauthorized, checked.StatusCode, "%+v", q)
		return
	}
	require.Equal(rt, http.StatusOK, me.StatusCode, "%+v", q)
	require.Equal(rt, http.StatusOK, checked.StatusCode, "%+v", q)
	permissions, allowed := []string{}, []bool{}
	for _, action := range worldActions {
		may := slices.Contains(actions, action)
		allowed = append(allowed, may)
		if may {
			permissions = append(permissions, "p1/f1/"+action)
		}
	}
	var got struct {
		TenantID           string `json:"tenant_id"`
		UserID             string `json:"user_id"`
		Roles, Permissions []string
	}
	require.NoError(rt, json.Unmarshal([]byte(body), &got))
	require.Equal(rt, []string{tenant, q.user}, []string{got.TenantID, got.UserID})
	require.Equal(rt, append([]string{}, roles...), got.Roles, "%+v", q)
	require.Equal(rt, permissions, got.Permissions, "%+v", q)
	var list struct {
		Results []struct {
			Allowed bool
			Reason  core.Reason
		}
	}
	require.NoError(rt, json.Unmarshal([]byte(results), &list))
	for i, result := range list.Results {
		require.Equal(rt, allowed[i], result.Allowed, "%+v", q)
		require.Equal(rt, allowed[i], result.Reason == core.Allowed, "%+v", q)
	}
	require.Len(rt, list.Results, len(allowed))
}
