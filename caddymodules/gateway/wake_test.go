package gateway_test

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// generation is a configuration that was loaded and may be started.
type generation struct {
	*gateway.App
	table *permission.Table
}

// generate provisions a configuration with the given database, Redis (none if
// empty) and namespace, which polls once an hour.
func generate(t *testing.T, path, redisURL, namespace string) generation {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"database": "sqlite://" + path, "redis": redisURL, "namespace": namespace, "permissions": map[string]any{"poll": "1h"},
	})
	require.NoError(t, err)
	app := mustProvision(t, string(config))
	table, err := app.PermissionTable()
	require.NoError(t, err)
	return generation{app, table}
}

func (g generation) start(t *testing.T) {
	t.Helper()
	require.NoError(t, g.Start())
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
}

// changeTable makes a change that only somebody who looks can see.
func changeTable(t *testing.T, path string) {
	t.Helper()
	db, err := database.Open(t.Context(), "sqlite://"+path, clock.System{})
	require.NoError(t, err)
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error { return permission.TouchCatalogue(t.Context(), tx) }))
	require.NoError(t, db.Close())
}

// subscribers returns how many listen on a channel.
func subscribers(t *testing.T, client redis.UniversalClient, channel string) int64 {
	t.Helper()
	counts, err := client.PubSubNumSub(t.Context(), channel).Result()
	require.NoError(t, err)
	return counts[channel]
}

// requireSubscribers waits until that many listen on a channel.
func requireSubscribers(t *testing.T, client redis.UniversalClient, channel string, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return subscribers(t, client, channel) == n }, 20*time.Second, 5*time.Millisecond, "%s: want %d", channel, n)
}

// requireWakes announces a change and requires that the table takes it over.
func requireWakes(t *testing.T, client redis.UniversalClient, channel, path string, table *permission.Table) {
	t.Helper()
	before := table.Snapshot().Seq()
	changeTable(t, path)
	require.NoError(t, client.Publish(t.Context(), channel, "").Err())
	require.Eventually(t, func() bool { return table.Snapshot().Seq() > before }, 20*time.Second, 5*time.Millisecond)
}

func TestRedisWakesTheTable(t *testing.T) {
	s := redistest.Start(t)
	client, path := openRedis(t, s.URL()), newDatabase(t)
	g := generate(t, path, s.URL(), "prod")
	require.Zero(t, subscribers(t, client, "prod:permissions"), "not before the start")
	g.start(t)
	requireSubscribers(t, client, "prod:permissions", 1)
	requireWakes(t, client, "prod:permissions", path, g.table)

	require.NoError(t, g.Stop())
	requireSubscribers(t, client, "prod:permissions", 0)
}

// Each step is a reload as Caddy does it: the new one starts, then the old one
// stops. The table is the same all along.
func TestTheWakingFollowsReloads(t *testing.T) {
	one, two := redistest.Start(t), redistest.Start(t)
	first, second, path := openRedis(t, one.URL()), openRedis(t, two.URL()), newDatabase(t)
	last := generate(t, path, "", "prod")
	last.start(t)
	for _, step := range []struct {
		name, redis, namespace string
		client                 redis.UniversalClient // where one listens now
	}{
		{"added", one.URL(), "prod", first},
		{"unchanged", one.URL(), "prod", first},
		{"another namespace", one.URL(), "dev", first},
		{"another Redis", two.URL(), "dev", second},
		{"removed", "", "dev", nil},
		{"removed and added", one.URL(), "prod", first},
	} {
		next := generate(t, path, step.redis, step.namespace)
		require.Same(t, last.table, next.table)
		next.start(t)
		require.NoError(t, last.Stop())
		require.NoError(t, last.Cleanup())
		last = next
		for _, client := range []redis.UniversalClient{first, second} {
			for _, namespace := range []string{"prod", "dev"} {
				var want int64
				if client == step.client && namespace == step.namespace {
					want = 1
				}
				requireSubscribers(t, client, namespace+":permissions", want)
			}
		}
		if step.client != nil {
			requireWakes(t, step.client, step.namespace+":permissions", path, last.table)
		}
	}
}

// A reload that fails leaves the running configuration's Redis in use.
func TestAFailedReloadGivesTheWakingBack(t *testing.T) {
	one, two := redistest.Start(t), redistest.Start(t)
	first, second, path := openRedis(t, one.URL()), openRedis(t, two.URL()), newDatabase(t)
	running := generate(t, path, one.URL(), "prod")
	running.start(t)
	requireSubscribers(t, first, "prod:permissions", 1)

	failing := generate(t, path, two.URL(), "prod")
	failing.start(t)
	requireSubscribers(t, second, "prod:permissions", 1)
	requireSubscribers(t, first, "prod:permissions", 0)
	require.NoError(t, failing.Stop())
	require.NoError(t, failing.Cleanup())
	requireSubscribers(t, second, "prod:permissions", 0)
	requireSubscribers(t, first, "prod:permissions", 1)
	requireWakes(t, first, "prod:permissions", path, running.table)
}

// A Redis that is away, or accepts and says nothing, holds up neither a start
// nor an end, and polling goes on.
func TestARedisThatIsAwayHoldsUpNothing(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	away, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, away.Close())
	for _, address := range []net.Addr{silent.Addr(), away.Addr()} {
		path := newDatabase(t)
		app := mustProvision(t, fmt.Sprintf(`{"database": "sqlite://%s", "redis": "redis://%s", "permissions": {"poll": "10ms"}}`, path, address))
		began := time.Now()
		require.NoError(t, app.Start())
		table, err := app.PermissionTable()
		require.NoError(t, err)
		require.NotNil(t, table.Snapshot())
		changeTable(t, path)
		require.Eventually(t, func() bool { return table.Snapshot().Seq() == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, app.Stop())
		require.NoError(t, app.Cleanup())
		require.Less(t, time.Since(began), 10*time.Second)
	}
}

// A Redis that comes back is listened to again, and what was missed is found.
func TestARedisThatComesBackWakesAgain(t *testing.T) {
	s := redistest.Start(t)
	path := newDatabase(t)
	g := generate(t, path, s.URL(), "prod")
	g.start(t)
	requireSubscribers(t, openRedis(t, s.URL()), "prod:permissions", 1)
	s.Kill()
	changeTable(t, path)
	s.Restart()
	require.Eventually(t, func() bool { return g.table.Snapshot().Seq() == 1 }, 30*time.Second, 5*time.Millisecond, "nobody announced it again")
}

// PostgreSQL tells of changes itself, and its URL with the password stands in no
// line of the log.
func TestPostgreSQLHoldsTheTable(t *testing.T) {
	url := dbtest.Postgres(t)
	db := dbtest.Open(t, url, clock.System{})
	t.Setenv("TENANTGATE_TEST_DATABASE", url)
	app := mustProvision(t, `{"database": "{env.TENANTGATE_TEST_DATABASE}", "permissions": {"poll": "1h"}}`)
	require.Equal(t, "{env.TENANTGATE_TEST_DATABASE}", app.Database, "the field keeps what was written")
	require.NoError(t, app.Start())
	table, err := app.PermissionTable()
	require.NoError(t, err)
	require.NotNil(t, table.Snapshot())
	require.Eventually(t, func() bool { // it may not listen yet when the first change comes
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error { return permission.TouchCatalogue(t.Context(), tx) }))
		return table.Snapshot().Seq() > 0
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, app.Stop())
	require.NoError(t, app.Cleanup())
}
