package permission

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/sanitize"
	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

// The values of [Authorize.Source].
const (
	sourceHeaders = "headers"
	sourceRequest = "request"
)

// Authorize is the HTTP handler `authorize`: another proxy asks it whether a
// request may pass, and forwards that request itself. It is made for nginx's
// auth_request, Traefik's forwardAuth, Envoy's ext_authz over HTTP and Caddy's
// forward_auth.
//
// The request becomes the one that is asked about, in method and URI; its body
// is dropped. Then the routes run on it, as in a gateway: `trace_context`,
// `jwt_auth`, and in the routes `check_permission`. Nothing is forwarded, and
// whatever the routes would write is not sent. Answers:
//
//   - 200 without a body if a `check_permission` let the request through and
//     nothing refused it. The headers X-User-Id, X-Tenant-Id, X-Roles and
//     X-Permission are for the proxy to copy over those of its request; one that
//     there is no value for is empty, so that a client's own is overwritten.
//     After `trace_context` there are X-Trace-Id and traceparent too.
//   - 401 with WWW-Authenticate if `jwt_auth` says so;
//   - 403 for every other refusal, with the problem that tells why, because
//     nginx knows no other; also if no route checked a permission (reason
//     `no_route`), and if the headers name no request;
//   - 503 with Retry-After while there is no table or no key, and 500 for a
//     fault.
//
// In a Caddyfile `authorize` comes before `trace_context`, which deletes the
// headers that it reads: put `trace_context` inside. If it ran before
// nevertheless, the answer is 500 and the log says so.
type Authorize struct {
	// Source says what names the request that is asked about: `headers`, the
	// proxy's X-Forwarded-Method and X-Forwarded-Uri, each exactly once; or
	// `request`, the method and URI of the very request, as Envoy sends it (use
	// handle_path to strip a prefix). The headers are ignored then. Default:
	// `headers`.
	Source string `json:"source,omitempty"`

	// Routes decide. None may forward anything: `reverse_proxy` is an error.
	Routes caddyhttp.RouteList `json:"routes,omitempty"`

	logger  *slog.Logger
	tally   *tally
	release func() // gives the tally back
}

// CaddyModule returns the Caddy module information.
func (*Authorize) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.authorize",
		New: func() caddy.Module { return new(Authorize) },
	}
}

// Provision sets up the routes.
func (a *Authorize) Provision(ctx caddy.Context) error {
	a.logger = ctx.Slogger()
	if err := metrics.register(ctx); err != nil {
		return err
	}
	var err error
	if a.tally, err = newTally(); err != nil {
		return err
	}
	a.release = sync.OnceFunc(releaseTally)
	if err := a.Routes.Provision(ctx); err != nil {
		return fmt.Errorf("authorize: %w", err)
	}
	return nil
}

// Validate checks the settings.
func (a *Authorize) Validate() error {
	if err := validateSource(a.Source); err != nil {
		return err
	}
	if len(a.Routes) == 0 {
		return errors.New("authorize has no routes and would refuse everything")
	}
	return onlyDecides(a.Routes)
}

func validateSource(s string) error {
	return validateChoice("source", s, sourceHeaders, sourceRequest)
}

// forwarders are handlers that must not be in the routes of authorize.
var forwarders = map[caddy.ModuleID]string{
	"http.handlers.reverse_proxy": "it only decides, the proxy that asks forwards",
	"http.handlers.invoke":        "write the routes here, or import a snippet",
	"http.handlers.authorize":     "one is enough",
}

// onlyDecides returns an error if a handler of the routes forwards requests.
func onlyDecides(routes caddyhttp.RouteList) error {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			module, _ := handler.(caddy.Module)
			if module == nil {
				continue
			}
			id := module.CaddyModule().ID
			if why, ok := forwarders[id]; ok {
				return fmt.Errorf("authorize can't hold %s: %s", id.Name(), why)
			}
			if sub, ok := handler.(*caddyhttp.Subroute); ok {
				if err := onlyDecides(sub.Routes); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Cleanup gives the counters back.
func (a *Authorize) Cleanup() error {
	if a.release != nil {
		a.release()
	}
	return nil
}

// errTraceBefore is of the configuration, and found by the first request.
var errTraceBefore = errors.New("authorize: trace_context ran before and deleted the headers that name the request: " +
	"put trace_context inside the block of authorize")

// ServeHTTP answers, and never calls the next handler.
func (a *Authorize) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	ctx := r.Context()
	ask := askByRequest
	if a.Source != sourceRequest {
		ask = askByHeaders
		if gateway.Trace(ctx) != nil {
			return caddyhttp.Error(http.StatusInternalServerError, errTraceBefore)
		}
	}
	asked := new(gateway.Inquiry)
	gateway.SetInquiry(ctx, asked)
	bad := ask(r)
	sanitize.Headers(r.Header)
	sanitize.Connection(r.Header)
	r.Body, r.ContentLength, r.TransferEncoding, r.Trailer = http.NoBody, 0, nil, nil
	if bad != nil {
		refused := badTarget(bad)
		a.tally.refused(refused.reason, false)
		return asRefusal(refused.respond(w))
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String("asked", r.Method+" "+r.URL.EscapedPath()))
	}
	silenced := &silencer{header: w.Header()}
	err := a.Routes.Compile(nothingMore).ServeHTTP(silenced, r)
	switch {
	case err != nil:
		return asRefusal(err)
	case !asked.Passed || silenced.wrote:
		return a.deny(r, reasonNoRoute, "No route of the gateway that was asked permits this request.")
	}
	return a.grant(w, r, asked)
}

// nothingMore stands behind the routes.
var nothingMore = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// answered are the headers of an answer that says yes.
var answered = [...]string{sanitize.HeaderUserID, sanitize.HeaderTenantID, sanitize.HeaderRoles, sanitize.HeaderPermission}

// grant answers that the request may pass.
func (a *Authorize) grant(w http.ResponseWriter, r *http.Request, asked *gateway.Inquiry) error {
	values := [len(answered)]string{3: asked.Permission}
	if who := gateway.Principal(r.Context()); who != nil {
		values[0], values[1], values[2] = who.UserID, who.TenantID, strings.Join(who.Roles, ",")
	}
	for _, value := range values {
		if !httpguts.ValidHeaderFieldValue(value) {
			return a.deny(r, reasonIdentity, "The token names a user, tenant or role that can't stand in a header.")
		}
	}
	header := w.Header()
	for i, name := range answered {
		sanitize.Delete(header, name)
		header[name] = []string{values[i]}
	}
	if trace := gateway.Trace(r.Context()); trace != nil {
		header[tracecontext.HeaderTraceparent] = []string{trace.Traceparent()}
	}
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

// deny refuses what no check_permission decided on.
func (a *Authorize) deny(r *http.Request, reason core.Reason, detail string) error {
	a.tally.refused(reason, false)
	attrs := []slog.Attr{slog.String("reason", string(reason))}
	if who := gateway.Principal(r.Context()); who != nil {
		attrs = append(attrs, slog.String("user_id", who.UserID))
	}
	a.logger.LogAttrs(r.Context(), slog.LevelInfo, "permission denied", attrs...)
	p := problem.New(http.StatusForbidden, "permission-denied", detail)
	p.Extra = map[string]any{"reason": string(reason)}
	he := caddyhttp.Error(p.Status, p)
	if trace := gateway.Trace(r.Context()); trace != nil {
		he.ID = trace.TraceID
	}
	return he
}

// asRefusal makes a refusal of the routes one that every proxy understands: 401
// and 5xx stay, all others are 403.
func asRefusal(err error) error {
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || he.StatusCode == 0 {
		return err // Caddy answers 500
	}
	if he.StatusCode == http.StatusUnauthorized || he.StatusCode >= http.StatusInternalServerError {
		return err
	}
	p, ok := errors.AsType[*problem.Error](err)
	if !ok {
		p = problem.Wrap(err, http.StatusForbidden, "permission-denied", "No route of the gateway that was asked permits this request.")
		p.Extra = map[string]any{"reason": string(reasonNoRoute)}
	}
	forbidden := *p
	forbidden.Status = http.StatusForbidden
	he.StatusCode, he.Err = http.StatusForbidden, &forbidden
	return he
}

// silencer is the response writer of the routes: they may set headers, which
// their refusals need, and send nothing.
type silencer struct {
	header http.Header
	wrote  bool
}

// Header returns the header of the answer.
func (s *silencer) Header() http.Header { return s.header }

// WriteHeader notes that a handler of the routes answered by itself.
func (s *silencer) WriteHeader(int) { s.wrote = true }

// Write is [silencer.WriteHeader].
func (s *silencer) Write(p []byte) (int, error) {
	s.wrote = true
	return len(p), nil
}

var (
	_ caddy.Provisioner           = (*Authorize)(nil)
	_ caddy.Validator             = (*Authorize)(nil)
	_ caddy.CleanerUpper          = (*Authorize)(nil)
	_ caddyhttp.MiddlewareHandler = (*Authorize)(nil)
)
