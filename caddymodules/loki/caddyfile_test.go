package loki_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	"github.com/tenantgate/tenantgate/caddymodules/loki"
)

func TestAdapt(t *testing.T) { adapttest.Run(t, "testdata/*.caddyfiletest") }

// FuzzCaddyfile: no input panics, what is refused is refused with its place, and
// what is accepted survives JSON.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"loki http://loki:3100", `loki ""`, "loki", "loki {env.LOKI_URL} {\n}", "loki http://u:p@loki {\n bearer x\n}", "loki http://[::1%25lo]:3100/%2f",
		"loki http://loki {\n label env {field.env}\n label a b\n metadata x y\n tenant {field.t} x\n basic_auth a b\n}",
		"loki http://loki {\n batch 1MiB 1s\n buffer /x 1GiB\n sync always\n max_age 7d\n timeout 10s\n tls_ca x\n bearer {file.x}\n}",
		"loki http://loki {\n batch 9223372036854775807TiB\n}", "loki http://loki {\n batch 16 KiB\n}", "loki http://loki {\n label {field.a} {field.b}{\n}", "loki http://loki {\n sync {",
		"loki http://loki {\n label env {\n x\n }\n}", "loki http://loki {\n metadata \"\"\n}", "loki http://loki {\n max_age 1e9d\n}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		w := new(loki.Writer)
		if err := w.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)); err != nil {
			require.Contains(t, err.Error(), "Testfile:")
			return
		}
		encoded, err := json.Marshal(w)
		require.NoError(t, err)
		again := new(loki.Writer)
		require.NoError(t, json.Unmarshal(encoded, again))
		once, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(encoded), string(once))
	})
}

// FuzzBlock feeds anything as the content of the block of a whole Caddyfile.
func FuzzBlock(f *testing.F) {
	for _, seed := range []string{"label env x", "batch 1MiB 1s\nbuffer x", "tenant {field.t} x", "}", "{", "sync\n{", "metadata a\n}\noutput stdout {"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, block string) {
		if strings.ContainsAny(block, "`") || strings.Contains(block, "import") || strings.Contains(block, "{$") {
			t.Skip("would read files or the environment")
		}
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\n\tlog {\n\t\toutput loki http://loki {\n"+block+"\n\t\t}\n\t}\n}\n"), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			require.NotEmpty(t, err.Error())
		}
	})
}
