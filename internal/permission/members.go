package permission

import (
	"errors"
	"hash/maphash"
	"iter"
	"maps"
	"math"
	"math/bits"
	"slices"
	"unsafe"
)

// maxUserID is the longest user id in bytes that a principal can have (see
// identity.Principal). Members with a longer one can never be asked about.
const maxUserID = 255

// errTooManyMembers says that the ids of one tenant's members exceed 4 GiB.
var errTooManyMembers = errors.New("the ids of a tenant's members take more than 4 GiB")

// members maps the user ids of one tenant to roles. It is an open-addressing
// hash table without pointers: a million members cost the garbage collector
// nothing, 21 bytes each besides the id, and one look-up touches two places of
// memory. The whole id is always compared.
type members struct {
	slots  []member
	ids    string
	recent *members // what changed since slots was made, looked up first; nil if nothing did
}

// member is one slot; length 0 means that it is free.
type member struct {
	tag    uint32 // of the id's hash
	offset uint32 // of the id in ids
	role   uint32 // index of the role in the tenant
	length uint8  // of the id in bytes
}

const (
	// gone is the role of a recent change that took a member away.
	gone = math.MaxUint32
	// A tenant with more than manyMembers keeps up to maxRecent changes apart,
	// so that one does not cost a copy of all.
	manyMembers = 4096
	maxRecent   = 1024
)

// find returns the role of a user.
func (m *members) find(user string, seed maphash.Seed) (role uint32, ok bool) {
	if user == "" || len(user) > maxUserID {
		return 0, false
	}
	hash := maphash.String(seed, user)
	if m.recent != nil {
		if s := m.recent.slot(user, hash); s != nil {
			return s.role, s.role != gone
		}
	}
	if s := m.slot(user, hash); s != nil {
		return s.role, true
	}
	return 0, false
}

// slot returns the slot of an id, nil if there is none; it leaves out recent changes.
func (m *members) slot(user string, hash uint64) *member {
	if len(m.slots) == 0 {
		return nil
	}
	for i := slot(hash, len(m.slots)); ; {
		s := &m.slots[i]
		if s.length == 0 {
			return nil
		}
		if s.tag == tag(hash) && int(s.length) == len(user) &&
			m.ids[s.offset:int(s.offset)+int(s.length)] == user {
			return s
		}
		if i++; i == len(m.slots) {
			i = 0
		}
	}
}

func tag(hash uint64) uint32 { return uint32(hash) }

// slot spreads a hash over n slots by its upper bits, without a division.
func slot(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash, uint64(n))
	return int(hi)
}

// each iterates over the slots in use, in no order; it leaves out recent changes.
func (m *members) each() iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		for _, s := range m.slots {
			if s.length != 0 && !yield(m.ids[s.offset:int(s.offset)+int(s.length)], s.role) {
				return
			}
		}
	}
}

// all iterates over the members in no order.
func (m *members) all(seed maphash.Seed) iter.Seq2[string, uint32] {
	if m.recent == nil {
		return m.each()
	}
	return func(yield func(string, uint32) bool) {
		for user, role := range m.recent.each() {
			if role != gone && !yield(user, role) {
				return
			}
		}
		for user, role := range m.each() {
			if m.recent.slot(user, maphash.String(seed, user)) == nil && !yield(user, role) {
				return
			}
		}
	}
}

// with returns the members after changes, which map users to roles or [gone];
// n is their number before and after.
func (m *members) with(changes map[string]uint32, n int, seed maphash.Seed) (members, int, error) {
	merged := map[string]uint32{}
	if m.recent != nil {
		maps.Insert(merged, m.recent.each())
	}
	for user, role := range changes {
		if user == "" || len(user) > maxUserID {
			continue
		}
		if _, was := m.find(user, seed); was {
			n--
		}
		if role != gone {
			n++
		}
		merged[user] = role
	}
	apart := len(m.slots) > manyMembers && len(merged) <= maxRecent
	var b membersBuilder
	for user, role := range merged {
		if !apart && role == gone {
			continue
		}
		if err := b.add([]byte(user), role); err != nil {
			return members{}, 0, err
		}
	}
	if apart {
		recent := b.build(seed)
		return members{m.slots, m.ids, &recent}, n, nil
	}
	for user, role := range m.each() {
		if _, changed := merged[user]; changed {
			continue
		}
		if err := b.add([]byte(user), role); err != nil {
			return members{}, 0, err
		}
	}
	return b.build(seed), n, nil
}

// remap returns the members with the roles' new indexes. Roles are known by
// their ids, of which old has the one of each index until now. ok is false if
// a member's role is gone.
func (m *members) remap(old []int64, roles []*loadedRole) (next members, ok bool) {
	index := make(map[int64]uint32, len(roles))
	for _, r := range roles {
		index[r.id] = uint32(r.index)
	}
	to := make([]uint32, len(old))
	moved := false
	for i, id := range old {
		n, known := index[id]
		if !known {
			n = gone
		}
		to[i] = n
		moved = moved || n != uint32(i)
	}
	if !moved {
		return *m, true
	}
	next = members{slots: slices.Clone(m.slots), ids: m.ids}
	if m.recent != nil {
		recent, ok := m.recent.remap(old, roles)
		if !ok {
			return members{}, false
		}
		next.recent = &recent
	}
	for i := range next.slots {
		s := &next.slots[i]
		if s.length == 0 || s.role == gone {
			continue
		}
		if s.role = to[s.role]; s.role == gone {
			return members{}, false
		}
	}
	return next, true
}

// same reports whether two tenants share their members.
func (m *members) same(other *members) bool {
	if len(m.slots) != len(other.slots) || m.recent != other.recent {
		return false
	}
	return len(m.slots) == 0 || &m.slots[0] == &other.slots[0]
}

// bytes returns about how much memory the members take.
func (m *members) bytes() int {
	n := len(m.slots)*int(unsafe.Sizeof(member{})) + len(m.ids)
	if m.recent != nil {
		n += m.recent.bytes()
	}
	return n
}

// membersBuilder collects one tenant's members. It is reused from tenant to tenant.
type membersBuilder struct {
	entries []member
	ids     []byte
}

// add takes a member. Ids that no principal can have are left out.
func (b *membersBuilder) add(user []byte, role uint32) error {
	if len(user) == 0 || len(user) > maxUserID {
		return nil
	}
	if len(b.ids)+len(user) > math.MaxUint32 {
		return errTooManyMembers
	}
	b.entries = append(b.entries, member{offset: uint32(len(b.ids)), role: role, length: uint8(len(user))})
	b.ids = append(b.ids, user...)
	return nil
}

// build returns the table and empties the builder. A quarter of the slots
// stays free, so that a search for a stranger ends soon.
func (b *membersBuilder) build(seed maphash.Seed) members {
	if len(b.entries) == 0 {
		return members{}
	}
	m := members{slots: make([]member, len(b.entries)+len(b.entries)/3+1), ids: string(b.ids)}
	for _, e := range b.entries {
		hash := maphash.Bytes(seed, b.ids[e.offset:int(e.offset)+int(e.length)])
		e.tag = tag(hash)
		i := slot(hash, len(m.slots))
		for m.slots[i].length != 0 {
			if i++; i == len(m.slots) {
				i = 0
			}
		}
		m.slots[i] = e
	}
	b.reset()
	return m
}

// equals reports whether the builder has exactly the n members of m.
func (b *membersBuilder) equals(m *members, n int, seed maphash.Seed) bool {
	if len(b.entries) != n {
		return false
	}
	for _, e := range b.entries {
		id := b.ids[e.offset : int(e.offset)+int(e.length)]
		if role, ok := m.find(string(id), seed); !ok || role != e.role {
			return false
		}
	}
	return true
}

// reset empties the builder.
func (b *membersBuilder) reset() { b.entries, b.ids = b.entries[:0], b.ids[:0] }
