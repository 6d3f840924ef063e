package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryCommandOnTheScreenPrintsWhatTheScreenSays pastes the tour into a
// shell, one command after the other.
func TestEveryCommandOnTheScreenPrintsWhatTheScreenSays(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("TENANTGATE_REQUIRE_SERVICES") != "" {
			require.NoError(t, err)
		}
		t.Skip("skipped: curl was not found; install it to run the tour of the start-up screen")
	}
	dev := StartDev(t, binaries)

	_, tour, found := strings.Cut(dev.Stdout.String(), "Paste these into a second terminal")
	require.True(t, found)
	tour, _, _ = strings.Cut(tour, "Ctrl-C stops everything.")

	steps := strings.Split(strings.TrimSpace(tour), "\n\n")[1:]
	require.Len(t, steps, 19)
	const mark = "--- end of step ---"
	script := "set -u\n"
	var wants []string
	for _, step := range steps {
		lines := strings.Split(step, "\n")
		require.GreaterOrEqual(t, len(lines), 2, step)
		script += lines[1] + "\necho; echo '" + mark + "'\n"
		var want []string
		for _, line := range lines[2:] {
			text, ok := strings.CutPrefix(line, "    -> ")
			require.True(t, ok, line)
			want = append(want, text)
		}
		wants = append(wants, strings.Join(want, "\n"))
	}
	shell := exec.CommandContext(t.Context(), "sh")
	shell.Dir = root
	shell.Stdin = strings.NewReader(script)
	out, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", out)

	results := strings.Split(string(out), mark)
	require.Len(t, results, len(steps)+1, "%s", out)
	for i, want := range wants {
		rest := results[i]
		for line := range strings.SplitSeq(want, "\n") {
			_, after, found := strings.Cut(rest, line)
			require.True(t, found, "%q in order: %s\nprinted: %s", line, steps[i], results[i])
			rest = after
		}
		if want == "" {
			require.Empty(t, strings.TrimSpace(results[i]), "%s", steps[i])
		}
	}
	require.Equal(t, 0, dev.Stop(t, syscall.SIGINT))
}

func TestDevStopsCleanlyAndGoesOnWithItsData(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	first := StartDevIn(t, binaries, data)
	require.Contains(t, first.Stdout.String(), "new, with demo data")
	admin := first.Login(t, "admin@acme.test", Password)
	created := Call(t, "POST", first.URL+"/api/invitations/", map[string]any{"email": "kept@example.com", "role": "Viewer"}, admin...)
	require.Equal(t, 201, created.StatusCode, "%s", created.Body)
	require.Equal(t, "sqlite://"+filepath.Join(data, "tenantgate.db"), first.Env(t)["DATABASE_URL"])
	for _, name := range []string{"gateway.jsonl", "backends.jsonl"} {
		info, err := os.Stat(filepath.Join(data, "logs", name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), name)
	}
	require.Equal(t, 0, first.Stop(t, syscall.SIGTERM), "SIGTERM is a clean stop")
	require.Empty(t, first.Stderr.String(), "nothing goes to stderr when all is well")

	second := StartDevIn(t, binaries, data)
	require.Contains(t, second.Stdout.String(), "from an earlier start")
	list := Call(t, "GET", second.URL+"/api/invitations/", nil, second.Login(t, "admin@acme.test", Password)...)
	require.Contains(t, string(list.Body), "kept@example.com")
	require.Equal(t, 0, second.Stop(t, syscall.SIGINT), "Ctrl-C is a clean stop")

	fresh := StartDevIn(t, binaries, data, "--fresh")
	require.Contains(t, fresh.Stdout.String(), "new, with demo data")
	list = Call(t, "GET", fresh.URL+"/api/invitations/", nil, fresh.Login(t, "admin@acme.test", Password)...)
	require.NotContains(t, string(list.Body), "kept@example.com")
}

func TestDevRefusesAFolderThatAnotherDevUses(t *testing.T) {
	t.Parallel()
	first := StartDev(t, binaries)
	admin := first.Login(t, "admin@acme.test", Password)
	before := first.Env(t)

	second := Start(t, root, []string{"TENANTGATE_ADMIN=" + FreeAddress(t)}, filepath.Join(binaries, "tenantgate"),
		"dev", "--address", FreeAddress(t), "--data", first.Data, "--fresh")
	require.Equal(t, 1, second.Exit(t))
	require.Equal(t, fmt.Sprintf("Error: the data folder %s is used by process %d: stop it, or choose another with --data\n",
		first.Data, first.cmd.Process.Pid), second.Stderr.String())
	require.Empty(t, second.Stdout.String())

	require.Equal(t, before, first.Env(t))
	list := Call(t, "GET", first.URL+"/api/invitations/", nil, admin...)
	require.Equal(t, 200, list.StatusCode, "%s", list.Body)
}

// TestDevWithoutACaddyfileRunsTheBuiltInOne also starts it with relative paths,
// and reads what it wrote from another folder.
func TestDevWithoutACaddyfileRunsTheBuiltInOne(t *testing.T) {
	t.Parallel()
	tenantgate, err := filepath.Abs(filepath.Join(binaries, "tenantgate"))
	require.NoError(t, err)
	folder, admin := t.TempDir(), FreeAddress(t)
	p := Start(t, folder, []string{"TENANTGATE_ADMIN=" + admin}, tenantgate, "dev", "--address", FreeAddress(t), "--data", "./d")
	p.WaitFor(t, "Ctrl-C stops everything.")
	require.Regexp(t, `\n  config     built in.*\n  admin API`, p.Stdout.String(), "without a line for reload")

	file := filepath.Join(t.TempDir(), "own.caddyfile")
	builtIn, err := os.ReadFile(filepath.Join(root, "Caddyfile"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, builtIn, 0o600))
	reload := exec.CommandContext(t.Context(), "sh", "-c", `. "$0"; "$1" reload --force --config "$2"`, filepath.Join(folder, "d", "dev.env"), tenantgate, file)
	reload.Dir = t.TempDir()
	out, err := reload.CombinedOutput()
	require.NoError(t, err, "%s", out)
	left, err := os.ReadDir(reload.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
	explain := exec.CommandContext(t.Context(), "sh", "-c", `. "$0"; "$1" permissions explain abc/dashboard/read --tenant acme --user viewer@acme.test`, filepath.Join(folder, "d", "dev.env"), tenantgate)
	explain.Dir = reload.Dir
	out, err = explain.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "allowed")
	require.Equal(t, 0, p.Stop(t, syscall.SIGINT))
}

// TestWhatCannotWorkIsSaidInOneLine starts dev in ways that must fail.
func TestWhatCannotWorkIsSaidInOneLine(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	taken := listener.Addr().String()

	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	broken := filepath.Join(folder, "broken.caddyfile")
	require.NoError(t, os.WriteFile(broken, []byte(":0 {\n\ttrace_context {\n\t\ttrust nobody\n\t}\n}\n"), 0o600))
	data := filepath.Join(folder, "data")
	logless := filepath.Join(folder, "logless")
	require.NoError(t, os.MkdirAll(filepath.Join(logless, "logs", "gateway.jsonl"), 0o700))
	lockless := filepath.Join(folder, "lockless")
	require.NoError(t, os.MkdirAll(filepath.Join(lockless, "dev.lock"), 0o700))
	none := filepath.Join(folder, "none")

	for name, tt := range map[string]struct {
		args []string
		env  string
		want string
	}{
		"a port in use":           {[]string{"--address", taken}, "", taken + " can't be listened on (address already in use): stop what uses it, or choose another with --address"},
		"an admin port in use":    {nil, "TENANTGATE_ADMIN=" + taken, "the admin address " + taken + " can't be listened on (address already in use)"},
		"no port at all":          {[]string{"--address", "localhost"}, "", "--address localhost: give host:port"},
		"a folder that is a file": {[]string{"--data", file}, "", "the data folder can't be made: mkdir " + file + ": not a directory: choose another with --data"},
		"a port too high":         {[]string{"--address", "localhost:99999"}, "", "--address localhost:99999: 99999 is no port: choose one from 1 to 65535"},
		"a port by name":          {[]string{"--address", "localhost:http"}, "", "--address localhost:http: http is no port"},
		"an admin port too high":  {nil, "TENANTGATE_ADMIN=localhost:99999", "TENANTGATE_ADMIN=localhost:99999: 99999 is no port"},
		"a host that is not here": {[]string{"--address", "192.0.2.1:8080"}, "", "192.0.2.1:8080 can't be listened on (cannot assign requested address): choose another with --address"},
		"a log that is a folder":  {[]string{"--data", logless}, "", "the data folder can't be written: open " + logless + "/logs/gateway.jsonl: is a directory: choose another with --data"},
		"a lock that is a folder": {[]string{"--data", lockless}, "", "the data folder can't be written: open " + lockless + "/dev.lock: is a directory: choose another with --data"},
		"a broken Caddyfile":      {[]string{"--config", broken}, "", broken + ":3"},
		"no such Caddyfile":       {[]string{"--config", none}, "", "read the configuration: open " + none + ": no such file or directory"},
		"a log style unknown":     {[]string{"--log", "xml"}, "", "--log xml: use console or json"},
		"an unknown flag":         {[]string{"--verbose"}, "", "unknown flag: --verbose"},
		"an argument":             {[]string{"now"}, "", "unknown command \"now\""},
	} {
		env := []string{"TENANTGATE_ADMIN=" + FreeAddress(t)}
		if tt.env != "" {
			env = []string{tt.env}
		}
		args := append([]string{"dev", "--address", FreeAddress(t), "--data", data}, tt.args...)
		p := Start(t, root, env, filepath.Join(binaries, "tenantgate"), args...)
		require.Equal(t, 1, p.Exit(t), name)
		message := strings.TrimSpace(p.Stderr.String())
		require.Contains(t, message, tt.want, name)
		require.True(t, strings.HasPrefix(message, "Error: "), "%s: %s", name, message)
		require.NotContains(t, message, "\n", name)
		if name != "a broken Caddyfile" { // which takes the services' addresses to read
			require.Empty(t, p.Stdout.String(), "%s: nothing is started", name)
		}
	}
}

func TestTheBinarySaysWhatItIs(t *testing.T) {
	t.Parallel()
	for arg, wants := range map[string][]string{
		"version":      {"tenantgate/", " v2."},
		"list-modules": {"http.handlers.trace_context", "http.handlers.reverse_proxy", "tenantgate"},
		"help":         {"API gateway for multi-tenant software", "tenantgate dev", "https://caddyserver.com/docs/"},
	} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(binaries, "tenantgate"), arg).CombinedOutput()
		require.NoError(t, err, "%s", out)
		for _, want := range wants {
			require.Contains(t, string(out), want, arg)
		}
		require.NotContains(t, string(out), "$ caddy", arg)
	}
}

// TestCaddysCommandsThatDownloadABinarySayWhatToDoInstead: Caddy's build server
// has no build of ours.
func TestCaddysCommandsThatDownloadABinarySayWhatToDoInstead(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"upgrade"},
		{"upgrade", "--keep-backup"},
		{"add-package", "github.com/caddy-dns/route53"},
		{"remove-package", "github.com/caddy-dns/route53"},
	} {
		p := Start(t, root, nil, filepath.Join(binaries, "tenantgate"), args...)
		require.Equal(t, 1, p.Exit(t), args)
		require.Equal(t, "Error: "+args[0]+" would replace this program by a build of caddyserver.com, which has no Tenantgate: "+
			"install a newer release, or build with your packages as `make xcaddy` does\n", p.Stderr.String())
		require.Empty(t, p.Stdout.String())
	}
	help, err := exec.CommandContext(t.Context(), filepath.Join(binaries, "tenantgate"), "--help").CombinedOutput()
	require.NoError(t, err)
	require.NotRegexp(t, `(?m)^  (upgrade|add-package|remove-package) `, string(help))
	require.Regexp(t, `(?m)^  reverse-proxy `, string(help))
}
