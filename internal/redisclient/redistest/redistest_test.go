package redistest_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, s *redistest.Server) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(s.URL())
	require.NoError(t, err)
	options.ContextTimeoutEnabled, options.MaxRetries, options.DialerRetries = true, -1, 1
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

func TestAServerThatIsFrozenKilledAndRestarted(t *testing.T) {
	s := redistest.Start(t)
	client := connect(t, s)
	require.NoError(t, client.Set(t.Context(), "key", "value", 0).Err())

	s.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, client.Get(ctx, "key").Err())
	s.Thaw()
	require.Equal(t, "value", client.Get(t.Context(), "key").Val())

	s.Kill()
	s.Kill()
	_, err := net.Dial("tcp", s.Addr())
	require.Error(t, err)

	s.Restart()
	require.ErrorIs(t, client.Get(t.Context(), "key").Err(), redis.Nil)
	s.Freeze() // the clean-up ends it nevertheless
}

func TestServersDoNotShareAPort(t *testing.T) {
	seen := map[string]bool{}
	for range 5 {
		s := redistest.Start(t, "--requirepass", "a password that PING lacks")
		require.False(t, seen[s.Addr()])
		seen[s.Addr()] = true
		s.Wait()
	}
}

func TestArgumentsReachTheServer(t *testing.T) {
	s := redistest.Start(t, "--maxmemory-policy", "noeviction", "--databases", "3", "--proc-title-template", "port {port}")
	client := connect(t, s)
	require.Equal(t, "3", client.ConfigGet(t.Context(), "databases").Val()["databases"])
	_, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	require.Equal(t, "port "+port, client.ConfigGet(t.Context(), "proc-title-template").Val()["proc-title-template"])
}

// recorder is a test that tells how it ended.
type recorder struct {
	testing.TB
	outcome string
}

func (r *recorder) Fatal(args ...any) { r.outcome = "fatal: " + fmt.Sprint(args...); runtime.Goexit() }

func (r *recorder) Skip(args ...any) { r.outcome = "skip: " + fmt.Sprint(args...); runtime.Goexit() }

func TestWithoutRedisServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for required, want := range map[string]string{
		"":  "skip: redis-server is not on PATH: apt-get install redis-server",
		"1": "fatal: redis-server is required and was not found: apt-get install redis-server",
	} {
		t.Setenv("TENANTGATE_REQUIRE_SERVICES", required)
		r, done := &recorder{TB: t}, make(chan struct{})
		go func() {
			defer close(done)
			redistest.Start(r)
		}()
		<-done
		require.Equal(t, want, r.outcome)
	}
}
