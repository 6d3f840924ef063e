package deploy_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/servertest"
)

// lokiServer is a real Loki with the configuration of deploy/loki.
type lokiServer struct {
	url   string
	rules string // the folder of the ruler's files, one folder a tenant in it
}

// lokiProgram returns the path of Loki as lokitest finds it, or skips the test.
func lokiProgram(t *testing.T) string {
	t.Helper()
	path := os.Getenv("TENANTGATE_LOKI")
	if path == "" {
		cache, err := os.UserCacheDir()
		require.NoError(t, err)
		path = filepath.Join(cache, "tenantgate", "loki-3.7.8")
	}
	if _, err := os.Stat(path); err != nil {
		require.Empty(t, os.Getenv("TENANTGATE_REQUIRE_LOKI"), "Loki is required: %v", err)
		t.Skipf("no Loki: %v", err)
	}
	return path
}

// startLoki runs Loki with deploy/loki/loki.yaml, of which only addresses and
// folders differ.
func startLoki(t *testing.T) *lokiServer {
	t.Helper()
	program, dir := lokiProgram(t), t.TempDir()
	rules := filepath.Join(dir, "rules")
	server := &servertest.Process{
		TB: t, Name: "Loki", Dir: dir, Ready: []string{"Loki started"}, Patience: time.Minute,
		Command: func(port int) *exec.Cmd {
			config := strings.NewReplacer(
				"  http_listen_port: 3100", "  http_listen_address: 127.0.0.1\n  http_listen_port: "+strconv.Itoa(port),
				"  grpc_listen_port: 9095", "  grpc_listen_address: 127.0.0.1\n  grpc_listen_port: "+strconv.Itoa(port+11000), // as lokitest, beyond what servertest tries
				": /etc/loki/rules", ": "+rules,
				": /loki", ": "+filepath.Join(dir, "data"),
			).Replace(string(read(t, "deploy/loki/loki.yaml")))
			file := filepath.Join(dir, "loki.yaml")
			require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
			return exec.CommandContext(t.Context(), program, "-config.file="+file, "-config.expand-env=true", "-log.level=info")
		},
	}
	t.Cleanup(func() {
		server.Kill()
		server.LogIfFailed()
	})
	require.True(t, server.Start(), "Loki does not start:\n%s", server.Log())
	l := &lokiServer{url: "http://" + server.Addr(), rules: rules}
	require.Eventually(t, func() bool {
		status, _ := l.get(t, "", "/ready", nil)
		return status == http.StatusOK
	}, time.Minute, 50*time.Millisecond, "Loki is never ready")
	return l
}

// get asks Loki as a tenant and returns the status and the body.
func (l *lokiServer) get(t *testing.T, tenant, path string, query url.Values) (int, []byte) {
	t.Helper()
	return l.do(t, tenant, http.MethodGet, path+"?"+query.Encode(), nil)
}

func (l *lokiServer) do(t *testing.T, tenant, method, path string, body []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, l.url+path, bytes.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("X-Scope-OrgID", tenant)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil // it is not up yet
	}
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, content
}

// series is one series or stream of an answer.
type series struct {
	Metric map[string]string `json:"metric"`
	Stream map[string]string `json:"stream"`
	Value  []any             `json:"value"`
	Values [][]any           `json:"values"`
}

// samples returns the numbers of a series.
func (s series) samples(t *testing.T) []float64 {
	t.Helper()
	points := s.Values
	if s.Value != nil {
		points = append(points, s.Value)
	}
	var numbers []float64
	for _, p := range points {
		require.Len(t, p, 2)
		text, ok := p[1].(string)
		require.True(t, ok)
		number, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		numbers = append(numbers, number)
	}
	return numbers
}

// instant evaluates a query at a time, ranged from start to end every step.
func (l *lokiServer) instant(t *testing.T, tenant, logql string, at time.Time) []series {
	t.Helper()
	return l.evaluate(t, tenant, "/loki/api/v1/query", url.Values{"query": {logql}, "time": {nanoseconds(at)}})
}

func (l *lokiServer) ranged(t *testing.T, tenant, logql string, start, end time.Time, step time.Duration) []series {
	t.Helper()
	return l.evaluate(t, tenant, "/loki/api/v1/query_range", url.Values{
		"query": {logql}, "start": {nanoseconds(start)}, "end": {nanoseconds(end)}, "step": {step.String()}, "limit": {"100"},
	})
}

func (l *lokiServer) evaluate(t *testing.T, tenant, path string, query url.Values) []series {
	t.Helper()
	status, body := l.get(t, tenant, path, query)
	require.Equal(t, http.StatusOK, status, "%s\n%s", query.Get("query"), body)
	var answer struct {
		Data struct {
			Result []series `json:"result"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal(body, &answer))
	return answer.Data.Result
}

func nanoseconds(at time.Time) string { return strconv.FormatInt(at.UnixNano(), 10) }

// line is one line of testdata and when it was written.
type line struct {
	at     time.Time
	text   string
	fields map[string]any
}

func (l line) field(name string) string {
	text, _ := l.fields[name].(string)
	return text
}

// recorded returns the lines of a folder's file in the order of their time.
func recorded(t *testing.T, name string) []line {
	t.Helper()
	var lines []line
	for text := range strings.Lines(string(read(t, "test/deploy/testdata/"+name))) {
		l := line{text: strings.TrimSuffix(text, "\n")}
		require.NoError(t, json.Unmarshal([]byte(l.text), &l.fields))
		at, err := time.Parse(time.RFC3339Nano, l.field("ts"))
		require.NoError(t, err)
		l.at = at
		lines = append(lines, l)
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	return lines
}

// replay returns the lines as if their run had happened again and again, every 45
// seconds until it ended now. The time inside of a line stays as it was.
func replay(lines []line, now time.Time) []line {
	last := lines[len(lines)-1].at
	var again []line
	for back := time.Duration(0); back < history; back += 45 * time.Second {
		for _, l := range lines {
			l.at = l.at.Add(now.Sub(last) - back)
			again = append(again, l)
		}
	}
	return again
}

// environment is the label env of all lines pushed here.
const environment = "staging"

// push sends lines with the labels and metadata that the services give theirs.
func (l *lokiServer) push(t *testing.T, tenant string, lines []line) {
	t.Helper()
	for part := range slices.Chunk(lines, 1000) {
		streams := map[string]*pushStream{}
		for _, p := range part {
			labels := map[string]string{"service": p.field("service"), "level": p.field("level"), "env": environment}
			key := labels["service"] + " " + labels["level"]
			if streams[key] == nil {
				streams[key] = &pushStream{Stream: labels}
			}
			metadata := map[string]string{}
			for _, name := range []string{"trace_id", "user_id", "tenant_id"} {
				switch value := p.fields[name].(type) {
				case string:
					metadata[name] = value
				case float64:
					metadata[name] = strconv.FormatFloat(value, 'f', -1, 64)
				}
			}
			streams[key].Values = append(streams[key].Values, []any{nanoseconds(p.at), p.text, metadata})
		}
		body, err := json.Marshal(map[string]any{"streams": slices.Collect(maps.Values(streams))})
		require.NoError(t, err)
		status, answer := l.do(t, tenant, http.MethodPost, "/loki/api/v1/push", body)
		require.Equal(t, http.StatusNoContent, status, "%s", answer)
	}
	require.Eventually(t, func() bool {
		found := l.instant(t, tenant, `sum(count_over_time({env="`+environment+`"}[2h]))`, time.Now())
		return len(found) == 1 && found[0].samples(t)[0] == float64(len(lines))
	}, 20*time.Second, 50*time.Millisecond, "not all lines are found")
}

type pushStream struct {
	Stream map[string]string `json:"stream"`
	Values [][]any           `json:"values"`
}
