package identity_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
)

func TestEmailKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Ann@Example.COM":                        "ann@example.com",
		"ann+tag@example.com":                    "ann+tag@example.com",
		"o'hara@example.com":                     "o'hara@example.com",
		"a.b@sub.example.com":                    "a.b@sub.example.com",
		"ann@Bücher.example":                     "ann@xn--bcher-kva.example",
		strings.Repeat("a", 64) + "@ex.com":      strings.Repeat("a", 64) + "@ex.com",
		"":                                       "",
		"ann":                                    "",
		"@example.com":                           "",
		"ann@":                                   "",
		"Ann <ann@example.com>":                  "",
		" ann@example.com":                       "",
		"ann@example.com ":                       "",
		"ann@example.com (work)":                 "",
		"\"ann smith\"@example.com":              "",
		"ann..b@example.com":                     "",
		"ann@localhost":                          "",
		"ann@[127.0.0.1]":                        "",
		"ann@127.0.0.1":                          "",
		"ann@b_c.co":                             "",
		"ann@-b.co":                              "",
		"ann@example.com.":                       "",
		"ann@example\u3002\u3002com":             "",
		"ann@\u3002example.com":                  "",
		"ann@example.com\r\nBcc: x@evil.test":    "",
		"a@b.co,c@d.co":                          "",
		"änn@example.com":                        "",
		"ann\u200b@example.com":                  "",
		strings.Repeat("a", 65) + "@example.com": "",
		"a@" + strings.Repeat("b.", 130) + "com": "",
	} {
		got, err := identity.EmailKey(in)
		if want == "" {
			require.ErrorIs(t, err, identity.ErrEmail, in)
		} else {
			require.NoError(t, err, in)
		}
		require.Equal(t, want, got, in)
	}
}

func FuzzEmailKey(f *testing.F) {
	for _, seed := range []string{"Ann@Example.COM", "a@b.co", "a@bücher.de", "<a@b.co>", "a@[::1]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		key, err := identity.EmailKey(address)
		if err != nil {
			return
		}
		again, err := identity.EmailKey(key)
		require.NoError(t, err, "the key of %q is an address itself", address)
		require.Equal(t, key, again)
		require.Equal(t, 1, strings.Count(key, "@"))
		for i := range len(key) {
			require.True(t, key[i] > ' ' && key[i] < 0x7f, "%q", key)
		}
	})
}

// TestKelvinSignIsNotK is CVE-2019-19844: a password reset for K (U+212A) must
// never reach the account of k.
func TestKelvinSignIsNotK(t *testing.T) {
	t.Parallel()
	_, err := identity.EmailKey("mi\u212ae@example.org")
	require.ErrorIs(t, err, identity.ErrEmail)
}

func TestUsersAndMemberships(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := dbtest.Open(t, url, clock.System{})
		ctx := t.Context()

		user := identity.User{ID: identity.NewID(), Email: "Ann@x.test", EmailKey: "ann@x.test", Name: "Ann", PasswordHash: "$argon2id$x", Status: identity.StatusActive}
		require.NoError(t, db.InTx(ctx, func(tx *database.Tx) error {
			_, err := tx.Exec(`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'acme', 1, 1), (2, 'globex', 1, 1)`)
			require.NoError(t, err)
			_, err = tx.Exec(`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (10, 1, 'Admin', 1, 1), (20, 2, 'Viewer', 1, 1)`)
			require.NoError(t, err)
			require.NoError(t, identity.InsertUser(ctx, tx, user))
			require.NoError(t, identity.InsertMembership(ctx, tx, 2, user.ID, 20))
			require.NoError(t, identity.InsertMembership(ctx, tx, 1, user.ID, 10))
			return identity.RecordAudit(ctx, tx, identity.AuditEvent{TenantID: 1, ActorID: user.ID, Action: "user.created", Target: "user/" + user.ID, Detail: map[string]int{"n": 1}})
		}))
		require.NoError(t, db.InTx(ctx, func(tx *database.Tx) error {
			require.NoError(t, identity.RecordAudit(ctx, tx, identity.AuditEvent{ActorID: "system", Action: "x", Target: "y"}))
			return identity.RecordAudit(ctx, tx, identity.AuditEvent{TenantID: 1 << 40, ActorID: "system", Action: "x", Target: "z"})
		}))
		var audited string
		require.NoError(t, db.Reader().QueryRow(`SELECT a.target || ' ' || b.tenant_id FROM audit_events a, audit_events b WHERE a.tenant_id IS NULL AND b.target = 'z'`).Scan(&audited))
		require.Equal(t, "y 1099511627776", audited)

		got, err := identity.FindUserByEmailKey(ctx, db.Reader(), "ann@x.test")
		require.NoError(t, err)
		require.Equal(t, user, got)
		_, err = identity.FindUser(ctx, db.Reader(), "nobody")
		require.ErrorIs(t, err, identity.ErrNotFound)

		memberships, err := identity.Memberships(ctx, db.Reader(), user.ID)
		require.NoError(t, err)
		require.Equal(t, []identity.Membership{
			{TenantID: 1, TenantName: "acme", TenantStatus: "active", RoleID: 10, RoleName: "Admin"},
			{TenantID: 2, TenantName: "globex", TenantStatus: "active", RoleID: 20, RoleName: "Viewer"},
		}, memberships)

		for name, insert := range map[string]func(tx *database.Tx) error{
			"the same address": func(tx *database.Tx) error {
				return identity.InsertUser(ctx, tx, identity.User{ID: "other", Email: "ann@x.test", EmailKey: "ann@x.test", Status: "active"})
			},
			"a second membership": func(tx *database.Tx) error { return identity.InsertMembership(ctx, tx, 1, user.ID, 10) },
			"a role of another tenant": func(tx *database.Tx) error {
				require.NoError(t, identity.InsertUser(ctx, tx, identity.User{ID: "bob", Email: "b@x.test", EmailKey: "b@x.test", Status: "active"}))
				return identity.InsertMembership(ctx, tx, 1, "bob", 20)
			},
		} {
			require.ErrorIs(t, db.InTx(ctx, insert), database.ErrConflict, name)
		}
	})
}
