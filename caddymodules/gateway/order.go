package gateway

import "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

// The order of our directives among Caddy's (see the design of one request in
// docs/architecture.md). All of it stands in one init, because successive
// registrations after the same directive come out in reverse.
func init() {
	httpcaddyfile.RegisterDirectiveOrder("trace_context", httpcaddyfile.Before, "tracing")
	httpcaddyfile.RegisterDirectiveOrder("check_permission", httpcaddyfile.After, "forward_auth")
	httpcaddyfile.RegisterDirectiveOrder("jwt_auth", httpcaddyfile.After, "forward_auth")
	httpcaddyfile.RegisterDirectiveOrder("breaker_proxy", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("problem_details", httpcaddyfile.Before, "respond")
}
