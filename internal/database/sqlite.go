package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/tenantgate/tenantgate/internal/clock"
)

func openSQLite(ctx context.Context, rawURL string, c clock.Clock) (*DB, error) {
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
	return &DB{write: write, read: read, file: absolute(path), clock: c}, nil
}

func openSQLiteReadOnly(rawURL string, c clock.Clock) (*DB, error) {
	path, err := sqlitePath(rawURL)
	if err != nil {
		return nil, err
	}
	read, err := sql.Open("sqlite3", dsn(path, "rw", "&_query_only=on"))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return &DB{read: read, file: absolute(path), clock: c}, nil
}

// absolute returns a path that an error can name: people seldom know which
// folder a process runs in.
func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
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
	case !ok:
		// Not repeated: it may be a URL with a password in it.
		return "", errors.New("the database must be given as sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE")
	case path == "" || strings.ContainsAny(path, "?#"):
		return "", fmt.Errorf("%q names no database file: give sqlite://PATH without options", rawURL)
	}
	return path, nil
}

// conflictsSQLite reports whether a constraint caused err. The driver's error
// is a value, not a pointer.
func conflictsSQLite(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.ExtendedCode {
	case sqlite3.ErrConstraintUnique, sqlite3.ErrConstraintPrimaryKey, sqlite3.ErrConstraintForeignKey, sqlite3.ErrConstraintRowID:
		return true
	}
	return false
}

// cantReadSQLite reports whether SQLite could not open its file, or the files
// beside it that it needs to read.
func cantReadSQLite(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrCantOpen || e.Code == sqlite3.ErrReadonly)
}

// unreadableSQLite returns what stands in the way of reading a file, after err,
// which names none.
func unreadableSQLite(file string, err error) error {
	info, missing := os.Stat(file)
	var e sqlite3.Error
	switch {
	case errors.Is(missing, fs.ErrNotExist):
		return fmt.Errorf("there is no database to read yet (`backends migrate` makes it): no file %s", file)
	case missing == nil && info.IsDir():
		return fmt.Errorf("%s is a directory: give the path of the database's file in it", file)
	case errors.As(err, &e) && e.Code == sqlite3.ErrReadonly:
		// https://www.sqlite.org/wal.html#readonly. The files are there while
		// another process has the database open.
		return fmt.Errorf("let this process write to the folder %s, where SQLite makes %s-wal and -shm also to read: %w", filepath.Dir(file), file, err)
	}
	return fmt.Errorf("open database %s: %w", file, err)
}

// noTableSQLite reports whether a statement named a table that does not exist.
func noTableSQLite(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && strings.Contains(e.Error(), "no such table")
}
