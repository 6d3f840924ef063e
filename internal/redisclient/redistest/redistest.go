// Package redistest gives a test a redis-server of its own, which the test may
// freeze, kill and start again. Only tests import it.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenantgate/tenantgate/internal/servertest"
)

const (
	// program is looked for on PATH.
	program = "redis-server"
	// patience is how long a server may take for what it does at once.
	patience = 20 * time.Second
)

// Server is a running redis-server on the loopback address. Its methods are
// for the goroutine of the test.
type Server struct {
	tb      testing.TB
	args    []string
	process *servertest.Process
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
	s := &Server{tb: tb, args: args}
	s.process = &servertest.Process{
		TB: tb, Name: program, Dir: tb.TempDir(), Command: s.command,
		Ready:    []string{"Ready to accept connections", "Sentinel ID is"},
		Patience: patience, Guard: `kill -KILL "$0"`,
	}
	tb.Cleanup(func() {
		s.process.Kill()
		s.process.LogIfFailed()
	})
	if !s.process.Start() {
		tb.Fatalf("redis-server %s does not start:\n%s", strings.Join(args, " "), s.process.Log())
	}
	s.Wait()
	return s
}

// Addr returns the address as host:port.
func (s *Server) Addr() string { return s.process.Addr() }

// URL returns the address as a URL without user and database.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Kill ends the server at once, as a crash would, also while it is frozen. A
// second call does nothing.
func (s *Server) Kill() { s.process.Kill() }

// Restart kills the server and starts it on the same port with no data, and
// returns when it serves.
func (s *Server) Restart() {
	s.tb.Helper()
	s.process.Restart()
	s.Wait()
}

// Freeze stops the server in its tracks: the system still accepts connections
// for it, and nobody ever answers.
func (s *Server) Freeze() { s.process.Freeze() }

// Thaw lets a frozen server go on where it was.
func (s *Server) Thaw() { s.process.Thaw() }

// Wait returns when the server answers PING, if only with a demand for a
// password or for TLS.
func (s *Server) Wait() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !s.answers(ctx) {
		select {
		case <-ctx.Done():
			s.tb.Fatalf("redis-server does not answer:\n%s", s.process.Log())
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

func (s *Server) command(port int) *exec.Cmd {
	return exec.CommandContext(context.Background(), program, s.commandLine(strconv.Itoa(port))...) //nolint:gosec // the tests say what to start
}

func (s *Server) commandLine(port string) []string {
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
