// Package jwtauth is the Caddy handler http.handlers.jwt_auth: it lets a
// request pass only with a valid access token and tells everyone behind it who
// the token speaks for.
package jwtauth

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/problem"
	"github.com/tenantgate/tenantgate/internal/sanitize"
)

func init() {
	caddy.RegisterModule(&Handler{})
	httpcaddyfile.RegisterHandlerDirective("jwt_auth", parseCaddyfile)
}

// Handler verifies the request's access token, a JWT (RFC 7519) of one of the
// configured issuers.
//
// With a valid token it sets the request headers X-User-Id, X-Tenant-Id and
// X-Roles (role names separated by commas), the placeholders
// {http.auth.user.id}, {http.auth.user.tenant_id} and {http.auth.user.roles},
// and in the access log user_id and tenant_id. A header stays absent if the
// token has no such claim. The token itself is forwarded as it came, except one from
// the query string, which is removed.
//
// On every request, also without a token, it deletes those headers if the
// client sent them, in any spelling, and options of the Connection header that
// would make the proxy drop them.
//
// Without a valid token the answer is 401 with WWW-Authenticate (RFC 6750);
// with two tokens, two Authorization headers or an ambiguous path 400; with an
// unknown method 405; and 503 with Retry-After as long as no key of the
// token's issuer was ever loaded. Each is a problem of RFC 9457 with a member
// "reason".
//
// Keys from a URL are fetched in the background. They and the verified tokens
// survive a reload of the configuration.
type Handler struct {
	// Issuers are the trusted issuers, at least one.
	Issuers []Issuer `json:"issuers,omitempty"`

	// Leeway is how far the clocks of issuers may differ from ours. Default: 30s. Maximum: 1m.
	Leeway *caddy.Duration `json:"leeway,omitempty"`

	// Sources are where a token may be, in this order. The first that is present
	// counts; if its token is bad, no other is looked at. Default: the header
	// Authorization with the scheme Bearer.
	Sources []Source `json:"sources,omitempty"`

	// Claims names the claims that make the identity.
	Claims Claims `json:"claims,omitzero"`

	// Optional lets requests without a token pass, unauthenticated. A bad token is refused all the same.
	Optional bool `json:"optional,omitempty"`

	// Cache is how many verified tokens are remembered, 0 for none. A token
	// takes at most 4 KiB on average. Default: 10000.
	Cache *int `json:"cache,omitempty"`

	verifier *core.Verifier
	release  []func() // gives back what Provision took from the pools, last first
	logger   *slog.Logger
}

// Issuer is who signs tokens. Exactly one of JWKSURL, PublicKeys and
// HMACSecret is set. Values may hold placeholders such as {env.NAME} and
// {file./run/secrets/key}, which are resolved when the configuration loads.
type Issuer struct {
	// Issuer is the exact value of the claim "iss".
	Issuer string `json:"issuer,omitempty"`
	// JWKSURL is where the issuer publishes its keys (RFC 7517).
	JWKSURL string `json:"jwks_url,omitempty"`
	// AllowHTTP permits a JWKSURL of plain http to hosts other than loopback.
	AllowHTTP bool `json:"allow_http,omitempty"`
	// PublicKeys are keys or certificates in PEM.
	PublicKeys []string `json:"public_keys,omitempty"`
	// HMACSecret is a secret for HS256 of at least 32 bytes.
	HMACSecret string `json:"hmac_secret,omitempty"`
	// Audiences are the values of the claim "aud" that are meant for us, at least one.
	Audiences []string `json:"audiences,omitempty"`
	// Algorithms narrows the algorithms. Default: all that fit the keys.
	Algorithms []string `json:"algorithms,omitempty"`
}

// Source is a place of a request where a token may be.
type Source struct {
	// Type is "header", "cookie" or "query".
	Type string `json:"type,omitempty"`
	// Name is the name of the header, the cookie or the query parameter.
	Name string `json:"name,omitempty"`
	// Scheme is the word in front of the token in a header, such as "Bearer".
	// If empty, the whole value of the header is the token.
	Scheme string `json:"scheme,omitempty"`
}

// Claims says which claims make the identity. A name that begins with "/" is a
// JSON pointer to a nested claim: "/realm_access/roles".
type Claims struct {
	// User is the claim with the user's id. Default: sub.
	User string `json:"user,omitempty"`
	// Tenant is the claim with the tenant's id. Default: tenant_id.
	Tenant string `json:"tenant,omitempty"`
	// Roles is the claim with the role names. Default: roles.
	Roles string `json:"roles,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.jwt_auth",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision resolves placeholders and takes keys and verifier from the pools.
// It waits for no network: keys are fetched in the background.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Slogger()
	if len(h.Sources) == 0 {
		h.Sources = []Source{defaultSource}
	}
	for i := range h.Sources {
		if err := h.Sources[i].check(); err != nil {
			return err
		}
	}
	resolved, err := h.resolve(caddy.NewReplacer())
	if err != nil {
		return err
	}
	return h.acquire(resolved)
}

// Cleanup gives keys and verifier back. Requests that are still on their way
// through the handler may go on using them.
func (h *Handler) Cleanup() error {
	for i := len(h.release) - 1; i >= 0; i-- {
		h.release[i]()
	}
	h.release = nil
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	sanitize.Identity(r.Header)
	sanitize.Connection(r.Header)
	sanitize.Trailers(r)
	if err := sanitize.Target(r); err != nil {
		return badTarget(w, err)
	}
	token, err := h.token(r)
	if err != nil {
		return h.refuse(w, r, err)
	}
	if token == "" {
		if h.Optional {
			return next.ServeHTTP(w, r)
		}
		return h.refuse(w, r, core.ErrMissing)
	}
	verified, err := h.verifier.Verify(token)
	if err != nil {
		return h.refuse(w, r, err)
	}
	admit(r, verified)
	return next.ServeHTTP(w, r)
}

// attachment is what every request with a token needs again, made once.
type attachment struct {
	roles                         string
	userID, tenantID, rolesHolder any // strings, boxed for the replacer
	tenantField                   zap.Field
}

func attach(p *identity.Principal) any {
	p.Seat = new(identity.Seat) // nobody else has the principal yet
	roles := strings.Join(p.Roles, ",")
	return &attachment{
		roles:  roles,
		userID: p.UserID, tenantID: p.TenantID, rolesHolder: roles,
		tenantField: zap.String("tenant_id", p.TenantID),
	}
}

// admit tells everyone behind us who the request speaks for.
func admit(r *http.Request, v *core.Verified) {
	ctx := r.Context()
	a := v.Attachment.(*attachment) // attach made it
	gateway.SetPrincipal(ctx, &v.Principal)

	// The slices are of this request alone: handlers behind us may write to them.
	values := &[3]string{v.Principal.UserID, v.Principal.TenantID, a.roles}
	r.Header[sanitize.HeaderUserID] = values[0:1:1]
	if v.Principal.TenantID != "" {
		r.Header[sanitize.HeaderTenantID] = values[1:2:2]
	}
	if a.roles != "" {
		r.Header[sanitize.HeaderRoles] = values[2:3:3]
	}
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.id", a.userID)
		repl.Set("http.auth.user.tenant_id", a.tenantID)
		repl.Set("http.auth.user.roles", a.rolesHolder)
	}
	if v.Principal.TenantID != "" {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(a.tenantField) // the access log takes user_id from the placeholder
		}
	}
}

// refuse returns the response to a request without a valid token and logs why.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) error {
	var refusal *core.Error
	if !errors.As(err, &refusal) {
		return err
	}
	level := slog.LevelInfo
	if refusal.Reason == core.ReasonMissing {
		level = slog.LevelDebug
	}
	h.logger.LogAttrs(r.Context(), level, "token refused", slog.String("reason", string(refusal.Reason)), slog.String("error", refusal.Error()))
	return respond(w, refusal.Problem())
}

// badTarget returns the response to a request that sanitize.Target refuses.
func badTarget(w http.ResponseWriter, err error) error {
	var violation *sanitize.Violation
	if !errors.As(err, &violation) {
		return err
	}
	p := problem.Wrap(err, violation.Status, "bad-request-target", violation.Reason)
	if violation.Status == http.StatusMethodNotAllowed {
		p.Code = "method-not-allowed"
		p.Header = http.Header{"Allow": {sanitize.Allow}}
	}
	return respond(w, p)
}

// respond returns p as Caddy's error. Its headers are set here already, so
// that they are sent without a problem_details handler too.
func respond(w http.ResponseWriter, p *problem.Error) error {
	for name, values := range p.Header {
		w.Header()[name] = values
	}
	return caddyhttp.Error(p.Status, p)
}

// Interface guards.
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
