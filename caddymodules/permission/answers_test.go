package permission_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/permission"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// answer is a response of permission_answers.
type answer struct {
	status  int
	header  http.Header
	body    string
	problem *problem.Error
	passed  bool // to the next handler
}

// askAnswers hands a request to a.
func askAnswers(t require.TestingT, a *permission.Answers, r *http.Request) answer {
	w := httptest.NewRecorder()
	var got answer
	err := a.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		got.passed = true
		return nil
	}))
	got.status, got.header, got.body = w.Code, w.Header(), w.Body.String()
	if err != nil {
		var he caddyhttp.HandlerError
		require.ErrorAs(t, err, &he)
		require.ErrorAs(t, err, &got.problem)
		got.status = he.StatusCode
		require.Equal(t, got.status, got.problem.Status)
		require.Empty(t, got.body)
	}
	return got
}

// check sends a body to …/check.
func check(t require.TestingT, a *permission.Answers, who *identity.Principal, contentType, body string) answer {
	r := request("POST", "/api/permissions/check", who, "Content-Type", contentType)
	r.Body = io.NopCloser(strings.NewReader(body))
	return askAnswers(t, a, r)
}

func newAnswers(table *core.Table, subject, tenant string) *permission.Answers {
	a := &permission.Answers{Subject: subject, Tenant: tenant}
	a.Start(table)
	return a
}

func TestMeNamesEverythingTheUserMayDo(t *testing.T) {
	t.Parallel()
	db, url := newDatabase(t)
	change(t, db, inherited...)
	table := runTable(t, url, core.Settings{Poll: time.Hour})
	const all = `"abc/dashboard/delete","abc/dashboard/read","abc/dashboard/write"`
	for name, test := range map[string]struct {
		subject, tenant string
		who             *identity.Principal
		want            string
	}{
		"a member": {
			"", "", user("ed", "1", "Admin"),
			`{"tenant_id":"1","user_id":"ed","roles":["Editor"],"permissions":["abc/dashboard/read","abc/dashboard/write"]}`,
		},
		"the built-in owner": {
			"table", "", user("oz", "4"),
			`{"tenant_id":"4","user_id":"oz","roles":["Owner"],"permissions":[` + all + `]}`,
		},
		"an inherited wildcard": {
			"", "", user("may", "4"),
			`{"tenant_id":"4","user_id":"may","roles":["Manager"],"permissions":[` + all + `]}`,
		},
		"a stranger":                  {"", "", user("vic", "2", "Admin"), `{"tenant_id":"2","user_id":"vic","roles":[],"permissions":[]}`},
		"an unknown tenant":           {"", "", user("vic", "77"), `{"tenant_id":"77","user_id":"vic","roles":[],"permissions":[]}`},
		"another spelling":            {"", "", user("vic", "01"), `{"tenant_id":"01","user_id":"vic","roles":[],"permissions":[]}`},
		"a token without a tenant":    {"", "", user("vic", ""), `{"tenant_id":"","user_id":"vic","roles":[],"permissions":[]}`},
		"a suspended tenant":          {"", "", user("ian", "3"), `{"tenant_id":"3","user_id":"ian","roles":[],"permissions":[]}`},
		"a member of the path's":      {"", "{http.request.uri.path.1}", user("ann", "1"), `{"tenant_id":"2","user_id":"ann","roles":["Viewer"],"permissions":["abc/dashboard/read"]}`},
		"no member of the path's":     {"", "{http.request.uri.path.1}", user("vic", "1"), `{"tenant_id":"2","user_id":"vic","roles":[],"permissions":[]}`},
		"claims":                      {"claims", "", user("x", "1", "Viewer", "Editor"), `{"tenant_id":"1","user_id":"x","roles":["Viewer","Editor"],"permissions":["abc/dashboard/read","abc/dashboard/write"]}`},
		"claims that count nothing":   {"claims", "", user("ann", "1", "Nobody"), `{"tenant_id":"1","user_id":"ann","roles":[],"permissions":[]}`},
		"claims say nothing of other": {"claims", "{http.request.uri.path.1}", user("ann", "1", "Admin"), `{"tenant_id":"2","user_id":"ann","roles":[],"permissions":[]}`},
		"what must be escaped":        {"", "", user(`a"<b`, "1"), `{"tenant_id":"1","user_id":"a\"\u003cb","roles":[],"permissions":[]}`},
	} {
		got := askAnswers(t, newAnswers(table, test.subject, test.tenant), request("GET", "/tenants/2/me", test.who))
		require.Equal(t, 200, got.status, name)
		require.Equal(t, test.want+"\n", got.body, name)
		require.Equal(t, "application/json", got.header.Get("Content-Type"))
		require.Equal(t, "private, no-cache", got.header.Get("Cache-Control"))
		require.Equal(t, "Authorization", got.header.Get("Vary"))
		require.Regexp(t, `^"[\w-]{22}"$`, got.header.Get("ETag"))
	}
}

func TestMeIsAnswered304WhileNothingChanges(t *testing.T) {
	t.Parallel()
	table, db := newTable(t, core.Settings{Poll: time.Millisecond})
	a := newAnswers(table, "", "")
	me := func(method, who string, header ...string) answer {
		return askAnswers(t, a, request(method, "/me", user(who, "1"), header...))
	}
	first := me("GET", "vic")
	tag := first.header.Get("ETag")
	for _, value := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		again := me("GET", "vic", "If-None-Match", value)
		require.Equal(t, 304, again.status, value)
		require.Empty(t, again.body)
		require.Equal(t, tag, again.header.Get("ETag"))
		require.Equal(t, "private, no-cache", again.header.Get("Cache-Control"))
	}
	head := me("HEAD", "vic")
	require.Equal(t, 200, head.status)
	require.Empty(t, head.body)
	require.Equal(t, fmt.Sprint(len(first.body)), head.header.Get("Content-Length"))
	require.Equal(t, tag, head.header.Get("ETag"))
	require.Equal(t, 200, me("GET", "ed", "If-None-Match", tag).status, "the tag is of this user's answer")

	change(t, db, `DELETE FROM role_feature_permissions WHERE role_id = 13`)
	require.Eventually(t, func() bool { return me("GET", "vic", "If-None-Match", tag).status == 200 }, 10*time.Second, time.Millisecond)
}

func TestCheckAnswersInOrder(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	got := check(t, newAnswers(table, "", ""), user("ed", "1"), "application/json; charset=utf-8",
		`{"permissions": ["abc/dashboard/delete", "abc/dashboard/read", "xyz/a/read", "abc/a/read", "abc/dashboard/fly", "abc/dashboard/read"]}`)
	require.Equal(t, 200, got.status)
	require.Equal(t, "no-store", got.header.Get("Cache-Control"))
	require.Equal(t, fmt.Sprint(len(got.body)), got.header.Get("Content-Length"))
	require.JSONEq(t, `{"tenant_id": "1", "results": [
		{"permission": "abc/dashboard/delete", "allowed": false, "reason": "role_lacks_action"},
		{"permission": "abc/dashboard/read", "allowed": true, "reason": "allowed"},
		{"permission": "xyz/a/read", "allowed": false, "reason": "unknown_product"},
		{"permission": "abc/a/read", "allowed": false, "reason": "unknown_feature"},
		{"permission": "abc/dashboard/fly", "allowed": false, "reason": "unknown_action"},
		{"permission": "abc/dashboard/read", "allowed": true, "reason": "allowed"}
	]}`, got.body)

	for tenant, reason := range map[string]string{"77": "not_a_member", "2": "not_a_member", "3": "not_a_member"} {
		got := check(t, newAnswers(table, "", ""), user("ed", tenant), "application/json", `{"permissions": ["abc/dashboard/read"]}`)
		require.JSONEq(t, `{"tenant_id": "`+tenant+`", "results": [{"permission": "abc/dashboard/read", "allowed": false, "reason": "`+reason+`"}]}`, got.body)
	}
	got = check(t, newAnswers(table, "", ""), user("ed", "1"), "application/json", `{"permissions": []}`)
	require.JSONEq(t, `{"tenant_id": "1", "results": []}`, got.body)
}

func TestCheckRefusesBodiesThatAreNoQuestion(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	a := newAnswers(table, "", "")
	many := func(n int, name string) string {
		return `{"permissions": [` + strings.TrimSuffix(strings.Repeat(`"`+name+`",`, n), ",") + `]}`
	}
	longest := strings.Repeat("a", 63)
	require.Equal(t, 200, check(t, a, user("ed", "1"), "application/json", many(1000, longest+"/"+longest+"/"+longest)).status)

	for name, test := range map[string]struct {
		contentType, body string
		status            int
		code              string
		pointers          []string
	}{
		"no content type":        {"", `{"permissions": []}`, 415, "not-json", nil},
		"another content type":   {"text/plain", `{"permissions": []}`, 415, "not-json", nil},
		"a form":                 {"application/x-www-form-urlencoded", `permissions=x`, 415, "not-json", nil},
		"nothing":                {"application/json", ``, 400, "bad-json", nil},
		"half of it":             {"application/json", `{"permissions": ["a`, 400, "bad-json", nil},
		"no JSON":                {"application/json", `abc/dashboard/read`, 400, "bad-json", nil},
		"an array":               {"application/json", `["abc/dashboard/read"]`, 400, "bad-json", nil},
		"a number":               {"application/json", `1`, 400, "bad-json", nil},
		"a string for the array": {"application/json", `{"permissions": "abc/dashboard/read"}`, 400, "bad-json", nil},
		"numbers in the array":   {"application/json", `{"permissions": [1]}`, 400, "bad-json", nil},
		"another member":         {"application/json", `{"permissions": [], "tenant": "2"}`, 400, "bad-json", nil},
		"two objects":            {"application/json", `{"permissions": []}{}`, 400, "bad-json", nil},
		"more behind it":         {"application/json", `{"permissions": []} x`, 400, "bad-json", nil},
		"too much":               {"application/json", `{"permissions": ["` + strings.Repeat("a", 256<<10) + `"]}`, 413, "body-too-large", nil},
		"too much behind it":     {"application/json", `{"permissions": []}` + strings.Repeat(" ", 256<<10), 413, "body-too-large", nil},
		"no permissions":         {"application/json", `{}`, 422, "invalid-fields", []string{"/permissions"}},
		"null":                   {"application/json", `null`, 422, "invalid-fields", []string{"/permissions"}},
		"null permissions":       {"application/json", `{"permissions": null}`, 422, "invalid-fields", []string{"/permissions"}},
		"a thousand and one":     {"application/json", many(1001, "a/b/c"), 422, "invalid-fields", []string{"/permissions"}},
		"names that are none": {
			"application/json", `{"permissions": ["abc/dashboard/read", "abc/*/read", "*", "a/b", "a/b/c/d", "A/b/c", "", null]}`, 422, "invalid-fields",
			[]string{"/permissions/1", "/permissions/2", "/permissions/3", "/permissions/4", "/permissions/5", "/permissions/6", "/permissions/7"},
		},
	} {
		got := check(t, a, user("ed", "1"), test.contentType, test.body)
		require.Equal(t, test.status, got.status, name)
		require.Equal(t, test.code, got.problem.Code, name)
		var pointers []string
		for _, field := range got.problem.Fields {
			pointers = append(pointers, field.Pointer)
		}
		require.Equal(t, test.pointers, pointers, name)
		require.Less(t, len(got.problem.Body("")), 500+200*len(pointers), "it does not repeat what was sent")
	}
	require.Len(t, check(t, a, user("ed", "1"), "application/json", many(1000, "x")).problem.Fields, 20)
}

func TestAnswersAreForUsersOnly(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	empty := runTable(t, "sqlite://"+filepath.Join(t.TempDir(), "none.db"), core.Settings{Poll: time.Hour})
	a := newAnswers(table, "", "")
	for _, target := range []string{"/me", "/api/permissions/me", "/check", "/api/permissions/check"} {
		got := askAnswers(t, a, request("GET", target, nil))
		require.Equal(t, 401, got.status, target)
		require.Equal(t, "token-missing", got.problem.Code)
		require.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"))
	}
	got := askAnswers(t, newAnswers(empty, "", ""), request("GET", "/me", user("ann", "1")))
	require.Equal(t, 503, got.status)
	require.Equal(t, "permissions-not-loaded", got.problem.Code)
	require.Equal(t, "1", got.header.Get("Retry-After"))

	for path, allow := range map[string]string{"/me": "GET, HEAD", "/check": "POST"} {
		for _, method := range []string{"PUT", "DELETE", "OPTIONS", "PATCH", "get"} {
			got := askAnswers(t, a, request(method, path, user("ann", "1")))
			require.Equal(t, 405, got.status, "%s %s", method, path)
			require.Equal(t, "method-not-allowed", got.problem.Code)
			require.Equal(t, allow, got.header.Get("Allow"))
		}
	}
	for _, target := range []string{"/", "/me/", "/ME", "/check/x", "/some", "/a/notme", "/me.json"} {
		require.True(t, askAnswers(t, a, request("GET", target, user("ann", "1"))).passed, target)
	}
}

// A tenant that the client names is repeated in part at most.
func TestALongTenantIsCut(t *testing.T) {
	t.Parallel()
	table, _ := newTable(t, core.Settings{Poll: time.Hour})
	got := askAnswers(t, newAnswers(table, "", "{http.request.header.X-Org}"), request("GET", "/me", user("ann", "1"), "X-Org", strings.Repeat("1", 10_000)))
	require.Equal(t, 200, got.status)
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.body), &body))
	require.Len(t, body["tenant_id"], 64)
	require.Empty(t, body["permissions"])
}
