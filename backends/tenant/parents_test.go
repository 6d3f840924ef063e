package tenant_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParents(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		lead := f.newRole(2, "Lead", "abc/reports/delete")
		require.JSONEq(t, `{"parents":[]}`, admin.call("GET", parents(lead), "").Body.String())
		a := admin.changed(200, "role.parents_changed", 2, "PUT", parents(lead), named("Viewer", "Editor", "Viewer"))
		require.JSONEq(t, `{"parents":["Editor","Viewer"]}`, a.Body.String())
		var detail string
		require.NoError(t, f.db.Reader().QueryRow(`SELECT detail FROM audit_events ORDER BY id DESC LIMIT 1`).Scan(&detail))
		require.JSONEq(t, `{"role":"Lead","added":["Viewer","Editor"],"removed":null}`, detail)
		changes, _ := f.seq()
		require.Equal(t, 200, admin.call("PUT", parents(lead), named("Editor", "Viewer")).Code, "no change is fine")
		same, _ := f.seq()
		require.Equal(t, changes, same)
		require.JSONEq(t, `{"parents":["Editor","Viewer"]}`, admin.call("GET", parents(lead), "").Body.String())

		require.Equal(t, []string{"abc/reports/delete"}, admin.call("GET", grants(lead), "").rights(), "its own rights alone")
		all := admin.call("GET", grants(lead)+"?effective=true", "").rights()
		require.Subset(t, all, []string{"abc/reports/delete Lead", "abc/reports/read Editor", "abc/reports/read Viewer", "abc/reports/write Editor"})
		require.IsIncreasing(t, all)
		require.Equal(t, admin.call("GET", grants(lead), "").rights(), admin.call("GET", grants(lead)+"?effective=false", "").rights())
		admin.refuse(400, "bad-query", "GET", grants(lead)+"?effective=1", "")

		a = admin.refuse(409, "role-in-use", "DELETE", fmt.Sprintf("/api/roles/%d/", f.role(2, "Viewer")), "")
		require.Equal(t, []any{"Lead"}, a.body["roles"])
		a = admin.changed(200, "role.parents_changed", 2, "PUT", parents(lead), named("Editor"))
		require.JSONEq(t, `{"parents":["Editor"]}`, a.Body.String())
		admin.changed(204, "role.deleted", 2, "DELETE", fmt.Sprintf("/api/roles/%d/", lead), "")
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM role_parents`), "what it inherited goes with it")
	})
}

func TestParentsThatCanNotBe(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		a, b, c := f.newRole(2, "A"), f.newRole(2, "B"), f.newRole(2, "C")
		f.newRole(1, "Secret")
		admin.changed(200, "role.parents_changed", 2, "PUT", parents(a), named("B"))
		admin.changed(200, "role.parents_changed", 2, "PUT", parents(b), named("C", "Viewer"))

		answer := admin.refuse(409, "role-cycle", "PUT", parents(c), named("Viewer", "A"))
		require.Equal(t, []any{"C", "A", "B", "C"}, answer.body["roles"])
		answer = admin.refuse(409, "role-cycle", "PUT", parents(a), named("A"))
		require.Equal(t, []any{"A", "A"}, answer.body["roles"])
		answer = admin.refuse(422, "invalid-fields", "PUT", parents(a), named("B", "Secret", "", "b", "B"))
		require.Len(t, answer.body["errors"], 3, "another tenant's role is an unknown one")
		require.Contains(t, answer.Body.String(), `"/parents/1"`)
		admin.refuse(422, "invalid-fields", "PUT", parents(a), `{}`)
		admin.refuse(422, "invalid-fields", "PUT", parents(a), `{"parents":null}`)
		admin.refuse(400, "bad-json", "PUT", parents(a), `{"parents":[1]}`)
		admin.refuse(404, "not-found", "PUT", parents(424242), named())
		admin.refuse(404, "not-found", "GET", parents(424242), "")
		admin.refuse(409, "built-in", "PUT", parents(a), named("B", "Owner"))
		require.JSONEq(t, `{"parents":["B"]}`, admin.call("GET", parents(a), "").Body.String(), "nothing of a refused change is done")
	})
}

func TestAParentNeedsAllThatItHolds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		base := f.newRole(2, "Base", "abc/reports/read", "abc/billing/*")
		middle := f.newRole(2, "Middle", "abc/dashboard/read")
		f.inherit(2, middle, base)
		target := f.newRole(2, "Target")
		for holds, missing := range map[string]string{
			"abc/reports/read abc/billing/read":              "abc/billing/*",
			"abc/dashboard/read abc/*/read":                  "abc/billing/*",
			"abc/dashboard/read abc/billing/*":               "abc/reports/read",
			"tenantgate/permissions/write":                   "abc/billing/*",
			"abc/dashboard/read abc/billing/* abc/reports/*": "",
			"abc/*/*":                   "",
			"*/*/*":                     "",
			"tenantgate/platform/write": "", // an operator
		} {
			id := "holder of " + holds
			f.addMember(id, 2, f.newRole(2, fmt.Sprint("R", len(holds)), strings.Fields(holds)...))
			who := caller{f, id, 2}
			if missing != "" {
				a := who.refuse(403, "beyond-own-rights", "PUT", parents(target), named("Middle"))
				require.Equal(t, missing, a.text("permission"), holds)
				continue
			}
			who.changed(200, "role.parents_changed", 2, "PUT", parents(target), named("Middle"))
			// What is there already is nobody's gift, and taking away needs no right.
			f.exec(`UPDATE memberships SET role_id = $1 WHERE user_id = $2`, target, id)
			who.changed(200, "role.parents_changed", 2, "PUT", parents(target), named())
		}
	})
}

// TestRightsCountHoweverTheyAreHeld: a member may hand on what they inherit.
func TestRightsCountHoweverTheyAreHeld(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		grand := f.newRole(2, "Grand", "abc/*/read")
		parent := f.newRole(2, "Parent", "abc/reports/write")
		child := f.newRole(2, "Child")
		f.inherit(2, child, parent)
		f.inherit(2, parent, grand)
		f.addMember("kid", 2, child)
		f.addUser("bob", "bob@x.test")
		kid, other := caller{f, "kid", 2}, grants(f.newRole(2, "Other"))
		kid.changed(200, "role.permissions_changed", 2, "POST", other, one("abc/*/read"))
		kid.changed(200, "role.permissions_changed", 2, "POST", other, one("abc/billing/read"))
		kid.changed(200, "role.permissions_changed", 2, "POST", other, one("abc/reports/write"))
		kid.refuse(403, "beyond-own-rights", "POST", other, one("abc/billing/write"))
		kid.changed(201, "member.added", 2, "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)
		kid.changed(200, "member.updated", 2, "PATCH", "/api/members/bob/", `{"role":"Child"}`)
		kid.refuse(403, "beyond-own-rights", "PATCH", "/api/members/bob/", `{"role":"Editor"}`)
		f.newRole(2, "Late", "tenantgate/roles/read")
		f.inherit(2, f.role(2, "Other"), f.role(2, "Late"))
		a := kid.refuse(403, "beyond-own-rights", "PATCH", "/api/members/bob/", `{"role":"Other"}`)
		require.Equal(t, "tenantgate/roles/read", a.text("permission"), "inherited rights of the role count too")
	})
}

// TestTheLastManagerStaysHoweverTheyHoldTheRight goes through the ways to hold
// tenantgate/members/write, and to lose it.
func TestTheLastManagerStaysHoweverTheyHoldTheRight(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		base := f.newRole(2, "Base", "tenantgate/*/write")
		heir := f.newRole(2, "Heir")
		f.inherit(2, heir, base)
		refuse := func(method, path, body string) {
			a := admin.refuse(409, "last-holder", method, path, body)
			require.Equal(t, "tenantgate/members/write", a.text("permission"))
		}
		leave := "/api/members/" + admin.userID + "/"

		refuse("DELETE", leave, "")
		f.addMember("heir", 2, heir) // by a wildcard that is inherited
		admin.changed(204, "member.removed", 2, "DELETE", leave, "")
		refuse("PUT", parents(heir), named())
		refuse("DELETE", grants(base)+"tenantgate/*/write/", "")
		refuse("PUT", grants(base), set())
		refuse("DELETE", "/api/members/heir/", "")

		f.addMember("boss", 2, f.owner(2)) // as the owner
		manager := admin
		admin = caller{f, "boss", 2} // nobody else unmakes an owner
		admin.changed(200, "role.parents_changed", 2, "PUT", parents(heir), named())
		refuse("DELETE", "/api/members/boss/", "")
		f.newRole(2, "Nothing")
		refuse("PATCH", "/api/members/boss/", `{"role":"Nothing"}`)
		f.exec(`UPDATE users SET status = 'disabled' WHERE id = 'boss'`)
		admin = manager
		f.inherit(2, heir, base)
		refuse("PUT", parents(heir), named())
	})
}
