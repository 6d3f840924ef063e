package permission

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/identity"
	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// Answers is the HTTP handler `permission_answers`. It stands behind `jwt_auth`
// and tells users what they may do: for menus and buttons, and for services
// that ask about many things at once. It answers from the permission table in
// memory, in the gateway, without a backend.
//
// The last segment of the path says what is asked:
//
//   - GET or HEAD …/me: the user's tenant, id, roles and permissions. Who is no
//     member of the tenant, or of a suspended one, has none. It has a strong
//     ETag, so that asking again costs a 304.
//   - POST …/check with {"permissions": ["abc/reports/read", …]}, at most 1,000:
//     for each, in order, whether it is allowed, and the reason.
//
// Everything else goes to the next handler. An answer is advice for a user
// interface and guards nothing: that is what `check_permission` is for.
//
// Refusals, each as an error for `handle_errors`: 401 if nobody is
// authenticated, 405 for another method, 503 with Retry-After while there is no
// table; for a check 400 (no JSON object), 413 (more than 256 KiB), 415 (not
// application/json) and 422 (a permission that can be none).
type Answers struct {
	// Subject says where the user's roles come from, as in `check_permission`:
	// `table` or `claims`. Default: `table`.
	Subject string `json:"subject,omitempty"`

	// Tenant is a placeholder {http.*} for the tenant's id, as in
	// `check_permission`. Default: the token's tenant.
	Tenant string `json:"tenant,omitempty"`

	table *core.Table
	scope scope
}

// CaddyModule returns the Caddy module information.
func (*Answers) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.permission_answers",
		New: func() caddy.Module { return new(Answers) },
	}
}

// Provision takes the permission table from the app `tenantgate`.
func (a *Answers) Provision(ctx caddy.Context) error {
	app, err := gateway.FromContext(ctx)
	if err != nil {
		return err
	}
	table, err := app.PermissionTable()
	if err != nil {
		return fmt.Errorf("permission_answers: %w", err)
	}
	a.start(table)
	return nil
}

func (a *Answers) start(table *core.Table) {
	a.table, a.scope = table, newScope(a.Subject, a.Tenant)
}

// Validate checks the settings.
func (a *Answers) Validate() error { return validateScope(a.Subject, a.Tenant) }

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (a *Answers) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	answer, methods := a.me, []string{http.MethodGet, http.MethodHead}
	switch _, name := path.Split(r.URL.Path); name {
	case "me":
	case "check":
		answer, methods = a.check, []string{http.MethodPost}
	default:
		return next.ServeHTTP(w, r)
	}
	who := gateway.Principal(r.Context())
	if who == nil {
		return unauthenticated().respond(w)
	}
	if !slices.Contains(methods, r.Method) {
		return wrongMethod(methods).respond(w)
	}
	snapshot := a.table.Snapshot()
	if snapshot == nil {
		return notLoaded(who).respond(w)
	}
	return answer(w, r, subject{snapshot, who, a.scope.tenantOf(r, who)})
}

// subject is who asks about which tenant, and what answers.
type subject struct {
	table  *core.Snapshot
	who    *identity.Principal
	tenant string
}

// me answers what the user may do.
func (a *Answers) me(w http.ResponseWriter, r *http.Request, q subject) error {
	roles, permissions := a.scope.all(q.table, q.who, q.tenant)
	names := make([]string, len(permissions))
	for i, p := range permissions {
		names[i] = p.String()
	}
	slices.Sort(names)
	body, err := encode(struct {
		TenantID    string   `json:"tenant_id"`
		UserID      string   `json:"user_id"`
		Roles       []string `json:"roles"`
		Permissions []string `json:"permissions"`
	}{q.tenant[:min(len(q.tenant), maxTenant)], q.who.UserID, append([]string{}, roles...), names})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "private, no-cache")
	header.Add("Vary", "Authorization")
	header.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(sum[:16])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body)) // knows If-None-Match and HEAD
	return nil
}

// check answers whether the user has each of the permissions in the body.
func (a *Answers) check(w http.ResponseWriter, r *http.Request, q subject) error {
	permissions, bad := readPermissions(r)
	if bad != nil {
		return caddyhttp.Error(bad.Status, bad)
	}
	type result struct {
		Permission string      `json:"permission"`
		Allowed    bool        `json:"allowed"`
		Reason     core.Reason `json:"reason"`
	}
	results := make([]result, len(permissions))
	for i, p := range permissions {
		d := a.scope.decide(q.table, q.who, q.tenant, q.table.Resolve(p))
		results[i] = result{p.String(), d.Allowed, public(d.Reason)}
	}
	body, err := encode(struct {
		TenantID string   `json:"tenant_id"`
		Results  []result `json:"results"`
	}{q.tenant[:min(len(q.tenant), maxTenant)], results})
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, err = w.Write(body)
	return err
}

// encode returns v as a line of JSON.
func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode response: %w", err)
	}
	return append(body, '\n'), nil
}

// wrongMethod refuses a method that the path does not answer.
func wrongMethod(allowed []string) *refusal {
	p := problem.New(http.StatusMethodNotAllowed, "method-not-allowed", "This path does not answer this method.")
	p.Header = http.Header{"Allow": {strings.Join(allowed, ", ")}}
	return &refusal{problem: p, reason: reasonMethod}
}

var (
	_ caddy.Provisioner           = (*Answers)(nil)
	_ caddy.Validator             = (*Answers)(nil)
	_ caddyhttp.MiddlewareHandler = (*Answers)(nil)
)
