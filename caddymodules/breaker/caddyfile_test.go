package breaker_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth" // a standard directive to be ordered among
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	"github.com/tenantgate/tenantgate/caddymodules/breaker"
)

func TestAdapt(t *testing.T) {
	adapttest.Run(t, "testdata/*.caddyfiletest")
}

// FuzzBreakerProxy feeds anything as the directive's arguments and block: it may
// be refused, with the file and the line, but must not panic.
func FuzzBreakerProxy(f *testing.F) {
	for _, seed := range []string{
		"billing 127.0.0.1:9001",
		"billing 127.0.0.1:9001 {\nbreaker {\nfailures 3\nopen 120s max 15m\n}\n}",
		"billing {\nto :1\nlb_policy first\ntransport http {\ntls\n}\nbreaker {\n}\n}",
		"/api/* billing https://a.example.com {\nbreaker {\nfailure_status 5xx 500\njitter 10%\nmode shadow\nresponse_timeout off\n}\n}",
		"billing :1 {\nhandle_response {\nrespond 200\n}\nbreaker { }\n}",
		"billing :1 {\nbreaker {\nwindow {\n}\n}\n}",
		"{ { } }", "billing \"{\" {\n}\n", "billing :1 {\nbreaker {", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arguments string) {
		if strings.ContainsAny(arguments, "`") || strings.Contains(arguments, "import") || strings.Contains(arguments, "{$") {
			t.Skip("would read files or the environment")
		}
		adapter := caddyconfig.GetAdapter("caddyfile")
		out, _, err := adapter.Adapt([]byte(":80 {\n\tbreaker_proxy "+arguments+"\n}\n"), map[string]any{"filename": "Caddyfile"})
		if err == nil {
			require.NotEmpty(t, out)
		} else {
			require.NotEmpty(t, err.Error())
		}
	})
}

// FuzzBreakerBlock feeds anything as the content of the breaker block: what is
// accepted survives JSON, from which Caddy reads it.
func FuzzBreakerBlock(f *testing.F) {
	for _, seed := range []string{
		"failures 5\nwindow 30s\nopen 60s max 15m\nprobes 2\nneed 3\nfailure_status 500 429 5xx\nresponse_timeout 5s\njitter 12.5%\nmin_ratio 50%\nmin_reporters 2\nscope upstream+tenant\nmode shadow",
		"response_timeout off\nmin_ratio 1e-300%\njitter 0x1p-3%\nwindow 1d",
		"fallback respond 503 \"back soon\" text/html", "fallback respond 200", "fallback respond 204 {\n}", "fallback respond 503 <<X\nhello\nX",
		"fallback file errors/sorry.html 200", "fallback file \"\" {", "fallback",
		"fallback upstream 127.0.0.1:9009", "fallback upstream https://a.example.com h2c://b", "fallback upstream :1", "fallback upstream {http.request.host}:80",
		"fallback upstream unix//run/a.sock\nfailures 2", "min_ratio NaN%", "scope", "}", "{", "fallback upstream \"{\"", "fallback upstream a }",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		if strings.ContainsAny(content, "`") || strings.Contains(content, "import") || strings.Contains(content, "{$") {
			t.Skip("would read files or the environment")
		}
		adapter := caddyconfig.GetAdapter("caddyfile")
		out, _, err := adapter.Adapt([]byte(":80 {\n\tbreaker_proxy billing :1 {\n\t\theader_up X-A b\n\t\tbreaker {\n"+content+"\n\t\t}\n\t\theader_up X-C d\n\t}\n}\n"), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		for _, handler := range handlersIn(t, out) {
			var transport map[string]json.RawMessage
			if handler["transport"] != nil {
				require.NoError(t, json.Unmarshal(handler["transport"], &transport))
			}
			if string(handler["handler"]) == `"breaker"` {
				survives(t, handler, "handler", new(breaker.Handler))
			}
			if string(transport["protocol"]) == `"breaker"` {
				survives(t, transport, "protocol", new(breaker.Transport))
			}
		}
	})
}

// survives reads the module's object strictly and writes it again.
func survives(t *testing.T, object map[string]json.RawMessage, inlineKey string, module any) {
	t.Helper()
	delete(object, inlineKey)
	want, err := json.Marshal(object)
	require.NoError(t, err)
	decoder := json.NewDecoder(bytes.NewReader(want))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(module), "%s", want)
	got, err := json.Marshal(module)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(got))
}

// handlersIn returns the handlers of every route of the first server.
func handlersIn(t *testing.T, config []byte) (handlers []map[string]json.RawMessage) {
	t.Helper()
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Handle []map[string]json.RawMessage `json:"handle"`
					} `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	require.NoError(t, json.Unmarshal(config, &parsed))
	for _, server := range parsed.Apps.HTTP.Servers {
		for _, route := range server.Routes {
			handlers = append(handlers, route.Handle...)
		}
	}
	return handlers
}
