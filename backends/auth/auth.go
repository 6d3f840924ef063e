// Package auth is the service that logs users in: it checks passwords, issues
// access tokens (JWT, EdDSA) and refresh tokens, and publishes the keys that
// gateways verify with. README.md lists its routes.
package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The defaults and bounds of the lifetimes in [Config].
const (
	defaultAccessTTL  = 15 * time.Minute
	maxAccessTTL      = 30 * time.Minute
	defaultRefreshTTL = 7 * 24 * time.Hour
	defaultSessionTTL = 30 * 24 * time.Hour
	defaultKeyPoll    = 5 * time.Second
)

// purgeEvery is how often ended sessions are deleted.
const purgeEvery = time.Hour

// callTimeout bounds a call to another service.
const callTimeout = 5 * time.Second

// The throttle of failed logins. A person who mistypes is never stopped; a
// guesser gets ten tries at an account and one more a minute, whatever number
// of addresses they have, and thirty tries from one address and six more a
// minute, whatever number of accounts they try.
const (
	accountBurst = 10
	accountEvery = time.Minute
	addressBurst = 30
	addressEvery = 10 * time.Second
	throttleSize = 1 << 16 // buckets of each kind, about 20 MiB at most
)

// Passwords checks passwords. *password.Hasher implements it.
type Passwords interface {
	// Verify reports whether password has the hash phc, and whether it should
	// be hashed again. An empty phc takes as long and is never right.
	Verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error)
	// Hash returns a new PHC string.
	Hash(ctx context.Context, password string) (phc string, err error)
}

// Config is what a [Service] needs. DB, Log, Clock, Passwords, Issuer and
// Audience are required.
type Config struct {
	DB        *database.DB
	Log       *zap.Logger
	Clock     clock.Clock
	Passwords Passwords
	// Issuer and Audience are the "iss" and "aud" of access tokens.
	Issuer, Audience string
	// TenantURL is the base of the tenant service, "http://127.0.0.1:9002". It
	// is needed for /api/auth/log/ only.
	TenantURL string
	// GatewaySecret, if set, must come with every request but the one for the key set.
	GatewaySecret secret.String
	// KeySecret, if set, seals the signing keys in the database: at least 32
	// random bytes, the same for every instance.
	KeySecret secret.String
	// AccessTTL is the life of an access token: 15 minutes if 0, at most 30.
	AccessTTL time.Duration
	// RefreshTTL is how long a refresh token waits to be used: 7 days if 0.
	RefreshTTL time.Duration
	// SessionTTL is when a user must log in again in any case: 30 days if 0.
	SessionTTL time.Duration
	// KeyPoll is how often the signing keys are read: 5 seconds if 0.
	KeyPoll time.Duration
}

// Service is the auth service. It is safe for concurrent use.
type Service struct {
	config    Config
	sealer    sealer
	keys      atomic.Pointer[keySet]
	accounts  *throttle
	addresses *throttle
	tenant    *server.Client
}

// New returns a service that is ready to serve. It makes the first signing
// keys if the database holds none.
func New(ctx context.Context, config Config) (*Service, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("auth service: %w", err)
	}
	seal, err := newSealer(config.KeySecret)
	if err != nil {
		return nil, fmt.Errorf("auth service: %w", err)
	}
	s := &Service{
		config:    config,
		sealer:    seal,
		accounts:  newThrottle(config.Clock, accountBurst, accountEvery, throttleSize),
		addresses: newThrottle(config.Clock, addressBurst, addressEvery, throttleSize),
		tenant:    server.NewClient(config.TenantURL, config.GatewaySecret, callTimeout),
	}
	if err := ensureKeys(ctx, config.DB, seal); err != nil {
		return nil, fmt.Errorf("auth service: %w", err)
	}
	if err := s.loadKeys(ctx); err != nil {
		return nil, fmt.Errorf("auth service: %w", err)
	}
	return s, nil
}

// complete sets the defaults and checks the rest.
func (c *Config) complete() error {
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"AccessTTL", &c.AccessTTL, defaultAccessTTL},
		{"RefreshTTL", &c.RefreshTTL, defaultRefreshTTL},
		{"SessionTTL", &c.SessionTTL, defaultSessionTTL},
		{"KeyPoll", &c.KeyPoll, defaultKeyPoll},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s is %s: it must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	switch {
	case c.DB == nil || c.Log == nil || c.Clock == nil || c.Passwords == nil:
		return errors.New("DB, Log, Clock and Passwords are required")
	case c.Issuer == "" || c.Audience == "":
		return errors.New("issuer and audience are required")
	case c.AccessTTL < time.Second || c.AccessTTL > maxAccessTTL:
		return fmt.Errorf("AccessTTL is %s: give 1s to %s", c.AccessTTL, maxAccessTTL)
	}
	return nil
}

// Handler returns the service's routes.
func (s *Service) Handler() http.Handler {
	router := server.NewRouter(server.Config{Log: s.config.Log, GatewaySecret: s.config.GatewaySecret, Clock: s.config.Clock})
	router.Public("GET /.well-known/jwks.json", s.jwks)
	router.Handle("POST /api/auth/login", s.login)
	router.Handle("POST /api/auth/refresh", s.refresh)
	router.Handle("POST /api/auth/logout", s.logout)
	router.Handle("POST /api/auth/switch-tenant", s.switchTenant)
	router.Handle("GET /api/auth/me", s.me)
	router.Handle("GET /api/auth/log/{$}", s.logEvent)
	router.Handle("POST /api/auth/log/{$}", s.logEvent)
	return router
}

// Run follows the signing keys and deletes ended sessions until ctx ends. It
// returns nil then: what fails is logged and tried again.
func (s *Service) Run(ctx context.Context) error {
	poll, purge := time.NewTicker(s.config.KeyPoll), time.NewTicker(purgeEvery)
	defer poll.Stop()
	defer purge.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			if err := s.loadKeys(ctx); err != nil && ctx.Err() == nil {
				s.config.Log.Error("signing keys not read, the last ones stay in use", zap.Error(err))
			}
		case <-purge.C:
			if err := s.purgeSessions(ctx); err != nil && ctx.Err() == nil {
				s.config.Log.Error("ended sessions not deleted", zap.Error(err))
			}
		}
	}
}

// loadKeys reads the signing keys and puts them in use if they have changed.
func (s *Service) loadKeys(ctx context.Context) error {
	stored, err := readKeys(ctx, s.config.DB.Reader())
	if err != nil {
		return err
	}
	old := s.keys.Load()
	if old != nil && old.version == version(stored) {
		return nil
	}
	set, err := newKeySet(s.sealer, stored)
	if err != nil {
		return err
	}
	s.keys.Store(set)
	if old != nil {
		s.config.Log.Info("signing keys changed", zap.String("kid", set.kid))
	}
	return nil
}

// jwks answers with the public halves of the current, next and previous key.
func (s *Service) jwks(w http.ResponseWriter, _ *http.Request) error {
	body := s.keys.Load().jwks
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(jwksMaxAge.Seconds())))
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // the client is gone if this fails
	return nil
}
