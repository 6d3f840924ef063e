package invitation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// Limits bound what invitations may cause; 0 is no limit. All but PerAddress are
// counted in the store, so they hold over all replicas and restarts.
type Limits struct {
	// PerInviter is how many invitations one user makes or sends again in a
	// tenant within an hour, PerTenant how many a tenant does within a day.
	PerInviter, PerTenant int
	// Pending is how many invitations of a tenant are pending at a time.
	Pending int
	// PerRecipient is how many mails go to one address within an hour, from all
	// tenants. The next one waits, and nobody is told: that would give away that
	// others invite the same person.
	PerRecipient int
	// PerAddress is how many looks and accepts one client address, or one
	// IPv6 network of 64 bits, may ask of this process within a minute.
	PerAddress int
}

const (
	inviterWindow   = time.Hour
	tenantWindow    = 24 * time.Hour
	recipientWindow = time.Hour
	addressWindow   = time.Minute
	// longestWindow is how long uses are kept.
	longestWindow = tenantWindow
)

func (l *Limits) check() error {
	for _, n := range []int{l.PerInviter, l.PerTenant, l.Pending, l.PerRecipient, l.PerAddress} {
		if n < 0 {
			return fmt.Errorf("a limit must not be negative, not %d", n)
		}
	}
	return nil
}

// use is one thing that a limit counts.
type use struct {
	key    string
	limit  int
	window time.Duration
}

// take notes the uses, unless one of them would exceed its limit: then it
// notes none and returns how long that one has to wait. Whoever takes several
// names them in the same order as all others.
func take(ctx context.Context, tx *database.Tx, uses ...use) (time.Duration, error) {
	for _, u := range uses {
		wait, err := u.wait(ctx, tx)
		if err != nil || wait > 0 {
			return wait, err
		}
	}
	for _, u := range uses {
		if u.limit == 0 {
			continue
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO rate_uses (id, key, at) VALUES ($1, $2, $3)`, identity.NewID(), u.key, tx.NowMS())
		if err != nil {
			return 0, fmt.Errorf("note a use: %w", err)
		}
	}
	return 0, nil
}

// wait returns how long until the limit allows one more use. It holds the lock
// of the key until the transaction ends.
func (u use) wait(ctx context.Context, tx *database.Tx) (time.Duration, error) {
	if u.limit == 0 {
		return 0, nil
	}
	if err := tx.Lock(ctx, "rate/"+u.key); err != nil {
		return 0, err
	}
	// With limit uses in the window, the oldest of the last ones must leave it first.
	var at int64
	err := tx.QueryRowContext(ctx, `SELECT at FROM rate_uses WHERE key = $1 AND at > $2 ORDER BY at DESC LIMIT 1 OFFSET $3`,
		u.key, tx.Now.Add(-u.window).UnixMilli(), u.limit-1).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count uses: %w", err)
	}
	return time.UnixMilli(at).Add(u.window).Sub(tx.Now), nil
}

// takeInvitation counts one invitation, new or sent again, or returns the 429
// problem.
func (s *Service) takeInvitation(ctx context.Context, tx *database.Tx, tenantID int64, userID string) error {
	l := &s.config.Limits
	wait, err := take(ctx, tx,
		use{fmt.Sprintf("inviter/%d/%s", tenantID, userID), l.PerInviter, inviterWindow},
		use{fmt.Sprintf("tenant/%d", tenantID), l.PerTenant, tenantWindow})
	if err != nil || wait == 0 {
		return err
	}
	return tooMany("too-many-invitations", "Too many invitations were sent: wait before sending more.", wait)
}

// takeMail counts one mail to an address, or returns how long it must wait.
func (s *Service) takeMail(ctx context.Context, tx *database.Tx, emailKey string) (time.Duration, error) {
	return take(ctx, tx, use{"recipient/" + emailKey, s.config.Limits.PerRecipient, recipientWindow})
}

// purgeUses deletes what no limit counts any more.
func purgeUses(ctx context.Context, db *database.DB) error {
	before := db.Now().Add(-longestWindow).UnixMilli()
	_, err := db.InBatches(ctx, func(tx *database.Tx, limit int) (int, error) {
		result, err := tx.ExecContext(ctx, `DELETE FROM rate_uses WHERE id IN (SELECT id FROM rate_uses WHERE at <= $1 LIMIT $2)`, before, limit)
		if err != nil {
			return 0, fmt.Errorf("delete old uses: %w", err)
		}
		n, err := result.RowsAffected()
		return int(n), err
	})
	return err
}
