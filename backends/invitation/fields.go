package invitation

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/internal/problem"
)

// The limits of free text, in code points.
const (
	maxName = 100
	maxNote = 500
	maxRole = 100
)

// checkText returns the field error of a text that is shown to people: it may
// have at most limit code points on one line, and nothing that changes how the
// text around it is read (CVE-2021-42574).
func checkText(pointer, text string, limit int) []problem.Field {
	switch {
	case !utf8.ValidString(text) || utf8.RuneCountInString(text) > limit:
		return []problem.Field{{Pointer: pointer, Code: "too-long", Detail: fmt.Sprintf("Use at most %d characters.", limit)}}
	case strings.ContainsFunc(text, unprintable):
		return []problem.Field{{Pointer: pointer, Code: "unprintable", Detail: "Use one line without control or direction characters."}}
	}
	return nil
}

// unprintable reports whether r is a control, a line break, a direction mark
// or an invisible character that is not part of any spelling.
func unprintable(r rune) bool {
	switch {
	case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
		return true
	case r == '\u2028', r == '\u2029', r == '\ufeff', r == '\u200b', r == utf8.RuneError:
		return true
	}
	return false
}

// plain drops from a text what [checkText] would refuse, for texts that other
// services stored.
func plain(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return -1
		}
		return r
	}, text)
	if utf8.RuneCountInString(text) > limit {
		return string([]rune(text)[:limit])
	}
	return text
}

// checkIP returns the canonical form of an address that the caller reported,
// empty for none.
func checkIP(pointer, text string) (string, []problem.Field) {
	if text == "" {
		return "", nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return "", []problem.Field{{Pointer: pointer, Code: "not-an-ip", Detail: "Give an IPv4 or IPv6 address."}}
	}
	return address.Unmap().String(), nil
}
