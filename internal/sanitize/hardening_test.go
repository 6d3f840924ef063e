package sanitize_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// TestCVE_2022_31813_ConnectionNamesNoHeader is the class of attacks that
// delete a proxy's own headers (also CVE-2021-32813, CVE-2024-45410).
func TestCVE_2022_31813_ConnectionNamesNoHeader(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"X-User-Id", "X-Tenant-Id", "X-Roles", "X-Permission", "X-Gateway-Secret", "X-Trace-Id", "X-Request-Id", "traceparent", "tracestate",
		"X-Forwarded-For", "X-Forwarded-Host", "Host", "Authorization", "Cookie", "Content-Length",
	} {
		for _, value := range []string{name, "close," + name, "keep-alive , " + strings.ToUpper(name), name + ",close," + name} {
			h := http.Header{"Connection": {"upgrade", value}}
			sanitize.Connection(h)
			require.NotContains(t, strings.ToLower(strings.Join(h["Connection"], ",")), strings.ToLower(name), value)
		}
	}
}

// TestGHSA_7r4p_vjf4_gxv4_IdentityIsDeletedEvenWhenNothingReplacesIt is the class in
// which a client's header survives because the authenticator set none.
func TestGHSA_7r4p_vjf4_gxv4_IdentityIsDeletedEvenWhenNothingReplacesIt(t *testing.T) {
	t.Parallel()
	h := http.Header{"X-User-Id": {"root"}, "X-Roles": {}}
	sanitize.Identity(h)
	require.Empty(t, h)
}

// TestGHSA_f59h_q822_g45g_AliasesAreDeleted is the class in which a backend folds
// X_User_Id or X.User.Id into X-User-Id (also GHSA-49wc-4hcv-v58q).
func TestGHSA_f59h_q822_g45g_AliasesAreDeleted(t *testing.T) {
	t.Parallel()
	for _, alias := range []string{"X_User_Id", "X.User.Id", "x_User.id", "X-User_Id", "X-USER.ID"} {
		h := http.Header{alias: {"root"}}
		sanitize.Identity(h)
		require.Empty(t, h, alias)
	}
}

// TestCVE_2016_5385_ProxyHeader is httpoxy.
func TestCVE_2016_5385_ProxyHeader(t *testing.T) {
	t.Parallel()
	h := http.Header{"Proxy": {"http://evil"}}
	sanitize.Headers(h)
	require.Empty(t, h)
}

// TestRFC9110_6_5_1_ForbiddenTrailersDisappear serves a chunked request whose trailers
// come announced and unannounced, and reads them as a proxy does: from
// Request.Trailer at the end of the body.
func TestRFC9110_6_5_1_ForbiddenTrailersDisappear(t *testing.T) {
	t.Parallel()
	for name, announced := range map[string]string{
		"all announced":     "Trailer: X-Checksum, X-User-Id, Authorization\r\n",
		"one announced":     "Trailer: X-Checksum\r\n",
		"nothing announced": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trailers := make(chan http.Header, 2)
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				sanitize.Trailers(r)
				trailers <- r.Trailer.Clone()
				_, _ = io.Copy(io.Discard, r.Body)
				trailers <- r.Trailer
			}))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
			_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"+announced+
				"\r\n3\r\nabc\r\n0\r\nX-Checksum: ok\r\nX-User-Id: root\r\nx_roles: root\r\nAuthorization: root\r\nX-Trace-Id: root\r\nIf-Match: root\r\n\r\n")
			require.NoError(t, err)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			if before := <-trailers; announced != "" {
				require.Equal(t, http.Header{"X-Checksum": nil}, before, "announced names go at once")
			}
			require.Equal(t, http.Header{"X-Checksum": {"ok"}}, <-trailers)
		})
	}
}

func TestTrailersLeavesARequestWithoutTrailersAlone(t *testing.T) {
	t.Parallel()
	body := io.NopCloser(strings.NewReader("abc"))
	for _, r := range []*http.Request{
		{Body: http.NoBody, ContentLength: -1},
		{Body: nil},
		{Body: body, ContentLength: 3},
	} {
		before := r.Body
		sanitize.Trailers(r)
		require.Equal(t, before, r.Body)
	}
}
