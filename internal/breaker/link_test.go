package breaker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/redisclient"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// bounded is what a call with a deadline of linkBudget may take on a busy machine.
const linkBudget, bounded = 50 * time.Millisecond, 3 * time.Second

// openLink returns a link with a client as the gateway opens it.
func openLink(t testing.TB, url string) *breaker.RedisLink {
	t.Helper()
	options, err := redisclient.Parse(url)
	require.NoError(t, err)
	client, err := options.Open()
	require.NoError(t, err)
	link := breaker.NewRedisLink(client, "test")
	t.Cleanup(func() { _ = link.Close() }) // a store may have done so
	return link
}

// failing returns the report of a failure on a circuit of its own.
func failing(n int) breaker.Command {
	return breaker.Command{
		Op: "fail", ID: fmt.Sprintf("billing@10.0.0.%d:80", n), Replica: replicas[0], Epoch: "e",
		Args: []any{3, 60_000, 120_000, 0, 0.0, 0.5, 1, 0.0, 0, fmt.Sprintf("%s:%d", replicas[0], n), 0},
	}
}

func TestOneCommandThatFailsSpoilsNoOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	link, client := openLink(t, server.URL()), plainClient(t, server.Addr())
	commands := make([]breaker.Command, 64)
	for n := range commands {
		commands[n] = failing(n)
	}
	spoilt := link.WireKeys(commands[17].ID)[2]
	require.NoError(t, client.Set(t.Context(), spoilt, "somebody else's", 0).Err())
	for round, prepare := range map[string]func(){
		"a server that has never seen the script": func() {},
		"one that knows it":                       func() {},
		"one that was told to forget it":          func() { require.NoError(t, client.ScriptFlush(t.Context()).Err()) },
	} {
		prepare()
		replies, errs := link.Run(t.Context(), commands)
		require.Len(t, replies, 64)
		require.Len(t, errs, 64)
		for n := range commands {
			if n == 17 {
				require.ErrorContains(t, errs[n], "WRONGTYPE", round)
				require.Empty(t, replies[n])
				continue
			}
			require.NoError(t, errs[n], round)
			require.Equal(t, "counted", replies[n].Verdict)
			r, err := breaker.WireReadRecord(replies[n].Lines[0])
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("10.0.0.%d:80", n), r.Key.Upstream, "each answer belongs to its command")
		}
	}
	size, err := client.ZCard(t.Context(), link.WireKeys(commands[18].ID)[2]).Result()
	require.NoError(t, err)
	require.Equal(t, int64(1), size, "the same event thrice is one")
}

func TestALinkToNothingFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	link := openLink(t, server.URL())
	epoch, version, err := link.Version(t.Context())
	require.NoError(t, err)
	require.Empty(t, epoch)
	require.Zero(t, version)
	server.Kill()
	_, errs := link.Run(t.Context(), []breaker.Command{failing(1), failing(2)})
	require.Error(t, errs[0])
	require.Error(t, errs[1])
	_, _, err = link.Version(t.Context())
	require.Error(t, err)
}

func TestAVersionThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	link, client := openLink(t, server.URL()), plainClient(t, server.Addr())
	require.NoError(t, client.HSet(t.Context(), scriptPrefix+"meta", "epoch", "e", "version", "many").Err())
	_, _, err := link.Version(t.Context())
	require.ErrorContains(t, err, `version "many"`)
	require.NoError(t, client.HSet(t.Context(), scriptPrefix+"meta", "version", "1800000000123").Err())
	epoch, version, err := link.Version(t.Context())
	require.NoError(t, err)
	require.Equal(t, "e", epoch)
	require.Equal(t, uint64(1_800_000_000_123), version)
}

func TestEveryCallToAFrozenServerEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	warm, cold := openLink(t, server.URL()), openLink(t, server.URL())
	_, errs := warm.Run(t.Context(), []breaker.Command{failing(1)})
	require.NoError(t, errs[0])
	heard := listen(t, warm)
	heard.subscriptions(t, 1)
	server.Freeze()
	for name, link := range map[string]*breaker.RedisLink{"with connections": warm, "without": cold} {
		for call, f := range map[string]func(context.Context) error{
			"Run": func(ctx context.Context) error {
				replies, errs := link.Run(ctx, []breaker.Command{failing(1), failing(2)})
				require.Len(t, replies, 2)
				require.Error(t, errs[1])
				return errs[0]
			},
			"Version": func(ctx context.Context) error {
				_, _, err := link.Version(ctx)
				return err
			},
			"Listen": func(ctx context.Context) error {
				link.Listen(ctx, func(string) {}, func() {})
				return ctx.Err()
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), linkBudget)
			began := time.Now()
			err := f(ctx)
			took := time.Since(began)
			cancel()
			require.Error(t, err, "%s %s", call, name)
			require.Less(t, took, bounded, "%s %s", call, name)
		}
	}
	began := time.Now()
	heard.stop()
	require.Less(t, time.Since(began), bounded, "a subscription from before")
	server.Thaw()
	_, errs = cold.Run(t.Context(), []breaker.Command{failing(3)})
	require.NoError(t, errs[0])
}

// ear is somebody who listens to a link.
type ear struct {
	messages chan string
	count    atomic.Int64
	cancel   context.CancelFunc
	done     chan struct{}
}

func listen(t testing.TB, link breaker.Link) *ear {
	t.Helper()
	e := &ear{messages: make(chan string, 10_000), done: make(chan struct{})}
	var ctx context.Context
	ctx, e.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(e.done)
		link.Listen(ctx, func(m string) { e.messages <- m }, func() { e.count.Add(1) })
	}()
	t.Cleanup(e.stop)
	return e
}

func (e *ear) stop() {
	e.cancel()
	<-e.done
}

// subscriptions waits until there were that many.
func (e *ear) subscriptions(t *testing.T, n int64) {
	t.Helper()
	eventually(t, func() bool { return e.count.Load() >= n }, "subscribed")
}

func TestEverySubscriptionIsReported(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	link, client := openLink(t, server.URL()), plainClient(t, server.Addr())
	e := listen(t, link)
	e.subscriptions(t, 1)
	reset := func() {
		_, errs := link.Run(t.Context(), []breaker.Command{{Op: "reset", ID: "b@u", Replica: "r", Epoch: "e"}})
		require.NoError(t, errs[0])
		r, err := breaker.WireReadRecord(<-e.messages)
		require.NoError(t, err)
		require.Equal(t, breaker.ReasonReset, r.Reason)
	}
	reset()
	for range 3 {
		before := e.count.Load()
		require.NoError(t, client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err())
		e.subscriptions(t, before+1)
		reset()
	}
	before := e.count.Load()
	server.Restart()
	e.subscriptions(t, before+1)
	reset()
	require.Empty(t, e.messages)
	require.NoError(t, client.Publish(t.Context(), link.WireChannel(), "anything").Err())
	require.Equal(t, "anything", <-e.messages)
}

// logBook is a log that a test reads.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Writer(l), nil)) }

// somebodyLooks makes replicas believe that they have missed something.
func somebodyLooks(ctx context.Context, c *redis.Client) error {
	return c.HIncrBy(ctx, scriptPrefix+"meta", "version", 1).Err()
}

func TestDataOfAnotherKindInOurKeysMakesAReplicaWorkByItself(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	var all []*spoilt
	for name, spoil := range map[string]func(context.Context, *redis.Client) error{
		"meta is a string": func(ctx context.Context, c *redis.Client) error {
			return c.Set(ctx, scriptPrefix+"meta", "x", 0).Err()
		},
		"states is a list": func(ctx context.Context, c *redis.Client) error {
			if err := c.LPush(ctx, scriptPrefix+"states", "x").Err(); err != nil {
				return err
			}
			return somebodyLooks(ctx, c)
		},
		"the version is no number": func(ctx context.Context, c *redis.Client) error {
			return c.HSet(ctx, scriptPrefix+"meta", "version", "x").Err()
		},
		"a record is garbage": func(ctx context.Context, c *redis.Client) error {
			if err := c.HSet(ctx, scriptPrefix+"states", "billing@10.0.0.1:80", "garbage").Err(); err != nil {
				return err
			}
			return somebodyLooks(ctx, c)
		},
		"an id is garbage": func(ctx context.Context, c *redis.Client) error {
			if err := c.HSet(ctx, scriptPrefix+"states", "garbage", "H 5 9999999999999 1 0 N 0 5 3 r failures").Err(); err != nil {
				return err
			}
			return somebodyLooks(ctx, c)
		},
	} {
		server := redistest.Start(t)
		r := &spoilt{name: name, spoil: spoil, replica: newReplica(t, "", settings), client: plainClient(t, server.Addr()), url: server.URL()}
		r.store.Use(openLink(t, r.url), r.log.logger())
		all = append(all, r)
	}
	// Step by step for all at once, because each step has to be waited for.
	for _, r := range all {
		shared(t, r.replica)
		r.before = r.warnings() // of a server that was slow to start
		require.NoError(t, r.spoil(t.Context(), r.client))
	}
	for _, r := range all {
		eventually(t, func() bool { return r.store.Status().Mode == breaker.ModeLocal }, r.name)
		eventually(t, func() bool { return r.warnings() > r.before }, r.name)
		require.Contains(t, r.log.String(), "level=WARN")
		r.started = newReplica(t, "", settings)
		r.started.store.Use(openLink(t, r.url), nil)
		for _, one := range []*replica{r.replica, r.started} {
			sendMany(t, one, settings.Failures, breaker.Failure)
			require.False(t, one.Passes(), "it counts by itself")
			require.NotEqual(t, breaker.ModeShared, one.store.Status().Mode)
		}
	}
	for _, r := range all {
		require.NoError(t, r.client.FlushAll(t.Context()).Err())
	}
	for _, r := range all {
		shared(t, r.replica, r.started)
		require.Equal(t, r.before+1, r.warnings(), "one line for one change: %s", &r.log)
		require.False(t, r.Passes())
	}
}

// closedLink is a link whose every call is refused.
type closedLink struct {
	patchyLink
	calls atomic.Int64
	open  atomic.Bool
}

var errRefused = errors.New("dial tcp 127.0.0.1:1: connect: connection refused")

func (l *closedLink) Run(_ context.Context, commands []breaker.Command) ([]breaker.Reply, []error) {
	if l.open.Load() {
		return []breaker.Reply{{Verdict: "sync", Lines: []string{"e 1"}}}, make([]error, 1)
	}
	l.calls.Add(1)
	return make([]breaker.Reply, len(commands)), []error{errRefused}
}

func (l *closedLink) Version(context.Context) (string, uint64, error) {
	if l.open.Load() {
		return "e", 1, nil
	}
	l.calls.Add(1)
	return "", 0, errRefused
}

func TestARedisThatIsAwayFromTheStartIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	store, log, link := breaker.NewShared(clock.System{}), new(logBook), new(closedLink)
	hand := store.UseByHand(link)
	hand.LogTo(log.logger())
	for range 20 {
		hand.Poll()
	}
	require.Equal(t, int64(20), link.calls.Load())
	require.Equal(t, 1, strings.Count(log.String(), "by itself"), log.String())
	require.Contains(t, log.String(), errRefused.Error())
	require.Equal(t, errRefused.Error(), store.Status().Cause)

	link.open.Store(true)
	for range 3 {
		hand.Poll()
	}
	require.Equal(t, breaker.ModeShared, store.Status().Mode)
	require.Empty(t, store.Status().Cause)
	link.open.Store(false)
	for range 20 {
		hand.Poll()
	}
	require.Equal(t, breaker.ModeLocal, store.Status().Mode)
	require.Equal(t, 2, strings.Count(log.String(), "by itself"), "one line for each change: %s", log)
	require.Equal(t, errRefused.Error(), store.Status().Cause)
}

// Servers that don't know HELLO or AUTH repeat the arguments.
func TestTheCauseHoldsNoCredentials(t *testing.T) {
	t.Parallel()
	store, log := breaker.NewShared(clock.System{}), new(logBook)
	hand := store.UseByHand(&strangeLink{})
	hand.LogTo(log.logger())
	hand.Poll()
	require.Equal(t, "ERR unknown command 'HELLO'", store.Status().Cause)
	require.Contains(t, log.String(), "ERR unknown command 'HELLO'")
	require.NotContains(t, log.String(), "s3cret")
}

// strangeLink is a link to what knows little of Redis.
type strangeLink struct{ patchyLink }

func (l *strangeLink) Run(_ context.Context, commands []breaker.Command) ([]breaker.Reply, []error) {
	return make([]breaker.Reply, len(commands)), []error{errors.New("ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 's3cret'")}
}

// spoilt is a replica whose Redis holds what it should not.
type spoilt struct {
	*replica
	name    string
	spoil   func(context.Context, *redis.Client) error
	started *replica // later, with the same Redis
	client  *redis.Client
	url     string
	log     logBook
	before  int // warnings before it was spoilt
}

// warnings returns how often the replica has said that it works by itself.
func (s *spoilt) warnings() int {
	return strings.Count(s.log.String(), "breakers work on each replica by itself")
}

// patchyLink is a link whose calls fail when the test wants it.
type patchyLink struct {
	mu      sync.Mutex
	broken  error
	calls   int
	blocked chan struct{} // Run waits for it, but for a sync
}

func (l *patchyLink) Run(_ context.Context, commands []breaker.Command) ([]breaker.Reply, []error) {
	replies, errs := make([]breaker.Reply, len(commands)), make([]error, len(commands))
	if commands[0].Op == "sync" {
		replies[0] = breaker.Reply{Verdict: "sync", Lines: []string{"e 1"}}
		return replies, errs
	}
	<-l.blocked
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	for i, c := range commands {
		errs[i] = l.broken
		replies[i] = breaker.Reply{Verdict: "counted", Lines: []string{"e 1 1 C 0 0 0 0 N -1 0 - - 0 " + c.ID}}
	}
	return replies, errs
}

func (l *patchyLink) Version(context.Context) (string, uint64, error) { return "e", 1, nil }

func (l *patchyLink) Listen(ctx context.Context, _ func(string), _ func()) { <-ctx.Done() }

func (l *patchyLink) Close() error { return nil }

// One call that fails is one error, however many reports it carried: three in a
// row are what makes a replica work by itself.
func TestOneCallThatFailsIsNoReasonToWorkByItself(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Failures = 100
	r, log := newReplica(t, "", settings), new(logBook)
	link := &patchyLink{blocked: make(chan struct{}, 100), broken: context.DeadlineExceeded}
	t.Cleanup(func() { close(link.blocked) }) // before the store is closed
	r.store.Use(link, log.logger())
	shared(t, r)
	for range 20 {
		require.True(t, r.send(t, breaker.Failure))
	}
	link.blocked <- struct{}{} // the first report went alone, the others wait
	link.blocked <- struct{}{}
	eventually(t, func() bool {
		link.mu.Lock()
		defer link.mu.Unlock()
		return link.calls == 2
	}, "two calls failed")
	link.mu.Lock()
	link.broken = nil
	link.mu.Unlock()
	for range 20 {
		link.blocked <- struct{}{}
	}
	require.Never(t, func() bool { return r.store.Status().Mode != breaker.ModeShared }, 300*time.Millisecond, 10*time.Millisecond)
	require.NotContains(t, log.String(), "by itself")
}

// slowSync is a link to an arbiter with so many circuits that a sync takes longer
// than another call may: 10,000 take Redis more than 100 ms.
type slowSync struct {
	patchyLink
	version atomic.Uint64
	syncs   atomic.Int64
}

func (l *slowSync) Run(ctx context.Context, commands []breaker.Command) ([]breaker.Reply, []error) {
	if commands[0].Op != "sync" {
		return l.patchyLink.Run(ctx, commands)
	}
	select {
	case <-ctx.Done():
		return make([]breaker.Reply, 1), []error{ctx.Err()}
	case <-time.After(150 * time.Millisecond):
		l.syncs.Add(1)
		return []breaker.Reply{{Verdict: "sync", Lines: []string{fmt.Sprintf("e %d", l.version.Load())}}}, make([]error, 1)
	}
}

func (l *slowSync) Version(context.Context) (string, uint64, error) {
	return "e", l.version.Load(), nil
}

func TestASyncMayTakeLongerThanAnotherCall(t *testing.T) {
	t.Parallel()
	r := newReplica(t, "", breaker.DefaultSettings())
	link := new(slowSync)
	link.version.Store(1)
	r.store.Use(link, nil)
	shared(t, r)
	link.version.Store(2) // a change that nobody has heard of
	eventually(t, func() bool { return link.syncs.Load() >= 2 && r.store.Status().Version == 2 }, "synced again")
	require.Equal(t, breaker.ModeShared, r.store.Status().Mode)
}

func TestManyRequestsAndProbesAtOnceOnTwoReplicas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	settings.Open, settings.Probes, settings.Need = 10*time.Millisecond, 3, 2
	a, b := newReplica(t, server.Addr(), settings), newReplica(t, server.Addr(), settings)
	shared(t, a, b)
	deadline := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for n := range 8 {
		r := []*replica{a, b}[n%2]
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline); i++ {
				p, ok := r.Acquire(t.Context())
				if ok {
					p.Done(breaker.Outcome((i + n) % 3))
				}
				r.Record()
			}
		})
	}
	wg.Wait()
	// Good probes close it, once nothing fails any more.
	eventually(t, func() bool {
		a.send(t, breaker.Success)
		return a.Passes() && b.Passes()
	}, "closed")
	eventually(t, func() bool { return a.Record().Version == b.Record().Version }, "the same")
}

// A sync forgets circuits that nobody has asked for in a long time. Replicas that
// have copies of them must hear of it, or they ask for probes for ever.
func TestACircuitThatIsForgottenIsClosedOnEveryReplica(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	settings := breaker.DefaultSettings()
	settings.Open = 50 * time.Millisecond
	a := newReplica(t, server.Addr(), settings)
	shared(t, a)
	for range settings.Failures {
		require.True(t, a.send(t, breaker.Failure))
	}
	eventually(t, func() bool { return a.Record().Version > 0 }, "known to Redis")
	client := plainClient(t, server.Addr())
	started := time.Now()
	eventually(t, func() bool { return time.Since(started) > 12*settings.Open }, "a long time")
	shared(t, newReplica(t, server.Addr(), settings)) // its first look is a sync
	require.Zero(t, client.Exists(t.Context(), scriptPrefix+"states").Val(), "forgotten")
	eventually(t, func() bool {
		a.send(t, breaker.Success)
		return a.Passes()
	}, "closed")
}

// startCluster returns the addresses of three masters that share all slots.
func startCluster(t *testing.T) (addresses []string) {
	t.Helper()
	clients := make([]*redis.Client, 3)
	for i := range clients {
		server := redistest.Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		clients[i] = plainClient(t, server.Addr())
		addresses = append(addresses, server.Addr())
		first, last := i*16384/3, (i+1)*16384/3-1
		require.NoError(t, clients[i].ClusterAddSlotsRange(t.Context(), first, last).Err())
		require.NoError(t, clients[i].Do(t.Context(), "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err())
		if i > 0 {
			host, port, _ := strings.Cut(addresses[0], ":")
			require.NoError(t, clients[i].ClusterMeet(t.Context(), host, port).Err())
		}
	}
	for _, client := range clients {
		eventually(t, func() bool {
			info := client.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") &&
				strings.Contains(info, "cluster_slots_ok:16384")
		}, "cluster")
	}
	return addresses
}

func TestTwoReplicasOpenTogetherThroughARedisCluster(t *testing.T) {
	t.Parallel()
	addresses := startCluster(t)
	settings := breaker.DefaultSettings()
	settings.Open = 300 * time.Millisecond
	var all []*replica
	for n := range 2 {
		r := newReplica(t, "", settings)
		r.store.Use(openLink(t, "redis+cluster://"+addresses[n]+","+addresses[2]), nil)
		shared(t, r)
		all = append(all, r)
	}
	require.True(t, all[0].send(t, breaker.Failure))
	require.True(t, all[0].send(t, breaker.Failure))
	require.True(t, all[1].send(t, breaker.Failure))
	for _, r := range all {
		eventually(t, func() bool { return r.Record().Trips == 1 }, "open")
	}
	eventually(t, func() bool { return all[0].send(t, breaker.Success) }, "probe")
	for _, r := range all {
		eventually(t, r.Passes, "closed")
	}

	// That was by pub/sub and not by a poll: it comes sooner than one.
	heard := listen(t, openLink(t, "redis+cluster://"+addresses[0]))
	heard.subscriptions(t, 1)
	_, errs := openLink(t, "redis+cluster://"+addresses[1]).Run(t.Context(), []breaker.Command{failing(1), {Op: "reset", ID: "b@u", Replica: "r", Epoch: "e"}})
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.Contains(t, <-heard.messages, " reset ")
}
