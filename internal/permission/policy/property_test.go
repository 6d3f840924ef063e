package policy_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

// drawPolicy makes a policy that can be imported: parents come later in the
// alphabet, so there is no cycle.
func drawPolicy(rt *rapid.T) string {
	products := map[string]*policy.Product{"tenantgate": {Features: map[string]*policy.Feature{"platform": {}, "members": {}}}}
	var rows []string
	for _, product := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"abc", "no", "null", "1"}), 1, 3, rapid.ID).Draw(rt, "products") {
		p := &policy.Product{Features: map[string]*policy.Feature{}}
		products[product] = p
		rows = append(rows, product+"/*", product+"/*/read", product+"/*/export")
		for _, feature := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "true"}), 0, 3, rapid.ID).Draw(rt, "features") {
			extra := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"export", "0x1", "~x"[1:]}), rapid.ID).Draw(rt, "extra")
			p.Features[feature] = &policy.Feature{Extra: slices.Sorted(slices.Values(extra))}
			for _, action := range append([]string{"read", "write", "delete", "*"}, extra...) {
				rows = append(rows, product+"/"+feature+"/"+action)
			}
		}
	}
	rows = append(rows, "*", "*/*/read", "tenantgate/*", "tenantgate/platform/read", "tenantgate/platform/write", "tenantgate/members/write")
	tenants := map[string]*policy.Tenant{}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"acme", "globex & co", "#1", "null", "é: x"}), 1, 3, rapid.ID).Draw(rt, "tenants") {
		t := &policy.Tenant{Status: rapid.SampledFrom([]string{"active", "suspended"}).Draw(rt, "status"), Roles: map[string]*policy.Role{}, Members: map[string]*policy.Member{}}
		tenants[name] = t
		names := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"A", "B b", "C", "D", "1.0", "true"}), rapid.ID).Draw(rt, "roles")
		slices.Sort(names)
		for i, role := range names {
			r := &policy.Role{Inherits: map[string]bool{}, Permissions: map[permission.Pattern]bool{}}
			t.Roles[role] = r
			for _, parent := range names[i+1:] {
				if rapid.Bool().Draw(rt, "inherits") {
					r.Inherits[parent] = true
				}
			}
			for _, row := range rapid.SliceOfN(rapid.SampledFrom(rows), 0, 4).Draw(rt, "rows") {
				r.Permissions[permission.Pattern(perm(row))] = true
			}
		}
		t.Roles["Owner"] = &policy.Role{Owner: true}
		for _, user := range users {
			if role := rapid.SampledFrom(append([]string{"", "Owner"}, names...)).Draw(rt, "role"); role != "" {
				t.Members[user] = &policy.Member{Role: role}
			}
		}
	}
	out, err := (&policy.Policy{Products: products, Tenants: tenants}).Encode()
	require.NoError(rt, err)
	return string(out)
}

// times checks a property as often as rapid does on SQLite, and less often on
// PostgreSQL, where it takes ten times as long.
func times(t *testing.T, s store, property func(rt *rapid.T)) {
	t.Helper()
	left := 1000
	if !strings.HasPrefix(s.url, "sqlite:") {
		left = 10
	}
	rapid.Check(t, func(rt *rapid.T) {
		if left--; left >= 0 {
			property(rt)
		}
	})
}

// clear empties the permission table.
func (s store) clear(t require.TestingT) {
	s.exec(t, `DELETE FROM memberships`, `DELETE FROM role_parents`, `DELETE FROM tenants`, `DELETE FROM products`)
}

// What is imported into an empty database is what is exported, and the gateway's
// snapshot decides as the engine of this package does, with the same rule.
func TestExportOfAnImportIsTheSameFile(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		s := newStore(t, url)
		times(t, s, func(rt *rapid.T) {
			s.clear(rt)
			content := drawPolicy(rt)
			s.mustImport(rt, content, false)
			require.Equal(rt, content, s.export(rt))
			written := s.written(rt)
			s.mustImport(rt, content, rapid.Bool().Draw(rt, "prune"))
			require.Equal(rt, written, s.written(rt))
			s.agree(rt, content)
		})
	})
}

// Whatever there was before, a file that names everything makes the table so,
// and the differences that were told are the differences.
func TestImportWithPruneMakesExactlyTheFile(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		s := newStore(t, url)
		times(t, s, func(rt *rapid.T) {
			s.clear(rt)
			first, second := drawPolicy(rt), drawPolicy(rt)
			s.mustImport(rt, first, false)
			before := parse(rt, s.export(rt))
			d, err := s.imports(rt, second, true, false)
			if err != nil {
				require.ErrorIs(rt, err, policy.ErrLastHolder)
				require.Equal(rt, first, s.export(rt))
				return
			}
			after := parse(rt, s.export(rt))
			want := parse(rt, second)
			for name, tenant := range before.Tenants { // tenants are never removed
				if want.Tenants[name] == nil {
					want.Tenants[name] = tenant
				}
			}
			told := policy.Compare(want, after)
			for _, c := range told.Changes { // but what leaves the catalogue leaves their roles
				require.Nil(rt, parse(rt, second).Tenants[c.Tenant])
				require.Equal(rt, "role.permissions_changed", c.Action)
				require.Empty(rt, c.Added)
			}
			require.Equal(rt, d.Changes, policy.Compare(before, after).Changes)
			s.agree(rt, s.export(rt))
		})
	})
}

// agree holds the engine's decisions for a file against the snapshot's of the
// database that is the same.
func (s store) agree(rt *rapid.T, content string) {
	snapshot, table := s.snapshot(rt), parse(rt, content)
	judge := policy.Judge(table)
	all := append(policy.AllPermissions(table), perm("none/a/read"), perm("tenantgate/none/read"), perm("tenantgate/platform/none"))
	for name, tenant := range table.Tenants {
		found, err := policy.FindTenant(context.Background(), s.Reader(), name)
		require.NoError(rt, err)
		for role := range tenant.Roles {
			for _, p := range all {
				e := snapshot.ExplainRoles(strconv.FormatInt(found.ID, 10), []string{role}, p)
				v := judge(name, role, p)
				require.Equal(rt, policy.Verdict{Allowed: e.Allowed, Reason: e.Reason, Role: e.Role, Path: e.Path, Row: e.Row}, v, "%s of %s, %s", role, name, p)
				require.Equal(rt, e.Rule(), v.Rule())
			}
		}
	}
}

// A database with a cycle, which nobody but a hand can have written, can be
// looked at and repaired.
func TestACycleWrittenByHand(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.exec(t, `INSERT INTO role_parents (tenant_id, role_id, parent_id)
			SELECT v.tenant_id, v.id, m.id FROM roles v, roles m WHERE v.tenant_id = 1 AND m.tenant_id = 1 AND v.name = 'Viewer' AND m.name = 'Manager'`)
		exported := s.export(t)
		require.Contains(t, exported, "Viewer:\n        inherits: [Manager]")
		v := policy.Judge(parse(t, exported))("acme", "Viewer", perm("abc/reports/write"))
		require.Equal(t, "Viewer > Manager > Editor: abc/reports/write", v.Rule())
		require.Equal(t, v.Rule(), s.snapshot(t).ExplainRoles("1", []string{"Viewer"}, perm("abc/reports/write")).Rule())
		s.mustImport(t, demo, false)
		require.NotContains(t, s.export(t), "inherits: [Manager]")
	})
}

func TestLoadReadsTheTenantsThatAreAskedFor(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		load := func(scope policy.Scope) (p *policy.Policy) {
			require.NoError(t, policy.Read(t.Context(), s.DB, func(q identity.Queryer) (err error) {
				p, err = policy.Load(context.Background(), q, scope)
				return err
			}))
			return p
		}
		p := load(policy.Scope{Tenants: []int64{2}})
		require.Len(t, p.Products, 2)
		require.Len(t, p.Tenants, 1)
		require.Nil(t, p.Tenants["globex"].Members)
		require.Len(t, load(policy.Scope{Tenants: []int64{2, 1}, Members: true}).Tenants["acme"].Members, 5)
		require.Empty(t, load(policy.Scope{Tenants: []int64{99}}).Tenants)
		require.Len(t, load(policy.Scope{}).Tenants, 2)
		for _, text := range []string{"acme", strconv.Itoa(1)} {
			found, err := policy.FindTenant(t.Context(), s.Reader(), text)
			require.NoError(t, err)
			require.Equal(t, policy.Named{ID: 1, Name: "acme"}, found)
		}
		_, err := policy.FindTenant(t.Context(), s.Reader(), "acne")
		require.EqualError(t, err, `there is no tenant "acne": give its name or id: not found`)
		require.ErrorIs(t, err, identity.ErrNotFound)
		for _, text := range []string{"ann", "id:ann", "ann@acme.test", "ANN@acme.test"} {
			user, err := policy.FindUser(t.Context(), s.Reader(), text)
			require.NoError(t, err)
			require.Equal(t, "ann", user.ID)
		}
		for _, text := range []string{"", "anne", "ann@", "id:ann@acme.test"} {
			_, err := policy.FindUser(t.Context(), s.Reader(), text)
			require.ErrorIs(t, err, identity.ErrNotFound, text)
		}
	})
}
