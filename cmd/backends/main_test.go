package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// shell runs commands with an environment of its own; "stdin" is what is piped in.
type shell map[string]string

func newShell(t *testing.T) shell {
	t.Helper()
	folder := t.TempDir()
	return shell{"DATABASE_URL": "sqlite://" + filepath.Join(folder, "test.db"), "MAIL_DIR": filepath.Join(folder, "mail")}
}

// eachStore runs f with a store that is not there yet in SQLite, and with one
// that is empty in PostgreSQL.
func eachStore(t *testing.T, f func(t *testing.T, s shell)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, newShell(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s := newShell(t)
		s["DATABASE_URL"] = dbtest.PostgresEmpty(t)
		f(t, s)
	})
}

func (s shell) lookup(name string) (string, bool) {
	value, ok := s[name]
	return value, ok
}

// run returns what a command line printed and its exit code.
func (s shell) run(ctx context.Context, line string) (stdout, stderr string, code int) {
	var out, problems bytes.Buffer
	code = run(ctx, environment{
		args: strings.Fields(line), stdin: strings.NewReader(s["stdin"]), stdout: &out, stderr: &problems, lookup: s.lookup,
	})
	return out.String(), problems.String(), code
}

// ok runs a command line that must succeed and returns what it printed.
func (s shell) ok(t *testing.T, line string) string {
	t.Helper()
	stdout, stderr, code := s.run(t.Context(), line)
	require.Empty(t, stderr)
	require.Equal(t, exitOK, code)
	return stdout
}

func TestStoreCommands(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, s shell) {
		require.Equal(t, "The schema is up to date.\n", s.ok(t, "migrate"))
		require.JSONEq(t, `{"migrated":true}`, s.ok(t, "migrate --output json"))
		require.Contains(t, s.ok(t, "seed --demo"), "correct horse battery staple")
		require.JSONEq(t, `{"seeded":false}`, s.ok(t, "seed --demo -o json"))
		require.Contains(t, s.ok(t, "seed --demo"), "Nothing was changed")

		var first, second map[string]string
		require.NoError(t, json.Unmarshal([]byte(s.ok(t, "rotate-keys --output json")), &first))
		stdout, stderr, code := s.run(t.Context(), "rotate-keys")
		require.Equal(t, exitFailed, code)
		require.Empty(t, stdout)
		require.Equal(t, 1, strings.Count(stderr, "\n"))
		require.NoError(t, json.Unmarshal([]byte(s.ok(t, "rotate-keys --force --output json")), &second))
		require.Equal(t, first["next"], second["current"])
	})
}

func TestFailuresAreOneLineAndExitOne(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		line    string
		set     shell
		message string
	}{
		"a store without a schema":    {"rotate-keys", shell{}, "database"},
		"a store that is not ours":    {"mark-expired-invitations", shell{"DATABASE_URL": "mysql://x"}, "sqlite://PATH"},
		"a path and no URL":           {"migrate status", shell{"DATABASE_URL": "/tmp/x.db"}, "DATABASE_URL: the database must be given as sqlite://PATH"},
		"a path to serve":             {"serve", shell{"DATABASE_URL": "/tmp/x.db", "PASSWORD_MIN": "4"}, "DATABASE_URL: the database must be given as sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE; PASSWORD_MIN: is 4"},
		"a folder in place of a file": {"retry-webhooks", shell{"DATABASE_URL": "sqlite:///tmp"}, "DATABASE_URL: /tmp is a directory"},
		"a folder that is not there":  {"migrate", shell{"DATABASE_URL": "sqlite:///no/such/folder/x.db"}, "/no/such/folder does not exist"},
		"settings that can't be read": {"migrate", shell{"ACCESS_TTL": "soon", "PASSWORD_MIN": "many"}, `ACCESS_TTL: "soon" is not a duration such as 15m or 1h30m; PASSWORD_MIN: "many" is not a whole number`},
		"a PostgreSQL that is down":   {"migrate", shell{"DATABASE_URL": "postgres://u:pw-of-u@127.0.0.1:1/x"}, "DATABASE_URL: open database: connect to PostgreSQL at 127.0.0.1:1: connect: connection refused"},
		"a server without mail":       {"serve", shell{"MAIL_DIR": "", "PASSWORD_MIN": "4"}, "PASSWORD_MIN: is 4, NIST SP 800-63B allows no less than 8; SMTP_URL: required, or MAIL_DIR"},
		"a Loki that is none":         {"serve", shell{"LOKI_URL": "ftp://gate:pw-of-u@loki"}, "LOKI_URL: push URL ftp://gate:xxxxx@loki: give one like http://loki:3100"},
		"a folder that can't be made": {"serve", shell{"LOKI_URL": "http://127.0.0.1:1", "LOKI_BUFFER": "/dev/null"}, "LOKI_BUFFER: buffer folder: mkdir /dev/null: not a directory"},
		"a seed without a schema":     {"seed --demo", shell{}, "database"},
		"a retry without a schema":    {"retry-webhooks", shell{}, "database"},
		"a start without a schema":    {"bootstrap --tenant acme --email a@x.test", shell{}, "database"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t)
			for key, value := range test.set {
				s[key] = value
			}
			stdout, stderr, code := s.run(t.Context(), test.line)
			require.Equal(t, exitFailed, code, stderr)
			require.Empty(t, stdout)
			require.True(t, strings.HasPrefix(stderr, "backends: "), stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
			require.Contains(t, stderr, test.message)
			require.NotContains(t, stderr, "pw-of-u")
		})
	}
}

func TestACommandMakesNoStoreWhereThereIsNone(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	_, _, code := s.run(t.Context(), "mark-expired-invitations")
	require.Equal(t, exitFailed, code)
	require.NoFileExists(t, strings.TrimPrefix(s["DATABASE_URL"], "sqlite://"))
}

func TestWrongUsageExitsTwo(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	for line, message := range map[string]string{
		"launch":                              `unknown command "launch"`,
		"serve now":                           `unexpected argument "now"`,
		"migrate down":                        `unexpected argument "down"`,
		"migrate status -o x":                 "--output x: use text or json",
		"copy --from sqlite://x.db":           "say --from URL and --to URL",
		"migrate --force":                     "unknown flag: --force: see backends migrate --help",
		"mark-expired-invitations --output x": "--output x: use text or json",
		"retry-webhooks all":                  `unexpected argument "all"`,
		"seed":                                "say --demo",
		"bootstrap --tenant acme":             "say --tenant NAME and --email ADDRESS",
		"bootstrap --password x":              "unknown flag: --password",
		"rotate-keys --force=maybe":           "invalid argument",
	} {
		stdout, stderr, code := s.run(t.Context(), line)
		require.Equal(t, exitUsage, code, line)
		require.Empty(t, stdout, line)
		require.Contains(t, stderr, message, line)
		require.Equal(t, 1, strings.Count(stderr, "\n"), line)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	require.Equal(t, "backends version tenantgate/unreleased\n", newShell(t).ok(t, "--version"))
}

func TestHelpShowsAnExample(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	require.Contains(t, s.ok(t, ""), "mark-expired-invitations")
	for _, command := range []string{"serve", "migrate", "migrate status", "copy", "bootstrap", "seed", "rotate-keys", "mark-expired-invitations", "retry-webhooks"} {
		require.Contains(t, s.ok(t, command+" --help"), "Examples:", command)
	}
	help := s.ok(t, "serve --help")
	for _, setting := range app.Settings() {
		require.Contains(t, help, setting.Name)
	}
}

// TestReadmeListsEverySetting keeps the table in README.md in step with the code.
func TestReadmeListsEverySetting(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, s := range app.Settings() {
		value := "–"
		switch {
		case s.Name == "HASH_PARALLEL":
			value = "processors"
		case s.Default != "":
			value = "`" + s.Default + "`"
		}
		secret := ""
		if s.Secret {
			secret = "yes"
		}
		require.Contains(t, string(readme), "| `"+s.Name+"` | "+value+" | "+s.Help+" | "+secret+" |")
	}
	rows := regexp.MustCompile("(?m)^\\| `[A-Z_]+` \\|").FindAll(readme, -1)
	require.Len(t, rows, len(app.Settings()), "a setting in README.md is none")
}

// output is a stdout that is read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func TestServe(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s["AUTH_LISTEN"], s["TENANT_LISTEN"], s["INVITATION_LISTEN"] = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	loki := lokitest.NewFake(t)
	s["LOKI_URL"], s["LOKI_BUFFER"] = loki.URL(), t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stdout, stderr output
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, environment{args: []string{"serve"}, stdout: &stdout, stderr: &stderr, lookup: s.lookup})
	}()
	address := regexp.MustCompile(`"service":"auth-service".*"address":"([^"]+)"`)
	require.Eventually(t, func() bool { return address.MatchString(stdout.String()) }, 30*time.Second, 10*time.Millisecond, "%s", &stderr)

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		"http://"+address.FindStringSubmatch(stdout.String())[1]+"/.well-known/jwks.json", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Eventually(t, func() bool { return strings.Contains(stdout.String(), `"path":"/.well-known/jwks.json"`) }, 10*time.Second, 5*time.Millisecond)

	stop()
	require.Equal(t, exitOK, <-done)
	require.Empty(t, stderr.String())
	for line := range strings.Lines(stdout.String()) {
		require.True(t, json.Valid([]byte(line)), line)
		shipped := func(e lokitest.Entry) bool { return e.Line+"\n" == line }
		require.True(t, slices.ContainsFunc(loki.Entries(""), shipped), "not in Loki: %s", line)
	}
}

func TestServeOnAPortInUse(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	s := newShell(t)
	s["AUTH_LISTEN"], s["TENANT_LISTEN"] = "127.0.0.1:0", taken.Addr().String()
	_, stderr, code := s.run(t.Context(), "serve")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "TENANT_LISTEN: listen tcp "+taken.Addr().String()+": bind: address already in use")
	require.Equal(t, 1, strings.Count(stderr, "\n"))
}
