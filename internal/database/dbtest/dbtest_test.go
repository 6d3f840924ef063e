package dbtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func TestEachGivesFreshMigratedDatabases(t *testing.T) {
	t.Parallel()
	for range 3 {
		dbtest.Each(t, func(t *testing.T, url string) {
			db := dbtest.Open(t, url, clock.System{})
			require.NoError(t, db.CheckSchema(t.Context()))
			require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := tx.Exec(`INSERT INTO products (name, created_at, updated_at) VALUES ('x', 1, 1)`)
				return err
			}), "nobody else's row is in it")
		})
	}
}

func TestPostgresEmptyHasNoSchema(t *testing.T) {
	t.Parallel()
	db := dbtest.Open(t, dbtest.PostgresEmpty(t), clock.System{})
	var schema *database.SchemaError
	require.ErrorAs(t, db.CheckSchema(t.Context()), &schema)
	require.Zero(t, schema.Have)
}

// answers reports whether a query comes back in a moment.
func answers(t *testing.T, db *database.DB) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var one int
	return db.Reader().QueryRowContext(ctx, `SELECT 1`).Scan(&one) == nil
}

func TestServer(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	url := server.Database("app")
	require.NotContains(t, url, server.Password(), "the password is escaped in a URL")
	db := dbtest.Open(t, url, clock.System{})
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec(`INSERT INTO products (name, created_at, updated_at) VALUES ('kept', 1, 1)`)
		return err
	}))

	server.Freeze()
	require.False(t, answers(t, db))
	server.Thaw()
	require.Eventually(t, func() bool { return answers(t, db) }, 10*time.Second, 10*time.Millisecond)

	server.Kill()
	server.Kill()
	require.False(t, answers(t, db))
	server.Restart()
	require.Eventually(t, func() bool { return answers(t, db) }, 10*time.Second, 10*time.Millisecond)

	server.Stop()
	require.False(t, answers(t, db))
	server.Restart()
	var name string
	require.NoError(t, db.Reader().QueryRowContext(t.Context(), `SELECT name FROM products`).Scan(&name))
	require.Equal(t, "kept", name)

	server.Freeze() // and left so: the clean-up copes
}
