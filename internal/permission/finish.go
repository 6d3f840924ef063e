package permission

import (
	"slices"
	"unsafe"

	"github.com/tenantgate/tenantgate/internal/identity"
)

// before returns the tenant as it was, nil if there was none or if its bits
// meant something else.
func (l *loader) before(id int64) *tenant {
	if l.old == nil || l.old.catalogue != l.catalogue {
		return nil
	}
	return l.old.tenants.find(id)
}

// finishRoles works out what every role of a tenant holds, shares what is the
// same elsewhere and lets go of what was read.
func (l *loader) finishRoles(id int64, t *loadedTenant) {
	old := l.before(id)
	if old != nil {
		l.known.add(&old.roles)
	}
	l.expandRoles(t)
	l.known.bytes = 0
	t.made = l.known.of(t.roles, l.catalogue)
	switch {
	case old == nil:
		t.bytes = l.known.bytes
	case old.roles.same(&t.made):
		t.bytes = old.roleBytes
	default: // what it has from its old self is its own
		t.bytes = t.made.bytes()
	}
	t.ids = make([]int64, len(t.roles))
	for i, r := range t.roles {
		t.ids[i] = r.id
		r.own, r.rights, r.wildcards, r.parents = nil, nil, nil, nil
	}
}

// finish makes a tenant of what was read, or returns the old one if nothing
// about it is new.
func (l *loader) finish(id int64, t *loadedTenant) *tenant {
	old := l.before(id)
	if old != nil && old.suspended == t.suspended && old.stats.Rows == t.rows && slices.Equal(old.ids, t.ids) &&
		old.roles.same(&t.made) && old.members.same(&t.members) {
		return old
	}
	next := &tenant{members: t.members, roles: t.made, suspended: t.suspended, seal: new(identity.Seal), ids: t.ids, roleBytes: t.bytes}
	next.stats = Stats{Tenants: 1, Members: t.count, Rows: t.rows}
	next.stats.Bytes = int(unsafe.Sizeof(*next)) + 8*len(t.ids) + t.bytes + next.members.bytes()
	return next
}

// expandRoles sets the rights of a tenant's roles: their rows, what their
// wildcards mean now, everything for an owner, and what their ancestors hold.
func (l *loader) expandRoles(t *loadedTenant) {
	inherits := false
	for _, r := range t.roles {
		r.rights = slices.Clone(r.own)
		slices.SortFunc(r.wildcards, ComparePatterns)
		for _, w := range r.wildcards {
			r.rights, _ = union(r.rights, l.expand(w))
		}
		if r.owner {
			r.rights, _ = union(r.rights, l.catalogue.full)
		}
		slices.SortFunc(r.parents, func(a, b *loadedRole) int { return a.index - b.index })
		inherits = inherits || len(r.parents) > 0
	}
	if inherits {
		inherit(t.roles)
	}
}

func (l *loader) expand(p Pattern) []uint64 {
	rights, ok := l.expanded[p]
	if !ok {
		rights = l.catalogue.expand(p)
		l.expanded[p] = rights
	}
	return rights
}

// inherit adds to each role what its parents hold until that changes nothing.
// Parents come first, so one round does it, and one more to see that. Nothing
// in the database forbids a cycle: its roles end up with the same.
func inherit(roles []*loadedRole) {
	order := parentsFirst(roles)
	for changed := true; changed; {
		changed = false
		for _, r := range order {
			for _, parent := range r.parents {
				var more bool
				r.rights, more = union(r.rights, parent.rights)
				changed = changed || more
			}
		}
	}
}

// parentsFirst returns the roles in an order in which parents precede those who
// inherit from them, as far as there is no cycle.
func parentsFirst(roles []*loadedRole) []*loadedRole {
	order := make([]*loadedRole, 0, len(roles))
	next := make([]int, len(roles)) // the parent to visit next; 0 = not begun, counted from 1
	for _, root := range roles {
		if next[root.index] > 0 {
			continue
		}
		next[root.index] = 1
		for stack := []*loadedRole{root}; len(stack) > 0; {
			top := stack[len(stack)-1]
			i := next[top.index] - 1
			if i == len(top.parents) {
				order, stack = append(order, top), stack[:len(stack)-1]
				continue
			}
			next[top.index]++
			if parent := top.parents[i]; next[parent.index] == 0 {
				next[parent.index] = 1
				stack = append(stack, parent)
			}
		}
	}
	return order
}
