package policy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// File is a policy file to hold against a database.
type File struct {
	*Policy
	// Name is what errors call it.
	Name string
	// Prune says that of what the file lists nothing else is to be there: of the
	// section products other products, features and actions, of a tenant's roles
	// other roles, of its members other members. Tenants and the gateway's own
	// product are never removed.
	Prune bool
}

// Plan is what a file makes of a database.
type Plan struct {
	Difference

	before, after *Policy // of the tenants that the file is about, or of all
}

// Against returns what the file would change. q is a transaction (see [Read]).
// What the file refers to and is not there is an error of type [Mistakes].
func (file File) Against(ctx context.Context, q identity.Queryer) (*Plan, error) {
	m := merger{finder: finder{file: file.Name}, ctx: ctx, q: q, file: file}
	if err := m.load(); err != nil {
		return nil, err
	}
	if err := m.err(); err != nil {
		return nil, err
	}
	after := m.merge()
	if err := m.err(); err != nil {
		return nil, err
	}
	return &Plan{Difference: Compare(m.before, after), before: m.before, after: after}, nil
}

// Validate returns what a file says as a table of its own, with every section.
// What it refers to must stand in it; members are taken as they are.
func Validate(name string, p *Policy) (*Policy, error) {
	empty := &Policy{Products: map[string]*Product{}, Tenants: map[string]*Tenant{}}
	m := merger{finder: finder{file: name}, file: File{Policy: p, Name: name}, before: empty, tenants: p.Tenants}
	after := m.merge()
	for key, t := range p.Tenants {
		if t.Members == nil {
			after.Tenants[key].Members = nil // not said is not nobody
		}
	}
	return after, m.err()
}

// oneByOne is how many tenants are read one after the other. Beyond it reading
// all tenants is faster.
const oneByOne = 1000

// merger lays a file over what the database holds.
type merger struct {
	finder
	ctx     context.Context // lives for one Against
	q       identity.Queryer
	file    File
	before  *Policy
	tenants map[string]*Tenant // of the file, by their names
}

// load reads the part of the database that the file is about, and finds the
// tenants and users that it names.
func (m *merger) load() error {
	l, err := newLoader(m.ctx, m.q)
	if err != nil {
		return err
	}
	m.before, m.tenants = l.policy, map[string]*Tenant{}
	ids, withMembers := []int64{}, []int64{}
	for _, key := range sorted(m.file.Tenants) {
		t := m.file.Tenants[key]
		found, err := FindTenant(m.ctx, m.q, key)
		_, isID := parseTenantID(key)
		switch {
		case errors.Is(err, identity.ErrNotFound) && isID:
			m.add(t.pos, "there is no tenant with the id %s: write a name to make a new one", key)
			continue
		case errors.Is(err, identity.ErrNotFound):
			found.Name = key
		case err != nil:
			return err
		default:
			ids = append(ids, found.ID)
			if t.Members != nil {
				withMembers = append(withMembers, found.ID)
			}
		}
		if other := m.tenants[found.Name]; other != nil {
			m.add(t.pos, "this is the tenant of line %d: keep one of them", other.pos.line)
			continue
		}
		m.tenants[found.Name] = t
	}
	if m.file.Products != nil && len(Compare(&Policy{Products: l.policy.Products}, &Policy{Products: m.products()}).Changes) > 0 {
		ids = nil // wildcards and owners of all tenants feel it
	}
	if len(ids) > oneByOne {
		ids = nil
	}
	if len(withMembers) > oneByOne {
		withMembers = nil
	}
	if err := l.tenantsOf(ids); err != nil {
		return err
	}
	if err := l.membersOf(withMembers); err != nil {
		return err
	}
	return m.findUsers()
}

// findUsers gives the members of the file their user ids, and the key that the
// database's members have.
func (m *merger) findUsers() error {
	for _, name := range sorted(m.tenants) {
		t, before := m.tenants[name], m.before.Tenants[name]
		if t.Members == nil {
			continue
		}
		found := make(map[string]*Member, len(t.Members))
		for _, key := range sorted(t.Members) {
			member := *t.Members[key]
			if before != nil && before.Members[key] != nil {
				member.userID, member.disabled = before.Members[key].userID, before.Members[key].disabled
			} else {
				user, err := FindUser(m.ctx, m.q, key)
				if errors.Is(err, identity.ErrNotFound) {
					m.add(member.pos, "nobody has an account like this: send an invitation, or correct the address or id")
					continue
				}
				if err != nil {
					return err
				}
				member.userID, member.disabled = user.ID, user.Status != identity.StatusActive
				key = memberKey(user.ID, user.EmailKey)
			}
			if other := found[key]; other != nil {
				m.add(member.pos, "this is the user of line %d: keep one of them", other.pos.line)
				continue
			}
			found[key] = &member
		}
		copied := *t
		copied.Members = found
		m.tenants[name] = &copied
	}
	return nil
}

// merge returns the table that the file makes of the one before.
func (m *merger) merge() *Policy {
	after := &Policy{Products: m.products(), Tenants: make(map[string]*Tenant, len(m.before.Tenants))}
	for name, t := range m.before.Tenants {
		after.Tenants[name] = m.surviving(after, t)
	}
	for _, name := range sorted(m.tenants) {
		after.Tenants[name] = m.tenant(after, after.Tenants[name], m.tenants[name])
	}
	return after
}

// products returns the catalogue that the file makes of the one before.
func (m *merger) products() map[string]*Product {
	after := map[string]*Product{}
	prune := m.file.Prune && m.file.Products != nil
	for name, product := range m.before.Products {
		if !prune || m.file.Products[name] != nil || name == permission.OwnProduct {
			after[name] = &Product{Features: maps.Clone(product.Features), id: product.id}
		}
	}
	for name, product := range m.file.Products {
		if after[name] == nil {
			after[name] = &Product{Features: map[string]*Feature{}}
		}
		features := after[name].Features
		if prune && name != permission.OwnProduct {
			maps.DeleteFunc(features, func(feature string, _ *Feature) bool { return product.Features[feature] == nil })
		}
		for feature, declared := range product.Features {
			features[feature] = m.feature(features[feature], declared, prune && name != permission.OwnProduct)
		}
	}
	return after
}

func (m *merger) feature(before, declared *Feature, prune bool) *Feature {
	after := &Feature{Extra: slices.Clone(declared.Extra)}
	if before != nil {
		after.id = before.id
		if !prune {
			after.Extra = append(after.Extra, before.Extra...)
		}
	}
	slices.Sort(after.Extra)
	after.Extra = slices.Compact(after.Extra)
	if len(after.actions()) > permission.MaxActions {
		m.add(declared.pos, "with the actions that it has already the feature gets more than %d", permission.MaxActions)
	}
	return after
}

// surviving returns the tenant without the rows of what leaves the catalogue.
func (m *merger) surviving(after *Policy, t *Tenant) *Tenant {
	if !m.file.Prune || m.file.Products == nil {
		return t
	}
	next := *t
	next.Roles = make(map[string]*Role, len(t.Roles))
	for name, role := range t.Roles {
		kept := *role
		kept.Permissions = maps.Clone(role.Permissions)
		maps.DeleteFunc(kept.Permissions, func(p permission.Pattern, _ bool) bool { return after.lacks(p) != "" })
		next.Roles[name] = &kept
	}
	return &next
}

// lacks says which part of a pattern the catalogue does not have, or "". A
// wildcard needs only the product or feature that it names.
func (p *Policy) lacks(row permission.Pattern) string {
	if row.Product == permission.Any {
		return ""
	}
	product := p.Products[row.Product]
	if product == nil {
		return "product " + row.Product
	}
	if row.Feature == permission.Any {
		return ""
	}
	feature := product.Features[row.Feature]
	switch {
	case feature == nil:
		return "feature " + row.Product + "/" + row.Feature
	case row.Action != permission.Any && !slices.Contains(feature.actions(), row.Action):
		return "action " + row.Action + " of " + row.Product + "/" + row.Feature
	}
	return ""
}

// tenant returns the tenant that the file makes of the one before, nil if it is new.
func (m *merger) tenant(after *Policy, before, said *Tenant) *Tenant {
	next := &Tenant{Status: identity.StatusActive, Roles: map[string]*Role{}, pos: said.pos}
	if before == nil {
		next.Members = map[string]*Member{}
		before = &Tenant{Members: map[string]*Member{}}
	} else {
		*next = *before
		next.Roles = maps.Clone(before.Roles)
	}
	if said.Status != "" {
		next.Status = said.Status
	}
	if said.Roles != nil {
		m.setRoles(after, before, said, next)
	}
	if before.id == 0 {
		addOwner(next)
	}
	if said.Members != nil {
		m.setMembers(before, said, next)
	}
	m.checkInheritance(said, next)
	m.checkOrphans(before, next, said)
	return next
}

// setRoles makes the listed roles what the file says.
func (m *merger) setRoles(after *Policy, before, said, next *Tenant) {
	if m.file.Prune {
		maps.DeleteFunc(next.Roles, func(name string, r *Role) bool { return said.Roles[name] == nil && !r.Owner })
	}
	owner := ""
	for name, r := range before.Roles {
		if r.Owner {
			owner = name
		}
	}
	for _, name := range sorted(said.Roles) {
		listed := said.Roles[name]
		role := *listed
		switch old := before.Roles[name]; {
		case role.Owner && owner != "" && owner != name:
			m.add(role.pos, "the owner role of this tenant is called %s: write it so, or rename it first", owner)
		case role.Owner && old != nil && !old.Owner:
			m.add(role.pos, "this role is there and is not the owner: remove owner, or give the owner another name")
		case !role.Owner && old != nil && old.Owner:
			m.add(role.pos, "this is the tenant's owner role: write owner: true")
		}
		if old := before.Roles[name]; old != nil {
			role.id = old.id
		}
		for _, p := range sortedPatterns(role.Permissions) {
			if what := after.lacks(p); what != "" {
				m.add(role.rows[p], "permission %q: there is no %s: add it under products, or correct the name", p, what)
			}
		}
		next.Roles[name] = &role
	}
}

// addOwner gives a new tenant its owner role, unless the file did.
func addOwner(t *Tenant) {
	for _, r := range t.Roles {
		if r.Owner {
			return
		}
	}
	name := ownerName
	if t.Roles[name] != nil {
		name = "Built-in owner"
	}
	if t.Roles[name] == nil {
		t.Roles[name] = &Role{Owner: true, Inherits: map[string]bool{}, Permissions: map[permission.Pattern]bool{}}
	}
}

// setMembers gives users their roles.
func (m *merger) setMembers(before, said, next *Tenant) {
	next.Members = maps.Clone(before.Members)
	if m.file.Prune {
		maps.DeleteFunc(next.Members, func(user string, _ *Member) bool { return said.Members[user] == nil })
	}
	for _, user := range sorted(said.Members) {
		member := said.Members[user]
		if next.Roles[member.Role] == nil {
			m.add(member.pos, "there is no role %q: use %s", member.Role, list(sorted(next.Roles), "or"))
		}
		next.Members[user] = member
	}
}

// checkInheritance notes roles that are not there and roles that inherit from themselves.
func (m *merger) checkInheritance(said, next *Tenant) {
	for _, name := range sorted(said.Roles) {
		role := said.Roles[name]
		for _, parent := range sorted(role.Inherits) {
			if next.Roles[parent] == nil {
				m.add(role.parents[parent], "there is no role %q: use %s", parent, list(sorted(next.Roles), "or"))
				continue
			}
			if next.Roles[parent].Owner {
				m.add(role.parents[parent], "nobody inherits from the owner %s: give the members that role, or write permissions: [\"*\"]", parent)
				continue
			}
			back := next.ancestors(parent, func(ancestor string, _ *Role) bool { return ancestor != name })
			if back != nil {
				m.add(role.parents[parent], "%s would inherit from itself: %s", name, strings.Join(append([]string{name}, back...), " > "))
			}
		}
	}
}

// checkOrphans notes roles that the file removes although members have them.
func (m *merger) checkOrphans(before, next, said *Tenant) {
	for _, name := range without(before.Roles, next.Roles) {
		n := before.counts[name].all
		if next.Members != nil {
			n = 0
			for _, member := range next.Members {
				if member.Role == name {
					n++
				}
			}
		}
		if n > 0 {
			at := said.pos
			at.path += ".roles"
			m.add(at, "%s has %s and is not in the file: give them another role first, or list it", name, plural(n, "member"))
		}
	}
}
