package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// TestAnInstallationOfOnesOwn follows docs/production.md: an empty store, its
// first admin, and gateway and backends as two processes.
func TestAnInstallationOfOnesOwn(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		install(t, "sqlite://"+filepath.Join(t.TempDir(), "tenantgate.db"), "there is no database to read yet (`backends migrate` makes it)")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		install(t, dbtest.PostgresEmpty(t), "run `backends migrate`")
	})
}

// install makes an installation in an empty store and uses it. advice is what a
// command says before the schema is there.
func install(t *testing.T, url, advice string) {
	t.Helper()
	folder := t.TempDir()
	address, authAddress, tenantAddress, invitationAddress := FreeAddress(t), FreeAddress(t), FreeAddress(t), FreeAddress(t)
	env := []string{
		"DATABASE_URL=" + url, "GATEWAY_SECRET=" + strings.Repeat("5ecret", 6),
		"AUTH_LISTEN=" + authAddress, "TENANT_LISTEN=" + tenantAddress, "INVITATION_LISTEN=" + invitationAddress,
		"AUTH_UPSTREAM=" + authAddress, "TENANT_UPSTREAM=" + tenantAddress, "INVITATION_UPSTREAM=" + invitationAddress,
		"MAIL_DIR=" + filepath.Join(folder, "mail"), "PUBLIC_URL=http://" + address,
		"TENANTGATE_ADDRESS=http://" + address, "TENANTGATE_BIND=127.0.0.1", "TENANTGATE_ADMIN=" + FreeAddress(t),
		"TENANTGATE_LOG_FILE=" + filepath.Join(folder, "gateway.log"),
	}
	backends := filepath.Join(binaries, "backends")
	command := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), backends, args...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	const email, password = "ann@acme.test", "plum tree river stone"

	out, err := command(password, "bootstrap", "--tenant", "Acme", "--email", email)
	require.Error(t, err)
	require.Contains(t, out, advice)
	out, err = command("", "migrate")
	require.NoError(t, err, out)
	out, err = command("short", "bootstrap", "--tenant", "Acme", "--email", email)
	require.Error(t, err, out)
	out, err = command(password, "bootstrap", "--tenant", "Acme", "--email", email)
	require.NoError(t, err, out)
	out, err = command(password, "bootstrap", "--tenant", "Other", "--email", email)
	require.Error(t, err, out)

	// The gateway may be there before what it needs.
	gateway := Start(t, root, env, filepath.Join(binaries, "tenantgate"), "run", "--config", "Caddyfile")
	gateway.WaitFor(t, "serving initial configuration")
	d := &Dev{Process: gateway, URL: "http://" + address}
	requireProblem(t, Call(t, http.MethodGet, d.URL+"/api/members/", nil, "Authorization", "Bearer a.b.c"), http.StatusUnauthorized, "token-invalid")

	services := Start(t, root, env, backends, "serve")
	services.WaitFor(t, `"service":"invitation-service","address"`)
	admin := d.Login(t, email, password)
	require.Eventually(t, func() bool {
		return Call(t, http.MethodGet, d.URL+"/api/members/", nil, admin...).StatusCode == http.StatusOK
	}, secs(20), ms(50))
	made := Call(t, http.MethodPost, d.URL+"/api/products/", map[string]string{"name": "crm"}, admin...)
	require.Equal(t, http.StatusCreated, made.StatusCode, "%s", made.Body)

	require.Equal(t, 0, services.Stop(t, syscall.SIGTERM))
	requireProblem(t, Call(t, http.MethodGet, d.URL+"/api/members/", nil, admin...), http.StatusBadGateway, "upstream-failed")
	require.Equal(t, 0, gateway.Stop(t, syscall.SIGTERM))
}
