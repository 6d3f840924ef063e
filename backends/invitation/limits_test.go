package invitation_test

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func withLimits(l invitation.Limits) func(*invitation.Config) {
	return func(c *invitation.Config) { c.Limits = l }
}

// invites asks as a user of a tenant for an invitation.
func (f *fixture) invites(t require.TestingT, user string, tenant int, email string) answer {
	return f.as(t, user, tenant, http.MethodPost, "/api/invitations/", fmt.Sprintf(`{"email":%q}`, email))
}

// requireWait requires a 429 that says how long to wait, in the header and in
// the body.
func requireWait(t *testing.T, a answer, code string, seconds int) {
	t.Helper()
	require.Equal(t, http.StatusTooManyRequests, a.Code, a.Body)
	require.Equal(t, code, a.code())
	require.Equal(t, strconv.Itoa(seconds), a.Header().Get("Retry-After"))
	require.InDelta(t, seconds, a.body["retry_after"], 0)
}

func TestAnInviterHasSoManyInvitationsAnHour(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerInviter: 3}))
		id, _ := f.invite(t, "a@x.test")
		f.clock.Advance(10 * time.Minute)
		f.invite(t, "b@x.test")
		require.Equal(t, http.StatusOK, f.resend(t, id, "").Code, "which counts too")
		requireWait(t, f.invites(t, admin, 1, "c@x.test"), "too-many-invitations", 50*60)
		f.clock.Advance(time.Minute)
		requireWait(t, f.resend(t, id, ""), "too-many-invitations", 49*60)
		require.Equal(t, "2", f.text(t, `SELECT send_count FROM invitations WHERE id = $1`, id), "a refused one changes nothing")
		require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, "c@x.test").Code, "another inviter")
		require.Equal(t, http.StatusCreated, f.invites(t, stranger, 2, "c@x.test").Code, "another tenant")
		f.clock.Advance(49*time.Minute - time.Millisecond)
		requireWait(t, f.invites(t, admin, 1, "d@x.test"), "too-many-invitations", 1)
		f.clock.Advance(time.Millisecond)
		f.invite(t, "d@x.test")
		requireWait(t, f.invites(t, admin, 1, "e@x.test"), "too-many-invitations", 10*60)
	})
}

func TestATenantHasSoManyInvitationsADay(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerTenant: 2, PerInviter: 2}))
		f.invite(t, "a@x.test")
		f.clock.Advance(time.Hour)
		require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, "b@x.test").Code)
		requireWait(t, f.invites(t, editor, 1, "c@x.test"), "too-many-invitations", 23*60*60)
		require.Equal(t, http.StatusCreated, f.invites(t, stranger, 2, "c@x.test").Code, "another tenant")
		f.clock.Advance(23 * time.Hour)
		require.Equal(t, http.StatusCreated, f.invites(t, editor, 1, "c@x.test").Code)
	})
}

func TestATenantHasSoManyPendingInvitations(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{Pending: 2}))
		first, _ := f.invite(t, "a@x.test")
		f.clock.Advance(time.Hour)
		_, second := f.invite(t, "b@x.test")
		full := func() {
			a := f.invites(t, admin, 1, "one@more.test")
			require.Equal(t, http.StatusTooManyRequests, a.Code, a.Body)
			require.Equal(t, "too-many-pending", a.code())
			require.Empty(t, a.Header().Get("Retry-After"), "waiting is not what helps")
		}
		full()
		require.Equal(t, http.StatusCreated, f.invites(t, stranger, 2, "c@x.test").Code, "another tenant")
		require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+first+"/cancel/", "").Code)
		f.invite(t, "c@x.test")
		full()
		require.Equal(t, http.StatusCreated, f.accept(t, second, goodPassword).Code)
		f.invite(t, "d@x.test")
		full()
		f.clock.Advance(invitation.DefaultLifetime)
		f.invite(t, "e@x.test") // nobody has written down that the others expired
	})
}

// TestNobodyLearnsThatOthersInviteTheSamePerson compares what a tenant sees of
// a mail that the limit holds back with what it sees of one that is on its way.
func TestNobodyLearnsThatOthersInviteTheSamePerson(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerRecipient: 1}))
		require.Equal(t, "sent", f.invites(t, stranger, 2, "A@x.test").at("delivery", "status"))
		f.clock.Advance(10 * time.Minute)

		delayed := f.invites(t, admin, 1, "a@X.test")
		_, release := f.mails.hangFromNow(t)
		slow := f.invites(t, admin, 1, "b@x.test")
		require.Equal(t, http.StatusCreated, delayed.Code, delayed.Body)
		require.Equal(t, slow.Code, delayed.Code)
		require.Equal(t, map[string]any{"status": "pending", "sends": 1., "sent_at": nil}, slow.body["delivery"])
		require.Equal(t, slow.body["delivery"], delayed.body["delivery"])
		id, _ := delayed.body["id"].(string)
		release()
		f.service.Settle()
		require.Equal(t, slow.body["delivery"], f.get(t, id).body["delivery"])
		require.Equal(t, 2, f.mails.count())

		f.clock.Advance(50*time.Minute - time.Millisecond)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 2, f.mails.count())
		require.Equal(t, "0", f.text(t, `SELECT attempts FROM invitation_mails WHERE invitation_id = $1`, id), "waiting is no attempt")
		f.clock.Advance(time.Millisecond)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 3, f.mails.count())
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
		require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
	})
}

// TestNobodyLearnsOfOthersFromTheNextAttempt: the mail failed once, and then the
// limit holds it back.
func TestNobodyLearnsOfOthersFromTheNextAttempt(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerRecipient: 2}))
		f.mails.failWith(errMail)
		id := f.create(t, `{"email":"a@x.test"}`).body["id"].(string)
		require.NotNil(t, f.get(t, id).at("delivery", "next_attempt_at"))
		f.mails.failWith(nil)
		require.Equal(t, "sent", f.invites(t, stranger, 2, "a@x.test").at("delivery", "status"))
		f.clock.Advance(time.Minute)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 1, f.mails.count(), "the limit holds it back")
		require.Equal(t, "pending", f.get(t, id).at("delivery", "status"))
		require.Nil(t, f.get(t, id).at("delivery", "next_attempt_at"), "it would say when somebody else's mail went out")
		f.clock.Advance(time.Hour)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
	})
}

func TestWithoutLimitsNothingIsCounted(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		for i := range 30 {
			_, token := f.invite(t, fmt.Sprintf("p%d@x.test", i))
			require.Equal(t, http.StatusOK, f.look(t, token).Code)
		}
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM rate_uses`))
	})
}

func TestLimitsAreExactUnderParallelCreates(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		first := newFixture(t, url)
		for name, limits := range map[string]invitation.Limits{
			"per inviter": {PerInviter: 7}, "per tenant": {PerTenant: 7}, "pending": {Pending: 7}, "all": {PerInviter: 9, PerTenant: 7, Pending: 8},
		} {
			first.exec(t, `DELETE FROM invitations; DELETE FROM rate_uses`)
			first.config.Limits = limits
			// Two processes, as limits are of the installation.
			one, two := first.another(t), first.another(t)
			codes := parallel(20, func(i int) int {
				return []*fixture{one, two}[i%2].invites(t, admin, 1, fmt.Sprintf("p%d@x.test", i)).Code
			})
			one.service.Settle()
			two.service.Settle()
			require.Equal(t, map[int]int{http.StatusCreated: 7, http.StatusTooManyRequests: 13}, codes, name)
			require.Equal(t, 7, first.count(t, `status = 'pending'`), name)
		}
	})
}

func TestTwoTenantsAtOnceSendOneMailToOneAddress(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerRecipient: 1}))
		for i := range 10 {
			email := fmt.Sprintf("p%d@x.test", i)
			codes := parallel(2, func(i int) int { return f.invites(t, []string{admin, stranger}[i], i+1, email).Code })
			f.service.Settle()
			require.Equal(t, map[int]int{http.StatusCreated: 2}, codes)
			require.Equal(t, i+1, f.mails.count())
		}
	})
}

func TestWhoIsRefusedTakesNothingOfALimit(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerInviter: 2, PerTenant: 2, Pending: 2}))
		f.exec(t, `UPDATE tenants SET denied_domains = 'y.test' WHERE id = 1`)
		refused := []string{
			`{"email":"admin@acme.test"}`, `{"email":"a@y.test"}`, `{"email":"nobody"}`, `{"email":"a@x.test","role":"None"}`,
			`{"email":"a@x.test","role":"Admin"}`, `{"email":"a@x.test","deliver":false}`,
		}
		want := []string{"409 already-member", "422 invalid-fields", "422 invalid-fields", "422 invalid-fields", "403 role-exceeds-yours", "403 permission-denied"}
		for i, body := range refused {
			a := f.as(t, editor, 1, http.MethodPost, "/api/invitations/", body)
			require.Equal(t, want[i], fmt.Sprint(a.Code, " ", a.code()))
		}
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM rate_uses`))
		items := ""
		for _, body := range refused {
			items += body + ","
		}
		a := f.as(t, editor, 1, http.MethodPost, "/api/invitations/bulk/", `{"atomic":true,"invitations":[{"email":"b@x.test"},`+items+`{"email":"c@x.test"}]}`)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM rate_uses`))
		a = f.as(t, editor, 1, http.MethodPost, "/api/invitations/bulk/", `{"invitations":[`+items+`{"email":"b@x.test"},{"email":"c@x.test"},{"email":"d@x.test"}]}`)
		require.Equal(t, append(want, "201", "201", "429 too-many-pending"), a.results())
		require.Equal(t, "4", f.text(t, `SELECT COUNT(*) FROM rate_uses`))
	})
}

func TestANegativeLimitIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	for _, limits := range []invitation.Limits{{PerInviter: -1}, {PerTenant: -1}, {Pending: -1}, {PerRecipient: -1}, {PerAddress: -1}} {
		config := f.config
		config.Limits = limits
		_, err := invitation.New(config)
		require.ErrorContains(t, err, "negative")
	}
}

func TestTheSweeperForgetsWhatNoLimitCounts(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withLimits(invitation.Limits{PerInviter: 5, PerTenant: 5, PerRecipient: 5}))
		f.invite(t, "a@x.test")
		f.clock.Advance(24*time.Hour - time.Millisecond)
		f.service.Sweep(t.Context())
		require.Equal(t, "3", f.text(t, `SELECT COUNT(*) FROM rate_uses`))
		f.clock.Advance(time.Millisecond)
		f.service.Sweep(t.Context())
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM rate_uses`))
	})
}

func TestAnAddressHasSoManyLooksAndAcceptsAMinute(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t), withLimits(invitation.Limits{PerAddress: 3}))
	_, token := f.invite(t, "a@x.test")
	from := func(address, path, token string) answer {
		body := `{"token":"` + token + `"}`
		if path == "accept" {
			body = `{"token":"` + token + `","password":"short"}`
		}
		return f.do(t, http.MethodPost, "/api/invitations/"+path+"/", body, "X-Forwarded-For", address)
	}
	for name, addresses := range map[string]struct{ same, other string }{
		"IPv4":                   {"192.0.2.1", "192.0.2.2"},
		"IPv6":                   {"2001:db8:1:2::1", "2001:db8:1:3::1"},
		"IPv6 in one network":    {"2001:db8:5:6:ffff:ffff:ffff:ffff", "2001:db8:5:7::"},
		"IPv4 written as IPv6":   {"::ffff:198.51.100.1", "198.51.100.2"},
		"the first of a list":    {"203.0.113.77, 10.0.0.1", "203.0.113.78, 10.0.0.1"},
		"link local with a zone": {"fe80::1", "fe80:0:0:1::1"},
	} {
		require.Equal(t, http.StatusOK, from(addresses.same, "look", token).Code, name)
		require.Equal(t, http.StatusNotFound, from(addresses.same, "accept", "inv_junk").Code, name)
		require.Equal(t, http.StatusUnprocessableEntity, from(addresses.same, "accept", token).Code, name)
		for _, path := range []string{"look", "accept"} {
			for _, offered := range []string{token, "inv_junk"} {
				a := from(addresses.same, path, offered)
				requireWait(t, a, "too-many-attempts", 60)
				require.Equal(t, "no-store", a.Header().Get("Cache-Control"), name)
			}
		}
		require.Equal(t, http.StatusOK, from(addresses.other, "look", token).Code, name)
	}
	for same, as := range map[string]string{
		"2001:db8:1:2:ffff::9": "the same network", "198.51.100.1": "the same address", "2001:db8:5:6::": "the same network",
	} {
		require.Equal(t, http.StatusTooManyRequests, from(same, "look", token).Code, as)
	}
	f.clock.Advance(59 * time.Second)
	requireWait(t, from("192.0.2.1", "look", token), "too-many-attempts", 1)
	f.clock.Advance(time.Second)
	require.Equal(t, http.StatusOK, from("192.0.2.1", "look", token).Code)
}

// TestAHundredThousandAddressesCostBoundedMemoryAndTime: each is new, and all
// within one window.
func TestAHundredThousandAddressesCostBoundedMemoryAndTime(t *testing.T) {
	t.Parallel()
	throttle := invitation.NewThrottle(3, time.Minute)
	began, most := time.Now(), time.Duration(0)
	for i := range 100_000 {
		before := time.Now()
		require.Zero(t, throttle.Take(strconv.Itoa(i), start))
		most = max(most, time.Since(before))
		if throttle.Keys() > invitation.MaxThrottled {
			require.LessOrEqual(t, throttle.Keys(), invitation.MaxThrottled)
		}
	}
	took := time.Since(began)
	t.Logf("100,000 addresses took %s, the slowest one %s", took, most)
	require.Less(t, took, 10*time.Second, "it was minutes when each new one went through all")
	for range 3 {
		throttle.Take("the last", start)
	}
	require.Equal(t, time.Minute, throttle.Take("the last", start), "those who are known are held")
}
