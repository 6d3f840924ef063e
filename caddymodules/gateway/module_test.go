package gateway_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
}

// provision loads the app with the given JSON, or with none at all.
func provision(t *testing.T, config string) (*gateway.App, error) {
	t.Helper()
	disabled := false
	cfg := &caddy.Config{Admin: &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &disabled}}, AppsRaw: caddy.ModuleMap{}}
	if config != "" {
		cfg.AppsRaw["tenantgate"] = json.RawMessage(config)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, err
	}
	app, err := gateway.FromContext(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, app.Cleanup()) })
	return app, nil
}

func mustProvision(t *testing.T, config string) *gateway.App {
	t.Helper()
	app, err := provision(t, config)
	require.NoError(t, err)
	return app
}

// config returns JSON with the given database and members.
func config(path, more string) string { return `{"database": "sqlite://` + path + `"` + more + `}` }

// newDatabase makes an empty, migrated file.
func newDatabase(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.db")
	db, err := database.Open(t.Context(), "sqlite://"+path, clock.System{})
	require.NoError(t, err)
	require.NoError(t, db.Migrate(t.Context()))
	require.NoError(t, db.Close())
	return path
}

func TestAnUnconfiguredAppHasNoTable(t *testing.T) {
	app := mustProvision(t, "")
	require.Equal(t, "tenantgate", app.Namespace)
	_, err := app.PermissionTable()
	require.EqualError(t, err, `no database is configured: add "database sqlite://<file>" or "database postgres://<user>:<password>@<host>/<name>" `+
		`to the global option "tenantgate"`)
	require.NoError(t, app.Start())
	require.NoError(t, app.Stop())
}

func TestProvisionNamesWhatIsWrong(t *testing.T) {
	t.Setenv("TENANTGATE_TEST_NAMESPACE", "no spaces")
	t.Setenv("TENANTGATE_TEST_EMPTY", "")
	for config, want := range map[string]string{
		`{"database": "x.db"}`:                                          "database: the database must be given as sqlite://PATH or postgres://",
		`{"database": "{env.TENANTGATE_TEST_EMPTY}"}`:                   "database:",
		`{"database": "{file./no/such/file}"}`:                          "database:",
		`{"database": "postgres://u:hunter2@h:x/d"}`:                    "database: open database: the database's URL: invalid port",
		`{"database": "postgres://u:hunter2%zz@h/d"}`:                   "database: open database: this is no URL of a PostgreSQL database",
		`{"database": "postgres://u:hunter2{x}@h/d"}`:                   "database: the URL holds a placeholder that is unknown",
		`{"database": "postgres://u:{file./no/such/hunter2}@h/d"}`:      "database: the URL holds a placeholder that is unknown",
		`{"database": "mysql://u:hunter2@h/d"}`:                         "database: the database must be given as sqlite://PATH",
		`{"permissions": {"log_allowed": 1.5}}`:                         "log_allowed is 1.5, want a share from 0 to 1",
		`{"permissions": {"log_allowed": -1}}`:                          "log_allowed is -1, want a share from 0 to 1",
		`{"namespace": "{env.TENANTGATE_TEST_NAMESPACE}"}`:              `namespace "no spaces" is not valid`,
		`{"namespace": "{env.TENANTGATE_TEST_EMPTY}"}`:                  "namespace:",
		`{"permissions": {"poll": "1ms"}}`:                              "poll is 1ms, want at least 10ms",
		`{"permissions": {"poll": "-1s"}}`:                              "poll is -1s, want at least 10ms",
		`{"permissions": {"max_stale": "600ms"}}`:                       "max_stale is 600ms, want 0 or at least twice poll (1s)",
		`{"permissions": {"max_stale": "-1s"}}`:                         "max_stale is -1s",
		`{"redis": "localhost:6379"}`:                                   "redis: the URL begins with no known scheme",
		`{"redis": "redis://:hunter2@localhost/x"}`:                     "redis: the database is no number from 0 to 65535",
		`{"redis": "redis://:hunter2{x}@localhost"}`:                    "redis: the URL holds a placeholder that is unknown",
		`{"redis": "redis://:{file./no/such/hunter2}@localhost"}`:       "redis: the URL holds a placeholder that is unknown",
		`{"redis": "{file./dev/null}"}`:                                 "redis: the URL holds a placeholder that is unknown, or names a file that is empty",
		`{"database": "sqlite://x.db", "permissions": {"poll": "1ms"}}`: "poll is 1ms",
	} {
		_, err := provision(t, config)
		require.ErrorContains(t, err, want, config)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestPlaceholdersAreResolved(t *testing.T) {
	path := newDatabase(t)
	secret := filepath.Join(t.TempDir(), "database")
	require.NoError(t, os.WriteFile(secret, []byte("sqlite://"+path+"\n"), 0o600))
	t.Setenv("TENANTGATE_TEST_NAMESPACE", "prod")
	app := mustProvision(t, `{"database": "{file.`+secret+`}", "namespace": "{env.TENANTGATE_TEST_NAMESPACE}"}`)
	require.Equal(t, "prod", app.Namespace)
	require.NoError(t, app.Start())
	table, err := app.PermissionTable()
	require.NoError(t, err)
	require.NotNil(t, table.Snapshot(), "Start waits for the first load")
	require.NoError(t, app.Stop())
}

func TestProvisionTouchesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	app := mustProvision(t, config(path, ""))
	table, err := app.PermissionTable()
	require.NoError(t, err)
	require.NoFileExists(t, path)
	require.NoError(t, app.Cleanup())
	require.NoError(t, app.Cleanup(), "a second time")
	require.Nil(t, table.Snapshot())
}

func TestStartSucceedsWithoutTheDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	app := mustProvision(t, config(path, ""))
	began := time.Now()
	require.NoError(t, app.Start())
	require.Less(t, time.Since(began), 10*time.Second)
	require.NoFileExists(t, path)
	require.NoError(t, app.Stop())
}

func TestConfigurationsShareATable(t *testing.T) {
	path := newDatabase(t)
	first := mustProvision(t, config(path, ""))
	require.NoError(t, first.Start())
	one, err := first.PermissionTable()
	require.NoError(t, err)
	snapshot := one.Snapshot()
	require.NotNil(t, snapshot)

	// A reload, as Caddy does it: the new one starts before the old one stops.
	second := mustProvision(t, config(path, `, "permissions": {"poll": "20ms"}`))
	require.NoError(t, second.Start())
	two, err := second.PermissionTable()
	require.NoError(t, err)
	require.Same(t, one, two)
	require.NoError(t, first.Stop())
	require.NoError(t, first.Cleanup())
	require.Same(t, snapshot, two.Snapshot())

	other := mustProvision(t, config(newDatabase(t), ""))
	three, err := other.PermissionTable()
	require.NoError(t, err)
	require.NotSame(t, one, three)

	// The last user is gone: nothing runs, but requests on their way go on.
	require.NoError(t, second.Stop())
	require.NoError(t, second.Cleanup())
	require.NotNil(t, one.Snapshot())
}

// A configuration that failed to start gives its settings back to the one before.
func TestTheSettingsOfTheLastConfigurationHold(t *testing.T) {
	path := newDatabase(t)
	first := mustProvision(t, config(path, `, "permissions": {"poll": "10ms"}`))
	require.NoError(t, first.Start())
	table, err := first.PermissionTable()
	require.NoError(t, err)
	require.NotNil(t, table.Snapshot())
	require.NoError(t, os.Rename(path, path+".away"))

	second := mustProvision(t, config(path, `, "permissions": {"poll": "10ms", "max_stale": "20ms"}`))
	require.NoError(t, second.Start())
	require.Eventually(t, func() bool { return table.Snapshot() == nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, second.Stop())
	require.NoError(t, second.Stop(), "a second time")
	require.NotNil(t, table.Snapshot())
	require.NoError(t, second.Cleanup())

	third := mustProvision(t, config(path, `, "permissions": {"poll": "10ms", "max_stale": "20ms"}`))
	require.NoError(t, third.Start())
	require.NoError(t, first.Stop()) // the reload went through
	require.Nil(t, table.Snapshot())
	require.NoError(t, third.Stop())
}

func TestPrincipalAndTraceOfARequest(t *testing.T) {
	ctx := context.Background()
	require.Nil(t, gateway.Principal(ctx))
	require.Nil(t, gateway.Trace(ctx))
}
