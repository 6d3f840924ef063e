package permission_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// follow starts a table that follows a database's demo data, and returns it
// with what it logs.
func follow(t *testing.T, url string) (*permission.Table, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	table := run(t, url, permission.Settings{Poll: poll, Logger: log.logger()})
	eventually(t, func() bool { return allowed(table, "1", "ann", "write") }, "it loads")
	logs(t, log, "INFO permission table loaded")
	return table, log
}

// logs waits for a line and checks that it is the only one.
func logs(t *testing.T, log *logBuffer, line string) {
	t.Helper()
	eventually(t, func() bool { return log.peek() != "" }, line)
	require.Equal(t, []string{line}, log.take(t))
}

// outage waits until the table has had no database for a while, and checks
// that it decides all the same.
func outage(t *testing.T, table *permission.Table) {
	t.Helper()
	eventually(t, func() bool {
		age, ok := table.Age()
		return ok && age > 5*poll
	}, "its age grows")
	require.True(t, allowed(table, "1", "ann", "write"), "the last table serves")
	require.False(t, allowed(table, "1", "vic", "write"))
}

// recovered waits until the table follows the database again.
func recovered(t *testing.T, table *permission.Table, condition func() bool) {
	t.Helper()
	eventually(t, condition, "it follows again")
	eventually(t, func() bool {
		age, _ := table.Age()
		return age < 2*time.Second
	}, "its age is small")
}

const revoke = `DELETE FROM role_feature_permissions WHERE role_id = 11 AND action = 'write'`

func TestPostgresIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	db := openStore(t, server.Database("app"))
	db.change(t, demo)
	table, log := follow(t, db.url)
	server.Kill()
	outage(t, table)
	logs(t, log, "WARN permission table lost: deciding from the last one")
	require.Positive(t, table.Info().Failures)
	server.Restart()
	eventually(t, func() bool { return db.Reader().Ping() == nil }, "it serves")
	db.changeRoles(t, 1, revoke)
	recovered(t, table, func() bool { return !allowed(table, "1", "ann", "write") })
	logs(t, log, "INFO permission table recovered")
}

func TestPostgresIsFrozen(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	db := openStore(t, server.Database("app"))
	db.change(t, demo)
	table, _ := follow(t, db.url)
	server.Freeze()
	outage(t, table)
	server.Thaw()
	db.changeRoles(t, 1, revoke)
	recovered(t, table, func() bool { return !allowed(table, "1", "ann", "write") })
}

func TestPostgresDatabaseIsRestoredDroppedAndMadeAnew(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	url := server.Database("app")
	db := openStore(t, url)
	db.change(t, demo)
	require.NoError(t, db.Close())
	server.Exec("postgres", `CREATE DATABASE backup TEMPLATE app`)

	db = openStore(t, url)
	db.changeMember(t, 1, "vic", `UPDATE memberships SET role_id = 11 WHERE user_id = 'vic'`)
	db.changeRoles(t, 1, `UPDATE tenants SET updated_at = 2`)
	table, _ := follow(t, url)
	require.True(t, allowed(table, "1", "vic", "write"))

	// The backup is two changes behind.
	server.Exec("postgres", `DROP DATABASE app WITH (FORCE)`)
	eventually(t, func() bool { return table.Info().Failures > 0 }, "it notices")
	require.True(t, allowed(table, "1", "vic", "write"), "the last table serves")
	server.Exec("postgres", `ALTER DATABASE backup RENAME TO app`)
	recovered(t, table, func() bool { return !allowed(table, "1", "vic", "write") })
	require.True(t, allowed(table, "1", "ann", "write"))

	server.Exec("postgres", `DROP DATABASE app WITH (FORCE)`)
	outage(t, table)
	server.Database("app")
	recovered(t, table, func() bool { return !allowed(table, "1", "ann", "write") })
	require.Equal(t, permission.Stats{}, counts(table.Snapshot()))
}

func TestSchemaIsNewer(t *testing.T) {
	t.Parallel()
	eachDemo(t, func(t *testing.T, db store) {
		table, log := follow(t, db.url)
		db.change(t, []string{`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, TRUE)`, revoke})
		outage(t, table)
		logs(t, log, "WARN permission table lost: deciding from the last one")
		db.change(t, []string{`DELETE FROM goose_db_version WHERE version_id = 9999`})
		recovered(t, table, func() bool { return !allowed(table, "1", "ann", "write") })
	})
}

// A writer that keeps SQLite's lock does not keep readers out; one that keeps
// the file to itself does.
func TestSQLiteIsLocked(t *testing.T) {
	t.Parallel()
	for name, exclusive := range map[string]bool{"by a writer": false, "for everybody": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "t.db")
			db := storeAt(t, path)
			db.change(t, demo)
			require.NoError(t, db.Close())
			table, _ := follow(t, db.url)
			mode := "NORMAL"
			if exclusive {
				mode = "EXCLUSIVE"
			}
			lock, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000&_locking_mode="+mode)
			require.NoError(t, err)
			lock.SetMaxOpenConns(1)
			_, err = lock.Exec(`BEGIN EXCLUSIVE`)
			require.NoError(t, err)
			looks := table.Info()
			if exclusive {
				outage(t, table)
			} else {
				time.Sleep(5 * poll)
				eventually(t, func() bool { age, _ := table.Age(); return age < time.Second }, "fresh")
				require.Equal(t, looks.Failures, table.Info().Failures)
			}
			_, err = lock.Exec(revoke + `; INSERT INTO permission_changes (seq, tenant_id, changed_at) VALUES (2, 1, 1); COMMIT`)
			require.NoError(t, err)
			require.NoError(t, lock.Close())
			recovered(t, table, func() bool { return !allowed(table, "1", "ann", "write") })
		})
	}
}

// Not in parallel: it counts everybody's goroutines.
func TestTablesLeaveNothingBehind(t *testing.T) {
	server := dbtest.StartServer(t)
	db := openStore(t, server.Database("app"))
	db.change(t, demo)
	require.NoError(t, db.Close())
	for _, spoil := range []func(){func() {}, server.Freeze, func() { server.Thaw(); server.Kill() }} {
		before := goleak.IgnoreCurrent()
		t.Run("a table", func(t *testing.T) {
			table := run(t, db.url, permission.Settings{Poll: poll})
			<-table.Attempted()
			t.Cleanup(table.Refresh)
		})
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
		spoil() // for the next one
	}
}
