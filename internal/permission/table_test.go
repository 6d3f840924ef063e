package permission_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/permission"
)

const poll = 100 * time.Millisecond

// logBuffer keeps log lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the lines so far, as "LEVEL message", and forgets them.
func (l *logBuffer) take(t *testing.T) []string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(l.buf.String()), "\n") {
		if line == "" {
			continue
		}
		var entry struct{ Level, Msg string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		lines = append(lines, entry.Level+" "+entry.Msg)
	}
	l.buf.Reset()
	return lines
}

// peek returns what was logged so far.
func (l *logBuffer) peek() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// run starts a table that stops with the test's bubble.
func run(t *testing.T, url string, settings permission.Settings) *permission.Table {
	t.Helper()
	table, err := permission.New(url, settings, clock.System{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		table.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		require.NoError(t, table.Close())
	})
	return table
}

func allowed(table *permission.Table, tenant, user, action string) bool {
	s := table.Snapshot()
	return s != nil && s.Decide(tenant, user, s.Resolve(perm("abc", "dashboard", action))).Allowed
}

func TestNewRefusesWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	_, err := permission.New("tenantgate.db", permission.Settings{}, clock.System{})
	require.ErrorContains(t, err, "sqlite://PATH")
}

func TestATableThatNeverRanHasNoSnapshot(t *testing.T) {
	t.Parallel()
	table, err := permission.New(demoStore(t).url, permission.Settings{}, clock.System{})
	require.NoError(t, err)
	require.Nil(t, table.Snapshot())
	_, ok := table.Age()
	require.False(t, ok)
	require.Equal(t, permission.Info{}, table.Info())
	require.NoError(t, table.Close())
}

func TestTableFollowsChangesWithinAPoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := demoStore(t)
		var log logBuffer
		table := run(t, db.url, permission.Settings{Poll: poll, Logger: log.logger()})
		<-table.Attempted()
		require.True(t, allowed(table, "1", "ann", "write"))

		db.change(t, []string{`DELETE FROM role_feature_permissions WHERE role_id = 11 AND action = 'write'`}, 1)
		time.Sleep(poll + time.Millisecond)
		synctest.Wait()
		require.False(t, allowed(table, "1", "ann", "write"))
		require.True(t, allowed(table, "1", "ann", "read"))
		age, ok := table.Age()
		require.True(t, ok)
		require.LessOrEqual(t, age, poll)
		info := table.Info()
		require.Equal(t, table.Snapshot().Stats(), info.Stats)
		require.Positive(t, info.Stats.Bytes)
		info.Stats, info.Age, info.LastLoad = permission.Stats{}, 0, 0
		require.Equal(t, permission.Info{Loaded: true, Seq: 2, FullLoads: 1, PartialLoads: 1}, info)

		time.Sleep(20 * poll)
		require.Equal(t, []string{"INFO permission table loaded"}, log.take(t))
		require.NoError(t, db.Close())
	})
}

func TestRefreshLooksAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := demoStore(t)
		table := run(t, db.url, permission.Settings{Poll: time.Hour})
		<-table.Attempted()
		synctest.Wait()
		db.change(t, []string{`DELETE FROM role_feature_permissions`}, 1)
		began := time.Now()
		table.Refresh()
		table.Refresh() // never blocks
		synctest.Wait()
		require.False(t, allowed(table, "1", "ann", "read"))
		require.Zero(t, time.Since(began))
		require.NoError(t, db.Close())
	})
}

func TestTableLoadsWhenTheDatabaseAppears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "later.db")
		var log logBuffer
		table := run(t, "sqlite://"+path, permission.Settings{Poll: poll, Logger: log.logger()})
		<-table.Attempted()
		time.Sleep(100 * poll) // long enough for a doubled wait to overflow
		require.Nil(t, table.Snapshot())
		require.NoFileExists(t, path)
		require.Equal(t, []string{"WARN permission table not loaded: checked requests get 503"}, log.take(t), "once, however long it lasts")

		// A file without a schema is another state.
		empty, err := database.Open(t.Context(), "sqlite://"+path, clock.System{})
		require.NoError(t, err)
		time.Sleep(10 * poll)
		require.Nil(t, table.Snapshot())
		require.Equal(t, []string{"WARN permission table not loaded: checked requests get 503"}, log.take(t))

		require.NoError(t, empty.Migrate(t.Context()))
		db := store{empty, "sqlite://" + path}
		db.change(t, demo)
		time.Sleep(poll + time.Millisecond)
		synctest.Wait()
		require.True(t, allowed(table, "1", "ann", "read"))
		require.Equal(t, []string{"INFO permission table loaded"}, log.take(t))
		require.NoError(t, empty.Close())
	})
}

func TestTableServesTheLastSnapshotWhileTheDatabaseIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		db := storeAt(t, filepath.Join(dir, "t.db"))
		db.change(t, demo)
		var log logBuffer
		table := run(t, db.url, permission.Settings{Poll: poll, Logger: log.logger()})
		<-table.Attempted()
		require.NoError(t, db.Close())
		require.NoError(t, os.Rename(filepath.Join(dir, "t.db"), filepath.Join(dir, "away.db")))
		time.Sleep(30 * poll)
		synctest.Wait()
		require.True(t, allowed(table, "1", "ann", "read"))
		age, _ := table.Age()
		require.Greater(t, age, 28*poll)

		require.NoError(t, os.Rename(filepath.Join(dir, "away.db"), filepath.Join(dir, "t.db")))
		time.Sleep(poll + time.Millisecond)
		synctest.Wait()
		age, _ = table.Age()
		require.LessOrEqual(t, age, poll)
		require.Equal(t, []string{
			"INFO permission table loaded",
			"WARN permission table lost: deciding from the last one",
			"INFO permission table recovered",
		}, log.take(t))
	})
}

func TestTableFollowsAFileThatWasReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		db := storeAt(t, filepath.Join(dir, "t.db"))
		db.change(t, demo)
		table := run(t, db.url, permission.Settings{Poll: poll})
		<-table.Attempted()
		require.True(t, allowed(table, "1", "ann", "read"))

		// The other file has as many changes, made at other times.
		require.NoError(t, db.Close()) // as whoever replaces a file must
		require.NoFileExists(t, filepath.Join(dir, "t.db-wal"), "the table must not hold the old log")
		other := storeAt(t, filepath.Join(dir, "other.db"))
		time.Sleep(time.Millisecond)
		other.change(t, append(demo[:len(demo):len(demo)], `DELETE FROM memberships WHERE user_id = 'ann'`))
		require.NoError(t, other.Close())
		require.NoError(t, os.Rename(filepath.Join(dir, "other.db"), filepath.Join(dir, "t.db")))
		time.Sleep(poll + time.Millisecond)
		synctest.Wait()
		require.False(t, allowed(table, "1", "ann", "read"))
		require.True(t, allowed(table, "1", "vic", "read"))
	})
}

func TestMaxStaleMakesAnOldTableUnusable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		db := storeAt(t, filepath.Join(dir, "t.db"))
		db.change(t, demo)
		require.NoError(t, db.Close())
		var log logBuffer
		table := run(t, db.url, permission.Settings{Poll: poll, MaxStale: 10 * poll, Logger: log.logger()})
		<-table.Attempted()
		time.Sleep(20 * poll)
		require.NotNil(t, table.Snapshot(), "a confirmed table is not stale, however old its content")

		require.NoError(t, os.Rename(filepath.Join(dir, "t.db"), filepath.Join(dir, "away.db")))
		time.Sleep(8 * poll)
		require.NotNil(t, table.Snapshot())
		time.Sleep(3 * poll)
		require.Nil(t, table.Snapshot())
		time.Sleep(20 * poll)
		require.Equal(t, []string{
			"INFO permission table loaded",
			"WARN permission table lost: deciding from the last one",
			"WARN permission table older than max_stale: checked requests get 503",
		}, log.take(t))

		table.Configure(permission.Settings{Poll: poll}) // a reload without max_stale
		require.NotNil(t, table.Snapshot())
	})
}

func TestTableKeepsTheLastSnapshotOfASchemaItKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := demoStore(t)
		var log logBuffer
		table := run(t, db.url, permission.Settings{Poll: poll, Logger: log.logger()})
		<-table.Attempted()
		db.change(t, []string{
			`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, TRUE)`,
			`DELETE FROM role_feature_permissions`,
		})
		time.Sleep(10 * poll)
		synctest.Wait()
		require.True(t, allowed(table, "1", "ann", "read"))
		require.Equal(t, []string{
			"INFO permission table loaded",
			"WARN permission table lost: deciding from the last one",
		}, log.take(t))
		db.change(t, []string{`DELETE FROM goose_db_version WHERE version_id = 9999`})
		time.Sleep(poll + time.Millisecond)
		synctest.Wait()
		require.False(t, allowed(table, "1", "ann", "read"))
		require.Equal(t, []string{"INFO permission table recovered"}, log.take(t))
		require.NoError(t, db.Close())
	})
}

func TestSubscribersHearOfCatalogues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := demoStore(t)
		table := run(t, db.url, permission.Settings{Poll: poll})
		var early, late []int64
		table.Subscribe(func(s *permission.Snapshot) { early = append(early, s.Seq()) })
		<-table.Attempted()
		cancel := table.Subscribe(func(s *permission.Snapshot) { late = append(late, s.Seq()) })
		require.Equal(t, []int64{1}, late, "at once")

		step := func(statement string, tenants ...int64) {
			db.change(t, []string{statement}, tenants...)
			time.Sleep(poll + time.Millisecond)
			synctest.Wait()
		}
		step(`DELETE FROM role_feature_permissions WHERE role_id = 13`, 1)               // a tenant
		step(`UPDATE products SET updated_at = 2`)                                       // nothing new
		step(`INSERT INTO products (name, created_at, updated_at) VALUES ('new', 1, 1)`) // a product
		cancel()
		cancel()
		step(`UPDATE features SET actions = 'read' WHERE id = 1`)
		require.Equal(t, []int64{1, 4, 5}, early)
		require.Equal(t, []int64{1, 4}, late)
		require.NoError(t, db.Close())
	})
}

// Readers never see a mixture: in every state of the table exactly one of two
// tenants is suspended.
func TestReadersDuringReloads(t *testing.T) {
	t.Parallel()
	db := demoStore(t)
	db.change(t, []string{`UPDATE tenants SET status = 'suspended' WHERE id = 2`}, 2)
	table := run(t, db.url, permission.Settings{Poll: time.Millisecond})
	<-table.Attempted()

	stop := make(chan struct{})
	var readers sync.WaitGroup
	errs := make(chan error, 4)
	for range 4 {
		readers.Go(func() {
			var ref *permission.Ref
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := table.Snapshot()
				if !s.Current(ref) {
					ref = s.Resolve(perm("abc", "dashboard", "read"))
				}
				one, two := s.Decide("1", "ann", ref), s.Decide("2", "gil", ref)
				if one.Allowed == two.Allowed {
					errs <- fmt.Errorf("mixture: %v %v", one, two)
					return
				}
			}
		})
	}
	for range 50 {
		db.change(t, []string{`UPDATE tenants SET status = CASE status WHEN 'active' THEN 'suspended' ELSE 'active' END WHERE id IN (1, 2)`}, 1, 2)
		db.change(t, []string{`UPDATE products SET name = name || 'x' WHERE id = 2`})
	}
	want := load(t, db, nil).Seq()
	require.Eventually(t, func() bool { return table.Snapshot().Seq() == want }, 10*time.Second, time.Millisecond)
	close(stop)
	readers.Wait()
	select {
	case err := <-errs:
		require.NoError(t, err)
	default:
	}
}
