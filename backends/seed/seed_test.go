package seed_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/password"
)

// counter hashes to the number of the call.
type counter struct{ n int }

func (c *counter) Hash(context.Context, string) (string, error) {
	c.n++
	return strings.Repeat("x", c.n), nil
}

// each runs f on both databases.
func each(t *testing.T, f func(t *testing.T, db *database.DB)) {
	t.Helper()
	dbtest.Each(t, func(t *testing.T, url string) { f(t, dbtest.Open(t, url, clock.System{})) })
}

func scalar(t *testing.T, db *database.DB, query string) (n int) {
	t.Helper()
	require.NoError(t, db.Reader().QueryRow(query).Scan(&n))
	return n
}

// lines returns the first column of a query.
func lines(t *testing.T, db *database.DB, query string) (all []string) {
	t.Helper()
	rows, err := db.Reader().Query(query)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		all = append(all, line)
	}
	require.NoError(t, rows.Err())
	return all
}

func TestDemoIsWhatTheDocumentationSays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		require.NoError(t, seed.Demo(t.Context(), db, &counter{}))

		require.Equal(t, []string{"1 acme", "2 globex"}, lines(t, db, `SELECT id || ' ' || name FROM tenants ORDER BY id`))
		require.Equal(t, []string{
			"acme Admin admin@acme.test", "acme Editor editor@acme.test", "acme Viewer viewer@acme.test",
			"globex Admin admin@globex.test", "globex Editor editor@globex.test", "globex Viewer viewer@globex.test",
		}, lines(t, db, `SELECT t.name || ' ' || r.name || ' ' || u.email FROM memberships m JOIN tenants t ON t.id = m.tenant_id
			JOIN roles r ON r.id = m.role_id JOIN users u ON u.id = m.user_id ORDER BY 1`))
		require.Equal(t, []string{
			"abc/billing", "abc/dashboard", "abc/invitations", "abc/reports",
			"tenantgate/members", "tenantgate/permissions", "tenantgate/platform", "tenantgate/roles", "tenantgate/tenant",
		}, lines(t, db, `SELECT p.name || '/' || f.name FROM features f JOIN products p ON p.id = f.product_id WHERE f.actions = 'read,write,delete' ORDER BY 1`))
		require.Equal(t, []string{
			"acme Admin abc 12", "acme Admin tenantgate 15", "acme Editor abc 8", "acme Viewer abc 4",
			"globex Admin abc 12", "globex Admin tenantgate 12", "globex Editor abc 8", "globex Viewer abc 4",
		}, lines(t, db, `SELECT t.name || ' ' || r.name || ' ' || p.name || ' ' || COUNT(*) FROM role_feature_permissions g
			JOIN roles r ON r.id = g.role_id JOIN tenants t ON t.id = r.tenant_id JOIN features f ON f.id = g.feature_id
			JOIN products p ON p.id = f.product_id GROUP BY t.name, r.name, p.name ORDER BY 1`))
		require.Equal(t, 6, scalar(t, db, `SELECT COUNT(DISTINCT password_hash) FROM users`), "every user has a salt of their own")
		require.Equal(t, 1, scalar(t, db, `SELECT COUNT(*) FROM permission_changes`), "gateways are told")
		require.Equal(t, []string{"acme Owner", "globex Owner"}, lines(t, db, `SELECT t.name || ' ' || r.name FROM roles r
			JOIN tenants t ON t.id = r.tenant_id WHERE r.kind = 'owner' ORDER BY r.id`), "every tenant has the built-in owner")

		var next int
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			return tx.QueryRow(`INSERT INTO tenants (name, created_at, updated_at) VALUES ('next', 1, 1) RETURNING id`).Scan(&next)
		}))
		require.Equal(t, 3, next, "the ids that were given are not given again")
	})
}

func TestDemoLeavesADatabaseWithTenantsAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		hasher := &counter{}
		require.NoError(t, seed.Demo(t.Context(), db, hasher))
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`DELETE FROM users WHERE email_key = 'viewer@acme.test'`)
			return err
		}))
		hashed := hasher.n
		require.NoError(t, seed.Demo(t.Context(), db, hasher))
		require.Equal(t, 5, scalar(t, db, `SELECT COUNT(*) FROM users`), "what was deleted stays deleted")
		require.Equal(t, hashed, hasher.n, "nothing is hashed in vain")
	})
}

// broken can't hash.
type broken struct{}

func (broken) Hash(context.Context, string) (string, error) { return "", errors.New("no memory") }

func TestDemoIsAllOrNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		require.ErrorContains(t, seed.Demo(t.Context(), db, broken{}), "no memory")
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('x', 'x', 'viewer@globex.test', 1, 1)`)
			return err
		}))
		require.ErrorIs(t, seed.Demo(t.Context(), db, &counter{}), database.ErrConflict)
		require.Zero(t, scalar(t, db, `SELECT (SELECT COUNT(*) FROM tenants) + (SELECT COUNT(*) FROM products)`))
	})
}

func TestDemoPasswordIsGoodEnoughAndVerifies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		require.Nil(t, password.Policy{}.Check(seed.Password, "acme", "admin"))
		hasher := password.NewHasher(2)
		require.NoError(t, seed.Demo(t.Context(), db, hasher))
		var phc string
		require.NoError(t, db.Reader().QueryRow(`SELECT password_hash FROM users WHERE email_key = 'admin@globex.test'`).Scan(&phc))
		ok, stale, err := hasher.Verify(t.Context(), phc, seed.Password)
		require.NoError(t, err)
		require.True(t, ok)
		require.False(t, stale)
	})
}
