// Package jwtauth verifies access tokens: JWTs (RFC 7519) of several issuers,
// each with its own keys, algorithms and audiences. It follows RFC 8725 line
// by line. golang-jwt checks signatures and times; a strict parser in front of
// it refuses what it lets through.
//
// An ECDSA signature (r, s) has a twin (r, n-s) that anyone can compute and
// that verifies as well. Both are accepted, as RFC 7518 has no rule about it:
// nothing here takes a token's text for its identity. The twin merely costs a
// cache entry of its own.
package jwtauth

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// MaxLeeway is the largest difference between clocks that can be allowed for.
const MaxLeeway = time.Minute

// Config says which tokens a [Verifier] accepts.
type Config struct {
	// Issuers are the trusted issuers, at least one, each name once.
	Issuers []Issuer
	// Leeway is how far the clocks of issuers may differ from ours, 0 to [MaxLeeway].
	Leeway time.Duration
	// Claims names the claims that make the identity.
	Claims ClaimNames
	// CacheSize is how many verified tokens are remembered; 0 for none. A
	// remembered token takes up to 4 KiB on average.
	CacheSize int
	// Clock tells the time. If nil, it is the system's.
	Clock clock.Clock
	// Attach, if not nil, is called once for each token that was verified anew.
	// What it returns is kept with the token as [Verified.Attachment].
	Attach func(*identity.Principal) any
}

// Issuer is who signs tokens.
type Issuer struct {
	// Name is the exact value of "iss".
	Name string
	// Keys are the issuer's keys. Issuers don't share a store.
	Keys *Keys
	// Audiences are the values of "aud" that are meant for us. A token must
	// name one of them.
	Audiences []string
	// Algorithms are the values of "alg" that the issuer uses: EdDSA, ES256,
	// ES384, RS256, RS384, RS512, PS256, HS256. Empty means all that its keys fit.
	Algorithms []string
}

// Verified is the outcome of a verification. It is shared by all requests with
// the token and must not be changed.
type Verified struct {
	// Principal is who the token speaks for.
	Principal identity.Principal
	// Attachment is what [Config.Attach] made of the principal.
	Attachment any
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	issuers map[string]*issuer
	names   ClaimNames
	leeway  time.Duration
	attach  func(*identity.Principal) any
	cache   *cache
}

// issuer is an Issuer made ready.
type issuer struct {
	keys      *Keys
	algs      algorithms
	validator *jwt.Validator
}

// New returns a Verifier. It does not touch the network.
func New(config Config) (*Verifier, error) {
	if len(config.Issuers) == 0 {
		return nil, errors.New("no issuer")
	}
	if config.Leeway < 0 || config.Leeway > MaxLeeway {
		return nil, fmt.Errorf("a leeway of %s: from 0 to %s is possible", config.Leeway, MaxLeeway)
	}
	if config.CacheSize < 0 {
		return nil, fmt.Errorf("a cache of %d tokens", config.CacheSize)
	}
	if config.Clock == nil {
		config.Clock = clock.System{}
	}
	v := &Verifier{
		issuers: make(map[string]*issuer, len(config.Issuers)),
		names:   config.Claims.withDefaults(),
		leeway:  config.Leeway,
		attach:  config.Attach,
	}
	for i := range config.Issuers {
		name := config.Issuers[i].Name
		if v.issuers[name] != nil {
			return nil, fmt.Errorf("issuer %q: twice", name)
		}
		ready, err := newIssuer(&config.Issuers[i], &config)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", name, err)
		}
		for _, other := range v.issuers {
			if other.keys == ready.keys {
				return nil, fmt.Errorf("issuer %q: the keys of another issuer", name)
			}
		}
		v.issuers[name] = ready
	}
	var err error
	v.cache, err = newCache(config.CacheSize, config.Clock)
	return v, err
}

func newIssuer(i *Issuer, config *Config) (*issuer, error) {
	switch {
	case i.Name == "":
		return nil, errors.New("no name")
	case i.Keys == nil:
		return nil, errors.New("no keys")
	case len(i.Audiences) == 0 || slices.Contains(i.Audiences, ""):
		return nil, errors.New("no audience, or an empty one") // RFC 8725 section 3.9
	}
	possible := i.Keys.algorithms()
	algs := possible
	if len(i.Algorithms) > 0 {
		algs = 0
		for _, name := range i.Algorithms {
			alg := parseAlgorithm(name)
			if alg == 0 {
				return nil, fmt.Errorf("algorithm %q: want EdDSA, ES256, ES384, RS256, RS384, RS512, PS256 or HS256", name)
			}
			if alg&possible == 0 {
				return nil, fmt.Errorf("algorithm %q does not fit the keys", name)
			}
			algs |= alg
		}
	}
	return &issuer{keys: i.Keys, algs: algs, validator: jwt.NewValidator(
		jwt.WithIssuer(i.Name),
		jwt.WithAudience(i.Audiences...),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(config.Leeway),
		jwt.WithTimeFunc(config.Clock.Now),
	)}, nil
}

// Ready reports whether the keys of every issuer were loaded.
func (v *Verifier) Ready() bool {
	for _, issuer := range v.issuers {
		if !issuer.keys.Ready() {
			return false
		}
	}
	return true
}

// Verify returns who the token speaks for, or an [*Error]. It does no I/O.
func (v *Verifier) Verify(token string) (*Verified, error) {
	verified, refusal := v.cache.get(token)
	if verified == nil && refusal == nil {
		verified, refusal = v.verify(token)
	}
	if refusal != nil {
		return nil, refusal
	}
	return verified, nil
}

// verify verifies a token that the cache does not know and remembers it.
func (v *Verifier) verify(raw string) (*Verified, *Error) {
	t, refusal := parseToken(raw)
	if refusal != nil {
		return nil, refusal
	}
	c, refusal := parseClaims(t.payload)
	if refusal != nil {
		return nil, refusal
	}
	if c.issuer == "" {
		return nil, refuse(ReasonMissingClaim, errors.New("iss"))
	}
	// The issuer decides about keys and algorithms, so its name is looked up
	// before the signature is known. It is confirmed with it.
	issuer := v.issuers[c.issuer]
	if issuer == nil {
		return nil, refuse(ReasonUnknownIssuer, nil)
	}
	if t.alg&issuer.algs == 0 {
		return nil, refuse(ReasonUnsupported, errors.New("alg is none that the issuer uses"))
	}
	set := issuer.keys.set.Load()
	if set == nil {
		return nil, ErrNoKeys
	}
	if refusal = issuer.keys.verify(set, t); refusal != nil {
		return nil, refusal
	}
	if refusal = c.validate(issuer.validator); refusal != nil {
		return nil, refusal
	}
	e := &entry{keys: issuer.keys, set: set}
	if e.verified.Principal, refusal = c.principal(v.names); refusal != nil {
		return nil, refusal
	}
	if v.attach != nil {
		e.verified.Attachment = v.attach(&e.verified.Principal)
	}
	e.notBefore, e.expires = c.bounds(v.leeway)
	v.cache.put(raw, e)
	return &e.verified, nil
}
