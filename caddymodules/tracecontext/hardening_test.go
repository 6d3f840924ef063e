package tracecontext_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// identity is what a client must not be able to say, delete or change.
var identity = []string{"X-User-Id", "X-Tenant-Id", "X-Roles", "X-Permission", "X-Gateway-Secret"}

// TestGHSA_f59h_q822_g45g_ClientIdentityNeverReachesTheBackend sends identity headers
// in every spelling: the class of GHSA-f59h-q822-g45g and GHSA-7r4p-vjf4-gxv4.
func TestGHSA_f59h_q822_g45g_ClientIdentityNeverReachesTheBackend(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	var lines []string
	for _, name := range identity {
		for _, spelling := range []string{
			name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."),
		} {
			lines = append(lines, spelling+": root")
		}
	}
	lines = append(lines, "X-Original-URL: /admin", "X-Rewrite-Url: /admin", "X-HTTP-Method-Override: DELETE", "X-Forwarded-Prefix: /admin",
		"X-Forwarded-User: root", "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1", "Proxy: http://evil", "Keep-Me: yes")
	g.send(t, "/", lines...)
	for name, values := range g.upstream(t).header {
		require.NotContains(t, values, "root", name)
		require.NotContains(t, values, "/admin", name)
		require.NotContains(t, []string{"X-Http-Method-Override", "Forwarded", "X-Real-Ip", "Proxy"}, name)
		if name == "Keep-Me" {
			require.Equal(t, []string{"yes"}, values)
		}
	}
}

// TestCVE_2022_31813_ConnectionCannotDeleteWhatTheGatewaySets names the gateway's
// headers in Connection, which a reverse proxy deletes (RFC 9110 section 7.6.1).
func TestCVE_2022_31813_ConnectionCannotDeleteWhatTheGatewaySets(t *testing.T) {
	g := run(t, `trace_context
	request_header X-User-Id alice
	request_header X-Tenant-Id 1
	reverse_proxy UPSTREAM`)
	for _, connection := range []string{
		"close, X-User-Id, traceparent, X-Tenant-Id, X-Trace-Id, X-Request-Id, tracestate",
		"X-User-Id,traceparent,x-tenant-id,x-trace-id,x-request-id,tracestate",
		"\tX-USER-ID ,, Traceparent,X-Tenant-Id,X-Trace-Id,X-Request-Id,Tracestate",
	} {
		g.send(t, "/", "Connection: "+connection, "Connection: X-User-Id", "traceparent: "+clientParent, "tracestate: a=1", "X-User-Id: mallory")
		seen := g.upstream(t).header
		require.Equal(t, []string{"alice"}, seen["X-User-Id"], connection)
		require.Equal(t, []string{"1"}, seen["X-Tenant-Id"], connection)
		require.Contains(t, seen.Get("Traceparent"), clientTrace, connection)
		require.Equal(t, []string{clientTrace}, seen["X-Trace-Id"], connection)
		require.Len(t, seen["X-Request-Id"], 1, connection)
		require.Equal(t, []string{"a=1"}, seen["Tracestate"], connection)
	}
}

// TestRFC9113_3_1_H2CUpgradeIsNotForwarded covers h2c smuggling: behind an
// upgraded connection a client could send requests that no handler sees.
func TestRFC9113_3_1_H2CUpgradeIsNotForwarded(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	response := g.send(t, "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
	require.Equal(t, http.StatusOK, response.StatusCode)
	seen := g.upstream(t).header
	require.NotContains(t, seen, "Upgrade")
	require.NotContains(t, seen, "Connection")
	require.NotContains(t, seen, "Http2-Settings")
}

// TestRFC9110_6_5_1_TrailersCannotCarryIdentity sends forbidden request
// trailers, announced and not. Caddy's reverse_proxy forwards what is in
// Request.Trailer at the end of the body.
func TestRFC9110_6_5_1_TrailersCannotCarryIdentity(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	forbidden := append([]string{"X_User_Id", "Authorization", "Traceparent", "X-Trace-Id", "Host", "Content-Length", "Cookie", "X-Forwarded-For"}, identity...)
	for name, announced := range map[string][]string{
		"all announced":      append([]string{"X-Checksum"}, without(forbidden, "Content-Length")...), // net/http refuses to have that announced
		"harmless announced": {"X-Checksum"},
		"nothing announced":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", g.address)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
			text := "POST / HTTP/1.1\r\nHost: 127.0.0.1:9080\r\nTransfer-Encoding: chunked\r\n"
			if announced != nil {
				text += "Trailer: " + strings.Join(announced, ", ") + "\r\n"
			}
			text += "\r\n3\r\nabc\r\n0\r\nX-Checksum: ok\r\n"
			for _, name := range forbidden {
				text += name + ": root\r\n"
			}
			_, err = io.WriteString(conn, text+"\r\n")
			require.NoError(t, err)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, response.StatusCode)

			seen := g.upstream(t)
			if announced != nil {
				require.Equal(t, http.Header{"X-Checksum": {"ok"}}, seen.trailer)
			} else {
				require.Empty(t, seen.trailer)
			}
			require.NotContains(t, fmt.Sprint(seen.header), "root")
		})
	}
}

// TestRFC9110_6_5_1_TrailersOverHTTP2CannotCarryIdentity is the same over HTTP/2.
func TestRFC9110_6_5_1_TrailersOverHTTP2CannotCarryIdentity(t *testing.T) {
	g := run(t, "trace_context\nreverse_proxy UPSTREAM")
	request := &http.Request{Method: http.MethodPost, URL: g.url(), Host: "127.0.0.1:9080", ContentLength: -1, Body: io.NopCloser(strings.NewReader("abc"))}
	request.Trailer = http.Header{"X-Checksum": {"ok"}, "X-User-Id": {"root"}, "Traceparent": {"root"}}
	response, err := g.h2c(t).Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, 2, response.ProtoMajor)
	require.Equal(t, http.Header{"X-Checksum": {"ok"}}, g.upstream(t).trailer)
}

// TestTrailersPassWithoutTraceContext shows that the two tests above test something.
func TestTrailersPassWithoutTraceContext(t *testing.T) {
	g := run(t, "reverse_proxy UPSTREAM")
	request := &http.Request{Method: http.MethodPost, URL: g.url(), Host: "127.0.0.1:9080", ContentLength: -1, Body: io.NopCloser(strings.NewReader("abc"))}
	request.Trailer = http.Header{"X-User-Id": {"root"}}
	response, err := g.h2c(t).Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.Header{"X-User-Id": {"root"}}, g.upstream(t).trailer)
}

func without(list []string, item string) []string {
	var rest []string
	for _, s := range list {
		if s != item {
			rest = append(rest, s)
		}
	}
	return rest
}
