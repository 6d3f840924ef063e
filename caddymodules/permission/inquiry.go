package permission

import (
	"net/http"
	"net/url"

	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// The headers in which Traefik, Caddy's forward_auth and, when told to, nginx
// name the request that they ask about.
const (
	headerForwardedMethod = "X-Forwarded-Method"
	headerForwardedURI    = "X-Forwarded-Uri"
)

// errInquiry refuses headers that name no request, or more than one: then the
// proxy is not set up, and they could be the client's.
var errInquiry = &sanitize.Violation{
	Status: http.StatusBadRequest,
	Reason: "X-Forwarded-Method and X-Forwarded-Uri must each be there once, set by the proxy.",
}

// askByHeaders makes r look like the request that the headers name.
func askByHeaders(r *http.Request) error {
	methods, uris := r.Header[headerForwardedMethod], r.Header[headerForwardedURI]
	if len(methods) != 1 || len(uris) != 1 {
		return errInquiry
	}
	u, err := parseTarget(uris[0])
	if err != nil {
		return err
	}
	r.Method, r.RequestURI = methods[0], uris[0]
	*r.URL = *u // in place, because placeholders hold on to it
	return sanitize.Target(r)
}

// askByRequest makes r look like the request as Caddy has it at this point,
// perhaps without a prefix that a handler stripped.
func askByRequest(r *http.Request) error {
	if err := sanitize.Target(r); err != nil {
		return err
	}
	uri := r.URL.RequestURI()
	u, err := parseTarget(uri)
	if err != nil {
		return err
	}
	r.RequestURI = uri
	*r.URL = *u
	return sanitize.Target(r)
}

// parseTarget reads a request target in origin form (RFC 9112 section 3.2.1):
// an absolute path and perhaps a query. What [sanitize.Target] judges is left to
// it.
func parseTarget(target string) (*url.URL, error) {
	if target == "" || target[0] != '/' {
		return nil, sanitize.ErrForm
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, sanitize.ErrEscape
	}
	if u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return nil, sanitize.ErrForm
	}
	return u, nil
}
