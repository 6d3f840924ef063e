package permission

import (
	"hash/maphash"
	"slices"
	"unsafe"
)

// interner keeps one copy of what many tenants have alike: most have the same
// few roles. bytes counts what it could not share.
type interner struct {
	seed    maphash.Seed
	words   map[uint64][]uint64
	sources map[uint64]*source
	lists   map[uint64][]role
	bytes   int
}

func newInterner(seed maphash.Seed) interner {
	return interner{seed: seed, words: map[uint64][]uint64{}, sources: map[uint64]*source{}, lists: map[uint64][]role{}}
}

// add makes known what a tenant has already.
func (n *interner) add(r *roles) {
	n.ofWords(r.words)
	n.ofWords(r.full)
	for i := range r.list {
		if s := r.list[i].source; s != nil {
			n.ofWords(s.own)
			n.ofSource(s)
		}
	}
	n.ofList(r.list)
}

// of returns the roles as decisions need them.
func (n *interner) of(loaded []*loadedRole, c *catalogue) roles {
	var r roles
	full := rightsFor(len(loaded))
	for i, l := range loaded {
		if len(c.full) > 0 && holds(l.rights, c.full) {
			setBit(full, i)
			for j, word := range c.full {
				l.rights[j] &^= word
			}
		}
		l.rights = trim(l.rights)
		r.stride = max(r.stride, len(l.rights))
	}
	words, list := make([]uint64, len(loaded)*r.stride), make([]role, len(loaded))
	for i, l := range loaded {
		copy(words[i*r.stride:], l.rights)
		list[i].name = l.name
		if l.owner || len(l.wildcards) > 0 || len(l.parents) > 0 {
			list[i].source = n.ofSource(l.source(n))
		}
	}
	r.words, r.full, r.list = n.ofWords(words), n.ofWords(trim(full)), n.ofList(list)
	return r
}

// holds reports whether rights has all bits of other.
func holds(rights, other []uint64) bool {
	if len(rights) < len(other) {
		return false
	}
	for i, word := range other {
		if word&^rights[i] != 0 {
			return false
		}
	}
	return true
}

func (r *loadedRole) source(n *interner) *source {
	s := &source{owner: r.owner, own: n.ofWords(r.own), wildcards: r.wildcards}
	for _, p := range r.parents {
		s.parents = append(s.parents, p.index)
	}
	return s
}

// ofWords returns an earlier slice that equals words, or words itself.
func (n *interner) ofWords(words []uint64) []uint64 {
	if len(words) == 0 {
		return nil
	}
	var hash maphash.Hash
	hash.SetSeed(n.seed)
	for _, word := range words {
		maphash.WriteComparable(&hash, word)
	}
	if same, ok := n.words[hash.Sum64()]; ok && slices.Equal(same, words) {
		return same
	}
	n.words[hash.Sum64()] = words
	n.bytes += 8 * len(words)
	return words
}

func (n *interner) ofSource(s *source) *source {
	var hash maphash.Hash
	hash.SetSeed(n.seed)
	maphash.WriteComparable(&hash, s.owner)
	maphash.WriteComparable(&hash, first(s.own))
	for _, w := range s.wildcards {
		maphash.WriteComparable(&hash, w)
	}
	for _, p := range s.parents {
		maphash.WriteComparable(&hash, p)
	}
	same, ok := n.sources[hash.Sum64()]
	if ok && same.owner == s.owner && slices.Equal(same.own, s.own) && slices.Equal(same.wildcards, s.wildcards) && slices.Equal(same.parents, s.parents) {
		return same
	}
	n.sources[hash.Sum64()] = s
	n.bytes += s.bytes()
	return s
}

func (n *interner) ofList(list []role) []role {
	var hash maphash.Hash
	hash.SetSeed(n.seed)
	for i := range list {
		maphash.WriteComparable(&hash, list[i])
	}
	if same, ok := n.lists[hash.Sum64()]; ok && slices.Equal(same, list) {
		return same
	}
	n.lists[hash.Sum64()] = list
	n.bytes += len(list) * int(unsafe.Sizeof(role{}))
	return list
}

// first tells apart slices that were shared already.
func first(words []uint64) *uint64 {
	if len(words) == 0 {
		return nil
	}
	return &words[0]
}

// same compares roles whose parts were shared already.
func (r *roles) same(other *roles) bool {
	return first(r.words) == first(other.words) && first(r.full) == first(other.full) && r.stride == other.stride && slices.Equal(r.list, other.list)
}

// bytes returns how much memory roles take if they share nothing.
func (r *roles) bytes() int {
	n := 8*len(r.words) + 8*len(r.full) + len(r.list)*int(unsafe.Sizeof(role{}))
	for i := range r.list {
		if s := r.list[i].source; s != nil {
			n += s.bytes() + 8*len(s.own)
		}
	}
	return n
}

// bytes returns how much memory a source takes, without its rows.
func (s *source) bytes() int {
	return int(unsafe.Sizeof(*s)) + len(s.wildcards)*int(unsafe.Sizeof(Pattern{})) + 8*len(s.parents)
}
