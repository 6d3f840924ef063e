package identity

import (
	"errors"
	"net/mail"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// ErrEmail says that a text is not an e-mail address we can deliver to.
var ErrEmail = errors.New("not a deliverable e-mail address")

// errDomain says that a text is not the domain of such an address.
var errDomain = errors.New("not the domain of a deliverable e-mail address")

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
	if domain, err = domainKey(domain); err != nil {
		return "", ErrEmail
	}
	key := lowerASCII(local) + "@" + domain
	if len(key) > maxEmail {
		return "", ErrEmail
	}
	return key, nil
}

// domainKey returns the canonical form of an address's domain, as an A-label. It
// returns errDomain for a domain of fewer than two labels, an empty label and an
// IP address.
func domainKey(domain string) (string, error) {
	if len(domain) > maxEmail || !utf8.ValidString(domain) {
		return "", errDomain
	}
	key, err := idna.Lookup.ToASCII(domain)
	if err != nil || len(key) > maxEmail || !strings.Contains(key, ".") || strings.Contains("."+key+".", "..") || isNumeric(key[strings.LastIndexByte(key, '.')+1:]) {
		return "", errDomain
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
