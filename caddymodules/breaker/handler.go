package breaker

import (
	"errors"
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/internal/problem"
)

// Handler stands in front of a reverse_proxy with the transport "breaker" and
// sets the response header Retry-After when a circuit refused the request. A
// transport cannot, for it does not see the response; and the selection policy
// cannot know how the last of several attempts ends.
type Handler struct{}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.breaker",
		New: func() caddy.Module { return new(Handler) },
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. Headers set here outlive the
// error: Caddy's own error response and handle_errors both send them.
func (Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := next.ServeHTTP(w, r)
	if err == nil {
		return nil
	}
	var p *problem.Error
	if errors.As(err, &p) && p.Code == codeOpen {
		maps.Copy(w.Header(), p.Header)
	}
	return err
}

var _ caddyhttp.MiddlewareHandler = Handler{}
