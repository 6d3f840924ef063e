package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// slowReplies forwards connections to Redis and delays what Redis answers.
type slowReplies struct {
	listener net.Listener
	target   string
	delay    atomic.Int64
}

func newSlowReplies(t *testing.T, target string) *slowReplies {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &slowReplies{listener: listener, target: target}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go s.serve(client)
		}
	}()
	return s
}

func (s *slowReplies) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", s.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	type chunk struct {
		data []byte
		due  time.Time
	}
	chunks := make(chan chunk, 1000)
	go func() { // delayed, but in order and without limit of bandwidth
		for c := range chunks {
			time.Sleep(time.Until(c.due))
			if _, err := client.Write(c.data); err != nil {
				break
			}
		}
		_ = client.Close()
	}()
	defer close(chunks)
	for {
		buffer := make([]byte, 64<<10)
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		chunks <- chunk{buffer[:n], time.Now().Add(time.Duration(s.delay.Load()))}
	}
}

// load is requests at a steady rate, whatever the answers take.
type load struct {
	cluster  *cluster
	stop     chan struct{}
	requests sync.WaitGroup
	ticker   sync.WaitGroup

	mu    sync.Mutex
	times []time.Duration // of the present phase
	sent  int
	wrong []string
}

// startLoad asks every gateway for a healthy upstream and for one whose circuit
// opens, is probed and opens again every second, 50 times a second in all each.
func (c *cluster) startLoad() *load {
	l := &load{cluster: c, stop: make(chan struct{})}
	for _, g := range c.gateways {
		l.ticker.Go(func() {
			tick := time.NewTicker(ms(20))
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				case <-tick.C:
				}
				path, fail := "/steady/", false
				if n%2 == 1 {
					path, fail = "/flaky/", true
				}
				l.requests.Go(func() { l.one(g, path, fail) })
			}
		})
	}
	return l
}

// one sends a request and judges the answer: 200 from what is healthy; from what
// is not, its own 500 or a refusal that tells how long to wait.
func (l *load) one(g *Gateway, path string, fail bool) {
	started := time.Now()
	status, retryAfter, err := g.try(path, fail)
	took := time.Since(started)
	right := err == nil && (!fail && status == http.StatusOK ||
		fail && (status == http.StatusInternalServerError || status == http.StatusServiceUnavailable && retryAfter != ""))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.times = append(l.times, took)
	if !right {
		l.wrong = append(l.wrong, fmt.Sprintf("%s: %d after %v, %v", path, status, took, err))
	}
}

// phase ends the present phase and returns the times of its requests.
func (l *load) phase() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := l.times
	l.times = nil
	return times
}

// end stops the load and waits for the last answers.
func (l *load) end() {
	close(l.stop)
	l.ticker.Wait()
	l.requests.Wait()
}

// fault is something that happens to Redis.
type fault struct {
	name string
	// isolates: the gateways are on their own meanwhile.
	isolates bool
	// begin, and end, which may be nil, do it. It lasts as long as given.
	begin, end func(c *faultCluster)
	full       time.Duration
	short      time.Duration
}

// faultCluster is a cluster whose way to Redis can be slowed.
type faultCluster struct {
	*cluster
	slow   *slowReplies
	client *redis.Client
	stop   chan struct{}
}

func faults(t *testing.T) []fault {
	return []fault{
		{
			name: "absent when the gateways start", isolates: true, full: 10 * time.Second, short: 4 * time.Second,
			begin: func(*faultCluster) {}, // see TestBreakersThroughFaultsOfRedis
			end:   func(c *faultCluster) { c.redis.Restart() },
		},
		{
			name: "killed, and started again empty", isolates: true, full: 10 * time.Second, short: 4 * time.Second,
			begin: func(c *faultCluster) { c.redis.Kill() },
			end:   func(c *faultCluster) { c.redis.Restart() },
		},
		{
			name: "frozen (SIGSTOP) for 20 s", isolates: true, full: 20 * time.Second, short: 5 * time.Second,
			begin: func(c *faultCluster) { c.redis.Freeze() },
			end:   func(c *faultCluster) { c.redis.Thaw() },
		},
		{
			name: "FLUSHALL", full: 5 * time.Second, short: 3 * time.Second,
			begin: func(c *faultCluster) { require.NoError(t, c.client.FlushAll(t.Context()).Err()) },
		},
		{
			name: "restarted empty at once", full: 5 * time.Second, short: 3 * time.Second,
			begin: func(c *faultCluster) { c.redis.Restart() },
		},
		{
			name: "pub/sub connections killed every 200 ms", full: 10 * time.Second, short: 4 * time.Second,
			begin: func(c *faultCluster) {
				go func() {
					for {
						select {
						case <-c.stop:
							return
						case <-time.After(ms(200)):
							_ = c.client.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err() // 0 killed is no error
						}
					}
				}()
			},
			end: func(c *faultCluster) { close(c.stop) },
		},
		{
			name: "every reply 60 ms late", full: 10 * time.Second, short: 4 * time.Second,
			begin: func(c *faultCluster) { c.slow.delay.Store(int64(60 * time.Millisecond)) },
			end:   func(c *faultCluster) { c.slow.delay.Store(0) },
		},
		{
			name: "every reply 400 ms late", isolates: true, full: 10 * time.Second, short: 5 * time.Second,
			begin: func(c *faultCluster) { c.slow.delay.Store(int64(400 * time.Millisecond)) },
			end:   func(c *faultCluster) { c.slow.delay.Store(0) },
		},
	}
}

func TestBreakersThroughFaultsOfRedis(t *testing.T) {
	for i, f := range faults(t) {
		t.Run(f.name, func(t *testing.T) {
			if !measuring {
				t.Parallel()
			}
			server := redistest.Start(t)
			slow := newSlowReplies(t, server.Addr())
			absent := i == 0
			if absent {
				server.Kill()
			}
			c := &faultCluster{
				cluster: newCluster(t, server, "redis://"+slow.listener.Addr().String(), 3), slow: slow,
				client: redis.NewClient(&redis.Options{Addr: server.Addr()}), stop: make(chan struct{}),
			}
			defer func() { _ = c.client.Close() }()
			c.run(t, f, absent)
		})
	}
}

// run is one fault under load, and what must be true during and after it.
func (c *faultCluster) run(t *testing.T, f fault, absent bool) {
	if !absent {
		c.awaitShared(t)
	}
	l := c.startLoad()
	time.Sleep(pick(5*time.Second, time.Second)) // the length of the phase to compare with
	calm := l.phase()
	f.begin(c)
	if f.isolates {
		for _, g := range c.gateways {
			require.Eventually(t, func() bool { return g.status(t).Mode == "local" }, 10*time.Second, ms(10), "on its own")
		}
		// On its own a gateway opens by what it alone has seen.
		for range 3 {
			c.gateways[0].fail(t, "/alone/")
		}
		status, _ := c.gateways[0].get(t, "/alone/", false)
		require.Equal(t, http.StatusServiceUnavailable, status)
		status, _ = c.gateways[1].get(t, "/alone/", false)
		require.Equal(t, http.StatusOK, status)
	}
	time.Sleep(pick(f.full, f.short)) // how long the fault lasts
	during := l.phase()
	if f.end != nil {
		f.end(c)
	}
	l.end()
	agreed := c.awaitShared(t)
	require.Empty(t, l.wrong, "requests answered wrongly, of %d", l.sent)
	require.LessOrEqual(t, agreed, pick(7*time.Second, 25*time.Second))
	if f.isolates {
		for _, g := range c.gateways {
			require.Eventually(t, func() bool { return g.status(t).state("alone") == "open" }, 10*time.Second, ms(10), "merged")
		}
	}
	// And the breakers work as before: one failure at each opens all.
	for _, g := range c.gateways {
		g.fail(t, "/shared/")
	}
	for _, g := range c.gateways {
		_, err := g.awaitRefusal("/shared/")
		require.NoError(t, err)
	}
	p99Calm, p99During := percentile(calm, 0.99), percentile(during, 0.99)
	t.Logf("%d requests, none wrong; p99 %v before, %v during; all agree %v after", l.sent, p99Calm, p99During, agreed)
	if measuring {
		require.LessOrEqual(t, p99During-p99Calm, 30*time.Millisecond, "added by the fault")
	}
	reportFault(f.name, l.sent, len(l.wrong), p99Calm, p99During, agreed)
}
