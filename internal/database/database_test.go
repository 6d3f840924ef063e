package database_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
)

func open(t *testing.T) (*database.DB, string) {
	t.Helper()
	url := "sqlite://" + filepath.Join(t.TempDir(), "t.db")
	db, err := database.Open(t.Context(), url, clock.NewFake(time.UnixMilli(1_700_000_000_123)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, db.Migrate(t.Context()))
	return db, url
}

func TestTheFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	_, url := open(t)
	files, err := filepath.Glob(strings.TrimPrefix(url, "sqlite://") + "*")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 2, "the database and its log")
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), file)
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"":                              "must be given as sqlite://PATH",
		"tenantgate.db":                 "must be given as sqlite://PATH",
		"sqlite://":                     "names no database file",
		"sqlite://x.db?mode=ro":         "names no database file",
		"postgres://localhost/x":        "not supported yet",
		"sqlite:///no/such/folder/x.db": "the folder /no/such/folder does not exist",
	} {
		_, err := database.Open(t.Context(), url, clock.System{})
		require.ErrorContains(t, err, want, url)
	}
}

func TestMigrateIsIdempotentAndCheckSchemaSees(t *testing.T) {
	t.Parallel()
	url := "sqlite://" + filepath.Join(t.TempDir(), "t.db")
	ro, err := database.OpenReadOnly(url, clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ro.Close()) })
	require.ErrorContains(t, ro.CheckSchema(t.Context()), "there is no database to read yet (`backends migrate` makes it)")

	db, err := database.Open(t.Context(), url, clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	var schema *database.SchemaError
	require.ErrorAs(t, db.CheckSchema(t.Context()), &schema)
	require.ErrorContains(t, schema, "run `backends migrate`")

	require.NoError(t, db.Migrate(t.Context()))
	require.NoError(t, db.Migrate(t.Context()))
	require.NoError(t, db.CheckSchema(t.Context()))
	require.NoError(t, ro.CheckSchema(t.Context()), "a reader that was opened first sees it too")

	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
		return err
	}))
	require.ErrorContains(t, db.CheckSchema(t.Context()), "newer than this program")
	require.ErrorContains(t, db.Migrate(t.Context()), "newer than this program")
}

func TestInTxCommitsOnNilAndRollsBackOnError(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	insert := func(tx *database.Tx, name string) error {
		_, err := tx.Exec(`INSERT INTO products (name, created_at, updated_at) VALUES ($1, $2, $2)`, name, tx.NowMS())
		return err
	}
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		require.Equal(t, int64(1_700_000_000_123), tx.NowMS())
		return insert(tx, "kept")
	}))
	boom := errors.New("boom")
	require.ErrorIs(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		require.NoError(t, insert(tx, "lost"))
		return boom
	}), boom)
	require.ErrorIs(t, db.InTx(t.Context(), func(tx *database.Tx) error { return insert(tx, "kept") }), database.ErrConflict)

	var count int
	require.NoError(t, db.Reader().QueryRow(`SELECT count(*) FROM products`).Scan(&count))
	require.Equal(t, 1, count)
	_, err := db.Reader().Exec(`DELETE FROM products`)
	require.ErrorContains(t, err, "readonly")
}

func TestForeignKeysHoldOnEveryConnection(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	err := db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec(`INSERT INTO features (product_id, name, created_at, updated_at) VALUES (77, 'x', 1, 1)`)
		return err
	})
	require.ErrorIs(t, err, database.ErrConflict)
}

func TestParallelWritersNeverMeetBusy(t *testing.T) {
	t.Parallel()
	db, url := open(t)
	second, err := database.Open(t.Context(), url, clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Close()) })

	var wins atomic.Int64
	var group sync.WaitGroup
	for i := range 16 {
		pool := db
		if i%2 == 1 {
			pool = second
		}
		group.Go(func() {
			for range 10 {
				err := pool.InTx(context.Background(), func(tx *database.Tx) error {
					var n int
					if err := tx.QueryRow(`SELECT count(*) FROM permission_changes`).Scan(&n); err != nil {
						return err
					}
					_, err := tx.Exec(`INSERT INTO permission_changes (tenant_id, changed_at) VALUES (NULL, $1)`, n)
					return err
				})
				if err == nil {
					wins.Add(1)
				}
			}
		})
	}
	group.Wait()
	require.Equal(t, int64(160), wins.Load())
}

func TestInTxEndsWithItsContext(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := db.InTx(ctx, func(tx *database.Tx) error {
		cancel()
		_, err := tx.ExecContext(ctx, `INSERT INTO products (name, created_at, updated_at) VALUES ('x', 1, 1)`)
		return err
	})
	require.ErrorIs(t, err, context.Canceled)
}
