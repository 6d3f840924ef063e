package permission

import (
	"strings"

	"github.com/tenantgate/tenantgate/internal/identity"
)

// DecideFor is [Snapshot.Decide] for a principal that comes again and again:
// its identity.Seat, if it has one, remembers where the user was found. Any
// change of the tenant, and nothing else, makes it look anew.
func (s *Snapshot) DecideFor(who *identity.Principal, tenantID string, ref *Ref) Decision {
	if last := who.Seat.Last(); last != nil && ref.catalogue == s.catalogue && ref.bit >= 0 &&
		last.Slot < len(s.tenants) && last.TenantID == tenantID && last.UserID == who.UserID {
		if t := s.tenants[last.Slot].tenant; t != nil && t.seal == last.Seal {
			if t.allows(int(last.Role), ref.bit) {
				return s.allowed(t, int(last.Role), ref.bit)
			}
			return s.decide(t, int(last.Role), ref.bit)
		}
	}
	return s.decideAnew(who, tenantID, ref)
}

func (s *Snapshot) decideAnew(who *identity.Principal, tenantID string, ref *Ref) Decision {
	d := s.Decide(tenantID, who.UserID, ref)
	if d.tenant == nil || who.Seat == nil {
		return d
	}
	id, _ := parseTenant(tenantID) // Decide found the tenant
	if tenantID == who.TenantID {
		tenantID = who.TenantID
	} else {
		tenantID = strings.Clone(tenantID) // it may be part of a request
	}
	who.Seat.Note(&identity.Seating{
		UserID: who.UserID, TenantID: tenantID,
		Seal: d.tenant.seal, Slot: s.tenants.index(id), Role: uint32(d.role),
	})
	return d
}
