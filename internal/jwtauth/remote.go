package jwtauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// How remote keys are fetched.
const (
	// fetchTimeout bounds one fetch, from the dial to the last byte.
	fetchTimeout = 5 * time.Second
	// maxDocument is the longest key set, in bytes.
	maxDocument = 256 << 10
	// maxRedirects bounds redirects, which must stay on the host anyway.
	maxRedirects = 3

	// The time between two fetches is what Cache-Control: max-age says, within
	// these bounds; defaultRefresh if it says nothing.
	minRefresh     = time.Minute
	maxRefresh     = time.Hour
	defaultRefresh = 5 * time.Minute

	// unknownKeyPause is the shortest time between a fetch and the next that an
	// unknown key id causes. Key ids can be made up by anyone.
	unknownKeyPause = 10 * time.Second

	// After a failed fetch the next comes after firstRetry, then after twice
	// the time each, up to maxRetry; up to minRefresh once there are keys.
	firstRetry = 250 * time.Millisecond
	maxRetry   = 10 * time.Second
)

// RemoteConfig says where an issuer publishes its keys.
type RemoteConfig struct {
	// URL is the address of the JWK set. It must be https; plain http is taken
	// for loopback hosts, and for any host with AllowHTTP.
	URL string
	// AllowHTTP permits plain http to hosts other than loopback: whoever can
	// change the traffic on the way can then forge tokens.
	AllowHTTP bool
	// Transport makes the requests. If nil, a transport of its own is used,
	// which honours HTTPS_PROXY and ends with [Keys.Run].
	Transport http.RoundTripper
	// Notify, if not nil, is told of every change and every failure. It is
	// called from the goroutine of [Keys.Run].
	Notify func(Refresh)
}

// Refresh is the outcome of a fetch that changed something or failed.
type Refresh struct {
	// URL is where the keys come from.
	URL string
	// Keys is how many keys are in use now.
	Keys int
	// Dropped says for each key that is not used why, such as "key 0: use is not sig".
	Dropped []string
	// Failures counts the fetches that failed in a row, 0 after a good one.
	Failures int
	// Err is why the fetch failed. The keys that were there stay in use.
	Err error
}

// remote fetches a key set in the background.
type remote struct {
	config RemoteConfig
	kick   chan struct{} // holds one wish for a refresh
	last   [sha256.Size]byte
}

// RemoteKeys returns a store of the keys at a URL. It does not touch the
// network: [Keys.Run] does.
func RemoteKeys(config RemoteConfig) (*Keys, error) {
	u, err := url.Parse(config.URL)
	switch {
	case err != nil:
		return nil, errors.New("JWKS URL: not a URL") // the error would quote it
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("JWKS URL %q: want https://host/path without user and fragment", u.Redacted())
	case u.Scheme == "http" && !config.AllowHTTP && !loopback(u.Hostname()):
		return nil, fmt.Errorf("JWKS URL %q: plain http is for loopback addresses, or with allow_http", config.URL)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("JWKS URL %q: the scheme is not https", config.URL)
	}
	return &Keys{remote: &remote{config: config, kick: make(chan struct{}, 1)}}, nil
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761 section 6.3
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}

// run fetches until ctx is done and stores every new set.
func (r *remote) run(ctx context.Context, set *atomic.Pointer[keySet]) {
	client := &http.Client{Transport: r.config.Transport, CheckRedirect: sameHost, Timeout: fetchTimeout}
	if client.Transport == nil {
		transport := newTransport()
		defer transport.CloseIdleConnections()
		client.Transport = transport
	}
	failures := 0
	for ctx.Err() == nil {
		maxAge, err := r.refresh(ctx, client, set, failures)
		if ctx.Err() != nil {
			return
		}
		wait := spread(maxAge)
		if err != nil {
			failures++
			r.notify(Refresh{Keys: set.Load().len(), Failures: failures, Err: err})
			wait = spread(backoff(failures, set.Load() != nil))
		} else {
			failures = 0
		}
		r.wait(ctx, wait)
	}
}

// wait returns after d, or unknownKeyPause after it began if a refresh was
// asked for, or when ctx is done.
func (r *remote) wait(ctx context.Context, d time.Duration) {
	select {
	case <-r.kick: // asked for before or during the fetch
	default:
	}
	pause := time.NewTimer(unknownKeyPause)
	defer pause.Stop()
	full := time.NewTimer(d)
	defer full.Stop()
	select {
	case <-ctx.Done():
		return
	case <-full.C:
		return
	case <-r.kick:
	}
	select {
	case <-ctx.Done():
	case <-full.C:
	case <-pause.C:
	}
}

// refresh fetches once and stores the set if the document changed.
func (r *remote) refresh(ctx context.Context, client *http.Client, set *atomic.Pointer[keySet], failures int) (time.Duration, error) {
	document, maxAge, err := r.fetch(ctx, client)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256(document)
	if set.Load() != nil && digest == r.last {
		if failures > 0 {
			r.notify(Refresh{Keys: set.Load().len()})
		}
		return maxAge, nil
	}
	fresh, dropped, err := parseKeySet(document)
	if err != nil {
		return 0, err
	}
	if len(fresh.keys) == 0 && set.Load() == nil {
		// A service that is about to make its first key. Once there were keys an
		// empty set is taken at its word: they were all withdrawn.
		return 0, fmt.Errorf("no key that can be used %v", dropped)
	}
	r.last = digest
	set.Store(fresh)
	r.notify(Refresh{Keys: len(fresh.keys), Dropped: dropped})
	return maxAge, nil
}

// fetch gets the document and how long it may be kept.
func (r *remote) fetch(ctx context.Context, client *http.Client) ([]byte, time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.config.URL, http.NoBody)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	request.Header.Set("User-Agent", "tenantgate")
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("status %d", response.StatusCode)
	}
	document, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return nil, 0, err
	}
	if len(document) > maxDocument {
		return nil, 0, fmt.Errorf("longer than %d bytes", maxDocument)
	}
	return document, maxAge(response.Header), nil
}

func (r *remote) notify(event Refresh) {
	if r.config.Notify != nil {
		event.URL = r.config.URL
		r.config.Notify(event)
	}
}

// maxAge returns how long a response may be kept, within our bounds.
func maxAge(h http.Header) time.Duration {
	age := defaultRefresh
	for _, value := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(value, ",") {
			name, argument, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
			switch name {
			case "no-store", "no-cache":
				return minRefresh
			case "max-age":
				seconds, err := strconv.ParseInt(strings.Trim(argument, `"`), 10, 32)
				if err == nil {
					age = time.Duration(seconds) * time.Second
				}
			}
		}
	}
	return min(max(age, minRefresh), maxRefresh)
}

// backoff returns the pause after that many failures in a row.
func backoff(failures int, haveKeys bool) time.Duration {
	limit := maxRetry
	if haveKeys {
		limit = minRefresh
	}
	return min(firstRetry<<min(failures-1, 16), limit)
}

// spread shortens d by up to a tenth, so that the gateways of a cluster don't
// fetch all at once.
func spread(d time.Duration) time.Duration {
	return d - rand.N(d/10+1) //nolint:gosec // nothing secret hangs on it
}

// sameHost refuses redirects that leave the configured scheme, host and port.
func sameHost(request *http.Request, via []*http.Request) error {
	if request.URL.Scheme != via[0].URL.Scheme || request.URL.Host != via[0].URL.Host {
		return errors.New("redirected to another host")
	}
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	return nil
}

// newTransport returns a transport for one request every few minutes.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: fetchTimeout}).DialContext,
		TLSHandshakeTimeout:    fetchTimeout,
		ForceAttemptHTTP2:      true,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// len is the number of keys; a nil set has none.
func (s *keySet) len() int {
	if s == nil {
		return 0
	}
	return len(s.keys)
}
