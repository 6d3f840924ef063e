package permission_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// may says by a letter each what a user may do with the dashboard of tenant 1.
func may(s *permission.Snapshot, user string) string {
	letters := ""
	for _, action := range []string{permission.Read, permission.Write, permission.Delete} {
		if s.Decide("1", user, s.Resolve(perm("abc", "dashboard", action))).Allowed {
			letters += action[:1]
		}
	}
	return letters
}

// Each case changes more than it tells, to show what is read again.
func TestLoadReadsWhatTheScopeSays(t *testing.T) {
	t.Parallel()
	const (
		demote  = `UPDATE memberships SET role_id = 13 WHERE tenant_id = 1 AND user_id IN ('ann', 'ed')`
		grant   = `INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (13, 1, 'delete')`
		suspend = `UPDATE tenants SET status = 'suspended' WHERE id = 1`
	)
	none := func(context.Context, *database.Tx) error { return nil }
	for name, c := range map[string]struct {
		touch        func(ctx context.Context, tx *database.Tx) error
		statements   []string
		ann, ed, vic string
	}{
		"roles": {
			func(ctx context.Context, tx *database.Tx) error { return permission.TouchRoles(ctx, tx, 1) },
			[]string{demote, grant},
			"rwd", "rw", "rd",
		},
		"a tenant's status counts among its roles": {
			func(ctx context.Context, tx *database.Tx) error { return permission.TouchRoles(ctx, tx, 1) },
			[]string{suspend},
			"", "", "",
		},
		"one member": {
			func(ctx context.Context, tx *database.Tx) error { return permission.TouchMember(ctx, tx, 1, "ed") },
			[]string{demote, grant},
			"rwd", "r", "r",
		},
		"a member and roles": {
			func(ctx context.Context, tx *database.Tx) error {
				if err := permission.TouchMember(ctx, tx, 1, "ed"); err != nil {
					return err
				}
				return permission.TouchRoles(ctx, tx, 1)
			},
			[]string{demote, grant},
			"rwd", "rd", "rd",
		},
		"the tenant": {
			func(ctx context.Context, tx *database.Tx) error {
				if err := permission.TouchMember(ctx, tx, 1, "ed"); err != nil {
					return err
				}
				return permission.Touch(ctx, tx, 1)
			},
			[]string{demote, grant},
			"rd", "rd", "rd",
		},
		"a member without a name": {
			none,
			[]string{demote, grant, `INSERT INTO permission_changes (seq, tenant_id, scope, changed_at) VALUES (2, 1, 'member', 1)`},
			"rd", "rd", "rd",
		},
		"a member with a role that nobody told of": {
			func(ctx context.Context, tx *database.Tx) error { return permission.TouchMember(ctx, tx, 1, "ed") },
			[]string{demote, `INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (99, 1, 'New', 1, 1)`, `UPDATE memberships SET role_id = 99 WHERE user_id = 'ed'`},
			"r", "", "r",
		},
		"so many members that all are read": {
			func(ctx context.Context, tx *database.Tx) error {
				for i := range 300 {
					if err := permission.TouchMember(ctx, tx, 1, fmt.Sprint("u", i)); err != nil {
						return err
					}
				}
				return nil
			},
			[]string{demote, grant},
			"rd", "rd", "rd",
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachDemo(t, func(t *testing.T, db store) {
				first := load(t, db, nil)
				db.write(t, c.statements, c.touch)
				second := load(t, db, first)
				require.Equal(t, [3]string{c.ann, c.ed, c.vic}, [3]string{may(second, "ann"), may(second, "ed"), may(second, "vic")})
				require.Equal(t, [3]string{"rwd", "rw", "r"}, [3]string{may(first, "ann"), may(first, "ed"), may(first, "vic")}, "a snapshot is immutable")
				require.True(t, second.Current(first.Resolve(perm("abc", "dashboard", "read"))))
			})
		})
	}
}

// Members keep their roles when others come, go and get new names.
func TestMembersKeepTheirRolesWhenTheListChanges(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, db store) {
		s := load(t, db, nil)
		for _, c := range []struct{ statement, ed string }{
			{`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (90, 1, 'Aaa', 1, 1), (91, 1, 'Eee', 1, 1)`, "Editor"},
			{`UPDATE roles SET name = 'Zzz' WHERE id = 12`, "Zzz"},
			{`DELETE FROM roles WHERE id = 90`, "Zzz"},
			{`UPDATE roles SET name = 'Editor' WHERE id = 91`, "Zzz"},
			{`INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at) VALUES (92, 1, 'Owner', 'owner', 1, 1)`, "Zzz"},
		} {
			db.changeRoles(t, 1, c.statement)
			s = load(t, db, s)
			role, _, _ := s.PermissionsOf("1", "ed")
			require.Equal(t, c.ed, role, c.statement)
			require.Equal(t, [3]string{"rwd", "rw", "r"}, [3]string{may(s, "ann"), may(s, "ed"), may(s, "vic")}, c.statement)
		}
		// A role that goes together with its members, by somebody who told of roles only.
		db.changeRoles(t, 1, `DELETE FROM memberships WHERE role_id = 12`, `DELETE FROM roles WHERE id = 12`)
		s = load(t, db, s)
		require.Equal(t, permission.NotAMember, s.Decide("1", "ed", s.Resolve(perm("abc", "dashboard", "read"))).Reason)
		require.Equal(t, "r", may(s, "vic"))
		require.Equal(t, counts(load(t, db, nil)), counts(s))
	})
}

func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, db store) {
		s := load(t, db, nil)
		step := func(tenant int64, user, statement string, members int) {
			t.Helper()
			db.changeMember(t, tenant, user, statement)
			s = load(t, db, s)
			require.Equal(t, members, s.Stats().Members)
			require.Equal(t, counts(load(t, db, nil)), counts(s))
		}
		step(1, "gil", `INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'gil', 11, 1, 1)`, 7)
		require.Equal(t, "rwd", may(s, "gil"))
		step(1, "gil", `UPDATE memberships SET role_id = 13 WHERE tenant_id = 1 AND user_id = 'gil'`, 7)
		require.Equal(t, "r", may(s, "gil"))
		step(1, "gil", `DELETE FROM memberships WHERE tenant_id = 1 AND user_id = 'gil'`, 6)
		require.Empty(t, may(s, "gil"))
		step(2, "gil", `UPDATE users SET status = 'disabled' WHERE id = 'gil'`, 5)
		step(2, "gil", `UPDATE users SET status = 'active' WHERE id = 'gil'`, 6)
		step(1, "nobody", `UPDATE users SET updated_at = 3`, 6)
		step(77, "ann", `UPDATE users SET updated_at = 4`, 6) // no such tenant
	})
}

// A full load in which nothing changed takes everything over, and so does a
// tenant that was touched for nothing.
func TestUnchangedTenantsAreShared(t *testing.T) {
	t.Parallel()
	eachFamilyStore(t, func(t *testing.T, db store) {
		first := load(t, db, nil)
		second := first
		for _, touch := range []func(){
			func() { db.change(t, nil) },
			func() { db.change(t, nil, 1) },
			func() { db.changeRoles(t, 1) },
		} {
			touch()
			next := load(t, db, second)
			require.NotSame(t, second, next)
			require.True(t, permission.SameTenants(second, next))
			require.Equal(t, first.Stats().Bytes, next.Stats().Bytes)
			second = next
		}
		db.changeRoles(t, 1, `DELETE FROM role_parents`)
		require.False(t, permission.SameTenants(second, load(t, db, second)))
	})
}

func eachFamilyStore(t *testing.T, f func(t *testing.T, db store)) {
	t.Helper()
	eachDemo(t, func(t *testing.T, db store) {
		db.change(t, family)
		f(t, db)
	})
}
