package jwtauth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const (
	issuerA    = "https://a.test"
	issuerB    = "https://b.test"
	audience   = "api"
	goodSecret = "1f0c8f7ae8a7ab4db5ed4bb0f5b6ab3bd94fb1d4f5f55f5e0c9a4e0f7d2c1b3a"
)

// now is what the fake clocks of the tests show.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Keys are made once: RSA keys take long.
var (
	rsaKey     = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	edKey      = sync.OnceValue(newEd25519)
	otherEdKey = sync.OnceValue(newEd25519)
)

func newEd25519() ed25519.PrivateKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return must(private, err)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// goodClaims are those of a valid token of issuerA with changes; a nil value deletes a claim.
func goodClaims(changes ...map[string]any) jwt.MapClaims {
	claims := jwt.MapClaims{
		"iss": issuerA, "aud": audience, "sub": "u-1", "tenant_id": "1", "roles": []string{"Admin"},
		"iat": now.Unix(), "exp": now.Add(15 * time.Minute).Unix(), "jti": "t-1",
	}
	for _, change := range changes {
		maps.Copy(claims, change)
	}
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

// mint signs claims; a key id is set unless it is empty.
func mint(tb testing.TB, method jwt.SigningMethod, kid string, key any, claims jwt.Claims) string {
	tb.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	signed, err := token.SignedString(key)
	require.NoError(tb, err)
	return signed
}

// mintRaw signs any header and payload with Ed25519.
func mintRaw(key ed25519.PrivateKey, header, payload string) string {
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	return signed + "." + b64(ed25519.Sign(key, []byte(signed)))
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func toJSON(value any) string { return string(must(json.Marshal(value))) }

// publicPEM returns the PKIX PEM of a public key.
func publicPEM(public crypto.PublicKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))}))
}

// jwk returns the JWK of a public key with changes.
func jwk(kid string, public crypto.PublicKey, changes ...map[string]any) map[string]any {
	m := map[string]any{"kid": kid, "use": "sig"}
	switch k := public.(type) {
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	case *ecdsa.PublicKey:
		point := must(k.Bytes())
		half := (len(point) - 1) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", k.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), "AQAB"
	default:
		panic("no JWK of this type of key")
	}
	for _, change := range changes {
		maps.Copy(m, change)
	}
	return m
}

// jwks returns a JWK set document.
func jwks(keys ...map[string]any) []byte {
	return must(json.Marshal(map[string]any{"keys": append([]map[string]any{}, keys...)}))
}

// pinnedKeys returns a store of public keys.
func pinnedKeys(tb testing.TB, public ...crypto.PublicKey) *jwtauth.Keys {
	tb.Helper()
	var texts []string
	for _, p := range public {
		texts = append(texts, publicPEM(p))
	}
	keys, err := jwtauth.PinnedKeys(texts...)
	require.NoError(tb, err)
	return keys
}

func secretKeys(tb testing.TB) *jwtauth.Keys {
	tb.Helper()
	keys, err := jwtauth.SecretKey(secret.String(goodSecret))
	require.NoError(tb, err)
	return keys
}

// newVerifier returns a verifier of issuerA with these keys, and its clock.
func newVerifier(tb testing.TB, keys *jwtauth.Keys, change ...func(*jwtauth.Config)) (*jwtauth.Verifier, *clock.Fake) {
	tb.Helper()
	c := clock.NewFake(now)
	config := jwtauth.Config{
		Issuers:   []jwtauth.Issuer{{Name: issuerA, Keys: keys, Audiences: []string{audience}}},
		Leeway:    30 * time.Second,
		CacheSize: 100,
		Clock:     c,
	}
	for _, f := range change {
		f(&config)
	}
	v, err := jwtauth.New(config)
	require.NoError(tb, err)
	return v, c
}

// reasonOf returns the reason of err, "ok" for none.
func reasonOf(err error) jwtauth.Reason {
	var refusal *jwtauth.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &refusal):
		return refusal.Reason
	}
	return "not a jwtauth.Error"
}

// systemClock makes a verifier use the machine's clock, for benchmarks.
func systemClock(c *jwtauth.Config) { c.Clock = clock.System{} }

// currentClaims are goodClaims that are valid by the machine's clock.
func currentClaims(changes ...map[string]any) jwt.MapClaims {
	current := map[string]any{"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	return goodClaims(append([]map[string]any{current}, changes...)...)
}
