package tenant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// grantsBody is what a role itself holds, in requests and responses.
type grantsBody struct {
	Permissions []right `json:"permissions"`
}

// grantsOf returns the body for a role that is in the book.
func grantsOf(ctx context.Context, book *rights.Book, roleID int64) (grantsBody, error) {
	own, err := book.Own(ctx, roleID)
	b := grantsBody{Permissions: make([]right, len(own))}
	for i, p := range own {
		b.Permissions[i] = right(p)
	}
	return b, err
}

// heldBody is one right of a role and the role that it comes from.
type heldBody struct {
	right
	From roleRef `json:"from"`
}

// listGrants answers GET /api/roles/{id}/permissions/ with the whole set of what
// the role itself holds or, with ?effective=true, also of what it inherits.
func (s *Service) listGrants(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	effective := r.URL.Query().Get("effective")
	if effective != "" && effective != "true" && effective != "false" {
		return server.BadQuery("effective", "Give true or false.")
	}
	var body any
	err = s.look(r.Context(), func(q identity.Queryer) error {
		book, err := bookWith(r.Context(), q, c.TenantID, id)
		if err != nil {
			return err
		}
		if effective == "true" {
			body, err = effectiveOf(r.Context(), book, id)
		} else {
			body, err = grantsOf(r.Context(), book, id)
		}
		return err
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, body)
}

// bookWith returns the roles of a tenant, or a 404 problem if the role is not
// among them.
func bookWith(ctx context.Context, q identity.Queryer, tenantID, roleID int64) (*rights.Book, error) {
	book, err := rights.Read(ctx, q, tenantID)
	if err == nil && book.Role(roleID) == nil {
		err = notFound()
	}
	return book, err
}

// effectiveOf is [grantsOf] with inherited rights.
func effectiveOf(ctx context.Context, book *rights.Book, roleID int64) (any, error) {
	held, err := book.Effective(ctx, roleID)
	all := make([]heldBody, len(held))
	for i, h := range held {
		all[i] = heldBody{right(h.Pattern), roleRef{h.From.ID, h.From.Name}}
	}
	return map[string][]heldBody{"permissions": all}, err
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
	after, err := s.regrant(r, c, c.TenantID, id, func(has map[right]bool) (add, drop []named) {
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
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
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
	after, err := s.regrant(r, c, c.TenantID, id, func(has map[right]bool) (add, drop []named) {
		if has[in] {
			return nil, nil
		}
		return []named{{"", in}}, nil
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

// removeGrant answers DELETE /api/roles/{id}/permissions/{product}/{feature}/{action}/.
// A right that the role itself does not hold is 404. If-Match is about the set.
func (s *Service) removeGrant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	gone := right{r.PathValue("product"), r.PathValue("feature"), r.PathValue("action")}
	missing := false
	_, err = s.regrant(r, c, c.TenantID, id, func(has map[right]bool) (add, drop []named) {
		if missing = !has[gone]; missing {
			return nil, nil
		}
		return nil, []named{{"", gone}}
	})
	if err == nil && missing {
		err = notFound()
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// grantToTenant answers POST /api/tenants/{id}/permissions/: an operator adds
// rights to a role of any tenant. It is how a new feature reaches roles whose
// members can't grant it: none of them holds it, unless by a wildcard.
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
	after, err := s.regrant(r, c, tenantID, role.ID, func(has map[right]bool) (add, drop []named) {
		for i, g := range in.Permissions {
			if !has[g] {
				add = append(add, named{"/permissions/" + strconv.Itoa(i), g})
				has[g] = true
			}
		}
		return add, nil
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

// named is a right and where it stood in the request.
type named struct {
	pointer string
	right   right
}

// regrant changes what a role itself holds by the difference that diff finds to
// what it has, and returns the new set. What is added must be in the catalogue
// and among the caller's own rights.
func (s *Service) regrant(r *http.Request, c server.Caller, tenantID, roleID int64,
	diff func(has map[right]bool) (add, drop []named),
) (after grantsBody, err error) {
	ctx := r.Context()
	err = s.change(r, c, guarded(ctx, tenantID, func(tx *edit) (*event, error) {
		book, err := bookWith(ctx, tx, tenantID, roleID)
		if err != nil {
			return nil, err
		}
		if after, err = grantsOf(ctx, book, roleID); err != nil {
			return nil, err
		}
		if err := tx.unchanged(after); err != nil {
			return nil, err
		}
		has := make(map[right]bool, len(after.Permissions))
		for _, g := range after.Permissions {
			has[g] = true
		}
		role := book.Role(roleID)
		add, drop := diff(has)
		switch {
		case len(add)+len(drop) == 0:
			return nil, nil
		case role.Owner:
			return nil, errOwnerStays("The owner holds everything, and nothing can be added or taken away.")
		}
		e := &event{tenantID: tenantID, action: "role.permissions_changed", target: target("role", roleID)}
		if e.detail, err = applyGrants(ctx, tx, c, tenantID, role, add, drop); err != nil {
			return nil, err
		}
		if book, err = rights.Read(ctx, tx, tenantID); err != nil {
			return nil, err
		}
		after, err = grantsOf(ctx, book, roleID)
		return e, err
	}))
	return after, err
}

// applyGrants adds to a role and takes from it, and returns what the audit log
// hears of it.
func applyGrants(ctx context.Context, tx *edit, c server.Caller, tenantID int64, role *rights.Role, add, drop []named) (detail any, err error) {
	added, err := grant(ctx, tx, c, tenantID, role.ID, add)
	if err != nil {
		return nil, err
	}
	var dropped []right
	for _, n := range drop {
		if err := dropRight(ctx, tx, tenantID, role.ID, n.right); err != nil {
			return nil, err
		}
		dropped = append(dropped, n.right)
	}
	return map[string]any{"role": role.Name, "added": added, "removed": dropped}, nil
}

// grant adds rights to a role.
func grant(ctx context.Context, tx *edit, c server.Caller, tenantID, roleID int64, add []named) ([]right, error) {
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
	for _, n := range add {
		f.right(n.pointer, permission.Pattern(n.right), known)
	}
	if err := f.problem(); err != nil {
		return nil, err
	}
	var added []right
	for _, n := range add {
		if !own.MayGive(permission.Pattern(n.right)) {
			return nil, errBeyondOwn(n.right.String())
		}
		if err := addRight(ctx, tx, tenantID, roleID, n.right); err != nil {
			return nil, err
		}
		added = append(added, n.right)
	}
	return added, nil
}

const (
	insertRight = `INSERT INTO role_feature_permissions (role_id, feature_id, action)
		SELECT r.id, f.id, $1 FROM roles r, features f JOIN products p ON p.id = f.product_id
		WHERE r.tenant_id = $2 AND r.id = $3 AND p.name = $4 AND f.name = $5`
	insertWildcard = `INSERT INTO role_wildcards (role_id, product_id, feature_id, action)
		SELECT r.id, p.id, f.id, NULLIF($1, '*') FROM roles r
		LEFT JOIN products p ON p.name = $2 LEFT JOIN features f ON f.product_id = p.id AND f.name = $3
		WHERE r.tenant_id = $4 AND r.id = $5`
)

// addRight gives a role a right that is in the catalogue.
func addRight(ctx context.Context, tx *edit, tenantID, roleID int64, g right) (err error) {
	if permission.Pattern(g).Wildcard() {
		_, err = tx.ExecContext(ctx, insertWildcard, g.Action, g.Product, g.Feature, tenantID, roleID)
	} else {
		_, err = tx.ExecContext(ctx, insertRight, g.Action, tenantID, roleID, g.Product, g.Feature)
	}
	if err != nil {
		return fmt.Errorf("grant %s: %w", g, err)
	}
	return nil
}

const (
	deleteRight = `DELETE FROM role_feature_permissions
		WHERE action = $1 AND role_id = (SELECT id FROM roles WHERE tenant_id = $2 AND id = $3)
		AND feature_id = (SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = $4 AND f.name = $5)`
	deleteWildcard = `DELETE FROM role_wildcards
		WHERE COALESCE(action, '*') = $1 AND role_id = (SELECT id FROM roles WHERE tenant_id = $2 AND id = $3)
		AND COALESCE((SELECT p.name FROM products p WHERE p.id = role_wildcards.product_id), '*') = $4
		AND COALESCE((SELECT f.name FROM features f WHERE f.id = role_wildcards.feature_id), '*') = $5`
)

// dropRight takes a right from a role, or returns a 404 problem if it has none.
func dropRight(ctx context.Context, tx *edit, tenantID, roleID int64, g right) error {
	statement := deleteRight
	if permission.Pattern(g).Wildcard() {
		statement = deleteWildcard
	}
	err := affected(tx.ExecContext(ctx, statement, g.Action, tenantID, roleID, g.Product, g.Feature))
	var e *problem.Error
	if err != nil && !errors.As(err, &e) {
		return fmt.Errorf("revoke %s: %w", g, err)
	}
	return err
}
