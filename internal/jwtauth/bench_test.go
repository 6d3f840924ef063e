package jwtauth_test

import (
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/jwtauth"
)

// signers returns a way to sign for every algorithm, with the matching store.
func signers(tb testing.TB) []struct {
	method jwt.SigningMethod
	key    any
	keys   *jwtauth.Keys
} {
	tb.Helper()
	type signer = struct {
		method jwt.SigningMethod
		key    any
		keys   *jwtauth.Keys
	}
	rsaKeys := func() *jwtauth.Keys { return pinnedKeys(tb, rsaKey().Public()) }
	return []signer{
		{jwt.SigningMethodHS256, []byte(goodSecret), secretKeys(tb)},
		{jwt.SigningMethodRS256, rsaKey(), rsaKeys()},
		{jwt.SigningMethodRS384, rsaKey(), rsaKeys()},
		{jwt.SigningMethodRS512, rsaKey(), rsaKeys()},
		{jwt.SigningMethodPS256, rsaKey(), rsaKeys()},
		{jwt.SigningMethodEdDSA, edKey(), pinnedKeys(tb, edKey().Public())},
		{jwt.SigningMethodES256, p256Key(), pinnedKeys(tb, p256Key().Public())},
		{jwt.SigningMethodES384, p384Key(), pinnedKeys(tb, p384Key().Public())},
	}
}

func BenchmarkVerifyCached(b *testing.B) {
	for _, s := range signers(b) {
		b.Run(s.method.Alg(), func(b *testing.B) {
			v, _ := newVerifier(b, s.keys, systemClock)
			token := mint(b, s.method, "k", s.key, currentClaims())
			_, err := v.Verify(token)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerifyCachedParallel(b *testing.B) {
	v, _ := newVerifier(b, pinnedKeys(b, rsaKey().Public()), systemClock)
	token := mint(b, jwt.SigningMethodRS256, "k", rsaKey(), currentClaims())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := v.Verify(token); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkVerifyUncached(b *testing.B) {
	for _, s := range signers(b) {
		b.Run(s.method.Alg(), func(b *testing.B) {
			v, _ := newVerifier(b, s.keys, systemClock, func(c *jwtauth.Config) { c.CacheSize = 0 })
			token := mint(b, s.method, "k", s.key, currentClaims())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerifyGarbage(b *testing.B) {
	v, _ := newVerifier(b, pinnedKeys(b, edKey().Public()), systemClock)
	token := mint(b, jwt.SigningMethodEdDSA, "k", otherEdKey(), currentClaims(map[string]any{"iss": issuerB}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(token); err == nil {
			b.Fatal("accepted")
		}
	}
}
