package permission

import (
	"cmp"
	"math/bits"
	"slices"
)

// Explanation is a decision with all that led to it.
type Explanation struct {
	Decision
	// Seq is the number of the newest change that the table held.
	Seq int64
	// Role is the role that decided, empty if none did.
	Role string
	// Path are the roles from Role to the one that itself holds the permission,
	// each inheriting from the next. It is empty unless the decision allows.
	Path []string
	// Row is what gives the last role of Path the permission: the permission,
	// a wildcard such as abc/*/read, or "owner".
	Row string
}

// Explain is [Snapshot.Decide] with the reasons.
func (s *Snapshot) Explain(tenantID, userID string, p Permission) Explanation {
	return s.explain(s.Decide(tenantID, userID, s.Resolve(p)))
}

// ExplainRoles is [Snapshot.DecideRoles] with the reasons.
func (s *Snapshot) ExplainRoles(tenantID string, roles []string, p Permission) Explanation {
	return s.explain(s.DecideRoles(tenantID, roles, s.Resolve(p)))
}

func (s *Snapshot) explain(d Decision) Explanation {
	e := Explanation{Decision: d, Seq: s.version.seq, Role: d.Role()}
	e.Path, e.Row = d.trace()
	return e
}

// PermissionsOf returns a user's role in a tenant and everything that the user
// may do there, sorted by product, feature and action. The reason is [Allowed]
// for a member of an active tenant, whatever the role holds; with any other
// there are no permissions.
func (s *Snapshot) PermissionsOf(tenantID, userID string) (role string, all []Permission, reason Reason) {
	t := s.tenant(tenantID)
	if t == nil {
		return "", nil, UnknownTenant
	}
	index, ok := t.members.find(userID, s.seed)
	switch {
	case !ok:
		return "", nil, NotAMember
	case t.suspended:
		return t.roles.list[index].name, nil, TenantSuspended
	}
	return t.roles.list[index].name, s.catalogue.list(t.roles.rights(int(index), s.catalogue)), Allowed
}

// PermissionsOfRoles returns everything that someone with the given roles may
// do in a tenant. See [Snapshot.DecideRoles] and [Snapshot.PermissionsOf].
func (s *Snapshot) PermissionsOfRoles(tenantID string, roles []string) (all []Permission, reason Reason) {
	t := s.tenant(tenantID)
	if t == nil {
		return nil, UnknownTenant
	}
	var rights []uint64
	reason = NotAMember
	for _, name := range roles {
		if index := t.roles.index(name); index >= 0 {
			reason = Allowed
			rights, _ = union(rights, t.roles.rights(index, s.catalogue))
		}
	}
	switch {
	case reason != Allowed:
		return nil, reason
	case t.suspended:
		return nil, TenantSuspended
	}
	return s.catalogue.list(rights), Allowed
}

// list returns the permissions that bits stand for.
func (c *catalogue) list(rights []uint64) []Permission {
	n := 0
	for _, word := range rights {
		n += bits.OnesCount64(word)
	}
	all := make([]Permission, 0, n)
	for i, word := range rights {
		for ; word != 0; word &= word - 1 {
			all = append(all, c.all[i<<6+bits.TrailingZeros64(word)])
		}
	}
	return all
}

// Holder is a member who may use a permission.
type Holder struct {
	UserID, Role string
	// Rule is what gives it, as [Decision.Rule] says it.
	Rule string
}

// Holders returns the members of a tenant who may use a permission, sorted by
// user id. The reason is [Allowed] if the tenant is active and the table holds
// the permission, also when nobody may.
func (s *Snapshot) Holders(tenantID string, p Permission) (holders []Holder, reason Reason) {
	t, bit, reason := s.find(tenantID, s.Resolve(p))
	switch {
	case t == nil:
		return nil, reason
	case t.suspended:
		return nil, TenantSuspended
	}
	rules := make([]string, len(t.roles.list))
	for i := range rules {
		if t.roles.has(i, bit, s.catalogue) {
			rules[i] = Rule(t.roles.trace(i, bit, s.catalogue))
		}
	}
	for user, role := range t.members.all(s.seed) {
		if rules[role] != "" {
			holders = append(holders, Holder{user, t.roles.list[role].name, rules[role]})
		}
	}
	slices.SortFunc(holders, func(a, b Holder) int { return cmp.Compare(a.UserID, b.UserID) })
	return holders, Allowed
}
