package sanitize_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/sanitize"
)

func TestHeadersDeletesInEverySpelling(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"X-User-Id", "X-Tenant-Id", "X-Roles", "X-Permission", "X-Gateway-Secret",
		"Remote-User", "Remote-Groups", "Remote-Name", "Remote-Email", "X-Remote-User", "X-Remote-Groups", "X-Auth-Request-User",
		"X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Rewrite-Url",
		"X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Forwarded-User", "X-Forwarded-Method",
		"X-Http-Method", "X-Http-Method-Override", "X-Method-Override",
		"Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
		"Proxy", "X-Middleware-Subrequest", "X-Original-" + strings.Repeat("A", 100),
	} {
		for _, spelling := range []string{
			name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."),
			strings.Replace(name, "-", "_", 1), strings.ToLower(strings.Replace(name, "-", ".", 1)),
		} {
			h := http.Header{spelling: {"x"}, "Accept": {"*/*"}}
			sanitize.Headers(h)
			require.Equal(t, http.Header{"Accept": {"*/*"}}, h, spelling)
		}
	}
}

func TestHeadersKeepsWhatClientsMaySay(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for _, name := range []string{
		"Accept", "Authorization", "Cookie", "Content-Type", "Traceparent", "Tracestate", "X-Api-Key", "X-Auth-Token", "X-Csrf-Token",
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Trace-Id", "X-Request-Id", "X-Users-Id", "X-User-Idd", "X-User",
		"X-Requested-With", "X-Originals", "Proxy-Authorization", "Referer", "Range", "True-Client", "Custom_Header",
		"X-User-Id-" + strings.Repeat("a", 100),
	} {
		h[name] = []string{"x"}
	}
	want := h.Clone()
	sanitize.Headers(h)
	require.Equal(t, want, h)
}

func TestHeadersDeletesOnlyTheAliasesOfHeadersThatTheGatewayOrCaddyReads(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for _, name := range []string{"X-Trace-Id", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
		h[name] = []string{"x"}
		h[strings.ReplaceAll(name, "-", "_")] = []string{"x"}
		h[strings.ToLower(name)] = []string{"x"}
	}
	sanitize.Headers(h)
	require.Len(t, h, 5)
	require.Contains(t, h, "X-Forwarded-For")
	require.Contains(t, h, "X-Trace-Id")
}

func TestHeadersDeletesANameThatIsEmpty(t *testing.T) {
	t.Parallel()
	h := http.Header{"": {"x"}}
	sanitize.Headers(h)
	sanitize.Identity(h)
	require.Empty(t, h)
}

func TestIdentityDeletesOnlyIdentity(t *testing.T) {
	t.Parallel()
	h := http.Header{
		"X-User-Id": {"a"}, "X_User_Id": {"a"}, "x-tenant-id": {"a"}, "X-ROLES": {"a"}, "X.Permission": {"a"},
		"X-Real-Ip": {"1.2.3.4"}, "X-Gateway-Secret": {"s"}, "Accept": {"*/*"},
	}
	sanitize.Identity(h)
	require.Equal(t, http.Header{"X-Real-Ip": {"1.2.3.4"}, "X-Gateway-Secret": {"s"}, "Accept": {"*/*"}}, h)
}

func TestDeleteDeletesOneHeaderInEverySpelling(t *testing.T) {
	t.Parallel()
	long := "X-" + strings.Repeat("A", 60)
	h := http.Header{
		"X-Permission": {"a"}, "x_permission": {"a"}, "X.PERMISSION": {"a"}, "X-Permissions": {"kept"},
		long + "a": {"a"}, strings.ToLower(long) + "b": {"kept"},
	}
	sanitize.Delete(h, sanitize.HeaderPermission)
	sanitize.Delete(h, long+"a")
	require.Equal(t, http.Header{"X-Permissions": {"kept"}, strings.ToLower(long) + "b": {"kept"}}, h)
}

func TestConnectionKeepsOnlyItsOwnOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ in, want []string }{
		"keep-alive is kept":                {[]string{"keep-alive"}, []string{"keep-alive"}},
		"capitals are kept as they are":     {[]string{"Keep-Alive, Upgrade"}, []string{"Keep-Alive, Upgrade"}},
		"all five are kept":                 {[]string{"close,keep-alive,upgrade,TE,HTTP2-Settings"}, []string{"close,keep-alive,upgrade,TE,HTTP2-Settings"}},
		"a header name goes":                {[]string{"close, X-User-Id"}, []string{"close"}},
		"only header names leave no header": {[]string{"X-User-Id,traceparent"}, nil},
		"several headers become one":        {[]string{"close", "X-User-Id, te"}, []string{"close, te"}},
		"white space hides nothing":         {[]string{"\t X-User-Id \t,,close "}, []string{"close"}},
		"an empty header goes":              {[]string{""}, nil},
		"a near miss goes":                  {[]string{"upgraded, closed, keep_alive, t"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{"Connection": test.in}
			sanitize.Connection(h)
			require.Equal(t, test.want, h["Connection"])
			require.Equal(t, test.want != nil, len(h) == 1)
		})
	}
}

func TestConnectionKeepsWebSocketAndDropsH2C(t *testing.T) {
	t.Parallel()
	h := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	sanitize.Connection(h)
	require.Equal(t, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, h)

	for _, upgrade := range [][]string{{"h2c"}, {"H2C"}, {"websocket, h2c"}, {"websocket", "h2c"}, {" h2c-14"}} {
		h = http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": upgrade, "Http2-Settings": {"AAMAAABk"}}
		sanitize.Connection(h)
		require.Equal(t, http.Header{"Connection": {"Upgrade, HTTP2-Settings"}}, h, upgrade)
	}
}

func usualHeader() http.Header {
	return http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Accept-Language": {"de"}, "Authorization": {"Bearer x"}, "Connection": {"keep-alive"},
		"Content-Type": {"application/json"}, "Cookie": {"a=b"}, "User-Agent": {"test"}, "X-Forwarded-For": {"10.0.0.1"}, "X-Requested-With": {"x"},
	}
}

func TestNothingIsAllocatedWhenNothingIsRemoved(t *testing.T) {
	h := usualHeader()
	h["Connection"] = []string{"Upgrade, keep-alive"}
	h["Upgrade"] = []string{"websocket"}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		sanitize.Headers(h)
		sanitize.Identity(h)
		sanitize.Delete(h, sanitize.HeaderPermission)
		sanitize.Connection(h)
	}))
}

func BenchmarkHeaders(b *testing.B) {
	h := usualHeader()
	b.ReportAllocs()
	for b.Loop() {
		sanitize.Headers(h)
	}
}

func BenchmarkIdentity(b *testing.B) {
	h := usualHeader()
	b.ReportAllocs()
	for b.Loop() {
		sanitize.Identity(h)
	}
}

func BenchmarkConnection(b *testing.B) {
	h := http.Header{"Connection": {"Upgrade, keep-alive"}}
	b.ReportAllocs()
	for b.Loop() {
		sanitize.Connection(h)
	}
}
