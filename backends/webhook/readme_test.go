package webhook_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// block returns the README's code in a language.
func block(t *testing.T, language string) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, found)
	return string(found[1])
}

func TestTheGoOfTheREADMEIsThatOfTheExample(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	require.Contains(t, strings.ReplaceAll(string(example), "\n\t\t", "\n"), block(t, "go"))
}

func TestThePythonOfTheREADMETellsRightFromWrong(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	db := dbtest.Open(t, dbtest.SQLite(t), clock.System{})
	f := newFixture(t, dbtest.SQLite(t), func(c *webhook.Config) { c.DB, c.Clock = db, nil })
	f.db = db
	run(t, f.outbox)
	f.enqueue(t, "invitation.created", "é")
	f.empty(t)
	got := f.receiver.got()[0]

	for name, c := range map[string]struct {
		secrets         []string
		body, signature string
		age             int
		want            string
	}{
		"right":            {[]string{secrets[1].Reveal()}, "", "", 0, "taken"},
		"one of two":       {[]string{exampleSecret.Reveal(), secrets[0].Reveal()}, "", "", 0, "taken"},
		"another secret":   {[]string{exampleSecret.Reveal()}, "", "", 0, "the signature is wrong"},
		"another body":     {[]string{secrets[0].Reveal()}, "{}", "", 0, "the signature is wrong"},
		"odd signature":    {[]string{secrets[0].Reveal()}, "", "v1,é x", 0, "the signature is wrong"},
		"an old request":   {[]string{secrets[0].Reveal()}, "", "", 600, "the time is wrong"},
		"an early request": {[]string{secrets[0].Reveal()}, "", "", -600, "the time is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			headers := map[string]string{}
			for _, key := range []string{webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature} {
				headers[key] = got.header.Get(key)
			}
			body := string(got.body)
			if c.body != "" {
				body = c.body
			}
			if c.signature != "" {
				headers[webhook.HeaderSignature] = c.signature
			}
			input, err := json.Marshal(map[string]any{"secrets": c.secrets, "headers": headers, "body": body, "age": c.age})
			require.NoError(t, err)
			program := block(t, "python") + `
import json, sys
given = json.load(sys.stdin)
real = time.time
time.time = lambda: real() + given["age"]
try:
    verify(given["secrets"], given["headers"], given["body"].encode())
    print("taken")
except ValueError as refusal:
    print(refusal)
`
			command := exec.CommandContext(context.Background(), python, "-I", "-c", program)
			command.Stdin = strings.NewReader(string(input))
			output, err := command.CombinedOutput()
			require.NoError(t, err, "%s", output)
			require.Equal(t, c.want, strings.TrimSpace(string(output)))
		})
	}
}
