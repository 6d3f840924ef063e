// Package policy_test runs the files of this example against the demo.
package policy_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

// noHash stands for the hashing of passwords, which nobody enters here.
type noHash struct{}

func (noHash) Hash(context.Context, string) (string, error) { return "x", nil }

func TestTheFilesAreAsTheREADMESays(t *testing.T) {
	t.Parallel()
	readme := string(read(t, "README.md"))
	dbtest.Each(t, func(t *testing.T, url string) {
		db := dbtest.Open(t, url, clock.System{})
		require.NoError(t, seed.Demo(t.Context(), db, noHash{}))

		_, body, _ := bytes.Cut(read(t, "demo.yaml"), []byte("\n"))
		require.Equal(t, string(body), export(t, db), "below its first line the file is what export writes")
		require.Empty(t, check(t, db).Failures)
		table, err := policy.Validate("demo.yaml", parse(t, "demo.yaml"))
		require.NoError(t, err)
		checks, err := policy.ParseChecks("demo.checks.yaml", read(t, "demo.checks.yaml"))
		require.NoError(t, err)
		report := checks.Check(table)
		require.Empty(t, report.Failures)
		require.Equal(t, 19, report.Checked)

		d, err := policy.Import(t.Context(), db, policy.File{Policy: parse(t, "change.yaml"), Name: "change.yaml"}, "cli:test", false)
		require.NoError(t, err)
		var lines []string
		for _, c := range d.Changes {
			lines = append(lines, c.Lines()...)
		}
		require.Contains(t, readme, "```\n"+strings.Join(lines, "\n")+"\n\nin effect:\n"+strings.Join(d.EffectLines(), "\n")+"\n```\n")

		snapshot, err := permission.Load(t.Context(), db, nil)
		require.NoError(t, err)
		desk := policy.Desk{Snapshot: snapshot, Names: db.Reader()}
		a, err := desk.Explain(t.Context(), policy.Question{
			Tenant: "acme", User: "editor@acme.test", Permission: permission.Permission{Product: "abc", Feature: "reports", Action: "delete"},
		})
		require.NoError(t, err)
		failures := check(t, db).Failures
		require.Len(t, failures, 1)
		require.Contains(t, readme, "```\n"+a.Text+"\n"+failures[0].String()+"\n19 expectations, 1 not met\n```\n")
	})
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	return content
}

func parse(t *testing.T, name string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(name, read(t, name))
	require.NoError(t, err)
	return p
}

func export(t *testing.T, db *database.DB) (content string) {
	t.Helper()
	require.NoError(t, policy.Read(t.Context(), db, func(q identity.Queryer) error {
		p, err := policy.Load(t.Context(), q, policy.Scope{Members: true})
		if err != nil {
			return err
		}
		out, err := p.Encode()
		content = string(out)
		return err
	}))
	return content
}

// check runs the expectations under the name that the README gives them.
func check(t *testing.T, db *database.DB) (report policy.Report) {
	t.Helper()
	checks, err := policy.ParseChecks("examples/policy/demo.checks.yaml", read(t, "demo.checks.yaml"))
	require.NoError(t, err)
	require.NoError(t, policy.Read(t.Context(), db, func(q identity.Queryer) (err error) {
		report, err = checks.CheckDatabase(t.Context(), q)
		return err
	}))
	return report
}
