// Package tenantgate is the list of Caddy modules that make up the gateway.
// Importing it, as cmd/tenantgate and xcaddy do, adds them to a Caddy build.
package tenantgate

import (
	_ "embed"

	_ "github.com/tenantgate/tenantgate/caddymodules/breaker"      // breaker_proxy, transport and selection policy
	_ "github.com/tenantgate/tenantgate/caddymodules/gateway"      // the app: global options
	_ "github.com/tenantgate/tenantgate/caddymodules/handover"     // listener wrapper handover
	_ "github.com/tenantgate/tenantgate/caddymodules/jwtauth"      // jwt_auth
	_ "github.com/tenantgate/tenantgate/caddymodules/logformat"    // format tenantgate
	_ "github.com/tenantgate/tenantgate/caddymodules/loki"         // output loki
	_ "github.com/tenantgate/tenantgate/caddymodules/permission"   // check_permission, permission_answers, authorize
	_ "github.com/tenantgate/tenantgate/caddymodules/problem"      // problem_details
	_ "github.com/tenantgate/tenantgate/caddymodules/tracecontext" // trace_context
)

// Caddyfile is the file of that name in the repository: what `tenantgate dev`
// runs when the current folder has none.
//
//go:embed Caddyfile
var Caddyfile []byte
