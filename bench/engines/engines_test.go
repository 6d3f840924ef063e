package engines

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// table is what all engines decide on: in each tenant 10 roles, 10 rows for
// each role and 10 members, one for each role.
type table struct {
	name              string
	tenants, features int
}

const (
	roles   = 10 // of a tenant
	rows    = 10 // of a role
	members = 10 // of a tenant
)

var tables = []table{{"1k", 10, 30}, {"100k", 1_000, 300}, {"1M", 10_000, 300}}

var actions = []string{"read", "write", "delete"}

// grant is one row: a role of a tenant holds an action on a feature.
type grant struct{ tenant, role, feature, action int }

// grants calls f for every row. 31 and the number of combinations have no
// common divisor: no row comes twice.
func (t table) grants(f func(grant)) {
	for tenant := range t.tenants {
		for role := range roles {
			for row := range rows {
				combination := ((tenant*roles+role)*7 + row*31) % (t.features * len(actions))
				f(grant{tenant, role, combination / len(actions), combination % len(actions)})
			}
		}
	}
}

// question asks whether a user may do something in a tenant.
type question struct {
	user, tenant    int // member number user%members of tenant user/members
	feature, action int
}

func userName(user int) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", user) }

func tenantName(tenant int) string { return fmt.Sprint(tenant + 1) }

func roleName(role int) string { return fmt.Sprint("Role ", role) }

// featureName is product and feature: 10 features belong to a product.
func featureName(feature int) (product, name string) {
	return fmt.Sprint("p", feature/10), fmt.Sprint("f", feature)
}

// questions are n at random, half of them about a row that there is, and some
// by a stranger to the tenant.
func (t table) questions(n int) []question {
	random := rand.New(rand.NewPCG(1, 2))
	list := make([]question, n)
	for i := range list {
		q := question{user: random.IntN(t.tenants * members), feature: random.IntN(t.features), action: random.IntN(len(actions))}
		q.tenant = q.user / members
		switch random.IntN(10) {
		case 0:
			q.tenant = random.IntN(t.tenants)
		case 1, 2, 3, 4, 5:
			combination := ((q.tenant*roles+q.user%members)*7 + random.IntN(rows)*31) % (t.features * len(actions))
			q.feature, q.action = combination/len(actions), combination%len(actions)
		}
		list[i] = q
	}
	return list
}

// engine decides. prepare makes of a question what a program would have at
// hand for a request, so that only the decision is timed.
type engine struct {
	name    string
	slow    bool // looks at every row
	prepare func(question) (decide func() bool)
}

// build returns the engines for a table, each by the function that loads it.
var build = []func(tb testing.TB, t table) []engine{ours, cedarEngine, opaEngine, casbinDocumentedEngine, casbinCheapEngine}

// agree fails unless an engine gives the same answers as the first one.
func agree(tb testing.TB, t table, e engine, right map[question]bool) {
	tb.Helper()
	n := 2000
	if e.slow {
		n = max(10, 2_000_000/(t.tenants*roles*rows))
	}
	allowed := 0
	for _, q := range t.questions(min(n, 2000)) {
		got := e.prepare(q)()
		if want, known := right[q]; known && got != want {
			tb.Fatalf("%s says %v to %+v, the others %v", e.name, got, q, want)
		}
		right[q] = got
		if got {
			allowed++
		}
	}
	if allowed == 0 {
		tb.Fatalf("%s allows nothing", e.name)
	}
}

func TestEnginesAgree(t *testing.T) {
	right := map[question]bool{}
	for _, load := range build {
		for _, e := range load(t, tables[0]) {
			agree(t, tables[0], e, right)
		}
	}
	if len(right) < 500 {
		t.Fatalf("only %d questions", len(right))
	}
}

func BenchmarkEngines(b *testing.B) {
	for _, t := range tables {
		if testing.Short() && t.tenants > 1000 {
			continue
		}
		b.Run(t.name, func(b *testing.B) {
			right := map[question]bool{}
			for _, load := range build {
				before := heap()
				began := time.Now()
				list := load(b, t)
				took := time.Since(began)
				live := heap() - before
				for _, e := range list {
					agree(b, t, e, right)
					b.Run(e.name, func(b *testing.B) {
						run(b, t, e)
						b.ReportMetric(float64(live)/(1<<20), "MiB")
						b.ReportMetric(float64(took.Milliseconds()), "load-ms")
					})
				}
				runtime.KeepAlive(list)
			}
		})
	}
}

func run(b *testing.B, t table, e engine) {
	questions := t.questions(1000)
	prepared := make([]func() bool, len(questions))
	for i, q := range questions {
		prepared[i] = e.prepare(q)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		prepared[i]()
		if i++; i == len(prepared) {
			i = 0
		}
	}
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
