// Package breaker guards the upstreams of reverse_proxy with circuit breakers:
// a transport that sees every attempt, a load-balancing policy that goes around
// open circuits, and the directive breaker_proxy that sets up both.
package breaker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	core "github.com/tenantgate/tenantgate/internal/breaker"
)

func init() {
	caddy.RegisterModule(new(Transport))
	caddy.RegisterModule(new(Selection))
	caddy.RegisterModule(Handler{})
}

// Transport is the HTTP transport of reverse_proxy behind a circuit breaker.
// Each upstream address has a circuit of its own; it opens after too many
// failures in a sliding window and is then not called for a while: the request
// ends with status 503 and the time left, or at another upstream if there are retries.
//
// A failure is an attempt that ends in a dial error, a timeout, a TLS error, a
// broken connection or one of the configured statuses. A client that goes away
// or sends a broken body is none, nor is any other status.
//
// All the options of the transport "http" are available beside these.
type Transport struct {
	reverseproxy.HTTPTransport

	// Name names the breaker. Breakers of the same name share their circuits,
	// over all sites and over reloads, and must have the same settings. Required:
	// 1 to 64 letters, digits, dots, dashes and underscores.
	Name string `json:"name"`
	// Breaker holds the settings. Without it they are the defaults.
	Breaker *Config `json:"breaker,omitempty"`
	// Upstreams lists addresses that have a circuit before the first request comes:
	// operators see them and can give them orders. Others get theirs when they are used.
	Upstreams []string `json:"upstreams,omitempty"`

	membership *membership
	failing    *[600]bool // by status
	logger     *slog.Logger
	overflow   sync.Once // tells once that there are too many upstreams
	counters   *counters // valid for ever, for requests that outlive the transport
	uncount    func()    // gives them up

	sending sync.RWMutex // locked for reading by requests that wait for their response
	left    atomic.Bool  // Cleanup has run
}

// CaddyModule returns the Caddy module information.
func (*Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.breaker",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision builds the HTTP transport and joins the breakers of the name.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.logger = ctx.Slogger()
	if err := t.check(); err != nil {
		return err
	}
	if t.Breaker == nil {
		t.Breaker = new(Config)
	}
	t.boundWaits()
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	t.failing = t.Breaker.failing()
	settings := t.Breaker.settings()
	settings.Lease = t.lease()
	listener, err := t.observe(ctx, settings.Shadow)
	if err != nil {
		return err
	}
	t.membership, err = join(ctx, t.Name, &core.Member{Settings: &settings, Listener: listener, Upstreams: t.named()})
	if err != nil {
		return err
	}
	lint(t.logger, t.Name, settings, t.membership.group, t.membership.hasRedis)
	t.membership.onStart(t.guardUpstreams)
	return nil
}

// guardUpstreams makes the circuits of the upstreams that are known. Those of a
// gateway that was started anew are as Redis has them before any request comes.
func (t *Transport) guardUpstreams() {
	for _, name := range t.named() {
		t.membership.group.Breaker(name, "")
	}
}

// named returns the upstreams that are known as circuits know them.
func (t *Transport) named() (names []string) {
	for _, dial := range t.Upstreams {
		if name, ok := dialName(dial); ok { // else reverse_proxy says so
			names = append(names, name)
		}
	}
	return names
}

// check reports the first mistake in the breaker's part of the configuration.
func (t *Transport) check() error {
	if err := checkName(t.Name); err != nil {
		return err
	}
	if t.Breaker == nil {
		return nil
	}
	if err := t.Breaker.check(); err != nil {
		return fmt.Errorf("breaker %q: %w", t.Name, err)
	}
	own, timeout := time.Duration(t.ResponseHeaderTimeout), t.Breaker.responseTimeout()
	if own != 0 && t.Breaker.ResponseTimeout != 0 && own != timeout {
		return fmt.Errorf("breaker %q: response_header_timeout is %s but response_timeout is %s; give one of them", t.Name, own, timeout)
	}
	return nil
}

// boundWaits sets the timeouts that Caddy leaves infinite: an upstream that
// accepts a connection and then says nothing would otherwise hold its requests
// for ever and never fail.
func (t *Transport) boundWaits() {
	if t.ResponseHeaderTimeout == 0 {
		t.ResponseHeaderTimeout = caddy.Duration(t.Breaker.responseTimeout())
	}
	if t.TLS != nil && t.TLS.HandshakeTimeout == 0 {
		t.TLS.HandshakeTimeout = caddy.Duration(defaultTLSTimeout)
	}
}

// lease returns how long a probe may take before it counts as lost: as long as
// all its timeouts together, and some.
func (t *Transport) lease() time.Duration {
	lease := time.Duration(t.DialTimeout) + time.Duration(t.ResponseHeaderTimeout) + leaseMargin
	if t.ResponseHeaderTimeout <= 0 {
		lease += time.Minute
	}
	if t.TLS != nil {
		lease += time.Duration(t.TLS.HandshakeTimeout)
	}
	return lease
}

// lateBodies is how long after Cleanup most responses have been read.
const lateBodies = 5 * time.Second

// Cleanup leaves the breakers of the name. Requests that are still under way
// may go on using the transport. Its connections are closed when none waits for
// a response; those of responses that are read later go in one go then, rather
// than by their timeout.
func (t *Transport) Cleanup() error {
	t.membership.leave()
	if t.uncount != nil {
		t.uncount()
	}
	t.left.Store(true)
	time.AfterFunc(lateBodies, t.closeIdle)
	t.closeIdle()
	return nil
}

// closeIdle closes the connections that no request uses, unless one waits for
// its response: it does so when it has it. net/http makes a connection idle
// before it hands over a response without a body, and loses that one if the
// connection is closed in between (persistConn.readLoop in transport.go).
func (t *Transport) closeIdle() {
	if t.sending.TryLock() {
		_ = t.HTTPTransport.Cleanup() // it returns no error
		t.sending.Unlock()
	}
}

// send sends the request to the upstream.
func (t *Transport) send(r *http.Request) (*http.Response, error) {
	t.sending.RLock()
	res, err := t.HTTPTransport.RoundTrip(r)
	t.sending.RUnlock()
	if t.left.Load() {
		t.closeIdle()
	}
	return res, err
}

// RoundTrip sends the request unless the upstream's circuit is open.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	extra, isTraffic := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	dial, ok := reverseproxy.GetDialInfo(ctx)
	if !isTraffic || !ok { // an active health check: it must reach an upstream that is cut off
		return t.send(r)
	}
	t.membership.group.Request()
	b := t.membership.group.Breaker(upstreamName(dial.Network, dial.Address), tenant(ctx))
	if b == nil {
		t.overflow.Do(func() {
			t.logger.WarnContext(ctx, "too many upstream addresses under one breaker; further ones are not guarded",
				slog.String("breaker", t.Name), slog.String("upstream", dial.Address))
		})
		return t.send(r)
	}
	extra.Set(zapcore.Field{Key: "breaker", Type: zapcore.InlineMarshalerType, Interface: (*logFields)(b)})

	permit, ok := acquire(ctx, b)
	if !ok || permit.Shadowed() {
		t.counters.countRefusal(permit)
	}
	if suppressed, announce := permit.Announce(); announce {
		t.logRefusal(ctx, permit, suppressed)
	}
	if !ok {
		return nil, refusal(permit.RetryAfter())
	}
	attempt, body := watch(r, time.Duration(t.ResponseHeaderTimeout))
	res, err := t.send(attempt)
	if body.settle() {
		if res != nil { // its head came a moment too late: the attempt is cancelled
			_ = res.Body.Close()
		}
		res, err = nil, stallError{}
	}
	failure := t.judge(ctx, body, res, err)
	permit.Done(failure.outcome)
	if failure.outcome != core.Success || permit.Probe() {
		t.counters.countOutcome(permit, failure)
	}
	if failure.outcome == core.Failure && !permit.Shadowed() {
		t.logFailure(ctx, permit, failure, res, err)
	}
	body.closeAfter(res)
	return res, err
}

// acquire takes the probe that the selection policy reserved for this request,
// or asks the breaker.
func acquire(ctx context.Context, b *core.Breaker) (core.Permit, bool) {
	if !b.Passes() {
		if p, ok := caddyhttp.GetVar(ctx, probeVar).(core.Permit); ok && p.Breaker() == b {
			caddyhttp.SetVar(ctx, probeVar, nil)
			return p, true
		}
	}
	return b.Acquire(ctx)
}

// tenant returns the tenant that the request speaks for, "" if nobody was authenticated.
func tenant(ctx context.Context) string {
	if who := gateway.Principal(ctx); who != nil {
		return who.TenantID
	}
	return ""
}

// upstreamName returns the address as logs and circuits know it. TCP goes without
// saying, and the case of a host's name, which may come from a request, says nothing.
func upstreamName(network, address string) string {
	if network == "tcp" || network == "" {
		return strings.ToLower(address)
	}
	return network + "/" + address
}

// dialName returns the address of a configuration as logs and circuits know it,
// unless it is none.
func dialName(dial string) (name string, ok bool) {
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return "", false
	}
	return upstreamName(address.Network, address.JoinHostPort(0)), true
}

// logFields puts the fields of a breaker into log lines, without an allocation.
type logFields core.Breaker

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (f *logFields) MarshalLogObject(e zapcore.ObjectEncoder) error {
	key := (*core.Breaker)(f).Key()
	e.AddString("breaker", key.Name)
	e.AddString("upstream", key.Upstream)
	return nil
}

// logTransition tells of a change of state: as a warning where it was caused.
// It may run on a request that knows nothing of it, so it carries no trace.
func logTransition(logger *zap.Logger, t core.Transition, shadow bool) {
	level, message := zapcore.WarnLevel, "circuit "+t.State.String()
	if !t.Local {
		level = zapcore.DebugLevel
	}
	switch {
	case t.Forced != core.NotForced:
		message = "circuit " + t.Forced.String()
	case t.State == core.Open:
		message = "circuit opened"
	}
	c := logger.Check(level, message)
	if c == nil {
		return
	}
	fields := []zap.Field{
		zap.String("breaker", t.Key.Name),
		zap.String("upstream", t.Key.Upstream),
		zap.String("from", stateName(t.From, t.FromForced)),
		zap.String("reason", string(t.Reason)),
		zap.Int64("suppressed", t.Suppressed),
	}
	if t.Key.Tenant != "" {
		fields = append(fields, zap.String("tenant_id", t.Key.Tenant))
	}
	if t.Version > 0 {
		fields = append(fields, zap.Uint64("version", t.Version))
	}
	if t.Forced != core.NotForced && t.ForcedFor > 0 {
		fields = append(fields, zap.Int64("forced_for_ms", t.ForcedFor.Milliseconds()))
	}
	if t.State == core.Open {
		fields = append(fields, zap.Int("failures", t.Failures), zap.Int("trips", t.Trips),
			zap.Int64("open_ms", t.Remaining.Milliseconds()))
	}
	if shadow {
		fields = append(fields, zap.String("mode", modeShadow))
	}
	c.Write(fields...)
}

// logFailure tells of one failed attempt. The breaker and the upstream are among
// the request's log fields.
func (t *Transport) logFailure(ctx context.Context, p core.Permit, v verdict, res *http.Response, err error) {
	if !t.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{slog.String("reason", v.reason), slog.Bool("probe", p.Probe())}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	} else {
		attrs = append(attrs, slog.Int("status", res.StatusCode))
	}
	t.logger.LogAttrs(ctx, slog.LevelInfo, "upstream failed", attrs...)
}

// logRefusal tells of a refused request, and of those before it that no line told of.
func (t *Transport) logRefusal(ctx context.Context, p core.Permit, suppressed int64) {
	message := "request blocked"
	if p.Shadowed() {
		message = "request would have been blocked"
	}
	t.logger.LogAttrs(ctx, slog.LevelInfo, message,
		slog.Int64("retry_after_ms", p.RetryAfter().Milliseconds()), slog.Int64("suppressed", suppressed))
}

// Interface guards. The optional ones of reverse_proxy's transports come from
// the embedded HTTPTransport; without them https:// and h2c:// upstreams fail.
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ caddyfile.Unmarshaler                            = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ zapcore.ObjectMarshaler                          = (*logFields)(nil)
	_ net.Error                                        = stallError{}
)
