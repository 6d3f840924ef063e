package breaker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	"github.com/tenantgate/tenantgate/internal/clock"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "breakers",
		Usage:     "list|watch|open|close|reset|auto",
		Short:     "Shows the circuit breakers of a running gateway and gives them orders",
		CobraFunc: func(cmd *cobra.Command) { addBreakerCommands(cmd, clock.System{}) },
	})
}

const (
	// listTimeout and orderTimeout bound a call of the admin API. An order for
	// thousands of circuits takes seconds.
	listTimeout  = 5 * time.Second
	orderTimeout = time.Minute
	// minInterval is the shortest time between two looks of watch.
	minInterval = 100 * time.Millisecond
)

// breakerCommands is the flags that all of them share.
type breakerCommands struct {
	address, config, adapter, output string
	clock                            clock.Clock
}

// addBreakerCommands makes cmd the parent of all of them.
func addBreakerCommands(cmd *cobra.Command, c clock.Clock) {
	b := &breakerCommands{clock: c}
	cmd.Long = `Shows the circuit breakers of a running gateway, and forces them open or closed.
With redis an order to one gateway holds on all of them.

It talks to the gateway's admin API, whose address is --address, else what the
configuration --config says, else $TENANTGATE_ADMIN, else localhost:2019.

Exit codes: 0 done, 1 it did not work, 2 wrong usage.`
	cmd.Example = `  tenantgate breakers list
  tenantgate breakers watch
  tenantgate breakers open billing --ttl 10m --reason "provider maintenance"
  tenantgate breakers auto billing`
	flags := cmd.PersistentFlags()
	flags.StringVar(&b.address, "address", "", "Address of the admin API: host:port or unix//path")
	flags.StringVar(&b.config, "config", "", "Configuration file that tells the address of the admin API")
	flags.StringVar(&b.adapter, "adapter", "", "Config adapter of that file (default: caddyfile, unless its name ends in .json)")
	flags.StringVar(&b.output, "output", operator.OutputText, "Form of the output: text or json")
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = b.run(func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return operator.Usagef("say what to do: list, watch, open, close, reset or auto; see %s --help", cmd.CommandPath())
		}
		return operator.Usagef("unknown command %q: use list, watch, open, close, reset or auto", args[0])
	})
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return fail(cmd, operator.UsageError{Err: err}) })
	cmd.AddCommand(b.listCommand(), b.watchCommand())
	for _, o := range orderCommands {
		cmd.AddCommand(b.orderCommand(o))
	}
}

// run wraps what a command does so that its error is one line on stderr and its
// kind the exit code.
func (b *breakerCommands) run(do func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := operator.CheckOutput(b.output); err != nil {
			return fail(cmd, err)
		}
		if err := do(cmd, args); err != nil {
			return fail(cmd, err)
		}
		return nil
	}
}

// fail tells of an error and returns one that makes Caddy's main function end
// with exit code 2 after wrong usage and else with 1, without telling more.
func fail(cmd *cobra.Command, err error) error {
	cmd.PrintErrln("Error: " + operator.Printable(err.Error()))
	code := 1
	if errors.As(err, new(operator.UsageError)) {
		code = operator.WrongUsage
	}
	return operator.Exit(cmd, err, code)
}

// nameArgument returns the one argument, which must be a breaker's name, or ""
// if it may be missing and is.
func nameArgument(args []string, optional bool) (string, error) {
	switch {
	case len(args) == 0 && optional:
		return "", nil
	case len(args) != 1:
		return "", operator.Usagef("give the name of one breaker; `tenantgate breakers list` shows them")
	}
	if err := checkName(args[0]); err != nil {
		return "", operator.UsageError{Err: err}
	}
	return args[0], nil
}

func (b *breakerCommands) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list [<name>]",
		Short: "Shows all circuits, or those of one breaker with its settings",
		Long: `Shows every circuit that the gateway knows: its own, and those of other gateways
that are not plainly closed. LEFT is the rest of the open period or of an order.`,
		Example: `  tenantgate breakers list
  tenantgate breakers list billing --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: b.run(func(cmd *cobra.Command, args []string) error {
			name, err := nameArgument(args, true)
			if err != nil {
				return err
			}
			ctx, stop := operator.Interruptible(cmd)
			defer stop()
			l, err := b.list(ctx, name)
			if err != nil {
				return err
			}
			return b.print(cmd.OutOrStdout(), l)
		}),
	}
}

func (b *breakerCommands) watchCommand() *cobra.Command {
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "watch [<name>]",
		Short: "Shows the circuits until Ctrl-C: on a terminal the table, else a line per change",
		Long: `Looks at the circuits every --interval. On a terminal it shows the table anew each
time. Otherwise it prints a line for each circuit that is not closed at first, and
then one for each change that it sees; with --output json a JSON object a line.

Ctrl-C ends it, with exit code 0.`,
		Example: `  tenantgate breakers watch
  tenantgate breakers watch billing --output json >>breakers.jsonl`,
		Args: cobra.ArbitraryArgs,
	}
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "Time between two looks, at least 100ms")
	cmd.RunE = b.run(func(cmd *cobra.Command, args []string) error {
		name, err := nameArgument(args, true)
		if err != nil {
			return err
		}
		if interval < minInterval {
			return operator.Usagef("--interval %s: give at least %s", interval, minInterval)
		}
		ctx, stop := operator.Interruptible(cmd)
		defer stop()
		out := cmd.OutOrStdout()
		var s screen = &changes{out: out, json: b.output == operator.OutputJSON, clock: b.clock}
		if b.output == operator.OutputText && operator.IsTerminal(out) {
			s = &fullScreen{out: out, colours: operator.Coloured(out), interval: interval, size: func() (int, int) { return sizeOf(out) }}
		}
		return b.watch(ctx, name, interval, s)
	})
	return cmd
}

// orderCommand is one of open, close, reset and auto.
type orderCommand struct {
	verb, short, long string
	hasTTL            bool
}

var orderCommands = []orderCommand{
	{"open", "Forces circuits open: their upstreams get no requests", "Holds until auto, reset or close, or until --ttl is over; then the circuit is closed.", true},
	{"close", "Forces circuits closed: failures don't open them", "Holds until auto, reset or open, or until --ttl is over.", true},
	{"reset", "Closes circuits and forgets their failures and orders", "From then on the circuit follows the failures again.", false},
	{"auto", "Lifts an order: circuits follow the failures again", "A circuit that was forced is closed then; one that was not stays as it is.", false},
}

func (b *breakerCommands) orderCommand(o orderCommand) *cobra.Command {
	var body order
	cmd := &cobra.Command{
		Use:   o.verb + " <name>",
		Short: o.short,
		Long: o.short + ".\n" + o.long + `

It is for all circuits of the breaker that are known, or for those of one upstream
with --upstream and of one tenant with --tenant. An upstream that has seen no
request yet must be named.`,
		Example: "  tenantgate breakers " + o.verb + " billing\n  tenantgate breakers " + o.verb + " billing --upstream 10.0.0.1:8080 --actor ann --reason \"ticket 4711\"",
		Args:    cobra.ArbitraryArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&body.Upstream, "upstream", "", "Only this upstream, as the list shows it")
	flags.StringVar(&body.Tenant, "tenant", "", "Only this tenant, for breakers with the scope upstream+tenant")
	flags.StringVar(&body.Actor, "actor", cmp.Or(os.Getenv("USER"), os.Getenv("LOGNAME")), "Who orders it, for the log (default: $USER)")
	reason := "Why, for the log"
	if o.hasTTL {
		reason += " and, as long as it holds, the list"
	}
	flags.StringVar(&body.Reason, "reason", "", reason)
	flags.Lookup("actor").DefValue = "" // not whoever made the manual
	if o.hasTTL {
		cmd.Example += "\n  tenantgate breakers " + o.verb + " billing --ttl 10m"
		flags.StringVar(&body.TTL, "ttl", "", "How long it holds, such as 10m (default: until it is lifted)")
	}
	cmd.RunE = b.run(func(cmd *cobra.Command, args []string) error {
		name, err := nameArgument(args, false)
		if err != nil {
			return err
		}
		if body.TTL != "" {
			if _, err := parseTTL(body.TTL); err != nil {
				return operator.UsageError{Err: fmt.Errorf("--%w", err)}
			}
		}
		ctx, stop := operator.Interruptible(cmd)
		defer stop()
		l, err := b.order(ctx, name, o.verb, body)
		if err != nil {
			return err
		}
		return b.print(cmd.OutOrStdout(), l)
	})
	return cmd
}

// print writes an answer in the form that is wanted.
func (b *breakerCommands) print(w io.Writer, l listing) error {
	var out bytes.Buffer
	if b.output == operator.OutputJSON {
		if err := operator.WriteJSON(&out, l, "  "); err != nil {
			return err
		}
	} else {
		writeText(&out, l, operator.Coloured(w))
	}
	_, err := out.WriteTo(w)
	return err
}

// list asks for all circuits or those of one breaker.
func (b *breakerCommands) list(ctx context.Context, name string) (listing, error) {
	path := adminPath
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return b.call(ctx, http.MethodGet, path, nil)
}

// order gives an order.
func (b *breakerCommands) order(ctx context.Context, name, verb string, o order) (listing, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return listing{}, err
	}
	return b.call(ctx, http.MethodPost, adminPath+"/"+url.PathEscape(name)+"/"+verb, body)
}

// call calls the admin API.
func (b *breakerCommands) call(ctx context.Context, method, path string, body []byte) (l listing, err error) {
	address, err := b.adminAddress()
	if err != nil {
		return l, err
	}
	client := operator.Client{
		Address: address, Flag: "--address", Named: strconv.Quote(address),
		Subject: "breakers", Hint: " give its address with --address or --config", Timeout: listTimeout,
	}
	if method == http.MethodPost {
		client.Timeout = orderTimeout
	}
	err = client.Call(ctx, method, path, body, func(answer []byte) bool {
		return json.Unmarshal(answer, &l) == nil && l.Mode != ""
	})
	if err != nil && strings.Contains(err.Error(), listedByAPI) {
		err = errors.New(strings.ReplaceAll(err.Error(), listedByAPI, listedByCommand))
	}
	return l, err
}

// adminAddress returns the address of the admin API.
func (b *breakerCommands) adminAddress() (string, error) {
	switch {
	case b.address != "":
		return b.address, nil
	case b.config == "":
		return cmp.Or(os.Getenv("TENANTGATE_ADMIN"), caddy.DefaultAdminListen), nil
	}
	// Caddy's own way to load a file writes log lines.
	content, err := os.ReadFile(b.config)
	if err != nil {
		return "", operator.UsageError{Err: fmt.Errorf("--config: %w", err)}
	}
	adapter := b.adapter
	if adapter == "" && filepath.Ext(b.config) != ".json" {
		adapter = "caddyfile"
	}
	if adapter != "" {
		a := caddyconfig.GetAdapter(adapter)
		if a == nil {
			return "", operator.Usagef("--adapter %s: there is no such config adapter", adapter)
		}
		if content, _, err = a.Adapt(content, map[string]any{"filename": b.config}); err != nil {
			return "", fmt.Errorf("--config: %w", err)
		}
	}
	var config struct {
		Admin struct {
			Disabled bool   `json:"disabled"`
			Listen   string `json:"listen"`
		} `json:"admin"`
	}
	if err := json.Unmarshal(content, &config); err != nil {
		return "", fmt.Errorf("--config: %s is not JSON: %w", b.config, err)
	}
	if config.Admin.Disabled {
		return "", fmt.Errorf("--config: %s turns the admin API off: remove `admin off`", b.config)
	}
	listen, err := caddy.NewReplacer().ReplaceOrErr(config.Admin.Listen, true, true)
	if err != nil {
		return "", fmt.Errorf("--config: admin: %w", err)
	}
	return cmp.Or(listen, caddy.DefaultAdminListen), nil
}

// sizeOf returns the columns and rows of a terminal, 0 if nobody knows.
func sizeOf(w io.Writer) (columns, rows int) {
	if file, ok := w.(*os.File); ok {
		columns, rows, _ = term.GetSize(int(file.Fd())) // 0 and 0 with an error
	}
	return columns, rows
}
