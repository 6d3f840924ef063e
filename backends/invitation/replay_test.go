package invitation_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

const replayed = "Idempotency-Replayed"

// written is the counts of all that a create, bulk or resend writes.
func (f *fixture) written(t require.TestingT) string {
	return f.text(t, `SELECT (SELECT COUNT(*) FROM invitations) || ' ' || (SELECT SUM(send_count) FROM invitations) || ' ' ||
		(SELECT COUNT(*) FROM audit_events) || ' ' || (SELECT COUNT(*) FROM webhook_events) || ' ' || (SELECT COUNT(*) FROM rate_uses)`)
}

func TestARequestThatIsSentTwiceCountsOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t), withLimits(invitation.Limits{PerInviter: 100}))
		f.mayReadTokens(t, 1)
		for _, test := range []struct {
			path, body, another string
			status              int
		}{
			{"", `{"email":"a@x.test","name":"Ann"}`, `{"email":"a@x.test","name":"Anne"}`, 201},
			{"bulk/", bulkOf(3, ""), bulkOf(4, ""), 200},
			{"bulk/", `{"invitations":[{"email":"b@x.test"},{"email":"b@x.test"}]}`, `{"invitations":[{"email":"b@x.test"}]}`, 200},
			{"bulk/", `{"atomic":true,"invitations":[{"email":"c@x.test"}]}`, `{"invitations":[{"email":"c@x.test"}]}`, 200},
			{"{id}/resend/", `{}`, `{"deliver":false}`, 200},
			{"{id}/resend/", ``, `{"deliver":true}`, 200},
		} {
			f.exec(t, `DELETE FROM idempotency_keys; DELETE FROM invitations`)
			id, _ := f.invite(t, "first@x.test")
			f.clock.Advance(time.Minute)
			path := "/api/invitations/" + strings.ReplaceAll(test.path, "{id}", id)
			send := func(body, key string) answer {
				return f.as(t, admin, 1, http.MethodPost, path, body, idempotency.Header, key)
			}
			first := send(test.body, "k-1")
			require.Equal(t, test.status, first.Code, first.Body)
			require.Empty(t, first.Header().Get(replayed))
			f.service.Settle()
			require.NoError(t, f.service.SendDue(t.Context()))
			written, mails := f.written(t), f.mails.count()

			f.clock.Advance(idempotency.TTL - time.Millisecond)
			var bodies []string
			for _, key := range []string{"k-1", `"k-1"`} {
				again := send(test.body, key)
				require.Equal(t, test.status, again.Code, again.Body)
				require.Equal(t, "true", again.Header().Get(replayed))
				require.Equal(t, "no-store", again.Header().Get("Cache-Control"))
				require.Equal(t, "application/json", again.Header().Get("Content-Type"))
				require.Equal(t, first.Header().Get("Location"), again.Header().Get("Location"))
				for _, what := range []string{"id", "status", "email", "created_at", "expires_at", "created", "failed"} {
					require.Equal(t, first.body[what], again.body[what], what)
				}
				require.Equal(t, first.results(), again.results())
				bodies = append(bodies, again.Body.String())
			}
			require.Equal(t, bodies[0], bodies[1])
			require.Equal(t, "422 idempotency-key-reused", send(test.another, "k-1").refusal())
			require.NoError(t, f.service.SendDue(t.Context()))
			require.Equal(t, written, f.written(t), "nothing was made twice")
			require.Equal(t, mails, f.mails.count(), "and nothing mailed twice")

			f.clock.Advance(time.Millisecond)
			require.Empty(t, send(test.body, "k-1").Header().Get(replayed), "after a day a key is new")
			f.service.Settle()
		}
	})
}

func TestAKeyIsThatOfItsCallerTenantAndRoute(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		first := f.create(t, `{"email":"a@x.test"}`, idempotency.Header, "k")
		require.Equal(t, http.StatusCreated, first.Code, first.Body)
		id := first.body["id"].(string)
		f.service.Settle()
		f.clock.Advance(time.Minute)
		for name, a := range map[string]answer{
			"another caller":         f.as(t, editor, 1, http.MethodPost, "/api/invitations/", `{"email":"b@x.test"}`, idempotency.Header, "k"),
			"another tenant":         f.as(t, stranger, 2, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`, idempotency.Header, "k"),
			"another route":          f.bulk(t, bulkOf(1, ""), idempotency.Header, "k"),
			"a resend":               f.resend(t, id, "", idempotency.Header, "k"),
			"an invitation's resend": f.resend(t, f.create(t, `{"email":"c@x.test","role":"Editor"}`, idempotency.Header, "k2").body["id"].(string), "", idempotency.Header, "k"),
		} {
			require.NotEqual(t, "idempotency-key-reused", a.code(), name)
			require.Empty(t, a.Header().Get(replayed), name)
		}
	})
}

func TestARefusalIsNotKept(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.exec(t, `UPDATE tenants SET status = 'suspended' WHERE id = 1`)
		require.Equal(t, "tenant-inactive", f.create(t, `{"email":"a@x.test"}`, idempotency.Header, "k").code())
		f.exec(t, `UPDATE tenants SET status = 'active' WHERE id = 1`)
		a := f.create(t, `{"email":"b@x.test"}`, idempotency.Header, "k")
		require.Equal(t, http.StatusCreated, a.Code, a.Body)

		atomic := `{"atomic":true,"invitations":[{"email":"b@x.test"},{"email":"c@x.test"}]}`
		require.Equal(t, []string{"409 invitation-already-pending", "424 not-created"}, f.bulk(t, atomic, idempotency.Header, "k").results())
		require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+a.body["id"].(string)+"/cancel/", "").Code)
		require.Equal(t, []string{"201", "201"}, f.bulk(t, atomic, idempotency.Header, "k").results())
	})
}

func TestParallelRequestsWithOneKeyAreOne(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		var repeated atomic.Int64
		codes := parallel(20, func(int) int {
			a := f.create(t, `{"email":"a@x.test"}`, idempotency.Header, "k")
			if a.Header().Get(replayed) != "" {
				repeated.Add(1)
			}
			return a.Code
		})
		f.service.Settle()
		require.Equal(t, map[int]int{http.StatusCreated: 20}, codes)
		require.EqualValues(t, 19, repeated.Load())
		require.Equal(t, 1, f.count(t, `1 = 1`))
		require.Equal(t, 1, f.mails.count())
		require.Equal(t, []string{"invitation.created"}, f.events(t))
	})
}

func TestAKeyThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	id, _ := f.invite(t, "a@x.test")
	f.clock.Advance(time.Minute)
	for _, a := range []answer{
		f.create(t, `{"email":"b@x.test"}`, idempotency.Header, `"open`), f.bulk(t, bulkOf(1, ""), idempotency.Header, "a\tb"),
		f.resend(t, id, "", idempotency.Header, ""),
	} {
		require.Equal(t, "400 bad-header", fmt.Sprint(a.Code, " ", a.code()))
	}
	require.Equal(t, 1, f.count(t, `1 = 1`))
	require.Equal(t, "1", f.text(t, `SELECT send_count FROM invitations`))
}

func TestTheSweeperForgetsKeysAfterADay(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.create(t, `{"email":"a@x.test"}`, idempotency.Header, "k")
		f.clock.Advance(idempotency.TTL - time.Millisecond)
		f.service.Sweep(t.Context())
		require.Equal(t, "1", f.text(t, `SELECT COUNT(*) FROM idempotency_keys`))
		f.clock.Advance(time.Millisecond)
		f.service.Sweep(t.Context())
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM idempotency_keys`))
	})
}
