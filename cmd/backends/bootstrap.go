package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/password"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// maxPasswordInput bounds what is read as a password, in bytes. The policy's
// own bound is lower.
const maxPasswordInput = 4 << 10

// leastPassword is NIST's least length, whatever PASSWORD_MIN says.
const leastPassword = 8

func bootstrapCommand(env environment) *cobra.Command {
	var out printer
	var in seed.Installation
	cmd := &cobra.Command{
		Use:   "bootstrap --tenant NAME --email ADDRESS",
		Short: "Makes the first tenant and its admin in an empty store",
		Long: `Makes what a new installation starts with, without demo data: the product "tenantgate",
whose rights guard the APIs, a tenant, its role Admin with every right of that product, and
the first user with this role, who may run the whole installation. A store that holds a
tenant is refused.

The password is asked for, or read from a pipe or from the file that PASSWORD_FILE names. It
is never an argument, because those are seen by every user of the machine.`,
		Example: `  backends migrate && backends bootstrap --tenant 'Acme Ltd' --email ann@acme.com --name Ann
  PASSWORD_FILE=/run/secrets/admin backends bootstrap --tenant Acme --email ann@acme.com --output json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Tenant == "" || in.Email == "" {
				return &usageError{errors.New("say --tenant NAME and --email ADDRESS: see backends bootstrap --help")}
			}
			made, config, err := bootstrap(cmd, env, in)
			if err != nil {
				return err
			}
			return out.print(cmd, nextSteps(made, config.InvitationProduct, config.InvitationRole), made)
		},
	}
	cmd.Flags().StringVar(&in.Tenant, "tenant", "", "Name of the first tenant")
	cmd.Flags().StringVar(&in.Email, "email", "", "E-mail address that its admin logs in with")
	cmd.Flags().StringVar(&in.Name, "name", "", "Name of the admin, for people")
	out.addTo(cmd)
	return cmd
}

func bootstrap(cmd *cobra.Command, env environment, in seed.Installation) (made seed.Bootstrapped, config app.Config, err error) {
	// Before anybody is asked for a password in vain.
	if err := in.CheckNames(); err != nil {
		return made, config, fmt.Errorf("bootstrap: %w", err)
	}
	db, config, err := openStore(cmd, env)
	if err != nil {
		return made, config, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := seed.CheckEmpty(cmd.Context(), db.Reader()); err != nil {
		return made, config, fmt.Errorf("bootstrap: %w", err)
	}
	in.Policy = password.Policy{MinLength: max(leastPassword, config.PasswordMin)}
	if in.Password, err = readPassword(cmd.Context(), env, in.Policy.Least()); err != nil {
		return made, config, fmt.Errorf("bootstrap: password: %w", err)
	}
	made, err = seed.Bootstrap(cmd.Context(), db, password.NewHasher(config.HashParallel), in)
	return made, config, err
}

// nextSteps tells a person how it goes on: what to paste so that there is a
// product to invite to, and the role of invitations that name none.
func nextSteps(made seed.Bootstrapped, product, role string) string {
	roles := []string{made.Role + `: {permissions: ["*", tenantgate/platform/read, tenantgate/platform/write, tenantgate/platform/delete]}`}
	if role != made.Role && role != seed.OwnerRole {
		roles = append(roles, quoted(role)+": {permissions: ["+quoted(product+"/*/read")+"]}")
	}
	return fmt.Sprintf(`Tenant %[1]q (id %[2]d) is ready; %[3]s is its Admin and runs the installation.

Next, make your product, with features and roles as you need them. Paste this, with the same DATABASE_URL:

tenantgate permissions import - <<'END'
products:
  %[4]s: {invitations: [], reports: []}
tenants:
  %[5]s:
    roles:
      %[6]s
END

Then start "backends serve" and the gateway, log in at POST /api/auth/login and invite people at POST /api/invitations/.
The product's name also stands in the Caddyfile (check_permission) and in INVITATION_PRODUCT of "backends serve": both are %[7]s
if you change nothing. Invitations that name no role give %[8]s, the INVITATION_ROLE.`,
		made.Tenant, made.TenantID, made.Email, quoted(product), quoted(made.Tenant), strings.Join(roles, "\n      "), invitation.DefaultProduct, role)
}

// quoted returns a text as YAML, whatever it holds: JSON is.
func quoted(text string) string {
	encoded, _ := json.Marshal(text) // of a string: never fails
	return string(encoded)
}

// readPassword returns the password from the file that PASSWORD_FILE names, or
// else from stdin: asked for twice on a terminal, one line of a pipe. least is its least
// length in characters, for the question.
func readPassword(ctx context.Context, env environment, least int) (secret.String, error) {
	if path, _ := env.lookup("PASSWORD_FILE"); path != "" {
		file, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("PASSWORD_FILE: %w", err)
		}
		defer func() { _ = file.Close() }()
		return readLine(file)
	}
	if file, ok := env.stdin.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return askTwice(ctx, env, int(file.Fd()), least)
	}
	return readLine(env.stdin)
}

// readLine reads the one line that r holds.
func readLine(r io.Reader) (secret.String, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxPasswordInput+1))
	if err != nil {
		return "", err
	}
	line := strings.TrimRight(string(content), "\r\n")
	switch {
	case line == "":
		return "", errors.New("nothing was given: pipe it in, or name its file in PASSWORD_FILE")
	case len(content) > maxPasswordInput || strings.ContainsAny(line, "\r\n"):
		return "", errors.New("give one line")
	}
	return secret.String(line), nil
}

// askTwice asks on a terminal without echo.
func askTwice(ctx context.Context, env environment, terminal, least int) (secret.String, error) {
	first, err := ask(ctx, env.stderr, terminal, fmt.Sprintf("Password, at least %d characters: ", least))
	if err != nil {
		return "", err
	}
	second, err := ask(ctx, env.stderr, terminal, "Again: ")
	if err == nil && second != first {
		err = errors.New("the two are not the same")
	}
	return first, err
}

// ask reads one line without echo. If ctx ends first, by Ctrl-C, the terminal
// gets its echo back; the read that nobody waits for ends with the process.
func ask(ctx context.Context, prompt io.Writer, terminal int, text string) (secret.String, error) {
	before, err := term.GetState(terminal)
	if err != nil {
		return "", err
	}
	type answer struct {
		line []byte
		err  error
	}
	answered := make(chan answer, 1)
	_, _ = io.WriteString(prompt, text)
	go func() {
		line, err := term.ReadPassword(terminal)
		answered <- answer{line, err}
	}()
	defer func() { _, _ = io.WriteString(prompt, "\n") }()
	select {
	case a := <-answered:
		return secret.String(a.line), a.err
	case <-ctx.Done():
		_ = term.Restore(terminal, before)
		return "", context.Cause(ctx)
	}
}
