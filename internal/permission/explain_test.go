package permission_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/permission"
)

// family adds to the demo data, in tenant 1: an owner (oz), the feature that
// runs the installation, and roles that inherit: Lead (liz) from Manager and
// Auditor, Manager from Editor, Auditor from Watcher. Manager may read all of
// abc and do everything with its reports, Watcher may export whatever can be,
// Platform (otto) may read tenantgate/platform, Chief (cleo) inherits from it
// and from the owner. Loop1 (lou) and Loop2 inherit from each other.
var family = []string{
	`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('oz', 'oz', 'oz', 1, 1), ('liz', 'liz', 'liz', 1, 1), ('otto', 'otto', 'otto', 1, 1),
		('cleo', 'cleo', 'cleo', 1, 1), ('lou', 'lou', 'lou', 1, 1)`,
	`INSERT INTO products (id, name, created_at, updated_at) VALUES (3, 'tenantgate', 1, 1)`,
	`INSERT INTO features (id, product_id, name, actions, created_at, updated_at) VALUES (3, 3, 'platform', 'read,write', 1, 1), (4, 3, 'tenants', 'read,write', 1, 1),
		(5, 1, 'tenants', 'read', 1, 1)`,
	`INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at) VALUES (101, 1, 'Owner', 'owner', 1, 1), (102, 1, 'Lead', 'custom', 1, 1),
		(103, 1, 'Manager', 'custom', 1, 1), (104, 1, 'Auditor', 'custom', 1, 1), (105, 1, 'Watcher', 'custom', 1, 1), (106, 1, 'Platform', 'custom', 1, 1),
		(107, 1, 'Chief', 'custom', 1, 1), (108, 1, 'Loop1', 'custom', 1, 1), (109, 1, 'Loop2', 'custom', 1, 1)`,
	`INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (1, 102, 103), (1, 102, 104), (1, 103, 12), (1, 104, 105), (1, 107, 106), (1, 107, 101),
		(1, 108, 109), (1, 109, 108)`,
	`INSERT INTO role_wildcards (id, role_id, product_id, feature_id, action) VALUES (1, 103, 1, NULL, 'read'), (2, 103, 1, 2, NULL), (3, 105, NULL, NULL, 'export'),
		(4, 105, NULL, NULL, NULL), (5, 109, 1, 1, NULL), (6, 13, 3, 5, NULL)`,
	`DELETE FROM role_wildcards WHERE id = 4`,
	`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (106, 3, 'read'), (103, 1, 'read')`,
	`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'oz', 101, 1, 1), (1, 'liz', 102, 1, 1), (1, 'otto', 106, 1, 1),
		(1, 'cleo', 107, 1, 1), (1, 'lou', 108, 1, 1)`,
}

func eachFamily(t *testing.T, f func(t *testing.T, s *permission.Snapshot)) {
	t.Helper()
	eachDemo(t, func(t *testing.T, db store) {
		db.change(t, family)
		f(t, load(t, db, nil))
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	eachFamily(t, testExplain)
}

func testExplain(t *testing.T, s *permission.Snapshot) {
	for name, c := range map[string]struct {
		user       string
		permission permission.Permission
		want       string // the rule, or the reason if there is none
	}{
		"a row":                               {"ed", perm("abc", "dashboard", "write"), "Editor: abc/dashboard/write"},
		"a row before a wildcard":             {"liz", perm("abc", "dashboard", "read"), "Lead > Manager: abc/dashboard/read"},
		"inherited over two roles":            {"liz", perm("abc", "dashboard", "write"), "Lead > Manager > Editor: abc/dashboard/write"},
		"the narrowest wildcard":              {"liz", perm("abc", "reports", "read"), "Lead > Manager: abc/reports/*"},
		"the shortest way":                    {"liz", perm("abc", "reports", "export"), "Lead > Manager: abc/reports/*"},
		"not what nobody above holds":         {"liz", perm("abc", "dashboard", "delete"), "role_lacks_action"},
		"an owner holds everything":           {"oz", perm("abc", "reports", "export"), "Owner: owner"},
		"an owner holds the gateway's own":    {"oz", perm("tenantgate", "tenants", "write"), "Owner: owner"},
		"an owner does not run the platform":  {"oz", perm("tenantgate", "platform", "read"), "role_lacks_action"},
		"a row for the platform":              {"otto", perm("tenantgate", "platform", "read"), "Platform: tenantgate/platform/read"},
		"a row for the platform is inherited": {"cleo", perm("tenantgate", "platform", "read"), "Chief > Platform: tenantgate/platform/read"},
		"what an owner has not is not either": {"cleo", perm("tenantgate", "platform", "write"), "role_lacks_action"},
		"an owner may be inherited from":      {"cleo", perm("abc", "reports", "delete"), "Chief > Owner: owner"},
		"a cycle":                             {"lou", perm("abc", "dashboard", "write"), "Loop1 > Loop2: abc/dashboard/*"},
		"a cycle without":                     {"lou", perm("abc", "reports", "read"), "role_lacks_action"},
		"a wildcard of two products is none":  {"vic", perm("tenantgate", "tenants", "read"), "role_lacks_action"},
		"a stranger":                          {"gil", perm("abc", "reports", "read"), "not_a_member"},
		"an unknown feature":                  {"oz", perm("abc", "nothing", "read"), "unknown_feature"},
	} {
		e := s.Explain("1", c.user, c.permission)
		got := e.Rule()
		if got == "" {
			got = string(e.Reason)
		}
		require.Equal(t, c.want, got, name)
		require.Equal(t, show(s.Decide("1", c.user, s.Resolve(c.permission))), show(e.Decision), name)
		require.Equal(t, int64(2), e.Seq)
	}
	e := s.Explain("1", "liz", perm("abc", "dashboard", "write"))
	require.Equal(t, "Lead", e.Role)
	require.Equal(t, []string{"Lead", "Manager", "Editor"}, e.Path)
	require.Equal(t, "abc/dashboard/write", e.Row)
	require.Empty(t, permission.Decision{}.Rule())

	e = s.ExplainRoles("1", []string{"Viewer", "Nobody", "Manager"}, perm("abc", "reports", "delete"))
	require.Equal(t, "Manager: abc/reports/*", e.Rule())
	e = s.ExplainRoles("1", []string{"Nobody"}, perm("abc", "reports", "delete"))
	require.Equal(t, permission.NotAMember, e.Reason)
}

func TestPermissionsOf(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, s *permission.Snapshot) {
		role, all, reason := s.PermissionsOf("1", "ed")
		require.Equal(t, "Editor", role)
		require.Equal(t, []permission.Permission{perm("abc", "dashboard", "read"), perm("abc", "dashboard", "write")}, all)
		require.Equal(t, permission.Allowed, reason)

		_, all, _ = s.PermissionsOf("1", "oz")
		require.Len(t, all, 10)
		require.NotContains(t, all, perm("tenantgate", "platform", "read"))

		all, reason = s.PermissionsOfRoles("1", []string{"Viewer", "Platform", "Nobody"})
		require.Equal(t, []permission.Permission{perm("abc", "dashboard", "read"), perm("tenantgate", "platform", "read")}, all)
		require.Equal(t, permission.Allowed, reason)

		role, all, reason = s.PermissionsOf("3", "ian")
		require.Equal(t, "Admin", role)
		require.Empty(t, all)
		require.Equal(t, permission.TenantSuspended, reason)
		_, reason = s.PermissionsOfRoles("3", []string{"Admin"})
		require.Equal(t, permission.TenantSuspended, reason)
		_, reason = s.PermissionsOfRoles("3", []string{"Nobody"})
		require.Equal(t, permission.NotAMember, reason, "only members learn of a suspension")
		_, _, reason = s.PermissionsOf("1", "gus")
		require.Equal(t, permission.NotAMember, reason)
		_, _, reason = s.PermissionsOf("01", "ed")
		require.Equal(t, permission.UnknownTenant, reason)
	})
}

func TestHolders(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, s *permission.Snapshot) {
		holders, reason := s.Holders("1", perm("abc", "dashboard", "write"))
		require.Equal(t, permission.Allowed, reason)
		require.Equal(t, []permission.Holder{
			{UserID: "ann", Role: "Admin", Rule: "Admin: abc/dashboard/write"},
			{UserID: "cleo", Role: "Chief", Rule: "Chief > Owner: owner"},
			{UserID: "ed", Role: "Editor", Rule: "Editor: abc/dashboard/write"},
			{UserID: "liz", Role: "Lead", Rule: "Lead > Manager > Editor: abc/dashboard/write"},
			{UserID: "lou", Role: "Loop1", Rule: "Loop1 > Loop2: abc/dashboard/*"},
			{UserID: "oz", Role: "Owner", Rule: "Owner: owner"},
		}, holders)

		holders, reason = s.Holders("1", perm("tenantgate", "platform", "write"))
		require.Empty(t, holders)
		require.Equal(t, permission.Allowed, reason)
		for _, c := range []struct {
			tenant string
			p      permission.Permission
			want   permission.Reason
		}{
			{"3", perm("abc", "dashboard", "read"), permission.TenantSuspended},
			{"9", perm("abc", "dashboard", "read"), permission.UnknownTenant},
			{"1", perm("abc", "dashboard", "fly"), permission.UnknownAction},
		} {
			holders, reason = s.Holders(c.tenant, c.p)
			require.Empty(t, holders)
			require.Equal(t, c.want, reason)
		}
	})
}
