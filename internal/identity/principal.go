// Package identity knows who a request speaks for: principals from verified
// tokens, and the users, memberships and audit rows behind them.
package identity

import "time"

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
}
