// Package app wires the backends together: it reads their settings, opens the
// store, serves auth, tenant and invitation in one process and ends them in
// order. `backends serve`, `tenantgate dev` and the end-to-end tests run it.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/tenant"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/password"
)

// The limits of a connection.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
	// healthTimeout is when a store that says nothing counts as gone.
	healthTimeout = 2 * time.Second
)

// App is the backends of one process. [New] opens the store, [App.Listen]
// binds, [App.Run] serves and closes. An App that is not run must be closed.
type App struct {
	config Config
	log    *zap.Logger
	db     *database.DB
	hasher *password.Hasher
	news   *news // nil without Redis
	// metrics is nil if nobody can see them.
	metrics *metrics

	endpoints  []endpoint
	background []func(context.Context) error
	closeOnce  sync.Once
}

// endpoint is one service at its address.
type endpoint struct {
	setting, address, service string
	listener                  net.Listener
	handler                   http.Handler
	log                       *zap.Logger
}

// The services, in the order of App.endpoints. The metrics are there if they have
// an address.
const (
	authEndpoint = iota
	tenantEndpoint
	invitationEndpoint
	metricsEndpoint
)

// New checks config, opens the store and, on SQLite, brings its schema up to
// date; on PostgreSQL an old one is an error. Lines go to log, with the
// service's name added.
func New(ctx context.Context, config Config, log *zap.Logger) (*App, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	db, err := database.Open(ctx, config.DatabaseURL, clock.System{})
	if err != nil {
		return nil, err
	}
	if err := db.MigrateAtStart(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	a := &App{config: config, log: log, db: db, hasher: password.NewHasher(config.HashParallel)}
	a.endpoints = []endpoint{
		authEndpoint:       {setting: "AUTH_LISTEN", address: config.AuthListen, service: "auth-service"},
		tenantEndpoint:     {setting: "TENANT_LISTEN", address: config.TenantListen, service: "tenant-service"},
		invitationEndpoint: {setting: "INVITATION_LISTEN", address: config.InvitationListen, service: "invitation-service"},
	}
	if config.MetricsListen != "" {
		a.metrics = newMetrics(db, config.collectors...)
		a.endpoints = append(a.endpoints, endpoint{setting: "METRICS_LISTEN", address: config.MetricsListen, service: "backends"})
	}
	for i := range a.endpoints {
		a.endpoints[i].log = log.With(zap.String("service", a.endpoints[i].service))
	}
	if a.news, err = newNews(&config, db, a.endpoints[tenantEndpoint].log); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return a, nil
}

// DB returns the store, for seeding and for tests. It is closed by Run.
func (a *App) DB() *database.DB { return a.db }

// Hasher returns what hashes passwords in this process.
func (a *App) Hasher() *password.Hasher { return a.hasher }

// AuthAddr returns the bound address of the auth service, host:port, or "" before Listen.
func (a *App) AuthAddr() string { return a.addr(authEndpoint) }

// TenantAddr returns the bound address of the tenant service, host:port, or "" before Listen.
func (a *App) TenantAddr() string { return a.addr(tenantEndpoint) }

// InvitationAddr returns the bound address of the invitation service, host:port, or "" before Listen.
func (a *App) InvitationAddr() string { return a.addr(invitationEndpoint) }

// MetricsAddr returns the bound address of the metrics, host:port, or "" before
// Listen and if there are none.
func (a *App) MetricsAddr() string { return a.addr(metricsEndpoint) }

func (a *App) addr(i int) string {
	if i >= len(a.endpoints) || a.endpoints[i].listener == nil {
		return ""
	}
	return a.endpoints[i].listener.Addr().String()
}

// Listen binds all addresses and makes the services ready. A failure leaves
// nothing bound, but the store open.
func (a *App) Listen(ctx context.Context) error {
	for i := range a.endpoints {
		e := &a.endpoints[i]
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.address)
		if err != nil {
			a.closeListeners()
			return fmt.Errorf("%s: %w", e.setting, err)
		}
		e.listener = listener
	}
	if err := a.makeServices(ctx); err != nil {
		a.closeListeners()
		return err
	}
	return nil
}

func (a *App) makeServices(ctx context.Context) error {
	c := &a.config
	tenantURL := c.TenantURL
	if tenantURL == "" {
		tenantURL = "http://" + reachable(a.TenantAddr())
	}
	authService, err := auth.New(ctx, auth.Config{
		DB: a.db, Log: a.endpoints[authEndpoint].log, Clock: clock.System{}, Passwords: a.hasher,
		Issuer: c.TokenIssuer, Audience: c.TokenAudience, TenantURL: tenantURL, GatewaySecret: c.GatewaySecret, KeySecret: c.KeySecret,
		AccessTTL: c.AccessTTL, RefreshTTL: c.RefreshTTL, SessionTTL: c.SessionTTL,
	})
	if err != nil {
		return err
	}
	tenantService, err := tenant.New(tenant.Config{
		DB: a.db, Log: a.endpoints[tenantEndpoint].log, Clock: clock.System{}, GatewaySecret: c.GatewaySecret,
	})
	if err != nil {
		return err
	}
	hook, err := c.Webhook(a.db, a.endpoints[invitationEndpoint].log)
	if err != nil {
		return err
	}
	invitationService, err := a.newInvitation(hook)
	if err != nil {
		return err
	}
	a.endpoints[authEndpoint].handler = authService.Handler()
	a.endpoints[tenantEndpoint].handler = tenantService.Handler()
	a.endpoints[invitationEndpoint].handler = invitationService.Handler()
	if a.metrics != nil {
		for i := range a.endpoints[:metricsEndpoint] {
			e := &a.endpoints[i]
			e.handler = a.metrics.observe(e.service, e.handler)
		}
		a.endpoints[metricsEndpoint].handler = a.metrics.handler()
	}
	a.background = []func(context.Context) error{authService.Run, invitationService.Run, hook.Run}
	return nil
}

func (a *App) newInvitation(hook *webhook.Outbox) (*invitation.Service, error) {
	c := &a.config
	templates, err := c.templates()
	if err != nil {
		return nil, fmt.Errorf("INVITATION_TEMPLATES: %w", err)
	}
	publicURL, err := parseHTTP(c.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("PUBLIC_URL: %w", err)
	}
	from, err := c.sender()
	if err != nil {
		return nil, err
	}
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	return invitation.New(invitation.Config{
		DB: a.db, Log: a.endpoints[invitationEndpoint].log, Clock: clock.System{}, GatewaySecret: c.GatewaySecret,
		Hasher: a.hasher, Passwords: password.Policy{MinLength: c.PasswordMin},
		Mail: transport, From: from, PublicURL: publicURL, Product: c.InvitationProduct, Role: c.InvitationRole,
		Lifetime: c.InvitationLifetime, Cooldown: c.InvitationCooldown, Retention: c.InvitationRetention, Random: rand.Reader,
		MailRetry: c.InvitationMailRetry, Limits: c.InvitationLimits, TrustInviters: c.InvitationTrustInviter,
		Locale: c.InvitationLocale, Templates: templates, Webhook: hook,
	})
}

// reachable turns a bound address into one to call: a listener on all
// addresses is called on loopback.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return address
}

// Run serves until ctx ends, and listens first if nobody did. Then requests in
// flight get the time that is set, the background work ends, and the store is
// closed. It returns nil for such an end and the first failure otherwise.
func (a *App) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	if a.AuthAddr() == "" {
		if err := a.Listen(ctx); err != nil {
			return err
		}
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var serving, working sync.WaitGroup
	servers := make([]*http.Server, len(a.endpoints))
	for i := range a.endpoints {
		e := &a.endpoints[i]
		servers[i] = a.server(e)
		e.log.Info("listening", zap.String("address", e.listener.Addr().String()))
		serving.Go(func() {
			if err := servers[i].Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
				fail(&failure{fmt.Errorf("%s: %w", e.service, err)})
			}
		})
	}
	for _, run := range a.background {
		working.Go(func() {
			if err := run(ctx); err != nil {
				fail(&failure{err})
			}
		})
	}
	<-ctx.Done()
	a.shutdown(servers)
	serving.Wait()
	working.Wait()
	var failed *failure
	if errors.As(context.Cause(ctx), &failed) {
		return failed.error
	}
	return nil
}

// failure tells our own end of a context from its parent's.
type failure struct{ error }

// shutdown lets requests in flight end, for as long as is set.
func (a *App) shutdown(servers []*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), a.config.ShutdownTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				a.endpoints[i].log.Warn("requests in flight were cut off", zap.Error(err))
				_ = s.Close()
			}
		})
	}
	wg.Wait()
}

func (a *App) server(e *endpoint) *http.Server {
	return &http.Server{
		Handler: a.withHealth(e.handler), ErrorLog: zap.NewStdLog(e.log),
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
	}
}

// withHealth answers GET /healthz for whoever watches the process, without a
// log line: 200 if the store answers, else 503.
func (a *App) withHealth(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		if err := a.db.Reader().PingContext(ctx); err != nil {
			http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the client is gone if this fails
	})
}

// Close releases what is bound and closes the store. It may be called more
// than once; Run calls it.
func (a *App) Close() error {
	var err error
	a.closeOnce.Do(func() {
		a.closeListeners()
		err = errors.Join(a.news.close(), a.db.Close())
	})
	return err
}

// closeListeners closes what is bound. Serving closes its listener itself, so
// an error says nothing new.
func (a *App) closeListeners() {
	for i := range a.endpoints {
		if listener := a.endpoints[i].listener; listener != nil {
			_ = listener.Close()
			a.endpoints[i].listener = nil
		}
	}
}
