package breaker

import (
	"encoding/json"
	"fmt"
	"slices"
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
	proxy, err := parseReverseProxy(h, p.guarded())
	if err != nil {
		return nil, err
	}
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		return nil, start.Errf("breaker_proxy %s has no upstreams", p.name)
	}
	handler, err := p.handler(h, proxy.Upstreams)
	if err != nil {
		return nil, err
	}
	if err := p.guard(proxy); err != nil {
		return nil, start.WrapErr(err)
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(handler, "handler", "breaker", nil),
		caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
	}}
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// parseReverseProxy makes a reverse_proxy of its tokens.
func parseReverseProxy(h httpcaddyfile.Helper, tokens []caddyfile.Token) (*reverseproxy.Handler, error) {
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
		return nil, err
	}
	return proxy, proxy.FinalizeUnmarshalCaddyfile(h)
}

// proxyParts is a breaker_proxy taken apart.
type proxyParts struct {
	name string
	head []caddyfile.Token // the directive and its upstreams
	open caddyfile.Token   // the brace that opens the block, if there is one
	end  caddyfile.Token   // and the one that closes it
	block
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
	p.head = append([]caddyfile.Token{all[0]}, upstreams...)
	if brace := 2 + len(upstreams); brace < len(all) {
		p.open, p.end = all[brace], all[len(all)-1]
	}
	var err error
	p.block, err = splitBlock(d, checkProxyOption)
	return p, err
}

// guarded returns the tokens of the reverse_proxy behind the breaker.
func (p *proxyParts) guarded() []caddyfile.Token {
	if len(p.others) == 0 {
		return p.head
	}
	return slices.Concat(p.head, []caddyfile.Token{p.open}, slices.Concat(p.others...), []caddyfile.Token{p.end})
}

// block is the content of a block with a breaker block in it.
type block struct {
	config   *Config
	fallback *fallbackOption
	others   [][]caddyfile.Token // the other subdirectives
	place    int                 // how many of them stand before the breaker block
}

// splitBlock parses the breaker block inside d's block and keeps the tokens of
// the other subdirectives, each of which must pass the check.
func splitBlock(d *caddyfile.Dispenser, check func(*caddyfile.Dispenser) error) (b block, err error) {
	var hasTransport bool // reverse_proxy would take the last of two without a word
	for d.NextBlock(0) {
		segment := d.NextSegment()
		option := caddyfile.NewDispenser(segment)
		option.Next()
		if option.Val() == "transport" {
			if hasTransport {
				return b, option.Err("transport already specified")
			}
			hasTransport = true
		}
		if option.Val() != "breaker" {
			if err := check(option); err != nil {
				return b, err
			}
			b.others = append(b.others, segment)
			continue
		}
		if b.config != nil {
			return b, option.Err("breaker already specified")
		}
		b.config, b.place = new(Config), len(b.others)
		if b.fallback, err = b.config.unmarshal(option); err != nil {
			return b, err
		}
	}
	return b, nil
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

// handler makes the handler before the reverse_proxy, with the fallback if there is one.
func (p *proxyParts) handler(h httpcaddyfile.Helper, guarded reverseproxy.UpstreamPool) (*Handler, error) {
	if p.fallback == nil {
		return new(Handler), nil
	}
	f := p.fallback
	if len(f.upstreams) > 0 {
		proxy, err := p.standIn(h)
		if err != nil {
			return nil, fmt.Errorf("fallback upstream: %w", err)
		}
		for _, u := range proxy.Upstreams {
			if slices.ContainsFunc(guarded, func(g *reverseproxy.Upstream) bool { return g.Dial == u.Dial }) {
				return nil, f.at.Errf("fallback upstream '%s' is one of the guarded upstreams and would be called although its circuit is open; give another", u.Dial)
			}
		}
		f.HandlerRaw = caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil)
	}
	if err := f.check(); err != nil {
		return nil, f.at.Errf("fallback: %w", err)
	}
	return &Handler{Name: p.name, Fallback: &f.Fallback}, nil
}

// standIn makes the reverse_proxy of the fallback upstreams. It is told what the
// guarded one is told, such as header_up and transport, but for what is about
// its upstreams. Their addresses stand where the breaker block stood, because
// it takes growing line numbers to tell one line from the next.
func (p *proxyParts) standIn(h httpcaddyfile.Helper) (*reverseproxy.Handler, error) {
	proxy, err := parseReverseProxy(h, slices.Concat(
		[]caddyfile.Token{p.head[len(p.head)-1], p.open},
		forAnyUpstream(p.others[:p.place]), p.fallback.upstreams, forAnyUpstream(p.others[p.place:]),
		[]caddyfile.Token{p.end}))
	if err != nil {
		return nil, err
	}
	t, err := p.transport(proxy)
	if err != nil {
		return nil, err
	}
	t.boundWaits() // they must end without a breaker too
	proxy.TransportRaw = caddyconfig.JSONModuleObject(&t.HTTPTransport, "protocol", "http", nil)
	return proxy, nil
}

// transport returns our transport with the HTTP options of the proxy's.
func (p *proxyParts) transport(proxy *reverseproxy.Handler) (*Transport, error) {
	t := &Transport{Name: p.name, Breaker: p.config}
	if proxy.TransportRaw == nil {
		return t, nil
	}
	return t, json.Unmarshal(proxy.TransportRaw, &t.HTTPTransport)
}

// forAnyUpstream returns the subdirectives of reverse_proxy that make sense with
// other upstreams too: none that lists upstreams, chooses one or checks their health.
func forAnyUpstream(options [][]caddyfile.Token) (tokens []caddyfile.Token) {
	for _, option := range options {
		switch name := option[0].Text; {
		case name == "to", name == "dynamic", name == "lb_policy", name == "fail_duration", name == "max_fails",
			strings.HasPrefix(name, "health_"), strings.HasPrefix(name, "unhealthy_"):
		default:
			tokens = append(tokens, option...)
		}
	}
	return tokens
}

// guard puts our transport and selection policy around those of the proxy.
func (p *proxyParts) guard(proxy *reverseproxy.Handler) error {
	t, err := p.transport(proxy)
	if err != nil {
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	for _, u := range proxy.Upstreams {
		if !strings.Contains(u.Dial, "{") {
			t.Upstreams = append(t.Upstreams, u.Dial)
		}
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
	b, err := splitBlock(d, func(*caddyfile.Dispenser) error { return nil })
	if err != nil {
		return err
	}
	if b.fallback != nil {
		return b.fallback.at.Err("fallback is not allowed in transport breaker, which cannot answer in an upstream's place; use breaker_proxy")
	}
	t.Breaker = b.config
	tokens := []caddyfile.Token{head}
	if len(b.others) > 0 {
		tokens = slices.Concat(tokens, []caddyfile.Token{all[2]}, slices.Concat(b.others...), []caddyfile.Token{all[len(all)-1]})
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
//	    min_ratio        <percent>               # default 0%
//	    min_reporters    <count>                 # default 1
//	    scope            upstream|upstream+tenant # default upstream
//	    mode             enforce|shadow          # default enforce
//	    fallback         ...                     # see [parseFallback]; default: an error with status 503
//	}
//
// The fallback is returned, for it belongs to the handler.
func (c *Config) unmarshal(d *caddyfile.Dispenser) (fallback *fallbackOption, err error) {
	if d.NextArg() {
		return nil, d.Errf("unexpected '%s' after breaker: the breaker takes a block; the name stands behind the directive", d.Val())
	}
	seen := map[string]bool{}
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] {
			return nil, d.Errf("%s already specified", option)
		}
		seen[option] = true
		if option == "fallback" {
			fallback, err = parseFallback(d)
		} else {
			err = c.unmarshalOption(d, option, d.RemainingArgs())
		}
		if err != nil {
			return nil, err
		}
		if d.NextBlock(1) {
			return nil, d.Errf("%s takes no block", option)
		}
	}
	return fallback, nil
}

func (c *Config) unmarshalOption(d *caddyfile.Dispenser, option string, args []string) (err error) {
	switch option {
	case "open":
		return c.unmarshalOpen(d, args)
	case "failure_status":
		return c.unmarshalStatuses(d, args)
	case "failures", "window", "probes", "need", "response_timeout", "jitter", "min_ratio", "min_reporters", "scope", "mode":
	default:
		return d.Errf("unrecognized option '%s' in breaker: expecting failures, window, open, probes, need, failure_status, "+
			"response_timeout, jitter, min_ratio, min_reporters, scope, mode or fallback", option)
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
	case "min_reporters":
		c.MinReporters, err = count(d, option, value)
	case "window":
		c.Window, err = duration(d, option, value)
	case "response_timeout":
		if c.ResponseTimeout = -1; value != "off" {
			c.ResponseTimeout, err = duration(d, option, value)
		}
	case "jitter":
		c.Jitter, err = percent(d, option, value, 50)
	case "min_ratio":
		c.MinRatio, err = percent(d, option, value, 100)
	case "scope":
		c.Scope, err = oneOf(d, option, value, scopeUpstream, scopeTenant)
	case "mode":
		c.Mode, err = oneOf(d, option, value, modeEnforce, modeShadow)
	}
	return err
}

// fallbackOption is the option fallback of a breaker block.
type fallbackOption struct {
	Fallback
	upstreams []caddyfile.Token    // as the subdirective "to" of reverse_proxy
	at        *caddyfile.Dispenser // the option's place, for errors
}

// parseFallback parses the option fallback, which is the current token. Syntax:
//
//	fallback respond  <status> [<body> [<content_type>]]
//	fallback file     <path> [<status>]
//	fallback upstream <addresses...>
func parseFallback(d *caddyfile.Dispenser) (*fallbackOption, error) {
	f := &fallbackOption{at: caddyfile.NewDispenser([]caddyfile.Token{d.Token()})}
	f.at.Next()
	if !d.NextArg() {
		return nil, d.Err("fallback takes respond, file or upstream and what to answer with")
	}
	kind := d.Token()
	tokens := d.RemainingArgsAsTokens()
	args := make([]string, len(tokens))
	for i, t := range tokens {
		args[i] = t.Text
	}
	switch kind.Text {
	case "respond":
		if len(args) < 1 || len(args) > 3 {
			return nil, d.Errf("fallback respond takes a status, a body and its type: fallback respond <status> [<body> [<content_type>]]")
		}
		return f, f.unmarshalRespond(d, args)
	case "file":
		if len(args) < 1 || len(args) > 2 || args[0] == "" {
			return nil, d.Errf("fallback file takes a path and a status: fallback file <path> [<status>]")
		}
		return f, f.unmarshalFile(d, args)
	case "upstream":
		if len(args) == 0 {
			return nil, d.Errf("fallback upstream takes at least one address")
		}
		kind.Text = "to"
		f.upstreams = append([]caddyfile.Token{kind}, tokens...)
		return f, nil
	}
	return nil, d.Errf("fallback '%s' is unknown: expecting respond, file or upstream", kind.Text)
}

func (f *fallbackOption) unmarshalRespond(d *caddyfile.Dispenser, args []string) (err error) {
	if f.Status, err = status(d, args[0]); err != nil {
		return err
	}
	if len(args) > 1 {
		f.Body = args[1]
	}
	if len(args) > 2 {
		f.ContentType = args[2]
	}
	return nil
}

func (f *fallbackOption) unmarshalFile(d *caddyfile.Dispenser, args []string) (err error) {
	f.File = args[0]
	if len(args) > 1 {
		f.Status, err = status(d, args[1])
	}
	return err
}

// status parses the status of a fallback.
func status(d *caddyfile.Dispenser, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 200 || n > 599 {
		return 0, d.Errf("fallback status '%s' is not a status: expecting 200 to 599", value)
	}
	return n, nil
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

// maxCount is the most that failures, probes, need and min_reporters may be; see core.Settings.
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

func percent(d *caddyfile.Dispenser, option, value string, most float64) (float64, error) {
	number, isPercent := strings.CutSuffix(value, "%")
	n, err := strconv.ParseFloat(number, 64)
	if !isPercent || err != nil || !(n >= 0 && n <= most) {
		return 0, d.Errf("%s '%s' is not a percentage: expecting 0%% to %g%%", option, value, most)
	}
	return n / 100, nil
}

func oneOf(d *caddyfile.Dispenser, option, value, first, second string) (string, error) {
	if value != first && value != second {
		return "", d.Errf("%s '%s' is unknown: expecting %s or %s", option, value, first, second)
	}
	return value, nil
}
