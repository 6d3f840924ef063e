package permission_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	core "github.com/tenantgate/tenantgate/internal/permission"
)

// CWE-22, GHSA-qrp7-cvwr-j2c6, oathkeeper CVE-2026-33494: the gateway decides
// about one path and the backend serves another.
func TestCVE_2026_33494_PathsThatReadInTwoWaysAreRefused(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	for _, target := range []string{
		"//admin", "/a//b", "/a/../admin", "/a/..", "/./a", "/a/%2e%2e/admin", "/a/%2E./admin", "/a%2fadmin", "/a%2Fadmin", "/a%5cadmin", `/a\admin`,
		"/admin;a=b/x", "/admin%3bx", "/admin%00/x", "/admin%0d%0aX:1", "/a%252e%252e/admin", "/a%zz", "/a%ff", "*", "http://host/admin", "admin", "",
	} {
		r := request("GET", "/", user("ann", "1"))
		r.RequestURI = target
		if target == "" {
			r.URL.Path = ""
		}
		o := serve(t, h, r)
		require.Equal(t, http.StatusBadRequest, o.status, target)
		require.Equal(t, "bad-request-target", o.code(), target)
	}
}

// RFC 9110 section 9.1: methods are case-sensitive. A backend that folds case
// would take "get" or "Post" for another action than was checked.
func TestRFC9110_MethodsAreTakenAsTheyAre(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	for _, method := range []string{"get", "Post", "dELETE", "TRACE", "CONNECT", "PROPFIND", "FOO", "", "GET "} {
		o := serve(t, h, request(method, "/", user("ann", "1")))
		require.Equal(t, http.StatusMethodNotAllowed, o.status, method)
		require.Equal(t, "method-not-allowed", o.code())
		require.Equal(t, "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE", o.header.Get("Allow"))
	}
}

// CWE-650: a method in a header must not make a write look like a read.
func TestCWE650_MethodOverridesDoNotCount(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	for _, name := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-HTTP-METHOD-OVERRIDE"} {
		o := serve(t, h, request("DELETE", "/?_method=GET", user("vic", "1"), name, "GET"))
		require.Equal(t, http.StatusForbidden, o.status, name)
		require.Equal(t, "abc/dashboard/delete", o.problem.Extra["permission"])
	}
}

// GHSA-7r4p-vjf4-gxv4, GHSA-f59h-q822-g45g: a client's X-Permission never
// reaches the backend, in no spelling.
func TestGHSA_f59h_q822_g45g_TheClientsPermissionIsDeleted(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	o := serve(t, h, request("GET", "/", user("vic", "1"),
		"X-Permission", "abc/dashboard/delete", "x-permission", "a", "X_Permission", "b", "X.Permission", "c", "X-PERMISSION", "d"))
	require.Equal(t, 200, o.status)
	for name, values := range o.upstream {
		if name == "X-Permission" {
			require.Equal(t, []string{"abc/dashboard/read"}, values)
			continue
		}
		require.NotContains(t, []string{"x-permission", "X_Permission", "X.Permission", "X-PERMISSION"}, name)
	}
}

// CVE-2022-31813: a Connection option must not make the proxy drop what we set.
func TestCVE_2022_31813_ConnectionCannotRemoveThePermission(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	o := serve(t, dashboard(table), request("GET", "/", user("vic", "1"), "Connection", "close, X-Permission, X-Tenant-Id"))
	require.Equal(t, 200, o.status)
	require.Equal(t, []string{"close"}, o.upstream["Connection"])
}

// The headers of one request must not be shared with another: Caddy's header
// operations write into the slices.
func TestThePermissionHeaderIsOfThisRequestAlone(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	first := request("GET", "/", user("vic", "1"))
	serve(t, h, first)
	first.Header["X-Permission"][0] = "overwritten"
	require.Equal(t, []string{"abc/dashboard/read"}, serve(t, h, request("GET", "/", user("vic", "1"))).upstream["X-Permission"])
}

// A tenant that the client names is a claim to be checked, however long or odd.
func TestATenantFromTheRequestCannotInjectAnything(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	var log logs
	h := dashboard(table)
	h.Tenant = "{http.request.header.X-Org}"
	h.Start(table, log.logger())
	long := make([]byte, 10_000)
	for i := range long {
		long[i] = '1'
	}
	for _, tenant := range []string{"", " 1", "1 ", "1,2", "1\r\n", "０", "1e0", "0x1", "{http.auth.user.id}", string(long)} {
		o := serve(t, h, request("GET", "/", user("ann", "1"), "X-Org", tenant))
		require.Equal(t, 403, o.status, tenant)
		require.NotContains(t, o.header.Get("WWW-Authenticate"), "\n")
		if id, ok := o.problem.Extra["tenant_id"].(string); ok {
			require.LessOrEqual(t, len(id), 64)
		}
	}
	o := serve(t, h, request("GET", "/", user("ann", "1"), "X-Org", "1", "X-Org", "2"))
	require.Equal(t, 403, o.status, "two headers name no tenant")
	for _, line := range log.take(t) {
		id, _ := line["requested_tenant_id"].(string)
		require.LessOrEqual(t, len(id), 64)
	}
}
