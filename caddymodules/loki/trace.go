package loki

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	"github.com/tenantgate/tenantgate/internal/clock"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "trace",
		Usage:     "<id> [--loki <url> | --file <path>...] [--since 24h]",
		Short:     "Shows the log lines of one request, over all services",
		CobraFunc: func(cmd *cobra.Command) { addTraceCommand(cmd, clock.System{}) },
	})
}

// traceCommand is the flags of `tenantgate trace`.
type traceCommand struct {
	loki, tenant, bearerFile, output string
	files                            []string
	since                            time.Duration
	utc                              bool
	clock                            clock.Clock
}

// addTraceCommand makes cmd the command.
func addTraceCommand(cmd *cobra.Command, c clock.Clock) {
	t := &traceCommand{clock: c}
	cmd.Long = `Shows every log line of one request, of the gateway and of all services, in order
of time. The id is what the response's header X-Trace-Id and an error's trace_id
say: 32 hex digits, or a UUID.

The lines come from Loki if --loki or $LOKI_URL says where it is, else from files:
--file, or those of the Caddyfile and of ` + "`tenantgate dev`" + ` in the current folder.
A trace id that a client outside trust sent finds the gateway's lines that name it.

Exit codes: 0 found, 1 nothing found or it did not work, 2 wrong usage.`
	cmd.Example = `  tenantgate trace 4bf92f3577b34da6a3ce929d0e0e4736
  tenantgate trace 4bf92f3577b34da6a3ce929d0e0e4736 --loki http://loki:3100 --tenant acme
  tenantgate trace 4bf92f3577b34da6a3ce929d0e0e4736 --file 'logs/*.jsonl' --file 'logs/*.gz'
  tenantgate trace 4bf92f3577b34da6a3ce929d0e0e4736 --since 168h --output json | jq .msg`
	flags := cmd.Flags()
	flags.StringVar(&t.loki, "loki", "", "Loki's address, user:password@ allowed (default $LOKI_URL)")
	flags.StringVar(&t.tenant, "tenant", "", "Tenant of Loki, X-Scope-OrgID; several with | between them (default $LOKI_TENANT)")
	flags.StringVar(&t.bearerFile, "bearer-file", "", "File with the token that Loki wants")
	flags.StringArrayVar(&t.files, "file", nil, "Log file, or a pattern such as 'logs/*.jsonl'; compressed ones too; can be repeated")
	flags.DurationVar(&t.since, "since", 24*time.Hour, "How far to look back from now")
	flags.StringVar(&t.output, "output", operator.OutputText, "Form of the output: text, or json for the lines as they are")
	flags.BoolVar(&t.utc, "utc", false, "Times in UTC, not in the local zone")
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := operator.Interruptible(cmd)
		defer stop()
		if err := t.run(ctx, cmd, args); err != nil {
			return failTrace(cmd, err)
		}
		return nil
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return failTrace(cmd, operator.UsageError{Err: err}) })
}

// failTrace tells of an error in one line and returns one that makes Caddy's main
// function end with its exit code, without telling more.
func failTrace(cmd *cobra.Command, err error) error {
	code := 1
	if errors.As(err, new(operator.UsageError)) {
		code = operator.WrongUsage
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	cmd.PrintErrln("Error: " + operator.Printable(strings.Join(strings.Fields(err.Error()), " ")))
	return operator.Exit(cmd, err, code)
}

// run looks for the lines and shows them.
func (t *traceCommand) run(ctx context.Context, cmd *cobra.Command, args []string) error {
	if err := operator.CheckOutput(t.output); err != nil {
		return err
	}
	if len(args) != 1 {
		return operator.Usagef("give one trace id, as X-Trace-Id says it; see %s --help", cmd.CommandPath())
	}
	id, err := parseTraceID(args[0])
	if err != nil {
		return err
	}
	if t.since <= 0 {
		return operator.Usagef("--since %s: give a time such as 24h", t.since)
	}
	now := t.clock.Now()
	found := traceLines{id: id, from: now.Add(-t.since), seen: map[traceKey]bool{}}
	where, err := t.look(ctx, &found, now)
	for _, note := range found.notes() {
		cmd.PrintErrln("Note: " + operator.Printable(note))
	}
	if err != nil {
		return err
	}
	if len(found.lines) == 0 {
		return fmt.Errorf("no line of trace %s in the last %s in %s: look further back with --since, or elsewhere with --loki or --file", id, shortDuration(t.since), where)
	}
	found.sort()
	return t.print(cmd.OutOrStdout(), &found)
}

// look adds the lines from Loki or from files, and returns what it looked through.
func (t *traceCommand) look(ctx context.Context, found *traceLines, now time.Time) (where string, err error) {
	if len(t.files) > 0 {
		if t.loki != "" {
			return "", operator.Usagef("give --loki or --file, not both")
		}
		return lookInFiles(ctx, found, t.files)
	}
	if address := cmp.Or(t.loki, os.Getenv("LOKI_URL")); address != "" {
		source := "--loki"
		if t.loki == "" {
			source = "$LOKI_URL"
		}
		api, err := openTraceLoki(source, address, cmp.Or(t.tenant, os.Getenv("LOKI_TENANT")), t.bearerFile)
		if err != nil {
			return "", err
		}
		return api.String(), api.look(ctx, found, now)
	}
	if t.tenant != "" || t.bearerFile != "" {
		return "", operator.Usagef("--tenant and --bearer-file are for Loki: give its address with --loki")
	}
	return lookInFiles(ctx, found, nil)
}

// print writes the lines in the form that is wanted.
func (t *traceCommand) print(w io.Writer, found *traceLines) error {
	var out bytes.Buffer
	if t.output == operator.OutputJSON {
		if err := found.writeJSON(&out); err != nil {
			return err
		}
	} else {
		zone := time.Local
		if t.utc {
			zone = time.UTC
		}
		found.writeText(&out, zone, operator.Coloured(w))
	}
	_, err := out.WriteTo(w)
	return err
}

// parseTraceID returns a trace id as lines have it: 32 lower-case hex digits.
func parseTraceID(text string) (string, error) {
	id := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(text), "-", ""))
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 || id == strings.Repeat("0", 32) {
		return "", operator.Usagef("%.80q is no trace id: give 32 hex digits or a UUID, as X-Trace-Id says it", text)
	}
	return id, nil
}

// shortDuration is a duration without zeros at its end: 24h, not 24h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
