package tenant

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// The roles that a new tenant starts with.
const (
	ownerRole = "Owner"
	adminRole = "Admin"
)

// tenantBody is a tenant in a response.
type tenantBody struct {
	ID     int64  `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Seats  seats  `json:"seats"`
	// Domains is whom the tenant invites, and whom it takes as a member.
	Domains   identity.DomainPolicy `json:"invitation_domains"`
	CreatedAt timestamp             `json:"created_at"`
	UpdatedAt timestamp             `json:"updated_at"`
}

func scanTenant(row scanner) (t tenantBody, err error) {
	err = row.Scan(&t.ID, &t.Name, &t.Status, &t.Seats, &t.Domains.Allowed, &t.Domains.Denied, &t.CreatedAt, &t.UpdatedAt)
	return t, err
}

const (
	tenantColumns = `id, name, status, COALESCE(seats, 0), allowed_domains, denied_domains, created_at, updated_at`
	selectTenant  = `SELECT ` + tenantColumns + ` FROM tenants WHERE id = $1`
)

func findTenant(ctx context.Context, q identity.Queryer, id int64) (tenantBody, error) {
	t, err := scanTenant(q.QueryRowContext(ctx, selectTenant, id))
	return t, found(err)
}

// ownTenant answers GET /api/tenant/.
func (s *Service) ownTenant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	t, err := findTenant(r.Context(), s.config.DB.Reader(), c.TenantID)
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, t)
}

// updateOwnTenant answers PATCH /api/tenant/. A tenant can't lift its own
// suspension nor give itself seats.
func (s *Service) updateOwnTenant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	var in struct {
		Name    *string      `json:"name"`
		Domains *domainLists `json:"invitation_domains"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	return s.patchTenant(w, r, c, c.TenantID, tenantPatch{Name: in.Name, Domains: in.Domains})
}

const selectTenants = `SELECT ` + tenantColumns + ` FROM tenants WHERE id > $1 ORDER BY id LIMIT $2`

// listTenants answers GET /api/tenants/.
func (s *Service) listTenants(w http.ResponseWriter, r *http.Request, _ server.Caller) error {
	limit, after, err := parseIDPage(r)
	if err != nil {
		return err
	}
	scan := func(rows *sql.Rows) (tenantBody, error) { return scanTenant(rows) }
	all, err := query(r.Context(), s.config.DB.Reader(), scan, selectTenants, after, limit+1)
	if err != nil {
		return err
	}
	return writeList(w, r, all, limit, func(t tenantBody) string { return strconv.FormatInt(t.ID, 10) })
}

// getTenant answers GET /api/tenants/{id}/.
func (s *Service) getTenant(w http.ResponseWriter, r *http.Request, _ server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	t, err := findTenant(r.Context(), s.config.DB.Reader(), id)
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, t)
}

const insertTenant = `INSERT INTO tenants (name, seats, created_at, updated_at) VALUES ($1, $2, $3, $3) RETURNING ` + tenantColumns

// createTenant answers POST /api/tenants/. Who is named as the admin becomes the
// owner; otherwise the first member must be invited.
func (s *Service) createTenant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	var in struct {
		Name        string          `json:"name"`
		Seats       json.RawMessage `json:"seats"`
		AdminUserID string          `json:"admin_user_id"`
		AdminEmail  string          `json:"admin_email"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	var f fault
	f.tenantName("/name", in.Name)
	allowance := f.seats("/seats", in.Seats)
	if in.AdminUserID != "" && in.AdminEmail != "" {
		f.add("/admin_email", "conflict", "Give admin_user_id or admin_email, not both.")
	}
	if err := f.problem(); err != nil {
		return err
	}
	ctx := r.Context()
	var created tenantBody
	err := s.change(r, c, func(tx *edit) (_ *event, err error) {
		if created, err = scanTenant(tx.QueryRowContext(ctx, insertTenant, in.Name, allowance.column(), tx.NowMS())); err != nil {
			return nil, err
		}
		owner, err := insertFirstRoles(ctx, tx, created.ID)
		if err != nil {
			return nil, err
		}
		detail := map[string]any{"name": created.Name, "seats": created.Seats}
		if in.AdminUserID != "" || in.AdminEmail != "" {
			admin, err := findAccount(ctx, tx, "/admin_user_id", in.AdminUserID, "/admin_email", in.AdminEmail)
			if err != nil {
				return nil, err
			}
			if err := identity.InsertMembership(ctx, tx.Tx, created.ID, admin.ID, owner.ID); err != nil {
				return nil, err
			}
			detail["admin"] = admin.ID
		}
		return &event{tenantID: created.ID, whole: true, action: "tenant.created", target: target("tenant", created.ID), detail: detail}, nil
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/tenants/"+strconv.FormatInt(created.ID, 10)+"/")
	return server.WriteTagged(w, r, http.StatusCreated, created)
}

// insertFirstRoles adds the built-in owner and a role Admin with every right that
// there is at this moment but those of the platform. It returns the owner.
func insertFirstRoles(ctx context.Context, tx *edit, tenantID int64) (owner roleBody, err error) {
	if owner, err = scanRole(tx.QueryRowContext(ctx, insertRole, tenantID, ownerRole, kindOwner, tx.NowMS())); err != nil {
		return roleBody{}, fmt.Errorf("insert role: %w", err)
	}
	admin, err := scanRole(tx.QueryRowContext(ctx, insertRole, tenantID, adminRole, kindCustom, tx.NowMS()))
	if err != nil {
		return roleBody{}, fmt.Errorf("insert role: %w", err)
	}
	return owner, grantAll(ctx, tx, tenantID, admin.ID)
}

// updateTenant answers PATCH /api/tenants/{id}/.
func (s *Service) updateTenant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in tenantPatch
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	if id == c.TenantID && in.Status != nil && *in.Status != identity.StatusActive {
		return errOwnTenant()
	}
	return s.patchTenant(w, r, c, id, in)
}

func errOwnTenant() error {
	return problem.New(http.StatusConflict, "own-tenant", "You can't suspend or delete the tenant that you are working in.")
}

// tenantPatch is what a request changes about a tenant.
type tenantPatch struct {
	Name    *string         `json:"name"`
	Status  *string         `json:"status"`
	Seats   json.RawMessage `json:"seats"` // nil if it is not given
	Domains *domainLists    `json:"invitation_domains"`
}

// validate checks what is given and returns the function that makes the change.
func (in tenantPatch) validate() (apply func(*tenantBody), err error) {
	var f fault
	if in.Name == nil && in.Status == nil && in.Seats == nil && in.Domains == nil {
		f.add("/name", "required", "Give at least one field to change.")
	}
	if in.Name != nil {
		f.tenantName("/name", *in.Name)
	}
	if in.Status != nil && *in.Status != identity.StatusActive && *in.Status != identity.StatusSuspended {
		f.add("/status", "invalid", "Give active or suspended.")
	}
	allowance := f.seats("/seats", in.Seats)
	var policy identity.DomainPolicy
	if in.Domains != nil {
		policy.Allowed = f.domains("/invitation_domains/allowed", in.Domains.Allowed)
		policy.Denied = f.domains("/invitation_domains/denied", in.Domains.Denied)
	}
	return func(t *tenantBody) {
		if in.Name != nil {
			t.Name = *in.Name
		}
		if in.Status != nil {
			t.Status = *in.Status
		}
		if in.Seats != nil {
			t.Seats = allowance
		}
		if in.Domains != nil {
			t.Domains = policy
		}
	}, f.problem()
}

const setTenant = `UPDATE tenants SET name = $1, status = $2, seats = $3, allowed_domains = $4, denied_domains = $5, updated_at = $6
	WHERE id = $7 RETURNING ` + tenantColumns

// patchTenant changes what is given.
func (s *Service) patchTenant(w http.ResponseWriter, r *http.Request, c server.Caller, id int64, in tenantPatch) error {
	apply, err := in.validate()
	if err != nil {
		return err
	}
	ctx := r.Context()
	var after tenantBody
	err = s.change(r, c, guarded(ctx, 0, func(tx *edit) (*event, error) {
		before, err := findTenant(ctx, tx, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		after = before
		if apply(&after); after == before {
			return nil, nil
		}
		after, err = scanTenant(tx.QueryRowContext(ctx, setTenant, after.Name, after.Status, after.Seats.column(),
			string(after.Domains.Allowed), string(after.Domains.Denied), tx.NowMS(), id))
		return &event{tenantID: id, action: "tenant.updated", target: target("tenant", id), detail: map[string]tenantBody{"from": before, "to": after}}, err
	}))
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

const deleteTenant = `DELETE FROM tenants WHERE id = $1`

// deleteTenant answers DELETE /api/tenants/{id}/. Members, roles, grants,
// sessions and invitations go with it; the audit log and the users stay.
func (s *Service) deleteTenant(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if id == c.TenantID {
		return errOwnTenant()
	}
	ctx := r.Context()
	err = s.change(r, c, guarded(ctx, 0, func(tx *edit) (*event, error) {
		before, err := findTenant(ctx, tx, id)
		if err == nil {
			err = tx.unchanged(before)
		}
		if err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, deleteTenant, id); err != nil {
			return nil, fmt.Errorf("delete tenant: %w", err)
		}
		return &event{
			tenantID: id, whole: true, action: "tenant.deleted", target: target("tenant", id), detail: map[string]string{"name": before.Name},
		}, nil
	}))
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
