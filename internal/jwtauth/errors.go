package jwtauth

import (
	"net/http"

	"github.com/tenantgate/tenantgate/internal/problem"
)

// Reason is the stable machine-readable name of why a request has no identity.
// It is the member "reason" of the problem body and the field "reason" in logs.
type Reason string

// The reasons.
const (
	// ReasonMissing: the request carries no token.
	ReasonMissing Reason = "missing"
	// ReasonAmbiguous: the request carries more than one token or Authorization header.
	ReasonAmbiguous Reason = "ambiguous"
	// ReasonMalformed: it is not a JWT in the compact form that we take.
	ReasonMalformed Reason = "malformed"
	// ReasonUnsupported: its header asks for something that we refuse to do (alg, typ, crit, zip, encryption).
	ReasonUnsupported Reason = "unsupported"
	// ReasonUnknownIssuer: "iss" is not one of the configured issuers.
	ReasonUnknownIssuer Reason = "unknown_issuer"
	// ReasonUnknownKey: the issuer has no key of that id, or without an id not exactly one that fits.
	ReasonUnknownKey Reason = "unknown_key"
	// ReasonBadSignature: the key does not verify the signature.
	ReasonBadSignature Reason = "bad_signature"
	// ReasonExpired: "exp" has passed.
	ReasonExpired Reason = "expired"
	// ReasonNotYetValid: "nbf" or "iat" lies in the future.
	ReasonNotYetValid Reason = "not_yet_valid"
	// ReasonWrongAudience: "aud" names none of the configured audiences.
	ReasonWrongAudience Reason = "wrong_audience"
	// ReasonMissingClaim: a required claim is absent.
	ReasonMissingClaim Reason = "missing_claim"
	// ReasonInvalidClaim: a claim has a type or content that we don't take.
	ReasonInvalidClaim Reason = "invalid_claim"
	// ReasonNoKeys: no key of the issuer was ever loaded, so nothing can be said about the token.
	ReasonNoKeys Reason = "no_keys"
)

// Error says why a token was refused. It never quotes the token.
type Error struct {
	// Reason is what the client and the log are told.
	Reason Reason
	// Err is the cause in more detail, for the log only. It may be nil.
	Err error
}

// Errors that carry no detail.
var (
	ErrMissing   = &Error{Reason: ReasonMissing}
	ErrAmbiguous = &Error{Reason: ReasonAmbiguous}
	ErrNoKeys    = &Error{Reason: ReasonNoKeys}
	errExpired   = &Error{Reason: ReasonExpired}
	errEarly     = &Error{Reason: ReasonNotYetValid}
)

// refuse returns an Error with a cause.
func refuse(reason Reason, cause error) *Error { return &Error{Reason: reason, Err: cause} }

// Error returns the reason and the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an [*Error] of the same reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// retryAfter is the Retry-After of a 503, in seconds: about as long as the
// fetcher's longest pause while it has no keys is on average.
const retryAfter = "5"

// Problem returns the response to e with the WWW-Authenticate header of RFC
// 6750 section 3 (or Retry-After for a 503). It is the only place that maps
// reasons to statuses, problem codes and OAuth error codes.
func (e *Error) Problem() *problem.Error {
	status, code, oauth, detail := e.response()
	p := problem.Wrap(e, status, code, detail)
	p.Extra = map[string]any{"reason": string(e.Reason)}
	p.Header = http.Header{}
	switch {
	case status == http.StatusServiceUnavailable:
		p.Header.Set("Retry-After", retryAfter)
	case oauth == "":
		// RFC 6750 section 3.1: no error code when the request tried nothing.
		p.Header.Set("WWW-Authenticate", `Bearer realm="tenantgate"`)
	default:
		p.Header.Set("WWW-Authenticate", `Bearer realm="tenantgate", error="`+oauth+`", error_description="`+detail+`"`)
	}
	return p
}

// response returns status, problem code, OAuth error code and the public
// sentence, which has no quotation mark or backslash.
func (e *Error) response() (status int, code, oauth, detail string) {
	const invalid = "invalid_token"
	switch e.Reason {
	case ReasonMissing:
		return http.StatusUnauthorized, "token-missing", "", "This resource needs an access token."
	case ReasonAmbiguous:
		return http.StatusBadRequest, "token-ambiguous", "invalid_request", "The request has more than one access token or Authorization header."
	case ReasonNoKeys:
		return http.StatusServiceUnavailable, "keys-not-loaded", "", "The keys that verify access tokens are not loaded yet."
	case ReasonExpired:
		return http.StatusUnauthorized, "token-expired", invalid, "The access token has expired."
	case ReasonNotYetValid:
		return http.StatusUnauthorized, "token-invalid", invalid, "The access token is not valid yet."
	case ReasonMalformed:
		return http.StatusUnauthorized, "token-invalid", invalid, "The access token is malformed."
	case ReasonUnsupported:
		return http.StatusUnauthorized, "token-invalid", invalid, "The access token has a header that is not accepted here."
	case ReasonUnknownIssuer:
		return http.StatusUnauthorized, "token-invalid", invalid, "The issuer of the access token is not trusted here."
	case ReasonUnknownKey:
		return http.StatusUnauthorized, "token-invalid", invalid, "The key of the access token is unknown."
	case ReasonBadSignature:
		return http.StatusUnauthorized, "token-invalid", invalid, "The signature of the access token is wrong."
	case ReasonWrongAudience:
		return http.StatusUnauthorized, "token-invalid", invalid, "The access token is meant for another audience."
	case ReasonMissingClaim:
		return http.StatusUnauthorized, "token-invalid", invalid, "The access token lacks a required claim."
	case ReasonInvalidClaim:
		return http.StatusUnauthorized, "token-invalid", invalid, "The access token has a claim that is not accepted here."
	}
	return http.StatusUnauthorized, "token-invalid", invalid, "The access token is not accepted."
}
