package auth_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// TestCWE208UnknownUserCostsAHash is CWE-208 and OWASP ASVS 6.3.8: an unknown
// user must take as long as a wrong password, so the hasher's fake hash is
// verified. The wall clock is not asked.
func TestCWE208UnknownUserCostsAHash(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	for _, email := range []string{"nobody@acme.test", "no address at all", "mi\u212ae@acme.test"} {
		require.Equal(t, 401, f.call("POST", "/api/auth/login", `{"email":"`+email+`","password":"x"}`).Code)
	}
	require.Equal(t, []string{"", "", ""}, f.passwords.hashes)
}

// TestCVE201919844KelvinSignIsNotK: an address that only Unicode case folding
// makes equal is another address.
func TestCVE201919844KelvinSignIsNotK(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	f.exec(`UPDATE users SET email_key = 'mike@acme.test' WHERE email_key = 'viewer@acme.test'`)
	require.Equal(t, 200, f.login("MIKE@acme.test").Code)
	require.Equal(t, 401, f.call("POST", "/api/auth/login", `{"email":"mi\u212ae@acme.test","password":"`+seed.Password+`"}`).Code)
}

// TestCWE89NamesAreNotSQL: what a client sends is data.
func TestCWE89NamesAreNotSQL(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		users := f.scalar(`SELECT COUNT(*) FROM users`)
		for _, evil := range []string{`' OR '1'='1`, `'; DROP TABLE users; --`, `\" OR 1=1`, `$1`, `%27%20OR%201=1`} {
			for _, body := range []string{
				`{"email":"` + evil + `","password":"` + seed.Password + `"}`,
				`{"email":"admin@acme.test","password":"` + evil + `"}`,
				`{"email":"admin@acme.test","password":"` + seed.Password + `","tenant":"` + evil + `"}`,
			} {
				code := f.call("POST", "/api/auth/login", body).Code
				require.True(t, code == 401 || code == 429, "%s: %d", body, code)
			}
			require.Equal(t, 401, f.refresh(evil).Code)
		}
		require.Equal(t, users, f.scalar(`SELECT COUNT(*) FROM users`))
	})
}

// TestCWE113RolesAndTracesCanNotSplitHeaders: nothing that a client sends
// becomes a header with a line break.
func TestCWE113RolesAndTracesCanNotSplitHeaders(t *testing.T) {
	t.Parallel()
	f := setUp(t, dbtest.SQLite(t))
	for _, header := range []string{"traceparent", "X-Trace-Id", "X-Request-Id", "X-User-Id", "X-Roles"} {
		a := f.call("GET", "/api/auth/me", "", append(as("u", 1), header, "x\r\nSet-Cookie: a=b")...)
		for name, values := range a.Header() {
			require.NotContains(t, strings.Join(values, ""), "Set-Cookie", name)
		}
	}
	require.NotContains(t, f.log.String(), "\r")
}

// TestRFC8725TokenHeaderNamesNothingToFetch: the header has alg, kid and typ,
// and none of jku, jwk, x5u, x5c or crit.
func TestRFC8725TokenHeaderNamesNothingToFetch(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		token := f.login("viewer@acme.test").text("access_token")
		header, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
		require.NoError(t, err)
		_, order := f.publicKeys()
		require.JSONEq(t, `{"alg":"EdDSA","kid":"`+order[0]+`","typ":"JWT"}`, string(header))
	})
}

// TestIdentityHeadersDoNotLogIn: the gateway's headers name a caller; they are
// no password.
func TestIdentityHeadersDoNotLogIn(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		admin := f.userID("admin@acme.test")
		viewer := f.login("viewer@acme.test").text("refresh_token")
		a := f.call("POST", "/api/auth/refresh", `{"refresh_token":"`+viewer+`"}`, append(as(admin, 1), "X-Roles", "Admin")...)
		require.Equal(t, "viewer@acme.test", a.body["user"].(map[string]any)["email"])
		require.Equal(t, []any{"Viewer"}, a.body["roles"])
	})
}
