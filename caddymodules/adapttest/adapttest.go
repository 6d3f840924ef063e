// Package adapttest runs golden tests of Caddyfile adaptation: a file holds a
// Caddyfile, a line of dashes, and the JSON or the error it must give.
package adapttest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // the caddyfile adapter
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the expected half of golden files")

const separator = "----------\n"

// Run adapts the Caddyfile in every file that pattern matches and compares the
// result with the file's second half. At least one file must match.
func Run(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, files, "no golden file matches %s", pattern)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			input, want, _ := strings.Cut(string(content), separator)
			got := adapt(t, []byte(input))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(input+separator+got), 0o600))
				return
			}
			require.Equal(t, want, got)
		})
	}
}

// adapt returns the indented JSON of the Caddyfile, or "error: " and the error.
func adapt(t *testing.T, input []byte) string {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	require.NotNil(t, adapter)
	out, warnings, err := adapter.Adapt(input, map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var result bytes.Buffer
	for _, w := range warnings {
		if !strings.Contains(w.Message, "input is not formatted") {
			result.WriteString("warning: " + w.String() + "\n")
		}
	}
	require.NoError(t, json.Indent(&result, out, "", "\t"))
	result.WriteByte('\n')
	return result.String()
}
