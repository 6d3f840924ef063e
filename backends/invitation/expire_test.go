package invitation_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/password"
)

func TestMarkExpired(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		kept, _ := f.invite(t, "kept@x.test")
		cancelled, _ := f.invite(t, "cancelled@x.test")
		f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+cancelled+"/cancel/", "")
		const lapsed = 1203 // three batches
		f.exec(t, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO invitations (id, tenant_id, email, email_key, role_id, expires_at, created_at, updated_at)
		SELECT 'lapsed-' || i, 1 + i % 2, 'e', 'e' || i, 3, $2, 0, 0 FROM n`, lapsed, start.UnixMilli())

		n, err := invitation.MarkExpired(t.Context(), f.db, nil, true)
		require.NoError(t, err)
		require.Equal(t, lapsed, n)
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM invitations WHERE status = 'expired'`))

		n, err = invitation.MarkExpired(t.Context(), f.db, nil, false)
		require.NoError(t, err)
		require.Equal(t, lapsed, n)
		require.Equal(t, strconv.Itoa(lapsed), f.text(t, `SELECT COUNT(*) FROM invitations WHERE status = 'expired'`))
		require.Equal(t, strconv.Itoa(lapsed), f.text(t, `SELECT COUNT(*) FROM audit_events a JOIN invitations i ON a.target = 'invitation/' || i.id
		WHERE a.action = 'invitation.expired' AND a.tenant_id = i.tenant_id AND a.actor_id = 'system'`))
		require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations WHERE id = $1`, kept))

		n, err = invitation.MarkExpired(t.Context(), f.db, nil, false)
		require.NoError(t, err)
		require.Zero(t, n)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = invitation.MarkExpired(ended, f.db, nil, false)
		require.ErrorIs(t, err, context.Canceled)
		_, err = invitation.MarkExpired(ended, f.db, nil, true)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestRunMarksAtOnceAndEveryMinute(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.invite(t, "a@x.test")
		f.clock.Advance(invitation.DefaultLifetime)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.service.Run(ctx) }()
		require.Eventually(t, func() bool {
			return f.text(t, `SELECT COUNT(*) FROM invitations WHERE status = 'expired'`) == "1"
		}, 10*time.Second, 5*time.Millisecond)
		cancel()
		require.NoError(t, <-done)
	})
}

// TestRunComesBack runs against a closed store, which needs no time of its own,
// so that the fake time of synctest passes the minutes.
func TestRunComesBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	require.NoError(t, f.db.Close())
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
		defer cancel()
		service, err := invitation.New(f.config) // its channels belong to this time
		require.NoError(t, err)
		require.NoError(t, service.Run(ctx), "a store that fails does not end the sweeper")
	})
	require.Equal(t, 3, countLines(f.log.String(), "expired invitations not marked"))
}

// TestMeasureAcceptsBesideASweepOfAMillion compares the times of accepts, with
// real passwords, before and beside a sweep of a million lapsed invitations on
// SQLite: by the service itself, and by another process, which waits for the
// writer as SQLite has it. Each is watched for 20 seconds, not to its end.
// TENANTGATE_MEASURE=1 asks for it.
func TestMeasureAcceptsBesideASweepOfAMillion(t *testing.T) {
	if os.Getenv("TENANTGATE_MEASURE") != "1" {
		t.Skip("takes minutes: TENANTGATE_MEASURE=1 runs it")
	}
	const lapsed, people, samples, watched = 1_000_000, 6000, 200, 20 * time.Second
	url := dbtest.SQLite(t)
	db, other := dbtest.Open(t, url, clock.System{}), dbtest.Open(t, url, clock.System{})
	f := newFixture(t, url, func(c *invitation.Config) {
		c.DB, c.Clock, c.Log, c.Hasher = db, clock.System{}, zap.NewNop(), password.NewHasher(2)
	})
	tokens := f.tokens(t, people)
	f.rows(t, "pending", lapsed, time.Now())
	// accepts returns the times of accepts, one after the other, until enough.
	accepts := func(enough func(n int) bool) (times []time.Duration) {
		for n := 0; !enough(n); n++ {
			began := time.Now()
			a := f.accept(t, tokens[0], goodPassword)
			times = append(times, time.Since(began))
			require.Equal(t, http.StatusCreated, a.Code, a.Body)
			tokens = tokens[1:]
		}
		slices.Sort(times)
		return times
	}
	p := func(times []time.Duration, percent int) time.Duration { return times[len(times)*percent/100] }
	before := accepts(func(n int) bool { return n == samples })
	t.Logf("before: %d accepts, p50 %s, p99 %s", len(before), p(before, 50), p(before, 99))
	for _, sweep := range []struct {
		by string
		db *database.DB
	}{{"the service", db}, {"another process", other}} {
		ctx, cancel := context.WithTimeout(t.Context(), watched)
		defer cancel()
		marked := make(chan int, 1)
		go func() {
			n, err := invitation.MarkExpired(ctx, sweep.db, nil, false)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			marked <- n
		}()
		beside := accepts(func(int) bool { return ctx.Err() != nil })
		t.Logf("beside a sweep by %s, %d rows in %s: %d accepts, p50 %s, p99 %s, most %s; p99 is %.2f×", sweep.by, <-marked, watched,
			len(beside), p(beside, 50), p(beside, 99), beside[len(beside)-1], float64(p(beside, 99))/float64(p(before, 99)))
		require.Less(t, p(beside, 99), 2*p(before, 99))
	}
}

// tokens adds n invitations of acme that can be accepted for a day, and returns
// their tokens.
func (f *fixture) tokens(t *testing.T, n int) []string {
	t.Helper()
	tx, err := f.raw.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	tokens := make([]string, n)
	for i := range tokens {
		token, hash, err := invitation.NewToken(rand.Reader)
		require.NoError(t, err)
		email := "t" + strconv.Itoa(i) + "@x.test"
		_, err = tx.ExecContext(t.Context(), `INSERT INTO invitations (id, tenant_id, email, email_key, role_id, token_hash, expires_at, created_at, updated_at)
			VALUES ($1, 1, $1, $1, 3, $2, $3, 0, 0)`, email, hash, time.Now().Add(24*time.Hour).UnixMilli())
		require.NoError(t, err)
		tokens[i] = token.Reveal()
	}
	require.NoError(t, tx.Commit())
	return tokens
}
