package tenant

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// parentsBody is the names of the roles that a role inherits from, sorted.
type parentsBody struct {
	Parents []string `json:"parents"`
}

// parentsOf returns the body for a role that is in the book.
func parentsOf(book *rights.Book, roleID int64) parentsBody {
	b := parentsBody{Parents: []string{}}
	for _, id := range book.Role(roleID).Parents {
		b.Parents = append(b.Parents, book.Role(id).Name)
	}
	slices.Sort(b.Parents)
	return b
}

// listParents answers GET /api/roles/{id}/parents/.
func (s *Service) listParents(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var body parentsBody
	err = s.look(r.Context(), func(q identity.Queryer) error {
		book, err := bookWith(r.Context(), q, c.TenantID, id)
		if err == nil {
			body = parentsOf(book, id)
		}
		return err
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, body)
}

// replaceParents answers PUT /api/roles/{id}/parents/: afterwards the role
// inherits from exactly the given ones.
func (s *Service) replaceParents(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in struct {
		Parents *[]string `json:"parents"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	if in.Parents == nil {
		var f fault
		f.required("/parents")
		return f.problem()
	}
	ctx := r.Context()
	var after parentsBody
	err = s.change(r, c, guarded(ctx, c.TenantID, func(tx *edit) (*event, error) {
		book, err := bookWith(ctx, tx, c.TenantID, id)
		if err != nil {
			return nil, err
		}
		before := parentsOf(book, id)
		if err := tx.unchanged(before); err != nil {
			return nil, err
		}
		want, err := parentsNamed(book, *in.Parents)
		if err != nil {
			return nil, err
		}
		added, dropped, err := inherit(ctx, tx, book, c, id, want)
		if after = before; err != nil || len(added)+len(dropped) == 0 {
			return nil, err
		}
		if book, err = rights.Read(ctx, tx, c.TenantID); err != nil {
			return nil, err
		}
		after = parentsOf(book, id)
		return &event{
			tenantID: c.TenantID, action: "role.parents_changed", target: target("role", id),
			detail: map[string]any{"role": book.Role(id).Name, "added": added, "removed": dropped},
		}, nil
	}))
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

// parentsNamed returns the roles with the given names, each once, or a 422
// problem for names that no role of the tenant has.
func parentsNamed(book *rights.Book, names []string) ([]*rights.Role, error) {
	var (
		all []*rights.Role
		f   fault
	)
	for i, name := range names {
		switch role := book.ByName(name); {
		case role == nil:
			f.add("/parents/"+strconv.Itoa(i), "unknown", "There is no such role in this tenant.")
		case !slices.Contains(all, role):
			all = append(all, role)
		}
	}
	return all, f.problem()
}

const (
	insertParent = `INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES ($1, $2, $3)`
	deleteParent = `DELETE FROM role_parents WHERE tenant_id = $1 AND role_id = $2 AND parent_id = $3`
)

// inherit makes a role's parents the given ones and returns the names of those
// that are new and those that are gone.
func inherit(ctx context.Context, tx *edit, book *rights.Book, c server.Caller, roleID int64, want []*rights.Role) (added, dropped []string, err error) {
	role := book.Role(roleID)
	for _, parent := range want {
		if slices.Contains(role.Parents, parent.ID) {
			continue
		}
		if err := mayInherit(ctx, book, c, role, parent); err != nil {
			return nil, nil, err
		}
		if _, err := tx.ExecContext(ctx, insertParent, c.TenantID, roleID, parent.ID); err != nil {
			return nil, nil, fmt.Errorf("add parent: %w", err)
		}
		added = append(added, parent.Name)
	}
	for _, id := range role.Parents {
		if slices.Contains(want, book.Role(id)) {
			continue
		}
		if _, err := tx.ExecContext(ctx, deleteParent, c.TenantID, roleID, id); err != nil {
			return nil, nil, fmt.Errorf("remove parent: %w", err)
		}
		dropped = append(dropped, book.Role(id).Name)
	}
	return added, dropped, nil
}

// mayInherit returns the problem with a new parent of a role, if there is one.
func mayInherit(ctx context.Context, book *rights.Book, c server.Caller, role, parent *rights.Role) error {
	if role.Owner || parent.Owner {
		return errOwnerStays("The owner neither inherits nor is inherited from.")
	}
	if way := book.Path(parent.ID, role.ID); way != nil {
		e := problem.New(http.StatusConflict, "role-cycle", "The role would inherit from itself.")
		e.Extra = map[string]any{"roles": append([]string{role.Name}, way...)}
		return e
	}
	return mayGiveRole(ctx, book, c, parent.ID)
}
