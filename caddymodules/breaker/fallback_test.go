package breaker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/breaker"
)

// open loads a breaker_proxy with these lines in its breaker block and others
// beside it, and opens its only circuit.
func (g *gate) open(t *testing.T, up *faulty, inside, beside string) {
	t.Helper()
	g.load(t, guardedBy(up, inside, beside))
	for range 3 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
}

func guardedBy(up *faulty, inside, beside string) string {
	return "breaker_proxy billing " + up.addr() + " {\n breaker {\n " + inside + "\n }\n " + beside + "\n }"
}

// standby is an upstream that tells what it got.
type standby struct {
	*httptest.Server
	hits atomic.Int64
	last atomic.Pointer[http.Request]
}

func newStandby(t *testing.T) *standby {
	t.Helper()
	s := new(standby)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *standby) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.hits.Add(1)
	s.last.Store(r)
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Standby", "yes")
	_, _ = fmt.Fprintf(w, "standby %s %s %s", r.Method, r.RequestURI, body)
}

func (s *standby) addr() string { return s.Listener.Addr().String() }

func TestFallbackRespondIsTheAnswerWhileTheCircuitIsOpen(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.open(t, up, "fallback respond 503 \"back soon {http.request.host}\"", "")
	require.Empty(t, g.lines(t, "fallback", 0))
	hits := up.hits.Load()
	g.clock.Advance(20 * time.Second)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		a := g.do(t, method, "/", "")
		require.Equal(t, 503, a.status)
		require.Equal(t, "back soon {http.request.host}", a.body, "no placeholder is expanded")
		require.Equal(t, "100", a.header.Get("Retry-After"))
		require.Equal(t, "text/plain; charset=utf-8", a.header.Get("Content-Type"))
		require.Equal(t, "no-store", a.header.Get("Cache-Control"))
		require.Equal(t, "nosniff", a.header.Get("X-Content-Type-Options"))
	}
	head := g.do(t, http.MethodHead, "/", "")
	require.Equal(t, 503, head.status)
	require.Equal(t, "29", head.header.Get("Content-Length"))
	require.Empty(t, head.body)
	require.Equal(t, "back soon {http.request.host}", g.do(t, "POST", "/", strings.Repeat("x", 1<<20)).body)
	require.Equal(t, hits, up.hits.Load())

	g.clock.Advance(100 * time.Second)
	require.Equal(t, "hello", g.do(t, "POST", "/", "hello").body, "it is over when the circuit closes")
	require.Empty(t, g.get(t, "/").header.Get("Cache-Control"))

	for i, line := range g.lines(t, "handled request", 10) {
		refused := i >= 3 && i < 8
		require.Equal(t, refused, line["fallback"] == true, "line %d", i)
		require.Equal(t, "billing", line["breaker"])
	}
	require.Len(t, g.lines(t, "request blocked", 1), 1)
}

func TestFallbackRespondWithOtherStatuses(t *testing.T) {
	for name, c := range map[string]struct {
		option, body, contentType, length string
		status                            int
	}{
		"a good one has no Retry-After": {"respond 200 `{\"items\":[]}` application/json", `{"items":[]}`, "application/json", "12", 200},
		"one without content":           {"respond 204", "", "", "", 204},
		"one with an empty body":        {"respond 502 \"\"", "", "", "0", 502},
	} {
		t.Run(name, func(t *testing.T) {
			g, up := newGate(t), newFaulty(t)
			g.open(t, up, "fallback "+c.option, "")
			for _, method := range []string{"GET", "HEAD"} {
				a := g.do(t, method, "/", "")
				require.Equal(t, c.status, a.status)
				require.Equal(t, c.contentType, a.header.Get("Content-Type"))
				require.Equal(t, c.length, a.header.Get("Content-Length"))
				require.Empty(t, a.header.Get("Retry-After"))
				if method == "GET" {
					require.Equal(t, c.body, a.body)
				}
			}
		})
	}
}

func TestFallbackFileIsReadWhenTheConfigurationIsLoaded(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	file := filepath.Join(t.TempDir(), "sorry.html")
	require.NoError(t, os.WriteFile(file, []byte("<p>sorry {http.request.host}"), 0o600))
	g.open(t, up, "fallback file "+file, "")
	a := g.get(t, "/")
	require.Equal(t, 503, a.status)
	require.Equal(t, "<p>sorry {http.request.host}", a.body)
	require.Equal(t, "text/html; charset=utf-8", a.header.Get("Content-Type"))
	require.Equal(t, "120", a.header.Get("Retry-After"))
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	require.Equal(t, true, g.lines(t, "handled request", 4)[3]["fallback"])

	require.NoError(t, os.WriteFile(file, []byte("new"), 0o600))
	require.Equal(t, a.body, g.get(t, "/").body)
	g.load(t, guardedBy(up, "fallback file "+file+" 200", ""))
	a = g.get(t, "/")
	require.Equal(t, 200, a.status)
	require.Equal(t, "new", a.body)
	require.Empty(t, a.header.Get("Retry-After"))
	require.NoError(t, os.Remove(file))
	require.Equal(t, "new", g.get(t, "/").body)
	require.Error(t, caddy.Load(g.config(t, guardedBy(up, "fallback file "+file, "")), true))
	require.Equal(t, "new", g.get(t, "/").body, "what does not come up changes nothing")
	require.Equal(t, "3", g.do(t, http.MethodHead, "/", "").header.Get("Content-Length"))
}

func TestFallbackFilePathsStartAtTheWorkingDirectory(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("sorry", bytes.Repeat([]byte("x"), 1<<20), 0o600))
	g.open(t, up, "fallback file sorry", "")
	a := g.get(t, "/")
	require.Len(t, a.body, 1<<20, "1 MiB is just small enough")
	require.Equal(t, "application/octet-stream", a.header.Get("Content-Type"))
}

func TestFallbackFilesThatCannotBeServedAreFoundAtLoad(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, 1<<20+1), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), nil, 0o000))
	cases := map[string]string{
		filepath.Join(dir, "missing"):    "missing does not exist (working directory: ",
		filepath.Join(dir, "large"):      "large is larger than 1 MiB, the most that is kept in memory; give a smaller one",
		dir:                              dir + " is not a regular file; give the path of one",
		"/dev/zero":                      "/dev/zero is not a regular file",
		filepath.Join(dir, "large", "x"): "x is out of reach; correct the path or its permissions",
	}
	if os.Geteuid() != 0 { // who may read everything
		cases[filepath.Join(dir, "secret")] = "secret can't be opened; let the gateway's user read it"
	}
	for path, want := range cases {
		err := caddy.Load(g.config(t, guardedBy(up, "fallback file "+path, "")), true)
		require.ErrorContains(t, err, `fallback of breaker "billing": `)
		require.ErrorContains(t, err, want)
	}
	require.Zero(t, breaker.RegistriesInUse()-1, "modules that didn't come up left nothing")
}

func TestFallbackUpstreamGetsTheRequestAsTheGuardedOneWould(t *testing.T) {
	g, up, other := newGate(t), newFaulty(t), newStandby(t)
	t.Setenv("GATEWAY_SECRET", "s3cret")
	site := "request_header X-User-Id 42\n uri strip_prefix /api\n " + guardedBy(up,
		"fallback upstream "+other.addr(),
		"header_up X-Gateway-Secret {env.GATEWAY_SECRET}\n header_down X-Down yes\n lb_policy first\n lb_retries 1\n health_uri /health\n health_interval 1h")
	g.load(t, site)
	require.Eventually(t, func() bool { return up.hits.Load() == 1 }, 5*time.Second, time.Millisecond, "the first health check")
	for range 3 {
		g.get(t, "/api/?status=500")
	}
	hits := up.hits.Load()
	a := g.do(t, "PUT", "/api/a%2Fb?q=1", "body")
	require.Equal(t, 200, a.status)
	require.Equal(t, "standby PUT /a%2Fb?q=1 body", a.body)
	require.Equal(t, "yes", a.header.Get("X-Standby"))
	require.Equal(t, "yes", a.header.Get("X-Down"))
	require.Empty(t, a.header.Get("Retry-After"))
	require.Empty(t, a.header.Get("Cache-Control"), "it speaks for itself")
	got := other.last.Load()
	require.Equal(t, "gate", got.Host)
	require.Equal(t, []string{"42"}, got.Header["X-User-Id"])
	require.Equal(t, []string{"s3cret"}, got.Header["X-Gateway-Secret"])
	require.Equal(t, []string{"1.1 Caddy"}, got.Header["Via"], "once")
	require.Equal(t, int64(4), got.ContentLength)
	require.Equal(t, hits, up.hits.Load())

	head := g.do(t, http.MethodHead, "/", "")
	require.Equal(t, 200, head.status)
	require.Equal(t, "yes", head.header.Get("X-Standby"))
	require.Empty(t, head.body)

	g.clock.Advance(2 * time.Minute)
	require.Equal(t, "body", g.do(t, "PUT", "/api/", "body").body)
	require.Equal(t, int64(2), other.hits.Load())
	for i, line := range g.lines(t, "handled request", 6) {
		require.Equal(t, i == 3 || i == 4, line["fallback"] == true, "line %d", i)
	}
}

func TestFallbackUpstreamGetsLargeAndUnmeasuredBodies(t *testing.T) {
	g, up, other := newGate(t), newFaulty(t), newStandby(t)
	g.open(t, up, "fallback upstream "+other.addr(), "")
	body := strings.Repeat("0123456789abcdef", 1<<16)
	require.Equal(t, "standby POST / "+body, g.do(t, "POST", "/", body).body)

	r, err := http.NewRequestWithContext(t.Context(), "POST", "http://gate/", io.MultiReader(strings.NewReader(body), strings.NewReader("end")))
	require.NoError(t, err)
	res, err := g.client.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "standby POST / "+body+"end", string(content))
	require.Equal(t, int64(-1), other.last.Load().ContentLength)

	conn, err := net.Dial("unix", g.socket) // the client asks before it sends
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	res, err = http.ReadResponse(reader, nil)
	require.NoError(t, err)
	require.Equal(t, 100, res.StatusCode)
	_, err = io.WriteString(conn, "late")
	require.NoError(t, err)
	for res.StatusCode == 100 { // the upstream says so too
		res, err = http.ReadResponse(reader, nil)
		require.NoError(t, err)
	}
	content, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "standby POST / late", string(content))
}

func TestFallbackUpstreamCarriesUpgradedConnections(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, _ := w.(http.Hijacker).Hijack()
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(conn, "echo "+line)
	}))
	t.Cleanup(echo.Close)
	g.open(t, up, "fallback upstream "+echo.Listener.Addr().String(), "")
	conn, err := net.Dial("unix", g.socket)
	require.NoError(t, err)
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
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
	g.lines(t, "handled request", 4) // the tunnel is gone: closing one while it copies is a data race in Caddy 2.11.9
}

func TestARetryThatIsRefusedLeavesAnUnreadBodyToTheFallback(t *testing.T) {
	g, other := newGate(t), newStandby(t)
	dead := newFaulty(t)
	dead.Close()
	g.load(t, guardedBy(dead, "failures 1\n fallback upstream "+other.addr(), "lb_retries 1"))
	// The first attempt cannot dial and opens the circuit, the second is refused.
	require.Equal(t, "standby POST / body", g.do(t, "POST", "/", "body").body)
	require.Equal(t, "standby GET / ", g.get(t, "/").body)
	require.Len(t, g.lines(t, "upstream failed", 1), 1)
}

func TestABodyThatAnUpstreamReadIsNotSentAgain(t *testing.T) {
	g, other := newGate(t), newStandby(t)
	var got atomic.Int64
	reads := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got.Add(n)
		conn, _, _ := w.(http.Hijacker).Hijack()
		_ = conn.Close()
	}))
	t.Cleanup(reads.Close)
	site := func(more string) string {
		return "breaker_proxy billing " + reads.Listener.Addr().String() + " {\n breaker {\n failures 1\n fallback upstream " + other.addr() +
			"\n }\n lb_retries 1\n lb_retry_match {\n method POST GET\n }\n " + more + "\n }\n handle_errors {\n test_problem\n }"
	}
	g.load(t, site(""))
	a := g.do(t, "POST", "/", "body")
	require.Equal(t, 503, a.status)
	require.Equal(t, "120", a.header.Get("Retry-After"))
	require.Contains(t, a.body, `"code":"circuit-open"`)
	require.Zero(t, other.hits.Load())
	require.Equal(t, int64(4), got.Load())
	require.Nil(t, g.lines(t, "handled request", 1)[0]["fallback"])

	require.Equal(t, "standby POST / body", g.do(t, "POST", "/", "body").body, "the next one is refused at once")
	g.clock.Advance(2 * time.Minute)
	require.Equal(t, "standby GET / ", g.get(t, "/").body, "no body, nothing lost: a retry like any other")

	g.load(t, site("request_buffers 1KB"))
	require.Equal(t, 503, g.do(t, "POST", "/", "body").status, "reverse_proxy has read it into its buffer")
	require.Equal(t, "standby GET / ", g.get(t, "/").body)
}

// net/http may go on reading the body of an attempt that has ended.
func TestTheGuardedUpstreamAndTheFallbackNeverShareABody(t *testing.T) {
	other := newStandby(t)
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
	})
	require.NoError(t, err)
	module, err := ctx.LoadModuleByID("http.handlers.breaker",
		fmt.Appendf(nil, `{"fallback":{"handler":{"handler":"reverse_proxy","upstreams":[{"dial":%q}]}}}`, other.addr()))
	require.NoError(t, err)
	serve := func(attempt func(io.ReadCloser)) (*httptest.ResponseRecorder, io.ReadCloser, error) {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", io.NopCloser(strings.NewReader("body")))
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
		caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, false)
		var body io.ReadCloser
		err := module.(caddyhttp.MiddlewareHandler).ServeHTTP(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			body = r.Body
			attempt(body)
			return breaker.Refusal(time.Second)
		}))
		return w, body, err
	}
	w, late, err := serve(func(io.ReadCloser) {})
	require.NoError(t, err)
	require.Equal(t, "standby POST / body", w.Body.String())
	n, err := late.Read(make([]byte, 10))
	require.Zero(t, n)
	require.ErrorContains(t, err, "belongs to the fallback")
	require.NoError(t, late.Close())

	for name, attempt := range map[string]func(io.ReadCloser){
		"reading":         func(b io.ReadCloser) { _, _ = io.ReadFull(b, make([]byte, 1)) },
		"reading nothing": func(b io.ReadCloser) { _, _ = b.Read(nil) },
		"closing":         func(b io.ReadCloser) { _ = b.Close() },
	} {
		w, late, err := serve(attempt)
		require.Error(t, err, name)
		require.Equal(t, breaker.Refusal(time.Second).Error(), err.Error(), name)
		require.Equal(t, "1", w.Header().Get("Retry-After"), name)
		require.NoError(t, late.Close(), name)
	}
	require.Equal(t, int64(1), other.hits.Load())
}

func TestTheFallbackGetsAWholeBodyOrNone(t *testing.T) {
	g, other := newGate(t), newStandby(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() { // breaks off at a random moment of the request
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	g.load(t, "breaker_proxy billing "+listener.Addr().String()+" {\n breaker {\n failures 1\n open 1s\n fallback upstream "+other.addr()+
		"\n }\n lb_retries 1\n lb_retry_match {\n method POST\n }\n }")
	body := strings.Repeat("0123456789abcdef", 1<<14)
	for range 40 {
		// Of unknown length, so that nobody notices if some is missing.
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://gate/", io.MultiReader(strings.NewReader(body)))
		require.NoError(t, err)
		res, err := g.client.Do(r)
		require.NoError(t, err)
		content, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		if res.StatusCode == 200 {
			require.Equal(t, "standby POST / "+body, string(content))
		} else {
			require.Equal(t, 503, res.StatusCode)
		}
		g.clock.Advance(time.Second)
	}
}

func TestAProbeUnderWayLeavesTheOthersToTheFallback(t *testing.T) {
	g, other := newGate(t), newStandby(t)
	addr, _, release := blocking(t)
	g.load(t, "breaker_proxy billing "+addr+" {\n breaker {\n failures 1\n fallback upstream "+other.addr()+"\n }\n }")
	go func() { release <- 500 }()
	require.Equal(t, 500, g.get(t, "/").status)
	g.clock.Advance(2 * time.Minute)
	bodies := make(chan string, 50)
	for i := range 50 {
		go func() {
			a, err := g.try("POST", fmt.Sprint("/", i), "x")
			if err != nil {
				a.body = err.Error()
			}
			bodies <- a.body
		}()
	}
	for range 49 {
		require.Regexp(t, `^standby POST /\d+ x$`, <-bodies)
	}
	release <- 200
	require.Empty(t, <-bodies)
	require.Equal(t, int64(49), other.hits.Load())
}

func TestAFallbackIsNoErrorForHandleErrors(t *testing.T) {
	g, up, other := newGate(t), newFaulty(t), newStandby(t)
	const errors = "\n handle_errors {\n respond \"handled {err.status_code}\"\n }"
	g.open(t, up, "fallback respond 200 calm", "")
	g.load(t, guardedBy(up, "fallback respond 503 calm", "")+errors)
	require.Equal(t, "calm", g.get(t, "/").body)
	g.load(t, guardedBy(up, "fallback upstream "+other.addr(), "")+errors)
	require.Equal(t, "standby GET / ", g.get(t, "/").body)
	g.load(t, guardedBy(up, "failures 3", "")+errors)
	require.Equal(t, "handled 503", g.get(t, "/").body, "without one it is")
}

func TestWhenTheFallbackUpstreamFailsToo(t *testing.T) {
	g, up, dead := newGate(t), newFaulty(t), newFaulty(t)
	dead.Close()
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(hang); silent.Close() })
	sick := newFaulty(t)
	sick.fail.Store(true)
	g.open(t, up, "fallback respond 200", "")
	for name, c := range map[string]struct {
		addr   string
		status int
	}{
		"it cannot be dialled":      {dead.addr(), 502},
		"it answers with an error":  {sick.addr(), 500},
		"it says nothing, for once": {silent.Listener.Addr().String(), 504},
	} {
		t.Run(name, func(t *testing.T) {
			g.load(t, guardedBy(up, "response_timeout 50ms\n fallback upstream "+c.addr, ""))
			a := g.get(t, "/")
			require.Equal(t, c.status, a.status)
			require.Empty(t, a.header.Get("Retry-After"))
		})
	}
	lines := g.lines(t, "handled request", 6)
	require.Equal(t, true, lines[len(lines)-1]["fallback"])
	require.Len(t, g.lines(t, "upstream failed", 3), 3, "nothing guards the fallback")
}

func TestAFallbackUpstreamMayBeOneOfSeveral(t *testing.T) {
	g, up, other, dead := newGate(t), newFaulty(t), newStandby(t), newFaulty(t)
	dead.Close()
	g.open(t, up, "fallback upstream "+dead.addr()+" "+other.addr(), "lb_retries 20")
	for range 10 {
		require.Equal(t, "standby POST / x", g.do(t, "POST", "/", "x").body)
	}
}

func TestShadowModeNeedsNoFallback(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, guardedBy(up, "mode shadow\n fallback respond 200 calm", ""))
	for range 10 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	require.Len(t, g.lines(t, "request would have been blocked", 1), 1)
	for _, line := range g.lines(t, "handled request", 10) {
		require.NotContains(t, line, "fallback")
	}
}

func TestOtherErrorsAreNotTheFallbacks(t *testing.T) {
	g := newGate(t)
	dead := newFaulty(t)
	dead.Close()
	g.load(t, guardedBy(dead, "fallback respond 200 calm", "")+"\n handle /error {\n error 503\n }")
	require.Equal(t, 502, g.get(t, "/").status)
	require.Equal(t, 503, g.get(t, "/error").status)
}

// fallbackJSON returns the site's JSON with another fallback.
func (g *gate) fallbackJSON(t *testing.T, up *faulty, fallback string) []byte {
	t.Helper()
	config := string(g.config(t, guardedBy(up, "fallback respond 299", "")))
	const old = `"fallback":{"status":299}`
	require.Contains(t, config, old)
	return []byte(strings.Replace(config, old, `"fallback":`+fallback, 1))
}

func TestAnyHandlerCanBeTheFallback(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.open(t, up, "fallback respond 200", "")
	require.NoError(t, caddy.Load(g.fallbackJSON(t, up, `{"handler":{"handler":"subroute","routes":[
		{"match":[{"path":["/hello"]}],"handle":[{"handler":"static_response","status_code":201,"body":"hi {http.request.method}"}]}]}}`), true))
	a := g.get(t, "/hello")
	require.Equal(t, 201, a.status)
	require.Equal(t, "hi GET", a.body)
	require.Empty(t, a.header.Get("Retry-After"))
	a = g.get(t, "/other")
	require.Equal(t, 503, a.status, "it passed the request on")
	require.Equal(t, "120", a.header.Get("Retry-After"))
	lines := g.lines(t, "handled request", 5)
	require.Equal(t, true, lines[3]["fallback"])
	require.Equal(t, false, lines[4]["fallback"])

	require.NoError(t, caddy.Load(g.fallbackJSON(t, up, `{"body":"sorry"}`), true))
	a = g.get(t, "/")
	require.Equal(t, 503, a.status, "the default")
	require.Equal(t, "sorry", a.body)
}

func TestMistakesOfTheFallbackInJSONAreFoundAtLoad(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	for fallback, want := range map[string]string{
		`{}`:                            "it says nothing; give a status and a body, a file or a handler",
		`{"content_type":"text/plain"}`: "it says nothing",
		`{"status":503,"handler":{"handler":"static_response"}}`:                "it says more than one thing",
		`{"content_type":"text/plain","handler":{"handler":"static_response"}}`: "it says more than one thing",
		`{"body":"x","file":"fallback_test.go"}`:                                "it says more than one thing",
		`{"file":"fallback_test.go","handler":{"handler":"static_response"}}`:   "it says more than one thing",
		`{"status":100}`:                                  "status is 100, must be 200 to 599",
		`{"status":204,"body":"x"}`:                       "status 204 allows no content",
		`{"body":"x","content_type":"html"}`:              `content type "html" is not a media type`,
		`{"status":304,"file":"fallback_test.go"}`:        "status 304 allows no content",
		`{"handler":{"handler":"nonsense"}}`:              "loading handler: ",
		`{"handler":{"handler":"breaker","fallback":{}}}`: "fallback: it says nothing",
		`{"nonsense":1}`:                                  `unknown field "nonsense"`,
	} {
		err := caddy.Load(g.fallbackJSON(t, up, fallback), true)
		require.ErrorContains(t, err, want, fallback)
		if !strings.Contains(fallback, "nonsense\":1") {
			require.ErrorContains(t, err, `fallback of breaker "billing": `, fallback)
		}
	}
}

func TestReloadsUnderLoadKeepTheFallback(t *testing.T) {
	g, up, other := newGate(t), newFaulty(t), newStandby(t)
	inside := func(i int) string {
		if i%2 == 0 {
			return "fallback upstream " + other.addr()
		}
		return fmt.Sprintf("fallback respond 200 \"standby %d\"", i)
	}
	g.open(t, up, inside(0), "")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var served, wrong atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if a, err := g.try("GET", "/", ""); err == nil && a.status == 200 && strings.HasPrefix(a.body, "standby ") {
					served.Add(1)
				} else {
					wrong.Add(1)
				}
			}
		})
	}
	for i := range 20 {
		g.load(t, guardedBy(up, inside(i+1), ""))
	}
	cancel()
	wg.Wait()
	require.Zero(t, wrong.Load())
	require.Positive(t, served.Load())
	require.Equal(t, int64(3), up.hits.Load())
}

func TestMistakesOfTheConditionsInJSONAreFoundAtLoad(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	config := string(g.config(t, guardedBy(up, "failures 3", "")))
	const old = `"breaker":{"failures":3}`
	require.Contains(t, config, old)
	for setting, want := range map[string]string{
		`"scope":"tenant"`:     `breaker "billing": scope is "tenant", must be upstream or upstream+tenant`,
		`"min_ratio":1.5`:      `breaker "billing": min_ratio is 150%, must be 0% to 100%`,
		`"min_ratio":-0.1`:     `breaker "billing": min_ratio is -10%, must be`,
		`"min_reporters":-1`:   `breaker "billing": min_reporters is -1, must be 1 to 1000`,
		`"min_reporters":2000`: `breaker "billing": min_reporters is 2000, must be 1 to 1000`,
	} {
		err := caddy.Load([]byte(strings.Replace(config, old, `"breaker":{`+setting+`}`, 1)), true)
		require.ErrorContains(t, err, want)
	}
}

func TestMinRatioWantsAShareOfTheRequestsBesides(t *testing.T) {
	g, up := newGate(t), newFaulty(t)
	g.load(t, guardedBy(up, "failures 2\n min_ratio 50%", ""))
	for range 3 {
		require.Equal(t, 200, g.get(t, "/").status)
	}
	for range 2 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	require.Equal(t, 200, g.get(t, "/").status, "2 of 5")
	for range 2 {
		require.Equal(t, 500, g.get(t, "/?status=500").status)
	}
	require.Equal(t, 503, g.get(t, "/").status, "4 of 8")
}
