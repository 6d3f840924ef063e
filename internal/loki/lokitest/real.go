package lokitest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/servertest"
)

const (
	// version is the Loki that the tests are for.
	version = "3.7.8"
	// patience is how long it may take to start and to stop: 1 s on an idle machine.
	patience = time.Minute
	// grpcOffset is how far Loki's second port is from its first, beyond all ports
	// that servertest tries and below those that the system hands out.
	grpcOffset = 11_000
)

// Config is how a real Loki differs from one with its defaults.
type Config struct {
	// Limits are keys of its limits_config with their values in YAML.
	Limits map[string]string
	// Options are added to its command line.
	Options []string
	// SingleTenant makes it take requests without X-Scope-OrgID.
	SingleTenant bool
}

// Server is a real Loki in one process, with its data in a folder of the test. It
// finds lines of any age at once. Its methods are for the goroutine of the test.
type Server struct {
	tb      testing.TB
	config  Config
	program string
	process *servertest.Process
}

var _ Loki = (*Server)(nil)

// Start starts a real Loki and returns when it serves; it ends with the test.
//
// The program is the one that TENANTGATE_LOKI names, or tenantgate/loki-3.7.8 in
// the user's cache folder. Without one the test is skipped, or fails if the
// environment says TENANTGATE_REQUIRE_LOKI=1.
func Start(tb testing.TB, c Config) *Server {
	tb.Helper()
	program := os.Getenv("TENANTGATE_LOKI")
	if cache, err := os.UserCacheDir(); program == "" && err == nil {
		program = filepath.Join(cache, "tenantgate", "loki-"+version)
	}
	if _, err := os.Stat(program); err != nil { //nolint:gosec // the operator names the program
		if os.Getenv("TENANTGATE_REQUIRE_LOKI") != "" {
			tb.Fatalf("Loki is required and was not found: build %s from test/loki", program)
		}
		tb.Skipf("there is no Loki at %s: build it from test/loki", program)
	}
	s := &Server{tb: tb, config: c, program: program}
	s.process = &servertest.Process{
		TB: tb, Name: "loki", Dir: tb.TempDir(), Command: s.command,
		Ready: []string{`msg="Loki started"`}, Patience: patience, Guard: `kill -KILL "$0"`,
	}
	tb.Cleanup(func() {
		s.process.Kill()
		s.process.LogIfFailed()
	})
	for range 10 { // it has two ports, and says of a taken one in its own words that it is
		if s.process.Start() {
			s.wait()
			return s
		}
		if !strings.Contains(s.process.Log(), "address already in use") {
			break
		}
	}
	tb.Fatalf("loki does not start:\n%s", s.process.Log())
	return nil
}

// configuration is for a process that shares a machine with the tests: it listens
// on the loopback address, starts at once and tells nobody of it.
const configuration = `
auth_enabled: %[4]t
server: {http_listen_address: 127.0.0.1, http_listen_port: %[2]d, grpc_listen_address: 127.0.0.1, grpc_listen_port: %[3]d, log_level: info}
analytics: {reporting_enabled: false}
common:
  instance_addr: 127.0.0.1
  path_prefix: %[1]s
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
  storage: {filesystem: {chunks_directory: %[1]s/chunks, rules_directory: %[1]s/rules}}
memberlist: {bind_addr: [127.0.0.1]}
schema_config: {configs: [{from: 2024-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {prefix: index_, period: 24h}}]}
pattern_ingester: {enabled: false}
querier: {query_ingesters_within: 0s}
query_range: {cache_results: false}
frontend: {address: 127.0.0.1, scheduler_dns_lookup_period: 250ms}
frontend_worker: {dns_lookup_duration: 250ms}
ingester: {lifecycler: {min_ready_duration: 0s, final_sleep: 0s, ring: {kvstore: {store: inmemory}, replication_factor: 1}}}
limits_config:
  volume_enabled: true
  split_queries_by_interval: 24h
  discover_service_name: []
  discover_log_levels: false
`

func (s *Server) command(port int) *exec.Cmd {
	s.tb.Helper()
	text := fmt.Sprintf(configuration, filepath.Join(s.process.Dir, "data"), port, port+grpcOffset, !s.config.SingleTenant)
	for _, name := range slices.Sorted(maps.Keys(s.config.Limits)) {
		text += fmt.Sprintf("  %s: %s\n", name, s.config.Limits[name])
	}
	path := filepath.Join(s.process.Dir, "loki.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	return exec.Command(s.program, append([]string{"-config.file=" + path}, s.config.Options...)...) //nolint:gosec,noctx // the operator names the program; servertest ends it
}

// URL returns where Loki is, without a path.
func (s *Server) URL() string { return "http://" + s.process.Addr() }

// Kill ends Loki at once, as a crash would, also while it is frozen.
func (s *Server) Kill() { s.process.Kill() }

// Restart kills Loki and starts it on the same ports with the data it had, and
// returns when it serves.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.process.Restart()
	s.wait()
}

// Freeze stops Loki in its tracks: the system still accepts connections for it,
// and nobody ever answers.
func (s *Server) Freeze() { s.process.Freeze() }

// Thaw lets a frozen Loki go on where it was.
func (s *Server) Thaw() { s.process.Thaw() }

// Query returns all lines of a query from start to before end, sorted by time.
func (s *Server) Query(tb testing.TB, tenant, logql string, start, end time.Time) []Entry {
	tb.Helper()
	return query(tb, s.URL(), tenant, logql, start, end)
}

// wait returns when Loki takes lines and answers queries.
func (s *Server) wait() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !s.ready(ctx) {
		select {
		case <-ctx.Done():
			s.tb.Fatalf("loki does not get ready:\n%s", s.process.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) ready(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/ready", nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return false
	}
	// Its parts find each other some seconds later, if they are unlucky.
	now := clock.System{}.Now()
	_, err = queryPage(ctx, s.URL(), "nobody", `{service="nothing"}`, now.Add(-time.Minute), now)
	return err == nil
}
