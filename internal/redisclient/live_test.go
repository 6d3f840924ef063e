package redisclient_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

const (
	// A call's deadline, and what it may take on a busy machine that runs tests.
	budget, bound = 30 * time.Millisecond, 500 * time.Millisecond
	// How long anything that happens by itself may take.
	patience = 30 * time.Second
)

// requireBounded makes calls with a short deadline; none may take longer, or succeed.
func requireBounded(t *testing.T, client redis.UniversalClient) {
	t.Helper()
	for range 6 {
		for name, call := range map[string]func(context.Context) error{
			"command": func(ctx context.Context) error { return client.Get(ctx, "prod:{b}k").Err() },
			"script":  func(ctx context.Context) error { return client.EvalSha(ctx, "0000", []string{"prod:{b}k"}).Err() },
			"pipeline": func(ctx context.Context) error {
				p := client.Pipeline()
				p.Incr(ctx, "prod:{b}n")
				_, err := p.Exec(ctx)
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			began := time.Now()
			err := call(ctx)
			took := time.Since(began)
			cancel()
			require.Error(t, err, name)
			require.NotErrorIs(t, err, redis.Nil, name)
			require.Less(t, took, bound, name)
		}
	}
}

// requireRecovery waits until commands and scripts with the usual deadlines work again.
func requireRecovery(t *testing.T, client redis.UniversalClient) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		n, err := client.Eval(ctx, "return redis.call('INCR', KEYS[1])", []string{"prod:{b}recovered"}).Int()
		return err == nil && n > 0
	}, patience, 20*time.Millisecond)
}

// command runs a command that must succeed.
func command(t *testing.T, client redis.UniversalClient, text string) *redis.Cmd {
	t.Helper()
	var args []any
	for field := range strings.FieldsSeq(text) {
		args = append(args, field)
	}
	cmd := client.Do(t.Context(), args...)
	require.NoError(t, cmd.Err(), text)
	return cmd
}

// calls returns how often a server obeyed or refused the command.
func calls(t *testing.T, admin redis.UniversalClient, name string) bool {
	t.Helper()
	return strings.Contains(admin.Info(t.Context(), "commandstats").Val(), "cmdstat_"+name)
}

func TestOpenConnectsToNothing(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	addr := listener.Addr().String()
	for _, url := range []string{"redis://" + addr, "rediss://" + addr, "redis+sentinel://" + addr + "/m", "redis+cluster://" + addr} {
		open(t, url)
	}
	require.NoError(t, listener.(*net.TCPListener).SetDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = listener.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestADatabaseOfAPlainServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	zero, five := open(t, s.URL()), open(t, s.URL()+"/5")
	require.NoError(t, five.Set(t.Context(), "k", "five", 0).Err())
	require.ErrorIs(t, zero.Get(t.Context(), "k").Err(), redis.Nil)
	require.Equal(t, "five", five.Get(t.Context(), "k").Val())
	require.ErrorContains(t, open(t, s.URL()+"/16").Ping(t.Context()).Err(), "out of range")

	clients := command(t, zero, "CLIENT LIST").String()
	require.Equal(t, 2, strings.Count(clients, "name=tenantgate "), clients)
	require.Contains(t, clients, "resp=2")
	// The only error was for database 16: nothing is sent to try what a server knows.
	require.Contains(t, zero.Info(t.Context(), "errorstats").Val(), "errorstat_ERR:count=1\r")
}

func TestAUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "redis") // shorter than t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	redistest.Start(t, "--unixsocket", dir+"/r@1.sock", "--requirepass", "hunter2")
	client := open(t, "unix://:hunter2@"+dir+"/r%401.sock?db=3")
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	require.Contains(t, command(t, client, "CLIENT LIST").String(), "db=3")
	require.ErrorContains(t, open(t, "unix://"+dir+"/r%401.sock").Ping(t.Context()).Err(), "NOAUTH")
}

func TestAPassword(t *testing.T) {
	t.Parallel()
	const password = "p@/?#%:+& x"
	s := redistest.Start(t, "--requirepass", password)
	at := func(credentials string) redis.UniversalClient {
		return open(t, "redis://"+credentials+"@"+s.Addr()+"/1")
	}
	require.NoError(t, at(":p%40%2F%3F%23%25:+&%20x").Ping(t.Context()).Err())
	require.NoError(t, at("default:p%40%2F%3F%23%25%3A%2B%26%20x").Ping(t.Context()).Err())
	require.ErrorContains(t, at(":hunter2").Ping(t.Context()).Err(), "WRONGPASS")
	require.NotContains(t, at(":hunter2").Ping(t.Context()).Err().Error(), secretText)
	require.ErrorContains(t, at("").Ping(t.Context()).Err(), "NOAUTH")
}

// A user that may do next to nothing: what go-redis sends by itself on a new
// connection must be no reason to fail.
func TestAUserThatMayHardlyDoAnything(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	admin := open(t, s.URL())
	command(t, admin, "ACL SETUSER least on >hunter2 ~prod:* &prod:* +get +eval +evalsha +incr +subscribe")
	client := open(t, "redis://least:hunter2@"+s.Addr())
	require.ErrorIs(t, client.Get(t.Context(), "prod:k").Err(), redis.Nil)
	require.ErrorContains(t, client.Get(t.Context(), "dev:k").Err(), "NOPERM")
	require.ErrorContains(t, client.Set(t.Context(), "prod:k", 1, 0).Err(), "NOPERM")
	requireSubscription(t, client, "prod:ch")
	require.False(t, calls(t, admin, "command:"))
	require.False(t, calls(t, admin, "client|setinfo"))
	require.False(t, calls(t, admin, "client|maint_notifications"))
}

func requireSubscription(t *testing.T, client redis.UniversalClient, channel string) {
	t.Helper()
	subscription := client.Subscribe(t.Context(), channel)
	defer func() { require.NoError(t, subscription.Close()) }()
	received, err := subscription.ReceiveTimeout(t.Context(), patience)
	require.NoError(t, err)
	require.IsType(t, &redis.Subscription{}, received)
}

func TestNobodyWaitsForAPlainServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	warm, cold := open(t, s.URL()), open(t, s.URL())
	requireRecovery(t, warm)

	s.Freeze()
	requireBounded(t, warm)
	requireBounded(t, cold)
	s.Thaw()
	requireRecovery(t, warm)
	requireRecovery(t, cold)

	s.Kill()
	requireBounded(t, warm)
	s.Restart()
	requireRecovery(t, warm)
	requireRecovery(t, cold)
}

// Whoever has time is told at once that nobody listens.
func TestARefusedConnectionIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	client, least := open(t, "redis://127.0.0.1:1"), time.Hour
	for range 5 {
		began := time.Now()
		require.Error(t, client.Ping(t.Context()).Err())
		least = min(least, time.Since(began))
	}
	require.Less(t, least, 300*time.Millisecond) // with go-redis's five tries 400 ms
}

// A subscription comes back after its server does, and says so.
func TestASubscriptionIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	client := open(t, s.URL())
	subscription := client.Subscribe(t.Context(), "prod:ch")
	defer func() { require.NoError(t, subscription.Close()) }()
	events := subscription.ChannelWithSubscriptions()
	subscribed := func() {
		t.Helper()
		select {
		case event := <-events:
			require.IsType(t, &redis.Subscription{}, event)
		case <-time.After(patience):
			t.Fatal("not subscribed again")
		}
	}
	subscribed()
	s.Restart()
	subscribed()
	require.Eventually(t, func() bool { return client.Publish(t.Context(), "prod:ch", "x").Val() == 1 }, patience, 20*time.Millisecond)
}

// go-redis retries on its own unless told otherwise. A command that may have
// been obeyed must not be sent twice.
func TestACommandIsSentOnce(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	admin, client := open(t, s.URL()), open(t, s.URL())
	var conns []*redis.Conn
	for range 4 { // for a second try to go out on
		conn := client.(*redis.Client).Conn()
		require.NoError(t, conn.Ping(t.Context()).Err())
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	s.Freeze()
	require.Error(t, client.Incr(t.Context(), "n").Err()) // no deadline but the client's own
	s.Thaw()
	require.Eventually(t, func() bool { return admin.Exists(t.Context(), "n").Val() == 1 }, patience, time.Millisecond)
	for range 10 {
		require.Equal(t, "1", admin.Get(t.Context(), "n").Val())
	}
}

// go-redis's own lines would stand between ours, on stderr and not as JSON.
func TestNothingIsWrittenToStderr(t *testing.T) {
	t.Parallel()
	if url := os.Getenv("REDISCLIENT_TEST_URL"); url != "" {
		for range 10 {
			require.Error(t, open(t, url).Ping(t.Context()).Err())
		}
		return
	}
	var stderr strings.Builder
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "REDISCLIENT_TEST_URL=redis://127.0.0.1:1")
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Run())
	require.Empty(t, stderr.String())
}

func TestOpenNamesTheFileThatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	ca := newAuthority(t)
	cert, key := ca.issue(t, dir, "client")
	other, _ := newAuthority(t).issue(t, dir, "other")
	junk, missing := write("junk", "hunter2"), filepath.Join(dir, "missing")
	for query, want := range map[string]string{
		"ca=" + missing:                         "ca: open " + missing,
		"ca=" + junk:                            "ca: " + junk + " holds no certificate: give a PEM file",
		"cert=" + missing + "&key=" + key:       "cert and key: open " + missing,
		"cert=" + cert + "&key=" + missing:      "cert and key: open " + missing,
		"cert=" + junk + "&key=" + key:          "cert and key: tls: failed to find any PEM data",
		"cert=" + other + "&key=" + key:         "cert and key: tls: private key does not match public key",
		"ca=" + ca.file(t, dir) + "&key=" + key: "",
	} {
		for _, base := range []string{"rediss://u:hunter2@h?", "rediss+cluster://u:hunter2@h?", "rediss+sentinel://u:hunter2@h/m?"} {
			o, err := redisclient.Parse(base + query)
			if want == "" {
				require.ErrorContains(t, err, "only one of the options cert and key")
				continue
			}
			require.NoError(t, err)
			_, err = o.Open()
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), secretText)
		}
	}
}

func Example() {
	o, err := redisclient.Parse("redis://:hunter2@localhost:6379/1")
	fmt.Println(o, err)
	// Output: redis://localhost:6379/1 <nil>
}
