// Package problem answers errors with RFC 9457 problem details.
package problem

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	core "github.com/tenantgate/tenantgate/internal/problem"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("problem_details", parseCaddyfile)
}

// Handler answers the error that an earlier handler returned as
// application/problem+json (RFC 9457). It belongs in error routes
// (`handle_errors`) and has no options.
//
// The body has the members type, title, status and trace_id; refusals by
// Tenantgate's own modules add code, detail and what concerns them, such as
// permission or retry_after. Other errors are named by their status only:
// their cause goes to the log, in the field "error" of the access line when
// the status is 500 or above.
type Handler struct{}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.problem_details",
		New: func() caddy.Module { return new(Handler) },
	}
}

// UnmarshalCaddyfile reads the directive, which takes nothing:
//
//	problem_details [<matcher>]
func (*Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Errf("problem_details has no options, but found '%s'", d.Val())
	}
	return nil
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// plain are the refusals that come from Caddy itself: by status, the code and
// the sentence for the client.
var plain = map[int][2]string{
	http.StatusBadRequest:            {"bad-request", "The request can't be understood."},
	http.StatusNotFound:              {"not-found", "There is nothing at this path."},
	http.StatusMethodNotAllowed:      {"method-not-allowed", "This path does not answer this method."},
	http.StatusRequestEntityTooLarge: {"body-too-large", "The body of the request is too large."},
	http.StatusInternalServerError:   {"internal", "Something went wrong on our side; quote the trace id when you report it."},
	http.StatusBadGateway:            {"upstream-failed", "The service behind this path could not be reached or gave no valid answer."},
	http.StatusServiceUnavailable:    {"unavailable", "The service behind this path is not available at the moment."},
	http.StatusGatewayTimeout:        {"upstream-timeout", "The service behind this path did not answer in time."},
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. Without an error in the
// request's context it calls the next handler.
func (Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err, ok := r.Context().Value(caddyhttp.ErrorCtxKey).(error)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	status, traceID := http.StatusInternalServerError, ""
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		if he.StatusCode != 0 {
			status = he.StatusCode
		}
		if len(he.ID) == 32 {
			traceID = he.ID
		}
	}
	if trace := gateway.Trace(r.Context()); trace != nil {
		traceID = trace.TraceID
	}
	e, ok := errors.AsType[*core.Error](err)
	if !ok {
		e = core.New(status, plain[status][0], plain[status][1])
	}
	if e.Status >= http.StatusInternalServerError {
		logCause(r, err)
	}
	return e.Write(w, traceID)
}

// logCause adds the cause to the access line: with error routes, Caddy itself
// writes it at debug level only.
func logCause(r *http.Request, err error) {
	extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return
	}
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok && he.Err != nil {
		err = he.Err
	}
	extra.Set(zap.String("error", err.Error()))
}

var (
	_ caddyhttp.MiddlewareHandler = Handler{}
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
