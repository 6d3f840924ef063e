package invitation_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
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

		n, err := invitation.MarkExpired(t.Context(), f.db, true)
		require.NoError(t, err)
		require.Equal(t, lapsed, n)
		require.Equal(t, "0", f.text(t, `SELECT COUNT(*) FROM invitations WHERE status = 'expired'`))

		n, err = invitation.MarkExpired(t.Context(), f.db, false)
		require.NoError(t, err)
		require.Equal(t, lapsed, n)
		require.Equal(t, strconv.Itoa(lapsed), f.text(t, `SELECT COUNT(*) FROM invitations WHERE status = 'expired'`))
		require.Equal(t, strconv.Itoa(lapsed), f.text(t, `SELECT COUNT(*) FROM audit_events a JOIN invitations i ON a.target = 'invitation/' || i.id
		WHERE a.action = 'invitation.expired' AND a.tenant_id = i.tenant_id AND a.actor_id = 'system'`))
		require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations WHERE id = $1`, kept))

		n, err = invitation.MarkExpired(t.Context(), f.db, false)
		require.NoError(t, err)
		require.Zero(t, n)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = invitation.MarkExpired(ended, f.db, false)
		require.ErrorIs(t, err, context.Canceled)
		_, err = invitation.MarkExpired(ended, f.db, true)
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
		require.NoError(t, f.service.Run(ctx), "a store that fails does not end the sweeper")
	})
	require.Equal(t, 3, countLines(f.log.String(), "expired invitations not marked"))
}
