package invitation_test

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

const retention = invitation.DefaultRetention

// rows adds n invitations of a status that can or could be accepted until expires.
func (f *fixture) rows(t require.TestingT, status string, n int, expires time.Time) {
	f.exec(t, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO invitations (id, tenant_id, email, email_key, role_id, status, expires_at, created_at, updated_at)
		SELECT CAST($2 AS TEXT) || i, 1 + i % 2, 'e', CAST($2 AS TEXT) || i, 3, $3, $4, 0, 0 FROM n`,
		n, status+expires.String(), status, expires.UnixMilli())
}

func (f *fixture) count(t require.TestingT, where string) int {
	n, err := strconv.Atoi(f.text(t, `SELECT COUNT(*) FROM invitations WHERE `+where))
	require.NoError(t, err)
	return n
}

func TestPurgeDeletesWhatEndedLongAgoAndNothingElse(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		old := start.Add(-retention)
		const many = 1203 // three batches
		f.rows(t, "accepted", many, old)
		for _, status := range []string{"cancelled", "expired"} {
			f.rows(t, status, 2, old)
		}
		for _, status := range []string{"accepted", "cancelled", "expired"} {
			f.rows(t, status, 3, old.Add(time.Millisecond))
		}
		f.rows(t, "pending", 4, old.Add(-time.Hour))
		f.rows(t, "pending", 5, start.Add(time.Hour))

		purge := func(retention time.Duration, dryRun bool) int {
			n, err := invitation.PurgeEnded(t.Context(), f.db, retention, dryRun)
			require.NoError(t, err)
			return n
		}
		require.Zero(t, purge(0, false))
		require.Zero(t, purge(0, true))
		require.Equal(t, many+2+2+4, purge(retention, true), "with those that are marked before")
		require.Equal(t, many+2+2+9+4+5, f.count(t, `1 = 1`), "nothing was changed")

		require.Equal(t, many+2+2, purge(retention, false))
		require.Zero(t, purge(retention, false))
		require.Equal(t, 9, f.count(t, `status <> 'pending'`))
		require.Equal(t, 4+5, f.count(t, `status = 'pending'`), "a pending one is never deleted")

		f.clock.Advance(time.Millisecond)
		require.Equal(t, 9, purge(retention, false))

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, dryRun := range []bool{true, false} {
			_, err := invitation.PurgeEnded(ended, f.db, retention, dryRun)
			require.ErrorIs(t, err, context.Canceled)
		}
	})
}

func TestTheSweeperDeletesOldInvitationsAndKeepsTheirAudit(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, func(c *invitation.Config) { c.Retention = retention })
		accepted, acceptedToken := f.invite(t, "accepted@x.test")
		require.Equal(t, http.StatusCreated, f.accept(t, acceptedToken, goodPassword).Code)
		cancelled, _ := f.invite(t, "cancelled@x.test")
		require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+cancelled+"/cancel/", "").Code)
		lapsed, token := f.invite(t, "lapsed@x.test")

		f.clock.Advance(invitation.DefaultLifetime)
		f.service.Sweep(t.Context())
		require.Zero(t, f.count(t, `status = 'pending'`))
		f.clock.Advance(retention - time.Millisecond)
		kept, _ := f.invite(t, "kept@x.test")
		require.Equal(t, http.StatusGone, f.accept(t, token, goodPassword).Code, "until then the link says why")
		deleted, err := invitation.PurgeEnded(t.Context(), f.db, retention, false)
		require.NoError(t, err)
		require.Zero(t, deleted)

		f.clock.Advance(time.Millisecond)
		f.service.Sweep(t.Context())
		require.Equal(t, []string{kept}, f.lines(t, `SELECT id FROM invitations`))
		require.Equal(t, http.StatusNotFound, f.accept(t, token, goodPassword).Code)
		require.Equal(t, http.StatusNotFound, f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+accepted+"/", "").Code)
		require.Contains(t, f.audits(t, accepted), "invitation.accepted")
		require.Contains(t, f.audits(t, cancelled), "invitation.cancelled")
		require.Contains(t, f.audits(t, lapsed), "invitation.expired")
		require.Equal(t, "1", f.text(t, `SELECT COUNT(*) FROM memberships m JOIN users u ON u.id = m.user_id WHERE u.email_key = 'accepted@x.test'`))
		require.Contains(t, f.log.String(), `"old invitations deleted"`)
	})
}

// TestSweepsRunBesideEachOtherAndTraffic runs three sweeps at once while people
// accept.
func TestSweepsRunBesideEachOtherAndTraffic(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		const lapsed, old, people = 2400, 1700, 20
		f.rows(t, "pending", lapsed, start)
		f.rows(t, "cancelled", old, start.Add(-retention))
		var tokens [people]string
		for i := range tokens {
			_, tokens[i] = f.invite(t, "p"+strconv.Itoa(i)+"@x.test")
		}
		var marked, deleted atomic.Int64
		var sweeps sync.WaitGroup
		for range 3 {
			sweeps.Go(func() {
				n, err := invitation.MarkExpired(t.Context(), f.db, nil, false)
				if err != nil {
					t.Error(err)
				}
				marked.Add(int64(n))
				n, err = invitation.PurgeEnded(t.Context(), f.db, retention, false)
				if err != nil {
					t.Error(err)
				}
				deleted.Add(int64(n))
			})
		}
		codes := parallel(people, func(i int) int { return f.accept(t, tokens[i], goodPassword).Code })
		sweeps.Wait()
		require.Equal(t, map[int]int{http.StatusCreated: people}, codes)
		require.EqualValues(t, lapsed, marked.Load(), "each is marked by one")
		require.EqualValues(t, old, deleted.Load())
		require.Equal(t, lapsed, f.count(t, `status = 'expired'`))
		require.Equal(t, strconv.Itoa(lapsed), f.text(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'invitation.expired'`))
		require.Equal(t, people, f.count(t, `status = 'accepted'`))
	})
}

func TestANegativeRetentionIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	_, err := invitation.New(invitation.Config{DB: f.db, Retention: -time.Hour})
	require.Error(t, err)
}
