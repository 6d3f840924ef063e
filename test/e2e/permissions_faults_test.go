package e2e

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// storeFault is something that happens to the database.
type storeFault struct {
	name     string
	postgres bool
	// begin, and end, which may be nil, do it. It lasts as long as given.
	begin, end  func(t *testing.T, s *storeSite)
	full, short time.Duration
}

// storeSite is an office whose database is at the test's mercy.
type storeSite struct {
	*office
	url    string
	path   string         // of the SQLite file
	server *dbtest.Server // of PostgreSQL
	admin  *sql.DB        // a connection of the test's own
	lock   *sql.Conn
	stop   chan struct{}
}

func (s *storeSite) exec(t *testing.T, statement string) {
	t.Helper()
	_, err := s.admin.ExecContext(t.Context(), statement)
	require.NoError(t, err, statement)
}

const (
	newerSchema = `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, %s)`
	knownSchema = `DELETE FROM goose_db_version WHERE version_id = 9999`
)

var storeFaults = []storeFault{
	{
		name: "PostgreSQL is killed, and started again", postgres: true, full: 10 * time.Second, short: 2 * time.Second,
		begin: func(_ *testing.T, s *storeSite) { s.server.Kill() },
		end:   func(_ *testing.T, s *storeSite) { s.server.Restart() },
	},
	{
		name: "PostgreSQL is frozen (SIGSTOP)", postgres: true, full: 20 * time.Second, short: 3 * time.Second,
		begin: func(_ *testing.T, s *storeSite) { s.server.Freeze() },
		end:   func(_ *testing.T, s *storeSite) { s.server.Thaw() },
	},
	{
		name: "PostgreSQL ends every connection five times a second", postgres: true, full: 10 * time.Second, short: 2 * time.Second,
		begin: func(_ *testing.T, s *storeSite) {
			go func() {
				for {
					select {
					case <-s.stop:
						return
					case <-time.After(ms(200)):
						_, _ = s.admin.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
					}
				}
			}()
		},
		end: func(_ *testing.T, s *storeSite) { close(s.stop) },
	},
	{
		name: "PostgreSQL has a newer schema for a while", postgres: true, full: 5 * time.Second, short: 2 * time.Second,
		begin: func(t *testing.T, s *storeSite) { s.exec(t, fmt.Sprintf(newerSchema, "TRUE")) },
		end:   func(t *testing.T, s *storeSite) { s.exec(t, knownSchema) },
	},
	{
		name: "the SQLite file has a newer schema for a while", full: 5 * time.Second, short: 2 * time.Second,
		begin: func(t *testing.T, s *storeSite) { s.exec(t, fmt.Sprintf(newerSchema, "1")) },
		end:   func(t *testing.T, s *storeSite) { s.exec(t, knownSchema) },
	},
	{
		name: "another program locks the SQLite file", full: 10 * time.Second, short: 2 * time.Second,
		begin: func(t *testing.T, s *storeSite) {
			var err error
			s.lock, err = s.admin.Conn(t.Context())
			require.NoError(t, err)
			_, err = s.lock.ExecContext(t.Context(), `BEGIN EXCLUSIVE`)
			require.NoError(t, err)
		},
		end: func(t *testing.T, s *storeSite) {
			_, err := s.lock.ExecContext(t.Context(), `ROLLBACK`)
			require.NoError(t, err)
			require.NoError(t, s.lock.Close())
		},
	},
	{
		name: "the SQLite file is deleted, and put back", full: 5 * time.Second, short: 2 * time.Second,
		begin: func(t *testing.T, s *storeSite) {
			s.exec(t, `VACUUM INTO '`+s.path+`.copy'`)
			require.Equal(t, 0, s.service.Stop(t, syscall.SIGTERM))
			require.NoError(t, s.admin.Close())
			s.removeFiles(t)
		},
		end: func(t *testing.T, s *storeSite) {
			require.NoError(t, os.Rename(s.path+".copy", s.path))
			s.openService(t)
		},
	},
	{
		name: "the SQLite file is replaced by a copy that has gone on", full: 3 * time.Second, short: time.Second,
		begin: func(t *testing.T, s *storeSite) {
			s.exec(t, `VACUUM INTO '`+s.path+`.copy'`)
			require.Equal(t, 0, s.service.Stop(t, syscall.SIGTERM))
			require.NoError(t, s.admin.Close())
			other, err := sql.Open("sqlite3", "file:"+s.path+".copy")
			require.NoError(t, err)
			_, err = other.ExecContext(t.Context(), `DELETE FROM role_feature_permissions WHERE role_id = 13 AND feature_id = 1;
				INSERT INTO permission_changes (seq, tenant_id, changed_at) SELECT MAX(seq) + 1, 1, MAX(changed_at) + 1 FROM permission_changes`)
			require.NoError(t, err)
			require.NoError(t, other.Close())
			s.removeFiles(t)
			require.NoError(t, os.Rename(s.path+".copy", s.path))
			require.NoError(t, s.awaitAnswer(t, bearer(t, "v1", "1"), http.StatusForbidden))
		},
		end: func(t *testing.T, s *storeSite) { s.openService(t) },
	},
}

func (s *storeSite) removeFiles(t *testing.T) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(s.path + suffix); err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
		}
	}
}

// awaitAnswer asks until the answer is the status, and fails on any but 204 and 403.
func (s *storeSite) awaitAnswer(t *testing.T, token string, want int) error {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(ms(2)) {
		status, err := s.gateway.ask(t.Context(), token)
		switch {
		case err != nil:
			return err
		case status == want:
			return nil
		case status != http.StatusNoContent && status != http.StatusForbidden, time.Now().After(deadline):
			return fmt.Errorf("status %d, want %d", status, want)
		}
	}
}

// TestDecisionsThroughFaultsOfTheDatabase does things to the database while
// clients ask for what may not change: every answer is the one of the last
// table, no other and no error. Afterwards the next change is followed.
func TestDecisionsThroughFaultsOfTheDatabase(t *testing.T) {
	for _, f := range storeFaults {
		t.Run(f.name, func(t *testing.T) {
			if !measuring {
				t.Parallel()
			}
			s := &storeSite{stop: make(chan struct{})}
			driver, dsn := "sqlite3", ""
			if f.postgres {
				s.server = dbtest.StartServer(t)
				s.url = s.server.URL("postgres")
				driver, dsn = "pgx", s.url
			} else {
				s.path = filepath.Join(t.TempDir(), "t.db")
				s.url = "sqlite://" + s.path
				dsn = "file:" + s.path + "?_busy_timeout=5000"
			}
			s.office = openOffice(t, s.url, "", ms(200), 50)
			var err error
			s.admin, err = sql.Open(driver, dsn)
			require.NoError(t, err)
			defer func() { _ = s.admin.Close() }()
			s.run(t, f)
		})
	}
}

// run is one fault under load, and what must be true during and after it.
func (s *storeSite) run(t *testing.T, f storeFault) {
	t.Helper()
	l := s.startAsking(t)
	time.Sleep(pick(5*time.Second, time.Second)) // the length of the phase to compare with
	calm := l.phase()
	f.begin(t, s)
	time.Sleep(pick(f.full, f.short)) // how long the fault lasts
	during := l.phase()
	if f.end != nil {
		f.end(t, s)
	}
	ended := time.Now()
	viewer, admin := bearer(t, "v1", "1"), bearer(t, "a1", "1")
	status, err := s.gateway.ask(t.Context(), viewer)
	require.NoError(t, err)
	allow := status != http.StatusNoContent
	require.Eventually(t, func() bool { // the service finds its database again by itself
		return s.gateway.setReports(t.Context(), admin, 13, allow) == nil
	}, secs(60), ms(20), "the right is changed")
	require.NoError(t, s.awaitAnswer(t, viewer, map[bool]int{true: http.StatusNoContent, false: http.StatusForbidden}[allow]))
	followed := time.Since(ended)
	l.end()
	require.Empty(t, l.wrong, "requests answered wrongly, of %d", l.sent)
	p99Calm, p99During := percentile(calm, 0.99), percentile(during, 0.99)
	t.Logf("%d requests, none wrong; p99 %v before, %v during; a change was followed after %v", l.sent, p99Calm, p99During, followed)
	reportStoreFault(f.name, l.sent, len(l.wrong), p99Calm, p99During, followed)
}

// asking is clients that ask at a steady rate.
type asking struct {
	stop chan struct{}
	work sync.WaitGroup

	mu    sync.Mutex
	times []time.Duration
	sent  int
	wrong []string
}

// startAsking asks for a right that is held and for one that is not.
func (s *storeSite) startAsking(t *testing.T) *asking {
	t.Helper()
	l := &asking{stop: make(chan struct{})}
	for token, want := range map[string]int{
		bearer(t, "v2", "2"): http.StatusNoContent, bearer(t, "e3", "3"): http.StatusNoContent,
		bearer(t, "v2", "3"): http.StatusForbidden, bearer(t, "nobody", "4"): http.StatusForbidden,
	} {
		l.work.Go(func() {
			tick := time.NewTicker(ms(20))
			defer tick.Stop()
			for {
				select {
				case <-l.stop:
					return
				case <-tick.C:
				}
				began := time.Now()
				status, err := s.gateway.ask(t.Context(), token)
				l.note(time.Since(began), status == want && err == nil, fmt.Sprintf("status %d, want %d, %v", status, want, err))
			}
		})
	}
	return l
}

func (l *asking) note(took time.Duration, right bool, answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.times = append(l.times, took)
	if !right {
		l.wrong = append(l.wrong, answer)
	}
}

// phase ends the present phase and returns the times of its requests.
func (l *asking) phase() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := l.times
	l.times = nil
	return times
}

func (l *asking) end() {
	close(l.stop)
	l.work.Wait()
}
