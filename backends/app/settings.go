package app

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/mail"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/redisclient"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// Config is everything that can be set. [FromEnv] reads it; the zero value
// lacks the defaults.
type Config struct {
	DatabaseURL string
	// RedisURL, if set, is where gateways are told that the permission table
	// changed, and Namespace is theirs.
	RedisURL  secret.String
	Namespace string

	AuthListen, TenantListen, InvitationListen string
	// MetricsListen, if set, is where Prometheus finds metrics at /metrics.
	MetricsListen string
	// TenantURL is where auth finds the tenant service. Empty: where this
	// process serves it.
	TenantURL string
	// PublicURL is where people reach the gateway; links in mails start with it.
	PublicURL string

	TokenIssuer, TokenAudience        string
	AccessTTL, RefreshTTL, SessionTTL time.Duration

	// GatewaySecret must come with every request. It is required unless all
	// services listen on loopback.
	GatewaySecret secret.String
	// KeySecret seals the signing keys in the database.
	KeySecret secret.String

	// MailDir or SMTPURL says where mails go; exactly one must be set.
	MailDir      string
	SMTPURL      secret.String
	SMTPUsername string
	SMTPPassword secret.String
	SMTPCAFile   string
	// MailFrom is the sender; empty: no-reply at the host of PublicURL.
	MailFrom string

	PasswordMin  int
	HashParallel int

	InvitationProduct  string
	InvitationRole     string
	InvitationLifetime time.Duration
	InvitationCooldown time.Duration
	// InvitationRetention is how long ended invitations are kept, 0 for ever.
	InvitationRetention time.Duration
	// InvitationLimits bound invitations and their mails.
	InvitationLimits       invitation.Limits
	InvitationTrustInviter bool
	// InvitationMailRetry is how long a mail is tried that nobody takes.
	InvitationMailRetry time.Duration
	// InvitationLocale is the mails' language, InvitationTemplates the folder
	// with texts that replace the shipped ones, empty for none.
	InvitationLocale, InvitationTemplates string

	// WebhookURL, if set, is told what happens to invitations, in requests that
	// WebhookSecret signs: one secret or more, the newest first.
	WebhookURL, WebhookSecret secret.String

	LogLevel        zapcore.Level
	ShutdownTimeout time.Duration

	// LokiURL, if set, is where lines go beside stdout, LokiTenant their tenant
	// there, LokiBuffer the folder that holds what Loki has not taken yet.
	LokiURL                secret.String
	LokiTenant, LokiBuffer string
	// Environment is the label "env" of lines in Loki.
	Environment string

	collectors []prometheus.Collector // of what [Config.Ship] has made
}

// Setting is one environment variable.
type Setting struct {
	// Name is the variable. A secret one may also be given as Name_FILE, the
	// path of a file that holds it.
	Name    string
	Default string
	Help    string
	Secret  bool
	set     func(*Config, string) error
}

// Settings returns all settings in the order of their documentation.
func Settings() []Setting {
	parallel := strconv.Itoa(max(2, runtime.GOMAXPROCS(0)))
	return []Setting{
		{"DATABASE_URL", "sqlite://tenantgate.db", "the store: sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE", true, text(func(c *Config) *string { return &c.DatabaseURL })},
		{"REDIS_URL", "", "Redis of the gateways, told of each change of the permission table; empty: they find it by themselves", true, hidden(func(c *Config) *secret.String { return &c.RedisURL })},
		{"NAMESPACE", "tenantgate", "`namespace` of the gateways, for REDIS_URL", false, text(func(c *Config) *string { return &c.Namespace })},
		{"AUTH_LISTEN", "127.0.0.1:9001", "address of the auth service", false, text(func(c *Config) *string { return &c.AuthListen })},
		{"TENANT_LISTEN", "127.0.0.1:9002", "address of the tenant service", false, text(func(c *Config) *string { return &c.TenantListen })},
		{"INVITATION_LISTEN", "127.0.0.1:9003", "address of the invitation service", false, text(func(c *Config) *string { return &c.InvitationListen })},
		{"METRICS_LISTEN", "", "address of Prometheus metrics at /metrics, such as 127.0.0.1:9004; empty: none", false, text(func(c *Config) *string { return &c.MetricsListen })},
		{"TENANT_URL", "", "where auth calls the tenant service; empty: in this process", false, text(func(c *Config) *string { return &c.TenantURL })},
		{"PUBLIC_URL", "http://localhost:8080", "where people reach the gateway; links in mails start with it", false, text(func(c *Config) *string { return &c.PublicURL })},
		{"TOKEN_ISSUER", "tenantgate", "`iss` of access tokens", false, text(func(c *Config) *string { return &c.TokenIssuer })},
		{"TOKEN_AUDIENCE", "tenantgate", "`aud` of access tokens", false, text(func(c *Config) *string { return &c.TokenAudience })},
		{"ACCESS_TTL", "15m", "life of an access token, at most 30m", false, duration(func(c *Config) *time.Duration { return &c.AccessTTL })},
		{"REFRESH_TTL", "168h", "how long a refresh token waits to be used", false, duration(func(c *Config) *time.Duration { return &c.RefreshTTL })},
		{"SESSION_TTL", "720h", "when a user must log in again in any case", false, duration(func(c *Config) *time.Duration { return &c.SessionTTL })},
		{"GATEWAY_SECRET", "", "must come with every request; required unless all services listen on loopback", true, hidden(func(c *Config) *secret.String { return &c.GatewaySecret })},
		{"KEY_ENCRYPTION_SECRET", "", "seals the signing keys in the store: at least 32 random bytes", true, hidden(func(c *Config) *secret.String { return &c.KeySecret })},
		{"MAIL_DIR", "", "folder for mails as .eml files, for development", false, text(func(c *Config) *string { return &c.MailDir })},
		{"SMTP_URL", "", "mail server: smtp://host:587 (STARTTLS), smtps://host:465, or smtp://host:25?tls=none", true, hidden(func(c *Config) *secret.String { return &c.SMTPURL })},
		{"SMTP_USERNAME", "", "log-in name, if it is not in SMTP_URL", false, text(func(c *Config) *string { return &c.SMTPUsername })},
		{"SMTP_PASSWORD", "", "log-in password, if it is not in SMTP_URL", true, hidden(func(c *Config) *secret.String { return &c.SMTPPassword })},
		{"SMTP_CA_FILE", "", "PEM file of the authorities that vouch for the mail server; empty: the system's", false, text(func(c *Config) *string { return &c.SMTPCAFile })},
		{"MAIL_FROM", "", "sender, such as `Acme <no-reply@acme.com>`; empty: no-reply at PUBLIC_URL's host", false, text(func(c *Config) *string { return &c.MailFrom })},
		{"PASSWORD_MIN", "15", "least length of a new password in characters, never below 8", false, number(func(c *Config) *int { return &c.PasswordMin })},
		{"HASH_PARALLEL", parallel, "how many passwords are hashed at once, 19 MiB each; default: one a processor, at least 2", false, number(func(c *Config) *int { return &c.HashParallel })},
		{"INVITATION_PRODUCT", invitation.DefaultProduct, "product whose feature `invitations` guards the invitation API", false, text(func(c *Config) *string { return &c.InvitationProduct })},
		{"INVITATION_ROLE", invitation.DefaultRole, "role of invitations that name none", false, text(func(c *Config) *string { return &c.InvitationRole })},
		{"INVITATION_LIFETIME", "168h", "how long an invitation can be accepted, 1m to 720h", false, duration(func(c *Config) *time.Duration { return &c.InvitationLifetime })},
		{"INVITATION_COOLDOWN", "1m", "least time between two mails of one invitation", false, duration(func(c *Config) *time.Duration { return &c.InvitationCooldown })},
		{"INVITATION_RETENTION", "2160h", "how long an ended invitation is kept after its expiry time; 0: for ever", false, durationOrNone(func(c *Config) *time.Duration { return &c.InvitationRetention })},
		{"INVITATION_LOCALE", invitation.DefaultLocale, "language of invitations that name none: en, de, es, fr or one of INVITATION_TEMPLATES", false, text(func(c *Config) *string { return &c.InvitationLocale })},
		{"INVITATION_TEMPLATES", "", "folder with mail texts that replace the shipped ones, in `<locale>/` and `tenants/<id>/<locale>/`; empty: none", false, text(func(c *Config) *string { return &c.InvitationTemplates })},
		{"INVITATION_MAIL_RETRY", "24h", "how long a mail is tried that the mail server does not take", false, duration(func(c *Config) *time.Duration { return &c.InvitationMailRetry })},
		{"INVITATION_TRUST_INVITERS", "false", "true: an invitation stays good when its inviter may no longer invite", false, truth(func(c *Config) *bool { return &c.InvitationTrustInviter })},
		{"INVITATIONS_PER_INVITER", "100", "how many one user sends in a tenant within an hour; 0: any number", false, number(func(c *Config) *int { return &c.InvitationLimits.PerInviter })},
		{"INVITATIONS_PER_TENANT", "1000", "how many a tenant sends within 24 hours; 0: any number", false, number(func(c *Config) *int { return &c.InvitationLimits.PerTenant })},
		{"INVITATIONS_PENDING", "1000", "how many of a tenant are pending at a time; 0: any number", false, number(func(c *Config) *int { return &c.InvitationLimits.Pending })},
		{"INVITATION_MAILS_PER_ADDRESS", "5", "how many mails go to one address within an hour, from all tenants; more wait; 0: any number", false, number(func(c *Config) *int { return &c.InvitationLimits.PerRecipient })},
		{"INVITATION_TRIES", "120", "how many tokens one client address tries within a minute, on the page or by accept; 0: any number", false, number(func(c *Config) *int { return &c.InvitationLimits.PerAddress })},
		{"WEBHOOK_URL", "", "where events of invitations are sent, http or https; empty: nowhere", true, hidden(func(c *Config) *secret.String { return &c.WebhookURL })},
		{"WEBHOOK_SECRET", "", "signs them: whsec_ and the base64 of 24 to 64 random bytes; several, the newest first, while one is replaced", true, hidden(func(c *Config) *secret.String { return &c.WebhookSecret })},
		{"LOG_LEVEL", "info", "least level of log lines: debug, info, warn or error", false, level},
		{"SHUTDOWN_TIMEOUT", "10s", "how long requests in flight may take after SIGTERM", false, duration(func(c *Config) *time.Duration { return &c.ShutdownTimeout })},
		{"LOKI_URL", "", "Grafana Loki for the lines on stdout, such as http://loki:3100, with user:password@ if need be; empty: none", true, hidden(func(c *Config) *secret.String { return &c.LokiURL })},
		{"LOKI_TENANT", "", "tenant of the lines in Loki (X-Scope-OrgID); empty: none is sent", false, text(func(c *Config) *string { return &c.LokiTenant })},
		{"LOKI_BUFFER", "loki-buffer", "folder for lines that Loki has not taken yet, in which the services have the folder `backends`", false, text(func(c *Config) *string { return &c.LokiBuffer })},
		{"ENVIRONMENT", "production", "label `env` of the lines in Loki", false, text(func(c *Config) *string { return &c.Environment })},
	}
}

// FromEnv returns the configuration that an environment describes; lookup is
// os.LookupEnv. The error names everything that can't be
// read; such settings have their default then.
func FromEnv(lookup func(name string) (string, bool)) (Config, error) {
	var c Config
	var faults []error
	for _, s := range Settings() {
		value, err := s.value(lookup)
		if err == nil {
			err = s.set(&c, value)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", s.Name, err))
			_ = s.set(&c, s.Default) // so that Validate does not name it again
		}
	}
	return c, join(faults)
}

// value returns what the setting is set to: by its variable, by the file that
// Name_FILE names, or by default. An empty variable counts as not set.
func (s Setting) value(lookup func(string) (string, bool)) (string, error) {
	value, _ := lookup(s.Name)
	path, _ := lookup(s.Name + "_FILE")
	switch {
	case path != "" && !s.Secret:
		return "", fmt.Errorf("%s_FILE is not supported: it is no secret", s.Name)
	case path != "" && value != "":
		return "", fmt.Errorf("set it or %s_FILE, not both", s.Name)
	case path != "":
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if value = strings.TrimRight(string(content), "\r\n"); value == "" {
			return "", fmt.Errorf("the file %s is empty", path)
		}
	case value == "":
		return s.Default, nil
	}
	return value, nil
}

// validNamespace is what the gateway's option "namespace" allows.
var validNamespace = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,64}$`)

// Validate returns everything that is wrong with c as one error, nil if it can
// be served.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.RedisURL != "" {
		if _, err := redisclient.Parse(c.RedisURL.Reveal()); err != nil {
			fault("REDIS_URL: %w", err)
		}
	}
	if !validNamespace.MatchString(c.Namespace) {
		fault("NAMESPACE: %q is no namespace of a gateway: use 1 to 64 letters, digits and . _ : -", c.Namespace)
	}
	loopback := true
	for _, l := range []struct{ name, address string }{
		{"AUTH_LISTEN", c.AuthListen}, {"TENANT_LISTEN", c.TenantListen}, {"INVITATION_LISTEN", c.InvitationListen},
	} {
		host, _, err := net.SplitHostPort(l.address)
		if err != nil {
			fault("%s: %q is not host:port", l.name, l.address)
			continue
		}
		ip := net.ParseIP(host)
		loopback = loopback && (host == "localhost" || ip != nil && ip.IsLoopback())
	}
	if _, _, err := net.SplitHostPort(c.MetricsListen); err != nil && c.MetricsListen != "" {
		fault("METRICS_LISTEN: %q is not host:port", c.MetricsListen)
	}
	if !loopback && c.GatewaySecret == "" {
		fault("GATEWAY_SECRET: required, because a service listens beyond loopback and would believe anybody's X-User-Id")
	}
	if n := len(c.GatewaySecret); n > 0 && n < 16 {
		fault("GATEWAY_SECRET: has %d bytes, give at least 16 random ones", n)
	}
	if n := len(c.KeySecret); n > 0 && n < 32 {
		fault("KEY_ENCRYPTION_SECRET: has %d bytes, give at least 32 random ones", n)
	}
	if _, err := parseHTTP(c.PublicURL); err != nil {
		fault("PUBLIC_URL: %w", err)
	}
	if c.TenantURL != "" {
		if _, err := parseHTTP(c.TenantURL); err != nil {
			fault("TENANT_URL: %w", err)
		}
	}
	if c.PasswordMin < 8 {
		fault("PASSWORD_MIN: is %d, NIST SP 800-63B allows no less than 8", c.PasswordMin)
	}
	if c.HashParallel < 1 {
		fault("HASH_PARALLEL: is %d, give at least 1", c.HashParallel)
	}
	if c.AccessTTL < time.Second || c.AccessTTL > 30*time.Minute {
		fault("ACCESS_TTL: is %s, give 1s to 30m", c.AccessTTL)
	}
	if c.InvitationLifetime < time.Minute || c.InvitationLifetime > 30*24*time.Hour {
		fault("INVITATION_LIFETIME: is %s, give 1m to 720h", c.InvitationLifetime)
	}
	if _, err := c.Webhook(new(database.DB), nil); err != nil { // which is not used before it runs
		faults = append(faults, err)
	}
	if _, err := c.templates(); err != nil {
		fault("INVITATION_TEMPLATES: %w", err)
	}
	for _, l := range []struct {
		name string
		n    int
	}{
		{"INVITATIONS_PER_INVITER", c.InvitationLimits.PerInviter},
		{"INVITATIONS_PER_TENANT", c.InvitationLimits.PerTenant},
		{"INVITATIONS_PENDING", c.InvitationLimits.Pending},
		{"INVITATION_MAILS_PER_ADDRESS", c.InvitationLimits.PerRecipient},
		{"INVITATION_TRIES", c.InvitationLimits.PerAddress},
	} {
		if l.n < 0 {
			fault("%s: is %d, give 0 or more", l.name, l.n)
		}
	}
	if err := c.validateShipping(); err != nil {
		faults = append(faults, err)
	}
	return join(append(faults, c.validateMail()...))
}

func (c *Config) validateMail() []error {
	var faults []error
	switch {
	case c.MailDir == "" && c.SMTPURL == "":
		faults = append(faults, errors.New("SMTP_URL: required, or MAIL_DIR for development"))
	case c.MailDir != "" && c.SMTPURL != "":
		faults = append(faults, errors.New("SMTP_URL: set it or MAIL_DIR, not both"))
	case c.SMTPURL != "":
		if _, err := c.smtp(); err != nil {
			faults = append(faults, err)
		}
	}
	if _, err := c.sender(); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// templates returns the folder of mail texts, nil if there is none.
func (c *Config) templates() (fs.FS, error) {
	if c.InvitationTemplates == "" {
		return nil, nil
	}
	root, err := os.OpenRoot(c.InvitationTemplates) // which follows no link out of the folder
	if err != nil {
		return nil, err
	}
	return root.FS(), nil
}

// Webhook returns the outbox of the webhook that is set, nil if none is.
func (c *Config) Webhook(db *database.DB, log *zap.Logger) (*webhook.Outbox, error) {
	switch {
	case c.WebhookURL == "" && c.WebhookSecret == "":
		return nil, nil
	case c.WebhookURL == "":
		return nil, errors.New("WEBHOOK_URL: required, because WEBHOOK_SECRET is set")
	case c.WebhookSecret == "":
		return nil, errors.New("WEBHOOK_SECRET: required, because WEBHOOK_URL is set")
	}
	secrets, err := webhook.ParseSecrets(c.WebhookSecret.Reveal())
	if err != nil {
		return nil, fmt.Errorf("WEBHOOK_SECRET: %w", err)
	}
	outbox, err := webhook.New(webhook.Config{DB: db, Log: log, Clock: clock.System{}, URL: c.WebhookURL.Reveal(), Secrets: secrets})
	if err != nil {
		return nil, fmt.Errorf("WEBHOOK_URL: %w", err)
	}
	return outbox, nil
}

// sender returns the sender of mails.
func (c *Config) sender() (mail.Address, error) {
	if c.MailFrom != "" {
		address, err := mail.ParseAddress(c.MailFrom)
		if err != nil {
			return mail.Address{}, fmt.Errorf("MAIL_FROM: %q is not an address", c.MailFrom)
		}
		return *address, nil
	}
	host := "localhost"
	if u, err := parseHTTP(c.PublicURL); err == nil && net.ParseIP(u.Hostname()) == nil {
		host = u.Hostname()
	}
	return mail.Address{Name: "Tenantgate", Address: "no-reply@" + host}, nil
}

// parseHTTP returns an http or https URL of an origin: the page and the API are
// at the root of it.
func parseHTTP(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not a URL such as https://app.example.com", raw)
	}
	return u, nil
}

// join makes one line of many faults.
func join(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return &faultList{faults}
}

// faultList prints its errors on one line.
type faultList struct{ faults []error }

// Error returns the faults, separated by semicolons.
func (l *faultList) Error() string {
	texts := make([]string, len(l.faults))
	for i, err := range l.faults {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the faults.
func (l *faultList) Unwrap() []error { return l.faults }

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error { *field(c) = value; return nil }
}

func hidden(field func(*Config) *secret.String) func(*Config, string) error {
	return func(c *Config, value string) error { *field(c) = secret.String(value); return nil }
}

func number(field func(*Config) *int) func(*Config, string) error {
	return func(c *Config, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", value)
		}
		*field(c) = n
		return nil
	}
}

func truth(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, value string) error {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		*field(c) = b
		return nil
	}
}

func duration(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration such as 15m or 1h30m", value)
		}
		*field(c) = d
		return nil
	}
}

// durationOrNone is [duration] with 0 allowed.
func durationOrNone(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is neither 0 nor a duration such as 15m or 1h30m", value)
		}
		*field(c) = d
		return nil
	}
}

func level(c *Config, value string) error {
	if err := c.LogLevel.UnmarshalText([]byte(value)); err != nil || c.LogLevel < zapcore.DebugLevel || c.LogLevel > zapcore.ErrorLevel {
		return fmt.Errorf("%q is not debug, info, warn or error", value)
	}
	return nil
}
