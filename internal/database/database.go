// Package database opens the store, brings its schema up to date and runs
// transactions. It knows no table.
package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/tenantgate/tenantgate/internal/clock"
)

//go:embed migrations/sqlite/*.sql
var migrations embed.FS

// ErrConflict is in the chain of an error that a unique or foreign key
// constraint caused.
var ErrConflict = errors.New("conflicts with what is stored")

// SchemaError says that the database's schema is not the one this program
// was built for.
type SchemaError struct {
	// Have is the version found, Want the newest this program knows.
	Have, Want int64
}

// Error names both versions and what to do.
func (e *SchemaError) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("database schema is version %d, newer than this program's %d: update the program", e.Have, e.Want)
	}
	return fmt.Sprintf("database schema is version %d, this program needs %d: run `backends migrate`", e.Have, e.Want)
}

// DB is an open store. It is safe for concurrent use.
type DB struct {
	// SQLite has one writer: a pool of a single connection queues writers in
	// Go, where a context can end the wait, and never meets SQLITE_BUSY from
	// our own process. Readers have a pool of their own.
	write, read *sql.DB
	clock       clock.Clock
}

// Tx is one write transaction with one time for everything that happens in it.
type Tx struct {
	*sql.Tx
	// Now is the transaction's time in UTC, cut to milliseconds.
	Now time.Time
}

// NowMS returns the transaction's time in unix milliseconds.
func (tx *Tx) NowMS() int64 { return tx.Now.UnixMilli() }

// Open opens the database that rawURL names. Only sqlite://PATH is known so
// far; PATH may be relative. The file is made if it does not exist; the folder
// must be there. Nothing is migrated.
func Open(ctx context.Context, rawURL string, c clock.Clock) (*DB, error) {
	path, err := sqlitePath(rawURL)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("open database %s: the folder %s does not exist", path, filepath.Dir(path))
	}
	// The store holds password hashes and signing keys: for its owner only.
	// SQLite gives its -wal and -shm files the same mode.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	write, err := sql.Open("sqlite3", dsn(path, "rw", "&_txlock=immediate"))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	if err := write.PingContext(ctx); err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	read, err := sql.Open("sqlite3", dsn(path, "rw", "&_query_only=on"))
	if err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return &DB{write: write, read: read, clock: c}, nil
}

// OpenReadOnly opens an existing database for reading. Unlike [Open] it makes
// no connection and no file: a missing file is an error of the first query.
func OpenReadOnly(rawURL string, c clock.Clock) (*DB, error) {
	path, err := sqlitePath(rawURL)
	if err != nil {
		return nil, err
	}
	read, err := sql.Open("sqlite3", dsn(path, "rw", "&_query_only=on"))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return &DB{read: read, clock: c}, nil
}

// dsn returns mattn's connection string. Every setting stands in it because a
// PRAGMA would reach one pooled connection only.
func dsn(path, mode, extra string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=" + mode +
		"&_journal_mode=WAL&_busy_timeout=5000&_foreign_keys=on&_synchronous=NORMAL" + extra
}

// sqlitePath returns the file that a sqlite:// URL names.
func sqlitePath(rawURL string) (string, error) {
	path, ok := strings.CutPrefix(rawURL, "sqlite://")
	switch {
	case strings.HasPrefix(rawURL, "postgres://"), strings.HasPrefix(rawURL, "postgresql://"):
		return "", errors.New("PostgreSQL is not supported yet: use sqlite://PATH")
	case !ok:
		return "", errors.New("the database must be given as sqlite://PATH")
	case path == "" || strings.ContainsAny(path, "?#"):
		return "", fmt.Errorf("%q names no database file: give sqlite://PATH without options", rawURL)
	}
	return path, nil
}

// Close closes all connections.
func (db *DB) Close() error {
	if db.write == nil {
		return db.read.Close()
	}
	return errors.Join(db.read.Close(), db.write.Close())
}

// Reader returns the pool for queries outside a transaction. Writing through
// it fails.
func (db *DB) Reader() *sql.DB { return db.read }

// Now returns the store's time in UTC, cut to milliseconds.
func (db *DB) Now() time.Time { return db.clock.Now().UTC().Truncate(time.Millisecond) }

// InTx runs f in a write transaction and commits it if f returns nil. The
// transaction holds the store's only writer: f must not hash, send mail or call
// another service. Constraint violations come back wrapped in [ErrConflict].
func (db *DB) InTx(ctx context.Context, f func(tx *Tx) error) error {
	sqlTx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = sqlTx.Rollback() }() // a no-op after Commit
	if err := f(&Tx{Tx: sqlTx, Now: db.Now()}); err != nil {
		return translate(err)
	}
	if err := sqlTx.Commit(); err != nil {
		return translate(fmt.Errorf("commit: %w", err))
	}
	return nil
}

// translate adds [ErrConflict] to constraint violations. The driver's error is
// a value, not a pointer.
func translate(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.ExtendedCode {
	case sqlite3.ErrConstraintUnique, sqlite3.ErrConstraintPrimaryKey, sqlite3.ErrConstraintForeignKey, sqlite3.ErrConstraintRowID:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

// Migrate brings the schema up to date.
func (db *DB) Migrate(ctx context.Context) error {
	provider, err := newProvider(db.write)
	if err != nil {
		return err
	}
	have, want, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if have > want {
		return &SchemaError{Have: have, Want: want}
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// CheckSchema returns a [*SchemaError] unless the schema is the one this
// program was built for. It writes nothing.
func (db *DB) CheckSchema(ctx context.Context) error {
	provider, err := newProvider(db.read)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	want := sources[len(sources)-1].Version
	var have int64
	err = db.read.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied = 1`).Scan(&have)
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return &SchemaError{Have: 0, Want: want}
	}
	var e sqlite3.Error
	if errors.As(err, &e) && e.Code == sqlite3.ErrCantOpen {
		return fmt.Errorf("there is no database to read yet (`backends migrate` makes it): %w", err)
	}
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if have != want {
		return &SchemaError{Have: have, Want: want}
	}
	return nil
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	folder, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, folder)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return provider, nil
}
