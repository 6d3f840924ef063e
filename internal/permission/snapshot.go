package permission

import "hash/maphash"

// Snapshot is the permission table at one moment. It is immutable and safe for
// concurrent use; snapshots share the tenants that did not change.
type Snapshot struct {
	catalogue *catalogue
	tenants   tenants
	seed      maphash.Seed // of the members' hashes
	version   version
	stats     Stats
}

// Stats counts what a snapshot holds.
type Stats struct {
	// Tenants, Members and Rows are the numbers of tenants, of their active
	// members, and of rows in role_feature_permissions.
	Tenants, Members, Rows int
}

// tenant is one tenant's part of the table. What a decision reads stands first
// and close together: at a million rows, time is misses of the cache.
type tenant struct {
	members   members
	rights    []uint64 // per role `stride` words, one bit per permission of the catalogue
	stride    int
	suspended bool
	names     []string // of the roles, sorted
	stats     Stats
}

func (t *tenant) has(role, bit int) bool {
	word := bit >> 6
	return word < t.stride && t.rights[role*t.stride+word]&(1<<(bit&63)) != 0
}

// role returns the index of the role with the given name, or -1.
func (t *tenant) role(name string) int {
	low, high := 0, len(t.names)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if t.names[middle] < name {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(t.names) || t.names[low] != name {
		return -1
	}
	return low
}

func (t *tenant) decide(role, bit int) Decision {
	switch {
	case t.suspended:
		return Decision{Reason: TenantSuspended, role: &t.names[role]}
	case !t.has(role, bit):
		return Decision{Reason: RoleLacksAction, role: &t.names[role]}
	}
	return Decision{Allowed: true, Reason: Allowed, role: &t.names[role]}
}

// Seq returns the number of the newest change that the snapshot holds.
func (s *Snapshot) Seq() int64 { return s.version.seq }

// Stats counts what the snapshot holds.
func (s *Snapshot) Stats() Stats { return s.stats }

// Decide answers whether a user may use a permission in a tenant, by the role
// that the table gives the user there. tenantID is the tenant's id in decimal.
func (s *Snapshot) Decide(tenantID, userID string, ref *Ref) Decision {
	t, bit, reason := s.find(tenantID, ref)
	if reason != "" {
		return Decision{Reason: reason}
	}
	role, ok := t.members.find(userID, s.seed)
	if !ok {
		return Decision{Reason: NotAMember}
	}
	return t.decide(int(role), bit)
}

// DecideRoles answers whether someone with the given roles may use a
// permission in a tenant. The roles come from a token's claims; what each of
// them holds is in the table. One that allows is enough. The caller must know
// that the claims were made for this very tenant.
func (s *Snapshot) DecideRoles(tenantID string, roles []string, ref *Ref) Decision {
	t, bit, reason := s.find(tenantID, ref)
	if reason != "" {
		return Decision{Reason: reason}
	}
	result := Decision{Reason: NotAMember}
	for _, name := range roles {
		role := t.role(name)
		if role < 0 {
			continue
		}
		d := t.decide(role, bit)
		if d.Allowed {
			return d
		}
		if result.role == nil {
			result = d
		}
	}
	return result
}

// find returns the tenant and the bit of a question, or why there is none.
func (s *Snapshot) find(tenantID string, ref *Ref) (*tenant, int, Reason) {
	bit, reason := ref.bit, ref.reason
	if ref.catalogue != s.catalogue {
		bit, reason = s.catalogue.lookup(ref.permission)
	}
	if reason != "" {
		return nil, 0, reason
	}
	id, ok := parseTenant(tenantID)
	if !ok {
		return nil, 0, UnknownTenant
	}
	t := s.tenants.find(id)
	if t == nil {
		return nil, 0, UnknownTenant
	}
	return t, bit, ""
}

// parseTenant reads a tenant's id. There is one spelling of each, so that "1"
// and "01" can't be two tenants to one program and the same to another.
func parseTenant(s string) (int64, bool) {
	if s == "" || len(s) > 18 || s[0] == '0' {
		return 0, false
	}
	var id int64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		id = id*10 + int64(c)
	}
	return id, true
}

// with returns a snapshot of the given version in which the tenants of changed
// replace those of s; nil removes one. All others are shared.
func (s *Snapshot) with(v version, changed map[int64]*tenant) *Snapshot {
	next := &Snapshot{catalogue: s.catalogue, seed: s.seed, version: v, stats: s.stats}
	next.tenants = newTenants(s.stats.Tenants + len(changed))
	for _, slot := range s.tenants {
		if slot.tenant == nil {
			continue
		}
		if _, ok := changed[slot.id]; ok {
			next.stats.add(slot.tenant.stats, -1)
			continue
		}
		next.tenants.add(slot.id, slot.tenant)
	}
	for id, t := range changed {
		if t != nil {
			next.tenants.add(id, t)
			next.stats.add(t.stats, 1)
		}
	}
	return next
}

func (s *Stats) add(other Stats, sign int) {
	s.Tenants += sign * other.Tenants
	s.Members += sign * other.Members
	s.Rows += sign * other.Rows
}
