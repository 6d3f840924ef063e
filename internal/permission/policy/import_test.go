package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

func TestImportMakesWhatExportWrites(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		exported := s.export(t)
		require.Contains(t, exported, "      Manager:\n        inherits: [Editor]\n        permissions:\n          - abc/reports/export\n")
		require.Contains(t, exported, "      gone@acme.test: Viewer\n")
		d, err := s.against(t, exported, true)
		require.NoError(t, err)
		require.Empty(t, lines(d))

		before := s.written(t)
		require.Empty(t, lines(s.mustImport(t, exported, true)))
		require.Equal(t, before, s.written(t), "nothing changed, nothing is written")

		// Another installation with the same accounts becomes the same.
		other := newStore(t, dbtest.SQLite(t))
		other.mustImport(t, exported, false)
		require.Equal(t, exported, other.export(t))
	})
}

func TestImportIsOneChangeWithAuditRows(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		before := s.rows(t, `SELECT MAX(seq) FROM permission_changes`, 1)
		s.exec(t, `DELETE FROM audit_events`)
		d := s.mustImport(t, `
tenants:
  acme:
    roles:
      Editor: {inherits: [Viewer], permissions: ["abc/reports/*"]}
      Support: {inherits: [Viewer]}
    members: {new@acme.test: Support, vic@acme.test: Editor}
  initech: {}
`, false)
		require.Equal(t, []string{
			"role Editor of acme gains abc/reports/*",
			"role Editor of acme loses abc/reports/write",
			"role Support of acme is new",
			"role Support of acme now inherits from Viewer",
			"member new@acme.test of acme is new, with the role Support",
			"member vic@acme.test of acme has the role Editor, had Viewer",
			"tenant initech is new",
			"role Owner of initech is new, the owner",
			"1 member of acme (Support) gains abc/dashboard/read",
			"3 members of acme (Editor and Manager) gain abc/reports/delete",
			"2 members of acme (Editor) gain abc/reports/export",
			"1 member of acme (Support) gains abc/reports/read",
			"1 member of acme (Editor) gains abc/reports/write",
		}, lines(d))
		role := func(tenant, name string) string {
			return "role/" + s.rows(t, fmt.Sprintf(`SELECT r.id FROM roles r JOIN tenants t ON t.id = r.tenant_id WHERE t.name = '%s' AND r.name = '%s'`, tenant, name), 1)[0]
		}
		initech := s.rows(t, `SELECT id FROM tenants WHERE name = 'initech'`, 1)[0]
		require.Equal(t, []string{
			`1 cli:tester member.added user/new {"role":"Support"}`,
			`1 cli:tester member.updated user/vic {"from":"Viewer","to":"Editor"}`,
			`1 cli:tester role.created ` + role("acme", "Support") + ` {"name":"Support"}`,
			`1 cli:tester role.parents_changed ` + role("acme", "Support") + ` {"added":["Viewer"],"removed":null,"role":"Support"}`,
			`1 cli:tester role.permissions_changed ` + role("acme", "Editor") + ` {"added":[{"product":"abc","feature":"reports","action":"*"}],"removed":[{"product":"abc","feature":"reports","action":"write"}],"role":"Editor"}`,
			initech + ` cli:tester role.created ` + role("initech", "Owner") + ` {"name":"Owner"}`,
			initech + ` cli:tester tenant.created tenant/` + initech + ` {"name":"initech"}`,
		}, s.rows(t, `SELECT tenant_id, actor_id, action, target, detail FROM audit_events ORDER BY tenant_id, action`, 5))
		require.Equal(t, []string{"1 tenant -", initech + " roles -"},
			s.rows(t, `SELECT tenant_id, scope, user_id FROM permission_changes WHERE seq > `+before[0]+` + 1 ORDER BY seq`, 3), "and the one of exec before")
	})
}

func TestGatewaysAreToldNoMoreThanChanged(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		for _, test := range []struct {
			content string
			want    []string
		}{
			{"tenants: {acme: {roles: {Viewer: {}}}}", []string{"1 roles -"}},
			{"tenants: {acme: {members: {vic: Editor, new: Viewer}}}", []string{"1 member new", "1 member vic"}},
			{"tenants: {1: {members: {new: Editor}, roles: {Viewer: {permissions: [abc/reports/read]}}}}", []string{"1 tenant -"}},
			{"tenants: {globex: {status: active}, acme: {roles: {Viewer: {}}}}", []string{"1 roles -", "2 roles -"}},
			{"products: {abc: {reports: [print]}}\ntenants: {acme: {roles: {Viewer: {permissions: [abc/reports/print]}}}}", []string{"- tenant -"}},
			{"products: {abc: {reports: [print]}}\ntenants: {acme: {status: active}}", nil},
		} {
			last := s.rows(t, `SELECT MAX(seq) FROM permission_changes`, 1)[0]
			s.mustImport(t, test.content, false)
			require.Equal(t, test.want, s.rows(t, `SELECT tenant_id, scope, user_id FROM permission_changes WHERE seq > `+last+` ORDER BY seq`, 3), test.content)
		}
	})
}

func TestWhatAFileDoesNotNameStays(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		const content = `
products:
  abc: {reports: []}
tenants:
  acme:
    roles: {Viewer: {permissions: ["abc/*/read"]}, Admin: {permissions: ["*", tenantgate/platform/write]}}
    members: {ann@acme.test: Admin, vic@acme.test: Viewer}
`
		require.Equal(t, []string{"role Admin of acme loses tenantgate/platform/read", "1 member of acme (Admin) loses tenantgate/platform/read"}, lines(s.mustImport(t, content, false)))
		require.Equal(t, []string{
			"feature abc/dashboard is gone",
			"feature abc/reports loses the action export",
			"role Editor of acme is gone",
			"role Manager of acme is gone",
			"member ed@acme.test of acme is gone, had the role Editor",
			"member gone@acme.test of acme is gone, had the role Viewer",
			"member mia@acme.test of acme is gone, had the role Manager",
			"1 member of acme (Admin) loses abc/dashboard/delete",
			"4 members of acme (Admin, Editor, Manager and Viewer) lose abc/dashboard/read",
			"1 member of acme (Admin) loses abc/dashboard/write",
			"2 members of acme (Admin and Manager) lose abc/reports/export",
			"2 members of acme (Editor and Manager) lose abc/reports/read",
			"2 members of acme (Editor and Manager) lose abc/reports/write",
		}, withoutIdle(lines(s.mustImport(t, content, true))))
		require.Equal(t, `products:
  abc:
    reports: []
  tenantgate:
    members: []
    platform: []
tenants:
  acme:
    status: active
    roles:
      Admin:
        permissions:
          - '*/*/*'
          - tenantgate/platform/write
      Owner:
        owner: true
      Viewer:
        permissions:
          - abc/*/read
    members:
      ann@acme.test: Admin
      vic@acme.test: Viewer
  globex:
    status: suspended
    roles:
      Owner:
        owner: true
      Viewer: {}
    members:
      gil@globex.test: Owner
`, s.export(t))
	})
}

// withoutIdle leaves out what is said of roles without members.
func withoutIdle(all []string) (kept []string) {
	for _, line := range all {
		if !strings.HasPrefix(line, "whoever ") && !strings.Contains(line, "globex") {
			kept = append(kept, line)
		}
	}
	return kept
}

func TestImportRefusesWhatWouldNotHold(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		before := s.export(t)
		const roles = "tenants:\n  acme:\n    roles:\n"
		for name, test := range map[string]struct {
			content string
			prune   bool
			want    string
		}{
			"an unknown product":       {roles + "      X:\n        permissions:\n          - xyz/*", false, `p.yaml:6: tenants.acme.roles.X.permissions[0]: permission "xyz/*/*": there is no product xyz: add it under products, or correct the name`},
			"an unknown feature":       {roles + "      X: {permissions: [abc/report/read]}", false, `p.yaml:4: tenants.acme.roles.X.permissions[0]: permission "abc/report/read": there is no feature abc/report`},
			"an unknown action":        {roles + "      X: {permissions: [abc/dashboard/export]}", false, `there is no action export of abc/dashboard`},
			"an action that goes":      {"products: {abc: {reports: [], dashboard: []}}\n" + roles + "      X: {permissions: [abc/reports/export]}", true, `p.yaml:5: tenants.acme.roles.X.permissions[0]: permission "abc/reports/export": there is no action export of abc/reports`},
			"an unknown parent":        {roles + "      X: {inherits: [Editors]}", false, `p.yaml:4: tenants.acme.roles.X.inherits[0]: there is no role "Editors": use Admin, Editor, Manager, Owner, Viewer or X`},
			"the owner as a parent":    {roles + "      X: {inherits: [Owner]}", false, `p.yaml:4: tenants.acme.roles.X.inherits[0]: nobody inherits from the owner Owner`},
			"a cycle":                  {roles + "      Viewer: {inherits: [Manager]}", false, `p.yaml:4: tenants.acme.roles.Viewer.inherits[0]: Viewer would inherit from itself: Viewer > Manager > Editor > Viewer`},
			"a cycle within the file":  {roles + "      X: {inherits: [Y]}\n      Y: {inherits: [X]}", false, `p.yaml:4: tenants.acme.roles.X.inherits[0]: X would inherit from itself: X > Y > X (and 1 more)`},
			"another owner":            {roles + "      Boss: {owner: true}", false, `p.yaml:4: tenants.acme.roles.Boss: the owner role of this tenant is called Owner: write it so, or rename it first`},
			"no owner":                 {roles + "      Owner: {}", false, `p.yaml:4: tenants.acme.roles.Owner: this is the tenant's owner role: write owner: true`},
			"an owner that is none":    {"tenants: {globex: {roles: {Viewer: {owner: true}}}}", false, `the owner role of this tenant is called Owner`},
			"a member without account": {"tenants:\n  acme:\n    members:\n      nobody@acme.test: Viewer", false, `p.yaml:4: tenants.acme.members.nobody@acme.test: nobody has an account like this: send an invitation, or correct the address or id`},
			"a member by id":           {"tenants: {acme: {members: {nobody: Viewer}}}", false, "nobody has an account like this"},
			"a member's role":          {"tenants: {acme: {members: {new: Views}}}", false, `p.yaml:1: tenants.acme.members.new: there is no role "Views": use Admin, Editor, Manager, Owner or Viewer`},
			"a member twice":           {"tenants:\n  acme:\n    members:\n      ann: Admin\n      ann@acme.test: Admin", false, "this is the user of line"},
			"a tenant that is none":    {"tenants: {99: {}}", false, `p.yaml:1: tenants.99: there is no tenant with the id 99: write a name to make a new one`},
			"a tenant twice":           {"tenants:\n  1: {}\n  acme: {}", false, "p.yaml:3: tenants.acme: this is the tenant of line 2: keep one of them"},
			"too many actions":         {"products: {abc: {reports: [a, b, c, d, e, f, g, h, i, j, k, l, m]}}", false, `p.yaml:1: products.abc.reports: with the actions that it has already the feature gets more than 16`},
			"a role in use":            {"tenants:\n  acme:\n    roles:\n      Admin: {permissions: ['*']}", true, `p.yaml:2: tenants.acme.roles: Editor has 1 member and is not in the file: give them another role first, or list it (and 2 more)`},
			"the last operator":        {roles + "      Admin: {permissions: ['*']}", false, "nobody would be left to manage this: no active member of an active tenant would hold tenantgate/platform/write"},
			"the last manager":         {roles + "      Admin: {permissions: [tenantgate/platform/write]}", false, "nobody would be left to manage this: no active member of acme would hold tenantgate/members/write"},
			"the last manager's role":  {"tenants: {globex: {members: {gil: Viewer}}}", false, "no active member of globex would hold tenantgate/members/write"},
			"the last member":          {"tenants: {globex: {members: {}}}", true, "no active member of globex would hold tenantgate/members/write"},
			"the operators' tenant":    {"tenants: {acme: {status: suspended}}", false, "no active member of an active tenant would hold tenantgate/platform/write"},
		} {
			for _, dryRun := range []bool{true, false} {
				_, err := s.imports(t, test.content, test.prune, dryRun)
				require.ErrorContains(t, err, test.want, name)
			}
		}
		require.Equal(t, before, s.export(t))
		_, err := s.imports(t, roles+"      Admin: {permissions: ['*']}", false, false)
		require.ErrorIs(t, err, policy.ErrLastHolder)
	})
}

func TestSomebodyElseMayBecomeTheLastHolder(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.mustImport(t, `
tenants:
  acme:
    roles:
      Admin: {permissions: [abc/reports/read]}
      Operator: {permissions: [tenantgate/platform/write]}
      Chief: {inherits: [Operator]}
    members: {ed@acme.test: Chief, mia@acme.test: Owner}
`, false)
		require.True(t, s.snapshot(t).Explain("1", "ed", perm("tenantgate/platform/write")).Allowed)
		require.True(t, s.snapshot(t).Explain("1", "mia", perm("tenantgate/members/write")).Allowed)
	})
}

func TestADryRunLeavesNoTrace(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		before, written := s.export(t), s.written(t)
		told := false
		s.OnAnnounce(func(string) { told = true })
		const content = "products: {new: {a: []}}\ntenants: {initech: {members: {new: Owner}}}"
		dry, err := s.imports(t, content, false, true)
		require.NoError(t, err)
		require.Equal(t, before, s.export(t))
		require.Equal(t, written, s.written(t))
		require.False(t, told)

		against, err := s.against(t, content, false)
		require.NoError(t, err)
		require.Equal(t, lines(against), lines(dry))
		require.Equal(t, lines(against), lines(s.mustImport(t, content, false)))
		require.True(t, told)
	})
}

func TestNewFeaturesReachOwnersAndWildcards(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		content := "products: {abc: {new: [print]}, other: {}}"
		for i := range 6 {
			s.mustImport(t, fmt.Sprintf("tenants: {t%d: {members: {new: Owner}}}", i), false)
		}
		require.Equal(t, []string{
			"feature abc/new is new, with the actions read, write, delete and print",
			"product other is new",
			"7 members of 7 tenants gain abc/new/delete",
			"7 members of 7 tenants gain abc/new/print",
			"10 members of 7 tenants gain abc/new/read",
			"7 members of 7 tenants gain abc/new/write",
		}, lines(s.mustImport(t, content, false)))
	})
}

func TestASuspensionIsToldInOneLine(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		require.Equal(t, []string{"tenant globex is active, was suspended", "1 member of globex gains everything: it is active again"},
			lines(s.mustImport(t, "tenants: {globex: {status: active}}", false)))
		require.Equal(t, []string{"tenant globex is suspended, was active", "1 member of globex loses everything: it is suspended"},
			lines(s.mustImport(t, "tenants: {2: {status: suspended}}", false)))
	})
}

// Rows of an action that the feature does not have grant nothing. They are no
// part of a policy, and stand in nobody's way.
func TestRowsWithoutAnActionAreNotThere(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		before := s.export(t)
		s.exec(t, `INSERT INTO role_feature_permissions (role_id, feature_id, action)
			SELECT r.id, f.id, 'print' FROM roles r, features f WHERE r.tenant_id = 1 AND r.name = 'Viewer' AND f.name = 'dashboard'`)
		require.Equal(t, before, s.export(t))
		s.mustImport(t, "products: {abc: {dashboard: [print]}}\ntenants: {acme: {roles: {Viewer: {permissions: [abc/dashboard/print]}}}}", false)
		require.True(t, s.snapshot(t).Explain("1", "vic", perm("abc/dashboard/print")).Allowed)
	})
}

func TestAFeatureKeepsTheOrderOfItsActions(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.exec(t, `UPDATE features SET actions = 'read,zip,write,delete' WHERE name = 'dashboard'`)
		s.mustImport(t, "products: {abc: {dashboard: [copy]}}", false)
		require.Equal(t, []string{"read,zip,write,delete,copy"}, s.rows(t, `SELECT actions FROM features WHERE name = 'dashboard'`, 1))
		s.mustImport(t, "products: {abc: {dashboard: [copy], reports: [export]}}", true)
		require.Equal(t, []string{"read,write,delete,copy"}, s.rows(t, `SELECT actions FROM features WHERE name = 'dashboard'`, 1))
	})
}

// Roles that go may inherit from each other.
func TestPruneRemovesAWholeChainOfRoles(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.mustImport(t, "tenants: {acme: {roles: {A: {inherits: [B]}, B: {inherits: [C]}, C: {}, Z: {inherits: [A]}}}}", false)
		s.mustImport(t, demo, true)
		require.NotContains(t, s.export(t), "inherits: [B]")
	})
}

func TestAnEmptyDatabaseIsFilled(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		s := newStore(t, url)
		s.mustImport(t, `
products: {tenantgate: {members: [], platform: []}}
tenants:
  first:
    roles: {Owner: {}, Boss: {owner: true}, Operator: {permissions: [tenantgate/platform/write]}}
    members: {new: Operator}
  second: {roles: {Owner: {}}}
`, false)
		require.Contains(t, s.export(t), "  second:\n    status: active\n    roles:\n      Built-in owner:\n        owner: true\n      Owner: {}\n")
		require.True(t, s.snapshot(t).Explain("1", "new", permission.Permission{Product: "tenantgate", Feature: "platform", Action: "write"}).Allowed)
	})
}

// Beyond a thousand tenants they are read together.
func TestAFileOfManyTenants(t *testing.T) {
	t.Parallel()
	s := newStore(t, dbtest.SQLite(t))
	var content strings.Builder
	content.WriteString("products:\n  abc:\n    a: []\ntenants:\n  aaa:\n    status: active\n    roles:\n      Owner:\n        owner: true\n    members:\n      ann@acme.test: Owner\n")
	for i := range 1001 {
		fmt.Fprintf(&content, "  t%04d:\n    status: active\n    roles:\n      Owner:\n        owner: true\n      Reader:\n        permissions:\n          - abc/a/read\n    members:\n      ed@acme.test: Reader\n", i)
	}
	s.mustImport(t, content.String(), false)
	require.Equal(t, content.String(), s.export(t))
	_, rest, _ := strings.Cut(content.String(), "      ann@acme.test: Owner\n")
	written := s.written(t)
	s.mustImport(t, "tenants:\n"+rest, true)
	require.Equal(t, written, s.written(t))
	d := s.mustImport(t, "tenants:\n"+strings.Replace(rest, "ed@acme.test: Reader", "ed@acme.test: Owner", 1), false)
	require.Equal(t, []string{
		"member ed@acme.test of t0000 has the role Owner, had Reader",
		"1 member of t0000 (Owner) gains abc/a/delete", "1 member of t0000 (Owner) gains abc/a/write",
	}, lines(d))
}

// Ids come from other programs too, and need not look like ids.
func TestMembersWhoseAddressIsNoneAreNamedById(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.exec(t, `INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES
			('a@b', '', 'none', 1, 1), ('id:x', '', 'none 2', 1, 1), ('plain', '', 'none@here', 1, 1), ('nobody@acme.test', 'n', 'n', 1, 1)`)
		s.mustImport(t, "tenants: {acme: {members: {id:a@b: Viewer, id:id:x: Viewer, plain: Viewer, id:nobody@acme.test: Viewer}}}", false)
		exported := s.export(t)
		require.Contains(t, exported, "      id:a@b: Viewer\n      id:id:x: Viewer\n      id:nobody@acme.test: Viewer\n")
		require.Contains(t, exported, "      plain: Viewer\n")
		before := s.written(t)
		s.mustImport(t, exported, true)
		require.Equal(t, before, s.written(t))
		report := s.check(t, `checks:
  - {tenant: acme, user: id:a@b, allow: [abc/dashboard/read]}
  - {tenant: acme, user: plain, allow: [abc/dashboard/read]}
  - {tenant: acme, user: ann, allow: [tenantgate/platform/write]}
  - {tenant: acme, user: nobody@acme.test, deny: ["*"]}
  - {tenant: acme, user: nobody, deny: ["*"]}
`)
		require.Empty(t, report.Failures)
		_, err := s.imports(t, "tenants: {acme: {members: {nobody@acme.test: Viewer}}}", false, false)
		require.ErrorContains(t, err, "nobody has an account like this", "an address is never taken for an id")
	})
}

func TestTwoFilesAreComparedAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before, after string
		want          []string
	}{
		"the same":          {demo, demo, nil},
		"sections not said": {"products: {abc: {a: []}}", "tenants: {acme: {roles: {A: {}}}}", nil},
		"roles not said":    {"tenants: {acme: {roles: {A: {}}}}", "tenants: {acme: {members: {u: A}}}", nil},
		"a product":         {"products: {abc: {a: []}}", "products: {xyz: {}}", []string{"product abc is gone", "product xyz is new"}},
		"a tenant":          {"tenants: {acme: {}}", "tenants: {globex: {}}", []string{"tenant acme is gone", "tenant globex is new"}},
		"an owner":          {"tenants: {acme: {roles: {A: {}}}}", "tenants: {acme: {roles: {A: {owner: true}}}}", []string{"role A of acme is gone", "role A of acme is new, the owner"}},
		"by inheritance": {
			"products: {p: {a: [], b: []}}\ntenants: {acme: {roles: {A: {inherits: [B]}, B: {permissions: [p/a/read]}}}}",
			"products: {p: {a: [], b: []}}\ntenants: {acme: {roles: {A: {inherits: [B]}, B: {permissions: [p/b/read]}, C: {inherits: [A]}}}}",
			[]string{
				"role B of acme gains p/b/read", "role B of acme loses p/a/read", "role C of acme is new", "role C of acme now inherits from A",
				"whoever is A of acme loses p/a/read", "whoever is A or C of acme gains p/b/read",
			},
		},
		"with members": {
			"products: {p: {a: []}}\ntenants: {acme: {roles: {A: {permissions: [p/a/read]}, B: {}}, members: {x: A, y: B, z: A}}}",
			"products: {p: {a: []}}\ntenants: {acme: {roles: {A: {permissions: [p/a/read]}, B: {}}, members: {x: B, y: A, w: A}}}",
			[]string{
				"member w of acme is new, with the role A", "member x of acme has the role B, had A", "member y of acme has the role A, had B", "member z of acme is gone, had the role A",
				"2 members of acme (A) gain p/a/read", "2 members of acme (A) lose p/a/read",
			},
		},
	} {
		require.Equal(t, test.want, lines(policy.Compare(parse(t, test.before), parse(t, test.after))), name)
	}
}
