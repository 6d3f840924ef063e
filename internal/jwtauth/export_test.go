package jwtauth

import "strings"

// Seams for tests of single layers: the signature without claims, the parsers
// for their fuzz tests.

// KeySetKeys returns a store with the keys of a JWK set, as RemoteKeys fetches it.
func KeySetKeys(document []byte) (*Keys, error) {
	set, _, err := parseKeySet(document)
	if err != nil {
		return nil, err
	}
	k := &Keys{}
	k.set.Store(set)
	return k, nil
}

// UncheckedSecret returns a store with a secret that may be guessable.
func UncheckedSecret(s []byte) (*Keys, error) {
	k, err := newSecretKey(s)
	if err != nil {
		return nil, err
	}
	return pinned(&keySet{keys: []*key{k}}), nil
}

// VerifySignature parses a token of any payload and checks its signature.
func VerifySignature(keys *Keys, raw string) error {
	t, refusal := parseToken(raw)
	if refusal != nil {
		return refusal
	}
	if refusal := keys.verify(keys.set.Load(), t); refusal != nil {
		return refusal
	}
	return nil
}

// ParseObject is the strict JSON parser.
func ParseObject(data []byte) (map[string]any, error) { return parseObject(data) }

// ParseKeySet is the JWK set parser: the admitted keys and why others are dropped.
func ParseKeySet(document []byte) (admitted int, dropped []string, err error) {
	set, dropped, err := parseKeySet(document)
	return set.len(), dropped, err
}

// ParseToken is the strict token parser. It returns the parts again as one token.
func ParseToken(raw string) (payload []byte, canonical string, err error) {
	t, refusal := parseToken(raw)
	if refusal != nil {
		return nil, "", refusal
	}
	return t.payload, t.signed + raw[strings.LastIndexByte(raw, '.'):], nil
}

// CachedTokens counts the cache's entries after its pending work is done.
func (v *Verifier) CachedTokens() int {
	v.cache.entries.CleanUp()
	return v.cache.entries.EstimatedSize()
}
