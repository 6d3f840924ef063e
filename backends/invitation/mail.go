package invitation

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"net/mail"
	"net/url"
	"strings"
	texttemplate "text/template"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/secret"
)

//go:embed templates
var templateFiles embed.FS

// Transport takes mails away.
type Transport interface {
	// Send delivers m, or hands it to a server that will. An error means that
	// nobody took it; a [*SendError] in its chain says more.
	Send(ctx context.Context, m Mail) error
}

// Mail is one message, alike as text and as HTML.
type Mail struct {
	// ID is unique to the message and safe in a file name.
	ID         string
	From, To   mail.Address
	Subject    string
	Text, HTML string
	Date       time.Time
}

// SendError is a failure whose reason a tenant's admin may see: it names no
// host and quotes nobody.
type SendError struct {
	// Reason is unavailable, refused-temporarily, refused-permanently or failed.
	Reason string
	Err    error
}

// Error names the reason and the cause, for logs.
func (e *SendError) Error() string { return "send mail: " + e.Reason + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SendError) Unwrap() error { return e.Err }

// deliveryReason returns what an invitation shows of a failure.
func deliveryReason(err error) string {
	var e *SendError
	if errors.As(err, &e) {
		return e.Reason
	}
	return "failed"
}

// message returns m in the form of RFC 5322. Every text goes through encoders:
// none can end a header or a part.
func (m Mail) message() (*gomail.Msg, error) {
	_, domain, ok := strings.Cut(m.From.Address, "@")
	if !ok {
		return nil, fmt.Errorf("mail: sender %q has no domain", m.From.Address)
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := msg.FromFormat(m.From.Name, m.From.Address); err != nil {
		return nil, fmt.Errorf("mail: sender: %w", err)
	}
	if err := msg.AddToFormat(m.To.Name, m.To.Address); err != nil {
		return nil, fmt.Errorf("mail: recipient: %w", err)
	}
	msg.Subject(m.Subject)
	msg.SetDateWithValue(m.Date)
	msg.SetMessageIDWithValue(m.ID + "@" + domain)
	// RFC 3834 section 5: no vacation mail in answer to this one.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	return msg, nil
}

// templates are the mails of one locale.
type templates struct {
	subject string
	text    *texttemplate.Template
	html    *htmltemplate.Template
}

// invitationSubject is fixed: a subject with somebody's text in it is a free
// line of advertising (OWASP, e-mail content injection).
const invitationSubject = "You are invited"

func parseTemplates() (*templates, error) {
	text, err := texttemplate.ParseFS(templateFiles, "templates/en/invitation.txt")
	if err != nil {
		return nil, fmt.Errorf("mail template: %w", err)
	}
	html, err := htmltemplate.ParseFS(templateFiles, "templates/en/invitation.html")
	if err != nil {
		return nil, fmt.Errorf("mail template: %w", err)
	}
	return &templates{subject: invitationSubject, text: text, html: html}, nil
}

// invitation returns the mail that carries the token. Name and tenant are made
// harmless again here, because other services store them too. The note is the
// inviter's memo and stays out.
func (t *templates) invitation(inv *record, publicURL *url.URL, token secret.String) (Mail, error) {
	data := map[string]string{
		"Name":    plain(inv.name, maxName),
		"Tenant":  plain(inv.tenantName, maxName),
		"Inviter": plain(inv.inviterName, maxName),
		"Email":   inv.email,
		"Expires": time.UnixMilli(inv.expiresAt).UTC().Format("2 January 2006, 15:04 MST"),
		// The fragment stays in the browser: no log and no Referer has it.
		"Link":   strings.TrimSuffix(publicURL.String(), "/") + "/invite#token=" + token.Reveal(),
		"Accept": strings.TrimSuffix(publicURL.String(), "/") + "/api/invitations/accept/",
		"Token":  token.Reveal(),
	}
	var text, html bytes.Buffer
	if err := t.text.Execute(&text, data); err != nil {
		return Mail{}, fmt.Errorf("mail text: %w", err)
	}
	if err := t.html.Execute(&html, data); err != nil {
		return Mail{}, fmt.Errorf("mail HTML: %w", err)
	}
	// The domain as typed may hold Unicode; a mail server wants the A-label.
	local, _, _ := strings.Cut(inv.email, "@")
	_, domain, _ := strings.Cut(inv.emailKey, "@")
	return Mail{
		ID: identity.NewID(), To: mail.Address{Address: local + "@" + domain},
		Subject: t.subject, Text: text.String(), HTML: html.String(),
	}, nil
}
