package redisclient_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// watched is a master with a replica and three Sentinels.
type watched struct {
	master, replica *redistest.Server
	sentinels       []*redistest.Server
}

// startWatched starts the servers, with the extra arguments for each of them.
func startWatched(t *testing.T, args ...string) *watched {
	t.Helper()
	data := append([]string{"--requirepass", "hunter2", "--masterauth", "hunter2", "--repl-diskless-sync-delay", "0"}, args...)
	w := &watched{master: redistest.Start(t, data...)}
	host, port, err := net.SplitHostPort(w.master.Addr())
	require.NoError(t, err)
	w.replica = redistest.Start(t, append([]string{"--replicaof", host + " " + port}, data...)...)
	for range 3 {
		conf := filepath.Join(t.TempDir(), "sentinel.conf")
		require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `
sentinel monitor mymaster %s %s 2
sentinel auth-pass mymaster hunter2
sentinel down-after-milliseconds mymaster 500
sentinel failover-timeout mymaster 5000
requirepass sentinel-hunter2
sentinel sentinel-pass sentinel-hunter2
`, host, port), 0o600))
		w.sentinels = append(w.sentinels, redistest.Start(t, append([]string{conf, "--sentinel", "--tcp-backlog", "1"}, args...)...))
	}
	return w
}

// url names the given Sentinels.
func (w *watched) url(scheme string, sentinels ...*redistest.Server) string {
	var hosts []string
	for _, s := range sentinels {
		hosts = append(hosts, s.Addr())
	}
	return scheme + "://:hunter2@" + strings.Join(hosts, ",") + "/mymaster/1?sentinel_password=sentinel-hunter2"
}

// waitUntilReady returns when the Sentinels could agree on a failover.
func (w *watched) waitUntilReady(t *testing.T) {
	t.Helper()
	for _, s := range w.sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: s.Addr(), Password: "sentinel-hunter2"})
		defer func() { require.NoError(t, client.Close()) }()
		require.Eventually(t, func() bool {
			state := client.Master(t.Context(), "mymaster").Val()
			return state["num-other-sentinels"] == "2" && state["num-slaves"] == "1"
		}, patience, 50*time.Millisecond)
	}
}

// blackHole freezes a server and fills its queue of connections, so that the
// system drops further attempts: its machine is gone.
func blackHole(t *testing.T, s *redistest.Server) {
	t.Helper()
	s.Freeze()
	for {
		conn, err := net.DialTimeout("tcp", s.Addr(), 100*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// The loss of a machine that ran the master and the Sentinel in use, which is
// the only one that the URL names.
func TestAFailoverWithoutTheSentinelInUse(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	w.waitUntilReady(t)
	client := open(t, w.url("redis+sentinel", w.sentinels[0]))
	require.NoError(t, client.Set(t.Context(), "prod:k", "v", 0).Err())
	require.Equal(t, "v", open(t, strings.Replace(w.master.URL(), "//", "//:hunter2@", 1)+"/1").Get(t.Context(), "prod:k").Val())
	requireSubscription(t, client, "prod:ch")

	blackHole(t, w.sentinels[0])
	w.master.Kill()
	requireBounded(t, client)
	requireRecovery(t, client)
	replica := open(t, strings.Replace(w.replica.URL(), "//", "//:hunter2@", 1)+"/1")
	require.Equal(t, int64(1), replica.Exists(t.Context(), "prod:{b}recovered").Val())
	requireSubscription(t, client, "prod:ch")
}

func TestNobodyWaitsForSentinels(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	warm, cold := open(t, w.url("redis+sentinel", w.sentinels...)), open(t, w.url("redis+sentinel", w.sentinels...))
	requireRecovery(t, warm)
	for _, s := range w.sentinels {
		s.Freeze()
	}
	requireBounded(t, cold)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	require.NoError(t, warm.Set(ctx, "prod:k", "v", 0).Err(), "the master is there")
	for _, s := range w.sentinels[1:] {
		s.Thaw()
	}
	requireRecovery(t, cold) // although one of three says nothing
}

func TestSentinelCredentialsAndNames(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	hosts := w.sentinels[0].Addr()
	for url, want := range map[string]string{
		"redis+sentinel://:hunter2@" + hosts + "/mymaster?sentinel_password=hunter2":                                              "WRONGPASS",
		"redis+sentinel://:hunter2@" + hosts + "/mymaster":                                                                        "NOAUTH",
		"redis+sentinel://:hunter2@" + hosts + "/other?sentinel_password=sentinel-hunter2":                                        "redis: nil",
		"redis+sentinel://:sentinel-hunter2@" + hosts + "/mymaster?sentinel_password=sentinel-hunter2":                            "WRONGPASS",
		"redis+sentinel://:hunter2@" + hosts + "/mymaster?sentinel_username=default&sentinel_password=sentinel-hunter2":           "",
		"redis+sentinel://default:hunter2@" + hosts + "/mymaster/15?sentinel_username=default&sentinel_password=sentinel-hunter2": "",
	} {
		err := open(t, url).Ping(t.Context()).Err()
		if want == "" {
			require.NoError(t, err, url)
			continue
		}
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), secretText)
	}
}

func TestSentinelsOverTLS(t *testing.T) {
	t.Parallel()
	args, query := tlsFiles(t)
	w := startWatched(t, args...)
	client := open(t, w.url("rediss+sentinel", w.sentinels...)+"&"+query)
	requireRecovery(t, client)
	requireSubscription(t, client, "prod:ch")
	require.Error(t, open(t, w.url("redis+sentinel", w.sentinels...)).Ping(t.Context()).Err(), "without TLS")
}
