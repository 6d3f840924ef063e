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

const insertChange = `INSERT INTO permission_changes (tenant_id, changed_at) VALUES ($1, $2)`

// Touch records that something changed in one tenant's part of the permission
// table: its name or status, its roles, what they may do, its members. Whoever
// changes that calls it in the same transaction; gateways then reload the
// tenant. A user's status counts too: touch every tenant the user is in.
func Touch(ctx context.Context, tx *database.Tx, tenantID int64) error {
	if _, err := tx.ExecContext(ctx, insertChange, tenantID, tx.NowMS()); err != nil {
		return fmt.Errorf("record permission change: %w", err)
	}
	return nil
}

// TouchCatalogue records that products, features or their actions changed, so
// that gateways read everything again. See [Touch].
func TouchCatalogue(ctx context.Context, tx *database.Tx) error {
	if _, err := tx.ExecContext(ctx, insertChange, nil, tx.NowMS()); err != nil {
		return fmt.Errorf("record permission change: %w", err)
	}
	return nil
}

const selectNewest = `SELECT seq, changed_at FROM permission_changes ORDER BY seq DESC LIMIT 1`

// newest returns the table's version, the zero version if nothing ever changed.
func newest(ctx context.Context, tx *sql.Tx) (version, error) {
	var v version
	err := tx.QueryRowContext(ctx, selectNewest).Scan(&v.seq, &v.at)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return v, fmt.Errorf("read newest permission change: %w", err)
	}
	return v, nil
}

const selectChanges = `SELECT seq, tenant_id, changed_at FROM permission_changes WHERE seq >= $1 ORDER BY seq`

// touchedSince returns the tenants that changed after old. ok is false if they
// can't be known, so that everything must be read: the catalogue changed, rows
// are missing in between, old itself is not in this history, or there are more
// than limit.
func touchedSince(ctx context.Context, tx *sql.Tx, old version, limit int) (touched map[int64]*tenant, ok bool, err error) {
	rows, err := tx.QueryContext(ctx, selectChanges, old.seq)
	if err != nil {
		return nil, false, fmt.Errorf("read permission changes: %w", err)
	}
	defer func() { _ = rows.Close() }()
	touched = map[int64]*tenant{}
	next := old.seq
	for rows.Next() {
		var (
			seq, at  int64
			tenantID sql.NullInt64
		)
		if err := rows.Scan(&seq, &tenantID, &at); err != nil {
			return nil, false, fmt.Errorf("read permission changes: %w", err)
		}
		switch {
		case seq != next, seq == old.seq && at != old.at:
			return nil, false, nil
		case seq != old.seq && !tenantID.Valid:
			return nil, false, nil
		case seq != old.seq:
			touched[tenantID.Int64] = nil
		}
		if next++; len(touched) > limit {
			return nil, false, nil
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("read permission changes: %w", err)
	}
	return touched, next > old.seq, nil
}
