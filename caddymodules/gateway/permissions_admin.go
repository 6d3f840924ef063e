package gateway

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
)

// Active returns the app of the configuration that runs now, for those who
// outlive configurations, such as the admin API.
func Active() (*App, error) {
	app, err := caddy.ActiveContext().AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, errNoDatabase
	}
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

// OpenDatabase opens the configured database for reading, apart from what the
// permission table uses. The caller closes it.
func (a *App) OpenDatabase() (*database.DB, error) {
	if a.Database == "" {
		return nil, errNoDatabase
	}
	url, err := resolveURL(caddy.NewReplacer(), a.Database)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return database.OpenReadOnly(url, clock.System{})
}
