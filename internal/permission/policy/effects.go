package policy

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// moved is the role that members have before and after a change, "" for none.
type moved struct{ before, after string }

// moves returns how many active members of a tenant move how. Roles without
// members are in it with 0.
func moves(before, after *Tenant) map[moved]int {
	all := map[moved]int{}
	for _, role := range union(before.Roles, after.Roles) {
		one := moved{role, role}
		if before.Roles[role] == nil {
			one.before = ""
		}
		if after.Roles[role] == nil {
			one.after = ""
		}
		all[one] = 0
	}
	if before.Members == nil || after.Members == nil {
		for role, n := range before.counts {
			all[moved{role, role}] += n.active
		}
		return all
	}
	for _, user := range union(before.Members, after.Members) {
		var one moved
		disabled := false
		if m := before.Members[user]; m != nil {
			one.before, disabled = m.Role, m.disabled
		}
		if m := after.Members[user]; m != nil {
			one.after, disabled = m.Role, disabled || m.disabled
		}
		if !disabled {
			all[one]++
		}
	}
	return all
}

// effects finds what changes for people in all tenants.
func (d *Difference) effects(before, after *Policy) {
	x := newIndex(before, after)
	b, a := newTable(before, x), newTable(after, x)
	said := d.said()
	for _, name := range union(before.Tenants, after.Tenants) {
		old, next := before.Tenants[name], after.Tenants[name]
		if old == nil {
			old = &Tenant{Status: next.Status, Roles: map[string]*Role{}, Members: map[string]*Member{}}
		}
		if next == nil {
			next = &Tenant{Status: old.Status, Roles: map[string]*Role{}, Members: map[string]*Member{}}
		}
		wasActive, isActive := old.Status != identity.StatusSuspended, next.Status != identity.StatusSuspended
		switch {
		case wasActive != isActive:
			d.Effects = append(d.Effects, ofStatus(name, old, next, isActive))
		case isActive && old.Roles != nil && next.Roles != nil:
			d.Effects = append(d.Effects, effectsOn(name, old, next, b, a, said)...)
		}
	}
}

// ofStatus is the effect of a tenant's suspension or its end.
func ofStatus(name string, old, next *Tenant, isActive bool) Effect {
	e := Effect{Tenant: name, Permission: allOfIt, Gained: isActive, Roles: []string{}}
	for one, n := range moves(old, next) {
		if isActive && one.after != "" || !isActive && one.before != "" {
			e.Members += n
		}
	}
	return e
}

// effectsOn finds what changes for people in one tenant. b and a are the tables
// before and after.
func effectsOn(name string, old, next *Tenant, b, a *table, said map[[2]string]*statement) (all []Effect) {
	oldRights, newRights := b.rights(old), a.rights(next)
	gains, losses := map[int]*Effect{}, map[int]*Effect{}
	for one, n := range moves(old, next) {
		had, has := oldRights[one.before], newRights[one.after]
		if had == nil {
			had = a.none()
		}
		if has == nil {
			has = a.none()
		}
		for w := range has {
			tally(gains, w, has[w]&^had[w], n, one.after)
			tally(losses, w, had[w]&^has[w], n, one.before)
		}
	}
	for i, one := range a.all {
		for _, side := range []struct {
			gained bool
			effect *Effect
		}{{true, gains[i]}, {false, losses[i]}} {
			e := side.effect
			if e == nil {
				continue
			}
			if e.Members == 0 {
				e.Roles = slices.DeleteFunc(e.idle, func(role string) bool { return said[[2]string{name, role}].says(permission.Pattern(one), side.gained) })
				if len(e.Roles) == 0 {
					continue
				}
			}
			slices.Sort(e.Roles)
			e.Tenant, e.Permission, e.Gained = name, one.String(), side.gained
			all = append(all, *e)
		}
	}
	return all
}

// tally counts members with a role for each permission in the w-th word of a set.
func tally(effects map[int]*Effect, w int, word uint64, members int, role string) {
	for ; word != 0; word &= word - 1 {
		i := w<<6 + bits.TrailingZeros64(word)
		e := effects[i]
		if e == nil {
			e = &Effect{Roles: []string{}}
			effects[i] = e
		}
		e.Members += members
		switch {
		case members == 0:
			e.idle = append(e.idle, role)
		case !slices.Contains(e.Roles, role):
			e.Roles = append(e.Roles, role)
		}
	}
}

// statement is what the changes say of one role's own rows.
type statement struct {
	gone           bool
	added, removed []permission.Pattern
}

// says reports whether the changes tell already that the role gains or loses p,
// so that it need not be told of a role that nobody has.
func (s *statement) says(p permission.Pattern, gained bool) bool {
	if s == nil {
		return false
	}
	of := s.removed
	if gained {
		of = s.added
	}
	return s.gone && !gained || slices.ContainsFunc(of, func(row permission.Pattern) bool { return row == p || row.Covers(p) })
}

// said returns the statements by tenant and role.
func (d *Difference) said() map[[2]string]*statement {
	all := map[[2]string]*statement{}
	patterns := func(texts []string) (rows []permission.Pattern) {
		for _, text := range texts {
			if p, err := permission.ParsePattern(text); err == nil {
				rows = append(rows, p)
			}
		}
		return rows
	}
	for _, c := range d.Changes {
		key := [2]string{c.Tenant, c.Role}
		if all[key] == nil {
			all[key] = &statement{}
		}
		s := all[key]
		switch c.Action {
		case roleDeleted:
			s.gone = true
		case roleCreated:
			if c.Owner {
				s.added = append(s.added, permission.Everything)
			}
		case permissionsChanged:
			s.added, s.removed = append(s.added, patterns(c.Added)...), append(s.removed, patterns(c.Removed)...)
		}
	}
	return all
}

// manyTenants is how many tenants an effect may have before one line tells of
// all of them.
const manyTenants = 5

// EffectLines says the effects in words. What is the same in many tenants is one line.
func (d Difference) EffectLines() (lines []string) {
	type kind struct {
		permission string
		gained     bool
	}
	tenants, members := map[kind]int{}, map[kind]int{}
	for _, e := range d.Effects {
		k := kind{e.Permission, e.Gained}
		tenants[k]++
		members[k] += e.Members
	}
	for _, e := range d.Effects {
		k := kind{e.Permission, e.Gained}
		if tenants[k] <= manyTenants {
			lines = append(lines, e.line())
			continue
		}
		if members[k] >= 0 {
			lines = append(lines, fmt.Sprintf("%s of %d tenants %s %s", plural(members[k], "member"), tenants[k], verb(members[k], e.Gained), e.Permission))
			members[k] = -1 // told
		}
	}
	return lines
}

func (e Effect) line() string {
	if e.Permission == allOfIt {
		state := "suspended"
		if e.Gained {
			state = "active again"
		}
		return fmt.Sprintf("%s of %s %s everything: it is %s", plural(e.Members, "member"), e.Tenant, verb(e.Members, e.Gained), state)
	}
	if e.Members == 0 {
		return fmt.Sprintf("whoever is %s of %s %s %s", list(e.Roles, "or"), e.Tenant, verb(1, e.Gained), e.Permission)
	}
	return fmt.Sprintf("%s of %s (%s) %s %s", plural(e.Members, "member"), e.Tenant, list(e.Roles, "and"), verb(e.Members, e.Gained), e.Permission)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func verb(n int, gained bool) string {
	word := "lose"
	if gained {
		word = "gain"
	}
	if n == 1 {
		word += "s"
	}
	return word
}
