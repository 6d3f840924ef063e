package permission

import (
	"github.com/spf13/cobra"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// PermissionsCommand is the command `permissions`.
func PermissionsCommand(c clock.Clock) *cobra.Command {
	cmd := &cobra.Command{Use: "permissions", SilenceUsage: true}
	addPermissionCommands(cmd, c)
	return cmd
}
