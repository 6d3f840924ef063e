package app

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// transport returns where mails go.
func (c *Config) transport() (invitation.Transport, error) {
	if c.MailDir != "" {
		return invitation.NewFolder(c.MailDir)
	}
	config, err := c.smtp()
	if err != nil {
		return nil, err
	}
	return invitation.NewSMTP(config)
}

// smtp returns the mail server that the settings describe. Its errors never
// quote SMTP_URL, which may hold the password.
func (c *Config) smtp() (invitation.SMTPConfig, error) {
	u, err := url.Parse(c.SMTPURL.Reveal())
	if err != nil || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.Fragment != "" {
		return invitation.SMTPConfig{}, errors.New("SMTP_URL: is not a URL such as smtp://mail.example.com:587")
	}
	config := invitation.SMTPConfig{Host: u.Hostname(), Username: c.SMTPUsername, Password: c.SMTPPassword}
	port := ""
	switch tls := u.Query().Get("tls"); {
	case u.Scheme == "smtp" && tls == "":
		config.TLS, port = invitation.TLSStart, "587"
	case u.Scheme == "smtp" && tls == "none":
		config.TLS, port = invitation.TLSNone, "25"
	case u.Scheme == "smtps" && tls == "":
		config.TLS, port = invitation.TLSImplicit, "465"
	default:
		return invitation.SMTPConfig{}, errors.New("SMTP_URL: use smtp:// (STARTTLS), smtps:// or smtp://…?tls=none")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if config.Port, err = strconv.Atoi(port); err != nil {
		return invitation.SMTPConfig{}, errors.New("SMTP_URL: the port is not a number")
	}
	if u.User != nil {
		if c.SMTPUsername != "" || c.SMTPPassword != "" {
			return invitation.SMTPConfig{}, errors.New("SMTP_URL: names a user, so SMTP_USERNAME and SMTP_PASSWORD must not be set")
		}
		password, _ := u.User.Password()
		config.Username, config.Password = u.User.Username(), secret.String(password)
	}
	if c.SMTPCAFile != "" {
		pem, err := os.ReadFile(c.SMTPCAFile)
		if err != nil {
			return invitation.SMTPConfig{}, fmt.Errorf("SMTP_CA_FILE: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return invitation.SMTPConfig{}, fmt.Errorf("SMTP_CA_FILE: %s holds no certificate", c.SMTPCAFile)
		}
	}
	if _, err := invitation.NewSMTP(config); err != nil {
		return invitation.SMTPConfig{}, fmt.Errorf("SMTP_URL: %w", err)
	}
	return config, nil
}
