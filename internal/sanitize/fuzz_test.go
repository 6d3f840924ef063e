package sanitize_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/sanitize"
)

// FuzzConnection checks that a proxy that obeys the Connection header can't be
// made to delete anything but hop-by-hop headers.
func FuzzConnection(f *testing.F) {
	for _, seed := range []string{"close", "keep-alive, Upgrade", "X-User-Id", "close,\tX-User-Id ,,te", "traceparent", "close\x00", "\"X-User-Id\"", "close;x"} {
		f.Add(seed, "")
		f.Add("close", seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		h := http.Header{"Connection": {first, second}}
		sanitize.Connection(h)
		for _, value := range h["Connection"] {
			for option := range strings.SplitSeq(value, ",") {
				require.Contains(t, []string{"close", "keep-alive", "upgrade", "te", "http2-settings"}, strings.ToLower(strings.TrimSpace(option)))
			}
		}
		before := h.Clone()
		sanitize.Connection(h)
		require.Equal(t, before, h, "a second pass changes nothing")
	})
}

// FuzzHeaders compares the list with a regular expression that says the same.
func FuzzHeaders(f *testing.F) {
	forbidden := regexp.MustCompile(`^(?:x-(?:user-id|tenant-id|roles|permission|gateway-secret|remote-user|remote-groups|` +
		`http-method|http-method-override|method-override|real-ip|client-ip|cluster-client-ip|middleware-subrequest|` +
		`(?:original|rewrite|auth-request)-.*)|remote-(?:user|groups|name|email)|forwarded|true-client-ip|cf-connecting-ip|fastly-client-ip|proxy|)$`)
	canonicalOnly := regexp.MustCompile(`^x-(?:trace-id|request-id|forwarded-(?:for|proto|host))$`)
	for _, seed := range []string{"", "X-User-Id", "x_user.id", "X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Uri", "Accept", "X-Original-", "Forwarded", "x-trace-id"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for i := range len(name) {
			if name[i] <= ' ' || name[i] >= 0x7f {
				t.Skip("no header has this name")
			}
		}
		lower := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
		want := forbidden.MatchString(lower)
		switch {
		case canonicalOnly.MatchString(lower):
			want = name != http.CanonicalHeaderKey(lower)
		case strings.HasPrefix(lower, "x-forwarded-"):
			want = true
		}
		h := http.Header{name: {"x"}}
		sanitize.Headers(h)
		require.Equal(t, want, len(h) == 0, "%q", name)
	})
}
