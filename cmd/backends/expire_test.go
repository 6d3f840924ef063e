package main

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// exec runs a statement in the store.
func (s shell) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	driver, source := "pgx", s["DATABASE_URL"]
	if path, ok := strings.CutPrefix(source, "sqlite://"); ok {
		driver, source = "sqlite3", "file:"+path+"?_busy_timeout=5000"
	}
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

// lapsed adds n pending invitations that expired the given time ago.
func (s shell) lapsed(t *testing.T, name string, n int, ago time.Duration) {
	t.Helper()
	s.exec(t, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO invitations (id, tenant_id, email, email_key, expires_at, created_at, updated_at)
		SELECT CAST($2 AS TEXT) || '-' || i, (SELECT MIN(id) FROM tenants), 'e', CAST($2 AS TEXT) || i, $3, 0, 0 FROM n`, n, name, time.Now().Add(-ago).UnixMilli())
}

func TestMarkExpiredInvitationsCountsMarksAndDeletes(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, s shell) {
		s.ok(t, "migrate")
		s.ok(t, "seed --demo")
		require.Equal(t, "Expired invitations to mark: 0\nOld invitations to delete: 0\n", s.ok(t, "mark-expired-invitations --dry-run"))
		s.lapsed(t, "new", 3, time.Hour)
		s.lapsed(t, "old", 2, 91*24*time.Hour)

		for range 2 {
			require.JSONEq(t, `{"expired":5,"deleted":2,"dry_run":true}`, s.ok(t, "mark-expired-invitations --dry-run --output json"))
		}
		s["INVITATION_RETENTION"] = "0"
		require.Equal(t, "Expired invitations marked: 5\nOld invitations deleted: 0\n", s.ok(t, "mark_expired_invitations"))
		s["INVITATION_RETENTION"] = ""
		require.JSONEq(t, `{"expired":0,"deleted":2,"dry_run":false}`, s.ok(t, "mark-expired-invitations -o json"))
		require.Equal(t, "Expired invitations marked: 0\nOld invitations deleted: 0\n", s.ok(t, "mark-expired-invitations"))
		s["INVITATION_RETENTION"] = "30m"
		require.Equal(t, "Expired invitations marked: 0\nOld invitations deleted: 3\n", s.ok(t, "mark-expired-invitations"))
	})
}

func TestMarkExpiredInvitationsRefusesARetentionThatIsNone(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"-1h", "90", "90d", "soon"} {
		s := newShell(t)
		s["INVITATION_RETENTION"] = value
		_, stderr, code := s.run(t.Context(), "mark-expired-invitations")
		require.Equal(t, exitFailed, code)
		require.Equal(t, `backends: INVITATION_RETENTION: "`+value+`" is neither 0 nor a duration such as 15m or 1h30m`+"\n", stderr)
	}
}

func TestMarkExpiredInvitationsTellsTheWebhook(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, s shell) {
		s.ok(t, "migrate")
		s.ok(t, "seed --demo")
		s.lapsed(t, "new", 3, time.Hour)
		s["WEBHOOK_URL"] = "https://gate:pa55word@hook.test"
		_, stderr, code := s.run(t.Context(), "mark-expired-invitations")
		require.Equal(t, exitFailed, code)
		require.Equal(t, "backends: WEBHOOK_SECRET: required, because WEBHOOK_URL is set\n", stderr)

		s["WEBHOOK_SECRET"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
		s.ok(t, "mark-expired-invitations")
		s.exec(t, `UPDATE webhook_events SET due_at = NULL WHERE type = 'invitation.expired'`)
		require.Equal(t, "Webhook events made due again: 3\n", s.ok(t, "retry-webhooks"))
	})
}
