package policy

import (
	"slices"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// The kinds of [Change], which are the actions of the audit log.
const (
	productCreated     = "product.created"
	productDeleted     = "product.deleted"
	featureCreated     = "feature.created"
	featureUpdated     = "feature.updated"
	featureDeleted     = "feature.deleted"
	tenantCreated      = "tenant.created"
	tenantUpdated      = "tenant.updated"
	tenantDeleted      = "tenant.deleted"
	roleCreated        = "role.created"
	roleDeleted        = "role.deleted"
	permissionsChanged = "role.permissions_changed"
	parentsChanged     = "role.parents_changed"
	memberAdded        = "member.added"
	memberUpdated      = "member.updated"
	memberRemoved      = "member.removed"
)

// Change is one difference in what a table says.
type Change struct {
	// Action is what the audit log calls it: role.permissions_changed.
	Action  string `json:"action"`
	Product string `json:"product,omitempty"`
	Feature string `json:"feature,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Role    string `json:"role,omitempty"`
	User    string `json:"user,omitempty"`
	// Owner says that the role is the tenant's owner.
	Owner bool `json:"owner,omitempty"`
	// From and To are the member's roles or the tenant's states.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Added and Removed are actions of a feature, permissions of a role, or
	// roles that it inherits from.
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Effect is what changes for people: how many active members of a tenant gain
// or lose a permission, whatever the way.
type Effect struct {
	Tenant string `json:"tenant"`
	// Permission is its name, or "everything" if the tenant's status changed.
	Permission string `json:"permission"`
	Gained     bool   `json:"gained"`
	// Members is how many; 0 also if the policies don't hold the members. Roles
	// are the roles that they have: of a gain after the change, of a loss before.
	Members int      `json:"members"`
	Roles   []string `json:"roles"`

	idle []string // roles that nobody has
}

// allOfIt is the permission of an [Effect] of a tenant's status.
const allOfIt = "everything"

// Difference is what differs between two tables.
type Difference struct {
	Changes []Change `json:"changes"`
	Effects []Effect `json:"effects"`
}

// Same reports that nothing differs.
func (d Difference) Same() bool { return len(d.Changes) == 0 }

// Compare returns what differs from before to after. A section that one of them
// does not have is not compared.
func Compare(before, after *Policy) Difference {
	d := Difference{Changes: []Change{}, Effects: []Effect{}}
	if before.Products != nil && after.Products != nil {
		d.products(before.Products, after.Products)
	}
	if before.Tenants == nil || after.Tenants == nil {
		return d
	}
	for _, name := range union(before.Tenants, after.Tenants) {
		d.tenant(name, before.Tenants[name], after.Tenants[name])
	}
	d.effects(before, after)
	return d
}

// union returns the keys of both maps in order.
func union[V any](a, b map[string]V) []string {
	keys := sorted(a)
	for key := range b {
		if _, ok := a[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// without returns the keys of a that b lacks, in order.
func without[V any](a, b map[string]V) (keys []string) {
	for _, key := range sorted(a) {
		if _, ok := b[key]; !ok {
			keys = append(keys, key)
		}
	}
	return keys
}

func (d *Difference) add(c Change) { d.Changes = append(d.Changes, c) }

func (d *Difference) products(before, after map[string]*Product) {
	for _, name := range union(before, after) {
		b, a := before[name], after[name]
		if a == nil {
			d.add(Change{Action: productDeleted, Product: name})
			continue
		}
		if b == nil {
			d.add(Change{Action: productCreated, Product: name})
			b = &Product{}
		}
		for _, feature := range union(b.Features, a.Features) {
			d.feature(name, feature, b.Features[feature], a.Features[feature])
		}
	}
}

func (d *Difference) feature(product, name string, before, after *Feature) {
	c := Change{Product: product, Feature: name}
	switch {
	case after == nil:
		c.Action = featureDeleted
	case before == nil:
		c.Action, c.Added = featureCreated, after.Extra
	default:
		for _, action := range after.Extra {
			if !slices.Contains(before.Extra, action) {
				c.Added = append(c.Added, action)
			}
		}
		for _, action := range before.Extra {
			if !slices.Contains(after.Extra, action) {
				c.Removed = append(c.Removed, action)
			}
		}
		if len(c.Added)+len(c.Removed) == 0 {
			return
		}
		c.Action = featureUpdated
	}
	d.add(c)
}

func (d *Difference) tenant(name string, before, after *Tenant) {
	switch {
	case after == nil:
		d.add(Change{Action: tenantDeleted, Tenant: name})
		return
	case before == nil:
		d.add(Change{Action: tenantCreated, Tenant: name})
		before = &Tenant{Status: identity.StatusActive, Roles: map[string]*Role{}, Members: map[string]*Member{}}
	}
	if before.Status != "" && after.Status != "" && before.Status != after.Status {
		d.add(Change{Action: tenantUpdated, Tenant: name, From: before.Status, To: after.Status})
	}
	if before.Roles != nil && after.Roles != nil {
		for _, role := range union(before.Roles, after.Roles) {
			d.role(name, role, before.Roles[role], after.Roles[role])
		}
	}
	if before.Members != nil && after.Members != nil {
		for _, user := range union(before.Members, after.Members) {
			d.member(name, user, before.Members[user], after.Members[user])
		}
	}
}

func (d *Difference) role(tenant, name string, before, after *Role) {
	if after == nil {
		d.add(Change{Action: roleDeleted, Tenant: tenant, Role: name})
		return
	}
	if before != nil && before.Owner != after.Owner { // between files only
		d.add(Change{Action: roleDeleted, Tenant: tenant, Role: name, Owner: before.Owner})
		before = nil
	}
	if before == nil {
		d.add(Change{Action: roleCreated, Tenant: tenant, Role: name, Owner: after.Owner})
		before = &Role{}
	}
	c := Change{Action: parentsChanged, Tenant: tenant, Role: name}
	c.Added, c.Removed = without(after.Inherits, before.Inherits), without(before.Inherits, after.Inherits)
	if len(c.Added)+len(c.Removed) > 0 {
		d.add(c)
	}
	c = Change{Action: permissionsChanged, Tenant: tenant, Role: name}
	for _, p := range sortedPatterns(after.Permissions) {
		if !before.Permissions[p] {
			c.Added = append(c.Added, p.String())
		}
	}
	for _, p := range sortedPatterns(before.Permissions) {
		if !after.Permissions[p] {
			c.Removed = append(c.Removed, p.String())
		}
	}
	if len(c.Added)+len(c.Removed) > 0 {
		d.add(c)
	}
}

func (d *Difference) member(tenant, user string, before, after *Member) {
	switch {
	case after == nil:
		d.add(Change{Action: memberRemoved, Tenant: tenant, User: user, From: before.Role})
	case before == nil:
		d.add(Change{Action: memberAdded, Tenant: tenant, User: user, To: after.Role})
	case before.Role != after.Role:
		d.add(Change{Action: memberUpdated, Tenant: tenant, User: user, From: before.Role, To: after.Role})
	}
}

// Lines says the change in words, a line for each permission.
func (c Change) Lines() []string {
	feature := c.Product + "/" + c.Feature
	of := c.Role + " of " + c.Tenant
	switch c.Action {
	case productCreated:
		return []string{"product " + c.Product + " is new"}
	case productDeleted:
		return []string{"product " + c.Product + " is gone"}
	case featureCreated:
		return []string{"feature " + feature + " is new, with the actions " + list(append([]string{permission.Read, permission.Write, permission.Delete}, c.Added...), "and")}
	case featureDeleted:
		return []string{"feature " + feature + " is gone"}
	case featureUpdated:
		return c.each("feature "+feature, " gains the action ", " loses the action ")
	case tenantCreated:
		return []string{"tenant " + c.Tenant + " is new"}
	case tenantDeleted:
		return []string{"tenant " + c.Tenant + " is gone"}
	case tenantUpdated:
		return []string{"tenant " + c.Tenant + " is " + c.To + ", was " + c.From}
	case roleCreated:
		if c.Owner {
			return []string{"role " + of + " is new, the owner"}
		}
		return []string{"role " + of + " is new"}
	case roleDeleted:
		return []string{"role " + of + " is gone"}
	case permissionsChanged:
		return c.each("role "+of, " gains ", " loses ")
	case parentsChanged:
		return c.each("role "+of, " now inherits from ", " no longer inherits from ")
	case memberAdded:
		return []string{"member " + c.User + " of " + c.Tenant + " is new, with the role " + c.To}
	case memberUpdated:
		return []string{"member " + c.User + " of " + c.Tenant + " has the role " + c.To + ", had " + c.From}
	}
	return []string{"member " + c.User + " of " + c.Tenant + " is gone, had the role " + c.From}
}

func (c Change) each(subject, gains, loses string) (lines []string) {
	for _, what := range c.Added {
		lines = append(lines, subject+gains+what)
	}
	for _, what := range c.Removed {
		lines = append(lines, subject+loses+what)
	}
	return lines
}
