package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/DeRuina/timberjack"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/tenantgate/tenantgate"
	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/secret"
)

func devCommand() caddycmd.Command {
	return caddycmd.Command{
		Name:  "dev",
		Usage: "[--address localhost:8080] [--data ./data] [--fresh] [--log console|json] [--config Caddyfile]",
		Short: "Runs the gateway and all backends on this machine, with demo data",
		Long: `Runs everything in one process: the gateway with your Caddyfile, the auth, tenant
and invitation services on free loopback ports with a SQLite file, a service that
fails on demand, and a folder instead of a mail server. The first start makes two
demo tenants with users; later starts go on with the same data.

Ctrl-C or SIGTERM stops it. Nothing but Go is needed: no Docker, no Redis.

	$ tenantgate dev
	$ tenantgate dev --address localhost:9090 --data /tmp/demo --fresh`,
		CobraFunc: func(cmd *cobra.Command) {
			var o devOptions
			cmd.Flags().StringVar(&o.address, "address", "localhost:8080", "Where the gateway listens (host:port)")
			cmd.Flags().StringVar(&o.data, "data", "./data", "Folder for the database, mails and logs")
			cmd.Flags().BoolVar(&o.fresh, "fresh", false, "Delete the demo's data first")
			cmd.Flags().StringVar(&o.log, "log", "", "Style of lines on stdout: console or json (default: console on a terminal)")
			cmd.Flags().StringVar(&o.config, "config", "Caddyfile", "The gateway's configuration")
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(*cobra.Command, []string) error {
				ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
				defer stop()
				return o.run(ctx, os.Stdout)
			}
		},
	}
}

// devOptions are the flags of `tenantgate dev`.
type devOptions struct {
	address, data, log, config string
	fresh                      bool
}

// run starts everything, prints the screen and returns when ctx ends.
func (o devOptions) run(ctx context.Context, stdout io.Writer) error {
	host, port, err := o.check(ctx)
	if err != nil {
		return err
	}
	if err := o.prepareFolder(); err != nil {
		return err
	}
	config, err := o.backendsConfig("http://" + net.JoinHostPort(displayHost(host), port))
	if err != nil {
		return err
	}
	log, closeLog, err := o.backendsLog(stdout, &config)
	if err != nil {
		return err
	}
	defer closeLog()

	services, err := startBackends(ctx, config, log)
	if err != nil {
		return err
	}
	// The gateway stops first, so that no request meets a backend that is gone.
	defer services.stop()
	if err := o.startGateway(ctx, host, port, &config, services); err != nil {
		return err
	}
	screen{
		gateway: "http://" + net.JoinHostPort(displayHost(host), port), admin: adminAddress(),
		data: strings.TrimSuffix(o.data, "/"), config: o.config, binary: binary(), fresh: services.fresh,
	}.print(stdout)

	var failed error
	select {
	case <-ctx.Done():
	case failed = <-services.failed:
	}
	if err := caddy.Stop(); err != nil {
		return errors.Join(failed, fmt.Errorf("stop the gateway: %w", err))
	}
	return failed
}

// check refuses what can't work before anything is started.
func (o *devOptions) check(ctx context.Context) (host, port string, err error) {
	switch o.log {
	case "":
		o.log = "json"
		if term.IsTerminal(int(os.Stdout.Fd())) {
			o.log = "console"
		}
	case "console", "json":
	default:
		return "", "", fmt.Errorf("--log %s: use console or json", o.log)
	}
	host, port, err = net.SplitHostPort(o.address)
	if err != nil {
		return "", "", fmt.Errorf("--address %s: give host:port, such as localhost:8080", o.address)
	}
	if err := free(ctx, o.address); err != nil {
		return "", "", fmt.Errorf("%s can't be listened on (%w): stop what uses it, or choose another with --address", o.address, err)
	}
	if admin := adminAddress(); !strings.HasPrefix(admin, "unix/") {
		if err := free(ctx, admin); err != nil {
			return "", "", fmt.Errorf("the admin address %s can't be listened on (%w): stop what uses it, or set TENANTGATE_ADMIN=localhost:2020", admin, err)
		}
	}
	return host, port, nil
}

// free reports why an address can't be listened on.
func free(ctx context.Context, address string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		return listener.Close()
	}
	var sys syscall.Errno
	if errors.As(err, &sys) {
		return sys
	}
	return err
}

func adminAddress() string {
	if address := os.Getenv("TENANTGATE_ADMIN"); address != "" {
		return address
	}
	return "localhost:2019"
}

// displayHost is the host to write in URLs.
func displayHost(host string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "localhost"
	}
	return host
}

// binary is how the user would call this program again.
func binary() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/tenantgate"
	}
	return os.Args[0]
}

// dataFiles are what dev makes in its folder, and all that --fresh deletes.
var dataFiles = []string{"tenantgate.db", "tenantgate.db-wal", "tenantgate.db-shm", "mail", "logs", "loki", "dev.env"}

func (o devOptions) prepareFolder() error {
	if o.fresh {
		for _, name := range dataFiles {
			if err := os.RemoveAll(filepath.Join(o.data, name)); err != nil {
				return fmt.Errorf("--fresh: %w", err)
			}
		}
	}
	for _, folder := range []string{"mail", "logs"} {
		if err := os.MkdirAll(filepath.Join(o.data, folder), 0o700); err != nil {
			return fmt.Errorf("the data folder can't be made: %w: choose another with --data", err)
		}
	}
	probe := filepath.Join(o.data, "dev.env")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return fmt.Errorf("the data folder can't be written: %w: choose another with --data", err)
	}
	return nil
}

// backendsConfig returns the settings of the backends. Of the environment only
// what says where lines are shipped counts.
func (o devOptions) backendsConfig(publicURL string) (app.Config, error) {
	config, err := app.FromEnv(func(name string) (string, bool) {
		switch name {
		case "LOKI_URL", "LOKI_TENANT":
			return os.LookupEnv(name)
		case "LOKI_BUFFER":
			return filepath.Join(o.data, "loki"), true
		case "ENVIRONMENT":
			return cmp.Or(os.Getenv(name), "development"), true
		}
		return "", false
	})
	config.DatabaseURL = databaseURL(o.data)
	config.AuthListen, config.TenantListen, config.InvitationListen = anyPort, anyPort, anyPort
	config.PublicURL = publicURL
	config.GatewaySecret = secret.String(rand.Text())
	config.MailDir = filepath.Join(o.data, "mail")
	return config, err
}

// backendsLog returns the logger of the backends: like the gateway's, its lines
// go to stdout, to a file and, with LOKI_URL, to Loki.
func (o devOptions) backendsLog(stdout io.Writer, config *app.Config) (log *zap.Logger, closeLog func(), err error) {
	file := &timberjack.Logger{Filename: filepath.Join(o.data, "logs", "backends.jsonl"), MaxSize: 100, MaxBackups: 10}
	var encoder zapcore.Encoder = logging.NewEncoder("backends", nil)
	if o.log == "console" {
		encoder = logging.NewConsoleEncoder("backends", nil, term.IsTerminal(int(os.Stdout.Fd())))
	}
	both, endShipping, err := config.Ship(zapcore.AddSync(file))
	if err != nil {
		return nil, nil, err
	}
	core := zapcore.NewTee(
		zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(stdout)), zapcore.InfoLevel),
		zapcore.NewCore(logging.NewEncoder("backends", nil), both, zapcore.InfoLevel),
	)
	return zap.New(core), func() {
		endShipping()
		_ = file.Close()
	}, nil
}

// startGateway loads the Caddyfile with the variables that make it fit this
// machine, and keeps them in dev.env for `tenantgate reload`.
func (o devOptions) startGateway(ctx context.Context, host, port string, config *app.Config, s *services) error {
	if host == "localhost" {
		host = "127.0.0.1 ::1"
		if free(ctx, "[::1]:0") != nil {
			host = "127.0.0.1"
		}
	}
	variables := [][2]string{
		{"TENANTGATE_ADMIN", adminAddress()},
		{"TENANTGATE_ADDRESS", "http://:" + port},
		{"TENANTGATE_BIND", host},
		{"TENANTGATE_PROTOCOLS", "h1 h2c"}, // what there is without TLS
		{"TENANTGATE_LOG_STYLE", o.log},
		{"TENANTGATE_LOG_FILE", filepath.Join(o.data, "logs", "gateway.jsonl")},
		{"DATABASE_URL", databaseURL(o.data)},
		{"AUTH_UPSTREAM", s.auth},
		{"TENANT_UPSTREAM", s.tenant},
		{"INVITATION_UPSTREAM", s.invitation},
		{"BILLING_UPSTREAM", s.demo},
		{"GATEWAY_SECRET", config.GatewaySecret.Reveal()},
	}
	if config.LokiURL != "" {
		variables = append(variables, [][2]string{
			{"LOKI_URL", config.LokiURL.Reveal()},
			{"LOKI_TENANT", config.LokiTenant},
			{"LOKI_BUFFER", config.LokiBuffer},
			{"ENVIRONMENT", config.Environment},
		}...)
	}
	var env strings.Builder
	for _, v := range variables {
		if err := os.Setenv(v[0], v[1]); err != nil {
			return fmt.Errorf("set %s: %w", v[0], err)
		}
		fmt.Fprintf(&env, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	if err := os.WriteFile(filepath.Join(o.data, "dev.env"), []byte(env.String()), 0o600); err != nil {
		return fmt.Errorf("the data folder can't be written: %w", err)
	}

	caddyfile, err := os.ReadFile(o.config)
	if errors.Is(err, os.ErrNotExist) && o.config == "Caddyfile" {
		caddyfile, err = tenantgate.Caddyfile, nil
	}
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": o.config})
	if err != nil {
		return err // names file and line
	}
	// Until the configuration's own logs are open, Caddy's lines go nowhere:
	// what matters of them is in the error.
	caddy.BufferedLog()
	if err := caddy.Load(adapted, true); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	return nil
}

// databaseURL returns the URL of the demo's database.
func databaseURL(data string) string {
	return "sqlite://" + filepath.Join(data, "tenantgate.db")
}
