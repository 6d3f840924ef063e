package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// measuring says that `make reliability` runs the tests: one after the other, in
// full length, held to their numbers. Otherwise they are short and run beside
// others, and only what must be true on any machine is asserted.
var measuring = os.Getenv("TENANTGATE_MEASURE") == "1"

// pick returns how much of something there is: in full length, or short.
func pick[T any](full, short T) T {
	if measuring {
		return full
	}
	return short
}

// cluster is several gateways in front of one upstream, with one Redis.
type cluster struct {
	redis    *redistest.Server
	upstream *upstreamServer
	gateways []*Gateway
}

// Gateway is one running `tenantgate run`.
type Gateway struct {
	*Process
	client *http.Client // of the site
	admin  *http.Client
	env    []string
	dir    string
	log    string
}

// upstreamServer fails on demand: by path, /fail/…, or wholly.
type upstreamServer struct {
	*httptest.Server
	arrivals atomic.Int64
	failing  atomic.Bool
	hold     atomic.Pointer[chan struct{}] // requests wait until it is closed
}

func newUpstream(t *testing.T) *upstreamServer {
	t.Helper()
	u := new(upstreamServer)
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.arrivals.Add(1)
		if hold := u.hold.Load(); hold != nil {
			select {
			case <-*hold:
			case <-r.Context().Done():
			}
		}
		if u.failing.Load() || r.Header.Get("X-Fail") != "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(u.Close)
	return u
}

const clusterCaddyfile = `{
	admin unix/{$DIR}/admin
	persist_config off
	grace_period 1s
	tenantgate {
		redis {$REDIS_URL}
		namespace e2e
	}
	log default {
		output file {$DIR}/log {
			roll_disabled
		}
		format tenantgate
	}
	servers {
		listener_wrappers {
			handover
		}
	}
}
(guarded) {
	handle /{args[0]}/* {
		breaker_proxy {args[0]} {$UPSTREAM} {
			breaker {
				open {args[1]}
				response_timeout {args[2]}
			}
			transport http {
				dial_timeout 1s
				keepalive_idle_conns_per_host 200
			}
		}
	}
}
http:// {
	bind unix/{$DIR}/site
	log
	trace_context
	import guarded steady 60s 2s
	import guarded flaky 1s 2s
	import guarded alone 60s 2s
	import guarded shared 60s 2s
	import guarded orphaned 1s 2s
	import guarded probed 1s 20s # the test holds the probe back until 300 requests were refused
	handle_errors {
		problem_details
	}
}
`

// newCluster starts Redis unless an address is given, an upstream and gateways.
func newCluster(t *testing.T, server *redistest.Server, redisURL string, gateways int) *cluster {
	t.Helper()
	c := &cluster{redis: server, upstream: newUpstream(t)}
	if redisURL == "" {
		redisURL = server.URL()
	}
	for range gateways {
		c.gateways = append(c.gateways, startGateway(t, redisURL, c.upstream.Listener.Addr().String()))
	}
	return c
}

// unixClient returns a client whose every request goes to a socket.
func unixClient(t *testing.T, socket string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 300,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: secs(30)}
}

func startGateway(t *testing.T, redisURL, upstream string) *Gateway {
	t.Helper()
	return runGateway(t, clusterCaddyfile, "REDIS_URL="+redisURL, "UPSTREAM="+upstream)
}

// runGateway starts a gateway whose Caddyfile has its site at the socket
// {$DIR}/site, its admin API at {$DIR}/admin and its log at {$DIR}/log.
func runGateway(t *testing.T, caddyfile string, env ...string) *Gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // t.TempDir can be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(caddyfile), 0o600))
	g := &Gateway{
		dir: dir, log: filepath.Join(dir, "log"),
		env:    append([]string{"DIR=" + dir, "HOME=" + dir}, env...),
		client: unixClient(t, filepath.Join(dir, "site")),
		admin:  unixClient(t, filepath.Join(dir, "admin")),
	}
	g.start(t)
	return g
}

// start runs the process, also again after its end, and waits until it serves.
func (g *Gateway) start(t *testing.T) {
	t.Helper()
	g.Process = Start(t, g.dir, g.env, filepath.Join(binaries, "tenantgate"), "run", "--config", "Caddyfile")
	require.Eventually(t, func() bool {
		select {
		case <-g.done:
			require.FailNow(t, "the gateway ended", "%s", g.Stderr)
		default:
		}
		_, _, err := g.try("/steady/", false)
		return err == nil
	}, 30*time.Second, ms(20), "the gateway serves")
}

// try sends one request through the gateway.
func (g *Gateway) try(path string, fail bool) (status int, retryAfter string, err error) {
	r, err := http.NewRequest(http.MethodGet, "http://gate"+path, nil)
	if err != nil {
		return 0, "", err
	}
	if fail {
		r.Header.Set("X-Fail", "1")
	}
	resp, err := g.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Retry-After"), err
}

// get is try that must be answered.
func (g *Gateway) get(t *testing.T, path string, fail bool) (status int, retryAfter string) {
	t.Helper()
	status, retryAfter, err := g.try(path, fail)
	require.NoError(t, err)
	return status, retryAfter
}

// fail sends a request that fails at the upstream.
func (g *Gateway) fail(t *testing.T, path string) {
	t.Helper()
	status, _ := g.get(t, path, true)
	require.Equal(t, http.StatusInternalServerError, status)
}

// gatewayStatus is what the admin API says.
type gatewayStatus struct {
	Mode     string `json:"mode"`
	Version  uint64 `json:"version"`
	Breakers []struct {
		Name        string `json:"name"`
		Upstream    string `json:"upstream"`
		State       string `json:"state"`
		RemainingMS int64  `json:"remaining_ms"`
	} `json:"breakers"`
}

// state returns the state of the only circuit of that name, "" if there is none.
func (s gatewayStatus) state(name string) string {
	for _, b := range s.Breakers {
		if b.Name == name && b.Upstream != "" {
			return b.State
		}
	}
	return ""
}

func (g *Gateway) status(t *testing.T) (s gatewayStatus) {
	t.Helper()
	resp, err := g.admin.Get("http://admin/tenantgate/breakers")
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", content)
	require.NoError(t, json.Unmarshal(content, &s), "%s", content)
	return s
}

// order is POST /tenantgate/breakers/NAME/ORDER.
func (g *Gateway) order(t *testing.T, name, order string) {
	t.Helper()
	resp, err := g.admin.Post("http://admin/tenantgate/breakers/"+name+"/"+order, "application/json", nil)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", content)
}

// awaitShared waits until Redis decides for all gateways and all know the same,
// and returns how long that took.
func (c *cluster) awaitShared(t *testing.T) time.Duration {
	t.Helper()
	started := time.Now()
	client := redis.NewClient(&redis.Options{Addr: c.redis.Addr()})
	defer func() { _ = client.Close() }()
	require.Eventually(t, func() bool {
		version, err := client.HGet(t.Context(), "e2e:{breaker}:meta", "version").Uint64()
		if err != nil && !errors.Is(err, redis.Nil) {
			return false
		}
		return !slices.ContainsFunc(c.gateways, func(g *Gateway) bool {
			s := g.status(t)
			return s.Mode != "shared" || s.Version != version
		})
	}, 30*time.Second, ms(10), "all gateways agree with Redis")
	return time.Since(started)
}

// awaitRefusal asks until the gateway refuses, and returns how long that took.
func (g *Gateway) awaitRefusal(path string) (time.Duration, error) {
	started := time.Now()
	for {
		status, _, err := g.try(path, false)
		took := time.Since(started)
		switch {
		case err != nil:
			return took, err
		case status == http.StatusServiceUnavailable:
			return took, nil
		case status != http.StatusOK || took > 10*time.Second:
			return took, fmt.Errorf("status %d after %v", status, took)
		}
	}
}

// percentile returns the p-th percentile, 0 to 1, of times that it sorts.
func percentile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(p*float64(len(times))))]
}

func TestBreakersOneFailureAtEachOfThreeGatewaysOpensAll(t *testing.T) {
	if !measuring {
		t.Parallel()
	}
	c := newCluster(t, redistest.Start(t), "", 3)
	c.awaitShared(t)
	var times []time.Duration
	rounds := pick(200, 10)
	for range rounds {
		for _, g := range c.gateways {
			g.fail(t, "/shared/")
		}
		// The last failure was answered: from now on none of them may go on for long.
		var waits [3]time.Duration
		var errs [3]error
		var waiting sync.WaitGroup
		for i, g := range c.gateways {
			waiting.Go(func() { waits[i], errs[i] = g.awaitRefusal("/shared/") })
		}
		waiting.Wait()
		require.NoError(t, errors.Join(errs[:]...))
		times = append(times, waits[:]...)
		_, retryAfter := c.gateways[2].get(t, "/shared/", false)
		require.Equal(t, "60", retryAfter)
		c.gateways[0].order(t, "shared", "reset")
		for _, g := range c.gateways {
			require.Eventually(t, func() bool { status, _ := g.get(t, "/shared/", false); return status == http.StatusOK }, 10*time.Second, ms(1))
		}
	}
	p50, p99 := percentile(times, 0.5), percentile(times, 0.99)
	t.Logf("third failure until all refuse, %d rounds: p50 %v, p99 %v, max %v", rounds, p50, p99, times[len(times)-1])
	if measuring {
		require.LessOrEqual(t, p99, 50*time.Millisecond)
		reportNumber("one failure at each of three gateways: from the third until all refuse, p50 / p99 of 200 rounds", fmt.Sprintf("%s / %s", round(p50), round(p99)))
	}
	// One line a transition in the whole cluster.
	opened := 0
	for _, g := range c.gateways {
		opened += g.count(t, `"msg":"circuit opened"`)
	}
	require.Equal(t, rounds, opened)
}

// count returns how many lines of the log hold a text.
func (g *Gateway) count(t *testing.T, text string) (n int) {
	t.Helper()
	content, err := os.ReadFile(g.log)
	require.NoError(t, err)
	return bytes.Count(content, []byte(text))
}

// TestBreakersOneProbeARoundInTheWholeCluster is not parallel: beside others, the
// requests that all come at once wait for the processor for seconds, and what the
// gateways tell each other through Redis comes too late.
func TestBreakersOneProbeARoundInTheWholeCluster(t *testing.T) {
	c := newCluster(t, redistest.Start(t), "", 3)
	c.awaitShared(t)
	c.upstream.failing.Store(true)
	for _, g := range c.gateways {
		g.fail(t, "/probed/")
	}
	for _, g := range c.gateways {
		require.Eventually(t, func() bool { return g.status(t).state("probed") == "open" }, 10*time.Second, ms(1))
	}
	concurrent, rounds := pick(300, 60), pick(20, 3)
	for n := range rounds {
		c.upstream.failing.Store(n < rounds-1)
		hold := make(chan struct{})
		c.upstream.hold.Store(&hold)
		before := c.upstream.arrivals.Load()
		time.Sleep(ms(1100)) // the open period, by Redis' clock
		statuses := make(chan int, concurrent)
		ask := func(n int) (asked int) {
			for i := range n {
				go func() {
					status, _, err := c.gateways[i%3].try("/probed/", false)
					if err != nil {
						status = -1
					}
					statuses <- status
				}()
			}
			return n
		}
		// All but one are refused, and that one is the probe, which waits at the
		// upstream. On a machine that is too busy for 25 ms it was refused as well,
		// and left its lease to the next request.
		for pending := ask(concurrent); pending != 1 || c.upstream.arrivals.Load() == before; {
			if pending == 0 {
				pending = ask(3)
			}
			select {
			case status := <-statuses:
				require.Equal(t, http.StatusServiceUnavailable, status)
				pending--
			case <-time.After(ms(1)):
			}
		}
		c.upstream.hold.Store(nil)
		close(hold)
		want := http.StatusInternalServerError
		if n == rounds-1 {
			want = http.StatusOK
		}
		require.Equal(t, want, <-statuses)
		require.Equal(t, int64(1), c.upstream.arrivals.Load()-before)
	}
	for _, g := range c.gateways {
		require.Eventually(t, func() bool { status, _ := g.get(t, "/probed/", false); return status == http.StatusOK }, 10*time.Second, ms(1))
	}
	reportNumber(fmt.Sprintf("requests that reach the upstream in a half-open round, of %d at once at three gateways, %d rounds", concurrent, rounds), "1 in every round")
}

func TestBreakersRecoverAfterTheOwnerOfTheProbeWasKilled(t *testing.T) {
	if !measuring {
		t.Parallel()
	}
	c := newCluster(t, redistest.Start(t), "", 2)
	c.awaitShared(t)
	for range 3 {
		c.gateways[0].fail(t, "/orphaned/")
	}
	require.Eventually(t, func() bool { return c.gateways[1].status(t).state("orphaned") == "open" }, 10*time.Second, ms(1))
	hold := make(chan struct{})
	c.upstream.hold.Store(&hold)
	before := c.upstream.arrivals.Load()
	var probing sync.WaitGroup
	probing.Go(func() {
		for c.upstream.arrivals.Load() == before { // refused until the circuit is due
			_, _, _ = c.gateways[0].try("/orphaned/", false) // it is killed in the middle of one
		}
	})
	require.Eventually(t, func() bool { return c.upstream.arrivals.Load() > before }, 10*time.Second, ms(1))
	granted := time.Now()
	require.NoError(t, c.gateways[0].cmd.Process.Signal(syscall.SIGKILL))
	c.upstream.hold.Store(nil)
	close(hold)
	probing.Wait()
	const lease = 8 * time.Second // dial 1 s + response 2 s + 5 s
	require.Eventually(t, func() bool { status, _ := c.gateways[1].get(t, "/orphaned/", false); return status == http.StatusOK }, 30*time.Second, ms(20))
	took := time.Since(granted)
	t.Logf("the other gateway's probe succeeded %v after the killed one's, whose lease was %v", took, lease)
	require.LessOrEqual(t, took, lease+pick(time.Second, 5*time.Second))
	reportNumber("recovery after kill -9 of the probe's owner, lease of 8 s", round(took))
}

func TestBreakersSendNothingForSuccesses(t *testing.T) {
	if !measuring {
		t.Parallel()
	}
	c := newCluster(t, redistest.Start(t), "", 1)
	c.awaitShared(t)
	client := redis.NewClient(&redis.Options{Addr: c.redis.Addr()})
	defer func() { _ = client.Close() }()
	before, started := commandCalls(t, client), time.Now()
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			for range 500 {
				if status, _, err := c.gateways[0].try("/steady/", false); err != nil || status != http.StatusOK {
					t.Errorf("status %d, %v", status, err)
				}
			}
		})
	}
	clients.Wait()
	after, elapsed := commandCalls(t, client), time.Since(started)
	for _, name := range []string{"evalsha", "eval", "zadd", "hset", "publish"} {
		require.Equal(t, before[name], after[name], name)
	}
	var sent int64
	for name, calls := range after {
		if name != "info" {
			sent += calls - before[name]
		}
	}
	t.Logf("10,000 requests in %v: %d commands", elapsed, sent)
	require.Less(t, sent, int64(20+6*elapsed.Seconds()), "the poll of every second and pings, whatever the traffic")
	reportNumber(fmt.Sprintf("commands sent to Redis during 10,000 successful requests in %s (the poll and pings)", round(elapsed)), fmt.Sprint(sent))
}

// commandCalls returns how often each command was called.
func commandCalls(t *testing.T, client *redis.Client) map[string]int64 {
	t.Helper()
	info, err := client.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	calls := map[string]int64{}
	for _, section := range info {
		for name, values := range section {
			var n int64
			_, err := fmt.Sscanf(values, "calls=%d", &n)
			require.NoError(t, err, values)
			calls[name[len("cmdstat_"):]] = n
		}
	}
	return calls
}

func TestBreakersStayOpenOverARestartAndAReloadOfOneGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t, redistest.Start(t), "", 2)
	c.awaitShared(t)
	restarted := c.gateways[1]
	for range 3 {
		restarted.fail(t, "/shared/")
	}
	opened := time.Now()
	require.Equal(t, 0, restarted.Stop(t, syscall.SIGTERM))
	restarted.start(t)
	goesOn := func() {
		t.Helper()
		most := 60 - time.Since(opened).Seconds()
		status, retryAfter := restarted.get(t, "/shared/", false)
		least := 60 - time.Since(opened).Seconds()
		require.Equal(t, http.StatusServiceUnavailable, status, "the very first request")
		left := 0.0
		_, err := fmt.Sscan(retryAfter, &left)
		require.NoError(t, err)
		require.GreaterOrEqual(t, left, least-1, "it opened a moment before")
		require.LessOrEqual(t, left, most+1, "seconds are rounded up")
	}
	goesOn()
	reload := Start(t, restarted.dir, restarted.env, filepath.Join(binaries, "tenantgate"), "reload", "--config", "Caddyfile", "--force",
		"--address", "unix/"+filepath.Join(restarted.dir, "admin"))
	require.Equal(t, 0, reload.Exit(t), "%s", reload.Stderr)
	goesOn()
	status, _ := c.gateways[0].get(t, "/shared/", false)
	require.Equal(t, http.StatusServiceUnavailable, status)
}

// TestBreakersObeyTheOperator gives orders with the command that operators use, to
// one gateway, and looks at the other.
func TestBreakersObeyTheOperator(t *testing.T) {
	t.Parallel()
	c := newCluster(t, redistest.Start(t), "", 2)
	c.awaitShared(t)
	asked, other := c.gateways[0], c.gateways[1]
	operate := func(code int, args ...string) string {
		args = append([]string{"breakers"}, append(args, "--address", "unix/"+filepath.Join(asked.dir, "admin"))...)
		p := Start(t, asked.dir, asked.env, filepath.Join(binaries, "tenantgate"), args...)
		require.Equal(t, code, p.Exit(t), "%v: %s%s", args, p.Stdout, p.Stderr)
		return p.Stdout.String() + p.Stderr.String()
	}
	answers := func(g *Gateway, want int) {
		t.Helper()
		require.Eventually(t, func() bool { status, _ := g.get(t, "/shared/", false); return status == want }, 10*time.Second, ms(5))
	}
	answers(other, http.StatusOK)
	operate(0, "open", "shared", "--ttl", "1h", "--actor", "ann", "--reason", "maintenance")
	answers(asked, http.StatusServiceUnavailable)
	answers(other, http.StatusServiceUnavailable)
	require.Contains(t, operate(0, "list"), "forced-open")
	require.Equal(t, "forced-open", other.status(t).state("shared"))

	operate(0, "close", "shared", "--ttl", "2s")
	answers(other, http.StatusOK)
	for range 5 {
		other.fail(t, "/shared/")
	}
	answers(other, http.StatusOK)
	require.Eventually(t, func() bool { return other.status(t).state("shared") == "closed" }, 10*time.Second, ms(20), "the order has ended")

	for range 3 {
		other.fail(t, "/shared/")
	}
	answers(asked, http.StatusServiceUnavailable)
	operate(0, "reset", "shared")
	answers(other, http.StatusOK)
	require.Contains(t, operate(1, "open", "nobody"), `no breaker "nobody"`)
	operate(2, "open")
	require.Equal(t, 1, asked.count(t, `"actor":"ann"`))
	require.Equal(t, 5, asked.count(t, `"msg":"circuit `)+other.count(t, `"msg":"circuit `),
		"one line for each change: forced open, forced closed, its end, opened by failures, reset")
}
