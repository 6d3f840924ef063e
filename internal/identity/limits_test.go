package identity_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
)

func TestTenantLimits(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := dbtest.Open(t, url, clock.System{})
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			for _, statement := range []string{
				`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'acme', 1, 1)`,
				`INSERT INTO tenants (id, name, status, seats, allowed_domains, denied_domains, created_at, updated_at)
					VALUES (2, 'globex', 'suspended', 3, 'a.test,b.test', '*.a.test', 1, 1)`,
				`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (20, 2, 'Viewer', 1, 1)`,
				`INSERT INTO users (id, email, email_key, status, created_at, updated_at) VALUES ('a', 'a', 'a', 'active', 1, 1), ('b', 'b', 'b', 'disabled', 1, 1)`,
				`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (2, 'a', 20, 1, 1), (2, 'b', 20, 1, 1)`,
			} {
				_, err := tx.Exec(statement)
				require.NoError(t, err)
			}
			return nil
		}))
		for id, want := range map[int64]identity.TenantLimits{
			1: {Name: "acme", Status: identity.StatusActive},
			2: {Name: "globex", Status: identity.StatusSuspended, Seats: 3, Domains: identity.DomainPolicy{Allowed: "a.test,b.test", Denied: "*.a.test"}},
		} {
			got, err := identity.FindTenantLimits(t.Context(), db.Reader(), id)
			require.NoError(t, err)
			require.Equal(t, want, got)
			n, err := identity.CountMembers(t.Context(), db.Reader(), id)
			require.NoError(t, err)
			require.Equal(t, 2*(id-1), n, "disabled members have a seat too")
		}
		_, err := identity.FindTenantLimits(t.Context(), db.Reader(), 3)
		require.ErrorIs(t, err, identity.ErrNotFound)
	})
}
