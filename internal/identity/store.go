package identity

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/tenantgate/tenantgate/internal/database"
)

// ErrNotFound says that no row answers the question.
var ErrNotFound = errors.New("not found")

// Queryer reads. *sql.DB and *database.Tx are Queryers.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// The states of tenants and users.
const (
	StatusActive    = "active"
	StatusSuspended = "suspended" // of a tenant
	StatusDisabled  = "disabled"  // of a user
)

// User is one account, whatever number of tenants it is a member of.
type User struct {
	ID           string
	Email        string
	EmailKey     string
	Name         string
	PasswordHash string // PHC string, empty if the user has no password
	Status       string
}

// Membership is a user's place in one tenant.
type Membership struct {
	TenantID     int64
	TenantName   string
	TenantStatus string
	RoleID       int64
	RoleName     string
}

// AuditEvent is one row of the audit log. Detail is stored as JSON and must
// hold no secret.
type AuditEvent struct {
	TenantID  int64 // 0: the installation, not a tenant
	ActorID   string
	Action    string // "invitation.created"
	Target    string // "invitation/0192…"
	Detail    any
	RequestIP string
	TraceID   string
}

// NewID returns a new UUIDv7 (RFC 9562): unique, ordered by time, no secret.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

const userColumns = `id, email, email_key, name, COALESCE(password_hash, ''), status`

// FindUserByEmailKey returns the user with the given canonical address, or [ErrNotFound].
func FindUserByEmailKey(ctx context.Context, q Queryer, key string) (User, error) {
	return scanUser(q.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE email_key = $1`, key))
}

// FindUser returns the user with the given id, or [ErrNotFound].
func FindUser(ctx context.Context, q Queryer, id string) (User, error) {
	return scanUser(q.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = $1`, id))
}

func scanUser(row *sql.Row) (User, error) {
	var u User
	err := row.Scan(&u.ID, &u.Email, &u.EmailKey, &u.Name, &u.PasswordHash, &u.Status)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, ErrNotFound
	}
	if err != nil {
		return User{}, fmt.Errorf("read user: %w", err)
	}
	return u, nil
}

// InsertUser stores a new user. A taken id or address is a database.ErrConflict.
func InsertUser(ctx context.Context, tx *database.Tx, u User) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO users (id, email, email_key, name, password_hash, status, created_at, updated_at)
		VALUES ($1, $2, $3, $4, NULLIF($5, ''), $6, $7, $7)`,
		u.ID, u.Email, u.EmailKey, u.Name, u.PasswordHash, u.Status, tx.NowMS())
	if err != nil {
		return fmt.Errorf("insert user: %w", err)
	}
	return nil
}

// InsertMembership makes a user a member of a tenant. A membership that exists,
// or a role of another tenant, is a database.ErrConflict. The caller records
// the change of the permission table in the same transaction.
func InsertMembership(ctx context.Context, tx *database.Tx, tenantID int64, userID string, roleID int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)`,
		tenantID, userID, roleID, tx.NowMS())
	if err != nil {
		return fmt.Errorf("insert membership: %w", err)
	}
	return nil
}

// Memberships returns a user's memberships, the oldest first: that is where
// a login without a tenant goes, and no other tenant can get in front of it.
func Memberships(ctx context.Context, q Queryer, userID string) ([]Membership, error) {
	rows, err := q.QueryContext(ctx, `SELECT t.id, t.name, t.status, r.id, r.name
		FROM memberships m JOIN tenants t ON t.id = m.tenant_id JOIN roles r ON r.id = m.role_id
		WHERE m.user_id = $1 ORDER BY m.created_at, t.id`, userID)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var memberships []Membership
	for rows.Next() {
		var m Membership
		if err := rows.Scan(&m.TenantID, &m.TenantName, &m.TenantStatus, &m.RoleID, &m.RoleName); err != nil {
			return nil, fmt.Errorf("read memberships: %w", err)
		}
		memberships = append(memberships, m)
	}
	return memberships, rows.Err()
}

// RecordAudit stores an audit row in the transaction of the change it describes.
func RecordAudit(ctx context.Context, tx *database.Tx, e AuditEvent) error {
	detail := []byte("{}")
	if e.Detail != nil {
		var err error
		if detail, err = json.Marshal(e.Detail); err != nil {
			return fmt.Errorf("audit detail: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO audit_events (id, tenant_id, actor_id, action, target, detail, request_ip, trace_id, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		NewID(), sql.NullInt64{Int64: e.TenantID, Valid: e.TenantID != 0}, e.ActorID, e.Action, e.Target, string(detail), e.RequestIP, e.TraceID, tx.NowMS())
	if err != nil {
		return fmt.Errorf("record audit event: %w", err)
	}
	return nil
}
