// Package dbcopy copies everything that a store holds into an empty one, from
// SQLite to PostgreSQL, back, or between two of a kind.
package dbcopy

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/tenantgate/tenantgate/internal/database"
)

// tables are all that there are, each after those that it refers to.
var tables = []string{
	"tenants", "users", "products", "features", "roles", "memberships",
	"role_feature_permissions", "role_parents", "role_wildcards", "permission_changes",
	"audit_events", "signing_keys", "sessions", "refresh_tokens", "invitations",
	"invitation_mails", "rate_uses", "idempotency_keys", "webhook_events",
}

// numbered are the tables whose ids the database gives.
var numbered = []string{"tenants", "products", "features", "roles", "role_wildcards"}

// batch is how many values one statement inserts at most: SQLite takes 32766.
const batch = 10_000

// ErrNotEmpty is in the chain of the error of [Copy] when the target holds
// something.
var ErrNotEmpty = errors.New("the target is not empty")

// ErrChanged is the error of [Copy] when somebody wrote to the source
// meanwhile. Nothing was copied.
var ErrChanged = errors.New("the source changed while it was copied: stop every program that writes to it, then copy again")

// Table is one table that was copied.
type Table struct {
	Name string `json:"table"`
	Rows int64  `json:"rows"`
}

// Copy copies all rows of from, as they are at one moment, to the empty store
// to, in one transaction; both must have this program's schema. Before it
// commits it reads all rows back and compares them. Ids that were given once in
// from are not given again in to. It returns the tables in the order of copying.
//
// Nobody may write to from meanwhile: what comes after that moment would be
// missing in to. Copy notices most of it and then returns [ErrChanged].
func Copy(ctx context.Context, from, to *database.DB) ([]Table, error) {
	var copied []Table
	err := to.InTx(ctx, func(target *database.Tx) (err error) {
		copied, err = copyAll(ctx, from, target)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	return copied, nil
}

func copyAll(ctx context.Context, from *database.DB, target *database.Tx) ([]Table, error) {
	if err := target.Lock(ctx, "copy"); err != nil {
		return nil, err
	}
	if err := checkEmpty(ctx, target); err != nil {
		return nil, err
	}
	source, err := readTx(ctx, from)
	if err != nil {
		return nil, err
	}
	defer func() { _ = source.Rollback() }() // nothing was written
	before, err := writes(ctx, source)
	if err != nil {
		return nil, err
	}
	copied := make([]Table, len(tables))
	for i, name := range tables {
		if copied[i], err = copyTable(ctx, source, target, name); err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
	}
	for _, name := range numbered {
		last, err := from.LastID(ctx, source, name)
		if err != nil {
			return nil, err
		}
		if err := target.ReserveIDs(ctx, name, last); err != nil {
			return nil, err
		}
	}
	now, err := readTx(ctx, from)
	if err != nil {
		return nil, err
	}
	defer func() { _ = now.Rollback() }() // nothing was written
	if after, err := writes(ctx, now); err != nil || after != before {
		return nil, errors.Join(err, ErrChanged)
	}
	return copied, nil
}

// readTx begins a transaction that sees one state of the store.
func readTx(ctx context.Context, db *database.DB) (*sql.Tx, error) {
	tx, err := db.BeginRead(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the source: %w", err)
	}
	return tx, nil
}

// checkEmpty returns [ErrNotEmpty] if there is a row in any table.
func checkEmpty(ctx context.Context, target *database.Tx) error {
	for _, name := range tables {
		var found bool
		if err := target.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+name+")").Scan(&found); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		if found {
			return fmt.Errorf("%w: there are rows in %s", ErrNotEmpty, name)
		}
	}
	return nil
}

// counters change with nearly everything that is written.
type counters struct{ changes, audits, tokens, invitations int64 }

func writes(ctx context.Context, source *sql.Tx) (c counters, err error) {
	err = source.QueryRowContext(ctx, `SELECT (SELECT COALESCE(MAX(seq), 0) FROM permission_changes), (SELECT COUNT(*) FROM audit_events),
		(SELECT COUNT(*) FROM refresh_tokens), (SELECT COALESCE(SUM(version), 0) FROM invitations)`).
		Scan(&c.changes, &c.audits, &c.tokens, &c.invitations)
	if err != nil {
		return c, fmt.Errorf("read the source: %w", err)
	}
	return c, nil
}

// copyTable copies one table and compares what is in the target afterwards.
func copyTable(ctx context.Context, source *sql.Tx, target *database.Tx, name string) (Table, error) {
	seed := maphash.MakeSeed()
	var sent, stored digest
	rows, err := source.QueryContext(ctx, "SELECT * FROM "+name) //nolint:gosec // a constant
	if err != nil {
		return Table{}, err
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return Table{}, err
	}
	w := &writer{target: target, table: name, columns: columns, perBatch: batch / len(columns)}
	defer w.close()
	err = each(rows, len(columns), func(row []any) error {
		sent.add(seed, row)
		return w.add(ctx, row)
	})
	if err == nil {
		err = w.flush(ctx)
	}
	if err != nil {
		return Table{}, err
	}
	back, err := target.QueryContext(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM "+name)
	if err != nil {
		return Table{}, err
	}
	defer func() { _ = back.Close() }()
	err = each(back, len(columns), func(row []any) error {
		stored.add(seed, row)
		return nil
	})
	if err != nil {
		return Table{}, err
	}
	if sent != stored {
		return Table{}, fmt.Errorf("what the target holds is not what was written: %d rows for %d", stored.rows, sent.rows)
	}
	return Table{name, sent.rows}, nil
}

// each calls f with every row. The slice is reused.
func each(rows *sql.Rows, columns int, f func(row []any) error) error {
	row, places := make([]any, columns), make([]any, columns)
	for i := range row {
		places[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(places...); err != nil {
			return err
		}
		if err := f(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// writer inserts rows, many with one statement.
type writer struct {
	target   *database.Tx
	table    string
	columns  []string
	perBatch int

	full *sql.Stmt // inserts perBatch rows
	args []any     // of the rows to come
}

func (w *writer) add(ctx context.Context, row []any) (err error) {
	w.args = append(w.args, row...)
	if len(w.args) < w.perBatch*len(w.columns) {
		return nil
	}
	if w.full == nil {
		if w.full, err = w.target.PrepareContext(ctx, w.statement(w.perBatch)); err != nil {
			return err
		}
	}
	_, err = w.full.ExecContext(ctx, w.args...)
	w.args = w.args[:0]
	return err
}

// flush inserts what is left.
func (w *writer) flush(ctx context.Context) error {
	if len(w.args) == 0 {
		return nil
	}
	_, err := w.target.ExecContext(ctx, w.statement(len(w.args)/len(w.columns)), w.args...)
	return err
}

func (w *writer) close() {
	if w.full != nil {
		_ = w.full.Close() // ends with the transaction anyway
	}
}

func (w *writer) statement(rows int) string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + w.table + " (" + strings.Join(w.columns, ", ") + ") VALUES ")
	n := 0
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		for j := range w.columns {
			b.WriteByte("(,"[min(j, 1)])
			n++
			fmt.Fprintf(&b, "$%d", n)
		}
		b.WriteByte(')')
	}
	return b.String()
}

// digest tells sets of rows apart, whatever their order.
type digest struct {
	rows int64
	sum  uint64
}

// add counts one row: of each value its kind, its length and its bytes.
func (d *digest) add(seed maphash.Seed, row []any) {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, value := range row {
		var kind byte
		var content []byte
		switch v := value.(type) {
		case nil:
		case int64:
			kind, content = 1, binary.BigEndian.AppendUint64(nil, uint64(v))
		case string:
			kind, content = 2, []byte(v)
		case []byte:
			kind, content = 3, v
		default:
			kind, content = 4, fmt.Append(nil, v)
		}
		_ = h.WriteByte(kind)                                                    // never fails
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(content)))) // neither do these
		_, _ = h.Write(content)
	}
	d.rows++
	d.sum += h.Sum64()
}
