package jwtauth_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	_ "github.com/tenantgate/tenantgate/caddymodules/gateway" // the order of directives
	"github.com/tenantgate/tenantgate/caddymodules/jwtauth"
)

func TestAdapt(t *testing.T) {
	t.Parallel()
	adapttest.Run(t, "testdata/*.caddyfiletest")
}

// FuzzUnmarshalCaddyfile: every block gives a configuration that survives the
// way through JSON, or an error that names file and line.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"jwt_auth {\n\tissuer a {\n\t\tjwks_url https://a.test\n\t\taudience b c\n\t\talgorithms ES256\n\t}\n\tleeway 5s\n\tcache 3\n\toptional\n}",
		"jwt_auth {\n\tissuer a {\n\t\thmac_secret {env.A}\n\t\taudience b\n\t}\n\tfrom header X Y\n\tfrom cookie c\n\tfrom query q\n\tclaims {\n\t\tuser u\n\t\ttenant t\n\t\troles r\n\t}\n}",
		"jwt_auth {\n\tissuer a {\n\t\tpublic_key {file./x}\n\t\taudience b\n\t}\n}",
		"jwt_auth", "jwt_auth x", "jwt_auth {\n}", "jwt_auth {\n\tissuer {\n\t}\n}", "jwt_auth {\n\tclaims {\n\t\tuser\n\t}\n}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, block string) {
		tokens, err := caddyfile.Tokenize([]byte(block), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return
		}
		var h jwtauth.Handler
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			require.Contains(t, err.Error(), "Caddyfile:")
			return
		}
		require.NotEmpty(t, h.Issuers)
		encoded, err := json.Marshal(&h)
		require.NoError(t, err)
		var again jwtauth.Handler
		decoder := json.NewDecoder(strings.NewReader(string(encoded)))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&again))
		reencoded, err := json.Marshal(&again)
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(reencoded))
	})
}
