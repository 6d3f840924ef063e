package seed_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func installation() seed.Installation {
	return seed.Installation{Tenant: "Nordwind AG", Email: "Ann@Example.com", Name: "Ann", Password: "nine quiet otters swim"}
}

func TestBootstrapMakesAnAdminWhoMayDoEverythingAndNothingElse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		made, err := seed.Bootstrap(t.Context(), db, &counter{}, installation())
		require.NoError(t, err)
		require.Equal(t, seed.Bootstrapped{TenantID: 1, Tenant: "Nordwind AG", UserID: made.UserID, Email: "Ann@Example.com", Role: "Admin"}, made)

		require.Equal(t, []string{"Nordwind AG|Admin|Ann@Example.com|ann@example.com|Ann|x|active"}, lines(t, db,
			`SELECT t.name || '|' || r.name || '|' || u.email || '|' || u.email_key || '|' || u.name || '|' || u.password_hash || '|' || u.status
			FROM memberships m JOIN tenants t ON t.id = m.tenant_id JOIN roles r ON r.id = m.role_id JOIN users u ON u.id = m.user_id`))
		var want []string
		for _, feature := range []string{"members", "permissions", "platform", "roles", "tenant"} {
			for _, action := range []string{"delete", "read", "write"} {
				want = append(want, "tenantgate/"+feature+"/"+action)
			}
		}
		require.Equal(t, want, lines(t, db, `SELECT p.name || '/' || f.name || '/' || g.action FROM role_feature_permissions g
			JOIN features f ON f.id = g.feature_id JOIN products p ON p.id = f.product_id ORDER BY 1`))
		require.Equal(t, []string{"tenantgate"}, lines(t, db, `SELECT name FROM products`), "no demo product")
		require.Equal(t, 1, scalar(t, db, `SELECT COUNT(*) FROM permission_changes`), "gateways are told")
		require.Equal(t, 1, scalar(t, db, `SELECT COUNT(*) FROM audit_events WHERE action = 'tenant.created' AND tenant_id = 1`))
	})
}

func TestBootstrapTakesAPreparedCatalogue(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO products (name, created_at, updated_at) VALUES ('tenantgate', 1, 1), ('shop', 1, 1)`)
			return err
		}))
		_, err := seed.Bootstrap(t.Context(), db, &counter{}, installation())
		require.NoError(t, err)
		require.Equal(t, 2, scalar(t, db, `SELECT COUNT(*) FROM products`))
		require.Equal(t, 15, scalar(t, db, `SELECT COUNT(*) FROM role_feature_permissions`))
	})
}

func TestBootstrapRefusesAndChangesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(*seed.Installation)
		message string
	}{
		"a tenant without a name":        {func(in *seed.Installation) { in.Tenant = "" }, `tenant "": This field is required.`},
		"a tenant that looks like an id": {func(in *seed.Installation) { in.Tenant = "42" }, `tenant "42": Use more than digits`},
		"an address that is none":        {func(in *seed.Installation) { in.Email = "ann" }, `e-mail "ann": give an address`},
		"a name of two lines":            {func(in *seed.Installation) { in.Name = "a\nb" }, `name "a\nb": use one line`},
		"a short password":               {func(in *seed.Installation) { in.Password = "otters" }, "password: Use at least 15 characters"},
		"the tenant's name as password":  {func(in *seed.Installation) { in.Password = "Nordwind AG ann!" }, "password: Do not build"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, in := dbtest.Open(t, dbtest.SQLite(t), clock.System{}), installation()
			test.change(&in)
			_, err := seed.Bootstrap(t.Context(), db, &counter{}, in)
			require.ErrorContains(t, err, test.message)
			if in.Password != "" {
				require.NotContains(t, err.Error(), in.Password.Reveal())
			}
			require.Zero(t, scalar(t, db, `SELECT (SELECT COUNT(*) FROM tenants) + (SELECT COUNT(*) FROM users) + (SELECT COUNT(*) FROM products)`))
		})
	}
}

func TestBootstrapNamesAnAddressThatIsTaken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('u', 'x', 'ann@example.com', 1, 1)`)
			return err
		}))
		_, err := seed.Bootstrap(t.Context(), db, &counter{}, installation())
		require.ErrorContains(t, err, "Ann@Example.com has an account already")
		require.Zero(t, scalar(t, db, `SELECT (SELECT COUNT(*) FROM tenants) + (SELECT COUNT(*) FROM products)`))
	})
}

func TestBootstrapRefusesAStoreWithATenant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		hasher := &counter{}
		require.NoError(t, seed.Demo(t.Context(), db, hasher))
		hashed := hasher.n
		_, err := seed.Bootstrap(t.Context(), db, hasher, installation())
		require.ErrorIs(t, err, seed.ErrNotEmpty)
		require.Equal(t, hashed, hasher.n, "nothing is hashed in vain")
	})
}

func TestOfTwoAtOnceOneWins(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database.DB) {
		errs := make([]error, 8)
		added := make([]bool, len(errs))
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				if i%2 == 0 {
					in := installation()
					in.Email = strings.Repeat("a", i+1) + "@example.com"
					_, errs[i] = seed.Bootstrap(t.Context(), db, &counter{}, in)
					added[i] = errs[i] == nil
					return
				}
				added[i], errs[i] = seed.AddDemo(t.Context(), db, &counter{})
			})
		}
		all.Wait()
		winners := 0
		for i, err := range errs {
			if added[i] {
				winners++
			}
			if err != nil {
				require.ErrorIs(t, err, seed.ErrNotEmpty)
			}
		}
		require.Equal(t, 1, winners)
		require.Contains(t, []int{1, 2}, scalar(t, db, `SELECT COUNT(*) FROM tenants`))
	})
}
