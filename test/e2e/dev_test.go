package e2e

import (
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
		require.Contains(t, results[i], want, "%s", steps[i])
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

	for name, tt := range map[string]struct {
		args []string
		env  string
		want string
	}{
		"a port in use":           {[]string{"--address", taken}, "", taken + " can't be listened on (address already in use): stop what uses it, or choose another with --address"},
		"an admin port in use":    {nil, "TENANTGATE_ADMIN=" + taken, "the admin address " + taken + " can't be listened on (address already in use)"},
		"no port at all":          {[]string{"--address", "localhost"}, "", "--address localhost: give host:port"},
		"a folder that is a file": {[]string{"--data", file}, "", "the data folder can't be made: mkdir " + file + ": not a directory: choose another with --data"},
		"a broken Caddyfile":      {[]string{"--config", broken}, "", broken + ":3"},
		"no such Caddyfile":       {[]string{"--config", filepath.Join(folder, "none")}, "", "read the configuration: open " + filepath.Join(folder, "none") + ": no such file or directory"},
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
	}
}
