package sanitize

import (
	"io"
	"net/http"
)

// Trailers makes forbidden request trailers disappear: those that [Headers]
// deletes from the header, those that must not be trailers at all (RFC 9110
// section 6.5.1: framing, routing, authentication, content, conditions), and
// the trace headers.
//
// net/http fills r.Trailer when the body reaches its end: over HTTP/1 with all
// fields that come, announced or not, as soon as one was announced. Caddy's
// reverse_proxy sends on what is in the map at that moment. So the announced
// names go at once and r.Body is wrapped to delete the rest in the very Read
// that returns io.EOF. A request that can have no trailers is left alone.
func Trailers(r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody || r.Trailer == nil && r.ContentLength >= 0 {
		return
	}
	deleteTrailers(r.Trailer)
	r.Body = &body{ReadCloser: r.Body, r: r}
}

// body deletes forbidden trailers of r when its own end is reached.
type body struct {
	io.ReadCloser
	r *http.Request
}

// Read reads from the body and cleans the trailers at its end.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		deleteTrailers(b.r.Trailer)
	}
	return n, err
}

func deleteTrailers(trailer http.Header) {
	for name := range trailer {
		if forbiddenTrailer(name) {
			delete(trailer, name)
		}
	}
}

// forbiddenTrailer reports whether a client's trailer of that name is deleted.
func forbiddenTrailer(name string) bool {
	if forbiddenHeader(name) {
		return true
	}
	var buf [foldLen]byte
	lower := fold(name, &buf)
	switch string(lower) {
	case "x-trace-id", "x-request-id", "traceparent", "tracestate", "baggage",
		"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via",
		"content-length", "transfer-encoding", "trailer", "te", "connection", "keep-alive", "upgrade", "proxy-connection",
		"host", "content-encoding", "content-type", "content-range", "content-location",
		"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-csrf-token", "origin", "referer",
		"range", "expect", "max-forwards", "cache-control", "pragma", "accept", "accept-encoding",
		"early-data", "incremental", "user-agent":
		return true
	}
	return hasPrefix(lower, "if-") || hasPrefix(lower, "sec-") || hasPrefix(lower, "access-control-")
}
