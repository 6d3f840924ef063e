package jwtauth

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	core "github.com/tenantgate/tenantgate/internal/jwtauth"
	"github.com/tenantgate/tenantgate/internal/secret"
)

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads the directive:
//
//	jwt_auth [<matcher>] {
//	    issuer <iss> {
//	        jwks_url    <url>
//	        allow_http
//	        public_key  <pem>
//	        hmac_secret <secret>
//	        audience    <aud>...
//	        algorithms  <alg>...
//	    }
//	    leeway <duration>
//	    from   header <name> [<scheme>] | cookie <name> | query <name>
//	    claims {
//	        user   <claim>
//	        tenant <claim>
//	        roles  <claim>
//	    }
//	    optional
//	    cache <tokens>
//	}
//
// issuer, public_key and from may be repeated; everything else may not.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected argument %q: the settings of jwt_auth stand in a block", d.Val())
	}
	seen := once{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if err := seen.check(d, "issuer", "from"); err != nil {
			return err
		}
		var err error
		switch name {
		case "issuer":
			err = h.unmarshalIssuer(d)
		case "leeway":
			err = h.unmarshalLeeway(d)
		case "from":
			err = h.unmarshalFrom(d)
		case "claims":
			err = h.unmarshalClaims(d)
		case "optional":
			h.Optional, err = true, noArguments(d)
		case "cache":
			err = h.unmarshalCache(d)
		default:
			err = d.Errf("unrecognized subdirective %q: want issuer, leeway, from, claims, optional or cache", name)
		}
		if err != nil {
			return err
		}
	}
	if len(h.Issuers) == 0 {
		return d.Err("jwt_auth needs at least one issuer")
	}
	return nil
}

func (h *Handler) unmarshalIssuer(d *caddyfile.Dispenser) error {
	var issuer Issuer
	if !d.Args(&issuer.Issuer) || issuer.Issuer == "" || d.NextArg() {
		return d.Err("issuer needs one argument: the exact value of the claim iss")
	}
	for i := range h.Issuers {
		if h.Issuers[i].Issuer == issuer.Issuer {
			return d.Errf("issuer %q is already configured", issuer.Issuer)
		}
	}
	seen := once{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d, "public_key"); err != nil {
			return err
		}
		if err := issuer.unmarshalOption(d); err != nil {
			return err
		}
	}
	if err := issuer.check(d); err != nil {
		return err
	}
	h.Issuers = append(h.Issuers, issuer)
	return nil
}

func (i *Issuer) unmarshalOption(d *caddyfile.Dispenser) error {
	switch name := d.Val(); name {
	case "jwks_url":
		return oneArgument(d, &i.JWKSURL, "a URL")
	case "allow_http":
		i.AllowHTTP = true
		return noArguments(d)
	case "public_key":
		var text string
		if err := oneArgument(d, &text, "a key in PEM or {file./path}"); err != nil {
			return err
		}
		if !hasPlaceholder(text) {
			if _, err := core.PinnedKeys(text); err != nil {
				return d.WrapErr(err)
			}
		}
		i.PublicKeys = append(i.PublicKeys, text)
	case "hmac_secret":
		if err := oneArgument(d, &i.HMACSecret, "a secret, {env.NAME} or {file./path}"); err != nil {
			return err
		}
		if !hasPlaceholder(i.HMACSecret) {
			if _, err := core.SecretKey(secret.String(i.HMACSecret)); err != nil {
				return d.WrapErr(err)
			}
		}
	case "audience":
		if i.Audiences = d.RemainingArgs(); len(i.Audiences) == 0 {
			return d.Err("audience needs one or more arguments")
		}
	case "algorithms":
		if i.Algorithms = d.RemainingArgs(); len(i.Algorithms) == 0 {
			return d.Err("algorithms needs one or more arguments")
		}
		for _, name := range i.Algorithms {
			if !core.KnownAlgorithm(name) {
				return d.Errf("algorithm %q: want EdDSA, ES256, ES384, RS256, RS384, RS512, PS256 or HS256", name)
			}
		}
	default:
		return d.Errf("unrecognized subdirective %q of issuer: want jwks_url, allow_http, public_key, hmac_secret, audience or algorithms", name)
	}
	return nil
}

// check looks at an issuer as a whole.
func (i *Issuer) check(d *caddyfile.Dispenser) error {
	sources := 0
	for _, set := range []bool{i.JWKSURL != "", len(i.PublicKeys) > 0, i.HMACSecret != ""} {
		if set {
			sources++
		}
	}
	switch {
	case sources != 1:
		return d.Errf("issuer %q: want exactly one of jwks_url, public_key and hmac_secret", i.Issuer)
	case len(i.Audiences) == 0:
		return d.Errf("issuer %q has no audience: tokens that it made for others would be accepted", i.Issuer)
	case i.AllowHTTP && i.JWKSURL == "":
		return d.Errf("issuer %q: allow_http is for jwks_url", i.Issuer)
	}
	if i.JWKSURL != "" && !hasPlaceholder(i.JWKSURL) {
		if _, err := core.RemoteKeys(core.RemoteConfig{URL: i.JWKSURL, AllowHTTP: i.AllowHTTP}); err != nil {
			return d.Errf("issuer %q: %v", i.Issuer, err)
		}
	}
	return nil
}

func (h *Handler) unmarshalLeeway(d *caddyfile.Dispenser) error {
	var text string
	if err := oneArgument(d, &text, "a duration"); err != nil {
		return err
	}
	leeway, err := caddy.ParseDuration(text)
	if err != nil || leeway < 0 || leeway > core.MaxLeeway {
		return d.Errf("leeway %q: want a duration from 0s to %s", text, core.MaxLeeway)
	}
	h.Leeway = (*caddy.Duration)(&leeway)
	return nil
}

func (h *Handler) unmarshalFrom(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 || args[0] != fromHeader && len(args) == 3 {
		return d.Errf("from %s: want header <name> [<scheme>], cookie <name> or query <name>", strings.Join(args, " "))
	}
	source := Source{Type: args[0], Name: args[1]}
	if len(args) == 3 {
		source.Scheme = args[2]
	}
	if err := source.check(); err != nil {
		return d.WrapErr(err)
	}
	for _, other := range h.Sources {
		if other.Type == source.Type && other.Name == source.Name {
			return d.Errf("from %s %s is already configured", source.Type, source.Name)
		}
	}
	h.Sources = append(h.Sources, source)
	return nil
}

func (h *Handler) unmarshalClaims(d *caddyfile.Dispenser) error {
	if err := noArguments(d); err != nil {
		return err
	}
	seen := once{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		var target *string
		switch name := d.Val(); name {
		case "user":
			target = &h.Claims.User
		case "tenant":
			target = &h.Claims.Tenant
		case "roles":
			target = &h.Claims.Roles
		default:
			return d.Errf("unrecognized subdirective %q of claims: want user, tenant or roles", name)
		}
		if err := oneArgument(d, target, "the name of a claim"); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) unmarshalCache(d *caddyfile.Dispenser) error {
	var text string
	if err := oneArgument(d, &text, "a number of tokens"); err != nil {
		return err
	}
	size, err := strconv.Atoi(text)
	if err != nil || size < 0 {
		return d.Errf("cache %q: want a number of tokens, 0 for no cache", text)
	}
	h.Cache = &size
	return nil
}

// once remembers which subdirectives of a block were seen.
type once map[string]bool

// check fails if the current subdirective was seen before and is not one of
// the repeatable.
func (o once) check(d *caddyfile.Dispenser, repeatable ...string) error {
	name := d.Val()
	for _, r := range repeatable {
		if name == r {
			return nil
		}
	}
	if o[name] {
		return d.Errf("%s is already configured", name)
	}
	o[name] = true
	return nil
}

// oneArgument stores the only argument of the current subdirective.
func oneArgument(d *caddyfile.Dispenser, target *string, want string) error {
	name := d.Val()
	if !d.Args(target) || *target == "" || d.NextArg() {
		return d.Errf("%s needs one argument: %s", name, want)
	}
	return nil
}

func noArguments(d *caddyfile.Dispenser) error {
	name := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no argument, not %q", name, d.Val())
	}
	return nil
}

// hasPlaceholder reports whether a value is known only when the configuration loads.
func hasPlaceholder(value string) bool { return strings.Contains(value, "{") }

// Interface guard.
var _ caddyfile.Unmarshaler = (*Handler)(nil)
