package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient"
)

const (
	// appName is the app's module ID and the name of the global option.
	appName = "tenantgate"
	// defaultNamespace is the namespace unless one is configured.
	defaultNamespace = "tenantgate"
	// minPoll is the shortest poll interval: below it a gateway does little else.
	minPoll = 10 * time.Millisecond
	// firstLoad is how long Start waits for the first look at the permission
	// table, so that a restart answers 503 as shortly as can be. A database that
	// is not there is known at once and never waited for.
	firstLoad = time.Second
)

func init() {
	caddy.RegisterModule((*App)(nil))
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobalOption)
}

// App is the app `tenantgate`: what all handlers of Tenantgate share, one
// instance per configuration. Its connections are kept over reloads.
//
// Nothing is opened before the app starts, so `validate` works without a
// database, and a database that is missing or away never fails a start or a
// reload.
type App struct {
	// Database holds tenants, users and the permission table: sqlite://PATH, the
	// path relative to the working directory or absolute, or
	// postgres://USER:PASSWORD@HOST/NAME. Placeholders such as {env.DATABASE} and
	// {file./run/secrets/database} are replaced once, at start. The schema must be
	// there (`backends migrate`). Needed by `check_permission` and its kin.
	Database string `json:"database,omitempty"`

	// Redis is where gateways share the states of their breakers and hear at once
	// that the permission table changed, as a URL that begins with redis://,
	// rediss://, unix://, redis+sentinel://, redis+cluster://, rediss+sentinel:// or
	// rediss+cluster://. Placeholders are replaced once, at start; if nothing is
	// left, there is none. A Redis that is away never fails a start, a reload or a
	// request. Default: none, each gateway decides by itself.
	Redis string `json:"redis,omitempty"`

	// Namespace sets apart several gateways that share stores: letters, digits,
	// "_", "-", "." and ":", at most 64. Placeholders are replaced.
	// Default: tenantgate.
	Namespace string `json:"namespace,omitempty"`

	// Permissions says how the permission table is kept current, and what is
	// logged of decisions by it.
	Permissions *Permissions `json:"permissions,omitempty"`

	logger  *slog.Logger
	redis   *redisclient.Options // nil: none
	onStart []func()             // from other modules' Provision
	wish    *wish                // for the table
	table   *sharedTable
	key     tableKey // of table in the pool while this app holds it
}

// Permissions says how the permission table is kept current, and what is
// logged of decisions by it.
type Permissions struct {
	// Poll is how often the change counter of the table is read; at least 10ms.
	// A revoked right is refused at the latest this long after. Default: 500ms.
	Poll caddy.Duration `json:"poll,omitempty"`

	// MaxStale is how long a gateway that has lost its database goes on deciding
	// by the last table it read; then it answers 503. At least twice Poll.
	// Default: 0, for ever.
	MaxStale caddy.Duration `json:"max_stale,omitempty"`

	// LogAllowed is the share of allowed decisions of `check_permission` that get
	// a line in the log, from 0 to 1. Denials all do. Default: 0.
	LogAllowed float64 `json:"log_allowed,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// FromContext returns the configuration's app. Handlers call it in Provision.
// Without a global option `tenantgate` it is an app with the defaults.
func FromContext(ctx caddy.Context) (*App, error) {
	app, err := ctx.App(appName)
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

// Provision resolves the settings and takes hold of what they name.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Slogger()
	repl := caddy.NewReplacer()
	var err error
	if a.Namespace, err = repl.ReplaceOrErr(a.Namespace, true, true); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	if a.redis, err = a.resolveRedis(repl); err != nil {
		return err
	}
	if a.Namespace == "" {
		a.Namespace = defaultNamespace
	}
	if a.Database == "" {
		return nil
	}
	// What the URL becomes is kept nowhere: it may hold a password.
	url, err := resolveURL(repl, a.Database)
	if err == nil && url == "" {
		err = errors.New("the URL is empty: a placeholder stands for nothing")
	}
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if a.table, a.key, err = acquireTable(url); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	a.wish = a.newWish()
	return registerMetrics(ctx, a.table)
}

// newWish returns how this configuration wants the table kept.
func (a *App) newWish() *wish {
	w := &wish{settings: permission.Settings{Logger: a.logger}, redis: a.redis, namespace: a.Namespace, logger: a.logger}
	if a.Permissions != nil {
		w.settings.Poll = time.Duration(a.Permissions.Poll)
		w.settings.MaxStale = time.Duration(a.Permissions.MaxStale)
	}
	return w
}

var validNamespace = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,64}$`)

// Validate checks the settings.
func (a *App) Validate() error {
	if err := validateNamespace(a.Namespace); err != nil {
		return err
	}
	return a.Permissions.validate()
}

func validateNamespace(s string) error {
	if !validNamespace.MatchString(s) {
		return fmt.Errorf("namespace %q is not valid: use only letters, digits and _ - . : (1 to 64 of them)", s)
	}
	return nil
}

// errPlaceholder names no placeholder: it can be a piece of a password.
var errPlaceholder = errors.New("the URL holds a placeholder that is unknown, or names a file that is empty or cannot be read: " +
	"write {env.NAME} or {file./path}, and a { of a password as %7B")

// resolveURL replaces the placeholders of a URL. An empty variable can mean that
// there is none; a missing file cannot, because it would part the gateways
// without a word.
func resolveURL(repl *caddy.Replacer, url string) (string, error) {
	return repl.ReplaceFunc(url, func(name string, value any) (any, error) {
		if value == nil || value == "" && strings.HasPrefix(name, "file.") {
			return nil, errPlaceholder
		}
		return value, nil
	})
}

// resolveRedis replaces the placeholders of the URL and reads it. What it
// becomes is kept nowhere else, as it may hold a password.
func (a *App) resolveRedis(repl *caddy.Replacer) (*redisclient.Options, error) {
	url, err := resolveURL(repl, a.Redis)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return parseRedis(url)
}

// parseRedis reads a URL; an empty one is no Redis.
func parseRedis(url string) (*redisclient.Options, error) {
	if url == "" {
		return nil, nil
	}
	options, err := redisclient.Parse(url)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return options, nil
}

func validateDatabase(url string) error {
	table, err := permission.New(url, permission.Settings{}, clock.System{})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return table.Close()
}

func (p *Permissions) validate() error {
	if p == nil {
		return nil
	}
	poll, stale := time.Duration(p.Poll), time.Duration(p.MaxStale)
	if poll == 0 {
		poll = permission.DefaultPoll
	}
	switch {
	case poll < minPoll:
		return fmt.Errorf("permissions: poll is %v, want at least %v", poll, minPoll)
	case stale != 0 && stale < 2*poll:
		return fmt.Errorf("permissions: max_stale is %v, want 0 or at least twice poll (%v)", stale, 2*poll)
	case !(p.LogAllowed >= 0 && p.LogAllowed <= 1): // also what is no number
		return fmt.Errorf("permissions: log_allowed is %v, want a share from 0 to 1", p.LogAllowed)
	}
	return nil
}

// Start calls what OnStart was given, begins to read the permission table and
// waits up to a second for the first attempt. It never fails.
func (a *App) Start() error {
	for _, f := range a.onStart {
		f()
	}
	if a.table == nil {
		return nil
	}
	a.table.use(a.wish)
	timer := time.NewTimer(firstLoad)
	defer timer.Stop()
	select {
	case <-a.table.Attempted():
	case <-timer.C:
		a.logger.Warn("permission table takes long to load: checked requests get 503 until it is there")
	}
	return nil
}

// Stop gives up this configuration's settings. Another configuration that
// holds the table keeps it running with its own.
func (a *App) Stop() error {
	if a.table != nil {
		a.table.forget(a.wish)
	}
	return nil
}

// Cleanup gives up what Provision took. Requests that are still on their way
// go on with the snapshot they have.
func (a *App) Cleanup() error {
	if a.key == (tableKey{}) {
		return nil
	}
	key := a.key
	a.key = tableKey{}
	_, err := tables.Delete(key)
	return err
}

// RedisOptions returns where Redis is, or nil if none is configured. The app
// itself connects to nothing: who needs a connection opens a client, from
// OnStart, and closes it.
func (a *App) RedisOptions() *redisclient.Options { return a.redis }

// OnStart has f called by Start, in the order of the calls of OnStart. Other
// modules call it in Provision, and put there whatever connects or runs in the
// background: Provision also runs for `validate` and for a configuration that
// another module refuses, and must leave no trace. f returns at once. What it
// starts is ended by the Cleanup of its module, which is called also if another
// app fails to start, and which must therefore expect that f never ran.
func (a *App) OnStart(f func()) { a.onStart = append(a.onStart, f) }

// errNoDatabase tells how to get a permission table.
var errNoDatabase = errors.New(`no database is configured: add "database sqlite://<file>" or "database postgres://<user>:<password>@<host>/<name>" ` +
	`to the global option "tenantgate"`)

// PermissionTable returns the permission table, which is kept current while
// the app runs, also over reloads. It is an error if no database is configured.
func (a *App) PermissionTable() (*permission.Table, error) {
	if a.table == nil {
		return nil, errNoDatabase
	}
	return a.table.Table, nil
}

// LogAllowed returns the share of allowed decisions that get a line in the log.
func (a *App) LogAllowed() float64 {
	if a.Permissions == nil {
		return 0
	}
	return a.Permissions.LogAllowed
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
