package permission

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
)

// The values of [Handler.Subject].
const (
	subjectTable  = "table"
	subjectClaims = "claims"
)

// scope says in which tenant, and by which roles, a handler asks the table.
type scope struct {
	tenant string // the placeholder without braces, empty for the token's tenant
	claims bool
}

func newScope(subject, tenant string) scope {
	return scope{tenant: strings.Trim(tenant, "{}"), claims: subject == subjectClaims}
}

// validateScope checks the options that both handlers have.
func validateScope(subject, tenant string) error {
	if err := validateChoice("subject", subject, subjectTable, subjectClaims); err != nil {
		return err
	}
	return validateTenant(tenant)
}

func validateChoice(what, value, one, other string) error {
	if value != "" && value != one && value != other {
		return fmt.Errorf("%s is %q, want %s or %s", what, value, one, other)
	}
	return nil
}

// validateTenant accepts one placeholder of the request. {file.*} would read
// the disk in every request and {http.request.body} the whole body.
func validateTenant(s string) error {
	if s == "" {
		return nil
	}
	name, ok := strings.CutPrefix(s, "{")
	name, closed := strings.CutSuffix(name, "}")
	if !ok || !closed || !strings.HasPrefix(name, "http.") || strings.ContainsAny(name, "{}") || strings.HasPrefix(name, "http.request.body") {
		return fmt.Errorf("tenant is %q, want one placeholder of the request such as {http.request.uri.path.1} (not its body)", s)
	}
	return nil
}

// tenantOf returns the tenant that a request is about.
func (s scope) tenantOf(r *http.Request, who *identity.Principal) string {
	if s.tenant == "" {
		return who.TenantID
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	tenant, _ := repl.GetString(s.tenant)
	return tenant
}

// foreignClaims reports whether roles would have to come from claims that were
// made for another tenant. They say nothing of this one.
func (s scope) foreignClaims(who *identity.Principal, tenant string) bool {
	return s.claims && tenant != who.TenantID
}

// decide answers for one permission.
func (s scope) decide(table *core.Snapshot, who *identity.Principal, tenant string, ref *core.Ref) core.Decision {
	switch {
	case !s.claims:
		return table.DecideFor(who, tenant, ref)
	case s.foreignClaims(who, tenant):
		return core.Decision{Reason: core.NotAMember}
	}
	return table.DecideRoles(tenant, who.Roles, ref)
}

// all returns the roles that count and what they may do; nothing of it unless
// the user is a member of an active tenant.
func (s scope) all(table *core.Snapshot, who *identity.Principal, tenant string) ([]string, []core.Permission) {
	if s.foreignClaims(who, tenant) {
		return nil, nil
	}
	roles := who.Roles
	var (
		permissions []core.Permission
		reason      core.Reason
	)
	if s.claims {
		permissions, reason = table.PermissionsOfRoles(tenant, roles)
	} else {
		var role string
		role, permissions, reason = table.PermissionsOf(tenant, who.UserID)
		roles = []string{role}
	}
	if reason != core.Allowed {
		return nil, nil
	}
	return roles, permissions
}
