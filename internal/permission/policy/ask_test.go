package policy_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

func TestExplainSaysWhichRowDecided(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.exec(t, `INSERT INTO tenants (id, name, created_at, updated_at) VALUES (9, 'bare', 1, 1)`)
		desk := policy.Desk{Snapshot: s.snapshot(t), Names: s.Reader()}
		for _, test := range []struct{ tenant, user, role, permission, want, rule string }{
			{"acme", "ed@acme.test", "", "abc/reports/write", "allowed: ed@acme.test is Editor in acme; Editor holds abc/reports/write", "Editor: abc/reports/write"},
			{"1", "ed", "", "abc/reports/read", "allowed: ed@acme.test is Editor in acme; Editor inherits Viewer, which holds abc/*/read", "Editor > Viewer: abc/*/read"},
			{"acme", "mia@acme.test", "", "abc/dashboard/read", "allowed: mia@acme.test is Manager in acme; Manager inherits Editor, which inherits Viewer, which holds abc/*/read", "Manager > Editor > Viewer: abc/*/read"},
			{"acme", "", "Owner", "abc/dashboard/read", "allowed: Owner is the owner role: it may do everything but run the installation", "Owner: owner"},
			{"acme", "vic@acme.test", "", "abc/reports/write", "denied: vic@acme.test is Viewer in acme; neither Viewer nor what it inherits holds abc/reports/write; Admin, Editor, Manager or Owner of acme would", ""},
			{"acme", "vic@acme.test", "", "tenantgate/platform/write", "denied: vic@acme.test is Viewer in acme; neither Viewer nor what it inherits holds tenantgate/platform/write; Admin of acme would (owners and wildcards never give the right to run the installation)", ""},
			{"acme", "vic@acme.test", "", "tenantgate/platform/delete", "denied: vic@acme.test is Viewer in acme; neither Viewer nor what it inherits holds tenantgate/platform/delete; no role of acme does (owners and wildcards never give the right to run the installation)", ""},
			{"acme", "new@acme.test", "", "abc/reports/export", "denied: new@acme.test is no active member of acme; Admin, Manager or Owner of acme would", ""},
			{"acme", "gone@acme.test", "", "abc/reports/export", "denied: the account gone@acme.test is disabled; Admin, Manager or Owner of acme would", ""},
			{"acme", "", "Editors", "abc/reports/export", "denied: acme has no role Editors; Admin, Manager or Owner of acme would", ""},
			{"globex", "gil@globex.test", "", "abc/dashboard/read", "denied: globex is suspended: nobody may do anything in it", ""},
			{"acme", "ann", "", "abd/reports/read", "denied: there is no product abd", ""},
			{"acme", "ann", "", "abc/report/read", "denied: product abc has no feature report", ""},
			{"acme", "ann", "", "abc/reports/print", "denied: feature abc/reports has no action print", ""},
			{"bare", "ann", "", "abc/reports/read", "denied: ann@acme.test is no active member of bare", ""},
		} {
			a, err := desk.Explain(t.Context(), policy.Question{Tenant: test.tenant, User: test.user, Role: test.role, Permission: perm(test.permission)})
			require.NoError(t, err, test.want)
			require.Equal(t, test.want, a.Text)
			require.Equal(t, test.rule, a.Rule)
			require.Equal(t, test.rule != "", a.Allowed)
			require.Equal(t, test.permission, a.Permission)
			require.Equal(t, desk.Snapshot.Seq(), a.Seq)
		}
		for _, q := range []policy.Question{{Tenant: "acne", User: "ann"}, {Tenant: "99", User: "ann"}, {Tenant: "acme", User: "anne@acme.test"}} {
			_, err := desk.Explain(t.Context(), q)
			require.ErrorIs(t, err, identity.ErrNotFound)
		}
	})
}

func TestWhoCanAndWhatOneMay(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		desk := policy.Desk{Snapshot: s.snapshot(t), Names: s.Reader()}
		h, err := desk.WhoCan(t.Context(), "acme", perm("abc/reports/write"))
		require.NoError(t, err)
		require.Equal(t, permission.Allowed, h.Reason)
		require.Equal(t, []policy.Holder{
			{UserID: "ann", Email: "ann@acme.test", Role: "Admin", Rule: "Admin: */*/*"},
			{UserID: "ed", Email: "ed@acme.test", Role: "Editor", Rule: "Editor: abc/reports/write"},
			{UserID: "mia", Email: "mia@acme.test", Role: "Manager", Rule: "Manager > Editor: abc/reports/write"},
		}, h.Holders)
		require.Empty(t, h.Text)
		for permission, want := range map[string]string{
			"tenantgate/platform/delete": "nobody in acme may use tenantgate/platform/delete", "abc/x/read": "product abc has no feature x",
		} {
			h, err = desk.WhoCan(t.Context(), "acme", perm(permission))
			require.NoError(t, err)
			require.Empty(t, h.Holders)
			require.Equal(t, want, h.Text)
		}
		h, err = desk.WhoCan(t.Context(), "globex", perm("abc/dashboard/read"))
		require.NoError(t, err)
		require.Equal(t, permission.TenantSuspended, h.Reason)
		_, err = desk.WhoCan(t.Context(), "acne", perm("abc/dashboard/read"))
		require.ErrorIs(t, err, identity.ErrNotFound)

		p, err := desk.Of(t.Context(), "acme", "mia@acme.test")
		require.NoError(t, err)
		require.Equal(t, policy.Permissions{
			Tenant: policy.Named{ID: 1, Name: "acme"}, User: policy.Person{ID: "mia", Email: "mia@acme.test", Status: "active"},
			Seq: desk.Snapshot.Seq(), Role: "Manager", Reason: permission.Allowed,
			Permissions: []string{"abc/dashboard/read", "abc/reports/export", "abc/reports/read", "abc/reports/write"},
		}, p)
		p, err = desk.Of(t.Context(), "acme", "new")
		require.NoError(t, err)
		require.Equal(t, permission.NotAMember, p.Reason)
		for _, pair := range [][2]string{{"acne", "ann"}, {"acme", "anne"}} {
			_, err = desk.Of(t.Context(), pair[0], pair[1])
			require.ErrorIs(t, err, identity.ErrNotFound)
		}
	})
}

// errGone is what every query of a database says that is away.
var errGone = errors.New("it is gone")

// gone is a database that is away.
type gone struct{ closed *sql.DB }

func (gone) QueryContext(context.Context, string, ...any) (*sql.Rows, error) { return nil, errGone }

func (g gone) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return g.closed.QueryRowContext(ctx, query, args...)
}

func TestIdsAreEnoughWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		away, err := database.OpenReadOnly(s.url, clock.System{})
		require.NoError(t, err)
		require.NoError(t, away.Close())
		desk := policy.Desk{Snapshot: s.snapshot(t), Names: gone{away.Reader()}}
		a, err := desk.Explain(t.Context(), policy.Question{Tenant: "1", User: "vic", Permission: perm("abc/reports/write")})
		require.NoError(t, err)
		require.Equal(t, "denied: vic is Viewer in 1; neither Viewer nor what it inherits holds abc/reports/write; no role of 1 does", a.Text)
		h, err := desk.WhoCan(t.Context(), "1", perm("abc/reports/export"))
		require.NoError(t, err)
		require.Equal(t, []policy.Holder{{UserID: "ann", Role: "Admin", Rule: "Admin: */*/*"}, {UserID: "mia", Role: "Manager", Rule: "Manager: abc/reports/export"}}, h.Holders)
		for _, q := range []policy.Question{{Tenant: "acme", User: "vic"}, {Tenant: "1", User: "vic@acme.test"}} {
			_, err = desk.Explain(t.Context(), q)
			require.ErrorContains(t, err, "names can't be looked up, give ids: ")
		}
	})
}

func TestHistoryTellsWhoChangedWhat(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, s store) {
		s.exec(t, `DELETE FROM audit_events`)
		for i, row := range []struct {
			tenant                        int64
			actor, action, target, detail string
		}{
			{1, "ann", "tenant.updated", "tenant/1", `{"from":{"id":1,"name":"acme","status":"active","updated_at":"a"},"to":{"id":1,"name":"acme","status":"suspended","updated_at":"b"}}`},
			{0, "ann", "product.renamed", "product/3", `{"from":"old","to":"new"}`},
			{0, "cli:root", "feature.created", "feature/4", `{"product":"abc","name":"new","actions":["read","write"]}`},
			{0, "cli:root", "feature.updated", "feature/4", `{"from":{"name":"new","actions":["read"]},"to":{"name":"new","actions":["read","zip"]}}`},
			{1, "ann", "role.created", "role/5", `{"name":"Support"}`},
			{1, "ann", "role.permissions_changed", "role/5", `{"role":"Support","added":[{"product":"abc","feature":"*","action":"read"}],"removed":[{"product":"abc","feature":"a","action":"b"}]}`},
			{1, "ann", "role.parents_changed", "role/5", `{"role":"Support","added":["Viewer"],"removed":["Editor","Old"]}`},
			{1, "ann", "member.added", "user/ed", `{"role":"Support"}`},
			{1, "stranger", "member.updated", "user/nobody", `{"from":"Viewer","to":"Editor"}`},
			{1, "ann", "member.removed", "user/ed", `{}`},
			{1, "ann", "invitation.created", "invitation/1", `{}`},
			{1, "new", "invitation.accepted", "invitation/1", `{"role":"Viewer"}`},
			{1, "ann", "role.something_new", "role/1", `"free"`},
			{2, "ann", "role.deleted", "role/7", `no JSON`},
		} {
			_, err := s.rowsIn(t, `INSERT INTO audit_events (id, tenant_id, actor_id, action, target, detail, trace_id, created_at)
				VALUES ($1, NULLIF($2, 0), $3, $4, $5, $6, 'abc', $7)`, string(rune('a'+i)), row.tenant, row.actor, row.action, row.target, row.detail, int64(i+1)*1000)
			require.NoError(t, err)
		}
		show := func(tenant int64, since time.Time, limit int) (all []string) {
			events, err := policy.History(t.Context(), s.Reader(), tenant, since, limit)
			require.NoError(t, err)
			for _, e := range events {
				require.Equal(t, "abc", e.TraceID)
				all = append(all, e.Time.Format("05")+" "+e.Actor+" "+e.ActorEmail+" "+e.Tenant+" "+e.Action+" "+e.Target+" "+e.TargetEmail+" "+e.Text)
			}
			return all
		}
		all := show(0, time.Time{}, 100)
		require.Equal(t, []string{
			"14 ann ann@acme.test globex role.deleted role/7  ",
			`13 ann ann@acme.test acme role.something_new role/1  "free"`,
			"12 new new@acme.test acme invitation.accepted invitation/1  as Viewer",
			"10 ann ann@acme.test acme member.removed user/ed ed@acme.test ",
			"09 stranger  acme member.updated user/nobody  Viewer -> Editor",
			"08 ann ann@acme.test acme member.added user/ed ed@acme.test as Support",
			"07 ann ann@acme.test acme role.parents_changed role/5  Support inherits Viewer no longer inherits Editor, Old",
			"06 ann ann@acme.test acme role.permissions_changed role/5  Support gains abc/*/read loses abc/a/b",
			"05 ann ann@acme.test acme role.created role/5  Support",
			"04 cli:root   feature.updated feature/4  actions read -> read,zip",
			"03 cli:root   feature.created feature/4  abc/new with read, write",
			"02 ann ann@acme.test  product.renamed product/3  old -> new",
			"01 ann ann@acme.test acme tenant.updated tenant/1  status active -> suspended",
		}, all)
		require.Equal(t, all[:2], show(0, time.Time{}, 2))
		require.Equal(t, all[:1], show(2, time.Time{}, 100))
		require.Equal(t, all[:3], show(0, time.UnixMilli(12_000), 100))
	})
}

// rowsIn runs a statement with arguments.
func (s store) rowsIn(t *testing.T, statement string, args ...any) (result sql.Result, err error) {
	t.Helper()
	err = s.InTx(t.Context(), func(tx *database.Tx) error {
		result, err = tx.ExecContext(t.Context(), statement, args...)
		return err
	})
	return result, err
}
