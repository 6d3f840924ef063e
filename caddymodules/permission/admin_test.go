package permission_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

// operated is a running Caddy with an admin API on a Unix socket.
type operated struct {
	socket, log string
	client      http.Client
}

// operate runs Caddy with the text in the global option tenantgate. Only one
// Caddy runs in a process: such tests are not parallel.
func operate(t *testing.T, option string) *operated {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // t.TempDir can be too long for a socket
	require.NoError(t, err)
	o := &operated{socket: filepath.Join(dir, "s"), log: filepath.Join(dir, "log")}
	o.client.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", o.socket)
		},
	}
	t.Cleanup(func() {
		require.NoError(t, caddy.Stop())
		// Stop leaves the admin API on.
		require.NoError(t, caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}}}`), true))
		require.NoError(t, caddy.Stop())
		_ = os.RemoveAll(dir)
	})
	o.load(t, option)
	return o
}

func (o *operated) load(t *testing.T, option string) {
	t.Helper()
	input := fmt.Sprintf("{\n admin unix/%s\n persist_config off\n auto_https off\n log {\n output file %s\n }\n %s\n}\nhttp:// {\n bind unix/%s.http\n respond 200\n}\n",
		o.socket, o.log, option, o.socket)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(config, true))
}

// withTable is the option for a database, with the handlers' app running.
func withTable(url string) string {
	return "tenantgate {\n database " + url + "\n permissions {\n poll 20ms\n }\n }"
}

// call calls the admin API.
func (o *operated) call(t require.TestingT, method, path, body string) (int, http.Header, string) {
	r, err := http.NewRequestWithContext(context.Background(), method, "http://127.0.0.1/tenantgate/permissions"+path, strings.NewReader(body))
	require.NoError(t, err)
	res, err := o.client.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header, string(content)
}

// get asks and decodes the answer.
func get[T any](t *testing.T, o *operated, method, path, body string) (answer T) {
	t.Helper()
	status, header, content := o.call(t, method, path, body)
	require.Equal(t, 200, status, content)
	require.Equal(t, "application/json", header.Get("Content-Type"))
	require.Equal(t, "no-store", header.Get("Cache-Control"))
	require.NoError(t, json.Unmarshal([]byte(content), &answer))
	return answer
}

func TestTheAdminAPIAnswersByTheLiveTable(t *testing.T) {
	for _, kind := range []struct {
		name string
		url  func(testing.TB) string
	}{{"sqlite", dbtest.SQLite}, {"postgres", dbtest.Postgres}} {
		t.Run(kind.name, func(t *testing.T) {
			url := kind.url(t)
			db := newOffice(t, url)
			o := operate(t, withTable(url))
			type status struct {
				Loaded, Usable         bool
				Seq                    int64
				Tenants, Members, Rows int
				Bytes                  int
				AgeMS                  *int64   `json:"age_ms"`
				LastLoadMS             *float64 `json:"last_load_ms"`
				FullLoads              int64    `json:"full_loads"`
				Failures               *int64
			}
			s := get[status](t, o, "GET", "", "")
			require.True(t, s.Loaded && s.Usable && s.AgeMS != nil && s.LastLoadMS != nil && s.Failures != nil)
			require.Equal(t, []int{1, 3}, []int{s.Tenants, s.Members})
			require.Positive(t, s.Rows)
			require.Positive(t, s.Bytes)
			require.Equal(t, int64(1), s.FullLoads)
			require.Equal(t, s.Seq, get[status](t, o, "GET", "/status", "").Seq)

			a := get[policy.Answer](t, o, "GET", "/explain?tenant=acme&user=ed@acme.test&permission=abc/reports/read", "")
			require.Equal(t, "allowed: ed@acme.test is Editor in acme; Editor inherits Viewer, which holds abc/*/read", a.Text)
			require.Equal(t, "Editor > Viewer: abc/*/read", a.Rule)
			require.Equal(t, s.Seq, a.Seq)
			a = get[policy.Answer](t, o, "GET", "/explain?tenant=1&role=Viewer&permission=abc/reports/write", "")
			require.Equal(t, []string{"Admin", "Editor", "Owner"}, a.RolesWithIt)
			can := get[map[string]any](t, o, "GET", "/can-user?tenant=1&user=vic&permission=abc/reports/write", "")
			require.Equal(t, map[string]any{"allowed": false, "reason": "role_lacks_action", "seq": float64(s.Seq)}, can)
			h := get[policy.Holders](t, o, "GET", "/who-can?tenant=acme&permission=abc/reports/write", "")
			require.Len(t, h.Holders, 2)
			p := get[policy.Permissions](t, o, "GET", "/of-user?tenant=acme&user=vic@acme.test", "")
			require.Equal(t, []string{"abc/dashboard/read", "abc/reports/read"}, p.Permissions)

			d := get[policy.Difference](t, o, "POST", "/diff", "tenants: {acme: {roles: {Viewer: {}}}}")
			require.Equal(t, []string{"abc/*/read"}, d.Changes[0].Removed)
			require.Len(t, d.Effects, 2)
			require.True(t, get[policy.Difference](t, o, "POST", "/diff?prune=true&name=x", office).Same())
			r := get[policy.Report](t, o, "POST", "/check?name=c.yaml", "checks: [{tenant: acme, role: Viewer, deny: [abc/dashboard/read]}]")
			require.Equal(t, "c.yaml:1: Viewer of acme should be denied abc/dashboard/read: it is allowed by Viewer: abc/*/read", r.Failures[0].String())
			code, header, content := o.call(t, "GET", "/export?members=true", "")
			require.Equal(t, 200, code)
			require.Equal(t, "application/yaml", header.Get("Content-Type"))
			require.Equal(t, office, content)
			_, _, content = o.call(t, "GET", "/export?tenant=acme&members=false", "")
			require.NotContains(t, content, "@")
			events := get[struct{ Events []policy.Event }](t, o, "GET", "/history?tenant=acme&limit=2&since=1h", "").Events
			require.Len(t, events, 2)
			require.Equal(t, "cli:test", events[0].Actor)

			// The commands ask it too, and follow what changes.
			gateway := []string{"--gateway", "unix/" + o.socket}
			stdout, stderr, exit := runCommand(t.Context(), "", append(gateway, "who-can", "abc/reports/write", "--tenant", "acme")...)
			require.Zero(t, exit, stderr)
			require.Contains(t, stdout, "ed@acme.test   ed    Editor  Editor: abc/reports/write\n")
			stdout, _, exit = runCommand(t.Context(), "", append(gateway, "explain", "abc/reports/write", "--tenant", "acme", "--role", "Viewer")...)
			require.Zero(t, exit)
			require.Equal(t, "denied: neither Viewer nor what it inherits holds abc/reports/write; Admin, Editor or Owner of acme would\n", stdout)
			ask := append(gateway, "can-user", "abc/reports/write", "--tenant", "acme", "--user", "vic@acme.test")
			_, _, exit = runCommand(t.Context(), "", ask...)
			require.Equal(t, 1, exit)
			file, err := policy.Parse("f", []byte("tenants: {acme: {members: {vic: Editor}}}"))
			require.NoError(t, err)
			_, err = policy.Import(t.Context(), db, policy.File{Policy: file, Name: "f"}, "cli:test", false)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				_, _, exit = runCommand(context.Background(), "", ask...)
				return exit == 0
			}, 10*time.Second, 5*time.Millisecond)
			_, stderr, exit = runCommand(t.Context(), "", append(gateway, "can-user", "abc/reports/write", "--tenant", "acne", "--user", "vic")...)
			require.Equal(t, 2, exit)
			require.Equal(t, "Error: there is no tenant \"acne\": give its name or id: not found\n", stderr)

			// A reload without a database, and one with.
			o.load(t, "")
			_, _, content = o.call(t, "GET", "/explain?tenant=1&user=vic&permission=abc/reports/read", "")
			require.Contains(t, content, "no database is configured")
			o.load(t, withTable(url))
			require.True(t, get[policy.Answer](t, o, "GET", "/explain?tenant=1&user=vic&permission=abc/reports/read", "").Allowed)
		})
	}
}

func TestTheAdminAPIRefusesWhatItCannotAnswer(t *testing.T) {
	databaseURL := dbtest.SQLite(t)
	newOffice(t, databaseURL)
	o := operate(t, withTable(databaseURL))
	for name, test := range map[string]struct {
		request, body string
		status        int
		want          string
	}{
		"an unknown path":         {"GET /explains", "", 404, `there is no "explains": use status, explain, can-user, who-can, of-user, history, export, diff or check`},
		"a change":                {"POST /import", office, 404, `there is no "import"`},
		"a question with POST":    {"POST /explain", "", 405, "explain needs GET; the table is changed by `tenantgate permissions import` only, which knows who does it"},
		"a file with GET":         {"GET /check", "", 405, "check needs POST"},
		"an unknown parameter":    {"GET /explain?tenat=acme", "", 400, `parameter "tenat": explain takes tenant, user, role, permission, each once`},
		"a parameter twice":       {"GET /of-user?tenant=1&tenant=2&user=x", "", 400, `parameter "tenant": of-user takes tenant, user, each once`},
		"a query that is none":    {"GET /of-user?tenant=%zz", "", 400, "the query can't be read"},
		"no tenant":               {"GET /explain?user=x&permission=a/b/c", "", 400, "give the tenant, by name or id"},
		"no tenant to list":       {"GET /who-can?permission=a/b/c", "", 400, "give the tenant, by name or id"},
		"nobody":                  {"GET /can-user?tenant=1&permission=a/b/c", "", 400, "give the user, by e-mail address or id, or a role"},
		"nobody's rights":         {"GET /of-user?tenant=1", "", 400, "give the user"},
		"both":                    {"GET /can-user?tenant=1&user=x&role=y&permission=a/b/c", "", 400, "give the user or a role, not both"},
		"no permission":           {"GET /can-user?tenant=1&user=x", "", 400, "give the permission as product/feature/action"},
		"no permission to list":   {"GET /who-can?tenant=1&permission=*", "", 400, "give the permission as product/feature/action"},
		"an unknown tenant":       {"GET /explain?tenant=acne&user=ann&permission=a/b/c", "", 404, `there is no tenant \"acne\"`},
		"an unknown user":         {"GET /of-user?tenant=acme&user=anne@acme.test", "", 404, `there is no user \"anne@acme.test\"`},
		"an export of none":       {"GET /export?tenant=acne", "", 404, `there is no tenant \"acne\"`},
		"members perhaps":         {"GET /export?members=maybe", "", 400, "members must be true or false"},
		"prune perhaps":           {"POST /diff?prune=1", office, 400, "prune must be true or false"},
		"no time":                 {"GET /history?since=soon", "", 400, `since: \"soon\" is no time`},
		"no limit":                {"GET /history?limit=many", "", 400, "limit must be a number from 1 to 1000"},
		"too many":                {"GET /history?limit=1001", "", 400, "limit must be a number from 1 to 1000"},
		"no file":                 {"POST /diff", "", 400, "body: the file is empty"},
		"a file with a mistake":   {"POST /diff?name=p.yaml", "tenants: {acme: {roles: {X: {inherits: [Y]}}}}", 400, `p.yaml:1: tenants.acme.roles.X.inherits[0]: there is no role \"Y\"`},
		"checks with a mistake":   {"POST /check", "checks:\n- {}", 400, "body:2: checks[0]: the field tenant is missing"},
		"a name of two lines":     {"POST /check?name=a%0Ab", "checks: []", 400, "name must be at most 255 printable characters"},
		"a file that is too long": {"POST /check", strings.Repeat("#", policy.MaxSize+1), 413, "the file is longer than 32 MiB: split it by tenants"},
	} {
		method, path, _ := strings.Cut(test.request, " ")
		status, header, content := o.call(t, method, path, test.body)
		require.Equal(t, test.status, status, "%s: %s", name, content)
		var refusal struct{ Error string }
		require.NoError(t, json.Unmarshal([]byte(content), &refusal), name)
		require.Contains(t, refusal.Error, strings.ReplaceAll(test.want, `\"`, `"`), name)
		require.Equal(t, test.status == 405, header.Get("Allow") != "", name)
	}
	status, _, _ := o.call(t, "HEAD", "/status", "")
	require.Equal(t, 200, status)
}

func TestTheAdminAPIWithoutATable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "later.db")
	o := operate(t, withTable("sqlite://"+file))
	require.False(t, get[struct{ Loaded, Usable bool }](t, o, "GET", "", "").Loaded)
	for _, path := range []string{"/explain?tenant=1&user=x&permission=a/b/c", "/who-can?tenant=1&permission=a/b/c", "/of-user?tenant=1&user=x"} {
		status, _, content := o.call(t, "GET", path, "")
		require.Equal(t, 503, status)
		require.Contains(t, content, "the gateway has no permission table to decide from: see status, and its log")
	}
	for _, path := range []string{"/export", "/history"} {
		status, _, content := o.call(t, "GET", path, "")
		require.Equal(t, 503, status)
		require.Contains(t, content, "there is no database to read yet (`backends migrate` makes it): no file "+file)
	}
	require.NoFileExists(t, file)
	o.load(t, "")
	for _, path := range []string{"", "/explain?tenant=1&user=x&permission=a/b/c", "/export"} {
		status, _, content := o.call(t, "GET", path, "")
		require.Equal(t, 503, status)
		require.Contains(t, content, "no database is configured")
	}
}

// A gateway that has lost its database goes on deciding, and says why.
func TestTheAdminAPIWithoutTheDatabase(t *testing.T) {
	databaseURL := dbtest.SQLite(t)
	db := newOffice(t, databaseURL)
	var id string
	require.NoError(t, db.Reader().QueryRowContext(t.Context(), `SELECT id FROM tenants`).Scan(&id))
	o := operate(t, withTable(databaseURL))
	require.NoError(t, db.Close())
	path := strings.TrimPrefix(databaseURL, "sqlite://")
	require.NoError(t, os.Rename(path, path+".away"))
	a := get[policy.Answer](t, o, "GET", "/explain?"+url.Values{"tenant": {id}, "user": {"ed"}, "permission": {"abc/reports/read"}}.Encode(), "")
	require.Equal(t, "allowed: ed is Editor in "+id+"; Editor inherits Viewer, which holds abc/*/read", a.Text)
	status, _, content := o.call(t, "GET", "/explain?tenant=acme&user=ed&permission=abc/reports/read", "")
	require.Equal(t, 503, status)
	require.Contains(t, content, "names can't be looked up, give ids: ")
	require.NoError(t, os.Rename(path+".away", path))
}
