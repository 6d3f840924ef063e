package permission_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// size is a table with the given number of tenants, of roles, permission rows
// and members in each, and of features with 3 actions each, 10 to a product.
type size struct {
	name                    string
	tenants, features       int
	roles, perRole, members int
}

var sizes = []size{
	{"1k", 10, 30, 10, 10, 100},
	{"100k", 1_000, 300, 10, 10, 100},
	{"1M", 10_000, 300, 10, 10, 100},
	{"1M in one tenant", 1, 1000, 1000, 1000, 1_000_000},
}

// fill makes the table in SQL. User ids have the form and length of a UUID.
func (z size) fill(tb testing.TB, s store) {
	tb.Helper()
	const (
		numbers = `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d) `
		user    = `'00000000-0000-7000-8000-' || substr(CAST(1000000000000 + i AS TEXT), 2)`
	)
	roles, combinations := z.tenants*z.roles, z.features*3
	statements := []string{
		fmt.Sprintf(numbers+`INSERT INTO tenants (id, name, created_at, updated_at) SELECT i + 1, 't' || i, 1, 1 FROM n`, z.tenants),
		fmt.Sprintf(numbers+`INSERT INTO products (id, name, created_at, updated_at) SELECT i, 'p' || i, 1, 1 FROM n`, z.features/10),
		fmt.Sprintf(numbers+`INSERT INTO features (id, product_id, name, created_at, updated_at) SELECT i, i / 10, 'f' || i, 1, 1 FROM n`, z.features),
		fmt.Sprintf(numbers+`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) SELECT i, i / %d + 1, 'Role ' || (i %% %d), 1, 1 FROM n`, roles, z.roles, z.roles),
		// Everybody may read feature 1. 31 and the number of combinations have no
		// common divisor: besides that, no row comes twice.
		`INSERT INTO role_feature_permissions (role_id, feature_id, action) SELECT id, 1, 'read' FROM roles`,
		fmt.Sprintf(numbers+`INSERT INTO role_feature_permissions (role_id, feature_id, action)
			SELECT i / %d, (i / %d * 7 + i * 31) %% %d / 3, CASE (i / %d * 7 + i * 31) %% %d %% 3 WHEN 0 THEN 'read' WHEN 1 THEN 'write' ELSE 'delete' END FROM n
			WHERE i %% %d > 0 ON CONFLICT DO NOTHING`,
			roles*z.perRole, z.perRole, z.perRole, combinations, z.perRole, combinations, z.perRole),
		fmt.Sprintf(numbers+`INSERT INTO users (id, email, email_key, created_at, updated_at) SELECT `+user+`, CAST(i AS TEXT), CAST(i AS TEXT), 1, 1 FROM n`, z.tenants*z.members),
		fmt.Sprintf(numbers+`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at)
			SELECT i / %d + 1, `+user+`, i / %d * %d + i %% %d, 1, 1 FROM n`, z.tenants*z.members, z.members, z.members, z.roles, z.roles),
	}
	s.change(tb, statements)
}

// eachDatabase runs f on SQLite and on PostgreSQL.
func eachDatabase(b *testing.B, f func(b *testing.B, s store)) {
	b.Run("sqlite", func(b *testing.B) { f(b, openStore(b, dbtest.SQLite(b))) })
	b.Run("postgres", func(b *testing.B) { f(b, openStore(b, dbtest.Postgres(b))) })
}

// BenchmarkDecide measures a decision for random members at each size.
func BenchmarkDecide(b *testing.B) {
	for _, z := range sizes {
		b.Run(z.name, func(b *testing.B) {
			if testing.Short() && z.tenants*z.members > 100_000 {
				b.Skip("large")
			}
			s := openStore(b, dbtest.SQLite(b))
			z.fill(b, s)
			snapshot := load(b, s, nil)
			// 1,000 users at work, and everybody once: at 1M the second waits for memory, not for us.
			for name, users := range map[string]int{"": 1000, " everybody": z.tenants * z.members} {
				questions := z.questions(users)
				b.Run("by member"+name, func(b *testing.B) { decide(b, snapshot, questions) })
				b.Run("by principal"+name, func(b *testing.B) { decideFor(b, snapshot, questions) })
				b.Run("by roles"+name, func(b *testing.B) { decideRoles(b, snapshot, questions) })
			}
		})
	}
}

// BenchmarkLoad measures, at each size and on each database: reading
// everything, reading it again, and reading one tenant, its roles and one
// member after a change.
func BenchmarkLoad(b *testing.B) {
	for _, z := range sizes {
		b.Run(z.name, func(b *testing.B) {
			if testing.Short() && z.tenants*z.members > 100_000 {
				b.Skip("large")
			}
			eachDatabase(b, func(b *testing.B, s store) {
				z.fill(b, s)
				b.Run("everything", func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						load(b, s, nil)
					}
				})
				snapshot := load(b, s, nil)
				user := fmt.Sprintf("00000000-0000-7000-8000-%012d", 0)
				for name, touch := range map[string]func(){
					"everything again": func() { s.change(b, nil) },
					"one tenant":       func() { s.change(b, nil, 1) },
					"roles":            func() { s.changeRoles(b, 1) },
					"one member":       func() { s.changeMember(b, 1, user) },
				} {
					b.Run(name, func(b *testing.B) {
						b.ReportAllocs()
						for b.Loop() {
							b.StopTimer()
							touch()
							b.StartTimer()
							snapshot = load(b, s, snapshot)
						}
					})
				}
			})
		})
	}
}

// question is one of many at random, so that caches help no more than in life.
type question struct{ tenant, user string }

func (z size) questions(users int) []question {
	random := rand.New(rand.NewPCG(1, 2))
	questions := make([]question, min(users, 1<<16))
	for i := range questions {
		user := random.IntN(z.tenants * z.members)
		questions[i] = question{strconv.Itoa(user/z.members + 1), fmt.Sprintf("00000000-0000-7000-8000-%012d", user)}
	}
	return questions
}

func decide(b *testing.B, s *permission.Snapshot, questions []question) {
	ref := s.Resolve(perm("p0", "f1", "read"))
	_, known := ref.Known()
	require.True(b, known)
	b.ReportAllocs()
	i, asked, allowed := 0, 0, 0
	for b.Loop() {
		q := &questions[i]
		if s.Decide(q.tenant, q.user, ref).Allowed {
			allowed++
		}
		asked++
		if i++; i == len(questions) {
			i = 0
		}
	}
	require.Equal(b, asked, allowed)
}

func decideFor(b *testing.B, s *permission.Snapshot, questions []question) {
	ref := s.Resolve(perm("p0", "f1", "read"))
	principals := make([]identity.Principal, len(questions))
	for i, q := range questions {
		principals[i] = identity.Principal{UserID: q.user, TenantID: q.tenant, Seat: &identity.Seat{}}
		require.True(b, s.DecideFor(&principals[i], q.tenant, ref).Allowed)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.DecideFor(&principals[i], principals[i].TenantID, ref)
		if i++; i == len(questions) {
			i = 0
		}
	}
}

func decideRoles(b *testing.B, s *permission.Snapshot, questions []question) {
	ref := s.Resolve(perm("p0", "f1", "read"))
	roles := []string{"Role 3", "Role 7"}
	b.ReportAllocs()
	i, asked, allowed := 0, 0, 0
	for b.Loop() {
		if s.DecideRoles(questions[i].tenant, roles, ref).Allowed {
			allowed++
		}
		asked++
		if i++; i == len(questions) {
			i = 0
		}
	}
	require.Equal(b, asked, allowed)
}

// BenchmarkPoll is one look at a table in which nothing changed; on SQLite it
// opens the file each time.
func BenchmarkPoll(b *testing.B) {
	eachDatabase(b, func(b *testing.B, s store) {
		s.change(b, demo)
		table, err := permission.New(s.url, permission.Settings{}, clock.System{})
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, table.Close()) })
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, permission.RefreshNow(b.Context(), table))
		}
	})
}
