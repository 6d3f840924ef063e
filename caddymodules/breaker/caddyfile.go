package breaker

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	_ "github.com/tenantgate/tenantgate/caddymodules/gateway" // the place of breaker_proxy among the directives
)

func init() {
	httpcaddyfile.RegisterDirective("breaker_proxy", parseBreakerProxy)
}

// parseBreakerProxy parses the directive breaker_proxy:
//
//	breaker_proxy [<matcher>] <name> <upstreams...> {
//	    breaker {
//	        # see [Config.unmarshal]
//	    }
//	    <any subdirective of reverse_proxy but rewrite and method>
//	}
//
// It makes a reverse_proxy whose transport and selection policy are ours. A
// `transport http` block inside is merged into the transport, lb_policy becomes
// the inner policy.
func parseBreakerProxy(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next()
	start := caddyfile.NewDispenser([]caddyfile.Token{h.Token()}) // for errors about the whole
	start.Next()
	p, err := splitProxy(h.Dispenser)
	if err != nil {
		return nil, err
	}
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(caddyfile.NewDispenser(p.tokens)); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		return nil, start.Errf("breaker_proxy %s has no upstreams", p.name)
	}
	if err := p.guard(proxy); err != nil {
		return nil, start.WrapErr(err)
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(Handler{}, "handler", "breaker", nil),
		caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
	}}
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// proxyParts is a breaker_proxy taken apart.
type proxyParts struct {
	name   string
	config *Config
	tokens []caddyfile.Token // what is left for reverse_proxy
}

// splitProxy takes our parts out of the directive that starts at the current token.
func splitProxy(d *caddyfile.Dispenser) (*proxyParts, error) {
	all := d.NextSegment()
	d = caddyfile.NewDispenser(all)
	d.Next()
	if !d.NextArg() {
		return nil, d.Errf("breaker_proxy needs a name: breaker_proxy [<matcher>] <name> <upstreams...>")
	}
	p := &proxyParts{name: d.Val()}
	if err := checkName(p.name); err != nil {
		return nil, d.Errf("%w; the syntax is breaker_proxy [<matcher>] <name> <upstreams...>", err)
	}
	upstreams := d.RemainingArgsAsTokens()
	p.tokens = append([]caddyfile.Token{all[0]}, upstreams...)
	rest, config, err := splitBlock(d, checkProxyOption)
	if err != nil {
		return nil, err
	}
	p.config = config
	if len(rest) > 0 {
		p.tokens = append(p.tokens, all[2+len(upstreams)]) // the opening brace
		p.tokens = append(p.tokens, rest...)
		p.tokens = append(p.tokens, all[len(all)-1])
	}
	return p, nil
}

// splitBlock parses the breaker block inside d's block and returns the tokens of
// the other subdirectives, each of which must pass the check.
func splitBlock(d *caddyfile.Dispenser, check func(*caddyfile.Dispenser) error) (rest []caddyfile.Token, config *Config, err error) {
	var hasTransport bool // reverse_proxy would take the last of two without a word
	for d.NextBlock(0) {
		segment := d.NextSegment()
		option := caddyfile.NewDispenser(segment)
		option.Next()
		if option.Val() == "transport" {
			if hasTransport {
				return nil, nil, option.Err("transport already specified")
			}
			hasTransport = true
		}
		if option.Val() != "breaker" {
			if err := check(option); err != nil {
				return nil, nil, err
			}
			rest = append(rest, segment...)
			continue
		}
		if config != nil {
			return nil, nil, option.Err("breaker already specified")
		}
		config = new(Config)
		if err := config.unmarshal(option); err != nil {
			return nil, nil, err
		}
	}
	return rest, config, nil
}

// checkProxyOption refuses the subdirectives of reverse_proxy that don't go with ours.
func checkProxyOption(d *caddyfile.Dispenser) error {
	option := d.Val()
	switch option {
	case "rewrite", "method":
		return d.Errf("%s is not allowed in breaker_proxy: it changes the request after it was authorised; use the directive %s, which runs before", option, option)
	case "transport":
		if d.NextArg() && d.Val() != "http" {
			return d.Errf("transport %s is not allowed in breaker_proxy, only http: the breaker is the transport, and speaks HTTP", d.Val())
		}
	case "lb_policy":
		if d.NextArg() && d.Val() == "breaker" {
			return d.Err("lb_policy breaker is set by breaker_proxy itself; give the policy that chooses among the upstreams that are left")
		}
		if d.Val() == "weighted_round_robin" {
			return d.WrapErr(errWeighted)
		}
	}
	return nil
}

// guard puts our transport and selection policy around those of the proxy.
func (p *proxyParts) guard(proxy *reverseproxy.Handler) error {
	t := &Transport{Name: p.name, Breaker: p.config}
	if proxy.TransportRaw != nil {
		if err := json.Unmarshal(proxy.TransportRaw, &t.HTTPTransport); err != nil {
			return err
		}
	}
	if err := t.check(); err != nil {
		return err
	}
	proxy.TransportRaw = caddyconfig.JSONModuleObject(t, "protocol", "breaker", nil)
	if proxy.LoadBalancing == nil {
		proxy.LoadBalancing = new(reverseproxy.LoadBalancing)
	}
	s := &Selection{Name: p.name, InnerRaw: proxy.LoadBalancing.SelectionPolicyRaw}
	if usesWeights(s.InnerRaw) {
		return errWeighted
	}
	proxy.LoadBalancing.SelectionPolicyRaw = caddyconfig.JSONModuleObject(s, "policy", "breaker", nil)
	return nil
}

// UnmarshalCaddyfile sets up the transport inside a plain reverse_proxy. Syntax:
//
//	transport breaker <name> {
//	    breaker {
//	        # see [Config.unmarshal]
//	    }
//	    <any option of transport http>
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	head := d.Token()
	all := d.NextSegment()
	d = caddyfile.NewDispenser(all)
	d.Next()
	if !d.NextArg() {
		return d.Errf("transport breaker needs a name: transport breaker <name>")
	}
	t.Name = d.Val()
	if d.NextArg() {
		return d.ArgErr()
	}
	rest, config, err := splitBlock(d, func(*caddyfile.Dispenser) error { return nil })
	if err != nil {
		return err
	}
	t.Breaker = config
	tokens := []caddyfile.Token{head}
	if len(rest) > 0 {
		tokens = append(append(append(tokens, all[2]), rest...), all[len(all)-1])
	}
	if err := t.HTTPTransport.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
		return err
	}
	d.Reset()
	d.Next()
	if err := t.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalCaddyfile sets up the policy inside a plain reverse_proxy. Syntax:
//
//	lb_policy breaker <name> [<policy> [<options...>]]
func (s *Selection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.NextArg() {
		return d.Errf("lb_policy breaker needs a name: lb_policy breaker <name> [<policy> [<options...>]]")
	}
	s.Name = d.Val()
	if err := checkName(s.Name); err != nil {
		return d.WrapErr(err)
	}
	if !d.NextArg() {
		if d.NextBlock(0) {
			return d.Err("lb_policy breaker takes a block only for its inner policy")
		}
		return nil
	}
	name := d.Val()
	if name == "breaker" {
		return d.Err("a breaker inside a breaker makes no sense")
	}
	id := "http.reverse_proxy.selection_policies." + name
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	policy, ok := module.(reverseproxy.Selector)
	if !ok {
		return d.Errf("module %s (%T) is not a reverseproxy.Selector", id, module)
	}
	s.InnerRaw = caddyconfig.JSONModuleObject(policy, "policy", name, nil)
	if usesWeights(s.InnerRaw) {
		return d.WrapErr(errWeighted)
	}
	return nil
}

// unmarshal parses the breaker block, whose name is the current token. Syntax:
//
//	breaker {
//	    failures         <count>                 # default 3
//	    window           <duration>              # default 60s
//	    open             <duration> [max <duration>]  # default 120s, the same every time
//	    probes           <count>                 # default 1
//	    need             <count>                 # default 1
//	    failure_status   <status|5xx...>         # default 500 502 503 504
//	    response_timeout <duration>|off          # default 10s
//	    jitter           <percent>               # default 0%
//	    mode             enforce|shadow          # default enforce
//	}
func (c *Config) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected '%s' after breaker: the breaker takes a block; the name stands behind the directive", d.Val())
	}
	seen := map[string]bool{}
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] {
			return d.Errf("%s already specified", option)
		}
		seen[option] = true
		if err := c.unmarshalOption(d, option, d.RemainingArgs()); err != nil {
			return err
		}
		if d.NextBlock(1) {
			return d.Errf("%s takes no block", option)
		}
	}
	return nil
}

func (c *Config) unmarshalOption(d *caddyfile.Dispenser, option string, args []string) (err error) {
	switch option {
	case "min_ratio", "min_reporters", "scope", "fallback":
		return d.Errf("%s is not available yet", option)
	case "open":
		return c.unmarshalOpen(d, args)
	case "failure_status":
		return c.unmarshalStatuses(d, args)
	case "failures", "window", "probes", "need", "response_timeout", "jitter", "mode":
	default:
		return d.Errf("unrecognized option '%s' in breaker: expecting failures, window, open, probes, need, failure_status, response_timeout, jitter or mode", option)
	}
	if len(args) != 1 {
		return d.Errf("%s takes one value, got %d", option, len(args))
	}
	value := args[0]
	switch option {
	case "failures":
		c.Failures, err = count(d, option, value)
	case "probes":
		c.Probes, err = count(d, option, value)
	case "need":
		c.Need, err = count(d, option, value)
	case "window":
		c.Window, err = duration(d, option, value)
	case "response_timeout":
		if c.ResponseTimeout = -1; value != "off" {
			c.ResponseTimeout, err = duration(d, option, value)
		}
	case "jitter":
		c.Jitter, err = percent(d, option, value)
	case "mode":
		if value != modeEnforce && value != modeShadow {
			return d.Errf("mode '%s' is unknown: expecting enforce or shadow", value)
		}
		c.Mode = value
	}
	return err
}

func (c *Config) unmarshalOpen(d *caddyfile.Dispenser, args []string) (err error) {
	if len(args) != 1 && (len(args) != 3 || args[1] != "max") {
		return d.Errf("open takes a duration and, after the word max, its maximum: open <duration> [max <duration>]")
	}
	if c.Open, err = duration(d, "open", args[0]); err != nil || len(args) == 1 {
		return err
	}
	if c.OpenMax, err = duration(d, "open max", args[2]); err != nil {
		return err
	}
	if c.OpenMax < c.Open {
		return d.Errf("open max '%s' is less than open '%s'", args[2], args[0])
	}
	return nil
}

func (c *Config) unmarshalStatuses(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 {
		return d.Errf("failure_status takes at least one status")
	}
	for _, arg := range args {
		status, err := strconv.Atoi(arg)
		switch {
		case arg == "5xx":
			status = 5
		case err != nil || status < 400 || status > 599:
			return d.Errf("failure_status '%s' is not a status: expecting 400 to 599 or 5xx", arg)
		}
		c.FailureStatus = append(c.FailureStatus, status)
	}
	return nil
}

// maxCount is the most that failures, probes and need may be; see core.Settings.
const maxCount = 1000

func count(d *caddyfile.Dispenser, option, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxCount {
		return 0, d.Errf("%s '%s' is not a count: expecting 1 to %d", option, value, maxCount)
	}
	return n, nil
}

func duration(d *caddyfile.Dispenser, option, value string) (caddy.Duration, error) {
	parsed, err := caddy.ParseDuration(value)
	if err != nil || parsed < time.Millisecond {
		return 0, d.Errf("%s '%s' is not a duration: expecting at least 1ms, such as 90s or 2m", option, value)
	}
	return caddy.Duration(parsed), nil
}

func percent(d *caddyfile.Dispenser, option, value string) (float64, error) {
	number, isPercent := strings.CutSuffix(value, "%")
	n, err := strconv.ParseFloat(number, 64)
	if !isPercent || err != nil || !(n >= 0 && n <= 50) {
		return 0, d.Errf("%s '%s' is not a percentage: expecting 0%% to 50%%", option, value)
	}
	return n / 100, nil
}
