package sanitize

import (
	"net/http"
	"strings"
)

// Connection makes the client's Connection header harmless. A proxy deletes
// every header that Connection names (RFC 9110 section 7.6.1) after our
// handlers ran, so "Connection: X-User-Id" would delete the identity that the
// gateway just set (class of CVE-2022-31813). Only the options close,
// keep-alive, upgrade, te and http2-settings are kept.
//
// It also deletes an Upgrade to h2c together with HTTP2-Settings: behind such
// an upgrade a client could send requests that no handler sees. RFC 9113
// section 3.1 has withdrawn it.
func Connection(h http.Header) {
	values := h["Connection"]
	if len(values) == 0 || len(values) == 1 && (values[0] == "keep-alive" || values[0] == "close") {
		return // an Upgrade without its option means nothing (RFC 9110 section 7.8)
	}
	if len(values) > 1 || !onlyKnownOptions(values[0]) {
		rewriteConnection(h, values)
	}
	for _, value := range h["Upgrade"] {
		if containsFold(value, "h2c") {
			delete(h, "Upgrade")
			delete(h, "Http2-Settings")
			return
		}
	}
}

// rewriteConnection joins the known options of values into one header field.
func rewriteConnection(h http.Header, values []string) {
	var kept []string
	for _, value := range values {
		for option := range strings.SplitSeq(value, ",") {
			option = strings.Trim(option, " \t")
			if option != "" && knownOption(option) {
				kept = append(kept, option)
			}
		}
	}
	if len(kept) == 0 {
		delete(h, "Connection")
		return
	}
	h["Connection"] = []string{strings.Join(kept, ", ")}
}

// onlyKnownOptions reports whether every option of one header value is kept.
func onlyKnownOptions(value string) bool {
	for option := range strings.SplitSeq(value, ",") {
		if option = strings.Trim(option, " \t"); !knownOption(option) {
			return false
		}
	}
	return true
}

func knownOption(option string) bool {
	switch len(option) {
	case 2:
		return strings.EqualFold(option, "te")
	case 5:
		return strings.EqualFold(option, "close")
	case 7:
		return strings.EqualFold(option, "upgrade")
	case 10:
		return strings.EqualFold(option, "keep-alive")
	case 14:
		return strings.EqualFold(option, "http2-settings")
	default:
		return false
	}
}

// containsFold reports whether s contains the lower-case text part in any case.
func containsFold(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(part)], part) {
			return true
		}
	}
	return false
}
