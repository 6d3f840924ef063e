package invitation_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/password"
)

// look sends the token as the page does.
func (f *fixture) look(t require.TestingT, token string) answer {
	return f.do(t, http.MethodPost, "/api/invitations/look", `{"token":"`+token+`"}`)
}

// noHasher fails whoever hashes.
type noHasher struct{}

func (noHasher) Hash(context.Context, string) (string, error) {
	return "", errors.New("something was hashed")
}

func (noHasher) Verify(context.Context, string, string) (ok, needsRehash bool, err error) {
	return false, false, errors.New("something was hashed")
}

func TestLookTellsWhatThePageShows(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, func(c *invitation.Config) { c.Hasher = noHasher{} })
		made := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"Nina@x.test","role":"Editor","name":"Nina"}`)
		require.Equal(t, http.StatusCreated, made.Code, made.Body)
		token := tokenIn(t, f.mails.last(t).Text)

		a := f.look(t, token)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.Equal(t, "no-store", a.Header().Get("Cache-Control"))
		require.Equal(t, map[string]any{
			"email": "Nina@x.test", "name": "Nina",
			"tenant": map[string]any{"name": "acme"}, "role": map[string]any{"name": "Editor"}, "inviter": map[string]any{"name": "Ada Admin"},
			"expires_at": made.body["expires_at"], "account_exists": false, "password": map[string]any{"min_length": 15.},
		}, a.body)
		require.Equal(t, a.body, f.do(t, http.MethodPost, "/api/invitations/look/", `{"token":"`+token+`"}`).body, "with the last slash too")

		_, token = f.invite(t, "ADMIN@globex.test")
		require.Equal(t, true, f.look(t, token).body["account_exists"])
		_, token = f.invite(t, "ann@x.test")
		f.exec(t, `UPDATE invitations SET inviter_name = '' WHERE email = 'ann@x.test'`)
		require.Empty(t, f.look(t, token).at("inviter", "name"))
		f.exec(t, `UPDATE tenants SET name = $1 WHERE id = 1`, "ac\u202eme\r\n")
		require.Equal(t, "acme", f.look(t, token).at("tenant", "name"), "nothing turns the text around it")
	})
}

func TestLookChangesNothing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "a@x.test")
		row := `SELECT status || ' ' || updated_at || ' ' || version FROM invitations WHERE id = $1`
		before, audits := f.text(t, row, id), f.audits(t, id)
		for range 20 {
			require.Equal(t, http.StatusOK, f.look(t, token).Code)
		}
		require.Equal(t, before, f.text(t, row, id))
		require.Equal(t, audits, f.audits(t, id))
		require.NotContains(t, f.log.String(), token)
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
	})
}

// TestLookRefusesWhatAnAcceptWould holds the two answers against each other,
// so that nobody chooses a password for nothing.
func TestLookRefusesWhatAnAcceptWould(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		happens func(t *testing.T, f *fixture, id, token string)
		code    string
	}{
		"it was accepted": {func(t *testing.T, f *fixture, _, token string) {
			require.Equal(t, http.StatusCreated, f.accept(t, token, "the globex password").Code)
		}, "invitation-accepted"},
		"it was cancelled": {func(t *testing.T, f *fixture, id, _ string) {
			require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "").Code)
		}, "invitation-cancelled"},
		"its time has come": {func(_ *testing.T, f *fixture, _, _ string) { f.clock.Advance(invitation.DefaultLifetime) }, "invitation-expired"},
		"it was sent again": {func(t *testing.T, f *fixture, id, _ string) {
			f.clock.Advance(time.Minute)
			require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/resend/", "").Code)
		}, "invitation-unknown"},
		"the tenant was suspended": {func(t *testing.T, f *fixture, _, _ string) {
			f.exec(t, `UPDATE tenants SET status = 'suspended' WHERE id = 1`)
		}, "tenant-inactive"},
		"the role was deleted": {func(t *testing.T, f *fixture, _, _ string) { f.exec(t, `DELETE FROM roles WHERE id = 3`) }, "role-gone"},
		"the person is a member": {func(t *testing.T, f *fixture, _, _ string) {
			f.exec(t, `INSERT INTO memberships VALUES (1, 'globex-admin', 3, 0, 0)`)
		}, "already-member"},
		"the account is disabled": {func(t *testing.T, f *fixture, _, _ string) {
			f.exec(t, `UPDATE users SET status = 'disabled' WHERE id = 'globex-admin'`)
		}, "account-disabled"},
		"the account has no password": {func(t *testing.T, f *fixture, _, _ string) {
			f.exec(t, `UPDATE users SET password_hash = NULL WHERE id = 'globex-admin'`)
		}, "account-without-password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dbtest.Each(t, func(t *testing.T, url string) {
				f := newFixture(t, url)
				id, token := f.invite(t, "admin@globex.test")
				require.Equal(t, http.StatusOK, f.look(t, token).Code)
				test.happens(t, f, id, token)
				a := f.look(t, token)
				require.Equal(t, test.code, a.code(), a.Body)
				require.Equal(t, "no-store", a.Header().Get("Cache-Control"))
				accept := f.accept(t, token, "the globex password")
				require.Equal(t, accept.Code, a.Code)
				delete(accept.body, "trace_id")
				delete(a.body, "trace_id")
				require.Equal(t, accept.body, a.body)
			})
		})
	}
}

func TestLookTakesTheExactTokenInTheBodyOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	id, token := f.invite(t, "a@x.test")
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"an id instead of a token":      {"POST", "", `{"token":"` + id + `"}`, 404, "invitation-unknown"},
		"no token":                      {"POST", "", `{}`, 404, "invitation-unknown"},
		"a token with a space after it": {"POST", "", `{"token":"` + token + ` "}`, 404, "invitation-unknown"},
		"a password too":                {"POST", "", `{"token":"` + token + `","password":"x"}`, 400, "bad-json"},
		"a token in the URL":            {"POST", "?token=" + token, ``, 415, "not-json"},
		"a GET":                         {"GET", "?token=" + token, ``, 401, "token-missing"}, // that is the invitation with the id "look"
	} {
		a := f.do(t, test.method, "/api/invitations/look/"+test.path, test.body)
		require.Equal(t, test.status, a.Code, "%s: %s", name, a.Body)
		require.Equal(t, test.code, a.code(), name)
	}
	require.NotContains(t, f.log.String(), token)
}

// TestTheLeastLengthShownIsTheOneThatCounts holds what look says against what
// an accept does.
func TestTheLeastLengthShownIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	for _, least := range []int{0, 8, 20} {
		f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Passwords = password.Policy{MinLength: least} })
		_, token := f.invite(t, "a@x.test")
		shown, ok := f.look(t, token).at("password", "min_length").(float64)
		require.True(t, ok)
		// Neither UTF-16 units nor bytes count: each bird is one character of two units and four bytes.
		text := strings.Repeat("🐦🦆🦉🐓🦩", 4)
		short, enough := []rune(text)[:int(shown)-1], []rune(text)[:int(shown)]
		require.Equal(t, []string{"/password too-short"}, f.accept(t, token, string(short)).fields())
		a := f.accept(t, token, string(enough))
		require.NotContains(t, a.fields(), "/password too-short", a.Body)
	}
}
