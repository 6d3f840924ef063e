package identity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// TenantLimits is what a tenant may do.
type TenantLimits struct {
	Name, Status string
	// Seats is how many members the tenant may have, 0 for any number.
	Seats int64
	// Domains is whom it invites.
	Domains DomainPolicy
}

// FindTenantLimits returns the limits of a tenant, or [ErrNotFound].
func FindTenantLimits(ctx context.Context, q Queryer, tenantID int64) (TenantLimits, error) {
	var l TenantLimits
	err := q.QueryRowContext(ctx, `SELECT name, status, COALESCE(seats, 0), allowed_domains, denied_domains FROM tenants WHERE id = $1`, tenantID).
		Scan(&l.Name, &l.Status, &l.Seats, &l.Domains.Allowed, &l.Domains.Denied)
	if errors.Is(err, sql.ErrNoRows) {
		return TenantLimits{}, ErrNotFound
	}
	if err != nil {
		return TenantLimits{}, fmt.Errorf("read tenant: %w", err)
	}
	return l, nil
}

// CountMembers returns how many members a tenant has, disabled ones too. Whoever
// decides on the last seat by it takes permission.Lock before.
func CountMembers(ctx context.Context, q Queryer, tenantID int64) (int64, error) {
	var n int64
	if err := q.QueryRowContext(ctx, `SELECT COUNT(*) FROM memberships WHERE tenant_id = $1`, tenantID).Scan(&n); err != nil {
		return 0, fmt.Errorf("count members: %w", err)
	}
	return n, nil
}
