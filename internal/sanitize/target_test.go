package sanitize_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// request returns a request as net/http parses it from a request line.
func request(t testing.TB, method, target string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil { // net/http refuses it; handlers of other servers may not
		u = &url.URL{Path: target}
	}
	return &http.Request{Method: method, RequestURI: target, URL: u}
}

func TestTargetAcceptsUsualPaths(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"/", "/a", "/a/", "/a/b/c", "/a?x=//../%2f;%00", "/a.b/..c/d../...", "/.well-known/jwks.json", "/a%20b", "/100%25", "/100%25/20", "/a%25-41",
		"/caf%C3%A9", "/café", "/%F0%9F%98%80/", "/~user/@me:1,2+3=4&5!$'()*", "/%61bc", "/a%3Fb", "/a%23b", "/?", "/a?b?c", "/%25%32g",
	} {
		require.NoError(t, sanitize.Target(request(t, http.MethodGet, target)), target)
	}
}

func TestTargetRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		target string
		want   *sanitize.Violation
	}{
		{"*", sanitize.ErrForm},
		{"http://other/a", sanitize.ErrForm},
		{"example.com:443", sanitize.ErrForm},
		{"?x", sanitize.ErrForm},
		{"a", sanitize.ErrForm},
		{"%2fa", sanitize.ErrForm},
		{"//a", sanitize.ErrEmptySegment},
		{"/a//b", sanitize.ErrEmptySegment},
		{"/a//", sanitize.ErrEmptySegment},
		{"/.", sanitize.ErrDotSegment},
		{"/..", sanitize.ErrDotSegment},
		{"/a/./b", sanitize.ErrDotSegment},
		{"/a/../b", sanitize.ErrDotSegment},
		{"/a/..", sanitize.ErrDotSegment},
		{"/a/../", sanitize.ErrDotSegment},
		{"/a/..?x", sanitize.ErrDotSegment},
		{"/a/%2e/b", sanitize.ErrDotSegment},
		{"/a/%2e%2e/b", sanitize.ErrDotSegment},
		{"/a/%2E./b", sanitize.ErrDotSegment},
		{"/a/.%2e", sanitize.ErrDotSegment},
		{"/a%2fb", sanitize.ErrSeparator},
		{"/a%2Fb", sanitize.ErrSeparator},
		{"/a%5cb", sanitize.ErrSeparator},
		{"/a%5Cb", sanitize.ErrSeparator},
		{`/a\b`, sanitize.ErrSeparator},
		{`/..\b`, sanitize.ErrSeparator},
		{"/..%2fb", sanitize.ErrSeparator},
		{"/a%00", sanitize.ErrControl},
		{"/a%0a", sanitize.ErrControl},
		{"/a%7f", sanitize.ErrControl},
		{"/a\x01", sanitize.ErrControl},
		{"/a\x7f", sanitize.ErrControl},
		{"/a b", sanitize.ErrControl},
		{"/a%C2%85", sanitize.ErrControl},
		{"/a;b=c", sanitize.ErrDelimiter},
		{"/a/;/b", sanitize.ErrDelimiter},
		{"/..;/b", sanitize.ErrDelimiter},
		{"/a%3bb", sanitize.ErrDelimiter},
		{"/a#b", sanitize.ErrDelimiter},
		{"/a%", sanitize.ErrEscape},
		{"/a%4", sanitize.ErrEscape},
		{"/a%zz", sanitize.ErrEscape},
		{"/a%u0041", sanitize.ErrEscape},
		{"/a%252e", sanitize.ErrDoubleEscape},
		{"/a%252f", sanitize.ErrDoubleEscape},
		{"/a%2541", sanitize.ErrDoubleEscape},
		{"/a%25%34%31", sanitize.ErrDoubleEscape},
		{"/a%25%2541", sanitize.ErrDoubleEscape},
		{"/a%2525%32e", sanitize.ErrDoubleEscape},
		{"/a%ff", sanitize.ErrUTF8},
		{"/a%c0%ae", sanitize.ErrUTF8},
		{"/%e0%80%ae", sanitize.ErrUTF8},
		{"/a%c3", sanitize.ErrUTF8},
		{"/a%c3/b", sanitize.ErrUTF8},
		{"/a%ed%a0%80", sanitize.ErrUTF8},
		{"/a\xff", sanitize.ErrUTF8},
		{"/a%80", sanitize.ErrUTF8},
	} {
		require.Equal(t, error(test.want), sanitize.Target(request(t, http.MethodGet, test.target)), test.target)
		require.Equal(t, http.StatusBadRequest, test.want.Status)
		require.NotEmpty(t, test.want.Error())
	}
}

func TestTargetMethods(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
		require.NoError(t, sanitize.Target(request(t, method, "/")), method)
		require.Contains(t, sanitize.Allow, method)
	}
	for _, method := range []string{"", "get", "Get", "FOO", "TRACE", "CONNECT", "PROPFIND", "GETT", "GET "} {
		require.Equal(t, error(sanitize.ErrMethod), sanitize.Target(request(t, method, "/")), method)
	}
	require.Equal(t, http.StatusMethodNotAllowed, sanitize.ErrMethod.Status)
}

func TestTargetLooksAtTheRewrittenPathToo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sent string
		url  url.URL
		want error
	}{
		"a rewrite to a good path":             {"/a", url.URL{Path: "/b"}, nil},
		"a rewrite to a path with an escape":   {"/a", url.URL{Path: "/b c"}, nil},
		"a rewrite to a dot segment":           {"/a", url.URL{Path: "/b/../c"}, sanitize.ErrDotSegment},
		"a rewrite to an empty segment":        {"/a", url.URL{Path: "//b"}, sanitize.ErrEmptySegment},
		"a rewrite to a backslash":             {"/a", url.URL{Path: `/b\c`}, sanitize.ErrSeparator},
		"a rewrite to an encoded slash":        {"/a", url.URL{Path: "/b/c", RawPath: "/b%2fc"}, sanitize.ErrSeparator},
		"a rewrite to another form":            {"/a", url.URL{Path: ""}, sanitize.ErrForm},
		"a raw path that doesn't belong to it": {"/a", url.URL{Path: "/b//c", RawPath: "/a"}, sanitize.ErrEmptySegment},
		"a bad path rewritten to a good one":   {"/a/../b", url.URL{Path: "/b"}, sanitize.ErrDotSegment},
		"no target as sent, good path":         {"", url.URL{Path: "/b"}, nil},
		"no target as sent, bad path":          {"", url.URL{Path: "/b//"}, sanitize.ErrEmptySegment},
		"a prefix of what was sent":            {"/ab", url.URL{Path: "/a"}, nil},
		"more than what was sent":              {"/a", url.URL{Path: "/a;b"}, sanitize.ErrDelimiter},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := sanitize.Target(&http.Request{Method: http.MethodGet, RequestURI: test.sent, URL: &test.url})
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, test.want, err)
		})
	}
}

func TestTargetAllocatesNothing(t *testing.T) {
	for _, target := range []string{"/api/permissions/dashboard/?a=b", "/caf%C3%A9/a%20b", "/a/../b"} {
		r := request(t, http.MethodGet, target)
		require.Zero(t, testing.AllocsPerRun(100, func() { _ = sanitize.Target(r) }), target)
	}
}

// FuzzTarget checks that an accepted path means the same to a parser that
// decodes once and one that decodes and cleans again and again.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/", "/a/b?c", "/%2e%2e/a", "/a%252fb", "/%25%32%65", "/caf%C3%A9", "/a;b", "*", "/a%c0%ae", "//", "/%25", "/%5c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r := request(t, http.MethodGet, target)
		if sanitize.Target(r) != nil {
			return
		}
		sent, _, _ := cut(target)
		decoded, err := url.PathUnescape(sent)
		require.NoError(t, err)
		require.Equal(t, r.URL.Path, decoded)
		require.NotContains(t, decoded, "//")
		require.NotContains(t, decoded, `\`)
		require.NotContains(t, decoded+"/", "/../")
		require.NotContains(t, decoded+"/", "/./")
		require.NotContains(t, decoded, "\x00")
		if again, err := url.PathUnescape(decoded); err == nil {
			require.Equal(t, decoded, again, "nothing is left to decode")
		}
		require.Equal(t, byte('/'), decoded[0])
	})
}

func cut(target string) (path, query string, found bool) {
	for i := range len(target) {
		if target[i] == '?' {
			return target[:i], target[i+1:], true
		}
	}
	return target, "", false
}

func BenchmarkTarget(b *testing.B) {
	for _, target := range []string{"/api/permissions/dashboard/", "/api/caf%C3%A9/a%20b/dashboard"} {
		b.Run(target, func(b *testing.B) {
			r := request(b, http.MethodGet, target)
			b.ReportAllocs()
			for b.Loop() {
				if err := sanitize.Target(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
