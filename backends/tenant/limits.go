package tenant

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// maxSeats is the most seats that a tenant can be given.
const maxSeats = 1_000_000

// seats is how many members a tenant may have, 0 for any number, which JSON
// shows as null and the database keeps as NULL.
type seats int64

// MarshalJSON implements json.Marshaler.
func (n seats) MarshalJSON() ([]byte, error) {
	if n == 0 {
		return []byte("null"), nil
	}
	return strconv.AppendInt(nil, int64(n), 10), nil
}

func (n seats) column() sql.NullInt64 { return sql.NullInt64{Int64: int64(n), Valid: n != 0} }

// seats returns the seats that a field gives, 0 for null and for a field that
// is not given.
func (f *fault) seats(pointer string, field json.RawMessage) seats {
	if field == nil || string(field) == "null" {
		return 0
	}
	n, err := strconv.ParseInt(string(field), 10, 64)
	if err != nil || n < 1 || n > maxSeats {
		f.add(pointer, "invalid", fmt.Sprintf("Give a whole number from 1 to %d, or null for any number of members.", maxSeats))
	}
	return seats(n)
}

// domainLists is a tenant's domains in a request. A list that is not given is empty.
type domainLists struct {
	Allowed []string `json:"allowed"`
	Denied  []string `json:"denied"`
}

// domains returns the domains that a field gives.
func (f *fault) domains(pointer string, list []string) identity.Domains {
	d, err := identity.ParseDomains(list)
	var wrong *identity.DomainsError
	switch {
	case errors.Is(err, identity.ErrTooManyDomains):
		f.add(pointer, "too-many", fmt.Sprintf("Give at most %d domains: *.example.com stands for all below example.com.", identity.MaxDomains))
	case errors.As(err, &wrong):
		for _, i := range wrong.Bad {
			f.add(pointer+"/"+strconv.Itoa(i), "invalid", "Give a domain such as example.com, or *.example.com for all below it.")
		}
	}
	return d
}

// admit makes a user a member of a tenant, as far as the tenant's limits let it.
// pointer is the field that names the user. The transaction has the lock of the
// permission table, so that no other takes the last seat beside it.
func admit(ctx context.Context, tx *edit, tenantID int64, user identity.User, pointer string, roleID int64) error {
	limits, err := identity.FindTenantLimits(ctx, tx, tenantID)
	if err != nil {
		return found(err)
	}
	if !limits.Domains.Permits(user.EmailKey) {
		return server.Invalid(problem.Field{
			Pointer: pointer, Code: "domain-not-allowed",
			Detail: "This tenant takes nobody with an address of this domain: give another account, or change the tenant's invitation_domains.",
		})
	}
	// Somebody who is a member already is told so, not that all seats are taken.
	if err := identity.InsertMembership(ctx, tx.Tx, tenantID, user.ID, roleID); err != nil || limits.Seats == 0 {
		return err
	}
	members, err := identity.CountMembers(ctx, tx, tenantID)
	if err == nil && members > limits.Seats {
		return errSeatsFull(limits.Seats)
	}
	return err
}

func errSeatsFull(seats int64) error {
	e := problem.New(http.StatusConflict, "seats-full", "All seats of this tenant are taken: remove a member, or ask who runs the installation for more.")
	e.Extra = map[string]any{"seats": seats}
	return e
}
