package permission

import (
	"context"
	"maps"
)

// RefreshNow is one round of [Table.Run].
func RefreshNow(ctx context.Context, t *Table) error { return t.refresh(ctx, t.clock.Now()) }

// SameTenants reports whether two snapshots share all their tenants.
func SameTenants(a, b *Snapshot) bool {
	list := func(s *Snapshot) map[int64]*tenant {
		all := map[int64]*tenant{}
		for _, slot := range s.tenants {
			if slot.tenant != nil {
				all[slot.id] = slot.tenant
			}
		}
		return all
	}
	return maps.Equal(list(a), list(b))
}
