package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

func isNotFound(err error) bool { return errors.Is(err, identity.ErrNotFound) }

// appendNew appends an id that is not there yet.
func appendNew(ids []int64, id int64) []int64 {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// why says in words why a permission is denied to somebody in a tenant.
func (v Verdict) why(who, tenant string, p permission.Permission) string {
	switch v.Reason {
	case permission.UnknownProduct:
		return "there is no product " + p.Product
	case permission.UnknownFeature:
		return "product " + p.Product + " has no feature " + p.Feature
	case permission.UnknownAction:
		return "feature " + p.Product + "/" + p.Feature + " has no action " + p.Action
	case permission.UnknownTenant:
		return "there is no tenant " + tenant
	case permission.NotAMember:
		return who + " is no active member of " + tenant
	case permission.TenantSuspended:
		return tenant + " is suspended: nobody may do anything in it"
	}
	return fmt.Sprintf("%s does not hold %s", v.Role, p)
}
