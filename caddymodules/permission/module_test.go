package permission_test

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/permission"
	core "github.com/tenantgate/tenantgate/internal/permission"
)

func TestTheMethodDecidesTheAction(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)
	for method, action := range map[string]string{
		"GET": "read", "HEAD": "read", "OPTIONS": "read", "POST": "write", "PUT": "write", "PATCH": "write", "DELETE": "delete",
	} {
		for who, may := range map[string][]string{"vic": {"read"}, "ed": {"read", "write"}, "ann": {"read", "write", "delete"}} {
			o := serve(t, h, request(method, "/", user(who, "1")))
			if slices.Contains(may, action) {
				require.Equal(t, 200, o.status, "%s %s", who, method)
				require.Equal(t, []string{"abc/dashboard/" + action}, o.upstream["X-Permission"])
				continue
			}
			require.Equal(t, 403, o.status, "%s %s", who, method)
			require.Equal(t, "permission-denied", o.problem.Code)
			require.Equal(t, "abc/dashboard/"+action, o.problem.Extra["permission"])
			require.Equal(t, "role_lacks_action", o.problem.Extra["reason"])
			require.Equal(t, "1", o.problem.Extra["tenant_id"])
			require.Equal(t, `Bearer error="insufficient_scope", scope="abc/dashboard/`+action+`"`, o.header.Get("WWW-Authenticate"))
			require.Contains(t, o.problem.Detail, "abc/dashboard/"+action)
		}
	}
}

func TestAConfiguredActionHoldsForAllMethods(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := &permission.Handler{Product: "abc", Feature: "dashboard", Action: "read"}
	h.Start(table, slog.New(slog.DiscardHandler))
	for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
		o := serve(t, h, request(method, "/", user("vic", "1")))
		require.Equal(t, 200, o.status, method)
		require.Equal(t, []string{"abc/dashboard/read"}, o.upstream["X-Permission"])
	}
	require.Equal(t, 405, serve(t, h, request("PROPFIND", "/", user("vic", "1"))).status)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := dashboard(table)

	o := serve(t, h, request("GET", "/", nil))
	require.Equal(t, 401, o.status)
	require.Equal(t, "token-missing", o.problem.Code)
	require.Equal(t, "Bearer", o.header.Get("WWW-Authenticate"))

	for name, c := range map[string]struct {
		user, tenant, public string
	}{
		"a stranger": {"vic", "2", "not_a_member"},
		"an unknown tenant looks like a foreign one":  {"vic", "77", "not_a_member"},
		"a token without a tenant":                    {"vic", "", "not_a_member"},
		"another spelling of the tenant":              {"vic", "01", "not_a_member"},
		"a member of a suspended tenant":              {"ian", "3", "tenant_suspended"},
		"a stranger does not learn of the suspension": {"vic", "3", "not_a_member"},
	} {
		o := serve(t, h, request("GET", "/", user(c.user, c.tenant)))
		require.Equal(t, 403, o.status, name)
		require.Equal(t, c.public, o.problem.Extra["reason"], name)
	}

	unknown := &permission.Handler{Product: "xyz", Feature: "dashboard"}
	unknown.Start(table, slog.New(slog.DiscardHandler))
	o = serve(t, unknown, request("GET", "/", user("ann", "1")))
	require.Equal(t, 403, o.status)
	require.Equal(t, "unknown_product", o.problem.Extra["reason"])
}

func TestWithoutATableTheAnswerIs503(t *testing.T) {
	t.Parallel()
	table := runTable(t, "sqlite://"+filepath.Join(t.TempDir(), "none.db"), core.Settings{Poll: time.Hour})
	o := serve(t, dashboard(table), request("GET", "/", user("ann", "1")))
	require.Equal(t, 503, o.status)
	require.Equal(t, "permissions-not-loaded", o.problem.Code)
	require.Equal(t, "1", o.header.Get("Retry-After"))
	require.Equal(t, 401, serve(t, dashboard(table), request("GET", "/", nil)).status, "a request without a token gets no 503")
}

func TestRolesFromClaims(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := &permission.Handler{Product: "abc", Feature: "dashboard", Subject: "claims"}
	h.Start(table, slog.New(slog.DiscardHandler))
	require.Equal(t, 200, serve(t, h, request("POST", "/", user("someone", "1", "Viewer", "Editor"))).status)
	require.Equal(t, 403, serve(t, h, request("POST", "/", user("someone", "1", "Viewer"))).status)
	require.Equal(t, 403, serve(t, h, request("GET", "/", user("ann", "1"))).status, "the table's membership does not count")
	require.Equal(t, 403, serve(t, h, request("POST", "/", user("someone", "2", "Editor"))).status, "the tenant has no such role")
}

func TestTheTenantOfTheRequest(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	h := &permission.Handler{Product: "abc", Feature: "dashboard", Tenant: "{http.request.uri.path.1}"}
	h.Start(table, slog.New(slog.DiscardHandler))

	o := serve(t, h, request("GET", "/tenants/1/x", user("ann", "1", "Admin")))
	require.Equal(t, 200, o.status)
	require.Equal(t, "1", o.upstream.Get("X-Tenant-Id"))
	require.Equal(t, "Admin", o.upstream.Get("X-Roles"))

	// ann is a Viewer of tenant 2: that is what everyone behind sees.
	who := user("ann", "1", "Admin")
	o = serve(t, h, request("GET", "/tenants/2/x", who, "X_tenant-ID", "1"))
	require.Equal(t, 200, o.status)
	require.Equal(t, []string{"2"}, o.upstream["X-Tenant-Id"])
	require.Equal(t, []string{"Viewer"}, o.upstream["X-Roles"])
	require.NotContains(t, o.upstream, "X_tenant-ID")
	require.Equal(t, "ann", o.who.UserID)
	require.Equal(t, "2", o.who.TenantID)
	require.Equal(t, []string{"Viewer"}, o.who.Roles)
	require.Equal(t, "1", who.TenantID, "the principal is shared with other requests")
	value, _ := o.repl.GetString("http.auth.user.tenant_id")
	require.Equal(t, "2", value)

	for target, why := range map[string]string{
		"/tenants/2/x":                        "role_lacks_action",
		"/tenants/3/x":                        "not_a_member",
		"/tenants/99/x":                       "not_a_member",
		"/tenants":                            "not_a_member",
		"/tenants/{http.auth.user.tenant_id}": "not_a_member",
	} {
		o = serve(t, h, request("POST", target, user("ann", "1", "Admin")))
		require.Equal(t, 403, o.status, target)
		require.Equal(t, why, o.problem.Extra["reason"], target)
	}

	claims := &permission.Handler{Product: "abc", Feature: "dashboard", Subject: "claims", Tenant: "{http.request.uri.path.1}"}
	claims.Start(table, slog.New(slog.DiscardHandler))
	require.Equal(t, 200, serve(t, claims, request("GET", "/tenants/1", user("ann", "1", "Admin"))).status)
	require.Equal(t, 403, serve(t, claims, request("GET", "/tenants/2", user("ann", "1", "Admin"))).status, "claims hold in their own tenant only")
}

func TestDenialsAreLoggedAndPassesAreNot(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	var log logs
	h := &permission.Handler{Product: "abc", Feature: "dashboard", Tenant: "{http.request.uri.path.0}"}
	h.Start(table, log.logger())
	serve(t, h, request("GET", "/1", user("vic", "1")))
	serve(t, h, request("GET", "/1", nil))
	serve(t, h, request("TRACE", "/1", user("vic", "1")))
	require.Empty(t, log.take(t))

	serve(t, h, request("POST", "/1", user("vic", "1")))
	serve(t, h, request("POST", "/77", user("vic", "1")))
	require.Equal(t, []map[string]any{
		{"level": "INFO", "msg": "permission denied", "reason": "role_lacks_action", "user_id": "vic", "role": "Viewer", "seq": 1.0},
		{"level": "INFO", "msg": "permission denied", "reason": "unknown_tenant", "user_id": "vic", "requested_tenant_id": "77", "seq": 1.0},
	}, log.take(t))
}

func TestAShareOfWhatIsAllowedIsLogged(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	var log logs
	h := &permission.Handler{Product: "abc", Feature: "dashboard", Tenant: "{http.request.uri.path.0}"}
	h.Start(table, log.logger())
	draws := []float64{0.09, 0.1, 0.99, 0}
	h.LogAllowed(0.1, func() float64 {
		next := draws[0]
		draws = draws[1:]
		return next
	})
	for range 2 {
		require.Equal(t, 200, serve(t, h, request("GET", "/1", user("vic", "1"))).status)
	}
	for range 2 {
		require.Equal(t, 200, serve(t, h, request("GET", "/2", user("ann", "1"))).status)
	}
	require.Equal(t, 403, serve(t, h, request("POST", "/2", user("ann", "1"))).status, "a denial draws no lot")
	require.Equal(t, []map[string]any{
		{"level": "INFO", "msg": "permission allowed", "user_id": "vic", "role": "Viewer", "rule": "Viewer: abc/dashboard/read", "seq": 1.0},
		{"level": "INFO", "msg": "permission allowed", "user_id": "ann", "role": "Viewer", "rule": "Viewer: abc/dashboard/read", "seq": 1.0},
		{"level": "INFO", "msg": "permission denied", "user_id": "ann", "role": "Viewer", "reason": "role_lacks_action", "requested_tenant_id": "2", "seq": 1.0},
	}, log.take(t))
}

// inherited is a tenant 4 with a built-in owner, a wildcard and a role that
// inherits it: oz is the Owner, may is a Manager, who inherits from Author.
var inherited = []string{
	`INSERT INTO tenants (id, name, status, created_at, updated_at) VALUES (4, 'hooli', 'active', 1, 1)`,
	`INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('oz', 'oz', 'oz', 1, 1), ('may', 'may', 'may', 1, 1)`,
	`INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at) VALUES (41, 4, 'Owner', 'owner', 1, 1), (42, 4, 'Author', 'custom', 1, 1), (43, 4, 'Manager', 'custom', 1, 1)`,
	`INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (4, 43, 42)`,
	`INSERT INTO role_wildcards (role_id, product_id, feature_id, action) VALUES (42, 1, NULL, NULL)`,
	`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (4, 'oz', 41, 1, 1), (4, 'may', 43, 1, 1)`,
}

func TestTheLogNamesTheRuleThatDecided(t *testing.T) {
	t.Parallel()
	db, url := newDatabase(t)
	change(t, db, inherited...)
	table := runTable(t, url, core.Settings{Poll: time.Hour})
	for name, test := range map[string]struct {
		subject string
		user    []string // and claimed roles
		rule    string
	}{
		"the built-in owner":             {"table", []string{"oz"}, "Owner: owner"},
		"an inherited wildcard":          {"table", []string{"may"}, "Manager > Author: abc/*/*"},
		"the owner named by claims":      {"claims", []string{"ext", "Owner"}, "Owner: owner"},
		"the first claim that allows":    {"claims", []string{"ext", "Nobody", "Author", "Owner"}, "Author: abc/*/*"},
		"a claim that inherits":          {"claims", []string{"ext", "Manager"}, "Manager > Author: abc/*/*"},
		"claims of another case deny":    {"claims", []string{"ext", "owner", "OWNER"}, ""},
		"a wildcard is no name of roles": {"claims", []string{"ext", "*", "abc/*/*"}, ""},
	} {
		var log logs
		h := &permission.Handler{Product: "abc", Feature: "dashboard", Subject: test.subject}
		h.Start(table, log.logger())
		h.LogAllowed(1, func() float64 { return 0 })
		o := serve(t, h, request("DELETE", "/", user(test.user[0], "4", test.user[1:]...)))
		line := log.take(t)[0]
		if test.rule == "" {
			require.Equal(t, 403, o.status, name)
			require.NotContains(t, line, "rule", name)
			continue
		}
		require.Equal(t, 200, o.status, name)
		require.Equal(t, test.rule, line["rule"], name)
	}
}

func TestShadowModeRefusesNothing(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	var log logs
	h := &permission.Handler{Product: "abc", Feature: "dashboard", Mode: "shadow", Tenant: "{http.request.uri.path.0}"}
	h.Start(table, log.logger())

	o := serve(t, h, request("GET", "/1", user("vic", "1")))
	require.Equal(t, []string{"abc/dashboard/read"}, o.upstream["X-Permission"])
	require.Empty(t, log.take(t))

	for _, r := range []*http.Request{
		request("POST", "/1", user("vic", "1"), "X-Permission", "abc/dashboard/write"),
		request("POST", "/2", user("vic", "1")),
		request("GET", "/1", nil),
		request("GET", "//1", user("vic", "1")),
		request("TRACE", "/1", user("vic", "1")),
	} {
		o := serve(t, h, r)
		require.Equal(t, 200, o.status)
		require.NotContains(t, o.upstream, "X-Permission", "it was not permitted")
		require.Empty(t, o.header)
		require.NotEqual(t, "2", o.upstream.Get("X-Tenant-Id"))
	}
	var reasons []any
	for _, line := range log.take(t) {
		require.Equal(t, true, line["would_deny"])
		require.Equal(t, "permission would be denied", line["msg"])
		reasons = append(reasons, line["reason"], line["would_status"])
	}
	require.Equal(t, []any{
		"role_lacks_action", 403.0, "not_a_member", 403.0, "missing", 401.0, "bad_request_target", 400.0, "method_not_allowed", 405.0,
	}, reasons)
}

func TestAnUnknownPermissionIsWarnedOfOncePerLoad(t *testing.T) {
	t.Parallel()
	table, db := newTable(t, core.Settings{Poll: time.Millisecond})
	var log logs
	start := func(h *permission.Handler) *permission.Handler {
		h.Start(table, log.logger())
		return h
	}
	warning := func(permission, reason string) map[string]any {
		return map[string]any{
			"level": "WARN", "msg": "a route checks a permission that the table does not hold: it is denied",
			"permission": permission, "reason": reason,
		}
	}
	start(&permission.Handler{Product: "abc", Feature: "dashboard"})
	require.Empty(t, log.take(t))
	product := start(&permission.Handler{Product: "xyz", Feature: "dashboard"})
	require.Equal(t, []map[string]any{warning("xyz/dashboard", "unknown_product")}, log.take(t), "one line for all actions")
	start(&permission.Handler{Product: "abc", Feature: "nope", Action: "read"})
	require.Equal(t, []map[string]any{warning("abc/nope/read", "unknown_feature")}, log.take(t))
	start(&permission.Handler{Product: "abc", Feature: "dashboard", Action: "fly"})
	require.Equal(t, []map[string]any{warning("abc/dashboard/fly", "unknown_action")}, log.take(t))

	for range 10 {
		require.Equal(t, 403, serve(t, product, request("GET", "/", user("ann", "1"))).status)
	}
	for _, line := range log.take(t) {
		require.Equal(t, "permission denied", line["msg"], "requests do not repeat the warning")
	}
	require.NoError(t, product.Cleanup())
	require.NoError(t, product.Cleanup())

	// A change of the catalogue warns again, of what is still missing.
	change(t, db, `UPDATE features SET actions = 'read,fly'`)
	var lines []map[string]any
	require.Eventually(t, func() bool {
		lines = append(lines, log.take(t)...)
		return len(lines) > 0
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, []map[string]any{warning("abc/nope/read", "unknown_feature")}, lines)
	require.Equal(t, 403, serve(t, product, request("GET", "/", user("ann", "1"))).status, "a request on its way after Cleanup")
}

func TestARouteFollowsTheCatalogue(t *testing.T) {
	t.Parallel()
	table, db := newTable(t, core.Settings{Poll: time.Millisecond})
	h := &permission.Handler{Product: "abc", Feature: "later", Action: "export"}
	h.Start(table, slog.New(slog.DiscardHandler))
	ask := func() int { return serve(t, h, request("GET", "/", user("vic", "1"))).status }
	require.Equal(t, 403, ask())
	change(t, db,
		`INSERT INTO features (id, product_id, name, actions, created_at, updated_at) VALUES (9, 1, 'later', 'export', 1, 1)`,
		`INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (13, 9, 'export')`)
	require.Eventually(t, func() bool { return ask() == 200 }, 10*time.Second, time.Millisecond)
	change(t, db, `DELETE FROM features WHERE id = 9`)
	require.Eventually(t, func() bool { return ask() == 403 }, 10*time.Second, time.Millisecond)
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for want, h := range map[string]permission.Handler{
		`product "" is not a valid name`:       {Feature: "dashboard"},
		`feature "A" is not a valid name`:      {Product: "abc", Feature: "A"},
		`action "a b" is not a valid name`:     {Product: "abc", Feature: "dashboard", Action: "a b"},
		`subject is "x", want table or claims`: {Product: "abc", Feature: "dashboard", Subject: "x"},
		`mode is "x", want enforce or shadow`:  {Product: "abc", Feature: "dashboard", Mode: "x"},
		`tenant is "{env.X}", want one`:        {Product: "abc", Feature: "dashboard", Tenant: "{env.X}"},
	} {
		require.ErrorContains(t, h.Validate(), want)
	}
	h := permission.Handler{Product: "abc", Feature: "dashboard", Action: "read", Subject: "claims", Mode: "shadow", Tenant: "{http.vars.tenant}"}
	require.NoError(t, h.Validate())
}
