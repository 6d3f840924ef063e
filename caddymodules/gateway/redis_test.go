package gateway_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/redisclient"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

func TestWhereRedisIs(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "redis")
	require.NoError(t, os.WriteFile(secret, []byte("redis+cluster://:hunter2@a,b\n"), 0o600))
	t.Setenv("TENANTGATE_TEST_REDIS", "rediss://user:hunter2@localhost/1")
	t.Setenv("TENANTGATE_TEST_EMPTY", "")
	for config, want := range map[string]string{
		"":                              "<nil>",
		`{}`:                            "<nil>",
		`{"redis": ""}`:                 "<nil>",
		`{"redis": "redis://:p@h"}`:     "redis://h:6379/0",
		`{"redis": "redis://:%7B@h/2"}`: "redis://h:6379/2",
		`{"redis": "{env.TENANTGATE_TEST_EMPTY}"}`:                     "<nil>",
		`{"redis": "{env.TENANTGATE_TEST_UNSET}"}`:                     "<nil>",
		`{"redis": "{env.TENANTGATE_TEST_REDIS}"}`:                     "rediss://localhost:6379/1",
		`{"redis": "{file.` + secret + `}"}`:                           "redis+cluster://a:6379,b:6379",
		`{"redis": "redis://:{env.TENANTGATE_TEST_EMPTY}@localhost/"}`: "redis://localhost:6379/0",
	} {
		app := mustProvision(t, config)
		require.Equal(t, want, fmt.Sprint(app.RedisOptions()), config)
		require.NotContains(t, fmt.Sprintf("%+v", app.Redis), "hunter2", "the field keeps what was written")
	}
}

// The app itself connects to nothing, so a Redis that is away holds up nothing.
func TestTheAppDoesNotConnect(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	app := mustProvision(t, `{"redis": "redis://`+listener.Addr().String()+`"}`)
	require.NoError(t, app.Validate())
	require.NoError(t, app.Start())
	require.NoError(t, app.Stop())
	require.NoError(t, listener.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = listener.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestStartCallsWhatItWasGiven(t *testing.T) {
	app := mustProvision(t, config(newDatabase(t), ""))
	var called []string
	note := func(what string) func() {
		return func() {
			table, err := app.PermissionTable()
			require.NoError(t, err)
			require.Nil(t, table.Snapshot(), "before Start waits for the database")
			called = append(called, what)
		}
	}
	app.OnStart(note("first"))
	app.OnStart(note("second"))
	require.Empty(t, called)
	require.NoError(t, app.Start())
	require.Equal(t, []string{"first", "second"}, called)
	require.NoError(t, app.Stop())

	never := mustProvision(t, "")
	never.OnStart(func() { t.Error("called without a start") })
	require.NoError(t, never.Validate())
	require.NoError(t, never.Cleanup())
}

// aclLines returns the ACL lines of the README, with the given password: the one
// for servers and the one for Sentinels.
func aclLines(t *testing.T, password string) (server, sentinel []any) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	lines := regexp.MustCompile(`(?m)^ACL SETUSER .*$`).FindAllString(string(readme), -1)
	require.Len(t, lines, 2)
	split := func(line string) (args []any) {
		for field := range strings.FieldsSeq(strings.Replace(line, ">PASSWORD", ">"+password, 1)) {
			args = append(args, field)
		}
		return args
	}
	return split(lines[0]), split(lines[1])
}

func openRedis(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	app := mustProvision(t, `{"redis": "`+url+`"}`)
	client, err := app.RedisOptions().Open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// The user in the README may do what breakers do, in its namespace, and no more.
func TestTheACLOfTheREADME(t *testing.T) {
	s := redistest.Start(t)
	admin := openRedis(t, s.URL())
	acl, _ := aclLines(t, "hunter2")
	require.NoError(t, admin.Do(t.Context(), acl...).Err())
	client := openRedis(t, "redis://tenantgate:hunter2@"+s.Addr())

	// What the breakers' script calls. Nothing of it runs here, so arguments that
	// are right in number will do.
	script, err := os.ReadFile("../../internal/breaker/script.lua")
	require.NoError(t, err)
	calls := regexp.MustCompile(`redis\.call\(\s*['"](\w+)['"]`).FindAllStringSubmatch(string(script), -1)
	require.NotEmpty(t, calls)
	for _, call := range calls {
		info := admin.Command(t.Context()).Val()[strings.ToLower(call[1])]
		require.NotNil(t, info, call[1])
		args := []any{"ACL", "DRYRUN", "tenantgate", call[1]}
		for range max(int(info.Arity), -int(info.Arity)) - 1 {
			args = append(args, "prod:{breaker}:x")
		}
		require.Equal(t, "OK", admin.Do(t.Context(), args...).Val(), call[1])
	}

	// And what they do besides.
	require.NoError(t, client.Eval(t.Context(), "redis.call('TIME'); return redis.call('PUBLISH', ARGV[1], 'x')", []string{"prod:k"}, "prod:ch").Err())
	require.ErrorContains(t, client.EvalSha(t.Context(), strings.Repeat("0", 40), []string{"prod:k"}).Err(), "NOSCRIPT")
	require.NoError(t, client.HMGet(t.Context(), "prod:k", "a", "b").Err())
	require.ErrorContains(t, client.ClusterSlots(t.Context()).Err(), "cluster support disabled", "allowed")
	subscription := client.Subscribe(t.Context(), "prod:ch")
	defer func() { require.NoError(t, subscription.Close()) }()
	_, err = subscription.ReceiveTimeout(t.Context(), 10*time.Second)
	require.NoError(t, err)
	require.NoError(t, subscription.Ping(t.Context()))

	for _, forbidden := range []string{
		"GET dev:k", "PUBLISH dev:ch x", "SUBSCRIBE dev:ch", "KEYS prod:*", "FLUSHALL", "FLUSHDB", "CONFIG GET *", "ACL LIST", "SCRIPT FLUSH", "FUNCTION LIST",
		"CLIENT KILL TYPE normal", "SHUTDOWN", "MONITOR", "INFO", "REPLICAOF NO ONE", "SORT prod:k", "CLUSTER NODES", "EVAL return(redis.call('GET','dev:k')) 1 prod:k",
	} {
		var args []any
		for field := range strings.FieldsSeq(forbidden) {
			args = append(args, field)
		}
		err := client.Do(t.Context(), args...).Err()
		require.Error(t, err, forbidden)
		require.Regexp(t, "NOPERM|can't access|ACL failure", err.Error(), forbidden)
	}
}

// With the README's users at both, a client finds the master.
func TestTheACLForSentinelsOfTheREADME(t *testing.T) {
	s := redistest.Start(t)
	acl, sentinelACL := aclLines(t, "hunter2")
	require.NoError(t, openRedis(t, s.URL()).Do(t.Context(), acl...).Err())
	host, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "sentinel monitor mymaster %s %s 1\n", host, port), 0o600))
	sentinel := redistest.Start(t, conf, "--sentinel")
	require.NoError(t, openRedis(t, sentinel.URL()).Do(t.Context(), sentinelACL...).Err())
	require.NoError(t, openRedis(t, sentinel.URL()).Do(t.Context(), "ACL", "SETUSER", "default", "off").Err())

	client := openRedis(t, "redis+sentinel://tenantgate:hunter2@"+sentinel.Addr()+"/mymaster?sentinel_username=tenantgate&sentinel_password=hunter2")
	require.NoError(t, client.Set(t.Context(), "prod:k", "v", 0).Err())
	errors := openRedis(t, "redis://tenantgate:hunter2@"+sentinel.Addr()).Do(t.Context(), "INFO").Err()
	require.ErrorContains(t, errors, "NOPERM")
}

var _ interface {
	RedisOptions() *redisclient.Options
	OnStart(func())
} = (*gateway.App)(nil)
