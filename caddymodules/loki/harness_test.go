package loki_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/logging" // log_append
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
	"github.com/stretchr/testify/require"

	_ "github.com/tenantgate/tenantgate/caddymodules/handover"
	_ "github.com/tenantgate/tenantgate/caddymodules/logformat"
	_ "github.com/tenantgate/tenantgate/caddymodules/loki"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// asCaddy makes the test's own program Caddy's.
const asCaddy = "TENANTGATE_TEST_CADDY"

// stderr is where this process's stderr goes.
var stderr string

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	home, err := os.MkdirTemp("", "loki")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(home) }()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, home); err != nil {
			panic(err)
		}
	}
	stderr = filepath.Join(home, "stderr")
	file, err := os.OpenFile(stderr, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	os.Stderr = file
	return m.Run()
}

// printed returns what went to stderr since the call of since.
func printed(t *testing.T, since int64) string {
	t.Helper()
	content, err := os.ReadFile(stderr)
	require.NoError(t, err)
	return string(content[since:])
}

// since returns where stderr is now.
func since(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(stderr)
	require.NoError(t, err)
	return info.Size()
}

// gate is a Caddy with one site on a Unix socket, and a client for it. Only one
// runs at a time.
type gate struct {
	client *http.Client
	socket string
	site   string // more directives of the site
}

func newGate(t *testing.T) *gate {
	t.Helper()
	_ = t.TempDir()                      // the first is what removes all of them: after caddy.Stop below
	dir, err := os.MkdirTemp("", "gate") // t.TempDir can be too long for a socket
	require.NoError(t, err)
	g := &gate{socket: filepath.Join(dir, "s")}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.socket)
		},
		MaxIdleConnsPerHost: 100,
	}
	g.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		require.NoError(t, caddy.Stop())
		_ = os.RemoveAll(dir)
	})
	return g
}

// caddyfile returns a Caddyfile with these global options.
func (g *gate) caddyfile(options string) string {
	return fmt.Sprintf("{\n admin off\n persist_config off\n auto_https off\n servers {\n listener_wrappers {\n handover {\n settle 1ms\n }\n }\n }\n %s\n}\nhttp:// {\n bind unix/%s\n log\n %s\n respond ok\n}\n",
		options, g.socket, g.site)
}

func adapt(t testing.TB, caddyfile string) []byte {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	require.NoError(t, err)
	return config
}

// load runs the site with these global options, in the place of the one before.
func (g *gate) load(t testing.TB, options string) {
	t.Helper()
	require.NoError(t, caddy.Load(adapt(t, g.caddyfile(options)), true))
}

// get requests a path and reads the answer.
func (g *gate) get(path string, header ...string) error {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://gate"+path, nil)
	if err != nil {
		return err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := g.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// output returns the global option for a log that is shipped from a buffer, with
// more options of the writer.
func output(url, dir string, options ...string) string {
	return "log {\n output loki " + url + " {\n buffer " + dir + "\n batch 64KiB 10ms\n " + strings.Join(options, "\n") + "\n }\n format tenantgate\n }"
}

// access returns the lines of requests that a Loki has for a tenant, by path.
func access(f *lokitest.Fake, tenant string) map[string][]lokitest.Entry {
	lines := map[string][]lokitest.Entry{}
	for _, e := range f.Entries(tenant) {
		if path, ok := pathOf(e.Line); ok {
			lines[path] = append(lines[path], e)
		}
	}
	return lines
}

// pathOf returns the path in an access line.
func pathOf(line string) (string, bool) {
	if !strings.Contains(line, `"msg":"handled request"`) {
		return "", false
	}
	_, rest, _ := strings.Cut(line, `"path":"`)
	path, _, found := strings.Cut(rest, `"`)
	return path, found
}

// waitFor returns the line of a request once Loki has it.
func waitFor(t *testing.T, f *lokitest.Fake, tenant, path string) lokitest.Entry {
	t.Helper()
	var found []lokitest.Entry
	require.Eventually(t, func() bool {
		found = access(f, tenant)[path]
		return len(found) > 0
	}, 20*time.Second, 10*time.Millisecond, "%s", path)
	require.Len(t, found, 1)
	return found[0]
}

// linesOf returns the access lines in a text, by path.
func linesOf(text string) map[string]int {
	lines := map[string]int{}
	for line := range strings.Lines(text) {
		if path, ok := pathOf(line); ok {
			lines[path]++
		}
	}
	return lines
}
