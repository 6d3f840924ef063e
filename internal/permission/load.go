package permission

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// Load reads the table in one read transaction. old is an earlier snapshot of
// the same database or nil: if nothing changed since, old itself is returned;
// if only tenants changed, the rest is shared with old. The schema must be the
// one that database.DB.CheckSchema knows.
func Load(ctx context.Context, db *database.DB, old *Snapshot) (*Snapshot, error) {
	tx, err := db.BeginRead(ctx)
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
		touched, ok, err := touchedSince(ctx, tx, old.version)
		if err != nil {
			return nil, err
		}
		if ok {
			return loadTouched(ctx, tx, old, v, touched)
		}
	}
	return loadAll(ctx, tx, old, v)
}

// loadTouched reads what changed in the tenants that are keys of touched.
func loadTouched(ctx context.Context, tx *sql.Tx, old *Snapshot, v version, touched map[int64]*change) (*Snapshot, error) {
	l := newLoader(ctx, tx, old.catalogue, old)
	next := make(map[int64]*tenant, len(touched))
	for id, c := range touched {
		t, err := l.readTouched(id, c)
		if err != nil {
			return nil, err
		}
		next[id] = t
	}
	return old.with(v, next), nil
}

// loadAll reads everything. An unchanged catalogue is taken over from old, so
// that routes need not resolve their permissions again, and so are unchanged
// tenants and members, so that there is only one copy of them at any time.
func loadAll(ctx context.Context, tx *sql.Tx, old *Snapshot, v version) (*Snapshot, error) {
	l := newLoader(ctx, tx, newCatalogue(), old)
	if err := l.readCatalogue(); err != nil {
		return nil, err
	}
	if old != nil && old.catalogue.equal(l.catalogue) {
		l.catalogue = old.catalogue
	}
	err := firstError(
		func() error { return l.readRolesOf(everything) },
		l.readDisabled,
		func() error { return l.readMembers(everything.members) },
	)
	if err != nil {
		return nil, err
	}
	next := make(map[int64]*tenant, len(l.tenants))
	for id, t := range l.tenants {
		next[id] = l.finish(id, t)
	}
	empty := &Snapshot{catalogue: l.catalogue, seed: l.seed}
	full := empty.with(v, next)
	full.whole = true
	return full, nil
}

// loader reads rows into tenants. Rows stream: at no time are all of them in memory.
type loader struct {
	ctx       context.Context // lives for one Load
	tx        *sql.Tx
	old       *Snapshot // to share with, may be nil
	catalogue *catalogue
	seed      maphash.Seed
	tenants   map[int64]*loadedTenant
	roles     map[int64]*loadedRole
	names     map[string]string    // of roles: one copy of "Admin" for all tenants
	expanded  map[Pattern][]uint64 // what wildcards mean
	known     interner
	disabled  map[string]struct{} // users, if everything is read
	members   membersBuilder
}

// loadedTenant is a tenant while it is read.
type loadedTenant struct {
	suspended bool
	roles     []*loadedRole // sorted by name
	rows      int
	made      roles // of roles
	ids       []int64
	bytes     int // of made, without what others have too
	members   members
	count     int // of members
}

// loadedRole is a role while its rights are read.
type loadedRole struct {
	tenant      *loadedTenant
	id          int64
	index       int // among the tenant's roles
	name        string
	owner       bool
	own, rights []uint64 // its rows, and all that it holds
	wildcards   []Pattern
	parents     []*loadedRole
}

func newLoader(ctx context.Context, tx *sql.Tx, c *catalogue, old *Snapshot) *loader {
	l := &loader{
		ctx: ctx, tx: tx, catalogue: c, old: old, seed: maphash.MakeSeed(),
		tenants: map[int64]*loadedTenant{}, roles: map[int64]*loadedRole{},
		names: map[string]string{}, expanded: map[Pattern][]uint64{},
	}
	if old != nil {
		l.seed = old.seed
	}
	l.known = newInterner(l.seed)
	return l
}

// queries read one tenant or all of them. Rows come role by role, and members
// tenant by tenant. With %s, rows of roles are asked for by the roles' ids: a
// planner that knows nothing of a new table yet would join all of its rows.
type queries struct {
	tenants, roles, rights, wildcards, parents, members string
}

const (
	selectProducts = `SELECT id, name FROM products`
	selectFeatures = `SELECT f.id, p.name, f.name, f.actions FROM features f JOIN products p ON p.id = f.product_id`

	selectRights    = `SELECT x.role_id, x.feature_id, x.action FROM role_feature_permissions x`
	selectWildcards = `SELECT x.role_id, x.product_id, x.feature_id, x.action FROM role_wildcards x`
	// The disabled are few and have an index: for everything, reading them first
	// is much faster than looking at all users.
	selectDisabled = `SELECT id FROM users WHERE status <> 'active'`
)

var (
	everything = &queries{
		tenants:   `SELECT id, status FROM tenants`,
		roles:     `SELECT id, tenant_id, name, kind = 'owner' FROM roles ORDER BY tenant_id`,
		rights:    selectRights + ` ORDER BY x.role_id`,
		wildcards: selectWildcards,
		parents:   `SELECT role_id, parent_id FROM role_parents`,
		members:   `SELECT tenant_id, user_id, role_id FROM memberships ORDER BY tenant_id`,
	}
	ofTenant = &queries{
		tenants:   `SELECT id, status FROM tenants WHERE id = $1`,
		roles:     `SELECT id, tenant_id, name, kind = 'owner' FROM roles WHERE tenant_id = $1`,
		rights:    selectRights + ` WHERE x.role_id IN (%s) ORDER BY x.role_id`,
		wildcards: selectWildcards + ` WHERE x.role_id IN (%s)`,
		parents:   `SELECT role_id, parent_id FROM role_parents WHERE tenant_id = $1`,
		// In the order of the ids, because SQLite looks them up one by one.
		members: `SELECT m.tenant_id, m.user_id, m.role_id FROM memberships m WHERE m.tenant_id = $1
			AND NOT EXISTS (SELECT 1 FROM users u WHERE u.id = m.user_id AND u.status <> 'active') ORDER BY m.user_id`,
	}
)

const selectMember = `SELECT m.role_id FROM memberships m JOIN users u ON u.id = m.user_id
	WHERE m.tenant_id = $1 AND m.user_id = $2 AND u.status = 'active'`

// readTouched returns the tenant with the given id as it is now, nil if it is
// gone. Of a known tenant it reads only what c says has changed.
func (l *loader) readTouched(id int64, c *change) (*tenant, error) {
	old := l.old.tenants.find(id)
	if old == nil || c.all {
		return l.readTenant(id)
	}
	next := old
	if c.roles {
		if err := l.readRolesOf(ofTenant, id); err != nil {
			return nil, err
		}
		t := l.tenants[id]
		if t == nil {
			return nil, nil
		}
		var ok bool
		if t.members, ok = old.members.remap(old.ids, t.roles); !ok {
			return l.readTenant(id) // a role that has members is gone
		}
		t.count = old.stats.Members
		next = l.finish(id, t)
	}
	return l.readMembersOf(id, next, c.members)
}

// readTenant reads the whole tenant with the given id; nil if there is none.
func (l *loader) readTenant(id int64) (*tenant, error) {
	err := firstError(
		func() error { return l.readRolesOf(ofTenant, id) },
		func() error { return l.readMembers(ofTenant.members, id) },
	)
	t := l.tenants[id]
	if err != nil || t == nil {
		return nil, err
	}
	return l.finish(id, t), nil
}

// readMembersOf returns t with the named members as they are now.
func (l *loader) readMembersOf(id int64, t *tenant, users map[string]struct{}) (*tenant, error) {
	if len(users) == 0 {
		return t, nil
	}
	changes := make(map[string]uint32, len(users))
	for user := range users {
		var roleID int64
		err := l.tx.QueryRowContext(l.ctx, selectMember, id, user).Scan(&roleID)
		role := slices.Index(t.ids, roleID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			changes[user] = gone
		case err != nil:
			return nil, fmt.Errorf("read a membership: %w", err)
		case role < 0:
			return l.readTenant(id) // a role that nobody told of
		default:
			changes[user] = uint32(role)
		}
	}
	next := *t
	var err error
	if next.members, next.stats.Members, err = t.members.with(changes, t.stats.Members, l.seed); err != nil {
		return nil, fmt.Errorf("read a membership: %w", err)
	}
	next.stats.Bytes += next.members.bytes() - t.members.bytes()
	next.seal = new(identity.Seal)
	return &next, nil
}

// readRolesOf reads all but the members, in place of what was read before.
func (l *loader) readRolesOf(q *queries, args ...any) error {
	clear(l.tenants)
	clear(l.roles)
	err := firstError(
		func() error { return l.readTenants(q.tenants, args...) },
		func() error { return l.readRoles(q.roles, args...) },
		func() error { return l.ofRoles(q.rights, l.readRights) },
		func() error { return l.ofRoles(q.wildcards, l.readWildcards) },
		func() error { return l.readParents(q.parents, args...) },
	)
	if err != nil {
		return err
	}
	for id, t := range l.tenants {
		l.finishRoles(id, t)
	}
	return nil
}

// mostIDs is how many ids stand in one query.
const mostIDs = 512

// ofRoles calls read for a query of the rows of all roles or, with %s in it, for
// as many as it takes to name the roles that were read. The number of ids is
// rounded up, so that the database has few statements to prepare.
func (l *loader) ofRoles(query string, read func(query string, args ...any) error) error {
	if !strings.Contains(query, "%s") {
		return read(query)
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(l.roles)), mostIDs) {
		args, marks := make([]any, 1<<bits.Len(uint(len(ids)-1))), new(strings.Builder)
		for i := range args {
			args[i] = ids[min(i, len(ids)-1)]
			fmt.Fprintf(marks, ", $%d", i+1)
		}
		if err := read(fmt.Sprintf(query, marks.String()[2:]), args...); err != nil {
			return err
		}
	}
	return nil
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
	err := l.each("products", selectProducts, nil, []any{&id, &product}, func() error {
		l.catalogue.addProduct(id, product)
		return nil
	})
	if err != nil {
		return err
	}
	err = l.each("features", selectFeatures, nil, []any{&id, &product, &name, &actions}, func() error {
		usable, _ := ParseActions(actions) // what can't be named can't be granted
		l.catalogue.addFeature(id, product, name, usable)
		return nil
	})
	l.catalogue.finish()
	return err
}

func (l *loader) readTenants(query string, args ...any) error {
	var (
		id     int64
		status string
	)
	return l.each("tenants", query, args, []any{&id, &status}, func() error {
		l.tenants[id] = &loadedTenant{suspended: status != "active"}
		return nil
	})
}

// readRoles gives every tenant its roles, sorted by name.
func (l *loader) readRoles(query string, args ...any) error {
	var (
		id, tenantID int64
		name         string
		owner        bool
	)
	err := l.each("roles", query, args, []any{&id, &tenantID, &name, &owner}, func() error {
		t := l.tenants[tenantID]
		if t == nil {
			return nil
		}
		if known, ok := l.names[name]; ok {
			name = known
		} else {
			l.names[name] = name
		}
		r := &loadedRole{tenant: t, id: id, name: name, owner: owner}
		t.roles = append(t.roles, r)
		l.roles[id] = r
		return nil
	})
	for _, t := range l.tenants {
		slices.SortFunc(t.roles, func(a, b *loadedRole) int { return cmp.Compare(a.name, b.name) })
		for i, r := range t.roles {
			r.index = i
		}
	}
	return err
}

// readRights sets the roles' bits. Rows for an action that the feature doesn't
// declare count as rows but grant nothing.
func (l *loader) readRights(query string, args ...any) error {
	var (
		roleID, featureID int64
		action            sql.RawBytes
		role              *loadedRole // whose rows are being read
		rights            = rightsFor(len(l.catalogue.all))
	)
	flush := func() {
		if role != nil {
			role.own = trim(rights)
			clear(rights)
		}
	}
	err := l.each("role permissions", query, args, []any{&roleID, &featureID, &action}, func() error {
		if role == nil || role.id != roleID {
			flush()
			role = l.roles[roleID]
		}
		if role == nil {
			return nil
		}
		role.tenant.rows++
		if bit := l.catalogue.bit(featureID, action); bit >= 0 {
			setBit(rights, bit)
		}
		return nil
	})
	flush()
	return err
}

func (l *loader) readWildcards(query string, args ...any) error {
	var (
		roleID           int64
		product, feature sql.NullInt64
		action           sql.NullString
	)
	return l.each("wildcards", query, args, []any{&roleID, &product, &feature, &action}, func() error {
		role := l.roles[roleID]
		p, ok := l.catalogue.pattern(product, feature, action)
		if role != nil && ok {
			role.wildcards = append(role.wildcards, p)
		}
		return nil
	})
}

func (l *loader) readParents(query string, args ...any) error {
	var roleID, parentID int64
	return l.each("parents of roles", query, args, []any{&roleID, &parentID}, func() error {
		role, parent := l.roles[roleID], l.roles[parentID]
		if role != nil && parent != nil && role.tenant == parent.tenant {
			role.parents = append(role.parents, parent)
		}
		return nil
	})
}

func (l *loader) readDisabled() error {
	var id string
	l.disabled = map[string]struct{}{}
	return l.each("disabled users", selectDisabled, nil, []any{&id}, func() error {
		l.disabled[id] = struct{}{}
		return nil
	})
}

// readMembers gives every tenant its members.
func (l *loader) readMembers(query string, args ...any) error {
	var (
		tenantID, roleID, current int64
		userID                    sql.RawBytes
	)
	flush := func() {
		if t := l.tenants[current]; t != nil {
			t.count = len(l.members.entries)
			t.members = l.buildMembers(current)
		}
	}
	err := l.each("memberships", query, args, []any{&tenantID, &userID, &roleID}, func() error {
		if tenantID != current {
			flush()
			current = tenantID
		}
		role := l.roles[roleID]
		_, disabled := l.disabled[string(userID)]
		if disabled || role == nil || role.tenant != l.tenants[tenantID] {
			return nil
		}
		return l.members.add(userID, uint32(role.index))
	})
	flush()
	return err
}

// buildMembers makes a table of the members that were read, or returns the one
// that the tenant had before if it has the same.
func (l *loader) buildMembers(id int64) members {
	if l.old != nil {
		if old := l.old.tenants.find(id); old != nil && l.members.equals(&old.members, old.stats.Members, l.seed) {
			l.members.reset()
			return old.members
		}
	}
	return l.members.build(l.seed)
}
