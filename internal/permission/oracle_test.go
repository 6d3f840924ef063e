package permission_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/permission"
)

// oracle is the whole decision as one SQL statement.
const oracle = `SELECT EXISTS (SELECT 1 FROM tenants t
	JOIN memberships m ON m.tenant_id = t.id
	JOIN users u ON u.id = m.user_id
	JOIN role_feature_permissions rp ON rp.role_id = m.role_id
	JOIN features f ON f.id = rp.feature_id
	JOIN products p ON p.id = f.product_id
	WHERE t.status = 'active' AND u.status = 'active' AND t.id = $1 AND u.id = $2
	AND p.name = $3 AND f.name = $4 AND rp.action = $5
	AND instr(',' || f.actions || ',', ',' || $5 || ',') > 0)`

// oracleRole is the same for one role by its name.
const oracleRole = `SELECT EXISTS (SELECT 1 FROM tenants t
	JOIN roles r ON r.tenant_id = t.id
	JOIN role_feature_permissions rp ON rp.role_id = r.id
	JOIN features f ON f.id = rp.feature_id
	JOIN products p ON p.id = f.product_id
	WHERE t.status = 'active' AND t.id = $1 AND r.name = $2
	AND p.name = $3 AND f.name = $4 AND rp.action = $5
	AND instr(',' || f.actions || ',', ',' || $5 || ',') > 0)`

var (
	oracleUsers    = []string{"u1", "u2", "u3"}
	oracleRoles    = []string{"Admin", "Viewer"}
	oracleActions  = []string{"read", "write", "export"}
	oracleProducts = []string{"p1", "p2"}
	oracleFeatures = []string{"f1", "f2"}
)

const oracleTenants = 3

// machine changes the table at random and keeps a snapshot by incremental loads.
type machine struct {
	store
	current *permission.Snapshot
}

// TestIncrementalLoadsEqualTheOracle drives random changes and compares, after
// every load: every decision of the snapshot that was brought up to date step
// by step, of one loaded from nothing, and of plain SQL.
func TestIncrementalLoadsEqualTheOracle(t *testing.T) {
	t.Parallel()
	runs := 0
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		m := &machine{store: storeAt(t, filepath.Join(dir, strconv.Itoa(runs)+".db"))}
		defer func() { require.NoError(t, m.Close()) }()
		m.change(rt, []string{
			`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('u1', '1', '1', 1, 1), ('u2', '2', '2', 1, 1), ('u3', '3', '3', 1, 1)`,
		})
		m.current = load(rt, m.store, nil)
		rt.Repeat(map[string]func(*rapid.T){
			"tenant":     m.changeTenant,
			"membership": m.changeMembership,
			"right":      m.changeRight,
			"right2":     m.changeRight, // more often than the rest
			"user":       m.changeUser,
			"catalogue":  m.changeCatalogue,
			"load":       m.compare,
		})
		m.compare(rt)
	})
}

func tenantOf(rt *rapid.T) int64 { return rapid.Int64Range(1, oracleTenants).Draw(rt, "tenant") }

func (m *machine) changeTenant(rt *rapid.T) {
	id := tenantOf(rt)
	switch rapid.IntRange(0, 3).Draw(rt, "change") {
	case 0:
		m.change(rt, []string{
			fmt.Sprintf(`DELETE FROM memberships WHERE tenant_id = %d`, id),
			fmt.Sprintf(`DELETE FROM tenants WHERE id = %d`, id),
		}, id)
	case 1:
		m.change(rt, []string{fmt.Sprintf(`UPDATE tenants SET status = CASE status WHEN 'active' THEN 'suspended' ELSE 'active' END WHERE id = %d`, id)}, id)
	default:
		m.change(rt, []string{
			fmt.Sprintf(`INSERT OR IGNORE INTO tenants (id, name, created_at, updated_at) VALUES (%d, 't%d', 1, 1)`, id, id),
			fmt.Sprintf(`INSERT OR IGNORE INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (%d, %d, 'Viewer', 1, 1), (%d, %d, 'Admin', 1, 1)`, id*10, id, id*10+1, id),
		}, id)
	}
}

func (m *machine) changeMembership(rt *rapid.T) {
	id, user := tenantOf(rt), rapid.SampledFrom(oracleUsers).Draw(rt, "user")
	if rapid.Bool().Draw(rt, "remove") {
		m.change(rt, []string{fmt.Sprintf(`DELETE FROM memberships WHERE tenant_id = %d AND user_id = '%s'`, id, user)}, id)
		return
	}
	m.change(rt, []string{fmt.Sprintf(`INSERT OR REPLACE INTO memberships (tenant_id, user_id, role_id, created_at, updated_at)
		SELECT %d, '%s', id, 1, 1 FROM roles WHERE tenant_id = %d AND name = '%s'`, id, user, id, rapid.SampledFrom(oracleRoles).Draw(rt, "role"))}, id)
}

func (m *machine) changeRight(rt *rapid.T) {
	id := tenantOf(rt)
	statement := `INSERT OR IGNORE INTO role_feature_permissions (role_id, feature_id, action) SELECT r.id, f.id, '%s'
		FROM roles r, features f JOIN products p ON p.id = f.product_id WHERE r.tenant_id = %d AND r.name = '%s' AND p.name = '%s' AND f.name = '%s'`
	if rapid.IntRange(0, 2).Draw(rt, "revoke") == 0 {
		statement = `DELETE FROM role_feature_permissions WHERE action = '%s' AND role_id IN (SELECT id FROM roles WHERE tenant_id = %d AND name = '%s')
			AND feature_id IN (SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = '%s' AND f.name = '%s')`
	}
	m.change(rt, []string{fmt.Sprintf(statement, rapid.SampledFrom(oracleActions).Draw(rt, "action"), id, rapid.SampledFrom(oracleRoles).Draw(rt, "role"),
		rapid.SampledFrom(oracleProducts).Draw(rt, "product"), rapid.SampledFrom(oracleFeatures).Draw(rt, "feature"))}, id)
}

func (m *machine) changeUser(rt *rapid.T) {
	user := rapid.SampledFrom(oracleUsers).Draw(rt, "user")
	m.change(rt, []string{fmt.Sprintf(`UPDATE users SET status = CASE status WHEN 'active' THEN 'disabled' ELSE 'active' END WHERE id = '%s'`, user)}, 1, 2, 3)
}

func (m *machine) changeCatalogue(rt *rapid.T) {
	product, name := rapid.SampledFrom(oracleProducts).Draw(rt, "product"), rapid.SampledFrom(oracleFeatures).Draw(rt, "feature")
	where := fmt.Sprintf(`name = '%s' AND product_id IN (SELECT id FROM products WHERE name = '%s')`, name, product)
	switch rapid.IntRange(0, 4).Draw(rt, "change") {
	case 0:
		m.change(rt, []string{`DELETE FROM features WHERE ` + where})
	case 1:
		m.change(rt, []string{fmt.Sprintf(`DELETE FROM products WHERE name = '%s'`, product)})
	case 2:
		list := rapid.SampledFrom([]string{"read", "write,read", "export,read,write"}).Draw(rt, "actions")
		m.change(rt, []string{fmt.Sprintf(`UPDATE features SET actions = '%s' WHERE `, list) + where})
	default:
		m.change(rt, []string{
			fmt.Sprintf(`INSERT OR IGNORE INTO products (name, created_at, updated_at) VALUES ('%s', 1, 1)`, product),
			fmt.Sprintf(`INSERT OR IGNORE INTO features (product_id, name, actions, created_at, updated_at) SELECT id, '%s', 'read,write,export', 1, 1 FROM products WHERE name = '%s'`, name, product),
		})
	}
}

// compare loads and asks every question there is.
func (m *machine) compare(rt *rapid.T) {
	old := m.current
	m.current = load(rt, m.store, old)
	full := load(rt, m.store, nil)
	require.Equal(rt, full.Stats(), m.current.Stats())
	require.Equal(rt, full.Seq(), m.current.Seq())
	for _, p := range oracleProducts {
		for _, f := range oracleFeatures {
			for _, a := range oracleActions {
				m.compareOne(rt, old, full, permission.Permission{Product: p, Feature: f, Action: a})
			}
		}
	}
}

func (m *machine) compareOne(rt *rapid.T, old, full *permission.Snapshot, p permission.Permission) {
	now, ago, fresh := m.current.Resolve(p), old.Resolve(p), full.Resolve(p)
	ask := func(query string, tenant int64, who string) (allowed bool) {
		require.NoError(rt, m.Reader().QueryRow(query, tenant, who, p.Product, p.Feature, p.Action).Scan(&allowed))
		return allowed
	}
	for tenant := int64(1); tenant <= oracleTenants; tenant++ {
		id := strconv.FormatInt(tenant, 10)
		for _, user := range oracleUsers {
			want := full.Decide(id, user, fresh)
			require.Equal(rt, want.Allowed, ask(oracle, tenant, user), "%s of %s: %v", user, id, p)
			require.Equal(rt, show(want), show(m.current.Decide(id, user, now)))
			require.Equal(rt, show(want), show(m.current.Decide(id, user, ago)), "with a reference of an older snapshot")
		}
		for _, role := range oracleRoles {
			want := full.DecideRoles(id, []string{role}, fresh)
			require.Equal(rt, want.Allowed, ask(oracleRole, tenant, role), "%s of %s: %v", role, id, p)
			require.Equal(rt, show(want), show(m.current.DecideRoles(id, []string{role}, now)))
		}
	}
}
