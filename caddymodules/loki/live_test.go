package loki_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/caddymodules/loki"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

func TestALineArrivesWithItsLabelsAndMetadata(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	g.site = "log_append trace_id {header.X-Trace}\n log_append user_id {header.X-User}\n log_append tenant_id 7\n log_append order_id 99"
	g.load(t, output(f.URL(), t.TempDir(), "label env test"))
	require.NoError(t, g.get("/a", "X-Trace", "4bf92f3577b34da6a3ce929d0e0e4736", "X-User", "ann"))
	e := waitFor(t, f, "", "/a")
	require.Equal(t, map[string]string{"service": "tenantgate", "level": "info", "env": "test"}, e.Labels)
	require.Equal(t, map[string]string{"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "user_id": "ann", "tenant_id": "7"}, e.Metadata)
	require.True(t, json.Valid([]byte(e.Line)), e.Line)
	require.WithinDuration(t, time.Now(), e.Time, 30*time.Second)

	g.load(t, output(f.URL(), t.TempDir(), "metadata order_id", "label tenant {field.tenant_id}", "label service gate", "tenant {field.tenant_id} nobody"))
	require.NoError(t, g.get("/b"))
	e = waitFor(t, f, "7", "/b")
	require.Equal(t, map[string]string{"service": "gate", "level": "info", "tenant": "7"}, e.Labels)
	require.Equal(t, map[string]string{"order_id": "99"}, e.Metadata)
	require.Eventually(t, func() bool { return len(f.Entries("nobody")) > 0 }, 20*time.Second, 10*time.Millisecond, "lines without a tenant")
}

func TestFiltersOfTheEncoderHoldForWhatIsShipped(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	g.site = "log_append user_id ann\n log_append note SECRET"
	for i, format := range []string{
		"format filter {\n request>headers>X-Api-Key delete\n request>uri query {\n replace token REDACTED\n }\n note delete\n }",
		"format filter {\n wrap tenantgate\n fields {\n note delete\n }\n }",
	} {
		g.load(t, strings.Replace(output(f.URL(), t.TempDir()), "format tenantgate", format, 1))
		require.NoError(t, g.get("/a?token=SECRET", "X-Api-Key", "SECRET", "Authorization", "SECRET", "Cookie", "a=SECRET"))
		count := func() (n int) {
			for _, e := range f.Entries("") {
				if strings.Contains(e.Line, "handled request") {
					n++
				}
			}
			return n
		}
		require.Eventually(t, func() bool { return count() == i+1 }, 20*time.Second, 10*time.Millisecond)
	}
	for _, e := range f.Entries("") {
		require.NotContains(t, e.Line, "SECRET")
	}
}

func TestJSONWithoutACaddyfile(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	config := fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{
		"writer":{"output":"loki","url":%q,"labels":{"env":"json"},"metadata":[],"buffer":%q,"buffer_size":"2MiB","batch_wait":"10ms","sync":"never"},
		"encoder":{"format":"tenantgate"}}}},
		"apps":{"http":{"servers":{"a":{"listen":["unix/%s"],"logs":{},"routes":[{"handle":[{"handler":"static_response","body":"ok"}]}]}}}}}`, f.URL(), dir, g.socket)
	require.NoError(t, caddy.Load([]byte(config), true))
	require.NoError(t, g.get("/a"))
	e := waitFor(t, f, "", "/a")
	require.Equal(t, "json", e.Labels["env"])
	require.Empty(t, e.Metadata)

	require.ErrorContains(t, caddy.Load([]byte(strings.Replace(config, `"buffer_size"`, `"buffersize"`, 1)), true), `unknown field "buffersize"`)
	require.ErrorContains(t, caddy.Load([]byte(strings.Replace(config, `"2MiB"`, `"much"`, 1)), true), "buffer: 'much' is no size")
	require.NoError(t, g.get("/b"))
	waitFor(t, f, "", "/b")
}

func TestWithoutAURLLinesAreDiscarded(t *testing.T) {
	t.Setenv("TENANTGATE_TEST_LOKI", "")
	g := newGate(t)
	dir := filepath.Join(t.TempDir(), "buffer")
	before := goleak.IgnoreCurrent()
	start := since(t)
	for _, url := range []string{`""`, "{env.TENANTGATE_TEST_LOKI}"} {
		g.load(t, output(url, dir, "tls_ca /no/such/file"))
		require.NoError(t, g.get("/a"))
	}
	require.NoDirExists(t, dir)
	require.Empty(t, samples(t))
	require.Empty(t, linesOf(printed(t, start)))
	g.client.CloseIdleConnections()
	require.NoError(t, caddy.Stop())
	goleak.VerifyNone(t, before, ignoreLock)
}

// ignoreLock is a goroutine of certmagic that ends by itself seconds later.
var ignoreLock = goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")

func TestSecretsComeFromPlaceholdersAndAreNotShown(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("pa55word\n"), 0o600))
	t.Setenv("TENANTGATE_TEST_USER", "gate")
	start := since(t)
	f.RequireAuthorization("Basic Z2F0ZTpwYTU1d29yZA==") // gate:pa55word
	withUser := strings.Replace(f.URL(), "http://", "http://{env.TENANTGATE_TEST_USER}:{file."+file+"}@", 1)
	for i, options := range []string{
		output(f.URL(), t.TempDir(), "basic_auth {env.TENANTGATE_TEST_USER} {file."+file+"}"),
		output(withUser, t.TempDir()),
		output(f.URL(), t.TempDir(), "bearer {file."+file+"}"),
	} {
		if i == 2 {
			f.RequireAuthorization("Bearer pa55word")
		}
		g.load(t, options)
		require.NoError(t, g.get(fmt.Sprint("/", i)))
		waitFor(t, f, "", fmt.Sprint("/", i))
	}
	for name, line := range map[string]string{
		"label env: the placeholder {env.TENANTGATE_TEST_NONE} is unknown":    "label env {env.TENANTGATE_TEST_NONE}",
		"bearer: the placeholder {file./no/such/file} is unknown, or can't":   "bearer {file./no/such/file}",
		"bearer: the placeholder {file.} is unknown":                          "bearer {file.}",
		"sync: 'pa55word': give an interval":                                  "sync {env.TENANTGATE_TEST_SYNC}",
		"tls_ca: open /no/such/file":                                          "tls_ca /no/such/file",
		"tls_ca: " + file + " holds no certificate":                           "tls_ca " + file,
		"push URL gate://loki: give one like http://loki:3100":                "",
		"url: the placeholder {file./no/such/file} is unknown, or can't be r": "-",
	} {
		t.Setenv("TENANTGATE_TEST_SYNC", "pa55word")
		options := output(f.URL(), t.TempDir(), line)
		switch line {
		case "":
			options = output("{env.TENANTGATE_TEST_USER}://loki", t.TempDir())
		case "-":
			options = output("http://gate:{file./no/such/file}@loki", t.TempDir())
		}
		require.ErrorContains(t, caddy.Load(adapt(t, g.caddyfile(options)), true), name)
	}
	require.NotContains(t, strings.ReplaceAll(printed(t, start), "sync: 'pa55word'", ""), "pa55word")
	require.NotContains(t, fmt.Sprint(f.Entries("")), "pa55word")
	require.NotContains(t, fmt.Sprint(samples(t)), "pa55word")
}

func TestAuthoritiesOfOnesOwn(t *testing.T) {
	g, f := newGate(t), new(lokitest.Fake)
	server := httptest.NewTLSServer(f)
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	dir := t.TempDir()
	g.load(t, output(server.URL, dir))
	require.NoError(t, g.get("/a"))
	require.Eventually(t, func() bool { return samples(t)[`request_seconds{none}`] > 0 }, 20*time.Second, 10*time.Millisecond, "unknown authority")
	require.Empty(t, f.Entries(""))
	g.load(t, output(server.URL, dir, "tls_ca "+ca))
	waitFor(t, f, "", "/a")
}

func TestAFolderThatCannotBeMadeIsAnError(t *testing.T) {
	g := newGate(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	err := caddy.Load(adapt(t, g.caddyfile(output("http://127.0.0.1:1", file+"/buffer"))), true)
	require.ErrorContains(t, err, file)
	require.ErrorContains(t, err, "not a directory")
	require.ErrorContains(t, err, "loki")
}

func TestOneFolderHasOneSetOfSettings(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	second := strings.Replace(output(f.URL(), dir), "log {", "log second {", 1)
	g.load(t, output(f.URL(), dir)+"\n"+second)
	require.NoError(t, g.get("/a"))
	require.Eventually(t, func() bool { return len(access(f, "")["/a"]) == 2 }, 20*time.Second, 10*time.Millisecond)

	other := strings.Replace(output(f.URL(), dir+"/.", "label env x"), "log {", "log second {", 1)
	err := caddy.Load(adapt(t, g.caddyfile(output(f.URL(), dir)+"\n"+other)), true)
	require.ErrorContains(t, err, "two logs have the buffer "+dir+", but not the same settings: give each a folder of its own")
	require.NoError(t, g.get("/b"))
	require.Eventually(t, func() bool { return len(access(f, "")["/b"]) == 2 }, 20*time.Second, 10*time.Millisecond)
	require.NotContains(t, access(f, "")["/b"][0].Labels, "env")
}

func TestAFailedLoadLeavesTheSettingsOfBefore(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	g.load(t, output(f.URL(), dir, "label env good"))
	require.NoError(t, g.get("/a"))
	bad := g.caddyfile(output(f.URL(), dir, "label env bad", "sync never")) + "http://other {\n bind unix//no/such/folder/s\n}\n"
	require.ErrorContains(t, caddy.Load(adapt(t, bad), true), "/no/such/folder/s")
	require.NoError(t, g.get("/b"))
	for _, path := range []string{"/a", "/b"} {
		require.Equal(t, "good", waitFor(t, f, "", path).Labels["env"])
	}
}

func TestRequestsDoNotWaitForLoki(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	g.load(t, output(f.URL(), t.TempDir()))
	f.Freeze()
	defer f.Thaw()
	const requests = 3000
	var slowest time.Duration
	for i := range requests {
		start := time.Now()
		require.NoError(t, g.get(fmt.Sprint("/", i)))
		slowest = max(slowest, time.Since(start))
	}
	require.Less(t, slowest, 5*time.Second, "a request to Loki takes 10")
	require.Empty(t, f.Entries(""))
	require.Eventually(t, func() bool { return samples(t)["buffer_lines"] >= requests }, 20*time.Second, 10*time.Millisecond)
	require.Positive(t, samples(t)["oldest_unsent_seconds"])
	f.Thaw()
	require.Eventually(t, func() bool { return len(access(f, "")) == requests }, 30*time.Second, 20*time.Millisecond)
	for path, lines := range access(f, "") {
		require.Len(t, lines, 1, path)
	}
}

// TestReloadsLoseNoLine reloads under load: the same settings, other settings,
// another size of the buffer, another folder and back, no Loki at all and back,
// and loads that fail. Each line is in Loki or, if its folder had no configuration
// any more, on stderr; once.
func TestReloadsLoseNoLine(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	first, second := t.TempDir(), t.TempDir()
	before := goleak.IgnoreCurrent()
	start := since(t)
	failing := adapt(t, g.caddyfile(output(f.URL(), second, "label env failed")+"\n log other {\n output loki http://loki {\n tls_ca /no/such/file\n }\n }"))
	plain := output(f.URL(), first)
	g.load(t, plain)

	var next atomic.Int64
	var sent sync.Map // path -> answered
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				path := "/" + strconv.FormatInt(next.Add(1), 10)
				sent.Store(path, g.get(path) == nil)
			}
		})
	}
	for range 6 {
		for _, options := range []string{
			plain, plain,
			output(f.URL(), first, "label env changed"),
			output(f.URL(), first, "label env changed", "max_age 24h"),
			output(f.URL(), second),
			plain,
			"log {\n output stderr\n format tenantgate\n }",
			plain,
			strings.Replace(plain, "buffer "+first, "buffer "+first+" 2MiB", 1),
		} {
			g.load(t, options)
			seen := next.Load()
			require.Eventually(t, func() bool { return next.Load() > seen+20 }, 20*time.Second, time.Millisecond)
		}
		require.ErrorContains(t, caddy.Load(failing, true), "tls_ca: open /no/such/file")
	}
	close(stop)
	load.Wait()
	g.client.CloseIdleConnections()
	require.NoError(t, caddy.Stop())

	shipped, onStderr := access(f, ""), linesOf(printed(t, start))
	total, elsewhere := 0, 0
	sent.Range(func(path, answered any) bool {
		n := len(shipped[path.(string)]) + onStderr[path.(string)]
		if answered.(bool) {
			require.Equal(t, 1, n, "%s: %v", path, shipped[path.(string)])
			total++
			elsewhere += onStderr[path.(string)]
		}
		require.LessOrEqual(t, n, 1, path)
		return true
	})
	t.Logf("%d lines, %d of them on stderr", total, elsewhere)
	require.Greater(t, total, 1000)
	require.Less(t, elsewhere, total/2)
	goleak.VerifyNone(t, before, ignoreLock)
}

func TestCountersSurviveReloadsAndGoWithTheirBuffer(t *testing.T) {
	g, f := newGate(t), lokitest.NewFake(t)
	dir := t.TempDir()
	f.Answer(lokitest.Answer{Status: 500})
	g.load(t, output(f.URL(), dir))
	require.NoError(t, g.get("/a"))
	waitFor(t, f, "", "/a")
	g.load(t, output(f.URL(), dir, "label env x"))
	require.NoError(t, g.get("/b"))
	waitFor(t, f, "", "/b")
	var got map[string]float64
	require.Eventually(t, func() bool {
		got = samples(t)
		return got["lines_acknowledged_total"] == got["lines_accepted_total"] && got["buffer_lines"] == 0
	}, 20*time.Second, 10*time.Millisecond, "%v", got)
	require.GreaterOrEqual(t, got["lines_accepted_total"], 2.0)
	require.Greater(t, got["bytes_accepted_total"], 200.0)
	require.InDelta(t, got["lines_accepted_total"], got["lines_stored_total"], 0)
	require.Greater(t, got["lines_sent_total"], got["lines_acknowledged_total"], "one request was repeated")
	require.Positive(t, got["bytes_sent_total"])
	require.InDelta(t, 0, got["oldest_unsent_seconds"], 0)
	require.InDelta(t, 1, got["request_seconds{500}"], 0)
	require.GreaterOrEqual(t, got["request_seconds{204}"], 2.0)
	require.NotContains(t, got, "lines_dropped_total")

	g.load(t, "log {\n output discard\n }")
	require.Empty(t, samples(t))
}

// samples returns the writer's metrics in the registry of the configuration that
// runs, which must have one buffer at most: of histograms the number of requests.
func samples(t *testing.T) map[string]float64 {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	require.NoError(t, err)
	found := map[string]float64{}
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), "tenantgate_loki_")
		for _, m := range family.GetMetric() {
			if !ours {
				continue
			}
			key := name
			for _, l := range m.GetLabel() {
				if l.GetName() != "buffer" {
					key += "{" + l.GetValue() + "}"
				}
			}
			require.NotContains(t, found, key)
			switch {
			case m.GetCounter() != nil:
				found[key] = m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				found[key] = m.GetGauge().GetValue()
			default:
				found[key] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return found
}

func TestTheREADMEListsEveryMetric(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	descs := make(chan *prometheus.Desc, 100)
	loki.Metrics().Describe(descs)
	close(descs)
	require.Len(t, descs, 15)
	for desc := range descs {
		_, name, _ := strings.Cut(desc.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		require.Contains(t, string(readme), "`"+name, name)
	}
}
