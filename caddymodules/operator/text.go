package operator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// Printable returns the text with a question mark for everything that could
// make a terminal do something: names can come from requests, and those of
// tenants and users are other people's.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, text)
}

// WriteJSON writes JSON and a newline. Beyond what package json does it escapes
// control characters such as U+009B, which some terminals obey too.
func WriteJSON(w io.Writer, v any, indent string) error {
	var plain, out bytes.Buffer
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	for _, r := range plain.String() {
		switch {
		case unicode.IsPrint(r) || r == '\n':
			out.WriteRune(r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	_, err := out.WriteTo(w)
	return err
}

// IsTerminal reports whether a person reads what is written, and the terminal
// knows colours and places.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
}

// Coloured reports whether to write colours, see https://no-color.org.
func Coloured(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && IsTerminal(w)
}
