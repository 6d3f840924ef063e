package tenant

import (
	"context"
	"net/http"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// right is what a grant names, one permission or with "*" many, in a request or
// response.
type right struct {
	Product string `json:"product"`
	Feature string `json:"feature"`
	Action  string `json:"action"`
}

func (g right) String() string { return permission.Pattern(g).String() }

// holdings returns what the table says the caller holds at this moment: the
// gateway's snapshot, and roles in a token even more so, may be older.
func holdings(ctx context.Context, tx *edit, c server.Caller) (rights.Set, error) {
	book, err := rights.Read(ctx, tx, c.TenantID)
	if err != nil {
		return rights.Set{}, err
	}
	return book.Member(ctx, c.UserID)
}

// mayGiveRole returns a 403 problem unless the caller holds every right that a
// role of the book carries.
func mayGiveRole(ctx context.Context, book *rights.Book, c server.Caller, roleID int64) error {
	own, err := book.Member(ctx, c.UserID)
	if err != nil {
		return err
	}
	carried, err := book.Holds(ctx, roleID)
	if err != nil {
		return err
	}
	if missing := own.Lacks(carried); len(missing) > 0 {
		return errBeyondOwn(missing[0])
	}
	return nil
}

// errBeyondOwn is the refusal to hand on what the caller does not hold.
func errBeyondOwn(missing string) error {
	e := problem.New(http.StatusForbidden, "beyond-own-rights", "You can't give a right that you don't hold yourself.")
	e.Extra = map[string]any{"permission": missing}
	return e
}

// guarded wraps a change to a tenant's members or rights: it must not take the
// tenant's last member who may manage members, nor the installation's last who
// may manage the platform. For a change to a tenant itself, which may take all
// its members, tenantID is 0. Rights count that are inherited, or held by a
// wildcard or as the owner.
func guarded(ctx context.Context, tenantID int64, f func(*edit) (*event, error)) func(*edit) (*event, error) {
	return func(tx *edit) (*event, error) {
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
			return nil, errLast(permission.ManageMembers)
		case operated && !stillOperated:
			return nil, errLast(permission.RunInstallation)
		}
		return e, nil
	}
}

// watch reports whether the tenant and the installation have somebody in charge.
func watch(ctx context.Context, tx *edit, tenantID int64) (managed, operated bool, err error) {
	if operated, err = permission.Operated(ctx, tx); err != nil || tenantID == 0 {
		return false, operated, err
	}
	managed, err = permission.Managed(ctx, tx, tenantID)
	return managed, operated, err
}

func errLast(p permission.Permission) error {
	e := problem.New(http.StatusConflict, "last-holder", "Nobody would be left to manage this: give the right to somebody else first.")
	e.Extra = map[string]any{"permission": p.String()}
	return e
}

// errOwnerStays is the refusal to change what the built-in owner holds.
func errOwnerStays(detail string) error { return problem.New(http.StatusConflict, "built-in", detail) }
