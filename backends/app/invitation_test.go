package app_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/webhook"
)

// told is a receiver of a webhook. It refuses what is not signed by the secret.
func told(t *testing.T, secret string) (url string, events <-chan map[string]any) {
	t.Helper()
	secrets, err := webhook.ParseSecrets(secret)
	require.NoError(t, err)
	got := make(chan map[string]any, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify(secrets, r.Header, body, time.Now(), webhook.DefaultTolerance)
		}
		var event map[string]any
		if err == nil {
			err = json.Unmarshal(body, &event)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		got <- event
	}))
	t.Cleanup(receiver.Close)
	return receiver.URL, got
}

func TestSettingsOfInvitationsReachTheService(t *testing.T) {
	t.Parallel()
	templates, mails := t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(templates, "de"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(templates, "de", "subject.txt"), []byte("Komm zu uns\n"), 0o600))
	url, events := told(t, goodSecret)
	var log bytes.Buffer
	a := start(t, &log, map[string]string{
		"MAIL_DIR": mails, "INVITATION_LOCALE": "de", "INVITATION_TEMPLATES": templates, "INVITATIONS_PER_INVITER": "1",
		"WEBHOOK_URL": url, "WEBHOOK_SECRET": goodSecret,
	})
	var admin string
	require.NoError(t, a.DB().Reader().QueryRowContext(t.Context(), `SELECT id FROM users WHERE email = 'admin@acme.test'`).Scan(&admin))
	invite := func(email string) (int, map[string]any) {
		return call(t, http.MethodPost, "http://"+a.InvitationAddr()+"/api/invitations/", `{"email":"`+email+`"}`,
			"X-User-Id", admin, "X-Tenant-Id", "1", "X-Permission", "abc/invitations/write")
	}

	status, made := invite("nina@x.test")
	require.Equal(t, http.StatusCreated, status, made)
	select {
	case event := <-events:
		require.Equal(t, "invitation.created", event["type"])
		require.Equal(t, made["id"], event["data"].(map[string]any)["invitation"].(map[string]any)["id"])
	case <-time.After(30 * time.Second):
		require.Fail(t, "the webhook was not told")
	}
	status, refused := invite("otto@x.test")
	require.Equal(t, http.StatusTooManyRequests, status)
	require.Equal(t, "too-many-invitations", refused["code"])
	require.NoError(t, a.stop())

	files, err := filepath.Glob(filepath.Join(mails, "*.eml"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	mail, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Contains(t, string(mail), "Subject: Komm zu uns\r\n")
	require.NotContains(t, log.String(), url)
}

func TestTemplatesThatAreNoMailsStopTheStart(t *testing.T) {
	t.Parallel()
	templates := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(templates, "de"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(templates, "de", "invitation.txt"), []byte("no link"), 0o600))
	config, err := app.FromEnv(settings(t, map[string]string{"INVITATION_TEMPLATES": templates}))
	require.NoError(t, err)
	a, err := app.New(t.Context(), config, zap.NewNop())
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	require.ErrorContains(t, a.Listen(t.Context()), "mail templates: de/invitation.txt: the text lacks the link")
	require.Empty(t, a.InvitationAddr(), "nothing is bound")
}
