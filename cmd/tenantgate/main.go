// Command tenantgate is the gateway: Caddy with Tenantgate's modules and the
// operator's commands.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/spf13/cobra"

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

Caddy's own modules and commands all work, but for the commands that download
another program (upgrade, add-package, remove-package). Their manual is at
https://caddyserver.com/docs/.`
	var dev *cobra.Command
	caddycmd.RegisterCommand(devCommand(&dev))
	caddycmd.RegisterCommand(noDownloads(&dev))
	caddycmd.Main()
}

const examples = `  $ tenantgate dev                         everything on this machine, with demo data
  $ tenantgate run --config Caddyfile      the gateway alone
  $ tenantgate validate --config Caddyfile
  $ tenantgate reload --config Caddyfile`

// noDownloads takes the place of Caddy's commands that replace the program by
// one that caddyserver.com builds. That has no Tenantgate, and they end in a
// panic where the main module has Caddy modules. It also gives the root command
// our examples: Caddy hands that out nowhere, so it is reached through a command
// that was added before.
func noDownloads(earlier **cobra.Command) caddycmd.Command {
	return caddycmd.Command{
		Name:  "no-downloads",
		Short: "Says why this program can't replace itself",
		CobraFunc: func(cmd *cobra.Command) {
			root := (*earlier).Root()
			root.Example = examples
			for _, other := range root.Commands() {
				switch other.Name() {
				case "upgrade", "add-package", "remove-package":
					root.RemoveCommand(other)
				}
			}
			cmd.Use, cmd.Aliases, cmd.Hidden = "upgrade", []string{"add-package", "remove-package"}, true
			cmd.FParseErrWhitelist.UnknownFlags = true
			cmd.RunE = func(cmd *cobra.Command, _ []string) error {
				return fmt.Errorf("%s would replace this program by a build of caddyserver.com, which has no Tenantgate: "+
					"install a newer release, or build with your packages as `make xcaddy` does", cmd.CalledAs())
			}
		},
	}
}
