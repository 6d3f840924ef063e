package permission_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/permission"
)

func TestDecideByTheTable(t *testing.T) {
	t.Parallel()
	eachDemo(t, testDecideByTheTable)
}

func testDecideByTheTable(t *testing.T, db store) {
	s := load(t, db, nil)
	for name, c := range map[string]struct {
		tenant, user string
		permission   permission.Permission
		want         decision
	}{
		"an admin may delete":                     {"1", "ann", perm("abc", "dashboard", "delete"), decision{true, "allowed", "Admin"}},
		"an action of its own":                    {"1", "ann", perm("abc", "reports", "export"), decision{true, "allowed", "Admin"}},
		"a viewer may read":                       {"1", "vic", perm("abc", "dashboard", "read"), decision{true, "allowed", "Viewer"}},
		"a viewer may not write":                  {"1", "vic", perm("abc", "dashboard", "write"), decision{false, "role_lacks_action", "Viewer"}},
		"a right on one feature is not another's": {"1", "vic", perm("abc", "reports", "read"), decision{false, "role_lacks_action", "Viewer"}},
		"the role in this tenant counts":          {"2", "ann", perm("abc", "dashboard", "write"), decision{false, "role_lacks_action", "Viewer"}},
		"a stranger":                              {"2", "vic", perm("abc", "dashboard", "read"), decision{false, "not_a_member", ""}},
		"nobody":                                  {"1", "", perm("abc", "dashboard", "read"), decision{false, "not_a_member", ""}},
		"a prefix of a user id":                   {"1", "an", perm("abc", "dashboard", "read"), decision{false, "not_a_member", ""}},
		"a disabled user":                         {"2", "gus", perm("abc", "dashboard", "read"), decision{false, "not_a_member", ""}},
		"a suspended tenant":                      {"3", "ian", perm("abc", "dashboard", "read"), decision{false, "tenant_suspended", "Admin"}},
		"a stranger learns no suspension":         {"3", "ann", perm("abc", "dashboard", "read"), decision{false, "not_a_member", ""}},
		"an unknown tenant":                       {"4", "ann", perm("abc", "dashboard", "read"), decision{false, "unknown_tenant", ""}},
		"no tenant":                               {"", "ann", perm("abc", "dashboard", "read"), decision{false, "unknown_tenant", ""}},
		"another spelling of a tenant":            {"01", "ann", perm("abc", "dashboard", "read"), decision{false, "unknown_tenant", ""}},
		"a tenant with a sign":                    {"+1", "ann", perm("abc", "dashboard", "read"), decision{false, "unknown_tenant", ""}},
		"a tenant that overflows":                 {"18446744073709551617", "ann", perm("abc", "dashboard", "read"), decision{false, "unknown_tenant", ""}},
		"a tenant by name":                        {"acme", "ann", perm("abc", "dashboard", "read"), decision{false, "unknown_tenant", ""}},
		"an unknown product":                      {"1", "ann", perm("xyz", "dashboard", "read"), decision{false, "unknown_product", ""}},
		"a product without features":              {"1", "ann", perm("bare", "dashboard", "read"), decision{false, "unknown_feature", ""}},
		"an unknown action":                       {"1", "ann", perm("abc", "dashboard", "fly"), decision{false, "unknown_action", ""}},
		"a granted action that is not declared":   {"1", "vic", perm("abc", "dashboard", "export"), decision{false, "unknown_action", ""}},
	} {
		require.Equal(t, c.want, show(s.Decide(c.tenant, c.user, s.Resolve(c.permission))), name)
	}
	require.Equal(t, permission.Stats{Tenants: 3, Members: 6, Rows: 29}, counts(s))
	require.Equal(t, int64(1), s.Seq())
}

func TestDecideByClaimedRoles(t *testing.T) {
	t.Parallel()
	s := load(t, demoStore(t), nil)
	for name, c := range map[string]struct {
		tenant string
		roles  []string
		action string
		want   decision
	}{
		"one role":                       {"1", []string{"Viewer"}, "read", decision{true, "allowed", "Viewer"}},
		"one of several allows":          {"1", []string{"Nobody", "Viewer", "Editor"}, "write", decision{true, "allowed", "Editor"}},
		"none allows":                    {"1", []string{"Viewer", "Editor"}, "delete", decision{false, "role_lacks_action", "Viewer"}},
		"unknown roles":                  {"1", []string{"viewer", "Root"}, "read", decision{false, "not_a_member", ""}},
		"no role":                        {"1", nil, "read", decision{false, "not_a_member", ""}},
		"a role of another tenant":       {"2", []string{"Editor"}, "read", decision{false, "not_a_member", ""}},
		"a suspended tenant":             {"3", []string{"Admin"}, "read", decision{false, "tenant_suspended", "Admin"}},
		"an unknown tenant":              {"9", []string{"Admin"}, "read", decision{false, "unknown_tenant", ""}},
		"an action that nobody declared": {"1", []string{"Admin"}, "fly", decision{false, "unknown_action", ""}},
	} {
		require.Equal(t, c.want, show(s.DecideRoles(c.tenant, c.roles, s.Resolve(perm("abc", "dashboard", c.action)))), name)
	}
}

// A route may hold a reference from before a change of the catalogue, or from
// after: decisions with it are right all the same.
func TestDecideWithAReferenceOfAnotherCatalogue(t *testing.T) {
	t.Parallel()
	eachDemo(t, testDecideWithAReferenceOfAnotherCatalogue)
}

func testDecideWithAReferenceOfAnotherCatalogue(t *testing.T, db store) {
	before := load(t, db, nil)
	old := before.Resolve(perm("abc", "reports", "write"))
	gone := before.Resolve(perm("abc", "dashboard", "read"))
	db.change(t, []string{
		`DELETE FROM features WHERE name = 'dashboard'`,
		`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (13, 2, 'read')`,
	})
	after := load(t, db, before)
	require.False(t, after.Current(old))
	require.True(t, after.Decide("1", "ann", old).Allowed)
	require.Equal(t, permission.RoleLacksAction, after.Decide("1", "vic", old).Reason)
	require.Equal(t, permission.UnknownFeature, after.Decide("1", "ann", gone).Reason)

	fresh := after.Resolve(perm("abc", "reports", "read"))
	require.Equal(t, permission.RoleLacksAction, before.Decide("1", "vic", fresh).Reason)
	require.True(t, after.Decide("1", "vic", fresh).Allowed)
	reason, known := after.Resolve(perm("abc", "dashboard", "read")).Known()
	require.False(t, known)
	require.Equal(t, permission.UnknownFeature, reason)
	require.Equal(t, perm("abc", "reports", "read"), fresh.Permission())
}

func TestLoadReadsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	eachDemo(t, testLoadReadsOnlyWhatChanged)
}

func testLoadReadsOnlyWhatChanged(t *testing.T, db store) {
	first := load(t, db, nil)
	require.Same(t, first, load(t, db, first), "nothing changed")

	// Tenant 2 changes too but is not touched: it must stay as it was.
	revoke := []string{`DELETE FROM role_feature_permissions WHERE action = 'write'`}
	db.change(t, revoke, 1)
	second := load(t, db, first)
	ref := first.Resolve(perm("abc", "dashboard", "write"))
	require.True(t, second.Current(ref), "the catalogue is shared")
	require.True(t, first.Decide("1", "ann", ref).Allowed, "a snapshot is immutable")
	require.False(t, second.Decide("1", "ann", ref).Allowed)
	require.True(t, second.Decide("2", "gil", ref).Allowed)

	db.change(t, nil) // NULL: everything is read
	third := load(t, db, second)
	require.False(t, third.Decide("2", "gil", ref).Allowed)
	require.True(t, third.Current(ref), "an equal catalogue is taken over")

	db.change(t, []string{`DELETE FROM memberships WHERE tenant_id = 1`, `DELETE FROM tenants WHERE id = 1`}, 1)
	fourth := load(t, db, third)
	require.Equal(t, permission.UnknownTenant, fourth.Decide("1", "ann", ref).Reason)
	require.Equal(t, 2, fourth.Stats().Tenants)
}

// When the list of changes has a hole, or is of another history, the whole
// table is read. Each case changes tenant 2 without touching it.
func TestLoadReadsEverythingWhenTheChangesDoNotFollowOn(t *testing.T) {
	t.Parallel()
	revoke := `DELETE FROM role_feature_permissions WHERE action = 'write'`
	next := `INSERT INTO permission_changes (seq, tenant_id, changed_at) SELECT MAX(seq) + 1, 1, 5 FROM permission_changes`
	cases := map[string][]string{
		"rows were pruned":        {revoke, next, `DELETE FROM permission_changes WHERE seq < (SELECT MAX(seq) FROM permission_changes)`},
		"a number is missing":     {revoke, `INSERT INTO permission_changes (seq, tenant_id, changed_at) VALUES (99, 1, 5)`},
		"the numbers went back":   {revoke, `DELETE FROM permission_changes`},
		"it is another history":   {revoke, `UPDATE permission_changes SET changed_at = 77`, next},
		"same number, other time": {revoke, `UPDATE permission_changes SET changed_at = 77`},
	}
	for name, statements := range cases {
		t.Run(name, func(t *testing.T) {
			eachDemo(t, func(t *testing.T, db store) {
				first := load(t, db, nil)
				db.write(t, statements, func(context.Context, *database.Tx) error { return nil })
				second := load(t, db, first)
				ref := second.Resolve(perm("abc", "dashboard", "write"))
				require.True(t, first.Decide("2", "gil", ref).Allowed)
				require.False(t, second.Decide("2", "gil", ref).Allowed)
			})
		})
	}
}

func TestLoadOfAnEmptyTableDeniesEverything(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db store) {
		s := load(t, db, nil)
		require.Equal(t, permission.Decision{Reason: permission.UnknownProduct}, s.Decide("1", "ann", s.Resolve(perm("abc", "dashboard", "read"))))
		require.Equal(t, permission.Stats{}, counts(s))
	})
}

func TestLoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := permission.Load(ctx, demoStore(t).DB, nil)
	require.ErrorIs(t, err, context.Canceled)
}
