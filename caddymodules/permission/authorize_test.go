package permission_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/caddymodules/permission"
	_ "github.com/tenantgate/tenantgate/caddymodules/tracecontext"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

// routes are what the tests of authorize decide by.
const routes = `
	trace_context
	fake_auth
	handle /api/dashboard* {
		check_permission abc dashboard
	}
	handle /api/reports {
		check_permission abc dashboard read
		check_permission abc dashboard write
	}
	handle /api/shadow {
		check_permission abc dashboard delete {
			mode shadow
		}
	}
	handle /api/orgs/* {
		check_permission abc dashboard {
			tenant {path.2}
		}
	}
	handle /api/query {
		@admin query admin=*
		check_permission @admin abc dashboard delete
		@anyone not query admin=*
		check_permission @anyone abc dashboard read
	}
	handle /answers {
		check_permission abc dashboard read
		respond "secret" 200
	}
	handle /open {
		respond "hello" 200
	}
	handle /elsewhere {
		check_permission abc dashboard read
		redir https://evil.example/
	}
	handle /gone {
		check_permission abc dashboard read
		error 404
	}
	handle /teapot {
		error 418
	}
	handle /broken {
		error 500
	}
	handle /checked-by-nobody {
		header X-Foo bar
	}`

// adaptAuthorize returns the JSON of the directive authorize in a Caddyfile.
func adaptAuthorize(t testing.TB, directive string) (json.RawMessage, error) {
	t.Helper()
	input := "{\n\torder fake_auth before check_permission\n}\nhttp://x {\n" + directive + "\n}"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	if err != nil {
		return nil, err
	}
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Handle []struct {
							Routes []struct{ Handle []map[string]json.RawMessage }
						}
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(adapted, &config))
	handler := config.Apps.HTTP.Servers["srv0"].Routes[0].Handle[0].Routes[0].Handle[0]
	require.JSONEq(t, `"authorize"`, string(handler["handler"]))
	delete(handler, "handler")
	encoded, err := json.Marshal(handler)
	require.NoError(t, err)
	return encoded, nil
}

// newAuthorizer returns the handler of a Caddyfile's directive, with the table in
// a database.
func newAuthorizer(t testing.TB, database, directive string) *permission.Authorize {
	t.Helper()
	a, err := tryAuthorizer(t, database, directive)
	require.NoError(t, err)
	return a
}

func tryAuthorizer(t testing.TB, database, directive string) (*permission.Authorize, error) {
	t.Helper()
	handler, err := adaptAuthorize(t, directive)
	if err != nil {
		return nil, err
	}
	disabled := false
	options, err := json.Marshal(map[string]any{"database": database})
	require.NoError(t, err)
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &disabled}},
		AppsRaw: caddy.ModuleMap{"tenantgate": options},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}},
	})
	require.NoError(t, err)
	app, err := gateway.FromContext(ctx)
	require.NoError(t, err)
	require.NoError(t, app.Start())
	t.Cleanup(func() {
		require.NoError(t, app.Stop())
		require.NoError(t, app.Cleanup())
	})
	module, err := ctx.LoadModuleByID("http.handlers.authorize", handler)
	if err != nil {
		return nil, err
	}
	a := module.(*permission.Authorize)
	t.Cleanup(func() { require.NoError(t, a.Cleanup()) })
	return a, nil
}

// verdict is what authorize answered.
type verdict struct {
	status  int
	header  http.Header
	problem *problem.Error // nil if it was not a problem
	body    string
}

func (v verdict) reason() any {
	if v.problem == nil {
		return nil
	}
	return v.problem.Extra["reason"]
}

// put hands a request to an authorizer.
func put(t require.TestingT, a *permission.Authorize, r *http.Request) verdict {
	w := httptest.NewRecorder()
	err := a.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return errors.New("authorize called the next handler")
	}))
	v := verdict{status: w.Code, header: w.Header(), body: w.Body.String()}
	if err != nil {
		var he caddyhttp.HandlerError
		require.ErrorAs(t, err, &he)
		v.status = he.StatusCode
		if errors.As(err, &v.problem) {
			require.Equal(t, v.status, v.problem.Status)
		}
		for _, name := range identityHeaders {
			require.NotContains(t, v.header, name, "a refusal names nobody")
		}
	}
	require.Empty(t, v.body)
	return v
}

var identityHeaders = []string{"X-User-Id", "X-Tenant-Id", "X-Roles", "X-Permission"}

// ask asks about a request as who, "<user>@<tenant>" or "".
func ask(t require.TestingT, a *permission.Authorize, method, uri, who string, headers ...string) verdict {
	headers = append([]string{"X-Forwarded-Method", method, "X-Forwarded-Uri", uri, "Test-User", who}, headers...)
	return put(t, a, request("GET", "/authorize", nil, headers...))
}

func TestAuthorizeAnswersOtherProxies(t *testing.T) {
	db, url := newDatabase(t)
	change(t, db, `UPDATE roles SET name = 'Größe 1' WHERE id = 21`)
	a := newAuthorizer(t, url, "authorize {"+routes+"\n}")

	v := ask(t, a, "GET", "/api/dashboard/17?x=1", "vic@1", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	require.Equal(t, 200, v.status)
	require.Equal(t, "vic", v.header.Get("X-User-Id"))
	require.Equal(t, "1", v.header.Get("X-Tenant-Id"))
	require.Equal(t, []string{""}, v.header["X-Roles"], "empty, and there: it overwrites a client's")
	require.Equal(t, "abc/dashboard/read", v.header.Get("X-Permission"))
	require.Equal(t, "0", v.header.Get("Content-Length"))
	require.Equal(t, "no-store", v.header.Get("Cache-Control"))
	require.Regexp(t, `^[0-9a-f]{32}$`, v.header.Get("X-Trace-Id"))
	require.Contains(t, v.header.Get("Traceparent"), v.header.Get("X-Trace-Id"))

	for name, test := range map[string]struct {
		method, uri, who string
		headers          []string
		status           int
		reason           any
		permission       string
	}{
		"by the method":                      {"POST", "/api/dashboard", "vic@1", nil, 403, "role_lacks_action", ""},
		"another method":                     {"POST", "/api/dashboard", "ed@1", nil, 200, nil, "abc/dashboard/write"},
		"another tenant":                     {"GET", "/api/dashboard", "vic@2", nil, 403, "not_a_member", ""},
		"nobody":                             {"GET", "/api/dashboard", "", nil, 401, "missing", ""},
		"the last check is what it had":      {"GET", "/api/reports", "ed@1", nil, 200, nil, "abc/dashboard/write"},
		"the last check refuses":             {"GET", "/api/reports", "vic@1", nil, 403, "role_lacks_action", ""},
		"the tenant of the path":             {"GET", "/api/orgs/2/x", "ann@1", nil, 200, nil, "abc/dashboard/read"},
		"no member of the path's":            {"GET", "/api/orgs/2/x", "vic@1", nil, 403, "not_a_member", ""},
		"the query is the asked one":         {"GET", "/api/query?admin=1", "vic@1", nil, 403, "role_lacks_action", ""},
		"… and so it is without":             {"GET", "/api/query", "vic@1", nil, 200, nil, "abc/dashboard/read"},
		"shadow mode passes without a right": {"GET", "/api/shadow", "vic@1", nil, 200, nil, ""},
		"… also without anybody":             {"GET", "/api/shadow", "", nil, 200, nil, ""},
		"… and with it names it":             {"GET", "/api/shadow", "ann@1", nil, 200, nil, "abc/dashboard/delete"},
		"a path without a route":             {"GET", "/", "ann@1", nil, 403, "no_route", ""},
		"no check on the route":              {"GET", "/checked-by-nobody", "ann@1", nil, 403, "no_route", ""},
		"a route that answers by itself":     {"GET", "/open", "ann@1", nil, 403, "no_route", ""},
		"… also behind a check":              {"GET", "/answers", "ann@1", nil, 403, "no_route", ""},
		"a redirect":                         {"GET", "/elsewhere", "ann@1", nil, 403, "no_route", ""},
		"an error of a route":                {"GET", "/teapot", "ann@1", nil, 403, "no_route", ""},
		"an error behind a check":            {"GET", "/gone", "ann@1", nil, 403, "no_route", ""},
		"a fault stays one":                  {"GET", "/broken", "ann@1", nil, 500, nil, ""},
		"an unknown method":                  {"TRACE", "/api/dashboard", "ann@1", nil, 403, nil, ""},
		"a method of another case":           {"get", "/api/dashboard", "ann@1", nil, 403, nil, ""},
	} {
		v := ask(t, a, test.method, test.uri, test.who, test.headers...)
		require.Equal(t, test.status, v.status, name)
		require.Equal(t, test.reason, v.reason(), name)
		require.Equal(t, test.permission, v.header.Get("X-Permission"), name)
		require.NotEqual(t, "bar", v.body)
		if test.status == 401 {
			require.Equal(t, "Bearer", v.header.Get("WWW-Authenticate"))
		}
	}
	require.Equal(t, "2", ask(t, a, "GET", "/api/orgs/2/x", "ann@1").header.Get("X-Tenant-Id"), "the tenant decided on")
	require.Equal(t, "Viewer", ask(t, a, "GET", "/api/orgs/2/x", "ann@1").header.Get("X-Roles"))
	require.Equal(t, "Größe 1", ask(t, a, "GET", "/api/orgs/2/x", "gil@1").header.Get("X-Roles"))
	require.Equal(t, "A,B", ask(t, a, "GET", "/api/dashboard", "vic@1", "Test-Roles", "A|B").header.Get("X-Roles"))
	require.Equal(t, []string{""}, ask(t, a, "GET", "/api/shadow", "").header["X-User-Id"])

	v = ask(t, a, "TRACE", "/api/dashboard", "ann@1")
	require.Equal(t, "method-not-allowed", v.problem.Code, "the problem stays what it was")
	require.Contains(t, string(v.problem.Body("")), `"status":403`)
}

func TestAuthorizeWithoutATableIs503(t *testing.T) {
	a := newAuthorizer(t, "sqlite://"+filepath.Join(t.TempDir(), "none.db"), "authorize {"+routes+"\n}")
	v := ask(t, a, "GET", "/api/dashboard", "ann@1")
	require.Equal(t, 503, v.status)
	require.Equal(t, "permissions-not-loaded", v.problem.Code)
	require.Equal(t, "1", v.header.Get("Retry-After"))
}

// Which request is meant must be beyond doubt: what the client sent of these
// headers must not add to, or stand in for, what the proxy says.
func TestAuthorizeIsAskedOnce(t *testing.T) {
	_, url := newDatabase(t)
	a := newAuthorizer(t, url, "authorize {"+routes+"\n}")
	for name, headers := range map[string][]string{
		"nothing":          nil,
		"no method":        {"X-Forwarded-Uri", "/api/dashboard"},
		"no uri":           {"X-Forwarded-Method", "GET"},
		"two uris":         {"X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/dashboard", "X-Forwarded-Uri", "/api/dashboard"},
		"two methods":      {"X-Forwarded-Method", "GET", "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/dashboard"},
		"a joined uri":     {"X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/dashboard, /api/dashboard"},
		"a joined method":  {"X-Forwarded-Method", "GET, GET", "X-Forwarded-Uri", "/api/dashboard"},
		"an empty uri":     {"X-Forwarded-Method", "GET", "X-Forwarded-Uri", ""},
		"an empty method":  {"X-Forwarded-Method", "", "X-Forwarded-Uri", "/api/dashboard"},
		"other names":      {"X-Original-Method", "GET", "X-Original-Uri", "/api/dashboard", "X-Original-Url", "/api/dashboard"},
		"other spellings":  {"x-forwarded-method", "GET", "X_Forwarded_Uri", "/api/dashboard", "X.Forwarded.Uri", "/api/dashboard"},
		"an override only": {"X-Http-Method-Override", "GET", "X-Forwarded-Uri", "/api/dashboard"},
	} {
		v := put(t, a, request("GET", "/api/dashboard", nil, append(headers, "Test-User", "ann@1")...))
		require.Equal(t, 403, v.status, name)
		require.Contains(t, []string{"bad-request-target", "method-not-allowed"}, v.problem.Code, name)
	}
	v := ask(t, a, "DELETE", "/api/dashboard", "vic@1", "X-Http-Method-Override", "GET", "X-Original-Url", "/open", "X-Rewrite-Url", "/open")
	require.Equal(t, 403, v.status)
	require.Equal(t, "abc/dashboard/delete", v.problem.Extra["permission"])
}

// CWE-22, CWE-436: a path that the proxy's backend could read in another way.
func TestCWE436_AuthorizeRefusesTargetsThatReadInTwoWays(t *testing.T) {
	_, url := newDatabase(t)
	a := newAuthorizer(t, url, "authorize {"+routes+"\n}")
	require.Equal(t, 200, ask(t, a, "GET", "/api/dashboard", "ann@1").status)
	for _, uri := range []string{
		"http://host/api/dashboard", "//host/api/dashboard", "//api/dashboard", "///api/dashboard", "/api//dashboard", "/x/../api/dashboard", "/api/./dashboard",
		"/x/%2e%2e/api/dashboard", "/api%2fdashboard", `\api\dashboard`, "/api%5cdashboard", "/api/dashboard;x", "/api/dashboard%3bx", "/api/dashboard#x", "/api/dashboard%00",
		"/api/dashboard%0d%0aX-User-Id:1", "/api/dashboard%252e", "/api/dashboard%zz", "/api/dashboard%", "/api/dashboard%ff", "/api/dashboard /open", "api/dashboard", "*", "?x", "/api/dashboard\r\nX: y",
		"https:/api/dashboard", "javascript:/api/dashboard", "user@host/api/dashboard",
	} {
		v := ask(t, a, "GET", uri, "ann@1")
		require.Equal(t, 403, v.status, uri)
		require.Equal(t, "bad-request-target", v.problem.Code, uri)
	}
	for _, uri := range []string{"/api/dashboard?x=//../%2f;%00#", "/api/dashboard?", "/api/dashboard/caf%C3%A9", "/api/dashboard/café"} {
		require.Equal(t, 200, ask(t, a, "GET", uri, "ann@1").status, uri)
	}
}

// CWE-93, CWE-290: the answer's headers are what the gateway found, whatever
// the client sent and however its token spells things.
func TestCWE93_TheIdentityInTheAnswerIsTheGateways(t *testing.T) {
	_, url := newDatabase(t)
	a := newAuthorizer(t, url, "authorize {"+routes+"\n}")
	v := ask(t, a, "GET", "/api/dashboard", "vic@1",
		"X-User-Id", "root", "X-Tenant-Id", "2", "X-Roles", "Admin", "X-Permission", "abc/dashboard/delete", "X_user_id", "root", "Connection", "X-User-Id, X-Permission")
	require.Equal(t, 200, v.status)
	require.Equal(t, []string{"vic"}, v.header["X-User-Id"])
	require.Equal(t, []string{"1"}, v.header["X-Tenant-Id"])
	require.Equal(t, []string{""}, v.header["X-Roles"])
	require.Equal(t, []string{"abc/dashboard/read"}, v.header["X-Permission"])

	for _, roles := range []string{"A\r\nX-User-Id: root", "A\x00", "A\n"} {
		r := request("GET", "/authorize", nil, "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/dashboard", "Test-User", "vic@1")
		r.Header["Test-Roles"] = []string{roles}
		v := put(t, a, r)
		require.Equal(t, 403, v.status)
		require.Equal(t, "bad_identity", v.reason())
	}
}

// The body belongs to the request that is asked about: nobody reads it here.
func TestAuthorizeReadsNoBody(t *testing.T) {
	_, url := newDatabase(t)
	a := newAuthorizer(t, url, "authorize {"+routes+"\n}")
	r := request("POST", "/authorize", nil, "X-Forwarded-Method", "POST", "X-Forwarded-Uri", "/api/dashboard", "Test-User", "ed@1")
	r.Body, r.ContentLength = unreadable{t}, 10
	require.Equal(t, 200, put(t, a, r).status)
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, errors.New("unreadable")
}

func (unreadable) Close() error { return nil }

// With a trace_context in front the headers are gone, and with them the
// certainty: nothing passes, and the log says what to do.
func TestAuthorizeBehindTraceContextIsAFault(t *testing.T) {
	_, url := newDatabase(t)
	a := newAuthorizer(t, url, "authorize {"+routes+"\n}")
	r := request("GET", "/api/dashboard", nil, "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/dashboard", "Test-User", "ann@1")
	gateway.SetTrace(r.Context(), new(tracecontext.Trace))
	w := httptest.NewRecorder()
	err := a.ServeHTTP(w, r, nil)
	require.ErrorContains(t, err, "put trace_context inside the block of authorize")
	var he caddyhttp.HandlerError
	require.ErrorAs(t, err, &he)
	require.Equal(t, 500, he.StatusCode)
}

// Envoy asks with the very method and path, below a prefix perhaps; what a client
// says in headers counts for nothing.
func TestAuthorizeByTheRequestItself(t *testing.T) {
	_, url := newDatabase(t)
	a := newAuthorizer(t, url, "authorize request {"+routes+"\n}")
	about := func(method, target, path string, headers ...string) verdict {
		r := request(method, target, nil, append(headers, "Test-User", "vic@1")...)
		r.URL.Path, r.URL.RawPath = path, "" // as handle_path leaves it
		return put(t, a, r)
	}
	require.Equal(t, 200, about("GET", "/authorize/api/dashboard?x=1", "/api/dashboard").status)
	require.Equal(t, 403, about("POST", "/authorize/api/dashboard", "/api/dashboard").status)
	v := about("POST", "/authorize/api/dashboard", "/api/dashboard", "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/dashboard")
	require.Equal(t, 403, v.status)
	require.Equal(t, "abc/dashboard/write", v.problem.Extra["permission"])
	require.Equal(t, "no_route", about("GET", "/authorize", "/").reason())
	for _, target := range []string{"/authorize//api/dashboard", "/authorize/x/../api/dashboard", "/authorize/api%2fdashboard", "/authorize/api/dashboard;x"} {
		v := about("GET", target, "/api/dashboard")
		require.Equal(t, 403, v.status, target)
		require.Equal(t, "bad-request-target", v.problem.Code, target)
	}
	for _, path := range []string{"//api/dashboard", "/api/../api/dashboard", ""} {
		require.Equal(t, "bad-request-target", about("GET", "/authorize/api/dashboard", path).problem.Code, path)
	}
}

func TestAuthorizeHoldsNothingThatForwards(t *testing.T) {
	_, url := newDatabase(t)
	for directives, want := range map[string]string{
		"reverse_proxy localhost:1":                      "authorize can't hold reverse_proxy: it only decides",
		"handle /x {\nreverse_proxy localhost:1\n}":      "authorize can't hold reverse_proxy",
		"route {\nhandle {\nreverse_proxy :1\n}\n}":      "authorize can't hold reverse_proxy",
		"forward_auth localhost:1 {\nuri /\n}":           "authorize can't hold reverse_proxy",
		"authorize {\ncheck_permission abc dashboard\n}": "authorize can't hold authorize: one is enough",
	} {
		_, err := tryAuthorizer(t, url, "authorize {\n"+directives+"\n}")
		require.ErrorContains(t, err, want, directives)
	}
	require.ErrorContains(t, new(permission.Authorize).Validate(), "authorize has no routes")
	require.ErrorContains(t, (&permission.Authorize{Source: "x"}).Validate(), `source is "x", want headers or request`)
}

// Whatever the headers are, only a GET of the dashboard by vic passes.
func FuzzAuthorize(f *testing.F) {
	for _, seed := range [][2]string{
		{"GET", "/api/dashboard"}, {"GET", "//api/dashboard"}, {"POST", "/api/dashboard"}, {"GET", "/api/dashboard/../dashboard"}, {"GET", "/API/Dashboard"}, {"HEAD", "/api/dashboards?x"}, {"GET", ""},
	} {
		f.Add(seed[0], seed[1])
	}
	_, url := newDatabase(f)
	a := newAuthorizer(f, url, "authorize {\nfake_auth\nhandle /api/dashboard* {\ncheck_permission abc dashboard\n}\n}")
	f.Fuzz(func(t *testing.T, method, uri string) {
		v := ask(t, a, method, uri, "vic@1")
		if v.status != 200 {
			require.Equal(t, 403, v.status)
			return
		}
		require.Contains(t, []string{"GET", "HEAD", "OPTIONS"}, method)
		path, _, _ := strings.Cut(strings.ToLower(uri), "?")
		require.True(t, strings.HasPrefix(path, "/") && !strings.Contains(path, "//") && !strings.Contains(path, "/../"), path)
		require.Equal(t, "abc/dashboard/read", v.header.Get("X-Permission"))
	})
}
