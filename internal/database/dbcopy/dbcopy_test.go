package dbcopy_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbcopy"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// rows has at least one row in every table, with values that are easy to get
// wrong: NULL, empty texts, bytes that are no text, numbers beyond 32 bits.
var rows = []string{
	`INSERT INTO tenants (id, name, status, seats, allowed_domains, denied_domains, created_at, updated_at) VALUES
		(1, 'acme', 'active', NULL, '', '', 1, 2), (7, 'Žluť 中文', 'suspended', 5, 'x.test', 'y.test,*.y.test', 1700000000123, 9007199254740993)`,
	`INSERT INTO users (id, email, email_key, name, password_hash, created_at, updated_at) VALUES
		('u1', 'Ann@x.test', 'ann@x.test', '', NULL, 1, 1), ('u2', 'b@x.test', 'b@x.test', 'O''Hara "x"; --', '$argon2id$v=19$m=1', 1, 1)`,
	`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 1, 1)`,
	`INSERT INTO features (id, product_id, name, actions, created_at, updated_at) VALUES (3, 1, 'reports', 'read,write,delete,export', 1, 1)`,
	`INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at) VALUES (9, 1, 'Owner', 'owner', 1, 1), (4, 1, 'Viewer', 'custom', 1, 1), (5, 7, 'Viewer', 'custom', 1, 1)`,
	`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'u1', 4, 1, 1), (7, 'u1', 5, 1, 1), (1, 'u2', 9, 1, 1)`,
	`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (4, 3, 'read'), (5, 3, 'export')`,
	`INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (1, 9, 4)`,
	`INSERT INTO role_wildcards (id, role_id, product_id, feature_id, action) VALUES (2, 4, 1, NULL, 'read'), (3, 4, 1, 3, NULL), (8, 5, NULL, NULL, NULL)`,
	`INSERT INTO permission_changes (seq, tenant_id, changed_at, scope, user_id) VALUES (40, NULL, 5, 'tenant', NULL), (41, 1, 6, 'member', 'u1')`,
	`INSERT INTO audit_events (id, tenant_id, actor_id, action, target, detail, created_at) VALUES ('e1', NULL, 'system', 'x', 'y', '{"a":"ü"}', 1), ('e2', 1, 'u1', 'x', 'y', '{}', 1)`,
	`INSERT INTO rate_uses (id, key, at) VALUES ('r1', 'mail:b@x.test', 9007199254740993)`,
	`INSERT INTO webhook_events (id, type, tenant_id, payload, attempts, last_error, created_at, due_at) VALUES
		('w1', 'invitation.created', 1, '{"a":"ü"}', 0, '', 1, 9007199254740993), ('w2', 'invitation.expired', 99, '{}', 12, 'status 500', 1, NULL)`,
	`INSERT INTO sessions (id, user_id, tenant_id, created_at, expires_at, revoked_at) VALUES ('s1', 'u1', 1, 1, 2, NULL), ('s2', 'u2', NULL, 1, 2, 3)`,
}

// blobs are rows with bytes.
var blobs = []string{
	`INSERT INTO signing_keys (kid, algorithm, state, private_key, created_at, updated_at) VALUES ('k', 'EdDSA', 'current', $1, 1, 1)`,
	`INSERT INTO refresh_tokens (token_hash, session_id, created_at, expires_at, used_at) VALUES ($1, 's1', 1, 2, NULL)`,
	`INSERT INTO invitations (id, tenant_id, email, email_key, token_hash, role_id, inviter_id, accepted_user_id, status, expires_at, created_at, updated_at, accepted_at)
		VALUES ('i1', 1, 'b@x.test', 'b@x.test', $1, 4, 'u1', 'u2', 'accepted', 9, 1, 1, 3)`,
	`INSERT INTO idempotency_keys (tenant_id, caller_id, route, key, fingerprint, status, location, response, expires_at)
		VALUES (1, 'u1', 'POST /api/invitations/', '"k"', $1, 201, '/api/invitations/i1', '{"a":"ü"}', 9007199254740993)`,
}

// last are rows that need one of blobs.
var last = []string{
	`INSERT INTO invitation_mails (invitation_id, attempts, actor_id, trace_id, queued_at, due_at) VALUES ('i1', 3, 'u1', '', 1, 9007199254740993)`,
}

func exec(t *testing.T, db *database.DB, statement string, args ...any) {
	t.Helper()
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	}), statement)
}

func fill(t *testing.T, db *database.DB) {
	t.Helper()
	for _, statement := range rows {
		exec(t, db, statement)
	}
	for _, statement := range blobs {
		exec(t, db, statement, []byte{0, 1, 2, 0xff, '\'', 0xc3})
	}
	for _, statement := range last {
		exec(t, db, statement)
	}
	// A tenant that is gone: its id must not come back.
	exec(t, db, `INSERT INTO tenants (id, name, created_at, updated_at) VALUES (20, 'gone', 1, 1)`)
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error { return tx.ReserveIDs(t.Context(), "tenants", 20) }))
	exec(t, db, `DELETE FROM tenants WHERE id = 20`)
}

// tableNames returns all tables but the one of the migrations.
func tableNames(t *testing.T, db *database.DB, url string) (names []string) {
	t.Helper()
	query := `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'goose%'`
	if strings.HasPrefix(url, "postgres") {
		query = `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%'`
	}
	found, err := db.Reader().Query(query)
	require.NoError(t, err)
	defer func() { require.NoError(t, found.Close()) }()
	for found.Next() {
		var name string
		require.NoError(t, found.Scan(&name))
		names = append(names, name)
	}
	require.NoError(t, found.Err())
	slices.Sort(names)
	return names
}

// dump returns all rows of all tables, sorted.
func dump(t *testing.T, db *database.DB, url string) (all []string) {
	t.Helper()
	for _, name := range tableNames(t, db, url) {
		found, err := db.Reader().Query("SELECT * FROM " + name)
		require.NoError(t, err)
		columns, err := found.Columns()
		require.NoError(t, err)
		for found.Next() {
			row := make([]any, len(columns))
			places := make([]any, len(columns))
			for i := range row {
				places[i] = &row[i]
			}
			require.NoError(t, found.Scan(places...))
			line := name
			for i, column := range columns {
				line += fmt.Sprintf(" %s=%T:%q", column, row[i], fmt.Sprint(row[i]))
			}
			all = append(all, line)
		}
		require.NoError(t, found.Err())
		require.NoError(t, found.Close())
	}
	slices.Sort(all)
	return all
}

func TestCopyInEveryDirection(t *testing.T) {
	t.Parallel()
	lite, post := func(t *testing.T) string { t.Helper(); return dbtest.SQLite(t) }, func(t *testing.T) string { t.Helper(); return dbtest.Postgres(t) }
	for name, test := range map[string]struct{ from, to func(*testing.T) string }{
		"sqlite to postgres":   {lite, post},
		"postgres to sqlite":   {post, lite},
		"sqlite to sqlite":     {lite, lite},
		"postgres to postgres": {post, post},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fromURL, toURL := test.from(t), test.to(t)
			from, to := dbtest.Open(t, fromURL, clock.System{}), dbtest.Open(t, toURL, clock.System{})
			fill(t, from)
			reader, err := database.OpenReadOnly(fromURL, clock.System{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, reader.Close()) })

			copied, err := dbcopy.Copy(t.Context(), reader, to)
			require.NoError(t, err)
			var names []string
			for _, table := range copied {
				require.Positive(t, table.Rows, "%s: the test shows nothing", table.Name)
				names = append(names, table.Name)
			}
			slices.Sort(names)
			require.Equal(t, tableNames(t, to, toURL), names, "no table is left out")
			require.Equal(t, dump(t, from, fromURL), dump(t, to, toURL))

			for table, want := range map[string]int{
				`tenants (name, created_at, updated_at) VALUES ('new', 1, 1)`:               21,
				`products (name, created_at, updated_at) VALUES ('new', 1, 1)`:              2,
				`features (product_id, name, created_at, updated_at) VALUES (1, 'n', 1, 1)`: 4,
				`roles (tenant_id, name, created_at, updated_at) VALUES (1, 'new', 1, 1)`:   10,
				`role_wildcards (role_id, product_id) VALUES (5, 1)`:                        9,
			} {
				var id int
				require.NoError(t, to.InTx(t.Context(), func(tx *database.Tx) error {
					return tx.QueryRow("INSERT INTO " + table + " RETURNING id").Scan(&id)
				}))
				require.Equal(t, want, id, table)
			}

			_, err = dbcopy.Copy(t.Context(), reader, to)
			require.ErrorIs(t, err, dbcopy.ErrNotEmpty)
		})
	}
}

func TestCopyOfNothing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		from, to := dbtest.Open(t, dbtest.SQLite(t), clock.System{}), dbtest.Open(t, url, clock.System{})
		_, err := dbcopy.Copy(t.Context(), from, to)
		require.NoError(t, err)
		var id int
		require.NoError(t, to.InTx(t.Context(), func(tx *database.Tx) error {
			return tx.QueryRow(`INSERT INTO tenants (name, created_at, updated_at) VALUES ('new', 1, 1) RETURNING id`).Scan(&id)
		}))
		require.Equal(t, 1, id)
	})
}

func TestCopyIntoAStoreThatIsNotEmpty(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		from, to := dbtest.Open(t, dbtest.SQLite(t), clock.System{}), dbtest.Open(t, url, clock.System{})
		fill(t, from)
		exec(t, to, `INSERT INTO audit_events (id, actor_id, action, target, created_at) VALUES ('e', 'a', 'b', 'c', 1)`)
		_, err := dbcopy.Copy(t.Context(), from, to)
		require.EqualError(t, err, "copy: the target is not empty: there are rows in audit_events")
		var n int
		require.NoError(t, to.Reader().QueryRow(`SELECT COUNT(*) FROM tenants`).Scan(&n))
		require.Zero(t, n)
	})
}

// TestCopyNoticesWriters has somebody write all the time.
func TestCopyNoticesWriters(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		from, to := dbtest.Open(t, url, clock.System{}), dbtest.Open(t, dbtest.SQLite(t), clock.System{})
		fill(t, from)
		members(t, from, 5000)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var written atomic.Int64
		go func() {
			for ctx.Err() == nil {
				_ = from.InTx(ctx, func(tx *database.Tx) error { // fails at the end only
					_, err := tx.ExecContext(ctx, `INSERT INTO audit_events (id, actor_id, action, target, created_at) VALUES ($1, 'a', 'b', 'c', 1)`,
						"w"+strconv.FormatInt(written.Add(1), 10))
					return err
				})
			}
		}()
		require.Eventually(t, func() bool { return written.Load() > 3 }, 10*time.Second, time.Millisecond)
		_, err := dbcopy.Copy(t.Context(), from, to)
		require.ErrorIs(t, err, dbcopy.ErrChanged)
		var n int
		require.NoError(t, to.Reader().QueryRow(`SELECT COUNT(*) FROM users`).Scan(&n))
		require.Zero(t, n, "nothing was copied")
	})
}

// TestATextThatPostgreSQLCanNotHoldIsNamed: SQLite takes any bytes for a text.
func TestATextThatPostgreSQLCanNotHoldIsNamed(t *testing.T) {
	t.Parallel()
	from, to := dbtest.Open(t, dbtest.SQLite(t), clock.System{}), dbtest.Open(t, dbtest.Postgres(t), clock.System{})
	exec(t, from, `INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ($1, 'a', 'a', 1, 1)`, "a\x00b")
	_, err := dbcopy.Copy(t.Context(), from, to)
	require.ErrorContains(t, err, "copy: table users: ")
}

// members adds n users, all of them members of tenant 1 with role 4.
func members(t testing.TB, db *database.DB, n int) {
	t.Helper()
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		for start := 0; start < n; start += 500 {
			users := make([]string, 0, 500)
			for i := start; i < min(start+500, n); i++ {
				users = append(users, fmt.Sprintf("('m%08d', 'm%08d@x.test', 'm%08d@x.test', 1, 1)", i, i, i))
			}
			if _, err := tx.Exec(`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ` + strings.Join(users, ",")); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at)
			SELECT 1, id, 4, 1, 1 FROM users WHERE id LIKE 'm%'`)
		return err
	}))
}

// TestMeasureAMillionMembers says how long a large copy takes and how much
// memory. It runs by hand: TENANTGATE_MEASURE=1.
func TestMeasureAMillionMembers(t *testing.T) {
	if os.Getenv("TENANTGATE_MEASURE") == "" {
		t.Skip("TENANTGATE_MEASURE is not set")
	}
	from, to := dbtest.Open(t, dbtest.SQLite(t), clock.System{}), dbtest.Open(t, dbtest.Postgres(t), clock.System{})
	fill(t, from)
	members(t, from, 1_000_000)
	for _, pair := range [][2]*database.DB{{from, to}, {to, dbtest.Open(t, dbtest.SQLite(t), clock.System{})}} {
		var peak atomic.Uint64
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			for ctx.Err() == nil {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapInuse))
				time.Sleep(20 * time.Millisecond)
			}
		}()
		started := time.Now()
		_, err := dbcopy.Copy(t.Context(), pair[0], pair[1])
		stop()
		require.NoError(t, err)
		t.Logf("%s, at most %d MiB of heap", time.Since(started), peak.Load()>>20)
	}
}
