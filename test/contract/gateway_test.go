package contract_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate"
	"github.com/tenantgate/tenantgate/backends/contract"
	gateway "github.com/tenantgate/tenantgate/test/contract"
)

const description = "../../backends/openapi.yaml"

// upstream is where the Caddyfile sends an operation if no variable is set.
func upstream(o contract.Operation) string {
	switch {
	case strings.HasPrefix(o.Path, "/api/auth/"), strings.HasPrefix(o.Path, "/.well-known/"):
		return "127.0.0.1:9001"
	case strings.HasPrefix(o.Path, "/invite"), strings.HasPrefix(o.Path, "/api/invitations/"):
		return "127.0.0.1:9003"
	}
	return "127.0.0.1:9002"
}

// check returns what is wrong with a Caddyfile.
func check(t *testing.T, caddyfile string) []string {
	t.Helper()
	doc, err := contract.Load(description)
	require.NoError(t, err)
	g, err := gateway.Load([]byte(caddyfile), t.TempDir())
	require.NoError(t, err)
	return g.Check(doc, upstream)
}

func TestTheCaddyfileProtectsWhatTheDescriptionSays(t *testing.T) {
	require.Empty(t, check(t, string(tenantgate.Caddyfile)))
}

func TestTheCheckFindsAHoleInTheCaddyfile(t *testing.T) {
	for name, test := range map[string]struct {
		old, changed string
		want         string
	}{
		"a check is gone": {
			"\t\tcheck_permission tenantgate members\n", "",
			`DELETE /api/members/{user_id}/ passes ["token"], not ["token" "tenantgate/members/delete"]`,
		},
		"another feature is checked": {
			"check_permission abc invitations", "check_permission abc dashboard",
			`GET /api/invitations/ passes ["token" "abc/dashboard"], not ["token" "abc/invitations/read"]`,
		},
		"another product is checked": {
			"check_permission abc dashboard", "check_permission xyz dashboard",
			`POST /api/permissions/dashboard/ passes ["token" "xyz/dashboard"], not ["token" "abc/dashboard/write"]`,
		},
		"the action is fixed": {
			"check_permission tenantgate tenant", "check_permission tenantgate tenant read",
			`PATCH /api/tenant/ passes ["token" "tenantgate/tenant/read"], not ["token" "tenantgate/tenant/write"]`,
		},
		"a check only watches": {
			"check_permission abc dashboard", "check_permission abc dashboard {\n\t\t\tmode shadow\n\t\t}",
			`GET /api/permissions/dashboard/ passes ["token" "abc/dashboard in mode shadow"], not ["token" "abc/dashboard/read"]`,
		},
		"a matcher lets a method by": {
			"@change not method GET HEAD", "@change method POST",
			`DELETE /api/products/{id}/ passes ["token"], not ["token" "tenantgate/platform/delete"]`,
		},
		"no token is asked for": {
			"\thandle @session {\n\t\timport token\n", "\thandle @session {\n",
			`GET /api/auth/me passes [], not ["token"]`,
		},
		"no token is asked for where the gateway answers": {
			"\thandle @rights {\n\t\timport token\n", "\thandle @rights {\n",
			`GET /api/permissions/me passes [], not ["token"]`,
		},
		"the gateway does not answer": {
			"\t\tpermission_answers\n", "",
			`POST /api/permissions/check reaches "", not "the gateway itself"`,
		},
		"a protected path is open": {
			"path /.well-known/jwks.json /api/auth/login /api/auth/refresh", "path /.well-known/jwks.json /api/auth/login /api/auth/refresh /api/auth/me",
			`GET /api/auth/me passes [], not ["token"]`,
		},
		"a path is open without its last slash": {
			"path /invite /api/invitations/accept /api/invitations/accept/",
			"path /invite /api/invitations/accept /api/invitations/accept/ /api/invitations",
			`POST /api/invitations passes [], not ["token" "abc/invitations/write"]`,
		},
		"a route is gone": {
			"@tenants path /api/tenants /api/tenants/*", "@tenants path /api/others /api/others/*",
			`GET /api/tenants/ reaches "", not "127.0.0.1:9002"`,
		},
		"a route leads elsewhere": {
			"check_permission abc invitations\n\t\timport backend invitation {$INVITATION_UPSTREAM:127.0.0.1:9003}",
			"check_permission abc invitations\n\t\timport backend tenant {$TENANT_UPSTREAM:127.0.0.1:9002}",
			`GET /api/invitations/ reaches "127.0.0.1:9002", not "127.0.0.1:9003"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, string(tenantgate.Caddyfile), test.old)
			require.Contains(t, check(t, strings.Replace(string(tenantgate.Caddyfile), test.old, test.changed, 1)), test.want)
		})
	}
}

func TestLoadRefusesWhatIsNoCaddyfile(t *testing.T) {
	_, err := gateway.Load([]byte("{"), t.TempDir())
	require.ErrorContains(t, err, "adapt")
	_, err = gateway.Load([]byte(":1 {\n\tbind\n}\n"), t.TempDir())
	require.ErrorContains(t, err, "no site of the Caddyfile listens anywhere")
	_, err = gateway.Load([]byte(":1 {\n}\n:2 {\n}\n"), t.TempDir())
	require.ErrorContains(t, err, "there are 2 servers, not one")
}
