package tenant

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// The kinds of roles. A tenant has one owner role: it holds everything but the
// platform, by its kind alone, and can't lose any of it.
const (
	kindCustom = "custom"
	kindOwner  = "owner"
)

// roleBody is a role in a response.
type roleBody struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`
	CreatedAt timestamp `json:"created_at"`
	UpdatedAt timestamp `json:"updated_at"`
}

func scanRole(row scanner) (b roleBody, err error) {
	err = row.Scan(&b.ID, &b.Name, &b.Kind, &b.CreatedAt, &b.UpdatedAt)
	return b, err
}

const (
	roleColumns      = `SELECT id, name, kind, created_at, updated_at FROM roles WHERE tenant_id = $1`
	selectRoles      = roleColumns + ` AND id > $2 ORDER BY id LIMIT $3`
	selectRole       = roleColumns + ` AND id = $2`
	selectRoleByName = roleColumns + ` AND name = $2`
)

func findRole(ctx context.Context, q identity.Queryer, tenantID, id int64) (roleBody, error) {
	b, err := scanRole(q.QueryRowContext(ctx, selectRole, tenantID, id))
	return b, found(err)
}

// findRoleByName returns a role, or sql.ErrNoRows.
func findRoleByName(ctx context.Context, q identity.Queryer, tenantID int64, name string) (roleBody, error) {
	return scanRole(q.QueryRowContext(ctx, selectRoleByName, tenantID, name))
}

// listRoles answers GET /api/roles/.
func (s *Service) listRoles(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	limit, after, err := parseIDPage(r)
	if err != nil {
		return err
	}
	scan := func(rows *sql.Rows) (roleBody, error) { return scanRole(rows) }
	all, err := query(r.Context(), s.config.DB.Reader(), scan, selectRoles, c.TenantID, after, limit+1)
	if err != nil {
		return err
	}
	return writeList(w, r, all, limit, func(b roleBody) string { return strconv.FormatInt(b.ID, 10) })
}

// getRole answers GET /api/roles/{id}/.
func (s *Service) getRole(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	b, err := findRole(r.Context(), s.config.DB.Reader(), c.TenantID, id)
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, b)
}

// decodeRoleName reads the body of a request that names a role.
func decodeRoleName(r *http.Request) (string, error) {
	var in struct {
		Name string `json:"name"`
	}
	if err := server.Decode(r, &in); err != nil {
		return "", err
	}
	var f fault
	f.role("/name", in.Name)
	return in.Name, f.problem()
}

const insertRole = `INSERT INTO roles (tenant_id, name, kind, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)
	RETURNING id, name, kind, created_at, updated_at`

// createRole answers POST /api/roles/. The role starts without any right.
func (s *Service) createRole(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	name, err := decodeRoleName(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	var created roleBody
	err = s.change(r, c, func(tx *edit) (_ *event, err error) {
		if created, err = scanRole(tx.QueryRowContext(ctx, insertRole, c.TenantID, name, kindCustom, tx.NowMS())); err != nil {
			return nil, fmt.Errorf("insert role: %w", err)
		}
		return &event{tenantID: c.TenantID, action: "role.created", target: target("role", created.ID), detail: map[string]string{"name": name}}, nil
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/roles/"+strconv.FormatInt(created.ID, 10)+"/")
	return server.WriteTagged(w, r, http.StatusCreated, created)
}

const setRoleName = `UPDATE roles SET name = $1, updated_at = $2 WHERE tenant_id = $3 AND id = $4
	RETURNING id, name, kind, created_at, updated_at`

// renameRole answers PATCH /api/roles/{id}/.
func (s *Service) renameRole(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	name, err := decodeRoleName(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	var after roleBody
	err = s.change(r, c, func(tx *edit) (*event, error) {
		before, err := findRole(ctx, tx, c.TenantID, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		if after = before; before.Name == name {
			return nil, nil
		}
		after, err = scanRole(tx.QueryRowContext(ctx, setRoleName, name, tx.NowMS(), c.TenantID, id))
		return &event{
			tenantID: c.TenantID, action: "role.renamed", target: target("role", id),
			detail: map[string]string{"from": before.Name, "to": name},
		}, err
	})
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

const deleteUnusedRole = `DELETE FROM roles WHERE tenant_id = $1 AND id = $2
	AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.tenant_id = roles.tenant_id AND m.role_id = roles.id)`

// deleteRole answers DELETE /api/roles/{id}/. A role that members have or that
// others inherit from stays, and so does the owner's.
func (s *Service) deleteRole(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	ctx := r.Context()
	err = s.change(r, c, func(tx *edit) (*event, error) {
		before, err := findRole(ctx, tx, c.TenantID, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		if before.Kind == kindOwner {
			return nil, errOwnerStays("The role of the owner is built in and stays.")
		}
		book, err := rights.Read(ctx, tx, c.TenantID)
		if err != nil {
			return nil, err
		}
		if heirs := book.Heirs(id); len(heirs) > 0 {
			e := problem.New(http.StatusConflict, "role-in-use", "Other roles inherit from this role: take it from their parents first.")
			e.Extra = map[string]any{"roles": heirs}
			return nil, e
		}
		result, err := tx.ExecContext(ctx, deleteUnusedRole, c.TenantID, id)
		if err != nil {
			return nil, fmt.Errorf("delete role: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return nil, problem.Wrap(err, http.StatusConflict, "role-in-use", "Members still have this role: give them another one first.")
		}
		return &event{tenantID: c.TenantID, action: "role.deleted", target: target("role", id), detail: map[string]string{"name": before.Name}}, nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
