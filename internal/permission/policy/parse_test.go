package policy_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

func TestAFileIsWrittenInOneForm(t *testing.T) {
	t.Parallel()
	p := parse(t, `# free
tenants:
  "7": {status: suspended}
  acme:
    members: {"id:a@b": 1.0, Ann@ACME.test: Editor, u-1: Editor}
    roles:
      Viewer: {permissions: ["abc/*/read", "*", abc/reports/read, "abc/*"]}
      1.0: {}
      Editor:
        inherits: [Viewer, "1.0"]
        owner: false
      Boss: {owner: true}
products: {abc: {reports: [import, export], dashboard: []}, empty: {}}
`)
	const want = `products:
  abc:
    dashboard: []
    reports: [export, import]
  empty: {}
tenants:
  "7":
    status: suspended
  acme:
    roles:
      "1.0": {}
      Boss:
        owner: true
      Editor:
        inherits: ["1.0", Viewer]
      Viewer:
        permissions:
          - '*/*/*'
          - abc/*/*
          - abc/*/read
          - abc/reports/read
    members:
      ann@acme.test: Editor
      id:a@b: "1.0"
      u-1: Editor
`
	out, err := p.Encode()
	require.NoError(t, err)
	require.Equal(t, want, string(out))
	again, err := parse(t, want).Encode()
	require.NoError(t, err)
	require.Equal(t, want, string(again))
}

func TestWhatIsNotSaidIsNotWritten(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"{}\n", "tenants: {}\n", "products: {}\n", "products: {}\ntenants: {}\n", "tenants:\n  acme: {}\n", "tenants:\n  acme:\n    roles: {}\n    members: {}\n"} {
		out, err := parse(t, content).Encode()
		require.NoError(t, err)
		require.Equal(t, content, string(out))
	}
}

// Names that only a hand can have written into the database are written so that
// they are read again, and nothing of them reaches a terminal.
func TestNamesThatNobodySeesAreEscaped(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a\u202eb", "\x1b]0;x\x07", "\u00a0", "e\u0301", "\U000e0001", "a\nb", "\u2028"} {
		out, err := (&policy.Policy{Tenants: map[string]*policy.Tenant{"acme": {Members: map[string]*policy.Member{"u-1": {Role: name}}}}}).Encode()
		require.NoError(t, err)
		require.Equal(t, name, parse(t, string(out)).Tenants["acme"].Members["u-1"].Role, "%s", out)
		for _, r := range string(out) {
			require.True(t, unicode.IsPrint(r) || r == '\n', "%q", out)
		}
	}
}

func TestMistakesNameTheLineAndWhatToDo(t *testing.T) {
	t.Parallel()
	const role = "tenants:\n  acme:\n    roles:\n      Editor:\n        "
	for name, test := range map[string]struct{ content, want string }{
		"nothing":                     {"", "p.yaml: the file is empty: see `tenantgate permissions export` for what stands in one"},
		"a comment":                   {"# nothing\n", "p.yaml: the file is empty: see `tenantgate permissions export` for what stands in one"},
		"no YAML":                     {"a: b\nc: d: e", "p.yaml:2: this is no YAML: mapping values are not allowed in this context"},
		"a tab":                       {"products:\n\tabc: {}", "p.yaml:2: this is no YAML: found character that cannot start any token"},
		"a list":                      {"- a", "p.yaml: this must be a mapping, not a list: write the fields products and tenants"},
		"two documents":               {"products: {}\n---\ntenants: {}", "p.yaml:2: there is more than one document: remove the --- and what follows"},
		"an unknown section":          {"product: {}", `p.yaml:1: product: unknown field "product": use products or tenants`},
		"an unknown field":            {role + "permission: []", `p.yaml:5: tenants.acme.roles.Editor.permission: unknown field "permission": use inherits, owner or permissions`},
		"a field twice":               {role + "owner: true\n        owner: true", "p.yaml:6: tenants.acme.roles.Editor.owner: this stands in line 5 already: keep one of them"},
		"a role twice":                {role + "owner: true\n      Editor: {}", "p.yaml:6: tenants.acme.roles.Editor: this stands in line 4 already: keep one of them"},
		"an alias":                    {"products: &p {}\ntenants: *p", "p.yaml:1: products: anchors and aliases (& and *) are not for this file: write it out (and 1 more)"},
		"a merge":                     {"products:\n  <<: {a: {}}", "p.yaml:2: products: a key must be a name"},
		"a tag":                       {"products: !!omap {}", "p.yaml:1: products: tags (!) are not for this file: remove !!omap"},
		"a list as a key":             {"products:\n  [a]: {}", "p.yaml:2: products: a key must be a name"},
		"no value":                    {"products:", "p.yaml:1: products: this must be a mapping, not a value: write abc: {dashboard: [], reports: [export]}"},
		"a product's name":            {"products:\n  ABC: {}", `p.yaml:2: products.ABC: product "ABC" is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit`},
		"a feature's name":            {"products:\n  abc:\n    A B: []", `p.yaml:3: products.abc.A B: feature "A B" is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit`},
		"an action's name":            {"products:\n  abc:\n    a: [x,\n     '*']", `p.yaml:4: products.abc.a[1]: action "*" is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit`},
		"an action of all":            {"products:\n  abc:\n    a: [read]", "p.yaml:3: products.abc.a[0]: every feature has read: name only further actions"},
		"too many actions":            {"products:\n  abc:\n    a: [a, b, c, d, e, f, g, h, i, j, k, l, m, n]", "p.yaml:3: products.abc.a: a feature has at most 16 actions, with read, write and delete"},
		"actions as text":             {"products:\n  abc:\n    a: export", "p.yaml:3: products.abc.a: this must be a list, not a value: write the actions beside read, write and delete, such as [export], or []"},
		"a tenant without a name":     {"tenants:\n  '': {}", "p.yaml:2: tenants.: a tenant needs a name"},
		"a tenant's name":             {"tenants:\n  'a ': {}", `p.yaml:2: tenants.a : "a " is no tenant's name: use visible characters, without spaces at the ends`},
		"a tenant's name in the dark": {"tenants:\n  \"a\\u200b\": {}", `p.yaml:2: tenants."a\u200b": "a\u200b" is no tenant's name: use visible characters, without spaces at the ends`},
		"a long tenant's name":        {"tenants:\n  " + strings.Repeat("a", 101) + ": {}", "use at most 100 characters"},
		"an id of zeros":              {"tenants:\n  007: {}", `p.yaml:2: tenants.007: "007" is no tenant's id: write it without zeros in front`},
		"a status":                    {"tenants:\n  acme: {status: off}", `p.yaml:2: tenants.acme.status: status "off": write active or suspended`},
		"a role's name":               {"tenants:\n  acme:\n    roles:\n      'a,b': {}", `p.yaml:4: tenants.acme.roles.a,b: role "a,b" is not a valid name`},
		"two owners":                  {"tenants:\n  acme:\n    roles:\n      A: {owner: true}\n      B: {owner: true}", "p.yaml:5: tenants.acme.roles.B: the tenant has the owner role A already: it can have one"},
		"an owner that is none":       {role + "owner: yes please", `p.yaml:5: tenants.acme.roles.Editor.owner: owner must be true or false, not "yes please"`},
		"an owner in quotes":          {role + "owner: 'true'", `p.yaml:5: tenants.acme.roles.Editor.owner: owner must be true or false, not "true"`},
		"an owner with permissions":   {role + "owner: true\n        permissions: [a/b/c]", "p.yaml:4: tenants.acme.roles.Editor: the owner holds everything already: remove inherits and permissions"},
		"itself as a parent":          {role + "inherits: [Editor]", "p.yaml:5: tenants.acme.roles.Editor.inherits[0]: a role can't inherit from itself"},
		"a parent twice":              {role + "inherits: [A, A]", `p.yaml:5: tenants.acme.roles.Editor.inherits[1]: "A" stands in line 5 already: keep one of them`},
		"a permission":                {role + "permissions:\n          - abc/reports/read\n          - abc", `p.yaml:7: tenants.acme.roles.Editor.permissions[1]: permission "abc": write product/feature/action, or product/* or * for all below`},
		"a permission twice":          {role + "permissions:\n          - abc/*\n          - abc/*/*", `p.yaml:7: tenants.acme.roles.Editor.permissions[1]: permission "abc/*/*" stands in line 6 already: keep one of them`},
		"a star without quotes":       {role + "permissions: [*]", "p.yaml:5: this is no YAML: did not find expected alphabetic or numeric character"},
		"a feature of all products":   {role + "permissions: ['*/a/read']", `feature "a" of every product: name the product`},
		"a wildcard of the platform":  {role + "permissions: [tenantgate/platform/*]", `permission "tenantgate/platform/*": no wildcard gives the right to run the installation: name read, write or delete`},
		"a number as a permission":    {role + "permissions: [1]", `permission "1": write product/feature/action`},
		"null as a permission":        {role + "permissions: [null]", "p.yaml:5: tenants.acme.roles.Editor.permissions[0]: a value is missing"},
		"a member":                    {"tenants:\n  acme:\n    members:\n      ann@: Editor", `p.yaml:4: tenants.acme.members.ann@: "ann@" is no e-mail address; write a user id that has an @ as id:ann@`},
		"a member twice":              {"tenants:\n  acme:\n    members:\n      ann@acme.test: Editor\n      ANN@acme.test: Viewer", "p.yaml:5: tenants.acme.members.ANN@acme.test: this is the user of line 4: keep one of them"},
		"a long id":                   {"tenants:\n  acme:\n    members:\n      " + strings.Repeat("a", 256) + ": Editor", "is no user: give an e-mail address or a user id of at most 255 bytes"},
	} {
		_, err := policy.Parse("p.yaml", []byte(test.content))
		require.ErrorContains(t, err, test.want, name)
		require.ErrorAs(t, err, new(policy.Mistakes), name)
	}
}

func TestAFileHasALargestSize(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse("p.yaml", bytes.Repeat([]byte("#"), policy.MaxSize+1))
	require.EqualError(t, err, "p.yaml: the file is longer than 32 MiB: split it by tenants")
}

// An alias can stand for aliases that stand for aliases: nine lines, a billion
// values (CVE-2019-11253).
func TestCVE_2019_11253_AliasesAreNotFollowed(t *testing.T) {
	t.Parallel()
	content := "products:\n  a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'z'; c++ {
		content += "  " + string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+", ", 8) + "*" + string(c-1) + "]\n"
	}
	_, err := policy.Parse("p.yaml", []byte(content))
	require.ErrorContains(t, err, "anchors and aliases (& and *) are not for this file")
	var mistakes policy.Mistakes
	require.ErrorAs(t, err, &mistakes)
	require.Len(t, mistakes, 20, "no file makes more")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(demo))
	f.Add([]byte("tenants:\n  acme: {members: {id:a@b: 1.0}, roles: {1.0: {permissions: ['*']}}}"))
	f.Add([]byte("a: &a [*a]\n--- !!x\n? [b]\n: {<<: ~}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := policy.Parse("p", content)
		if err != nil {
			var mistakes policy.Mistakes
			require.ErrorAs(t, err, &mistakes)
			for _, m := range mistakes {
				require.NotEmpty(t, m.Detail)
				require.NotContains(t, m.String(), "\n")
			}
			return
		}
		once, err := p.Encode()
		require.NoError(t, err)
		again, err := policy.Parse("p", once)
		require.NoError(t, err, "%s", once)
		require.True(t, policy.Compare(p, again).Same())
		twice, err := again.Encode()
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

func FuzzParseChecks(f *testing.F) {
	f.Add([]byte("checks: [{tenant: acme, role: Viewer, allow: [abc/dashboard/read], deny: ['*']}, {tenant: 1, user: a@b.test, deny: [a/b/c]}]"))
	table, err := policy.Parse("p", []byte(demo))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, content []byte) {
		checks, err := policy.ParseChecks("c", content)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		report := checks.Check(table)
		require.LessOrEqual(t, len(report.Failures), report.Checked)
		for _, failure := range report.Failures {
			require.NotContains(t, failure.String(), "\n")
		}
	})
}
