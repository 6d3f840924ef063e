package invitation_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func TestPage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	id, token := f.invite(t, "a@x.test")
	for range 20 { // a scanner, a prefetch, a reload: nothing is used up
		a := f.do(t, http.MethodGet, "/invite", "")
		require.Equal(t, http.StatusOK, a.Code)
		require.Equal(t, "text/html; charset=utf-8", a.Header().Get("Content-Type"))
		require.Equal(t, "no-referrer", a.Header().Get("Referrer-Policy"))
	}
	require.Equal(t, http.StatusOK, f.do(t, http.MethodHead, "/invite/", "").Code)
	require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations WHERE id = $1`, id))

	a := f.do(t, http.MethodGet, "/invite", "")
	page, policy := a.Body.String(), a.Header().Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.NotContains(t, policy, "unsafe")
	for _, tag := range []string{"style", "script"} {
		found := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(page, -1)
		require.Len(t, found, 1, tag)
		hash := sha256.Sum256([]byte(found[0][1]))
		require.Contains(t, policy, tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"'")
	}
	require.NotRegexp(t, `(?i)(src|href)=|https?://|style="| on[a-z]+="`, page, "nothing is loaded from anywhere, nothing needs an exception")
	require.NotContains(t, page, token)
	require.Contains(t, page, `"/api/invitations/accept/"`)
	require.Regexp(t, `<label for="password">`, page)
}
