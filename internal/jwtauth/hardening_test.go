package jwtauth_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const goodHeader = `{"alg":"EdDSA","kid":"k"}`

// goodPayload is that of a valid token of issuerA.
func goodPayload() string { return toJSON(goodClaims()) }

func TestCVE_2025_30204_DotsAreCountedBeforeAnythingIsAllocated(t *testing.T) { // AllocsPerRun
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	for _, token := range []string{strings.Repeat(".", jwtauth.MaxTokenSize), strings.Repeat(".", 1<<20)} {
		var err error
		allocations := testing.AllocsPerRun(10, func() { _, err = v.Verify(token) })
		require.Equal(t, jwtauth.ReasonMalformed, reasonOf(err))
		require.LessOrEqual(t, allocations, 5.0)
	}
}

func TestCVE_2024_51744_AnExpiredTokenWithABadSignatureIsABadSignature(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	expired := goodClaims(map[string]any{"exp": now.Add(-time.Hour).Unix()})
	_, err := v.Verify(mint(t, jwt.SigningMethodEdDSA, "k", otherEdKey(), expired))
	require.Equal(t, jwtauth.ReasonBadSignature, reasonOf(err))
	_, err = v.Verify(mint(t, jwt.SigningMethodEdDSA, "k", edKey(), expired))
	require.Equal(t, jwtauth.ReasonExpired, reasonOf(err))
}

func TestCVE_2015_9235_AlgNoneInEverySpelling(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "none ", "", "HS256\x00"} {
		unsigned := b64([]byte(toJSON(map[string]any{"alg": alg}))) + "." + b64([]byte(goodPayload())) + "."
		for _, token := range []string{unsigned, unsigned + b64([]byte("x"))} {
			_, err := v.Verify(token)
			require.Equal(t, jwtauth.ReasonUnsupported, reasonOf(err), alg)
		}
	}
}

func TestCVE_2016_5431_APublicKeyIsNeverAnHMACSecret(t *testing.T) {
	t.Parallel()
	public := publicPEM(rsaKey().Public())
	v, _ := newVerifier(t, pinnedKeys(t, rsaKey().Public()))
	for _, asSecret := range []string{public, strings.TrimSpace(public), string(must(jwtModulus(rsaKey())))} {
		_, err := v.Verify(mint(t, jwt.SigningMethodHS256, "k", []byte(asSecret), goodClaims()))
		require.Equal(t, jwtauth.ReasonUnsupported, reasonOf(err))
	}
}

func jwtModulus(k *rsa.PrivateKey) ([]byte, error) { return k.N.Bytes(), nil }

func TestRFC8725_3_1_TheKeyDecidesTheAlgorithm(t *testing.T) {
	t.Parallel()
	keys, err := jwtauth.KeySetKeys(jwks(jwk("r", rsaKey().Public(), map[string]any{"alg": "PS256"})))
	require.NoError(t, err)
	v, _ := newVerifier(t, keys)
	require.NoError(t, errOf(v.Verify(mint(t, jwt.SigningMethodPS256, "r", rsaKey(), goodClaims()))))
	_, err = v.Verify(mint(t, jwt.SigningMethodRS256, "r", rsaKey(), goodClaims()))
	require.Equal(t, jwtauth.ReasonUnknownKey, reasonOf(err))
	_, err = v.Verify(mint(t, jwt.SigningMethodRS256, "", rsaKey(), goodClaims()))
	require.Equal(t, jwtauth.ReasonUnknownKey, reasonOf(err))
}

func TestRFC8725_3_10_AKeyIDIsOnlyAnID(t *testing.T) {
	t.Parallel()
	keys, err := jwtauth.KeySetKeys(jwks(jwk("a", edKey().Public()), jwk("b", otherEdKey().Public())))
	require.NoError(t, err)
	v, _ := newVerifier(t, keys)
	for kid, want := range map[string]jwtauth.Reason{
		`"a"`: "ok", `"b"`: jwtauth.ReasonBadSignature, `"A"`: jwtauth.ReasonUnknownKey,
		`"../../dev/null"`: jwtauth.ReasonUnknownKey, `"a' OR 1=1 --"`: jwtauth.ReasonUnknownKey, `"https://evil.test/jwks"`: jwtauth.ReasonUnknownKey,
		`""`: jwtauth.ReasonMalformed, `1`: jwtauth.ReasonMalformed, `null`: jwtauth.ReasonMalformed, `["a"]`: jwtauth.ReasonMalformed,
		`"` + strings.Repeat("a", 256) + `"`: jwtauth.ReasonMalformed,
	} {
		_, err := v.Verify(mintRaw(edKey(), `{"alg":"EdDSA","kid":`+kid+`}`, goodPayload()))
		require.Equal(t, want, reasonOf(err), kid)
	}
	_, err = v.Verify(mintRaw(edKey(), `{"alg":"EdDSA"}`, goodPayload()))
	require.Equal(t, jwtauth.ReasonUnknownKey, reasonOf(err), "without an id, two keys fit")
}

func TestRFC8725_3_10_KeysInTheTokenAreIgnored(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	evil := toJSON(jwk("k", otherEdKey().Public()))
	for _, member := range []string{`"jwk":` + evil, `"jku":"https://evil.test"`, `"x5u":"https://evil.test"`, `"x5c":["AAAA"]`, `"x5t":"AAAA"`} {
		header := `{"alg":"EdDSA","kid":"k",` + member + `}`
		require.NoError(t, errOf(v.Verify(mintRaw(edKey(), header, goodPayload()))), member)
		_, err := v.Verify(mintRaw(otherEdKey(), header, goodPayload()))
		require.Equal(t, jwtauth.ReasonBadSignature, reasonOf(err), member)
	}
}

func TestStrictHeader(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	for header, want := range map[string]jwtauth.Reason{
		`{"alg":"EdDSA","typ":"JWT"}`:                            "ok",
		`{"alg":"EdDSA","typ":"at+jwt"}`:                         "ok",
		`{"alg":"EdDSA","typ":"application/AT+JWT"}`:             "ok",
		` {"alg":"EdDSA"} `:                                      "ok",
		`{"alg":"EdDSA","typ":"logout+jwt"}`:                     jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","typ":"dpop+jwt"}`:                       jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","typ":""}`:                               jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","typ":1}`:                                jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","crit":["exp"],"exp":1}`:                 jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","crit":[]}`:                              jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","b64":false}`:                            jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","b64":true}`:                             jwtauth.ReasonUnsupported,
		`{"alg":"EdDSA","zip":"DEF"}`:                            jwtauth.ReasonUnsupported,
		`{"alg":"dir","enc":"A256GCM"}`:                          jwtauth.ReasonUnsupported,
		`{"alg":"ES256K"}`:                                       jwtauth.ReasonUnsupported,
		`{"alg":"eddsa"}`:                                        jwtauth.ReasonUnsupported,
		`{}`:                                                     jwtauth.ReasonMalformed,
		`{"ALG":"EdDSA"}`:                                        jwtauth.ReasonMalformed,
		`{"alg":["EdDSA"]}`:                                      jwtauth.ReasonMalformed,
		`{"alg":"none","alg":"EdDSA"}`:                           jwtauth.ReasonMalformed,
		`{"alg":"EdDSA","\u0061lg":"none"}`:                      jwtauth.ReasonMalformed,
		`{"alg":"EdDSA"}{}`:                                      jwtauth.ReasonMalformed,
		"\ufeff" + `{"alg":"EdDSA"}`:                             jwtauth.ReasonMalformed,
		`{"alg":"EdDSA","x":"` + "\xff" + `"}`:                   jwtauth.ReasonMalformed,
		`{"alg":"EdDSA","\ud800":1}`:                             jwtauth.ReasonMalformed,
		`{'alg':'EdDSA'}`:                                        jwtauth.ReasonMalformed,
		`[{"alg":"EdDSA"}]`:                                      jwtauth.ReasonMalformed,
		`"EdDSA"`:                                                jwtauth.ReasonMalformed,
		``:                                                       jwtauth.ReasonMalformed,
		`{"alg":"EdDSA","x":` + nested(31) + `}`:                 "ok",
		`{"alg":"EdDSA","x":` + nested(32) + `}`:                 jwtauth.ReasonMalformed,
		`{"alg":"EdDSA","x":{"y":1,"y":2}}`:                      jwtauth.ReasonMalformed,
		`{"alg":"EdDSA","x":` + strings.Repeat("[", 4000) + `1}`: jwtauth.ReasonMalformed,
	} {
		_, err := v.Verify(mintRaw(edKey(), header, goodPayload()))
		require.Equal(t, want, reasonOf(err), header)
	}
}

func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

func TestStrictPayload(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	good := goodPayload()
	for name, payload := range map[string]string{
		"a claim twice":                        `{"sub":"root",` + good[1:],
		"a claim twice, escaped":               `{"\u0073ub":"root",` + good[1:],
		"an exp in capitals is no exp":         strings.Replace(good, `"exp"`, `"EXP"`, 1),
		"trailing data":                        good + "x",
		"two objects":                          good + good,
		"a byte order mark":                    "\ufeff" + good,
		"not UTF-8":                            strings.Replace(good, "u-1", "u-\xff", 1),
		"nested members twice":                 `{"x":[{"y":1,"y":2}],` + good[1:],
		"too deep":                             `{"x":` + nested(32) + `,` + good[1:],
		"an array":                             "[" + good + "]",
		"empty":                                "",
		"a nested token, RFC 8725 section 3.3": mintRaw(edKey(), goodHeader, good),
	} {
		_, err := v.Verify(mintRaw(edKey(), goodHeader, payload))
		require.Error(t, err, name)
		require.Contains(t, []jwtauth.Reason{jwtauth.ReasonMalformed, jwtauth.ReasonMissingClaim}, reasonOf(err), name)
	}
	unpaired := strings.Replace(good, "u-1", `\ud800`, 1)
	_, err := v.Verify(mintRaw(edKey(), goodHeader, unpaired))
	require.Equal(t, jwtauth.ReasonInvalidClaim, reasonOf(err), "an unpaired surrogate must not become a common user id")
}

func TestATokenHasOneSpellingOnly(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	good := mintRaw(edKey(), goodHeader, goodPayload())
	require.NoError(t, errOf(v.Verify(good)))
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"a line break at the end":        good + "\n",
		"a line break inside":            good[:10] + "\n" + good[10:],
		"a carriage return inside":       good[:10] + "\r" + good[10:],
		"a space in front":               " " + good,
		"padding":                        parts[0] + "==." + parts[1] + "." + parts[2],
		"unused bits set":                parts[0] + "." + parts[1] + "." + setUnusedBits(parts[2]),
		"standard alphabet":              strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+",
		"four parts":                     good + ".",
		"five parts like a JWE":          good + ".x.y",
		"two parts":                      parts[0] + "." + parts[1],
		"no signature":                   parts[0] + "." + parts[1] + ".",
		"an empty text":                  "",
		"two dots":                       "..",
		"a NUL":                          good + "\x00",
		"the JSON serialisation":         `{"payload":"` + parts[1] + `"}`,
		"a letter of another script":     good + "ａ",
		"longer than 8 KiB":              good + strings.Repeat("A", jwtauth.MaxTokenSize),
		"quotation marks around a token": `"` + good + `"`,
	} {
		_, err := v.Verify(token)
		require.Error(t, err, name)
		require.Contains(t, []jwtauth.Reason{jwtauth.ReasonMalformed, jwtauth.ReasonBadSignature}, reasonOf(err), name)
	}
}

// setUnusedBits changes the bits of the last character that carry no data.
func setUnusedBits(segment string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, segment[len(segment)-1])
	return segment[:len(segment)-1] + alphabet[last|1:last|1+1]
}

func TestRFC7518_3_5_ThePSSSaltIsAsLongAsTheHash(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, rsaKey().Public()))
	for salt, want := range map[int]jwtauth.Reason{
		32: "ok", 1: jwtauth.ReasonBadSignature, 20: jwtauth.ReasonBadSignature, rsa.PSSSaltLengthAuto: jwtauth.ReasonBadSignature,
	} {
		method := &jwt.SigningMethodRSAPSS{SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA, Options: &rsa.PSSOptions{SaltLength: salt}}
		_, err := v.Verify(mint(t, method, "", rsaKey(), goodClaims()))
		require.Equal(t, want, reasonOf(err), salt)
	}
}

func TestECDSATwinsAreTwoTokensOfOneIdentity(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, p256Key().Public()))
	signed := b64([]byte(`{"alg":"ES256"}`)) + "." + b64([]byte(goodPayload()))
	digest := sha256.Sum256([]byte(signed))
	var signature struct{ R, S *big.Int }
	_, err := asn1.Unmarshal(must(ecdsa.SignASN1(rand.Reader, p256Key(), digest[:])), &signature)
	require.NoError(t, err)
	for _, s := range []*big.Int{signature.S, new(big.Int).Sub(p256Key().Params().N, signature.S)} {
		raw := append(signature.R.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		got, err := v.Verify(signed + "." + b64(raw))
		require.NoError(t, err)
		require.Equal(t, "u-1", got.Principal.UserID)
	}
	require.Equal(t, 2, v.CachedTokens())
}

func TestRFC8725_3_5_WeakSecretsAreRefused(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"":                                       "0 bytes",
		"secret":                                 "6 bytes",
		goodSecret[:31]:                          "31 bytes",
		strings.Repeat("a", 64):                  "guessed",
		strings.Repeat("changeme", 5):            "guessed",
		"0123456789abcdef0123456789abcdef":       "guessed",
		"a-string-secret-at-least-256-bits-long": "guessed",
		goodSecret[:20] + goodSecret[:20]:        "guessed",
	} {
		_, err := jwtauth.SecretKey(secret.String(s))
		require.ErrorContains(t, err, want)
		if len(s) > len("secret") {
			require.NotContains(t, err.Error(), s)
		}
	}
	_, err := jwtauth.SecretKey(secret.String(goodSecret[:32]))
	require.NoError(t, err)
}

func TestPinnedKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	good := publicPEM(edKey().Public())
	for want, text := range map[string]string{
		"empty":               " \n",
		"not PEM":             "ssh-rsa AAAA",
		"1024 bits":           publicPEM(small.Public()),
		"PRIVATE KEY":         "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
		"public key: ":        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
		"public key: not PEM": good + "trailing",
	} {
		_, err := jwtauth.PinnedKeys(text)
		require.ErrorContains(t, err, want)
	}
	_, err := jwtauth.PinnedKeys(good + good + publicPEM(p384Key().Public()))
	require.NoError(t, err)
}

func TestKeysOfASetThatAreRefused(t *testing.T) {
	t.Parallel()
	type change = map[string]any
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	off := jwk("k", p256Key().Public())
	off["y"] = off["x"]
	for want, key := range map[string]change{
		"use is not sig":                           jwk("k", edKey().Public(), change{"use": "enc"}),
		"key_ops has no verify":                    jwk("k", edKey().Public(), change{"key_ops": []string{"encrypt"}}),
		`alg "ES256" is not supported or does not`: jwk("k", edKey().Public(), change{"alg": "ES256"}),
		`alg "HS256" is not supported or does not`: jwk("k", rsaKey().Public(), change{"alg": "HS256"}),
		"kid is not a string":                      jwk("k", edKey().Public(), change{"kid": 1}),
		"kty is none of RSA, EC and OKP":           {"kty": "oct", "kid": "k", "k": b64([]byte(goodSecret))},
		"a private key":                            jwk("k", edKey().Public(), change{"d": "AAAA"}),
		"an RSA key of 1024 bits":                  jwk("k", small.Public()),
		"exponent is not an odd number":            jwk("k", rsaKey().Public(), change{"e": "AQ"}),
		"exponent is longer than 31 bits":          jwk("k", rsaKey().Public(), change{"e": "AQAAAAE"}),
		"modulus is even":                          jwk("k", rsaKey().Public(), change{"n": b64(new(big.Int).Lsh(big.NewInt(1), 2050).Bytes())}),
		"the curve is neither P-256 nor P-384":     jwk("k", p256Key().Public(), change{"crv": "secp256k1"}),
		"the curve is not Ed25519":                 jwk("k", edKey().Public(), change{"crv": "X25519"}),
		"an Ed25519 key has 32 bytes":              jwk("k", edKey().Public(), change{"x": "AAAA"}),
		"x is not base64url":                       jwk("k", edKey().Public(), change{"x": "+/=="}),
		"x is not a string":                        jwk("k", edKey().Public(), change{"x": 1}),
		"a coordinate has not 32 bytes":            jwk("k", p256Key().Public(), change{"x": b64(make([]byte, 33))}),
		"invalid P256":                             off,
	} {
		admitted, dropped, err := jwtauth.ParseKeySet(jwks(key, jwk("other", otherEdKey().Public())))
		require.NoError(t, err)
		require.Equal(t, 1, admitted, want)
		require.Len(t, dropped, 1)
		require.Contains(t, strings.ReplaceAll(dropped[0], "point not on curve", "invalid P256"), want)
	}
}

func TestSetsThatAreRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	for want, document := range map[string]string{
		`two keys have the id "k"`: string(jwks(jwk("k", edKey().Public()), jwk("k", otherEdKey().Public()))),
		`"keys" is not an array`:   `{"keys":{}}`,
		"key 0 is not an object":   `{"keys":["k"]}`,
		"not valid JSON":           `{"keys":[]`,
		"two members of one name":  `{"keys":[],"keys":[]}`,
		"not a JSON object":        `[]`,
	} {
		_, _, err := jwtauth.ParseKeySet([]byte(document))
		require.ErrorContains(t, err, want)
	}
	_, _, err := jwtauth.ParseKeySet(jwks(jwk("k", edKey().Public()), jwk("k", otherEdKey().Public(), map[string]any{"use": "enc"})))
	require.ErrorContains(t, err, "two keys", "an encryption key with the same id counts too")
}

func TestErrorsNeverQuoteTheToken(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	for _, token := range []string{
		"SECRET", "SECRET.SECRET.SECRET", mintRaw(otherEdKey(), `{"alg":"SECRET"}`, goodPayload()),
		mintRaw(edKey(), `{"alg":"EdDSA","typ":"SECRET"}`, goodPayload()), mintRaw(edKey(), `{"alg":"EdDSA","crit":["SECRET"]}`, goodPayload()),
		mintRaw(edKey(), goodHeader, `{"iss":"SECRET"}`), mintRaw(edKey(), goodHeader, `{"SECRET":1,"SECRET":2}`),
		mintRaw(edKey(), goodHeader, strings.Replace(goodPayload(), "u-1", `SECRET\n`, 1)),
	} {
		_, err := v.Verify(token)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "SECRET")
	}
}
