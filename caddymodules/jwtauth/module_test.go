package jwtauth_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/caddymodules/jwtauth"
	"github.com/tenantgate/tenantgate/internal/problem"
)

const issuer = "https://idp.test"

var (
	signingKey = sync.OnceValue(newKey)
	otherKey   = sync.OnceValue(newKey)
)

func newKey() ed25519.PrivateKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return private
}

// mint signs a valid token with changes; a nil value deletes a claim.
func mint(tb testing.TB, method jwt.SigningMethod, kid string, key any, changes ...map[string]any) string {
	tb.Helper()
	claims := jwt.MapClaims{
		"iss": issuer, "aud": "api", "sub": "u-1", "tenant_id": "7", "roles": []string{"Admin", "Viewer"},
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for _, change := range changes {
		maps.Copy(claims, change)
	}
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	signed, err := token.SignedString(key)
	require.NoError(tb, err)
	return signed
}

func goodToken(tb testing.TB, changes ...map[string]any) string {
	tb.Helper()
	return mint(tb, jwt.SigningMethodEdDSA, "k", signingKey(), changes...)
}

func publicPEM(tb testing.TB, public any) string {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(tb, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// newHandler provisions a handler with a pinned key, changed by JSON.
func newHandler(tb testing.TB, change string) *jwtauth.Handler {
	tb.Helper()
	h, err := provision(tb, &jwtauth.Handler{
		Issuers: []jwtauth.Issuer{{Issuer: issuer, PublicKeys: []string{publicPEM(tb, signingKey().Public())}, Audiences: []string{"api"}}},
	}, change)
	require.NoError(tb, err)
	return h
}

func provision(tb testing.TB, h *jwtauth.Handler, change string) (*jwtauth.Handler, error) {
	tb.Helper()
	if change != "" {
		require.NoError(tb, json.Unmarshal([]byte(change), h))
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	tb.Cleanup(func() { require.NoError(tb, h.Cleanup()) })
	return h, h.Provision(ctx)
}

// newRequest returns a request as Caddy hands it to handlers.
func newRequest(method, target string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
}

// outcome is what became of a request.
type outcome struct {
	passed  *http.Request // what the next handler got, nil if refused
	header  http.Header   // of the response
	problem *problem.Error
}

func serve(t *testing.T, h *jwtauth.Handler, r *http.Request) outcome {
	t.Helper()
	var o outcome
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		o.passed = r
		return nil
	}))
	o.header = w.Header()
	if err == nil {
		require.NotNil(t, o.passed)
		return o
	}
	require.Nil(t, o.passed)
	var handlerError caddyhttp.HandlerError
	require.ErrorAs(t, err, &handlerError)
	require.ErrorAs(t, err, &o.problem)
	require.Equal(t, o.problem.Status, handlerError.StatusCode)
	return o
}

func bearer(token string) string { return "Bearer " + token }

func TestAValidTokenTellsEveryoneBehind(t *testing.T) {
	t.Parallel()
	h := newHandler(t, "")
	token := goodToken(t)
	for range 2 { // anew and cached
		r := newRequest("GET", "/a?b=c", "Authorization", bearer(token))
		o := serve(t, h, r)
		require.Equal(t, []string{"u-1"}, o.passed.Header["X-User-Id"])
		require.Equal(t, []string{"7"}, o.passed.Header["X-Tenant-Id"])
		require.Equal(t, []string{"Admin,Viewer"}, o.passed.Header["X-Roles"])
		require.Equal(t, bearer(token), o.passed.Header.Get("Authorization"), "the token is forwarded as it came")
		p := gateway.Principal(r.Context())
		require.NotNil(t, p)
		require.Equal(t, []string{"Admin", "Viewer"}, p.Roles)
		repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		require.True(t, ok)
		require.Equal(t, "u-1/7/Admin,Viewer", repl.ReplaceAll("{http.auth.user.id}/{http.auth.user.tenant_id}/{http.auth.user.roles}", "-"))
		require.Same(t, r, o.passed)
	}
}

func TestAHandlerBehindMayWriteToTheHeaders(t *testing.T) {
	t.Parallel()
	h := newHandler(t, "")
	token := goodToken(t)
	first := serve(t, h, newRequest("GET", "/", "Authorization", bearer(token)))
	first.passed.Header["X-User-Id"][0] = "root" // as Caddy's header replacement does
	first.passed.Header["X-User-Id"] = append(first.passed.Header["X-User-Id"], "more")
	require.Equal(t, []string{"7"}, first.passed.Header["X-Tenant-Id"])
	second := serve(t, h, newRequest("GET", "/", "Authorization", bearer(token)))
	require.Equal(t, []string{"u-1"}, second.passed.Header["X-User-Id"])
}

func TestAbsentClaimsLeaveHeadersAbsent(t *testing.T) {
	t.Parallel()
	o := serve(t, newHandler(t, ""), newRequest("GET", "/",
		"Authorization", bearer(goodToken(t, map[string]any{"tenant_id": nil, "roles": nil})), "X-Tenant-Id", "1", "X-Roles", "Admin"))
	require.Equal(t, "u-1", o.passed.Header.Get("X-User-Id"))
	require.NotContains(t, o.passed.Header, "X-Tenant-Id")
	require.NotContains(t, o.passed.Header, "X-Roles")
}

func TestWhatTheClientSaysOfItselfIsDeleted(t *testing.T) {
	t.Parallel()
	spoofed := []string{
		"X-User-Id", "root", "X-User-Id", "root", "X_User_Id", "root", "x-user-id", "root", "X-Tenant.Id", "1",
		"X-Tenant-Id", "1", "X-Roles", "Admin", "X-Permission", "a/b/c", "Connection", "close, X-User-Id, traceparent",
	}
	for name, authorization := range map[string]string{"unauthenticated": "", "authenticated": bearer(goodToken(t))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRequest("GET", "/", spoofed...)
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			o := serve(t, newHandler(t, `{"optional":true}`), r)
			delete(o.passed.Header, "Authorization")
			want := http.Header{"Connection": {"close"}}
			if authorization != "" {
				want["X-User-Id"], want["X-Tenant-Id"], want["X-Roles"] = []string{"u-1"}, []string{"7"}, []string{"Admin,Viewer"}
			}
			require.Equal(t, want, o.passed.Header)
			require.Equal(t, authorization != "", gateway.Principal(r.Context()) != nil)
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	good := goodToken(t)
	type change = map[string]any
	for name, test := range map[string]struct {
		header    []string
		status    int
		code      string
		reason    any
		challenge string
	}{
		"no token":                  {nil, 401, "token-missing", "missing", `Bearer realm="tenantgate"`},
		"another scheme":            {[]string{"Authorization", "Basic YTpi"}, 401, "token-missing", "missing", `Bearer realm="tenantgate"`},
		"a scheme only":             {[]string{"Authorization", "Bearer"}, 401, "token-invalid", "malformed", "invalid_token"},
		"a scheme and a space":      {[]string{"Authorization", "Bearer "}, 401, "token-invalid", "malformed", "invalid_token"},
		"garbage":                   {[]string{"Authorization", "Bearer garbage"}, 401, "token-invalid", "malformed", "invalid_token"},
		"two words":                 {[]string{"Authorization", bearer(good) + " x"}, 401, "token-invalid", "malformed", "invalid_token"},
		"two Authorization headers": {[]string{"Authorization", bearer(good), "Authorization", bearer(good)}, 400, "token-ambiguous", "ambiguous", "invalid_request"},
		"expired":                   {[]string{"Authorization", bearer(goodToken(t, change{"exp": time.Now().Add(-time.Minute).Unix()}))}, 401, "token-expired", "expired", "invalid_token"},
		"from the future":           {[]string{"Authorization", bearer(goodToken(t, change{"nbf": time.Now().Add(time.Minute).Unix()}))}, 401, "token-invalid", "not_yet_valid", "invalid_token"},
		"another key":               {[]string{"Authorization", bearer(mint(t, jwt.SigningMethodEdDSA, "k", otherKey()))}, 401, "token-invalid", "bad_signature", "invalid_token"},
		"another algorithm":         {[]string{"Authorization", bearer(mint(t, jwt.SigningMethodRS256, "k", rsaKey))}, 401, "token-invalid", "unsupported", "invalid_token"},
		"another issuer":            {[]string{"Authorization", bearer(goodToken(t, change{"iss": "https://evil.test"}))}, 401, "token-invalid", "unknown_issuer", "invalid_token"},
		"another audience":          {[]string{"Authorization", bearer(goodToken(t, change{"aud": "other"}))}, 401, "token-invalid", "wrong_audience", "invalid_token"},
		"no user":                   {[]string{"Authorization", bearer(goodToken(t, change{"sub": nil}))}, 401, "token-invalid", "missing_claim", "invalid_token"},
		"a role with a comma":       {[]string{"Authorization", bearer(goodToken(t, change{"roles": "a,b"}))}, 401, "token-invalid", "invalid_claim", "invalid_token"},
	} {
		for _, optional := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newHandler(t, map[bool]string{false: "", true: `{"optional":true}`}[optional])
				o := serve(t, h, newRequest("GET", "/", test.header...))
				if optional && test.code == "token-missing" {
					require.NotNil(t, o.passed)
					return
				}
				require.NotNil(t, o.problem)
				require.Equal(t, test.status, o.problem.Status)
				require.Equal(t, test.code, o.problem.Code)
				require.Equal(t, test.reason, o.problem.Extra["reason"])
				require.Contains(t, o.header.Get("WWW-Authenticate"), test.challenge)
				require.Equal(t, test.code == "token-missing", !strings.Contains(o.header.Get("WWW-Authenticate"), "error="))
			})
		}
	}
}

func TestTargetsThatTwoParsersReadInTwoWays(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `{"optional":true}`)
	for _, target := range []string{"/a//b", "/a/../b", "/a/%2e%2e/b", "/a%2fb", "/a;b=c", "/a%00"} {
		r := newRequest("GET", "/", "Authorization", bearer(goodToken(t)))
		r.RequestURI, r.URL.Path, r.URL.RawPath = target, target, target
		o := serve(t, h, r)
		require.NotNil(t, o.problem, target)
		require.Equal(t, 400, o.problem.Status)
		require.Equal(t, "bad-request-target", o.problem.Code)
	}
	o := serve(t, h, newRequest("TRACE", "/"))
	require.Equal(t, 405, o.problem.Status)
	require.Equal(t, "method-not-allowed", o.problem.Code)
	require.Contains(t, o.header.Get("Allow"), "GET")
}

func TestSources(t *testing.T) {
	t.Parallel()
	good, bad := goodToken(t), mint(t, jwt.SigningMethodEdDSA, "k", otherKey())
	all := `{"sources":[{"type":"header","name":"authorization"},{"type":"header","name":"x-api-token"},{"type":"cookie","name":"session"},{"type":"query","name":"access_token"}]}`
	for name, test := range map[string]struct {
		target string
		header []string
		code   string // empty: it passes
		sent   string // the query string that the backend gets
	}{
		"Authorization, scheme in any case":         {"/?a=1", []string{"Authorization", "bEaReR  " + good}, "", "a=1"},
		"a header without a scheme":                 {"/", []string{"X-Api-Token", good}, "", ""},
		"a header without a scheme, with one":       {"/", []string{"X-Api-Token", bearer(good)}, "token-invalid", ""},
		"a cookie":                                  {"/", []string{"Cookie", "a=b; session=" + good}, "", ""},
		"an empty cookie is no token":               {"/", []string{"Cookie", "session="}, "token-missing", ""},
		"two cookies of one name":                   {"/", []string{"Cookie", "session=" + good + "; session=" + bad}, "token-ambiguous", ""},
		"the query string":                          {"/?a=1&access_token=" + good + "&b=%20x", nil, "", "a=1&b=%20x"},
		"the query string, name escaped":            {"/?%61ccess_token=" + good, nil, "", ""},
		"twice in the query string":                 {"/?access_token=" + good + "&access_token=" + good, nil, "token-ambiguous", ""},
		"the first that is present counts":          {"/", []string{"Authorization", bearer(good), "X-Api-Token", bad}, "", ""},
		"no second chance after a bad token":        {"/", []string{"Authorization", bearer(bad), "X-Api-Token", good}, "token-invalid", ""},
		"another scheme leaves the next its chance": {"/", []string{"Authorization", "Basic YTpi", "X-Api-Token", good}, "", ""},
		"a token in the query goes in any case":     {"/?access_token=" + bad, []string{"Authorization", bearer(good)}, "", ""},
		"two custom headers":                        {"/", []string{"X-Api-Token", good, "X-Api-Token", good}, "token-ambiguous", ""},
		"two Authorization headers beside a cookie": {"/", []string{"Authorization", "Basic a", "Authorization", "Basic b", "Cookie", "session=" + good}, "token-ambiguous", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := serve(t, newHandler(t, all), newRequest("GET", test.target, test.header...))
			if test.code != "" {
				require.NotNil(t, o.problem)
				require.Equal(t, test.code, o.problem.Code)
				return
			}
			require.NotNil(t, o.passed, "%v", o.problem)
			require.Equal(t, test.sent, o.passed.URL.RawQuery)
			require.NotContains(t, o.passed.RequestURI, "access_token")
			require.Equal(t, o.passed.URL.RequestURI(), o.passed.RequestURI)
		})
	}
}

func TestProvisionRefusesJSONThatCanNotWork(t *testing.T) {
	t.Setenv("JWT_AUTH_EMPTY", "")
	key, err := json.Marshal(publicPEM(t, signingKey().Public()))
	require.NoError(t, err)
	for want, config := range map[string]string{
		"no issuer":                      `{}`,
		"want exactly one of jwks_url":   `{"issuers":[{"issuer":"a","audiences":["b"]}]}`,
		"no audience":                    `{"issuers":[{"issuer":"a","public_keys":[` + string(key) + `]}]}`,
		"public key: not PEM":            `{"issuers":[{"issuer":"a","audiences":["b"],"public_keys":["x"]}]}`,
		"7 bytes":                        `{"issuers":[{"issuer":"a","audiences":["b"],"hmac_secret":"hunter2"}]}`,
		"plain http":                     `{"issuers":[{"issuer":"a","audiences":["b"],"jwks_url":"http://a.test"}]}`,
		"unrecognized placeholder":       `{"issuers":[{"issuer":"{nothing}","audiences":["b"],"public_keys":[` + string(key) + `]}]}`,
		"{env.JWT_AUTH_EMPTY} is empty":  `{"issuers":[{"issuer":"a","audiences":["b"],"hmac_secret":"{env.JWT_AUTH_EMPTY}"}]}`,
		"a leeway of 2m0s":               `{"issuers":[{"issuer":"a","audiences":["b"],"public_keys":[` + string(key) + `]}],"leeway":"2m"}`,
		"a cache of -1 tokens":           `{"issuers":[{"issuer":"a","audiences":["b"],"public_keys":[` + string(key) + `]}],"cache":-1}`,
		"want header, cookie or query":   `{"sources":[{"type":"body","name":"a"}]}`,
		"has no name":                    `{"sources":[{"type":"query"}]}`,
		"of type cookie has no scheme":   `{"sources":[{"type":"cookie","name":"a","scheme":"b"}]}`,
		`algorithm "HS256" does not fit`: `{"issuers":[{"issuer":"a","audiences":["b"],"algorithms":["HS256"],"public_keys":[` + string(key) + `]}]}`,
	} {
		_, err := provision(t, new(jwtauth.Handler), config)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestPlaceholdersAreResolvedWhenTheConfigurationLoads(t *testing.T) {
	secret := "b1946ac92492d2347c6235b4d2611184c7f2e1a0"
	t.Setenv("JWT_AUTH_SECRET", secret)
	t.Setenv("JWT_AUTH_ISSUER", "https://env.test")
	h, err := provision(t, new(jwtauth.Handler), `{"issuers":[{"issuer":"{env.JWT_AUTH_ISSUER}","audiences":["{env.JWT_AUTH_ISSUER}/api"],"hmac_secret":"{env.JWT_AUTH_SECRET}"}]}`)
	require.NoError(t, err)
	token := mint(t, jwt.SigningMethodHS256, "", []byte(secret), map[string]any{"iss": "https://env.test", "aud": "https://env.test/api"})
	require.NotNil(t, serve(t, h, newRequest("GET", "/", "Authorization", bearer(token))).passed)
	require.Equal(t, "{env.JWT_AUTH_SECRET}", h.Issuers[0].HMACSecret, "the configuration, which the admin API shows, keeps the placeholder")
}

func TestSecretsThatAreNotUTF8DontShareAVerifier(t *testing.T) {
	t.Parallel()
	secretA := "\xff" + strings.Repeat("0123456789abcdefg", 2) + "x"
	secretB := "\xfe" + secretA[1:]
	make := func(secret string) *jwtauth.Handler {
		h, err := provision(t, &jwtauth.Handler{Issuers: []jwtauth.Issuer{{Issuer: issuer, Audiences: []string{"api"}, HMACSecret: secret}}}, "")
		require.NoError(t, err)
		return h
	}
	a, b := make(secretA), make(secretB)
	token := bearer(mint(t, jwt.SigningMethodHS256, "", []byte(secretA)))
	require.NotNil(t, serve(t, a, newRequest("GET", "/", "Authorization", token)).passed)
	require.NotNil(t, serve(t, b, newRequest("GET", "/", "Authorization", token)).problem)
}

func TestCleanupMayBeRepeatedAndRequestsMayFollow(t *testing.T) {
	t.Parallel()
	require.NoError(t, new(jwtauth.Handler).Cleanup())
	h := newHandler(t, "")
	require.NoError(t, h.Cleanup())
	require.NoError(t, h.Cleanup())
	require.NotNil(t, serve(t, h, newRequest("GET", "/", "Authorization", bearer(goodToken(t)))).passed)
}

// FuzzRequest sends any Authorization header and query string through the
// handler: nothing passes but requests without a token, and those without the
// headers and the parameter.
func FuzzRequest(f *testing.F) {
	h := newHandler(f, `{"optional":true,"sources":[{"type":"header","name":"Authorization"},{"type":"query","name":"t"}]}`)
	f.Add("Bearer x", "t=1&a=2")
	f.Add("bearer ", "%74=1&t=%zz;")
	f.Add("", "a=1&t&t=")
	f.Add("Basic x", "a=1&t=")
	f.Fuzz(func(t *testing.T, authorization, query string) {
		r := newRequest("GET", "/", "Authorization", authorization, "X-User-Id", "root")
		r.URL.RawQuery = query
		o := serve(t, h, r)
		require.NotContains(t, r.Header, "X-User-Id")
		if o.passed != nil {
			require.Nil(t, gateway.Principal(r.Context()))
			require.Empty(t, r.URL.Query()["t"])
		}
	})
}

func BenchmarkServeHTTPCached(b *testing.B) {
	h := newHandler(b, "")
	authorization := bearer(goodToken(b))
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	w := httptest.NewRecorder()
	r := newRequest("GET", "/api/permissions/dashboard/", "Authorization", authorization, "Accept", "*/*", "User-Agent", "curl/8", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	require.NoError(b, h.ServeHTTP(w, r, next))
	b.ReportAllocs()
	for b.Loop() {
		if err := h.ServeHTTP(w, r, next); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServeHTTPFreshRequest includes what Caddy makes for each request, to
// see what the handler adds to a map that is still empty; subtract
// BenchmarkPrepareRequest.
func BenchmarkServeHTTPFreshRequest(b *testing.B) {
	h := newHandler(b, "")
	authorization := bearer(goodToken(b))
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for _, name := range []string{"prepare only", "with the handler"} {
		b.Run(name, func(b *testing.B) {
			w := httptest.NewRecorder()
			original := httptest.NewRequest("GET", "/api/permissions/dashboard/", http.NoBody)
			b.ReportAllocs()
			for b.Loop() {
				original.Header = http.Header{"Authorization": {authorization}, "Accept": {"*/*"}, "User-Agent": {"curl/8"}}
				r := caddyhttp.PrepareRequest(original, caddy.NewReplacer(), w, nil)
				if name == "prepare only" {
					continue
				}
				if err := h.ServeHTTP(w, r, next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
