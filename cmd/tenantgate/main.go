// Command tenantgate is the gateway: Caddy with Tenantgate's modules and the
// operator's commands.
package main

import (
	"os"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tenantgate/tenantgate"
)

// gcPercent is the default of GOGC: a gateway makes garbage with every request
// and holds little, so collecting later costs about 20 MiB and saves a tenth of
// the CPU time. Caddy sets GOMEMLIMIT by the container's limit.
const gcPercent = 300

// version is set by releases: -ldflags '-X main.version=tenantgate/v1.2.3'.
var version = "tenantgate/unreleased"

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	caddy.CustomBinaryName = "tenantgate"
	caddy.CustomVersion = version // Caddy's own follows it in `tenantgate version`
	caddy.CustomLongDescription = `Tenantgate is an API gateway for multi-tenant software: Caddy with modules that give
every request a trace, check its token and its permission, and cut off upstreams
that fail.

	$ tenantgate dev                         everything on this machine, with demo data
	$ tenantgate run --config Caddyfile      the gateway alone
	$ tenantgate validate --config Caddyfile
	$ tenantgate reload --config Caddyfile

Caddy's own commands and modules all work; their manual is at https://caddyserver.com/docs/.`
	caddycmd.RegisterCommand(devCommand())
	caddycmd.Main()
}
