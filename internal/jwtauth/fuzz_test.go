package jwtauth_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/jwtauth"
)

// FuzzParseToken: what the strict parser takes, golang-jwt reads alike, and
// there is no second spelling of it.
func FuzzParseToken(f *testing.F) {
	f.Add(mintRaw(edKey(), `{"alg":"EdDSA","kid":"k","typ":"JWT"}`, `{"iss":"a"}`))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("eyJhbGciOiJIUzI1NiJ9.e30.AA")
	f.Add("..")
	f.Add("a.b.c.d")
	f.Add("eyJhbGciOiJFUzI1NiIsImFsZyI6Im5vbmUifQ.e30.AA\n")
	f.Fuzz(func(t *testing.T, raw string) {
		payload, canonical, err := jwtauth.ParseToken(raw)
		if err != nil {
			return
		}
		require.Equal(t, raw, canonical)
		require.LessOrEqual(t, len(raw), jwtauth.MaxTokenSize)
		parts := strings.Split(raw, ".")
		require.Len(t, parts, 3)
		require.Equal(t, parts[1], b64(payload))
		claims := jwt.MapClaims{}
		_, _, err = jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(raw, claims)
		if _, strict := jwtauth.ParseObject(payload); strict == nil {
			require.NoError(t, err)
		}
	})
}

// FuzzParseObject: the strict JSON parser takes a subset of what encoding/json
// takes, with the same meaning.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"b":[true,null,"x",{"c":-0.5e3}]}`, `{"a":1,"a":2}`, `{"a":1}x`, "\ufeff{}", `{"\ud800":1}`,
		`[1]`, `"a"`, `{"a":[1,]}`, `{"a" 1}`, `{"a":01}`, `{"a":` + nested(31) + `}`, `{"a":` + nested(40) + `}`, "{\"a\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		object, err := jwtauth.ParseObject(data)
		if err != nil {
			return
		}
		var want map[string]any
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		require.NoError(t, dec.Decode(&want))
		require.Equal(t, want, object)
	})
}

// FuzzParseKeySet: any document gives keys or an error, and each key is used
// or dropped.
func FuzzParseKeySet(f *testing.F) {
	f.Add(jwks(jwk("a", edKey().Public()), jwk("b", p256Key().Public()), jwk("c", rsaKey().Public())))
	f.Add(jwks(jwk("a", p384Key().Public(), map[string]any{"alg": "ES384", "key_ops": []string{"verify"}})))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"","e":""},{"kty":"EC","crv":"P-256","x":"","y":""},{"kty":"OKP","crv":"Ed25519"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"},1]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		admitted, dropped, err := jwtauth.ParseKeySet(document)
		if err != nil {
			require.Zero(t, admitted)
			return
		}
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		require.NoError(t, json.Unmarshal(document, &set))
		require.Equal(t, len(set.Keys), admitted+len(dropped))
	})
}

// FuzzParseAuthorization: a token is a suffix of the value, after the scheme
// and at least one space.
func FuzzParseAuthorization(f *testing.F) {
	for _, value := range []string{"Bearer abc", "bearer  abc", "Bearer", "Bearer ", "Basic abc", "Bearerabc", "", "Bearer\tabc", "Bearer a b"} {
		f.Add(value, "Bearer")
		f.Add(value, "")
	}
	f.Fuzz(func(t *testing.T, value, scheme string) {
		token, present := jwtauth.ParseAuthorization(value, scheme)
		if !present {
			require.Empty(t, token)
			return
		}
		require.True(t, strings.HasSuffix(value, token))
		if scheme != "" {
			require.True(t, strings.EqualFold(value[:len(scheme)], scheme))
			between := value[len(scheme) : len(value)-len(token)]
			require.Empty(t, strings.Trim(between, " "))
			require.True(t, token == "" || between != "")
		}
	})
}
