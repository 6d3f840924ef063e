package tracecontext

import (
	"net/http"
	"strings"
)

// FromHeader returns the context that the sender of a request wrote into h: its
// trace id, its own span id, flags, tracestate and request id. It reports false
// if there is not exactly one valid traceparent. A service behind the gateway
// that answers a request uses [Start] instead, which gives it a span id of its
// own.
func FromHeader(h http.Header) (Trace, bool) {
	t, ok := parentOf(h)
	if !ok {
		return Trace{}, false
	}
	t.State = ParseTracestate(h[HeaderTracestate])
	t.RequestID = requestID(h)
	return t, true
}

// parentOf returns the ids and flags of the one traceparent in h.
func parentOf(h http.Header) (Trace, bool) {
	values := h[HeaderTraceparent]
	if len(values) != 1 {
		return Trace{}, false
	}
	return ParseTraceparent(values[0])
}

// traceparentLen is the length of a traceparent of version 00.
const traceparentLen = requestIDAt

// ParseTraceparent parses the value of a traceparent header (section 3.2). A
// version above 00 is read as far as this one is known: the first 55
// characters, followed by nothing or by "-". Flags that level 2 doesn't know are
// dropped.
func ParseTraceparent(s string) (Trace, bool) {
	s = strings.Trim(s, " \t")
	if len(s) < traceparentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Trace{}, false
	}
	version, traceID, spanID, flags := s[:2], s[3:35], s[36:52], s[53:55]
	if !isLowerHex(version) || version == "ff" || len(s) > traceparentLen && (version == "00" || s[55] != '-') {
		return Trace{}, false
	}
	if !isID(traceID) || !isID(spanID) || !isLowerHex(flags) {
		return Trace{}, false
	}
	return Trace{TraceID: traceID, SpanID: spanID, Flags: unhexByte(flags[0], flags[1]) & knownFlags}, true
}

// The limits of section 3.3.1.
const (
	maxMembers  = 32
	maxKeyLen   = 256
	maxValueLen = 256
)

// ParseTracestate combines the values of all tracestate headers into one list
// in their order (section 3.3). It returns "" if any member is malformed or if
// there are more than 32. Of several members with one key the first, which is
// the newest, is kept. Empty members and white space around members go.
func ParseTracestate(values []string) string {
	var (
		members [maxMembers]string
		keys    [maxMembers]string
		n       int
		seen    int
		changed = len(values) != 1
	)
	for _, value := range values {
		for raw := range strings.SplitSeq(value, ",") {
			member := strings.Trim(raw, " \t")
			if member == "" {
				changed = true
				continue
			}
			if seen++; seen > maxMembers {
				return ""
			}
			key, val, ok := strings.Cut(member, "=")
			if !ok || !isStateKey(key) || !isStateValue(val) {
				return ""
			}
			if contains(keys[:n], key) {
				changed = true
				continue
			}
			members[n], keys[n] = member, key
			n++
			changed = changed || len(member) != len(raw)
		}
	}
	if n == 0 {
		return ""
	}
	if !changed {
		return values[0]
	}
	return strings.Join(members[:n], ",")
}

func contains(list []string, s string) bool {
	for _, item := range list {
		if item == s {
			return true
		}
	}
	return false
}

// isStateKey checks the key grammar of level 2 (section 3.3.1.3.1), in which
// "@" is a character like others.
func isStateKey(key string) bool {
	if key == "" || len(key) > maxKeyLen {
		return false
	}
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '-' || c == '*' || c == '/' || c == '@'):
		default:
			return false
		}
	}
	return true
}

// isStateValue checks the value grammar (section 3.3.1.3.2). The caller has
// split at commas and trimmed the end.
func isStateValue(value string) bool {
	if value == "" || len(value) > maxValueLen {
		return false
	}
	for i := range len(value) {
		if c := value[i]; c < 0x20 || c > 0x7e || c == '=' || c == ',' {
			return false
		}
	}
	return value[len(value)-1] != ' '
}

// namedTrace returns the trace id that a client named in X-Trace-Id (or the
// header of that role), in lower case, if h has no traceparent at all.
func namedTrace(h http.Header, header string) string {
	if header == "" {
		header = HeaderTraceID
	}
	values := h[header]
	if len(values) != 1 || len(h[HeaderTraceparent]) > 0 {
		return ""
	}
	s := values[0]
	switch len(s) {
	case 32:
		if isID(s) {
			return s // the usual case
		}
	case 36:
		if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return ""
		}
	default:
		return ""
	}
	var buf [32]byte
	n := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '-' && len(s) == 36 && (i == 8 || i == 13 || i == 18 || i == 23):
			continue
		case 'A' <= c && c <= 'F':
			c |= 0x20
		}
		buf[n] = c
		n++
	}
	if id := string(buf[:]); isID(id) {
		return id
	}
	return ""
}

// requestID returns the request id of a request from the gateway, or "" if it
// is not 1 to 128 characters of [A-Za-z0-9._-].
func requestID(h http.Header) string {
	values := h[HeaderRequestID]
	if len(values) != 1 || len(values[0]) == 0 || len(values[0]) > 128 {
		return ""
	}
	for i := range len(values[0]) {
		switch c := values[0][i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return ""
		}
	}
	return values[0]
}

// isID reports whether s is lower-case hex and not all zeros.
func isID(s string) bool {
	var bad, nonzero byte
	for i := range len(s) {
		bad |= notHex[s[i]]
		nonzero |= s[i] ^ '0'
	}
	return bad == 0 && nonzero != 0
}

func isLowerHex(s string) bool {
	var bad byte
	for i := range len(s) {
		bad |= notHex[s[i]]
	}
	return bad == 0
}

// notHex is 0 for lower-case hex digits and 1 for all other bytes.
var notHex = func() (table [256]byte) {
	for c := range table {
		if !strings.ContainsRune("0123456789abcdef", rune(c)) {
			table[c] = 1
		}
	}
	return table
}()

// unhexByte returns the byte of two lower-case hex digits.
func unhexByte(high, low byte) byte { return unhex(high)<<4 | unhex(low) }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}
