// Package permission is the Caddy handlers that ask the permission table:
// check_permission lets a request through if the table says so,
// permission_answers tells users what they may do, and authorize answers other
// proxies.
package permission

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/sanitize"
)

func init() {
	caddy.RegisterModule((*Handler)(nil))
	caddy.RegisterModule((*Answers)(nil))
	caddy.RegisterModule((*Authorize)(nil))
	httpcaddyfile.RegisterHandlerDirective("check_permission", parseCaddyfile)
	httpcaddyfile.RegisterHandlerDirective("permission_answers", parseAnswers)
	httpcaddyfile.RegisterHandlerDirective("authorize", parseAuthorize)
}

// The values of [Handler.Mode].
const (
	modeEnforce = "enforce"
	modeShadow  = "shadow"
)

// Handler is the HTTP handler `check_permission`. It stands behind `jwt_auth`
// and decides whether the user whom the token names may use a permission
// (product/feature/action) in the tenant whom the token names. It decides from
// the permission table in memory, never by a query. What the table doesn't
// hold is denied.
//
// Answers, each as an error for `handle_errors`:
//
//   - 400 if the path can be read in two ways (`//`, `..`, `%2f` …), 405 if the
//     method is none of GET, HEAD, OPTIONS, POST, PUT, PATCH and DELETE;
//   - 401 if nobody is authenticated, with `WWW-Authenticate: Bearer`;
//   - 403 if the permission is missing, which the body and
//     `WWW-Authenticate: Bearer error="insufficient_scope"` name (RFC 6750);
//   - 503 with Retry-After while no table was ever loaded, or after max_stale.
//
// A request that passes has the header `X-Permission` with what was checked;
// the client's own is deleted on every request. The access log gets the field
// `permission`. Each denial has a line in the log, and a share of what is
// allowed if the app's `log_allowed` says so, with the rule that decided.
type Handler struct {
	// Product names the product. Required.
	Product string `json:"product"`

	// Feature names the feature of the product. Required.
	Feature string `json:"feature"`

	// Action is the action that is needed, whatever the method. Default: by the
	// method, `read` for GET, HEAD and OPTIONS, `write` for POST, PUT and PATCH,
	// `delete` for DELETE.
	Action string `json:"action,omitempty"`

	// Subject says where the user's roles come from: `table`, the membership in the
	// permission table, or `claims`, the roles in the token, for external identity
	// providers. What a role may do is in the table either way. Default: `table`.
	Subject string `json:"subject,omitempty"`

	// Tenant is a placeholder {http.*} for the tenant's id, such as
	// {http.request.uri.path.1}. With `subject table` the user must be a member of
	// that tenant; the backend gets it as X-Tenant-Id, and the user's role there as
	// X-Roles. With `subject claims` it must be the token's tenant. Default: the
	// token's tenant.
	Tenant string `json:"tenant,omitempty"`

	// Mode is `enforce`, or `shadow`: nothing is refused, what would have been is
	// logged with would_deny. Default: `enforce`.
	Mode string `json:"mode,omitempty"`

	table      *core.Table
	logger     *slog.Logger
	checks     map[string]*check // by action; the key "" is for all methods
	scope      scope
	shadow     bool
	tally      *tally
	logAllowed float64        // the share of allowed decisions that get a line
	random     func() float64 // from 0 to below 1
	release    func()         // gives back what Provision took
}

// check is one permission that the handler asks for.
type check struct {
	permission core.Permission
	name       string    // product/feature/action
	field      zap.Field // for the access log
	ref        atomic.Pointer[core.Ref]
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.check_permission",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision takes the permission table from the app `tenantgate`.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := gateway.FromContext(ctx)
	if err != nil {
		return err
	}
	table, err := app.PermissionTable()
	if err != nil {
		return fmt.Errorf("check_permission %s %s: %w", h.Product, h.Feature, err)
	}
	h.logger = ctx.Slogger()
	h.logAllowed = app.LogAllowed()
	if err := metrics.register(ctx); err != nil {
		return err
	}
	return h.start(table)
}

// start makes the handler ready for requests.
func (h *Handler) start(table *core.Table) error {
	tally, err := newTally()
	if err != nil {
		return err
	}
	h.table, h.tally = table, tally
	h.scope = newScope(h.Subject, h.Tenant)
	h.shadow = h.Mode == modeShadow
	h.random = rand.Float64
	h.checks = map[string]*check{}
	if h.Action != "" {
		h.checks[""] = newCheck(h.Product, h.Feature, h.Action)
	} else {
		for _, action := range []string{core.Read, core.Write, core.Delete} {
			h.checks[action] = newCheck(h.Product, h.Feature, action)
		}
	}
	cancel := table.Subscribe(h.resolve)
	h.release = sync.OnceFunc(func() {
		cancel()
		releaseTally()
	})
	return nil
}

func newCheck(product, feature, action string) *check {
	p := core.Permission{Product: product, Feature: feature, Action: action}
	return &check{permission: p, name: p.String(), field: zap.String("permission", p.String())}
}

// Validate checks the settings.
func (h *Handler) Validate() error {
	action := h.Action
	if action == "" {
		action = core.Read
	}
	if err := (core.Permission{Product: h.Product, Feature: h.Feature, Action: action}).Validate(); err != nil {
		return err
	}
	return h.validateOptions()
}

func (h *Handler) validateOptions() error {
	if err := validateScope(h.Subject, h.Tenant); err != nil {
		return err
	}
	return validateChoice("mode", h.Mode, modeEnforce, modeShadow)
}

// Cleanup ends the subscription to the table. Requests on their way go on.
func (h *Handler) Cleanup() error {
	if h.release != nil {
		h.release()
	}
	return nil
}

// resolve looks the handler's permissions up in a new catalogue and warns of
// what is not there: once per load of the table or the configuration.
func (h *Handler) resolve(s *core.Snapshot) {
	var missing *check
	for _, c := range h.checks {
		ref := s.Resolve(c.permission)
		c.ref.Store(ref)
		reason, known := ref.Known()
		if known || reason == core.UnknownAction && h.Action == "" {
			continue // a feature need not have an action for every method
		}
		missing = c
	}
	if missing == nil {
		return
	}
	name := missing.name
	if h.Action == "" {
		name = h.Product + "/" + h.Feature
	}
	reason, _ := missing.ref.Load().Known()
	h.logger.Warn("a route checks a permission that the table does not hold: it is denied",
		slog.String("permission", name), slog.String("reason", string(reason)))
}

// in returns the permission as it stands in the catalogue of s.
func (c *check) in(s *core.Snapshot) *core.Ref {
	ref := c.ref.Load()
	if !s.Current(ref) { // between the swap of the table and resolve
		ref = s.Resolve(c.permission)
	}
	return ref
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	sanitize.Delete(r.Header, sanitize.HeaderPermission)
	sanitize.Connection(r.Header)
	v, refused := h.decide(r)
	if refused == nil {
		h.tally.allowed()
		if h.logAllowed > 0 && h.random() < h.logAllowed {
			h.logGrant(r, v)
		}
		if asked := gateway.AskedAbout(r.Context()); asked != nil {
			asked.Passed, asked.Permission = true, v.check.name
		}
		r.Header[sanitize.HeaderPermission] = []string{v.check.name}
		return next.ServeHTTP(w, r)
	}
	h.tally.refused(refused.reason, h.shadow)
	h.logRefusal(r, refused)
	if h.shadow {
		if asked := gateway.AskedAbout(r.Context()); asked != nil {
			asked.Passed, asked.Permission = true, ""
		}
		return next.ServeHTTP(w, r)
	}
	return refused.respond(w)
}

// verdict is a decision with what it was about.
type verdict struct {
	check    *check
	who      *identity.Principal
	tenant   string // that was asked about
	decision core.Decision
	seq      int64 // of the table that decided
}

// decide returns what the request was found to have, or why it is refused.
func (h *Handler) decide(r *http.Request) (verdict, *refusal) {
	if err := sanitize.Target(r); err != nil {
		return verdict{}, badTarget(err)
	}
	c := h.checkFor(r.Method)
	if c == nil {
		return verdict{}, badTarget(sanitize.ErrMethod)
	}
	ctx := r.Context()
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(c.field)
	}
	who := gateway.Principal(ctx)
	if who == nil {
		return verdict{}, unauthenticated()
	}
	snapshot := h.table.Snapshot()
	if snapshot == nil {
		return verdict{}, notLoaded(who)
	}
	tenant := h.scope.tenantOf(r, who)
	v := verdict{check: c, who: who, tenant: tenant, decision: h.scope.decide(snapshot, who, tenant, c.in(snapshot)), seq: snapshot.Seq()}
	if !v.decision.Allowed {
		return v, denied(v)
	}
	if tenant != who.TenantID {
		switchTenant(r, who, tenant, v.decision.Role())
	}
	return v, nil
}

// checkFor returns what a request with the given method needs, or nil.
func (h *Handler) checkFor(method string) *check {
	if h.Action != "" {
		return h.checks[""]
	}
	action, ok := core.ActionOf(method)
	if !ok {
		return nil
	}
	return h.checks[action]
}

// switchTenant makes the rest of the request, the log and the backend see the
// tenant that was decided on in place of the token's.
func switchTenant(r *http.Request, who *identity.Principal, tenant, role string) {
	ctx := r.Context()
	gateway.SetPrincipal(ctx, &identity.Principal{
		UserID: who.UserID, TenantID: tenant, Roles: []string{role},
		Issuer: who.Issuer, TokenID: who.TokenID, ExpiresAt: who.ExpiresAt, Seat: who.Seat,
	})
	sanitize.Delete(r.Header, sanitize.HeaderTenantID)
	sanitize.Delete(r.Header, sanitize.HeaderRoles)
	r.Header[sanitize.HeaderTenantID] = []string{tenant}
	r.Header[sanitize.HeaderRoles] = []string{role}
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.tenant_id", tenant)
		repl.Set("http.auth.user.roles", role)
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String("tenant_id", tenant))
	}
}

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
