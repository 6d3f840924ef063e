package app_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// page returns what an address answers.
func page(t *testing.T, url string) (status int, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(content)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	loki := lokitest.NewFake(t)
	config, err := app.FromEnv(settings(t, map[string]string{
		"DATABASE_URL": dbtest.SQLite(t), "METRICS_LISTEN": "127.0.0.1:0", "LOKI_URL": loki.URL(), "LOKI_BUFFER": t.TempDir(),
	}))
	require.NoError(t, err)
	out, end, err := config.Ship(zapcore.AddSync(new(bytes.Buffer)))
	require.NoError(t, err)
	defer end()
	a, err := app.New(t.Context(), config, logging.New("backends", out, zapcore.InfoLevel))
	require.NoError(t, err)
	require.Empty(t, a.MetricsAddr())
	require.NoError(t, a.Listen(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()

	for _, address := range []string{a.AuthAddr(), a.MetricsAddr()} {
		status, _ := page(t, "http://"+address+"/healthz")
		require.Equal(t, http.StatusOK, status)
	}
	status, _ := page(t, "http://"+a.TenantAddr()+"/api/roles/")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = page(t, "http://"+a.MetricsAddr()+"/")
	require.Equal(t, http.StatusNotFound, status)
	status, _ = page(t, "http://"+a.AuthAddr()+"/metrics")
	require.Equal(t, http.StatusNotFound, status, "the services show none")

	var text string
	for _, want := range []string{
		`tenantgate_backend_request_seconds_count{code="401",method="get",service="tenant-service"} 1`,
		`tenantgate_loki_lines_accepted_total{buffer="` + config.LokiBuffer + `/backends"} `,
		`tenantgate_loki_lines_acknowledged_total{buffer="` + config.LokiBuffer + `/backends"} `,
		`tenantgate_loki_request_seconds_count{buffer="` + config.LokiBuffer + `/backends",code="204"} `,
		`go_sql_open_connections{db_name="store"} `, "go_goroutines ", "process_open_fds ",
	} {
		require.Eventually(t, func() bool {
			status, text = page(t, "http://"+a.MetricsAddr()+"/metrics")
			return status == http.StatusOK && bytes.Contains([]byte(text), []byte("\n"+want))
		}, 20*time.Second, 50*time.Millisecond, "%s is missing in\n%s", want, &text)
	}
	require.NotContains(t, text, `code="200",method="get",service="auth-service"`, "a health check is no request")
}

func TestWithoutAnAddressThereAreNoMetrics(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := start(t, &log, nil)
	require.Empty(t, a.MetricsAddr())
	status, _ := page(t, "http://"+a.AuthAddr()+"/metrics")
	require.Equal(t, http.StatusNotFound, status)
	require.NoError(t, a.stop())
	require.NotContains(t, log.String(), `"service":"backends"`)
}
