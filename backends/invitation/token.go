package invitation

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/tenantgate/tenantgate/internal/secret"
)

// tokenPrefix lets secret scanners find a token that leaked.
const tokenPrefix = "inv_"

// tokenBytes is the entropy of a token. At 256 bits a plain hash of it may be
// stored (OWASP ASVS 5.0, 6.5.2).
const tokenBytes = 32

// newToken returns a token, which only its mail may hold, and the hash that is
// stored.
func newToken(random io.Reader) (secret.String, []byte, error) {
	raw := make([]byte, tokenBytes)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", nil, fmt.Errorf("make an invitation token: %w", err)
	}
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
	return secret.String(token), hashToken(token), nil
}

// parseToken returns the hash of a well-formed token, false for anything else.
// Only the exact text that was mailed has the hash that is stored.
func parseToken(text string) ([]byte, bool) {
	encoded, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return nil, false
	}
	// The decoder skips line breaks, so its output's length counts too.
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != tokenBytes {
		return nil, false
	}
	return hashToken(text), true
}

// link returns what an invitation's mail links to. The fragment stays in the
// browser: no log and no Referer has it.
func link(publicURL *url.URL, token secret.String) string {
	return strings.TrimSuffix(publicURL.String(), "/") + "/invite#token=" + token.Reveal()
}

func hashToken(token string) []byte {
	hash := sha256.Sum256([]byte(token))
	return hash[:]
}

// validID reports whether text is an id in the form that we write. An id is
// public and never stands for a token.
func validID(text string) bool {
	id, err := uuid.Parse(text)
	return err == nil && id.String() == text
}
