package invitation

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/internal/database"
)

// DefaultRetention is how long an ended invitation is kept if nobody says
// otherwise.
const DefaultRetention = 90 * 24 * time.Hour

// PurgeEnded deletes the accepted, cancelled and expired invitations whose
// expires_at is longer ago than retention, with the hashes of their tokens, and
// returns how many there were. All of them ended by then at the latest, so none
// is kept for less than retention after its end; a pending one is never deleted.
// The audit events stay. A retention of 0 keeps everything. With dryRun nothing
// changes, and the count includes what [MarkExpired] would make ended before.
// It may run beside live traffic and beside itself.
func PurgeEnded(ctx context.Context, db *database.DB, retention time.Duration, dryRun bool) (int, error) {
	if retention <= 0 {
		return 0, nil
	}
	before := db.Now().Add(-retention).UnixMilli()
	if dryRun {
		var n int
		err := db.Reader().QueryRowContext(ctx, `SELECT COUNT(*) FROM invitations
			WHERE status IN ('pending', 'accepted', 'cancelled', 'expired') AND expires_at <= $1`, before).Scan(&n)
		if err != nil {
			return 0, fmt.Errorf("count old invitations: %w", err)
		}
		return n, nil
	}
	return db.InBatches(ctx, func(tx *database.Tx, limit int) (int, error) {
		// The states are named one by one for the index (status, expires_at).
		result, err := tx.ExecContext(ctx, `DELETE FROM invitations WHERE status <> 'pending' AND id IN (SELECT id FROM invitations
			WHERE status IN ('accepted', 'cancelled', 'expired') AND expires_at <= $1 LIMIT $2)`, before, limit)
		if err != nil {
			return 0, fmt.Errorf("delete old invitations: %w", err)
		}
		n, err := result.RowsAffected()
		return int(n), err
	})
}

// sweep makes expiry durable and deletes what is old, and logs both. Nobody
// need know of the uses and answers that it forgets.
func (s *Service) sweep(ctx context.Context) {
	expired, err := MarkExpired(ctx, s.config.DB, s.config.Webhook, false)
	if expired > 0 {
		s.config.Webhook.Wake()
		s.config.Log.Info("expired invitations marked", zap.Int("count", expired))
	}
	if err != nil {
		s.complain(ctx, "expired invitations not marked", err)
		return
	}
	deleted, err := PurgeEnded(ctx, s.config.DB, s.config.Retention, false)
	if deleted > 0 {
		s.config.Log.Info("old invitations deleted", zap.Int("count", deleted))
	}
	if err != nil {
		s.complain(ctx, "old invitations not deleted", err)
	}
	if err := purgeUses(ctx, s.config.DB); err != nil {
		s.complain(ctx, "old uses of limits not deleted", err)
	}
	if _, err := idempotency.Purge(ctx, s.config.DB); err != nil {
		s.complain(ctx, "old answers not deleted", err)
	}
}

// complain logs an error, unless it is only that ctx ended.
func (s *Service) complain(ctx context.Context, message string, err error) {
	if ctx.Err() == nil {
		s.config.Log.Error(message, zap.Error(err))
	}
}
