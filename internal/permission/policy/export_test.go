package policy

import "github.com/tenantgate/tenantgate/internal/permission"

// AllPermissions returns the catalogue in the order of names.
func AllPermissions(p *Policy) []permission.Permission { return newIndex(p).all }

// Judge returns how checks decide for a role of a tenant.
func Judge(p *Policy) func(tenant, role string, one permission.Permission) Verdict {
	t := newTable(p, newIndex(p))
	return func(tenant, role string, one permission.Permission) Verdict {
		return t.judge(p.Tenants[tenant], role, one)
	}
}
