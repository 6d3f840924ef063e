package loki_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/loki"
	"github.com/tenantgate/tenantgate/internal/clock"
)

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	otherID = "0af7651916cd43dd8448eb211c80319c"
)

// traceNoon is the time that the command tells in these tests.
var traceNoon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// trace runs `tenantgate trace` with the arguments.
func trace(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	cmd := loki.TraceCommand(clock.NewFake(traceNoon))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(append([]string{"--utc"}, args...))
	if err := cmd.ExecuteContext(ctx); err != nil {
		code = 1
		if err.Error() == "exiting with status 2" {
			code = 2
		}
	}
	return out.String(), errs.String(), code
}

// The lines of one request, as the services write them.
var (
	gatewayLine = `{"level":"info","ts":"2026-11-26T11:59:00.010500Z","logger":"http.log.access","msg":"handled request","service":"tenantgate",` +
		`"trace_id":"` + traceID + `","span_id":"00f067aa0ba902b7","request_id":"r1","method":"POST","host":"localhost:8080","path":"/api/auth/log/",` +
		`"client_ip":"127.0.0.1","user_id":"7","tenant_id":"1","status":200,"bytes":120,"duration_ms":10.25,"breaker":"auth","upstream":"127.0.0.1:9001"}`
	authLine = `{"level":"info","ts":"2026-11-26T11:59:00.001000Z","msg":"auth event","service":"auth-service","trace_id":"` + traceID +
		`","user_id":"7","tenant_id":"1","about_user_id":"user 42"}`
	tenantLine = `{"level":"warn","ts":"2026-11-26T11:59:00.005000Z","msg":"tenant event","service":"tenant-service","trace_id":"` + traceID +
		`","error":"no such tenant","about":{"id":7}}`
	otherLine = `{"level":"info","ts":"2026-11-26T11:59:00.005000Z","msg":"somebody else's","service":"tenantgate","trace_id":"` + otherID + `"}`
)

const wantText = `trace 4bf92f3577b34da6a3ce929d0e0e4736: 3 lines of auth-service, tenant-service, tenantgate, 2026-11-26 UTC, 9.5ms from first to last
11:59:00.001000  auth-service    info   auth event user_id=7 tenant_id=1 about_user_id="user 42"
11:59:00.005000  tenant-service  warn   tenant event error="no such tenant" about={"id":7}
11:59:00.010500  tenantgate      info   handled request POST /api/auth/log/ 200 10.25ms user_id=7 tenant_id=1 upstream=127.0.0.1:9001 breaker=auth
`

// logFile writes lines to a file of that name in a new folder.
func logFile(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	return path
}

func TestTheLinesOfAllFilesComeInOrderOfTime(t *testing.T) {
	t.Parallel()
	gateway := logFile(t, "gateway.jsonl", otherLine, gatewayLine)
	backends := logFile(t, "backends.jsonl", tenantLine, "", authLine, otherLine)
	for _, spelling := range []string{traceID, strings.ToUpper(traceID), "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"} {
		stdout, stderr, code := trace(t.Context(), spelling, "--file", gateway, "--file", backends)
		require.Equal(t, 0, code, stderr)
		require.Empty(t, stderr)
		require.Equal(t, wantText, stdout)
	}
	stdout, stderr, code := trace(t.Context(), traceID, "--file", gateway, "--file", backends, "--output", "json")
	require.Equal(t, 0, code, stderr)
	require.Equal(t, strings.Join([]string{authLine, tenantLine, gatewayLine, ""}, "\n"), stdout, "the lines as they are")
}

func TestALineThatIsThereTwiceIsShownOnce(t *testing.T) {
	t.Parallel()
	first, second := logFile(t, "a.jsonl", authLine, tenantLine, authLine), logFile(t, "b.jsonl", gatewayLine, authLine)
	stdout, stderr, code := trace(t.Context(), traceID, "--file", first, "--file", second, "--file", filepath.Join(filepath.Dir(first), "*.jsonl"))
	require.Equal(t, 0, code, stderr)
	require.Equal(t, wantText, stdout)
}

func TestRotatedAndUnfinishedFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	compress := func(name string, writer func(io.Writer) io.WriteCloser, content string) []byte {
		var out bytes.Buffer
		w := writer(&out)
		_, err := io.WriteString(w, content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), out.Bytes(), 0o600))
		return out.Bytes()
	}
	gzipped := compress("gateway-1.jsonl.gz", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, gatewayLine+"\n")
	compress("gateway-2.jsonl.zst", func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		require.NoError(t, err)
		return z
	}, tenantLine+"\n")
	content := authLine + "\n" + strings.Replace(authLine, "auth event", "half a line", 1)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "gateway.jsonl"), []byte(content[:len(content)-9]), 0o600))

	stdout, stderr, code := trace(t.Context(), traceID, "--file", filepath.Join(folder, "gateway*"))
	require.Equal(t, 0, code, stderr)
	require.Empty(t, stderr, "a line that is being written is no trouble")
	require.Equal(t, wantText, stdout)

	half := filepath.Join(folder, "gateway-3.jsonl.gz")
	for _, size := range []int{4, 15, len(gzipped) - 1} {
		require.NoError(t, os.WriteFile(half, gzipped[:size], 0o600))
		stdout, stderr, code = trace(t.Context(), traceID, "--file", filepath.Join(folder, "gateway*"))
		require.Equal(t, 0, code, stderr)
		require.Equal(t, "Note: "+half+" ends in the middle: it is being compressed now, or damaged\n", stderr)
		require.Equal(t, wantText, stdout)
	}

	whole := filepath.Join(folder, "whole")
	require.NoError(t, os.WriteFile(whole, []byte(authLine), 0o600))
	stdout, _, code = trace(t.Context(), traceID, "--file", whole)
	require.Equal(t, 0, code)
	require.Contains(t, stdout, "auth event", "a whole line needs no newline")
}

func TestWhatIsSkippedIsCounted(t *testing.T) {
	t.Parallel()
	long := func(size int) string {
		return strings.Replace(authLine, "auth event", strings.Repeat("x", size-len(authLine)+len("auth event")), 1)
	}
	file := logFile(t, "a.jsonl", "11:59:00 INFO console", authLine, `{"trace_id":"`+traceID+`"`, `{"trace_id":"`+traceID+`"} {}`,
		long(3<<20), long(1<<20+1), long(1<<20), tenantLine, gatewayLine)
	stdout, stderr, code := trace(t.Context(), traceID, "--file", file)
	require.Equal(t, 0, code, stderr)
	require.Equal(t, "Note: 3 lines are no JSON and were skipped\nNote: 2 lines are longer than 1 MiB and were skipped\n", stderr)
	require.Equal(t, 4, strings.Count(stdout, "\n11:59"))
	require.Less(t, len(stdout), 2000, "a long value is cut: %s", stdout)

	var lines []string
	for i := range 20 {
		lines = append(lines, strings.Replace(long(1<<20-10), "xxxxxxxx", fmt.Sprintf("%08d", i), 1))
	}
	stdout, stderr, code = trace(t.Context(), traceID, "--file", logFile(t, "b.jsonl", lines...))
	require.Equal(t, 0, code, stderr)
	require.Equal(t, "Note: 4 lines more of this trace do not fit into memory\n", stderr)
	require.Equal(t, 16, strings.Count(stdout, "\n11:59"))
}

func TestTheWindowOfTime(t *testing.T) {
	t.Parallel()
	old := strings.Replace(authLine, "2026-11-26T11:59", "2026-11-24T23:59", 1)
	untimed := `{"msg":"no time","service":"x","trace_id":"` + traceID + `"}`
	file := logFile(t, "a.jsonl", old, gatewayLine, untimed)
	stdout, _, code := trace(t.Context(), traceID, "--file", file)
	require.Equal(t, 0, code)
	require.Equal(t, `trace 4bf92f3577b34da6a3ce929d0e0e4736: 2 lines of tenantgate, x, 2026-11-26 UTC, 0s from first to last
---------------  x                  no time
11:59:00.010500  tenantgate  info   handled request POST /api/auth/log/ 200 10.25ms user_id=7 tenant_id=1 upstream=127.0.0.1:9001 breaker=auth
`, stdout)
	stdout, _, code = trace(t.Context(), traceID, "--file", file, "--since", "48h")
	require.Equal(t, 0, code)
	require.Contains(t, stdout, "\n2026-11-24 23:59:00.001000  auth-service  info   auth event")
	require.Contains(t, stdout, "2026-11-24 UTC, 36h0m0.0095s from first to last")

	stdout, stderr, code := trace(t.Context(), traceID, "--file", logFile(t, "b.jsonl", old), "--since", "90m")
	require.Equal(t, 1, code)
	require.Empty(t, stdout)
	require.Regexp(t, `^Error: no line of trace `+traceID+` in the last 1h30m in \S+/b.jsonl: look further back with --since, or elsewhere with --loki or --file\n$`, stderr)

	stdout, _, code = trace(t.Context(), traceID, "--file", logFile(t, "c.jsonl", untimed))
	require.Equal(t, 0, code)
	require.Equal(t, "trace "+traceID+": 1 line of x\n---------------  x         no time\n", stdout)
}

func TestATraceIDThatAClientOutsideTrustSent(t *testing.T) {
	t.Parallel()
	line := strings.Replace(gatewayLine, `"trace_id":"`+traceID, `"client_trace_id":"`+traceID+`","trace_id":"`+otherID, 1)
	stdout, stderr, code := trace(t.Context(), traceID, "--file", logFile(t, "a.jsonl", line))
	require.Equal(t, 0, code)
	require.Contains(t, stdout, "client_trace_id="+traceID)
	require.Equal(t, "Note: a client outside trust sent this id, and its trace was not continued: the gateway's own is "+otherID+"\n", stderr)
}

func TestWhatIsWrongIsSaidInOneLine(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	empty := filepath.Join(folder, "empty")
	require.NoError(t, os.WriteFile(empty, []byte(" \n"), 0o600))
	gone := filepath.Join(folder, "gone")
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no id":              {nil, 2, "give one trace id, as X-Trace-Id says it; see trace --help"},
		"two ids":            {[]string{traceID, otherID}, 2, "give one trace id, as X-Trace-Id says it; see trace --help"},
		"a short id":         {[]string{"4bf9"}, 2, `"4bf9" is no trace id: give 32 hex digits or a UUID, as X-Trace-Id says it`},
		"no hex":             {[]string{traceID[:31] + "g"}, 2, `"` + traceID[:31] + `g" is no trace id: give 32 hex digits or a UUID, as X-Trace-Id says it`},
		"zeros":              {[]string{strings.Repeat("0", 32)}, 2, `"` + strings.Repeat("0", 32) + `" is no trace id: give 32 hex digits or a UUID, as X-Trace-Id says it`},
		"LogQL":              {[]string{`" or 1=1`}, 2, `"\" or 1=1" is no trace id: give 32 hex digits or a UUID, as X-Trace-Id says it`},
		"an unknown flag":    {[]string{traceID, "--all"}, 2, "unknown flag: --all"},
		"an unknown form":    {[]string{traceID, "--output", "xml"}, 2, "--output xml: use text or json"},
		"no time":            {[]string{traceID, "--since", "0s"}, 2, "--since 0s: give a time such as 24h"},
		"two places":         {[]string{traceID, "--loki", "http://localhost:1", "--file", empty}, 2, "give --loki or --file, not both"},
		"a tenant of files":  {[]string{traceID, "--tenant", "acme"}, 2, "--tenant and --bearer-file are for Loki: give its address with --loki"},
		"no address":         {[]string{traceID, "--loki", "loki:3100"}, 2, "--loki: push URL can't be read: give one like http://loki:3100"},
		"a tenant that none": {[]string{traceID, "--loki", "http://localhost:1", "--tenant", "a|b/c"}, 2, `tenant "b/c": Loki takes 1 to 150 letters, digits and !-_.*'()`},
		"no token":           {[]string{traceID, "--loki", "http://localhost:1", "--bearer-file", gone}, 2, "--bearer-file: open " + gone + ": no such file or directory"},
		"an empty token":     {[]string{traceID, "--loki", "http://localhost:1", "--bearer-file", empty}, 2, "--bearer-file: " + empty + " is empty"},
		"no such file":       {[]string{traceID, "--file", gone}, 1, "--file " + gone + ": there is no such file"},
		"no such files":      {[]string{traceID, "--file", gone + "*"}, 1, "--file " + gone + "*: there is no such file"},
		"a bad pattern":      {[]string{traceID, "--file", gone + "["}, 2, "--file " + gone + "[: it is no file, and no pattern such as 'logs/*.jsonl'"},
		"a folder":           {[]string{traceID, "--file", folder}, 1, "read " + folder + ": is a directory"},
		"nobody there":       {[]string{traceID, "--loki", "http://u:secret@localhost:1", "--tenant", "acme"}, 1, "Loki at http://localhost:1, tenant acme can't be reached (connection refused): give another address with --loki, or read files with --file"},
	} {
		stdout, stderr, code := trace(t.Context(), test.args...)
		require.Equal(t, "Error: "+test.want+"\n", stderr, name)
		require.Equal(t, test.code, code, name)
		require.Empty(t, stdout, name)
	}
}

func TestTheUsualFilesOfTheCurrentFolder(t *testing.T) {
	t.Setenv("LOKI_URL", "")
	t.Chdir(t.TempDir())
	_, stderr, code := trace(t.Context(), traceID)
	require.Equal(t, 1, code)
	require.Equal(t, "Error: no log file is here (tenantgate.log, tenantgate-*.log*, data/logs/*.jsonl*): name one with --file, or Loki's address with --loki\n", stderr)

	require.NoError(t, os.MkdirAll("data/logs", 0o700))
	for name, line := range map[string]string{
		"tenantgate.log": authLine, "tenantgate-2026-11-26T10-00-00.000-size.log": gatewayLine, "data/logs/backends.jsonl": tenantLine,
		"other.log": strings.Replace(tenantLine, "tenant event", "of another program", 1),
	} {
		require.NoError(t, os.WriteFile(name, []byte(line+"\n"), 0o600))
	}
	stdout, stderr, code := trace(t.Context(), traceID)
	require.Equal(t, 0, code, stderr)
	require.Equal(t, wantText, stdout)

	t.Setenv("TENANTGATE_LOG_FILE", "other.log")
	stdout, stderr, code = trace(t.Context(), traceID)
	require.Equal(t, 0, code, stderr)
	require.Equal(t, 3, strings.Count(stdout, "\n"), stdout)
	require.Contains(t, stdout, "of another program")
}

func TestAPipeThatSaysNothingEndsWithCtrlC(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _, _ = r.Close(), w.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan string)
	go func() {
		_, stderr, code := trace(ctx, traceID, "--file", fmt.Sprintf("/dev/fd/%d", r.Fd()))
		done <- strconv.Itoa(code) + " " + stderr
	}()
	_, err = io.WriteString(w, authLine+"\n")
	require.NoError(t, err)
	cancel()
	require.Equal(t, "1 Error: interrupted\n", <-done)
}

// lokiEntries is a Loki that knows one query.
type lokiEntries struct {
	tenant, authorization string
	entries               []lokiLine
	requests              int
}

type lokiLine struct {
	ns   int64
	line string
}

var lokiQuery = regexp.MustCompile(`^\{service=~"\.\+"\} \|= "([0-9a-f]{32})"$`)

// ServeHTTP answers as GET /loki/api/v1/query_range does, forward.
func (l *lokiEntries) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.requests++
	values := r.URL.Query()
	query := lokiQuery.FindStringSubmatch(values.Get("query"))
	start, startErr := strconv.ParseInt(values.Get("start"), 10, 64)
	end, endErr := strconv.ParseInt(values.Get("end"), 10, 64)
	limit, limitErr := strconv.Atoi(values.Get("limit"))
	switch {
	case r.Header.Get("X-Scope-OrgID") != l.tenant:
		http.Error(w, "no org id", http.StatusUnauthorized)
		return
	case r.Header.Get("Authorization") != l.authorization:
		http.Error(w, "who are you?", http.StatusForbidden)
		return
	case r.URL.Path != "/loki/api/v1/query_range":
		http.NotFound(w, r)
		return
	case query == nil || startErr != nil || endErr != nil || limitErr != nil || limit > 5000 || values.Get("direction") != "forward":
		http.Error(w, "parse error", http.StatusBadRequest)
		return
	}
	streams := [2][][2]string{} // newest last in each; the order of streams says nothing
	for _, e := range l.entries {
		if e.ns >= start && e.ns < end && strings.Contains(e.line, query[1]) && len(streams[0])+len(streams[1]) < limit {
			streams[len(e.line)%2] = append(streams[len(e.line)%2], [2]string{strconv.FormatInt(e.ns, 10), e.line})
		}
	}
	var result []any
	for _, values := range streams {
		if values != nil {
			result = append(result, map[string]any{"stream": map[string]string{"service": "x"}, "values": values})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": result}})
}

func TestTheLinesInLoki(t *testing.T) {
	t.Setenv("LOKI_URL", "")
	at := traceNoon.Add(-time.Minute).UnixNano()
	old := strings.Replace(authLine, "2026-11-26", "2026-11-24", 1)
	mention := strings.Replace(otherLine, "somebody", traceID, 1)
	l := &lokiEntries{entries: []lokiLine{
		{traceNoon.Add(-60 * time.Hour).UnixNano(), old},
		{at, authLine},
		{at, authLine},
		{at + 5, mention},
		{at + 6, "no JSON " + traceID},
		{at + 6, tenantLine},
		{at + 7, gatewayLine},
	}}
	server := httptest.NewServer(l)
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("t0ken\n"), 0o600))
	basic := "Basic dTpwQHNz"

	for name, test := range map[string]struct {
		url, env, envTenant   string
		args                  []string
		tenant, authorization string
	}{
		"its address":             {url: server.URL},
		"with a slash":            {url: server.URL + "/"},
		"its push API":            {url: server.URL + "/loki/api/v1/push"},
		"its push API and /":      {url: server.URL + "/loki/api/v1/push/"},
		"from the environment":    {env: server.URL, envTenant: "acme", tenant: "acme"},
		"the flags come first":    {url: server.URL, args: []string{"--tenant", "acme|globex"}, env: "http://localhost:1", envTenant: "x", tenant: "acme|globex"},
		"a user and a password":   {url: "http://u:p%40ss@" + address, authorization: basic},
		"the same from elsewhere": {env: "http://u:p%40ss@" + address + "/loki/api/v1/push", authorization: basic},
		"a token":                 {url: server.URL, args: []string{"--bearer-file", token}, authorization: "Bearer t0ken"},
	} {
		t.Setenv("LOKI_URL", test.env)
		t.Setenv("LOKI_TENANT", test.envTenant)
		l.tenant, l.authorization = test.tenant, test.authorization
		args := append([]string{traceID}, test.args...)
		if test.url != "" {
			args = append(args, "--loki", test.url)
		}
		stdout, stderr, code := trace(t.Context(), args...)
		require.Equal(t, 0, code, "%s: %s", name, stderr)
		require.Equal(t, "Note: 1 line is no JSON and was skipped\n", stderr, name)
		require.Equal(t, wantText, stdout, name)
	}
	t.Setenv("LOKI_TENANT", "")
	l.tenant, l.authorization = "", ""
	stdout, stderr, code := trace(t.Context(), traceID, "--loki", server.URL, "--since", "72h", "--output", "json")
	require.Equal(t, 0, code, stderr)
	require.Equal(t, strings.Join([]string{old, authLine, tenantLine, gatewayLine, ""}, "\n"), stdout)

	stdout, stderr, code = trace(t.Context(), "4bf92f3577b34da6a3ce929d0e0e4737", "--loki", server.URL)
	require.Equal(t, 1, code)
	require.Empty(t, stdout)
	require.Equal(t, "Error: no line of trace 4bf92f3577b34da6a3ce929d0e0e4737 in the last 24h in Loki at "+server.URL+
		": look further back with --since, or elsewhere with --loki or --file\n", stderr)
}

func TestALongTraceIsReadPageByPage(t *testing.T) {
	t.Parallel()
	l := new(lokiEntries)
	start := traceNoon.Add(-time.Hour)
	const count = 3*loki.TracePage + 10
	var want []string
	for i := range count {
		at := start.Add(time.Duration(i/3) * time.Microsecond) // three lines at a time: pages end between them
		line := fmt.Sprintf(`{"ts":%q,"service":"x","msg":"%0*d","trace_id":%q}`, at.Format("2006-01-02T15:04:05.000000Z07:00"), 4+i%2, i, traceID)
		l.entries = append(l.entries, lokiLine{at.UnixNano(), line})
		want = append(want, line)
	}
	server := httptest.NewServer(l)
	defer server.Close()
	stdout, stderr, code := trace(t.Context(), traceID, "--loki", server.URL, "--output", "json")
	require.Equal(t, 0, code, stderr)
	got := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, got, count, "each once")
	slices.Sort(want)
	require.True(t, slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(a[:34], b[:34]) }))
	slices.Sort(got)
	require.Equal(t, want, got)
	require.Equal(t, 4, l.requests)
}

func TestAPageOfOneMomentDoesNotRepeatForEver(t *testing.T) {
	t.Parallel()
	l := new(lokiEntries)
	at := traceNoon.Add(-time.Hour)
	for i := range loki.TracePage + 5 {
		l.entries = append(l.entries, lokiLine{at.UnixNano(), fmt.Sprintf(`{"msg":"%d","trace_id":%q}`, i, traceID)})
	}
	server := httptest.NewServer(l)
	defer server.Close()
	stdout, stderr, code := trace(t.Context(), traceID, "--loki", server.URL, "--output", "json")
	require.Equal(t, 0, code, stderr)
	require.Equal(t, loki.TracePage, strings.Count(stdout, "\n"), "what no query can reach is left out")
	require.LessOrEqual(t, l.requests, 3)
}

func TestWhatLokiCanAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch strings.TrimSuffix(r.URL.Path, "/loki/api/v1/query_range") {
		case "/limit":
			http.Error(w, "the query time range exceeds the limit (query length: 1000h0m0s, limit: 721h0m0s)\nmore", http.StatusBadRequest)
		case "/no-tenant":
			http.Error(w, "no org id", http.StatusUnauthorized)
		case "/busy":
			http.Error(w, "too many outstanding requests", http.StatusTooManyRequests)
		case "/moved":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/html":
			_, _ = io.WriteString(w, "<html>")
		case "/matrix":
			_, _ = io.WriteString(w, `{"data":{"resultType":"matrix"}}`)
		case "/bad-time":
			_, _ = io.WriteString(w, `{"data":{"resultType":"streams","result":[{"values":[["now","{}"]]}]}}`)
		case "/broken":
			w.Header().Set("Content-Length", "100")
		case "/huge":
			for range 33 {
				_, _ = w.Write(bytes.Repeat([]byte{' '}, 1<<20))
			}
		case "/evil":
			http.Error(w, "\x1b]0;owned\x07", http.StatusInternalServerError)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{
		"/limit":     " answers 400 (the query time range exceeds the limit (query length: 1000h0m0s, limit: 721h0m0s))",
		"/no-tenant": " answers 401 (no org id): it wants a --tenant, a user:password@ in the address, or a --bearer-file",
		"/busy":      " answers 429 (too many outstanding requests): try again, or look at a shorter time with --since",
		"/moved":     ` answers 302 (<a href="/elsewhere">Found</a>.): is it Loki's address?`,
		"/html":      " answers no log lines (not JSON): is it Loki's address?",
		"/matrix":    ` answers no log lines (result type "matrix"): is it Loki's address?`,
		"/bad-time":  ` answers no log lines (time "now"): is it Loki's address?`,
		"/broken":    " can't be reached (unexpected EOF): give another address with --loki, or read files with --file",
		"/huge":      " answers more than 32 MiB at once: look at a shorter time with --since",
		"/evil":      " answers 500 (?]0;owned?): try again, or look at a shorter time with --since",
		"/none":      " answers 404 (404 page not found): is it Loki's address?",
	} {
		stdout, stderr, code := trace(t.Context(), traceID, "--loki", server.URL+path)
		require.Equal(t, 1, code, path)
		require.Empty(t, stdout, path)
		require.Equal(t, "Error: Loki at "+server.URL+path+want+"\n", stderr, path)
	}
}

func TestColoursChangeNothingElse(t *testing.T) {
	t.Parallel()
	line := strings.NewReplacer(`"status":200`, `"status":503`, `"info"`, `"error"`).Replace(gatewayLine)
	plain, err := loki.TraceText([]byte(line), traceID, false)
	require.NoError(t, err)
	colours, err := loki.TraceText([]byte(line), traceID, true)
	require.NoError(t, err)
	require.Contains(t, colours, "\x1b[31m503\x1b[0m")
	require.Contains(t, colours, "\x1b[31merror\x1b[0m")
	require.Equal(t, plain, regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(colours, ""))
}

// TestCVE_2003_0063_NoEscapeSequenceFromALineReachesTheTerminal is the class of
// attacks by text that a terminal obeys: paths and ids come from requests.
func TestCVE_2003_0063_NoEscapeSequenceFromALineReachesTheTerminal(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;owned\x07\u009b31m\x7f\u202etxt\r\n"
	fields := map[string]any{"trace_id": traceID, "ts": evil, "extra" + evil: evil, "nested": map[string]string{evil: evil}}
	for _, name := range []string{"service", "level", "msg", "method", "path", "status", "duration_ms", "user_id", "error", "client_trace_id"} {
		fields[name] = evil
	}
	content, err := json.Marshal(fields)
	require.NoError(t, err)
	content = append(bytes.ReplaceAll(content, []byte(`\r`), []byte("\u009b\xff")), "\r"...)
	file := logFile(t, "a.jsonl", string(content))
	for _, output := range []string{"text", "json"} {
		stdout, stderr, code := trace(t.Context(), traceID, "--file", file, "--output", output)
		require.Equal(t, 0, code, stderr)
		for _, bad := range []string{"\x1b", "\x07", "\u009b", "\x7f", "\u202e", "\r", "\xff"} {
			require.NotContains(t, stdout, bad, output)
		}
		require.Contains(t, stdout, "owned")
	}
}

func FuzzTraceLine(f *testing.F) {
	for _, seed := range []string{gatewayLine, authLine, tenantLine, otherLine, `{"client_trace_id":"` + traceID + `"}`, `{"trace_id":["` + traceID + `"]}`, "null", "{}", "[]", `{"a":1}{"b":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		text, err := loki.TraceText(line, traceID, false)
		if err != nil || text == "" {
			require.Empty(t, text)
			return
		}
		require.True(t, json.Valid(line))
		require.True(t, utf8.ValidString(text))
		require.Equal(t, 2, strings.Count(text, "\n"), "a heading and a line")
		require.NotContains(t, text, "\x1b")
	})
}

func FuzzLokiAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"status":"success","data":{"resultType":"streams","result":[{"stream":{"a":"b"},"values":[["1","x"],["2","y",{"z":"1"}]]}]}}`,
		`{"data":{"resultType":"streams","result":[{"values":[["1"]]}]}}`, `{"data":{"resultType":"vector"}}`, "", "null",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		lines, err := loki.ParseLokiAnswer(content)
		if err != nil {
			require.Zero(t, lines)
			return
		}
		require.True(t, json.Valid(content))
	})
}
