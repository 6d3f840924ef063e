package jwtauth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// parseKeySet reads a JWK Set (RFC 7517). Keys that can't or must not verify
// signatures are left out, and dropped says why, one text a key. The whole
// document is refused if it is not strict JSON or if two of its keys share an
// id: which one counts would be anyone's guess.
func parseKeySet(document []byte) (set *keySet, dropped []string, err error) {
	members, err := parseObject(document)
	if err != nil {
		return nil, nil, fmt.Errorf("JWK set: %w", err)
	}
	elements, ok := members["keys"].([]any)
	if !ok {
		return nil, nil, errors.New(`JWK set: "keys" is not an array`)
	}
	set = &keySet{byID: make(map[string]*key, len(elements))}
	ids := make(map[string]bool, len(elements))
	for i, element := range elements {
		jwk, ok := element.(map[string]any)
		if !ok {
			return nil, nil, fmt.Errorf("JWK set: key %d is not an object", i)
		}
		if id, ok := jwk["kid"].(string); ok {
			if ids[id] {
				return nil, nil, fmt.Errorf("JWK set: two keys have the id %q", id)
			}
			ids[id] = true
		}
		k, err := parseKey(jwk)
		if err != nil {
			dropped = append(dropped, fmt.Sprintf("key %d: %v", i, err))
			continue
		}
		set.keys = append(set.keys, k)
		if k.id != "" {
			set.byID[k.id] = k
		}
	}
	return set, dropped, nil
}

// parseKey admits one JWK. Symmetric keys are never taken: whoever can read
// the URL could sign.
func parseKey(jwk map[string]any) (*key, error) {
	id := ""
	if value, ok := jwk["kid"]; ok {
		if id, ok = value.(string); !ok || id == "" || len(id) > maxKeyIDLength {
			return nil, fmt.Errorf("kid is not a string of 1 to %d bytes", maxKeyIDLength)
		}
	}
	if use, ok := jwk["use"]; ok && use != "sig" {
		return nil, errors.New("use is not sig")
	}
	if operations, ok := jwk["key_ops"]; ok {
		list, _ := operations.([]any)
		if !slices.Contains(list, any("verify")) {
			return nil, errors.New("key_ops has no verify")
		}
	}
	if _, ok := jwk["d"]; ok {
		return nil, errors.New("a private key: it is known to everyone now and must be replaced")
	}
	public, err := parsePublic(jwk)
	if err != nil {
		return nil, err
	}
	k, err := newPublicKey(id, public)
	if err != nil {
		return nil, err
	}
	if alg, ok := jwk["alg"]; ok {
		name, _ := alg.(string)
		if k.algs &= parseAlgorithm(name); k.algs == 0 {
			return nil, fmt.Errorf("alg %q is not supported or does not fit the key", name)
		}
	}
	return k, nil
}

func parsePublic(jwk map[string]any) (any, error) {
	switch jwk["kty"] {
	case "RSA":
		return parseRSA(jwk)
	case "EC":
		return parseEC(jwk)
	case "OKP":
		if jwk["crv"] != "Ed25519" {
			return nil, errors.New("the curve is not Ed25519")
		}
		x, err := octets(jwk, "x")
		return ed25519.PublicKey(x), err
	}
	return nil, errors.New("kty is none of RSA, EC and OKP")
}

func parseRSA(jwk map[string]any) (any, error) {
	n, err := octets(jwk, "n")
	if err != nil {
		return nil, err
	}
	e, err := octets(jwk, "e")
	if err != nil {
		return nil, err
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 31 { // crypto/rsa's limit
		return nil, errors.New("the RSA exponent is longer than 31 bits")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

func parseEC(jwk map[string]any) (any, error) {
	var curve elliptic.Curve
	switch jwk["crv"] {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	default:
		return nil, errors.New("the curve is neither P-256 nor P-384")
	}
	x, err := octets(jwk, "x")
	if err != nil {
		return nil, err
	}
	y, err := octets(jwk, "y")
	if err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size { // RFC 7518 section 6.2.1.2: full length
		return nil, fmt.Errorf("a coordinate has not %d bytes", size)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
}

// octets decodes a base64url member.
func octets(jwk map[string]any, name string) ([]byte, error) {
	text, ok := jwk[name].(string)
	if !ok {
		return nil, fmt.Errorf("%s is not a string", name)
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not base64url", name)
	}
	return decoded, nil
}
