package invitation_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// another starts a second service on the store of f, with mails of its own.
func (f *fixture) another(t *testing.T) *fixture {
	t.Helper()
	second := *f
	second.mails = &outbox{}
	second.config.Mail = second.mails
	var err error
	second.service, err = invitation.New(second.config)
	require.NoError(t, err)
	second.handler = second.service.Handler()
	return &second
}

// mailRow is the row of an invitation in the outbox, "" if it has none.
func (f *fixture) mailRow(t require.TestingT, id string) string {
	return strings.Join(f.lines(t, `SELECT 'attempts ' || attempts || ', due ' || due_at FROM invitation_mails WHERE invitation_id = $1`, id), "; ")
}

// mailRowAt is what mailRow returns for a row.
func mailRowAt(attempts int, due time.Time) string {
	return fmt.Sprintf("attempts %d, due %d", attempts, due.UnixMilli())
}

// quickly is much less than a mail server may take, and much more than a create
// waits for it.
const quickly = 10 * time.Second

func TestACreateDoesNotWaitForAMailServerThatHangs(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		_, release := f.mails.hangFromNow(t)
		began := time.Now()
		a := f.create(t, `{"email":"a@x.test"}`)
		took := time.Since(began)
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, map[string]any{"status": "pending", "sends": 1., "sent_at": nil}, a.body["delivery"])
		require.GreaterOrEqual(t, took, invitation.MailPatience)
		require.Less(t, took, quickly)
		id := a.body["id"].(string)
		f.mails.wait(t, 1)
		require.Equal(t, mailRowAt(1, start.Add(invitation.MailLease)), f.mailRow(t, id))

		release()
		f.service.Settle()
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
		require.Empty(t, f.mailRow(t, id))
		require.Equal(t, []string{"invitation.created", "invitation.sent"}, f.audits(t, id))
		require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
	})
}

func TestACreateWhoseClientLeavesStillSendsItsMail(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	_, release := f.mails.hangFromNow(t)
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/api/invitations/", strings.NewReader(`{"email":"a@x.test"}`))
	require.NoError(t, err)
	for name, value := range map[string]string{"Content-Type": "application/json", "X-User-Id": admin, "X-Tenant-Id": "1", "X-Permission": "abc/invitations/write"} {
		r.Header.Set(name, value)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.handler.ServeHTTP(discard{http.Header{}}, r)
	}()
	require.Eventually(t, func() bool { return f.mails.attempts() == 1 }, quickly, time.Millisecond)
	leave()
	<-done
	release()
	f.service.Settle()
	require.Equal(t, 1, f.mails.count())
	require.Equal(t, "sent", f.text(t, `SELECT delivery FROM invitations`))
}

// discard is a client that is gone.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func TestManyMailsThatHangHoldUpNoCreate(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		_, release := f.mails.hangFromNow(t)
		began := time.Now()
		const creates = 3 * invitation.MailParallel
		codes := parallel(creates, func(i int) int { return f.invites(t, admin, 1, fmt.Sprintf("p%d@x.test", i)).Code })
		require.Less(t, time.Since(began), quickly)
		require.Equal(t, map[int]int{http.StatusCreated: creates}, codes)
		require.LessOrEqual(t, f.mails.attempts(), invitation.MailParallel, "no more are tried at a time")
		require.Equal(t, creates, f.count(t, `delivery = 'pending'`))
		release()
		f.service.Settle()
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, creates, f.count(t, `delivery = 'sent'`))
		require.Equal(t, creates, f.mails.count())
	})
}

func TestTheMailOfAProcessThatDiedIsSentAfterTheLease(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		dying := newFixture(t, url)
		f := dying.another(t)
		_, release := dying.mails.hangFromNow(t)
		id := dying.create(t, `{"email":"a@x.test"}`).body["id"].(string)
		dying.mails.wait(t, 1)
		lost := dying.mails.offered(t, "a@x.test")

		f.clock.Advance(invitation.MailLease - time.Millisecond)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Zero(t, f.mails.attempts(), "it may still be at work")
		f.clock.Advance(time.Millisecond)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 1, f.mails.count())
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
		require.Equal(t, "invitation-unknown", f.accept(t, lost, goodPassword).code())

		release() // it was only slow
		dying.service.Settle()
		require.Equal(t, []string{"invitation.created", "invitation.sent"}, f.audits(t, id), "its outcome is not noted")
		require.Empty(t, f.mailRow(t, id))
		require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
	})
}

func TestTwoServicesSendEachMailOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		second := f.another(t)
		const mails = 40
		f.queue(t, mails)
		var wg sync.WaitGroup
		for _, service := range []*invitation.Service{f.service, second.service} {
			wg.Go(func() {
				if err := service.SendDue(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var got []string
		for _, m := range slices.Concat(f.mails.mails, second.mails.mails) {
			got = append(got, m.To.Address)
			require.Equal(t, http.StatusOK, f.look(t, tokenIn(t, m.Text)).Code)
		}
		slices.Sort(got)
		require.Len(t, slices.Compact(got), mails)
		require.Equal(t, mails, f.mails.attempts()+second.mails.attempts())
		require.Equal(t, mails, f.count(t, `delivery = 'sent'`))
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM invitation_mails`))
	})
}

// queue puts n mails into the outbox.
func (f *fixture) queue(t *testing.T, n int) {
	t.Helper()
	for first := 0; first < n; first += 100 {
		items := make([]string, min(100, n-first))
		for i := range items {
			items[i] = fmt.Sprintf(`{"email":"p%d@x.test"}`, first+i)
		}
		require.InDelta(t, len(items), f.bulk(t, `{"invitations":[`+strings.Join(items, ",")+`]}`).body["created"], 0)
	}
}

func TestMoreMailsThanABatchAllGoOut(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		const mails = 2*invitation.MailBatch + 20
		f.queue(t, mails)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, mails, f.count(t, `delivery = 'sent'`))
		require.Equal(t, mails, f.mails.attempts())
	})
}

// TestAStoreThatFailsIsNotAskedWithoutEnd: a full disk gets fuller by log lines.
func TestAStoreThatFailsIsNotAskedWithoutEnd(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.ErrorLevel)
	f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Log = zap.New(core) })
	const mails = invitation.MailBatch + 20
	f.queue(t, mails)
	f.exec(t, `CREATE TRIGGER broken BEFORE UPDATE ON invitation_mails BEGIN SELECT RAISE(ABORT, 'disk full'); END`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.service.Run(ctx) }()
	failures := func() int { return logs.FilterMessage("mail not sent").Len() }
	require.Eventually(t, func() bool { return failures() >= invitation.MailBatch }, quickly, time.Millisecond)
	require.Never(t, func() bool { return failures() > 2*mails }, 500*time.Millisecond, 10*time.Millisecond,
		"one look at the start, one for the bulks, and the next is in some seconds")
	cancel()
	require.NoError(t, <-done)
}

// TestAResendReplacesAnAttemptThatIsUnderWay: whatever becomes of the old mail.
func TestAResendReplacesAnAttemptThatIsUnderWay(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		for i, outcome := range []error{nil, errMail, errRefused} {
			email := fmt.Sprintf("p%d@x.test", i)
			f.mails.failWith(nil)
			goOn, release := f.mails.hangFromNow(t)
			id := f.create(t, `{"email":"`+email+`"}`).body["id"].(string)
			f.mails.wait(t, 2*i+1)
			old, sent := f.mails.offered(t, email), f.mails.count()
			require.Equal(t, http.StatusOK, f.look(t, old).Code, "a mail may have arrived before its server says so")
			goOn()
			f.clock.Advance(time.Minute)
			again := f.resend(t, id, "")
			require.Equal(t, http.StatusOK, again.Code, again.Body)
			require.Eventually(t, func() bool { return f.mails.count() == sent+1 }, quickly, time.Millisecond)
			token := tokenIn(t, f.mails.last(t).Text)
			require.Equal(t, "invitation-unknown", f.look(t, old).code())

			f.mails.failWith(outcome)
			release()
			f.service.Settle()
			require.Equal(t, []string{"invitation.created", "invitation.resent", "invitation.sent"}, f.audits(t, id))
			require.NotContains(t, f.events(t), "invitation.delivery_failed")
			require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
			require.Nil(t, f.get(t, id).at("delivery", "error"))
			require.Empty(t, f.mailRow(t, id))
			require.Equal(t, "invitation-unknown", f.accept(t, old, goodPassword).code())
			require.Equal(t, http.StatusCreated, f.accept(t, token, goodPassword).Code)
		}
	})
}

// TestAnAttemptThatIsCutOffLeavesTheNextOneAlone: a process ends while another
// sends the same invitation again.
func TestAnAttemptThatIsCutOffLeavesTheNextOneAlone(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		ending := newFixture(t, url)
		f := ending.another(t)
		ending.mails.hangFromNow(t)
		id := ending.create(t, `{"email":"a@x.test"}`).body["id"].(string)
		ending.mails.wait(t, 1)
		f.clock.Advance(invitation.MailLease)
		_, release := f.mails.hangFromNow(t)
		require.Equal(t, http.StatusOK, f.resend(t, id, "").Code)
		f.mails.wait(t, 1)
		require.Equal(t, mailRowAt(1, f.clock.Now().Add(invitation.MailLease)), f.mailRow(t, id))

		ending.service.EndAttempts()
		ending.service.Settle()
		require.Equal(t, mailRowAt(1, f.clock.Now().Add(invitation.MailLease)), f.mailRow(t, id), "it is not due: it is being sent")
		release()
		f.service.Settle()
		require.Equal(t, 1, f.mails.count())
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
	})
}

func TestRunEndsAlthoughAMailHangsAndTheMailStaysDue(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mails.hangFromNow(t)
		require.InDelta(t, 1, f.bulk(t, `{"invitations":[{"email":"a@x.test"}]}`).body["created"], 0)
		id := f.text(t, `SELECT id FROM invitations`)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.service.Run(ctx) }()
		require.Eventually(t, func() bool { return f.mails.attempts() == 1 }, quickly, time.Millisecond)
		require.Equal(t, mailRowAt(1, start.Add(invitation.MailLease)), f.mailRow(t, id))
		began := time.Now()
		cancel()
		require.NoError(t, <-done)
		took := time.Since(began)
		require.GreaterOrEqual(t, took, invitation.MailGrace-time.Second)
		require.Less(t, took, invitation.MailTimeout-time.Second, "it waited for the grace only")
		require.Equal(t, mailRowAt(0, start), f.mailRow(t, id), "it was no attempt, and is due at once")
		require.Equal(t, "pending ", f.text(t, `SELECT delivery || ' ' || delivery_error FROM invitations`))

		next := f.another(t)
		require.NoError(t, next.service.SendDue(t.Context()))
		require.Equal(t, 1, next.mails.count())
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
	})
}

func TestAMailThatEndsWithinTheGraceIsNoted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	_, release := f.mails.hangFromNow(t)
	f.bulk(t, `{"invitations":[{"email":"a@x.test"}]}`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.service.Run(ctx) }()
	require.Eventually(t, func() bool { return f.mails.attempts() == 1 }, quickly, time.Millisecond)
	began := time.Now()
	cancel()
	release()
	require.NoError(t, <-done)
	require.Less(t, time.Since(began), invitation.MailGrace)
	require.Equal(t, "sent", f.text(t, `SELECT delivery FROM invitations`))
}

func TestAMailThatIsRefusedForEverFailsAtOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		f.mails.failWith(errRefused)
		a := f.create(t, `{"email":"a@x.test"}`)
		f.service.Settle()
		id := a.body["id"].(string)
		require.Equal(t, map[string]any{"status": "failed", "error": "refused-permanently", "sends": 1., "sent_at": nil}, f.get(t, id).body["delivery"])
		f.mails.failWith(nil)
		f.clock.Advance(48 * time.Hour)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 1, f.mails.attempts(), "there is no other attempt")
		require.Equal(t, []string{"invitation.created", "invitation.delivery_failed"}, f.audits(t, id))
		require.Equal(t, []string{"invitation.created", "invitation.delivery_failed"}, f.events(t))
		require.JSONEq(t, `{"reason":"refused-permanently"}`, f.text(t, `SELECT detail FROM audit_events WHERE action = 'invitation.delivery_failed'`))
		require.Equal(t, admin, f.text(t, `SELECT actor_id FROM audit_events WHERE action = 'invitation.delivery_failed'`))
		require.Equal(t, http.StatusOK, f.resend(t, id, "").Code, "the inviter may try again")
		f.service.Settle()
		require.Equal(t, "sent", f.get(t, id).at("delivery", "status"))
	})
}

func TestAMailThatNobodyTakesIsTriedForSoLongOnly(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t), func(c *invitation.Config) { c.MailRetry = 3 * time.Hour })
		f.mails.failWith(errMail)
		id := f.create(t, `{"email":"a@x.test"}`).body["id"].(string)
		f.service.Settle()
		var pauses []time.Duration
		for f.mailRow(t, id) != "" {
			delivery := f.get(t, id)
			require.Equal(t, "pending", delivery.at("delivery", "status"))
			require.Equal(t, "unavailable", delivery.at("delivery", "error"))
			next, err := time.Parse(time.RFC3339Nano, delivery.at("delivery", "next_attempt_at").(string))
			require.NoError(t, err)
			pauses = append(pauses, next.Sub(f.clock.Now()))
			require.LessOrEqual(t, next.Sub(start), 3*time.Hour)
			f.clock.Set(next.Add(-time.Millisecond))
			require.NoError(t, f.service.SendDue(t.Context()))
			require.Equal(t, len(pauses), f.mails.attempts(), "not before its time")
			f.clock.Set(next)
			require.NoError(t, f.service.SendDue(t.Context()))
			require.Equal(t, len(pauses)+1, f.mails.attempts())
		}
		require.GreaterOrEqual(t, len(pauses), 4)
		for i, pause := range pauses {
			want := 30 * time.Second << (2 * i)
			require.InDelta(t, want.Seconds(), pause.Seconds(), want.Seconds()/5+0.002)
		}
		require.Equal(t, map[string]any{"status": "failed", "error": "unavailable", "sends": 1., "sent_at": nil}, f.get(t, id).body["delivery"])
		require.Equal(t, []string{"invitation.created", "invitation.delivery_failed"}, f.events(t))
		require.Equal(t, "pending", f.get(t, id).body["status"])
	})
}

func TestAMailIsNotTriedAfterItsInvitationExpired(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, func(c *invitation.Config) { c.Lifetime = 2 * time.Minute })
		f.mails.failWith(errMail)
		id := f.create(t, `{"email":"a@x.test"}`).body["id"].(string)
		f.service.Settle()
		require.Equal(t, "pending", f.get(t, id).at("delivery", "status"))
		f.clock.Advance(40 * time.Second)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, "failed", f.get(t, id).at("delivery", "status"), "the next attempt would come too late")

		late := f.create(t, `{"email":"b@x.test"}`).body["id"].(string)
		f.service.Settle()
		f.clock.Advance(2 * time.Minute)
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Equal(t, 3, f.mails.attempts(), "it has expired in the meantime")
		require.Empty(t, f.mailRow(t, late))
	})
}

// TestWhatHasEndedIsNotMailed: the mail waits in the outbox when the invitation ends.
func TestWhatHasEndedIsNotMailed(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		for _, end := range []string{"cancelled", "accepted", "expired"} {
			email := end + "@x.test"
			f.mails.failWith(errMail)
			id := f.create(t, `{"email":"`+email+`"}`).body["id"].(string)
			f.service.Settle()
			switch end {
			case "cancelled":
				require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "").Code)
			case "accepted":
				require.Equal(t, http.StatusCreated, f.accept(t, f.mails.offered(t, email), goodPassword).Code, "a mail can arrive whose server then hangs up")
			default:
				f.clock.Advance(invitation.DefaultLifetime)
			}
			require.Equal(t, end, f.get(t, id).body["status"])
			require.Nil(t, f.get(t, id).at("delivery", "next_attempt_at"), "there is none")
			f.mails.failWith(nil)
			f.clock.Advance(time.Minute)
			require.NoError(t, f.service.SendDue(t.Context()))
			require.Zero(t, f.mails.count(), end)
			require.Empty(t, f.mailRow(t, id))
		}
		require.Equal(t, 3, f.mails.attempts())
	})
}

func TestAPurgedInvitationTakesItsMailWithIt(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.bulk(t, `{"invitations":[{"email":"a@x.test"}]}`)
		f.clock.Advance(invitation.DefaultLifetime + time.Hour)
		n, err := invitation.MarkExpired(t.Context(), f.db, nil, false)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, "1", f.text(t, `SELECT COUNT(*) FROM invitation_mails`))
		n, err = invitation.PurgeEnded(t.Context(), f.db, time.Hour, false)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM invitation_mails`))
		require.NoError(t, f.service.SendDue(t.Context()))
		require.Zero(t, f.mails.attempts())
	})
}

// TestAMailUnderWayOfAnInvitationThatIsGoneIsNoFailure: it was purged, or its
// tenant deleted, when the attempt ends.
func TestAMailUnderWayOfAnInvitationThatIsGoneIsNoFailure(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		for i, outcome := range []error{nil, errMail, errRefused} {
			_, release := f.mails.hangFromNow(t)
			f.create(t, fmt.Sprintf(`{"email":"p%d@x.test"}`, i))
			f.mails.wait(t, i+1)
			f.exec(t, `DELETE FROM invitations`)
			f.mails.failWith(outcome)
			release()
			f.service.Settle()
			require.Zero(t, countLines(f.log.String(), "delivery not noted"))
		}
		require.Equal(t, []string{"invitation.created", "invitation.created", "invitation.created"}, f.events(t))
		require.Equal(t, "3", f.text(t, `SELECT COUNT(*) FROM audit_events`))
	})
}

func TestAStoreThatFailsLosesNoMail(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	f.bulk(t, `{"invitations":[{"email":"a@x.test"}]}`)
	f.exec(t, `CREATE TRIGGER broken BEFORE UPDATE ON invitation_mails BEGIN SELECT RAISE(ABORT, 'disk full'); END`)
	require.NoError(t, f.service.SendDue(t.Context()))
	require.Zero(t, f.mails.attempts(), "an attempt that nobody could note is not made")
	require.Equal(t, 1, countLines(f.log.String(), "mail not sent"))
	f.exec(t, `DROP TRIGGER broken`)
	require.NoError(t, f.service.SendDue(t.Context()))
	require.Equal(t, 1, f.mails.count())
}
