package jwtauth_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// wycheproofGroup is a group of vectors. JWS groups have one key, JWK groups a set.
type wycheproofGroup struct {
	Comment string          `json:"comment"`
	Public  json.RawMessage `json:"public"`
	Private json.RawMessage `json:"private"`
	Tests   []struct {
		ID      int    `json:"tcId"`
		Comment string `json:"comment"`
		JWS     string `json:"jws"`
		Result  string `json:"result"`
	} `json:"tests"`
}

// wycheproofKey is what the rules below need to know of a JWK.
type wycheproofKey struct {
	Type string `json:"kty"`
	ID   string `json:"kid"`
	Alg  string `json:"alg"`
	K    string `json:"k"`
}

func wycheproofGroups(t *testing.T, file string) []wycheproofGroup {
	t.Helper()
	content, err := fs.ReadFile(wycheproof.TestVectors, file)
	require.NoError(t, err)
	var vectors struct {
		TestGroups []wycheproofGroup `json:"testGroups"`
	}
	require.NoError(t, json.Unmarshal(content, &vectors))
	require.NotEmpty(t, vectors.TestGroups)
	return vectors.TestGroups
}

// mislabelled are vectors of json_web_signature_test.json whose label does not
// fit their bytes.
var mislabelled = map[int]string{
	367: `"invalid" for wrong padding, but the text has no padding and equals the valid vector 357`,
	370: `"invalid" for wrong padding in the payload, but the text has no padding and equals the valid vector 357`,
	372: `"valid", but its header begins with a character that is not base64url (RFC 7515 section 5.2 step 2)`,
	373: `"valid", but its payload ends with a character that is not base64url (RFC 7515 section 5.2 step 6)`,
}

func TestWycheproofSignatures(t *testing.T) {
	t.Parallel()
	for _, group := range wycheproofGroups(t, "json_web_signature_test.json") {
		document := group.Public
		if document == nil {
			document = group.Private
		}
		var k wycheproofKey
		require.NoError(t, json.Unmarshal(document, &k))
		for _, test := range group.Tests {
			t.Run(fmt.Sprintf("tc%d %s", test.ID, test.Comment), func(t *testing.T) {
				t.Parallel()
				if reason := mislabelled[test.ID]; reason != "" {
					t.Skip("labelled " + reason)
				}
				err := verifyWithJWK(k, document, test.JWS)
				alg := headerAlg(test.JWS)
				switch {
				case test.Result != "valid":
					require.Error(t, err)
				case !jwtauth.KnownAlgorithm(alg):
					require.Error(t, err, "%s is none of our algorithms", alg)
				case k.Alg != alg:
					require.Error(t, err, "the key is pinned to %s (RFC 7517 section 4.4), the token says %s", k.Alg, alg)
				default:
					require.NoError(t, err)
				}
			})
		}
	}
}

// verifyWithJWK verifies with a single key, as a set of one or as a secret.
func verifyWithJWK(k wycheproofKey, document json.RawMessage, jws string) error {
	if k.Type == "oct" {
		octets, err := base64.RawURLEncoding.DecodeString(k.K)
		if err != nil {
			return err
		}
		keys, err := jwtauth.UncheckedSecret(octets) // one group's key is all zeros
		if err != nil {
			return err
		}
		return jwtauth.VerifySignature(keys, jws)
	}
	keys, err := jwtauth.KeySetKeys([]byte(`{"keys":[` + string(document) + `]}`))
	if err != nil {
		return err
	}
	return jwtauth.VerifySignature(keys, jws)
}

func headerAlg(jws string) string {
	encoded, _, _ := strings.Cut(jws, ".")
	var header struct {
		Alg string `json:"alg"`
	}
	decoded, _ := base64.RawURLEncoding.DecodeString(encoded)
	_ = json.Unmarshal(decoded, &header)
	return header.Alg
}

func TestWycheproofKeySets(t *testing.T) {
	t.Parallel()
	for _, group := range wycheproofGroups(t, "json_web_key_test.json") {
		symmetric := group.Public == nil
		document := group.Public
		if symmetric {
			document = group.Private
		}
		for _, test := range group.Tests {
			t.Run(fmt.Sprintf("tc%d %s %s", test.ID, group.Comment, test.Comment), func(t *testing.T) {
				t.Parallel()
				keys, err := jwtauth.KeySetKeys(document)
				if err == nil {
					err = jwtauth.VerifySignature(keys, test.JWS)
				}
				if !symmetric {
					require.Equal(t, test.Result == "valid", err == nil, "%v", err)
					return
				}
				require.Error(t, err, "a symmetric key is never taken from a key set")
				requireAsSecret(t, document, test.JWS, test.Result == "valid")
			})
		}
	}
}

// requireAsSecret checks the vectors with symmetric keys the way we take such
// keys: one secret from the configuration, for HS256. Groups that say
// something about sets (several types, one id twice) or about keys for
// encryption have no counterpart.
func requireAsSecret(t *testing.T, document json.RawMessage, jws string, valid bool) {
	t.Helper()
	var set struct {
		Keys []wycheproofKey `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(document, &set))
	ids := map[string]bool{}
	for _, k := range set.Keys {
		if k.Type != "oct" || k.Alg != "HS256" || ids[k.ID] {
			return
		}
		ids[k.ID] = true
	}
	octets, err := base64.RawURLEncoding.DecodeString(set.Keys[0].K)
	require.NoError(t, err)
	keys, err := jwtauth.SecretKey(secret.String(octets))
	if err == nil {
		err = jwtauth.VerifySignature(keys, jws)
	}
	require.Equal(t, valid, err == nil, "%v", err)
}
