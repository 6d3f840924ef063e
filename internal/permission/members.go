package permission

import (
	"errors"
	"hash/maphash"
	"math"
	"math/bits"
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
	slots []member
	ids   string
}

// member is one slot; length 0 means that it is free.
type member struct {
	tag    uint32 // upper half of the id's hash
	offset uint32 // of the id in ids
	role   uint32 // index of the role in the tenant
	length uint8  // of the id in bytes
}

// find returns the role of a user.
func (m *members) find(user string, seed maphash.Seed) (role uint32, ok bool) {
	if len(m.slots) == 0 || user == "" || len(user) > maxUserID {
		return 0, false
	}
	hash := maphash.String(seed, user)
	for i := slot(hash, len(m.slots)); ; {
		s := &m.slots[i]
		if s.length == 0 {
			return 0, false
		}
		if s.tag == tag(hash) && int(s.length) == len(user) &&
			m.ids[s.offset:int(s.offset)+int(s.length)] == user {
			return s.role, true
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
	b.entries, b.ids = b.entries[:0], b.ids[:0]
	return m
}
