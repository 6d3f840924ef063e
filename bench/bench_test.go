package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuartilesAreInterpolated(t *testing.T) {
	t.Parallel()
	low, median, high := quartiles([]float64{4, 1, 3, 2})
	require.InDeltaSlice(t, []float64{1.75, 2.5, 3.25}, []float64{low, median, high}, 1e-9)
	low, median, high = quartiles([]float64{7})
	require.InDeltaSlice(t, []float64{7, 7, 7}, []float64{low, median, high}, 1e-9)
}

func TestParseStatTakesUserAndSystemTime(t *testing.T) {
	t.Parallel()
	used, err := parseStat("42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 9 0 1 2 3")
	require.NoError(t, err)
	require.Equal(t, 1750*time.Millisecond, used)

	for _, bad := range []string{"", "42 (x) S 1", "42 (x) S 1 42 42 0 -1 4194560 100 0 0 0 many 25 0"} {
		_, err := parseStat(bad)
		require.Error(t, err, bad)
	}

	_, err = cpuTime(os.Getpid())
	require.NoError(t, err)
	resident, err := residentBytes(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, resident)
}

func TestLoadUsesEveryTokenAndCountsAnswers(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.URL.Path + " " + r.Header.Get("Authorization")
		_, _ = w.Write(body)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte("one\ntwo\n"), 0o600))
	l := load{address: server.Listener.Addr().String(), path: "/x", conns: 4, duration: 50 * time.Millisecond}
	require.NoError(t, l.readTokens(file))
	got, err := l.run(t.Context())
	require.NoError(t, err)
	require.Len(t, seen, got.Requests)
	require.Positive(t, got.P50)
	require.GreaterOrEqual(t, got.P99, got.P50)
	tokens := map[string]bool{}
	for len(seen) > 0 {
		tokens[<-seen] = true
	}
	require.Equal(t, map[string]bool{"/x Bearer one": true, "/x Bearer two": true}, tokens)
}

func TestLoadEndsAtTheFirstRefusal(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"the proxy answered \"HTTP/1.1 403 Forbidden\"": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"the answer has no Content-Length": func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
		},
	} {
		server := httptest.NewServer(handler)
		l := load{address: server.Listener.Addr().String(), path: "/", tokens: []string{"x"}, conns: 2, duration: time.Minute}
		_, err := l.run(t.Context())
		server.Close()
		require.ErrorContains(t, err, name)
	}
	empty := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	require.ErrorContains(t, new(load).readTokens(empty), "holds no token")
}

func TestSiteMakesATokenForEveryUser(t *testing.T) {
	t.Parallel()
	s, err := newSite(t.Context(), t.TempDir(), "127.0.0.1:1")
	require.NoError(t, err)
	l := load{}
	require.NoError(t, l.readTokens(s.tokens))
	require.Len(t, l.tokens, 6)
}

func TestReportNamesEveryVariantAndTheBarIsJudgedByTheLowerQuartile(t *testing.T) {
	t.Parallel()
	pair := func(ratio float64) [2]sample {
		return [2]sample{
			{measured{Requests: 1000, Seconds: 1, P50: 7, P99: 20}, 100 * time.Millisecond, 64 << 20},
			{measured{Requests: 1000, Seconds: 1, P50: 8, P99: 21}, time.Duration(ratio * float64(100*time.Millisecond)), 80 << 20},
		}
	}
	results := []result{
		{again, [][2]sample{pair(1)}},
		{chain, [][2]sample{pair(1.2), pair(1.3), pair(1.6)}},
	}
	o := options{binary: "none", pairs: 3, conns: 64, slot: time.Second, maxRatio: 1.3}
	report := o.report(t.Context(), results)
	require.Contains(t, report, "| full chain | the four modules and the access log | **1.30** | 1.25–1.45 | 130 | 1.00 | 1000 | 8.0 | 21.0 | 80 |")
	require.Contains(t, report, "| bare | Caddy's `reverse_proxy` alone, the anchor | 1.00 | – | 100 | 1.00 | 1000 | 7.0 | 20.0 | 64 |")
	require.NoError(t, o.judge(results))
	o.maxRatio = 1.2
	require.ErrorContains(t, o.judge(results), "full chain costs 1.25 of the bare proxy's CPU (lower quartile), more than 1.20")
}

func TestRewriteKeepsWhatIsWrittenByHand(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, os.WriteFile(page, []byte("# before\n"+beginMark+"old\n"+endMark+"after\n"), 0o600))
	require.NoError(t, rewrite(page, "new\n"))
	require.NoError(t, rewrite(page, "newer\n"))
	content, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, "# before\n"+beginMark+"newer\n"+endMark+"after\n", string(content))

	require.NoError(t, os.WriteFile(page, []byte("nothing"), 0o600))
	require.ErrorContains(t, rewrite(page, "new\n"), "no place for the table")
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	require.Equal(t, "go1.26.8, Caddy v2.11.9", parseVersion("bin/tenantgate: go1.26.8\n\tpath\tx\n\tdep\tgithub.com/caddyserver/caddy/v2\tv2.11.9\th1:x=\n"))
	require.True(t, strings.HasPrefix(parseVersion(""), "go"))
}

func TestCaddyfileHoldsTheChainOnlyWhereItShould(t *testing.T) {
	t.Parallel()
	for _, v := range append([]variant{bare}, variants...) {
		var b strings.Builder
		require.NoError(t, caddyfile.Execute(&b, struct {
			variant
			Address, Upstream, Database, Key, LogFile string
		}{v, "127.0.0.1:1", "127.0.0.1:2", "sqlite://x", "key.pem", "x.log"}))
		require.Equal(t, v.Chain, strings.Contains(b.String(), "check_permission"), v.name)
		require.Equal(t, v.Log, strings.Contains(b.String(), "output file"), v.name)
		require.Equal(t, v.Tuned, strings.Contains(b.String(), "write_idle"), v.name)
	}
}
