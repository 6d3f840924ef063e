package auth

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The signing keys live in the table signing_keys, at most one in each state:
// "current" signs, "next" is published so that every gateway knows it before
// it signs, "previous" is published until the last token it signed has ended.
const (
	algorithm = "EdDSA"

	stateCurrent  = "current"
	stateNext     = "next"
	statePrevious = "previous"
)

// jwksMaxAge is how long a gateway may keep the key set.
const jwksMaxAge = 5 * time.Minute

// minRotationAge is how long a previous key must have been published before a
// rotation drops it: longer than any access token lives (maxAccessTTL) and
// than any cache of the key set (jwksMaxAge), clock differences included.
const minRotationAge = time.Hour

// minKeySecret is the least length of a key-encryption secret in bytes. HKDF
// does not slow a guesser down, so the secret must be random, not a password.
const minKeySecret = 32

// keysLock is held by who changes the keys: what changes depends on all of them.
const keysLock = "signing_keys"

// ErrRotatedRecently is in the chain of the error of [RotateKeys] when the
// previous key may still be needed.
var ErrRotatedRecently = errors.New("the keys were rotated less than " + minRotationAge.String() + " ago, tokens of the previous key may still be in use")

// keySet is an immutable snapshot of the table.
type keySet struct {
	// kid and private are the current key's.
	kid     string
	private ed25519.PrivateKey
	// jwks is the JSON body of /.well-known/jwks.json.
	jwks []byte
	// version changes when the table does.
	version string
}

// storedKey is a row of signing_keys.
type storedKey struct {
	kid, state string
	blob       []byte
	updatedAt  int64
}

// sealer encrypts private keys at rest. Without a secret it stores them as
// they are.
type sealer struct{ aead cipher.AEAD }

// sealedPrefix starts a sealed key. PKCS #8 DER starts with 0x30.
const sealedPrefix = "tgk1"

func newSealer(keySecret secret.String) (sealer, error) {
	if keySecret == "" {
		return sealer{}, nil
	}
	if len(keySecret) < minKeySecret {
		return sealer{}, fmt.Errorf("KEY_ENCRYPTION_SECRET has %d bytes: give at least %d random ones", len(keySecret), minKeySecret)
	}
	key, err := hkdf.Key(sha256.New, []byte(keySecret.Reveal()), nil, "tenantgate signing keys v1", 32)
	if err != nil {
		return sealer{}, fmt.Errorf("derive key-encryption key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, fmt.Errorf("key-encryption key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealer{}, fmt.Errorf("key-encryption key: %w", err)
	}
	return sealer{aead: aead}, nil
}

// seal returns what is stored for the key. The kid is bound to the blob, so
// that nobody with write access to the table can swap two keys.
func (s sealer) seal(kid string, der []byte) []byte {
	if s.aead == nil {
		return der
	}
	return s.aead.Seal([]byte(sealedPrefix), nil, der, []byte(kid)) //nolint:gosec // this AEAD draws a random nonce of its own
}

// open returns the PKCS #8 DER of a stored key.
func (s sealer) open(kid string, blob []byte) ([]byte, error) {
	sealed := sealedBlob(blob)
	switch {
	case !sealed: // stored before a secret was configured
		return blob, nil
	case s.aead == nil:
		return nil, fmt.Errorf("signing key %s is sealed: set KEY_ENCRYPTION_SECRET", kid)
	}
	der, err := s.aead.Open(nil, nil, blob[len(sealedPrefix):], []byte(kid))
	if err != nil {
		return nil, fmt.Errorf("signing key %s was not sealed with this KEY_ENCRYPTION_SECRET", kid)
	}
	return der, nil
}

func sealedBlob(blob []byte) bool { return strings.HasPrefix(string(blob), sealedPrefix) }

// parse returns the private key of a row.
func (s sealer) parse(key storedKey) (ed25519.PrivateKey, error) {
	der, err := s.open(key.kid, key.blob)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", key.kid, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s is a %T, not an Ed25519 key", key.kid, parsed)
	}
	return private, nil
}

// generate makes a new key, ready to be stored.
func (s sealer) generate() (storedKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return storedKey{}, fmt.Errorf("generate signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return storedKey{}, fmt.Errorf("encode signing key: %w", err)
	}
	kid := thumbprint(public)
	return storedKey{kid: kid, blob: s.seal(kid, der)}, nil
}

// thumbprint returns the RFC 7638 thumbprint of an RFC 8037 key: the kid is a
// function of the key, so two keys can't share one.
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// jwk is a public key of RFC 8037.
type jwk struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
}

// newKeySet opens the stored keys, which come in the order of the key set.
func newKeySet(s sealer, stored []storedKey) (*keySet, error) {
	set := &keySet{version: version(stored)}
	var body struct {
		Keys []jwk `json:"keys"`
	}
	for _, key := range stored {
		private, err := s.parse(key)
		if err != nil {
			return nil, err
		}
		public := private.Public().(ed25519.PublicKey)
		body.Keys = append(body.Keys, jwk{
			KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(public), KeyID: key.kid, Algorithm: algorithm, Use: "sig",
		})
		if key.state == stateCurrent {
			set.kid, set.private = key.kid, private
		}
	}
	if set.private == nil {
		return nil, errors.New("there is no current signing key: run `backends rotate-keys`")
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	set.jwks = encoded
	return set, nil
}

// version names the contents of the table.
func version(stored []storedKey) string {
	var b strings.Builder
	for _, key := range stored {
		b.WriteString(key.state + "=" + key.kid + ";")
	}
	return b.String()
}

// "current", "next" and "previous" are in the order of the alphabet.
const selectKeys = `SELECT kid, state, private_key, updated_at FROM signing_keys WHERE algorithm = $1 ORDER BY state`

func readKeys(ctx context.Context, q identity.Queryer) ([]storedKey, error) {
	rows, err := q.QueryContext(ctx, selectKeys, algorithm)
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var stored []storedKey
	for rows.Next() {
		var key storedKey
		if err := rows.Scan(&key.kid, &key.state, &key.blob, &key.updatedAt); err != nil {
			return nil, fmt.Errorf("read signing keys: %w", err)
		}
		stored = append(stored, key)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return stored, nil
}

const insertKey = `INSERT INTO signing_keys (kid, algorithm, state, private_key, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)`

func storeKey(ctx context.Context, tx *database.Tx, key storedKey, state string) error {
	if _, err := tx.ExecContext(ctx, insertKey, key.kid, algorithm, state, key.blob, tx.NowMS()); err != nil {
		return fmt.Errorf("store signing key: %w", err)
	}
	return nil
}

// ensureKeys makes the first current and next key.
func ensureKeys(ctx context.Context, db *database.DB, s sealer) error {
	stored, err := readKeys(ctx, db.Reader())
	if err != nil || len(stored) > 0 {
		return err
	}
	current, err := s.generate()
	if err != nil {
		return err
	}
	next, err := s.generate()
	if err != nil {
		return err
	}
	return db.InTx(ctx, func(tx *database.Tx) error {
		if err := tx.Lock(ctx, keysLock); err != nil {
			return err
		}
		stored, err := readKeys(ctx, tx)
		if err != nil || len(stored) > 0 { // another instance was faster
			return err
		}
		if err := storeKey(ctx, tx, current, stateCurrent); err != nil {
			return err
		}
		return storeKey(ctx, tx, next, stateNext)
	})
}

// RotateOptions are the choices of [RotateKeys].
type RotateOptions struct {
	// KeySecret is the key-encryption secret of the installation, empty if it has none.
	KeySecret secret.String
	// Force rotates even if the previous key may still be needed: the tokens
	// it signed are refused at once. Use it when a key has leaked, twice.
	Force bool
}

// Rotation says which key is in which state after [RotateKeys].
type Rotation struct {
	Current  string `json:"current"`
	Next     string `json:"next"`
	Previous string `json:"previous"`
}

// RotateKeys makes the next key current and the current one previous, drops
// the old previous key and adds a new next one, in one transaction. Running
// services follow within their key poll. Keys that were stored before the
// installation had a key-encryption secret are sealed on the way. A rotation
// within an hour of the last one is refused with [ErrRotatedRecently].
func RotateKeys(ctx context.Context, db *database.DB, options RotateOptions) (Rotation, error) {
	s, err := newSealer(options.KeySecret)
	if err != nil {
		return Rotation{}, err
	}
	if err := ensureKeys(ctx, db, s); err != nil {
		return Rotation{}, err
	}
	fresh, err := s.generate()
	if err != nil {
		return Rotation{}, err
	}
	var done Rotation
	err = db.InTx(ctx, func(tx *database.Tx) error {
		if err := tx.Lock(ctx, keysLock); err != nil {
			return err
		}
		stored, err := readKeys(ctx, tx)
		if err != nil {
			return err
		}
		byState := make(map[string]storedKey, len(stored))
		for _, key := range stored {
			byState[key.state] = key
		}
		previous, found := byState[statePrevious]
		if found && !options.Force && tx.Now.Sub(time.UnixMilli(previous.updatedAt)) < minRotationAge {
			return ErrRotatedRecently
		}
		// The wrong secret must fail here: a key sealed with it would stop the service.
		if err := s.reseal(ctx, tx, stored); err != nil {
			return err
		}
		done = Rotation{Current: byState[stateNext].kid, Next: fresh.kid, Previous: byState[stateCurrent].kid}
		return shiftKeys(ctx, tx, fresh)
	})
	if err != nil {
		return Rotation{}, fmt.Errorf("rotate keys: %w", err)
	}
	return done, nil
}

const updateKeyBlob = `UPDATE signing_keys SET private_key = $1 WHERE kid = $2`

// reseal checks that all keys open, and seals those that are not sealed yet.
func (s sealer) reseal(ctx context.Context, tx *database.Tx, stored []storedKey) error {
	for _, key := range stored {
		der, err := s.open(key.kid, key.blob)
		if err != nil {
			return err
		}
		if s.aead == nil || sealedBlob(key.blob) {
			continue
		}
		if _, err := tx.ExecContext(ctx, updateKeyBlob, s.seal(key.kid, der), key.kid); err != nil {
			return fmt.Errorf("seal signing key: %w", err)
		}
	}
	return nil
}

const (
	deletePreviousKey = `DELETE FROM signing_keys WHERE state = 'previous'`
	retireCurrentKey  = `UPDATE signing_keys SET state = 'previous', updated_at = $1 WHERE state = 'current'`
	promoteNextKey    = `UPDATE signing_keys SET state = 'current', updated_at = $1 WHERE state = 'next'`
)

func shiftKeys(ctx context.Context, tx *database.Tx, fresh storedKey) error {
	if _, err := tx.ExecContext(ctx, deletePreviousKey); err != nil {
		return fmt.Errorf("drop previous key: %w", err)
	}
	for _, statement := range []string{retireCurrentKey, promoteNextKey} {
		result, err := tx.ExecContext(ctx, statement, tx.NowMS())
		if err != nil {
			return fmt.Errorf("shift keys: %w", err)
		}
		n, err := result.RowsAffected()
		if err != nil {
			return fmt.Errorf("shift keys: %w", err)
		}
		if n != 1 {
			return errors.New("shift keys: the table holds no complete set of keys")
		}
	}
	return storeKey(ctx, tx, fresh, stateNext)
}
