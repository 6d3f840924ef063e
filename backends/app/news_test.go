package app_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// TestChangesOfThePermissionTableAreToldThroughRedis, and nothing waits for it:
// Redis may be gone, or silent.
func TestChangesOfThePermissionTableAreToldThroughRedis(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		server := redistest.Start(t)
		config, err := app.FromEnv(settings(t, map[string]string{"DATABASE_URL": url, "REDIS_URL": server.URL(), "NAMESPACE": "blue"}))
		require.NoError(t, err)
		log := &lockedBuffer{}
		a, err := app.New(t.Context(), config, logging.New("backends", zapcore.AddSync(log), zap.InfoLevel))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, a.Close()) })

		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		messages := client.Subscribe(t.Context(), "blue:permissions").Channel()
		require.Eventually(t, func() bool {
			n, err := client.PubSubNumSub(t.Context(), "blue:permissions").Result()
			return err == nil && n["blue:permissions"] == 1
		}, 10*time.Second, 5*time.Millisecond)
		heard := func() {
			t.Helper()
			select {
			case <-messages:
			case <-time.After(10 * time.Second):
				require.Fail(t, "no message")
			}
		}
		change := func() (took time.Duration) {
			t.Helper()
			started := time.Now()
			require.NoError(t, a.DB().InTx(t.Context(), func(tx *database.Tx) error { return permission.TouchCatalogue(t.Context(), tx) }))
			return time.Since(started)
		}

		require.NoError(t, seed.Demo(t.Context(), a.DB(), a.Hasher()))
		heard()
		change()
		heard()

		const lost, found = "redis takes no announcements", "redis takes announcements of changes of the permission table again"
		server.Freeze()
		require.Less(t, min(change(), change(), change()), 900*time.Millisecond, "a change does not wait for Redis")
		require.Eventually(t, func() bool { return log.count(lost) == 1 }, 10*time.Second, 5*time.Millisecond)
		server.Thaw()
		server.Restart()
		require.Eventually(t, func() bool { change(); return log.count(found) == 1 }, 10*time.Second, 20*time.Millisecond)
		require.Equal(t, 1, log.count(lost), "one line a change of state")
		require.Positive(t, log.count(`"service":"tenant-service"`))
		require.NotZero(t, log.count(server.URL()))
	})
}

// TestAnOldPostgreSQLIsNotServed: programs of before may still run on it.
func TestAnOldPostgreSQLIsNotServed(t *testing.T) {
	t.Parallel()
	config, err := app.FromEnv(settings(t, map[string]string{"DATABASE_URL": dbtest.PostgresEmpty(t)}))
	require.NoError(t, err)
	_, err = app.New(t.Context(), config, zap.NewNop())
	var old *database.SchemaError
	require.ErrorAs(t, err, &old)
}

// TestHealthFollowsPostgreSQL: the store may go and come back under a process.
func TestHealthFollowsPostgreSQL(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	var log bytes.Buffer
	a := start(t, &log, map[string]string{"DATABASE_URL": server.Database("app")})
	healthy := func() bool {
		status, _ := call(t, http.MethodGet, "http://"+a.TenantAddr()+"/healthz", "")
		return status == http.StatusOK
	}
	require.True(t, healthy())
	server.Kill()
	require.False(t, healthy())
	server.Restart()
	require.Eventually(t, healthy, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, a.stop())
	require.NotContains(t, log.String(), server.Password())
}
