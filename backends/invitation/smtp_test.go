package invitation_test

import (
	"crypto/x509"
	"net/http"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/smtptest"
)

// heard returns all that was said to the server.
func heard(s *smtptest.Server) string { return strings.Join(s.Commands(), "\n") + "\n" }

func letter() invitation.Mail {
	return invitation.Mail{
		ID: "01890a5d-ac96-774b-bcce-b302099a8057", From: mail.Address{Address: "no-reply@gate.test"}, To: mail.Address{Address: "a@x.test"},
		Subject: "You are invited", Text: "Hello ü\n.\nbye\n", HTML: "<p>Hello ü</p>", Date: start,
	}
}

func TestSMTPDelivers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode   invitation.TLSMode
		server smtptest.Mode
	}{
		"by STARTTLS":               {invitation.TLSStart, smtptest.StartTLS},
		"by TLS from the start":     {invitation.TLSImplicit, smtptest.Implicit},
		"in the clear when told to": {invitation.TLSNone, smtptest.Plain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mode, s := test.mode, smtptest.Start(t, test.server)
			config := invitation.SMTPConfig{Host: "127.0.0.1", Port: s.Port(), TLS: mode, RootCAs: s.Roots()}
			if mode != invitation.TLSNone {
				config.Username, config.Password = "gate", "mail secret"
			}
			transport, err := invitation.NewSMTP(config)
			require.NoError(t, err)
			require.NoError(t, transport.Send(t.Context(), letter()))

			commands, mails := heard(s), s.Mails()
			require.Len(t, mails, 1)
			require.Equal(t, "Hello ü\n.\nbye\n", strings.ReplaceAll(parseMail(t, mails[0].Data).text, "\r", ""))
			protected := ""
			if mode != invitation.TLSNone {
				protected = "tls "
				require.Contains(t, commands, "tls AUTH PLAIN ")
			}
			require.Contains(t, commands, protected+"MAIL FROM:<no-reply@gate.test>")
			require.Contains(t, commands, protected+"RCPT TO:<a@x.test>\n")
		})
	}
}

func TestSMTPFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		replies map[string]string
		reason  string
	}{
		"the recipient is unknown":      {map[string]string{"RCPT": "550 5.1.1 no such user"}, "refused-permanently"},
		"the recipient is greylisted":   {map[string]string{"RCPT": "451 4.7.1 later"}, "refused-temporarily"},
		"the sender is refused":         {map[string]string{"MAIL": "553 5.1.8 not you"}, "refused-permanently"},
		"the server refuses the log-in": {map[string]string{"AUTH": "535 5.7.8 wrong"}, "unavailable"},
		"the server hates everybody":    {map[string]string{"EHLO": "421 4.3.2 closing", "HELO": "421 4.3.2 closing"}, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := smtptest.Start(t, smtptest.StartTLS)
			for verb, reply := range test.replies {
				s.Reply(verb, reply)
			}
			transport, err := invitation.NewSMTP(invitation.SMTPConfig{
				Host: "127.0.0.1", Port: s.Port(), TLS: invitation.TLSStart, RootCAs: s.Roots(), Username: "gate", Password: "mail secret",
			})
			require.NoError(t, err)
			f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Mail = transport })
			a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`)
			require.Equal(t, http.StatusCreated, a.Code, a.Body)
			require.Equal(t, map[bool]string{true: "failed", false: "pending"}[test.reason == "refused-permanently"], a.at("delivery", "status"))
			require.Equal(t, test.reason, a.at("delivery", "error"))
			require.NotContains(t, f.log.String(), "mail secret")
			require.Empty(t, s.Mails())
		})
	}
}

// TestHardening_RFC3207_NoTLSNoMail shows that neither a mail nor a password
// goes over a connection whose TLS was taken away or is not the server's.
func TestHardening_RFC3207_NoTLSNoMail(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		server smtptest.Mode
		change func(*invitation.SMTPConfig)
	}{
		"STARTTLS was stripped":          {smtptest.Plain, func(*invitation.SMTPConfig) {}},
		"the certificate is not trusted": {smtptest.StartTLS, func(c *invitation.SMTPConfig) { c.RootCAs = x509.NewCertPool() }},
		"the certificate is for another": {smtptest.StartTLS, func(c *invitation.SMTPConfig) { c.Host = "localhost" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := smtptest.Start(t, test.server)
			config := invitation.SMTPConfig{Host: "127.0.0.1", Port: s.Port(), TLS: invitation.TLSStart, RootCAs: s.Roots(), Username: "gate", Password: "p"}
			test.change(&config)
			transport, err := invitation.NewSMTP(config)
			require.NoError(t, err)
			var failed *invitation.SendError
			require.ErrorAs(t, transport.Send(t.Context(), letter()), &failed)
			require.Equal(t, "unavailable", failed.Reason)
			require.Empty(t, s.Mails())
			require.NotContains(t, heard(s), "AUTH")
			require.NotContains(t, heard(s), "MAIL")
		})
	}
}

func TestSMTPGivesUpOnAServerThatHangs(t *testing.T) {
	t.Parallel()
	s := smtptest.Start(t, smtptest.Plain)
	s.Reply("RCPT", smtptest.Hang)
	transport, err := invitation.NewSMTP(invitation.SMTPConfig{Host: "127.0.0.1", Port: s.Port(), TLS: invitation.TLSNone, Timeout: 50 * time.Millisecond})
	require.NoError(t, err)
	var failed *invitation.SendError
	require.ErrorAs(t, transport.Send(t.Context(), letter()), &failed)
}

func TestSMTPRefusesBadSettings(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]invitation.SMTPConfig{
		"no host":                     {Port: 25, TLS: invitation.TLSStart},
		"a port that is none":         {Host: "mail.test", Port: 70000, TLS: invitation.TLSStart},
		"an unknown mode":             {Host: "mail.test", Port: 25, TLS: "maybe"},
		"a password without TLS":      {Host: "mail.test", Port: 25, TLS: invitation.TLSNone, Username: "gate", Password: "p"},
		"a mode that was not chosen":  {Host: "mail.test", Port: 25},
		"a user without TLS likewise": {Host: "mail.test", Port: 25, TLS: invitation.TLSNone, Username: "gate"},
	} {
		_, err := invitation.NewSMTP(config)
		require.Error(t, err, name)
	}
}
