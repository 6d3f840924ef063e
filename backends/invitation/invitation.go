// Package invitation is the backend that brings people into a tenant: it makes
// invitations, mails their links, and turns an accepted one into a user and a
// membership.
//
// An invitation is pending until it is accepted, cancelled or expired, and
// then never changes again. Every transition is one guarded UPDATE judged by
// the rows it changed, in the transaction that also writes what follows from it:
// the audit row, the webhook's event, and the outbox from which its mail goes
// out, as often as it takes. The token is in the mail alone: the store has its
// hash.
package invitation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/mail"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/password"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The defaults of [Config] and the limits that are no settings.
const (
	DefaultLifetime = 7 * 24 * time.Hour
	DefaultCooldown = time.Minute
	DefaultProduct  = "abc"
	DefaultRole     = "Viewer"
	DefaultLocale   = "en"
	// DefaultMailRetry is how long a mail is tried that nobody takes.
	DefaultMailRetry = 24 * time.Hour

	// maxSends is how many mails one invitation may cause.
	maxSends = 10
	// sweepEvery is how often [Service.Run] makes expiry durable.
	sweepEvery = time.Minute
)

// Hasher hashes passwords; *password.Hasher is the one to use. Both methods
// bound how many of them run at once and return the context's error if it ends
// first.
type Hasher interface {
	// Hash returns the PHC string of a password.
	Hash(ctx context.Context, password string) (phc string, err error)
	// Verify reports whether password has the hash phc.
	Verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error)
}

// Config is what a [Service] needs. Fields without a default are required.
type Config struct {
	DB            *database.DB
	Log           *zap.Logger
	Clock         clock.Clock
	GatewaySecret secret.String
	Hasher        Hasher
	Passwords     password.Policy
	// Mail delivers the invitations' mails.
	Mail Transport
	// From is the sender of the mails.
	From mail.Address
	// PublicURL is where people reach the gateway, such as https://app.example.com.
	// Links are made of it and of nothing that a request says.
	PublicURL *url.URL
	// Product is the one whose feature "invitations" guards this API, "abc" if empty.
	Product string
	// Role is the role of invitations that name none, "Viewer" if empty.
	Role string
	// Lifetime is how long an invitation can be accepted, 7 days if 0.
	Lifetime time.Duration
	// Cooldown is the least time between two mails of one invitation, a minute if 0.
	Cooldown time.Duration
	// Retention is how long an invitation is kept after it has ended, counted
	// from the time until which it could have been accepted; 0 keeps it for ever.
	Retention time.Duration
	// MailRetry is how long a mail is tried that nobody takes, a day if 0.
	MailRetry time.Duration
	// Limits bound how many invitations are made and mails sent.
	Limits Limits
	// TrustInviters says that an invitation stays good when its inviter may no
	// longer make it.
	TrustInviters bool
	// Locale is the language of mails whose invitation names none, "en" if empty.
	Locale string
	// Templates holds texts that replace the shipped ones, nil for none.
	Templates fs.FS
	// Webhook is told what happens to invitations, nil for nobody.
	Webhook *webhook.Outbox
	// Random is where tokens come from: crypto/rand.Reader.
	Random io.Reader
}

// Service is the invitation backend.
type Service struct {
	config  Config
	router  *server.Router
	mails   *templates
	outbox  *outbox
	guesses *throttle // of passwords, by account
	callers *throttle // of looks and accepts, by client address
	read    string    // the permission for reading calls
	write   string    // the permission for changing ones
}

// New returns the service that config describes.
func New(config Config) (*Service, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("invitation service: %w", err)
	}
	mails, err := parseTemplates(config.Templates, config.Locale)
	if err != nil {
		return nil, fmt.Errorf("invitation service: %w", err)
	}
	invite, err := newPage(pageFiles, config.Locale)
	if err != nil {
		return nil, fmt.Errorf("invitation service: page: %w", err)
	}
	s := &Service{
		config:  config,
		mails:   mails,
		outbox:  newOutbox(),
		guesses: newThrottle(maxGuesses, guessWindow),
		callers: newThrottle(config.Limits.PerAddress, addressWindow),
		read:    config.Product + "/invitations/read",
		write:   config.Product + "/invitations/write",
	}
	s.router = server.NewRouter(server.Config{Log: config.Log, GatewaySecret: config.GatewaySecret, Clock: config.Clock})
	s.router.Handle("POST /api/invitations/{$}", s.create)
	s.router.Handle("POST /api/invitations/bulk/{$}", s.bulk)
	s.router.Handle("GET /api/invitations/{$}", s.list)
	s.router.Handle("GET /api/invitations/{id}/{$}", s.get)
	s.router.Handle("POST /api/invitations/{id}/cancel/{$}", s.cancel)
	s.router.Handle("POST /api/invitations/{id}/resend/{$}", s.resend)
	s.router.Handle("POST /api/invitations/look/{$}", s.look)
	s.router.Handle("POST /api/invitations/accept/{$}", s.accept)
	s.router.Handle("GET /invite/{$}", invite.serve)
	return s, nil
}

// complete fills in the defaults and refuses what can't work.
func (c *Config) complete() error {
	if c.Product == "" {
		c.Product = DefaultProduct
	}
	if c.Role == "" {
		c.Role = DefaultRole
	}
	if c.Lifetime == 0 {
		c.Lifetime = DefaultLifetime
	}
	if c.Cooldown == 0 {
		c.Cooldown = DefaultCooldown
	}
	if c.MailRetry == 0 {
		c.MailRetry = DefaultMailRetry
	}
	if c.Locale == "" {
		c.Locale = DefaultLocale
	}
	switch {
	case c.DB == nil || c.Log == nil || c.Clock == nil || c.Hasher == nil || c.Mail == nil || c.Random == nil:
		return errors.New("the store, log, clock, hasher, mail transport and random source are required")
	case c.PublicURL == nil || (c.PublicURL.Scheme != "https" && c.PublicURL.Scheme != "http") || c.PublicURL.Host == "":
		return errors.New("the public URL must be an http or https URL with a host")
	case c.Lifetime < time.Minute || c.Lifetime > 30*24*time.Hour:
		return fmt.Errorf("the lifetime of an invitation must be from 1m to 720h, not %s", c.Lifetime)
	case c.Cooldown < 0:
		return fmt.Errorf("the cooldown must not be negative, not %s", c.Cooldown)
	case c.Retention < 0:
		return fmt.Errorf("the retention must not be negative, not %s", c.Retention)
	case c.MailRetry < 0:
		return fmt.Errorf("the time for which a mail is tried must not be negative, not %s", c.MailRetry)
	}
	return c.Limits.check()
}

// Handler returns the service's HTTP API.
func (s *Service) Handler() http.Handler { return s.router }

// Run makes expiry durable and deletes what has ended long ago, every minute,
// and sends the mails of the outbox, until ctx ends; then it returns nil. Mails
// that are on their way get a few seconds to end.
func (s *Service) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { s.sendDue(ctx) })
	work.Go(func() { s.sweepOften(ctx) })
	work.Wait()
	return nil
}

func (s *Service) sweepOften(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		s.sweep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
