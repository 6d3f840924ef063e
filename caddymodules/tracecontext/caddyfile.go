package tracecontext

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	core "github.com/tenantgate/tenantgate/internal/tracecontext"
)

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	m := new(Handler)
	if err := m.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return m, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	trace_context [<matcher>] {
//		trust    private_ranges|all|none|<ip or cidr>...
//		header   <name>
//		response on|off
//		sampled  parent|always|<ratio>
//	}
//
// All subdirectives are optional. The defaults are `trust private_ranges`,
// `header X-Trace-Id`, `response on` and `sampled parent`.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	if d.NextArg() {
		return d.Errf("unexpected argument %q, options of trace_context go in a block", d.Val())
	}
	return gateway.EachOption(d, func(name string) error {
		var err error
		switch name {
		case "trust":
			err = h.unmarshalTrust(d)
		case "header":
			err = h.unmarshalHeader(d)
		case "response":
			err = h.unmarshalResponse(d)
		case "sampled":
			err = h.unmarshalSampled(d)
		default:
			err = d.Errf("unknown subdirective %q, want trust, header, response or sampled", name)
		}
		if err == nil && d.NextBlock(d.Nesting()) {
			err = d.Errf("%s takes no block", name)
		}
		return err
	})
}

func (h *Handler) unmarshalTrust(d *caddyfile.Dispenser) error {
	h.Trust = d.RemainingArgs()
	if len(h.Trust) == 0 {
		return d.Err("trust needs private_ranges, all, none, or IP addresses and CIDR ranges")
	}
	if _, _, err := parseTrust(h.Trust); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) unmarshalHeader(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&h.Header) {
		return d.Err("header needs one header name")
	}
	if _, err := parseHeader(h.Header); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) unmarshalResponse(d *caddyfile.Dispenser) error {
	value := strings.Join(d.RemainingArgs(), " ")
	if value != "on" && value != "off" {
		return d.Errf("response is %q, want on or off", value)
	}
	on := value == "on"
	h.Response = &on
	return nil
}

func (h *Handler) unmarshalSampled(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&h.Sampled) {
		return d.Err("sampled needs one of parent, always or a ratio from 0 to 1")
	}
	if _, err := core.ParseSampling(h.Sampled); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
