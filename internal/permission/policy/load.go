package policy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Scope is the part of the table to look at.
type Scope struct {
	// Tenants are ids; nil means all of them.
	Tenants []int64
	// Members says to read who is a member, not only how many there are.
	Members bool
}

// Read runs f in a read transaction: what it reads is the table at one moment.
func Read(ctx context.Context, db *database.DB, f func(q identity.Queryer) error) error {
	tx, err := db.BeginRead(ctx)
	if err != nil {
		return fmt.Errorf("read permission table: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return f(tx)
}

// Load reads a part of the table. The catalogue is always read as a whole. q
// should be a transaction (see [Read]). Rows of an action that the feature does
// not have grant nothing and are left out.
func Load(ctx context.Context, q identity.Queryer, scope Scope) (*Policy, error) {
	l, err := newLoader(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := l.tenantsOf(scope.Tenants); err != nil {
		return nil, err
	}
	if scope.Members {
		if err := l.membersOf(scope.Tenants); err != nil {
			return nil, err
		}
	}
	return l.policy, nil
}

// newLoader returns a loader that has read the catalogue.
func newLoader(ctx context.Context, q identity.Queryer) (*loader, error) {
	l := &loader{
		ctx: ctx, q: q, policy: &Policy{Products: map[string]*Product{}, Tenants: map[string]*Tenant{}},
		features: map[int64]loadedFeature{}, products: map[int64]string{}, tenants: map[int64]*Tenant{}, roles: map[int64]*loadedRole{},
	}
	return l, l.catalogue()
}

// each calls f with the end of a statement for each of the tenants, or once for
// all of them.
func each(tenants []int64, f func(where string, args []any) error) error {
	if tenants == nil {
		return f("", nil)
	}
	for _, id := range tenants {
		if err := f(` WHERE t.id = $1`, []any{id}); err != nil {
			return err
		}
	}
	return nil
}

// loader reads rows into a policy.
type loader struct {
	ctx      context.Context // lives for one Load
	q        identity.Queryer
	policy   *Policy
	features map[int64]loadedFeature
	products map[int64]string
	tenants  map[int64]*Tenant
	roles    map[int64]*loadedRole
}

type loadedFeature struct {
	product, name string
	actions       []string
}

type loadedRole struct {
	*Role
	tenant *Tenant
	name   string
}

// Every statement is completed by the tenant, or by nothing for all of them.
const (
	selectProducts = `SELECT id, name FROM products`
	selectFeatures = `SELECT id, product_id, name, actions FROM features`
	selectTenants  = `SELECT t.id, t.name, t.status FROM tenants t`
	selectRoles    = `SELECT r.id, r.tenant_id, r.name, r.kind FROM tenants t JOIN roles r ON r.tenant_id = t.id`
	selectParents  = `SELECT h.role_id, h.parent_id FROM tenants t JOIN role_parents h ON h.tenant_id = t.id`
	selectRows     = `SELECT g.role_id, g.feature_id, g.action FROM tenants t JOIN roles r ON r.tenant_id = t.id
		JOIN role_feature_permissions g ON g.role_id = r.id`
	selectWildcards = `SELECT w.role_id, w.product_id, w.feature_id, w.action FROM tenants t JOIN roles r ON r.tenant_id = t.id
		JOIN role_wildcards w ON w.role_id = r.id`
	selectCounts = `SELECT m.role_id, COUNT(*), SUM(CASE u.status WHEN 'active' THEN 1 ELSE 0 END)
		FROM tenants t JOIN memberships m ON m.tenant_id = t.id JOIN users u ON u.id = m.user_id`
	groupCounts   = ` GROUP BY m.role_id`
	selectMembers = `SELECT m.role_id, u.id, u.email_key, u.status FROM tenants t JOIN memberships m ON m.tenant_id = t.id JOIN users u ON u.id = m.user_id`
)

// rows runs a query, scans every row into dest and calls f.
func (l *loader) rows(query string, args, dest []any, f func() error) error {
	rows, err := l.q.QueryContext(l.ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read permission table: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return fmt.Errorf("read permission table: %w", err)
		}
		if err := f(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read permission table: %w", err)
	}
	return nil
}

func (l *loader) catalogue() error {
	var (
		id, productID int64
		name, actions string
	)
	err := l.rows(selectProducts, nil, []any{&id, &name}, func() error {
		l.products[id] = name
		l.policy.Products[name] = &Product{Features: map[string]*Feature{}, id: id}
		return nil
	})
	if err != nil {
		return err
	}
	return l.rows(selectFeatures, nil, []any{&id, &productID, &name, &actions}, func() error {
		usable, _ := permission.ParseActions(actions) // what can't be named can't be granted
		product := l.products[productID]
		l.features[id] = loadedFeature{product, name, usable}
		feature := &Feature{id: id}
		for _, action := range usable {
			if action != permission.Read && action != permission.Write && action != permission.Delete {
				feature.Extra = append(feature.Extra, action)
			}
		}
		slices.Sort(feature.Extra)
		l.policy.Products[product].Features[name] = feature
		return nil
	})
}

// tenantsOf reads tenants with all but their members; nil is all tenants.
func (l *loader) tenantsOf(tenants []int64) error {
	return each(tenants, func(where string, args []any) error {
		for _, step := range []func(string, []any) error{l.readTenants, l.readRoles, l.readParents, l.readRows, l.readWildcards, l.readCounts} {
			if err := step(where, args); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *loader) readTenants(where string, args []any) error {
	var (
		id           int64
		name, status string
	)
	return l.rows(selectTenants+where, args, []any{&id, &name, &status}, func() error {
		t := &Tenant{Status: status, Roles: map[string]*Role{}, id: id, counts: map[string]count{}}
		l.tenants[id], l.policy.Tenants[name] = t, t
		return nil
	})
}

func (l *loader) readRoles(where string, args []any) error {
	var (
		id, tenantID int64
		name, kind   string
	)
	return l.rows(selectRoles+where, args, []any{&id, &tenantID, &name, &kind}, func() error {
		t := l.tenants[tenantID]
		role := &Role{Owner: kind == "owner", Inherits: map[string]bool{}, Permissions: map[permission.Pattern]bool{}, id: id}
		l.roles[id], t.Roles[name] = &loadedRole{role, t, name}, role
		return nil
	})
}

func (l *loader) readParents(where string, args []any) error {
	var id, parent int64
	return l.rows(selectParents+where, args, []any{&id, &parent}, func() error {
		l.roles[id].Inherits[l.roles[parent].name] = true
		return nil
	})
}

func (l *loader) readRows(where string, args []any) error {
	var (
		id, feature int64
		action      string
	)
	return l.rows(selectRows+where, args, []any{&id, &feature, &action}, func() error {
		if f := l.features[feature]; slices.Contains(f.actions, action) {
			l.roles[id].Permissions[permission.Pattern{Product: f.product, Feature: f.name, Action: action}] = true
		}
		return nil
	})
}

func (l *loader) readWildcards(where string, args []any) error {
	var (
		id               int64
		product, feature sql.NullInt64
		action           sql.NullString
	)
	return l.rows(selectWildcards+where, args, []any{&id, &product, &feature, &action}, func() error {
		l.roles[id].Permissions[l.wildcard(product, feature, action)] = true
		return nil
	})
}

func (l *loader) readCounts(where string, args []any) error {
	var (
		id int64
		n  count
	)
	return l.rows(selectCounts+where+groupCounts, args, []any{&id, &n.all, &n.active}, func() error {
		role := l.roles[id]
		role.tenant.counts[role.name] = n
		return nil
	})
}

// membersOf reads the members of tenants that were read before.
func (l *loader) membersOf(tenants []int64) error {
	for id, t := range l.tenants {
		if tenants == nil || slices.Contains(tenants, id) {
			t.Members = map[string]*Member{}
		}
	}
	var (
		id                       int64
		userID, emailKey, status string
	)
	return each(tenants, func(where string, args []any) error {
		return l.rows(selectMembers+where, args, []any{&id, &userID, &emailKey, &status}, func() error {
			role := l.roles[id]
			role.tenant.Members[memberKey(userID, emailKey)] = &Member{Role: role.name, userID: userID, disabled: status != identity.StatusActive}
			return nil
		})
	})
}

// wildcard returns the pattern of a row of role_wildcards.
func (l *loader) wildcard(product, feature sql.NullInt64, action sql.NullString) permission.Pattern {
	p := permission.Everything
	if product.Valid {
		p.Product = l.products[product.Int64]
	}
	if feature.Valid {
		p.Feature = l.features[feature.Int64].name
	}
	if action.Valid {
		p.Action = action.String
	}
	return p
}

const (
	selectTenantByName = `SELECT id, name FROM tenants WHERE name = $1`
	selectTenantByID   = `SELECT id, name FROM tenants WHERE id = $1`
)

// Named is a tenant of the database.
type Named struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// FindTenant returns the tenant with the given name or, if text is made of
// digits, id. Without one it is an error of identity.ErrNotFound.
func FindTenant(ctx context.Context, q identity.Queryer, text string) (t Named, err error) {
	if id, ok := parseTenantID(text); ok {
		err = q.QueryRowContext(ctx, selectTenantByID, id).Scan(&t.ID, &t.Name)
	} else {
		err = q.QueryRowContext(ctx, selectTenantByName, text).Scan(&t.ID, &t.Name)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return t, fmt.Errorf("there is no tenant %q: give its name or id: %w", text, identity.ErrNotFound)
	}
	if err != nil {
		return t, fmt.Errorf("read tenant: %w", err)
	}
	return t, nil
}

// FindUser returns the user with the given e-mail address or id (see
// [Policy.Encode] for how an id with an @ is written). Without one it is an
// error of identity.ErrNotFound.
func FindUser(ctx context.Context, q identity.Queryer, text string) (identity.User, error) {
	value, byEmail, err := parseMember(text)
	if err != nil {
		return identity.User{}, fmt.Errorf("%w: %w", err, identity.ErrNotFound)
	}
	var user identity.User
	if byEmail {
		user, err = identity.FindUserByEmailKey(ctx, q, value)
	} else {
		user, err = identity.FindUser(ctx, q, value)
	}
	if errors.Is(err, identity.ErrNotFound) {
		return user, fmt.Errorf("there is no user %q: give the e-mail address or id of an account: %w", text, err)
	}
	return user, err
}
