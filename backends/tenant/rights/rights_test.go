package rights_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/backends/tenant/rights"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// The products and features of the tests. Ids are written out, from 1.
var features = []struct{ product, name string }{
	{"abc", "reports"}, {"abc", "billing"}, {"crm", "leads"}, {"tenantgate", "members"}, {"tenantgate", "platform"},
}

var actions = []string{"read", "write", "delete"}

// open returns a database with a catalogue, the tenants 1 and 2, and in tenant 1
// the role 1, the owner, and the roles 2 to 6, called R2 to R6. Role 7 is the
// other tenant's. Each role has a member, u1 to u7.
func open(t *testing.T, url string) *database.DB {
	t.Helper()
	db := dbtest.Open(t, url, clock.NewFake(time.UnixMilli(1)))
	change(t, db,
		`INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'one', 1, 1), (2, 'two', 1, 1)`,
		`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 1, 1), (2, 'crm', 1, 1), (3, 'tenantgate', 1, 1)`,
		`INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at) VALUES (1, 1, 'Owner', 'owner', 1, 1), (2, 1, 'R2', 'custom', 1, 1),
			(3, 1, 'R3', 'custom', 1, 1), (4, 1, 'R4', 'custom', 1, 1), (5, 1, 'R5', 'custom', 1, 1), (6, 1, 'R6', 'custom', 1, 1), (7, 2, 'R7', 'custom', 1, 1)`,
	)
	for i, f := range features {
		change(t, db, fmt.Sprintf(`INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (%d, (SELECT id FROM products WHERE name = '%s'), '%s', 1, 1)`, i+1, f.product, f.name))
	}
	for i := range 7 {
		change(t, db,
			fmt.Sprintf(`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('u%[1]d', '%[1]d', '%[1]d', 1, 1)`, i+1),
			fmt.Sprintf(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (%d, 'u%[2]d', %[2]d, 1, 1)`, 1+i/6, i+1))
	}
	return db
}

// change runs statements in one transaction.
func change(t require.TestingT, db *database.DB, statements ...string) {
	require.NoError(t, db.InTx(context.Background(), func(tx *database.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return permission.TouchCatalogue(context.Background(), tx)
	}))
}

// grant is the statement that gives a role what a pattern names.
func grant(roleID int, pattern string) string {
	part := strings.Split(pattern, "/")
	product := fmt.Sprintf(`(SELECT id FROM products WHERE name = '%s')`, part[0])
	feature := fmt.Sprintf(`(SELECT f.id FROM features f JOIN products p ON p.id = f.product_id WHERE p.name = '%s' AND f.name = '%s')`, part[0], part[1])
	if strings.Contains(pattern, "*") {
		return fmt.Sprintf(`INSERT INTO role_wildcards (role_id, product_id, feature_id, action) VALUES (%d, %s, %s, NULLIF('%s', '*')) ON CONFLICT DO NOTHING`,
			roleID, product, feature, part[2])
	}
	return fmt.Sprintf(`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (%d, %s, '%s') ON CONFLICT DO NOTHING`, roleID, feature, part[2])
}

func inherit(roleID, parentID int) string {
	return fmt.Sprintf(`INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (1, %d, %d) ON CONFLICT DO NOTHING`, roleID, parentID)
}

func read(t require.TestingT, db *database.DB, tenantID int64) *rights.Book {
	book, err := rights.Read(context.Background(), db.Reader(), tenantID)
	require.NoError(t, err)
	return book
}

func TestBook(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		change(t, db, inherit(2, 3), inherit(3, 4), inherit(3, 5), inherit(2, 5), inherit(4, 6), inherit(5, 6),
			grant(2, "abc/reports/write"), grant(2, "abc/*/read"), grant(2, "*/*/delete"), grant(6, "crm/leads/*"), grant(5, "crm/leads/read"), grant(7, "*/*/*"))
		book := read(t, db, 1)

		require.Equal(t, "R2", book.Role(2).Name)
		require.True(t, book.Role(1).Owner)
		require.False(t, book.Role(2).Owner)
		require.Nil(t, book.Role(7), "another tenant's")
		require.Equal(t, int64(3), book.ByName("R3").ID)
		require.Nil(t, book.ByName("R7"))
		require.Equal(t, []string{"R2", "R3"}, book.Heirs(5))
		require.Empty(t, book.Heirs(2))

		var names []string
		for _, r := range book.Lineage(2) {
			names = append(names, r.Name)
		}
		require.Equal(t, []string{"R2", "R3", "R5", "R4", "R6"}, names)
		require.Empty(t, book.Lineage(7))
		require.Equal(t, []string{"R2", "R5", "R6"}, book.Path(2, 6))
		require.Equal(t, []string{"R2"}, book.Path(2, 2))
		require.Nil(t, book.Path(6, 2))
		require.Nil(t, book.Path(7, 7))

		own, err := book.Own(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, "[*/*/delete abc/*/read abc/reports/write]", fmt.Sprint(own))
		own, err = book.Own(t.Context(), 7)
		require.NoError(t, err)
		require.Empty(t, own)
		held, err := book.Effective(t.Context(), 2)
		require.NoError(t, err)
		var all []string
		for _, h := range held {
			all = append(all, h.String()+" "+h.From.Name)
		}
		require.Equal(t, []string{"*/*/delete R2", "abc/*/read R2", "abc/reports/write R2", "crm/leads/* R6", "crm/leads/read R5"}, all)

		nobody, err := book.Member(t.Context(), "u7")
		require.NoError(t, err)
		require.False(t, nobody.MayGive(permission.Pattern{Product: "abc", Feature: "reports", Action: "read"}), "a member of another tenant")
	})
}

// TestCyclesWrittenByHandEnd: nothing loops, and all on the circle hold the same.
func TestCyclesWrittenByHandEnd(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		change(t, db, inherit(2, 3), inherit(3, 4), inherit(4, 2), inherit(5, 4), grant(3, "abc/reports/read"))
		book := read(t, db, 1)
		require.Len(t, book.Lineage(2), 3)
		require.Equal(t, []string{"R4", "R2", "R3"}, book.Path(4, 3))
		var names []string
		for id := range int64(7) {
			set, err := book.Holds(t.Context(), id)
			require.NoError(t, err)
			if set.MayGive(permission.Pattern{Product: "abc", Feature: "reports", Action: "read"}) {
				names = append(names, book.Role(id).Name)
			}
		}
		require.Equal(t, []string{"Owner", "R2", "R3", "R4", "R5"}, names)
	})
}

func TestLacks(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		change(t, db, grant(2, "abc/*/read"), grant(2, "abc/billing/write"), inherit(3, 2), grant(3, "crm/leads/read"),
			grant(4, "*/*/*"), grant(5, "tenantgate/platform/write"), grant(6, "tenantgate/platform/read"))
		book := read(t, db, 1)
		sets := map[int64]rights.Set{}
		for id := range int64(7) {
			var err error
			sets[id], err = book.Holds(t.Context(), id)
			require.NoError(t, err)
		}
		for _, tt := range []struct {
			giver, given int64
			missing      []string
		}{
			{2, 2, nil},
			{2, 3, []string{"crm/leads/read"}},
			{3, 2, nil},
			{4, 3, nil},
			{3, 4, []string{"*/*/*"}},
			{4, 1, []string{"owner"}}, // as much is not the same
			{3, 1, []string{"*/*/*", "owner"}},
			{1, 1, nil},
			{1, 4, nil},
			{1, 5, []string{"tenantgate/platform/write"}},
			{4, 6, []string{"tenantgate/platform/read"}},
			{6, 6, nil},
			{6, 5, []string{"tenantgate/platform/write"}},
			{5, 1, nil}, // an operator
			{5, 6, nil},
			{0, 2, []string{"abc/*/read", "abc/billing/write"}}, // no such role
			{0, 0, nil},
		} {
			require.Equal(t, tt.missing, sets[tt.giver].Lacks(sets[tt.given]), "%d gives %d", tt.giver, tt.given)
		}
		require.Equal(t, []string{"*/*/*", "owner"}, rights.Set{}.Lacks(sets[1]), "nobody gives nothing")
	})
}

// TestBookAndGatewaysAgreeProperty: what a set may give is what a gateway's
// snapshot lets the member do, whatever the roles are. Operators alone may give
// more than they may do.
func TestBookAndGatewaysAgreeProperty(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		var patterns []string
		for _, p := range []string{"abc", "crm", "tenantgate", "*"} {
			for _, action := range append(actions, "*") {
				patterns = append(patterns, p+"/*/"+action)
			}
		}
		for _, f := range features {
			for _, action := range append(actions, "*") {
				patterns = append(patterns, f.product+"/"+f.name+"/"+action)
			}
		}
		rapid.Check(t, func(rt *rapid.T) {
			statements := []string{`DELETE FROM role_parents`, `DELETE FROM role_wildcards`, `DELETE FROM role_feature_permissions`}
			for range rapid.IntRange(0, 8).Draw(rt, "grants") {
				statements = append(statements, grant(rapid.IntRange(2, 6).Draw(rt, "role"), rapid.SampledFrom(patterns).Draw(rt, "pattern")))
			}
			for range rapid.IntRange(0, 6).Draw(rt, "parents") {
				child := rapid.IntRange(2, 5).Draw(rt, "child") // a parent has a higher number: no cycles
				statements = append(statements, inherit(child, rapid.IntRange(child+1, 6).Draw(rt, "parent")))
			}
			change(rt, db, statements...)
			snapshot, err := permission.Load(t.Context(), db, nil)
			require.NoError(rt, err)
			agree(t.Context(), rt, read(rt, db, 1), snapshot)
		})
	})
}

// agree compares the members of tenant 1.
func agree(ctx context.Context, rt *rapid.T, book *rights.Book, snapshot *permission.Snapshot) {
	platform := permission.Pattern{Product: "tenantgate", Feature: "platform", Action: "write"}
	for i := range 6 {
		user := fmt.Sprintf("u%d", i+1)
		set, err := book.Member(ctx, user)
		require.NoError(rt, err)
		_, may, _ := snapshot.PermissionsOf("1", user)
		operator := slices.Contains(may, permission.Permission(platform))
		require.Equal(rt, operator, set.MayGive(platform), user)
		for _, f := range features {
			for _, action := range actions {
				p := permission.Permission{Product: f.product, Feature: f.name, Action: action}
				require.Equal(rt, operator || slices.Contains(may, p), set.MayGive(permission.Pattern(p)), "%s %s", user, p)
			}
		}
	}
}
