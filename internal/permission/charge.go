package permission

import (
	"context"
	"fmt"

	"github.com/tenantgate/tenantgate/internal/identity"
)

// What nobody could give back once the last who holds it is gone. A change of
// the table must leave both in somebody's hands: see [Managed] and [Operated].
var (
	// ManageMembers is the right to manage a tenant's members.
	ManageMembers = Permission{OwnProduct, "members", Write}
	// RunInstallation is the right to manage all tenants.
	RunInstallation = Permission{OwnProduct, PlatformFeature, Write}
)

const (
	// Roles that have the right by a row, a wildcard or their kind, and those that
	// inherit from them. The row is looked up in each role, however many rows the
	// roles or the feature have.
	managersExist = `WITH RECURSIVE holders (id) AS (
			SELECT r.id FROM roles r WHERE r.tenant_id = $1 AND (r.kind = 'owner'
				OR EXISTS (SELECT 1 FROM role_feature_permissions g WHERE g.role_id = r.id AND g.action = 'write' AND g.feature_id =
					(SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = 'tenantgate' AND f.name = 'members'))
				OR EXISTS (SELECT 1 FROM role_wildcards w LEFT JOIN products p ON p.id = w.product_id LEFT JOIN features f ON f.id = w.feature_id
					WHERE w.role_id = r.id AND COALESCE(p.name, 'tenantgate') = 'tenantgate' AND COALESCE(f.name, 'members') = 'members'
						AND COALESCE(w.action, 'write') = 'write'))
			UNION SELECT h.role_id FROM role_parents h JOIN holders ON holders.id = h.parent_id WHERE h.tenant_id = $1)
		SELECT EXISTS (SELECT 1 FROM memberships m JOIN users u ON u.id = m.user_id
			WHERE m.tenant_id = $1 AND u.status = 'active' AND m.role_id IN (SELECT id FROM holders))`
	// Only a row that names the right gives it, or one that is inherited: no
	// wildcard does, and no owner has it.
	operatorsExist = `WITH RECURSIVE holders (tenant_id, role_id) AS (
			SELECT r.tenant_id, r.id FROM products p JOIN features f ON f.product_id = p.id
			JOIN role_feature_permissions g ON g.feature_id = f.id JOIN roles r ON r.id = g.role_id
			WHERE p.name = 'tenantgate' AND f.name = 'platform' AND g.action = 'write'
			UNION
			SELECT i.tenant_id, i.role_id FROM holders h JOIN role_parents i ON i.tenant_id = h.tenant_id AND i.parent_id = h.role_id
		)
		SELECT EXISTS (SELECT 1 FROM holders h JOIN memberships m ON m.tenant_id = h.tenant_id AND m.role_id = h.role_id
		JOIN users u ON u.id = m.user_id JOIN tenants t ON t.id = h.tenant_id
		WHERE t.status = 'active' AND u.status = 'active')`
)

// Managed reports whether an active member of the tenant holds [ManageMembers]:
// by a row, by a wildcard, as the owner, or inherited. To decide on a change, q
// is its transaction and holds [Lock].
func Managed(ctx context.Context, q identity.Queryer, tenantID int64) (managed bool, err error) {
	if err := q.QueryRowContext(ctx, managersExist, tenantID).Scan(&managed); err != nil {
		return false, fmt.Errorf("look for managers: %w", err)
	}
	return managed, nil
}

// Operated reports whether an active member of an active tenant holds
// [RunInstallation]. See [Managed].
func Operated(ctx context.Context, q identity.Queryer) (operated bool, err error) {
	if err := q.QueryRowContext(ctx, operatorsExist).Scan(&operated); err != nil {
		return false, fmt.Errorf("look for operators: %w", err)
	}
	return operated, nil
}
