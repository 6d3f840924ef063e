package e2e

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// browser returns the path of Chromium, or skips the test.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	require.Empty(t, os.Getenv("TENANTGATE_REQUIRE_SERVICES"), "Chromium is required and was not found")
	t.Skip("skipped: Chromium was not found; install it or set CHROMIUM to see the invitation page in a browser")
	return ""
}

// dom returns a page as it is after its scripts have run.
func dom(t *testing.T, chromium, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), secs(60))
	defer cancel()
	out, err := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--virtual-time-budget=2000", "--dump-dom", url).Output()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// TestTheInvitationPageInABrowser opens the mail's link: under its strict
// policy the script runs, and looking at the page uses nothing up.
func TestTheInvitationPageInABrowser(t *testing.T) {
	t.Parallel()
	chromium := browser(t)
	dev := StartDev(t, binaries)
	created := Call(t, http.MethodPost, dev.URL+"/api/invitations/", map[string]string{"email": "ann@example.com", "role": "Viewer"},
		dev.Login(t, "admin@acme.test", Password)...)
	require.Equal(t, http.StatusCreated, created.StatusCode, "%s", created.Body)
	token := mailToken(t, dev.Data, "ann@example.com")

	page := dom(t, chromium, dev.URL+"/invite#token="+token)
	require.Contains(t, page, "Choose a password to join.")
	require.Contains(t, page, `<form id="form">`, "the script has shown the form")
	require.NotContains(t, page, token)
	require.Contains(t, dom(t, chromium, dev.URL+"/invite"), "This link is not complete.")
	require.NotContains(t, readAll(t, dev.Data, "logs"), token, "a fragment reaches no server")

	accepted := Call(t, http.MethodPost, dev.URL+"/api/invitations/accept/", map[string]string{"token": token, "password": "plum tree river stone"})
	require.Equal(t, http.StatusCreated, accepted.StatusCode, "%s", accepted.Body)
}
