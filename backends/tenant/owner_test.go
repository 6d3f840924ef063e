package tenant_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/permission"
)

func TestANewTenantHasAnOwner(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		f.addUser("ann", "ann@initech.test")
		id := op.changed(201, "tenant.created", f.scalar(`SELECT MAX(id) + 1 FROM tenants`), "POST", "/api/tenants/", `{"name":"initech","admin_user_id":"ann"}`).id()
		ann := caller{f, "ann", id}
		roles := ann.call("GET", "/api/roles/", "")
		require.Equal(t, []any{"Owner", "Admin"}, roles.names("name"))
		require.Equal(t, []any{"owner", "custom"}, roles.names("kind"))
		owner := f.owner(id)
		require.Equal(t, owner, f.scalar(`SELECT role_id FROM memberships WHERE user_id = 'ann'`))
		require.Equal(t, []string{"*/*/*"}, ann.call("GET", grants(owner), "").rights())
		require.Equal(t, []string{"*/*/* Owner"}, ann.call("GET", grants(owner)+"?effective=true", "").rights())

		path := fmt.Sprintf("/api/roles/%d/", owner)
		for _, c := range [][3]string{
			{"DELETE", path, ""},
			{"PUT", grants(owner), set()},
			{"PUT", grants(owner), set("*/*/*", "abc/reports/read")},
			{"POST", grants(owner), one("abc/reports/read")},
			{"DELETE", grants(owner) + "*/*/*/", ""},
			{"PUT", parents(owner), named("Admin")},
			{"PUT", parents(f.role(id, "Admin")), named("Owner")},
		} {
			ann.refuse(409, "built-in", c[0], c[1], c[2])
		}
		op.refuse(409, "built-in", "POST", fmt.Sprintf("/api/tenants/%d/permissions/", id), `{"role":"Owner","permissions":[`+one("tenantgate/platform/write")+`]}`)
		require.Equal(t, 200, ann.call("PUT", grants(owner), set("*/*/*")).Code, "no change is fine")
		require.Equal(t, 200, ann.call("PUT", parents(owner), named()).Code)
		ann.refuse(404, "not-found", "DELETE", grants(owner)+"abc/reports/read/", "")
		require.Equal(t, "owner", ann.changed(200, "role.renamed", id, "PATCH", path, `{"name":"Boss"}`).text("kind"))
	})
}

func TestTheOwnerHoldsEverythingButThePlatform(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		f.addMember("boss", 2, f.owner(2))
		boss, admin := caller{f, "boss", 2}, f.as("admin@globex.test", 2)
		helper := grants(f.newRole(2, "Helper"))

		product := op.call("POST", "/api/products/", `{"name":"crm"}`).id()
		op.call("POST", fmt.Sprintf("/api/products/%d/features/", product), `{"name":"leads","actions":["export"]}`)
		admin.refuse(403, "beyond-own-rights", "POST", helper, one("crm/leads/export"))
		boss.changed(200, "role.permissions_changed", 2, "POST", helper, one("crm/leads/export"))
		boss.changed(200, "role.permissions_changed", 2, "POST", helper, one("crm/*/read"))
		boss.changed(200, "role.permissions_changed", 2, "POST", helper, one("*/*/*"))
		for _, action := range []string{"read", "write", "delete"} {
			a := boss.refuse(403, "beyond-own-rights", "POST", helper, one("tenantgate/platform/"+action))
			require.Equal(t, "tenantgate/platform/"+action, a.text("permission"))
		}

		// Holding as much as the owner makes nobody one, and only owners and operators make owners.
		f.addUser("bob", "bob@x.test")
		f.addMember("all", 2, f.newRole(2, "All", "*/*/*"))
		a := caller{f, "all", 2}.refuse(403, "beyond-own-rights", "POST", "/api/members/", `{"user_id":"bob","role":"Owner"}`)
		require.Equal(t, "owner", a.text("permission"))
		admin.refuse(403, "beyond-own-rights", "PATCH", "/api/members/"+admin.userID+"/", `{"role":"Owner"}`)
		boss.changed(201, "member.added", 2, "POST", "/api/members/", `{"user_id":"bob","role":"Owner"}`)
		// And only they unmake one.
		a = admin.refuse(403, "beyond-own-rights", "PATCH", "/api/members/bob/", `{"role":"Viewer"}`)
		require.Equal(t, "owner", a.text("permission"))
		admin.refuse(403, "beyond-own-rights", "DELETE", "/api/members/bob/", "")
		boss.changed(200, "member.updated", 2, "PATCH", "/api/members/bob/", `{"role":"Viewer"}`)
		admin.changed(204, "member.removed", 2, "DELETE", "/api/members/bob/", "")
		f.addUser("eve", "eve@x.test")
		op.changed(201, "member.added", 1, "POST", "/api/members/", `{"user_id":"eve","role":"Owner"}`)
	})
}

// TestOwnersDoNotRunTheInstallation: a right on the platform comes by a row that
// names it, not by being an owner of whatever tenant.
func TestOwnersDoNotRunTheInstallation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.addMember("boss", 1, f.owner(1))
		f.addMember("all", 1, f.newRole(1, "All", "*/*/*", "tenantgate/*/*", "*/*/write"))
		op := f.as("admin@acme.test", 1)
		a := op.refuse(409, "last-holder", "DELETE", "/api/members/"+op.userID+"/", "")
		require.Equal(t, "tenantgate/platform/write", a.text("permission"))
		snapshot, err := permission.Load(t.Context(), f.db, nil)
		require.NoError(t, err)
		for _, id := range []string{"boss", "all"} {
			_, all, _ := snapshot.PermissionsOf("1", id)
			require.NotEmpty(t, all)
			for _, p := range all {
				require.NotEqual(t, "platform", p.Feature, id)
			}
		}
		f.addMember("second", 1, f.newRole(1, "Second", "tenantgate/platform/write"))
		op.changed(204, "member.removed", 1, "DELETE", "/api/members/"+op.userID+"/", "")
	})
}

// TestTheInstallationKeepsAnOperatorWhenTenantsGo: also by the end of a tenant.
func TestTheInstallationKeepsAnOperatorWhenTenantsGo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		// The gateway let this one by a moment ago, when they still were an operator.
		late := f.as("admin@globex.test", 2)
		late.refuse(409, "last-holder", "PATCH", "/api/tenants/1/", `{"status":"suspended"}`)
		late.refuse(409, "last-holder", "DELETE", "/api/tenants/1/", "")
		f.inherit(2, f.role(2, "Admin"), f.newRole(2, "Operator", "tenantgate/platform/write"))
		late.changed(200, "tenant.updated", 1, "PATCH", "/api/tenants/1/", `{"status":"suspended"}`)
		late.changed(204, "tenant.deleted", 1, "DELETE", "/api/tenants/1/", "")
	})
}
