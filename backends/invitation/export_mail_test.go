package invitation

import (
	"io/fs"
	"net/url"
	"time"

	"github.com/tenantgate/tenantgate/internal/secret"
)

// Templates are the mails of all locales.
type Templates struct{ t *templates }

// ParseTemplates is parseTemplates.
func ParseTemplates(overrides fs.FS, defaultLocale string) (Templates, error) {
	t, err := parseTemplates(overrides, defaultLocale)
	return Templates{t}, err
}

// Locale is templates.locale.
func (t Templates) Locale(text string) (string, bool) { return t.t.locale(text) }

// Locales is templates.locales.
func (t Templates) Locales() []string { return t.t.locales() }

// Invited is what a mail tells of an invitation.
type Invited struct {
	TenantID                             int64
	Locale, Tenant, Inviter, Name, Email string
	Expires                              time.Time
}

// Mail is templates.invitation.
func (t Templates) Mail(i Invited, publicURL *url.URL, token secret.String) (Mail, error) {
	return t.t.invitation(&record{
		tenantID: i.TenantID, locale: i.Locale, tenantName: i.Tenant, inviterName: i.Inviter, name: i.Name,
		email: i.Email, emailKey: i.Email, expiresAt: i.Expires.UnixMilli(),
	}, publicURL, token)
}
