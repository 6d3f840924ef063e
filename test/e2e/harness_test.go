package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// root is the repository's folder, seen from this package's.
const root = "../.."

// Build compiles both commands into folder and returns an error that holds the
// compiler's output.
func Build(folder string) error {
	cmd := exec.Command("go", "build", raceFlag, "-o", folder+"/", "./cmd/tenantgate", "./cmd/backends")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return readSources()
}

// readSources reads everything that the binaries are made of and run on. go
// test knows only what this process reads: without it, it would take a result
// from its cache although the product has changed.
func readSources() error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "data" || entry.Name() == "bin" || len(entry.Name()) > 2 && entry.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if entry.Type().IsRegular() {
			_, err = os.ReadFile(path)
		}
		return err
	})
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	data bytes.Buffer
	more chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data.Write(p)
	close(o.more)
	o.more = make(chan struct{})
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// Process is a running command.
type Process struct {
	cmd            *exec.Cmd
	Stdout, Stderr *output
	done           chan struct{}
}

// Start runs a command in folder dir with additional environment variables.
// The test's end kills it if it still runs.
func Start(t *testing.T, dir string, env []string, name string, args ...string) *Process {
	t.Helper()
	p := &Process{
		cmd:    exec.Command(name, args...),
		Stdout: &output{more: make(chan struct{})}, Stderr: &output{more: make(chan struct{})},
		done: make(chan struct{}),
	}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.Stdout, p.Stderr
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // the exit code is asked for in Stop
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("stdout of %s:\n%s", filepath.Base(name), tail(p.Stdout.String()))
			t.Logf("stderr of %s:\n%s", filepath.Base(name), tail(p.Stderr.String()))
		}
	})
	return p
}

// tail returns the end of a long text.
func tail(s string) string {
	const most = 12_000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// WaitFor waits until the process has printed text to stdout.
func (p *Process) WaitFor(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		p.Stdout.mu.Lock()
		found, more := strings.Contains(p.Stdout.data.String(), text), p.Stdout.more
		p.Stdout.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-p.done:
			require.Contains(t, p.Stdout.String(), text, "the process ended early: %s", p.Stderr)
			return
		case <-timeout:
			require.FailNow(t, "timeout", "%q was not printed; stderr: %s", text, p.Stderr)
		}
	}
}

// Stop sends a signal and returns the exit code.
func (p *Process) Stop(t *testing.T, signal syscall.Signal) int {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(signal))
	return p.Exit(t)
}

// Exit waits for the end of the process and returns the exit code.
func (p *Process) Exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		require.FailNow(t, "timeout", "the process did not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// nextPort is the port that FreeAddress tries next. The range is below those
// that the kernel gives to connections (32768 and up): such a one could take the
// port before the program that it is meant for. It is above internal/servertest's.
var nextPort atomic.Int64

const lowestPort, portCount = 21500, 11000

func init() { nextPort.Store(rand.Int64N(portCount)) }

// FreeAddress returns a loopback address that nobody listens on, and that it
// gives to no other test.
func FreeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", lowestPort+nextPort.Add(1)%portCount)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue // somebody has it
		}
		require.NoError(t, listener.Close())
		return address
	}
	require.FailNow(t, "no free port")
	return ""
}

// Dev is a running `tenantgate dev`.
type Dev struct {
	*Process
	// URL is the gateway's, Data the folder of its data, Admin its admin address.
	URL, Data, Admin string
}

// StartDev runs `tenantgate dev` in a new folder and waits for its screen.
func StartDev(t *testing.T, binaries string, args ...string) *Dev {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	return StartDevIn(t, binaries, data, args...)
}

// StartDevIn is [StartDev] with a given data folder.
func StartDevIn(t *testing.T, binaries, data string, args ...string) *Dev {
	t.Helper()
	address, admin := FreeAddress(t), FreeAddress(t)
	args = append([]string{"dev", "--address", address, "--data", data, "--log", "json"}, args...)
	p := Start(t, root, []string{"TENANTGATE_ADMIN=" + admin}, filepath.Join(binaries, "tenantgate"), args...)
	p.WaitFor(t, "Ctrl-C stops everything.")
	return &Dev{Process: p, URL: "http://" + address, Data: data, Admin: admin}
}

// Env returns the variables that dev wrote for `tenantgate reload`.
func (d *Dev) Env(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open(filepath.Join(d.Data, "dev.env"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	env := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		require.True(t, ok, lines.Text())
		env[name] = strings.Trim(value, "'")
	}
	return env
}

// Answer is a response with its body read.
type Answer struct {
	*http.Response
	Body []byte
}

// JSON returns the body as a JSON object.
func (a Answer) JSON(t *testing.T) map[string]any {
	t.Helper()
	var object map[string]any
	require.NoError(t, json.Unmarshal(a.Body, &object), "%s", a.Body)
	return object
}

// Call sends a request. body may be nil, or a value to send as JSON; header is
// names and values in turn.
func Call(t *testing.T, method, url string, body any, header ...string) Answer {
	t.Helper()
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		require.NoError(t, err)
		reader = bytes.NewReader(encoded)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, reader)
	require.NoError(t, err)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return Answer{resp, content}
}

// client keeps connections alive between calls but never follows a redirect.
var client = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Password is that of the demo's users.
const Password = "correct horse battery staple"

// Login returns the header that speaks for a user, as arguments of [Call].
func (d *Dev) Login(t *testing.T, email, password string) []string {
	t.Helper()
	answer := Call(t, http.MethodPost, d.URL+"/api/auth/login", map[string]string{"email": email, "password": password})
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s", answer.Body)
	token, ok := answer.JSON(t)["access_token"].(string)
	require.True(t, ok)
	return []string{"Authorization", "Bearer " + token}
}

// Lines returns the log lines of the gateway and the backends with the given
// trace id, and waits until there are at least n.
func (d *Dev) Lines(t *testing.T, traceID string, n int) []map[string]any {
	t.Helper()
	var lines []map[string]any
	require.Eventually(t, func() bool {
		lines = nil
		for _, name := range []string{"gateway.jsonl", "backends.jsonl"} {
			content, err := os.ReadFile(filepath.Join(d.Data, "logs", name))
			if err != nil {
				return false
			}
			for _, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
				if !strings.Contains(line, traceID) {
					continue
				}
				var fields map[string]any
				if json.Unmarshal([]byte(line), &fields) != nil {
					return false
				}
				lines = append(lines, fields)
			}
		}
		return len(lines) >= n
	}, 10*time.Second, 20*time.Millisecond, "trace %s: %v", traceID, lines)
	return lines
}
