package engines

import (
	"context"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

const opaPolicy = `package gate

default allow := false

allow if {
	role := data.tenants[input.tenant].members[input.user]
	data.tenants[input.tenant].roles[role][input.permission]
}`

// opaEngine prepares the query once and the input of every question, and keeps
// one read transaction open: the fastest way there is.
func opaEngine(tb testing.TB, t table) []engine {
	tb.Helper()
	permissions := make([]string, t.features*len(actions))
	for i := range permissions {
		product, feature := featureName(i / len(actions))
		permissions[i] = product + "/" + feature + "/" + actions[i%len(actions)]
	}
	tenants := map[string]any{}
	for tenant := range t.tenants {
		inTenant, held := map[string]any{}, map[string]any{}
		for i := range members {
			inTenant[userName(tenant*members+i)] = roleName(i)
		}
		for i := range roles {
			held[roleName(i)] = map[string]any{}
		}
		tenants[tenantName(tenant)] = map[string]any{"members": inTenant, "roles": held}
	}
	t.grants(func(g grant) {
		held := tenants[tenantName(g.tenant)].(map[string]any)["roles"].(map[string]any)
		held[roleName(g.role)].(map[string]any)[permissions[g.feature*len(actions)+g.action]] = true
	})
	ctx := context.Background()
	store := inmem.NewFromObjectWithOpts(map[string]any{"tenants": tenants}, inmem.OptRoundTripOnWrite(false))
	query, err := rego.New(rego.Query("data.gate.allow"), rego.Module("gate.rego", opaPolicy), rego.Store(store)).PrepareForEval(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	txn, err := store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Abort(ctx, txn) })
	return []engine{{name: "opa, prepared query", prepare: func(q question) func() bool {
		input, err := ast.InterfaceToValue(map[string]any{
			"tenant": tenantName(q.tenant), "user": userName(q.user), "permission": permissions[q.feature*len(actions)+q.action],
		})
		if err != nil {
			tb.Fatal(err)
		}
		return func() bool {
			result, err := query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTransaction(txn))
			if err != nil {
				tb.Fatal(err)
			}
			return result.Allowed()
		}
	}}}
}
