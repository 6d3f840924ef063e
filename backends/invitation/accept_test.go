package invitation_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/password"
)

func TestAcceptMakesUserAndMembership(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		hasher := password.NewHasher(2)
		f := newFixture(t, url, func(c *invitation.Config) { c.Hasher = hasher })
		id, token := f.invite(t, "Nina@x.test")
		changes := f.text(t, `SELECT COUNT(*) FROM permission_changes WHERE tenant_id = 1`)
		a := f.do(t, http.MethodPost, "/api/invitations/accept/", `{"token":"`+token+`","password":"`+goodPassword+`","name":"Nina Ny"}`,
			"X-Forwarded-For", "198.51.100.4", "X-Trace-Id", "0af7651916cd43dd8448eb211c80319c")
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, "no-store", a.Header().Get("Cache-Control"))
		require.Equal(t, "Nina@x.test", a.at("user", "email"))
		require.Equal(t, "Nina Ny", a.at("user", "name"))
		require.Equal(t, true, a.at("user", "new"))
		require.Equal(t, "acme", a.at("user", "tenant", "name"))
		require.Equal(t, "accepted", a.at("invitation", "status"))
		require.Equal(t, id, a.at("invitation", "id"))

		user := a.at("user", "id").(string)
		require.Equal(t, user, f.text(t, `SELECT accepted_user_id FROM invitations WHERE id = $1`, id))
		require.Equal(t, "3", f.text(t, `SELECT role_id FROM memberships WHERE tenant_id = 1 AND user_id = $1`, user))
		require.NotEqual(t, changes, f.text(t, `SELECT COUNT(*) FROM permission_changes WHERE tenant_id = 1`), "the gateways must learn of the member")
		require.Equal(t, []string{"invitation.created", "invitation.sent", "invitation.accepted"}, f.audits(t, id))
		require.Equal(t, "198.51.100.4 0af7651916cd43dd8448eb211c80319c", f.text(t, `SELECT request_ip || ' ' || trace_id FROM audit_events WHERE action = 'invitation.accepted'`))
		ok, _, err := hasher.Verify(t.Context(), f.text(t, `SELECT password_hash FROM users WHERE id = $1`, user), goodPassword)
		require.NoError(t, err)
		require.True(t, ok)

		a = f.accept(t, token, goodPassword)
		require.Equal(t, http.StatusGone, a.Code)
		require.Equal(t, "invitation-accepted", a.code())
		require.Equal(t, "accepted", a.body["reason"])

		a = f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+id+"/", "")
		require.Equal(t, user, a.body["accepted_user_id"])
		require.NotNil(t, a.body["accepted_at"])
		require.NotContains(t, f.log.String(), token)
		require.NotContains(t, f.log.String(), goodPassword)
		require.NotContains(t, f.log.String(), token[4:])
	})
}

func TestAcceptRefuses(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		_, token := f.invite(t, "a@x.test")
		flip := token[:46] + map[bool]string{true: "A", false: "Q"}[token[46] != 'A']
		for name, test := range map[string]struct {
			body   string
			status int
			code   string
			fields []string
		}{
			"an empty body":                         {``, 415, "not-json", nil},
			"no token":                              {`{"password":"` + goodPassword + `"}`, 404, "invitation-unknown", nil},
			"a token that was never given":          {`{"token":"` + flip + `","password":"` + goodPassword + `"}`, 404, "invitation-unknown", nil},
			"a token with a line break in it":       {`{"token":"` + token[:20] + `\n` + token[20:] + `","password":"` + goodPassword + `"}`, 404, "invitation-unknown", nil},
			"a short password":                      {`{"token":"` + token + `","password":"short"}`, 422, "invalid-fields", []string{"/password too-short"}},
			"no password":                           {`{"token":"` + token + `"}`, 422, "invalid-fields", []string{"/password too-short"}},
			"a password of repeated letters":        {`{"token":"` + token + `","password":"aaaaaaaaaaaaaaaaaaaa"}`, 422, "invalid-fields", []string{"/password too-common"}},
			"a name with a line break":              {`{"token":"` + token + `","password":"` + goodPassword + `","name":"a\r\nb"}`, 422, "invalid-fields", []string{"/name unprintable"}},
			"a body that says which tenant to join": {`{"token":"` + token + `","password":"` + goodPassword + `","tenant":2}`, 400, "bad-json", []string{" invalid"}},
		} {
			a := f.do(t, http.MethodPost, "/api/invitations/accept/", test.body)
			require.Equal(t, test.status, a.Code, "%s: %s", name, a.Body)
			require.Equal(t, test.code, a.code(), name)
			require.Equal(t, test.fields, a.fields(), name)
			require.Equal(t, "no-store", a.Header().Get("Cache-Control"), name)
		}
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code, "every refusal leaves the token alive")
	})
}

func TestAcceptOfAnExistingAccountNeedsItsPassword(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "ADMIN@globex.test")
		a := f.accept(t, token, goodPassword)
		require.Equal(t, http.StatusUnprocessableEntity, a.Code, a.Body)
		require.Equal(t, []string{"/password wrong-password"}, a.fields())
		require.Equal(t, []string{"/password wrong-password"}, f.accept(t, token, "").fields())

		a = f.accept(t, token, "the globex password")
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, stranger, a.at("user", "id"))
		require.Equal(t, false, a.at("user", "new"))
		require.Equal(t, "Gil", a.at("user", "name"))
		require.Equal(t, "plain:the globex password", f.text(t, `SELECT password_hash FROM users WHERE id = $1`, stranger))
		require.Equal(t, "2", f.text(t, `SELECT COUNT(*) FROM memberships WHERE user_id = $1`, stranger))
		require.Equal(t, stranger, f.text(t, `SELECT accepted_user_id FROM invitations WHERE id = $1`, id))
	})
}

func TestGuessingAnExistingPasswordIsThrottled(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "admin@globex.test")
		for range 5 {
			require.Equal(t, http.StatusUnprocessableEntity, f.accept(t, token, goodPassword).Code)
		}
		a := f.accept(t, token, "the globex password")
		require.Equal(t, http.StatusTooManyRequests, a.Code, "even the right one")
		require.Equal(t, "900", a.Header().Get("Retry-After"))
		require.Equal(t, "5", f.text(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'invitation.accept_failed' AND actor_id = 'unknown'
			AND target = $1 AND tenant_id = 1`, "invitation/"+id))
		f.clock.Advance(15 * time.Minute)
		require.Equal(t, http.StatusCreated, f.accept(t, token, "the globex password").Code)
	})
}

func TestAcceptChecksTheWorldAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ statement, code string }{
		"the tenant was suspended":             {`UPDATE tenants SET status = 'suspended' WHERE id = 1`, "tenant-inactive"},
		"the role was deleted":                 {`DELETE FROM roles WHERE id = 3`, "role-gone"},
		"the person became a member elsewise":  {`INSERT INTO memberships VALUES (1, 'globex-admin', 3, 0, 0)`, "already-member"},
		"the account was disabled":             {`UPDATE users SET status = 'disabled' WHERE id = 'globex-admin'`, "account-disabled"},
		"the account has no password any more": {`UPDATE users SET password_hash = NULL WHERE id = 'globex-admin'`, "account-without-password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dbtest.Each(t, func(t *testing.T, url string) {
				f := newFixture(t, url)
				id, token := f.invite(t, "admin@globex.test")
				f.exec(t, test.statement)
				a := f.accept(t, token, "the globex password")
				require.Equal(t, http.StatusConflict, a.Code, a.Body)
				require.Equal(t, test.code, a.code())
				require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations WHERE id = $1`, id))
			})
		})
	}
}

func TestInvitationsOfADeletedTenantAreGone(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		_, token := f.invite(t, "a@x.test")
		f.exec(t, `DELETE FROM memberships WHERE tenant_id = 1; DELETE FROM tenants WHERE id = 1`)
		require.Equal(t, http.StatusNotFound, f.accept(t, token, goodPassword).Code)
	})
}

// slowHasher lets a test act between the look at the store and the commit.
type slowHasher struct {
	plainHasher
	meanwhile func()
}

func (h slowHasher) Hash(ctx context.Context, password string) (string, error) {
	h.meanwhile()
	return h.plainHasher.Hash(ctx, password)
}

func (h slowHasher) Verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error) {
	ok, needsRehash, err = h.plainHasher.Verify(ctx, phc, password)
	h.meanwhile()
	return ok, needsRehash, err
}

func TestWhatChangesWhileThePasswordIsHashedCounts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		email, statement string
		status           int
		code             string
	}{
		"cancelled meanwhile":                {"a@x.test", `UPDATE invitations SET status = 'cancelled'`, 410, "invitation-cancelled"},
		"another token meanwhile":            {"a@x.test", `UPDATE invitations SET token_hash = NULL`, 404, "invitation-unknown"},
		"an account was made meanwhile":      {"a@x.test", `INSERT INTO users VALUES ('new', 'a@x.test', 'a@x.test', '', 'plain:another', 'active', 0, 0) ON CONFLICT DO NOTHING`, 422, "invalid-fields"},
		"the password was changed meanwhile": {"admin@globex.test", `UPDATE users SET password_hash = 'plain:another'`, 422, "invalid-fields"},
		"the account was disabled meanwhile": {"admin@globex.test", `UPDATE users SET status = 'disabled' WHERE id = 'globex-admin'`, 409, "account-disabled"},
		"the tenant was suspended meanwhile": {"a@x.test", `UPDATE tenants SET status = 'suspended'`, 409, "tenant-inactive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dbtest.Each(t, func(t *testing.T, url string) {
				var f *fixture
				f = newFixture(t, url, func(c *invitation.Config) {
					c.Hasher = slowHasher{meanwhile: func() { f.exec(t, test.statement) }}
				})
				_, token := f.invite(t, test.email)
				a := f.accept(t, token, "the globex password")
				require.Equal(t, test.status, a.Code, a.Body)
				require.Equal(t, test.code, a.code())
				require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM invitations WHERE status = 'accepted'`))
				require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'invitation.accepted'`))
			})
		})
	}
}

func TestFiftyParallelAcceptsMakeOneUser(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "a@x.test")
		codes := parallel(50, func(int) int { return f.accept(t, token, goodPassword).Code })
		require.Equal(t, map[int]int{http.StatusCreated: 1, http.StatusGone: 49}, codes)
		require.Equal(t, "1", f.text(t, `SELECT COUNT(*) FROM users WHERE email_key = 'a@x.test'`))
		require.Equal(t, "1", f.text(t, `SELECT COUNT(*) FROM memberships m JOIN users u ON u.id = m.user_id WHERE u.email_key = 'a@x.test'`))
		require.Equal(t, 1, strings.Count(strings.Join(f.audits(t, id), " "), "invitation.accepted"))
	})
}

func TestParallelCreatesLeaveOnePending(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		codes := parallel(20, func(int) int {
			return f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`).Code
		})
		require.Equal(t, map[int]int{http.StatusCreated: 1, http.StatusConflict: 19}, codes)
	})
}

func TestAcceptAgainstCancelHasOneLegalOutcome(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		for range 100 {
			id, token := f.invite(t, "a@x.test")
			codes := parallel(2, func(i int) int {
				if i == 0 {
					return f.accept(t, token, goodPassword).Code
				}
				return f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "").Code
			})
			users := f.text(t, `SELECT COUNT(*) FROM users WHERE email_key = 'a@x.test'`)
			switch status := f.text(t, `SELECT status FROM invitations WHERE id = $1`, id); status {
			case "accepted":
				require.Equal(t, map[int]int{http.StatusCreated: 1, http.StatusConflict: 1}, codes)
				require.Equal(t, "1", users)
			case "cancelled":
				require.Equal(t, map[int]int{http.StatusGone: 1, http.StatusOK: 1}, codes)
				require.Equal(t, "0", users)
			default:
				require.Fail(t, "illegal state", status)
			}
			f.exec(t, `DELETE FROM memberships WHERE user_id IN (SELECT id FROM users WHERE email_key = 'a@x.test')`)
			f.exec(t, `DELETE FROM users WHERE email_key = 'a@x.test'`)
		}
	})
}

// parallel runs call n times at once and counts what it returns.
func parallel(n int, call func(i int) int) map[int]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	counts := map[int]int{}
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			code := call(i)
			mu.Lock()
			defer mu.Unlock()
			counts[code]++
		})
	}
	close(begin)
	wg.Wait()
	return counts
}
