package permission

import (
	"hash/maphash"

	"github.com/tenantgate/tenantgate/internal/identity"
)

// Snapshot is the permission table at one moment. It is immutable and safe for
// concurrent use; snapshots share the tenants that did not change.
type Snapshot struct {
	catalogue *catalogue
	tenants   tenants
	seed      maphash.Seed // of the members' hashes
	version   version
	stats     Stats
	whole     bool // everything was read for it, not only what had changed
}

// Stats counts what a snapshot holds.
type Stats struct {
	// Tenants, Members and Rows are the numbers of tenants, of their active
	// members, and of rows in role_feature_permissions.
	Tenants, Members, Rows int
	// Bytes is about how much memory the snapshot takes.
	Bytes int
}

// tenant is one tenant's part of the table. What a decision reads stands first
// and close together: at a million rows, time is misses of the cache.
type tenant struct {
	members   members
	roles     roles
	suspended bool
	seal      *identity.Seal // tells this tenant at this time from all others
	ids       []int64        // of the roles
	roleBytes int            // of the roles, without what other tenants have too
	stats     Stats
}

// allows is how most decisions end, small enough to be part of each of them;
// decide is what follows if it is false.
func (t *tenant) allows(role, bit int) bool { return !t.suspended && t.roles.hasWord(role, bit) }

func (s *Snapshot) allowed(t *tenant, role, bit int) Decision {
	return Decision{Allowed: true, Reason: Allowed, tenant: t, catalogue: s.catalogue, role: int32(role), bit: int32(bit)}
}

func (s *Snapshot) decide(t *tenant, role, bit int) Decision {
	d := Decision{Reason: RoleLacksAction, tenant: t, catalogue: s.catalogue, role: int32(role), bit: int32(bit)}
	switch {
	case t.suspended:
		d.Reason = TenantSuspended
	case hasBit(t.roles.full, role) && hasBit(s.catalogue.full, bit):
		d.Allowed, d.Reason = true, Allowed
	}
	return d
}

// Seq returns the number of the newest change that the snapshot holds.
func (s *Snapshot) Seq() int64 { return s.version.seq }

// Stats counts what the snapshot holds.
func (s *Snapshot) Stats() Stats {
	stats := s.stats
	stats.Bytes += s.tenants.bytes() + s.catalogue.bytes()
	return stats
}

// Decide answers whether a user may use a permission in a tenant, by the role
// that the table gives the user there. tenantID is the tenant's id in decimal.
func (s *Snapshot) Decide(tenantID, userID string, ref *Ref) Decision {
	t, bit, reason := s.find(tenantID, ref)
	if t == nil {
		return Decision{Reason: reason}
	}
	role, ok := t.members.find(userID, s.seed)
	if !ok {
		return Decision{Reason: NotAMember}
	}
	if t.allows(int(role), bit) {
		return s.allowed(t, int(role), bit)
	}
	return s.decide(t, int(role), bit)
}

// DecideRoles answers whether someone with the given roles may use a
// permission in a tenant. The roles come from a token's claims; what each of
// them holds is in the table. One that allows is enough. The caller must know
// that the claims were made for this very tenant.
func (s *Snapshot) DecideRoles(tenantID string, roles []string, ref *Ref) Decision {
	t, bit, reason := s.find(tenantID, ref)
	if t == nil {
		return Decision{Reason: reason}
	}
	result := Decision{Reason: NotAMember}
	for _, name := range roles {
		role := t.roles.index(name)
		if role < 0 {
			continue
		}
		if t.allows(role, bit) {
			return s.allowed(t, role, bit)
		}
		d := s.decide(t, role, bit)
		if d.Allowed {
			return d
		}
		if result.tenant == nil {
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
	if t := s.tenants.find(id); ok && t != nil {
		return t, bit, ""
	}
	return nil, 0, UnknownTenant
}

// tenant returns the tenant with the given id, or nil.
func (s *Snapshot) tenant(tenantID string) *tenant {
	id, ok := parseTenant(tenantID)
	if !ok {
		return nil
	}
	return s.tenants.find(id)
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
	for id, t := range changed {
		if old := s.tenants.find(id); old != nil {
			next.stats.add(old.stats, -1)
		}
		if t != nil {
			next.stats.add(t.stats, 1)
		}
	}
	next.tenants = newTenants(next.stats.Tenants)
	for _, slot := range s.tenants {
		if _, ok := changed[slot.id]; slot.tenant != nil && !ok {
			next.tenants.add(slot.id, slot.tenant)
		}
	}
	for id, t := range changed {
		if t != nil {
			next.tenants.add(id, t)
		}
	}
	return next
}

func (s *Stats) add(other Stats, sign int) {
	s.Tenants += sign * other.Tenants
	s.Members += sign * other.Members
	s.Rows += sign * other.Rows
	s.Bytes += sign * other.Bytes
}
