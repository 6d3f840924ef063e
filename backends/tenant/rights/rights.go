// Package rights is what the roles of a tenant hold at this moment, by rows of
// their own, by wildcards, by inheritance and as the built-in owner: for
// services that hand rights on and must not let anybody give more than they hold.
package rights

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// kindOwner is the kind of the built-in owner in the column roles.kind.
const kindOwner = "owner"

// Role is one role of a [Book].
type Role struct {
	ID   int64
	Name string
	// Owner says that it is the built-in owner of the tenant.
	Owner bool
	// Parents are the roles that it inherits from, by id.
	Parents []int64

	wildcards []permission.Pattern
}

// Book is the roles of one tenant as they were when it was read: after a change
// read another. The many rows of single rights are read only when they are asked
// for, so a book must not outlive its transaction.
type Book struct {
	q        identity.Queryer
	tenantID int64
	roles    map[int64]*Role
}

const (
	selectRoles     = `SELECT id, name, kind FROM roles WHERE tenant_id = $1`
	selectParents   = `SELECT role_id, parent_id FROM role_parents WHERE tenant_id = $1 ORDER BY parent_id`
	selectWildcards = `SELECT w.role_id, COALESCE(p.name, '*'), COALESCE(f.name, '*'), COALESCE(w.action, '*')
		FROM roles r JOIN role_wildcards w ON w.role_id = r.id
		LEFT JOIN products p ON p.id = w.product_id LEFT JOIN features f ON f.id = w.feature_id
		WHERE r.tenant_id = $1`
	selectNamed = `SELECT p.name, f.name, g.action
		FROM roles r JOIN role_feature_permissions g ON g.role_id = r.id
		JOIN features f ON f.id = g.feature_id JOIN products p ON p.id = f.product_id
		WHERE r.tenant_id = $1 AND r.id = $2`
	selectRoleOf = `SELECT role_id FROM memberships WHERE tenant_id = $1 AND user_id = $2`
)

// Read returns the roles of a tenant. To decide on a change, q is the
// transaction of the change and holds permission.Lock.
func Read(ctx context.Context, q identity.Queryer, tenantID int64) (*Book, error) {
	b := &Book{q: q, tenantID: tenantID, roles: map[int64]*Role{}}
	err := b.query(ctx, func(rows *sql.Rows) error {
		var (
			r    Role
			kind string
		)
		err := rows.Scan(&r.ID, &r.Name, &kind)
		r.Owner = kind == kindOwner
		b.roles[r.ID] = &r
		return err
	}, selectRoles, tenantID)
	if err != nil {
		return nil, err
	}
	err = b.query(ctx, func(rows *sql.Rows) error {
		var role, parent int64
		err := rows.Scan(&role, &parent)
		if r := b.roles[role]; r != nil && b.roles[parent] != nil {
			r.Parents = append(r.Parents, parent)
		}
		return err
	}, selectParents, tenantID)
	if err != nil {
		return nil, err
	}
	return b, b.query(ctx, func(rows *sql.Rows) error {
		var (
			role int64
			p    permission.Pattern
		)
		err := rows.Scan(&role, &p.Product, &p.Feature, &p.Action)
		if r := b.roles[role]; r != nil {
			r.wildcards = append(r.wildcards, p)
		}
		return err
	}, selectWildcards, tenantID)
}

// query calls scan for each row of a statement.
func (b *Book) query(ctx context.Context, scan func(*sql.Rows) error, statement string, args ...any) error {
	rows, err := b.q.QueryContext(ctx, statement, args...)
	if err != nil {
		return fmt.Errorf("read roles: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("read roles: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read roles: %w", err)
	}
	return nil
}

// Role returns a role, nil if the tenant has none with this id.
func (b *Book) Role(id int64) *Role { return b.roles[id] }

// ByName returns a role, nil if the tenant has none of this name.
func (b *Book) ByName(name string) *Role {
	for _, r := range b.roles {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Heirs returns the names of the roles that have the given one as a parent, sorted.
func (b *Book) Heirs(id int64) (names []string) {
	for _, r := range b.roles {
		if slices.Contains(r.Parents, id) {
			names = append(names, r.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Lineage returns a role and all that it inherits from, near ones first and
// each once, also if somebody wrote a cycle into the store.
func (b *Book) Lineage(id int64) []*Role {
	all := []*Role{}
	seen := map[int64]bool{id: true}
	for queue := []int64{id}; len(queue) > 0; queue = queue[1:] {
		r := b.roles[queue[0]]
		if r == nil {
			continue
		}
		all = append(all, r)
		for _, parent := range r.Parents {
			if !seen[parent] {
				seen[parent] = true
				queue = append(queue, parent)
			}
		}
	}
	return all
}

// Path returns the names of the roles on the shortest way from a role up to one
// that it inherits from, both included; nil if it does not. The way from a role
// to itself is that one name.
func (b *Book) Path(from, to int64) []string {
	child := map[int64]int64{from: 0} // where the way to a role came from
	for queue := []int64{from}; len(queue) > 0; queue = queue[1:] {
		id := queue[0]
		if id == to && b.roles[id] != nil {
			var names []string
			for ; id != 0; id = child[id] {
				names = append(names, b.roles[id].Name)
			}
			slices.Reverse(names)
			return names
		}
		if r := b.roles[id]; r != nil {
			for _, parent := range r.Parents {
				if _, seen := child[parent]; !seen {
					child[parent] = id
					queue = append(queue, parent)
				}
			}
		}
	}
	return nil
}

// Own returns what a role itself holds, without what it inherits, in the order
// of names. For the owner that is everything, and what somebody wrote by hand.
func (b *Book) Own(ctx context.Context, id int64) ([]permission.Pattern, error) {
	r := b.roles[id]
	if r == nil {
		return nil, nil
	}
	all := slices.Clone(r.wildcards)
	if r.Owner {
		all = append(all, permission.Everything)
	}
	err := b.query(ctx, func(rows *sql.Rows) error {
		var p permission.Pattern
		err := rows.Scan(&p.Product, &p.Feature, &p.Action)
		all = append(all, p)
		return err
	}, selectNamed, b.tenantID, id)
	slices.SortFunc(all, compare)
	return all, err
}

func compare(a, b permission.Pattern) int {
	return cmp.Or(cmp.Compare(a.Product, b.Product), cmp.Compare(a.Feature, b.Feature), cmp.Compare(a.Action, b.Action))
}

// Held is one row of what a role holds and the role that it stands in.
type Held struct {
	permission.Pattern
	From *Role
}

// Effective returns what a role holds, inherited rows too, in the order of
// names. What it holds from several roles is there several times.
func (b *Book) Effective(ctx context.Context, id int64) ([]Held, error) {
	all := []Held{}
	for _, r := range b.Lineage(id) {
		own, err := b.Own(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		for _, p := range own {
			all = append(all, Held{p, r})
		}
	}
	slices.SortStableFunc(all, func(a, b Held) int { return compare(a.Pattern, b.Pattern) })
	return all, nil
}

// Holds returns what a role holds, inherited rows too.
func (b *Book) Holds(ctx context.Context, id int64) (Set, error) {
	s := Set{named: map[permission.Pattern]bool{}}
	for _, r := range b.Lineage(id) {
		s.owner = s.owner || r.Owner
		own, err := b.Own(ctx, r.ID)
		if err != nil {
			return Set{}, err
		}
		for _, p := range own {
			if p.Wildcard() {
				s.wildcards = append(s.wildcards, p)
			} else {
				s.named[p] = true
			}
		}
	}
	s.operator = s.named[permission.Pattern(permission.RunInstallation)]
	return s, nil
}

// Member returns what a member of the tenant holds, nothing if the user is none.
func (b *Book) Member(ctx context.Context, userID string) (Set, error) {
	var roleID int64
	err := b.q.QueryRowContext(ctx, selectRoleOf, b.tenantID, userID).Scan(&roleID)
	if errors.Is(err, sql.ErrNoRows) {
		return Set{}, nil
	}
	if err != nil {
		return Set{}, fmt.Errorf("read a member's role: %w", err)
	}
	return b.Holds(ctx, roleID)
}
