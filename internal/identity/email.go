package identity

import (
	"errors"
	"net/mail"
	"strings"

	"golang.org/x/net/idna"
)

// ErrEmail says that a text is not an e-mail address we can deliver to.
var ErrEmail = errors.New("not a deliverable e-mail address")

// The limits of RFC 5321 section 4.5.3.1, in octets.
const (
	maxLocal = 64
	maxEmail = 254
)

// EmailKey returns the canonical form of an e-mail address, by which addresses
// are compared: the local part in ASCII lower case, the domain as an A-label.
// It returns [ErrEmail] for anything but a bare ASCII local part and a domain
// of at least two labels: display names, comments, quoted local parts and IP
// literals, which net/mail would accept, are refused.
//
// Comparison must never use Unicode case folding, which equates U+212A with k
// (CVE-2019-19844).
func EmailKey(address string) (string, error) {
	if len(address) > maxEmail {
		return "", ErrEmail
	}
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Address != address || parsed.Name != "" {
		return "", ErrEmail
	}
	at := strings.LastIndexByte(address, '@')
	local, domain := address[:at], address[at+1:]
	if local == "" || len(local) > maxLocal || !isDotAtom(local) {
		return "", ErrEmail
	}
	domain, err = idna.Lookup.ToASCII(domain)
	if err != nil || !strings.Contains(domain, ".") || strings.HasSuffix(domain, ".") || isNumeric(domain[strings.LastIndexByte(domain, '.')+1:]) {
		return "", ErrEmail
	}
	key := lowerASCII(local) + "@" + domain
	if len(key) > maxEmail {
		return "", ErrEmail
	}
	return key, nil
}

// isDotAtom reports whether s is a dot-atom of RFC 5322 section 3.2.3.
func isDotAtom(s string) bool {
	for _, atom := range strings.Split(s, ".") {
		if atom == "" {
			return false
		}
		for i := range len(atom) {
			c := atom[i]
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
			if !letter && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) < 0 {
				return false
			}
		}
	}
	return true
}

func isNumeric(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
