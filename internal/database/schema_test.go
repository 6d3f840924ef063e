package database_test

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/database/migrations"
)

// eachEmpty is dbtest.Each without a schema.
func eachEmpty(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, "sqlite://"+filepath.Join(t.TempDir(), "t.db"))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, dbtest.PostgresEmpty(t))
	})
}

func TestMigrateIsIdempotentAndCheckSchemaSees(t *testing.T) {
	t.Parallel()
	eachEmpty(t, func(t *testing.T, url string) {
		ro, err := database.OpenReadOnly(url, clock.System{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, ro.Close()) })
		require.ErrorContains(t, ro.CheckSchema(t.Context()), "`backends migrate`")

		db := dbtest.Open(t, url, clock.System{})
		var old *database.SchemaError
		require.ErrorAs(t, db.CheckSchema(t.Context()), &old)
		require.Zero(t, old.Have)
		require.ErrorContains(t, old, "run `backends migrate`")
		before, err := db.Schema(t.Context())
		require.NoError(t, err)
		require.Len(t, before.Pending, int(before.Want))
		require.Equal(t, database.Migration{Version: 1, Name: "00001_init.sql"}, before.Pending[0])

		require.NoError(t, db.Migrate(t.Context()))
		require.NoError(t, db.Migrate(t.Context()))
		require.NoError(t, db.CheckSchema(t.Context()))
		require.NoError(t, ro.CheckSchema(t.Context()), "a reader that was opened first sees it too")
		after, err := db.Schema(t.Context())
		require.NoError(t, err)
		require.Equal(t, database.Schema{Have: before.Want, Want: before.Want}, after)

		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, TRUE)`)
			return err
		}))
		require.ErrorContains(t, db.CheckSchema(t.Context()), "newer than this program")
		require.ErrorContains(t, db.Migrate(t.Context()), "newer than this program")
	})
}

// TestAFileThatCantBeReadIsNamed also where SQLite's own error names nothing.
func TestAFileThatCantBeReadIsNamed(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, test := range map[string]struct{ path, want string }{
		"no file":  {filepath.Join(folder, "t.db"), "there is no database to read yet (`backends migrate` makes it): no file " + filepath.Join(folder, "t.db")},
		"a folder": {folder, folder + " is a directory: give the path of the database's file in it"},
	} {
		ro, err := database.OpenReadOnly("sqlite://"+test.path, clock.System{})
		require.NoError(t, err, name)
		require.EqualError(t, ro.CheckSchema(t.Context()), test.want, name)
		require.NoError(t, ro.Close())
	}
	here, err := os.Getwd()
	require.NoError(t, err)
	ro, err := database.OpenReadOnly("sqlite://none.db", clock.System{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ro.Close()) })
	require.ErrorContains(t, ro.CheckSchema(t.Context()), "no file "+filepath.Join(here, "none.db"))
}

// TestAtStartOnlySQLiteIsMigrated: old programs may still run on a PostgreSQL.
func TestAtStartOnlySQLiteIsMigrated(t *testing.T) {
	t.Parallel()
	eachEmpty(t, func(t *testing.T, url string) {
		db := dbtest.Open(t, url, clock.System{})
		if strings.HasPrefix(url, "sqlite") {
			require.NoError(t, db.MigrateAtStart(t.Context()))
			return
		}
		var old *database.SchemaError
		require.ErrorAs(t, db.MigrateAtStart(t.Context()), &old)
		require.NoError(t, db.Migrate(t.Context()))
		require.NoError(t, db.MigrateAtStart(t.Context()))
	})
}

func TestReplicasThatMigrateAtOnceDoNotFight(t *testing.T) {
	t.Parallel()
	url := dbtest.PostgresEmpty(t)
	errs := make([]error, 6)
	var all sync.WaitGroup
	for i := range errs {
		db := dbtest.Open(t, url, clock.System{})
		all.Go(func() { errs[i] = db.Migrate(t.Context()) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	var runs int
	db := dbtest.Open(t, url, clock.System{})
	require.NoError(t, db.Reader().QueryRow(`SELECT count(*) FROM goose_db_version WHERE version_id = 1`).Scan(&runs))
	require.Equal(t, 1, runs)
}

// steps opens a database for single migrations.
func steps(t *testing.T, url string) (*sql.DB, *goose.Provider) {
	t.Helper()
	driver, source, folder, dialect := "pgx", url, "postgres", goose.DialectPostgres
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		driver, source, folder, dialect = "sqlite3", "file:"+path+"?_foreign_keys=on", "sqlite", goose.DialectSQLite3
	}
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	files, err := fs.Sub(migrations.Files, folder)
	require.NoError(t, err)
	provider, err := goose.NewProvider(dialect, db, files)
	require.NoError(t, err)
	return db, provider
}

func strs(t *testing.T, db *sql.DB, query string) (all []string) {
	t.Helper()
	rows, err := db.Query(query)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		all = append(all, s)
	}
	require.NoError(t, rows.Err())
	return all
}

func TestMigrationsGoUpAndDownWithData(t *testing.T) {
	t.Parallel()
	eachEmpty(t, func(t *testing.T, url string) {
		db, provider := steps(t, url)
		_, err := provider.UpTo(t.Context(), 1)
		require.NoError(t, err)
		for _, statement := range []string{
			`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'acme', 1, 7), (2, 'globex', 1, 9)`,
			`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (50, 2, 'Owner', 1, 1)`,
			`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('u', 'u', 'u', 1, 1)`,
			`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (2, 'u', 50, 1, 1)`,
			`INSERT INTO permission_changes (seq, tenant_id, changed_at) VALUES (41, 1, 5)`,
		} {
			if strings.HasPrefix(url, "postgres") && strings.HasPrefix(statement, "INSERT INTO roles") {
				statement = strings.Replace(statement, "VALUES", "OVERRIDING SYSTEM VALUE VALUES", 1)
			}
			_, err := db.Exec(statement)
			require.NoError(t, err, statement)
		}

		_, err = provider.UpTo(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, []string{"1 Owner owner", "2 Built-in owner owner", "2 Owner custom"},
			strs(t, db, `SELECT tenant_id || ' ' || name || ' ' || kind FROM roles ORDER BY 1`))
		require.Equal(t, []string{"41 5 tenant", "42 9 tenant"},
			strs(t, db, `SELECT seq || ' ' || changed_at || ' ' || scope FROM permission_changes ORDER BY seq`))

		_, err = provider.DownTo(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, []string{"Owner"}, strs(t, db, `SELECT name FROM roles`))
		_, err = provider.UpTo(t.Context(), 2)
		require.NoError(t, err)
		_, err = provider.DownTo(t.Context(), 0)
		require.NoError(t, err)
		_, err = provider.Up(t.Context())
		require.NoError(t, err)
		require.Empty(t, strs(t, db, `SELECT name FROM roles`))
	})
}

// TestBothSchemasAreAlike compares tables, columns, what may be NULL, keys and
// references of the two.
func TestBothSchemasAreAlike(t *testing.T) {
	t.Parallel()
	lite, _ := steps(t, dbtest.SQLite(t))
	post, _ := steps(t, dbtest.Postgres(t))

	// "TEXT NOT NULL" of SQLite's primary keys is implied in PostgreSQL.
	liteColumns := strs(t, lite, `SELECT m.name || '.' || c.name || ' ' ||
			CASE c.type WHEN 'INTEGER' THEN 'bigint' WHEN 'TEXT' THEN 'text' WHEN 'BLOB' THEN 'bytea' ELSE c.type END ||
			CASE WHEN c."notnull" OR c.pk THEN ' NOT NULL' ELSE '' END || COALESCE(' DEFAULT ' || c.dflt_value, '') || CASE WHEN c.pk THEN ' KEY' ELSE '' END
		FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name NOT LIKE 'goose_%'`)
	postColumns := strs(t, post, `SELECT c.table_name || '.' || c.column_name || ' ' || c.data_type ||
			CASE WHEN c.is_nullable = 'NO' THEN ' NOT NULL' ELSE '' END || COALESCE(' DEFAULT ' || replace(c.column_default, '::text', ''), '') ||
			CASE WHEN EXISTS (SELECT 1 FROM information_schema.key_column_usage k JOIN information_schema.table_constraints t USING (constraint_name, table_name)
				WHERE t.constraint_type = 'PRIMARY KEY' AND k.table_name = c.table_name AND k.column_name = c.column_name) THEN ' KEY' ELSE '' END
		FROM information_schema.columns c WHERE c.table_schema = 'public' AND c.table_name NOT LIKE 'goose_%'`)
	same(t, liteColumns, postColumns)

	same(t, strs(t, lite, `SELECT m.name || ' (' || group_concat(f."from", ',') || ') ' || f."table" || ' ' || f.on_delete
		FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table' GROUP BY m.name, f.id`),
		strs(t, post, `SELECT c.conrelid::regclass || ' (' ||
				(SELECT string_agg(a.attname, ',' ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (num, n)
					JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num) || ') ' || c.confrelid::regclass || ' ' ||
				CASE c.confdeltype WHEN 'a' THEN 'NO ACTION' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE c.confdeltype::text END
			FROM pg_constraint c WHERE c.contype = 'f'`))

	same(t, strs(t, lite, `SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL`),
		strs(t, post, `SELECT i.indexname FROM pg_indexes i WHERE i.schemaname = 'public' AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname)`))

	for _, text := range strs(t, post, `SELECT a.attrelid::regclass || '.' || a.attname FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
		JOIN pg_collation l ON l.oid = a.attcollation WHERE r.relkind = 'r' AND r.relnamespace = 'public'::regnamespace AND l.collname <> 'C'`) {
		require.Fail(t, "a text that is not ordered by its bytes", text)
	}
}

func same(t *testing.T, lite, post []string) {
	t.Helper()
	require.NotEmpty(t, lite)
	sort.Strings(lite)
	sort.Strings(post)
	require.Equal(t, strings.Join(lite, "\n"), strings.Join(post, "\n"), fmt.Sprint(len(lite), len(post)))
}
