package app_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// entries returns what a Loki has for a tenant, but for lines about the shipping.
func entries(f *lokitest.Fake, tenant string) []lokitest.Entry {
	return slices.DeleteFunc(f.Entries(tenant), func(e lokitest.Entry) bool { return strings.Contains(e.Line, `"logger":"loki"`) })
}

func TestLinesGoToStdoutAndToLoki(t *testing.T) {
	hostname, err := os.Hostname()
	require.NoError(t, err)
	loki := lokitest.NewFake(t)
	folder := filepath.Join(t.TempDir(), "buffer")
	leaks := goleak.IgnoreCurrent()
	config, err := app.FromEnv(settings(t, map[string]string{
		"LOKI_URL": loki.URL(), "LOKI_TENANT": "acme", "LOKI_BUFFER": folder, "ENVIRONMENT": "test",
	}))
	require.NoError(t, err)
	var stdout bytes.Buffer
	out, end, err := config.Ship(zapcore.AddSync(&stdout))
	require.NoError(t, err)
	log := logging.New("backends", out, zapcore.InfoLevel)
	log.Info("hello", zap.String("service", "auth-service"), zap.String("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"), zap.String("user_id", "7"))
	log.Warn("bye")
	end()
	end()

	lines := entries(loki, "acme")
	require.Len(t, lines, 2)
	require.Equal(t, stdout.String(), lines[0].Line+"\n"+lines[1].Line+"\n", "the same lines")
	require.Equal(t, map[string]string{"service": "auth-service", "level": "info", "env": "test", "instance": hostname}, lines[0].Labels)
	require.Equal(t, map[string]string{"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "user_id": "7"}, lines[0].Metadata)
	require.Equal(t, map[string]string{"service": "backends", "level": "warn", "env": "test", "instance": hostname}, lines[1].Labels)
	require.DirExists(t, filepath.Join(folder, "backends"), "a gateway may have the same folder")
	goleak.VerifyNone(t, leaks)
}

func TestWhatLokiHasNotTakenAtTheEndGoesThereAtTheNextStart(t *testing.T) {
	t.Parallel()
	loki := lokitest.NewFake(t)
	loki.SetStatus(503)
	config, err := app.FromEnv(settings(t, map[string]string{"LOKI_URL": loki.URL(), "LOKI_BUFFER": t.TempDir()}))
	require.NoError(t, err)
	out, end, err := config.Ship(zapcore.AddSync(new(bytes.Buffer)))
	require.NoError(t, err)
	logging.New("backends", out, zapcore.InfoLevel).Info("hello")
	begun := time.Now()
	end()
	require.Less(t, time.Since(begun), 10*time.Second)
	require.Empty(t, loki.Entries(""))

	loki.SetStatus(0)
	_, end, err = config.Ship(zapcore.AddSync(new(bytes.Buffer)))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(entries(loki, "")) == 1 }, 20*time.Second, 10*time.Millisecond)
	end()
	require.Equal(t, "production", entries(loki, "")[0].Labels["env"])
}

func TestWithoutLokiNothingIsMade(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "buffer")
	config, err := app.FromEnv(settings(t, map[string]string{"LOKI_BUFFER": folder}))
	require.NoError(t, err)
	stdout := zapcore.AddSync(new(bytes.Buffer))
	out, end, err := config.Ship(stdout)
	require.NoError(t, err)
	require.Equal(t, stdout, out)
	end()
	require.NoDirExists(t, folder)
}

func TestShippingThatCannotBeginNamesTheSetting(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for fault, set := range map[string]map[string]string{
		"LOKI_URL: push URL can't be read: give one like http://loki:3100": {"LOKI_URL": "loki:3100"},
		"LOKI_BUFFER: ": {"LOKI_URL": "http://127.0.0.1:1", "LOKI_BUFFER": file},
	} {
		config, err := app.FromEnv(settings(t, set))
		require.NoError(t, err)
		_, _, err = config.Ship(zapcore.AddSync(new(bytes.Buffer)))
		require.ErrorContains(t, err, fault)
	}
}
