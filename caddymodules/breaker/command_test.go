package breaker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// noon is the time that commands tell in these tests.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// run runs `tenantgate breakers` with the arguments.
func run(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	cmd := breaker.BreakersCommand(clock.NewFake(noon))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		code = 1
		if err.Error() == "exiting with status 2" {
			code = 2
		}
	}
	return out.String(), errs.String(), code
}

// tenantgate runs the command in a process of its own, as a user does.
func tenantgate(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheProcess$")
	cmd.Env = append(os.Environ(), "TENANTGATE_TEST_ARGS="+strings.Join(append([]string{"tenantgate"}, args...), "\n"))
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// TestTheProcess is the process of [tenantgate].
func TestTheProcess(*testing.T) {
	if args := os.Getenv("TENANTGATE_TEST_ARGS"); args != "" {
		os.Args = strings.Split(args, "\n")
		caddycmd.Main()
		os.Exit(0)
	}
}

func TestTheTableOfCircuits(t *testing.T) {
	t.Parallel()
	const breakers = `"breakers":[
		{"name":"auth","state":"closed","configured":true},
		{"name":"billing","upstream":"10.0.0.1:8080","state":"open","remaining_ms":90001,"trips":2,"failures":3,"reason":"probe failed"},
		{"name":"billing","upstream":"10.0.0.2:8080","state":"half-open","trips":1,"failures":3,"reason":"open period over"},
		{"name":"müll","upstream":"b.example:443","state":"forced-open","forced_for_ms":600000,"reason":"forced","order_reason":"provider maintenance"},
		{"name":"shop","upstream":"c.example:443","state":"forced-closed","reason":"forced"}]`
	for name, test := range map[string]struct{ answer, want string }{
		"shared": {
			`{"replica":"0a1b2c3d4e5f","mode":"shared","redis":"redis://localhost:6379/0","age_ms":412,` + breakers + `}`,
			`shared: all gateways decide together through redis://localhost:6379/0, which answered 0.4s ago (replica 0a1b2c3d4e5f)
NAME     UPSTREAM       STATE          LEFT   TRIPS  FAILURES  REASON
auth     -              closed         -      0      0         -
billing  10.0.0.1:8080  open           1m31s  2      3         probe failed
billing  10.0.0.2:8080  half-open      -      1      3         open period over
müll     b.example:443  forced-open    10m0s  0      0         forced: provider maintenance
shop     c.example:443  forced-closed  -      0      0         forced
`,
		},
		"local, an order": {
			`{"order":"open","everywhere":false,"note":"redis does not answer: it holds on this gateway, and on the others when redis is back",
			"replica":"0a1b2c3d4e5f","mode":"local","redis":"redis://localhost:6379/0","age_ms":12400,
			"breakers":[{"name":"billing","upstream":"10.0.0.1:8080","tenant":"7","state":"forced-open","reason":"forced"}]}`,
			`local: redis://localhost:6379/0 has not answered for 12s, each gateway decides by itself (replica 0a1b2c3d4e5f)
open: redis does not answer: it holds on this gateway, and on the others when redis is back
NAME     UPSTREAM       TENANT  STATE        LEFT  TRIPS  FAILURES  REASON
billing  10.0.0.1:8080  7       forced-open  -     0      0         forced
`,
		},
		"local, with a cause": {
			`{"mode":"local","redis":"redis://localhost:6379/0","age_ms":4400,"cause":"NOAUTH Authentication required.","breakers":[]}`,
			"local: redis://localhost:6379/0 has failed for 4s (NOAUTH Authentication required.), each gateway decides by itself\n" +
				"no breaker is configured, and none is known from other gateways\n",
		},
		"alone, with settings": {
			`{"replica":"0a1b2c3d4e5f","mode":"alone","redis":null,"age_ms":null,"settings":{"failures":3,"window_ms":60000,"open_ms":120000,
			"open_max_ms":900000,"probes":2,"need":1,"min_ratio":0.05,"min_reporters":2,"scope":"upstream+tenant","mode":"shadow"},
			"breakers":[{"name":"billing","state":"closed"}]}`,
			`alone: no redis, this gateway decides by itself (replica 0a1b2c3d4e5f)
opens after 3 failures within 1m0s if 5% of the requests failed and 2 gateways have seen it, for 2m0s to 15m0s; needs 1 good probe, 2 at a time; scope upstream+tenant, mode shadow
NAME     UPSTREAM  STATE   LEFT  TRIPS  FAILURES  REASON
billing  -         closed  -     0      0         -
`,
		},
		"nothing": {
			`{"mode":"alone","breakers":[]}`,
			"alone: no redis, this gateway decides by itself\nno breaker is configured, and none is known from other gateways\n",
		},
	} {
		got, err := breaker.Text(test.answer, false)
		require.NoError(t, err)
		require.Equal(t, test.want, got, name)

		colours, err := breaker.Text(test.answer, true)
		require.NoError(t, err)
		plain := colours
		for _, code := range []string{"0", "1", "31", "32", "33", "1;31", "1;36"} {
			plain = strings.ReplaceAll(plain, "\x1b["+code+"m", "")
		}
		require.Equal(t, test.want, plain, "colours change nothing else: %s", name)
		require.Equal(t, name == "shared", strings.Contains(colours, "\x1b[31mopen\x1b[0m "), name)
	}
}

// TestCVE_2003_0063_NoEscapeSequenceFromAServerReachesTheTerminal is the class of
// attacks by text that a terminal obeys: names of upstreams and tenants can come
// from requests.
func TestCVE_2003_0063_NoEscapeSequenceFromAServerReachesTheTerminal(t *testing.T) {
	evil := "\x1b]0;owned\x07\u009b31m\x7f\u202etxt\r\n\xff"
	var content bytes.Buffer
	require.NoError(t, json.NewEncoder(&content).Encode(map[string]any{
		"order": evil, "note": evil, "replica": evil, "mode": "shared", "redis": evil, "age_ms": 1, "cause": evil,
		"breakers": []any{map[string]any{"name": evil, "upstream": evil, "tenant": evil, "state": evil, "reason": evil, "order_reason": evil, "remaining_ms": 5}},
		"settings": map[string]any{"scope": evil, "mode": evil},
	}))
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write(content.Bytes())
	}))
	defer server.Close()
	address := server.Listener.Addr().String()

	harmless := func(text string) {
		t.Helper()
		require.NotEmpty(t, text)
		for _, bad := range []string{"\x1b", "\x07", "\u009b", "\x7f", "\u202e", "\r", "\xff"} {
			require.NotContains(t, text, bad)
		}
	}
	for _, args := range [][]string{{"list"}, {"list", "x"}, {"open", "x"}, {"list", "--output", "json"}, {"open", "x", "--output", "json"}} {
		stdout, stderr, code := run(t.Context(), append(args, "--address", address)...)
		require.Zero(t, code, stderr)
		harmless(stdout)
	}
	for _, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		require.NoError(t, breaker.ShowChanges(&out, clock.NewFake(noon), asJSON, content.String(), errors.New(evil)))
		harmless(out.String())
	}
	var out bytes.Buffer
	require.NoError(t, breaker.Show(&out, 30, content.String(), errors.New(evil)))
	require.NotContains(t, out.String(), "owned\x07")
	require.NotContains(t, out.String(), "\u009b")

	content.Reset()
	require.NoError(t, json.NewEncoder(&content).Encode(map[string]any{"error": evil}))
	status = http.StatusConflict
	_, stderr, code := run(t.Context(), "open", "x", "--address", address)
	require.Equal(t, 1, code)
	harmless(strings.TrimSuffix(stderr, "\n"))
}

func TestCommandsAgainstARunningGateway(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	t.Setenv("TENANTGATE_ADMIN", "unix/"+o.admin)
	t.Setenv("USER", "bob")
	o.load(t, "breaker_proxy billing "+up.addr())
	tenantgate := func(args ...string) string {
		stdout, stderr, code := run(t.Context(), args...)
		require.Zero(t, code, "%s", stderr)
		require.Empty(t, stderr)
		return stdout
	}
	o.trip(t)
	out := tenantgate("list")
	require.True(t, strings.HasPrefix(out, "alone: no redis, this gateway decides by itself (replica "), out)
	require.Contains(t, out, "\nNAME     UPSTREAM ")
	require.Regexp(t, `\nbilling  `+up.addr()+`\s+open   2m0s  1      3         failures\n$`, out)
	require.Contains(t, tenantgate("list", "billing"), "\nopens after 3 failures within 1m0s, for 2m0s; needs 1 good probe, 1 at a time; scope upstream, mode enforce\n")

	var l listing
	require.NoError(t, json.Unmarshal([]byte(tenantgate("list", "--output", "json")), &l))
	require.Equal(t, o.list(t, ""), l)

	require.Regexp(t, `\nreset: there is no redis: it holds on this gateway only\n[^\n]+\nbilling .* closed `, tenantgate("reset", "billing"))
	require.Equal(t, 200, o.get(t, "/").status)
	require.Contains(t, tenantgate("open", "billing", "--ttl", "10m", "--reason", "provider maintenance"), "forced-open  10m0s  0      0         forced: provider maintenance\n")
	require.Equal(t, 503, o.get(t, "/").status)
	require.Contains(t, tenantgate("close", "billing", "--upstream", up.addr(), "--actor", "ann", "--output", "json"), `"state": "forced-closed"`)
	require.Contains(t, tenantgate("auto", "billing", "--actor", ""), " closed ")

	lines := o.lines(t, "breaker ordered", 4)
	for i, actor := range []string{"bob", "bob", "ann", "unknown"} {
		require.Equal(t, actor, lines[i]["actor"])
	}
	require.Equal(t, "provider maintenance", lines[1]["reason"])
}

func TestTheAddressOfTheAdminAPI(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr())
	dir := t.TempDir()
	caddyfile, asJSON, off := filepath.Join(dir, "Caddyfile"), filepath.Join(dir, "c.json"), filepath.Join(dir, "off")
	require.NoError(t, os.WriteFile(caddyfile, []byte("{\n admin unix/"+o.admin+"|0600\n}\n"), 0o600))
	require.NoError(t, os.WriteFile(asJSON, []byte(`{"admin":{"listen":"unix/{env.ADMIN_SOCKET}"}}`), 0o600))
	require.NoError(t, os.WriteFile(off, []byte("{\n admin off\n}\n"), 0o600))
	t.Setenv("ADMIN_SOCKET", o.admin)
	t.Setenv("TENANTGATE_ADMIN", "localhost:1")
	for _, args := range [][]string{{"--address", "unix/" + o.admin}, {"--config", caddyfile}, {"--config", asJSON}, {"--config", off, "--address", "unix/" + o.admin}} {
		stdout, stderr, code := run(t.Context(), append([]string{"list"}, args...)...)
		require.Zero(t, code, "%s %s", args, stderr)
		require.Contains(t, stdout, "billing")
	}
	_, stderr, code := run(t.Context(), "list")
	require.Equal(t, 1, code)
	require.Equal(t, "Error: the admin API at localhost:1 can't be reached (connection refused): is the gateway running? give its address with --address or --config\n", stderr)
	_, stderr, code = run(t.Context(), "list", "--config", off)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "turns the admin API off: remove `admin off`")
}

func TestMistakesAreOneLineAndAnExitCode(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	o := newOperated(t)
	o.load(t, "breaker_proxy billing {query.up}")
	here := "unix/" + o.admin
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	require.NoError(t, os.WriteFile(broken, []byte("{\n nonsense\n}\n"), 0o600))
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing to do":            {nil, 2, "say what to do: list, watch, open, close, reset or auto; see breakers --help"},
		"an unknown command":       {[]string{"explode"}, 2, `unknown command "explode": use list`},
		"an unknown flag":          {[]string{"list", "--colour"}, 2, "unknown flag: --colour"},
		"a flag of another":        {[]string{"reset", "billing", "--ttl", "1m"}, 2, "unknown flag: --ttl"},
		"a form unknown":           {[]string{"list", "--output", "xml"}, 2, "--output xml: use text or json"},
		"no name":                  {[]string{"open"}, 2, "give the name of one breaker; `tenantgate breakers list` shows them"},
		"two names":                {[]string{"list", "a", "b"}, 2, "give the name of one breaker"},
		"no name of a breaker":     {[]string{"open", "../x"}, 2, `"../x" is not a breaker name`},
		"a TTL that is none":       {[]string{"open", "billing", "--ttl", "-1m"}, 2, `--ttl "-1m" must be a duration of at most 366d`},
		"an interval too short":    {[]string{"watch", "--interval", "1ms"}, 2, "--interval 1ms: give at least 100ms"},
		"an address that is none":  {[]string{"list", "--address", "nowhere"}, 2, `"nowhere" is no address of an admin API: give host:port or unix//path`},
		"a range of addresses":     {[]string{"list", "--address", "localhost:1-5"}, 2, "is no address of an admin API"},
		"no such configuration":    {[]string{"list", "--config", filepath.Join(dir, "none")}, 2, "--config: open "},
		"no such adapter":          {[]string{"list", "--config", broken, "--adapter", "toml"}, 2, "--adapter toml: there is no such config adapter"},
		"a broken configuration":   {[]string{"list", "--config", broken}, 1, "broken:2: unrecognized global option: nonsense"},
		"a gateway that is down":   {[]string{"list", "--address", "localhost:1"}, 1, "can't be reached (connection refused)"},
		"a watch of none":          {[]string{"watch", "--address", "unix/" + filepath.Join(dir, "no")}, 1, "can't be reached (no such file or directory)"},
		"another server":           {[]string{"list", "--address", other.Listener.Addr().String()}, 1, "answers 404 and knows nothing of breakers: is it Tenantgate's?"},
		"a breaker that is none":   {[]string{"list", "shop", "--address", here}, 1, `no breaker "shop" is configured on this gateway`},
		"an order for none":        {[]string{"open", "shop", "--address", here}, 1, "none is known from others: `tenantgate breakers list` shows them"},
		"an order without traffic": {[]string{"open", "billing", "--address", here}, 1, "for no request has come: name the upstream"},
	} {
		stdout, stderr, code := run(t.Context(), test.args...)
		require.Equal(t, test.code, code, "%s: %s", name, stderr)
		require.Contains(t, stderr, test.want, name)
		require.True(t, strings.HasPrefix(stderr, "Error: "), "%s: %s", name, stderr)
		require.Equal(t, 1, strings.Count(stderr, "\n"), "%s: %s", name, stderr)
		require.Empty(t, stdout, name)
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, verb := range []string{"", "list", "watch", "open", "close", "reset", "auto"} {
		stdout, stderr, code := run(t.Context(), strings.Fields(verb+" --help")...)
		require.Zero(t, code)
		require.Empty(t, stderr)
		require.Contains(t, stdout, "Examples:\n  tenantgate breakers "+verb, verb)
		require.Contains(t, stdout, "--address", verb)
	}
}

func TestTheExitCodesAndOutputOfTheProcess(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr())
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"list"}, 0, ""},
		{[]string{"open", "shop"}, 1, "Error: no breaker \"shop\" is configured on this gateway, and none is known from others: `tenantgate breakers list` shows them\n"},
		{[]string{"open"}, 2, "Error: give the name of one breaker; `tenantgate breakers list` shows them\n"},
		{[]string{"list", "--nonsense"}, 2, "Error: unknown flag: --nonsense\n"},
		{nil, 2, "Error: say what to do: list, watch, open, close, reset or auto; see tenantgate breakers --help\n"},
	} {
		cmd := tenantgate(t, []string{"TENANTGATE_ADMIN=unix/" + o.admin}, append([]string{"breakers"}, test.args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		require.Equal(t, test.code, cmd.ProcessState.ExitCode(), "%v %v", test.args, err)
		require.Equal(t, test.want, strings.ReplaceAll(stderr.String(), "caddy breakers", "tenantgate breakers"))
		require.Equal(t, test.code == 0, stdout.Len() > 0)
		require.NotContains(t, stdout.String(), "\x1b")
	}
}

func TestCtrlCEndsWatchCleanly(t *testing.T) {
	o, up := newOperated(t), newFaulty(t)
	o.load(t, "breaker_proxy billing "+up.addr())
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := tenantgate(t, nil, "breakers", "watch", "--interval", "100ms", "--output", "json", "--address", "unix/"+o.admin)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		lines := json.NewDecoder(out)
		var line map[string]any
		require.NoError(t, lines.Decode(&line))
		require.Equal(t, "alone", line["mode"])
		require.NotEmpty(t, line["time"])

		o.trip(t)
		clear(line)
		require.NoError(t, lines.Decode(&line))
		delete(line, "time")
		require.InDelta(t, 120_000, line["left_ms"], 0)
		delete(line, "left_ms")
		require.Equal(t, map[string]any{
			"name": "billing", "upstream": up.addr(), "from": "closed", "to": "open", "trips": 1.0, "failures": 3.0, "reason": "failures",
		}, line)
		o.order(t, "billing/reset", "")
		clear(line)
		require.NoError(t, lines.Decode(&line))
		require.Equal(t, "closed", line["to"])

		require.NoError(t, cmd.Process.Signal(signal))
		require.NoError(t, cmd.Wait(), "exit code 0")
		require.Empty(t, stderr.String())
	}
}

// look is an answer of the admin API with these circuits.
func look(circuits ...string) string {
	return `{"mode":"alone","breakers":[` + strings.Join(circuits, ",") + `]}`
}

func TestWatchPrintsALineForEachChange(t *testing.T) {
	t.Parallel()
	a := func(rest string) string { return `{"name":"billing","upstream":"10.0.0.1:80",` + rest + `}` }
	b := func(rest string) string { return `{"name":"shop","upstream":"10.0.0.2:80","tenant":"7",` + rest + `}` }
	looks := []any{
		look(a(`"state":"open","remaining_ms":90000,"trips":1,"reason":"failures"`), b(`"state":"closed"`), `{"name":"auth","state":"closed"}`),
		look(a(`"state":"open","remaining_ms":89000,"trips":1,"reason":"failures"`), b(`"state":"closed"`)),
		look(a(`"state":"half-open","trips":1,"reason":"open period over"`), b(`"state":"forced-open","forced_for_ms":600000,"reason":"forced","order_reason":"ticket 4711"`)),
		errors.New("gone"), errors.New("still gone"),
		strings.Replace(look(a(`"state":"open","remaining_ms":120000,"trips":2,"reason":"probe failed"`), b(`"state":"forced-open","reason":"forced"`)), "alone", "local", 1),
		look(a(`"state":"open","remaining_ms":120000,"trips":3,"reason":"probe failed"`)),
	}
	var out bytes.Buffer
	require.NoError(t, breaker.ShowChanges(&out, clock.NewFake(noon), false, looks...))
	require.Equal(t, `2026-11-24T12:00:00Z mode alone
2026-11-24T12:00:00Z billing 10.0.0.1:80 open for 1m30s (failures)
2026-11-24T12:00:00Z billing 10.0.0.1:80 open -> half-open (open period over)
2026-11-24T12:00:00Z shop 10.0.0.2:80 tenant 7 closed -> forced-open for 10m0s (forced: ticket 4711)
2026-11-24T12:00:00Z gone
2026-11-24T12:00:00Z mode local
2026-11-24T12:00:00Z billing 10.0.0.1:80 half-open -> open for 2m0s (probe failed)
2026-11-24T12:00:00Z mode alone
2026-11-24T12:00:00Z billing 10.0.0.1:80 open -> open for 2m0s (probe failed)
2026-11-24T12:00:00Z shop 10.0.0.2:80 tenant 7 forced-open -> closed
`, out.String())

	out.Reset()
	require.NoError(t, breaker.ShowChanges(&out, clock.NewFake(noon), true, looks...))
	for line := range strings.Lines(out.String()) {
		require.True(t, json.Valid([]byte(line)), line)
	}
	require.Equal(t, 10, strings.Count(out.String(), "\n"))
	require.Contains(t, out.String(), `{"time":"2026-11-24T12:00:00Z","error":"gone"}`+"\n")
}

func TestWatchRedrawsTheTableOnATerminal(t *testing.T) {
	t.Parallel()
	var circuits []string
	for i := range 20 {
		circuits = append(circuits, fmt.Sprintf(`{"name":"billing","upstream":"10.0.0.%d:80","state":"closed"}`, i))
	}
	var out bytes.Buffer
	require.NoError(t, breaker.Show(&out, 10, look(circuits[0]), look(circuits...), errors.New("no answer")))
	frames := strings.Split(out.String(), "\x1b[H")
	require.Len(t, frames, 4)
	require.Equal(t, "\x1b[?7l\x1b[2J", frames[0])
	require.Equal(t, "alone: no redis, this gateway decides by itself\x1b[K\nNAME     UPSTREAM     STATE   LEFT  TRIPS  FAILURES  REASON\x1b[K\n"+
		"billing  10.0.0.0:80  closed  -     0      0         -\x1b[K\nevery 1s, Ctrl-C ends\x1b[K\n\x1b[J", frames[1])
	require.Equal(t, 9, strings.Count(frames[2], "\n"), "no more than fits")
	require.Contains(t, frames[2], "\n14 more; every 1s, Ctrl-C ends")
	require.Contains(t, frames[3], "10.0.0.5:80", "what was last known")
	require.Contains(t, frames[3], "\n14 more; no answer")
	require.True(t, strings.HasSuffix(out.String(), "\x1b[?7h"))
}

func TestWatchGoesOnWhileTheGatewayIsAway(t *testing.T) {
	answers := make(chan int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(<-answers)
		_, _ = w.Write([]byte(look(`{"name":"a","upstream":"b:1","state":"open"}`)))
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan string)
	go func() {
		stdout, stderr, code := run(ctx, "watch", "--interval", "100ms", "--address", server.Listener.Addr().String())
		done <- fmt.Sprint(code, stderr, stdout)
	}()
	for _, status := range []int{200, 500, 502, 200} {
		answers <- status
	}
	cancel()
	require.Regexp(t, `^0\S+ mode alone\n\S+ a b:1 open\n\S+ the admin API at \S+ answers 500 and knows nothing of breakers: is it Tenantgate's\?\n$`, <-done)
}

// The command is part of every build with this module, such as xcaddy's.
func TestTheCommandIsRegistered(t *testing.T) {
	t.Parallel()
	require.Contains(t, caddycmd.Commands(), "breakers")
	_, err := caddy.GetModule("admin.api.breakers")
	require.NoError(t, err)
}
