package invitation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/tenantgate/tenantgate/internal/secret"
)

// TLSMode says how a connection to the mail server is protected.
type TLSMode string

// The modes of [SMTPConfig].
const (
	// TLSStart asks for TLS by STARTTLS and sends nothing without it (RFC 3207).
	TLSStart TLSMode = "starttls"
	// TLSImplicit speaks TLS from the first byte (RFC 8314).
	TLSImplicit TLSMode = "implicit"
	// TLSNone sends everything in the clear, for a relay on this machine.
	TLSNone TLSMode = "none"
)

// The reasons of a [SendError].
const (
	reasonUnavailable = "unavailable"
	reasonTemporary   = "refused-temporarily"
	reasonPermanent   = "refused-permanently" // the only one that no retry mends
	reasonFailed      = "failed"
)

// defaultSMTPTimeout is the default of SMTPConfig.Timeout.
const defaultSMTPTimeout = 10 * time.Second

// SMTPConfig is where and how mail is handed over.
type SMTPConfig struct {
	Host string
	Port int
	TLS  TLSMode
	// Username and Password log in, unless both are empty.
	Username string
	Password secret.String
	// RootCAs are the authorities that may vouch for the server, the system's if nil.
	RootCAs *x509.CertPool
	// Timeout bounds the dialogue up to the mail, and then the mail: 10 s each if 0.
	Timeout time.Duration
}

// SMTP is a [Transport] to a mail server.
type SMTP struct {
	config SMTPConfig
}

// NewSMTP returns a transport to the server that config describes. It does not
// connect yet.
func NewSMTP(config SMTPConfig) (*SMTP, error) {
	if config.Timeout == 0 {
		config.Timeout = defaultSMTPTimeout
	}
	s := &SMTP{config: config}
	if _, err := s.client(); err != nil {
		return nil, err
	}
	return s, nil
}

// client returns a client for one mail: a kept connection would be cut by the
// server between two invitations.
func (s *SMTP) client() (*gomail.Client, error) {
	c := s.config
	options := []gomail.Option{
		gomail.WithPort(c.Port), gomail.WithTimeout(c.Timeout),
		gomail.WithTLSConfig(&tls.Config{ServerName: c.Host, RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12}),
	}
	switch c.TLS {
	case TLSStart:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case TLSImplicit:
		options = append(options, gomail.WithSSL())
	case TLSNone:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		return nil, fmt.Errorf("mail server: TLS mode %q is not starttls, implicit or none", c.TLS)
	}
	if c.Username != "" || c.Password != "" {
		if c.TLS == TLSNone {
			return nil, errors.New("mail server: a password needs TLS")
		}
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover),
			gomail.WithUsername(c.Username), gomail.WithPassword(c.Password.Reveal()))
	}
	host := c.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // go-mail puts the port behind it as it is
	}
	client, err := gomail.NewClient(host, options...)
	if err != nil {
		return nil, fmt.Errorf("mail server: %w", err)
	}
	return client, nil
}

// Send hands m to the server.
func (s *SMTP) Send(ctx context.Context, m Mail) error {
	msg, err := m.message()
	if err != nil {
		return err
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	err = client.DialAndSendWithContext(ctx, msg)
	if err == nil || msg.IsDelivered() { // a server that took the mail and then hung up did take it
		return nil
	}
	var refused *gomail.SendError
	switch {
	case !errors.As(err, &refused):
		return &SendError{Reason: reasonUnavailable, Err: err}
	case refused.IsTemp():
		return &SendError{Reason: reasonTemporary, Err: err}
	case refused.ErrorCode() >= 500:
		return &SendError{Reason: reasonPermanent, Err: err}
	}
	return &SendError{Reason: reasonFailed, Err: err}
}

var _ Transport = (*SMTP)(nil)
