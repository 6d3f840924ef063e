package jwtauth

import (
	"crypto/rsa"

	"github.com/golang-jwt/jwt/v5"
)

// algorithms is a set of JWS algorithms; a single one is a set with one bit.
type algorithms uint16

const (
	algEdDSA algorithms = 1 << iota
	algES256
	algES384
	algRS256
	algRS384
	algRS512
	algPS256
	algHS256

	algRSA        = algRS256 | algRS384 | algRS512 | algPS256
	algAsymmetric = algEdDSA | algES256 | algES384 | algRSA
)

// parseAlgorithm returns the algorithm of an "alg" value, or 0 if it is not
// one of ours. Names are compared exactly: "none" in any spelling is not one.
func parseAlgorithm(name string) algorithms {
	switch name {
	case "EdDSA":
		return algEdDSA
	case "ES256":
		return algES256
	case "ES384":
		return algES384
	case "RS256":
		return algRS256
	case "RS384":
		return algRS384
	case "RS512":
		return algRS512
	case "PS256":
		return algPS256
	case "HS256":
		return algHS256
	}
	return 0
}

// KnownAlgorithm reports whether name is that of a supported algorithm, such
// as "ES256".
func KnownAlgorithm(name string) bool { return parseAlgorithm(name) != 0 }

// signingMethod returns golang-jwt's implementation of a single algorithm. It
// is asked for directly and never by the token's own "alg" text, so nothing
// that another package registers with golang-jwt can be reached.
func signingMethod(alg algorithms) jwt.SigningMethod {
	switch alg {
	case algEdDSA:
		return jwt.SigningMethodEdDSA
	case algES256:
		return jwt.SigningMethodES256
	case algES384:
		return jwt.SigningMethodES384
	case algRS256:
		return jwt.SigningMethodRS256
	case algRS384:
		return jwt.SigningMethodRS384
	case algRS512:
		return jwt.SigningMethodRS512
	case algPS256:
		// golang-jwt's own PS256 verifies any salt length; RFC 7518 section 3.5
		// says it is as long as the hash.
		return &jwt.SigningMethodRSAPSS{
			SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA,
			Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
		}
	case algHS256:
		return jwt.SigningMethodHS256
	}
	return nil
}
