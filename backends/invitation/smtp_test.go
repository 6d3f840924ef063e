package invitation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/mail"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// mailServer is a small SMTP server (RFC 5321) on loopback.
type mailServer struct {
	port     int
	roots    *x509.CertPool
	tls      *tls.Config
	starttls bool              // offers STARTTLS
	replies  map[string]string // answer to a verb instead of the usual one; "" hangs

	mu       sync.Mutex
	mails    []string
	commands []string // each with "tls " in front when protected
}

// newMailServer starts a server that stops with the test.
func newMailServer(t *testing.T, implicit, starttls bool, replies map[string]string) *mailServer {
	t.Helper()
	certificate, roots := selfSigned(t)
	s := &mailServer{
		roots: roots, tls: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		starttls: starttls, replies: replies,
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.port = listener.Addr().(*net.TCPAddr).Port
	if implicit {
		listener = tls.NewListener(listener, s.tls)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			wg.Go(func() { s.talk(ctx, conn, implicit) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		wg.Wait()
	})
	return s
}

// talk serves one connection.
func (s *mailServer) talk(ctx context.Context, conn net.Conn, protected bool) {
	defer func() { _ = conn.Close() }()
	text := textproto.NewConn(conn)
	say := func(line string) { _ = text.PrintfLine("%s", line) }
	say("220 mail.test ESMTP")
	for {
		line, err := text.ReadLine()
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		s.note(line, protected)
		if reply, ok := s.replies[verb]; ok {
			if reply == "" {
				<-ctx.Done()
				return
			}
			say(reply)
			continue
		}
		switch verb {
		case "EHLO":
			say("250-mail.test")
			if s.starttls && !protected {
				say("250-STARTTLS")
			}
			say("250-AUTH PLAIN")
			say("250 ENHANCEDSTATUSCODES")
		case "STARTTLS":
			say("220 go on")
			conn = tls.Server(conn, s.tls)
			text, protected = textproto.NewConn(conn), true
		case "DATA":
			say("354 go on")
			body, err := text.ReadDotBytes()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.mails = append(s.mails, string(body))
			s.mu.Unlock()
			say("250 2.0.0 taken")
		case "AUTH":
			say("235 2.7.0 welcome")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 2.0.0 fine")
		}
	}
}

func (s *mailServer) note(line string, protected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if protected {
		line = "tls " + line
	}
	s.commands = append(s.commands, line)
}

// heard returns all that was said to the server, and the mails it took.
func (s *mailServer) heard() (commands string, mails []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.commands, "\n") + "\n", s.mails
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func letter() invitation.Mail {
	return invitation.Mail{
		ID: "01890a5d-ac96-774b-bcce-b302099a8057", From: mail.Address{Address: "no-reply@gate.test"}, To: mail.Address{Address: "a@x.test"},
		Subject: "You are invited", Text: "Hello ü\n.\nbye\n", HTML: "<p>Hello ü</p>", Date: start,
	}
}

func TestSMTPDelivers(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]invitation.TLSMode{
		"by STARTTLS": invitation.TLSStart, "by TLS from the start": invitation.TLSImplicit, "in the clear when told to": invitation.TLSNone,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newMailServer(t, mode == invitation.TLSImplicit, mode == invitation.TLSStart, nil)
			config := invitation.SMTPConfig{Host: "127.0.0.1", Port: s.port, TLS: mode, RootCAs: s.roots}
			if mode != invitation.TLSNone {
				config.Username, config.Password = "gate", "mail secret"
			}
			transport, err := invitation.NewSMTP(config)
			require.NoError(t, err)
			require.NoError(t, transport.Send(t.Context(), letter()))

			commands, mails := s.heard()
			require.Len(t, mails, 1)
			require.Equal(t, "Hello ü\n.\nbye\n", strings.ReplaceAll(parseMail(t, mails[0]).text, "\r", ""))
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
			s := newMailServer(t, false, true, test.replies)
			transport, err := invitation.NewSMTP(invitation.SMTPConfig{
				Host: "127.0.0.1", Port: s.port, TLS: invitation.TLSStart, RootCAs: s.roots, Username: "gate", Password: "mail secret",
			})
			require.NoError(t, err)
			f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.Mail = transport })
			a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`)
			require.Equal(t, http.StatusCreated, a.Code, a.Body)
			require.Equal(t, "failed", a.at("delivery", "status"))
			require.Equal(t, test.reason, a.at("delivery", "error"))
			require.NotContains(t, f.log.String(), "mail secret")
			_, mails := s.heard()
			require.Empty(t, mails)
		})
	}
}

// TestHardening_RFC3207_NoTLSNoMail shows that neither a mail nor a password
// goes over a connection whose TLS was taken away or is not the server's.
func TestHardening_RFC3207_NoTLSNoMail(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mailServer, *invitation.SMTPConfig){
		"STARTTLS was stripped":          func(s *mailServer, _ *invitation.SMTPConfig) { s.starttls = false },
		"the certificate is not trusted": func(_ *mailServer, c *invitation.SMTPConfig) { c.RootCAs = x509.NewCertPool() },
		"the certificate is for another": func(_ *mailServer, c *invitation.SMTPConfig) { c.Host = "localhost" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newMailServer(t, false, true, nil)
			config := invitation.SMTPConfig{Host: "127.0.0.1", Port: s.port, TLS: invitation.TLSStart, RootCAs: s.roots, Username: "gate", Password: "p"}
			change(s, &config)
			transport, err := invitation.NewSMTP(config)
			require.NoError(t, err)
			var failed *invitation.SendError
			require.ErrorAs(t, transport.Send(t.Context(), letter()), &failed)
			require.Equal(t, "unavailable", failed.Reason)
			commands, mails := s.heard()
			require.Empty(t, mails)
			require.NotContains(t, commands, "AUTH")
			require.NotContains(t, commands, "MAIL")
		})
	}
}

func TestSMTPGivesUpOnAServerThatHangs(t *testing.T) {
	t.Parallel()
	s := newMailServer(t, false, false, map[string]string{"RCPT": ""})
	transport, err := invitation.NewSMTP(invitation.SMTPConfig{Host: "127.0.0.1", Port: s.port, TLS: invitation.TLSNone, Timeout: 50 * time.Millisecond})
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
