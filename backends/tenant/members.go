package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// roleRef names a role in a response.
type roleRef struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// memberBody is a member in a response.
type memberBody struct {
	UserID    string    `json:"user_id"`
	Email     string    `json:"email"`
	Name      string    `json:"name"`
	Status    string    `json:"status"`
	Role      roleRef   `json:"role"`
	CreatedAt timestamp `json:"created_at"`
	UpdatedAt timestamp `json:"updated_at"`
}

func scanMember(row scanner) (m memberBody, err error) {
	err = row.Scan(&m.UserID, &m.Email, &m.Name, &m.Status, &m.Role.ID, &m.Role.Name, &m.CreatedAt, &m.UpdatedAt)
	return m, err
}

const (
	memberColumns = `SELECT m.user_id, u.email, u.name, u.status, r.id, r.name, m.created_at, m.updated_at
		FROM memberships m JOIN users u ON u.id = m.user_id JOIN roles r ON r.tenant_id = m.tenant_id AND r.id = m.role_id
		WHERE m.tenant_id = $1`
	selectMembers = memberColumns + ` AND m.user_id > $2 ORDER BY m.user_id LIMIT $3`
	selectMember  = memberColumns + ` AND m.user_id = $2`
)

// findMember returns a member of a tenant.
func findMember(ctx context.Context, q identity.Queryer, tenantID int64, userID string) (memberBody, error) {
	m, err := scanMember(q.QueryRowContext(ctx, selectMember, tenantID, userID))
	return m, found(err)
}

// listMembers answers GET /api/members/.
func (s *Service) listMembers(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	p, err := parsePage(r)
	if err != nil {
		return err
	}
	scan := func(rows *sql.Rows) (memberBody, error) { return scanMember(rows) }
	all, err := query(r.Context(), s.config.DB.Reader(), scan, selectMembers, c.TenantID, p.after, p.limit+1)
	if err != nil {
		return err
	}
	return writeList(w, r, all, p.limit, func(m memberBody) string { return m.UserID })
}

// getMember answers GET /api/members/{user_id}/.
func (s *Service) getMember(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	userID, err := pathUserID(r)
	if err != nil {
		return err
	}
	m, err := findMember(r.Context(), s.config.DB.Reader(), c.TenantID, userID)
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, m)
}

// addMember answers POST /api/members/: it makes a user who has an account a
// member of the caller's tenant.
func (s *Service) addMember(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	var in struct {
		UserID string `json:"user_id"`
		Email  string `json:"email"`
		Role   string `json:"role"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	var f fault
	f.role("/role", in.Role)
	switch {
	case in.UserID == "" && in.Email == "":
		f.add("/email", "required", "Give email or user_id.")
	case in.UserID != "" && in.Email != "":
		f.add("/email", "conflict", "Give email or user_id, not both.")
	}
	if err := f.problem(); err != nil {
		return err
	}
	ctx := r.Context()
	var added memberBody
	err := s.change(r, c, func(tx *edit) (*event, error) {
		role, err := assignable(ctx, tx, c, in.Role)
		if err != nil {
			return nil, err
		}
		account, err := findAccount(ctx, tx, "/user_id", in.UserID, "/email", in.Email)
		if err != nil {
			return nil, err
		}
		pointer := "/email"
		if in.UserID != "" {
			pointer = "/user_id"
		}
		if err := admit(ctx, tx, c.TenantID, account, pointer, role.ID); err != nil {
			return nil, err
		}
		added, err = findMember(ctx, tx, c.TenantID, account.ID)
		return &event{
			tenantID: c.TenantID, userID: account.ID, action: "member.added", target: target("user", account.ID),
			detail: map[string]string{"role": role.Name},
		}, err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/members/"+added.UserID+"/")
	return server.WriteTagged(w, r, http.StatusCreated, added)
}

// findAccount returns the active user with the given id, or else e-mail
// address, or a 422 problem for the field that names nobody.
func findAccount(ctx context.Context, q identity.Queryer, idPointer, id, emailPointer, email string) (identity.User, error) {
	var user identity.User
	pointer, err := idPointer, error(nil)
	switch {
	case id != "" && !storable(id):
		err = identity.ErrNotFound
	case id != "":
		user, err = identity.FindUser(ctx, q, id)
	default:
		pointer = emailPointer
		var key string
		if key, err = identity.EmailKey(email); err == nil {
			user, err = identity.FindUserByEmailKey(ctx, q, key)
		}
	}
	switch {
	case errors.Is(err, identity.ErrEmail):
		return identity.User{}, server.Invalid(problem.Field{Pointer: pointer, Code: "invalid", Detail: "Give an e-mail address such as ann@example.com."})
	case errors.Is(err, identity.ErrNotFound), err == nil && user.Status != identity.StatusActive:
		return identity.User{}, server.Invalid(problem.Field{Pointer: pointer, Code: "unknown", Detail: "Nobody has an account like this: send an invitation."})
	}
	return user, err
}

// assignable returns the role with the given name in the caller's tenant, if
// the caller holds every right that it carries: otherwise whoever may add
// members could make themselves an administrator.
func assignable(ctx context.Context, tx *edit, c server.Caller, name string) (roleRef, error) {
	book, err := rights.Read(ctx, tx, c.TenantID)
	if err != nil {
		return roleRef{}, err
	}
	role := book.ByName(name)
	if role == nil {
		return roleRef{}, server.Invalid(problem.Field{Pointer: "/role", Code: "unknown", Detail: "There is no such role in this tenant."})
	}
	return roleRef{ID: role.ID, Name: role.Name}, mayGiveRole(ctx, book, c, role.ID)
}

// memberToChange returns a member that If-Match and the caller's rights let the
// request change.
func memberToChange(ctx context.Context, tx *edit, c server.Caller, userID string) (memberBody, error) {
	before, err := findMember(ctx, tx, c.TenantID, userID)
	if err == nil {
		err = tx.unchanged(before)
	}
	if err == nil {
		err = mayUnseat(ctx, tx, c, before.Role.ID)
	}
	return before, err
}

// mayUnseat returns a 403 problem if the role is the owner's and the caller is
// neither an owner nor an operator: whoever manages members must not be able to
// take the tenant from its owner.
func mayUnseat(ctx context.Context, tx *edit, c server.Caller, roleID int64) error {
	book, err := rights.Read(ctx, tx, c.TenantID)
	if err != nil {
		return err
	}
	if r := book.Role(roleID); r == nil || !r.Owner {
		return nil
	}
	err = mayGiveRole(ctx, book, c, roleID)
	if errors.As(err, new(*problem.Error)) {
		return errBeyondOwn(rights.Owner)
	}
	return err
}

const setMemberRole = `UPDATE memberships SET role_id = $1, updated_at = $2 WHERE tenant_id = $3 AND user_id = $4`

// updateMember answers PATCH /api/members/{user_id}/.
func (s *Service) updateMember(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	var in struct {
		Role string `json:"role"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	var f fault
	f.role("/role", in.Role)
	if err := f.problem(); err != nil {
		return err
	}
	userID, err := pathUserID(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	var after memberBody
	err = s.change(r, c, guarded(ctx, c.TenantID, func(tx *edit) (*event, error) {
		before, err := memberToChange(ctx, tx, c, userID)
		if err != nil {
			return nil, err
		}
		role, err := assignable(ctx, tx, c, in.Role)
		if err != nil {
			return nil, err
		}
		if after = before; before.Role == role {
			return nil, nil
		}
		if _, err := tx.ExecContext(ctx, setMemberRole, role.ID, tx.NowMS(), c.TenantID, userID); err != nil {
			return nil, fmt.Errorf("set role: %w", err)
		}
		after, err = findMember(ctx, tx, c.TenantID, userID)
		return &event{
			tenantID: c.TenantID, userID: userID, action: "member.updated", target: target("user", userID),
			detail: map[string]string{"from": before.Role.Name, "to": role.Name},
		}, err
	}))
	if err != nil {
		return err
	}
	return server.WriteTagged(w, r, http.StatusOK, after)
}

const deleteMember = `DELETE FROM memberships WHERE tenant_id = $1 AND user_id = $2`

// removeMember answers DELETE /api/members/{user_id}/. The account stays; its
// sessions in this tenant end with their next refresh.
func (s *Service) removeMember(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	userID, err := pathUserID(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	err = s.change(r, c, guarded(ctx, c.TenantID, func(tx *edit) (*event, error) {
		if _, err := memberToChange(ctx, tx, c, userID); err != nil {
			return nil, err
		}
		_, err := tx.ExecContext(ctx, deleteMember, c.TenantID, userID)
		return &event{tenantID: c.TenantID, userID: userID, action: "member.removed", target: target("user", userID)}, err
	}))
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
