package dbtest

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantgate/tenantgate/internal/servertest"
)

const (
	superuser = "tenantgate"
	// password needs escapes in a URL.
	password = "s3cret:of/db@test"
)

// Server is a running PostgreSQL server on the loopback address that asks for a
// password. Its methods are for the goroutine of the test.
type Server struct {
	tb      testing.TB
	install installation
	dir     string // removed at the end of the test
	args    []string
	process *servertest.Process
}

// StartServer starts a PostgreSQL server of the test's own and returns when it
// serves; it ends with the test. The arguments are added to its command line.
//
// It needs PostgreSQL's programs (apt-get install postgresql) and no
// TEST_POSTGRES_DSN. Without them the test is skipped, or fails if the
// environment says TENANTGATE_REQUIRE_SERVICES=1.
func StartServer(tb testing.TB, args ...string) *Server {
	tb.Helper()
	install, err := findInstallation()
	if err != nil {
		missing(tb, err.Error())
	}
	pristine, err := initialised()
	if err != nil {
		tb.Fatalf("make a PostgreSQL cluster: %v", err)
	}
	s := &Server{tb: tb, install: install, args: args}
	if s.dir, err = install.tempDir(); err != nil {
		tb.Fatal(err)
	}
	s.process = &servertest.Process{
		TB: tb, Name: "PostgreSQL", Dir: s.dir, Command: s.command, Ready: []string{"ready to accept connections"}, Patience: patience,
		Children: children, Guard: `kill -KILL "$0" $(cat "/proc/$0/task/$0/children")`,
	}
	tb.Cleanup(s.cleanUp)
	if out, err := exec.CommandContext(tb.Context(), "cp", "-a", pristine, s.data()).CombinedOutput(); err != nil { //nolint:gosec // our own folders
		tb.Fatalf("copy the cluster: %v: %s", err, out)
	}
	if !s.process.Start() {
		tb.Fatalf("PostgreSQL does not start:\n%s", s.process.Log())
	}
	s.Wait()
	return s
}

// Addr returns the address as host:port.
func (s *Server) Addr() string { return s.process.Addr() }

// URL returns the URL of a database of the server. "postgres" is there from
// the start.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, password), Host: s.Addr(), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Password returns what must never be seen in a log or an error.
func (*Server) Password() string { return password }

// Database makes a database whose schema is up to date and returns its URL.
func (s *Server) Database(name string) string {
	s.tb.Helper()
	if err := admin(s.URL("postgres"), "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		s.tb.Fatal(err)
	}
	if err := migrate(s.URL(name)); err != nil {
		s.tb.Fatal(err)
	}
	return s.URL(name)
}

// Exec runs a statement in a database of the server.
func (s *Server) Exec(database, statement string) {
	s.tb.Helper()
	if err := admin(s.URL(database), statement); err != nil {
		s.tb.Fatal(err)
	}
}

// Kill ends the server and all its processes at once, as a crash of the machine
// would, also while it is frozen. A second call does nothing.
func (s *Server) Kill() { s.process.Kill() }

// Stop shuts the server down in order: clients are told that it ends.
func (s *Server) Stop() {
	s.tb.Helper()
	s.shutDown(syscall.SIGINT) // PostgreSQL's "fast"
}

// Restart ends the server, as [Server.Kill] does, and starts it on the same port
// with what was committed. It returns when the server serves.
func (s *Server) Restart() {
	s.tb.Helper()
	s.process.Restart()
	s.Wait()
}

// Freeze stops the server and all its processes in their tracks: the system
// still accepts connections for it, and nobody ever answers.
func (s *Server) Freeze() { s.process.Freeze() }

// Thaw lets a frozen server go on where it was.
func (s *Server) Thaw() { s.process.Thaw() }

// children returns the numbers of a process's children. Each of PostgreSQL's is
// in a process group of its own, so there is no group to signal.
func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state parent …", where the name may hold anything.
		fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// shutDown ends the server by a signal, or kills it if that takes too long.
func (s *Server) shutDown(sig syscall.Signal) {
	s.tb.Helper()
	if !s.process.Running() {
		return
	}
	s.Thaw()
	if err := s.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) { // it may have ended by itself
		s.tb.Fatalf("signal PostgreSQL: %v", err)
	}
	select {
	case <-s.process.Done():
	case <-time.After(patience):
	}
	s.Kill()
}

func (s *Server) command(port int) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.install.bin, "postgres"), append([]string{ //nolint:gosec // the tests say what to start
		"-D", s.data(), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "shared_buffers=16MB",
		// Killed processes leave no shared memory behind, and nothing outlives the test.
		"-c", "dynamic_shared_memory_type=mmap", "-c", "fsync=off", "-c", "full_page_writes=off",
	}, s.args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.install.account}
	return cmd
}

// Wait returns when the server answers a query.
func (s *Server) Wait() {
	s.tb.Helper()
	for deadline := time.After(patience); ; {
		err := connected(s.URL("postgres"), func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
		if err == nil {
			return
		}
		select {
		case <-deadline:
			s.tb.Fatalf("PostgreSQL does not answer: %v\n%s", err, s.process.Log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) cleanUp() {
	segment := s.sharedMemory()
	s.shutDown(syscall.SIGQUIT) // PostgreSQL's "immediate"
	if segment != "" {
		// Who was killed left it behind. It is gone after an orderly end.
		_ = exec.CommandContext(context.Background(), "ipcrm", "-m", segment).Run() //nolint:gosec // a number
	}
	s.process.LogIfFailed()
	if err := os.RemoveAll(s.dir); err != nil {
		s.tb.Errorf("remove the cluster: %v", err)
	}
}

// sharedMemory returns the number of the server's System V segment, which
// stands in its pid file until an orderly end, or "".
func (s *Server) sharedMemory() string {
	content, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return ""
	}
	if lines := strings.Split(string(content), "\n"); len(lines) > 6 {
		if fields := strings.Fields(lines[6]); len(fields) == 2 {
			return fields[1]
		}
	}
	return ""
}
