package jwtauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	core "github.com/tenantgate/tenantgate/internal/jwtauth"
)

// The types of a Source.
const (
	fromHeader = "header"
	fromCookie = "cookie"
	fromQuery  = "query"
)

var defaultSource = Source{Type: fromHeader, Name: "Authorization", Scheme: "Bearer"}

// check completes a source from the configuration.
func (s *Source) check() error {
	if s.Name == "" {
		return errors.New("a token source has no name")
	}
	switch s.Type {
	case fromHeader:
		s.Name = textproto.CanonicalMIMEHeaderKey(s.Name)
		if s.Name == defaultSource.Name && s.Scheme == "" {
			s.Scheme = defaultSource.Scheme
		}
	case fromCookie, fromQuery:
		if s.Scheme != "" {
			return fmt.Errorf("a token source of type %s has no scheme", s.Type)
		}
	default:
		return fmt.Errorf("token source %q: want header, cookie or query", s.Type)
	}
	return nil
}

// token returns the request's token, "" if there is none. A parameter that may
// hold a token is removed from the query string in any case.
func (h *Handler) token(r *http.Request) (string, error) {
	// Which of two Authorization headers counts is anyone's guess (RFC 9110
	// section 11.6.2 has one), wherever the token is.
	if len(r.Header["Authorization"]) > 1 {
		return "", core.ErrAmbiguous
	}
	token := ""
	for i := range h.Sources {
		s := &h.Sources[i]
		if token != "" && s.Type != fromQuery {
			continue
		}
		found, err := s.token(r)
		if err != nil {
			return "", err
		}
		if token == "" {
			token = found
		}
	}
	return token, nil
}

// token returns the token at s, "" if there is none.
func (s *Source) token(r *http.Request) (string, error) {
	var values []string
	switch s.Type {
	case fromHeader:
		values = r.Header[s.Name]
	case fromCookie:
		for _, cookie := range r.CookiesNamed(s.Name) {
			values = append(values, cookie.Value)
		}
	case fromQuery:
		values = takeParameter(r, s.Name)
	}
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", core.ErrAmbiguous
	}
	if s.Type != fromHeader {
		return values[0], nil
	}
	token, present := core.ParseAuthorization(values[0], s.Scheme)
	if present && token == "" {
		return "", &core.Error{Reason: core.ReasonMalformed, Err: errors.New("a scheme without a token")}
	}
	return token, nil
}

// takeParameter removes a parameter from the query string and returns its
// values. Tokens in URLs end up in logs and histories (RFC 6750 section 5.3):
// at least the backend's shall not have it.
func takeParameter(r *http.Request, name string) (values []string) {
	if r.URL.RawQuery == "" {
		return nil
	}
	var kept []string
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(key); err != nil || decoded != name {
			kept = append(kept, pair)
			continue
		}
		decoded, err := url.QueryUnescape(value)
		if err != nil {
			decoded = value // no token has such a character: it will be refused
		}
		values = append(values, decoded)
	}
	if values == nil {
		return nil
	}
	r.URL.RawQuery = strings.Join(kept, "&")
	r.URL.ForceQuery = false
	path, _, _ := strings.Cut(r.RequestURI, "?")
	r.RequestURI = path
	if r.URL.RawQuery != "" {
		r.RequestURI += "?" + r.URL.RawQuery
	}
	return values
}
