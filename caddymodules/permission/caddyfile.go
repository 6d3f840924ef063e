package permission

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := h.unmarshalOption(d, name); err != nil {
			return err
		}
	}
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	var err error
	switch name {
	case "subject":
		err = unmarshalChoice(d, name, "table or claims", &h.Subject)
	case "tenant":
		err = unmarshalChoice(d, name, "a placeholder such as {path.1}", &h.Tenant)
	case "mode":
		err = unmarshalChoice(d, name, "enforce or shadow", &h.Mode)
	default:
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

// unmarshalChoice reads the one argument of an option without a block.
func unmarshalChoice(d *caddyfile.Dispenser, name, want string, target *string) error {
	if !d.AllArgs(target) || *target == "" {
		return d.Errf("%s needs one argument: %s", name, want)
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("%s takes no block", name)
	}
	return nil
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
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		var err error
		switch name {
		case "subject":
			err = unmarshalChoice(d, name, "table or claims", &a.Subject)
		case "tenant":
			err = unmarshalChoice(d, name, "a placeholder such as {path.1}", &a.Tenant)
		default:
			err = d.Errf("unknown subdirective %q, want subject or tenant", name)
		}
		if err != nil {
			return err
		}
		if err := a.Validate(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
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
