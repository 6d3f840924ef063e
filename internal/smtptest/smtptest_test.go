package smtptest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/smtp"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/smtptest"
)

const text = "Subject: x\r\n\r\nHello\r\n.\r\nbye\r\n"

// dial connects to a server in its mode.
func dial(t *testing.T, s *smtptest.Server, mode smtptest.Mode) *smtp.Client {
	t.Helper()
	pem, err := os.ReadFile(s.CAFile())
	require.NoError(t, err)
	config := &tls.Config{ServerName: "127.0.0.1", RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	require.True(t, config.RootCAs.AppendCertsFromPEM(pem))
	require.True(t, config.RootCAs.Equal(s.Roots()))

	var c *smtp.Client
	if mode == smtptest.Implicit {
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.Addr())
		require.NoError(t, err)
		c, err = smtp.NewClient(conn, "127.0.0.1")
		require.NoError(t, err)
	} else {
		c, err = smtp.Dial(s.Addr())
		require.NoError(t, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	offered, _ := c.Extension("STARTTLS")
	require.Equal(t, mode == smtptest.StartTLS, offered)
	if offered {
		require.NoError(t, c.StartTLS(config))
	}
	return c
}

// send sends a mail and returns the first refusal.
func send(c *smtp.Client) error {
	if err := c.Mail("from@x.test"); err != nil {
		return err
	}
	for _, to := range []string{"a@x.test", "b@x.test"} {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(text)); err != nil {
		return err
	}
	return w.Close()
}

func TestEveryModeTakesMails(t *testing.T) {
	t.Parallel()
	for mode, want := range map[smtptest.Mode]struct{ before, after, protected string }{
		smtptest.Plain:    {"smtp://", "?tls=none", ""},
		smtptest.StartTLS: {"smtp://", "", "tls "},
		smtptest.Implicit: {"smtps://", "", "tls "},
	} {
		s := smtptest.Start(t, mode)
		require.Equal(t, want.before+s.Addr()+want.after, s.URL())
		c := dial(t, s, mode)
		require.NoError(t, send(c))
		require.NoError(t, send(c))
		require.NoError(t, c.Quit())
		mail := smtptest.Mail{From: "from@x.test", To: []string{"a@x.test", "b@x.test"}, Data: "Subject: x\n\nHello\n.\nbye\n"}
		require.Equal(t, []smtptest.Mail{mail, mail}, s.Mails())
		require.Contains(t, s.Commands(), want.protected+"RCPT TO:<b@x.test>")
	}
}

func TestRepliesChangeWhileItRuns(t *testing.T) {
	t.Parallel()
	s := smtptest.Start(t, smtptest.Plain)
	c := dial(t, s, smtptest.Plain)
	for _, verb := range []string{"MAIL", "RCPT", "DATA", smtptest.Taken} {
		s.Reply(verb, "451 4.7.1 later")
		require.ErrorContains(t, send(c), "4.7.1 later", verb)
		require.Empty(t, s.Mails())
		s.Reply(verb, smtptest.Usual)
		require.NoError(t, c.Reset())
	}
	require.NoError(t, send(c))
	require.Len(t, s.Mails(), 1)
}

func TestItHangsUntilTold(t *testing.T) {
	t.Parallel()
	for verb, taken := range map[string]int{"RCPT": 0, smtptest.Taken: 1} {
		s := smtptest.Start(t, smtptest.Plain)
		s.Reply(verb, smtptest.Hang)
		c, result := dial(t, s, smtptest.Plain), make(chan error, 1)
		go func() { result <- send(c) }()
		require.Eventually(t, func() bool { return len(s.Commands()) >= 3 && len(s.Mails()) == taken }, 10*time.Second, time.Millisecond)
		s.Reply("MAIL", "250 fine") // another verb: it goes on hanging
		require.Empty(t, result)
		s.Reply(verb, smtptest.Usual)
		require.NoError(t, <-result)
		require.Len(t, s.Mails(), 1)
	}
}

// TestItDropsTheConnection shows both kinds of a lost mail: one that the server
// has, and one that it has not.
func TestItDropsTheConnection(t *testing.T) {
	t.Parallel()
	for verb, taken := range map[string]int{"DATA": 0, smtptest.Taken: 1} {
		s := smtptest.Start(t, smtptest.Plain)
		s.Reply(verb, smtptest.Drop)
		require.Error(t, send(dial(t, s, smtptest.Plain)), verb)
		require.Len(t, s.Mails(), taken, verb)
		s.Reply(verb, smtptest.Usual)
		require.NoError(t, send(dial(t, s, smtptest.Plain)))
	}
}

// TestAServerThatHangsEndsWithItsTest has nobody tell it to go on.
func TestAServerThatHangsEndsWithItsTest(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	t.Run("a test", func(t *testing.T) {
		s := smtptest.Start(t, smtptest.Plain)
		s.Reply("MAIL", smtptest.Hang)
		c := dial(t, s, smtptest.Plain)
		go func() { result <- send(c) }()
		require.Eventually(t, func() bool { return len(s.Commands()) == 2 }, 10*time.Second, time.Millisecond)
	})
	require.Error(t, <-result)
}
