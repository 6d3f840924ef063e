package invitation

import (
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
	"golang.org/x/text/language"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// mailFiles are the mails, a folder for each locale.
//
//go:embed templates/*/invitation.* templates/*/subject.txt
var mailFiles embed.FS

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
	return reasonFailed
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

// templates are the mails of all locales, with what the installation and the
// tenants say instead.
type templates struct {
	fallback     string   // the locale of invitations that name none
	names        []string // of all locales, sorted
	matcher      language.Matcher
	installation map[string]*wording           // by locale
	tenants      map[int64]map[string]*wording // of the tenants that say something else
}

// wording is the mail in one locale.
type wording struct {
	// subject is fixed: a subject with somebody's text in it is a free line of
	// advertising (OWASP, e-mail content injection).
	subject string
	text    *texttemplate.Template
	html    *htmltemplate.Template
}

// mailData is what templates may show: one line of plain text each.
type mailData struct {
	Name    string // the invited person's, or empty
	Tenant  string
	Inviter string // may be empty
	Email   string // the invited address as typed
	Expires string // when the invitation ends, in the form of the locale
	Link    string // the page that accepts it, with the token in the fragment
	Accept  string // the URL of the API call that accepts it
	Token   string
	Locale  string // such as "de"
}

// invitation returns the mail that carries the token, in the invitation's
// locale or the default one. Name and tenant are made harmless again here,
// because other services store them too. The note is the inviter's memo and
// stays out.
func (t *templates) invitation(inv *record, publicURL *url.URL, token secret.String) (Mail, error) {
	locale, ok := t.locale(inv.locale)
	if !ok {
		locale = t.fallback
	}
	words := t.installation[locale]
	if own := t.tenants[inv.tenantID]; own != nil {
		words = own[locale]
	}
	base := strings.TrimSuffix(publicURL.String(), "/")
	text, html, err := words.render(mailData{
		Name:    plain(inv.name, maxName),
		Tenant:  plain(inv.tenantName, maxName),
		Inviter: plain(inv.inviterName, maxName),
		Email:   inv.email,
		Expires: formatExpiry(time.UnixMilli(inv.expiresAt).UTC(), locale),
		Link:    link(publicURL, token),
		Accept:  base + "/api/invitations/accept/",
		Token:   token.Reveal(),
		Locale:  locale,
	})
	if err != nil {
		return Mail{}, err
	}
	// The domain as typed may hold Unicode; a mail server wants the A-label.
	local, _, _ := strings.Cut(inv.email, "@")
	_, domain, _ := strings.Cut(inv.emailKey, "@")
	return Mail{
		ID: identity.NewID(), To: mail.Address{Address: local + "@" + domain},
		Subject: words.subject, Text: text, HTML: html,
	}, nil
}

// render fills in both parts. HTML is escaped by its context.
func (w *wording) render(data mailData) (text, html string, err error) {
	var t, h strings.Builder
	if err := w.text.Execute(&t, data); err != nil {
		return "", "", fmt.Errorf("mail text: %w", err)
	}
	if err := w.html.Execute(&h, data); err != nil {
		return "", "", fmt.Errorf("mail HTML: %w", err)
	}
	return t.String(), h.String(), nil
}
