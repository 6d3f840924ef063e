package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child that is stopped with the benchmark.
type process struct {
	cmd     *exec.Cmd
	address string
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// body is what the upstream answers: 1 KiB of JSON.
var body = []byte(`{"items":"` + strings.Repeat("x", 1024-len(`{"items":""}`)) + `"}`)

// serveUpstream is the upstream process: it prints its address and answers
// every request with 1 KiB.
func serveUpstream(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	length := strconv.Itoa(len(body))
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"application/json"}
			w.Header()["Content-Length"] = []string{length}
			_, _ = w.Write(body)
		}),
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

// startUpstream starts the upstream process and waits for its address.
func startUpstream(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "upstream")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the upstream did not start: %w", err)
	}
	p.address = strings.TrimSpace(line)
	return p, nil
}

// proxy is a running gateway.
type proxy struct {
	process
	log bytes.Buffer
}

// startProxy starts the binary with the Caddyfile and waits until it listens.
func startProxy(ctx context.Context, binary, caddyfile, address string, env []string) (*proxy, error) {
	p := &proxy{process: process{address: address}}
	p.cmd = exec.CommandContext(ctx, binary, "run", "--config", caddyfile, "--adapter", "caddyfile")
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return p, conn.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			p.stop()
			return nil, fmt.Errorf("the gateway does not listen: %w\n%s", err, p.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sample is one load on one proxy.
type sample struct {
	measured
	// CPU is the time that the proxy's process used, RSS its memory at the end.
	CPU time.Duration
	RSS int64
}

// load runs one load in a process of its own and reads the proxy's CPU time
// before and after.
func (p *proxy) load(ctx context.Context, tokens string, conns int, slot time.Duration) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	before, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	cmd := exec.CommandContext(ctx, self, "load", "-address", p.address, "-path", path, "-tokens", tokens,
		"-connections", strconv.Itoa(conns), "-duration", slot.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return sample{}, fmt.Errorf("load: %w: %s%s", err, stderr.String(), p.log.String())
	}
	after, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	s := sample{CPU: after - before}
	if err := json.Unmarshal(out, &s.measured); err != nil {
		return sample{}, err
	}
	s.RSS, err = residentBytes(p.cmd.Process.Pid)
	return s, err
}

// cpuTime returns the user and system time that a process has used.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(stat))
}

// tick is USER_HZ, in which Linux counts CPU time for user space everywhere.
const tick = time.Second / 100

// parseStat reads utime and stime, the 14th and 15th field of proc_pid_stat(5).
// The second field, the command, is in parentheses and may hold anything.
func parseStat(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat has %d fields after the command", len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, err
}

// residentBytes returns how much memory of the process is in RAM.
func residentBytes(pid int) (int64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm is %q", statm)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
