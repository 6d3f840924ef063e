package database

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"

	"github.com/pressly/goose/v3"

	"github.com/tenantgate/tenantgate/internal/database/migrations"
)

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

// Schema is the state of the database's schema.
type Schema struct {
	// Have is the version found, 0 for none, Want the newest this program knows.
	Have, Want int64
	// Pending are the migrations that lie between them.
	Pending []Migration
}

// Migration is one step from a schema to the next.
type Migration struct {
	Version int64  `json:"version"`
	Name    string `json:"name"` // of its file
}

// migrateLock is held by who migrates.
const migrateLock = "migrate"

// Migrate brings the schema up to date. Of several that do so at once, one
// migrates and the others wait for it.
func (db *DB) Migrate(ctx context.Context) (err error) {
	if db.postgres != nil {
		unlock, err := db.lockSession(ctx, migrateLock)
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		defer unlock()
	}
	provider, err := db.newProvider(db.write)
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

// MigrateAtStart is [DB.Migrate] on SQLite, whose file is one program's own. A
// PostgreSQL server is shared by old and new programs while they are replaced:
// there it is [DB.CheckSchema], and the operator migrates.
func (db *DB) MigrateAtStart(ctx context.Context) error {
	if db.postgres != nil {
		return db.CheckSchema(ctx)
	}
	return db.Migrate(ctx)
}

// lockSession waits for a lock and returns what gives it back. It is the
// server's lock, kept by a connection and not by a transaction.
func (db *DB) lockSession(ctx context.Context, name string) (unlock func(), err error) {
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return nil, plain(err)
	}
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, lockNumber(name)); err != nil {
		_ = conn.Close() // the error to tell is the first
		return nil, err
	}
	return func() {
		// A lock that can't be given back ends with its connection, later.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, lockNumber(name))
		_ = conn.Close()
	}, nil
}

// CheckSchema returns a [*SchemaError] unless the schema is the one this
// program was built for. It writes nothing.
func (db *DB) CheckSchema(ctx context.Context) error {
	schema, err := db.Schema(ctx)
	if err != nil {
		return err
	}
	if schema.Have != schema.Want {
		return &SchemaError{Have: schema.Have, Want: schema.Want}
	}
	return nil
}

const selectVersion = `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied`

// Schema returns the state of the schema. It writes nothing.
func (db *DB) Schema(ctx context.Context) (Schema, error) {
	known, err := db.known()
	if err != nil {
		return Schema{}, err
	}
	schema := Schema{Want: known[len(known)-1].Version}
	err = db.read.QueryRowContext(ctx, selectVersion).Scan(&schema.Have)
	switch {
	case noTableSQLite(err), noTablePostgres(err):
	case cantReadSQLite(err):
		return Schema{}, unreadableSQLite(db.file, err)
	case err != nil:
		return Schema{}, fmt.Errorf("read schema version: %w", plain(err))
	}
	for _, step := range known {
		if step.Version > schema.Have {
			schema.Pending = append(schema.Pending, step)
		}
	}
	return schema, nil
}

// known returns the migrations of this program, the oldest first. They are read
// once: gateways look at the schema twice a second.
func (db *DB) known() ([]Migration, error) {
	db.listed.Do(func() {
		var provider *goose.Provider
		if provider, db.stepsErr = db.newProvider(db.read); db.stepsErr != nil {
			return
		}
		for _, source := range provider.ListSources() {
			db.steps = append(db.steps, Migration{Version: source.Version, Name: path.Base(source.Path)})
		}
	})
	return db.steps, db.stepsErr
}

func (db *DB) newProvider(pool *sql.DB) (*goose.Provider, error) {
	dialect, folder := goose.DialectSQLite3, "sqlite"
	if db.postgres != nil {
		dialect, folder = goose.DialectPostgres, "postgres"
	}
	files, err := fs.Sub(migrations.Files, folder)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	provider, err := goose.NewProvider(dialect, pool, files)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return provider, nil
}
