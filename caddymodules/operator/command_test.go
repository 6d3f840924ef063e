package operator_test

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
)

func TestAUsageErrorIsItsMistake(t *testing.T) {
	t.Parallel()
	err := operator.Usagef("give %d: %w", 1, io.EOF)
	require.ErrorAs(t, err, new(operator.UsageError))
	require.ErrorIs(t, err, io.EOF)
	require.EqualError(t, err, "give 1: EOF")
}

func TestTheErrorOfAnExitCode(t *testing.T) {
	t.Parallel()
	told := errors.New("told")
	cmd := new(cobra.Command)
	require.Equal(t, told, operator.Exit(cmd, told, 1))
	require.True(t, cmd.SilenceErrors)

	cmd = new(cobra.Command)
	require.EqualError(t, operator.Exit(cmd, told, operator.WrongUsage), "exiting with status 2")
	require.True(t, cmd.SilenceErrors)
}

func TestASignalEndsTheContext(t *testing.T) {
	self, err := os.FindProcess(os.Getpid())
	require.NoError(t, err)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		ctx, stop := operator.Interruptible(new(cobra.Command)) // without a context, as Caddy's
		defer stop()
		require.NoError(t, ctx.Err())
		require.NoError(t, self.Signal(signal))
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
			require.Fail(t, "no end", signal)
		}
	}
	parent, cancel := context.WithCancel(t.Context())
	cmd := new(cobra.Command)
	cmd.SetContext(parent)
	ctx, stop := operator.Interruptible(cmd)
	defer stop()
	cancel()
	require.ErrorIs(t, ctx.Err(), context.Canceled)
}

func TestTheFormsOfOutput(t *testing.T) {
	t.Parallel()
	require.NoError(t, operator.CheckOutput(operator.OutputText))
	require.NoError(t, operator.CheckOutput(operator.OutputJSON))
	for _, value := range []string{"", "xml", "JSON"} {
		err := operator.CheckOutput(value)
		require.ErrorAs(t, err, new(operator.UsageError))
		require.EqualError(t, err, "--output "+value+": use text or json")
	}
}
