package invitation

import (
	"context"
	"fmt"
	"time"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// sweepBatch is how many rows one transaction of a sweep changes: few enough
// that accepts beside it hardly wait for the writer.
const sweepBatch = 500

// maxRest bounds the pause between two batches, whatever the clock does.
const maxRest = time.Second

// systemActor stands in audit rows for what no user did.
const systemActor = "system"

// MarkExpired makes the expiry of all lapsed invitations durable and returns
// how many there were. Expiry is true at its time whether or not this ran: an
// invitation that lapsed can't be accepted before either. With dryRun nothing
// changes. It may run beside live traffic and beside itself.
func MarkExpired(ctx context.Context, db *database.DB, dryRun bool) (int, error) {
	if dryRun {
		var n int
		err := db.Reader().QueryRowContext(ctx, `SELECT COUNT(*) FROM invitations WHERE status = 'pending' AND expires_at <= $1`,
			db.Now().UnixMilli()).Scan(&n)
		if err != nil {
			return 0, fmt.Errorf("count expired invitations: %w", err)
		}
		return n, nil
	}
	return inBatches(ctx, db, markExpiredBatch)
}

// inBatches runs batch, each time in a transaction of its own, until it changes
// fewer than sweepBatch rows, and returns how many it changed in all. After each
// it rests for as long as that one took twice: a process beside this one asks
// for SQLite's writer only now and then, and must find it free.
func inBatches(ctx context.Context, db *database.DB, batch func(context.Context, *database.Tx) (int, error)) (int, error) {
	total := 0
	for {
		began, n := db.Now(), 0
		err := db.InTx(ctx, func(tx *database.Tx) (err error) {
			n, err = batch(ctx, tx)
			return err
		})
		if err != nil {
			return total, err
		}
		total += n
		if n < sweepBatch {
			return total, nil
		}
		if err := rest(ctx, 2*db.Now().Sub(began)); err != nil {
			return total, err
		}
	}
}

// rest waits, for no longer than maxRest, or returns the context's error.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(min(d, maxRest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func markExpiredBatch(ctx context.Context, tx *database.Tx) (int, error) {
	expired, err := expireOldest(ctx, tx)
	if err != nil {
		return 0, fmt.Errorf("mark expired invitations: %w", err)
	}
	for _, e := range expired {
		e.ActorID, e.Action = systemActor, "invitation.expired"
		if err := identity.RecordAudit(ctx, tx, e); err != nil {
			return 0, err
		}
	}
	return len(expired), nil
}

// expireOldest expires one batch and returns an audit event for each row.
func expireOldest(ctx context.Context, tx *database.Tx) ([]identity.AuditEvent, error) {
	// The guard names the other states: for status = 'pending' SQLite would go
	// through all pending rows by their index, once for each batch.
	rows, err := tx.QueryContext(ctx, `UPDATE invitations SET status = 'expired', updated_at = $1, version = version + 1
		WHERE status NOT IN ('accepted', 'cancelled', 'expired') AND id IN (SELECT id FROM invitations
			WHERE status = 'pending' AND expires_at <= $1 ORDER BY expires_at LIMIT $2)
		RETURNING id, tenant_id`, tx.NowMS(), sweepBatch)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var expired []identity.AuditEvent
	for rows.Next() {
		var e identity.AuditEvent
		if err := rows.Scan(&e.Target, &e.TenantID); err != nil {
			return nil, err
		}
		e.Target = auditTarget(e.Target)
		expired = append(expired, e)
	}
	return expired, rows.Err()
}

// auditTarget names an invitation in audit rows.
func auditTarget(id string) string { return "invitation/" + id }
