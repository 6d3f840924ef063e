package database_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func open(t *testing.T, url string) *database.DB {
	t.Helper()
	return dbtest.Open(t, url, clock.NewFake(time.UnixMilli(1_700_000_000_123)))
}

func TestTheFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	url := "sqlite://" + filepath.Join(t.TempDir(), "t.db")
	require.NoError(t, open(t, url).Migrate(t.Context()))
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
		"":                              "must be given as sqlite://PATH or postgres://",
		"tenantgate.db":                 "must be given as sqlite://PATH",
		"mysql://root:pass@host/db":     "must be given as sqlite://PATH",
		"sqlite://":                     "names no database file",
		"sqlite://x.db?mode=ro":         "names no database file",
		"sqlite:///no/such/folder/x.db": "the folder /no/such/folder does not exist",
		"postgres://127.0.0.1:1/x":      "connect to PostgreSQL at 127.0.0.1:1: connect: connection refused",
	} {
		_, err := database.Open(t.Context(), url, clock.System{})
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "pass@", url)
	}
}

func TestCheckURLRefusesWhatOpenWould(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"sqlite://x.db", "sqlite:///no/such/folder/x.db", "postgres://u:pass@127.0.0.1:1/x?pool_max_conns=3"} {
		require.NoError(t, database.CheckURL(url))
	}
	for url, want := range map[string]string{
		"/tmp/x.db":                  "must be given as sqlite://PATH or postgres://",
		"mysql://root:pass@host/db":  "must be given as sqlite://PATH",
		"sqlite://":                  "names no database file",
		"postgres://u:pass@@host/db": "no URL of a PostgreSQL database",
	} {
		err := database.CheckURL(url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "pass@", url)
	}
}

func TestInTxCommitsOnNilAndRollsBackOnError(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
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
		require.Error(t, err)
		require.Regexp(t, "read-?only", err.Error())
	})
}

func TestForeignKeysHoldOnEveryConnection(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		err := open(t, url).InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO features (product_id, name, created_at, updated_at) VALUES (77, 'x', 1, 1)`)
			return err
		})
		require.ErrorIs(t, err, database.ErrConflict)
	})
}

// TestADeferredForeignKeyIsAConflictToo: it is only known at the commit.
func TestADeferredForeignKeyIsAConflictToo(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		err := open(t, url).InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'acme', 1, 1)`)
			require.NoError(t, err)
			_, err = tx.Exec(`INSERT INTO invitations (id, tenant_id, email, email_key, accepted_user_id, expires_at, created_at, updated_at)
				VALUES ('i', 1, 'a@x.test', 'a@x.test', 'nobody', 1, 1, 1)`)
			require.NoError(t, err, "not checked yet")
			return nil
		})
		require.ErrorIs(t, err, database.ErrConflict)
	})
}

// TestLockMakesReadAndWriteOne has many writers, also of two programs, count
// rows and add one with that number.
func TestLockMakesReadAndWriteOne(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		pools := []*database.DB{open(t, url), open(t, url)}
		var group sync.WaitGroup
		errs := make([]error, 16)
		for i := range errs {
			group.Go(func() {
				for range 10 {
					errs[i] = errors.Join(errs[i], pools[i%2].InTx(context.Background(), func(tx *database.Tx) error {
						if err := tx.Lock(context.Background(), "counting"); err != nil {
							return err
						}
						var n int64
						if err := tx.QueryRow(`SELECT count(*) FROM permission_changes`).Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec(`INSERT INTO permission_changes (seq, changed_at) VALUES ($1, 1)`, n)
						return err
					}))
				}
			})
		}
		group.Wait()
		require.NoError(t, errors.Join(errs...))
		var last int
		require.NoError(t, pools[0].Reader().QueryRow(`SELECT max(seq) FROM permission_changes`).Scan(&last))
		require.Equal(t, 159, last)
	})
}

func TestInTxEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		ctx, cancel := context.WithCancel(t.Context())
		err := db.InTx(ctx, func(tx *database.Tx) error {
			cancel()
			_, err := tx.ExecContext(ctx, `INSERT INTO products (name, created_at, updated_at) VALUES ('x', 1, 1)`)
			return err
		})
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestWaitingForALockEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			require.NoError(t, tx.Lock(t.Context(), "x"))
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, db.InTx(ctx, func(second *database.Tx) error { return second.Lock(ctx, "x") }), context.DeadlineExceeded)
			return nil
		})
		require.NoError(t, err)
	})
}

// TestAnnouncementsFollowTheCommit is about the hook, which works everywhere.
func TestAnnouncementsFollowTheCommit(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		var heard []string
		db.OnAnnounce(func(channel string) { heard = append(heard, channel) })
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			for range 3 {
				require.NoError(t, tx.Announce(t.Context(), "news"))
			}
			require.Empty(t, heard, "nothing is committed yet")
			return nil
		}))
		require.Equal(t, []string{"news"}, heard)
		require.Error(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			require.NoError(t, tx.Announce(t.Context(), "news"))
			return errors.New("no")
		}))
		require.Equal(t, []string{"news"}, heard, "nothing happened")
	})
}

// TestOrderIsTheSameOnBoth keeps lists, and cursors into them, independent of
// the locale of a database.
func TestOrderIsTheSameOnBoth(t *testing.T) {
	t.Parallel()
	names := []string{"-", "10", "9", "A", "B", "Z", "_", "a", "ab", "b", "z", "Ä", "ß", "ä", "й", "中"}
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			for i := range names {
				name := names[(i*7+3)%len(names)]
				if _, err := tx.Exec(`INSERT INTO users (id, email, email_key, name, created_at, updated_at) VALUES ($1, $1, $1, $1, 1, 1)`, name); err != nil {
					return err
				}
			}
			return nil
		}))
		for _, column := range []string{"id", "email_key", "name"} {
			got := strs(t, db.Reader(), fmt.Sprintf(`SELECT id FROM users WHERE %[1]s > '' ORDER BY %[1]s`, column))
			require.Equal(t, names, got, column)
		}
	})
}

// TestParallelWritersOfSQLiteNeverMeetBusy has no lock: the file has one writer.
func TestParallelWritersOfSQLiteNeverMeetBusy(t *testing.T) {
	t.Parallel()
	url := dbtest.SQLite(t)
	pools := []*database.DB{open(t, url), open(t, url)}
	var wins atomic.Int64
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for range 10 {
				err := pools[i%2].InTx(context.Background(), func(tx *database.Tx) error {
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
