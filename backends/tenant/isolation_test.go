package tenant_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/permission"
)

// dump returns everything that one tenant owns, and the catalogue, as text.
func (f *fixture) dump(tenantID int64) string {
	f.t.Helper()
	var b strings.Builder
	for _, query := range []string{
		`SELECT id || name || status || updated_at FROM tenants WHERE id = $1 ORDER BY 1`,
		`SELECT id || name || kind || updated_at FROM roles WHERE tenant_id = $1 ORDER BY 1`,
		`SELECT user_id || role_id || updated_at FROM memberships WHERE tenant_id = $1 ORDER BY 1`,
		`SELECT g.role_id || '/' || g.feature_id || g.action FROM role_feature_permissions g JOIN roles r ON r.id = g.role_id WHERE r.tenant_id = $1 ORDER BY 1`,
		`SELECT i.role_id || '/' || i.parent_id FROM role_parents i WHERE i.tenant_id = $1 ORDER BY 1`,
		`SELECT w.role_id || '/' || COALESCE(w.product_id, 0) || '/' || COALESCE(w.feature_id, 0) || COALESCE(w.action, '*')
			FROM role_wildcards w JOIN roles r ON r.id = w.role_id WHERE r.tenant_id = $1 ORDER BY 1`,
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
	"/api/roles/{id}/parents/":     `{"parents":[]}`,
}

// TestAnotherTenantsIdsAreUnknownIds goes through all routes of a tenant's own
// things with ids of another tenant: the answer is the very one for ids of
// nothing, and the other tenant does not change.
func TestAnotherTenantsIdsAreUnknownIds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
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
		require.Equal(t, 12, tried)
		require.Equal(t, before, f.dump(1))
	})
}

// TestIsolationProperty sends random requests of one tenant's admin with ids of
// both tenants: the other tenant never changes and never shows.
func TestIsolationProperty(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		globex := base.as("admin@globex.test", 2)
		base.inherit(1, base.newRole(1, "Secret of acme", "abc/*/read"), base.role(1, "Viewer"))
		base.addMember("boss", 2, base.owner(2)) // so that the admin may lose anything
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
				`{"product":"abc","feature":"*","action":"*"}`, `{"permissions":[{"product":"*","feature":"*","action":"read"}]}`,
				`{"parents":[]}`, `{"parents":["Editor"]}`, `{"parents":["Viewer","Secret of acme"]}`, `{"role":"Secret of acme"}`, `{"name":"Viewer"}`,
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
	})
}

// escalation is a tenant in which two conspire: they manage members, roles and
// grants, and hold little else.
type escalation struct {
	*fixture
	// start is what the two may do, or hand on to each other, at the start.
	start []permission.Pattern
	boss  string
	roles []string
}

func newEscalation(t *testing.T, f *fixture) *escalation {
	t.Helper()
	e := &escalation{fixture: f, roles: []string{"HR", "Base", "Empty", "Other", "Viewer", "Admin", "Owner"}}
	own := []string{"tenantgate/members/*", "tenantgate/roles/write", "tenantgate/permissions/write", "tenantgate/permissions/delete"}
	base := []string{"abc/*/read", "abc/reports/write"}
	for _, right := range append(base, own...) {
		p, err := permission.ParsePattern(right)
		require.NoError(t, err)
		e.start = append(e.start, p)
	}
	hr := f.newRole(2, "HR", own...)
	f.inherit(2, hr, f.newRole(2, "Base", base...))
	f.newRole(2, "Empty")
	f.newRole(2, "Other", "abc/billing/*")
	f.addMember("hr", 2, hr)
	f.addMember("pal", 2, f.role(2, "Empty"))
	f.addMember("big", 2, f.owner(2))
	e.boss = f.user("admin@globex.test")
	return e
}

// again gives the two back what they may have lost.
func (e *escalation) again() {
	e.t.Helper()
	if e.scalar(`SELECT COUNT(*) FROM memberships WHERE tenant_id = 2 AND user_id = 'hr'`) == 0 {
		e.exec(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (2, 'hr', $1, 1, 1)`, e.role(2, "HR"))
	}
	if e.scalar(`SELECT COUNT(*) FROM memberships WHERE tenant_id = 2 AND user_id = 'pal'`) == 0 {
		e.exec(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (2, 'pal', $1, 1, 1)`, e.role(2, "Empty"))
	}
	e.exec(`UPDATE memberships SET role_id = $1 WHERE tenant_id = 2 AND user_id = 'hr'`, e.role(2, "HR"))
	for _, p := range e.start {
		f := e.fixture
		if p.Feature == "*" || p.Action == "*" {
			f.exec(`INSERT INTO role_wildcards (role_id, product_id, feature_id, action) SELECT r.id, p.id, f.id, NULLIF($1, '*')
				FROM roles r JOIN products p ON p.name = $2 LEFT JOIN features f ON f.product_id = p.id AND f.name = $3
				WHERE r.tenant_id = 2 AND r.name = 'HR' ON CONFLICT DO NOTHING`, p.Action, p.Product, p.Feature)
			continue
		}
		f.exec(`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			f.role(2, "HR"), f.feature(p.Product, p.Feature), p.Action)
	}
	e.exec(`INSERT INTO permission_changes (seq, tenant_id, changed_at) SELECT MAX(seq) + 1, 2, 1 FROM permission_changes`)
}

// act draws a request and sends it.
func (e *escalation) act(rt *rapid.T) answer {
	draw := func(label string, all ...string) string { return rapid.SampledFrom(all).Draw(rt, label) }
	who := caller{e.fixture, draw("caller", "hr", "pal"), 2}
	role := e.role(2, draw("role", append(e.roles, "HR", "HR", "HR", "Empty", "Empty", "Empty")...)) // mostly their own
	user := draw("user", "hr", "pal", "big", e.boss)
	right := draw("product", "abc", "abc", "tenantgate", "*") + "/" + draw("feature", "reports", "billing", "members", "platform", "*", "*") +
		"/" + draw("action", "read", "write", "delete", "*")
	switch draw("call", "member", "grant", "grants", "revoke", "parents", "parents", "remove") {
	case "member":
		return who.call("PATCH", "/api/members/"+user+"/", `{"role":"`+draw("to", e.roles...)+`"}`)
	case "grant":
		return who.call("POST", grants(role), one(right))
	case "grants":
		return who.call("PUT", grants(role), set(right, "abc/reports/read"))
	case "revoke":
		return who.call("DELETE", grants(role)+right+"/", "")
	case "parents":
		return who.call("PUT", parents(role), named(rapid.SliceOfN(rapid.SampledFrom(e.roles), 0, 2).Draw(rt, "parents")...))
	default:
		return who.call("DELETE", "/api/members/"+user+"/", "")
	}
}

// TestNoEscalationProperty lets the two do anything to anybody: neither ever may
// do what neither could before, as the gateways see it, and a manager is always
// left.
func TestNoEscalationProperty(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		e := newEscalation(t, f)
		var snapshot *permission.Snapshot
		done := map[string]int{}
		rapid.Check(t, func(rt *rapid.T) {
			f.t = rt
			e.again()
			for range 4 {
				a := e.act(rt)
				require.Less(rt, a.Code, 500)
				done[fmt.Sprint(a.Code)]++
			}
			var err error
			snapshot, err = permission.Load(t.Context(), f.db, snapshot)
			require.NoError(rt, err)
			for _, id := range []string{"hr", "pal"} {
				_, all, _ := snapshot.PermissionsOf("2", id)
				for _, p := range all {
					require.True(rt, slices.ContainsFunc(e.start, func(s permission.Pattern) bool { return s.Covers(permission.Pattern(p)) }), "%s may %s", id, p)
				}
			}
			holders, _ := snapshot.Holders("2", permission.Permission{Product: "tenantgate", Feature: "members", Action: "write"})
			require.NotEmpty(rt, holders, "a manager is left")
		})
		f.t = t
		t.Log("answers by status:", done)
		require.Positive(t, done["200"])
		require.Positive(t, done["403"])
	})
}
