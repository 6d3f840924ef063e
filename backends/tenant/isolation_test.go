package tenant_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// dump returns everything that one tenant owns, and the catalogue, as text.
func (f *fixture) dump(tenantID int64) string {
	f.t.Helper()
	var b strings.Builder
	for _, query := range []string{
		`SELECT id || name || status || updated_at FROM tenants WHERE id = $1 ORDER BY 1`,
		`SELECT id || name || updated_at FROM roles WHERE tenant_id = $1 ORDER BY 1`,
		`SELECT user_id || role_id || updated_at FROM memberships WHERE tenant_id = $1 ORDER BY 1`,
		`SELECT g.role_id || '/' || g.feature_id || g.action FROM role_feature_permissions g JOIN roles r ON r.id = g.role_id WHERE r.tenant_id = $1 ORDER BY 1`,
		`SELECT id || action FROM audit_events WHERE tenant_id = $1 ORDER BY 1`,
		`SELECT seq FROM permission_changes WHERE tenant_id = $1 OR tenant_id IS NULL ORDER BY 1`,
		`SELECT p.id || p.name || f.id || f.name || f.actions FROM products p JOIN features f ON f.product_id = p.id WHERE $1 > 0 ORDER BY 1`,
		`SELECT id || email || name || status FROM users WHERE $1 > 0 ORDER BY 1`,
	} {
		rows, err := f.db.Reader().Query(query, tenantID)
		require.NoError(f.t, err)
		for rows.Next() {
			var line string
			require.NoError(f.t, rows.Scan(&line))
			b.WriteString(line + "\n")
		}
		require.NoError(f.t, rows.Err())
		require.NoError(f.t, rows.Close())
	}
	return b.String()
}

// fill puts ids into the wildcards of a route.
func fill(path string, roleID int64, userID string) string {
	return strings.NewReplacer("{id}", fmt.Sprint(roleID), "{user_id}", userID,
		"{product}", "abc", "{feature}", "reports", "{action}", "read").Replace(path)
}

// bodyFor is a good body for any route that takes one.
var bodyFor = map[string]string{
	"/api/members/{user_id}/":      `{"role":"Viewer"}`,
	"/api/roles/{id}/":             `{"name":"Renamed"}`,
	"/api/roles/{id}/permissions/": `{"permissions":[]}`,
}

// TestAnotherTenantsIdsAreUnknownIds goes through all routes of a tenant's own
// things with ids of another tenant: the answer is the very one for ids of
// nothing, and the other tenant does not change.
func TestAnotherTenantsIdsAreUnknownIds(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	globex := f.as("admin@globex.test", 2)
	before := f.dump(1)
	tried := 0
	for _, rt := range f.service.Routes() {
		if !strings.Contains(rt.Path, "{") || strings.HasPrefix(rt.Path, "/api/tenants/") || strings.HasPrefix(rt.Path, "/api/products/") {
			continue // no ids, or the operator's own, who works across tenants
		}
		tried++
		body := bodyFor[rt.Path]
		if rt.Method == "POST" {
			body = `{"product":"abc","feature":"reports","action":"read"}`
		}
		other := globex.refuse(404, "not-found", rt.Method, fill(rt.Path, f.role(1, "Viewer"), f.user("viewer@acme.test")), body)
		none := globex.refuse(404, "not-found", rt.Method, fill(rt.Path, 424242, "nobody"), body)
		require.Equal(t, none.Body.String(), other.Body.String(), rt)
	}
	require.Equal(t, 10, tried)
	require.Equal(t, before, f.dump(1))
}

// TestIsolationProperty sends random requests of one tenant's admin with ids of
// both tenants: the other tenant never changes and never shows.
func TestIsolationProperty(t *testing.T) {
	t.Parallel()
	base := setUp(t)
	globex := base.as("admin@globex.test", 2)
	base.exec(`UPDATE products SET name = name WHERE id = 1`)
	var routes []string
	for _, rt := range base.service.Routes() {
		if !strings.Contains(rt.Permission, "/platform/") {
			routes = append(routes, rt.Method+" "+rt.Path)
		}
	}
	before := base.dump(1)
	rapid.Check(t, func(rt *rapid.T) {
		method, path, _ := strings.Cut(rapid.SampledFrom(routes).Draw(rt, "route"), " ")
		tenantID := int64(rapid.IntRange(1, 2).Draw(rt, "tenant"))
		role := base.role(tenantID, rapid.SampledFrom([]string{"Admin", "Editor", "Viewer"}).Draw(rt, "role"))
		user := base.user(rapid.SampledFrom([]string{"admin@acme.test", "viewer@acme.test", "editor@acme.test"}).Draw(rt, "user"))
		body := rapid.SampledFrom([]string{
			`{"role":"Viewer"}`, `{"role":"Admin"}`, `{"permissions":[]}`, `{"permissions":[{"product":"abc","feature":"reports","action":"read"}]}`,
			`{"product":"abc","feature":"billing","action":"delete"}`, `{"note":"hello"}`, ``,
		}).Draw(rt, "body")
		path = strings.ReplaceAll(path, "{feature_id}", "1")
		if strings.HasPrefix(path, "/api/roles/") && method == "DELETE" && tenantID == 2 {
			role = 0 // keep the callers' own roles for the next draw
		}
		if tenantID == 2 && (method == "PUT" || method == "PATCH" || strings.Contains(path, "{action}")) {
			role = base.role(2, "Viewer")
		}
		a := globex.call(method, fill(path, role, user), body)
		require.Less(rt, a.Code, 500)
		require.NotContains(rt, a.Body.String(), "acme", "%s %s", method, path)
	})
	after := base.dump(1)
	require.Equal(t, before, after)
}

// rights returns what a user may do in a tenant.
func (f *fixture) rights(tenantID int64, userID string) map[string]bool {
	f.t.Helper()
	rows, err := f.db.Reader().Query(`SELECT g.feature_id || '/' || g.action FROM memberships m JOIN role_feature_permissions g ON g.role_id = m.role_id
		WHERE m.tenant_id = $1 AND m.user_id = $2`, tenantID, userID)
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, rows.Close()) }()
	all := map[string]bool{}
	for rows.Next() {
		var g string
		require.NoError(f.t, rows.Scan(&g))
		all[g] = true
	}
	require.NoError(f.t, rows.Err())
	return all
}

// TestNoEscalationProperty lets a member who manages members, roles and grants
// do anything to themselves and an accomplice: neither ever holds a right that
// the two did not hold before, and a manager is always left.
func TestNoEscalationProperty(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	hr := f.newRole(2, "HR", "tenantgate/members/write", "tenantgate/members/delete", "tenantgate/roles/write", "tenantgate/permissions/write", "abc/reports/read")
	f.newRole(2, "Empty")
	f.addMember("hr", 2, hr)
	f.addMember("pal", 2, f.role(2, "Empty"))
	start := f.rights(2, "hr")
	boss := f.as("admin@globex.test", 2).userID
	rapid.Check(t, func(rt *rapid.T) {
		who := caller{f, rapid.SampledFrom([]string{"hr", "pal"}).Draw(rt, "caller"), 2}
		role := f.role(2, rapid.SampledFrom([]string{"HR", "Empty", "Viewer", "Admin"}).Draw(rt, "role"))
		user := rapid.SampledFrom([]string{"hr", "pal", boss}).Draw(rt, "user")
		grants := fmt.Sprintf("/api/roles/%d/permissions/", role)
		right := fmt.Sprintf(`{"product":"%s","feature":"%s","action":"%s"}`,
			rapid.SampledFrom([]string{"abc", "tenantgate"}).Draw(rt, "product"),
			rapid.SampledFrom([]string{"reports", "billing", "members", "platform"}).Draw(rt, "feature"),
			rapid.SampledFrom([]string{"read", "write", "delete"}).Draw(rt, "action"))
		var a answer
		switch rapid.IntRange(0, 4).Draw(rt, "call") {
		case 0:
			a = who.call("PATCH", "/api/members/"+user+"/", `{"role":"`+rapid.SampledFrom([]string{"HR", "Empty", "Viewer", "Admin"}).Draw(rt, "to")+`"}`)
		case 1:
			a = who.call("POST", grants, right)
		case 2:
			a = who.call("PUT", grants, `{"permissions":[`+right+`]}`)
		case 3:
			a = who.call("DELETE", grants+"abc/reports/read/", "")
		default:
			a = who.call("DELETE", "/api/members/"+user+"/", "")
		}
		require.Less(rt, a.Code, 500)
		for _, id := range []string{"hr", "pal"} {
			for g := range maps.Keys(f.rights(2, id)) {
				require.True(rt, start[g], "%s holds %s; all: %v", id, g, slices.Sorted(maps.Keys(start)))
			}
		}
		require.EqualValues(rt, 1, f.scalar(`SELECT EXISTS (SELECT 1 FROM memberships m JOIN role_feature_permissions g ON g.role_id = m.role_id
			WHERE m.tenant_id = 2 AND g.action = 'write' AND g.feature_id = $1)`, f.feature("tenantgate", "members")))
	})
}
