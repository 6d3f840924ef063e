package rights

import (
	"slices"

	"github.com/tenantgate/tenantgate/internal/permission"
)

// Owner stands in [Set.Lacks] for being the built-in owner of the tenant.
const Owner = "owner"

// Set is what somebody holds in one tenant. The zero value is nothing.
type Set struct {
	// owner is everything but the platform, operator the right to run the installation.
	owner, operator bool
	named           map[permission.Pattern]bool
	wildcards       []permission.Pattern
}

// MayGive reports whether somebody with this set may give to others what the
// pattern names: all of it is theirs by one row, or they own the tenant, or they
// run the installation. Operators made the catalogue, and somebody must be the
// first to give a right that is new.
func (s Set) MayGive(p permission.Pattern) bool {
	return s.operator || s.owner && !p.Platform() || s.named[p] ||
		slices.ContainsFunc(s.wildcards, func(w permission.Pattern) bool { return w.Covers(p) })
}

// Lacks returns what of other somebody with this set may not give to others,
// sorted: patterns as product/feature/action, and [Owner].
func (s Set) Lacks(other Set) []string {
	var missing []string
	if other.owner && !s.owner && !s.operator {
		missing = append(missing, Owner)
	}
	for p := range other.named {
		if !s.MayGive(p) {
			missing = append(missing, p.String())
		}
	}
	for _, p := range other.wildcards {
		if !s.MayGive(p) {
			missing = append(missing, p.String())
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}
