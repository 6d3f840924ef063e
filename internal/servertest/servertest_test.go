package servertest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/servertest"
)

// portOf names the variable that makes this program the server under test.
const portOf = "SERVERTEST_PORT"

func TestMain(m *testing.M) {
	if port := os.Getenv(portOf); port != "" {
		serve(port)
	}
	os.Exit(m.Run())
}

// serve answers each connection with a line, the number of its only child.
func serve(port string) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		fmt.Println("Address already in use:", err) // as Redis and PostgreSQL spell it
		os.Exit(1)
	}
	child := exec.Command("sleep", "600")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := child.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("at your service")
	for {
		conn, err := listener.Accept()
		if err != nil {
			os.Exit(1)
		}
		if _, err := fmt.Fprintln(conn, child.Process.Pid); err != nil {
			os.Exit(1)
		}
		conn.Close()
	}
}

const killAll = `kill -KILL "$0" $(cat /proc/"$0"/task/*/children)`

func process(t *testing.T) *servertest.Process {
	t.Helper()
	p := &servertest.Process{
		TB: t, Name: "the server", Dir: t.TempDir(), Ready: []string{"in another case", "at your service"}, Patience: 20 * time.Second, Guard: killAll,
		Command: func(port int) *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), portOf+"="+strconv.Itoa(port))
			return cmd
		},
		Children: func(pid int) []int {
			var pids []int
			threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
			for _, path := range threads {
				content, _ := os.ReadFile(path)
				for _, field := range strings.Fields(string(content)) {
					child, err := strconv.Atoi(field)
					require.NoError(t, err)
					pids = append(pids, child)
				}
			}
			return pids
		},
	}
	t.Cleanup(func() {
		p.Kill()
		p.LogIfFailed()
	})
	return p
}

// ask returns the number of the server's child, or an error if the server does
// not answer within the time.
func ask(t *testing.T, addr string, within time.Duration) (int, error) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, within)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(within)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// state returns the letter of /proc for what a process does: T is stopped, and
// none or a zombie (nobody may look after orphans here) is "ended".
func state(t *testing.T, pid int) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "ended"
	}
	letter := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))[0]
	if letter == "Z" || letter == "X" {
		return "ended"
	}
	return letter
}

func becomes(t *testing.T, pid int, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return state(t, pid) == want }, 20*time.Second, time.Millisecond)
}

func TestAServerIsFrozenThawedKilledAndRestarted(t *testing.T) {
	t.Parallel()
	p := process(t)
	require.False(t, p.Running())
	require.True(t, p.Start(), p.Log())
	require.True(t, p.Running())
	child, err := ask(t, p.Addr(), 20*time.Second)
	require.NoError(t, err)

	p.Freeze()
	becomes(t, child, "T")
	_, err = ask(t, p.Addr(), 50*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	p.Thaw()
	becomes(t, child, "S")
	again, err := ask(t, p.Addr(), 20*time.Second)
	require.NoError(t, err)
	require.Equal(t, child, again)

	addr := p.Addr()
	p.Freeze()
	p.Kill()
	p.Kill()
	require.False(t, p.Running())
	becomes(t, child, "ended")
	_, err = ask(t, addr, 20*time.Second)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)

	p.Restart()
	require.Equal(t, addr, p.Addr())
	other, err := ask(t, addr, 20*time.Second)
	require.NoError(t, err)
	require.NotEqual(t, child, other)
	p.Restart() // a server that runs
	becomes(t, other, "ended")
}

func TestASignalAloneSparesTheChildren(t *testing.T) {
	t.Parallel()
	p := process(t)
	require.True(t, p.Start(), p.Log())
	child, err := ask(t, p.Addr(), 20*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Kill(child, syscall.SIGKILL)) })

	require.NoError(t, p.Signal(syscall.SIGTERM))
	<-p.Done()
	require.True(t, p.Running(), "nobody has killed it")
	becomes(t, child, "S")
	require.ErrorIs(t, p.Signal(syscall.SIGCONT), os.ErrProcessDone)
	require.ErrorIs(t, p.Signal(syscall.SIGCONT), os.ErrProcessDone)
	p.Thaw() // is too late, and nothing to fail for
	p.Kill()
	require.False(t, p.Running())
}

func TestAServerWithoutChildren(t *testing.T) {
	t.Parallel()
	p := process(t)
	p.Children = nil
	require.True(t, p.Start(), p.Log())
	child, err := ask(t, p.Addr(), 20*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Kill(child, syscall.SIGKILL)) })
	p.Freeze()
	becomes(t, child, "S")
	p.Kill()
}

func TestAnotherPortIsTriedWhenOneIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	p := process(t)
	command, ports := p.Command, map[int]bool{}
	p.Command = func(port int) *exec.Cmd {
		require.GreaterOrEqual(t, port, 10240)
		require.Less(t, port+10000, 32768, "where ephemeral ports begin")
		if ports[port] = true; len(ports) < 4 {
			port = taken.Addr().(*net.TCPAddr).Port
		}
		return command(port)
	}
	require.True(t, p.Start(), p.Log())
	require.GreaterOrEqual(t, len(ports), 4, "somebody may have the last one too")
}

func TestAServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	p := process(t)
	starts := 0
	p.Command = func(int) *exec.Cmd {
		starts++
		return exec.Command("sh", "-c", "echo out; echo bad option >&2; pwd; exit 1")
	}
	require.False(t, p.Start())
	require.Equal(t, 1, starts, "another port helps nobody")
	require.Equal(t, "out\nbad option\n"+p.Dir+"\n", p.Log())
	require.False(t, p.Running())
}

func TestAServerThatTakesTooLongIsKilled(t *testing.T) {
	t.Parallel()
	p := process(t)
	p.Patience = 50 * time.Millisecond
	var server *exec.Cmd
	p.Command = func(int) *exec.Cmd {
		server = exec.Command("sleep", "600")
		return server
	}
	require.False(t, p.Start())
	require.False(t, p.Running())
	require.Equal(t, "ended", state(t, server.Process.Pid))
}

// recorder is a test whose outcome we choose.
type recorder struct {
	testing.TB
	failed bool
	logged string
}

func (r *recorder) Failed() bool { return r.failed }

func (r *recorder) Logf(format string, args ...any) { r.logged += fmt.Sprintf(format, args...) }

func TestOnlyAFailedTestGetsTheEndOfTheLog(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	p := process(t)
	p.TB = r
	p.Command = func(int) *exec.Cmd { return exec.Command("seq", "100") }
	require.False(t, p.Start())
	p.LogIfFailed()
	require.Empty(t, r.logged)

	r.failed = true
	p.LogIfFailed()
	_, port, err := net.SplitHostPort(p.Addr())
	require.NoError(t, err)
	want := "the end of the server's log on port " + port + ":"
	for n := 81; n <= 100; n++ {
		want += "\n" + strconv.Itoa(n)
	}
	require.Equal(t, want, r.logged)
}

// A test's process that is killed, or ends by its time-out, cleans nothing up.
func TestAServerEndsWithTheProcessOfItsTest(t *testing.T) {
	t.Parallel()
	addr, kill := servertest.Rerun(t, func() string {
		p := process(t)
		require.True(t, p.Start(), p.Log())
		return p.Addr()
	}, "TMPDIR="+t.TempDir())
	child, err := ask(t, addr, 20*time.Second)
	require.NoError(t, err)

	kill()
	becomes(t, child, "ended")
	require.Eventually(t, func() bool {
		_, err := ask(t, addr, time.Second)
		return errors.Is(err, syscall.ECONNREFUSED)
	}, 20*time.Second, 10*time.Millisecond)
}
