package engines

import (
	"testing"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
)

// The model of casbin's documentation for roles in domains. The first matcher
// is the documented one, the second asks for the cheap things first.
const (
	casbinModel = `
[request_definition]
r = sub, dom, obj, act
[policy_definition]
p = sub, dom, obj, act
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = `
	casbinDocumented = `g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act`
	casbinCheap      = `r.act == p.act && r.obj == p.obj && r.dom == p.dom && g(r.sub, p.sub, r.dom)`
)

func casbinDocumentedEngine(tb testing.TB, t table) []engine {
	tb.Helper()
	return []engine{casbinEngine(tb, t, "casbin, documented matcher", casbinDocumented)}
}

func casbinCheapEngine(tb testing.TB, t table) []engine {
	tb.Helper()
	return []engine{casbinEngine(tb, t, "casbin, cheap comparisons first", casbinCheap)}
}

func casbinEngine(tb testing.TB, t table, name, matcher string) engine {
	tb.Helper()
	m, err := model.NewModelFromString(casbinModel + matcher)
	if err != nil {
		tb.Fatal(err)
	}
	enforcer, err := casbin.NewEnforcer(m)
	if err != nil {
		tb.Fatal(err)
	}
	features := make([]string, t.features)
	for i := range features {
		product, feature := featureName(i)
		features[i] = product + "/" + feature
	}
	var policies, groups [][]string
	t.grants(func(g grant) {
		policies = append(policies, []string{roleName(g.role), tenantName(g.tenant), features[g.feature], actions[g.action]})
	})
	for user := range t.tenants * members {
		groups = append(groups, []string{userName(user), roleName(user % members), tenantName(user / members)})
	}
	if _, err := enforcer.AddPolicies(policies); err != nil {
		tb.Fatal(err)
	}
	if _, err := enforcer.AddGroupingPolicies(groups); err != nil {
		tb.Fatal(err)
	}
	return engine{name: name, slow: true, prepare: func(q question) func() bool {
		user, tenant, feature, action := userName(q.user), tenantName(q.tenant), features[q.feature], actions[q.action]
		return func() bool {
			ok, err := enforcer.Enforce(user, tenant, feature, action)
			if err != nil {
				tb.Fatal(err)
			}
			return ok
		}
	}}
}
