// Package identity knows who a request speaks for: principals from verified
// tokens, and the users, memberships and audit rows behind them.
package identity

import (
	"sync/atomic"
	"time"
)

// Principal is who a verified token speaks for. It is immutable once made, so
// requests may share one.
type Principal struct {
	// UserID is the token's subject, at most 255 bytes, without control characters.
	UserID string
	// TenantID is the tenant the token was issued for, empty if it names none.
	TenantID string
	// Roles are the role names the token claims, in the token's order.
	Roles []string
	// Issuer is the exact "iss" claim.
	Issuer string
	// TokenID is the "jti" claim, empty if there is none.
	TokenID string
	// ExpiresAt is the "exp" claim.
	ExpiresAt time.Time
	// Seat makes repeated decisions on the principal faster; nil is allowed.
	// Copies of a principal, also with another user or tenant, may share it.
	Seat *Seat
}

// Seat is where the permission table notes what it last found for a principal
// (see permission.Snapshot.DecideFor). It is safe for concurrent use; a nil Seat
// notes nothing.
type Seat struct{ last atomic.Pointer[Seating] }

// Seating is what a [Seat] notes: the role of a user in a tenant. It names both
// and is never believed for others, nor once the tenant has another seal. It is
// immutable.
type Seating struct {
	UserID, TenantID string
	// Seal is the tenant's, Slot where a snapshot of the permission table has
	// the tenant, Role the number of the user's role in it.
	Seal *Seal
	Slot int
	Role uint32
}

// Seal stands for a tenant's part of the permission table at one time. Each is
// another as long as anybody has it, and keeps nothing in memory but itself.
type Seal struct{ _ byte }

// Last returns what was noted last, nil if nothing was.
func (s *Seat) Last() *Seating {
	if s == nil {
		return nil
	}
	return s.last.Load()
}

// Note keeps a seating in place of the last one.
func (s *Seat) Note(n *Seating) {
	if s != nil {
		s.last.Store(n)
	}
}
