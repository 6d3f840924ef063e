package permission_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/permission"
	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// FuzzCaddyfile: no input panics, and what is accepted is valid and survives JSON.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"check_permission abc dashboard", "check_permission abc dashboard read {\n\tsubject claims\n\ttenant {http.request.uri.path.1}\n\tmode shadow\n}",
		"check_permission", "check_permission a b c d", "check_permission a b {", "check_permission a b {\n\tsubject {\n\t\tx\n\t}\n}", "check_permission a b \"\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		h := new(permission.Handler)
		if h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		require.NoError(t, h.Validate())
		encoded, err := json.Marshal(h)
		require.NoError(t, err)
		again := new(permission.Handler)
		require.NoError(t, json.Unmarshal(encoded, again))
		require.Equal(t, h, again)
	})
}

// FuzzAnswersCaddyfile: as FuzzCaddyfile, for permission_answers.
func FuzzAnswersCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"permission_answers", "permission_answers {\n\tsubject claims\n\ttenant {http.request.uri.path.1}\n}", "permission_answers x", "permission_answers {\n\tmode x\n}", "permission_answers {",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		a := new(permission.Answers)
		if a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		require.NoError(t, a.Validate())
		encoded, err := json.Marshal(a)
		require.NoError(t, err)
		again := new(permission.Answers)
		require.NoError(t, json.Unmarshal(encoded, again))
		require.Equal(t, a, again)
	})
}

// FuzzTarget: a request target that is accepted is one path and query to
// everybody who reads it, and names no host.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{
		"/", "/a/b?c=d", "//evil/x", "///x", "http://evil/x", "/a#b", "/a?b#c", "/%2e%2e/x", "/a%zz", "/a b", "/a\r\nX: y", "*", "", "a", "?x", "/a?b?c", "/a:b@c/d", "/\\evil", "/café", "/%ff", "/a;b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := permission.ParseTarget(target)
		if err != nil {
			return
		}
		require.Empty(t, u.Host+u.Scheme+u.Opaque+u.Fragment)
		require.Equal(t, byte('/'), u.Path[0])
		r := &http.Request{Method: "GET", RequestURI: target, URL: u}
		if sanitize.Target(r) != nil {
			return
		}
		sent, query, _ := strings.Cut(target, "?")
		require.Equal(t, query, u.RawQuery)
		path, err := url.PathUnescape(sent)
		require.NoError(t, err)
		require.Equal(t, path, u.Path)
		again, err := permission.ParseTarget(u.RequestURI())
		require.NoError(t, err)
		require.Equal(t, u.Path, again.Path)
		require.Equal(t, u.RawQuery, again.RawQuery)
	})
}

// FuzzPermission: what is accepted is the one spelling of a permission.
func FuzzPermission(f *testing.F) {
	for _, seed := range []string{"a/b/c", "abc/*/read", "*", "a/b", "a/b/c/d", "A/b/c", "", "///", "a//c", "a/b/c\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := permission.ParsePermission(s); err == nil {
			require.Equal(t, s, p.String())
			require.NoError(t, p.Validate())
		}
	})
}
