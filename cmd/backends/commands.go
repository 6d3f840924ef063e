package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/password"
)

// newRoot returns the command tree.
func newRoot(env environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "backends",
		Short: "Runs Tenantgate's auth, tenant and invitation services",
		Long: `Runs Tenantgate's auth, tenant and invitation services and keeps their store.
Settings are environment variables: "backends serve --help" lists them.

Exit codes: 0 done, 1 failed, 2 wrong usage. An error is one line on stderr.`,
		Version:           version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("unknown command %q: see backends --help", args[0])}
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(serveCommand(env), migrateCommand(env), copyCommand(), bootstrapCommand(env), seedCommand(env), rotateCommand(env),
		expireCommand(env), retryCommand(env))
	return root
}

// noArgs refuses arguments as wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q: see %s --help", args[0], cmd.CommandPath())}
	}
	return nil
}

// printer prints a command's result as text or JSON.
type printer struct{ format string }

// addTo adds --output to cmd.
func (p *printer) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&p.format, "output", "o", "text", "Form of the result: text or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if p.format != "text" && p.format != "json" {
			return &usageError{fmt.Errorf("--output %s: use text or json", p.format)}
		}
		return nil
	}
}

// print writes text, or result as one line of JSON.
func (p *printer) print(cmd *cobra.Command, text string, result any) error {
	if p.format == "json" {
		encoded, err := json.Marshal(result)
		if err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
		text = string(encoded)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// openStore opens the store of the settings for a command that needs its
// schema to be up to date. It makes no file where there is none.
func openStore(cmd *cobra.Command, env environment) (*database.DB, app.Config, error) {
	config, err := readSettings(env)
	if err != nil {
		return nil, config, err
	}
	db, err := openReady(cmd.Context(), config.DatabaseURL)
	return db, config, ofDatabase(err)
}

// readSettings returns the settings. The error names what can't be read, and
// DATABASE_URL if it can't be the URL of a store.
func readSettings(env environment) (app.Config, error) {
	config, err := app.FromEnv(env.lookup)
	return config, errors.Join(err, ofDatabase(database.CheckURL(config.DatabaseURL)))
}

// ofDatabase puts the setting before an error of opening the store.
func ofDatabase(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("DATABASE_URL: %w", err)
}

// openReady opens a store whose schema is up to date. It makes no file where
// there is none.
func openReady(ctx context.Context, url string) (*database.DB, error) {
	look, err := database.OpenReadOnly(url, clock.System{})
	if err != nil {
		return nil, err
	}
	err = look.CheckSchema(ctx)
	_ = look.Close()
	if err != nil {
		return nil, err
	}
	return database.Open(ctx, url, clock.System{})
}

func serveCommand(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serves all three services until SIGTERM or Ctrl-C",
		Long: `Serves the auth, tenant and invitation services in one process. On SQLite the
schema is brought up to date first; on PostgreSQL "backends migrate" must have
done so. Lines are JSON on stdout, and in Loki with LOKI_URL. SIGTERM or Ctrl-C lets requests in flight
end, then the exit code is 0. GET /healthz on each address answers 200 while
the store does.

Settings (environment variables; a secret may be given as NAME_FILE instead):

` + settingsHelp(),
		Example: `  MAIL_DIR=./mail backends serve
  DATABASE_URL=sqlite:///var/lib/tenantgate/tenantgate.db PUBLIC_URL=https://app.example.com \
    SMTP_URL=smtp://mail.example.com:587 MAIL_FROM='Acme <no-reply@acme.com>' backends serve`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readSettings(env)
			if err != nil {
				return errors.Join(err, config.Validate())
			}
			if err := config.Validate(); err != nil {
				return err
			}
			out, endShipping, err := config.Ship(zapcore.Lock(zapcore.AddSync(cmd.OutOrStdout())))
			if err != nil {
				return err
			}
			defer endShipping()
			log := logging.New("backends", out, config.LogLevel)
			services, err := app.New(cmd.Context(), config, log)
			if err != nil {
				return err
			}
			return services.Run(cmd.Context())
		},
	}
}

// settingsHelp is the table of settings for a terminal.
func settingsHelp() string {
	var table strings.Builder
	for _, s := range app.Settings() {
		value := s.Default
		if value == "" {
			value = "(not set)"
		}
		fmt.Fprintf(&table, "  %-28s %-24s %s\n", s.Name, value, strings.ReplaceAll(s.Help, "`", ""))
	}
	return strings.TrimSuffix(table.String(), "\n")
}

func seedCommand(env environment) *cobra.Command {
	var out printer
	var demo bool
	cmd := &cobra.Command{
		Use:     "seed --demo",
		Short:   "Fills an empty store with the demo tenants and users",
		Long:    "Adds the demo: tenants acme and globex, their users and the product abc. A store that\nholds a tenant already is left as it is. Everybody knows the demo's password.",
		Example: "  backends migrate && backends seed --demo",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !demo {
				return &usageError{errors.New("say --demo: there is no other data to seed")}
			}
			db, config, err := openStore(cmd, env)
			if err != nil {
				return err
			}
			added, err := seed.AddDemo(cmd.Context(), db, password.NewHasher(config.HashParallel))
			if err := errors.Join(err, db.Close()); err != nil {
				return err
			}
			text := "The demo is ready: log in as admin@acme.test with the password: " + seed.Password
			if !added {
				text = "Nothing was changed: the store holds tenants already."
			}
			return out.print(cmd, text, map[string]any{"seeded": added})
		},
	}
	cmd.Flags().BoolVar(&demo, "demo", false, "Seed the demo installation")
	out.addTo(cmd)
	return cmd
}

func rotateCommand(env environment) *cobra.Command {
	var out printer
	var force bool
	cmd := &cobra.Command{
		Use:   "rotate-keys",
		Short: "Makes the next signing key the current one",
		Long: `Makes the next signing key of the auth service the current one, keeps the old one for
the tokens that it signed, and adds a new next one. Running services and gateways follow
by themselves. A second rotation within an hour is refused, because tokens of the key
before would stop working; --force does it all the same.`,
		Example: "  backends rotate-keys --output json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, config, err := openStore(cmd, env)
			if err != nil {
				return err
			}
			done, err := auth.RotateKeys(cmd.Context(), db, auth.RotateOptions{KeySecret: config.KeySecret, Force: force})
			if err := errors.Join(err, db.Close()); err != nil {
				return err
			}
			return out.print(cmd, fmt.Sprintf("current  %s\nnext     %s\nprevious %s", done.Current, done.Next, done.Previous), done)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "Rotate even if the last rotation was less than an hour ago")
	out.addTo(cmd)
	return cmd
}

func expireCommand(env environment) *cobra.Command {
	var out printer
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "mark-expired-invitations",
		Aliases: []string{"mark_expired_invitations"},
		Short:   "Marks invitations that lapsed as expired and deletes old ones",
		Long: `Writes down which invitations have expired, and deletes those that ended long ago: accepted,
cancelled or expired, with an expiry time that is INVITATION_RETENTION ago (2160h if not set,
0 keeps all). Expired ones can't be accepted in any case, and "backends serve" does the same
every minute: this command is for installations that want it from cron. It works in small
batches and may run beside live traffic.`,
		Example: "  backends mark-expired-invitations --dry-run",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, config, err := openStore(cmd, env)
			if err != nil {
				return err
			}
			var expired, deleted int
			hook, err := config.Webhook(db, nil)
			if err == nil {
				expired, err = invitation.MarkExpired(cmd.Context(), db, hook, dryRun)
			}
			if err == nil {
				deleted, err = invitation.PurgeEnded(cmd.Context(), db, config.InvitationRetention, dryRun)
			}
			if err := errors.Join(err, db.Close()); err != nil {
				return err
			}
			text := fmt.Sprintf("Expired invitations marked: %d\nOld invitations deleted: %d", expired, deleted)
			if dryRun {
				text = fmt.Sprintf("Expired invitations to mark: %d\nOld invitations to delete: %d", expired, deleted)
			}
			return out.print(cmd, text, map[string]any{"expired": expired, "deleted": deleted, "dry_run": dryRun})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Only count them")
	out.addTo(cmd)
	return cmd
}

func retryCommand(env environment) *cobra.Command {
	var out printer
	cmd := &cobra.Command{
		Use:   "retry-webhooks",
		Short: "Sends the webhook events again that were given up",
		Long: `Makes the webhook events due again that the receiver did not take in ten attempts, or did not
want (410). "backends serve" sends them within seconds, with ten new attempts each. Events
that are still being tried are left as they are.`,
		Example: "  backends retry-webhooks",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, _, err := openStore(cmd, env)
			if err != nil {
				return err
			}
			due, err := webhook.Retry(cmd.Context(), db)
			if err := errors.Join(err, db.Close()); err != nil {
				return err
			}
			return out.print(cmd, fmt.Sprintf("Webhook events made due again: %d", due), map[string]any{"due": due})
		},
	}
	out.addTo(cmd)
	return cmd
}
