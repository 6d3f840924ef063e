package loki_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// process is a Caddy of its own.
type process struct {
	*exec.Cmd
	out string // a file: what it printed
}

// start runs Caddy with these arguments.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	p := &process{exec.CommandContext(t.Context(), os.Args[0], args...), file.Name()}
	p.Env = append(os.Environ(), asCaddy+"=1")
	p.Stdout, p.Stderr = file, file
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_, _ = p.Process.Wait()
	})
	return p
}

// printed returns what the process printed.
func (p *process) printed(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(p.out)
	require.NoError(t, err)
	return string(content)
}

// stop ends the process with SIGTERM.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.Wait(), "%s", p.printed(t))
}

// newFile writes a Caddyfile for a Caddy of its own and returns its path.
func (g *gate) newFile(t *testing.T, options string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(g.caddyfile(options)), 0o600))
	return file
}

// ready waits until the Caddy behind the gate answers.
func (g *gate) ready(t *testing.T, p *process) {
	t.Helper()
	require.Eventually(t, func() bool { return g.get("/ready") == nil }, 30*time.Second, 10*time.Millisecond, "%s", p.printed(t))
}

func TestTheLinesOfAStopAreShipped(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	p := start(t, "run", "--config", g.newFile(t, output(f.URL(), t.TempDir())))
	g.ready(t, p)
	require.NoError(t, g.get("/last"))
	p.stop(t)
	waitFor(t, f, "", "/last")
	var messages []string
	for _, e := range f.Entries("") {
		messages = append(messages, e.Line)
	}
	all := strings.Join(messages, "")
	require.Contains(t, all, "exiting; byeee!!")
	require.Contains(t, all, "servers shutting down")
	require.NotContains(t, all, "shutdown complete")
	require.Contains(t, p.printed(t), "shutdown complete", "this comes after the shipper's end")
	require.NotContains(t, p.printed(t), "handled request")
}

func TestAStopDoesNotWaitForLokiAndTheNextStartGoesOn(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	file := g.newFile(t, output(f.URL(), dir))
	f.Freeze()
	p := start(t, "run", "--config", file)
	g.ready(t, p)
	require.NoError(t, g.get("/a"))
	stopped := time.Now()
	p.stop(t)
	require.Less(t, time.Since(stopped), 9*time.Second, "a request to Loki takes 10")
	require.Empty(t, f.Entries(""))

	f.Restart(t)
	p = start(t, "run", "--config", file)
	waitFor(t, f, "", "/a")
	p.stop(t)
}

func TestValidateBesideAGatewayThatRuns(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	running := g.newFile(t, output(f.URL(), dir, "label env running"))
	p := start(t, "run", "--config", running)
	g.ready(t, p)

	v := start(t, "validate", "--config", g.newFile(t, output(f.URL(), dir, "label env validated")))
	require.NoError(t, v.Wait(), "%s", v.printed(t))
	require.Contains(t, v.printed(t), "Valid configuration")
	require.Contains(t, v.printed(t), "is used by process", "it says so")
	require.Contains(t, v.printed(t), `"service":"tenantgate"`, "its own lines are not lost")

	require.NoError(t, g.get("/after"))
	require.Equal(t, "running", waitFor(t, f, "", "/after").Labels["env"])
	for _, e := range f.Entries("") {
		require.Equal(t, "running", e.Labels["env"], e.Line)
	}
	p.stop(t)
}

func TestAFolderThatAnotherProcessHasIsTakenWhenItEnds(t *testing.T) {
	g, other, f := newGate(t), newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	p := start(t, "run", "--config", g.newFile(t, output(f.URL(), dir)))
	g.ready(t, p)
	second := start(t, "run", "--config", other.newFile(t, output(f.URL(), dir)))
	other.ready(t, second)
	require.NoError(t, other.get("/waits"))
	require.Eventually(t, func() bool { return strings.Contains(second.printed(t), "is used by process") }, 20*time.Second, 10*time.Millisecond)
	require.NotContains(t, access(f, ""), "/waits")
	p.stop(t)
	waitFor(t, f, "", "/waits")
	second.stop(t)
}
