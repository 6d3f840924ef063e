package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbcopy"
)

func migrateCommand(env environment) *cobra.Command {
	var out printer
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Brings the store's schema up to date",
		Long: `Brings the schema of the store of DATABASE_URL up to date and changes nothing that is. An
SQLite file is made if there is none; a PostgreSQL database must exist. Of several that run
at once, one migrates and the others wait for it.

On SQLite "backends serve" does it at every start. On PostgreSQL it does not: run this before
the new version starts.`,
		Example: `  DATABASE_URL=sqlite://tenantgate.db backends migrate
  DATABASE_URL=postgres://tenantgate:secret@db.internal/tenantgate backends migrate`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readSettings(env)
			if err != nil {
				return err
			}
			db, err := database.Open(cmd.Context(), config.DatabaseURL, clock.System{})
			if err != nil {
				return ofDatabase(err)
			}
			if err := errors.Join(db.Migrate(cmd.Context()), db.Close()); err != nil {
				return ofDatabase(err)
			}
			return out.print(cmd, "The schema is up to date.", map[string]any{"migrated": true})
		},
	}
	out.addTo(cmd)
	cmd.AddCommand(migrateStatusCommand(env))
	return cmd
}

// schemaStatus is what "migrate status" prints as JSON.
type schemaStatus struct {
	Current int64                `json:"current"`
	Newest  int64                `json:"newest"`
	Pending []database.Migration `json:"pending"`
}

func migrateStatusCommand(env environment) *cobra.Command {
	var out printer
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Says which version the store's schema has and what is to be done",
		Long:    "Prints the version of the schema in the store of DATABASE_URL, the newest that this program\nknows, and the migrations that lie between them. It changes nothing; exit code 0 also if\nsome are pending.",
		Example: "  backends migrate status --output json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readSettings(env)
			if err != nil {
				return err
			}
			db, err := database.OpenReadOnly(config.DatabaseURL, clock.System{})
			if err != nil {
				return ofDatabase(err)
			}
			schema, err := db.Schema(cmd.Context())
			if err := errors.Join(err, db.Close()); err != nil {
				return ofDatabase(err)
			}
			status := schemaStatus{schema.Have, schema.Want, append([]database.Migration{}, schema.Pending...)}
			return out.print(cmd, status.text(), status)
		},
	}
	out.addTo(cmd)
	return cmd
}

func (s schemaStatus) text() string {
	text := fmt.Sprintf("current %d\nnewest  %d", s.Current, s.Newest)
	switch {
	case s.Current > s.Newest:
		text += "\nThe schema is newer than this program: update the program."
	case len(s.Pending) == 0:
		text += "\nThe schema is up to date."
	}
	for _, m := range s.Pending {
		text += "\npending " + m.Name
	}
	return text
}

// copied is what "copy" prints as JSON.
type copied struct {
	Tables []dbcopy.Table `json:"tables"`
	Rows   int64          `json:"rows"`
}

func copyCommand() *cobra.Command {
	var out printer
	var from, to string
	cmd := &cobra.Command{
		Use:   "copy --from URL --to URL",
		Short: "Copies a whole store into an empty one, also from SQLite to PostgreSQL",
		Long: `Copies everything in one store into another: tenants, users, roles, sessions, signing keys,
invitations and the audit log, in any direction between SQLite and PostgreSQL. The target
must be empty and both schemas up to date ("backends migrate"). All of it is one transaction,
which ends only when every row was read back and compared: the target holds all or nothing.

Stop every program that writes to the source first, and start them on the target after it:
what is written meanwhile would be lost. Most of that is noticed, and then nothing is copied.

A password need not stand in a URL, where other users of the machine see it: PostgreSQL's own
PGPASSWORD and ~/.pgpass are read.`,
		Example: `  DATABASE_URL=postgres://tenantgate@db.internal/tenantgate backends migrate
  backends copy --from sqlite:///var/lib/tenantgate/tenantgate.db --to postgres://tenantgate@db.internal/tenantgate`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return &usageError{errors.New("say --from URL and --to URL: see backends copy --help")}
			}
			done, err := copyStore(cmd, from, to)
			if err != nil {
				return err
			}
			return out.print(cmd, done.text(), done)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "The store to read, sqlite://PATH or postgres://…")
	cmd.Flags().StringVar(&to, "to", "", "The empty store to write to")
	out.addTo(cmd)
	return cmd
}

func copyStore(cmd *cobra.Command, from, to string) (done copied, err error) {
	source, err := database.OpenReadOnly(from, clock.System{})
	if err != nil {
		return done, fmt.Errorf("--from: %w", err)
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	if err := source.CheckSchema(cmd.Context()); err != nil {
		return done, fmt.Errorf("--from: %w", err)
	}
	target, err := openReady(cmd.Context(), to)
	if err != nil {
		return done, fmt.Errorf("--to: %w", err)
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if done.Tables, err = dbcopy.Copy(cmd.Context(), source, target); err != nil {
		return done, err
	}
	for _, table := range done.Tables {
		done.Rows += table.Rows
	}
	return done, nil
}

func (c copied) text() string {
	var b strings.Builder
	for _, table := range c.Tables {
		fmt.Fprintf(&b, "%-26s %10d\n", table.Name, table.Rows)
	}
	fmt.Fprintf(&b, "%-26s %10d rows copied and compared", "", c.Rows)
	return b.String()
}
