package permission

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenantgate/tenantgate/internal/database"
)

// version names one state of the table: the newest row of permission_changes.
// The time tells apart two histories with the same numbers, such as a file and
// its restored backup.
type version struct {
	seq, at int64
}

// Channel is what is announced when the table changed (see database.Tx.Announce).
const Channel = "tenantgate_permissions"

// lockName is the lock that changes of the table hold until they are committed.
const lockName = "permission_changes"

// What of a tenant a change is about, as the column scope has it.
const (
	scopeTenant = "tenant"
	scopeRoles  = "roles"
	scopeMember = "member"
)

// keepChanges is how many rows of permission_changes are kept. A gateway that
// was away for longer reads everything again.
const keepChanges = 100_000

// Lock makes this the only transaction that changes the table until it ends.
// Whoever reads the table to decide on a change calls it before; [Touch] and
// its likes call it too.
func Lock(ctx context.Context, tx *database.Tx) error { return tx.Lock(ctx, lockName) }

// Touch records that something changed in one tenant's part of the permission
// table: its status, its roles, what they may do, its members. Whoever changes
// that calls it in the same transaction; gateways then reload the tenant. A
// user's status counts too: touch every tenant the user is in.
func Touch(ctx context.Context, tx *database.Tx, tenantID int64) error {
	return touch(ctx, tx, tenantID, scopeTenant, nil)
}

// TouchRoles is [Touch] for a change that leaves the members as they are: the
// tenant's status, its roles, what they hold and from whom they inherit.
func TouchRoles(ctx context.Context, tx *database.Tx, tenantID int64) error {
	return touch(ctx, tx, tenantID, scopeRoles, nil)
}

// TouchMember is [Touch] for a change of one member: new, gone, or with another
// role or status. Tenants can have a million others.
func TouchMember(ctx context.Context, tx *database.Tx, tenantID int64, userID string) error {
	return touch(ctx, tx, tenantID, scopeMember, userID)
}

// TouchCatalogue records that products, features or their actions changed, so
// that gateways read everything again. See [Touch].
func TouchCatalogue(ctx context.Context, tx *database.Tx) error {
	return touch(ctx, tx, nil, scopeTenant, nil)
}

const (
	// The number is taken under the lock, not from a sequence: numbers are in the
	// order of commits, and none is missing after a rollback.
	insertChange = `INSERT INTO permission_changes (seq, tenant_id, scope, user_id, changed_at)
		SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4 FROM permission_changes RETURNING seq`
	pruneChanges = `DELETE FROM permission_changes WHERE seq <= $1`
)

func touch(ctx context.Context, tx *database.Tx, tenantID any, scope string, userID any) error {
	if err := Lock(ctx, tx); err != nil {
		return err
	}
	var seq int64
	if err := tx.QueryRowContext(ctx, insertChange, tenantID, scope, userID, tx.NowMS()).Scan(&seq); err != nil {
		return fmt.Errorf("record permission change: %w", err)
	}
	if seq%1000 == 0 {
		if _, err := tx.ExecContext(ctx, pruneChanges, seq-keepChanges); err != nil {
			return fmt.Errorf("prune permission changes: %w", err)
		}
	}
	return tx.Announce(ctx, Channel)
}

const selectNewest = `SELECT seq, changed_at FROM permission_changes ORDER BY seq DESC LIMIT 1`

// newest returns the table's version, the zero version if nothing ever changed.
func newest(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) (version, error) {
	var v version
	err := q.QueryRowContext(ctx, selectNewest).Scan(&v.seq, &v.at)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return v, fmt.Errorf("read newest permission change: %w", err)
	}
	return v, nil
}

const selectChanges = `SELECT seq, tenant_id, scope, user_id, changed_at FROM permission_changes WHERE seq >= $1 ORDER BY seq`

const (
	// maxTouched is how many changed tenants are reloaded one by one. Beyond it,
	// reading the whole table in one go is cheaper.
	maxTouched = 1000
	// maxTouchedMembers is the same for the members of one tenant.
	maxTouchedMembers = 250
)

// change is what of one tenant has changed.
type change struct {
	all     bool                // everything
	roles   bool                // everything but the members
	members map[string]struct{} // these members, by user id
}

// widen adds what one row of permission_changes says. What this program does
// not understand means everything.
func (c *change) widen(scope string, userID sql.NullString) {
	switch {
	case c.all:
	case scope == scopeRoles:
		c.roles = true
	case scope == scopeMember && userID.Valid && len(c.members) < maxTouchedMembers:
		if c.members == nil {
			c.members = map[string]struct{}{}
		}
		c.members[userID.String] = struct{}{}
	default:
		*c = change{all: true}
	}
}

// touchedSince returns what changed after old, by tenant. ok is false if that
// can't be known, so that everything must be read: the catalogue changed, rows
// are missing in between, old itself is not in this history, or there are too
// many tenants.
func touchedSince(ctx context.Context, tx *sql.Tx, old version) (touched map[int64]*change, ok bool, err error) {
	rows, err := tx.QueryContext(ctx, selectChanges, old.seq)
	if err != nil {
		return nil, false, fmt.Errorf("read permission changes: %w", err)
	}
	defer func() { _ = rows.Close() }()
	touched = map[int64]*change{}
	for next := old.seq; rows.Next(); next++ {
		var (
			seq, at  int64
			tenantID sql.NullInt64
			scope    string
			userID   sql.NullString
		)
		if err := rows.Scan(&seq, &tenantID, &scope, &userID, &at); err != nil {
			return nil, false, fmt.Errorf("read permission changes: %w", err)
		}
		ok = seq == next && (seq != old.seq || at == old.at)
		if !ok {
			return nil, false, nil
		}
		if seq == old.seq {
			continue
		}
		if !tenantID.Valid || len(touched) >= maxTouched {
			return nil, false, nil
		}
		c := touched[tenantID.Int64]
		if c == nil {
			c = &change{}
			touched[tenantID.Int64] = c
		}
		c.widen(scope, userID)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("read permission changes: %w", err)
	}
	return touched, ok, nil
}
