package permission

import (
	"slices"
	"strings"
)

// roles are the roles of a tenant. Decisions read what they hold: by rows, by
// wildcards, from their parents and as an owner. Equal parts are shared among
// tenants.
type roles struct {
	words  []uint64 // of each role `stride` words: one bit per permission of the catalogue
	stride int
	full   []uint64 // one bit per role: it also holds all that an owner does
	list   []role   // sorted by name
}

// role is what only those ask for who want to know why.
type role struct {
	name   string
	source *source // where the rights come from, nil if from rows alone
}

// source says where a role's rights come from. Equal ones are shared.
type source struct {
	owner     bool
	own       []uint64  // the role's own rows
	wildcards []Pattern // the narrowest first
	parents   []int     // roles of the same tenant, in the order of their names
}

// OwnerRow is the row of an [Explanation] that has none: an owner's right
// follows from the role's kind.
const OwnerRow = "owner"

// rightsFor returns room for n bits.
func rightsFor(n int) []uint64 { return make([]uint64, (n+63)>>6) }

func setBit(rights []uint64, bit int) { rights[bit>>6] |= 1 << (bit & 63) }

// trim returns a copy without the zeros at the end; nil if there is nothing else.
func trim(rights []uint64) []uint64 {
	for len(rights) > 0 && rights[len(rights)-1] == 0 {
		rights = rights[:len(rights)-1]
	}
	if len(rights) == 0 {
		return nil
	}
	return append(make([]uint64, 0, len(rights)), rights...)
}

func hasBit(rights []uint64, bit int) bool {
	word := bit >> 6
	return word < len(rights) && rights[word]&(1<<(bit&63)) != 0
}

// union adds the bits of other to rights and reports whether that changed them.
func union(rights, other []uint64) ([]uint64, bool) {
	changed := false
	if len(rights) < len(other) {
		longer := make([]uint64, len(other))
		copy(longer, rights)
		rights = longer
	}
	for i, word := range other {
		changed = changed || word&^rights[i] != 0
		rights[i] |= word
	}
	return rights, changed
}

// has reports whether a role holds the permission of a bit.
func (r *roles) has(role, bit int, c *catalogue) bool {
	return r.hasWord(role, bit) || hasBit(r.full, role) && hasBit(c.full, bit)
}

// hasWord is has for a role that is none of full.
func (r *roles) hasWord(role, bit int) bool {
	word := bit >> 6
	return word < r.stride && r.words[role*r.stride+word]&(1<<(bit&63)) != 0
}

// rights returns all bits of a role.
func (r *roles) rights(role int, c *catalogue) []uint64 {
	rights := trim(r.words[role*r.stride : (role+1)*r.stride])
	if hasBit(r.full, role) {
		rights, _ = union(rights, c.full)
	}
	return rights
}

// index returns the index of the role with the given name, or -1.
func (r *roles) index(name string) int {
	low, high := 0, len(r.list)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if r.list[middle].name < name {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(r.list) || r.list[low].name != name {
		return -1
	}
	return low
}

// row returns what gives a role itself, without its parents, a permission: a
// row, the narrowest wildcard or the role's kind; "" if nothing does.
func (r *roles) row(role, bit int, c *catalogue) string {
	p, s := c.all[bit], r.list[role].source
	switch {
	case s == nil && r.has(role, bit, c), s != nil && hasBit(s.own, bit):
		return p.String()
	case s == nil:
		return ""
	}
	for _, w := range s.wildcards {
		if w.Covers(Pattern(p)) {
			return w.String()
		}
	}
	if s.owner && hasBit(c.full, bit) {
		return OwnerRow
	}
	return ""
}

// trace returns the shortest way from a role to one that itself holds a
// permission, and what gives it the permission; nothing if there is none.
func (r *roles) trace(start, bit int, c *catalogue) (path []string, row string) {
	from := map[int]int{start: -1}
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if row := r.row(at, bit, c); row != "" {
			for ; at >= 0; at = from[at] {
				path = append(path, r.list[at].name)
			}
			slices.Reverse(path)
			return path, row
		}
		if r.list[at].source == nil {
			continue
		}
		for _, parent := range r.list[at].source.parents {
			if _, seen := from[parent]; !seen {
				from[parent] = at
				queue = append(queue, parent)
			}
		}
	}
	return nil, ""
}

// Rule puts the Path and the Row of an [Explanation] into the line that
// [Decision.Rule] is, empty without a row.
func Rule(path []string, row string) string {
	if row == "" {
		return ""
	}
	return strings.Join(path, " > ") + ": " + row
}
