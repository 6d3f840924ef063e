package gateway

import "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

// The order of our directives among Caddy's (see the design of one request in
// docs/architecture.md). All of it stands in one init, because successive
// registrations after the same directive come out in reverse.
func init() {
	// authorize reads headers that trace_context deletes.
	httpcaddyfile.RegisterDirectiveOrder("authorize", httpcaddyfile.Before, "tracing")
	httpcaddyfile.RegisterDirectiveOrder("trace_context", httpcaddyfile.Before, "tracing")
	httpcaddyfile.RegisterDirectiveOrder("permission_answers", httpcaddyfile.After, "forward_auth")
	httpcaddyfile.RegisterDirectiveOrder("check_permission", httpcaddyfile.After, "forward_auth")
	httpcaddyfile.RegisterDirectiveOrder("jwt_auth", httpcaddyfile.After, "forward_auth")
	httpcaddyfile.RegisterDirectiveOrder("breaker_proxy", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("problem_details", httpcaddyfile.Before, "respond")
}
