package loki

import (
	"fmt"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

// sampleLines returns lines as the gateway and the backends write them: docs/logs.md.
func sampleLines() [][]byte {
	lines := make([][]byte, 1000)
	for i := range lines {
		level, status := "info", 200
		if i%20 == 0 {
			level, status = "error", 502
		}
		n := i * 2654435761
		lines[i] = fmt.Appendf(nil, `{"level":%q,"ts":"2026-11-23T16:04:%02d.%06dZ","logger":"http.log.access","msg":"handled request",`+
			`"service":"tenantgate","trace_id":"%032x","span_id":"%016x","request_id":"%032x","method":"GET","host":"app.example.com",`+
			`"path":"/api/tenants/%d/members","client_ip":"203.0.113.%d","user_id":"user-%d","tenant_id":"tenant-%d",`+
			`"duration_ms":%d.%03d,"bytes":%d,"status":%d}`,
			level, i%60, i, n, n*31, n*37, i%50, i%250, i%500, i%50, i%90, i, i*13, status)
	}
	return lines
}

func benchSettings() Settings {
	return Settings{
		Labels: append(DefaultLabels(), Label{"env", Value{Static: "production"}}), Metadata: DefaultMetadata(),
	}
}

func discard(string, segment.Frame) error { return nil }

// BenchmarkEncode is what a line costs from the queue to the disk: scan, encode and
// its share of a chunk.
func BenchmarkEncode(b *testing.B) {
	lines := sampleLines()
	for name, tenant := range map[string]Value{"one tenant": {}, "50 tenants": {Field: "tenant_id"}} {
		b.Run(name, func(b *testing.B) {
			e := newEncoder(256 << 10)
			s := benchSettings()
			s.Tenant = tenant
			e.apply(s)
			ns := int64(1_795_000_000_000_000_000)
			b.SetBytes(int64(len(lines[0])))
			b.ReportAllocs()
			for b.Loop() {
				ns++
				if e.add(ns, lines[ns%int64(len(lines))]) {
					require.NoError(b, e.flush(discard))
				}
			}
		})
	}
}

// BenchmarkScan is the share of the JSON line in it.
func BenchmarkScan(b *testing.B) {
	lines := sampleLines()
	e := newEncoder(1 << 20)
	e.apply(benchSettings())
	b.SetBytes(int64(len(lines[0])))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if !e.fields.scan(lines[i%len(lines)]) {
			b.Fatal("not scanned")
		}
	}
}

// BenchmarkPush is what a line costs from the disk to the request.
func BenchmarkPush(b *testing.B) {
	e := newEncoder(512 << 10)
	e.apply(benchSettings())
	lines, n := sampleLines(), 0
	for i := 0; ; i++ {
		n++
		if e.add(int64(1_795_000_000_000_000_000+i), lines[i%len(lines)]) {
			break
		}
	}
	var payload []byte
	require.NoError(b, e.flush(func(_ string, f segment.Frame) error {
		payload = append([]byte(nil), f.Payload...)
		return nil
	}))
	var request, compressed []byte
	b.ReportAllocs()
	for b.Loop() {
		var streams []stream
		require.NoError(b, readChunk(payload, func(labels string, lines int, entries []byte) error {
			streams = append(streams, stream{labels, lines, [][]byte{entries}})
			return nil
		}))
		request = appendPush(request[:0], streams)
		compressed = s2.EncodeSnappy(compressed[:cap(compressed)], request)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/line")
	b.ReportMetric(float64(len(compressed))/float64(n), "B/line")
	b.ReportMetric(float64(len(request))/float64(n), "raw-B/line")
}
