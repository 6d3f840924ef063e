// Package servertest runs a server program for a test, which may freeze, kill
// and start it again. The packages that give tests a server of one kind are
// made of it; besides them only tests import it.
package servertest

import (
	"context"
	"errors"
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

// The ports tried lie below the range from which the system hands out ports
// for ":0" and for outgoing connections, and so does the bus of a Redis cluster
// (port + 10000). So nothing takes the port of a server that is down.
const lowestPort, portCount = 10240, 11000

// Process is a server program on one port of the loopback address. Its exported
// fields are set before [Process.Start], its methods are for the goroutine of
// the test. Who starts it also registers the clean-up: [Process.Kill] and
// [Process.LogIfFailed].
type Process struct {
	// TB is the test, Name what its messages call the server.
	TB   testing.TB
	Name string
	// Dir is the server's working directory, with its output in the file "log".
	Dir string
	// Command returns what to run for a port.
	Command func(port int) *exec.Cmd
	// Ready are texts in the output of which each says that the server serves.
	Ready []string
	// Patience is how long it may take until then.
	Patience time.Duration
	// Children returns the processes that are frozen, thawed and killed with
	// the server's own. Nil means none.
	Children func(pid int) []int
	// Guard is the shell command that kills process $0 and its children.
	Guard string

	port  int
	cmd   *exec.Cmd // nil if it does not run
	guard *exec.Cmd
	done  chan struct{} // closed when cmd has ended
}

// Start starts the server on a port that nobody has and reports whether it
// serves. If not, the reason is in its log.
func (p *Process) Start() bool {
	p.TB.Helper()
	for range 50 {
		p.port = lowestPort + rand.IntN(portCount) //nolint:gosec // a port need not be unguessable
		if p.launch() {
			return true
		}
		if !strings.Contains(p.Log(), "Address already in use") {
			break
		}
	}
	return false
}

// Restart kills the server and starts it on the same port. It returns when the
// server serves.
func (p *Process) Restart() {
	p.TB.Helper()
	p.Kill()
	if !p.launch() {
		p.TB.Fatalf("%s does not start again:\n%s", p.Name, p.Log())
	}
}

// Addr returns the address as host:port.
func (p *Process) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

// Running reports whether the server was started and not killed since.
func (p *Process) Running() bool { return p.cmd != nil }

// Done returns a channel that is closed when the server that was started last
// has ended, by itself or not.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the server and its children at once, also while they are frozen. A
// second call does nothing.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	// The guard goes first: once the server has ended, its number may be
	// another process's.
	if p.guard.Process != nil {
		_ = p.guard.Process.Kill()
		_ = p.guard.Wait() // says that it was killed
	}
	select {
	case <-p.done:
	default:
		children := p.children()
		_ = p.cmd.Process.Kill() // fails only if it has ended already, as below
		for _, pid := range children {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-p.done
	}
	p.cmd = nil
}

// Signal sends a signal to a server that is [Process.Running], without its
// children. The error is [os.ErrProcessDone] if it has ended by itself.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Freeze stops the server and its children in their tracks: the system still
// accepts connections for it, and nobody ever answers.
func (p *Process) Freeze() {
	p.TB.Helper()
	p.mustSignal(syscall.SIGSTOP)
	for deadline := time.After(p.Patience); !p.stopped(); {
		select {
		case <-p.done:
			return
		case <-deadline:
			p.TB.Fatalf("%s does not freeze", p.Name)
		case <-time.After(time.Millisecond):
		}
	}
}

// stopped reports whether all threads of the server have stopped: on a busy
// machine one may go on for a while after the signal.
func (p *Process) stopped() bool {
	stats, _ := filepath.Glob("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/task/*/stat") // the pattern is good
	for _, path := range stats {
		content, err := os.ReadFile(path)
		// "pid (name) state …", where the name may hold anything.
		if err == nil && !strings.HasPrefix(string(content[strings.LastIndexByte(string(content), ')')+1:]), " T") {
			return false
		}
	}
	return true
}

// Thaw lets a frozen server go on where it was.
func (p *Process) Thaw() {
	p.TB.Helper()
	p.mustSignal(syscall.SIGCONT)
}

func (p *Process) mustSignal(sig syscall.Signal) {
	p.TB.Helper()
	if !p.Running() {
		p.TB.Fatalf("%s was ended and not started again", p.Name)
	}
	// A server that has just ended by itself is not there to be signalled.
	if err := p.signalAll(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.TB.Fatalf("signal %s: %v", p.Name, err)
	}
}

// signalAll is [Process.Signal] with the children.
func (p *Process) signalAll(sig syscall.Signal) error {
	// The first is the one that makes the others.
	if err := p.Signal(sig); err != nil {
		return err
	}
	for _, pid := range p.children() {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

func (p *Process) children() []int {
	if p.Children == nil {
		return nil
	}
	return p.Children(p.cmd.Process.Pid)
}

// Log returns what the server has put out since it was started last.
func (p *Process) Log() string {
	content, _ := os.ReadFile(p.logFile()) // none yet is an empty one
	return string(content)
}

// LogIfFailed gives a test that has failed the end of the server's log.
func (p *Process) LogIfFailed() {
	p.TB.Helper()
	if p.TB.Failed() {
		lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
		p.TB.Logf("the end of %s's log on port %d:\n%s", p.Name, p.port, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
}

func (p *Process) logFile() string { return filepath.Join(p.Dir, "log") }

// launch starts the server on p.port and reports whether it serves.
func (p *Process) launch() bool {
	p.TB.Helper()
	output, err := os.Create(p.logFile())
	if err != nil {
		p.TB.Fatal(err)
	}
	defer output.Close()
	cmd := p.Command(p.port)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.Dir, output, output
	if err := cmd.Start(); err != nil {
		p.TB.Fatalf("start %s: %v", p.Name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	p.cmd, p.done = cmd, done
	p.startGuard()
	if !p.listens() {
		p.Kill()
		return false
	}
	return true
}

// startGuard starts a process that kills the server if the test's process
// ends without its clean-up, as it does after a panic or a timeout.
func (p *Process) startGuard() {
	p.TB.Helper()
	p.guard = exec.CommandContext(context.Background(), "sh", "-c", //nolint:gosec // the tests say how to kill
		"read -r _; "+p.Guard, strconv.Itoa(p.cmd.Process.Pid))
	if _, err := p.guard.StdinPipe(); err != nil { // held open until Wait, or until this process is gone
		p.TB.Fatal(err)
	}
	if err := p.guard.Start(); err != nil {
		p.TB.Fatalf("start the guard of %s: %v", p.Name, err)
	}
}

// listens waits until the server says in its log that it has its port. Asking
// the port is not enough: somebody else's server may be behind it.
func (p *Process) listens() bool {
	for deadline := time.After(p.Patience); ; {
		log := p.Log()
		for _, text := range p.Ready {
			if strings.Contains(log, text) {
				return true
			}
		}
		select {
		case <-p.done:
			return false
		case <-deadline:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}
