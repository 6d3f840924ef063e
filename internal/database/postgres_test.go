package database_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// The secret is a part of every URL below, or what is left of it after a
// mistake. No error may hold it.
const secretWord = "Zx9topsecret"

func TestURLsOfPostgreSQL(t *testing.T) {
	t.Parallel()
	const form = "write postgres://USER:PASSWORD@HOST:5432/DATABASE"
	for url, want := range map[string]string{
		"postgres://u:" + secretWord + "@h/db":                                  "",
		"postgresql://u:" + secretWord + "@h:5432/db":                           "",
		"postgres://u:" + secretWord + "@h1:5432,h2:5433/db":                    "",
		"postgres://u:" + secretWord + "@[::1]:5432/db":                         "",
		"postgres://u:" + secretWord + "%40x@h/db?sslmode=disable":              "",
		"postgres://%2Frun%2Fpostgresql/db":                                     "",
		"postgres:///db?host=/run/postgresql&user=" + secretWord:                "",
		"postgres://u:" + secretWord + "@h/db?pool_max_conns=3&sslmode=disable": "",
		"postgres://u:" + secretWord + "@h/db?pool_max_conns=3":                 "",
		"postgres://u:" + secretWord + "@h/db?pool_max_conns=0":                 "pool_max_conns of the database's URL is no number from 1 to 1000",
		"postgres://u:" + secretWord + "@h/db?pool_max_conns=" + secretWord:     "pool_max_conns of the database's URL is no number from 1 to 1000",
		"postgres://u:" + secretWord + "@x@h/db":                                form,
		"postgres://u:" + secretWord + "/x@h/db":                                form,
		"postgres://u:" + secretWord + "?x@h/db":                                form,
		"postgres://u:" + secretWord + "#x@h/db":                                form,
		"postgres://u:" + secretWord + "%zz@h/db":                               form,
		"postgres://u:" + secretWord + " x@h/db":                                form,
		"postgres://u:" + secretWord + "@h/db\n":                                form,
		"postgres://u@h/db?password=" + secretWord:                              form,
		"postgres://h:" + secretWord + "/db":                                    "invalid port",
		"postgres://u:" + secretWord + "@h:99999/db":                            "invalid port",
		"postgres://u:" + secretWord + "@h/db?sslmode=none":                     "sslmode is invalid",
		"postgres://u:" + secretWord + "@h/db?sslrootcert=/no/such/file":        "unable to read CA file",
		"postgres://u:" + secretWord + "@h/db?connect_timeout=soon":             "connect_timeout",
	} {
		db, err := database.OpenReadOnly(url, clock.System{})
		if want == "" {
			require.NoError(t, err, url)
			require.NoError(t, db.Close())
			continue
		}
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), secretWord, url)
		require.NotContains(t, err.Error(), "\n", url)
	}
}

func FuzzURLOfPostgreSQL(f *testing.F) {
	for _, seed := range []string{"u:p@h/db", "u:p@h:1,[::1]:2/db?sslmode=require", "%2Frun/db?pool_max_conns=2", "u:p@x@h/?a=b&&c", "?host=/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		db, err := database.OpenReadOnly("postgres://u:"+secretWord+rest, clock.System{})
		if err != nil {
			require.NotContains(t, err.Error(), secretWord)
			return
		}
		require.NoError(t, db.Close())
	})
}

// openFails returns the error that opening ends with.
func openFails(t *testing.T, url string) error {
	t.Helper()
	_, err := database.Open(t.Context(), url, clock.System{})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	return err
}

func TestConnectingFailsInOneLineWithoutThePassword(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	good := server.URL("postgres")
	at := "open database: connect to PostgreSQL at " + server.Addr() + ": "

	require.EqualError(t, openFails(t, server.URL("nothing")), at+`database "nothing" does not exist`)
	require.EqualError(t, openFails(t, strings.Replace(good, "tenantgate:", "tenantgate:"+secretWord, 1)),
		at+`password authentication failed for user "tenantgate"`)
	require.ErrorContains(t, openFails(t, strings.Replace(good, "sslmode=disable", "sslmode=require", 1)), "tls error: server refused TLS connection")

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	server.Freeze()
	_, err := database.Open(ctx, good, clock.System{})
	require.EqualError(t, err, at+"no answer in time")
	started := time.Now()
	require.EqualError(t, openFails(t, good+"&connect_timeout=1"), at+"no answer in time")
	require.Less(t, time.Since(started), 4*time.Second)
	server.Thaw()

	ro, err := database.OpenReadOnly(good, clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ro.Close()) })
	var old *database.SchemaError
	require.ErrorAs(t, ro.CheckSchema(t.Context()), &old)
	server.Kill()
	require.EqualError(t, openFails(t, good), at+"connect: connection refused")
	require.Eventually(t, func() bool { // the first error is that of the connection that broke
		return strings.Contains(ro.CheckSchema(t.Context()).Error(), "read schema version: connect to PostgreSQL at "+server.Addr()+": connect: connection refused")
	}, 10*time.Second, 10*time.Millisecond)
}

// TestATransactionGoesOnAfterARestart: connections that broke are replaced.
func TestATransactionGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	db := dbtest.Open(t, server.Database("app"), clock.System{})
	insert := func(name string) error {
		return db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO products (name, created_at, updated_at) VALUES ($1, 1, 1)`, name)
			return err
		})
	}
	// Each of these has a connection of its own, which the pool keeps.
	var begun, done sync.WaitGroup
	begun.Add(5)
	for range 5 {
		done.Go(func() {
			_ = db.InTx(t.Context(), func(*database.Tx) error {
				begun.Done()
				begun.Wait()
				return nil
			})
		})
	}
	done.Wait()
	server.Restart()
	for i := range 8 {
		require.NoError(t, insert("after "+strconv.Itoa(i)))
	}
}

func seedProducts(t *testing.T, db *database.DB, names ...string) {
	t.Helper()
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, name := range names {
			if _, err := tx.Exec(`INSERT INTO products (name, created_at, updated_at) VALUES ($1, 0, 0)`, name); err != nil {
				return err
			}
		}
		return nil
	}))
}

const countUp = `UPDATE products SET updated_at = updated_at + 1 WHERE name = $1`

func updatedAt(t *testing.T, db *database.DB, name string) (n int) {
	t.Helper()
	require.NoError(t, db.Reader().QueryRow(`SELECT updated_at FROM products WHERE name = $1`, name).Scan(&n))
	return n
}

// TestADeadlockIsRunAgain has two transactions change the same two rows, each
// in its own order, and both have the first before either asks for the second.
func TestADeadlockIsRunAgain(t *testing.T) {
	t.Parallel()
	db := open(t, dbtest.Postgres(t))
	seedProducts(t, db, "a", "b")
	var (
		runs    atomic.Int32
		both    sync.WaitGroup
		all     sync.WaitGroup
		results [2]error
	)
	both.Add(2)
	for i, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		var first sync.Once
		all.Go(func() {
			results[i] = db.InTx(t.Context(), func(tx *database.Tx) error {
				runs.Add(1)
				if _, err := tx.Exec(countUp, order[0]); err != nil {
					return err
				}
				first.Do(func() { both.Done(); both.Wait() })
				_, err := tx.Exec(countUp, order[1])
				return err
			})
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(results[:]...))
	require.GreaterOrEqual(t, runs.Load(), int32(3), "one of them ran again")
	require.Equal(t, 2, updatedAt(t, db, "a"))
	require.Equal(t, 2, updatedAt(t, db, "b"))
}

// TestASerializationFailureIsRunAgainAndNotForEver changes the row under the
// feet of a transaction that wants to see one state only.
func TestASerializationFailureIsRunAgainAndNotForEver(t *testing.T) {
	t.Parallel()
	db := open(t, dbtest.Postgres(t))
	seedProducts(t, db, "a")
	run := func(disturbances int32) (runs int32, err error) {
		err = db.InTx(t.Context(), func(tx *database.Tx) error {
			runs++
			_, err := tx.Exec(`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
			require.NoError(t, err)
			var n int
			require.NoError(t, tx.QueryRow(`SELECT updated_at FROM products WHERE name = 'a'`).Scan(&n))
			if runs <= disturbances {
				require.NoError(t, db.InTx(t.Context(), func(other *database.Tx) error {
					_, err := other.Exec(countUp, "a")
					return err
				}))
			}
			_, err = tx.Exec(`UPDATE products SET updated_at = $1 WHERE name = 'a'`, n+1)
			return err
		})
		return runs, err
	}
	runs, err := run(2)
	require.NoError(t, err)
	require.Equal(t, int32(3), runs)
	require.Equal(t, 3, updatedAt(t, db, "a"))
	runs, err = run(1000)
	require.ErrorContains(t, err, "40001")
	require.Equal(t, int32(6), runs)
}

// TestWhoHoldsALockAndSaysNothingIsEnded: a program that lost the network must
// not keep all others from writing until TCP gives up, hours later.
func TestWhoHoldsALockAndSaysNothingIsEnded(t *testing.T) {
	t.Parallel()
	db := open(t, dbtest.Postgres(t))
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		require.NoError(t, tx.Lock(t.Context(), "x"))
		for setting, want := range map[string]string{"idle_in_transaction_session_timeout": "30s", "lock_timeout": "15s"} {
			var got string
			require.NoError(t, tx.QueryRow(`SELECT current_setting($1)`, setting).Scan(&got))
			require.Equal(t, want, got)
		}
		return nil
	}))
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		var got string
		require.NoError(t, tx.QueryRow(`SELECT current_setting('lock_timeout')`).Scan(&got))
		require.Equal(t, "0", got, "the setting ended with its transaction")
		return nil
	}))
}

// ear counts what Listen hears.
type ear struct {
	heard atomic.Int32
	done  chan error
	stop  context.CancelFunc
}

func listen(t *testing.T, db *database.DB, channel string) *ear {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	e := &ear{done: make(chan error, 1), stop: stop}
	t.Cleanup(stop)
	go func() { e.done <- db.Listen(ctx, channel, func() { e.heard.Add(1) }) }()
	return e
}

func (e *ear) hears(t *testing.T, n int32) {
	t.Helper()
	require.Eventually(t, func() bool { return e.heard.Load() >= n }, 10*time.Second, time.Millisecond)
	require.Equal(t, n, e.heard.Load())
}

func (e *ear) ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.done:
		return err
	case <-time.After(5 * time.Second):
		require.Fail(t, "Listen does not return")
		return nil
	}
}

func announce(t *testing.T, db *database.DB, channel string, result error) {
	t.Helper()
	require.ErrorIs(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		require.NoError(t, tx.Announce(t.Context(), channel))
		require.NoError(t, tx.Announce(t.Context(), channel))
		return result
	}), result)
}

func TestListenHearsCommits(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	writer := open(t, url)
	reader, err := database.OpenReadOnly(url, clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reader.Close()) })
	e, other := listen(t, reader, `odd "name"`), listen(t, reader, "quiet")
	e.hears(t, 1)
	other.hears(t, 1)
	announce(t, writer, `odd "name"`, nil)
	e.hears(t, 2)
	announce(t, writer, `odd "name"`, errors.New("rolled back"))
	announce(t, writer, `odd "name"`, nil)
	e.hears(t, 3)
	other.hears(t, 1)
	e.stop()
	require.NoError(t, e.ends(t))
}

func TestListenOnSQLiteWaitsForTheEnd(t *testing.T) {
	t.Parallel()
	db := open(t, dbtest.SQLite(t))
	e := listen(t, db, "news")
	announce(t, db, "news", nil)
	e.stop()
	require.NoError(t, e.ends(t))
	require.Zero(t, e.heard.Load())
}

// TestListenEndsAndLeavesNothing is not parallel: it counts goroutines.
func TestListenEndsAndLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	server := dbtest.StartServer(t)
	db, err := database.OpenReadOnly(server.Database("app"), clock.System{})
	require.NoError(t, err)
	started := time.Now()

	lost := listen(t, db, "news")
	lost.hears(t, 1)
	server.Restart()
	require.ErrorContains(t, lost.ends(t), "listen for changes: ")

	for _, when := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		e := listen(t, db, "news")
		time.Sleep(when)
		e.stop() // while it connects, says LISTEN or listens
		require.NoError(t, e.ends(t))
	}

	frozen := listen(t, db, "news")
	frozen.hears(t, 1)
	server.Freeze()
	early := listen(t, db, "news")
	frozen.stop()
	require.NoError(t, frozen.ends(t))
	early.stop()
	require.NoError(t, early.ends(t))
	server.Thaw()

	server.Kill()
	require.ErrorContains(t, listen(t, db, "news").ends(t), "connection refused")
	require.NoError(t, db.Close())
	require.Less(t, time.Since(started), 20*time.Second)
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
}
