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
	var (
		target *string
		want   string
	)
	switch name {
	case "subject":
		target, want = &h.Subject, "table or claims"
	case "tenant":
		target, want = &h.Tenant, "a placeholder such as {path.1}"
	case "mode":
		target, want = &h.Mode, "enforce or shadow"
	default:
		return d.Errf("unknown subdirective %q, want subject, tenant or mode", name)
	}
	if !d.AllArgs(target) || *target == "" {
		return d.Errf("%s needs one argument: %s", name, want)
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("%s takes no block", name)
	}
	if err := h.validateOptions(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)
