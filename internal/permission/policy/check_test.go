package policy_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

const demoChecks = `checks:
  - tenant: acme
    role: Viewer
    allow: [abc/dashboard/read, "abc/*/read"]
    deny: [abc/dashboard/write, "tenantgate/*", "*/*/delete"]
  - {tenant: 1, role: Manager, allow: [abc/reports/read, abc/reports/write, abc/reports/export], deny: [abc/reports/delete]}
  - {tenant: acme, role: Owner, allow: ["*"], deny: ["tenantgate/platform/*"]}
  - {tenant: acme, user: ann@acme.test, allow: ["*", tenantgate/platform/write], deny: [tenantgate/platform/delete]}
  - {tenant: acme, user: gone@acme.test, deny: ["*"]}
  - {tenant: acme, user: new@acme.test, deny: ["*"]}
  - {tenant: globex, role: Owner, deny: ["*"]}
`

func (s store) check(t *testing.T, content string) policy.Report {
	t.Helper()
	checks, err := policy.ParseChecks("c.yaml", []byte(content))
	require.NoError(t, err)
	var report policy.Report
	require.NoError(t, policy.Read(t.Context(), s.DB, func(q identity.Queryer) (err error) {
		report, err = checks.CheckDatabase(context.Background(), q)
		return err
	}))
	return report
}

func TestExpectationsThatHold(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		require.Equal(t, policy.Report{Checked: 17, Failures: []policy.Failure{}}, s.check(t, demoChecks))
	})
}

func TestExpectationsThatFail(t *testing.T) {
	t.Parallel()
	const content = `checks:
  - tenant: acme
    role: Manager
    allow:
      - abc/reports/delete
      - abc/*
      - tenantgate/platform/read
      - abc/report/read
    deny:
      - abc/reports/export
      - "*/*/read"
      - abd/*
      - abc/reports/print
  - {tenant: acme, role: Managers, allow: [abc/reports/read]}
  - {tenant: acne, role: Manager, deny: [abc/reports/read]}
  - {tenant: acme, role: Owner, allow: ["tenantgate/platform/*"]}
  - {tenant: acme, user: vic@acme.test, allow: [abc/reports/write], deny: ["*"]}
  - {tenant: acme, user: gone@acme.test, allow: [abc/dashboard/read]}
  - {tenant: globex, role: Owner, allow: [abc/dashboard/read]}
`
	want := []string{
		"c.yaml:5: Manager of acme should be allowed abc/reports/delete: it is denied: Manager does not hold abc/reports/delete",
		"c.yaml:6: Manager of acme should be allowed abc/*/*: abc/dashboard/delete is denied: Manager does not hold abc/dashboard/delete (and 2 more)",
		"c.yaml:7: Manager of acme should be allowed tenantgate/platform/read: it is denied: Manager does not hold tenantgate/platform/read",
		"c.yaml:8: Manager of acme should be allowed abc/report/read: the table has no such permission: correct the name, or remove the line",
		"c.yaml:10: Manager of acme should be denied abc/reports/export: it is allowed by Manager: abc/reports/export",
		"c.yaml:11: Manager of acme should be denied */*/read: abc/dashboard/read is allowed by Manager > Editor > Viewer: abc/*/read (and 1 more)",
		"c.yaml:12: Manager of acme should be denied abd/*/*: the table has no such permission: correct the name, or remove the line",
		"c.yaml:13: Manager of acme should be denied abc/reports/print: the table has no such permission: correct the name, or remove the line",
		`c.yaml:14: Managers of acme should be allowed abc/reports/read: acme has no role "Managers": it has Admin, Editor, Manager, Owner and Viewer`,
		`c.yaml:15: Manager of acne should be denied abc/reports/read: there is no tenant "acne"`,
		"c.yaml:16: Owner of acme should be allowed tenantgate/platform/*: tenantgate/platform/delete is denied: Owner does not hold tenantgate/platform/delete (and 2 more)",
		"c.yaml:17: vic@acme.test in acme should be allowed abc/reports/write: it is denied: Viewer does not hold abc/reports/write",
		"c.yaml:17: vic@acme.test in acme should be denied */*/*: abc/dashboard/read is allowed by Viewer: abc/*/read (and 1 more)",
		"c.yaml:18: gone@acme.test in acme should be allowed abc/dashboard/read: it is denied: gone@acme.test is no active member of acme",
		"c.yaml:19: Owner of globex should be allowed abc/dashboard/read: it is denied: globex is suspended: nobody may do anything in it",
	}
	eachDemo(t, func(t *testing.T, s store) {
		report := s.check(t, content)
		require.Equal(t, 15, report.Checked)
		var got []string
		for _, failure := range report.Failures {
			got = append(got, failure.String())
		}
		require.Equal(t, want, got)
	})
}

func TestExpectationsOfAFileNeedNoDatabase(t *testing.T) {
	t.Parallel()
	table, err := policy.Validate("p.yaml", parse(t, demo))
	require.NoError(t, err)
	checks, err := policy.ParseChecks("c.yaml", []byte(`checks:
  - {tenant: acme, role: Viewer, allow: ["abc/*/read"], deny: ["*/*/write"]}
  - {tenant: acme, user: ann@acme.test, allow: [tenantgate/platform/read]}
  - {tenant: acme, user: gone@acme.test, allow: [abc/dashboard/read]}
  - {tenant: 1, role: Viewer, allow: [abc/dashboard/read]}
`))
	require.NoError(t, err)
	report := checks.Check(table)
	require.Equal(t, 5, report.Checked)
	require.Len(t, report.Failures, 1, "a file knows nothing of ids, and nothing of accounts")
	require.Contains(t, report.Failures[0].String(), `c.yaml:5: Viewer of 1 should be allowed abc/dashboard/read: there is no tenant "1"`)

	_, err = policy.Validate("p.yaml", parse(t, "tenants: {acme: {roles: {Viewer: {permissions: [abc/x/read]}}}}"))
	require.ErrorContains(t, err, `p.yaml:1: tenants.acme.roles.Viewer.permissions[0]: permission "abc/x/read": there is no product abc`)

	bare, err := policy.Validate("p.yaml", parse(t, "products: {abc: {a: []}}\ntenants: {acme: {roles: {Viewer: {permissions: [abc/a/read]}}}}"))
	require.NoError(t, err)
	checks, err = policy.ParseChecks("c.yaml", []byte("checks: [{tenant: acme, user: ann@acme.test, allow: [abc/a/read]}]"))
	require.NoError(t, err)
	report = checks.Check(bare)
	require.Len(t, report.Failures, 1)
	require.Contains(t, report.Failures[0].Detail, "the policy does not say who is a member: export it with --members, or ask about a role")
}

func TestMistakesInExpectations(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ content, want string }{
		"nothing":            {"checks: []", "c.yaml: there is no check in it: write a list under checks"},
		"a mapping":          {"checks: {}", "c.yaml:1: checks: this must be a list, not a mapping"},
		"an unknown field":   {"checks:\n- tenants: acme", `c.yaml:2: checks[0].tenants: unknown field "tenants": use allow, deny, role, tenant or user`},
		"no tenant":          {"checks:\n- role: Viewer\n  allow: [a/b/c]", "c.yaml:2: checks[0]: the field tenant is missing"},
		"an empty tenant":    {"checks:\n- tenant: ''", "c.yaml:2: checks[0].tenant: a value is missing: write the name or id of a tenant"},
		"nobody":             {"checks:\n- tenant: acme\n  allow: [a/b/c]", "c.yaml:2: checks[0]: the field role is missing"},
		"two":                {"checks:\n- {tenant: acme, role: A, user: B, allow: [a/b/c]}", "c.yaml:2: checks[0]: there are both role and user: make two checks of it"},
		"nothing expected":   {"checks:\n- {tenant: acme, role: A}", "c.yaml:2: checks[0]: nothing is expected: write allow, deny or both"},
		"no permission":      {"checks:\n- {tenant: acme, role: A, deny: [abc]}", `c.yaml:2: checks[0].deny[0]: permission "abc": write product/feature/action`},
		"no user":            {"checks:\n- {tenant: acme, user: a@, deny: ['*']}", `c.yaml:2: checks[0]: "a@" is no e-mail address`},
		"a list as the role": {"checks:\n- {tenant: acme, role: [A], deny: ['*']}", "c.yaml:2: checks[0].role: this must be a value, not a list"},
	} {
		_, err := policy.ParseChecks("c.yaml", []byte(test.content))
		require.ErrorContains(t, err, test.want, name)
	}
}
