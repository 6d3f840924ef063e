package loki

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/s2"

	"github.com/tenantgate/tenantgate/internal/clock"
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
