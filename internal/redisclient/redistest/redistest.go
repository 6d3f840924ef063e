// Package redistest gives a test a redis-server of its own, which the test may
// freeze, kill and start again. Only tests import it.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// program is looked for on PATH.
	program = "redis-server"
	// patience is how long a server may take for what it does at once.
	patience = 20 * time.Second
	// The ports tried lie below the range from which the system hands out ports
	// for ":0" and for outgoing connections, and so does the bus of a cluster
	// (port + 10000). So nothing takes the port of a server that is down.
	lowestPort, portCount = 10240, 11000
)

// Server is a running redis-server on the loopback address. Its methods are
// for the goroutine of the test.
type Server struct {
	tb    testing.TB
	dir   string // working directory, emptied at the end of the test
	port  int
	args  []string
	cmd   *exec.Cmd
	guard *exec.Cmd
	done  chan struct{} // closed when cmd has ended
}

// Start starts redis-server and returns when it serves; it ends with the test.
// It saves nothing to disk and listens on one free port. The arguments are
// added to its command line, "{port}" in them stands for the port; a first
// one that is no option names a configuration file.
//
// Without redis-server on PATH the test is skipped, or fails if the
// environment says TENANTGATE_REQUIRE_SERVICES=1.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("TENANTGATE_REQUIRE_SERVICES") != "" {
			tb.Fatal("redis-server is required and was not found: apt-get install redis-server")
		}
		tb.Skip("redis-server is not on PATH: apt-get install redis-server")
	}
	s := &Server{tb: tb, dir: tb.TempDir(), args: args}
	tb.Cleanup(s.cleanUp)
	for range 50 {
		s.port = lowestPort + rand.IntN(portCount) //nolint:gosec // a port need not be unguessable
		if s.launch() {
			return s
		}
		if !strings.Contains(s.log(), "Address already in use") {
			break
		}
	}
	tb.Fatalf("redis-server %s does not start:\n%s", strings.Join(args, " "), s.log())
	return nil
}

// Addr returns the address as host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns the address as a URL without user and database.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Kill ends the server at once, as a crash would, also while it is frozen. A
// second call does nothing.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	// The guard goes first: once the server has ended, its number may be
	// another process's.
	if s.guard.Process != nil {
		_ = s.guard.Process.Kill()
		_ = s.guard.Wait() // says that it was killed
	}
	_ = s.cmd.Process.Kill() // fails only if the server has ended already
	<-s.done
	s.cmd = nil
}

// Restart kills the server and starts it on the same port with no data, and
// returns when it serves.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	if !s.launch() {
		s.tb.Fatalf("redis-server does not start again:\n%s", s.log())
	}
}

// Freeze stops the server in its tracks: the system still accepts connections
// for it, and nobody ever answers.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on where it was.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if s.cmd == nil {
		s.tb.Fatal("redis-server was killed and not started again")
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("signal redis-server: %v", err)
	}
}

// Wait returns when the server answers PING, if only with a demand for a
// password or for TLS.
func (s *Server) Wait() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !s.answers(ctx) {
		select {
		case <-ctx.Done():
			s.tb.Fatalf("redis-server does not answer:\n%s", s.log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// answers tries once.
func (s *Server) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return false
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	reply := make([]byte, 64)
	n, err := conn.Read(reply)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return true // a server that expects TLS hangs up
	}
	return err == nil && !bytes.HasPrefix(reply[:n], []byte("-LOADING"))
}

// launch starts the server on s.port and reports whether it serves.
func (s *Server) launch() bool {
	s.tb.Helper()
	output, err := os.Create(s.logFile())
	if err != nil {
		s.tb.Fatal(err)
	}
	defer output.Close()
	cmd := exec.CommandContext(context.Background(), program, s.commandLine()...) //nolint:gosec // the tests say what to start
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, output, output
	if err := cmd.Start(); err != nil {
		s.tb.Fatalf("start redis-server: %v", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	s.cmd, s.done = cmd, done
	s.startGuard()
	if !s.listens() {
		s.Kill()
		return false
	}
	s.Wait()
	return true
}

// startGuard starts a process that kills the server if the test's process
// ends without its clean-up, as it does after a panic or a timeout.
func (s *Server) startGuard() {
	s.tb.Helper()
	s.guard = exec.CommandContext(context.Background(), "sh", "-c", //nolint:gosec // the only argument is a number
		`read -r _; kill -KILL "$0"`, strconv.Itoa(s.cmd.Process.Pid))
	if _, err := s.guard.StdinPipe(); err != nil { // held open until Wait, or until this process is gone
		s.tb.Fatal(err)
	}
	if err := s.guard.Start(); err != nil {
		s.tb.Fatalf("start the guard of redis-server: %v", err)
	}
}

func (s *Server) commandLine() []string {
	port := strconv.Itoa(s.port)
	options := []string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no"}
	args := make([]string, 0, len(options)+len(s.args))
	rest := s.args
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		args, rest = append(args, rest[0]), rest[1:]
	}
	args = append(args, options...)
	for _, arg := range rest {
		args = append(args, strings.ReplaceAll(arg, "{port}", port))
	}
	return args
}

// listens waits until the server says in its log that it has its port. Asking
// the port is not enough: somebody else's server may be behind it.
func (s *Server) listens() bool {
	for deadline := time.After(patience); ; {
		for _, line := range []string{"Ready to accept connections", "Sentinel ID is"} {
			if strings.Contains(s.log(), line) {
				return true
			}
		}
		select {
		case <-s.done:
			return false
		case <-deadline:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "redis.log") }

func (s *Server) log() string {
	content, _ := os.ReadFile(s.logFile()) // none yet is an empty one
	return string(content)
}

func (s *Server) cleanUp() {
	s.Kill()
	if s.tb.Failed() {
		s.tb.Logf("the end of redis-server's log on port %d:\n%s", s.port, lastLines(s.log(), 20))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
