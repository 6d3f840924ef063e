package loki_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/internal/loki"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// text is what a shipper tells, safe for concurrent use.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *text) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *text) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func open(t *testing.T, dir, url string, change ...func(*loki.Options, *loki.Settings)) (*loki.Shipper, *text) {
	t.Helper()
	told := new(text)
	o := loki.Options{Dir: dir, Service: "test", Diagnostics: told}
	s := loki.Settings{URL: url, BatchWait: 10 * time.Millisecond}
	for _, c := range change {
		c(&o, &s)
	}
	shipper, err := loki.Open(o, s)
	require.NoError(t, err)
	t.Cleanup(func() { closeNow(t, shipper) })
	return shipper, told
}

func closeNow(t *testing.T, s *loki.Shipper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.Close(ctx))
}

func line(i int) string {
	return fmt.Sprintf(`{"ts":"2026-11-26T10:00:00.000000Z","level":"info","service":"gateway","msg":"line %d","trace_id":"%032x"}`, i, i)
}

func write(t *testing.T, s io.Writer, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		n, err := fmt.Fprintln(s, line(i))
		require.NoError(t, err)
		require.Equal(t, len(line(i))+1, n)
	}
}

func flush(t *testing.T, s *loki.Shipper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Flush(ctx))
}

func TestLinesArriveWithLabelsMetadataAndTheirOwnTimes(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	s, told := open(t, t.TempDir(), fake.URL(), func(_ *loki.Options, s *loki.Settings) {
		s.Labels = append(loki.DefaultLabels(), loki.Label{Name: "env", Value: loki.Value{Static: "test"}})
		s.Tenant.Static = "acme"
	})
	before := time.Now()
	write(t, s, 0, 500)
	flush(t, s)
	entries := fake.Entries("acme")
	require.Len(t, entries, 500)
	for i, e := range entries {
		require.Equal(t, line(i), e.Line)
		require.Equal(t, map[string]string{"service": "gateway", "level": "info", "env": "test"}, e.Labels)
		require.Equal(t, map[string]string{"trace_id": fmt.Sprintf("%032x", i)}, e.Metadata)
		require.WithinRange(t, e.Time, before, time.Now())
	}
	stats := s.Stats()
	require.Equal(t, []int64{500, 500, 500, 500}, []int64{stats.AcceptedLines, stats.StoredLines, stats.SentLines, stats.AcknowledgedLines})
	require.Zero(t, stats.BufferLines)
	require.Empty(t, told.String())
}

func TestALineIsSentAfterTheNextStartWhenLokiWasAway(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	fake.Kill()
	dir := t.TempDir()
	first, told := open(t, dir, fake.URL())
	write(t, first, 0, 100)
	require.NoError(t, first.Sync())
	require.Eventually(t, func() bool { return first.Stats().Retrying }, 10*time.Second, time.Millisecond)
	started := time.Now()
	closeNow(t, first)
	require.Less(t, time.Since(started), 5*time.Second, "a Loki that is away is not waited for")
	require.Contains(t, told.String(), "101 lines wait in "+dir+" for the next start", "these, and one that tells of the shipping")

	fake.Restart(t)
	second, _ := open(t, dir, fake.URL())
	write(t, second, 100, 150)
	flush(t, second)
	require.Equal(t, lines(0, 150), texts(fake.Entries("")), "in the order in which they were written")
	resent := second.Stats().ResentLines
	require.Len(t, resent, 1)
	require.LessOrEqual(t, resent["restart"], int64(101))
	require.Positive(t, resent["restart"], "the first may have been sent")
}

func lines(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, line(i))
	}
	return all
}

func texts(entries []lokitest.Entry) (all []string) {
	for _, e := range entries {
		if !strings.Contains(e.Line, `"msg":"log shipping"`) {
			all = append(all, e.Line)
		}
	}
	return all
}

func TestCloseSendsWhatWaits(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	s, _ := open(t, t.TempDir(), fake.URL(), func(_ *loki.Options, s *loki.Settings) { s.BatchWait = time.Hour })
	write(t, s, 0, 5)
	closeNow(t, s)
	require.Equal(t, lines(0, 5), texts(fake.Entries("")))
	var report map[string]any
	for _, e := range fake.Entries("") {
		if strings.Contains(e.Line, "log shipping") {
			require.NoError(t, json.Unmarshal([]byte(e.Line), &report))
		}
	}
	require.Equal(t, "test", report["service"])
	require.InDelta(t, 5, report["accepted"], 0)
}

func TestALineAfterCloseGoesToTheDiagnostics(t *testing.T) {
	t.Parallel()
	s, told := open(t, t.TempDir(), lokitest.NewFake(t).URL())
	closeNow(t, s)
	closeNow(t, s)
	write(t, s, 7, 8)
	require.NoError(t, s.Sync())
	require.Equal(t, line(7)+"\n", told.String())
}

// A full buffer drops the oldest lines, and the count is exact.
func TestAFullBufferDropsTheOldestLinesAndCountsThem(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	fake.Kill()
	s, told := open(t, t.TempDir(), fake.URL(), func(o *loki.Options, s *loki.Settings) {
		o.MaxBytes = loki.MinBufferBytes
		s.BatchBytes = loki.MinBatchBytes
	})
	const written = 20_000 // about 3 MB
	for i := 0; i < written; i += 1000 {
		write(t, s, i, i+1000)
		require.NoError(t, s.Sync())
		require.LessOrEqual(t, s.Stats().BufferBytes, int64(loki.MinBufferBytes))
	}
	stats := s.Stats()
	require.Positive(t, stats.DroppedLines["buffer_full"])
	require.Len(t, stats.DroppedLines, 1)
	require.Eventually(t, func() bool {
		return strings.Contains(told.String(), "is full (1048576 bytes): the oldest lines are dropped")
	},
		10*time.Second, 10*time.Millisecond)

	fake.Restart(t)
	flush(t, s)
	arrived := texts(fake.Entries(""))
	require.Len(t, arrived, written-int(stats.DroppedLines["buffer_full"]), "each line is dropped or there")
	require.Equal(t, line(written-1), arrived[len(arrived)-1])
	require.Equal(t, stats.DroppedLines, s.Stats().DroppedLines)
}

func TestOneTenantThatIsRefusedHoldsNoOtherBack(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	refused := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Scope-OrgID") == "greedy" {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		fake.ServeHTTP(w, r)
	})
	dir := t.TempDir()
	s, _ := open(t, dir, fake.URL(), func(_ *loki.Options, s *loki.Settings) {
		s.Tenant = loki.Value{Field: "tenant_id", Static: "system"}
		s.Client = &http.Client{Transport: handlerTransport{refused}}
	})
	for _, tenant := range []string{"greedy", "modest", "", "a/b"} {
		_, err := fmt.Fprintf(s, `{"msg":"of %s","tenant_id":%q}`+"\n", tenant, tenant)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		return len(fake.Entries("modest")) == 1 && len(fake.Entries("system")) == 2
	}, 10*time.Second, 5*time.Millisecond)
	require.Empty(t, fake.Entries("greedy"))
	require.Eventually(t, func() bool { return s.Stats().BufferLines == 1 }, 10*time.Second, time.Millisecond)
	require.DirExists(t, filepath.Join(dir, "tenant-greedy"))
}

// handlerTransport answers requests without a network.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestAnUpdateIsUsedAtOnceAlsoByWhatWaits(t *testing.T) {
	t.Parallel()
	away, there := lokitest.NewFake(t), lokitest.NewFake(t)
	away.Kill()
	s, _ := open(t, t.TempDir(), away.URL())
	write(t, s, 0, 10)
	require.Eventually(t, func() bool { return s.Stats().Retrying }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.Update(loki.Settings{URL: there.URL(), BatchWait: time.Millisecond, Labels: []loki.Label{{Name: "new", Value: loki.Value{Static: "yes"}}}}))
	write(t, s, 10, 20)
	flush(t, s)
	entries := there.Entries("")
	require.Equal(t, lines(0, 20), texts(entries))
	require.Equal(t, map[string]string{"service": "gateway", "level": "info"}, entries[0].Labels, "lines that wait keep their labels")
	require.Equal(t, map[string]string{"new": "yes"}, entries[19].Labels)
	require.ErrorContains(t, s.Update(loki.Settings{URL: "loki:3100"}), "give one like http://loki:3100")
}

func TestAFolderThatAnotherHasIsWaitedFor(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	dir := t.TempDir()
	first, _ := open(t, dir, fake.URL())
	write(t, first, 0, 1)
	flush(t, first)
	second, told := open(t, dir, fake.URL())
	write(t, second, 1, 2)
	require.Eventually(t, func() bool {
		return strings.Contains(told.String(), fmt.Sprintf("is used by process %d: give each process its own: lines wait in memory", os.Getpid()))
	}, 10*time.Second, time.Millisecond)
	closeNow(t, first)
	flush(t, second)
	require.Equal(t, lines(0, 2), texts(fake.Entries("")))

	third, told := open(t, dir, fake.URL())
	write(t, third, 2, 3)
	started := time.Now()
	closeNow(t, third)
	require.Less(t, time.Since(started), 5*time.Second, "there is nothing to wait for")
	require.Contains(t, told.String(), line(2)+"\n", "what can't be kept is printed")
}

func TestOpenRefusesWhatCanNotWork(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]struct {
		options  loki.Options
		settings loki.Settings
		want     string
	}{
		"no URL":               {loki.Options{}, loki.Settings{}, "give one like http://loki:3100"},
		"another scheme":       {loki.Options{}, loki.Settings{URL: "ftp://loki"}, "give one like http://loki:3100"},
		"a query":              {loki.Options{}, loki.Settings{URL: "http://loki/?x=1"}, "can't have a query"},
		"no scheme":            {loki.Options{}, loki.Settings{URL: "gate:hunter2@loki"}, "push URL can't be read: give one like http://loki:3100"},
		"credentials twice":    {loki.Options{}, loki.Settings{URL: "http://u:hunter2@loki", Bearer: "x"}, "http://u:xxxxx@loki: credentials are given twice"},
		"both ways":            {loki.Options{}, loki.Settings{URL: "http://loki", Username: "u", Bearer: "x"}, "not both"},
		"a tenant":             {loki.Options{}, loki.Settings{URL: "http://loki", Tenant: loki.Value{Static: "a|b"}}, `tenant "a|b"`},
		"a label's name":       {loki.Options{}, loki.Settings{URL: "http://loki", Labels: []loki.Label{{Name: "a-b", Value: loki.Value{Static: "x"}}}}, `label "a-b"`},
		"a reserved label":     {loki.Options{}, loki.Settings{URL: "http://loki", Labels: []loki.Label{{Name: "__x", Value: loki.Value{Static: "x"}}}}, `label "__x"`},
		"no labels":            {loki.Options{}, loki.Settings{URL: "http://loki", Labels: []loki.Label{}}, "1 to 15"},
		"a label twice":        {loki.Options{}, loki.Settings{URL: "http://loki", Labels: append(loki.DefaultLabels(), loki.DefaultLabels()...)}, "label service is given twice"},
		"a label as metadata":  {loki.Options{}, loki.Settings{URL: "http://loki", Metadata: []string{"level"}}, "level is a label already"},
		"a small batch":        {loki.Options{}, loki.Settings{URL: "http://loki", BatchBytes: 100}, "batch of 100 bytes"},
		"a small buffer":       {loki.Options{MaxBytes: 1000}, loki.Settings{URL: "http://loki"}, "buffer of 1000 bytes: give at least 1048576"},
		"a file as the folder": {loki.Options{Dir: file}, loki.Settings{URL: "http://loki"}, "buffer folder: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.options.Dir == "" {
				c.options.Dir = t.TempDir()
			}
			_, err := loki.Open(c.options, c.settings)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	fake := lokitest.NewFake(t)
	before := goleak.IgnoreCurrent()
	for range 20 {
		transport := new(http.Transport)
		s, _ := open(t, t.TempDir(), fake.URL(), func(_ *loki.Options, s *loki.Settings) { s.Client = &http.Client{Transport: transport} })
		write(t, s, 0, 10)
		closeNow(t, s)
		transport.CloseIdleConnections()
	}
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
}

// A line that Loki can't take at all is kept where an operator finds it.
func TestWhatLokiCanNotReadIsQuarantined(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	dir := t.TempDir()
	poison := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(uncompressed(t, body), []byte("line 250\"")) {
			http.Error(w, "error decoding", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		fake.ServeHTTP(w, r)
	})
	s, _ := open(t, dir, fake.URL(), func(_ *loki.Options, s *loki.Settings) {
		s.Client = &http.Client{Transport: handlerTransport{poison}}
	})
	write(t, s, 0, 500)
	flush(t, s)
	require.Len(t, texts(fake.Entries("")), 499)
	require.Equal(t, map[string]int64{"quarantined": 1}, s.Stats().RejectedLines)
	content, err := os.ReadFile(filepath.Join(dir, "quarantine.jsonl"))
	require.NoError(t, err)
	var kept struct {
		Time         time.Time `json:"ts"`
		Labels, Line string
		Why          string
	}
	require.NoError(t, json.Unmarshal(content, &kept))
	require.Equal(t, line(250), kept.Line)
	require.Equal(t, `{level="info", service="gateway"}`, kept.Labels)
	require.WithinDuration(t, time.Now(), kept.Time, time.Minute)
	require.Contains(t, kept.Why, "error decoding")
}

func uncompressed(t *testing.T, body []byte) []byte {
	t.Helper()
	content, err := s2.Decode(nil, body)
	require.NoError(t, err)
	return content
}

// Loki refuses lines that are far behind the newest of their stream, so a backlog
// must go first, in order. It loses some when it crashes after requests with one
// stream at a time, so a request begins when the one before has ended.
func TestABacklogGoesBeforeFreshLines(t *testing.T) {
	t.Parallel()
	const backlog, fresh = 20_000, 5_000
	dir := t.TempDir()
	away := lokitest.NewFake(t)
	away.Kill()
	small := func(_ *loki.Options, s *loki.Settings) { s.BatchBytes = 256 << 10 }
	first, _ := open(t, dir, away.URL(), small)
	write(t, first, 0, backlog)
	closeNow(t, first)

	var mu sync.Mutex
	var begins, sizes []int // of each request: its first line, and how many it has
	onWay, most := 0, 0     // requests at a time
	fake := lokitest.NewFake(t)
	notes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := uncompressed(t, body)
		begin := -1
		if _, after, found := bytes.Cut(text, []byte(`"msg":"line `)); found {
			_, _ = fmt.Sscanf(string(after[:min(len(after), 10)]), "%d", &begin)
		}
		mu.Lock()
		if begin >= 0 {
			begins, sizes = append(begins, begin), append(sizes, bytes.Count(text, []byte(`"msg":"line `)))
		}
		onWay++
		most = max(most, onWay)
		mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		fake.ServeHTTP(w, r)
		mu.Lock()
		onWay--
		mu.Unlock()
	})
	second, _ := open(t, dir, fake.URL(), small, func(_ *loki.Options, s *loki.Settings) {
		s.Client = &http.Client{Transport: handlerTransport{notes}}
	})
	write(t, second, backlog, backlog+fresh)
	flush(t, second)
	require.Equal(t, lines(0, backlog+fresh), texts(fake.Entries("")))

	mu.Lock()
	defer mu.Unlock()
	sent := 0 // lines of the requests before
	for i, begin := range begins {
		require.Equal(t, sent, begin, "request %d of %v", i, begins)
		sent += sizes[i]
	}
	require.Greater(t, len(begins), 20)
	require.Equal(t, 1, most)
}

func TestLinesWaitForADiskThatDoesNotWork(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	dir := t.TempDir()
	s, told := open(t, dir, fake.URL())
	write(t, s, 0, 10)
	flush(t, s)
	folder := filepath.Join(dir, "tenant-")
	require.NoError(t, os.RemoveAll(folder))
	require.NoError(t, os.WriteFile(folder, nil, 0o600))
	write(t, s, 10, 20)
	require.NoError(t, s.Sync(), "it does not wait for ever")
	require.Eventually(t, func() bool { return strings.Contains(told.String(), "lines wait in memory") }, 10*time.Second, time.Millisecond)
	write(t, s, 20, 30)
	require.NoError(t, os.Remove(folder))
	flush(t, s)
	require.Equal(t, lines(0, 30), texts(fake.Entries("")))
	require.Empty(t, s.Stats().DroppedLines)
}

// Far more lines than the buffer holds, while Loki is away. It is not
// parallel, so that the memory is its own.
func TestMemoryIsBoundedWhileLokiIsAway(t *testing.T) {
	fake := lokitest.NewFake(t)
	fake.Kill()
	s, _ := open(t, t.TempDir(), fake.URL(), func(o *loki.Options, _ *loki.Settings) { o.MaxBytes = 16 << 20 })
	text := []byte(strings.Replace(line(1), "line 1", "line "+strings.Repeat("x", 270), 1))
	runtime.GC() // of what earlier tests left
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, peak := m.HeapInuse, m.HeapInuse
	const written = 200_000
	for i := range written {
		_, _ = s.Write(text) // never fails
		if i%5000 == 0 {
			require.NoError(t, s.Sync())
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}
	}
	require.NoError(t, s.Sync())
	stats := s.Stats()
	require.Less(t, peak-before, uint64(64<<20))
	require.LessOrEqual(t, stats.BufferBytes, int64(16<<20))
	// What is on its way is on disk too.
	require.Equal(t, int64(written), stats.BufferLines+stats.DroppedLines["buffer_full"])
	t.Logf("%d lines: at most %d MiB of heap, %d lines dropped, %d on disk", written, (peak-before)>>20, stats.DroppedLines["buffer_full"], stats.BufferLines)
}

func TestAFolderThatCanNotBeReadIsTriedAgain(t *testing.T) {
	t.Parallel()
	fake := lokitest.NewFake(t)
	dir := t.TempDir()
	trouble := filepath.Join(dir, "tenant-x", "position")
	require.NoError(t, os.MkdirAll(trouble, 0o700)) // a folder in place of the file
	s, told := open(t, dir, fake.URL())
	write(t, s, 0, 5)
	require.Eventually(t, func() bool { return strings.Contains(told.String(), "lines wait in memory") }, 10*time.Second, time.Millisecond)
	require.NoError(t, os.Remove(trouble))
	flush(t, s)
	require.Equal(t, lines(0, 5), texts(fake.Entries("")))
}
