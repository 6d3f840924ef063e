package invitation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// The states of an invitation. The last three never change.
const (
	statusPending   = "pending"
	statusAccepted  = "accepted"
	statusCancelled = "cancelled"
	statusExpired   = "expired"
)

// The states of an invitation's mail.
const (
	deliveryPending = "pending"
	deliverySent    = "sent"
	deliveryFailed  = "failed"
	// deliveryNone is shown if the inviter was given the token. It is not stored.
	deliveryNone = "none"
)

// record is one row with its tenant and the name of its role. Times are unix milliseconds, 0
// for never.
type record struct {
	id                                     string
	tenantID                               int64
	tenantName, tenantStatus               string
	email, emailKey, name, note            string
	roleID                                 int64 // 0: the role was deleted
	roleName                               string
	status                                 string
	inviterID, inviterName, acceptedUserID string
	reportedIP, requestIP                  string
	locale                                 string
	handedOut                              bool
	delivery, deliveryError                string
	sendCount                              int
	nextAttempt                            int64 // of the mail; 0: none is due
	expiresAt, createdAt, updatedAt        int64
	sentAt, acceptedAt, cancelledAt        int64
}

// effective returns the status at the given time: an invitation expires on its
// own, whether or not the sweeper has written it down. expires_at is exclusive.
func (r *record) effective(nowMS int64) string {
	if r.status == statusPending && nowMS >= r.expiresAt {
		return statusExpired
	}
	return r.status
}

const selectRecord = `SELECT i.id, i.tenant_id, t.name, t.status, i.email, i.email_key, i.name, i.note, COALESCE(i.role_id, 0), COALESCE(r.name, ''),
	i.status, COALESCE(i.inviter_id, ''), i.inviter_name, COALESCE(i.accepted_user_id, ''), i.reported_ip, i.request_ip,
	i.locale, i.handed_out, i.delivery, i.delivery_error, i.send_count, COALESCE(m.due_at, 0), i.expires_at, i.created_at, i.updated_at,
	COALESCE(i.sent_at, 0), COALESCE(i.accepted_at, 0), COALESCE(i.cancelled_at, 0)
	FROM invitations i JOIN tenants t ON t.id = i.tenant_id LEFT JOIN roles r ON r.id = i.role_id
	LEFT JOIN invitation_mails m ON m.invitation_id = i.id `

func scanRecord(row interface{ Scan(...any) error }) (record, error) {
	var r record
	err := row.Scan(&r.id, &r.tenantID, &r.tenantName, &r.tenantStatus, &r.email, &r.emailKey, &r.name, &r.note, &r.roleID, &r.roleName,
		&r.status, &r.inviterID, &r.inviterName, &r.acceptedUserID, &r.reportedIP, &r.requestIP,
		&r.locale, &r.handedOut, &r.delivery, &r.deliveryError, &r.sendCount, &r.nextAttempt, &r.expiresAt, &r.createdAt, &r.updatedAt,
		&r.sentAt, &r.acceptedAt, &r.cancelledAt)
	if errors.Is(err, sql.ErrNoRows) {
		return record{}, identity.ErrNotFound
	}
	if err != nil {
		return record{}, fmt.Errorf("read invitation: %w", err)
	}
	return r, nil
}

// find returns the invitation id of the tenant, or identity.ErrNotFound.
func find(ctx context.Context, q identity.Queryer, tenantID int64, id string) (record, error) {
	return scanRecord(q.QueryRowContext(ctx, selectRecord+`WHERE i.tenant_id = $1 AND i.id = $2`, tenantID, id))
}

// findByToken returns the invitation whose token has the hash, or
// identity.ErrNotFound. The token itself says which tenant it belongs to.
func findByToken(ctx context.Context, q identity.Queryer, hash []byte) (record, error) {
	return scanRecord(q.QueryRowContext(ctx, selectRecord+`WHERE i.token_hash = $1`, hash))
}

// findPending returns the id of the pending invitation of an address, or
// identity.ErrNotFound.
func findPending(ctx context.Context, q identity.Queryer, tenantID int64, emailKey string) (string, error) {
	var id string
	err := q.QueryRowContext(ctx, `SELECT id FROM invitations WHERE tenant_id = $1 AND email_key = $2 AND status = 'pending'`,
		tenantID, emailKey).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", identity.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("look for a pending invitation: %w", err)
	}
	return id, nil
}

// filter selects rows of a list; an empty field selects all.
type filter struct {
	status, emailKey string
	// from and before bound created_at, in unix milliseconds: from is in, before
	// is out.
	from, before int64
}

// list returns at most limit rows of the tenant, newest first, that come after
// the given place. Status filters on what the status is at nowMS.
func list(ctx context.Context, q identity.Queryer, tenantID, nowMS int64, f filter, after *cursor, limit int) ([]record, error) {
	var args []any
	place := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	query := selectRecord + `WHERE i.tenant_id = ` + place(tenantID)
	switch f.status {
	case "":
	case statusPending:
		query += ` AND i.status = 'pending' AND i.expires_at > ` + place(nowMS)
	case statusExpired:
		query += ` AND (i.status = 'expired' OR i.status = 'pending' AND i.expires_at <= ` + place(nowMS) + `)`
	default:
		query += ` AND i.status = ` + place(f.status)
	}
	if f.emailKey != "" {
		query += ` AND i.email_key = ` + place(f.emailKey)
	}
	if f.from != 0 {
		query += ` AND i.created_at >= ` + place(f.from)
	}
	if f.before != 0 {
		query += ` AND i.created_at < ` + place(f.before)
	}
	if after != nil {
		query += ` AND (i.created_at, i.id) < (` + place(after.createdAt) + `, ` + place(after.id) + `)`
	}
	rows, err := q.QueryContext(ctx, query+` ORDER BY i.created_at DESC, i.id DESC LIMIT `+place(limit), args...)
	if err != nil {
		return nil, fmt.Errorf("list invitations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var records []record
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, rows.Err()
}

// insert stores a new pending invitation. tokenHash is nil if its mail is to
// make the token.
func insert(ctx context.Context, tx *database.Tx, r *record, tokenHash []byte) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO invitations (id, tenant_id, email, email_key, name, note, role_id, token_hash,
		inviter_id, inviter_name, reported_ip, request_ip, locale, handed_out, send_count, expires_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULLIF($9, ''), $10, $11, $12, $13, $14, 1, $15, $16, $16)`,
		r.id, r.tenantID, r.email, r.emailKey, r.name, r.note, r.roleID, tokenHash,
		r.inviterID, r.inviterName, r.reportedIP, r.requestIP, r.locale, number(r.handedOut), r.expiresAt, tx.NowMS())
	if err != nil {
		return fmt.Errorf("insert invitation: %w", err)
	}
	return nil
}

// number is how both databases keep a truth value.
func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// changed reports whether a guarded UPDATE of one row found it.
func changed(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("update invitation: %w", err)
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// markAccepted is the one statement that decides who accepts: it is true for
// exactly one caller of all that hold the same live token.
func markAccepted(ctx context.Context, tx *database.Tx, tokenHash []byte, userID string) (bool, error) {
	return changed(tx.ExecContext(ctx, `UPDATE invitations SET status = 'accepted', accepted_user_id = $1, accepted_at = $2,
		updated_at = $2, version = version + 1
		WHERE token_hash = $3 AND status = 'pending' AND expires_at > $2`, userID, tx.NowMS(), tokenHash))
}

// markCancelled is true if the invitation was pending until now.
func markCancelled(ctx context.Context, tx *database.Tx, tenantID int64, id string) (bool, error) {
	return changed(tx.ExecContext(ctx, `UPDATE invitations SET status = 'cancelled', cancelled_at = $1, updated_at = $1, version = version + 1
		WHERE tenant_id = $2 AND id = $3 AND status = 'pending' AND expires_at > $1`, tx.NowMS(), tenantID, id))
}

// renew gives a pending invitation another expiry, and the token with the given
// hash or, if that is nil, none until its mail is made. It is false if
// the invitation is not pending, was sent too often, or was sent later than
// notSince. One whose mail did not go out may be sent again at once.
func renew(ctx context.Context, tx *database.Tx, tenantID int64, id string, tokenHash []byte, expiresAt, notSince int64) (bool, error) {
	return changed(tx.ExecContext(ctx, `UPDATE invitations SET token_hash = $1, expires_at = $2, updated_at = $3, handed_out = $4,
		delivery = 'pending', delivery_error = '', send_count = send_count + 1, version = version + 1
		WHERE tenant_id = $5 AND id = $6 AND status = 'pending' AND expires_at > $3 AND send_count < $7
		AND (delivery = 'failed' OR delivery_error <> '' OR updated_at <= $8)`,
		tokenHash, expiresAt, tx.NowMS(), number(tokenHash != nil), tenantID, id, maxSends, notSince))
}

// countPending returns how many invitations of the tenant are pending at the
// transaction's time.
func countPending(ctx context.Context, tx *database.Tx, tenantID int64) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM invitations WHERE tenant_id = $1 AND status = 'pending' AND expires_at > $2`,
		tenantID, tx.NowMS()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count pending invitations: %w", err)
	}
	return n, nil
}

// expireLapsed makes the expiry of an address's invitation durable, so that
// the person can be invited again. It returns the invitation's id, or "".
func expireLapsed(ctx context.Context, tx *database.Tx, tenantID int64, emailKey string) (string, error) {
	var id string
	err := tx.QueryRowContext(ctx, `UPDATE invitations SET status = 'expired', updated_at = $1, version = version + 1
		WHERE tenant_id = $2 AND email_key = $3 AND status = 'pending' AND expires_at <= $1 RETURNING id`,
		tx.NowMS(), tenantID, emailKey).Scan(&id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("expire invitation: %w", err)
	}
	return id, nil
}

// isMember reports whether the user with the canonical address is a member.
func isMember(ctx context.Context, q identity.Queryer, tenantID int64, emailKey string) (bool, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT COUNT(*) FROM memberships m JOIN users u ON u.id = m.user_id
		WHERE m.tenant_id = $1 AND u.email_key = $2`, tenantID, emailKey).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look for a membership: %w", err)
	}
	return n > 0, nil
}
