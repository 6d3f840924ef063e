package gateway

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/tenantgate/tenantgate/internal/permission"
)

// parseGlobalOption parses the global option, which may stand there once.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if existing != nil {
		d.Next()
		return nil, d.Err("the global option tenantgate is given twice: put everything into one block")
	}
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	tenantgate {
//		database  sqlite://<path> | postgres://<user>:<password>@<host>/<name>
//		redis     <url>
//		namespace <name>
//		permissions {
//			poll        <duration>
//			max_stale   <duration>
//			log_allowed <ratio>
//		}
//	}
//
// Everything is optional. `database`, `redis` and `namespace` may hold {env.*}
// and {file.*} placeholders, which are replaced at start. An empty `redis` is
// none.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // option name
	if d.NextArg() {
		return d.Errf("unexpected argument %q, options of tenantgate go in a block", d.Val())
	}
	return EachOption(d, func(name string) error { return a.unmarshalOption(d, name) })
}

func (a *App) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	switch name {
	case "database":
		if err := OneArgument(d, name, "sqlite://<path> or postgres://<user>:<password>@<host>/<name>", &a.Database); err != nil {
			return err
		}
		return validateLiteral(d, a.Database, validateDatabase)
	case "namespace":
		if err := OneArgument(d, name, "a name", &a.Namespace); err != nil {
			return err
		}
		return validateLiteral(d, a.Namespace, validateNamespace)
	case "redis":
		return a.unmarshalRedis(d)
	case "permissions":
		return a.unmarshalPermissions(d)
	}
	return d.Errf("unknown option %q, want database, redis, namespace or permissions", name)
}

// validateLiteral checks a value here already, where file and line are known,
// unless it holds a placeholder.
func validateLiteral(d *caddyfile.Dispenser, value string, validate func(string) error) error {
	if strings.Contains(value, "{") {
		return nil
	}
	if err := validate(value); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalRedis reads the URL. It may be empty, so that an environment variable
// decides whether there is a Redis: `redis {$REDIS_URL:""}`.
func (a *App) unmarshalRedis(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&a.Redis) {
		return d.Err(`redis needs one argument: a URL such as redis://localhost:6379/0, or "" for none`)
	}
	if d.NextBlock(d.Nesting()) {
		return d.Err("redis takes no block")
	}
	return validateLiteral(d, a.Redis, func(url string) error {
		_, err := parseRedis(url)
		return err
	})
}

func (a *App) unmarshalPermissions(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument %q, options of permissions go in a block", d.Val())
	}
	a.Permissions = new(Permissions)
	err := EachOption(d, func(name string) error { return a.Permissions.unmarshalOption(d, name) })
	if err != nil {
		return err
	}
	if err := a.Permissions.validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (p *Permissions) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	switch name {
	case "poll":
		return unmarshalDuration(d, name, minPoll, &p.Poll)
	case "max_stale":
		return unmarshalDuration(d, name, 0, &p.MaxStale)
	case "log_allowed":
		var text string
		if err := OneArgument(d, name, "a share such as 0.01 or 1%", &text); err != nil {
			return err
		}
		share, err := parseShare(text)
		if err != nil {
			return d.Errf("log_allowed is %q, want a share from 0 to 1 or 0%% to 100%%", text)
		}
		p.LogAllowed = share
		return nil
	}
	return d.Errf("unknown option %q of permissions, want poll, max_stale or log_allowed", name)
}

// unmarshalDuration reads the one argument of an option, a duration that is not
// below least.
func unmarshalDuration(d *caddyfile.Dispenser, name string, least time.Duration, target *caddy.Duration) error {
	var text string
	if err := OneArgument(d, name, "a duration such as "+permission.DefaultPoll.String(), &text); err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration < 0 {
		return d.Errf("%s is %q, want a duration such as %v", name, text, permission.DefaultPoll)
	}
	if duration < least {
		return d.Errf("%s is %q, want at least %v", name, text, least)
	}
	*target = caddy.Duration(duration)
	return nil
}

var errShare = errors.New("no share")

// parseShare reads a share from 0 to 1, or from 0% to 100%.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(number, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share >= 0 && share <= 1) {
		return 0, errShare
	}
	return share, nil
}

var _ caddyfile.Unmarshaler = (*App)(nil)
