package permission_test

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// The whole meaning of the table in two SQL statements: what every role holds,
// and which role every member has.
const (
	oracleHeld = `WITH RECURSIVE
		above (role_id, ancestor_id) AS (
			SELECT id, id FROM roles
			UNION SELECT a.role_id, p.parent_id FROM above a JOIN role_parents p ON p.role_id = a.ancestor_id),
		declared AS (
			SELECT f.id AS feature_id, p.id AS product_id, p.name AS product, f.name AS feature, a.name AS action
			FROM features f JOIN products p ON p.id = f.product_id
			JOIN (SELECT 'read' AS name UNION SELECT 'write' UNION SELECT 'export') a ON ',' || f.actions || ',' LIKE '%,' || a.name || ',%')
		SELECT DISTINCT t.id, r.name, d.product, d.feature, d.action
		FROM tenants t JOIN roles r ON r.tenant_id = t.id JOIN above ON above.role_id = r.id
		JOIN roles h ON h.id = above.ancestor_id CROSS JOIN declared d
		WHERE EXISTS (SELECT 1 FROM role_feature_permissions x WHERE x.role_id = h.id AND x.feature_id = d.feature_id AND x.action = d.action)
		OR (d.product <> 'tenantgate' OR d.feature <> 'platform') AND (h.kind = 'owner' OR EXISTS (
			SELECT 1 FROM role_wildcards w WHERE w.role_id = h.id AND (w.product_id IS NULL OR w.product_id = d.product_id)
			AND (w.feature_id IS NULL OR w.feature_id = d.feature_id) AND (w.action IS NULL OR w.action = d.action)))
		ORDER BY t.id, r.name, d.product, d.feature, d.action`
	oracleMembers = `SELECT m.tenant_id, m.user_id, r.name FROM memberships m JOIN roles r ON r.id = m.role_id
		JOIN users u ON u.id = m.user_id WHERE u.status = 'active' ORDER BY m.user_id`

	rawTenants = `SELECT id, status FROM tenants`
	rawRoles   = `SELECT tenant_id, name, kind FROM roles`
	rawParents = `SELECT r.tenant_id, r.name, q.name FROM role_parents p JOIN roles r ON r.id = p.role_id JOIN roles q ON q.id = p.parent_id`
	rawRows    = `SELECT r.tenant_id, r.name, p.name || '/' || f.name || '/' || x.action FROM role_feature_permissions x
		JOIN roles r ON r.id = x.role_id JOIN features f ON f.id = x.feature_id JOIN products p ON p.id = f.product_id
		UNION ALL SELECT r.tenant_id, r.name, COALESCE(p.name, '*') || '/' || COALESCE(f.name, '*') || '/' || COALESCE(w.action, '*') FROM role_wildcards w
		JOIN roles r ON r.id = w.role_id LEFT JOIN products p ON p.id = w.product_id LEFT JOIN features f ON f.id = w.feature_id
		UNION ALL SELECT tenant_id, name, 'owner' FROM roles WHERE kind = 'owner'`
)

// names of everything in the oracle's world. Product and feature number i+1 in
// the lists have that id times ten, and so on.
var (
	oracleUsers    = []string{"u1", "u2", "u3", "u4"}
	oracleRoles    = []string{"Admin", "Editor", "Owner", "Viewer"}
	oracleActions  = []string{"export", "read", "write"}
	oracleProducts = []string{"p1", "tenantgate"}
	oracleFeatures = []string{"members", "platform"}
)

const oracleTenants = 3

// world is what the oracle says.
type world struct {
	status  map[int64]string
	roles   map[int64]map[string]string                  // tenant → role → kind
	held    map[int64]map[string][]permission.Permission // tenant → role → permissions, sorted
	members map[int64]map[string]string                  // tenant → active user → role
	links   map[string]bool                              // "tenant role > parent"
	rows    map[string]bool                              // "tenant role: row"
}

func readWorld(tb require.TestingT, db *sql.DB) *world {
	w := &world{
		status: map[int64]string{}, roles: map[int64]map[string]string{}, held: map[int64]map[string][]permission.Permission{},
		members: map[int64]map[string]string{}, links: map[string]bool{}, rows: map[string]bool{},
	}
	for tenant := int64(1); tenant <= oracleTenants; tenant++ {
		w.roles[tenant], w.held[tenant], w.members[tenant] = map[string]string{}, map[string][]permission.Permission{}, map[string]string{}
	}
	var (
		id               int64
		a, b             string
		product, feature string
		action           string
	)
	each := func(query string, dest []any, f func()) {
		rows, err := db.Query(query)
		require.NoError(tb, err)
		defer func() { require.NoError(tb, rows.Close()) }()
		for rows.Next() {
			require.NoError(tb, rows.Scan(dest...))
			f()
		}
		require.NoError(tb, rows.Err())
	}
	each(rawTenants, []any{&id, &a}, func() { w.status[id] = a })
	each(rawRoles, []any{&id, &a, &b}, func() { w.roles[id][a] = b })
	each(oracleHeld, []any{&id, &a, &product, &feature, &action}, func() {
		w.held[id][a] = append(w.held[id][a], permission.Permission{Product: product, Feature: feature, Action: action})
	})
	each(oracleMembers, []any{&id, &a, &b}, func() { w.members[id][a] = b })
	each(rawParents, []any{&id, &a, &b}, func() { w.links[fmt.Sprintf("%d %s > %s", id, a, b)] = true })
	each(rawRows, []any{&id, &a, &b}, func() { w.rows[fmt.Sprintf("%d %s: %s", id, a, b)] = true })
	return w
}

// machine changes the table at random and keeps a snapshot by incremental loads.
type machine struct {
	store
	current    *permission.Snapshot
	principals []*identity.Principal // as many users as tokens, remembered from step to step
}

// TestIncrementalLoadsEqualTheOracle drives random changes, each recorded as
// narrowly as it may be, and compares after every load all answers of the
// snapshot that was brought up to date step by step, of one loaded from
// nothing, and of plain SQL.
func TestIncrementalLoadsEqualTheOracle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s store) {
		runs, most := 0, math.MaxInt
		if strings.HasPrefix(s.url, "postgres") {
			most = 25 // its transactions take longer
		}
		rapid.Check(t, func(rt *rapid.T) {
			if runs++; runs > most {
				return
			}
			m := &machine{store: s}
			m.reset(rt)
			rt.Repeat(map[string]func(*rapid.T){
				"tenant":     m.changeTenant,
				"membership": m.changeMembership,
				"member2":    m.changeMembership, // more often than the rest
				"role":       m.changeRole,
				"right":      m.changeRight,
				"right2":     m.changeRight,
				"parent":     m.changeParent,
				"wildcard":   m.changeWildcard,
				"user":       m.changeUser,
				"catalogue":  m.changeCatalogue,
				"load":       m.compare,
			})
			m.compare(rt)
		})
	})
}

// reset makes an empty world with all users.
func (m *machine) reset(rt *rapid.T) {
	statements := []string{
		`DELETE FROM memberships`, `DELETE FROM role_parents`, `DELETE FROM tenants`, `DELETE FROM products`, `DELETE FROM users`,
	}
	for _, user := range oracleUsers {
		statements = append(statements, fmt.Sprintf(`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('%s', '%s', '%s', 1, 1)`, user, user, user))
		m.principals = append(m.principals, &identity.Principal{UserID: user, TenantID: "1", Seat: &identity.Seat{}})
	}
	m.change(rt, statements)
	m.current = load(rt, m.store, nil)
}

func tenantOf(rt *rapid.T) int64 { return rapid.Int64Range(1, oracleTenants).Draw(rt, "tenant") }

func oneOf(rt *rapid.T, what string, list []string) (name string, number int64) {
	i := rapid.IntRange(0, len(list)-1).Draw(rt, what)
	return list[i], int64(i + 1)
}

// roleOf draws a role and returns a query for its id.
func roleOf(rt *rapid.T, tenant int64, what string) string {
	name, _ := oneOf(rt, what, oracleRoles)
	return fmt.Sprintf(`(SELECT id FROM roles WHERE tenant_id = %d AND name = '%s')`, tenant, name)
}

func (m *machine) changeTenant(rt *rapid.T) {
	id := tenantOf(rt)
	switch rapid.IntRange(0, 4).Draw(rt, "change") {
	case 0:
		m.change(rt, []string{
			fmt.Sprintf(`DELETE FROM memberships WHERE tenant_id = %d`, id),
			fmt.Sprintf(`DELETE FROM role_parents WHERE tenant_id = %d`, id),
			fmt.Sprintf(`DELETE FROM tenants WHERE id = %d`, id),
		}, id)
	case 1:
		m.changeRoles(rt, id, fmt.Sprintf(`UPDATE tenants SET status = CASE status WHEN 'active' THEN 'suspended' ELSE 'active' END WHERE id = %d`, id))
	default:
		statements := []string{fmt.Sprintf(`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (%d, 't%d', 1, 1) ON CONFLICT DO NOTHING`, id, id)}
		for i, role := range oracleRoles[:2] {
			statements = append(statements, fmt.Sprintf(`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (%d, %d, '%s', 1, 1) ON CONFLICT DO NOTHING`, id*10+int64(i), id, role))
		}
		m.change(rt, statements, id)
	}
}

// changeRole adds, renames or removes a role. It makes room for its index
// anywhere in the order, so that those of others move.
func (m *machine) changeRole(rt *rapid.T) {
	tenant := tenantOf(rt)
	name, number := oneOf(rt, "role", oracleRoles)
	switch rapid.IntRange(0, 3).Draw(rt, "change") {
	case 0:
		where := fmt.Sprintf(`tenant_id = %d AND name = '%s' AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.role_id = roles.id)
			AND NOT EXISTS (SELECT 1 FROM role_parents p WHERE p.parent_id = roles.id)`, tenant, name)
		m.changeRoles(rt, tenant, `DELETE FROM roles WHERE `+where)
	case 1:
		other, _ := oneOf(rt, "new name", oracleRoles)
		m.changeRoles(rt, tenant, fmt.Sprintf(`UPDATE roles SET name = '%s' WHERE tenant_id = %d AND name = '%s'
			AND NOT EXISTS (SELECT 1 FROM roles r WHERE r.tenant_id = %d AND r.name = '%s')`, other, tenant, name, tenant, other))
	default:
		kind := "custom"
		if name == "Owner" {
			kind = "owner"
		}
		m.changeRoles(rt, tenant, fmt.Sprintf(`INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at)
			SELECT (SELECT COALESCE(MAX(id), 0) FROM roles) + %d, id, '%s', '%s', 1, 1 FROM tenants WHERE id = %d ON CONFLICT DO NOTHING`, number, name, kind, tenant))
	}
}

func (m *machine) changeMembership(rt *rapid.T) {
	tenant := tenantOf(rt)
	user, _ := oneOf(rt, "user", oracleUsers)
	statement := fmt.Sprintf(`DELETE FROM memberships WHERE tenant_id = %d AND user_id = '%s'`, tenant, user)
	if rapid.IntRange(0, 2).Draw(rt, "remove") > 0 {
		statement = fmt.Sprintf(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at)
			SELECT tenant_id, '%s', id, 1, 1 FROM roles WHERE id = %s ON CONFLICT (tenant_id, user_id) DO UPDATE SET role_id = excluded.role_id`, user, roleOf(rt, tenant, "role"))
	}
	m.changeMember(rt, tenant, user, statement)
}

func (m *machine) changeRight(rt *rapid.T) {
	tenant := tenantOf(rt)
	role := roleOf(rt, tenant, "role")
	_, feature := m.feature(rt)
	action, _ := oneOf(rt, "action", oracleActions)
	if rapid.IntRange(0, 2).Draw(rt, "revoke") == 0 {
		m.changeRoles(rt, tenant, fmt.Sprintf(`DELETE FROM role_feature_permissions WHERE action = '%s' AND role_id = %s AND feature_id = %d`, action, role, feature))
		return
	}
	m.changeRoles(rt, tenant, fmt.Sprintf(`INSERT INTO role_feature_permissions (role_id, feature_id, action)
		SELECT r.id, f.id, '%s' FROM roles r, features f WHERE r.id = %s AND f.id = %d ON CONFLICT DO NOTHING`, action, role, feature))
}

// changeParent also makes cycles, which the services refuse.
func (m *machine) changeParent(rt *rapid.T) {
	tenant := tenantOf(rt)
	role, parent := roleOf(rt, tenant, "role"), roleOf(rt, tenant, "parent")
	if rapid.IntRange(0, 2).Draw(rt, "revoke") == 0 {
		m.changeRoles(rt, tenant, fmt.Sprintf(`DELETE FROM role_parents WHERE role_id = %s AND parent_id = %s`, role, parent))
		return
	}
	m.changeRoles(rt, tenant, fmt.Sprintf(`INSERT INTO role_parents (tenant_id, role_id, parent_id)
		SELECT r.tenant_id, r.id, p.id FROM roles r, roles p WHERE r.id = %s AND p.id = %s AND r.id <> p.id ON CONFLICT DO NOTHING`, role, parent))
}

func (m *machine) changeWildcard(rt *rapid.T) {
	tenant := tenantOf(rt)
	role := roleOf(rt, tenant, "role")
	product, feature := m.feature(rt)
	action, _ := oneOf(rt, "action", oracleActions)
	columns := rapid.SampledFrom([]string{
		`NULL, NULL, NULL`, `NULL, NULL, '` + action + `'`, `p.id, NULL, NULL`, `p.id, NULL, '` + action + `'`, `p.id, f.id, NULL`,
	}).Draw(rt, "wildcard")
	if rapid.IntRange(0, 2).Draw(rt, "revoke") == 0 {
		m.changeRoles(rt, tenant, fmt.Sprintf(`DELETE FROM role_wildcards WHERE role_id = %s`, role))
		return
	}
	m.changeRoles(rt, tenant, fmt.Sprintf(`INSERT INTO role_wildcards (id, role_id, product_id, feature_id, action)
		SELECT (SELECT COALESCE(MAX(id), 0) + 1 FROM role_wildcards), r.id, %s FROM roles r, products p, features f
		WHERE r.id = %s AND p.id = %d AND f.id = %d ON CONFLICT DO NOTHING`, columns, role, product, feature))
}

func (m *machine) changeUser(rt *rapid.T) {
	user, _ := oneOf(rt, "user", oracleUsers)
	statement := fmt.Sprintf(`UPDATE users SET status = CASE status WHEN 'active' THEN 'disabled' ELSE 'active' END WHERE id = '%s'`, user)
	m.write(rt, []string{statement}, func(ctx context.Context, tx *database.Tx) error {
		for tenant := int64(1); tenant <= oracleTenants; tenant++ {
			if err := permission.TouchMember(ctx, tx, tenant, user); err != nil {
				return err
			}
		}
		return nil
	})
}

// feature draws a feature's ids.
func (m *machine) feature(rt *rapid.T) (product, feature int64) {
	_, product = oneOf(rt, "product", oracleProducts)
	_, number := oneOf(rt, "feature", oracleFeatures)
	return product, product*10 + number
}

func (m *machine) changeCatalogue(rt *rapid.T) {
	product, feature := m.feature(rt)
	switch rapid.IntRange(0, 4).Draw(rt, "change") {
	case 0:
		m.change(rt, []string{fmt.Sprintf(`DELETE FROM features WHERE id = %d`, feature)})
	case 1:
		m.change(rt, []string{fmt.Sprintf(`DELETE FROM products WHERE id = %d`, product)})
	case 2:
		list := rapid.SampledFrom([]string{"read", "write,read", "export,read,write"}).Draw(rt, "actions")
		m.change(rt, []string{fmt.Sprintf(`UPDATE features SET actions = '%s' WHERE id = %d`, list, feature)})
	default:
		m.change(rt, []string{
			fmt.Sprintf(`INSERT INTO products (id, name, created_at, updated_at) VALUES (%d, '%s', 1, 1) ON CONFLICT DO NOTHING`, product, oracleProducts[product-1]),
			fmt.Sprintf(`INSERT INTO features (id, product_id, name, actions, created_at, updated_at) VALUES (%d, %d, '%s', 'read,write,export', 1, 1) ON CONFLICT DO NOTHING`,
				feature, product, oracleFeatures[feature%10-1]),
		})
	}
}

// compareCharge asks who is in charge, of a catalogue that has the rights.
func (m *machine) compareCharge(rt *rapid.T, w *world) {
	operated := false
	for tenant := int64(1); tenant <= oracleTenants; tenant++ {
		managed := false
		for _, role := range w.members[tenant] {
			held := w.held[tenant][role]
			managed = managed || slices.Contains(held, permission.ManageMembers)
			operated = operated || w.status[tenant] == identity.StatusActive && slices.Contains(held, permission.RunInstallation)
		}
		got, err := permission.Managed(context.Background(), m.Reader(), tenant)
		require.NoError(rt, err)
		if _, known := m.current.Resolve(permission.ManageMembers).Known(); known {
			require.Equal(rt, managed, got, "tenant %d", tenant)
		}
	}
	got, err := permission.Operated(context.Background(), m.Reader())
	require.NoError(rt, err)
	if _, known := m.current.Resolve(permission.RunInstallation).Known(); known {
		require.Equal(rt, operated, got)
	}
}

// compare loads and asks every question there is.
func (m *machine) compare(rt *rapid.T) {
	old := m.current
	m.current = load(rt, m.store, old)
	full := load(rt, m.store, nil)
	require.Equal(rt, counts(full), counts(m.current))
	require.Equal(rt, full.Seq(), m.current.Seq())
	w := readWorld(rt, m.Reader())
	for _, p := range oracleProducts {
		for _, f := range oracleFeatures {
			for _, a := range oracleActions {
				m.compareOne(rt, w, old, full, permission.Permission{Product: p, Feature: f, Action: a})
			}
		}
	}
	m.compareCharge(rt, w)
	for tenant := int64(1); tenant <= oracleTenants; tenant++ {
		m.compareLists(rt, w, tenant)
	}
}

func (m *machine) compareOne(rt *rapid.T, w *world, old, full *permission.Snapshot, p permission.Permission) {
	now, ago, fresh := m.current.Resolve(p), old.Resolve(p), full.Resolve(p)
	for tenant := int64(1); tenant <= oracleTenants; tenant++ {
		id := strconv.FormatInt(tenant, 10)
		active := w.status[tenant] == "active"
		var holders []string
		for _, who := range m.principals {
			user := who.UserID
			role, member := w.members[tenant][user]
			want := full.Decide(id, user, fresh)
			held := active && member && slices.Contains(w.held[tenant][role], p)
			require.Equal(rt, want.Allowed, held, "%s of %s: %v", user, id, p)
			got := m.current.Decide(id, user, now)
			require.Equal(rt, show(want), show(got))
			require.Equal(rt, show(want), show(m.current.Decide(id, user, ago)), "with a reference of an older snapshot")
			require.Equal(rt, got, m.current.DecideFor(who, id, now), "with what was remembered")
			require.Equal(rt, got, m.current.DecideFor(who, id, ago), "with what was remembered and an old reference")
			require.Equal(rt, want.Rule(), got.Rule())
			m.compareExplanation(rt, w, tenant, m.current.Explain(id, user, p), want)
			if want.Allowed {
				holders = append(holders, user+" "+role+" "+want.Rule())
			}
		}
		list, reason := m.current.Holders(id, p)
		require.Equal(rt, holders, lines(list))
		_, known := fresh.Known()
		require.Equal(rt, known && active, reason == permission.Allowed)
		for _, role := range oracleRoles {
			want := full.DecideRoles(id, []string{role}, fresh)
			held := active && slices.Contains(w.held[tenant][role], p)
			require.Equal(rt, want.Allowed, held, "%s of %s: %v", role, id, p)
			require.Equal(rt, show(want), show(m.current.DecideRoles(id, []string{role}, now)))
			m.compareExplanation(rt, w, tenant, m.current.ExplainRoles(id, []string{role}, p), want)
		}
	}
}

func lines(holders []permission.Holder) (lines []string) {
	for _, h := range holders {
		lines = append(lines, h.UserID+" "+h.Role+" "+h.Rule)
	}
	return lines
}

// compareExplanation checks an explanation step by step against the raw rows.
func (m *machine) compareExplanation(rt *rapid.T, w *world, tenant int64, e permission.Explanation, want permission.Decision) {
	require.Equal(rt, show(want), show(e.Decision))
	require.Equal(rt, want.Role(), e.Role)
	require.Equal(rt, m.current.Seq(), e.Seq)
	if !want.Allowed {
		require.Empty(rt, e.Path)
		require.Empty(rt, e.Row)
		require.Empty(rt, e.Rule())
		return
	}
	require.Equal(rt, e.Role, e.Path[0])
	for i := range e.Path[1:] {
		require.True(rt, w.links[fmt.Sprintf("%d %s > %s", tenant, e.Path[i], e.Path[i+1])], "%v", e.Path)
	}
	require.True(rt, w.rows[fmt.Sprintf("%d %s: %s", tenant, e.Path[len(e.Path)-1], e.Row)], "%v %s", e.Path, e.Row)
	require.Equal(rt, strings.Join(e.Path, " > ")+": "+e.Row, e.Rule())
}

// compareLists checks what members and roles may do in a tenant.
func (m *machine) compareLists(rt *rapid.T, w *world, tenant int64) {
	id := strconv.FormatInt(tenant, 10)
	status, there := w.status[tenant]
	for _, user := range oracleUsers {
		wantRole, member := w.members[tenant][user]
		role, all, reason := m.current.PermissionsOf(id, user)
		require.Equal(rt, wantRole, role)
		require.Equal(rt, reasonOf(there, member, status), reason)
		if reason == permission.Allowed {
			require.ElementsMatch(rt, w.held[tenant][role], all)
			require.True(rt, slices.IsSortedFunc(all, compare))
		} else {
			require.Empty(rt, all)
		}
	}
	for i := range oracleRoles {
		pair := []string{oracleRoles[i], oracleRoles[(i+1)%len(oracleRoles)]}
		var want []permission.Permission
		known := false
		for _, role := range pair {
			_, ok := w.roles[tenant][role]
			known = known || ok
			want = append(want, w.held[tenant][role]...)
		}
		slices.SortFunc(want, compare)
		all, reason := m.current.PermissionsOfRoles(id, pair)
		require.Equal(rt, reasonOf(there, known, status), reason)
		if reason == permission.Allowed {
			require.Equal(rt, append([]permission.Permission{}, slices.Compact(want)...), all)
		} else {
			require.Empty(rt, all)
		}
	}
}

func reasonOf(there, member bool, status string) permission.Reason {
	switch {
	case !there:
		return permission.UnknownTenant
	case !member:
		return permission.NotAMember
	case status != "active":
		return permission.TenantSuspended
	}
	return permission.Allowed
}

func compare(a, b permission.Permission) int {
	return slices.Compare([]string{a.Product, a.Feature, a.Action}, []string{b.Product, b.Feature, b.Action})
}
