package invitation

import (
	"context"
	"fmt"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// expireBatch is how many rows one transaction expires: few enough that
// accepts beside it hardly wait for the writer.
const expireBatch = 500

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
	total := 0
	for {
		n, err := markExpiredBatch(ctx, db)
		total += n
		if err != nil || n < expireBatch {
			return total, err
		}
	}
}

func markExpiredBatch(ctx context.Context, db *database.DB) (int, error) {
	n := 0
	err := db.InTx(ctx, func(tx *database.Tx) error {
		expired, err := expireOldest(ctx, tx)
		if err != nil {
			return fmt.Errorf("mark expired invitations: %w", err)
		}
		for _, e := range expired {
			e.ActorID, e.Action = systemActor, "invitation.expired"
			if err := identity.RecordAudit(ctx, tx, e); err != nil {
				return err
			}
		}
		n = len(expired)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// expireOldest expires one batch and returns an audit event for each row.
func expireOldest(ctx context.Context, tx *database.Tx) ([]identity.AuditEvent, error) {
	rows, err := tx.QueryContext(ctx, `UPDATE invitations SET status = 'expired', updated_at = $1, version = version + 1
		WHERE status = 'pending' AND id IN (SELECT id FROM invitations
			WHERE status = 'pending' AND expires_at <= $1 ORDER BY expires_at LIMIT $2)
		RETURNING id, tenant_id`, tx.NowMS(), expireBatch)
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
