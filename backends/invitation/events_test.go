package invitation_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// event returns the only event of a type, as the receiver would get it.
func (f *fixture) event(t require.TestingT, what string) answer {
	payloads := f.lines(t, `SELECT payload FROM webhook_events WHERE type = $1`, what)
	require.Len(t, payloads, 1, what)
	var a answer
	require.NoError(t, json.Unmarshal([]byte(payloads[0]), &a.body))
	require.Equal(t, what, a.body["type"])
	require.InDelta(t, 1, a.body["tenant_id"], 0)
	require.Equal(t, f.clock.Now().UTC().Format("2006-01-02T15:04:05.000Z"), a.body["timestamp"], "of the transaction")
	require.NotContains(t, payloads[0], "inv_", "no token")
	require.NotContains(t, payloads[0], "token_hash")
	return a
}

func TestTheWebhookIsToldOfEachOfFiveThings(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		const trace = "0af7651916cd43dd8448eb211c80319c"
		// told requires the event to show the invitation as a get does just then.
		told := func(what, id, actor, status string) answer {
			e := f.event(t, what)
			require.Equal(t, id, e.at("data", "invitation", "id"))
			require.Equal(t, status, e.at("data", "invitation", "status"))
			require.Equal(t, actor, e.at("data", "actor_id"))
			return e
		}

		a := f.create(t, `{"email":"a@x.test","name":"Ann","metadata":{"note":"hi"}}`, "X-Trace-Id", trace)
		f.service.Settle()
		id, token := a.body["id"].(string), tokenIn(t, f.mails.last(t).Text)
		e := told("invitation.created", id, admin, "pending")
		require.Equal(t, trace, e.at("data", "trace_id"))
		require.Equal(t, "Ann", e.at("data", "invitation", "name"))
		require.Equal(t, "hi", e.at("data", "invitation", "metadata", "note"))
		require.Equal(t, map[string]any{"status": "pending", "sends": 1., "sent_at": nil}, e.at("data", "invitation", "delivery"))
		require.Equal(t, a.body["expires_at"], e.at("data", "invitation", "expires_at"))

		accepted := f.accept(t, token, goodPassword)
		require.Equal(t, http.StatusCreated, accepted.Code, accepted.Body)
		user := accepted.at("user", "id").(string)
		e = told("invitation.accepted", id, user, "accepted")
		require.Equal(t, user, e.at("data", "user_id"))
		require.Equal(t, true, e.at("data", "new_user"))
		require.Equal(t, f.get(t, id).body, e.at("data", "invitation"))

		id, _ = f.invite(t, "b@x.test")
		require.Equal(t, http.StatusOK, f.as(t, editor, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "").Code)
		e = told("invitation.cancelled", id, editor, "cancelled")
		require.Equal(t, f.get(t, id).body, e.at("data", "invitation"))

		f.mails.failWith(errRefused)
		id = f.create(t, `{"email":"c@x.test"}`, "X-Trace-Id", trace).body["id"].(string)
		f.service.Settle()
		e = told("invitation.delivery_failed", id, admin, "pending")
		require.Equal(t, "refused-permanently", e.at("data", "reason"))
		require.Equal(t, trace, e.at("data", "trace_id"), "that of the create")
		require.Equal(t, f.get(t, id).body, e.at("data", "invitation"))

		f.clock.Advance(invitation.DefaultLifetime)
		n, err := invitation.MarkExpired(t.Context(), f.db, f.config.Webhook, false)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		e = told("invitation.expired", id, "system", "expired")
		require.Equal(t, f.get(t, id).body, e.at("data", "invitation"))
		require.Equal(t, []string{
			"invitation.created", "invitation.accepted", "invitation.created", "invitation.cancelled", "invitation.created", "invitation.delivery_failed",
			"invitation.expired",
		}, f.events(t), "and of nothing else")
	})
}

func TestTheWebhookIsToldOfAnExpiryByWhoeverFindsIt(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		for actor, find := range map[string]func(){
			"system": func() { f.service.Sweep(t.Context()) },
			editor:   func() { require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, "a@x.test").Code) },
			admin: func() {
				require.Equal(t, []string{"201", "201"}, f.bulk(t, `{"invitations":[{"email":"b@x.test"},{"email":"a@x.test"}]}`).results())
			},
		} {
			f.exec(t, `DELETE FROM invitations; DELETE FROM webhook_events`)
			id, _ := f.invite(t, "a@x.test")
			f.clock.Advance(invitation.DefaultLifetime)
			find()
			e := f.event(t, "invitation.expired")
			require.Equal(t, id, e.at("data", "invitation", "id"))
			require.Equal(t, "expired", e.at("data", "invitation", "status"))
			require.Equal(t, actor, e.at("data", "actor_id"))
			f.service.Sweep(t.Context())
			f.event(t, "invitation.expired") // which there is one of
			f.service.Settle()
		}
	})
}

func TestADryRunTellsNobody(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		f.invite(t, "a@x.test")
		f.clock.Advance(invitation.DefaultLifetime)
		n, err := invitation.MarkExpired(t.Context(), f.db, f.config.Webhook, true)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, []string{"invitation.created"}, f.events(t))
	})
}

// TestWhatIsRolledBackTellsNobody breaks what comes after the event in its
// transaction.
func TestWhatIsRolledBackTellsNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t), withWebhook(t))
	f.exec(t, `CREATE TRIGGER broken BEFORE UPDATE ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'disk full'); END`)
	a := f.create(t, `{"email":"a@x.test"}`, idempotency.Header, "k")
	require.Equal(t, http.StatusInternalServerError, a.Code, a.Body)
	require.NotContains(t, a.Body.String(), "disk full")
	for _, table := range []string{"webhook_events", "invitations", "invitation_mails", "audit_events", "idempotency_keys"} {
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM `+table), table)
	}
	require.Zero(t, f.mails.attempts())
	f.exec(t, `DROP TRIGGER broken`)
	require.Equal(t, http.StatusCreated, f.create(t, `{"email":"a@x.test"}`, idempotency.Header, "k").Code)
	require.Equal(t, []string{"invitation.created"}, f.events(t))
}

// TestAnEventThatCanNotBeStoredUndoesWhatItTellsOf: nothing happens unheard.
func TestAnEventThatCanNotBeStoredUndoesWhatItTellsOf(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t), withWebhook(t))
	id, token := f.invite(t, "a@x.test")
	f.exec(t, `CREATE TRIGGER broken BEFORE INSERT ON webhook_events BEGIN SELECT RAISE(ABORT, 'disk full'); END`)
	require.Equal(t, http.StatusInternalServerError, f.create(t, `{"email":"b@x.test"}`).Code)
	require.Equal(t, http.StatusInternalServerError, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "").Code)
	require.Equal(t, http.StatusInternalServerError, f.accept(t, token, goodPassword).Code)
	require.Equal(t, []string{"pending"}, f.lines(t, `SELECT status FROM invitations`))
	require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM users WHERE email = 'a@x.test'`))
	f.exec(t, `DROP TRIGGER broken`)
	require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
}

func TestWithoutAReceiverNothingIsStoredForIt(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		_, token := f.invite(t, "a@x.test")
		require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
		require.Empty(t, f.events(t))
	})
}
