// Package secret holds values that must never be seen: every way Go has of
// printing one shows a placeholder instead.
package secret

import (
	"crypto/subtle"
	"log/slog"
)

// redacted stands for a secret in every output.
const redacted = "REDACTED"

// String is a secret text. fmt, encoding/json, slog and zap print it as
// "REDACTED"; only [String.Reveal] gives the value.
type String string

// Reveal returns the secret itself. Call it where the value is used, never to store it.
func (s String) Reveal() string { return string(s) }

// String implements fmt.Stringer without the value.
func (s String) String() string { return redacted }

// GoString implements fmt.GoStringer without the value.
func (s String) GoString() string { return redacted }

// LogValue implements slog.LogValuer without the value.
func (s String) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler (and so JSON) without the value.
func (s String) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Equal reports whether s is other, in time that depends only on the lengths.
func (s String) Equal(other string) bool {
	return subtle.ConstantTimeCompare([]byte(s), []byte(other)) == 1
}
