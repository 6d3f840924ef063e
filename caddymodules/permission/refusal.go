package permission

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// maxTenant is the longest tenant id, taken from a request, that is repeated
// in a body or a log line.
const maxTenant = 64

// refusal is a problem and what the log tells of it.
type refusal struct {
	problem  *problem.Error
	reason   core.Reason
	who      *identity.Principal // nil if nobody is authenticated
	tenant   string              // that was asked about
	decision core.Decision
	seq      int64 // of the table that decided, 0 if none did
	quiet    bool  // the access line says it all
}

// respond returns the refusal as Caddy's error. Its headers are set here
// already, so that they are sent without handle_errors too.
func (r *refusal) respond(w http.ResponseWriter) error {
	for name, values := range r.problem.Header {
		w.Header()[name] = values
	}
	return caddyhttp.Error(r.problem.Status, r.problem)
}

// badTarget refuses a method or path that two programs may read in two ways.
func badTarget(err error) *refusal {
	p := problem.Wrap(err, http.StatusBadRequest, "bad-request-target", "The request target is not valid.")
	var v *sanitize.Violation
	if errors.As(err, &v) {
		p.Status, p.Detail, p.Err = v.Status, v.Reason, nil
	}
	reason := reasonTarget
	if p.Status == http.StatusMethodNotAllowed {
		p.Code, reason = "method-not-allowed", reasonMethod
		p.Header = http.Header{"Allow": {sanitize.Allow}} // RFC 9110 section 15.5.6
	}
	return &refusal{problem: p, reason: reason, quiet: true}
}

// unauthenticated refuses a request that no jwt_auth vouched for. The challenge
// has no error code: RFC 6750 section 3.1 keeps those for requests with a token.
func unauthenticated() *refusal {
	p := problem.New(http.StatusUnauthorized, "token-missing", "This needs an access token in the header Authorization: Bearer.")
	p.Extra = map[string]any{"reason": "missing"}
	p.Header = http.Header{"Www-Authenticate": {"Bearer"}}
	return &refusal{problem: p, reason: reasonMissing, quiet: true}
}

// notLoaded refuses while there is no table to decide by.
func notLoaded(who *identity.Principal) *refusal {
	p := problem.New(http.StatusServiceUnavailable, "permissions-not-loaded", "Permissions can't be checked at the moment; try again shortly.")
	p.Header = http.Header{"Retry-After": {"1"}}
	return &refusal{problem: p, reason: reasonNotLoaded, who: who, tenant: who.TenantID, quiet: true}
}

// public is the reason that the client is told: which tenants there are is not
// for strangers to find out.
func public(reason core.Reason) core.Reason {
	if reason == core.UnknownTenant {
		return core.NotAMember
	}
	return reason
}

// denied refuses what the table doesn't grant.
func denied(v verdict) *refusal {
	name, reason, tenant := v.check.name, public(v.decision.Reason), v.tenant
	p := problem.New(http.StatusForbidden, "permission-denied", details[reason]+name+".")
	p.Extra = map[string]any{"permission": name, "reason": string(reason)}
	if tenant = tenant[:min(len(tenant), maxTenant)]; tenant != "" {
		p.Extra["tenant_id"] = tenant
	}
	// RFC 6750 section 3.1. The names have no character that needs quoting.
	p.Header = http.Header{"Www-Authenticate": {`Bearer error="insufficient_scope", scope="` + name + `"`}}
	return &refusal{problem: p, reason: v.decision.Reason, who: v.who, tenant: tenant, decision: v.decision, seq: v.seq}
}

// details are the sentences for the person who reads the response; the
// permission follows.
var details = map[core.Reason]string{
	core.NotAMember:      "You are no member of this tenant with a role that could have the permission ",
	core.RoleLacksAction: "Your role in this tenant does not have the permission ",
	core.TenantSuspended: "This tenant is suspended; nobody in it has the permission ",
	core.UnknownProduct:  "Nobody has the permission ",
	core.UnknownFeature:  "Nobody has the permission ",
	core.UnknownAction:   "Nobody has the permission ",
}
