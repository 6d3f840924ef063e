package dbtest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
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
)

const (
	// The ports tried lie below the range from which the system hands out ports
	// for ":0" and for outgoing connections, so nothing takes the port of a server
	// that is down.
	lowestPort, portCount = 10240, 22000

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
	port    int
	args    []string

	cmd   *exec.Cmd
	guard *exec.Cmd
	stdin io.Closer     // of the guard
	done  chan struct{} // closed when cmd has ended
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
	tb.Cleanup(s.cleanUp)
	if out, err := exec.CommandContext(tb.Context(), "cp", "-a", pristine, s.data()).CombinedOutput(); err != nil { //nolint:gosec // our own folders
		tb.Fatalf("copy the cluster: %v: %s", err, out)
	}
	for range 50 {
		s.port = lowestPort + rand.IntN(portCount) //nolint:gosec // a port need not be unguessable
		if s.launch() {
			return s
		}
		if !strings.Contains(s.log(), "Address already in use") {
			break
		}
	}
	tb.Fatalf("PostgreSQL does not start:\n%s", s.log())
	return nil
}

// Addr returns the address as host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

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
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.dismissGuard()
	all := s.processes()
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL) // fails only if it has ended already
	}
	<-s.done
	s.cmd = nil
}

// Stop shuts the server down in order: clients are told that it ends.
func (s *Server) Stop() {
	s.tb.Helper()
	s.shutDown(syscall.SIGINT) // PostgreSQL's "fast"
}

// Restart ends the server, as [Server.Kill] does, and starts it on the same port
// with what was committed. It returns when the server serves.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	if !s.launch() {
		s.tb.Fatalf("PostgreSQL does not start again:\n%s", s.log())
	}
}

// Freeze stops the server and all its processes in their tracks: the system
// still accepts connections for it, and nobody ever answers.
func (s *Server) Freeze() {
	s.tb.Helper()
	if s.cmd == nil {
		s.tb.Fatal("PostgreSQL was ended and not started again")
	}
	// The first is the one that makes the others.
	s.signal(s.cmd.Process.Pid, syscall.SIGSTOP)
	for _, pid := range s.processes()[1:] {
		s.signal(pid, syscall.SIGSTOP)
	}
}

// Thaw lets a frozen server go on where it was.
func (s *Server) Thaw() {
	s.tb.Helper()
	if s.cmd == nil {
		s.tb.Fatal("PostgreSQL was ended and not started again")
	}
	for _, pid := range s.processes() {
		s.signal(pid, syscall.SIGCONT)
	}
}

func (s *Server) signal(pid int, sig syscall.Signal) {
	s.tb.Helper()
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.tb.Fatalf("signal PostgreSQL: %v", err)
	}
}

// processes returns the numbers of the server's processes, the main one first.
// Each is in a process group of its own, so there is no group to signal.
func (s *Server) processes() []int {
	all := []int{s.cmd.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state parent …", where the name may hold anything.
		fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(all[0]) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// shutDown ends the server by a signal, or kills it if that takes too long.
func (s *Server) shutDown(sig syscall.Signal) {
	s.tb.Helper()
	if s.cmd == nil {
		return
	}
	s.Thaw()
	s.signal(s.cmd.Process.Pid, sig)
	select {
	case <-s.done:
		s.dismissGuard()
		s.cmd = nil
	case <-time.After(patience):
		s.Kill()
	}
}

// launch starts the server on s.port and reports whether it serves.
func (s *Server) launch() bool {
	s.tb.Helper()
	output, err := os.Create(s.logFile())
	if err != nil {
		s.tb.Fatal(err)
	}
	defer output.Close()
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.install.bin, "postgres"), append([]string{ //nolint:gosec // the tests say what to start
		"-D", s.data(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "shared_buffers=16MB",
		// Killed processes leave no shared memory behind, and nothing outlives the test.
		"-c", "dynamic_shared_memory_type=mmap", "-c", "fsync=off", "-c", "full_page_writes=off",
	}, s.args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.install.account}
	if err := cmd.Start(); err != nil {
		s.tb.Fatalf("start PostgreSQL: %v", err)
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
		`read -r _; kill -KILL "$0" $(cat "/proc/$0/task/$0/children")`, strconv.Itoa(s.cmd.Process.Pid))
	var err error
	if s.stdin, err = s.guard.StdinPipe(); err != nil { // held open until Wait, or until this process is gone
		s.tb.Fatal(err)
	}
	if err := s.guard.Start(); err != nil {
		s.tb.Fatalf("start the guard of PostgreSQL: %v", err)
	}
}

// dismissGuard goes before the server ends: then its number may be another
// process's.
func (s *Server) dismissGuard() {
	if s.guard.Process != nil {
		_ = s.guard.Process.Kill()
		_ = s.guard.Wait() // says that it was killed
	}
}

// listens waits until the server says in its log that it serves. Asking the
// port is not enough: somebody else's server may be behind it.
func (s *Server) listens() bool {
	for deadline := time.After(patience); ; {
		if strings.Contains(s.log(), "ready to accept connections") {
			return true
		}
		select {
		case <-s.done:
			return false
		case <-deadline:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
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
			s.tb.Fatalf("PostgreSQL does not answer: %v\n%s", err, s.log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

func (s *Server) log() string {
	content, _ := os.ReadFile(s.logFile()) // none yet is an empty one
	return string(content)
}

func (s *Server) cleanUp() {
	segment := s.sharedMemory()
	s.shutDown(syscall.SIGQUIT) // PostgreSQL's "immediate"
	if segment != "" {
		// Who was killed left it behind. It is gone after an orderly end.
		_ = exec.CommandContext(context.Background(), "ipcrm", "-m", segment).Run() //nolint:gosec // a number
	}
	if s.tb.Failed() {
		s.tb.Logf("the end of PostgreSQL's log on port %d:\n%s", s.port, lastLines(s.log(), 20))
	}
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

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
