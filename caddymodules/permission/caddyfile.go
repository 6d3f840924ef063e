package permission

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
)

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	check_permission [<matcher>] <product> <feature> [read|write|delete|<action>] {
//		subject table|claims
//		tenant  <placeholder>
//		mode    enforce|shadow
//	}
//
// Without an action it follows the method: read for GET, HEAD and OPTIONS,
// write for POST, PUT and PATCH, delete for DELETE. The defaults are
// `subject table`, the token's tenant and `mode enforce`.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return d.Errf("check_permission needs a product, a feature and at most an action, got %d arguments", len(args))
	}
	h.Product, h.Feature = args[0], args[1]
	if len(args) == 3 {
		if h.Action = args[2]; h.Action == "" {
			return d.Err("the action is empty, leave it out to go by the method")
		}
	}
	err := gateway.EachOption(d, func(name string) error { return h.unmarshalOption(d, name) })
	if err != nil {
		return err
	}
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	known, err := unmarshalScope(d, name, &h.Subject, &h.Tenant)
	switch {
	case err == nil && name == "mode":
		err = gateway.OneArgument(d, name, "enforce or shadow", &h.Mode)
	case err == nil && !known:
		err = d.Errf("unknown subdirective %q, want subject, tenant or mode", name)
	}
	if err != nil {
		return err
	}
	if err := h.validateOptions(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalScope reads the options of a scope. known is false for any other.
func unmarshalScope(d *caddyfile.Dispenser, name string, subject, tenant *string) (known bool, err error) {
	switch name {
	case "subject":
		return true, gateway.OneArgument(d, name, "table or claims", subject)
	case "tenant":
		return true, gateway.OneArgument(d, name, "a placeholder such as {path.1}", tenant)
	}
	return false, nil
}

func parseAnswers(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	answers := new(Answers)
	if err := answers.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return answers, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	permission_answers [<matcher>] {
//		subject table|claims
//		tenant  <placeholder>
//	}
//
// The block may be left out.
func (a *Answers) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	if d.NextArg() {
		return d.Errf("unexpected argument %q: permission_answers takes only a matcher, and options in a block", d.Val())
	}
	return gateway.EachOption(d, func(name string) error {
		known, err := unmarshalScope(d, name, &a.Subject, &a.Tenant)
		switch {
		case err != nil:
			return err
		case !known:
			return d.Errf("unknown subdirective %q, want subject or tenant", name)
		}
		if err := a.Validate(); err != nil {
			return d.WrapErr(err)
		}
		return nil
	})
}

// parseAuthorize sets up the handler from Caddyfile tokens. Syntax:
//
//	authorize [<matcher>] [headers|request] {
//		<directives>
//	}
//
// The directives are those of a site, as in `handle`.
func parseAuthorize(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	a := new(Authorize)
	h.Next() // directive name
	if h.NextArg() {
		a.Source = h.Val()
		if err := validateSource(a.Source); err != nil || a.Source == "" {
			return nil, h.Errf("authorize can be asked by headers or request, not by %q", a.Source)
		}
		h.Delete()
	}
	if h.NextArg() {
		return nil, h.Errf("unexpected argument %q", h.Val())
	}
	h.Reset()
	subroute, err := httpcaddyfile.ParseSegmentAsSubroute(h)
	if err != nil {
		return nil, err
	}
	a.Routes = subroute.(*caddyhttp.Subroute).Routes
	if len(a.Routes) == 0 {
		return nil, h.Err("authorize needs a block with the directives that decide, such as jwt_auth and check_permission")
	}
	return a, nil
}

var (
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Answers)(nil)
)
