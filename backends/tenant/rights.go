package tenant

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// right is a permission in a request or response.
type right struct {
	Product string `json:"product"`
	Feature string `json:"feature"`
	Action  string `json:"action"`
}

func (g right) String() string { return permission.Permission(g).String() }

const selectRights = `SELECT p.name, f.name, g.action
	FROM role_feature_permissions g JOIN features f ON f.id = g.feature_id JOIN products p ON p.id = f.product_id
	WHERE g.role_id = (SELECT id FROM roles WHERE tenant_id = $1 AND id = $2) ORDER BY p.name, f.name, g.action`

// rightsOfRole returns what a role of a tenant may do, in the order of names.
func rightsOfRole(ctx context.Context, q identity.Queryer, tenantID, roleID int64) ([]right, error) {
	return query(ctx, q, scanRight, selectRights, tenantID, roleID)
}

func scanRight(rows *sql.Rows) (g right, err error) {
	err = rows.Scan(&g.Product, &g.Feature, &g.Action)
	return g, err
}

// holding is what a caller may grant to others.
type holding struct {
	rights map[right]bool
	// operator runs the installation: they made the catalogue, and somebody
	// must be the first to grant a right that is new.
	operator bool
}

const selectCallerRights = `SELECT p.name, f.name, g.action
	FROM memberships m JOIN role_feature_permissions g ON g.role_id = m.role_id
	JOIN features f ON f.id = g.feature_id JOIN products p ON p.id = f.product_id
	WHERE m.tenant_id = $1 AND m.user_id = $2`

// holdings returns what the table says the caller may do at this moment: the
// gateway's snapshot, and roles in a token even more so, may be older.
func holdings(ctx context.Context, tx *database.Tx, c server.Caller) (holding, error) {
	all, err := query(ctx, tx, scanRight, selectCallerRights, c.TenantID, c.UserID)
	if err != nil {
		return holding{}, err
	}
	h := holding{rights: make(map[right]bool, len(all))}
	for _, g := range all {
		h.rights[g] = true
	}
	h.operator = h.rights[right{builtInProduct, featurePlatform, permission.Write}]
	return h, nil
}

func (h holding) mayGrant(g right) bool { return h.operator || h.rights[g] }

// errBeyondOwn is the refusal to hand on a right that the caller does not hold.
func errBeyondOwn(g right) error {
	e := problem.New(http.StatusForbidden, "beyond-own-rights", "You can't give a right that you don't hold yourself.")
	e.Extra = map[string]any{"permission": g.String()}
	return e
}

const (
	// Both start from the few roles that hold the right, not from the members.
	managersExist = `SELECT EXISTS (SELECT 1 FROM memberships m JOIN users u ON u.id = m.user_id
		WHERE m.tenant_id = $1 AND u.status = 'active' AND m.role_id IN (
			SELECT r.id FROM roles r JOIN role_feature_permissions g ON g.role_id = r.id
			JOIN features f ON f.id = g.feature_id JOIN products p ON p.id = f.product_id
			WHERE r.tenant_id = $1 AND p.name = 'tenantgate' AND f.name = 'members' AND g.action = 'write'))`
	operatorsExist = `SELECT EXISTS (SELECT 1 FROM products p JOIN features f ON f.product_id = p.id
		JOIN role_feature_permissions g ON g.feature_id = f.id JOIN roles r ON r.id = g.role_id
		JOIN memberships m ON m.tenant_id = r.tenant_id AND m.role_id = r.id JOIN users u ON u.id = m.user_id
		JOIN tenants t ON t.id = r.tenant_id
		WHERE t.status = 'active' AND u.status = 'active' AND p.name = 'tenantgate' AND f.name = 'platform' AND g.action = 'write')`
)

// guarded wraps a change to a tenant's members or rights: it must not take the
// tenant's last member who may manage members, nor the installation's last who
// may manage the platform. Nobody could give those rights back.
func guarded(ctx context.Context, tenantID int64, f func(*database.Tx) (*event, error)) func(*database.Tx) (*event, error) {
	return func(tx *database.Tx) (*event, error) {
		managed, operated, err := watch(ctx, tx, tenantID)
		if err != nil {
			return nil, err
		}
		e, err := f(tx)
		if err != nil || e == nil {
			return e, err
		}
		stillManaged, stillOperated, err := watch(ctx, tx, tenantID)
		switch {
		case err != nil:
			return nil, err
		case managed && !stillManaged:
			return nil, errLast(right{builtInProduct, featureMembers, permission.Write})
		case operated && !stillOperated:
			return nil, errLast(right{builtInProduct, featurePlatform, permission.Write})
		}
		return e, nil
	}
}

// watch reports whether the tenant and the installation have somebody in charge.
func watch(ctx context.Context, tx *database.Tx, tenantID int64) (managed, operated bool, err error) {
	if err := tx.QueryRowContext(ctx, managersExist, tenantID).Scan(&managed); err != nil {
		return false, false, fmt.Errorf("look for managers: %w", err)
	}
	if err := tx.QueryRowContext(ctx, operatorsExist).Scan(&operated); err != nil {
		return false, false, fmt.Errorf("look for operators: %w", err)
	}
	return managed, operated, nil
}

func errLast(g right) error {
	e := problem.New(http.StatusConflict, "last-holder", "Nobody would be left to manage this: give the right to somebody else first.")
	e.Extra = map[string]any{"permission": g.String()}
	return e
}
