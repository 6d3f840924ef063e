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
	"strconv"
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
	"github.com/tenantgate/tenantgate/internal/filelock"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// devCommand returns the command; made receives what Caddy makes of it.
func devCommand(made **cobra.Command) caddycmd.Command {
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
			*made = cmd
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
	caddyfile, builtIn, err := o.readConfig()
	if err != nil {
		return err
	}
	shown := screen{
		gateway: "http://" + net.JoinHostPort(displayHost(host), port), admin: adminAddress(),
		data: strings.TrimSuffix(o.data, "/"), config: o.config, builtIn: builtIn, binary: binary(),
	}
	// From here on absolute: dev.env is read in other folders too.
	if o.data, err = filepath.Abs(o.data); err != nil {
		return fmt.Errorf("--data %s: %w", shown.data, err)
	}
	lock, err := o.prepareFolder()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	config, err := o.backendsConfig(shown.gateway)
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
	if err := o.startGateway(ctx, host, port, caddyfile, &config, services); err != nil {
		return err
	}
	shown.fresh = services.fresh
	shown.print(stdout)

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

// check refuses flags that can't work before anything is started.
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
	if err := checkPort(port); err != nil {
		return "", "", fmt.Errorf("--address %s: %w", o.address, err)
	}
	if err := free(ctx, o.address); err != nil {
		return "", "", cannotListen(o.address, err, "choose another with --address")
	}
	admin := adminAddress()
	if strings.HasPrefix(admin, "unix/") {
		return host, port, nil
	}
	if _, adminPort, err := net.SplitHostPort(admin); err == nil {
		if err := checkPort(adminPort); err != nil {
			return "", "", fmt.Errorf("TENANTGATE_ADMIN=%s: %w", admin, err)
		}
	}
	if err := free(ctx, admin); err != nil {
		return "", "", cannotListen("the admin address "+admin, err, "set TENANTGATE_ADMIN=localhost:2020")
	}
	return host, port, nil
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%s is no port: choose one from 1 to 65535", cmp.Or(port, "nothing"))
	}
	return nil
}

// cannotListen says why an address can't be listened on, and what to do.
func cannotListen(address string, err error, remedy string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		remedy = "stop what uses it, or " + remedy
	}
	return fmt.Errorf("%s can't be listened on (%w): %s", address, err, remedy)
}

// readConfig returns the Caddyfile: the built-in one where the folder has none.
func (o devOptions) readConfig() (caddyfile []byte, builtIn bool, err error) {
	caddyfile, err = os.ReadFile(o.config)
	if errors.Is(err, os.ErrNotExist) && o.config == "Caddyfile" {
		return tenantgate.Caddyfile, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the configuration: %w", err)
	}
	return caddyfile, false, nil
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

// dataFiles are all that --fresh deletes: what dev makes in its folder, but for
// its lock.
var dataFiles = []string{"tenantgate.db", "tenantgate.db-wal", "tenantgate.db-shm", "mail", "logs", "loki", "dev.env"}

// prepareFolder makes the data folder ours until the lock is closed, and refuses
// one in which something can't be written.
func (o devOptions) prepareFolder() (lock io.Closer, err error) {
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return nil, fmt.Errorf("the data folder can't be made: %w: choose another with --data", err)
	}
	lock, err = filelock.Lock(filepath.Join(o.data, "dev.lock"))
	if errors.As(err, new(filelock.InUseError)) {
		return nil, fmt.Errorf("the data folder %s is %w: stop it, or choose another with --data", o.data, err)
	}
	if err == nil {
		if err = o.fillFolder(); err == nil {
			return lock, nil
		}
		_ = lock.Close()
	}
	return nil, fmt.Errorf("the data folder can't be written: %w: choose another with --data", err)
}

// fillFolder makes the files and folders to which dev and what it starts will
// write, with --fresh after deleting what there is. None is left out: later each
// line and each mail would be an error of its own.
func (o devOptions) fillFolder() error {
	if o.fresh {
		for _, name := range dataFiles {
			if err := os.RemoveAll(filepath.Join(o.data, name)); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"mail", "logs"} {
		folder := filepath.Join(o.data, name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		probe, err := os.CreateTemp(folder, "probe-*")
		if err != nil {
			return err
		}
		if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
			return err
		}
	}
	for _, name := range []string{"dev.env", "logs/gateway.jsonl", "logs/backends.jsonl"} {
		f, err := os.OpenFile(filepath.Join(o.data, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
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
	file := &timberjack.Logger{Filename: filepath.Join(o.data, "logs", "backends.jsonl"), FileMode: 0o600, MaxSize: 100, MaxBackups: 10}
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

// startGateway loads caddyfile with the variables that make it fit this
// machine, and keeps them in dev.env for `tenantgate reload`.
func (o devOptions) startGateway(ctx context.Context, host, port string, caddyfile []byte, config *app.Config, s *services) error {
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
