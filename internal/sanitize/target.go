package sanitize

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Allow is the value of the Allow header that goes with a 405 of [Target]
// (RFC 9110 section 15.5.6).
const Allow = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"

// Violation says why [Target] refuses a request. The values are constants:
// compare pointers, don't change them.
type Violation struct {
	// Status is the HTTP status to answer with: 400 or 405. A 405 comes with
	// the header Allow.
	Status int
	// Reason is one sentence for the client. It quotes nothing of the request.
	Reason string
}

// Error returns the reason.
func (v *Violation) Error() string { return v.Reason }

// What [Target] refuses.
var (
	ErrMethod       = &Violation{http.StatusMethodNotAllowed, "The request method is not one of " + Allow + "."}
	ErrForm         = &Violation{http.StatusBadRequest, "The request target is not a path that starts with a slash."}
	ErrEmptySegment = &Violation{http.StatusBadRequest, "The path has an empty segment (//)."}
	ErrDotSegment   = &Violation{http.StatusBadRequest, "The path has a dot segment (. or ..)."}
	ErrSeparator    = &Violation{http.StatusBadRequest, "The path has a backslash or an encoded slash or backslash."}
	ErrControl      = &Violation{http.StatusBadRequest, "The path has a control character or a raw space."}
	ErrDelimiter    = &Violation{http.StatusBadRequest, "The path has a semicolon or a number sign."}
	ErrEscape       = &Violation{http.StatusBadRequest, "The path has a malformed percent-encoding."}
	ErrDoubleEscape = &Violation{http.StatusBadRequest, "The path is percent-encoded twice."}
	ErrUTF8         = &Violation{http.StatusBadRequest, "The path is not UTF-8."}
)

// Target checks that everyone on the way reads the method and the path of r
// alike: what the gateway decides about is what the backend acts on. It
// returns nil or a [*Violation]. Protected routes call it before they decide.
//
// Allowed methods are those in [Allow], in capitals. The target must be in
// origin form. Its path may have no `//`, no dot segment, no `\`, no `;`, no
// `#`, no control character, no malformed or double percent-encoding, no
// `%2f`, `%5c`, `%3b`, and must be UTF-8; all of that also when
// percent-encoded. The path is checked as the client sent it (r.RequestURI)
// and, if a handler has rewritten it, as it will be sent on.
func Target(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost,
		http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return ErrMethod
	}
	sent, _, _ := strings.Cut(r.RequestURI, "?")
	if r.RequestURI != "" {
		if v := checkPath(sent); v != nil {
			return v
		}
	}
	if r.URL == nil || sameURL(sent, r.URL) {
		return nil
	}
	if v := checkPath(r.URL.EscapedPath()); v != nil {
		return v
	}
	return nil
}

// sameURL reports whether u still has the path that was sent, which has
// passed checkPath. It saves the allocations of EscapedPath.
func sameURL(sent string, u *url.URL) bool {
	if u.Opaque != "" || u.RawPath != "" && u.RawPath != sent {
		return false
	}
	if strings.IndexByte(sent, '%') < 0 {
		return sent == u.Path && sent != ""
	}
	n := 0
	for i := 0; i < len(sent); i++ {
		c := sent[i]
		if c == '%' {
			c = unhex(sent[i+1])<<4 | unhex(sent[i+2])
			i += 2
		}
		if n >= len(u.Path) || u.Path[n] != c {
			return false
		}
		n++
	}
	return n == len(u.Path)
}

// checkPath returns the first violation in an escaped path, or nil.
func checkPath(path string) *Violation {
	if path == "" || path[0] != '/' {
		return ErrForm
	}
	if plain(path) {
		return nil
	}
	var s scanner
	for i := 1; i < len(path); i++ {
		c := path[i]
		escaped := c == '%'
		if escaped {
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return ErrEscape
			}
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
			i += 2
		}
		if v := s.next(c, escaped); v != nil {
			return v
		}
	}
	return s.end()
}

// plain reports whether a path has only letters, digits, hyphens, slashes and
// the like, so that no rule applies to it: the usual case, fast.
func plain(path string) bool {
	previous := byte('a')
	for i := range len(path) {
		c := path[i]
		if !plainBytes[c] || previous == '/' && (c == '/' || c == '.') {
			return false
		}
		previous = c
	}
	return true
}

var plainBytes = func() (table [256]bool) {
	for _, c := range []byte("/.-_~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") {
		table[c] = true
	}
	return table
}()

// scanner judges a path by its bytes after one decoding.
type scanner struct {
	segment int               // bytes in the current segment
	dots    int               // of which dots
	percent int               // 1 after a decoded %, 2 after one hex digit more
	runeLen int               // bytes in partial
	partial [utf8.UTFMax]byte // an unfinished UTF-8 sequence
}

// next takes the next byte; escaped says that it was percent-encoded.
func (s *scanner) next(c byte, escaped bool) *Violation {
	if c >= utf8.RuneSelf || s.runeLen > 0 {
		if v := s.nonASCII(c); v != nil {
			return v
		}
	}
	switch {
	case c < 0x20 || c == 0x7f || c == ' ' && !escaped:
		return ErrControl
	case c == '\\' || c == '/' && escaped:
		return ErrSeparator
	case c == ';' || c == '#' && !escaped:
		return ErrDelimiter
	}
	switch {
	case c == '%':
		s.percent = 1
	case s.percent > 0 && isHex(c):
		if s.percent++; s.percent == 3 {
			return ErrDoubleEscape
		}
	default:
		s.percent = 0
	}
	if c != '/' {
		s.segment++
		if c == '.' {
			s.dots++
		}
		return nil
	}
	return s.slash()
}

// slash ends a segment.
func (s *scanner) slash() *Violation {
	if s.segment == 0 {
		return ErrEmptySegment
	}
	return s.dotSegment()
}

func (s *scanner) dotSegment() *Violation {
	if s.segment == s.dots && (s.dots == 1 || s.dots == 2) {
		return ErrDotSegment
	}
	s.segment, s.dots = 0, 0
	return nil
}

// nonASCII collects the bytes of one character. Overlong forms (%c0%ae is a
// dot to a lenient decoder) and surrogates are no UTF-8.
func (s *scanner) nonASCII(c byte) *Violation {
	s.partial[s.runeLen] = c
	s.runeLen++
	if !utf8.FullRune(s.partial[:s.runeLen]) {
		return nil
	}
	char, size := utf8.DecodeRune(s.partial[:s.runeLen])
	if size != s.runeLen || char == utf8.RuneError && size == 1 {
		return ErrUTF8
	}
	if char < 0xa0 { // the C1 controls U+0080 to U+009F
		return ErrControl
	}
	s.runeLen = 0
	return nil
}

// end judges what the end of the path leaves open. A trailing slash is fine.
func (s *scanner) end() *Violation {
	if s.runeLen > 0 {
		return ErrUTF8
	}
	return s.dotSegment()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// unhex returns the value of a byte that isHex accepts.
func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
