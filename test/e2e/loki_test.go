package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// lokiTenant is the tenant of Loki in these tests, and the label env is "e2e".
const lokiTenant = "acme"

// startShippingDev runs `tenantgate dev`, whose lines go to a Loki too.
func startShippingDev(t *testing.T, loki lokitest.Loki, data string) *Dev {
	t.Helper()
	address, admin := FreeAddress(t), FreeAddress(t)
	p := Start(t, root, []string{"TENANTGATE_ADMIN=" + admin, "LOKI_URL=" + loki.URL(), "LOKI_TENANT=" + lokiTenant, "ENVIRONMENT=e2e"},
		filepath.Join(binaries, "tenantgate"), "dev", "--address", address, "--data", data, "--log", "json")
	p.WaitFor(t, "Ctrl-C stops everything.")
	return &Dev{Process: p, URL: "http://" + address, Data: data, Admin: admin}
}

// linesInLoki returns the lines of a trace as Loki finds them, in order of time.
func linesInLoki(t *testing.T, loki lokitest.Loki, id string) []lokitest.Entry {
	t.Helper()
	now := time.Now()
	return loki.Query(t, lokiTenant, `{env="e2e"} | trace_id="`+id+`"`, now.Add(-time.Hour), now.Add(time.Minute))
}

// entryOf returns which of the lines is the first with that service and message,
// -1 if none is.
func entryOf(entries []lokitest.Entry, service, message string) int {
	return slices.IndexFunc(entries, func(e lokitest.Entry) bool {
		return e.Labels["service"] == service && strings.Contains(e.Line, `"msg":"`+message+`"`)
	})
}

// fileLines returns the lines of dev's files that hold a text.
func (d *Dev) fileLines(t *testing.T, text string) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(readAll(t, d.Data, "logs")) {
		if strings.Contains(line, text) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// traceCommand runs `tenantgate trace` in a folder.
func traceCommand(t *testing.T, folder string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "tenantgate"), append([]string{"trace"}, args...)...)
	cmd.Dir, cmd.Env = folder, append(append(os.Environ(), "LOKI_URL=", "LOKI_TENANT="), env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestARequestOverThreeServicesIsFoundInLoki sends one through the gateway to
// auth, which calls tenant.
func TestARequestOverThreeServicesIsFoundInLoki(t *testing.T) {
	besideOthers(t)
	eachLoki(t, func(t *testing.T, loki lokitest.Loki) {
		dev := startShippingDev(t, loki, filepath.Join(t.TempDir(), "data"))
		viewer := dev.Login(t, "viewer@acme.test", Password)
		answer := Call(t, http.MethodPost, dev.URL+"/api/auth/log/", nil, append(viewer, "traceparent", traceparent)...)
		answered := time.Now()
		require.Equal(t, http.StatusOK, answer.StatusCode, "%s", answer.Body)

		want := [][2]string{
			{"auth-service", "auth event"},
			{"tenant-service", "tenant event"},
			{"tenant-service", "handled request"},
			{"auth-service", "handled request"},
			{"tenantgate", "handled request"},
		}
		var entries []lokitest.Entry
		require.Eventually(t, func() bool {
			entries = linesInLoki(t, loki, traceID)
			return !slices.ContainsFunc(want, func(w [2]string) bool { return entryOf(entries, w[0], w[1]) < 0 })
		}, pick(secs(3), secs(20)), ms(20), "all lines: %v", entries)
		reportShipping("a request through gateway, auth and tenant: lines of all three in Loki after its answer ("+filepath.Base(t.Name())+" Loki)", round(time.Since(answered)))

		hostname, err := os.Hostname()
		require.NoError(t, err)
		before := -1
		for _, w := range want {
			at := entryOf(entries, w[0], w[1])
			require.Greater(t, at, before, "%v comes in order: %v", w, entries)
			before = at
		}
		var user string
		for _, e := range entries {
			var line map[string]any
			require.NoError(t, json.Unmarshal([]byte(e.Line), &line), e.Line)
			require.Equal(t, traceID, line["trace_id"])
			require.Equal(t, map[string]string{"env": "e2e", "instance": hostname, "service": line["service"].(string), "level": line["level"].(string)}, e.Labels)
			ts, err := time.Parse(time.RFC3339Nano, line["ts"].(string))
			require.NoError(t, err)
			require.WithinDuration(t, ts, e.Time, time.Second)
			metadata := map[string]string{"trace_id": traceID}
			for _, name := range []string{"user_id", "tenant_id"} {
				if value, known := line[name].(string); known {
					metadata[name] = value
				}
			}
			require.Equal(t, metadata, e.Metadata, e.Line)
			if line["msg"] == "handled request" {
				require.NotEmpty(t, e.Metadata["user_id"], e.Line)
				require.Equal(t, "1", e.Metadata["tenant_id"], e.Line)
				user = e.Metadata["user_id"]
			}
		}
		requireTheCommandShows(t, dev, loki, user)
	})
}

// requireTheCommandShows runs `tenantgate trace` on Loki and on the files.
func requireTheCommandShows(t *testing.T, dev *Dev, loki lokitest.Loki, user string) {
	t.Helper()
	fromLoki, stderr, code := traceCommand(t, t.TempDir(), []string{"LOKI_URL=" + loki.URL() + "/loki/api/v1/push", "LOKI_TENANT=" + lokiTenant}, traceID)
	require.Equal(t, 0, code, stderr)
	require.Empty(t, stderr)
	lines := strings.Split(strings.TrimSpace(fromLoki), "\n")
	require.Contains(t, lines[0], "trace "+traceID+": ")
	require.Contains(t, lines[0], " lines of auth-service, tenant-service, tenantgate, ")
	require.Regexp(t, `  auth-service    info   auth event .*user_id=`+user+` .*tenant_id=1`, fromLoki)
	require.Regexp(t, `tenantgate      info   handled request POST /api/auth/log/ 200 [0-9.]+ms user_id=`+user+` tenant_id=1 upstream=127.0.0.1:\d+ breaker=auth`, lines[len(lines)-1])

	fromFiles, stderr, code := traceCommand(t, filepath.Dir(dev.Data), nil, traceID)
	require.Equal(t, 0, code, stderr)
	require.Equal(t, fromLoki, fromFiles, "data/logs of the current folder has the same lines")
	raw, stderr, code := traceCommand(t, t.TempDir(), nil, traceID, "--loki", loki.URL(), "--tenant", lokiTenant, "--output", "json")
	require.Equal(t, 0, code, stderr)
	require.ElementsMatch(t, dev.fileLines(t, traceID), strings.Split(strings.TrimSpace(raw), "\n"))

	const unknown = "4bf92f3577b34da6a3ce929d0e0e4737"
	_, stderr, code = traceCommand(t, t.TempDir(), nil, unknown, "--loki", loki.URL(), "--tenant", lokiTenant)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no line of trace "+unknown)
	_, stderr, code = traceCommand(t, t.TempDir(), nil, "what?")
	require.Equal(t, 2, code)
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
}

// requireAllInLoki waits until every line of dev's files that has a trace id is in
// Loki, and requires that it is there once, and that nothing else is.
func requireAllInLoki(t *testing.T, dev *Dev, loki lokitest.Loki) {
	t.Helper()
	requireInLoki(t, loki, lokiTenant, "e2e", dev.fileLines(t, `"trace_id":"`))
}

// requireInLoki waits until Loki has the lines, and requires that it has each once,
// and no other with a trace id.
func requireInLoki(t *testing.T, loki lokitest.Loki, tenant, env string, want []string) {
	t.Helper()
	require.NotEmpty(t, want)
	got := awaitInLoki(t, loki, tenant, env, len(want))
	slices.Sort(want)
	slices.Sort(got)
	require.Equal(t, want, got)
}

// awaitInLoki waits until Loki has that many lines with a trace id, and returns them.
func awaitInLoki(t *testing.T, loki lokitest.Loki, tenant, env string, count int) []string {
	t.Helper()
	var got []string
	require.Eventually(t, func() bool {
		now := time.Now()
		got = nil
		for _, e := range loki.Query(t, tenant, `{env="`+env+`"} | trace_id!=""`, now.Add(-time.Hour), now.Add(time.Minute)) {
			got = append(got, e.Line)
		}
		return len(got) >= count
	}, secs(60), ms(100), "%d lines", count)
	return got
}

// keepCalling sends requests until ctx ends, and returns how many were answered.
func keepCalling(ctx context.Context, url string, header []string) (answered int, err error) {
	for ctx.Err() == nil {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/auth/log/", nil)
		if err != nil {
			return answered, err
		}
		r.Header.Set(header[0], header[1])
		resp, err := client.Do(r)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return answered, err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return answered, errors.New(resp.Status)
		}
		answered++
	}
	return answered, nil
}

func TestLinesWaitForALokiThatIsAway(t *testing.T) {
	t.Parallel()
	eachLoki(t, func(t *testing.T, loki lokitest.Loki) {
		dev := startShippingDev(t, loki, filepath.Join(t.TempDir(), "data"))
		viewer := dev.Login(t, "viewer@acme.test", Password)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		type result struct {
			answered int
			err      error
		}
		done := make(chan result, 1)
		go func() {
			answered, err := keepCalling(ctx, dev.URL, viewer)
			done <- result{answered, err}
		}()
		for _, step := range []func(){func() {}, loki.Kill, func() { loki.Restart(t) }, loki.Freeze, loki.Thaw} {
			step()
			before := len(dev.fileLines(t, "auth event"))
			require.Eventually(t, func() bool { return len(dev.fileLines(t, "auth event")) >= before+20 }, secs(30), ms(20),
				"requests are answered, whatever Loki does")
		}
		cancel()
		r := <-done
		require.NoError(t, r.err)
		require.GreaterOrEqual(t, r.answered, 5*20-1, "all but one that was cut off after its line")
		dev.waitForLastLines(t)
		requireAllInLoki(t, dev, loki)
		require.Equal(t, 0, dev.Stop(t, syscall.SIGTERM))
	})
}

// waitForLastLines waits until no line comes any more: the backends may log a
// request that was broken off after its client has gone.
func (d *Dev) waitForLastLines(t *testing.T) {
	t.Helper()
	before := -1
	require.Eventually(t, func() bool {
		now := len(d.fileLines(t, `"trace_id":"`))
		same := now == before
		before = now
		return same
	}, secs(20), ms(300))
}

func TestAStopWithoutLokiEndsInTimeAndTheNextStartShipsTheRest(t *testing.T) {
	t.Parallel()
	eachLoki(t, func(t *testing.T, loki lokitest.Loki) {
		data := filepath.Join(t.TempDir(), "data")
		dev := startShippingDev(t, loki, data)
		viewer := dev.Login(t, "viewer@acme.test", Password)
		for _, trouble := range []func(){loki.Kill, func() { loki.Restart(t); loki.Freeze() }} {
			trouble()
			for range 20 {
				require.Equal(t, http.StatusOK, Call(t, http.MethodPost, dev.URL+"/api/auth/log/", nil, viewer...).StatusCode)
			}
			asked := time.Now()
			require.Equal(t, 0, dev.Stop(t, syscall.SIGTERM))
			require.Less(t, time.Since(asked), secs(15))
			dev = startShippingDev(t, loki, data)
			viewer = dev.Login(t, "viewer@acme.test", Password)
		}
		loki.Thaw()
		requireAllInLoki(t, dev, loki)
		require.Equal(t, 0, dev.Stop(t, syscall.SIGTERM))
	})
}
