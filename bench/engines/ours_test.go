package engines

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// ours loads the table from a database that is thrown away; filling that
// counts as loading here.
func ours(tb testing.TB, t table) []engine {
	tb.Helper()
	db, err := database.Open(tb.Context(), "sqlite://"+filepath.Join(tb.TempDir(), "t.db"), clock.System{})
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // read to the end
	if err := db.Migrate(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	if err := db.InTx(tb.Context(), func(tx *database.Tx) error { return fill(tx, t) }); err != nil {
		tb.Fatal(err)
	}
	snapshot, err := permission.Load(tb.Context(), db, nil)
	if err != nil {
		tb.Fatal(err)
	}
	refs := map[permission.Permission]*permission.Ref{} // as routes have them
	refOf := func(q question) *permission.Ref {
		product, feature := featureName(q.feature)
		p := permission.Permission{Product: product, Feature: feature, Action: actions[q.action]}
		if refs[p] == nil {
			refs[p] = snapshot.Resolve(p)
		}
		return refs[p]
	}
	return []engine{
		{name: "tenantgate, by member", prepare: func(q question) func() bool {
			user, tenant, ref := userName(q.user), tenantName(q.tenant), refOf(q)
			return func() bool { return snapshot.Decide(tenant, user, ref).Allowed }
		}},
		{name: "tenantgate, principal kept with its token", prepare: func(q question) func() bool {
			tenant, ref := tenantName(q.tenant), refOf(q)
			who := &identity.Principal{UserID: userName(q.user), TenantID: tenant, Seat: &identity.Seat{}}
			return func() bool { return snapshot.DecideFor(who, tenant, ref).Allowed }
		}},
		{name: "tenantgate, by roles in the token", prepare: func(q question) func() bool {
			tenant, ref := tenantName(q.tenant), refOf(q)
			var claimed []string
			if q.user/members == q.tenant { // a token's roles are of its own tenant
				claimed = []string{roleName(q.user % members)}
			}
			return func() bool { return snapshot.DecideRoles(tenant, claimed, ref).Allowed }
		}},
	}
}

// fill writes the table in SQL, with the formula of table.grants.
func fill(tx *database.Tx, t table) error {
	const (
		numbers = `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d) `
		user    = `printf('00000000-0000-7000-8000-%%012d', i)`
		kind    = `(i / %[2]d * 7 + i %% %[2]d * 31) %% %[3]d`
	)
	for _, statement := range []string{
		fmt.Sprintf(numbers+`INSERT INTO tenants (id, name, created_at, updated_at) SELECT i + 1, 't' || i, 1, 1 FROM n`, t.tenants),
		fmt.Sprintf(numbers+`INSERT INTO products (id, name, created_at, updated_at) SELECT i + 1, 'p' || i, 1, 1 FROM n`, t.features/10),
		fmt.Sprintf(numbers+`INSERT INTO features (id, product_id, name, created_at, updated_at) SELECT i + 1, i / 10 + 1, 'f' || i, 1, 1 FROM n`, t.features),
		fmt.Sprintf(numbers+`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) SELECT i + 1, i / %[2]d + 1, 'Role ' || (i %% %[2]d), 1, 1 FROM n`, t.tenants*roles, roles),
		fmt.Sprintf(numbers+`INSERT INTO role_feature_permissions (role_id, feature_id, action) SELECT i / %[2]d + 1, `+kind+` / 3 + 1,
			CASE `+kind+` %% 3 WHEN 0 THEN 'read' WHEN 1 THEN 'write' ELSE 'delete' END FROM n`, t.tenants*roles*rows, rows, t.features*len(actions)),
		fmt.Sprintf(numbers+`INSERT INTO users (id, email, email_key, created_at, updated_at) SELECT `+user+`, i, i, 1, 1 FROM n`, t.tenants*members),
		fmt.Sprintf(numbers+`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) SELECT i / %[2]d + 1, `+user+`, i + 1, 1, 1 FROM n`, t.tenants*members, members),
	} {
		if _, err := tx.Exec(statement); err != nil {
			return fmt.Errorf("%w: %s", err, statement)
		}
	}
	return nil
}
