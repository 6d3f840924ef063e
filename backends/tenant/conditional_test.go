package tenant_test

import (
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// with sends a request with a header.
func (c caller) with(header, value, method, target, body string) answer {
	c.f.t.Helper()
	r := c.request(method, target, body)
	r.Header.Set(header, value)
	c.f.gateway.ServeHTTP(httptest.NewRecorder(), r)
	return c.f.serve(r)
}

// TestNobodyOverwritesWhatTheyHaveNotSeen changes all that can be changed: with
// the tag of a look, and again with it when somebody was faster.
func TestNobodyOverwritesWhatTheyHaveNotSeen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op := f.as("admin@acme.test", 1)
		support := f.newRole(1, "Support", "abc/reports/read", "abc/reports/write")
		f.addMember("bob", 1, support)
		idle := fmt.Sprintf("/api/roles/%d/", f.newRole(1, "Idle"))
		product := fmt.Sprintf("/api/products/%d/", op.call("POST", "/api/products/", `{"name":"crm"}`).id())
		feature := fmt.Sprintf("%sfeatures/%d/", product, op.call("POST", product+"features/", `{"name":"leads"}`).id())
		tenant := fmt.Sprintf("/api/tenants/%d/", op.call("POST", "/api/tenants/", `{"name":"initech"}`).id())
		for _, c := range []struct{ method, path, body, second string }{
			{"PATCH", "/api/tenant/", `{"name":"acme two"}`, `{"name":"acme three"}`},
			{"PATCH", tenant, `{"name":"initrode"}`, `{"name":"initech"}`},
			{"PATCH", "/api/tenant/", `{"invitation_domains":{"allowed":["a.test"]}}`, `{"invitation_domains":{"allowed":["b.test"]}}`},
			{"PATCH", tenant, `{"seats":5}`, `{"seats":null}`},
			{"PATCH", "/api/members/bob/", `{"role":"Viewer"}`, `{"role":"Editor"}`},
			{"PATCH", idle, `{"name":"Idler"}`, `{"name":"Idlest"}`},
			{"PUT", parents(support), named("Viewer"), named("Editor")},
			{"PUT", grants(support), set("abc/*/read"), set("abc/*/write")},
			{"POST", grants(support), one("abc/reports/read"), one("abc/reports/write")},
			{"PATCH", product, `{"name":"crm-two"}`, `{"name":"crm-three"}`},
			{"PATCH", feature, `{"name":"prospects"}`, `{"actions":["export"]}`},
		} {
			tag := op.mustMatch(c.method, c.path, c.path, c.body)
			a := op.with("If-Match", `"other", `+tag, c.method, c.path, c.body)
			require.Equal(t, 200, a.Code, "%v: %s", c, a.Body)
			now := op.call("GET", c.path, "").Header().Get("Etag")
			require.Equal(t, now, a.Header().Get("Etag"), "the answer has the new tag")
			require.NotEqual(t, tag, now)
			require.Equal(t, 200, op.with("If-None-Match", tag, "GET", c.path, "").Code)
			require.Equal(t, 412, op.with("If-Match", tag, c.method, c.path, c.second).Code, "somebody was faster: %v", c)
			require.Equal(t, 200, op.with("If-Match", "*", c.method, c.path, c.second).Code)
		}
		for _, c := range [][2]string{
			{grants(support) + "abc/reports/read/", grants(support)},
			{"/api/members/bob/", "/api/members/bob/"},
			{idle, idle},
			{feature, feature},
			{product, product},
			{tenant, tenant},
		} {
			tag := op.mustMatch("DELETE", c[0], c[1], "")
			require.Equal(t, 204, op.with("If-Match", tag, "DELETE", c[0], "").Code, c)
			require.Equal(t, 404, op.with("If-Match", "*", "DELETE", c[0], "").Code, "what is gone is 404, whatever one saw")
		}
	})
}

// mustMatch requires that a change is refused unless its If-Match names the tag
// of a look, which it returns.
func (c caller) mustMatch(method, path, look, body string) string {
	c.f.t.Helper()
	tag := c.call("GET", look, "").Header().Get("Etag")
	require.NotEmpty(c.f.t, tag)
	require.Equal(c.f.t, 304, c.with("If-None-Match", tag, "GET", look, "").Code)
	changes, _ := c.f.seq()
	for header, want := range map[string]string{
		`"other"`: "412 precondition-failed", "W/" + tag: "412 precondition-failed", "other": "400 bad-header", "": "400 bad-header",
	} {
		a := c.with("If-Match", header, method, path, body)
		require.Equal(c.f.t, want, fmt.Sprint(a.Code, " ", a.text("code")), "%s %s %s", method, path, header)
	}
	require.Equal(c.f.t, 412, c.with("If-None-Match", "*", method, path, body).Code)
	same, _ := c.f.seq()
	require.Equal(c.f.t, changes, same, "a refused change is not announced")
	return tag
}

// TestTagsAreOfWhatIsSeen: a tag changes with what a look shows, wherever that
// was changed, and with nothing else.
func TestTagsAreOfWhatIsSeen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		viewer := f.role(2, "Viewer")
		tag := func(path string) string {
			a := admin.call("GET", path, "")
			require.Equal(t, "private, no-cache", a.Header().Get("Cache-Control"))
			return a.Header().Get("Etag")
		}
		member := "/api/members/" + f.user("viewer@globex.test") + "/"
		seen, rights := tag(member), tag(grants(viewer))
		require.NotEqual(t, rights, tag(grants(viewer)+"?effective=true"))
		admin.call("PATCH", fmt.Sprintf("/api/roles/%d/", viewer), `{"name":"Reader"}`)
		require.NotEqual(t, seen, tag(member), "the role's name stands there")
		require.Equal(t, rights, tag(grants(viewer)))
		made := admin.call("POST", "/api/roles/", `{"name":"New"}`)
		require.Equal(t, tag(made.Header().Get("Location")), made.Header().Get("Etag"))
	})
}
