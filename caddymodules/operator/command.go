// Package operator is what the operators' commands of all modules share: calling
// the admin API and its refusals, exit codes, and text that is safe on a terminal.
package operator

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// WrongUsage is the exit code after a [UsageError].
const WrongUsage = 2

// UsageError is a mistake in how the command was called.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e UsageError) Unwrap() error { return e.Err }

// Usagef returns a [UsageError] with a text of its own.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// Exit returns an error that makes Caddy's main function end with the code, which
// is at least 1, without telling more: err has been told.
func Exit(cmd *cobra.Command, err error, code int) error {
	cmd.SilenceErrors = true
	if code == 1 { // so any error ends
		return err
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

// Interruptible returns a context that ends with Ctrl-C or SIGTERM.
func Interruptible(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil { // Caddy's main function gives none
		ctx = context.Background()
	}
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// The values of --output.
const (
	OutputText = "text"
	OutputJSON = "json"
)

// CheckOutput returns what is wrong with a value of --output.
func CheckOutput(value string) error {
	if value != OutputText && value != OutputJSON {
		return Usagef("--output %s: use text or json", value)
	}
	return nil
}
