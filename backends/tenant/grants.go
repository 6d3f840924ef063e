package tenant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// grantsBody is what a role may do, in requests and responses.
type grantsBody struct {
	Permissions []right `json:"permissions"`
}

// listGrants answers GET /api/roles/{id}/permissions/ with the whole set.
func (s *Service) listGrants(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	ctx := r.Context()
	if _, err := findRole(ctx, s.config.DB.Reader(), c.TenantID, id); err != nil {
		return err
	}
	all, err := rightsOfRole(ctx, s.config.DB.Reader(), c.TenantID, id)
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK, grantsBody{Permissions: all})
}

// replaceGrants answers PUT /api/roles/{id}/permissions/: afterwards the role
// holds exactly the given set.
func (s *Service) replaceGrants(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		Permissions *[]right `json:"permissions"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	if in.Permissions == nil {
		var f fault
		f.required("/permissions")
		return f.problem()
	}
	return s.regrant(w, r, c, c.TenantID, id, func(has map[right]bool) (add, drop []named) {
		want := make(map[right]bool, len(*in.Permissions))
		for i, g := range *in.Permissions {
			if !has[g] && !want[g] {
				add = append(add, named{"/permissions/" + strconv.Itoa(i), g})
			}
			want[g] = true
		}
		for g := range has {
			if !want[g] {
				drop = append(drop, named{"", g})
			}
		}
		return add, drop
	})
}

// addGrant answers POST /api/roles/{id}/permissions/ with one right.
func (s *Service) addGrant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in right
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	return s.regrant(w, r, c, c.TenantID, id, func(has map[right]bool) (add, drop []named) {
		if has[in] {
			return nil, nil
		}
		return []named{{"", in}}, nil
	})
}

// removeGrant answers DELETE /api/roles/{id}/permissions/{product}/{feature}/{action}/.
// A right that the role does not hold is 404.
func (s *Service) removeGrant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	gone := right{r.PathValue("product"), r.PathValue("feature"), r.PathValue("action")}
	ctx := r.Context()
	err = s.change(ctx, c, guarded(ctx, c.TenantID, func(tx *database.Tx) (*event, error) {
		role, err := findRole(ctx, tx, c.TenantID, id)
		if err != nil {
			return nil, err
		}
		if err := dropRight(ctx, tx, c.TenantID, id, gone); err != nil {
			return nil, err
		}
		return grantsEvent(c.TenantID, role, nil, []right{gone}), nil
	}))
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// grantToTenant answers POST /api/tenants/{id}/permissions/: an operator adds
// rights to a role of any tenant. It is how a new feature reaches the tenants,
// whose members can't grant what none of them holds.
func (s *Service) grantToTenant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	tenantID, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		Role        string  `json:"role"`
		Permissions []right `json:"permissions"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	var f fault
	f.role("/role", in.Role)
	if len(in.Permissions) == 0 {
		f.required("/permissions")
	}
	if err := f.problem(); err != nil {
		return err
	}
	role, err := findRoleByName(r.Context(), s.config.DB.Reader(), tenantID, in.Role)
	if err != nil {
		return found(err)
	}
	return s.regrant(w, r, c, tenantID, role.ID, func(has map[right]bool) (add, drop []named) {
		for i, g := range in.Permissions {
			if !has[g] {
				add = append(add, named{"/permissions/" + strconv.Itoa(i), g})
				has[g] = true
			}
		}
		return add, nil
	})
}

// named is a right and where it stood in the request.
type named struct {
	pointer string
	right   right
}

// regrant changes the rights of a role by the difference that diff finds to
// what the role has, and answers with the new set. Rights that are added must
// be in the catalogue and among the caller's own.
func (s *Service) regrant(w http.ResponseWriter, r *http.Request, c server.Caller, tenantID, roleID int64,
	diff func(has map[right]bool) (add, drop []named),
) error {
	ctx := r.Context()
	var after []right
	err := s.change(ctx, c, guarded(ctx, tenantID, func(tx *database.Tx) (*event, error) {
		role, err := findRole(ctx, tx, tenantID, roleID)
		if err != nil {
			return nil, err
		}
		if after, err = rightsOfRole(ctx, tx, tenantID, roleID); err != nil {
			return nil, err
		}
		has := make(map[right]bool, len(after))
		for _, g := range after {
			has[g] = true
		}
		add, drop := diff(has)
		if len(add)+len(drop) == 0 {
			return nil, nil
		}
		added, err := grant(ctx, tx, c, tenantID, roleID, add)
		if err != nil {
			return nil, err
		}
		var dropped []right
		for _, n := range drop {
			if err := dropRight(ctx, tx, tenantID, roleID, n.right); err != nil {
				return nil, err
			}
			dropped = append(dropped, n.right)
		}
		after, err = rightsOfRole(ctx, tx, tenantID, roleID)
		return grantsEvent(tenantID, role, added, dropped), err
	}))
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK, grantsBody{Permissions: after})
}

func grantsEvent(tenantID int64, role roleBody, added, dropped []right) *event {
	return &event{
		tenantID: tenantID, action: "role.permissions_changed", target: target("role", role.ID),
		detail: map[string]any{"role": role.Name, "added": added, "removed": dropped},
	}
}

// grant adds rights to a role.
func grant(ctx context.Context, tx *database.Tx, c server.Caller, tenantID, roleID int64, add []named) ([]right, error) {
	if len(add) == 0 {
		return nil, nil
	}
	known, err := loadCatalogue(ctx, tx)
	if err != nil {
		return nil, err
	}
	own, err := holdings(ctx, tx, c)
	if err != nil {
		return nil, err
	}
	var f fault
	var added []right
	for _, n := range add {
		if !known.has(n.right) {
			f.add(n.pointer, "unknown", "The catalogue has no "+strconv.Quote(n.right.String())+".")
			continue
		}
		added = append(added, n.right)
	}
	if err := f.problem(); err != nil {
		return nil, err
	}
	for _, g := range added {
		if !own.mayGrant(g) {
			return nil, errBeyondOwn(g)
		}
		if err := addRight(ctx, tx, tenantID, roleID, g); err != nil {
			return nil, err
		}
	}
	return added, nil
}

const insertRight = `INSERT INTO role_feature_permissions (role_id, feature_id, action)
	SELECT r.id, f.id, $1 FROM roles r, features f JOIN products p ON p.id = f.product_id
	WHERE r.tenant_id = $2 AND r.id = $3 AND p.name = $4 AND f.name = $5`

func addRight(ctx context.Context, tx *database.Tx, tenantID, roleID int64, g right) error {
	if _, err := tx.ExecContext(ctx, insertRight, g.Action, tenantID, roleID, g.Product, g.Feature); err != nil {
		return fmt.Errorf("grant %s: %w", g, err)
	}
	return nil
}

const deleteRight = `DELETE FROM role_feature_permissions
	WHERE action = $1 AND role_id = (SELECT id FROM roles WHERE tenant_id = $2 AND id = $3)
	AND feature_id = (SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = $4 AND f.name = $5)`

// dropRight takes a right from a role, or returns a 404 problem if it has none.
func dropRight(ctx context.Context, tx *database.Tx, tenantID, roleID int64, g right) error {
	err := affected(tx.ExecContext(ctx, deleteRight, g.Action, tenantID, roleID, g.Product, g.Feature))
	var e *problem.Error
	if err != nil && !errors.As(err, &e) {
		return fmt.Errorf("revoke %s: %w", g, err)
	}
	return err
}
