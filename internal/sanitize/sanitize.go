// Package sanitize removes what a client may not say: headers and trailers
// that only the gateway may set, headers that make a backend look at another
// URL, method or address than the gateway checked, and request targets that
// two parsers read in two ways.
//
// None of the functions allocates when there is nothing to remove.
package sanitize

import "net/http"

// The headers that the gateway itself sets on the request to a backend, in
// canonical form.
const (
	HeaderUserID        = "X-User-Id"
	HeaderTenantID      = "X-Tenant-Id"
	HeaderRoles         = "X-Roles"
	HeaderPermission    = "X-Permission"
	HeaderTraceID       = "X-Trace-Id"
	HeaderRequestID     = "X-Request-Id"
	HeaderGatewaySecret = "X-Gateway-Secret"
)

// Headers deletes from h every header that a client may not send to a
// backend, whatever its spelling: names are compared without case, and `_` and
// `.` count as `-`, because CGI, WSGI and PHP backends fold them together
// (GHSA-f59h-q822-g45g).
//
// Deleted are
//   - what the gateway sets: X-User-Id, X-Tenant-Id, X-Roles, X-Permission and
//     X-Gateway-Secret. X-Trace-Id and X-Request-Id belong to trace_context,
//     which reads the first and replaces both; only their odd spellings go here;
//   - identity that other proxies set: Remote-User, Remote-Groups, Remote-Name,
//     Remote-Email, X-Remote-User, X-Remote-Groups, X-Auth-Request-*;
//   - another URL: X-Original-*, X-Rewrite-*, X-Forwarded-* except For, Proto
//     and Host, which Caddy's reverse_proxy sets by its trusted_proxies;
//   - another method: X-HTTP-Method, X-HTTP-Method-Override, X-Method-Override;
//   - another client address: Forwarded, X-Real-IP, X-Client-IP,
//     X-Cluster-Client-IP, True-Client-IP, CF-Connecting-IP, Fastly-Client-IP
//     (Caddy has read the ones it trusts before any handler runs);
//   - Proxy (httpoxy, CVE-2016-5385) and X-Middleware-Subrequest (CVE-2025-29927).
func Headers(h http.Header) {
	for name := range h {
		if forbiddenHeader(name) {
			delete(h, name)
		}
	}
}

// Identity deletes from h, in every spelling, the headers that say who the
// caller is and what they were permitted: X-User-Id, X-Tenant-Id, X-Roles and
// X-Permission. jwt_auth calls it on every request before it sets its own, so
// that they hold without trace_context in front.
func Identity(h http.Header) {
	for name := range h {
		if name == "" || name[0]|0x20 != 'x' {
			continue
		}
		var buf [foldLen]byte
		switch string(fold(name, &buf)) {
		case "x-user-id", "x-tenant-id", "x-roles", "x-permission":
			delete(h, name)
		}
	}
}

// Delete deletes the header with the given canonical name from h, in every
// spelling. A module that sets a single header calls it first.
func Delete(h http.Header, canonical string) {
	for name := range h {
		if sameName(name, canonical) {
			delete(h, name)
		}
	}
}

func sameName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if foldByte(a[i]) != foldByte(b[i]) {
			return false
		}
	}
	return true
}

// foldLen is how many bytes of a name are compared. It is longer than every
// name and prefix in the lists below, so a longer name equals none of them.
const foldLen = 40

// fold returns name in lower case with `_` and `.` as `-`, cut to foldLen.
func fold(name string, buf *[foldLen]byte) []byte {
	n := min(len(name), foldLen)
	for i := range n {
		buf[i] = foldByte(name[i])
	}
	return buf[:n]
}

func foldByte(c byte) byte { return folded[c] }

// folded maps a byte of a name to its folded form.
var folded = func() (table [256]byte) {
	for c := range table {
		switch {
		case 'A' <= c && c <= 'Z':
			table[c] = byte(c) | 0x20
		case c == '_' || c == '.':
			table[c] = '-'
		default:
			table[c] = byte(c)
		}
	}
	return table
}()

// forbiddenHeader reports whether a client's header of that name is deleted.
func forbiddenHeader(name string) bool {
	switch name { // most names of a usual request leave here or below
	case "":
		return true
	case HeaderTraceID, HeaderRequestID, "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Cookie", "Connection", "Content-Type",
		"Content-Length", "Cache-Control", "Referer", "Traceparent", "Tracestate", "Priority", "Te", "X-Requested-With":
		return false
	}
	switch name[0] | 0x20 {
	case 'x', 'f', 't', 'r', 'c', 'p':
	default:
		return false
	}
	var buf [foldLen]byte
	lower := fold(name, &buf)
	switch string(lower) {
	case "x-user-id", "x-tenant-id", "x-roles", "x-permission", "x-gateway-secret",
		"remote-user", "remote-groups", "remote-name", "remote-email", "x-remote-user", "x-remote-groups",
		"x-http-method", "x-http-method-override", "x-method-override",
		"forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip",
		"proxy", "x-middleware-subrequest":
		return true
	case "x-trace-id", "x-request-id": // not in canonical form
		return true
	}
	return hasPrefix(lower, "x-forwarded-") || hasPrefix(lower, "x-original-") ||
		hasPrefix(lower, "x-rewrite-") || hasPrefix(lower, "x-auth-request-")
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}
