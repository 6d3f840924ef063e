package invitation_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// mayReadTokens gives the role with the id the right to be given tokens.
func (f *fixture) mayReadTokens(t require.TestingT, roleID int) {
	f.exec(t, fmt.Sprintf(`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (%d, 2, 'read_token')`, roleID))
}

// requireLive requires a token that is shown with its link, and works.
func (f *fixture) requireLive(t *testing.T, shown answer) (token string) {
	t.Helper()
	token, _ = shown.body["token"].(string)
	require.Regexp(t, `^inv_[A-Za-z0-9_-]{43}$`, token)
	require.Equal(t, "https://app.example.com/invite#token="+token, shown.body["link"])
	require.Equal(t, map[string]any{"status": "none", "sends": shown.at("delivery", "sends"), "sent_at": shown.at("delivery", "sent_at")}, shown.body["delivery"])
	require.Equal(t, http.StatusOK, f.look(t, token).Code)
	return token
}

func TestTheTokenIsGivenToTheInviterOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mayReadTokens(t, 1)
		a := f.create(t, `{"email":"a@x.test","deliver":false}`)
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, "no-store", a.Header().Get("Cache-Control"))
		token := f.requireLive(t, a)
		id := a.body["id"].(string)
		shown := f.get(t, id)
		require.NotContains(t, shown.body, "token")
		require.NotContains(t, shown.body, "link")
		require.Equal(t, "none", shown.at("delivery", "status"))

		require.NoError(t, f.service.SendDue(t.Context()))
		require.Zero(t, f.mails.attempts(), "no mail goes out")
		require.Empty(t, f.mailRow(t, id))
		require.Equal(t, []string{"invitation.created"}, f.audits(t, id))
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)

		mailed := f.create(t, `{"email":"b@x.test","deliver":true}`)
		require.NotContains(t, mailed.body, "token")
		f.service.Settle()
		require.Equal(t, 1, f.mails.count())
	})
}

func TestOnlyWhoMayReadTokensIsGivenOne(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mayReadTokens(t, 1)
		id, token := f.invite(t, "first@x.test")
		f.clock.Advance(time.Minute)
		for name, a := range map[string]answer{
			"create": f.as(t, editor, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test","deliver":false}`),
			"resend": f.as(t, editor, 1, http.MethodPost, "/api/invitations/"+id+"/resend/", `{"deliver":false}`),
			"nobody": f.as(t, "idp|7", 1, http.MethodPost, "/api/invitations/"+id+"/resend/", `{"deliver":false}`),
		} {
			require.Equal(t, "403 permission-denied", fmt.Sprint(a.Code, " ", a.code()), name)
			require.Equal(t, "abc/invitations/read_token", a.body["permission"], name)
			require.NotContains(t, a.Body.String(), "inv_", name)
		}
		one := f.as(t, editor, 1, http.MethodPost, "/api/invitations/bulk/", `{"invitations":[{"email":"a@x.test","deliver":false},{"email":"b@x.test"}]}`)
		require.Equal(t, []string{"403 permission-denied", "201"}, one.results())
		require.Equal(t, "abc/invitations/read_token", one.result(0).at("error", "permission"))
		require.Equal(t, http.StatusOK, f.look(t, token).Code, "a refusal leaves the link alive")
		require.Equal(t, 2, f.count(t, `1 = 1`))
	})
}

// TestAResendByHandNeedsWhatTheRoleCarries: whoever holds the token can join in
// the place of the person invited.
func TestAResendByHandNeedsWhatTheRoleCarries(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mayReadTokens(t, 1)
		f.mayReadTokens(t, 2)
		a := f.create(t, `{"email":"a@x.test","role":"Admin"}`)
		f.service.Settle()
		id, mailed := a.body["id"].(string), tokenIn(t, f.mails.last(t).Text)
		f.clock.Advance(time.Minute)
		path := "/api/invitations/" + id + "/resend/"
		refused := f.as(t, editor, 1, http.MethodPost, path, `{"deliver":false}`)
		require.Equal(t, "403 role-exceeds-yours", fmt.Sprint(refused.Code, " ", refused.code()))
		require.Equal(t, []any{"abc/dashboard/delete", "abc/invitations/delete"}, refused.body["missing"])
		require.Equal(t, http.StatusOK, f.look(t, mailed).Code)

		given := f.resend(t, id, `{"deliver":false}`)
		require.Equal(t, http.StatusOK, given.Code, given.Body)
		token := f.requireLive(t, given)
		require.Equal(t, "invitation-unknown", f.look(t, mailed).code(), "the old link is dead at once")
		require.InDelta(t, 2, given.at("delivery", "sends"), 0)
		require.Equal(t, []string{"invitation.created", "invitation.sent", "invitation.resent"}, f.audits(t, id))
		requireWait(t, f.resend(t, id, `{"deliver":false}`), "resend-cooldown", 60)

		f.clock.Advance(time.Minute)
		require.Equal(t, http.StatusOK, f.as(t, editor, 1, http.MethodPost, path, `{"deliver":true}`).Code, "a mail goes to the person alone")
		f.service.Settle()
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
		require.Equal(t, "invitation-unknown", f.accept(t, token, goodPassword).code())
		require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
		require.Equal(t, "invitation-not-pending", f.resend(t, id, `{"deliver":false}`).code())
		require.Equal(t, "invitation-not-found", f.resend(t, "01890a5d-ac96-774b-bcce-b302099a8057", `{"deliver":false}`).code())
	})
}

func TestAResendByHandTakesTheMailOutOfTheOutbox(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mayReadTokens(t, 1)
		f.mails.failWith(errMail)
		id := f.create(t, `{"email":"a@x.test"}`).body["id"].(string)
		f.service.Settle()
		require.NotEmpty(t, f.mailRow(t, id))
		token := f.requireLive(t, f.resend(t, id, `{"deliver":false}`))
		require.Empty(t, f.mailRow(t, id))
		f.mails.failWith(nil)
		f.clock.Advance(24 * time.Hour)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Zero(t, f.mails.count())
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
	})
}

// TestAGivenTokenIsNotReplayed: the second answer says what was made, and the
// token is nowhere.
func TestAGivenTokenIsNotReplayed(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		f.mayReadTokens(t, 1)
		id, _ := f.invite(t, "first@x.test")
		f.clock.Advance(time.Minute)
		for name, send := range map[string]func() answer{
			"create": func() answer {
				return f.create(t, `{"email":"a@x.test","deliver":false}`, idempotency.Header, "k")
			},
			"resend": func() answer { return f.resend(t, id, `{"deliver":false}`, idempotency.Header, "k") },
			"bulk": func() answer {
				a := f.bulk(t, bulkOf(1, `,"deliver":false`), idempotency.Header, "k")
				one := answer{a.ResponseRecorder, a.result(0).at("invitation").(map[string]any)}
				return one
			},
		} {
			first := send()
			token := f.requireLive(t, first)
			again := send()
			require.Equal(t, "true", again.Header().Get(replayed), name)
			require.Equal(t, first.Code, again.Code, name)
			require.Equal(t, first.body["id"], again.body["id"], name)
			require.NotContains(t, again.body, "token", name)
			require.NotContains(t, again.body, "link", name)
			require.Equal(t, "none", again.at("delivery", "status"), name)
			require.NotContains(t, again.Body.String(), "inv_", name)
			require.NotContains(t, everything(t, f, url), token[4:], name)
			require.Equal(t, http.StatusOK, f.look(t, token).Code, "%s: the token that was given once is alive", name)
		}
		require.Equal(t, 3, f.count(t, `status = 'pending'`))
	})
}
