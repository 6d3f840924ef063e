package contract_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/forwardauth" // a document shows forward_auth
	"github.com/stretchr/testify/require"
)

// caddyfileBlock is a fenced code block of a Caddyfile in Markdown.
var caddyfileBlock = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")

// grammar marks a block that shows a syntax, not a Caddyfile.
var grammar = regexp.MustCompile(`<[a-z_ ]+>|\[[<a-z|.]+|…`)

// accessLog finds the directive that turns on a site's access log.
var accessLog = regexp.MustCompile(`(?m)^\s*log$`)

// TestCaddyfilesInDocumentsAreValid adapts every Caddyfile that a reader could
// copy: as it stands, or as a part of the global options or of a site.
func TestCaddyfilesInDocumentsAreValid(t *testing.T) {
	t.Parallel()
	const root = "../.."
	found, logged := 0, 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		for i, block := range caddyfileBlock.FindAllStringSubmatch(string(content), -1) {
			if grammar.MatchString(block[1]) {
				continue
			}
			found++
			require.NoError(t, adaptPart(block[1]), "%s, Caddyfile %d:\n%s", path, i+1, block[1])
			if accessLog.MatchString(block[1]) {
				// Caddy's own format writes queries and most headers.
				require.Contains(t, block[1], "format tenantgate", "%s, Caddyfile %d", path, i+1)
				logged++
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, found, 5)
	require.Positive(t, logged)
	require.Error(t, adaptPart("jwt_auth {\n\tissue x\n}\n"), "the check can fail")
}

// adaptPart returns the error of the block as it stands if it is valid nowhere.
func adaptPart(block string) error {
	var first error
	for _, frame := range []string{"%", ":0 {\n%\n}", "{\n%\n}\n:0"} {
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.Replace(frame, "%", block, 1)), map[string]any{"filename": "Caddyfile"})
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}
