package jwtauth_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/jwtauth"
)

// endpoint is a JWKS endpoint without a network.
type endpoint struct {
	mu       sync.Mutex
	status   int
	document []byte
	header   http.Header
	err      error
	fetches  []time.Time
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fetches = append(e.fetches, time.Now())
	if e.err != nil {
		return nil, e.err
	}
	return &http.Response{
		StatusCode: e.status, Header: e.header.Clone(), Request: r,
		Body: io.NopCloser(bytes.NewReader(e.document)),
	}, nil
}

// set changes what the endpoint answers.
func (e *endpoint) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.fetches)
}

// remoteCase is a verifier of issuerA with the keys of an endpoint, on the
// time of a synctest bubble.
type remoteCase struct {
	endpoint *endpoint
	keys     *jwtauth.Keys
	verifier *jwtauth.Verifier
	events   chan jwtauth.Refresh
}

func newRemoteCase(t *testing.T, document []byte) *remoteCase {
	t.Helper()
	c := &remoteCase{
		endpoint: &endpoint{status: 200, document: document, header: http.Header{}},
		events:   make(chan jwtauth.Refresh, 100),
	}
	var err error
	c.keys, err = jwtauth.RemoteKeys(jwtauth.RemoteConfig{
		URL: "https://a.test/jwks.json", Transport: c.endpoint, Notify: func(r jwtauth.Refresh) { c.events <- r },
	})
	require.NoError(t, err)
	c.verifier, err = jwtauth.New(jwtauth.Config{
		Issuers:   []jwtauth.Issuer{{Name: issuerA, Keys: c.keys, Audiences: []string{audience}}},
		Clock:     clock.System{}, // the bubble's
		CacheSize: 100,
	})
	require.NoError(t, err)
	return c
}

// start runs the fetcher until the end of the test.
func (c *remoteCase) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.keys.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

// verify returns the reason why a token of that key is refused, or "ok".
func (c *remoteCase) verify(t *testing.T, kid string, key any) jwtauth.Reason {
	t.Helper()
	claims := goodClaims(map[string]any{"iat": nil, "exp": time.Now().Add(24 * time.Hour).Unix()})
	return reasonOf(errOf(c.verifier.Verify(mint(t, jwt.SigningMethodEdDSA, kid, key, claims))))
}

func TestNoKeysBeforeTheFirstFetchAndAQuickRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRemoteCase(t, jwks(jwk("a", edKey().Public())))
		c.endpoint.err = errors.New("connection refused")
		require.False(t, c.verifier.Ready())
		require.Equal(t, jwtauth.ReasonNoKeys, c.verify(t, "a", edKey()))
		require.Zero(t, c.endpoint.count(), "nothing is fetched before Run")

		c.start(t)
		require.Equal(t, jwtauth.ReasonNoKeys, c.verify(t, "a", edKey()))
		time.Sleep(time.Second) // 250 ms and 500 ms
		require.Equal(t, 3, c.endpoint.count())
		time.Sleep(time.Minute)
		before := c.endpoint.count()
		require.InDelta(t, 12, before, 3, "then every 10 seconds")

		c.endpoint.set(func() { c.endpoint.err = nil })
		time.Sleep(10 * time.Second)
		require.True(t, c.verifier.Ready())
		require.Equal(t, jwtauth.Reason("ok"), c.verify(t, "a", edKey()))
		require.Equal(t, before+1, c.endpoint.count())
		for range before {
			failure := <-c.events
			require.ErrorContains(t, failure.Err, "connection refused")
			require.Zero(t, failure.Keys)
		}
		require.Equal(t, jwtauth.Refresh{URL: "https://a.test/jwks.json", Keys: 1}, <-c.events)
	})
}

func TestAnEmptySetBeforeTheFirstKeyIsNotReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRemoteCase(t, jwks())
		c.start(t)
		require.False(t, c.keys.Ready())
		c.endpoint.set(func() { c.endpoint.document = jwks(jwk("a", edKey().Public())) })
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		require.True(t, c.keys.Ready())
	})
}

func TestARemovedKeyStopsAtOnceAlsoForCachedTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRemoteCase(t, jwks(jwk("a", edKey().Public()), jwk("b", otherEdKey().Public())))
		c.start(t)
		claims := goodClaims(map[string]any{"iat": nil, "exp": time.Now().Add(24 * time.Hour).Unix()})
		token := mint(t, jwt.SigningMethodEdDSA, "a", edKey(), claims)
		require.NoError(t, errOf(c.verifier.Verify(token)))
		require.Equal(t, 1, c.verifier.CachedTokens())

		c.endpoint.set(func() { c.endpoint.document = jwks(jwk("b", otherEdKey().Public())) })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Equal(t, jwtauth.ReasonUnknownKey, reasonOf(errOf(c.verifier.Verify(token))))
		require.Zero(t, c.verifier.CachedTokens())

		c.endpoint.set(func() { c.endpoint.document = jwks() })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Equal(t, jwtauth.ReasonUnknownKey, c.verify(t, "b", otherEdKey()), "all keys were withdrawn")
		require.True(t, c.keys.Ready(), "which is not the same as not loaded")
	})
}

func TestTheSameDocumentKeepsTheCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRemoteCase(t, jwks(jwk("a", edKey().Public())))
		c.start(t)
		require.Equal(t, jwtauth.Reason("ok"), c.verify(t, "a", edKey()))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Equal(t, 2, c.endpoint.count())
		require.Equal(t, 1, c.verifier.CachedTokens())
		require.Len(t, c.events, 1, "nothing to tell")
	})
}

func TestKeysServeWhileTheEndpointIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRemoteCase(t, jwks(jwk("a", edKey().Public())))
		c.start(t)
		for what, change := range map[string]func(){
			"connection error": func() { c.endpoint.err = errors.New("no route") },
			"status 500":       func() { c.endpoint.status, c.endpoint.err = 500, nil },
			"no JSON":          func() { c.endpoint.status, c.endpoint.document = 200, []byte("<html>") },
			"duplicate id":     func() { c.endpoint.document = jwks(jwk("a", edKey().Public()), jwk("a", otherEdKey().Public())) },
			"too long":         func() { c.endpoint.document = []byte(`{"keys":[]` + strings.Repeat(" ", 256<<10) + `}`) },
		} {
			c.endpoint.set(change)
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Equal(t, jwtauth.Reason("ok"), c.verify(t, "a", edKey()), what)
		}
		<-c.events // the first, good one
		failure := <-c.events
		require.Error(t, failure.Err)
		require.Equal(t, 1, failure.Failures)
		require.Equal(t, 1, failure.Keys)

		c.endpoint.set(func() {
			c.endpoint.err, c.endpoint.status, c.endpoint.document = nil, 200, jwks(jwk("a", edKey().Public()))
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		var last jwtauth.Refresh
		for len(c.events) > 0 {
			last = <-c.events
		}
		require.NoError(t, last.Err, "the recovery is told")
		require.Zero(t, last.Failures)
	})
}

func TestAnUnknownKeyIDCausesOneFetchInTenSecondsAndNobodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRemoteCase(t, jwks(jwk("a", edKey().Public())))
		c.start(t)
		require.Equal(t, 1, c.endpoint.count())
		c.endpoint.set(func() { c.endpoint.document = jwks(jwk("a", edKey().Public()), jwk("b", otherEdKey().Public())) })

		time.Sleep(20 * time.Second)
		began := time.Now()
		require.Equal(t, jwtauth.ReasonUnknownKey, c.verify(t, "b", otherEdKey()))
		for range 50 { // the fetch goes on beside them
			require.Contains(t, []jwtauth.Reason{jwtauth.ReasonUnknownKey, "ok"}, c.verify(t, "b", otherEdKey()))
		}
		require.Equal(t, began, time.Now(), "no request waited")
		synctest.Wait()
		require.Equal(t, 2, c.endpoint.count(), "the last fetch is long ago: at once")
		require.Equal(t, jwtauth.Reason("ok"), c.verify(t, "b", otherEdKey()))

		for range 60 { // a minute of made-up ids
			require.Equal(t, jwtauth.ReasonUnknownKey, c.verify(t, "made up", otherEdKey()))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		require.InDelta(t, 2+6, c.endpoint.count(), 1)
		for i := 2; i < len(c.endpoint.fetches); i++ {
			require.GreaterOrEqual(t, c.endpoint.fetches[i].Sub(c.endpoint.fetches[i-1]), 10*time.Second)
		}
	})
}

func TestARotationWithoutKeyIDsIsSeen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nameless := func(key any) map[string]any {
			m := jwk("", key)
			delete(m, "kid")
			return m
		}
		c := newRemoteCase(t, jwks(nameless(edKey().Public())))
		c.start(t)
		require.Equal(t, jwtauth.Reason("ok"), c.verify(t, "", edKey()))
		require.Equal(t, jwtauth.ReasonUnknownKey, c.verify(t, "x", edKey()), "an id that no key has")
		time.Sleep(time.Minute)
		c.endpoint.set(func() { c.endpoint.document = jwks(nameless(otherEdKey().Public())) })
		require.Equal(t, jwtauth.ReasonBadSignature, c.verify(t, "", otherEdKey()))
		synctest.Wait()
		require.Equal(t, jwtauth.Reason("ok"), c.verify(t, "", otherEdKey()))
	})
}

func TestMaxAgeIsHonouredWithinBounds(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"":                      5 * time.Minute,
		"max-age=600":           10 * time.Minute,
		`public, Max-Age="600"`: 10 * time.Minute,
		"max-age=1":             time.Minute,
		"max-age=99999999":      time.Hour,
		"max-age=x":             5 * time.Minute,
		"max-age=-5":            time.Minute,
		"no-store, max-age=600": time.Minute,
		"must-revalidate":       5 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newRemoteCase(t, jwks(jwk("a", edKey().Public())))
			c.endpoint.header.Set("Cache-Control", header)
			c.start(t)
			time.Sleep(want * 9 / 10)
			require.Equal(t, 1, c.endpoint.count(), header)
			time.Sleep(want/10 + time.Nanosecond)
			synctest.Wait()
			require.Equal(t, 2, c.endpoint.count(), header)
		})
	}
}

func TestRedirectsStayOnTheHost(t *testing.T) {
	t.Parallel()
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(jwks(jwk("a", otherEdKey().Public())))
	}))
	defer evil.Close()
	mux := http.NewServeMux()
	good := httptest.NewServer(mux)
	defer good.Close()
	mux.Handle("/elsewhere", http.RedirectHandler(evil.URL, http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusFound))
	mux.Handle("/moved", http.RedirectHandler("/jwks", http.StatusFound))
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(jwks(jwk("a", edKey().Public()))) })
	for path, want := range map[string]string{"/elsewhere": "another host", "/round": "too many", "/moved": "", "/none": "status 404"} {
		events := make(chan jwtauth.Refresh, 10)
		keys, err := jwtauth.RemoteKeys(jwtauth.RemoteConfig{URL: good.URL + path, Notify: func(r jwtauth.Refresh) {
			select {
			case events <- r:
			default:
			}
		}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); keys.Run(ctx) }()
		event := <-events
		cancel()
		<-done
		if want == "" {
			require.NoError(t, event.Err)
			require.True(t, keys.Ready())
			continue
		}
		require.ErrorContains(t, event.Err, want)
		require.False(t, keys.Ready())
	}
}

func TestRemoteKeysURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://idp.test/jwks":          "",
		"http://localhost:8081/jwks":     "",
		"http://auth.localhost/jwks":     "",
		"http://127.0.0.1:8081/jwks":     "",
		"http://[::1]:8081/jwks":         "",
		"http://idp.test/jwks":           "plain http is for loopback",
		"http://10.0.0.1/jwks":           "plain http is for loopback",
		"http://localhost.evil.test/":    "plain http is for loopback",
		"ftp://idp.test/jwks":            "the scheme is not https",
		"file:///etc/passwd":             "want https://host/path",
		"https://user:secret@idp.test/":  "without user",
		"https://idp.test/jwks#fragment": "fragment",
		"/jwks":                          "want https://host/path",
		"":                               "want https://host/path",
		"https://%zz/":                   "not a URL",
	} {
		_, err := jwtauth.RemoteKeys(jwtauth.RemoteConfig{URL: url})
		if want == "" {
			require.NoError(t, err, url)
			continue
		}
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := jwtauth.RemoteKeys(jwtauth.RemoteConfig{URL: "http://auth:8081/jwks", AllowHTTP: true})
	require.NoError(t, err)
}

func TestVerifyWhileKeysChange(t *testing.T) {
	t.Parallel()
	var turn atomic.Int32
	documents := [][]byte{jwks(jwk("a", edKey().Public())), jwks(jwk("b", otherEdKey().Public()))}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(documents[turn.Add(1)%2])
	}))
	defer server.Close()
	keys, err := jwtauth.RemoteKeys(jwtauth.RemoteConfig{URL: server.URL})
	require.NoError(t, err)
	v, _ := newVerifier(t, keys)
	tokens := []string{
		mint(t, jwt.SigningMethodEdDSA, "a", edKey(), goodClaims()),
		mint(t, jwt.SigningMethodEdDSA, "b", otherEdKey(), goodClaims()),
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// At any moment exactly one key is valid, but it may change between
				// two calls: only the reasons are certain.
				for _, token := range tokens {
					if reason := reasonOf(errOf(v.Verify(token))); reason != "ok" && reason != jwtauth.ReasonUnknownKey && reason != jwtauth.ReasonNoKeys {
						t.Errorf("unexpected %s", reason)
						return
					}
				}
			}
		})
	}
	for range 20 { // each run fetches once at its beginning
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		before := turn.Load()
		go func() { defer close(done); keys.Run(ctx) }()
		require.Eventually(t, func() bool { return turn.Load() > before }, 5*time.Second, time.Millisecond)
		cancel()
		<-done
	}
	close(stop)
	readers.Wait()
}
