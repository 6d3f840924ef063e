package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// lossCaddyfile ships one line for each request.
const lossCaddyfile = `{
	admin unix/{$DIR}/admin
	persist_config off
	log default {
		output file {$DIR}/log
		exclude http.log.access
	}
	log loki {
		output loki {$LOKI} {
			label env loss
			tenant loss
			buffer {$DIR}/buffer {$BUFFER:1GiB}
			batch 1MiB 500ms
			timeout 2s
		}
		format tenantgate
		include http.log.access
	}
}
http://gate {
	bind unix/{$DIR}/site
	log
	error /e/* 500
	respond 204
}
`

// middleman stands between gateways and Loki and does what networks and busy
// servers do.
type middleman struct {
	*httptest.Server
	mode atomic.Value // of string
}

const (
	passOn     = "pass on"
	loseAnswer = "lose the answer" // Loki has the lines, and the gateway does not learn of it
	answer429  = "429"
	answer500  = "500"
)

func newMiddleman(t *testing.T, loki string) *middleman {
	t.Helper()
	target, err := url.Parse(loki)
	require.NoError(t, err)
	m := new(middleman)
	m.mode.Store(passOn)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch m.mode.Load() {
		case answer429:
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, "ingestion rate limit exceeded for user loss (limit: 4000000 bytes/sec) while attempting to ingest '10' lines totaling '4000' bytes")
		case answer500:
			w.WriteHeader(http.StatusInternalServerError)
		case loseAnswer:
			body, _ := io.ReadAll(r.Body) // a broken body is Loki's to refuse
			r.Body = io.NopCloser(bytes.NewReader(body))
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(m.Close)
	return m
}

// counting sends numbered requests to a gateway and knows which were answered.
type counting struct {
	g        *Gateway
	next     atomic.Int64
	mu       sync.Mutex
	answered map[int64]time.Time
	stop     chan struct{}
	workers  sync.WaitGroup
}

// startCounting sends perSecond requests a second.
func startCounting(g *Gateway, perSecond int) *counting {
	c := &counting{g: g, answered: map[int64]time.Time{}, stop: make(chan struct{})}
	const workers = 8
	for range workers {
		c.workers.Go(func() {
			tick := time.NewTicker(time.Second * workers / time.Duration(perSecond))
			defer tick.Stop()
			for {
				select {
				case <-c.stop:
					return
				case <-tick.C:
				}
				n := c.next.Add(1)
				path := "/n/"
				if n%10 == 0 {
					path = "/e/" // whose lines are errors, and so of another stream
				}
				if _, _, err := g.try(path+strconv.FormatInt(n, 10), false); err == nil {
					c.mu.Lock()
					c.answered[n] = time.Now()
					c.mu.Unlock()
				}
			}
		})
	}
	return c
}

func (c *counting) end() {
	close(c.stop)
	c.workers.Wait()
}

var numberInPath = regexp.MustCompile(`"path":"/[ne]/(\d+)"`)

// onDisk returns the numbers of the lines in a buffer's folder. Lines are there as
// they were written.
func onDisk(t *testing.T, folder string) map[int64]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "tenant-*", "*.log"))
	require.NoError(t, err)
	numbers := map[int64]bool{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range numberInPath.FindAllSubmatch(content, -1) {
			n, err := strconv.ParseInt(string(match[1]), 10, 64)
			require.NoError(t, err)
			numbers[n] = true
		}
	}
	return numbers
}

// lokiMetrics returns the gateway's counters of shipping, summed over their labels.
func (g *Gateway) lokiMetrics(t *testing.T) map[string]float64 {
	t.Helper()
	resp, err := g.admin.Get("http://admin/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	values := map[string]float64{}
	for _, line := range strings.Split(string(content), "\n") {
		name, rest, found := strings.Cut(line, "{")
		if !found || !strings.HasPrefix(name, "tenantgate_loki_") {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		require.NoError(t, err, line)
		name = strings.TrimPrefix(name, "tenantgate_loki_")
		values[name] += value
		if _, reason, found := strings.Cut(rest, `reason="`); found {
			reason, _, _ = strings.Cut(reason, `"`)
			values[name+" "+reason] += value
		}
	}
	return values
}

// awaitShipped waits until nothing waits in the gateway's buffer.
func (g *Gateway) awaitShipped(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		m := g.lokiMetrics(t)
		return m["lines_stored_total"]+m["lines_dropped_total"] == m["lines_accepted_total"] && m["buffer_lines"] == 0
	}, 2*time.Minute, 50*time.Millisecond, "the buffer becomes empty")
}

// besideOthers lets a test run beside others, unless its times are measured.
func besideOthers(t *testing.T) {
	t.Helper()
	if !measuring {
		t.Parallel()
	}
}

// eachLoki runs a test on the fake and, where there is one, on a real Loki.
func eachLoki(t *testing.T, test func(t *testing.T, loki lokitest.Loki)) {
	t.Helper()
	t.Run("fake", func(t *testing.T) {
		besideOthers(t)
		test(t, lokitest.NewFake(t))
	})
	t.Run("real", func(t *testing.T) {
		besideOthers(t)
		test(t, lokitest.Start(t, lokitest.Config{Limits: map[string]string{
			"ingestion_rate_mb": "1000", "ingestion_burst_size_mb": "1000", "per_stream_rate_limit": "1GB", "per_stream_rate_limit_burst": "1GB",
		}}))
	})
}

// TestNoLineIsLostWhateverHappens kills, freezes and restarts Loki, has it answer
// 429 and 500, loses its answers, and kills the gateway twice with -9, while
// requests come.
func TestNoLineIsLostWhateverHappens(t *testing.T) {
	besideOthers(t)
	eachLoki(t, func(t *testing.T, loki lokitest.Loki) {
		started := time.Now()
		between := newMiddleman(t, loki.URL())
		g := runGateway(t, lossCaddyfile, "LOKI="+between.URL)
		load := startCounting(g, pick(4000, 500))
		l := &losses{g: g, load: load, onDisk: map[int64]bool{}}
		phase := pick(3500*time.Millisecond, time.Second)
		mode := func(m string) func() { return func() { between.mode.Store(m) } }
		for _, step := range []func(){
			mode(passOn), mode(answer429), mode(passOn), mode(loseAnswer), mode(passOn),
			loki.Kill, func() { l.killGateway(t) }, func() { loki.Restart(t) },
			mode(answer500), mode(passOn), loki.Freeze, func() {}, loki.Thaw,
			func() { l.killGateway(t) }, mode(answer429), mode(passOn),
		} {
			step()
			time.Sleep(phase)
		}
		load.end()
		g.awaitShipped(t)
		l.check(t, loki.Query(t, "loss", `{env="loss"} |= "handled request"`, started.Add(-time.Minute), time.Now().Add(time.Minute)))
	})
}

// losses is what must be in Loki after a gateway was killed.
type losses struct {
	g      *Gateway
	load   *counting
	kills  []time.Time
	onDisk map[int64]bool // at one of the kills
	// Lines that were sent again, of gateways that were killed: after their start,
	// and without an answer.
	restart, noAnswer float64
}

// killGateway ends the gateway with -9 and starts it again.
func (l *losses) killGateway(t *testing.T) {
	t.Helper()
	l.noAnswer += l.g.lokiMetrics(t)["lines_resent_total no_answer"]
	require.NoError(t, l.g.cmd.Process.Signal(syscall.SIGKILL))
	l.kills = append(l.kills, time.Now())
	<-l.g.done
	maps.Copy(l.onDisk, onDisk(t, filepath.Join(l.g.dir, "buffer")))
	l.g.start(t)
	require.Eventually(t, func() bool { return l.g.lokiMetrics(t)["lines_stored_total"] > 0 }, 20*time.Second, 10*time.Millisecond)
	resent := l.g.lokiMetrics(t)["lines_resent_total restart"]
	// A batch is 1 MiB of lines with what they carry, and a line has more than 230 bytes.
	require.LessOrEqual(t, resent, float64(1<<20/230))
	l.restart += resent
}

// check holds what is in Loki against what was answered.
func (l *losses) check(t *testing.T, entries []lokitest.Entry) {
	t.Helper()
	found := map[int64]int{}
	for _, e := range entries {
		match := numberInPath.FindStringSubmatch(e.Line)
		if match == nil {
			continue // of a request that asked whether the gateway serves
		}
		n, err := strconv.ParseInt(match[1], 10, 64)
		require.NoError(t, err)
		found[n]++
	}
	var lost []int64
	again := 0
	for _, times := range found {
		again += times - 1
	}
	for n := range l.onDisk {
		if found[n] == 0 {
			lost = append(lost, n)
		}
	}
	uncertain := 0
	for n, at := range l.load.answered {
		// What is written in the last moment before a kill may not be on disk yet.
		if slices.ContainsFunc(l.kills, func(kill time.Time) bool { return kill.Sub(at) > -10*time.Millisecond && kill.Sub(at) < time.Second }) {
			uncertain++
		} else if found[n] == 0 {
			lost = append(lost, n)
		}
	}
	require.Empty(t, lost, "of %d answered requests", len(l.load.answered))
	m := l.g.lokiMetrics(t)
	require.Zero(t, m["lines_dropped_total"]+m["lines_rejected_total"])
	// A killed gateway's last requests without an answer are those that the next one
	// sends again.
	noAnswer := l.noAnswer + m["lines_resent_total no_answer"]
	require.LessOrEqual(t, float64(again), l.restart+noAnswer, "lines that are there twice are counted")
	what := fmt.Sprintf("%d requests were answered, %d lines are in Loki, none is lost; %d answers were within a second before a kill -9 of the gateway; "+
		"%.0f lines were sent again after one, %.0f after a request without an answer, and Loki shows %d of them twice",
		len(l.load.answered), len(found), uncertain, l.restart, noAnswer, again)
	t.Log(what)
	reportShipping("Loki killed, frozen, restarted, answering 429 and 500, its answers lost; the gateway killed twice ("+filepath.Base(t.Name())+" Loki)", what)
}

// TestRequestsDoNotWaitForLoki compares the times of requests while Loki is there,
// away and frozen, in turns, so that what else the machine does meets all three.
func TestRequestsDoNotWaitForLoki(t *testing.T) {
	besideOthers(t)
	loki := lokitest.NewFake(t)
	g := runGateway(t, lossCaddyfile, "LOKI="+loki.URL())
	g.awaitShipped(t)
	times := map[string][]time.Duration{}
	phase := func(name string) {
		const perSecond = 500
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for range pick(4*perSecond, perSecond/5) {
			<-tick.C
			start := time.Now()
			_, _, err := g.try("/n/1", false)
			times[name] = append(times[name], time.Since(start))
			require.NoError(t, err)
		}
	}
	for range pick(15, 2) {
		phase("there")
		loki.Kill()
		phase("away")
		loki.Restart(t)
		phase("there")
		loki.Freeze()
		phase("frozen")
		loki.Thaw()
		g.awaitShipped(t)
	}
	require.Zero(t, g.lokiMetrics(t)["lines_dropped_total"])
	there := percentile(times["there"], 0.99)
	for _, name := range []string{"away", "frozen"} {
		p99 := percentile(times[name], 0.99)
		reportShipping("p99 of requests while Loki is "+name+", against while it is there, "+strconv.Itoa(len(times[name]))+" requests",
			fmt.Sprintf("%s against %s: %.2f×", round(p99), round(there), float64(p99)/float64(there)))
	}
}
