package permission_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// store is a migrated database.
type store struct {
	*database.DB
	url string
}

// each runs f on a fresh SQLite and a fresh PostgreSQL database.
func each(t *testing.T, f func(t *testing.T, s store)) {
	t.Helper()
	dbtest.Each(t, func(t *testing.T, url string) { f(t, openStore(t, url)) })
}

// eachDemo is each with the demo data in it.
func eachDemo(t *testing.T, f func(t *testing.T, s store)) {
	t.Helper()
	each(t, func(t *testing.T, s store) {
		s.change(t, demo)
		f(t, s)
	})
}

func openStore(tb testing.TB, url string) store {
	tb.Helper()
	return store{dbtest.Open(tb, url, clock.System{}), url}
}

// storeAt makes an SQLite file.
func storeAt(tb testing.TB, path string) store {
	tb.Helper()
	s := openStore(tb, "sqlite://"+path)
	require.NoError(tb, s.Migrate(tb.Context()))
	return s
}

// demoStore is an SQLite file with the demo data.
func demoStore(tb testing.TB) store {
	tb.Helper()
	s := storeAt(tb, filepath.Join(tb.TempDir(), "t.db"))
	s.change(tb, demo)
	return s
}

// write runs statements and then touch in one transaction.
func (s store) write(tb require.TestingT, statements []string, touch func(ctx context.Context, tx *database.Tx) error) {
	ctx := context.Background()
	require.NoError(tb, s.InTx(ctx, func(tx *database.Tx) error {
		for _, statement := range statements {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return touch(ctx, tx)
	}))
}

// change runs statements in one transaction and touches the tenants, or the
// catalogue if none is named.
func (s store) change(tb require.TestingT, statements []string, tenants ...int64) {
	s.write(tb, statements, func(ctx context.Context, tx *database.Tx) error {
		for _, id := range tenants {
			if err := permission.Touch(ctx, tx, id); err != nil {
				return err
			}
		}
		if len(tenants) == 0 {
			return permission.TouchCatalogue(ctx, tx)
		}
		return nil
	})
}

// changeRoles runs statements that leave a tenant's members as they are.
func (s store) changeRoles(tb require.TestingT, tenant int64, statements ...string) {
	s.write(tb, statements, func(ctx context.Context, tx *database.Tx) error { return permission.TouchRoles(ctx, tx, tenant) })
}

// changeMember runs statements that change one member.
func (s store) changeMember(tb require.TestingT, tenant int64, user string, statements ...string) {
	s.write(tb, statements, func(ctx context.Context, tx *database.Tx) error { return permission.TouchMember(ctx, tx, tenant, user) })
}

// demo holds tenants 1 acme, 2 globex and 3 initech (suspended), each with the
// roles Admin (everything), Editor and Viewer and one user for each: ann,
// ed and vic of acme, gil (Admin) of globex, ian (Admin) of initech. gus is a
// disabled Admin of globex; ann is also a Viewer of globex.
var demo = []string{
	`INSERT INTO tenants (id, name, status, created_at, updated_at) VALUES (1, 'acme', 'active', 1, 1), (2, 'globex', 'active', 1, 1), (3, 'initech', 'suspended', 1, 1)`,
	`INSERT INTO users (id, email, email_key, status, created_at, updated_at) VALUES ('ann', 'ann@x', 'ann@x', 'active', 1, 1), ('ed', 'ed@x', 'ed@x', 'active', 1, 1),
		('vic', 'vic@x', 'vic@x', 'active', 1, 1), ('gil', 'gil@x', 'gil@x', 'active', 1, 1), ('gus', 'gus@x', 'gus@x', 'disabled', 1, 1), ('ian', 'ian@x', 'ian@x', 'active', 1, 1)`,
	`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 1, 1), (2, 'bare', 1, 1)`,
	`INSERT INTO features (id, product_id, name, actions, created_at, updated_at) VALUES (1, 1, 'dashboard', 'read,write,delete', 1, 1), (2, 1, 'reports', 'read,write,delete,export', 1, 1)`,
	`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (13, 1, 'Viewer', 1, 1), (12, 1, 'Editor', 1, 1), (11, 1, 'Admin', 1, 1),
		(21, 2, 'Admin', 1, 1), (23, 2, 'Viewer', 1, 1), (31, 3, 'Admin', 1, 1)`,
	`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'ann', 11, 1, 1), (1, 'ed', 12, 1, 1), (1, 'vic', 13, 1, 1),
		(2, 'gil', 21, 1, 1), (2, 'gus', 21, 1, 1), (2, 'ann', 23, 1, 1), (3, 'ian', 31, 1, 1)`,
	`INSERT INTO role_feature_permissions (role_id, feature_id, action) SELECT r.id, f.id, a.name FROM roles r, features f,
		(SELECT 'read' AS name UNION SELECT 'write' UNION SELECT 'delete' UNION SELECT 'export') a WHERE r.name = 'Admin'`,
	`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (12, 1, 'read'), (12, 1, 'write'), (13, 1, 'read'), (23, 1, 'read'), (13, 1, 'export')`,
}

func load(tb require.TestingT, s store, old *permission.Snapshot) *permission.Snapshot {
	snapshot, err := permission.Load(context.Background(), s.DB, old)
	require.NoError(tb, err)
	return snapshot
}

func perm(product, feature, action string) permission.Permission {
	return permission.Permission{Product: product, Feature: feature, Action: action}
}

// decision is a permission.Decision to compare and print.
type decision struct {
	allowed bool
	reason  permission.Reason
	role    string
}

func show(d permission.Decision) decision { return decision{d.Allowed, d.Reason, d.Role()} }

// counts are the statistics without what depends on how a snapshot was made.
func counts(s *permission.Snapshot) permission.Stats {
	stats := s.Stats()
	stats.Bytes = 0
	return stats
}
