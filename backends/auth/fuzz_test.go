package auth_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/secret"
)

func FuzzParseTenant(f *testing.F) {
	for _, seed := range []string{``, `null`, `1`, `"1"`, `"acme"`, `0`, `-1`, `1.5`, `1e2`, `9223372036854775808`, `[1]`, `""`, `"\u0000"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		ref, ok := auth.ParseTenant(json.RawMessage(raw))
		if !ok || ref == "" || raw[0] == '"' {
			return
		}
		id, err := strconv.ParseInt(ref, 10, 64)
		require.NoError(t, err)
		require.Positive(t, id)
	})
}

func FuzzParseRefreshToken(f *testing.F) {
	for _, seed := range []string{"", "rt_", "rt_" + strings.Repeat("A", 43), "rt_" + strings.Repeat("_", 43), "RT_" + strings.Repeat("A", 43)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		hash, ok := auth.ParseRefreshToken(secret.String(token))
		require.Equal(t, ok, len(hash) == 32)
		if ok {
			require.Len(t, token, 46)
		}
	})
}

// FuzzLogin sends any body to the real handler: whatever it is, the answer is
// one of four and no session starts.
func FuzzLogin(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"email":"a@b.co","password":"x"}`, `{"email":"a@b.co","password":"x","tenant":1}`, `[]`, `null`, `{"email":null}`, "\xff",
	} {
		f.Add(seed)
	}
	db := dbtest.Open(f, dbtest.SQLite(f), clock.System{})
	service, err := auth.New(f.Context(), auth.Config{
		DB: db, Log: zap.NewNop(), Clock: clock.NewFake(time.Unix(0, 0)), Passwords: &plain{}, Issuer: "i", Audience: "a",
	})
	require.NoError(f, err)
	handler := service.Handler()
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, "/api/auth/login", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Contains(t, []int{400, 401, 413, 422, 429}, w.Code)
		require.True(t, json.Valid(w.Body.Bytes()))
	})
}
