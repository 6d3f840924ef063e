package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// set is a set of permissions by their number in an [index].
type set []uint64

func (b set) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }

func (b set) put(i int) { b[i>>6] |= 1 << (i & 63) }

func (b set) add(other set) {
	for i := range b {
		b[i] |= other[i]
	}
}

// index numbers all permissions of one or more catalogues, sorted by name.
type index struct {
	all []permission.Permission
	at  map[permission.Permission]int
}

func newIndex(policies ...*Policy) *index {
	x := &index{at: map[permission.Permission]int{}}
	for _, p := range policies {
		p.permissions(func(one permission.Permission) {
			if _, ok := x.at[one]; !ok {
				x.at[one] = 0
				x.all = append(x.all, one)
			}
		})
	}
	slices.SortFunc(x.all, func(a, b permission.Permission) int {
		return cmp.Or(strings.Compare(a.Product, b.Product), strings.Compare(a.Feature, b.Feature), strings.Compare(a.Action, b.Action))
	})
	for i, one := range x.all {
		x.at[one] = i
	}
	return x
}

func (x *index) none() set { return make(set, len(x.all)/64+1) }

// permissions calls f for every permission of the catalogue.
func (p *Policy) permissions(f func(permission.Permission)) {
	for name, product := range p.Products {
		for feature, declared := range product.Features {
			for _, action := range declared.actions() {
				f(permission.Permission{Product: name, Feature: feature, Action: action})
			}
		}
	}
}

// table knows what follows from a policy: who effectively holds what.
type table struct {
	*index
	policy *Policy
	known  set                        // the permissions of the policy's own catalogue
	masks  map[permission.Pattern]set // what a pattern names of them
}

func newTable(p *Policy, x *index) *table {
	t := &table{index: x, policy: p, known: x.none(), masks: map[permission.Pattern]set{}}
	p.permissions(func(one permission.Permission) { t.known.put(x.at[one]) })
	return t
}

// mask returns the known permissions that a pattern gives.
func (t *table) mask(p permission.Pattern) set {
	if b, ok := t.masks[p]; ok {
		return b
	}
	b := t.none()
	if p.Wildcard() {
		for i, one := range t.all {
			if t.known.has(i) && p.Covers(permission.Pattern(one)) {
				b.put(i)
			}
		}
	} else if i, ok := t.at[permission.Permission(p)]; ok && t.known.has(i) {
		b.put(i)
	}
	t.masks[p] = b
	return b
}

// own returns what the rows of the role itself give.
func (t *table) own(r *Role) set {
	b := t.none()
	if r.Owner {
		b.add(t.mask(permission.Everything))
	}
	for p := range r.Permissions {
		b.add(t.mask(p))
	}
	return b
}

// rights returns what each role of a tenant effectively gives.
func (t *table) rights(tenant *Tenant) map[string]set {
	all := make(map[string]set, len(tenant.Roles))
	for name := range tenant.Roles {
		b := t.none()
		tenant.ancestors(name, func(_ string, r *Role) bool {
			b.add(t.own(r))
			return true
		})
		all[name] = b
	}
	return all
}

// ancestors calls f for the role and all roles that it inherits from, the near
// ones first, each once, until f returns false. It returns the way from the
// role to the one where f did.
func (t *Tenant) ancestors(name string, f func(name string, r *Role) bool) (path []string) {
	type step struct {
		name string
		from *step
	}
	queue, seen := []*step{{name: name}}, map[string]bool{name: true}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		role := t.Roles[s.name]
		if role == nil {
			continue
		}
		if !f(s.name, role) {
			for ; s != nil; s = s.from {
				path = append(path, s.name)
			}
			slices.Reverse(path)
			return path
		}
		for _, parent := range sorted(role.Inherits) {
			if !seen[parent] {
				seen[parent] = true
				queue = append(queue, &step{parent, s})
			}
		}
	}
	return nil
}

// row returns the role's own row that gives a permission: its name, else the
// narrowest wildcard, else "owner"; empty if none does. It is the one that the
// snapshot names.
func (t *table) row(r *Role, i int) string {
	var giving []permission.Pattern
	for p := range r.Permissions {
		if t.mask(p).has(i) {
			giving = append(giving, p)
		}
	}
	switch {
	case len(giving) > 0:
		return slices.MinFunc(giving, permission.ComparePatterns).String()
	case r.Owner && t.mask(permission.Everything).has(i):
		return permission.OwnerRow
	}
	return ""
}

// unknown returns the reason why the catalogue does not have a permission, or "".
func (p *Policy) unknown(one permission.Permission) permission.Reason {
	product := p.Products[one.Product]
	if product == nil {
		return permission.UnknownProduct
	}
	feature := product.Features[one.Feature]
	switch {
	case feature == nil:
		return permission.UnknownFeature
	case !slices.Contains(feature.actions(), one.Action):
		return permission.UnknownAction
	}
	return ""
}

// tenant returns the tenant with the given name or id.
func (p *Policy) tenant(text string) *Tenant {
	if t := p.Tenants[text]; t != nil {
		return t
	}
	if id, ok := parseTenantID(text); ok {
		for _, t := range p.Tenants {
			if t.id == id {
				return t
			}
		}
	}
	return nil
}

// judge decides for one role of a tenant, as the gateway would.
func (t *table) judge(tenant *Tenant, role string, one permission.Permission) Verdict {
	if reason := t.policy.unknown(one); reason != "" {
		return Verdict{Reason: reason}
	}
	if tenant == nil {
		return Verdict{Reason: permission.UnknownTenant}
	}
	if tenant.Roles[role] == nil {
		return Verdict{Reason: permission.NotAMember}
	}
	if tenant.Status == identity.StatusSuspended {
		return Verdict{Reason: permission.TenantSuspended, Role: role}
	}
	v := Verdict{Reason: permission.RoleLacksAction, Role: role}
	i := t.at[one]
	v.Path = tenant.ancestors(role, func(_ string, r *Role) bool {
		v.Row = t.row(r, i)
		return v.Row == ""
	})
	if v.Row != "" {
		v.Allowed, v.Reason = true, permission.Allowed
	}
	return v
}

// Verdict is a decision and what it rests on.
type Verdict struct {
	Allowed bool              `json:"allowed"`
	Reason  permission.Reason `json:"reason"`
	// Role is the role that was asked; Path leads from it to the role that has
	// the row; Row is the row: a pattern, or "owner".
	Role string   `json:"role,omitempty"`
	Path []string `json:"path,omitempty"`
	Row  string   `json:"row,omitempty"`
}

// Rule returns what decided as "Manager > Editor: abc/*/*", empty if no row did.
func (v Verdict) Rule() string { return permission.Rule(v.Path, v.Row) }
