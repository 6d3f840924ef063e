package tenant_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWildcards(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		role := grants(f.newRole(1, "Support"))
		all := []string{"*/*/*", "*/*/read", "abc/*/*", "abc/*/read", "abc/reports/*", "abc/reports/read"}
		for i, right := range all {
			a := op.changed(200, "role.permissions_changed", 1, "POST", role, one(right))
			require.Equal(t, all[:i+1], a.rights())
			require.Equal(t, 200, op.call("POST", role, one(right)).Code, "twice is fine")
		}
		require.Equal(t, all, op.call("GET", role, "").rights())
		require.EqualValues(t, len(all)-1, f.scalar(`SELECT COUNT(*) FROM role_wildcards`))

		// None takes another one along.
		for i, path := range []string{"*/*/*/", "%2A/%2a/read/", "abc/*/*/", "abc/%2A/read/", "abc/reports/*/", "abc/reports/read/"} {
			op.changed(204, "role.permissions_changed", 1, "DELETE", role+path, "")
			require.Equal(t, all[i+1:], op.call("GET", role, "").rights())
			op.refuse(404, "not-found", "DELETE", role+path, "")
		}
		a := op.changed(200, "role.permissions_changed", 1, "PUT", role, set("abc/*/read", "*/*/delete", "abc/*/read"))
		require.Equal(t, []string{"*/*/delete", "abc/*/read"}, a.rights())
		a = op.changed(200, "role.permissions_changed", 1, "PUT", role, set("abc/*/read", "abc/*/write"))
		require.Equal(t, []string{"abc/*/read", "abc/*/write"}, a.rights())
		a = op.changed(200, "role.permissions_changed", 1, "POST", "/api/tenants/1/permissions/", `{"role":"Support","permissions":[`+one("*/*/*")+`]}`)
		require.Equal(t, []string{"*/*/*", "abc/*/read", "abc/*/write"}, a.rights())
	})
}

func TestWildcardsThatNameNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		role := grants(f.newRole(1, "Support"))
		for right, code := range map[string]string{
			"*/reports/read":        "invalid",
			"*/reports/*":           "invalid",
			"tenantgate/platform/*": "invalid",
			"abc/re*/read":          "invalid",
			"ABC/*/*":               "invalid",
			"**/*/*":                "invalid",
			"//":                    "required",
			"xyz/*/*":               "unknown",
			"xyz/*/read":            "unknown",
			"abc/nothing/*":         "unknown",
			"abc/*/fly":             "unknown",
			"*/*/fly":               "unknown",
			"abc/reports/fly":       "unknown",
		} {
			a := op.refuse(422, "invalid-fields", "PUT", role, set("abc/reports/read", right))
			field := a.body["errors"].([]any)[0].(map[string]any)
			require.Equal(t, "/permissions/1 "+code, fmt.Sprint(field["pointer"], " ", field["code"]), right)
			require.NotEmpty(t, field["detail"])
			op.refuse(422, "invalid-fields", "POST", role, one(right))
		}
		// Actions that some feature has are known where that feature is meant.
		op.call("POST", "/api/products/", `{"name":"crm"}`)
		op.changed(200, "role.permissions_changed", 1, "POST", role, one("crm/*/read"))
		op.changed(201, "feature.created", 0, "POST", fmt.Sprintf("/api/products/%d/features/", f.product("crm")), `{"name":"leads","actions":["export"]}`)
		op.changed(200, "role.permissions_changed", 1, "POST", role, one("crm/*/export"))
		op.changed(200, "role.permissions_changed", 1, "POST", role, one("*/*/export"))
		op.refuse(422, "invalid-fields", "POST", role, one("abc/*/export"))
		op.changed(204, "product.deleted", 0, "DELETE", fmt.Sprintf("/api/products/%d/", f.product("crm")), "")
		require.Equal(t, []string{"*/*/export"}, op.call("GET", role, "").rights(), "wildcards go with their product")
	})
}

func TestAWildcardNeedsOneThatCoversIt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		role := grants(f.newRole(2, "Empty"))
		may := map[string][]string{
			"abc/*/read": {"abc/*/read", "abc/reports/read"},
			"abc/*/*":    {"abc/*/*", "abc/*/read", "abc/reports/*", "abc/reports/read", "abc/reports/delete"},
			"*/*/read":   {"*/*/read", "abc/*/read", "abc/reports/read", "tenantgate/*/read", "tenantgate/members/read"},
			"*/*/*": {
				"*/*/*", "*/*/read", "abc/*/*", "abc/*/read", "abc/reports/*", "abc/reports/read", "abc/reports/delete",
				"tenantgate/*/read", "tenantgate/members/read",
			},
			"abc/reports/*": {"abc/reports/*", "abc/reports/read", "abc/reports/delete"},
			// All actions that there are today are less than all actions.
			"abc/reports/read abc/reports/write abc/reports/delete": {"abc/reports/read", "abc/reports/delete"},
			"abc/*/read abc/*/write abc/*/delete":                   {"abc/*/read", "abc/reports/read", "abc/reports/delete"},
		}
		i := 0
		for holds, gives := range may {
			i++
			id := fmt.Sprintf("giver%d", i)
			f.addMember(id, 2, f.newRole(2, id, strings.Fields(holds)...))
			for _, right := range []string{
				"*/*/*", "*/*/read", "abc/*/*", "abc/*/read", "abc/reports/*", "abc/reports/read", "abc/reports/delete", "tenantgate/*/read",
				"tenantgate/members/read", "tenantgate/platform/read",
			} {
				giver := caller{f, id, 2}
				if !slices.Contains(gives, right) {
					a := giver.refuse(403, "beyond-own-rights", "POST", role, one(right))
					require.Equal(t, right, a.text("permission"), holds)
					continue
				}
				giver.changed(200, "role.permissions_changed", 2, "POST", role, one(right))
				f.exec(`DELETE FROM role_wildcards WHERE role_id = $1`, f.role(2, "Empty"))
				f.exec(`DELETE FROM role_feature_permissions WHERE role_id = $1`, f.role(2, "Empty"))
			}
		}
	})
}
