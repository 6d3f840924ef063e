package breaker

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/internal/problem"
)

// Handler stands in front of a reverse_proxy with the transport "breaker" and
// turns to the client when a circuit refused the request: it serves the
// fallback, or sets the response header Retry-After of the error. A transport
// cannot, for it does not see the response; and the selection policy cannot know
// how the last of several attempts ends.
type Handler struct {
	// Name is the name of the breaker, for messages about the fallback.
	Name string `json:"name,omitempty"`
	// Fallback is what a client gets while every circuit is open. Default: an
	// error with status 503.
	Fallback *Fallback `json:"fallback,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.breaker",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision loads the fallback: its file or its handler. There is nothing to
// clean up, for Caddy itself does so with the handler.
func (h Handler) Provision(ctx caddy.Context) error {
	return h.explain(h.Fallback.provision(ctx))
}

// Validate reports the first mistake in the fallback.
func (h Handler) Validate() error {
	return h.explain(h.Fallback.check())
}

// explain says whose fallback an error is about.
func (h Handler) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case h.Name == "":
		return fmt.Errorf("fallback: %w", err)
	}
	return fmt.Errorf("fallback of breaker %q: %w", h.Name, err)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. Headers set here outlive an
// error: Caddy's own error response and handle_errors both send them.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	body := h.Fallback.holdBody(r)
	err := next.ServeHTTP(w, r)
	if err == nil {
		return nil
	}
	if p := refused(err); p != nil && h.Fallback != nil && body.take(r) {
		err = h.Fallback.serve(w, r, p, err)
	}
	if p := refused(err); p != nil {
		maps.Copy(w.Header(), p.Header)
	}
	return err
}

// refused returns the problem of a request that a circuit refused, or nil. No
// response was begun then: reverse_proxy begins it only after an attempt that succeeded.
func refused(err error) *problem.Error {
	var p *problem.Error
	if errors.As(err, &p) && p.Code == codeOpen {
		return p
	}
	return nil
}

var (
	_ caddy.Provisioner           = Handler{}
	_ caddy.Validator             = Handler{}
	_ caddyhttp.MiddlewareHandler = Handler{}
)
