// Package permission is the Caddy handler check_permission: it lets a request
// through if the permission table says so.
package permission

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
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
	httpcaddyfile.RegisterHandlerDirective("check_permission", parseCaddyfile)
}

// The values of [Handler.Subject] and [Handler.Mode].
const (
	subjectTable  = "table"
	subjectClaims = "claims"
	modeEnforce   = "enforce"
	modeShadow    = "shadow"
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
// `permission`.
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

	table  *core.Table
	logger *slog.Logger
	checks map[string]*check // by action; the key "" is for all methods
	tenant string            // the placeholder without braces
	claims bool
	shadow bool
	cancel func() // ends the subscription to the table
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
	h.start(table)
	return nil
}

// start makes the handler ready for requests.
func (h *Handler) start(table *core.Table) {
	h.table = table
	h.claims = h.Subject == subjectClaims
	h.shadow = h.Mode == modeShadow
	h.tenant = strings.Trim(h.Tenant, "{}")
	h.checks = map[string]*check{}
	if h.Action != "" {
		h.checks[""] = newCheck(h.Product, h.Feature, h.Action)
	} else {
		for _, action := range []string{core.Read, core.Write, core.Delete} {
			h.checks[action] = newCheck(h.Product, h.Feature, action)
		}
	}
	h.cancel = table.Subscribe(h.resolve)
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
	if err := validateChoice("subject", h.Subject, subjectTable, subjectClaims); err != nil {
		return err
	}
	if err := validateChoice("mode", h.Mode, modeEnforce, modeShadow); err != nil {
		return err
	}
	return validateTenant(h.Tenant)
}

func validateChoice(what, value, one, other string) error {
	if value != "" && value != one && value != other {
		return fmt.Errorf("%s is %q, want %s or %s", what, value, one, other)
	}
	return nil
}

// validateTenant accepts one placeholder of the request. {file.*} would read
// the disk in every request and {http.request.body} the whole body.
func validateTenant(s string) error {
	if s == "" {
		return nil
	}
	name, ok := strings.CutPrefix(s, "{")
	name, closed := strings.CutSuffix(name, "}")
	if !ok || !closed || !strings.HasPrefix(name, "http.") || strings.ContainsAny(name, "{}") || strings.HasPrefix(name, "http.request.body") {
		return fmt.Errorf("tenant is %q, want one placeholder of the request such as {http.request.uri.path.1} (not its body)", s)
	}
	return nil
}

// Cleanup ends the subscription to the table. Requests on their way go on.
func (h *Handler) Cleanup() error {
	if h.cancel != nil {
		h.cancel()
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
	c, refused := h.decide(r)
	if refused == nil {
		r.Header[sanitize.HeaderPermission] = []string{c.name}
		return next.ServeHTTP(w, r)
	}
	h.log(r, refused)
	if h.shadow {
		return next.ServeHTTP(w, r)
	}
	for name, values := range refused.problem.Header {
		w.Header()[name] = values // also without handle_errors
	}
	return caddyhttp.Error(refused.problem.Status, refused.problem)
}

// decide returns the permission that the request was found to have, or why not.
func (h *Handler) decide(r *http.Request) (*check, *refusal) {
	if err := sanitize.Target(r); err != nil {
		return nil, badTarget(err)
	}
	c := h.checkFor(r.Method)
	if c == nil {
		return nil, badTarget(sanitize.ErrMethod)
	}
	ctx := r.Context()
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(c.field)
	}
	who := gateway.Principal(ctx)
	if who == nil {
		return nil, unauthenticated()
	}
	snapshot := h.table.Snapshot()
	if snapshot == nil {
		return nil, notLoaded(who)
	}
	tenant := who.TenantID
	if h.tenant != "" {
		tenant = h.requested(r)
	}
	d := h.ask(snapshot, who, tenant, c.in(snapshot))
	if !d.Allowed {
		return nil, denied(c, who, tenant, d)
	}
	if tenant != who.TenantID {
		switchTenant(r, who, tenant, d.Role())
	}
	return c, nil
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

// requested returns the tenant that the configured placeholder names.
func (h *Handler) requested(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	tenant, _ := repl.GetString(h.tenant)
	return tenant
}

// ask decides. Claims were made for the token's tenant and say nothing of others.
func (h *Handler) ask(s *core.Snapshot, who *identity.Principal, tenant string, ref *core.Ref) core.Decision {
	switch {
	case !h.claims:
		return s.Decide(tenant, who.UserID, ref)
	case tenant != who.TenantID:
		return core.Decision{Reason: core.NotAMember}
	}
	return s.DecideRoles(tenant, who.Roles, ref)
}

// switchTenant makes the rest of the request, the log and the backend see the
// tenant that was decided on in place of the token's.
func switchTenant(r *http.Request, who *identity.Principal, tenant, role string) {
	ctx := r.Context()
	other := *who
	other.TenantID, other.Roles = tenant, []string{role}
	gateway.SetPrincipal(ctx, &other)
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

// log writes one line for a denial, and in shadow mode for all that would have
// been refused. Nothing is written of requests that pass. The request's fields,
// permission and tenant_id among them, come with the context.
func (h *Handler) log(r *http.Request, refused *refusal) {
	ctx := r.Context()
	if refused.quiet && !h.shadow || !h.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{slog.String("reason", refused.reason)}
	if who := refused.who; who != nil {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok && who.TenantID != "" {
			extra.Set(zap.String("tenant_id", who.TenantID))
		}
		attrs = append(attrs, slog.String("user_id", who.UserID))
		if refused.tenant != who.TenantID {
			attrs = append(attrs, slog.String("requested_tenant_id", refused.tenant))
		}
	}
	msg := "permission denied"
	if h.shadow {
		msg = "permission would be denied"
		attrs = append(attrs, slog.Bool("would_deny", true), slog.Int("would_status", refused.problem.Status))
	}
	h.logger.LogAttrs(ctx, slog.LevelInfo, msg, attrs...)
}

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
