package breaker_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth" // a standard directive to be ordered among
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	_ "github.com/tenantgate/tenantgate/caddymodules/breaker"
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
