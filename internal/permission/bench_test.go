package permission_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// size is a table with the given number of permission rows and as many
// members: 10 roles per tenant, 10 features of 3 actions per product.
type size struct {
	name                       string
	tenants, features, perRole int
	members                    int // of each tenant
}

var sizes = []size{
	{"1k", 10, 30, 10, 100},
	{"100k", 1_000, 300, 10, 100},
	{"1M", 10_000, 300, 10, 100},
	{"1M in one tenant", 1, 1000, 100_000, 1_000_000},
}

// fill makes the table in SQL. User ids have the form and length of a UUID.
func (z size) fill(tb testing.TB, s store) {
	tb.Helper()
	const numbers = `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d) `
	roles := 10
	if z.tenants == 1 {
		roles = z.perRole * 10 / (z.features * 3) // a role can't have more rights than there are
		roles = max(roles, 10)
	}
	statements := []string{
		fmt.Sprintf(numbers+`INSERT INTO tenants (id, name, created_at, updated_at) SELECT i + 1, 't' || i, 1, 1 FROM n`, z.tenants),
		fmt.Sprintf(numbers+`INSERT INTO products (id, name, created_at, updated_at) SELECT i, 'p' || i, 1, 1 FROM n`, z.features/10),
		fmt.Sprintf(numbers+`INSERT INTO features (id, product_id, name, created_at, updated_at) SELECT i, i / 10, 'f' || i, 1, 1 FROM n`, z.features),
		fmt.Sprintf(numbers+`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) SELECT i, i / %d + 1, 'Role ' || (i %% %d), 1, 1 FROM n`, z.tenants*roles, roles, roles),
		fmt.Sprintf(numbers+`INSERT OR IGNORE INTO role_feature_permissions (role_id, feature_id, action)
			SELECT i %% %d, abs(random()) %% %d, CASE i / %d %% 3 WHEN 0 THEN 'read' WHEN 1 THEN 'write' ELSE 'delete' END FROM n`,
			z.tenants*10*z.perRole*11/10, z.tenants*roles, z.features, z.tenants*roles),
		fmt.Sprintf(numbers+`INSERT INTO users (id, email, email_key, created_at, updated_at) SELECT printf('00000000-0000-7000-8000-%%012d', i), i, i, 1, 1 FROM n`, z.tenants*z.members),
		fmt.Sprintf(numbers+`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at)
			SELECT i / %d + 1, printf('00000000-0000-7000-8000-%%012d', i), i / %d * %d + i %% %d, 1, 1 FROM n`, z.tenants*z.members, z.members, z.members, roles, roles),
	}
	s.change(tb, statements)
}

// BenchmarkTable measures, at each size: a decision for random members, the
// full load, the reload of one tenant, and the memory a snapshot keeps.
func BenchmarkTable(b *testing.B) {
	for _, z := range sizes {
		b.Run(z.name, func(b *testing.B) {
			if testing.Short() && z.tenants*z.members > 100_000 {
				b.Skip("large")
			}
			s := newStore(b)
			z.fill(b, s)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			snapshot := load(b, s, nil)
			runtime.GC()
			runtime.ReadMemStats(&after)
			heap := (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / (1 << 20)

			// 1,000 users at work, and everybody once: at 1M the second waits for memory, not for us.
			for name, users := range map[string]int{"": 1000, " everybody": z.tenants * z.members} {
				questions := z.questions(users)
				b.Run("decide"+name, func(b *testing.B) { decide(b, snapshot, questions) })
				b.Run("decide roles"+name, func(b *testing.B) { decideRoles(b, snapshot, questions) })
			}
			b.Run("load", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					load(b, s, nil)
				}
				b.ReportMetric(heap, "MiB-live")
				b.ReportMetric(float64(snapshot.Stats().Rows), "rows")
				b.ReportMetric(float64(snapshot.Stats().Members), "members")
			})
			b.Run("reload of one tenant", func(b *testing.B) {
				b.ReportAllocs()
				var spent time.Duration
				n := 0
				for b.Loop() {
					s.change(b, nil, 1)
					began := time.Now()
					snapshot = load(b, s, snapshot)
					spent += time.Since(began)
					n++
				}
				b.ReportMetric(float64(spent.Nanoseconds())/float64(n), "load-ns/op")
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
	i, asked, members := 0, 0, 0
	for b.Loop() {
		q := &questions[i]
		if s.Decide(q.tenant, q.user, ref).Reason != permission.NotAMember {
			members++
		}
		asked++
		if i++; i == len(questions) {
			i = 0
		}
	}
	require.Equal(b, asked, members)
}

func decideRoles(b *testing.B, s *permission.Snapshot, questions []question) {
	ref := s.Resolve(perm("p0", "f1", "read"))
	roles := []string{"Role 3", "Role 7"}
	b.ReportAllocs()
	i, asked, members := 0, 0, 0
	for b.Loop() {
		if s.DecideRoles(questions[i].tenant, roles, ref).Reason != permission.NotAMember {
			members++
		}
		asked++
		if i++; i == len(questions) {
			i = 0
		}
	}
	require.Equal(b, asked, members)
}

// BenchmarkPoll is one look at a table in which nothing changed, connection included.
func BenchmarkPoll(b *testing.B) {
	s := demoStore(b)
	snapshot := load(b, s, nil)
	reader, err := database.OpenReadOnly(s.url, clock.System{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, reader.Close()) })
	b.ReportAllocs()
	for b.Loop() {
		reader.Reader().SetMaxIdleConns(1) // as Table does
		require.NoError(b, reader.CheckSchema(b.Context()))
		next, err := permission.Load(b.Context(), reader, snapshot)
		require.NoError(b, err)
		require.Same(b, snapshot, next)
		reader.Reader().SetMaxIdleConns(-1)
	}
}
