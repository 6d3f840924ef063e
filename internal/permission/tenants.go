package permission

import "unsafe"

// tenants maps ids to tenants. It is an open-addressing hash table like
// members; a free slot has no tenant.
type tenants []tenantSlot

type tenantSlot struct {
	id     int64
	tenant *tenant
}

// newTenants returns a table with room for n tenants. At least a quarter of
// the slots stays free.
func newTenants(n int) tenants { return make(tenants, n+n/3+1) }

// slotOf spreads ids, which follow each other, over the table.
func (t tenants) slotOf(id int64) int { return slot(uint64(id)*0x9E3779B97F4A7C15, len(t)) }

// find returns the tenant with the given id, or nil.
func (t tenants) find(id int64) *tenant {
	if len(t) == 0 {
		return nil
	}
	return t[t.index(id)].tenant
}

// index returns the slot of the tenant with the given id, or the free one where
// it would be. The table must not be empty.
func (t tenants) index(id int64) int {
	for i := t.slotOf(id); ; {
		if s := &t[i]; s.tenant == nil || s.id == id {
			return i
		}
		if i++; i == len(t) {
			i = 0
		}
	}
}

// add takes a tenant whose id is not there yet.
func (t tenants) add(id int64, new *tenant) { t[t.index(id)] = tenantSlot{id, new} }

// bytes returns how much memory the table takes, without the tenants.
func (t tenants) bytes() int { return len(t) * int(unsafe.Sizeof(tenantSlot{})) }
