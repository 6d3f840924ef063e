package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/password"
)

// installation is the gateway with the repository's Caddyfile in front of the
// backends, on a store with the demo's data.
type installation struct {
	*Dev     // the gateway; mails are in the folder "mail" of Data
	db       *database.DB
	env      []string
	backends *Process
}

// oneHash hashes the password of the demo's users once for all installations.
type oneHash struct{}

var demoHash = sync.OnceValues(func() (string, error) {
	return password.NewHasher(1).Hash(context.Background(), Password)
})

func (oneHash) Hash(context.Context, string) (string, error) { return demoHash() }

// openInstallation starts gateway and backends on a store that has the schema
// and no data. The variables in env go before the usual ones; with MAIL_DIR=
// mails go to SMTP_URL.
func openInstallation(t *testing.T, url string, env ...string) *installation {
	t.Helper()
	folder := t.TempDir()
	address, auth, tenant, invitation := FreeAddress(t), FreeAddress(t), FreeAddress(t), FreeAddress(t)
	i := &installation{db: dbtest.Open(t, url, clock.System{}), env: append([]string{
		"DATABASE_URL=" + url, "GATEWAY_SECRET=" + strings.Repeat("5ecret", 6),
		"AUTH_LISTEN=" + auth, "TENANT_LISTEN=" + tenant, "INVITATION_LISTEN=" + invitation,
		"AUTH_UPSTREAM=" + auth, "TENANT_UPSTREAM=" + tenant, "INVITATION_UPSTREAM=" + invitation,
		"PUBLIC_URL=https://app.example.com", "MAIL_DIR=" + filepath.Join(folder, "mail"),
		"TENANTGATE_ADDRESS=http://" + address, "TENANTGATE_BIND=127.0.0.1", "TENANTGATE_ADMIN=" + FreeAddress(t),
		"TENANTGATE_LOG_FILE=" + filepath.Join(folder, "gateway.log"),
	}, env...)}
	require.NoError(t, seed.Demo(t.Context(), i.db, oneHash{}))
	i.serve(t)
	gateway := Start(t, root, i.env, filepath.Join(binaries, "tenantgate"), "run", "--config", "Caddyfile")
	gateway.WaitFor(t, "serving initial configuration")
	i.Dev = &Dev{Process: gateway, URL: "http://" + address, Data: folder}
	admin := i.Login(t, "admin@acme.test", Password)
	require.Eventually(t, func() bool { // until the keys and the table are there
		return Call(t, http.MethodGet, i.URL+"/api/members/", nil, admin...).StatusCode == http.StatusOK
	}, secs(20), ms(50))
	return i
}

// serve starts the backends; env is for this start only.
func (i *installation) serve(t *testing.T, env ...string) {
	t.Helper()
	i.backends = Start(t, t.TempDir(), append(append([]string{}, i.env...), env...), filepath.Join(binaries, "backends"), "serve")
	i.backends.WaitFor(t, `"service":"invitation-service","address"`)
}

// kill ends the backends with SIGKILL.
func (i *installation) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, i.backends.cmd.Process.Signal(syscall.SIGKILL))
	<-i.backends.done
}

// exec changes the store beside the backends.
func (i *installation) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	require.NoError(t, i.db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.ExecContext(t.Context(), statement, args...)
		return err
	}))
}

// number returns the only number of a query.
func (i *installation) number(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, i.db.Reader().QueryRowContext(t.Context(), query, args...).Scan(&n))
	return n
}

// mailsDue makes the mails in the outbox due now, instead of in half a minute.
func (i *installation) mailsDue(t *testing.T) {
	t.Helper()
	i.exec(t, `UPDATE invitation_mails SET due_at = 1`)
}

// accept sends a token with a new user's password.
func (i *installation) accept(t *testing.T, token string) Answer {
	t.Helper()
	return Call(t, http.MethodPost, i.URL+"/api/invitations/accept/", map[string]string{"token": token, "password": "plum tree river stone"})
}

// invite makes an invitation for an address and returns the answer.
func (i *installation) invite(t *testing.T, by []string, email string) map[string]any {
	t.Helper()
	answer := Call(t, http.MethodPost, i.URL+"/api/invitations/", map[string]string{"email": email, "role": "Viewer"}, by...)
	require.Equal(t, http.StatusCreated, answer.StatusCode, "%s", answer.Body)
	return answer.JSON(t)
}

// delivery returns what the API says of the mail of an invitation.
func (i *installation) delivery(t *testing.T, by []string, id any) map[string]any {
	t.Helper()
	answer := Call(t, http.MethodGet, i.URL+"/api/invitations/"+id.(string)+"/", nil, by...)
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s", answer.Body)
	return answer.JSON(t)["delivery"].(map[string]any)
}
