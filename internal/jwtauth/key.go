package jwtauth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// Sizes of RSA keys that are admitted, in bits. The upper bound keeps a
// verification from taking milliseconds.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// minSecretLength is the shortest HMAC secret, in bytes: as long as the hash
// (RFC 7518 section 3.2).
const minSecretLength = 32

// key is one verification key together with the algorithms it may be used
// with. What a token says in "alg" only chooses among keys; it never decides
// how a key is used (RFC 8725 section 3.1).
type key struct {
	id     string
	algs   algorithms
	public any // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or []byte
}

// newPublicKey admits a public key with every algorithm that fits its type.
func newPublicKey(id string, public any) (*key, error) {
	k := &key{id: id, public: public}
	switch p := public.(type) {
	case *rsa.PublicKey:
		k.algs = algRSA
		return k, checkRSA(p)
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			k.algs = algES256
		case elliptic.P384():
			k.algs = algES384
		default:
			return nil, errors.New("the curve is neither P-256 nor P-384")
		}
		_, err := p.Bytes() // fails for a point that is not on the curve
		return k, err
	case ed25519.PublicKey:
		k.algs = algEdDSA
		if len(p) != ed25519.PublicKeySize {
			return nil, errors.New("an Ed25519 key has 32 bytes")
		}
		return k, nil
	}
	return nil, fmt.Errorf("keys of type %T are not supported", public)
}

// checkRSA refuses keys with which a signature proves nothing.
func checkRSA(p *rsa.PublicKey) error {
	bits := p.N.BitLen()
	switch {
	case bits < minRSABits || bits > maxRSABits:
		return fmt.Errorf("an RSA key of %d bits: from %d to %d are admitted", bits, minRSABits, maxRSABits)
	case p.N.Bit(0) == 0:
		return errors.New("the RSA modulus is even")
	case p.E < 3 || p.E%2 == 0:
		return errors.New("the RSA exponent is not an odd number from 3 on") // e = 1 makes every signature valid
	case isROCA(p.N):
		return errors.New("the RSA key can be factored (ROCA, CVE-2017-15361)")
	}
	return nil
}

// isROCA reports whether n has the fingerprint of the keys that a flawed
// library generated (Nemec et al. 2017): modulo every one of these primes n is
// a power of 65537. A sound key has it with a chance of 1 in 2^30.
func isROCA(n *big.Int) bool {
	rest := new(big.Int)
	for _, prime := range []int64{3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167} {
		residue := rest.Mod(n, big.NewInt(prime)).Int64()
		power, generator := int64(1), 65537%prime
		for power != residue {
			if power = power * generator % prime; power == 1 {
				return false // all powers seen
			}
		}
	}
	return true
}

// newSecretKey admits an HMAC secret by its length.
func newSecretKey(secret []byte) (*key, error) {
	if len(secret) < minSecretLength {
		return nil, fmt.Errorf("the HMAC secret has %d bytes and needs at least %d", len(secret), minSecretLength)
	}
	return &key{algs: algHS256, public: secret}, nil
}

// minDistinctBytes is how many different bytes a secret needs. 32 random hex
// digits have fewer than 8 with a chance below 1 in 10^6.
const minDistinctBytes = 8

// weakSecret reports whether a secret of sufficient length is one that a
// person made up: few different characters, a short text repeated, or an
// example from documentation (RFC 8725 section 3.5).
func weakSecret(secret string) bool {
	distinct := map[byte]bool{}
	for i := range len(secret) {
		distinct[secret[i]] = true
	}
	if len(distinct) < minDistinctBytes {
		return true
	}
	for period := 1; period <= len(secret)/2; period++ {
		if secret[period:] == secret[:len(secret)-period] {
			return true
		}
	}
	switch secret {
	case "a-string-secret-at-least-256-bits-long", // jwt.io
		"a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
		"abcdefghijklmnopqrstuvwxyz012345", "abcdefghijklmnopqrstuvwxyz123456",
		"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow": // RFC 7515 appendix A.1
		return true
	}
	return false
}
