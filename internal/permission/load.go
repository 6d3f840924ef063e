package permission

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/tenantgate/tenantgate/internal/database"
)

// maxTouched is how many changed tenants are reloaded one by one. Beyond it,
// reading the whole table in one go is cheaper.
const maxTouched = 1000

// Load reads the table in one read transaction. old is an earlier snapshot of
// the same database or nil: if nothing changed since, old itself is returned;
// if only tenants changed, the rest is shared with old. The schema must be the
// one that database.DB.CheckSchema knows.
func Load(ctx context.Context, db *database.DB, old *Snapshot) (*Snapshot, error) {
	tx, err := db.Reader().BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("load permission table: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	next, err := load(ctx, tx, old)
	if err != nil {
		return nil, fmt.Errorf("load permission table: %w", err)
	}
	return next, nil
}

func load(ctx context.Context, tx *sql.Tx, old *Snapshot) (*Snapshot, error) {
	v, err := newest(ctx, tx)
	if err != nil {
		return nil, err
	}
	if old != nil && v == old.version {
		return old, nil
	}
	if old != nil && v.seq > old.version.seq && old.version.seq > 0 {
		touched, ok, err := touchedSince(ctx, tx, old.version, maxTouched)
		if err != nil {
			return nil, err
		}
		if ok {
			return loadTenants(ctx, tx, old, v, touched)
		}
	}
	return loadAll(ctx, tx, old, v)
}

// loadTenants reads the tenants that are keys of touched.
func loadTenants(ctx context.Context, tx *sql.Tx, old *Snapshot, v version, touched map[int64]*tenant) (*Snapshot, error) {
	l := newLoader(ctx, tx, old.catalogue, old.seed)
	if err := l.readDisabled(); err != nil {
		return nil, err
	}
	for id := range touched {
		if err := l.readTenant(id); err != nil {
			return nil, err
		}
	}
	for id := range touched {
		touched[id] = l.tenants[id]
	}
	l.finish()
	return old.with(v, touched), nil
}

// loadAll reads everything. An unchanged catalogue is taken over from old, so
// that routes need not resolve their permissions again.
func loadAll(ctx context.Context, tx *sql.Tx, old *Snapshot, v version) (*Snapshot, error) {
	l := newLoader(ctx, tx, newCatalogue(), maphash.MakeSeed())
	if err := l.readCatalogue(); err != nil {
		return nil, err
	}
	if old != nil && old.catalogue.equal(l.catalogue) {
		l.catalogue = old.catalogue
	}
	if err := l.readAllTenants(); err != nil {
		return nil, err
	}
	l.finish()
	empty := &Snapshot{catalogue: l.catalogue, seed: l.seed}
	return empty.with(v, l.tenants), nil
}

// loader reads rows into tenants. Rows stream: at no time are all of them in memory.
type loader struct {
	ctx       context.Context // lives for one Load
	tx        *sql.Tx
	catalogue *catalogue
	tenants   map[int64]*tenant
	roles     map[int64]*loadedRole
	disabled  map[string]struct{}
	seed      maphash.Seed
	members   membersBuilder
}

// loadedRole is a role while its rights are read.
type loadedRole struct {
	tenant *tenant
	index  int // among the tenant's roles
	rights []uint64
}

func (r *loadedRole) grant(bit int) {
	for len(r.rights) <= bit>>6 {
		r.rights = append(r.rights, 0)
	}
	r.rights[bit>>6] |= 1 << (bit & 63)
}

func newLoader(ctx context.Context, tx *sql.Tx, c *catalogue, seed maphash.Seed) *loader {
	return &loader{
		ctx: ctx, tx: tx, catalogue: c, seed: seed,
		tenants: map[int64]*tenant{}, roles: map[int64]*loadedRole{}, disabled: map[string]struct{}{},
	}
}

const (
	selectProducts = `SELECT name FROM products`
	selectFeatures = `SELECT f.id, p.name, f.name, f.actions FROM features f JOIN products p ON p.id = f.product_id ORDER BY f.id`

	selectTenants = `SELECT id, status FROM tenants`
	selectRoles   = `SELECT id, tenant_id, name FROM roles ORDER BY tenant_id`
	selectRights  = `SELECT role_id, feature_id, action FROM role_feature_permissions ORDER BY role_id`
	// The disabled are few and have an index: reading them first saves a join with all users.
	selectDisabled = `SELECT id FROM users WHERE status <> 'active'`
	selectMembers  = `SELECT tenant_id, user_id, role_id FROM memberships ORDER BY tenant_id`

	selectTenantsOf = `SELECT id, status FROM tenants WHERE id = $1`
	selectRolesOf   = `SELECT id, tenant_id, name FROM roles WHERE tenant_id = $1`
	selectRightsOf  = `SELECT p.role_id, p.feature_id, p.action FROM roles r
		JOIN role_feature_permissions p ON p.role_id = r.id WHERE r.tenant_id = $1 ORDER BY p.role_id`
	selectMembersOf = `SELECT tenant_id, user_id, role_id FROM memberships WHERE tenant_id = $1`
)

func (l *loader) readAllTenants() error {
	return firstError(
		func() error { return l.readTenants(selectTenants) },
		func() error { return l.readRoles(selectRoles) },
		func() error { return l.readRights(selectRights) },
		l.readDisabled,
		func() error { return l.readMembers(selectMembers) },
	)
}

func (l *loader) readTenant(id int64) error {
	return firstError(
		func() error { return l.readTenants(selectTenantsOf, id) },
		func() error { return l.readRoles(selectRolesOf, id) },
		func() error { return l.readRights(selectRightsOf, id) },
		func() error { return l.readMembers(selectMembersOf, id) },
	)
}

// firstError runs steps until one fails.
func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// each runs a query, scans every row into dest and calls f.
func (l *loader) each(what, query string, args, dest []any, f func() error) error {
	rows, err := l.tx.QueryContext(l.ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		if err := f(); err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

func (l *loader) readCatalogue() error {
	var (
		id                     int64
		product, name, actions string
	)
	err := l.each("products", selectProducts, nil, []any{&product}, func() error {
		l.catalogue.addProduct(product)
		return nil
	})
	if err != nil {
		return err
	}
	return l.each("features", selectFeatures, nil, []any{&id, &product, &name, &actions}, func() error {
		usable, _ := ParseActions(actions) // what can't be named can't be granted
		l.catalogue.addFeature(id, product, name, usable)
		return nil
	})
}

func (l *loader) readTenants(query string, args ...any) error {
	var (
		id     int64
		status string
	)
	return l.each("tenants", query, args, []any{&id, &status}, func() error {
		l.tenants[id] = &tenant{suspended: status != "active", stats: Stats{Tenants: 1}}
		return nil
	})
}

// readRoles gives every tenant its roles, sorted by name. The rows come tenant by tenant.
func (l *loader) readRoles(query string, args ...any) error {
	type row struct {
		id   int64
		name string
	}
	var (
		id, tenantID, current int64
		name                  string
		pending               []row
		names                 = map[string]string{} // one copy of "Admin" for all tenants
	)
	flush := func() {
		t := l.tenants[current]
		if t == nil {
			pending = pending[:0]
			return
		}
		slices.SortFunc(pending, func(a, b row) int { return cmp.Compare(a.name, b.name) })
		t.names = make([]string, len(pending))
		for i, r := range pending {
			t.names[i] = r.name
			l.roles[r.id] = &loadedRole{tenant: t, index: i}
		}
		pending = pending[:0]
	}
	err := l.each("roles", query, args, []any{&id, &tenantID, &name}, func() error {
		if tenantID != current {
			flush()
			current = tenantID
		}
		if known, ok := names[name]; ok {
			name = known
		} else {
			names[name] = name
		}
		pending = append(pending, row{id, name})
		return nil
	})
	flush()
	return err
}

// readRights sets the roles' bits. Rows for an action that the feature doesn't
// declare count as rows but grant nothing.
func (l *loader) readRights(query string, args ...any) error {
	var (
		roleID, featureID, current int64
		action                     sql.RawBytes
		role                       *loadedRole
	)
	return l.each("role permissions", query, args, []any{&roleID, &featureID, &action}, func() error {
		if roleID != current {
			current, role = roleID, l.roles[roleID]
		}
		if role == nil {
			return nil
		}
		role.tenant.stats.Rows++
		if bit := l.catalogue.bit(featureID, action); bit >= 0 {
			role.grant(bit)
		}
		return nil
	})
}

func (l *loader) readDisabled() error {
	var id string
	return l.each("disabled users", selectDisabled, nil, []any{&id}, func() error {
		l.disabled[id] = struct{}{}
		return nil
	})
}

// readMembers gives every tenant its members. The rows come tenant by tenant.
func (l *loader) readMembers(query string, args ...any) error {
	var (
		tenantID, roleID, current int64
		userID                    sql.RawBytes
	)
	flush := func() {
		if t := l.tenants[current]; t != nil {
			t.stats.Members = len(l.members.entries)
			t.members = l.members.build(l.seed)
		}
	}
	err := l.each("memberships", query, args, []any{&tenantID, &userID, &roleID}, func() error {
		if tenantID != current {
			flush()
			current = tenantID
		}
		if _, ok := l.disabled[string(userID)]; ok {
			return nil
		}
		role := l.roles[roleID]
		if role == nil || role.tenant != l.tenants[tenantID] {
			return nil
		}
		return l.members.add(userID, uint32(role.index))
	})
	flush()
	return err
}

// finish gives the tenants their roles' rights. Tenants with the same roles
// share them: most have the same few.
func (l *loader) finish() {
	for _, r := range l.roles {
		r.tenant.stride = max(r.tenant.stride, len(r.rights))
	}
	for _, r := range l.roles {
		t := r.tenant
		if t.rights == nil {
			t.rights = make([]uint64, len(t.names)*t.stride)
		}
		copy(t.rights[r.index*t.stride:], r.rights)
	}
	rights, names := map[uint64][]uint64{}, map[uint64][]string{}
	for _, t := range l.tenants {
		t.rights = share(rights, t.rights, l.seed)
		t.names = share(names, t.names, l.seed)
	}
}

// share returns an earlier slice that equals s, or s itself.
func share[E comparable](known map[uint64][]E, s []E, seed maphash.Seed) []E {
	var hash maphash.Hash
	hash.SetSeed(seed)
	for _, e := range s {
		maphash.WriteComparable(&hash, e)
	}
	if same, ok := known[hash.Sum64()]; ok && slices.Equal(same, s) {
		return same
	}
	known[hash.Sum64()] = s
	return s
}
