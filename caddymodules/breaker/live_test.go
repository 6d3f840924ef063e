package breaker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/caddymodules/breaker"
	_ "github.com/tenantgate/tenantgate/caddymodules/handover"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/problem"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(problemHandler{})
	caddy.RegisterModule(new(testSource))
	httpcaddyfile.RegisterHandlerDirective("test_problem", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return problemHandler{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_problem", httpcaddyfile.Before, "respond")
	os.Exit(m.Run())
}

// problemHandler writes the problem that an error carries, as the module
// problem_details does.
type problemHandler struct{}

func (problemHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_problem", New: func() caddy.Module { return problemHandler{} }}
}

func (problemHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	err, _ := r.Context().Value(caddyhttp.ErrorCtxKey).(error)
	return problem.From(err).Write(w, "")
}

// testSource makes new upstreams for every request, as the sources of Caddy do.
type testSource struct {
	Addresses []string `json:"addresses"`
}

func (*testSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.upstreams.test", New: func() caddy.Module { return new(testSource) }}
}

func (s *testSource) GetUpstreams(*http.Request) (pool []*reverseproxy.Upstream, err error) {
	for _, address := range s.Addresses {
		pool = append(pool, &reverseproxy.Upstream{Dial: address})
	}
	return pool, nil
}

// gate is a running Caddy with one site on a Unix socket, and a client for it.
type gate struct {
	client *http.Client
	clock  *clock.Fake
	socket string
	log    string
	global string // more global options
}

// newGate prepares a Caddy whose breakers live in the time of a fake clock.
func newGate(t *testing.T) *gate {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // t.TempDir can be too long for a socket
	require.NoError(t, err)
	g := &gate{
		clock:  clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)),
		socket: filepath.Join(dir, "s"),
		log:    filepath.Join(dir, "log"),
	}
	release, err := breaker.UseClock(g.clock)
	require.NoError(t, err)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.socket)
		},
		MaxIdleConnsPerHost: 500,
	}
	g.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		require.NoError(t, caddy.Stop())
		release()
		require.Zero(t, breaker.RegistriesInUse())
		_ = os.RemoveAll(dir)
	})
	return g
}

// config returns the JSON for a site with this body. With handover, requests
// after a load meet the new server only.
func (g *gate) config(t testing.TB, site string) []byte {
	t.Helper()
	caddyfile := fmt.Sprintf("{\n admin off\n persist_config off\n auto_https off\n log {\n output file %s\n format json\n }\n servers {\n listener_wrappers {\n handover {\n settle 1ms\n }\n }\n }\n %s\n}\nhttp:// {\n bind unix/%s\n log\n %s\n}\n",
		g.log, g.global, g.socket, site)
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	require.NoError(t, err)
	return out
}

// load runs the site, in the place of the one before.
func (g *gate) load(t testing.TB, site string) {
	t.Helper()
	require.NoError(t, caddy.Load(g.config(t, site), true))
	g.client.CloseIdleConnections() // the old server may not have closed them yet
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (g *gate) do(t testing.TB, method, path, body string) answer {
	t.Helper()
	a, err := g.try(method, path, body)
	require.NoError(t, err)
	return a
}

func (g *gate) get(t testing.TB, path string) answer {
	t.Helper()
	return g.do(t, http.MethodGet, path, "")
}

// try is do for goroutines other than the test's. Go's server drops a request
// that it reads just as Shutdown begins (net/http, conn.serve), and this gate's
// handover waits 1ms for that only; nor does Go's client survive every
// CloseIdleConnections beside it. Such a request is sent again.
func (g *gate) try(method, path, body string) (a answer, err error) {
	for range 20 {
		a, err = g.once(method, path, body)
		if !dropped(err) {
			return a, err
		}
	}
	return a, err
}

// dropped reports whether a connection ended before any byte of an answer.
func dropped(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
		err != nil && strings.HasSuffix(err.Error(), "http: CloseIdleConnections called")
}

func (g *gate) once(method, path, body string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, "http://gate"+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := g.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(content)}, err
}

// lines returns the log lines with this message once there are at least n.
func (g *gate) lines(t testing.TB, message string, n int) (found []map[string]any) {
	t.Helper()
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(g.log)
		require.NoError(t, err)
		found = nil
		for line := range bytes.Lines(content) {
			var fields map[string]any
			if json.Unmarshal(line, &fields) == nil && fields["msg"] == message {
				found = append(found, fields)
			}
		}
		return len(found) >= n
	}, 5*time.Second, 5*time.Millisecond, "log line %q", message)
	return found
}

// faulty is an upstream that fails on demand: ?status=500 or, for all, fail.
type faulty struct {
	*httptest.Server
	hits atomic.Int64
	fail atomic.Bool
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.hits.Add(1)
	status := http.StatusOK
	if f.fail.Load() {
		status = http.StatusInternalServerError
	}
	_, _ = fmt.Sscan(r.URL.Query().Get("status"), &status)
	w.WriteHeader(status)
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	f := new(faulty)
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// addr returns host:port.
func (f *faulty) addr() string { return f.Listener.Addr().String() }

func TestThreeFailuresAndTheFourthRequestIsRefusedWithoutReachingTheUpstream(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr())
	require.Equal(t, "hello", g.do(t, "POST", "/", "hello").body)
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	g.clock.Advance(30*time.Second + 1)
	for range 5 {
		a := g.get(t, "/")
		require.Equal(t, 503, a.status)
		require.Equal(t, "90", a.header.Get("Retry-After"))
	}
	require.Equal(t, int64(4), up.hits.Load())

	g.clock.Advance(90 * time.Second)
	require.Equal(t, 200, g.get(t, "/").status)
	require.Equal(t, 200, g.get(t, "/").status)

	opened := g.lines(t, "circuit opened", 1)
	require.Len(t, opened, 1)
	require.Equal(t, "warn", opened[0]["level"])
	require.Equal(t, "billing", opened[0]["breaker"])
	require.Equal(t, up.addr(), opened[0]["upstream"])
	require.InDelta(t, 3, opened[0]["failures"], 0)
	require.InDelta(t, 120_000, opened[0]["open_ms"], 0)
	failed := g.lines(t, "upstream failed", 3)
	require.Len(t, failed, 3)
	for _, line := range failed {
		require.Equal(t, "billing", line["breaker"])
		require.Equal(t, up.addr(), line["upstream"])
		require.InDelta(t, 500, line["status"], 0)
		require.Equal(t, "status", line["reason"])
	}
	require.Len(t, g.lines(t, "request blocked", 1), 1, "one a second at most")
	half := g.lines(t, "circuit half-open", 1)
	require.InDelta(t, 4, half[0]["suppressed"], 0, "and the others are counted")
	require.Len(t, g.lines(t, "circuit closed", 1), 1)
	for _, line := range g.lines(t, "handled request", 11) {
		require.Equal(t, "billing", line["breaker"])
		require.Equal(t, up.addr(), line["upstream"])
	}
}

func TestARefusalIsAProblemForHandleErrors(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr()+"\n handle_errors {\n test_problem\n }")
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	a := g.get(t, "/")
	require.Equal(t, 503, a.status)
	require.Equal(t, "120", a.header.Get("Retry-After"))
	require.JSONEq(t, `{"type":"urn:tenantgate:problem:circuit-open","code":"circuit-open","title":"Service Unavailable","status":503,
		"detail":"The service behind this address is not available and gets no requests for now; try again in 120 s.","retry_after":120}`, a.body)

	g.load(t, "breaker_proxy billing "+up.addr()+"\n handle_errors {\n respond \"{err.status_code} {err.message}\" 503\n }")
	a = g.get(t, "/")
	require.Equal(t, "120", a.header.Get("Retry-After"))
	require.Contains(t, a.body, "503 circuit-open: ")
}

func TestAFailingUpstreamIsAvoidedAndTheOthersServe(t *testing.T) {
	for _, policy := range []string{"", "lb_policy round_robin", "lb_policy first", "lb_policy least_conn", "lb_policy random_choose 2", "lb_policy cookie", "lb_policy uri_hash"} {
		t.Run(policy, func(t *testing.T) {
			g, bad, good := newGate(t), newFaulty(t), newFaulty(t)
			bad.fail.Store(true)
			g.load(t, "breaker_proxy billing "+bad.addr()+" "+good.addr()+" {\n "+policy+"\n }")
			for i := range 200 {
				if bad.hits.Load() < 3 {
					g.get(t, fmt.Sprint("/", i))
				}
			}
			require.Equal(t, int64(3), bad.hits.Load())
			for i := range 50 {
				require.Equal(t, 200, g.do(t, "POST", fmt.Sprint("/", i), "x").status)
			}
			require.Equal(t, int64(3), bad.hits.Load())
			bad.fail.Store(false)
			g.clock.Advance(2 * time.Minute)
			for i := range 200 {
				require.Equal(t, 200, g.get(t, fmt.Sprint("/", i)).status)
			}
			require.Greater(t, bad.hits.Load(), int64(3), "it came back")
		})
	}
}

func TestWhenAllCircuitsAreOpenRetryAfterIsTheShortestWait(t *testing.T) {
	g, first, second := newGate(t), newFaulty(t), newFaulty(t)
	for _, retries := range []string{"", "lb_retries 2"} {
		g.load(t, "breaker_proxy billing "+first.addr()+" "+second.addr()+" {\n lb_policy first\n "+retries+"\n }")
		if retries == "" {
			first.fail.Store(true)
			second.fail.Store(true)
			for range 3 {
				g.get(t, "/")
			}
			g.clock.Advance(20 * time.Second)
			for range 3 {
				g.get(t, "/")
			}
		}
		a := g.get(t, "/")
		require.Equal(t, 503, a.status)
		require.Equal(t, "100", a.header.Get("Retry-After"))
	}
	require.Equal(t, int64(3), first.hits.Load())
	require.Equal(t, int64(3), second.hits.Load())
}

func TestARetryGoesToTheHealthyUpstream(t *testing.T) {
	g, good := newGate(t), newFaulty(t)
	dead := newFaulty(t)
	dead.Close()
	g.load(t, "breaker_proxy billing "+dead.addr()+" "+good.addr()+" {\n lb_policy first\n lb_retries 1\n }")
	// Caddy's policy first retries at the first; the third failure opens its circuit.
	require.Equal(t, 502, g.do(t, "POST", "/", "body").status)
	for range 10 {
		a := g.do(t, "POST", "/", "body")
		require.Equal(t, 200, a.status)
		require.Equal(t, "body", a.body)
		require.Empty(t, a.header.Get("Retry-After"))
	}
	failed := g.lines(t, "upstream failed", 3)
	require.Len(t, failed, 3, "the attempts, not the requests")
	require.Equal(t, "dial", failed[0]["reason"])
	require.Len(t, g.lines(t, "circuit opened", 1), 1)
}

func TestTheTransportAloneStillLetsCaddyRetryElsewhere(t *testing.T) {
	g, bad, good := newGate(t), newFaulty(t), newFaulty(t)
	bad.fail.Store(true)
	g.load(t, "reverse_proxy "+bad.addr()+" "+good.addr()+" {\n lb_policy round_robin\n lb_retries 1\n transport breaker billing\n }")
	for range 6 {
		g.get(t, "/")
	}
	require.Equal(t, int64(3), bad.hits.Load())
	for range 10 {
		require.Equal(t, 200, g.do(t, "POST", "/", "x").status)
	}
}

// blocking is an upstream that answers when it is told to.
func blocking(t *testing.T) (addr string, hits *atomic.Int64, release chan int) {
	t.Helper()
	hits, release = new(atomic.Int64), make(chan int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.WriteHeader(<-release)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), hits, release
}

func TestExactlyOneProbeReachesAHalfOpenUpstream(t *testing.T) {
	g := newGate(t)
	addr, hits, release := blocking(t)
	g.load(t, "breaker_proxy billing "+addr)
	fail := func() {
		go func() { release <- 500 }()
		require.Equal(t, 500, g.get(t, "/").status)
	}
	for range 3 {
		fail()
	}
	for round := range int64(3) {
		g.clock.Advance(2 * time.Minute)
		statuses := make(chan int, 100)
		for range 100 {
			go func() {
				a, err := g.try("GET", "/", "")
				if err != nil || a.status == 503 && a.header.Get("Retry-After") == "" {
					a.status = -1
				}
				statuses <- a.status
			}()
		}
		for range 99 {
			require.Equal(t, 503, <-statuses)
		}
		release <- 500
		require.Equal(t, 500, <-statuses)
		require.Equal(t, 4+round, hits.Load())
	}
}

func TestAProbeCostsNobodyHisAnswerWhileAnotherUpstreamIsHealthy(t *testing.T) {
	g, good := newGate(t), newFaulty(t)
	addr, hits, release := blocking(t)
	g.load(t, "breaker_proxy billing "+addr+" "+good.addr()+" {\n lb_policy first\n }")
	for range 3 {
		go func() { release <- 500 }()
		require.Equal(t, 500, g.get(t, "/").status)
	}
	g.clock.Advance(2 * time.Minute)
	statuses := make(chan int, 100)
	for range 100 {
		go func() {
			a, err := g.try("POST", "/", "x")
			if err != nil {
				a.status = -1
			}
			statuses <- a.status
		}()
	}
	for range 99 {
		require.Equal(t, 200, <-statuses)
	}
	require.Equal(t, int64(99), good.hits.Load())
	release <- 201
	require.Equal(t, 201, <-statuses)
	require.Equal(t, int64(4), hits.Load())
}

func TestWhatCountsAsAFailure(t *testing.T) {
	hang := make(chan struct{})
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		case "/reset":
			conn, _, _ := w.(http.Hijacker).Hijack()
			_ = conn.Close()
		case "/grpc":
			w.Header().Set("Grpc-Status", "14")
		}
	}))
	t.Cleanup(func() { close(hang); plain.Close() })
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	h2c := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grpc-Status", r.URL.Query().Get("grpc"))
		w.Header().Set("X-Proto", r.Proto)
	}))
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)

	for name, c := range map[string]struct {
		upstream, path, reason string
		status                 int
	}{
		"no answer in time":         {plain.Listener.Addr().String(), "/hang", "timeout", 504},
		"connection broken":         {plain.Listener.Addr().String(), "/reset", "connection", 502},
		"dial refused":              {"127.0.0.1:1", "/", "dial", 502},
		"bad certificate":           {"https://" + secure.Listener.Addr().String(), "/", "tls", 502},
		"TLS to a plain port":       {"https://" + plain.Listener.Addr().String(), "/", "tls", 502},
		"gRPC call is UNAVAILABLE":  {"h2c://" + h2c.Listener.Addr().String(), "/?grpc=14", "grpc status", 200},
		"a status of the list":      {newFaulty(t).addr(), "/?status=502", "status", 502},
		"another status, 429":       {newFaulty(t).addr(), "/?status=429", "status", 429},
		"and one by its class, 599": {newFaulty(t).addr(), "/?status=599", "status", 599},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t)
			g.load(t, "breaker_proxy billing "+c.upstream+" {\n breaker {\n failures 2\n response_timeout 50ms\n failure_status 5xx 429\n }\n }")
			require.Equal(t, c.status, g.get(t, c.path).status)
			require.Equal(t, c.status, g.get(t, c.path).status)
			a := g.get(t, c.path)
			require.Equal(t, 503, a.status)
			require.Equal(t, "120", a.header.Get("Retry-After"))
			require.Equal(t, c.reason, g.lines(t, "upstream failed", 2)[0]["reason"])
		})
	}
}

func TestAnUpstreamThatAcceptsButNeverShakesHandsIsCutOff(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	g := newGate(t)
	g.load(t, "breaker_proxy billing https://"+listener.Addr().String()+" {\n breaker {\n failures 1\n }\n transport http {\n tls_timeout 50ms\n }\n }")
	require.Equal(t, 504, g.get(t, "/").status)
	require.Equal(t, 503, g.get(t, "/").status)
}

func TestWhatDoesNotCount(t *testing.T) {
	g := newGate(t)
	arrived := make(chan struct{}, 100)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			arrived <- struct{}{}
			<-r.Context().Done()
			return
		}
		status := http.StatusOK
		_, _ = fmt.Sscan(r.URL.Query().Get("status"), &status)
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			status = http.StatusInternalServerError
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(up.Close)
	addr := up.Listener.Addr().String()
	g.load(t, "request_body {\n max_size 1KB\n }\n breaker_proxy billing "+addr+" {\n breaker {\n failures 1\n }\n }")
	require.Equal(t, 200, g.get(t, "/").status)

	t.Run("a client that goes away", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gate/wait", nil)
		require.NoError(t, err)
		go func() { <-arrived; cancel() }()
		_, err = g.client.Do(r)
		require.ErrorIs(t, err, context.Canceled)
		g.lines(t, "handled request", 2)
		require.Equal(t, 200, g.get(t, "/").status)
	})
	t.Run("statuses that say the client is wrong", func(t *testing.T) {
		for _, status := range []int{400, 401, 403, 404, 408, 418, 429, 499, 501, 505} {
			require.Equal(t, status, g.get(t, fmt.Sprint("/?status=", status)).status)
		}
		require.Equal(t, 200, g.get(t, "/").status)
	})
	t.Run("a body that ends before its length", func(t *testing.T) {
		conn, err := net.Dial("unix", g.socket)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 100\r\n\r\nshort")
		require.NoError(t, err)
		require.NoError(t, conn.(*net.UnixConn).CloseWrite())
		_, _ = io.Copy(io.Discard, conn)
		require.NoError(t, conn.Close())
		require.Equal(t, 200, g.get(t, "/").status)
	})
	t.Run("a body that is chunked wrongly", func(t *testing.T) {
		conn, err := net.Dial("unix", g.socket)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
		require.NoError(t, err)
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.Equal(t, 200, g.get(t, "/").status)
	})
	t.Run("a body that is too large", func(t *testing.T) {
		a, err := g.try("POST", "/", strings.Repeat("x", 5000))
		require.NoError(t, err)
		require.NotEqual(t, 200, a.status)
		require.Equal(t, 200, g.get(t, "/").status)
	})
	content, err := os.ReadFile(g.log)
	require.NoError(t, err)
	require.NotContains(t, string(content), "circuit opened")
	require.NotContains(t, string(content), "upstream failed")
}

func TestAnUpstreamThatBreaksOffWhileABodyIsSentIsAFailure(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1000))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	g := newGate(t)
	g.load(t, "breaker_proxy billing "+listener.Addr().String()+" {\n breaker {\n failures 1\n }\n }")
	require.Equal(t, 502, g.do(t, "POST", "/", strings.Repeat("x", 200_000)).status)
	require.Equal(t, 503, g.get(t, "/").status)
}

func TestAnUpstreamThatStopsTakingTheBodyIsATimeout(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, reads never
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	g := newGate(t)
	g.load(t, "breaker_proxy billing "+listener.Addr().String()+" {\n breaker {\n failures 1\n response_timeout 100ms\n }\n }")
	reader, writer := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gate/", reader)
	require.NoError(t, err)
	go func() {
		for {
			if _, err := writer.Write(make([]byte, 100_000)); err != nil {
				return
			}
		}
	}()
	res, err := g.client.Do(r)
	if err == nil { // else the gate hung up on the endless body before the client saw its answer
		require.Equal(t, 504, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
	_ = writer.Close()
	failed := g.lines(t, "upstream failed", 1)
	require.Equal(t, "timeout", failed[0]["reason"])
	require.Equal(t, "upstream stopped reading the request", failed[0]["error"])
	require.Equal(t, 503, g.get(t, "/").status)
}

func TestASlowClientIsNotTheUpstreamsFault(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n failures 1\n response_timeout 50ms\n }\n }")
	reader, writer := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gate/", reader)
	require.NoError(t, err)
	go func() {
		for range 4 {
			_, _ = writer.Write([]byte("slow "))
			timer := time.NewTimer(80 * time.Millisecond)
			<-timer.C
		}
		_ = writer.Close()
	}()
	res, err := g.client.Do(r)
	require.NoError(t, err)
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "slow slow slow slow ", string(content))
	require.Equal(t, 200, g.get(t, "/").status)
}

func TestStreamsPassUntouched(t *testing.T) {
	g := newGate(t)
	next := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			conn, rw, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			line, _ := rw.ReadString('\n')
			_, _ = io.WriteString(conn, "echo "+line)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	}))
	t.Cleanup(up.Close)
	g.load(t, "breaker_proxy billing "+up.Listener.Addr().String()+" {\n breaker {\n response_timeout 100ms\n failures 1\n }\n }")

	t.Run("server-sent events longer than the response timeout", func(t *testing.T) {
		res, err := g.client.Get("http://gate/")
		require.NoError(t, err)
		defer res.Body.Close()
		lines := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
			timer := time.NewTimer(60 * time.Millisecond)
			<-timer.C
			next <- struct{}{}
		}
	})
	t.Run("an upgraded connection", func(t *testing.T) {
		conn, err := net.Dial("unix", g.socket)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		res, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		require.Equal(t, 101, res.StatusCode)
		_, err = io.WriteString(conn, "hello\n")
		require.NoError(t, err)
		line, err := reader.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "echo hello\n", line)
		require.NoError(t, conn.Close())
		g.lines(t, "handled request", 2) // the tunnel is gone: closing one while it copies is a data race in Caddy 2.11.9
	})
	require.Empty(t, g.lines(t, "upstream failed", 0))
}

func TestTLSAndH2CUpstreams(t *testing.T) {
	answerProto := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.Header.Get("X-Gateway-Secret"))
	})
	secure := httptest.NewUnstartedServer(answerProto)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	h2c := httptest.NewUnstartedServer(answerProto)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)

	g := newGate(t)
	t.Setenv("GATEWAY_SECRET", "s3cret")
	g.load(t, `breaker_proxy /tls a https://`+secure.Listener.Addr().String()+` {
		transport http {
			tls_insecure_skip_verify
		}
		header_up X-Gateway-Secret {env.GATEWAY_SECRET}
	}
	breaker_proxy /h2c b h2c://`+h2c.Listener.Addr().String()+`
	reverse_proxy /plain https://`+secure.Listener.Addr().String()+` {
		transport breaker c {
			tls_insecure_skip_verify
		}
	}`)
	require.Equal(t, "HTTP/2.0 s3cret", g.get(t, "/tls").body)
	require.Equal(t, "HTTP/2.0 ", g.get(t, "/h2c").body)
	require.Equal(t, "HTTP/2.0 ", g.get(t, "/plain").body)
}

func TestAReloadKeepsTheCircuitAndTheTimeLeft(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr())
	for range 2 {
		g.get(t, "/?status=500")
	}
	g.load(t, "breaker_proxy billing "+up.addr()+" {\n header_up X-A b\n }")
	g.get(t, "/?status=500")
	g.clock.Advance(20 * time.Second)
	g.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n failures 2\n open 10s\n }\n }")
	a := g.get(t, "/")
	require.Equal(t, 503, a.status)
	require.Equal(t, "100", a.header.Get("Retry-After"), "an open period that began stays as it is")
	g.clock.Advance(100 * time.Second)
	require.Equal(t, 200, g.get(t, "/").status)

	g.get(t, "/?status=500")
	g.get(t, "/?status=500")
	require.Equal(t, "10", g.get(t, "/").header.Get("Retry-After"), "the new settings")

	g.load(t, "breaker_proxy other "+up.addr())
	require.Equal(t, 200, g.get(t, "/").status, "another name is another breaker")
}

func TestARequestUnderWayDuringAReloadStillCounts(t *testing.T) {
	g := newGate(t)
	addr, hits, release := blocking(t)
	site := "breaker_proxy billing " + addr + " {\n breaker {\n failures 1\n }\n }"
	g.load(t, site)
	done := make(chan answer)
	go func() {
		a, _ := g.try("GET", "/", "")
		done <- a
	}()
	require.Eventually(t, func() bool { return hits.Load() == 1 }, 5*time.Second, time.Millisecond)
	g.load(t, site)
	g.load(t, site)
	release <- 500
	require.Equal(t, 500, (<-done).status)
	require.Equal(t, 503, g.get(t, "/").status)
}

func TestAConfigurationThatDoesNotComeUpChangesNothing(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr())
	for range 2 {
		g.get(t, "/?status=500")
	}
	bad := g.config(t, "breaker_proxy /a billing "+up.addr()+"\n breaker_proxy /b billing "+up.addr()+" {\n breaker {\n failures 1\n }\n }")
	err := caddy.Load(bad, true)
	require.ErrorContains(t, err, `breaker "billing" has different settings in two places; give it the same ones or another name`)
	require.Equal(t, 500, g.get(t, "/?status=500").status)
	require.Equal(t, "120", g.get(t, "/").header.Get("Retry-After"))
}

func TestActiveHealthChecksPassAnOpenCircuit(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr()+" {\n health_uri /health\n health_interval 20ms\n }")
	for range 3 {
		g.get(t, "/?status=500")
	}
	require.Equal(t, 503, g.get(t, "/").status)
	before := up.hits.Load()
	require.Eventually(t, func() bool { return up.hits.Load() > before+2 }, 5*time.Second, time.Millisecond)
	require.Equal(t, 503, g.get(t, "/").status)
}

func TestShadowModeRefusesNothing(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, "breaker_proxy billing "+up.addr()+" {\n breaker {\n mode shadow\n }\n }")
	for range 20 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	require.Equal(t, "shadow", g.lines(t, "circuit opened", 1)[0]["mode"])
	require.Len(t, g.lines(t, "request would have been blocked", 1), 1)
	require.Len(t, g.lines(t, "upstream failed", 3), 3, "what enforcing would not have sent does not count")
}

func TestAddressesFromPlaceholdersHaveCircuitsOfTheirOwn(t *testing.T) {
	g, bad, good := newGate(t), newFaulty(t), newFaulty(t)
	bad.fail.Store(true)
	g.load(t, "breaker_proxy billing 127.0.0.1:{query.port}")
	_, badPort, _ := net.SplitHostPort(bad.addr())
	_, goodPort, _ := net.SplitHostPort(good.addr())
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?port="+badPort).status)
	}
	require.Equal(t, 503, g.get(t, "/?port="+badPort).status)
	require.Equal(t, 200, g.get(t, "/?port="+goodPort).status)
}

func TestDynamicUpstreamsAreGuardedByAddress(t *testing.T) {
	g, bad, good := newGate(t), newFaulty(t), newFaulty(t)
	bad.fail.Store(true)
	config := string(g.config(t, "breaker_proxy billing 127.0.0.1:1"))
	source := fmt.Sprintf(`"dynamic_upstreams":{"source":"test","addresses":[%q,%q]}`, bad.addr(), good.addr())
	config = strings.Replace(config, `"upstreams":[{"dial":"127.0.0.1:1"}]`, source, 1)
	require.Contains(t, config, source)
	require.NoError(t, caddy.Load([]byte(config), true))
	for bad.hits.Load() < 3 {
		g.get(t, "/")
	}
	for range 30 {
		require.Equal(t, 200, g.get(t, "/").status)
	}
	require.Equal(t, int64(3), bad.hits.Load())
}

func TestTheJSONInTheREADMELoads(t *testing.T) {
	g := newGate(t)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, example, _ := strings.Cut(string(readme), "```json\n")
	example, _, _ = strings.Cut(example, "```")
	config := string(g.config(t, "respond 200"))
	respond := `[{"handler":"static_response","status_code":200}]`
	require.Contains(t, config, respond)
	require.NoError(t, caddy.Load([]byte(strings.Replace(config, respond, example, 1)), true))
}

func TestMistakesInJSONAreFoundAtLoad(t *testing.T) {
	g := newGate(t)
	for want, change := range map[string][2]string{
		`"a/b" is not a breaker name`:      {`"name":"billing","policy"`, `"name":"a/b","policy"`},
		`"" is not a breaker name`:         {`"name":"billing","protocol"`, `"protocol"`},
		`failures is -1, must be`:          {`"name":"billing","protocol"`, `"name":"billing","breaker":{"failures":-1},"protocol"`},
		`mode is "dry"`:                    {`"name":"billing","protocol"`, `"name":"billing","breaker":{"mode":"dry"},"protocol"`},
		`failure_status 999 is not`:        {`"name":"billing","protocol"`, `"name":"billing","breaker":{"failure_status":[999]},"protocol"`},
		`unknown field "nonsense"`:         {`"name":"billing","protocol"`, `"name":"billing","nonsense":1,"protocol"`},
		`weighted_round_robin can't be`:    {`"policy":"breaker"`, `"policy":"breaker","inner":{"policy":"cookie","fallback":{"policy":"weighted_round_robin"}}`},
		`loading inner selection policy: `: {`"policy":"breaker"`, `"policy":"breaker","inner":{"policy":"nonsense"}`},
	} {
		config := string(g.config(t, "breaker_proxy billing 127.0.0.1:1"))
		require.Contains(t, config, change[0])
		require.ErrorContains(t, caddy.Load([]byte(strings.Replace(config, change[0], change[1], 1)), true), want)
	}
	require.Equal(t, 1, breaker.RegistriesInUse(), "modules that didn't come up left nothing")
}

func TestFiftyReloadsUnderLoadKeepEveryCircuit(t *testing.T) {
	g, up, dead := newGate(t), newFaulty(t), newFaulty(t)
	dead.fail.Store(true)
	site := func(i int) string {
		return fmt.Sprintf("breaker_proxy /dead billing %s {\n breaker {\n window %ds\n }\n }\n breaker_proxy other %s {\n header_up X-I %d\n }", dead.addr(), 60+i, up.addr(), i)
	}
	g.load(t, site(0))
	for range 3 {
		g.get(t, "/dead")
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var served atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a, err := g.try("GET", "/", ""); err == nil && a.status == 200 {
					served.Add(1)
				} else {
					t.Errorf("a good upstream: status %d, %v", a.status, err)
				}
				if a, err := g.try("GET", "/dead", ""); err != nil || a.status != 503 || a.header.Get("Retry-After") != "120" {
					t.Errorf("an open circuit: status %d, Retry-After %q, %v", a.status, a.header.Get("Retry-After"), err)
				}
			}
		})
	}
	for i := range 50 {
		g.load(t, site(i+1))
	}
	close(stop)
	wg.Wait()
	require.Positive(t, served.Load())
	require.Equal(t, int64(3), dead.hits.Load())
}

// Go's transport drops a response without a body whose connection is closed as
// idle before the caller has it (net/http, persistConn.readLoop). Cleanup at
// that very moment must not.
func TestCleanupWaitsForRequestsUnderWay(t *testing.T) {
	var open atomic.Int64
	up := httptest.NewUnstartedServer(new(faulty))
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	up.Start()
	t.Cleanup(up.Close)
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	require.NoError(t, err)
	module, err := ctx.LoadModuleByID("http.reverse_proxy.transport.breaker", json.RawMessage(`{"name":"billing"}`))
	require.NoError(t, err)
	transport := module.(*breaker.Transport)
	returned := make(chan struct{})
	traced := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{PutIdleConn: func(error) {
		_ = transport.Cleanup() // its error is none
		select {                // until the request has failed, or will not
		case <-returned:
		case <-time.After(100 * time.Millisecond):
		}
	}})
	r, err := http.NewRequestWithContext(context.WithValue(traced, caddy.ReplacerCtxKey, caddy.NewReplacer()), http.MethodGet, up.URL, http.NoBody)
	require.NoError(t, err)
	res, err := transport.RoundTrip(r)
	close(returned)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, 200, res.StatusCode)
	require.Eventually(t, func() bool { return open.Load() == 0 }, 4*time.Second, time.Millisecond, "the last request closes what is idle")
}

func TestFiftyReloadsLeaveNoGoroutine(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	run := func(loads int) {
		for i := range loads {
			g.load(t, fmt.Sprintf("breaker_proxy billing %s {\n header_up X-I %d\n health_uri /\n health_interval 1h\n }", up.addr(), i))
			require.Equal(t, 200, g.get(t, "/").status)
		}
		g.client.CloseIdleConnections()
		require.NoError(t, caddy.Stop())
	}
	run(2) // what Caddy starts once and keeps
	before := goleak.IgnoreCurrent()
	run(50)
	up.Close()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")) // ends by itself seconds later
}

func TestTheErrorOfARefusalCarriesTheProblemAndIsADialError(t *testing.T) {
	t.Parallel()
	err := breaker.Refusal(90*time.Second + 1)
	var he caddyhttp.HandlerError
	require.ErrorAs(t, err, &he)
	require.Equal(t, 503, he.StatusCode)
	var p *problem.Error
	require.ErrorAs(t, err, &p)
	require.Equal(t, "circuit-open", p.Code)
	require.Equal(t, 503, p.Status)
	require.Equal(t, map[string]any{"retry_after": int64(91)}, p.Extra)
	require.Equal(t, http.Header{"Retry-After": {"91"}}, p.Header)
	require.True(t, breaker.IsDialError(err))
	require.NotErrorIs(t, err, context.Canceled)

	w := httptest.NewRecorder()
	got := breaker.Handler{}.ServeHTTP(w, nil, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return err }))
	require.Equal(t, err, got)
	require.Equal(t, "91", w.Header().Get("Retry-After"))
	w = httptest.NewRecorder()
	other := errors.New("other")
	require.Equal(t, other, breaker.Handler{}.ServeHTTP(w, nil, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return other })))
	require.Empty(t, w.Header())
}
