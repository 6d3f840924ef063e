package jwtauth

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/tenantgate/tenantgate/internal/secret"
)

// Keys is the key store of one issuer. There is one store an issuer and no
// common one, so that an issuer's key can never verify another's token.
// Methods are safe for concurrent use.
type Keys struct {
	set    atomic.Pointer[keySet] // nil until keys were loaded
	pinned bool                   // from the configuration: ids don't count
	remote *remote                // nil if pinned
}

// keySet is an immutable set of keys. A new one replaces it as a whole.
type keySet struct {
	keys []*key
	byID map[string]*key
}

// PinnedKeys returns a store of public keys in PEM: "PUBLIC KEY" (PKIX), "RSA
// PUBLIC KEY" (PKCS #1) or "CERTIFICATE", of which only the key counts, not
// the dates. Every text holds one or more blocks. Because PEM has no key ids,
// a token's "kid" is not looked at: each key that fits the algorithm is tried.
func PinnedKeys(texts ...string) (*Keys, error) {
	set := &keySet{}
	for _, text := range texts {
		rest := []byte(strings.TrimSpace(text))
		for len(rest) > 0 {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return nil, errors.New("public key: not PEM")
			}
			public, err := parsePEM(block)
			if err != nil {
				return nil, fmt.Errorf("public key: %w", err)
			}
			k, err := newPublicKey("", public)
			if err != nil {
				return nil, fmt.Errorf("public key: %w", err)
			}
			set.keys = append(set.keys, k)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("public key: empty")
	}
	return pinned(set), nil
}

func parsePEM(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return certificate.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block of type %q: want PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE", block.Type)
}

// SecretKey returns a store of one HMAC secret of at least 32 bytes. Secrets
// that a person made up are refused: whoever has one token could guess them
// offline. `openssl rand -hex 32` makes a good one.
func SecretKey(s secret.String) (*Keys, error) {
	k, err := newSecretKey([]byte(s.Reveal()))
	if err != nil {
		return nil, err
	}
	if weakSecret(s.Reveal()) {
		return nil, errors.New("the HMAC secret can be guessed: make one with `openssl rand -hex 32`")
	}
	return pinned(&keySet{keys: []*key{k}}), nil
}

func pinned(set *keySet) *Keys {
	k := &Keys{pinned: true}
	k.set.Store(set)
	return k
}

// Ready reports whether keys were loaded. Pinned keys are always ready.
func (k *Keys) Ready() bool { return k.set.Load() != nil }

// Run keeps the keys fresh until ctx is done. For pinned keys it returns at
// once. It may run once at a time.
func (k *Keys) Run(ctx context.Context) {
	if k.remote != nil {
		k.remote.run(ctx, &k.set)
	}
}

// algorithms returns what the keys can verify at most.
func (k *Keys) algorithms() algorithms {
	if !k.pinned {
		return algAsymmetric
	}
	var all algorithms
	for _, each := range k.set.Load().keys {
		all |= each.algs
	}
	return all
}

// verify checks t's signature with the keys of set, which is k's current one.
func (k *Keys) verify(set *keySet, t *token) *Error {
	candidates := k.candidates(set, t)
	if len(candidates) == 0 {
		k.refreshSoon()
		return refuse(ReasonUnknownKey, nil)
	}
	method := signingMethod(t.alg)
	var err error
	for _, candidate := range candidates {
		if err = method.Verify(t.signed, t.signature, candidate.public); err == nil {
			return nil
		}
	}
	if t.kid == "" {
		k.refreshSoon() // without ids a rotation looks like a bad signature
	}
	return refuse(ReasonBadSignature, err)
}

// candidates returns the keys that may have signed t: of a JWK set the one
// with the token's "kid", or without a "kid" the only one that fits; of pinned
// keys all that fit.
func (k *Keys) candidates(set *keySet, t *token) []*key {
	if !k.pinned && t.kid != "" {
		if found := set.byID[t.kid]; found != nil && found.algs&t.alg != 0 {
			return []*key{found}
		}
		return nil
	}
	var fitting []*key
	for _, each := range set.keys {
		if each.algs&t.alg != 0 {
			fitting = append(fitting, each)
		}
	}
	if !k.pinned && len(fitting) > 1 {
		return nil
	}
	return fitting
}

// refreshSoon asks for a refresh of remote keys and never waits.
func (k *Keys) refreshSoon() {
	if k.remote != nil {
		select {
		case k.remote.kick <- struct{}{}:
		default: // one is asked for already
		}
	}
}
