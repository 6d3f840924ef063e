package loki

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// fields finds the values of some names at the top level of JSON objects.
type fields struct {
	names []string
	// values are what the last scan found: strings without their escapes, numbers
	// and booleans as they are written, nil for what is absent, null, an object or
	// an array. They are valid until the next scan, and as long as the line is.
	values    [][]byte
	unescaped []byte
}

// slot returns the index of a name in names and values, and adds it if need be.
func (f *fields) slot(name string) int {
	for i, n := range f.names {
		if n == name {
			return i
		}
	}
	f.names = append(f.names, name)
	f.values = append(f.values, nil)
	return len(f.names) - 1
}

// scan finds the values in a line, which is valid UTF-8. Of names that are there
// twice the last counts. It reports false for what is no JSON object; values are
// then those before the fault. What it has no need of is not checked.
func (f *fields) scan(line []byte) bool {
	clear(f.values)
	f.unescaped = f.unescaped[:0]
	i := skipSpace(line, 0)
	if i == len(line) || line[i] != '{' {
		return false
	}
	i = skipSpace(line, i+1)
	if i < len(line) && line[i] == '}' {
		return skipSpace(line, i+1) == len(line)
	}
	for {
		if i = f.member(line, i); i < 0 || i == len(line) {
			return false
		}
		switch line[i] {
		case '}':
			return skipSpace(line, i+1) == len(line)
		case ',':
			i = skipSpace(line, i+1)
		default:
			return false
		}
	}
}

// member takes the name and the value that begin at i, and returns where the next
// thing begins, or -1.
func (f *fields) member(line []byte, i int) int {
	name, i := f.text(line, i)
	if i < 0 {
		return -1
	}
	if i = skipSpace(line, i); i == len(line) || line[i] != ':' {
		return -1
	}
	if i = skipSpace(line, i+1); i == len(line) {
		return -1
	}
	begin := i
	slot := f.find(name)
	switch c := line[i]; {
	case slot < 0:
		i = skipValue(line, i)
	case c == '"':
		f.values[slot], i = f.text(line, i)
	default:
		f.values[slot] = nil
		if i = skipValue(line, i); i >= 0 && c != '{' && c != '[' && c != 'n' {
			f.values[slot] = line[begin:i]
		}
	}
	if i < 0 {
		return -1
	}
	return skipSpace(line, i)
}

// find returns the slot of a name, or -1.
func (f *fields) find(name []byte) int {
	for slot, n := range f.names {
		if n == string(name) {
			return slot
		}
	}
	return -1
}

// text returns the string whose quote is at i, without its escapes, and where it
// ends, or -1.
func (f *fields) text(line []byte, i int) (s []byte, end int) {
	if i == len(line) || line[i] != '"' {
		return nil, -1
	}
	closing, escaped := closingQuote(line, i+1)
	if closing < 0 {
		return nil, -1
	}
	s = line[i+1 : closing]
	if escaped {
		before, ok := len(f.unescaped), false
		if f.unescaped, ok = appendUnescaped(f.unescaped, s); !ok {
			return nil, -1
		}
		s = f.unescaped[before:]
	}
	return s, closing + 1
}

// closingQuote returns the index of the quote that ends the string whose first
// byte is at i, or -1, and whether there are escapes in it.
func closingQuote(line []byte, i int) (end int, escaped bool) {
	n := bytes.IndexByte(line[i:], '"')
	if n < 0 {
		return -1, false
	}
	if bytes.IndexByte(line[i:i+n], '\\') < 0 {
		return i + n, false
	}
	for ; i < len(line); i++ {
		switch line[i] {
		case '"':
			return i, true
		case '\\':
			i++
		}
	}
	return -1, true
}

func skipSpace(line []byte, i int) int {
	for i < len(line) && (line[i] == ' ' || line[i] == '\t' || line[i] == '\n' || line[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns where the value ends whose first byte is at i, or -1.
func skipValue(line []byte, i int) int {
	switch line[i] {
	case '"':
		end, _ := closingQuote(line, i+1)
		if end < 0 {
			return -1
		}
		return end + 1
	case '{', '[':
		return skipNested(line, i)
	}
	begin := i
	for i < len(line) && isLiteral(line[i]) {
		i++
	}
	switch literal := line[begin:i]; {
	case len(literal) == 0:
		return -1
	case literal[0] == '-', literal[0] >= '0' && literal[0] <= '9',
		string(literal) == "true", string(literal) == "false", string(literal) == "null":
		return i
	}
	return -1
}

// isLiteral reports whether a number, true, false or null can have the byte.
func isLiteral(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == 'E' || c == '-' || c == '+' || c == '.'
}

// skipNested returns where the object or array ends that begins at i, or -1.
func skipNested(line []byte, i int) int {
	depth := 0
	for ; i < len(line); i++ {
		switch line[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			if i, _ = closingQuote(line, i+1); i < 0 {
				return -1
			}
		}
	}
	return -1
}

// appendUnescaped appends what the inside of a JSON string stands for, as
// encoding/json has it: half a surrogate pair becomes U+FFFD.
func appendUnescaped(dst, s []byte) (out []byte, ok bool) {
	for {
		n := bytes.IndexByte(s, '\\')
		if n < 0 {
			return append(dst, s...), true
		}
		dst = append(dst, s[:n]...)
		if s = s[n+1:]; len(s) == 0 {
			return dst, false
		}
		if s[0] != 'u' {
			c := unescape(s[0])
			if c == 0 {
				return dst, false
			}
			dst, s = append(dst, c), s[1:]
			continue
		}
		r, ok := hexRune(s[1:])
		if !ok {
			return dst, false
		}
		s = s[5:]
		if utf16.IsSurrogate(r) {
			r, s = joinPair(r, s)
		}
		dst = utf8.AppendRune(dst, r)
	}
}

// joinPair joins half of a surrogate pair with the other, if s begins with it, and
// returns what follows.
func joinPair(first rune, s []byte) (r rune, rest []byte) {
	if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
		second, _ := hexRune(s[2:])
		if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
			return r, s[6:]
		}
	}
	return utf8.RuneError, s
}

// unescape returns what a backslash and c stand for, or 0.
func unescape(c byte) byte {
	switch c {
	case '"', '\\', '/':
		return c
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return 0
}

// hexRune reads the four digits that s begins with.
func hexRune(s []byte) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range s[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// appendValid appends s with U+FFFD for each byte that is not UTF-8.
func appendValid(dst, s []byte) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[n:]
	}
	return dst
}

// appendQuoted appends s, which is valid UTF-8, as a JSON string of at most limit
// bytes. It returns how much of s that is.
func appendQuoted(dst, s []byte, limit int) (out []byte, taken int) {
	const hex = "0123456789abcdef"
	end := len(dst) + limit - 1 // room for the closing quote
	dst = append(dst, '"')
	for taken < len(s) {
		var escape [6]byte
		_, size := utf8.DecodeRune(s[taken:])
		next := s[taken : taken+size]
		switch c := s[taken]; {
		case c == '"', c == '\\':
			next = append(escape[:0], '\\', c)
		case c < ' ':
			next = append(escape[:0], '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		if len(dst)+len(next) > end {
			break
		}
		dst = append(dst, next...)
		taken += size
	}
	return append(dst, '"'), taken
}

// cutText returns s, or its beginning of at most limit bytes without half a rune.
func cutText(s []byte, limit int) []byte {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
