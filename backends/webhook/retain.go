package webhook

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/internal/database"
)

const (
	// retention is how long after it happened an event is kept that was given up.
	retention = 30 * 24 * time.Hour
	// purgeEvery is how often Run deletes older ones.
	purgeEvery = time.Hour
)

// Retry makes all events due that were given up, with the whole schedule before
// them again, and returns how many there were. Programs in [Outbox.Run] find
// them within seconds.
func Retry(ctx context.Context, db *database.DB) (int, error) {
	n := int64(0)
	err := db.InTx(ctx, func(tx *database.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE webhook_events SET attempts = 0, due_at = $1 WHERE due_at IS NULL`, tx.NowMS())
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("retry webhook events: %w", err)
	}
	return int(n), nil
}

// purge deletes old events that were given up.
func (o *Outbox) purge(ctx context.Context) {
	deleted, err := purgeBefore(ctx, o.db, o.db.Now().Add(-retention))
	if deleted > 0 {
		o.log.Info("old webhook events deleted", zap.Int("count", deleted))
	}
	if err != nil && ctx.Err() == nil {
		o.log.Error("old webhook events not deleted", zap.Error(err))
	}
}

func purgeBefore(ctx context.Context, db *database.DB, before time.Time) (int, error) {
	return db.InBatches(ctx, func(tx *database.Tx, limit int) (int, error) {
		result, err := tx.ExecContext(ctx, `DELETE FROM webhook_events WHERE id IN (SELECT id FROM webhook_events
			WHERE due_at IS NULL AND created_at <= $1 LIMIT $2)`, before.UnixMilli(), limit)
		if err != nil {
			return 0, err
		}
		n, err := result.RowsAffected()
		return int(n), err
	})
}
