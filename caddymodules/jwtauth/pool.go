package jwtauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	core "github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// Defaults of the settings that may be zero.
const (
	defaultLeeway = 30 * time.Second
	defaultCache  = 10000
)

// Both pools outlive a configuration: fetched keys by issuer and URL, and
// verifiers with their remembered tokens by everything a verdict depends on. A
// verifier is taken after its keys and given back before them, so a pooled
// verifier's keys are always pooled, and fresh, too.
var (
	keyPool      = caddy.NewUsagePool()
	verifierPool = caddy.NewUsagePool()
)

// settings is the configuration with placeholders resolved and defaults set.
// All of its fields are part of the verifier's pool key.
type settings struct {
	Issuers []Issuer
	Leeway  time.Duration
	Claims  Claims
	Cache   int
}

// resolve returns the settings of h. Its errors name no value of a secret.
func (h *Handler) resolve(repl *caddy.Replacer) (*settings, error) {
	s := &settings{Leeway: defaultLeeway, Claims: h.Claims, Cache: defaultCache}
	if h.Leeway != nil {
		s.Leeway = time.Duration(*h.Leeway)
	}
	if h.Cache != nil {
		s.Cache = *h.Cache
	}
	for _, issuer := range h.Issuers { // a copy: the configuration stays as it was written
		var errs []error
		replace := func(text string) string {
			replaced, err := repl.ReplaceOrErr(text, true, true)
			errs = append(errs, err)
			return replaced
		}
		replaceAll := func(texts []string) []string {
			replaced := make([]string, len(texts))
			for i, text := range texts {
				replaced[i] = replace(text)
			}
			return replaced
		}
		name := issuer.Issuer
		issuer.Issuer = replace(issuer.Issuer)
		issuer.JWKSURL = replace(issuer.JWKSURL)
		issuer.PublicKeys = replaceAll(issuer.PublicKeys)
		issuer.HMACSecret = replace(issuer.HMACSecret)
		issuer.Audiences = replaceAll(issuer.Audiences)
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", name, err)
		}
		s.Issuers = append(s.Issuers, issuer)
	}
	return s, nil
}

// acquire makes the verifier. What it takes from the pools is given back by
// Cleanup, also if it fails half-way.
func (h *Handler) acquire(s *settings) error {
	config := core.Config{
		Leeway:    s.Leeway,
		Claims:    core.ClaimNames(s.Claims),
		CacheSize: s.Cache,
		Attach:    attach,
	}
	for i := range s.Issuers {
		keys, err := h.keys(&s.Issuers[i])
		if err != nil {
			return fmt.Errorf("issuer %q: %w", s.Issuers[i].Issuer, err)
		}
		config.Issuers = append(config.Issuers, core.Issuer{
			Name: s.Issuers[i].Issuer, Keys: keys, Audiences: s.Issuers[i].Audiences, Algorithms: s.Issuers[i].Algorithms,
		})
	}
	key := poolKey(*s)
	value, _, err := verifierPool.LoadOrNew(key, func() (caddy.Destructor, error) {
		verifier, err := core.New(config)
		return pooledVerifier{verifier}, err
	})
	if err != nil {
		return err
	}
	h.release = append(h.release, func() { _, _ = verifierPool.Delete(key) })
	h.verifier = value.(pooledVerifier).Verifier // the pool has nothing else
	return nil
}

// keys returns the store of an issuer's keys.
func (h *Handler) keys(i *Issuer) (*core.Keys, error) {
	switch {
	case i.JWKSURL != "" && len(i.PublicKeys) == 0 && i.HMACSecret == "":
		return h.remoteKeys(i)
	case i.JWKSURL == "" && len(i.PublicKeys) > 0 && i.HMACSecret == "":
		return core.PinnedKeys(i.PublicKeys...)
	case i.JWKSURL == "" && len(i.PublicKeys) == 0 && i.HMACSecret != "":
		return core.SecretKey(secret.String(i.HMACSecret))
	}
	return nil, errors.New("want exactly one of jwks_url, public_key and hmac_secret")
}

func (h *Handler) remoteKeys(i *Issuer) (*core.Keys, error) {
	key := poolKey(Issuer{Issuer: i.Issuer, JWKSURL: i.JWKSURL, AllowHTTP: i.AllowHTTP})
	value, _, err := keyPool.LoadOrNew(key, func() (caddy.Destructor, error) { return newPooledKeys(i) })
	if err != nil {
		return nil, err
	}
	h.release = append(h.release, func() { _, _ = keyPool.Delete(key) })
	return value.(*pooledKeys).keys, nil // the pool has nothing else
}

// poolKey returns a digest of a value that keeps secrets out of the pool's
// keys. Go syntax quotes every byte of a text, whereas JSON would make one of
// all secrets that are not UTF-8.
func poolKey(value any) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%#v", value))
}

// pooledVerifier is a verifier in the pool.
type pooledVerifier struct{ *core.Verifier }

// Destruct implements caddy.Destructor. A verifier holds nothing but memory.
func (pooledVerifier) Destruct() error { return nil }

// pooledKeys are fetched keys in the pool, with the goroutine that fetches them.
type pooledKeys struct {
	keys   *core.Keys
	cancel context.CancelFunc
	done   chan struct{}
}

func newPooledKeys(i *Issuer) (*pooledKeys, error) {
	keys, err := core.RemoteKeys(core.RemoteConfig{URL: i.JWKSURL, AllowHTTP: i.AllowHTTP, Notify: logRefresh(i.Issuer)})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) // ended by Destruct: it outlives the configuration
	p := &pooledKeys{keys: keys, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		keys.Run(ctx)
	}()
	return p, nil
}

// Destruct implements caddy.Destructor. It ends the goroutine; the keys that
// were fetched stay usable for requests that are still on their way.
func (p *pooledKeys) Destruct() error {
	p.cancel()
	<-p.done
	return nil
}

// logRefresh returns a function that logs changes of an issuer's keys. It
// takes Caddy's current logger every time, because the keys outlive the
// configuration whose logger was current when they were made.
func logRefresh(issuer string) func(core.Refresh) {
	return func(r core.Refresh) {
		logger := caddy.Log().Named("http.handlers.jwt_auth").With(zap.String("issuer", issuer), zap.String("jwks_url", r.URL), zap.Int("keys", r.Keys))
		switch {
		case r.Err == nil && r.Keys == 0:
			logger.Warn("the issuer has withdrawn all of its keys", zap.Strings("dropped", r.Dropped))
		case r.Err == nil:
			logger.Info("keys loaded", zap.Strings("dropped", r.Dropped))
		case bits.OnesCount(uint(r.Failures)) == 1:
			// The 1st, 2nd, 4th, 8th, ... failure in a row.
			logger.Warn("keys not fetched", zap.Int("failures", r.Failures), zap.Error(r.Err))
		}
	}
}
