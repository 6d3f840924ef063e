// Package database opens the store, brings its schema up to date and runs
// transactions, on SQLite and on PostgreSQL alike: the SQL of all its users is
// one set, with $1 for the first argument. It knows no table.
package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// ErrConflict is in the chain of an error that a unique or foreign key
// constraint caused.
var ErrConflict = errors.New("conflicts with what is stored")

// DB is an open store. It is safe for concurrent use.
type DB struct {
	// SQLite has one writer: a pool of a single connection queues writers in
	// Go, where a context can end the wait, and never meets SQLITE_BUSY from
	// our own process. Readers have a pool of their own, which can't write.
	write, read *sql.DB
	// file is the absolute path of SQLite's file, "" on PostgreSQL.
	file string
	// postgres is how to connect to PostgreSQL, nil on SQLite.
	postgres  *pgx.ConnConfig
	clock     clock.Clock
	announcer atomic.Pointer[func(channel string)]

	listed   sync.Once // of steps and stepsErr: see known
	steps    []Migration
	stepsErr error
}

// Tx is one write transaction with one time for everything that happens in it.
type Tx struct {
	*sql.Tx
	// Now is the transaction's time in UTC, cut to milliseconds.
	Now time.Time

	postgres  bool
	announced map[string]struct{} // channels, for after the commit
}

// NowMS returns the transaction's time in unix milliseconds.
func (tx *Tx) NowMS() int64 { return tx.Now.UnixMilli() }

// Open opens the database that rawURL names, sqlite://PATH or a postgres:// URL.
//
// PATH may be relative. The file is made if it does not exist; the folder must
// be there. A PostgreSQL server must answer. Nothing is migrated. Errors never
// hold the password.
func Open(ctx context.Context, rawURL string, c clock.Clock) (*DB, error) {
	if isPostgres(rawURL) {
		return openPostgres(ctx, rawURL, c)
	}
	return openSQLite(ctx, rawURL, c)
}

// OpenReadOnly opens an existing database for reading. Unlike [Open] it makes
// no connection and no file, and fails only for a URL that can't be used: what
// else is wrong is an error of the first query.
func OpenReadOnly(rawURL string, c clock.Clock) (*DB, error) {
	if isPostgres(rawURL) {
		return openPostgresReadOnly(rawURL, c)
	}
	return openSQLiteReadOnly(rawURL, c)
}

// CheckURL returns what makes a URL one that can't be used. Like all errors of
// this package it never holds the password.
func CheckURL(rawURL string) error {
	var err error
	if isPostgres(rawURL) {
		_, _, err = parsePostgres(rawURL)
	} else {
		_, err = sqlitePath(rawURL)
	}
	return err
}

func isPostgres(rawURL string) bool {
	return strings.HasPrefix(rawURL, "postgres://") || strings.HasPrefix(rawURL, "postgresql://")
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

// BeginRead begins a transaction in which all queries see the store as it is at
// one moment. The caller ends it by Rollback.
func (db *DB) BeginRead(ctx context.Context) (*sql.Tx, error) {
	return db.read.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
}

// Now returns the store's time in UTC, cut to milliseconds.
func (db *DB) Now() time.Time { return db.clock.Now().UTC().Truncate(time.Millisecond) }

// maxTries bounds how often a transaction is run.
const maxTries = 6

// InTx runs f in a write transaction and commits it if f returns nil. f may run
// more than once: PostgreSQL ends a transaction that stands in the way of
// another one, and then all of it is done again, with a new Now. So f must set
// what it gives to the outside and never add to it, and must not hash, send
// mail or call another service: on SQLite it also holds the only writer.
//
// On PostgreSQL transactions run side by side, each statement on the newest
// state (READ COMMITTED): who reads to decide what to write takes [Tx.Lock]
// before, or lets a guarded UPDATE or a constraint decide. A statement that
// failed ends the transaction there: f returns its error and does not go on.
//
// Constraint violations come back wrapped in [ErrConflict].
func (db *DB) InTx(ctx context.Context, f func(tx *Tx) error) error {
	for try := 1; ; try++ {
		tx, err := db.tryTx(ctx, f)
		if err == nil {
			db.announce(tx)
			return nil
		}
		if try == maxTries || !(db.postgres != nil && lostRace(err)) || !pause(ctx, try) {
			return translate(blame(ctx, err))
		}
	}
}

// blame adds the end of ctx to the error of a connection that was cut for it:
// the driver may say no more than that the connection is bad.
func blame(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, driver.ErrBadConn) {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// begin begins a transaction. A connection that the server has ended, as by a
// restart, may be found out only now: it is dropped, and another one is taken.
func (db *DB) begin(ctx context.Context) (*sql.Tx, error) {
	for try := 0; ; try++ {
		tx, err := db.write.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted}) // which SQLite ignores
		if err == nil || ctx.Err() != nil || db.postgres == nil || try > maxConns || errors.As(err, new(*pgconn.ConnectError)) {
			return tx, err
		}
	}
}

// tryTx runs f in a transaction once.
func (db *DB) tryTx(ctx context.Context, f func(tx *Tx) error) (*Tx, error) {
	sqlTx, err := db.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", plain(err))
	}
	defer func() { _ = sqlTx.Rollback() }() // a no-op after Commit
	tx := &Tx{Tx: sqlTx, Now: db.Now(), postgres: db.postgres != nil}
	if err := f(tx); err != nil {
		return nil, err
	}
	if err := sqlTx.Commit(); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return tx, nil
}

// pause waits before the next try, longer each time and never as long as
// others do. It returns false if ctx ends first.
func pause(ctx context.Context, try int) bool {
	longest := 5 * time.Millisecond << try
	timer := time.NewTimer(rand.N(longest)) //nolint:gosec // how long we wait need not be unguessable
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Lock makes the transaction wait until no other holds the lock of that name,
// and keeps it until the end. On SQLite, which has one writer, it is held
// already.
func (tx *Tx) Lock(ctx context.Context, name string) error {
	if !tx.postgres {
		return nil
	}
	return tx.lockPostgres(ctx, name)
}

// Announce tells whoever listens on the channel that something changed, once
// the transaction is committed: listeners of the database itself (see
// [DB.Listen]) and the function of [DB.OnAnnounce].
func (tx *Tx) Announce(ctx context.Context, channel string) error {
	if _, done := tx.announced[channel]; done {
		return nil
	}
	if tx.postgres {
		if err := tx.notifyPostgres(ctx, channel); err != nil {
			return err
		}
	}
	if tx.announced == nil {
		tx.announced = map[string]struct{}{}
	}
	tx.announced[channel] = struct{}{}
	return nil
}

// OnAnnounce has f called after each commit of this DB in whose transaction
// something was announced, once for each channel. f must return at once.
func (db *DB) OnAnnounce(f func(channel string)) { db.announcer.Store(&f) }

func (db *DB) announce(tx *Tx) {
	if f := db.announcer.Load(); f != nil {
		for channel := range tx.announced {
			(*f)(channel)
		}
	}
}

// translate adds [ErrConflict] to constraint violations.
func translate(err error) error {
	if conflictsSQLite(err) || conflictsPostgres(err) {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}
