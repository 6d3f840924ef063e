package demo_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/demo"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/logging"
)

func newDemo(log io.Writer) http.Handler {
	return demo.New(demo.Config{Log: logging.New("backends", zapcore.AddSync(log), zap.DebugLevel), Clock: clock.System{}, GatewaySecret: "between us"})
}

func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil)
	r.Header.Set("X-Gateway-Secret", "between us")
	r.Header.Set("X-Trace-Id", "0af7651916cd43dd8448eb211c80319c")
	r.Header.Set("X-User-Id", "u1")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := newDemo(&log)
	for _, path := range []string{"/api/billing/", "/api/billing/invoices/7", "/api/auth/"} {
		w := get(t, h, path)
		require.Equal(t, http.StatusOK, w.Code)
		var body map[string]string
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
		require.Equal(t, "billing-service", body["service"])
		require.Equal(t, "0af7651916cd43dd8448eb211c80319c", body["trace_id"])
		require.Equal(t, "u1", body["user_id"])
		require.Equal(t, path, body["path"])
	}
	require.Contains(t, log.String(), `"service":"billing-service"`)
	for query, status := range map[string]int{
		"status=500": 500, "status=404": 404, "status=204": 204, "status=201": 201,
		"status=99": 400, "status=abc": 400, "delay=-1s": 400, "delay=2m": 400, "delay=x": 400, "delay=1ms": 200,
	} {
		require.Equal(t, status, get(t, h, "/api/billing/?"+query).Code, query)
	}
	require.Equal(t, http.StatusNotFound, get(t, h, "/api/auth/me").Code)
	stranger := httptest.NewRecorder()
	h.ServeHTTP(stranger, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/billing/", nil))
	require.Equal(t, http.StatusForbidden, stranger.Code)
}

func TestDelayIsThatLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		require.Equal(t, http.StatusOK, get(t, newDemo(io.Discard), "/api/billing/?delay=5s").Code)
		require.Equal(t, 5*time.Second, time.Since(begin))
	})
}

func TestResetClosesTheConnection(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := newDemo(&log)
	s := httptest.NewServer(h)
	defer s.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/api/billing/?reset", nil)
	require.NoError(t, err)
	r.Header.Set("X-Gateway-Secret", "between us")
	resp, err := s.Client().Do(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.ErrorIs(t, err, io.EOF)
	s.Close()
	require.Contains(t, log.String(), "closing the connection as asked")
}
