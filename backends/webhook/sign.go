package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tenantgate/tenantgate/internal/secret"
)

// The headers of a request, as Standard Webhooks names them.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// DefaultTolerance is how far a request's time may be from the receiver's, in
// either direction.
const DefaultTolerance = 5 * time.Minute

const (
	secretPrefix = "whsec_"
	// The length of a secret in bytes, from Standard Webhooks.
	minSecret, maxSecret = 24, 64

	signatureVersion = "v1" // HMAC-SHA256
)

var errNoSecret = errors.New(`webhook secret: there is none: make one by echo "whsec_$(openssl rand -base64 32)"`)

// ParseSecrets reads secrets separated by spaces, line ends or commas, the
// newest first. There must be one at least. Errors name the place of a bad one
// and do not repeat it.
func ParseSecrets(text string) ([]secret.String, error) {
	var secrets []secret.String
	for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		secrets = append(secrets, secret.String(one))
	}
	if len(secrets) == 0 {
		return nil, errNoSecret
	}
	if _, err := decodeAll(secrets); err != nil {
		return nil, err
	}
	return secrets, nil
}

// decodeAll returns the keys in the secrets.
func decodeAll(secrets []secret.String) ([][]byte, error) {
	keys := make([][]byte, len(secrets))
	for i, s := range secrets {
		encoded, ok := strings.CutPrefix(s.Reveal(), secretPrefix)
		if !ok {
			return nil, fmt.Errorf("webhook secret %d does not begin with %s", i+1, secretPrefix)
		}
		key, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || strings.ContainsAny(encoded, "\r\n") { // which the decoder skips
			return nil, fmt.Errorf("webhook secret %d: what follows %s is no base64 (RFC 4648, section 4, with its padding)", i+1, secretPrefix)
		}
		if len(key) < minSecret || len(key) > maxSecret {
			return nil, fmt.Errorf("webhook secret %d has %d bytes in base64: want %d to %d", i+1, len(key), minSecret, maxSecret)
		}
		keys[i] = key
	}
	return keys, nil
}

// sign returns the signature of a request by one key.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return signatureVersion + "," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signAll returns the value of [HeaderSignature].
func signAll(keys [][]byte, id, timestamp string, body []byte) string {
	signatures := make([]string, len(keys))
	for i, key := range keys {
		signatures[i] = sign(key, id, timestamp, body)
	}
	return strings.Join(signatures, " ")
}

// Verify is for receivers: it returns nil if one of the secrets signed the
// headers' id and time and this body, byte for byte, and the time is within
// tolerance of now ([DefaultTolerance] is a good one). The signature's check
// takes a time that does not depend on how much of it is right. A request that
// is taken may come again, with the same id: whoever acts on it keeps the ids.
func Verify(secrets []secret.String, headers http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	keys, err := decodeAll(secrets)
	if err != nil {
		return err
	}
	var values [3]string
	for i, name := range []string{HeaderID, HeaderTimestamp, HeaderSignature} {
		all := headers.Values(name)
		if len(all) != 1 || all[0] == "" {
			return fmt.Errorf("webhook: want one header %s, not %d", name, len(all))
		}
		values[i] = all[0]
	}
	id, timestamp, signatures := values[0], values[1], values[2]
	if strings.Contains(id, ".") {
		return fmt.Errorf("webhook: %s holds a full stop, which separates what is signed", HeaderID)
	}
	seconds, err := strconv.ParseUint(timestamp, 10, 40)
	if err != nil {
		return fmt.Errorf("webhook: %s is no number of seconds", HeaderTimestamp)
	}
	if age := now.Sub(time.Unix(int64(seconds), 0)); age > tolerance || age < -tolerance {
		return fmt.Errorf("webhook: %s is more than %s away from now", HeaderTimestamp, tolerance)
	}
	good := false
	for _, key := range keys {
		want := []byte(sign(key, id, timestamp, body))
		for signature := range strings.SplitSeq(signatures, " ") {
			if hmac.Equal([]byte(signature), want) {
				good = true
			}
		}
	}
	if !good {
		return fmt.Errorf("webhook: no signature in %s is right for this body", HeaderSignature)
	}
	return nil
}
