package engines

import (
	"fmt"
	"testing"

	"github.com/cedar-policy/cedar-go"
)

// Three policies for all rows: what a role holds stands in its attributes.
const cedarPolicies = `
permit (principal, action == Action::"read", resource) when { principal.role.read.contains(resource) };
permit (principal, action == Action::"write", resource) when { principal.role.write.contains(resource) };
permit (principal, action == Action::"delete", resource) when { principal.role.delete.contains(resource) };`

func cedarRole(tenant, role int) cedar.EntityUID {
	return cedar.NewEntityUID("Role", cedar.String(fmt.Sprint(tenantName(tenant), "/", roleName(role))))
}

func cedarMember(tenant, user int) cedar.EntityUID {
	return cedar.NewEntityUID("Member", cedar.String(fmt.Sprint(tenantName(tenant), "/", userName(user))))
}

func cedarFeature(feature int) cedar.EntityUID {
	product, name := featureName(feature)
	return cedar.NewEntityUID("Feature", cedar.String(product+"/"+name))
}

func cedarEngine(tb testing.TB, t table) []engine {
	tb.Helper()
	policies, err := cedar.NewPolicySetFromBytes("policies", []byte(cedarPolicies))
	if err != nil {
		tb.Fatal(err)
	}
	features := make([]cedar.Value, t.features)
	for i := range features {
		features[i] = cedarFeature(i)
	}
	held := map[cedar.EntityUID][3][]cedar.Value{}
	t.grants(func(g grant) {
		role := cedarRole(g.tenant, g.role)
		lists := held[role]
		lists[g.action] = append(lists[g.action], features[g.feature])
		held[role] = lists
	})
	entities := cedar.EntityMap{}
	for uid, lists := range held {
		attributes := cedar.RecordMap{}
		for i, list := range lists {
			attributes[cedar.String(actions[i])] = cedar.NewSet(list...)
		}
		entities[uid] = cedar.Entity{UID: uid, Attributes: cedar.NewRecord(attributes)}
	}
	for user := range t.tenants * members {
		uid := cedarMember(user/members, user)
		role := cedarRole(user/members, user%members)
		entities[uid] = cedar.Entity{UID: uid, Attributes: cedar.NewRecord(cedar.RecordMap{"role": role})}
	}
	return []engine{{name: "cedar-go, 3 policies, rows as attributes", prepare: func(q question) func() bool {
		request := cedar.Request{
			Principal: cedarMember(q.tenant, q.user),
			Action:    cedar.NewEntityUID("Action", cedar.String(actions[q.action])),
			Resource:  cedarFeature(q.feature),
		}
		return func() bool {
			decision, _ := cedar.Authorize(policies, entities, request)
			return bool(decision)
		}
	}}}
}
