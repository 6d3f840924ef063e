package policy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

// demo is the table of most tests: acme with a chain of three roles.
const demo = `
products:
  abc:
    dashboard: []
    reports: [export]
  tenantgate:
    members: []
    platform: []
tenants:
  acme:
    roles:
      Owner: {owner: true}
      Admin: {permissions: ["*", tenantgate/platform/read, tenantgate/platform/write]}
      Manager: {inherits: [Editor], permissions: [abc/reports/export]}
      Editor: {inherits: [Viewer], permissions: [abc/reports/write]}
      Viewer: {permissions: ["abc/*/read"]}
    members:
      ann@acme.test: Admin
      ed@acme.test: Editor
      mia@acme.test: Manager
      vic@acme.test: Viewer
      gone@acme.test: Viewer
  globex:
    status: suspended
    roles:
      Owner: {owner: true}
      Viewer: {permissions: [abc/dashboard/read]}
    members:
      gil@globex.test: Owner
`

// users are the accounts of the demo, whose ids are the local parts. gone is disabled.
var users = []string{"ann@acme.test", "ed@acme.test", "mia@acme.test", "vic@acme.test", "gone@acme.test", "gil@globex.test", "new@acme.test"}

// store is a database with the accounts.
type store struct {
	*database.DB
	url string
}

func newStore(t *testing.T, url string) store {
	t.Helper()
	s := store{dbtest.Open(t, url, clock.System{}), url}
	require.NoError(t, s.InTx(t.Context(), func(tx *database.Tx) error {
		for _, email := range users {
			id, _, _ := strings.Cut(email, "@")
			status := identity.StatusActive
			if id == "gone" {
				status = identity.StatusDisabled
			}
			if err := identity.InsertUser(t.Context(), tx, identity.User{ID: id, Email: email, EmailKey: email, Status: status}); err != nil {
				return err
			}
		}
		return nil
	}))
	return s
}

// demoStore is a database with the demo.
func demoStore(t *testing.T, url string) store {
	t.Helper()
	s := newStore(t, url)
	s.mustImport(t, demo, false)
	return s
}

// eachDemo runs f with the demo in each kind of database.
func eachDemo(t *testing.T, f func(t *testing.T, s store)) {
	dbtest.Each(t, func(t *testing.T, url string) { f(t, demoStore(t, url)) })
}

func parse(t require.TestingT, content string) *policy.Policy {
	p, err := policy.Parse("p.yaml", []byte(content))
	require.NoError(t, err)
	return p
}

func (s store) imports(t require.TestingT, content string, prune, dryRun bool) (policy.Difference, error) {
	file := policy.File{Policy: parse(t, content), Name: "p.yaml", Prune: prune}
	return policy.Import(context.Background(), s.DB, file, "cli:tester", dryRun)
}

func (s store) mustImport(t require.TestingT, content string, prune bool) policy.Difference {
	d, err := s.imports(t, content, prune, false)
	require.NoError(t, err)
	return d
}

// export returns the whole table with its members.
func (s store) export(t require.TestingT) string {
	var out []byte
	require.NoError(t, policy.Read(context.Background(), s.DB, func(q identity.Queryer) error {
		p, err := policy.Load(context.Background(), q, policy.Scope{Members: true})
		if err != nil {
			return err
		}
		out, err = p.Encode()
		return err
	}))
	return string(out)
}

// against returns what a file would change.
func (s store) against(t require.TestingT, content string, prune bool) (d policy.Difference, err error) {
	err = policy.Read(context.Background(), s.DB, func(q identity.Queryer) error {
		plan, err := policy.File{Policy: parse(t, content), Name: "p.yaml", Prune: prune}.Against(context.Background(), q)
		if err == nil {
			d = plan.Difference
		}
		return err
	})
	return d, err
}

// rows returns the rows of a query, each as its values with spaces.
func (s store) rows(t require.TestingT, query string, columns int) (all []string) {
	rows, err := s.Reader().QueryContext(context.Background(), query)
	require.NoError(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		values, pointers := make([]any, columns), make([]any, columns)
		for i := range values {
			pointers[i] = &values[i]
		}
		require.NoError(t, rows.Scan(pointers...))
		for i, v := range values {
			if raw, ok := v.([]byte); ok {
				values[i] = string(raw)
			}
			if v == nil {
				values[i] = "-"
			}
		}
		all = append(all, strings.TrimSuffix(fmt.Sprintln(values...), "\n"))
	}
	require.NoError(t, rows.Err())
	return all
}

// written returns how much was ever written: changes and audit rows.
func (s store) written(t require.TestingT) []string {
	return s.rows(t, `SELECT (SELECT COUNT(*) FROM permission_changes), (SELECT COUNT(*) FROM audit_events)`, 2)
}

func (s store) exec(t require.TestingT, statements ...string) {
	ctx := context.Background()
	require.NoError(t, s.InTx(ctx, func(tx *database.Tx) error {
		for _, statement := range statements {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return permission.TouchCatalogue(ctx, tx)
	}))
}

func (s store) snapshot(t require.TestingT) *permission.Snapshot {
	snapshot, err := permission.Load(context.Background(), s.DB, nil)
	require.NoError(t, err)
	return snapshot
}

// lines returns what a difference says.
func lines(d policy.Difference) (all []string) {
	for _, c := range d.Changes {
		all = append(all, c.Lines()...)
	}
	return append(all, d.EffectLines()...)
}

func perm(text string) permission.Permission {
	p, err := permission.ParsePattern(text)
	if err != nil {
		panic(err)
	}
	return permission.Permission(p)
}
