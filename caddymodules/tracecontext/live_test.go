package tracecontext_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
	"github.com/stretchr/testify/require"
)

const (
	clientTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientParent = "00-" + clientTrace + "-00f067aa0ba902b7-01"
	uuidTrace    = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"
)

// received is what the upstream saw of one request.
type received struct {
	header  http.Header
	trailer http.Header
}

// gate is a running Caddy with an upstream behind it.
type gate struct {
	address string
	log     string
	seen    chan received
}

// run starts Caddy with the given directives in one site. UPSTREAM in them stands for an
// upstream that records what it gets and answers with ids of its own.
// Only one Caddy runs in a process, so tests that use it are not parallel.
func run(t *testing.T, directives string) *gate {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	g := &gate{log: filepath.Join(t.TempDir(), "caddy.log"), seen: make(chan received, 10)}
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		g.seen <- received{r.Header, r.Trailer}
		w.Header().Set("X-Trace-Id", "upstream")
		w.Header().Set("X-Request-Id", "upstream")
		if r.URL.Query().Has("hint") {
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = io.WriteString(w, "hello")
	}))
	upstream.Config.Protocols = new(http.Protocols)
	upstream.Config.Protocols.SetHTTP1(true)
	upstream.Config.Protocols.SetUnencryptedHTTP2(true)
	upstream.Start()
	t.Cleanup(upstream.Close)

	directives = strings.ReplaceAll(directives, "UPSTREAM", upstream.Listener.Addr().String())
	input := fmt.Sprintf(`{
		admin off
		persist_config off
		order trace_context before tracing
		log {
			output file %[1]s
			level DEBUG
		}
		servers {
			protocols h1 h2c
			trusted_proxies static 127.0.0.1/32
		}
	}
	http://127.0.0.1:9080 {
		log
		%[2]s
	}`, g.log, directives)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	require.NoError(t, err)
	adapted = bytes.ReplaceAll(adapted, []byte(`":9080"`), []byte(`"127.0.0.1:0"`))
	require.NoError(t, caddy.Load(adapted, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	app, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	g.address = app.(*caddyhttp.App).Servers["srv0"].Listeners()[0].Addr().String()
	return g
}

// send sends one request with the given header lines and returns the response
// without its body.
func (g *gate) send(t *testing.T, path string, lines ...string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", g.address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	head := "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1:9080\r\n"
	for _, line := range lines {
		head += line + "\r\n"
	}
	_, err = io.WriteString(conn, head+"\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodGet})
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	return response
}

// upstream returns what the upstream saw.
func (g *gate) upstream(t *testing.T) received {
	t.Helper()
	select {
	case r := <-g.seen:
		return r
	case <-time.After(10 * time.Second):
		require.Fail(t, "the upstream got no request")
		return received{}
	}
}

// line waits for the log line of the given logger, which may be written after
// the response.
func (g *gate) line(t *testing.T, logger string) map[string]any {
	t.Helper()
	var found map[string]any
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(g.log)
		require.NoError(t, err)
		for line := range bytes.Lines(content) {
			var fields map[string]any
			if json.Unmarshal(line, &fields) == nil && strings.HasPrefix(fmt.Sprint(fields["logger"]), logger) {
				found = fields
				return true
			}
		}
		return false
	}, 10*time.Second, 5*time.Millisecond, "no line of %s", logger)
	return found
}

func TestTheBackendTheResponseAndTheLogCarryOneTrace(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	response := g.send(t, "/")

	seen := g.upstream(t).header
	id := seen.Get("X-Trace-Id")
	require.Regexp(t, "^[0-9a-f]{32}$", id)
	require.Regexp(t, "^00-"+id+"-[0-9a-f]{16}-03$", seen.Get("Traceparent"))
	require.Regexp(t, "^[0-9a-f]{32}$", seen.Get("X-Request-Id"))
	require.NotContains(t, seen, "Tracestate")
	require.Equal(t, []string{id}, response.Header["X-Trace-Id"], "the upstream's own is replaced")
	require.Equal(t, seen["X-Request-Id"], response.Header["X-Request-Id"])

	access := g.line(t, "http.log.access")
	require.Equal(t, id, access["trace_id"])
	require.Equal(t, strings.Split(seen.Get("Traceparent"), "-")[2], access["span_id"])
	require.Equal(t, seen.Get("X-Request-Id"), access["request_id"])
	require.NotContains(t, access, "client_trace_id")
}

func TestATrustedClientContinuesItsTrace(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	response := g.send(t, "/", "traceparent: "+clientParent, "tracestate: a=1", "tracestate: b=2", "X-Request-Id: mine", "X-Trace-Id: other")
	seen := g.upstream(t).header
	require.Regexp(t, "^00-"+clientTrace+"-[0-9a-f]{16}-01$", seen.Get("Traceparent"))
	require.NotEqual(t, clientParent, seen.Get("Traceparent"))
	require.Equal(t, []string{"a=1,b=2"}, seen["Tracestate"])
	require.Equal(t, []string{clientTrace}, seen["X-Trace-Id"])
	require.NotEqual(t, []string{"mine"}, seen["X-Request-Id"])
	require.Equal(t, []string{clientTrace}, response.Header["X-Trace-Id"])

	g.send(t, "/", "X-Trace-Id: "+uuidTrace)
	require.Equal(t, clientTrace, g.upstream(t).header.Get("X-Trace-Id"))
}

func TestAnUntrustedClientGetsANewTrace(t *testing.T) {
	for name, test := range map[string]struct {
		block string
		lines []string
	}{
		"by address found behind a trusted proxy": {"trace_context", []string{"X-Forwarded-For: 198.51.100.7"}},
		"by an IPv6 address":                      {"trace_context", []string{"X-Forwarded-For: 2001:db8::1"}},
		"by trust none":                           {"trace_context {\ntrust none\n}", nil},
		"by ranges that leave it out":             {"trace_context {\ntrust 10.0.0.0/8\n}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := run(t, test.block+"\nreverse_proxy UPSTREAM")
			g.send(t, "/", append(test.lines, "traceparent: "+clientParent, "tracestate: a=1",
				"baggage: k=v", "b3: 1", "X-B3-TraceId: "+clientTrace, "X-B3-Sampled: 1", "X-B3-Flags: 1", "uber-trace-id: 1")...)
			seen := g.upstream(t).header
			require.NotEqual(t, clientTrace, seen.Get("X-Trace-Id"))
			require.Contains(t, seen.Get("Traceparent"), seen.Get("X-Trace-Id"))
			for _, dropped := range []string{"Tracestate", "Baggage", "B3", "X-B3-Traceid", "X-B3-Sampled", "X-B3-Flags", "Uber-Trace-Id"} {
				require.NotContains(t, seen, dropped)
			}
			access := g.line(t, "http.log.access")
			require.Equal(t, seen.Get("X-Trace-Id"), access["trace_id"])
			require.Equal(t, clientTrace, access["client_trace_id"])
		})
	}
}

func TestTrustIncludesWhatItNames(t *testing.T) {
	for name, test := range map[string]struct{ block, client string }{
		"all":                        {"trust all", "198.51.100.7"},
		"one address":                {"trust 198.51.100.7", "198.51.100.7"},
		"a range among private ones": {"trust private_ranges 2001:db8::/32", "2001:db8::1"},
		"an IPv4-mapped address":     {"trust 198.51.100.0/24", "::ffff:198.51.100.7"},
	} {
		t.Run(name, func(t *testing.T) {
			g := run(t, "trace_context {\n"+test.block+"\n}\nreverse_proxy UPSTREAM")
			g.send(t, "/", "X-Forwarded-For: "+test.client, "traceparent: "+clientParent)
			require.Equal(t, clientTrace, g.upstream(t).header.Get("X-Trace-Id"))
		})
	}
}

func TestASecondTraceContextKeepsTheTrace(t *testing.T) {
	g := run(t, "trace_context\nroute {\ntrace_context {\ntrust none\n}\nreverse_proxy UPSTREAM\n}")
	response := g.send(t, "/", "traceparent: "+clientParent)
	require.Equal(t, clientTrace, g.upstream(t).header.Get("X-Trace-Id"))
	require.Equal(t, []string{clientTrace}, response.Header["X-Trace-Id"])
}

func TestResponseOffDeletesTheUpstreamsIDs(t *testing.T) {
	g := run(t, "trace_context {\nresponse off\n}\nreverse_proxy UPSTREAM")
	response := g.send(t, "/")
	require.NotContains(t, response.Header, "X-Trace-Id")
	require.NotContains(t, response.Header, "X-Request-Id")
	require.NotEmpty(t, g.upstream(t).header.Get("X-Trace-Id"))
}

func TestAnotherHeaderCarriesTheTraceID(t *testing.T) {
	g := run(t, "trace_context {\nheader X-Correlation-ID\n}\nreverse_proxy UPSTREAM")
	response := g.send(t, "/", "x-correlation-id: "+uuidTrace, "X-Trace-Id: spoofed")
	seen := g.upstream(t).header
	require.Equal(t, []string{clientTrace}, seen["X-Correlation-Id"])
	require.NotContains(t, seen, "X-Trace-Id")
	require.Equal(t, []string{clientTrace}, response.Header["X-Correlation-Id"])
}

func TestAnErrorHasTheTraceIDAsItsID(t *testing.T) {
	g := run(t, `trace_context
	reverse_proxy /down 127.0.0.1:1
	error /teapot "no coffee" 418
	handle_errors 418 {
		respond "{err.id} {err.status_code} {http.trace.id}"
	}`)
	down := g.send(t, "/down")
	require.Equal(t, http.StatusBadGateway, down.StatusCode)
	id := down.Header.Get("X-Trace-Id")
	require.Regexp(t, "^[0-9a-f]{32}$", id)
	require.Equal(t, id, g.line(t, "http.log.error")["err_id"])

	response, err := http.Get("http://" + g.address + "/teapot")
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	id = response.Header.Get("X-Trace-Id")
	require.Equal(t, id+" 418 "+id, string(body))
}

func TestPlaceholders(t *testing.T) {
	g := run(t, `trace_context
	respond "{http.trace.id}|{http.trace.span_id}|{http.trace.request_id}|{http.trace.traceparent}|{http.trace.client_trace_id}|{http.trace.other}"`)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.address+"/", nil)
	require.NoError(t, err)
	request.Header.Set("traceparent", clientParent)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	parts := strings.Split(string(body), "|")
	require.Len(t, parts, 6)
	require.Equal(t, clientTrace, parts[0])
	require.Regexp(t, "^[0-9a-f]{16}$", parts[1])
	require.Equal(t, response.Header.Get("X-Request-Id"), parts[2])
	require.Equal(t, "00-"+clientTrace+"-"+parts[1]+"-01", parts[3])
	require.Empty(t, parts[4])
	require.Equal(t, "{http.trace.other}", parts[5], "other placeholders stay")
}

func TestEarlyHintsKeepTheIDs(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	conn, err := net.Dial("tcp", g.address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /?hint HTTP/1.1\r\nHost: 127.0.0.1:9080\r\n\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	for _, status := range []int{http.StatusEarlyHints, http.StatusOK} {
		response, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		require.Equal(t, status, response.StatusCode)
		require.Len(t, response.Header["X-Trace-Id"], 1)
		require.NotEqual(t, "upstream", response.Header.Get("X-Trace-Id"))
	}
}

// TestTracing covers Caddy's own tracing handler on either side of ours.
func TestTracing(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	for name, test := range map[string]struct {
		directives string
		first      bool // tracing runs before trace_context
		lines      []string
		trace      string // the trace that must be used, "" for a new one
		state      bool
	}{
		"after trace_context": {directives: "trace_context\ntracing\nreverse_proxy UPSTREAM"},
		"after trace_context with a trusted trace": {
			directives: "trace_context\ntracing\nreverse_proxy UPSTREAM",
			lines:      []string{"traceparent: " + clientParent, "tracestate: a=1"}, trace: clientTrace, state: true,
		},
		"after trace_context with an untrusted trace": {
			directives: "trace_context {\ntrust none\n}\ntracing\nreverse_proxy UPSTREAM",
			lines:      []string{"traceparent: " + clientParent, "tracestate: a=1"},
		},
		"before trace_context": {directives: "route {\ntracing\ntrace_context\nreverse_proxy UPSTREAM\n}", first: true},
		"before trace_context with a trusted trace": {
			directives: "route {\ntracing\ntrace_context\nreverse_proxy UPSTREAM\n}", first: true,
			lines: []string{"traceparent: " + clientParent, "tracestate: a=1"}, trace: clientTrace, state: true,
		},
		"before trace_context with a trace that Caddy's tracing trusts and we don't": {
			directives: "route {\ntracing\ntrace_context {\ntrust none\n}\nreverse_proxy UPSTREAM\n}", first: true,
			lines: []string{"traceparent: " + clientParent, "tracestate: a=1"}, trace: clientTrace,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := run(t, test.directives)
			response := g.send(t, "/", test.lines...)
			seen := g.upstream(t).header
			id := seen.Get("X-Trace-Id")
			if test.trace != "" {
				require.Equal(t, test.trace, id)
			} else {
				require.NotEqual(t, clientTrace, id)
			}
			parent := strings.Split(seen.Get("Traceparent"), "-")
			require.Len(t, seen["Traceparent"], 1)
			require.Equal(t, id, parent[1])
			require.Equal(t, test.state, seen.Get("Tracestate") == "a=1")
			require.Equal(t, []string{id}, response.Header["X-Trace-Id"])

			access := g.line(t, "http.log.access")
			require.Equal(t, id, access["trace_id"])
			require.Equal(t, id, access["traceID"], "Caddy's own field")
			require.Equal(t, parent[2], access["spanID"], "the upstream's parent is the span that Caddy exports")
			require.Equal(t, test.first, access["span_id"] == access["spanID"])
		})
	}
}

func TestConfigErrorsFailTheLoad(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"trust":    {`{"handler": "trace_context", "trust": ["x"]}`, `trust has "x", want private_ranges`},
		"header":   {`{"handler": "trace_context", "header": "a b"}`, `header is "a b", want a header name`},
		"sampled":  {`{"handler": "trace_context", "sampled": "2"}`, `sampled is "2", want parent`},
		"response": {`{"handler": "trace_context", "response": "on"}`, "cannot unmarshal"},
		"unknown":  {`{"handler": "trace_context", "trusted": []}`, `unknown field "trusted"`},
	} {
		t.Run(name, func(t *testing.T) {
			var config caddy.Config
			require.NoError(t, json.Unmarshal([]byte(`{"admin": {"disabled": true, "config": {"persist": false}}, "apps": {"http": {"servers": {"a": {"listen": ["127.0.0.1:0"],
				"routes": [{"handle": [`+test.config+`]}]}}}}}`), &config))
			require.ErrorContains(t, caddy.Validate(&config), test.want)
		})
	}
}

// h2c returns a client that speaks HTTP/2 without TLS to the gate.
func (g *gate) h2c(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func (g *gate) url() *url.URL { return &url.URL{Scheme: "http", Host: g.address, Path: "/"} }
