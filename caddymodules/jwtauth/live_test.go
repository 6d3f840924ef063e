package jwtauth_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	_ "github.com/tenantgate/tenantgate/caddymodules/handover"
)

// live is Caddy with our handler in front of a backend that answers with the
// headers it got. Caddy is one a process: tests with it don't run in parallel.
type live struct {
	t       *testing.T
	socket  string
	client  *http.Client
	backend *httptest.Server
}

func newLive(t *testing.T) *live {
	t.Helper()
	directory, err := os.MkdirTemp("", "jwt") // t.TempDir may be longer than a socket's name can be
	require.NoError(t, err)
	l := &live{t: t, socket: filepath.Join(directory, "s")}
	l.backend = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"header": r.Header, "uri": r.RequestURI})
	}))
	l.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.socket)
		},
	}}
	t.Cleanup(func() {
		require.NoError(t, caddy.Stop())
		l.backend.Close()
		require.NoError(t, os.RemoveAll(directory))
	})
	return l
}

// noLeaks returns a check that no goroutine is left of those that start from
// now on, except certmagic's, which ends by itself seconds later.
func noLeaks(t *testing.T) func() {
	t.Helper()
	before := goleak.IgnoreCurrent()
	return func() {
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
	}
}

// config returns the JSON of a site with a jwt_auth block. With handover,
// requests after a load meet the new server only.
func (l *live) config(block string) []byte {
	l.t.Helper()
	input := fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n\tlog {\n\t\toutput discard\n\t}\n\tservers {\n\t\tlistener_wrappers {\n\t\t\thandover {\n\t\t\t\tsettle 1ms\n\t\t\t}\n\t\t}\n\t}\n}\nhttp:// {\n\tbind unix/%s\n\tjwt_auth {\n%s\n\t}\n\treverse_proxy %s\n}\n", l.socket, block, l.backend.Listener.Addr())
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	require.NoError(l.t, err)
	return out
}

func (l *live) load(block string) {
	l.t.Helper()
	require.NoError(l.t, caddy.Load(l.config(block), true))
	l.client.CloseIdleConnections() // the old server may not have closed them yet
}

// get sends a request and returns the response, the headers that the backend
// got, and the body.
func (l *live) get(token string, header ...string) (*http.Response, http.Header) {
	l.t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://gateway/a?b=c", http.NoBody)
	require.NoError(l.t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	response, err := l.client.Do(r)
	require.NoError(l.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(l.t, err)
	var seen struct {
		Header http.Header `json:"header"`
	}
	if response.StatusCode == http.StatusOK {
		require.NoError(l.t, json.Unmarshal(body, &seen))
	}
	return response, seen.Header
}

// jwksServer is an issuer's key endpoint.
type jwksServer struct {
	*httptest.Server
	document atomic.Pointer[string] // nil: 503
	fetches  atomic.Int32
}

func newJWKS(t *testing.T) *jwksServer {
	t.Helper()
	s := &jwksServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.fetches.Add(1)
		document := s.document.Load()
		if document == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, *document)
	}))
	t.Cleanup(s.Close)
	return s
}

// publish sets the keys by id.
func (s *jwksServer) publish(keys map[string]ed25519.PrivateKey) {
	var list []string
	for id, key := range keys {
		public := key.Public().(ed25519.PublicKey) // an Ed25519 key
		list = append(list, fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, id, base64.RawURLEncoding.EncodeToString(public)))
	}
	document := `{"keys":[` + strings.Join(list, ",") + `]}`
	s.document.Store(&document)
}

func (s *jwksServer) block(more string) string {
	return fmt.Sprintf("issuer %s {\njwks_url %s/jwks\naudience api\n}\n%s", issuer, s.URL, more)
}

func TestLiveRequests(t *testing.T) { // one Caddy a process
	defer noLeaks(t)()
	t.Run("all", func(t *testing.T) {
		keys := newJWKS(t)
		keys.publish(map[string]ed25519.PrivateKey{"k": signingKey()})
		l := newLive(t)
		l.load(keys.block(""))
		good := goodToken(t)
		require.Eventually(t, func() bool {
			response, _ := l.get(good)
			return response.StatusCode == http.StatusOK
		}, 5*time.Second, 10*time.Millisecond)

		_, seen := l.get(good, "X-User-Id", "root", "X_user_id", "root", "X-Roles", "root", "Connection", "X-User-Id, X-Tenant-Id", "X-Permission", "a/b/c")
		require.Equal(t, []string{"u-1"}, seen["X-User-Id"])
		require.Equal(t, []string{"7"}, seen["X-Tenant-Id"])
		require.Equal(t, []string{"Admin,Viewer"}, seen["X-Roles"])
		require.NotContains(t, seen, "X-Permission")

		for token, want := range map[string]string{
			"":                                     `Bearer realm="tenantgate"`,
			"x":                                    `Bearer realm="tenantgate", error="invalid_token", error_description="The access token is malformed."`,
			goodToken(t, map[string]any{"exp": 1}): `Bearer realm="tenantgate", error="invalid_token", error_description="The access token has expired."`,
			mint(t, jwt.SigningMethodEdDSA, "k", otherKey()): `Bearer realm="tenantgate", error="invalid_token", error_description="The signature of the access token is wrong."`,
		} {
			response, _ := l.get(token)
			require.Equal(t, http.StatusUnauthorized, response.StatusCode)
			require.Equal(t, want, response.Header.Get("WWW-Authenticate"))
		}
		response, _ := l.get(good, "Authorization", "Bearer "+good)
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
	})
}

func TestLive503UntilTheFirstKey(t *testing.T) { // one Caddy a process
	defer noLeaks(t)()
	t.Run("all", func(t *testing.T) {
		keys := newJWKS(t)
		l := newLive(t)
		l.load(keys.block(""))
		response, _ := l.get(goodToken(t))
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
		require.NotEmpty(t, response.Header.Get("Retry-After"))
		response, _ = l.get("")
		require.Equal(t, http.StatusUnauthorized, response.StatusCode, "no key is needed to miss a token")

		keys.publish(map[string]ed25519.PrivateKey{"k": signingKey()})
		require.Eventually(t, func() bool {
			response, _ := l.get(goodToken(t))
			return response.StatusCode == http.StatusOK
		}, 10*time.Second, 20*time.Millisecond)
	})
}

func TestLiveRotation(t *testing.T) { // one Caddy a process
	if testing.Short() {
		t.Skip("waits for the pause between two fetches, 10 s")
	}
	defer noLeaks(t)()
	t.Run("all", func(t *testing.T) {
		keys := newJWKS(t)
		keys.publish(map[string]ed25519.PrivateKey{"k": signingKey()})
		l := newLive(t)
		l.load(keys.block(""))
		status := func(token string) int {
			response, _ := l.get(token)
			return response.StatusCode
		}
		older, newer := goodToken(t), mint(t, jwt.SigningMethodEdDSA, "n", otherKey())
		require.Eventually(t, func() bool { return status(older) == http.StatusOK }, 5*time.Second, 10*time.Millisecond)
		require.Equal(t, http.StatusUnauthorized, status(newer))

		keys.publish(map[string]ed25519.PrivateKey{"n": otherKey()})
		require.Eventually(t, func() bool { return status(newer) == http.StatusOK }, 15*time.Second, 100*time.Millisecond)
		require.Equal(t, http.StatusUnauthorized, status(older), "its key is gone")
		require.LessOrEqual(t, keys.fetches.Load(), int32(3))
	})
}

func TestLiveReloadsKeepKeysAndLeaveNothing(t *testing.T) { // one Caddy a process
	defer noLeaks(t)()
	t.Run("all", func(t *testing.T) {
		keys := newJWKS(t)
		keys.publish(map[string]ed25519.PrivateKey{"k": signingKey()})
		l := newLive(t)
		l.load(keys.block(""))
		good := goodToken(t)
		require.Eventually(t, func() bool {
			response, _ := l.get(good)
			return response.StatusCode == http.StatusOK
		}, 5*time.Second, 10*time.Millisecond)
		keys.document.Store(nil) // a new fetch would fail
		for i := range 20 {
			l.load(keys.block(fmt.Sprintf("leeway %ds", i)))
			response, seen := l.get(good)
			require.Equal(t, http.StatusOK, response.StatusCode)
			require.Equal(t, "u-1", seen.Get("X-User-Id"))
		}
		require.Equal(t, int32(1), keys.fetches.Load())
	})
}

func TestLiveValidateNeedsNoEndpointAndLeavesNothing(t *testing.T) { // one Caddy a process
	defer noLeaks(t)()
	t.Run("all", func(t *testing.T) {
		keys := newJWKS(t)
		keys.Close() // nobody listens
		l := newLive(t)
		for range 5 {
			var config caddy.Config
			require.NoError(t, json.Unmarshal(l.config(keys.block("")), &config))
			require.NoError(t, caddy.Validate(&config))
		}
	})
}
