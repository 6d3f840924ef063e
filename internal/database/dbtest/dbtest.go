// Package dbtest gives a test fresh databases, in SQLite and in PostgreSQL, and
// PostgreSQL servers of its own, which the test may freeze, kill and start
// again. Only tests import it.
//
// Databases are made on the server that TEST_POSTGRES_DSN names, a postgres://
// URL of somebody who may create databases (tools/with-postgres.sh starts one).
// Without it those tests are skipped, or fail if the environment says
// TENANTGATE_REQUIRE_SERVICES=1.
package dbtest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/migrations"
)

const (
	// variable names the server on which databases are made.
	variable = "TEST_POSTGRES_DSN"
	// patience bounds every step that a server does at once.
	patience = 30 * time.Second
)

// Each runs f twice, as the subtests "sqlite" and "postgres", in parallel, each
// with the URL of a fresh database whose schema is up to date. Like all
// parallel subtests they run when the test function has returned.
func Each(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, Postgres(t))
	})
}

// Open opens a database for the length of the test.
func Open(tb testing.TB, url string, c clock.Clock) *database.DB {
	tb.Helper()
	db, err := database.Open(tb.Context(), url, c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// migrated is an SQLite file whose schema is up to date, made once.
var migrated = sync.OnceValues(func() (content []byte, err error) {
	folder, err := os.MkdirTemp("", "tenantgate-dbtest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // what is left of it harms nobody
	path := filepath.Join(folder, "t.db")
	if err := migrate("sqlite://" + path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// SQLite returns the URL of a fresh SQLite database whose schema is up to date.
func SQLite(tb testing.TB) string {
	tb.Helper()
	content, err := migrated()
	if err != nil {
		tb.Fatalf("make an SQLite database: %v", err)
	}
	folder, err := os.MkdirTemp("", "tenantgate-dbtest-") // the one of tb can have a # in its name
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			tb.Error(err)
		}
	})
	path := filepath.Join(folder, "t.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	return "sqlite://" + path
}

// migrate brings the schema of a database up to date.
func migrate(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := database.Open(ctx, url, clock.System{})
	if err != nil {
		return err
	}
	if err := db.Migrate(ctx); err != nil {
		_ = db.Close() // the first error says what is wrong
		return err
	}
	return db.Close()
}

// Postgres returns the URL of a fresh PostgreSQL database whose schema is up to
// date. It is dropped at the end of the test, whoever is still connected.
func Postgres(tb testing.TB) string {
	tb.Helper()
	server := shared(tb)
	template, err := template()
	if err != nil {
		tb.Fatalf("make a PostgreSQL database: %v", err)
	}
	return create(tb, server, "TEMPLATE "+template)
}

// PostgresEmpty is [Postgres] without a schema.
func PostgresEmpty(tb testing.TB) string {
	tb.Helper()
	return create(tb, shared(tb), "TEMPLATE template0")
}

// shared returns the URL of the server for everybody's databases.
func shared(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(variable)
	if server == "" {
		missing(tb, variable+" is not set: run the tests by `make test` or tools/with-postgres.sh")
	}
	return server
}

// missing skips the test, or fails it if all services must be there.
func missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("TENANTGATE_REQUIRE_SERVICES") != "" {
		tb.Fatal("PostgreSQL is required: " + reason)
	}
	tb.Skip("needs PostgreSQL: " + reason)
}

func create(tb testing.TB, server, options string) string {
	tb.Helper()
	name := fmt.Sprintf("tenantgate_test_%016x", rand.Uint64()) //nolint:gosec // unlike the others, not unguessable
	if err := admin(server, "CREATE DATABASE "+name+" "+options); err != nil {
		tb.Fatalf("make a PostgreSQL database: %v", err)
	}
	tb.Cleanup(func() {
		if err := admin(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop the test's database: %v", err)
		}
	})
	return withDatabase(tb, server, name)
}

// withDatabase returns a server's URL with another database.
func withDatabase(tb testing.TB, server, name string) string {
	tb.Helper()
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatalf("%s is no URL", variable)
	}
	u.Path = "/" + name
	return u.String()
}

// admin runs statements on a server, each by itself.
func admin(server string, statements ...string) error {
	return connected(server, func(ctx context.Context, conn *pgx.Conn) error {
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

func connected(server string, f func(ctx context.Context, conn *pgx.Conn) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() {
		if e := conn.Close(ctx); err == nil {
			err = e
		}
	}()
	return f(ctx, conn)
}

// template returns the name of a database whose schema is up to date. There is
// one on the server for each set of migrations, made by the first test process
// that needs it and kept for the next ones.
var template = sync.OnceValues(func() (name string, err error) {
	server := os.Getenv(variable)
	name, err = templateName()
	if err != nil {
		return "", err
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("%s is no URL", variable)
	}
	draft := name + "_draft"
	u.Path = "/" + draft
	return name, connected(server, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(7461)`); err != nil { // until we disconnect
			return err
		}
		var there bool
		if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)`, name).Scan(&there); err != nil || there {
			return err
		}
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+draft+" WITH (FORCE)"); err != nil {
			return err
		}
		if err := createForeign(ctx, conn, draft); err != nil {
			return err
		}
		if err := migrate(u.String()); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "ALTER DATABASE "+draft+" RENAME TO "+name)
		return err
	})
})

// createForeign makes a database in which texts sort as people of a country
// want it, where PostgreSQL can (15 and newer): nothing of ours depends on it.
func createForeign(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'")
	if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0")
	}
	return err
}

// templateName returns the name for the migrations of this program.
func templateName() (string, error) {
	digest := fnv.New64a()
	err := fs.WalkDir(migrations.Files, "postgres", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := migrations.Files.ReadFile(path)
		_, _ = digest.Write(append([]byte(path), content...)) // never fails
		return err
	})
	return "tenantgate_template_" + hex.EncodeToString(digest.Sum(nil)), err
}
