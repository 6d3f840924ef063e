package invitation_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// bulkOf is the body of a bulk of n invitations of p0@x.test and so on.
func bulkOf(n int, more string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`{"email":"p%d@x.test"%s}`, i, more)
	}
	return `{"invitations":[` + strings.Join(items, ",") + `]}`
}

// result is what a bulk says of its item i.
func (a answer) result(i int) answer {
	list, _ := a.body["results"].([]any)
	return answer{body: list[i].(map[string]any)}
}

func TestABulkAnswersEachItemForItself(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		pending, _ := f.invite(t, "pending@x.test")
		a := f.bulk(t, `{"invitations":[
			{"email":"A@x.test","name":"Ann","role":"Editor","locale":"de","metadata":{"note":"from the fair"}},
			{"email":"a@x.test"},
			{"email":"nobody","name":"a\nb"},
			{"email":"pending@X.test"},
			{"email":"editor@acme.test"},
			{"email":"b@x.test","tenant":2},
			{"email":"b@x.test","role":"None"},
			{"email":"b@x.test","tenant":1}]}`)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.Equal(t, "no-store", a.Header().Get("Cache-Control"))
		require.InDelta(t, 2, a.body["created"], 0)
		require.InDelta(t, 6, a.body["failed"], 0)
		require.Equal(t, []string{
			"201", "409 invitation-already-pending", "422 invalid-fields", "409 invitation-already-pending", "409 already-member", "404 tenant-not-found",
			"422 invalid-fields", "201",
		}, a.results())

		first := a.result(0)
		id := first.at("invitation", "id").(string)
		require.Equal(t, f.get(t, id).body, first.at("invitation"), "as a get shows it")
		require.Equal(t, "A@x.test", first.at("invitation", "email"))
		require.Equal(t, "Editor", first.at("invitation", "role", "name"))
		require.Equal(t, "de", first.at("invitation", "locale"))
		require.Equal(t, "from the fair", first.at("invitation", "metadata", "note"))
		require.Equal(t, id, a.result(1).at("error", "invitation_id"), "of two in one request the first wins")
		require.Equal(t, pending, a.result(3).at("error", "invitation_id"))
		wrong := answer{body: a.result(2).at("error").(map[string]any)}
		require.Equal(t, []string{"/email not-an-email", "/name unprintable"}, wrong.fields())
		for i, one := range []answer{a.result(1), a.result(2), a.result(4)} {
			require.Nil(t, one.at("invitation"), i)
			require.NotContains(t, one.at("error"), "trace_id", "that is one of the response, not of an item")
		}

		require.Equal(t, 1, f.mails.count(), "its mails are the outbox's")
		require.Equal(t, "pending", first.at("invitation", "delivery", "status"))
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 3, f.mails.count())
		require.Equal(t, []string{"invitation.created", "invitation.sent"}, f.audits(t, id))
		require.Equal(t, []string{"invitation.created", "invitation.created", "invitation.created"}, f.events(t))
		require.Equal(t, 2, countLines(f.log.String(), "invitation created")-1)
	})
}

// TestAnItemIsAnsweredAsACreateOfItAlone holds the two against each other.
func TestAnItemIsAnsweredAsACreateOfItAlone(t *testing.T) {
	t.Parallel()
	for _, item := range []string{
		`{"email":"a@x.test","tenant":2}`, `{"email":"a@x.test","role":"Admin"}`, `{"email":"a@x.test","role":""}`, `{"email":"admin@acme.test"}`, `{}`,
		`{"email":"a@x.test","locale":"no locale"}`, `{"email":"a@x.test","deliver":false}`, `{"email":"a@x.test","metadata":{"ip_address":"x"}}`,
	} {
		f := newFixture(t, dbtest.SQLite(t))
		alone := f.as(t, editor, 1, http.MethodPost, "/api/invitations/", item)
		require.GreaterOrEqual(t, alone.Code, 400, item)
		one := f.as(t, editor, 1, http.MethodPost, "/api/invitations/bulk/", `{"invitations":[`+item+`]}`).result(0)
		delete(alone.body, "trace_id")
		require.Equal(t, alone.body, one.at("error"), item)
		require.InDelta(t, alone.Code, one.at("status"), 0, item)
	}
}

func TestAnAtomicBulkIsAllOrNothing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		lapsed, _ := f.invite(t, "lapsed@x.test")
		f.clock.Advance(invitation.DefaultLifetime)
		audits, mails := f.text(t, `SELECT COUNT(*) FROM audit_events`), f.mails.count()
		a := f.bulk(t, `{"atomic":true,"invitations":[{"email":"a@x.test"},{"email":"lapsed@x.test"},{"email":"admin@acme.test"},{"email":"b@x.test"},{"email":"A@x.test"}]}`)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.InDelta(t, 0, a.body["created"], 0)
		require.InDelta(t, 5, a.body["failed"], 0)
		require.Equal(t, []string{"424 not-created", "424 not-created", "409 already-member", "424 not-created", "409 invitation-already-pending"}, a.results())
		require.Equal(t, []string{lapsed}, f.lines(t, `SELECT id FROM invitations`))
		require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations`), "not even that is written down")
		require.Equal(t, audits, f.text(t, `SELECT COUNT(*) FROM audit_events`))
		require.Equal(t, []string{"invitation.created"}, f.events(t))
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, mails, f.mails.count())
		require.Equal(t, 1, countLines(f.log.String(), "invitation created"))

		a = f.bulk(t, `{"atomic":true,"invitations":[{"email":"a@x.test"},{"email":"lapsed@x.test"},{"email":"b@x.test"}]}`)
		require.Equal(t, []string{"201", "201", "201"}, a.results())
		require.Equal(t, 3, f.count(t, `status = 'pending'`))
		require.Equal(t, "expired", f.text(t, `SELECT status FROM invitations WHERE id = $1`, lapsed))
	})
}

func TestABulkHasOneToAHundredItems(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		for _, body := range []string{bulkOf(0, ""), bulkOf(101, ""), `{}`, `{"invitations":null}`} {
			a := f.bulk(t, body)
			require.Equal(t, http.StatusUnprocessableEntity, a.Code, a.Body)
			require.Equal(t, []string{"/invitations wrong-number"}, a.fields())
		}
		require.Zero(t, f.count(t, `1 = 1`))
		a := f.bulk(t, bulkOf(100, `,"name":"`+strings.Repeat("é", 100)+`","metadata":{"note":"`+strings.Repeat("é", 500)+`"}`))
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.InDelta(t, 100, a.body["created"], 0)
		require.Equal(t, 100, f.count(t, `status = 'pending'`))
	})
}

func TestABulkIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	for name, test := range map[string]struct {
		body, want string
		tenant     int
	}{
		"an unknown field":         {`{"invitations":[{"email":"a@x.test"},{"email":"b@x.test","admin":true}]}`, "400 bad-json", 1},
		"a list instead of one":    {`[{"email":"a@x.test"}]`, "400 bad-json", 1},
		"more than 512 KiB":        {`{"invitations":[{"email":"a@x.test","name":"` + strings.Repeat("x", 512<<10) + `"}]}`, "413 body-too-large", 1},
		"a suspended tenant":       {`{"invitations":[{"email":"a@x.test"}]}`, "409 tenant-inactive", 3},
		"a tenant that is no more": {`{"invitations":[{"email":"a@x.test"}]}`, "404 tenant-not-found", 99},
	} {
		a := f.as(t, admin, test.tenant, http.MethodPost, "/api/invitations/bulk/", test.body)
		require.Equal(t, test.want, fmt.Sprint(a.Code, " ", a.code()), name)
		require.Equal(t, "application/problem+json", a.Header().Get("Content-Type"), name)
		require.Zero(t, f.count(t, `1 = 1`), name)
	}
	a := f.do(t, http.MethodPost, "/api/invitations/bulk/", bulkOf(1, ""), "X-User-Id", admin, "X-Tenant-Id", "1", "X-Permission", "abc/invitations/read")
	require.Equal(t, "permission-not-checked", a.code())
	require.Equal(t, "token-missing", f.do(t, http.MethodPost, "/api/invitations/bulk/", bulkOf(1, "")).code())
}

func TestParallelBulksInviteEachAddressOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		parallel(8, func(int) int { return f.bulk(t, bulkOf(10, "")).Code })
		require.Equal(t, 10, f.count(t, `status = 'pending'`))
		require.Equal(t, "10", f.text(t, `SELECT COUNT(*) FROM audit_events`))
	})
}
