package loki

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

// benchLine is an access line of a gateway: 400 bytes.
var benchLine = []byte(`{"ts":"2026-11-26T10:00:00.123456Z","level":"info","service":"tenantgate","logger":"http.log.access","msg":"handled request",` +
	`"method":"GET","host":"api.example.com","path":"/api/reports/2026/11","client_ip":"203.0.113.77","status":200,"bytes":1843,"duration_ms":3.214,` +
	`"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","tenant_id":"17","user_id":"0190c5a2-7f1e-7abc-8def-0123456789ab"}` + "\n")

// BenchmarkWrite is what a request pays for a line: see the bar in docs/log-shipping.md.
func BenchmarkWrite(b *testing.B) {
	q := newQueue(clock.System{})
	b.SetBytes(int64(len(benchLine)))
	b.ReportAllocs()
	for b.Loop() {
		q.put(benchLine)
		if len(q.filling) > blockBytes-1024 {
			q.filling = q.filling[:0] // as if it were taken
		}
	}
}

// BenchmarkWriteParallel has the writers of all processors meet at the queue.
func BenchmarkWriteParallel(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir(), Diagnostics: io.Discard}, Settings{URL: "http://127.0.0.1:9"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // before its folder is deleted; nobody waits for Loki
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Close(ctx) // never fails
	})
	b.SetBytes(int64(len(benchLine)))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = s.Write(benchLine) // never fails
		}
	})
}

// sink takes pushes as fast as they can be read, and counts their lines.
type sink struct {
	*httptest.Server
	lines atomic.Int64
}

func newSink(b *testing.B) *sink {
	b.Helper()
	s := new(sink)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			body, err = s2.Decode(nil, body)
		}
		for err == nil && len(body) > 0 {
			var push, entries []byte
			push, body, _ = cutBytes(body[1:])
			_, entries, _ = cutBytes(push[1:])
			for ok := true; ok; {
				if _, entries, ok = nextEntry(entries); ok {
					s.lines.Add(1)
				}
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(s.Close)
	return s
}

// ship writes b.N lines and waits until all are acknowledged.
func ship(b *testing.B, url string) {
	b.Helper()
	s, err := Open(Options{Dir: b.TempDir(), Diagnostics: testWriter{b}}, Settings{URL: url, Tenant: Value{Static: "bench"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close(context.Background()) }) // never fails
	b.SetBytes(int64(len(benchLine)))
	b.ResetTimer()
	for i := range b.N {
		// A writer that is faster than the rest would only measure how lines are dropped.
		for i%1000 == 0 && (s.waiting() > blockBytes/2 || s.bufferBytes() > DefaultBufferBytes/8) {
			runtime.Gosched()
		}
		_, _ = s.Write(benchLine) // never fails
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if stats := s.Stats(); stats.AcknowledgedLines != int64(b.N) {
		b.Fatalf("%d of %d lines arrived: dropped %v, rejected %v", stats.AcknowledgedLines, b.N, stats.DroppedLines, stats.RejectedLines)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

func (s *Shipper) waiting() int {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return len(s.queue.filling)
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.Logf("%s", p); return len(p), nil }

// BenchmarkShip is the whole way of a line: from Write through the disk and HTTP to
// a server that reads it, all on this machine.
func BenchmarkShip(b *testing.B) {
	s := newSink(b)
	b.ReportAllocs()
	ship(b, s.URL)
}

// uniqueLine is an access line with ids of its own, as those of real requests are.
func uniqueLine(i int) []byte {
	return fmt.Appendf(nil, `{"ts":"2026-11-26T10:00:00.%06dZ","level":"info","service":"tenantgate","logger":"http.log.access","msg":"handled request","method":"GET",`+
		`"host":"api.example.com","path":"/api/reports/%d","status":200,"bytes":1843,"duration_ms":3.214,"trace_id":"%032x","tenant_id":"%d","user_id":"0190c5a2-7f1e-7abc-8def-%012x"}`,
		i%1e6, i%100, i*2654435761, i%500, i%5000)
}

// BenchmarkLoki compares our whole way into a real Loki with what it takes from a
// client that has encoded everything before: 5,000 lines a request, two at a time.
func BenchmarkLoki(b *testing.B) {
	loki := lokitest.Start(b, lokitest.Config{Limits: map[string]string{
		"ingestion_rate_mb": "1000", "ingestion_burst_size_mb": "1000", "per_stream_rate_limit": "1GB", "per_stream_rate_limit_burst": "1GB",
	}})
	const lines, perRequest = 300_000, 5000
	b.Run("direct", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			bodies := encoded(b, lines, perRequest)
			b.StartTimer()
			var senders sync.WaitGroup
			for range 2 {
				senders.Go(func() {
					for body := range bodies {
						s := Settings{URL: loki.URL() + pushPath, Timeout: time.Minute}
						if a, err := post(b.Context(), NewClient(nil), s, "direct", body); err != nil || a.status != http.StatusNoContent {
							b.Errorf("%v: %d %s", err, a.status, a.body)
						}
					}
				})
			}
			senders.Wait()
		}
		b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines/s")
	})
	b.Run("shipped", func(b *testing.B) {
		s, err := Open(Options{Dir: b.TempDir(), Diagnostics: testWriter{b}}, Settings{URL: loki.URL(), Tenant: Value{Static: "shipped"}})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close(context.Background()) }) // never fails
		written := 0
		for b.Loop() {
			for range lines {
				for written%1000 == 0 && s.waiting() > blockBytes/2 {
					runtime.Gosched()
				}
				_, _ = s.Write(uniqueLine(written)) // never fails
				written++
			}
			if err := s.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(written)/b.Elapsed().Seconds(), "lines/s")
		if stats := s.Stats(); stats.AcknowledgedLines != int64(written) {
			b.Fatalf("%d of %d lines arrived: %v %v", stats.AcknowledgedLines, written, stats.DroppedLines, stats.RejectedLines)
		}
	})
}

// encoded returns requests with lines of now.
func encoded(b *testing.B, lines, perRequest int) <-chan []byte {
	b.Helper()
	settings, err := Settings{URL: "http://loki"}.Complete()
	if err != nil {
		b.Fatal(err)
	}
	bodies := make(chan []byte, lines/perRequest)
	defer close(bodies)
	e := newEncoder(1 << 30)
	e.apply(settings)
	now := time.Now().UnixNano()
	for i := range lines {
		e.add(now+int64(i), uniqueLine(i))
		if (i+1)%perRequest == 0 {
			_ = e.flush(func(_ string, f segment.Frame) error {
				streams, err := merge(&segment.Batch{Frames: []segment.Frame{f}})
				if err != nil {
					b.Fatal(err)
				}
				bodies <- encodePush(streams)
				return nil
			})
		}
	}
	return bodies
}
