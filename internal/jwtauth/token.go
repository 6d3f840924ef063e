package jwtauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MaxTokenSize is the longest token that is looked at, in bytes.
const MaxTokenSize = 8 << 10

// maxKeyIDLength is the longest "kid", in bytes.
const maxKeyIDLength = 255

// token is a JWS in compact form, split and decoded but not verified.
type token struct {
	alg       algorithms // exactly one
	kid       string     // empty: the header has none
	signed    string     // what the signature covers: header and payload as sent
	payload   []byte
	signature []byte
}

// parseToken splits and decodes raw and checks its header. It stands in front
// of golang-jwt, which with every option on still takes an unknown "crit",
// "b64": false, members of one name twice and line breaks inside a token.
func parseToken(raw string) (*token, *Error) {
	header, payload, signature, err := split(raw)
	if err != nil {
		return nil, refuse(ReasonMalformed, err)
	}
	t := &token{signed: raw[:len(header)+1+len(payload)]}
	// Strict: RFC 4648 section 3.5, the unused bits of the last character are
	// zero, so a token has one spelling only.
	encoding := base64.RawURLEncoding.Strict()
	headerJSON, err := encoding.DecodeString(header)
	if err == nil {
		t.payload, err = encoding.DecodeString(payload)
	}
	if err == nil {
		t.signature, err = encoding.DecodeString(signature)
	}
	if err != nil {
		return nil, refuse(ReasonMalformed, errors.New("not base64url"))
	}
	members, err := parseObject(headerJSON)
	if err != nil {
		return nil, refuse(ReasonMalformed, fmt.Errorf("header: %w", err))
	}
	if err := t.setHeader(members); err != nil {
		return nil, err
	}
	return t, nil
}

// split returns the three parts of a compact JWS. It reads raw once, before
// anything is allocated: size, alphabet (Go's base64 decoder skips line
// breaks, even in strict mode) and exactly two dots (CVE-2025-30204).
func split(raw string) (header, payload, signature string, err error) {
	if len(raw) > MaxTokenSize {
		return "", "", "", errors.New("too long")
	}
	var dots [2]int
	n := 0
	for i := range len(raw) {
		switch c := raw[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_':
		case c == '.':
			if n == len(dots) {
				return "", "", "", errors.New("more than three parts")
			}
			dots[n] = i
			n++
		default:
			return "", "", "", errors.New("not base64url")
		}
	}
	if n < len(dots) {
		return "", "", "", errors.New("fewer than three parts")
	}
	return raw[:dots[0]], raw[dots[0]+1 : dots[1]], raw[dots[1]+1:], nil
}

// setHeader checks the members of the JOSE header and keeps alg and kid.
//
// "jku", "x5u", "x5c", "jwk" and "x5t" are ignored: a key comes from the
// configuration of the issuer and never from the token (RFC 8725 section 3.10).
func (t *token) setHeader(members map[string]any) *Error {
	// "crit" lists extensions that must be understood, and we understand none
	// (RFC 7515 section 4.1.11). "b64" changes what is signed (RFC 7797), "zip"
	// and "enc" are of encrypted tokens (RFC 8725 sections 3.3 and 3.6).
	for _, name := range []string{"crit", "b64", "zip", "enc"} {
		if _, ok := members[name]; ok {
			return refuse(ReasonUnsupported, fmt.Errorf("header has %q", name))
		}
	}
	if typ, ok := members["typ"]; ok && !allowedType(typ) {
		return refuse(ReasonUnsupported, errors.New("typ is not that of an access token"))
	}
	name, ok := members["alg"].(string)
	if !ok {
		return refuse(ReasonMalformed, errors.New("alg is not a string"))
	}
	if t.alg = parseAlgorithm(name); t.alg == 0 {
		return refuse(ReasonUnsupported, errors.New("alg is none that is supported"))
	}
	if kid, ok := members["kid"]; ok {
		t.kid, ok = kid.(string)
		if !ok || t.kid == "" || len(t.kid) > maxKeyIDLength {
			return refuse(ReasonMalformed, fmt.Errorf("kid is not a string of 1 to %d bytes", maxKeyIDLength))
		}
	}
	return nil
}

// allowedType reports whether typ is that of a JWT or of an access token (RFC
// 9068). Other kinds of one issuer (logout+jwt, dpop+jwt, secevent+jwt) are
// never access tokens (RFC 8725 section 3.11).
func allowedType(typ any) bool {
	text, ok := typ.(string)
	if !ok {
		return false
	}
	text = strings.ToLower(text) // media types are case-insensitive, RFC 7515 section 4.1.9
	switch strings.TrimPrefix(text, "application/") {
	case "jwt", "at+jwt":
		return true
	}
	return false
}
