// Package smtptest gives a test a small mail server (RFC 5321) on loopback,
// which takes every mail unless it is told to refuse, hang or hang up. Only
// tests import it.
package smtptest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Mode says how connections are protected.
type Mode int

// The modes of [Start].
const (
	// Plain offers no TLS.
	Plain Mode = iota
	// StartTLS offers STARTTLS and does not insist on it.
	StartTLS
	// Implicit speaks TLS from the first byte.
	Implicit
)

// What [Server.Reply] takes besides replies.
const (
	// Usual is the reply without which a verb is answered as usual.
	Usual = ""
	// Hang says nothing until the verb has another reply.
	Hang = "hang"
	// Drop closes the connection.
	Drop = "drop"
)

// Taken stands for the end of a mail among the verbs of [Server.Reply]. With
// Hang and Drop the mail is taken, and the client does not hear of it.
const Taken = "."

// Mail is a mail that the server took.
type Mail struct {
	// From and To are the addresses of its envelope.
	From string
	To   []string
	// Data is the mail itself, with lines that end in "\n".
	Data string
}

// Server is a running mail server. It is safe for concurrent use.
type Server struct {
	mode     Mode
	listener net.Listener
	tls      *tls.Config
	roots    *x509.CertPool
	caFile   string

	mu       sync.Mutex
	replies  map[string]string
	changed  chan struct{} // closed when replies change
	mails    []Mail
	commands []string
}

// Start starts a server that ends with the test.
func Start(tb testing.TB, mode Mode) *Server {
	tb.Helper()
	s := &Server{mode: mode, roots: x509.NewCertPool(), replies: map[string]string{}, changed: make(chan struct{})}
	certificate, der, err := selfSigned()
	if err != nil {
		tb.Fatal(err)
	}
	s.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.roots.AppendCertsFromPEM(authority)
	s.caFile = filepath.Join(tb.TempDir(), "ca.pem")
	if err := os.WriteFile(s.caFile, authority, 0o600); err != nil {
		tb.Fatal(err)
	}
	if s.listener, err = (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			wg.Go(func() { s.serve(ctx, conn) })
		}
	})
	tb.Cleanup(func() {
		stop()
		_ = s.listener.Close()
		wg.Wait()
	})
	return s
}

// Addr returns the address as host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Port returns the port, which is on 127.0.0.1.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// URL returns the server as the setting SMTP_URL names it.
func (s *Server) URL() string {
	switch s.mode {
	case Implicit:
		return "smtps://" + s.Addr()
	case StartTLS:
		return "smtp://" + s.Addr()
	default:
		return "smtp://" + s.Addr() + "?tls=none"
	}
}

// Roots returns the authority that vouches for the server at 127.0.0.1.
func (s *Server) Roots() *x509.CertPool { return s.roots }

// CAFile returns a PEM file with that authority, for the setting SMTP_CA_FILE.
func (s *Server) CAFile() string { return s.caFile }

// Reply has every verb ("RCPT", or [Taken]) answered from now on by reply, such
// as "451 4.7.1 later", or by [Usual], [Hang] or [Drop].
func (s *Server) Reply(verb, reply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies[verb] = reply
	close(s.changed)
	s.changed = make(chan struct{})
}

// Mails returns the mails that the server took, the oldest first.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Commands returns the lines that clients said, but for their mails, each with
// "tls " in front if the connection was protected.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// reply returns what is said to a verb, Usual or Drop. It waits while it is Hang.
func (s *Server) reply(ctx context.Context, verb string) string {
	for {
		reply, changed := s.now(verb)
		if reply != Hang {
			return reply
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Drop
		}
	}
}

// now returns what Reply set for a verb, and what is closed when that may change.
func (s *Server) now(verb string) (reply string, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replies[verb], s.changed
}

// session is one connection.
type session struct {
	*Server
	conn      net.Conn
	text      *textproto.Conn
	protected bool
	mail      Mail // what is known of the next one
}

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	c := &session{Server: s, conn: conn, protected: s.mode == Implicit}
	if c.protected {
		c.conn = tls.Server(conn, s.tls)
	}
	defer func() { _ = c.conn.Close() }()
	c.text = textproto.NewConn(c.conn)
	c.say("220 mail.test ESMTP")
	for c.command(ctx) {
	}
}

// say sends a line. A client that has gone is found out at its next command.
func (c *session) say(line string) { _ = c.text.PrintfLine("%s", line) }

// command answers one command and reports whether to go on.
func (c *session) command(ctx context.Context) bool {
	line, err := c.text.ReadLine()
	if err != nil {
		return false
	}
	c.note(line)
	verb, argument, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	switch reply := c.reply(ctx, verb); reply {
	case Usual:
		return c.usual(ctx, verb, argument)
	case Drop:
		return false
	default:
		c.say(reply)
		return true
	}
}

func (c *session) usual(ctx context.Context, verb, argument string) bool {
	switch verb {
	case "EHLO":
		c.say("250-mail.test")
		if c.mode == StartTLS && !c.protected {
			c.say("250-STARTTLS")
		}
		c.say("250-AUTH PLAIN")
		c.say("250 ENHANCEDSTATUSCODES")
	case "STARTTLS":
		c.say("220 go on")
		c.conn = tls.Server(c.conn, c.tls)
		c.text, c.protected = textproto.NewConn(c.conn), true
	case "AUTH":
		c.say("235 2.7.0 welcome")
	case "DATA":
		return c.data(ctx)
	case "QUIT":
		c.say("221 bye")
		return false
	case "MAIL":
		c.mail = Mail{From: address(argument)}
		c.say("250 2.1.0 fine")
	case "RCPT":
		c.mail.To = append(c.mail.To, address(argument))
		c.say("250 2.1.5 fine")
	default:
		c.say("250 2.0.0 fine")
	}
	return true
}

// data takes a mail.
func (c *session) data(ctx context.Context) bool {
	c.say("354 go on")
	data, err := c.text.ReadDotBytes()
	if err != nil {
		return false
	}
	c.mail.Data = string(data)
	reply, _ := c.now(Taken)
	if reply == Usual || reply == Hang || reply == Drop {
		c.mu.Lock()
		c.mails = append(c.mails, c.mail)
		c.mu.Unlock()
	}
	if reply == Hang {
		reply = c.reply(ctx, Taken)
	}
	switch reply {
	case Usual:
		c.say("250 2.0.0 taken")
	case Drop:
		return false
	default:
		c.say(reply)
	}
	return true
}

func (c *session) note(line string) {
	if c.protected {
		line = "tls " + line
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands = append(c.commands, line)
}

// address returns the address of "FROM:<a@x.test> BODY=8BITMIME".
func address(argument string) string {
	_, rest, _ := strings.Cut(argument, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}

// selfSigned returns a certificate for 127.0.0.1 that vouches for itself.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, der, err
}
