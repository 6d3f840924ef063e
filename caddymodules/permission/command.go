package permission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/user"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "permissions",
		Usage:     "explain|can-user|who-can|import|export|diff|check|history",
		Short:     "Asks and changes the permission table: who may do what, and why",
		CobraFunc: func(cmd *cobra.Command) { addPermissionCommands(cmd, clock.System{}) },
	})
}

// defaultDatabase is the database of the root Caddyfile.
const defaultDatabase = "sqlite://tenantgate.db"

// The exit codes. Where "no" is an answer it is exitNo, and what went wrong is
// exitTrouble.
const (
	exitNo      = 1
	exitTrouble = 2
)

// errNo is the answer "no", which was told.
var errNo = errors.New("no")

// permissionCommands is the flags that all of them share.
type permissionCommands struct {
	database, output string
	clock            clock.Clock
}

// addPermissionCommands makes cmd the parent of all of them.
func addPermissionCommands(cmd *cobra.Command, c clock.Clock) {
	p := &permissionCommands{clock: c}
	cmd.Long = `Asks the permission table who may do what and why, and changes it by files.

It reads the database itself: --database, else $DATABASE_URL, else
` + defaultDatabase + `. explain, can-user and who-can ask a running gateway
with --gateway: it answers by the table that it decides by at this moment.

Exit codes: 0 done, 1 it did not work, 2 wrong usage or a file that can't be used.
can-user, diff and check answer by them: 0 yes, no difference, all as expected;
1 no, differences, something is not as expected; 2 for any trouble.`
	cmd.Example = `  tenantgate permissions explain abc/reports/read --tenant acme --user ann@acme.test
  tenantgate permissions who-can abc/reports/delete --tenant acme
  tenantgate permissions export --members >policy.yaml
  tenantgate permissions diff policy.yaml
  tenantgate permissions import policy.yaml`
	flags := cmd.PersistentFlags()
	flags.StringVar(&p.database, "database", "", "URL of the database (default $DATABASE_URL, else "+defaultDatabase+")")
	flags.StringVar(&p.output, "output", operator.OutputText, "Form of the output: text or json")
	cmd.Args = cobra.ArbitraryArgs
	const verbs = "explain, can-user, who-can, import, export, diff, check or history"
	cmd.RunE = p.run(1, func(_ context.Context, cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return operator.Usagef("say what to do: %s; see %s --help", verbs, cmd.CommandPath())
		}
		return operator.Usagef("unknown command %q: use %s", args[0], verbs)
	})
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fail(cmd, operator.UsageError{Err: err}, exitTrouble)
	})
	cmd.AddCommand(p.explainCommand(), p.canUserCommand(), p.whoCanCommand(), p.importCommand(),
		p.exportCommand(), p.diffCommand(), p.checkCommand(), p.historyCommand())
}

// run wraps what a command does so that each error is one line on stderr and its
// kind the exit code; trouble is the one of an error that is nobody's mistake.
func (p *permissionCommands) run(trouble int, do func(context.Context, *cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := operator.CheckOutput(p.output); err != nil {
			return fail(cmd, err, trouble)
		}
		ctx, stop := operator.Interruptible(cmd)
		defer stop()
		if err := do(ctx, cmd, args); err != nil {
			return fail(cmd, err, trouble)
		}
		return nil
	}
}

// fail tells of an error and returns one that makes Caddy's main function end
// with its exit code, without telling more.
func fail(cmd *cobra.Command, err error, code int) error {
	var mistakes policy.Mistakes
	switch {
	case errors.Is(err, errNo):
		code = exitNo
	case errors.As(err, &mistakes):
		for _, m := range mistakes {
			cmd.PrintErrln("Error: " + operator.Printable(m.String()))
		}
		code = exitTrouble
	default:
		cmd.PrintErrln("Error: " + operator.Printable(strings.Join(strings.Fields(err.Error()), " ")))
		if errors.As(err, new(operator.UsageError)) {
			code = exitTrouble
		}
	}
	return operator.Exit(cmd, err, code)
}

// open opens the database, which must have the right schema, for reading. It
// makes no file where there is none. Errors begin with what named the database.
func (p *permissionCommands) open(ctx context.Context) (*database.DB, error) {
	url, setting := p.url()
	db, err := database.OpenReadOnly(url, p.clock)
	if err != nil {
		return nil, operator.UsageError{Err: fmt.Errorf("%s: %w", setting, err)}
	}
	if err := db.CheckSchema(ctx); err != nil {
		_ = db.Close() // only read
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return db, nil
}

// url returns the URL of the database and what set it.
func (p *permissionCommands) url() (url, setting string) {
	if p.database != "" {
		return p.database, "--database"
	}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, "DATABASE_URL"
	}
	return defaultDatabase, "neither --database nor DATABASE_URL is set"
}

// read calls f in a read transaction.
func (p *permissionCommands) read(ctx context.Context, f func(identity.Queryer) error) error {
	db, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // only read
	return policy.Read(ctx, db, f)
}

// askFlags is the flags of explain and can-user.
type askFlags struct {
	tenant, user, role, gateway string
	permissionFlags
}

// permissionFlags is a permission in three flags.
type permissionFlags struct{ product, feature, action string }

func (f *permissionFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.product, "product", "", "The product, instead of product/feature/action")
	flags.StringVar(&f.feature, "feature", "", "The feature, with --product")
	flags.StringVar(&f.action, "action", "", "The action, with --product")
}

// read returns the permission of the one argument or the three flags.
func (f *permissionFlags) read(args []string) (core.Permission, error) {
	named := f.product != "" || f.feature != "" || f.action != ""
	text := f.product + "/" + f.feature + "/" + f.action
	switch {
	case len(args) > 1 || len(args) == 1 && named || len(args) == 0 && !named:
		return core.Permission{}, operator.Usagef("give one permission, such as abc/reports/read, or --product, --feature and --action")
	case len(args) == 1:
		text = args[0]
	}
	one, err := core.ParsePermission(text)
	if err != nil {
		return one, operator.UsageError{Err: err}
	}
	return one, nil
}

func (q *askFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&q.tenant, "tenant", "", "The tenant, by name or id")
	flags.StringVar(&q.user, "user", "", "The user, by e-mail address or id (id:… if it has an @)")
	flags.StringVar(&q.role, "role", "", "Instead of --user: anybody with this role")
	addGateway(cmd, &q.gateway)
	q.permissionFlags.addTo(cmd)
}

func addGateway(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "gateway", "", "Ask the running gateway with this admin API: host:port or unix//path")
}

// ask answers the question, from the database or by a gateway.
func (p *permissionCommands) ask(ctx context.Context, q askFlags, args []string) (a policy.Answer, err error) {
	ask := policy.Question{Tenant: q.tenant, User: q.user, Role: q.role}
	if ask.Permission, err = q.read(args); err != nil {
		return a, err
	}
	if err := checkQuestion(ask); err != nil {
		return a, operator.UsageError{Err: fmt.Errorf("%w: --tenant, and --user or --role", err)}
	}
	if q.gateway != "" {
		query := url.Values{"tenant": {ask.Tenant}, "permission": {ask.Permission.String()}}
		if ask.User != "" {
			query.Set("user", ask.User)
		} else {
			query.Set("role", ask.Role)
		}
		return a, askGateway(ctx, q.gateway, "/explain", query, &a)
	}
	err = p.desk(ctx, func(d policy.Desk) error {
		a, err = d.Explain(ctx, ask)
		return err
	})
	return a, err
}

// desk calls f with the table of the database.
func (p *permissionCommands) desk(ctx context.Context, f func(policy.Desk) error) error {
	db, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // only read
	snapshot, err := core.Load(ctx, db, nil)
	if err != nil {
		return err
	}
	return f(policy.Desk{Snapshot: snapshot, Names: db.Reader()})
}

func (p *permissionCommands) explainCommand() *cobra.Command {
	var q askFlags
	cmd := &cobra.Command{
		Use:   "explain <product/feature/action>",
		Short: "Says whether a user may do something, and which row of the table decides it",
		Long: `Says whether a user may do something in a tenant, and which row of the table
decides it: by which role, by which it inherits, by which permission or wildcard.
For a denial it says what is missing and which roles of the tenant would do.

Exit code 0 for either answer.`,
		Example: `  tenantgate permissions explain abc/reports/read --tenant acme --user ann@acme.test
  tenantgate permissions explain --tenant 1 --user 0192f0c1-… --product abc --feature reports --action read
  tenantgate permissions explain abc/reports/read --tenant acme --role Editor --gateway localhost:2019 --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitNo, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			a, err := p.ask(ctx, q, args)
			if err != nil {
				return err
			}
			return p.print(cmd.OutOrStdout(), a, func(w io.Writer) error { return writeLines(w, a.Text) })
		}),
	}
	q.addTo(cmd)
	return cmd
}

func (p *permissionCommands) canUserCommand() *cobra.Command {
	var q askFlags
	cmd := &cobra.Command{
		Use:   "can-user <product/feature/action>",
		Short: "Answers yes or no by its exit code",
		Long: `Answers whether a user may do something in a tenant: prints allowed or denied.

Exit codes: 0 allowed, 1 denied, 2 there is no answer: no such tenant or user, no
database, wrong usage.`,
		Example: `  tenantgate permissions can-user abc/reports/delete --tenant acme --user ann@acme.test && echo yes
  tenantgate permissions can-user --tenant 1 --user ann@acme.test --product abc --feature reports --action read --gateway localhost:2019`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitTrouble, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			a, err := p.ask(ctx, q, args)
			if err != nil {
				return err
			}
			text := "denied: " + string(a.Reason)
			if a.Allowed {
				text = "allowed: " + a.Rule
			}
			err = p.print(cmd.OutOrStdout(), canUserView{a.Allowed, a.Reason, a.Rule, a.Seq}, func(w io.Writer) error { return writeLines(w, text) })
			if err == nil && !a.Allowed {
				err = errNo
			}
			return err
		}),
	}
	q.addTo(cmd)
	return cmd
}

func (p *permissionCommands) whoCanCommand() *cobra.Command {
	var (
		tenant, gateway string
		flags           permissionFlags
	)
	cmd := &cobra.Command{
		Use:   "who-can <product/feature/action>",
		Short: "Lists the users who may do something in a tenant, and by which rule",
		Long:  "Lists the active members of a tenant who may do something, and by which rule.",
		Example: `  tenantgate permissions who-can abc/reports/delete --tenant acme
  tenantgate permissions who-can tenantgate/platform/write --tenant 1 --gateway localhost:2019 --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitNo, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			one, err := flags.read(args)
			if err != nil {
				return err
			}
			if tenant == "" {
				return operator.Usagef("give the tenant by name or id: --tenant")
			}
			var h policy.Holders
			if gateway != "" {
				err = askGateway(ctx, gateway, "/who-can", url.Values{"tenant": {tenant}, "permission": {one.String()}}, &h)
			} else {
				err = p.desk(ctx, func(d policy.Desk) error {
					h, err = d.WhoCan(ctx, tenant, one)
					return err
				})
			}
			if err != nil {
				return err
			}
			return p.print(cmd.OutOrStdout(), h, func(w io.Writer) error { return writeHolders(w, h) })
		}),
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "The tenant, by name or id")
	addGateway(cmd, &gateway)
	flags.addTo(cmd)
	return cmd
}

// print writes v as JSON or, by text, for a person.
func (p *permissionCommands) print(w io.Writer, v any, text func(io.Writer) error) error {
	if p.output == operator.OutputJSON {
		return operator.WriteJSON(w, v, "  ")
	}
	return text(w)
}

// maxInput bounds what is read of a file: one byte more than is allowed.
const maxInput = policy.MaxSize + 1

// readInput reads a file, or with "-" what comes on stdin.
func readInput(cmd *cobra.Command, path string) (name string, content []byte, err error) {
	if path == "-" {
		content, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxInput))
		return "stdin", content, err
	}
	file, err := os.Open(path)
	if err != nil {
		return path, nil, operator.UsageError{Err: err}
	}
	defer file.Close()
	if content, err = io.ReadAll(io.LimitReader(file, maxInput)); err != nil {
		err = operator.UsageError{Err: err}
	}
	return path, content, err
}

// readPolicy reads a policy file.
func readPolicy(cmd *cobra.Command, path string) (file policy.File, err error) {
	name, content, err := readInput(cmd, path)
	if err != nil {
		return file, err
	}
	file.Name = name
	file.Policy, err = policy.Parse(name, content)
	return file, err
}

// importView is the answer of import.
type importView struct {
	DryRun bool `json:"dry_run"`
	policy.Difference
}

const pruneUsage = "Remove what is not in the file of what it lists: features, roles, members"

func (p *permissionCommands) importCommand() *cobra.Command {
	var prune, dryRun bool
	cmd := &cobra.Command{
		Use:   "import <file>|-",
		Short: "Makes the permission table what a file says",
		Long: `Makes the permission table what a file says, in one transaction: products,
features and tenants that are listed exist, roles that are listed hold exactly
what is listed, members have the roles that are listed. What the file does not
name stays; with --prune other features go, and in tenants whose roles or members
are listed other roles or members. Tenants are never removed.

It prints what changed and what that means for members. The audit log names
you as cli:<your name>. Running gateways follow at once.

Refused are files with any mistake, and changes after which nobody could manage a
tenant's members or the installation.`,
		Example: `  tenantgate permissions import policy.yaml --dry-run
  tenantgate permissions import policy.yaml
  tenantgate permissions export --tenant acme | sed s/acme/initech/ | tenantgate permissions import -`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitNo, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return operator.Usagef("give one file, or - to read it from stdin")
			}
			file, err := readPolicy(cmd, args[0])
			if err != nil {
				return err
			}
			file.Prune = prune
			view := importView{DryRun: dryRun}
			if view.Difference, err = p.importFile(ctx, file, dryRun); err != nil {
				return err
			}
			return p.print(cmd.OutOrStdout(), view, view.write)
		}),
	}
	cmd.Flags().BoolVar(&prune, "prune", false, pruneUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Do, check and print it all, and take it back")
	return cmd
}

func (v importView) write(w io.Writer) error {
	last := "imported"
	switch {
	case v.Same():
		return writeLines(w, "nothing to change")
	case v.DryRun:
		last = "nothing was changed: --dry-run"
	}
	if err := writeDifference(w, v.Difference); err != nil {
		return err
	}
	return writeLines(w, "", last)
}

func (p *permissionCommands) importFile(ctx context.Context, file policy.File, dryRun bool) (d policy.Difference, err error) {
	look, err := p.open(ctx)
	if err != nil {
		return d, err
	}
	_ = look.Close() // only read
	url, setting := p.url()
	db, err := database.Open(ctx, url, p.clock)
	if err != nil {
		return d, fmt.Errorf("%s: %w", setting, err)
	}
	d, err = policy.Import(ctx, db, file, "cli:"+whoRuns(), dryRun)
	return d, errors.Join(err, db.Close())
}

// whoRuns returns who runs the command.
func whoRuns() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return operator.Printable(cmp.Or(name, "unknown"))
}

func (p *permissionCommands) exportCommand() *cobra.Command {
	var (
		tenants []string
		members bool
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Writes the permission table as a file",
		Long: `Writes the permission table as a file that import reads: the whole installation, or
the catalogue and the tenants of --tenant. It is sorted: equal tables are equal
files, so that it can be kept in version control. --output json is the same in
JSON, which import reads too.`,
		Example: `  tenantgate permissions export --members >policy.yaml
  tenantgate permissions export --tenant acme --tenant 2 --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitNo, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return operator.Usagef("unexpected argument %q: name tenants with --tenant", args[0])
			}
			var out []byte
			err := p.read(ctx, func(q identity.Queryer) (err error) {
				out, err = exportFrom(ctx, q, tenants, members)
				return err
			})
			if err != nil {
				return err
			}
			if p.output == operator.OutputJSON {
				return writeYAMLAsJSON(cmd.OutOrStdout(), out)
			}
			_, err = cmd.OutOrStdout().Write(out) // YAML escapes what a terminal would obey
			return err
		}),
	}
	cmd.Flags().StringArrayVar(&tenants, "tenant", nil, "Only this tenant, by name or id; may be given several times")
	cmd.Flags().BoolVar(&members, "members", false, "With the members and their roles")
	return cmd
}

// writeYAMLAsJSON writes a policy file in JSON.
func writeYAMLAsJSON(w io.Writer, content []byte) error {
	var v any
	if err := yaml.Unmarshal(content, &v); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	return operator.WriteJSON(w, v, "  ")
}

func (p *permissionCommands) diffCommand() *cobra.Command {
	var prune bool
	cmd := &cobra.Command{
		Use:   "diff <file> [<other file>]",
		Short: "Says what a file would change in the database, or what differs between two files",
		Long: `Says what import would change and what that means for members, or what differs from
one file to another.

Exit codes: 0 no difference, 1 differences, 2 it did not work.`,
		Example: `  tenantgate permissions diff policy.yaml
  tenantgate permissions diff policy.yaml --prune --output json
  tenantgate permissions diff before.yaml after.yaml`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitTrouble, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return operator.Usagef("give one file, or two to compare them")
			}
			if len(args) == 2 && prune {
				return operator.Usagef("--prune is for a file and the database: leave it out")
			}
			d, err := p.diff(ctx, cmd, args, prune)
			if err != nil {
				return err
			}
			err = p.print(cmd.OutOrStdout(), d, func(w io.Writer) error { return writeDifference(w, d) })
			if err == nil && !d.Same() {
				err = errNo
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&prune, "prune", false, pruneUsage)
	return cmd
}

// diff compares a file with the database, or two files.
func (p *permissionCommands) diff(ctx context.Context, cmd *cobra.Command, args []string, prune bool) (d policy.Difference, err error) {
	file, err := readPolicy(cmd, args[0])
	if err != nil {
		return d, err
	}
	file.Prune = prune
	if len(args) == 1 {
		err = p.read(ctx, func(q identity.Queryer) error {
			plan, err := file.Against(ctx, q)
			if err == nil {
				d = plan.Difference
			}
			return err
		})
		return d, err
	}
	other, err := readPolicy(cmd, args[1])
	if err != nil {
		return d, err
	}
	return policy.Compare(file.Policy, other.Policy), nil
}

func (p *permissionCommands) checkCommand() *cobra.Command {
	var policyFile string
	cmd := &cobra.Command{
		Use:   "check <file>|-",
		Short: "Holds the table against a file of expectations",
		Long: `Holds the table against expectations: who must be allowed what, and who must not.
With --policy it asks that file and no database. A line fails too if it names a
permission, role or tenant that is not there.

  checks:
    - tenant: acme
      role: Viewer            # or user: ann@acme.test
      allow: [abc/dashboard/read]
      deny: [abc/dashboard/write, "tenantgate/*"]

A wildcard in allow: all that it names is allowed. In deny: nothing of it is.

Exit codes: 0 all as expected, 1 something is not, 2 it did not work.`,
		Example: `  tenantgate permissions check policy.checks.yaml
  tenantgate permissions check policy.checks.yaml --policy policy.yaml --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitTrouble, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return operator.Usagef("give one file of expectations, or - to read it from stdin")
			}
			report, err := p.check(ctx, cmd, args[0], policyFile)
			if err != nil {
				return err
			}
			err = p.print(cmd.OutOrStdout(), report, func(w io.Writer) error { return writeReport(w, report) })
			if err == nil && len(report.Failures) > 0 {
				err = errNo
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&policyFile, "policy", "", "Ask this policy file instead of the database")
	return cmd
}

// check holds a file of expectations against a policy file or the database.
func (p *permissionCommands) check(ctx context.Context, cmd *cobra.Command, path, policyFile string) (report policy.Report, err error) {
	name, content, err := readInput(cmd, path)
	if err != nil {
		return report, err
	}
	checks, err := policy.ParseChecks(name, content)
	if err != nil {
		return report, err
	}
	if policyFile == "" {
		err = p.read(ctx, func(q identity.Queryer) (err error) {
			report, err = checks.CheckDatabase(ctx, q)
			return err
		})
		return report, err
	}
	file, err := readPolicy(cmd, policyFile)
	if err != nil {
		return report, err
	}
	table, err := policy.Validate(file.Name, file.Policy)
	if err != nil {
		return report, err
	}
	return checks.Check(table), nil
}

// writeReport writes what is not as expected.
func writeReport(w io.Writer, report policy.Report) error {
	lines := make([]string, 0, len(report.Failures)+1)
	for _, failure := range report.Failures {
		lines = append(lines, failure.String())
	}
	return writeLines(w, append(lines, fmt.Sprintf("%d expectations, %d not met", report.Checked, len(report.Failures)))...)
}

func (p *permissionCommands) historyCommand() *cobra.Command {
	var (
		tenant, since string
		limit         int
	)
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Shows who changed the permission table, from the audit log",
		Long: `Shows who changed what in the permission table, from the audit log, the newest first:
tenants, roles, members, products and features.`,
		Example: `  tenantgate permissions history --tenant acme --since 7d
  tenantgate permissions history --since 2026-11-26 --limit 200 --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: p.run(exitNo, func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return operator.Usagef("unexpected argument %q: name the tenant with --tenant", args[0])
			}
			from, err := parseSince(since, p.clock)
			if err != nil {
				return operator.UsageError{Err: fmt.Errorf("--since %w", err)}
			}
			if limit < 1 || limit > policy.MaxHistory {
				return operator.Usagef("--limit %d: give a number from 1 to %d", limit, policy.MaxHistory)
			}
			var view eventsView
			err = p.read(ctx, func(q identity.Queryer) (err error) {
				view.Events, err = historyOf(ctx, q, tenant, from, limit)
				return err
			})
			if err != nil {
				return err
			}
			return p.print(cmd.OutOrStdout(), view, func(w io.Writer) error { return writeEvents(w, view.Events) })
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&tenant, "tenant", "", "Only this tenant, by name or id")
	flags.StringVar(&since, "since", "", "Only since then: 24h, 7d, 2026-11-26 or 2026-11-26T12:00:00Z")
	flags.IntVar(&limit, "limit", defaultLimit, "At most this many, the newest")
	return cmd
}
