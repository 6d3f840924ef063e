package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

const (
	lastIDSQLite   = `SELECT seq FROM sqlite_sequence WHERE name = $1`
	lastIDPostgres = `SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0)`
)

// LastID returns the greatest id that the database ever gave to a row of the
// table, 0 if none: that row may be gone, and its id is not given again. tx is
// a transaction of this DB; the table's ids are numbers.
func (db *DB) LastID(ctx context.Context, tx *sql.Tx, table string) (last int64, err error) {
	query := lastIDSQLite
	if db.postgres != nil {
		query = lastIDPostgres
	}
	err = tx.QueryRowContext(ctx, query, table).Scan(&last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("last id of %s: %w", table, err)
	}
	return last, nil
}

// ReserveIDs has the database give no new row of the table an id that is at
// most last or is in the table already: who inserts rows with ids of their own
// calls it after them. The table's name must be a constant.
func (tx *Tx) ReserveIDs(ctx context.Context, table string, last int64) error {
	statements := []string{
		// SQLite sees to the ids that are in the table.
		"UPDATE sqlite_sequence SET seq = max(seq, $1) WHERE name = '" + table + "'",
		"INSERT INTO sqlite_sequence (name, seq) SELECT '" + table + "', $1 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '" + table + "')",
	}
	if tx.postgres {
		// Nobody may be given an id in between.
		if _, err := tx.ExecContext(ctx, "LOCK TABLE "+table+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return fmt.Errorf("reserve ids of %s: %w", table, err)
		}
		statements = []string{
			"SELECT setval(pg_get_serial_sequence('" + table + "', 'id'), top) FROM (SELECT GREATEST($1::bigint, MAX(id), " +
				"pg_sequence_last_value(pg_get_serial_sequence('" + table + "', 'id')::regclass)) AS top FROM " + table + ") AS ids WHERE top > 0",
		}
	}
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement, last); err != nil {
			return fmt.Errorf("reserve ids of %s: %w", table, err)
		}
	}
	return nil
}
