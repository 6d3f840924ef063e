package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/smtptest"
)

// mailed waits for the nth mail to an address, 1 for the first, and returns it.
func mailed(t *testing.T, server *smtptest.Server, address string, n int) smtptest.Mail {
	t.Helper()
	var mail smtptest.Mail
	require.Eventually(t, func() bool {
		found := 0
		for _, m := range server.Mails() {
			if slices.Contains(m.To, address) {
				if found++; found == n {
					mail = m
				}
			}
		}
		return found >= n
	}, secs(30), ms(20), "mail %d to %s", n, address)
	return mail
}

// tokenOf returns the token in a mail.
func tokenOf(t *testing.T, mail smtptest.Mail) string {
	t.Helper()
	token := tokenPattern.FindString(strings.ReplaceAll(mail.Data, "=\n", "")) // quoted-printable
	require.NotEmpty(t, token, mail.Data)
	return token
}

// TestMailServersThatFail takes the installation through what mail servers do,
// in both ways to speak TLS to one; other tests use one without. Pauses between
// attempts are cut short in the store.
func TestMailServersThatFail(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		mode smtptest.Mode
		open func(testing.TB) string
	}{
		{"STARTTLS, SQLite", smtptest.StartTLS, dbtest.SQLite},
		{"implicit TLS, PostgreSQL", smtptest.Implicit, dbtest.Postgres},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := tt.open(t)
			server := smtptest.Start(t, tt.mode)
			i := openInstallation(t, url, "MAIL_DIR=", "SMTP_URL="+server.URL(), "SMTP_CA_FILE="+server.CAFile())
			admin := i.Login(t, "admin@acme.test", Password)
			i.refusedAndLostMails(t, server, admin)
			i.hangingServer(t, server, admin)
			i.noServer(t, server, admin)
			for _, command := range server.Commands() {
				if strings.Contains(command, "MAIL FROM") || strings.Contains(command, "RCPT TO") {
					require.True(t, strings.HasPrefix(command, "tls "), command)
				}
			}
		})
	}
}

// refusedAndLostMails has the server refuse one mail for good, another for a
// while, and take a third one without saying so. That goes out again, with a
// token that makes the first one's void.
func (i *installation) refusedAndLostMails(t *testing.T, server *smtptest.Server, admin []string) {
	t.Helper()
	server.Reply("RCPT", "550 5.1.1 no such user")
	gone := i.invite(t, admin, "gone@example.com")
	require.Equal(t, map[string]any{"status": "failed", "error": "refused-permanently", "sends": 1.0, "sent_at": nil}, gone["delivery"])
	require.Equal(t, gone["delivery"], i.delivery(t, admin, gone["id"]))

	server.Reply("RCPT", "451 4.7.1 later")
	later := i.invite(t, admin, "later@example.com")
	delivery := i.delivery(t, admin, later["id"])
	require.Equal(t, delivery, later["delivery"])
	require.Equal(t, "pending", delivery["status"])
	require.Equal(t, "refused-temporarily", delivery["error"])
	next, err := time.Parse(time.RFC3339, delivery["next_attempt_at"].(string))
	require.NoError(t, err)
	require.InDelta(t, 30, time.Until(next).Seconds(), 8, "in half a minute, give or take a fifth")
	require.Empty(t, server.Mails())

	server.Reply("RCPT", smtptest.Usual)
	server.Reply(smtptest.Taken, smtptest.Drop)
	lost := i.invite(t, admin, "lost@example.com")
	older := tokenOf(t, mailed(t, server, "lost@example.com", 1))
	require.Eventually(t, func() bool { return i.delivery(t, admin, lost["id"])["error"] != nil }, secs(20), ms(20))
	require.Equal(t, "pending", i.delivery(t, admin, lost["id"])["status"])
	server.Reply(smtptest.Taken, smtptest.Usual)

	again := Call(t, http.MethodPost, i.URL+"/api/invitations/"+gone["id"].(string)+"/resend/", nil, admin...) // at once: it did not go out
	require.Equal(t, http.StatusOK, again.StatusCode, "%s", again.Body)
	require.Equal(t, http.StatusCreated, i.accept(t, tokenOf(t, mailed(t, server, "gone@example.com", 1))).StatusCode)

	i.mailsDue(t) // the other two by themselves
	require.Equal(t, http.StatusCreated, i.accept(t, tokenOf(t, mailed(t, server, "later@example.com", 1))).StatusCode)
	newer := tokenOf(t, mailed(t, server, "lost@example.com", 2))
	require.NotEqual(t, older, newer)
	requireProblem(t, i.accept(t, older), http.StatusNotFound, "invitation-unknown")
	require.Equal(t, http.StatusCreated, i.accept(t, newer).StatusCode)
	for _, id := range []any{later["id"], lost["id"]} {
		require.Eventually(t, func() bool { return i.delivery(t, admin, id)["status"] == "sent" }, secs(10), ms(20))
		require.NotContains(t, i.delivery(t, admin, id), "error")
	}
}

// hangingServer has the server say nothing as people are invited, more of them
// than mails are sent at a time. Then the backends are killed.
func (i *installation) hangingServer(t *testing.T, server *smtptest.Server, admin []string) {
	t.Helper()
	server.Reply("EHLO", smtptest.Hang)
	const people = 10
	var (
		clients sync.WaitGroup
		took    [people]time.Duration
		made    [people]map[string]any
	)
	for n := range people {
		clients.Go(func() {
			began := time.Now()
			answer := Call(t, http.MethodPost, i.URL+"/api/invitations/", map[string]string{"email": fmt.Sprintf("slow%d@example.com", n)}, admin...)
			took[n] = time.Since(began)
			if answer.StatusCode == http.StatusCreated {
				made[n] = answer.JSON(t)
			}
		})
		time.Sleep(ms(100)) // people, not a bulk
	}
	clients.Wait()
	for _, m := range made {
		require.NotNil(t, m)
		require.Equal(t, map[string]any{"status": "pending", "sends": 1.0, "sent_at": nil}, m["delivery"])
		require.Equal(t, m["delivery"], i.delivery(t, admin, m["id"]))
	}
	t.Logf("creates as the mail server hangs: median %v, most %v", percentile(took[:], 0.5), percentile(took[:], 1))
	require.Less(t, percentile(took[:], 1), pick(time.Second, secs(3)), "the server hangs for ten seconds and more") // a busy machine is slow

	i.kill(t)
	server.Reply("EHLO", smtptest.Usual)
	i.mailsDue(t) // instead of the minute for which the dead process had them
	i.serve(t)
	for n := range people {
		address := fmt.Sprintf("slow%d@example.com", n)
		token := tokenOf(t, mailed(t, server, address, 1))
		if n == 0 { // hashing takes long
			require.Equal(t, http.StatusCreated, i.accept(t, token).StatusCode)
		}
	}
	require.Eventually(t, func() bool { return i.number(t, `SELECT COUNT(*) FROM invitation_mails`) == 0 }, secs(20), ms(20))
	require.Zero(t, i.number(t, `SELECT COUNT(*) FROM invitations WHERE delivery <> 'sent'`))
}

// noServer starts the backends with a mail server that does not listen, and then
// with the right one.
func (i *installation) noServer(t *testing.T, server *smtptest.Server, admin []string) {
	t.Helper()
	require.Equal(t, 0, i.backends.Stop(t, syscall.SIGTERM))
	i.serve(t, "SMTP_URL=smtp://"+FreeAddress(t))
	early := i.invite(t, admin, "early@example.com")
	delivery := i.delivery(t, admin, early["id"])
	require.Equal(t, "pending", delivery["status"])
	require.Equal(t, "unavailable", delivery["error"])
	require.Equal(t, 0, i.backends.Stop(t, syscall.SIGTERM))
	i.mailsDue(t)
	i.serve(t)
	require.Equal(t, http.StatusCreated, i.accept(t, tokenOf(t, mailed(t, server, "early@example.com", 1))).StatusCode)
}

// text returns the lines of a mail with its encoding undone.
func text(mail smtptest.Mail) string {
	return strings.NewReplacer("=\n", "", "=3D", "=", "=C3=A4", "ä").Replace(mail.Data) // quoted-printable
}

// TestMailsInTheWordsOfTheInstallation has mails in the language that an
// invitation names, and in the words of the installation and of a tenant.
func TestMailsInTheWordsOfTheInstallation(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	put := func(name, content string) {
		path := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	put("de/subject.txt", "Willkommen bei uns\n")
	put("nl/subject.txt", "Uitnodiging\n")
	put("nl/invitation.txt", "Welkom: {{.Link}}\n")
	put("nl/invitation.html", `<p>Welkom: {{.Link}}</p>`)
	put("tenants/2/de/invitation.txt", "Moin aus {{.Tenant}}, {{.Name}}!\n{{.Link}}\n")

	t.Run("they are used", func(t *testing.T) {
		t.Parallel()
		server := smtptest.Start(t, smtptest.Plain)
		i := openInstallation(t, dbtest.SQLite(t), "MAIL_DIR=", "SMTP_URL="+server.URL(), "INVITATION_TEMPLATES="+folder, "INVITATION_LOCALE=nl")
		for _, tt := range []struct {
			tenant, locale string
			has, lacks     []string
		}{
			{"acme", "de-CH", []string{"Subject: Willkommen bei uns\n", "Admin of acme lädt Sie ein, acme beizutreten.", `<html lang="de">`}, []string{"Moin"}},
			{"globex", "de", []string{"Subject: Willkommen bei uns\n", "Moin aus globex, Nina!\n", `<html lang="de">`}, []string{"Guten Tag Nina,\n\nAdmin"}},
			{"globex", "en", []string{"Subject: You are invited\n"}, []string{"Moin", "Willkommen"}},
			{"acme", "", []string{"Subject: Uitnodiging\n", "Welkom: https://app.example.com/invite#token=inv_"}, []string{"Moin", "Guten"}},
		} {
			email := fmt.Sprintf("nina.%s%s@example.com", tt.tenant, tt.locale)
			answer := Call(t, http.MethodPost, i.URL+"/api/invitations/", map[string]string{"email": email, "name": "Nina", "locale": tt.locale},
				i.Login(t, "admin@"+tt.tenant+".test", Password)...)
			require.Equal(t, http.StatusCreated, answer.StatusCode, "%s", answer.Body)
			mail := mailed(t, server, email, 1)
			for _, part := range tt.has {
				require.Contains(t, text(mail), part)
			}
			for _, part := range tt.lacks {
				require.NotContains(t, text(mail), part)
			}
			require.Equal(t, http.StatusOK, Call(t, http.MethodPost, i.URL+"/api/invitations/look/", map[string]string{"token": tokenOf(t, mail)}).StatusCode)
		}
	})

	t.Run("a broken one ends the start, with its place", func(t *testing.T) {
		t.Parallel()
		broken := t.TempDir()
		require.NoError(t, os.CopyFS(broken, os.DirFS(folder)))
		for content, message := range map[string]string{
			"Moin\n{{.Link}}\n{{if .Name}\n": "tenants/2/de/invitation.txt:3",
			"Moin\n{{.Link}} {{.Nmae}}\n":    "tenants/2/de/invitation.txt:2",
			"Moin\n":                         "tenants/2/de/invitation.txt: the text lacks the link",
		} {
			require.NoError(t, os.WriteFile(filepath.Join(broken, "tenants/2/de/invitation.txt"), []byte(content), 0o600))
			cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "backends"), "serve")
			cmd.Env = append(os.Environ(), "DATABASE_URL="+dbtest.SQLite(t), "MAIL_DIR="+filepath.Join(t.TempDir(), "mail"), "INVITATION_TEMPLATES="+broken,
				"AUTH_LISTEN="+FreeAddress(t), "TENANT_LISTEN="+FreeAddress(t), "INVITATION_LISTEN="+FreeAddress(t))
			out, err := cmd.CombinedOutput()
			require.Error(t, err)
			require.Equal(t, 1, strings.Count(string(out), "\n"), "one line: %s", out)
			require.Contains(t, string(out), message)
		}
	})
}
