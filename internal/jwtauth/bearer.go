package jwtauth

import "strings"

// ParseAuthorization returns the credentials of a header value such as
// "Bearer abc" for the given scheme, which is compared without case (RFC 9110
// section 11.1). present is false if the value is of another scheme: the
// client then tried something that is not ours. With an empty scheme the
// whole value is the token.
func ParseAuthorization(value, scheme string) (token string, present bool) {
	if scheme == "" {
		return value, value != ""
	}
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	rest := value[len(scheme):]
	if rest == "" {
		return "", true
	}
	if rest[0] != ' ' {
		return "", false // a longer scheme that begins alike
	}
	return strings.TrimLeft(rest, " "), true
}
