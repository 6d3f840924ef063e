package logformat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	"github.com/tenantgate/tenantgate/caddymodules/logformat"
)

func TestAdapt(t *testing.T) { adapttest.Run(t, "testdata/*.caddyfiletest") }

func TestProvisionRefusesAnUnknownStyle(t *testing.T) {
	e := &logformat.Encoder{Style: "{env.TENANTGATE_TEST_STYLE}"}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	require.NoError(t, e.Provision(ctx), "an empty variable means the default")
	t.Setenv("TENANTGATE_TEST_STYLE", "yaml")
	require.ErrorContains(t, e.Provision(ctx), "unknown log style 'yaml': use json or console")
}

// linesOf returns the address of a real server, and what it writes in a format
// for requests that are full of secrets: an access line and an error line.
func linesOf(t *testing.T, format string) (address string, access, failure map[string]any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.log")
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`{
		admin off
		persist_config off
		log default {
			output file `+file+`
			format `+format+`
		}
	}
	http://127.0.0.1:9080 {
		log
		respond /ok "fine"
		error /broken "no luck" 500
	}`), nil)
	require.NoError(t, err)
	config = bytes.ReplaceAll(config, []byte(`":9080"`), []byte(`"127.0.0.1:0"`))
	require.NoError(t, caddy.Load(config, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	app, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	address = app.(*caddyhttp.App).Servers["srv0"].Listeners()[0].Addr().String()

	for _, path := range []string{"/ok", "/broken"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path+"?token=SECRET", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer SECRET")
		r.Header.Set("X-Api-Key", "SECRET")
		r.Header.Set("Cookie", "session=SECRET")
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		require.NoError(t, resp.Body.Close())
	}

	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NotContains(t, string(content), "SECRET")
	for _, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		require.Equal(t, "tenantgate", fields["service"])
		switch fields["logger"] {
		case "http.log.access":
			if fields["path"] == "/ok" {
				access = fields
			}
		case "http.log.error":
			failure = fields
		}
	}
	return address, access, failure
}

func TestAccessAndErrorLinesOfARealServer(t *testing.T) {
	address, access, failure := linesOf(t, "tenantgate")
	require.Equal(t, "handled request", access["msg"])
	require.Equal(t, "GET", access["method"])
	require.Equal(t, address, access["host"])
	require.Equal(t, "127.0.0.1", access["client_ip"])
	require.InDelta(t, 200, access["status"], 0)
	require.InDelta(t, 4, access["bytes"], 0)
	require.Positive(t, access["duration_ms"])
	require.Equal(t, "/broken", failure["path"])
	require.Equal(t, "error", failure["level"])
}

// TestAFilterAroundTheFormat has Caddy's filter hand the fields on one by one.
func TestAFilterAroundTheFormat(t *testing.T) {
	_, plain, _ := linesOf(t, "tenantgate")
	address, access, failure := linesOf(t, `filter {
		wrap tenantgate
		fields {
			request>client_ip ip_mask 16
			request>method delete
		}
	}`)
	require.Equal(t, address, access["host"])
	require.Equal(t, "/ok", access["path"])
	require.Equal(t, "127.0.0.0", access["client_ip"])
	require.NotContains(t, access, "method")
	require.InDelta(t, 200, access["status"], 0)
	require.InDelta(t, 4, access["bytes"], 0)
	require.Positive(t, access["duration_ms"])
	for name := range access {
		require.Contains(t, plain, name, "a filter adds no field")
	}
	require.Equal(t, "/broken", failure["path"])
	require.Equal(t, "error", failure["level"])
}

// nowhere is a writer of a log whose lines nobody wants.
type nowhere struct{ caddy.WriterOpener }

func (nowhere) Discards() bool { return true }

func TestNothingIsEncodedForAWriterThatDiscards(t *testing.T) {
	t.Parallel()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	e := new(logformat.Encoder)
	require.NoError(t, e.Provision(ctx))
	require.NoError(t, e.ConfigureDefaultFormat(caddy.StdoutWriter{}))
	for _, configure := range []bool{false, true} {
		if configure {
			require.NoError(t, e.ConfigureDefaultFormat(nowhere{}))
		}
		clone := e.Clone()
		clone.AddString("a", "b")
		line, err := clone.EncodeEntry(zapcore.Entry{Message: "hello"}, []zapcore.Field{zap.Int("n", 1)})
		require.NoError(t, err)
		require.Equal(t, configure, line.Len() == 0)
	}
}
