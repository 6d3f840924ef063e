package invitation

import (
	"context"
	"fmt"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// MarkExpired makes the expiry of all lapsed invitations durable and returns
// how many there were. Expiry is true at its time whether or not this ran: an
// invitation that lapsed can't be accepted before either. The webhook, unless it
// is nil, is told of each. With dryRun nothing changes. It may run beside live
// traffic and beside itself.
func MarkExpired(ctx context.Context, db *database.DB, hook *webhook.Outbox, dryRun bool) (int, error) {
	if dryRun {
		var n int
		err := db.Reader().QueryRowContext(ctx, `SELECT COUNT(*) FROM invitations WHERE status = 'pending' AND expires_at <= $1`,
			db.Now().UnixMilli()).Scan(&n)
		if err != nil {
			return 0, fmt.Errorf("count expired invitations: %w", err)
		}
		return n, nil
	}
	return db.InBatches(ctx, func(tx *database.Tx, limit int) (int, error) { return markExpiredBatch(ctx, tx, hook, limit) })
}

func markExpiredBatch(ctx context.Context, tx *database.Tx, hook *webhook.Outbox, limit int) (int, error) {
	expired, err := expireOldest(ctx, tx, limit)
	if err != nil {
		return 0, fmt.Errorf("mark expired invitations: %w", err)
	}
	for _, e := range expired {
		event := identity.AuditEvent{ActorID: systemActor, Action: "invitation.expired"}
		if err := happened(ctx, tx, hook, e.tenantID, e.id, event, nil); err != nil {
			return 0, err
		}
	}
	return len(expired), nil
}

// rowID names an invitation of a tenant.
type rowID struct {
	tenantID int64
	id       string
}

// expireOldest expires one batch and returns what it expired.
func expireOldest(ctx context.Context, tx *database.Tx, limit int) ([]rowID, error) {
	// The guard names the other states: for status = 'pending' SQLite would go
	// through all pending rows by their index, once for each batch.
	rows, err := tx.QueryContext(ctx, `UPDATE invitations SET status = 'expired', updated_at = $1, version = version + 1
		WHERE status NOT IN ('accepted', 'cancelled', 'expired') AND id IN (SELECT id FROM invitations
			WHERE status = 'pending' AND expires_at <= $1 ORDER BY expires_at LIMIT $2)
		RETURNING tenant_id, id`, tx.NowMS(), limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var expired []rowID
	for rows.Next() {
		var r rowID
		if err := rows.Scan(&r.tenantID, &r.id); err != nil {
			return nil, err
		}
		expired = append(expired, r)
	}
	return expired, rows.Err()
}
