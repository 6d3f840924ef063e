package logging_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/internal/logging"
)

// request stands for Caddy's loggable request: it would print everything.
type request struct{ *http.Request }

func (r request) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("authorization", r.Header.Get("Authorization"))
	return nil
}

func summarise(v any) (logging.Request, bool) {
	r, ok := v.(request)
	if !ok {
		return logging.Request{}, false
	}
	return logging.Request{Method: r.Method, Host: r.Host, Path: r.URL.Path, ClientIP: "203.0.113.7"}, true
}

var entry = zapcore.Entry{
	Level: zapcore.InfoLevel, LoggerName: "http.log.access", Message: "handled request",
	Time: time.Date(2026, 11, 23, 17, 4, 5, 123456789, time.FixedZone("CET", 3600)),
}

func testRequest(t *testing.T) request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.test/api/x?token=SECRET", nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer SECRET")
	return request{r}
}

func TestAccessLineHasTheSchemaAndNoSecret(t *testing.T) {
	t.Parallel()
	enc := logging.NewEncoder("tenantgate", summarise)
	with := enc.Clone()
	zap.Object("request", testRequest(t)).AddTo(with) // as Logger.WithLazy does

	line, err := with.EncodeEntry(entry, []zapcore.Field{
		zap.Int("bytes_read", 0), zap.String("user_id", ""), zap.Duration("duration", 1234567*time.Nanosecond),
		zap.Int("size", 17), zap.Int("status", 200), zap.Object("resp_headers", testRequest(t)),
		zap.String("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"), zap.String("tenant_id", "1"),
		zap.String("user_id", "u-1"), zap.String("uri", "/a?token=SECRET"),
	})
	require.NoError(t, err)
	require.JSONEq(t, `{
		"ts": "2026-11-23T16:04:05.123456Z", "level": "info", "logger": "http.log.access", "msg": "handled request",
		"service": "tenantgate", "method": "GET", "host": "api.test", "path": "/api/x", "client_ip": "203.0.113.7",
		"status": 200, "bytes": 17, "duration_ms": 1.235, "uri": "/a",
		"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "tenant_id": "1", "user_id": "u-1"
	}`, line.String())
	require.NotContains(t, line.String(), "SECRET")
	require.Equal(t, byte('\n'), line.Bytes()[line.Len()-1])
}

// Caddy's admin API gives its logger what it knows of a request, headers too.
func TestFieldsOfALoggerAreHeldToTheSchema(t *testing.T) {
	t.Parallel()
	enc := logging.NewEncoder("tenantgate", summarise).Clone()
	for _, f := range []zap.Field{
		zap.String("method", "GET"), zap.String("uri", "/config?token=SECRET"),
		zap.Reflect("headers", http.Header{"X-Api-Key": {"SECRET"}}), zap.Reflect("resp_headers", http.Header{"X-Api-Key": {"SECRET"}}),
		zap.Int64("tenant_id", 7), zap.Int("size", 17), zap.Any("names", []any{"a"}),
	} {
		f.AddTo(enc)
	}
	line, err := enc.EncodeEntry(entry, nil)
	require.NoError(t, err)
	require.JSONEq(t, `{"ts": "2026-11-23T16:04:05.123456Z", "level": "info", "logger": "http.log.access", "msg": "handled request",
		"service": "tenantgate", "method": "GET", "uri": "/config", "tenant_id": "7", "bytes": 17, "names": ["a"]}`, line.String())
}

// A number in some lines and a text in others is refused by what indexes both.
func TestIdsAreTexts(t *testing.T) {
	t.Parallel()
	enc := logging.NewEncoder("invitation-service", nil)
	with := enc.Clone()
	zap.Int64("tenant_id", 7).AddTo(with)
	for _, write := range []func() (*buffer.Buffer, error){
		func() (*buffer.Buffer, error) {
			return enc.EncodeEntry(entry, []zapcore.Field{zap.Int64("tenant_id", 7), zap.Int64("count", 3)})
		},
		func() (*buffer.Buffer, error) { return with.EncodeEntry(entry, []zapcore.Field{zap.Int64("count", 3)}) },
	} {
		line, err := write()
		require.NoError(t, err)
		require.Contains(t, line.String(), `"tenant_id":"7"`)
		require.Contains(t, line.String(), `"count":3`)
	}
}

func TestErrorLineTakesItsTraceIDFromTheErrorID(t *testing.T) {
	t.Parallel()
	enc := logging.NewEncoder("tenantgate", summarise)
	for id, want := range map[string]string{
		"4bf92f3577b34da6a3ce929d0e0e4736": `,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"`,
		"x7h2k9d1q":                        ``,
	} {
		line, err := enc.EncodeEntry(entry, []zapcore.Field{zap.String("err_id", id), zap.String("err_trace", "server.go:1"), zap.Object("request", testRequest(t))})
		require.NoError(t, err)
		require.Contains(t, line.String(), `"service":"tenantgate"`+want)
		require.NotContains(t, line.String(), "err_")
		require.NotContains(t, line.String(), "SECRET")
	}
}

func TestAnUnknownRequestObjectIsDropped(t *testing.T) {
	t.Parallel()
	enc := logging.NewEncoder("x", nil)
	zap.Object("request", testRequest(t)).AddTo(enc)
	line, err := enc.EncodeEntry(entry, []zapcore.Field{zap.Object("request", testRequest(t))})
	require.NoError(t, err)
	require.NotContains(t, line.String(), "SECRET")
	require.NotContains(t, line.String(), `"request":`)
}

func TestServiceFieldOverridesTheName(t *testing.T) {
	t.Parallel()
	enc := logging.NewEncoder("tenantgate", nil)
	line, err := enc.EncodeEntry(entry, []zapcore.Field{zap.String("service", "auth-service")})
	require.NoError(t, err)
	require.Contains(t, line.String(), `"service":"auth-service"`)
	require.NotContains(t, line.String(), "tenantgate")

	with := enc.Clone()
	zap.String("service", "tenant-service").AddTo(with)
	line, err = with.EncodeEntry(entry, nil)
	require.NoError(t, err)
	require.Contains(t, line.String(), `"service":"tenant-service"`)

	line, err = enc.EncodeEntry(entry, nil)
	require.NoError(t, err)
	require.Contains(t, line.String(), `"service":"tenantgate"`, "a clone's name does not leak back")
}

func TestConsoleLine(t *testing.T) {
	t.Parallel()
	enc := logging.NewConsoleEncoder("tenantgate", summarise, false)
	line, err := enc.EncodeEntry(entry, []zapcore.Field{
		zap.Object("request", testRequest(t)), zap.Duration("duration", time.Millisecond), zap.Int("status", 503),
		zap.Error(errors.New("two\nlines")), zap.String("trace_id", "t"),
	})
	require.NoError(t, err)
	require.Contains(t, line.String(), ` INFO  tenantgate         handled request GET /api/x 503 1ms error="two\nlines" trace_id=t host=api.test client_ip=203.0.113.7`+"\n")
	require.NotContains(t, line.String(), "SECRET")

	colored, err := logging.NewConsoleEncoder("x", nil, true).EncodeEntry(entry, nil)
	require.NoError(t, err)
	require.Contains(t, colored.String(), "\x1b[36mINFO \x1b[0m")
}

func BenchmarkAccessLine(b *testing.B) {
	enc := logging.NewEncoder("tenantgate", nil)
	fields := []zapcore.Field{
		zap.Duration("duration", time.Millisecond), zap.Int("size", 17), zap.Int("status", 200),
		zap.String("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"), zap.String("tenant_id", "1"), zap.String("user_id", "u-1"),
	}
	b.ReportAllocs()
	for b.Loop() {
		line, _ := enc.EncodeEntry(entry, fields)
		line.Free()
	}
}

// A terminal obeys C1 control characters as it does escape sequences (CWE-150).
func TestTheConsoleQuotesWhatATerminalWouldObey(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{"a\x1b[31mb", "a\u009b31mb", "a\u202eb", "a\nb"} {
		line, err := logging.NewConsoleEncoder("x", nil, false).EncodeEntry(entry, []zapcore.Field{zap.String("upstream", hostile)})
		require.NoError(t, err)
		require.NotContains(t, line.String(), hostile)
		require.Contains(t, line.String(), `upstream="a\`)
	}
}
