package tenant_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/tenant"
)

// TestCWE89NamesAreNotSQL: a name that is SQL is stored as it is.
func TestCWE89NamesAreNotSQL(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		const evil = `Robert'); DROP TABLE tenants;--`
		require.Equal(t, evil, op.call("POST", "/api/tenants/", `{"name":"`+evil+`"}`).text("name"))
		require.EqualValues(t, 3, f.scalar(`SELECT COUNT(*) FROM tenants`))
		for _, path := range []string{"/api/members/' OR '1'='1/", "/api/members/%27%20OR%201=1--/", "/api/roles/1%20OR%201=1/"} {
			op.refuse(404, "not-found", "DELETE", strings.ReplaceAll(path, " ", "%20"), "")
		}
		op.refuse(400, "bad-query", "GET", "/api/roles/?after="+tenant.EncodeCursor("0) OR (1=1"), "")
		a := op.call("GET", "/api/members/?after="+tenant.EncodeCursor("' OR '1'='1"), "")
		require.Equal(t, 200, a.Code)
		for _, email := range a.names("email") {
			require.NotContains(t, email, "globex")
		}
	})
}

// TestCWE113RoleNamesCanNotSplitHeaders: the gateway puts role names into
// X-Roles, separated by commas.
func TestCWE113RoleNamesCanNotSplitHeaders(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		for _, name := range []string{`Viewer,Admin`, `Viewer\r\nX-User-Id: root`, `Viewer\u0000`, `Viewer\u2028Admin`} {
			admin.refuse(422, "invalid-fields", "POST", "/api/roles/", `{"name":"`+name+`"}`)
		}
	})
}

// TestScopeIsTheCallersTenant: whatever a request says of tenants,
// in the body, the query or a doubled header, the scope is X-Tenant-Id.
func TestScopeIsTheCallersTenant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		globex := f.as("admin@globex.test", 2)
		globex.refuse(400, "bad-json", "POST", "/api/roles/", `{"name":"x","tenant_id":1}`)
		a := globex.call("GET", "/api/members/?tenant_id=1", "")
		require.NotContains(t, a.Body.String(), "acme")

		r := globex.request("GET", "/api/members/", "")
		r.Header["X-Tenant-Id"] = []string{"2", "1"}
		r.Header.Set("X-Permission", "tenantgate/members/read")
		require.NotContains(t, f.serve(r).Body.String(), "acme")
		for _, bad := range []string{"", "0", "-1", "x", "1,2", "2 OR 1=1"} {
			r.Header["X-Tenant-Id"] = []string{bad}
			require.Equal(t, http.StatusUnauthorized, f.serve(r).Code, bad)
		}
	})
}

// TestRoleOfAnotherTenantCanNotBeGivenByName: role names are looked up in the
// caller's tenant only (GHSA-vxjw-gv4f-vq58 is the like).
func TestRoleOfAnotherTenantCanNotBeGivenByName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.newRole(1, "Secret")
		f.addUser("bob", "bob@x.test")
		f.as("admin@globex.test", 2).refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"bob","role":"Secret"}`)
	})
}

// TestOperatorsRightIsReadFromTheTable: a role name in a header makes nobody an
// operator.
func TestOperatorsRightIsReadFromTheTable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		globex := f.as("admin@globex.test", 2)
		r := globex.request("POST", fmt.Sprintf("/api/roles/%d/permissions/", f.role(2, "Admin")), `{"product":"tenantgate","feature":"platform","action":"write"}`)
		r.Header.Set("X-Roles", "Admin,operator")
		r.Header.Set("X-Permission", "tenantgate/permissions/write")
		a := f.serve(r)
		require.Equal(t, "403 beyond-own-rights", fmt.Sprint(a.Code, " ", a.text("code")))
	})
}

func FuzzDecodeCursor(f *testing.F) {
	for _, seed := range []string{"", "MQ", "MQ==", "!", tenant.EncodeCursor("0192f0c4-0000-7000-8000-000000000000"), strings.Repeat("QUFB", 200), "MR"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		key, ok := tenant.DecodeCursor(cursor)
		if ok {
			require.Equal(t, cursor, tenant.EncodeCursor(key), "one spelling for each place")
			require.LessOrEqual(t, len(key), 255)
		}
	})
}

func FuzzParseID(f *testing.F) {
	for _, seed := range []string{"1", "0", "-1", "+1", "01", "9223372036854775807", "9223372036854775808", "١"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := tenant.ParseID(text)
		if ok {
			require.Positive(t, id)
			require.Equal(t, text, fmt.Sprint(id))
		}
	})
}

// TestBytesThatNoDatabaseTakes: PostgreSQL takes neither NUL nor what is not
// UTF-8, and would answer with an error of its own.
func TestBytesThatNoDatabaseTakes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		role := grants(f.role(1, "Viewer"))
		for _, bad := range []string{"%00", "a%00b", "%ff", "%ed%a0%80"} {
			for _, c := range [][3]string{
				{"GET", "/api/members/" + bad + "/", ""},
				{"PATCH", "/api/members/" + bad + "/", `{"role":"Viewer"}`},
				{"DELETE", "/api/members/" + bad + "/", ""},
				{"DELETE", role + bad + "/reports/read/", ""},
				{"DELETE", role + "abc/" + bad + "/read/", ""},
				{"DELETE", role + "abc/*/" + bad + "/", ""},
			} {
				op.refuse(404, "not-found", c[0], c[1], c[2])
			}
		}
		op.refuse(400, "bad-query", "GET", "/api/members/?after="+tenant.EncodeCursor("a\x00b"), "")
		op.refuse(400, "bad-query", "GET", "/api/members/?after="+tenant.EncodeCursor("a\xffb"), "")
		for _, c := range [][3]string{
			{"POST", "/api/members/", `{"user_id":"a\u0000","role":"Viewer"}`},
			{"POST", "/api/members/", `{"email":"a\u0000@x.test","role":"Viewer"}`},
			{"POST", "/api/members/", `{"user_id":"a","role":"\u0000"}`},
			{"POST", "/api/tenants/", `{"name":"x","admin_user_id":"\u0000"}`},
			{"POST", "/api/tenants/", `{"name":"\u0000"}`},
			{"POST", role, one("abc/\x00/read")},
			{"PUT", parents(f.role(1, "Viewer")), `{"parents":["\u0000"]}`},
			{"POST", "/api/products/", `{"name":"\u0000"}`},
			{"POST", "/api/permissions/dashboard/", `{"note":"\u0000"}`},
		} {
			op.refuse(422, "invalid-fields", c[0], c[1], strings.ReplaceAll(c[2], `\x00`, `\u0000`))
		}
	})
}
