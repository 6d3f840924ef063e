package password_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/argon2"

	"github.com/tenantgate/tenantgate/internal/password"
)

func TestHashAndVerify(t *testing.T) {
	t.Parallel()
	h := password.NewHasher(2)
	phc, err := h.Hash(t.Context(), "correct horse battery staple")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(phc, "$argon2id$v=19$m=19456,t=2,p=1$"), phc)

	ok, rehash, err := h.Verify(t.Context(), phc, "correct horse battery staple")
	require.NoError(t, err)
	require.True(t, ok)
	require.False(t, rehash)

	for _, wrong := range []string{"", "correct horse battery stapl", "Correct horse battery staple"} {
		ok, _, err = h.Verify(t.Context(), phc, wrong)
		require.NoError(t, err)
		require.False(t, ok, wrong)
	}
	again, err := h.Hash(t.Context(), "correct horse battery staple")
	require.NoError(t, err)
	require.NotEqual(t, phc, again, "every hash has its own salt")
}

func TestVerifyOfAnUnknownUserIsFalseForEveryPassword(t *testing.T) {
	t.Parallel()
	h := password.NewHasher(1)
	for _, pw := range []string{"", "x", strings.Repeat("\x00", 32)} {
		ok, rehash, err := h.Verify(t.Context(), "", pw)
		require.NoError(t, err)
		require.False(t, ok)
		require.False(t, rehash)
	}
}

func TestVerifyAsksForARehashOfOlderParameters(t *testing.T) {
	t.Parallel()
	key := argon2.IDKey([]byte("plum tree"), []byte("somesalt"), 1, 1024, 1, 32)
	old := "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHQ$" + base64.RawStdEncoding.EncodeToString(key)
	h := password.NewHasher(1)

	ok, rehash, err := h.Verify(t.Context(), old, "plum tree")
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, rehash)

	ok, rehash, err = h.Verify(t.Context(), old, "apple tree")
	require.NoError(t, err)
	require.False(t, ok)
	require.False(t, rehash, "a wrong password is no reason to store anything")
}

func TestVerifyRefusesHashesThatWouldCostTooMuch(t *testing.T) {
	t.Parallel()
	h := password.NewHasher(1)
	for _, phc := range []string{
		"x", "$2a$10$abc", "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=4000000,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=0$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=16$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=1$c2$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAA",
	} {
		_, _, err := h.Verify(t.Context(), phc, "password")
		require.Error(t, err, phc)
	}
}

func TestHashWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h := password.NewHasher(1)
	release := password.Occupy(h)
	_, err := h.Hash(ctx, "x")
	require.ErrorIs(t, err, context.Canceled)
	release()
	_, err = h.Hash(t.Context(), "x")
	require.NoError(t, err)
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	for pw, want := range map[string]string{
		"correct horse battery staple":   "",
		"pässwörter sind schön lang":     "",
		"acme is where I drink coffee":   "",
		"short":                          "too-short",
		"fourteen chars":                 "too-short",
		"äääääääüüü":                     "too-short",
		"aaaaaaaaaaaaaaaaaaaa":           "too-common",
		"abcabcabcabcabcabc":             "too-common",
		"abcdefghijklmnopqrstuvwxyz":     "too-common",
		"qwertyuiopasdfghjkl":            "too-common",
		"Password1234567890":             "too-common",
		"passwordpassword!!":             "too-common",
		"acme-ann-acme-ann1":             "predictable",
		"\xff\xfe correct horse battery": "invalid",
		strings.Repeat("ab c", 300):      "too-long",
	} {
		weakness := password.Policy{}.Check(pw, "acme", "ann")
		if want == "" {
			require.Nil(t, weakness, pw)
			continue
		}
		require.NotNil(t, weakness, pw)
		require.Equal(t, want, weakness.Code, pw)
		require.NotEmpty(t, weakness.Detail)
	}
	require.Nil(t, password.Policy{MinLength: 8}.Check("plum tree"))
}

func FuzzDecode(f *testing.F) {
	f.Add("$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, phc string) {
		memory, passes, err := password.Decode(phc)
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(phc, "$argon2id$"))
		require.LessOrEqual(t, memory, uint32(1<<20))
		require.LessOrEqual(t, passes, uint32(16))
	})
}
