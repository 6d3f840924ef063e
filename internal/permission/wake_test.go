package permission_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// patience is how long a test waits for what happens at once.
const patience = 30 * time.Second

func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

func TestPostgresAnnouncesChanges(t *testing.T) {
	t.Parallel()
	db := openStore(t, dbtest.Postgres(t))
	db.change(t, demo)
	table := run(t, db.url, permission.Settings{Poll: time.Hour})
	eventually(t, func() bool { return allowed(table, "1", "ann", "write") }, "it loads")
	db.changeRoles(t, 1, `DELETE FROM role_feature_permissions WHERE role_id = 11`)
	eventually(t, func() bool { return !allowed(table, "1", "ann", "write") }, "it hears of a change")
	require.Equal(t, int64(1), table.Info().PartialLoads)
}

func openRedis(t *testing.T, s *redistest.Server) redis.UniversalClient {
	t.Helper()
	options, err := redisclient.Parse(s.URL())
	require.NoError(t, err)
	client, err := options.Open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// listenRedis runs ListenRedis until the end of the test or until stop is called.
func listenRedis(t *testing.T, table *permission.Table, client redis.UniversalClient, namespace string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		table.ListenRedis(ctx, client, namespace)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

func TestRedisAnnouncesChanges(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	db := demoStore(t)
	table := run(t, db.url, permission.Settings{Poll: time.Hour})
	eventually(t, func() bool { return allowed(table, "1", "ann", "write") }, "it loads")
	client := openRedis(t, server)
	listenRedis(t, table, client, "one")
	var log logBuffer
	publisher := permission.NewPublisher(openRedis(t, server), "one", log.logger())
	t.Cleanup(publisher.Close)
	subscribed := func() bool {
		n, err := client.PubSubNumSub(t.Context(), "one:permissions").Result()
		return err == nil && n["one:permissions"] == 1
	}
	eventually(t, subscribed, "it listens")

	toggle := func(want bool) {
		t.Helper()
		statement := `DELETE FROM role_feature_permissions WHERE role_id = 11 AND action = 'write'`
		if want {
			statement = `INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (11, 1, 'write')`
		}
		db.changeRoles(t, 1, statement)
		publisher.Publish()
		eventually(t, func() bool { return allowed(table, "1", "ann", "write") == want }, "it hears of a change")
	}
	toggle(false)
	toggle(true)

	// A change while Redis is away is found when it is back.
	server.Kill()
	db.changeRoles(t, 1, `DELETE FROM role_feature_permissions WHERE role_id = 11 AND action = 'write'`)
	began := time.Now()
	for range 1000 {
		publisher.Publish()
	}
	require.Less(t, time.Since(began), 5*time.Second, "Publish never waits")
	eventually(t, func() bool { return len(log.peek()) > 0 }, "the loss is logged")
	server.Restart()
	eventually(t, func() bool { return !allowed(table, "1", "ann", "write") }, "it looks when it hears Redis again")
	eventually(t, subscribed, "it listens again")
	toggle(true)
	// The table may hear the message before the publisher hears that Redis took it.
	eventually(t, func() bool { return strings.Count(log.peek(), "\n") == 2 }, "the return is logged")
	require.Equal(t, []string{
		"INFO redis takes no announcements of changes of the permission table: gateways find them by polling",
		"INFO redis takes announcements of changes of the permission table again",
	}, log.take(t))
}

func TestRedisWithAnotherNamespaceIsNotHeard(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := openRedis(t, server)
	messages := client.Subscribe(t.Context(), "one:permissions", "two:permissions").Channel()
	eventually(t, func() bool {
		n, err := client.PubSubNumSub(t.Context(), "two:permissions").Result()
		return err == nil && n["two:permissions"] == 1
	}, "it listens")
	publisher := permission.NewPublisher(client, "two", slog.New(slog.DiscardHandler))
	publisher.Publish()
	publisher.Close() // sends what waits
	publisher.Close()
	publisher.Publish()
	require.Equal(t, "two:permissions", (<-messages).Channel)
	require.Empty(t, messages)
}

func TestListenRedisEndsWithItsContext(t *testing.T) {
	t.Parallel()
	table, err := permission.New(demoStore(t).url, permission.Settings{}, clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, table.Close()) })
	for name, spoil := range map[string]func(s *redistest.Server){
		"alive":  func(*redistest.Server) {},
		"dead":   func(s *redistest.Server) { s.Kill() },
		"frozen": func(s *redistest.Server) { s.Freeze() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			stop := listenRedis(t, table, openRedis(t, server), "one")
			spoil(server)
			began := time.Now()
			stop()
			require.Less(t, time.Since(began), 5*time.Second)
		})
	}
}
