package breaker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	core "github.com/tenantgate/tenantgate/internal/breaker"
)

// probeVar is the request variable that hands a probe from the selection policy
// to the transport. Its value is a core.Permit, which no configuration can make.
const probeVar = "tenantgate.breaker.probe"

// Selection goes around the upstreams whose circuit is open and leaves the
// choice among the others to another policy. A half-open upstream is chosen only
// by the request that probes it. If every circuit is open it chooses the one
// that is due first, whose refusal tells the client how long to wait.
type Selection struct {
	// Name is the name of the breaker, the same as the transport's. Required.
	Name string `json:"name"`
	// InnerRaw is the policy that chooses among the upstreams that are left.
	// Default: random, as in reverse_proxy. Not weighted_round_robin, whose weights
	// belong to places in the full list.
	InnerRaw json.RawMessage `json:"inner,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	inner      reverseproxy.Selector
	membership *membership
}

// CaddyModule returns the Caddy module information.
func (*Selection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.breaker",
		New: func() caddy.Module { return new(Selection) },
	}
}

// errWeighted is why one policy cannot be the inner one.
var errWeighted = errors.New("weighted_round_robin can't be used with a breaker: its weights belong to places in the list of upstreams, and open ones are left out of it")

// Provision loads the inner policy and joins the breakers of the name.
func (s *Selection) Provision(ctx caddy.Context) error {
	if err := checkName(s.Name); err != nil {
		return err
	}
	s.inner = reverseproxy.RandomSelection{}
	if s.InnerRaw != nil {
		if usesWeights(s.InnerRaw) {
			return errWeighted
		}
		inner, err := ctx.LoadModule(s, "InnerRaw")
		if err != nil {
			return fmt.Errorf("loading inner selection policy: %w", err)
		}
		s.inner = inner.(reverseproxy.Selector) //nolint:forcetypeassert // the namespace holds nothing else
	}
	var err error
	s.membership, err = join(ctx, s.Name, &core.Member{})
	return err
}

// usesWeights reports whether the policy or one of its fallbacks is weighted_round_robin.
func usesWeights(policy json.RawMessage) bool {
	var fields struct {
		Policy   string          `json:"policy"`
		Fallback json.RawMessage `json:"fallback"`
	}
	if err := json.Unmarshal(policy, &fields); err != nil { // LoadModule tells what is wrong
		return false
	}
	return fields.Policy == "weighted_round_robin" ||
		len(bytes.TrimSpace(fields.Fallback)) > 0 && usesWeights(fields.Fallback)
}

// Cleanup leaves the breakers of the name.
func (s *Selection) Cleanup() error {
	s.membership.leave()
	return nil
}

// Select implements reverseproxy.Selector. While every circuit is closed it
// costs one atomic load more than the inner policy.
func (s *Selection) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	if len(pool) < 2 || !s.membership.group.Refusing() {
		return s.inner.Select(pool, r, w)
	}
	return s.selectAround(pool, r, w)
}

// selectAround chooses when at least one circuit isn't closed.
func (s *Selection) selectAround(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	ctx := r.Context()
	giveBack(ctx)
	repl, _ := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	tenant := tenant(ctx)
	var (
		candidates = make(reverseproxy.UpstreamPool, 0, len(pool))
		soonest    *reverseproxy.Upstream // of the refusing ones
		wait       time.Duration
	)
	refuse := func(u *reverseproxy.Upstream, after time.Duration) {
		if (soonest == nil || after < wait) && u.Available() {
			soonest, wait = u, after
		}
	}
	for _, u := range pool {
		standing := core.Standing{Passes: true}
		if b := s.breaker(repl, u, tenant); b != nil {
			standing = b.Standing()
		}
		if standing.Passes || standing.MayProbe {
			candidates = append(candidates, u)
		} else {
			refuse(u, standing.RetryAfter)
		}
	}
	for len(candidates) > 0 {
		u := s.inner.Select(candidates, r, w)
		if u == nil {
			break
		}
		b := s.breaker(repl, u, tenant)
		if b == nil || b.Standing().Passes {
			return u
		}
		permit, ok := b.Try(ctx)
		if permit.Probe() {
			caddyhttp.SetVar(ctx, probeVar, permit)
		}
		if ok {
			return u
		}
		refuse(u, permit.RetryAfter())
		candidates = slices.DeleteFunc(candidates, func(c *reverseproxy.Upstream) bool { return c == u })
	}
	return soonest
}

// giveBack returns a probe that an earlier attempt reserved and never used.
func giveBack(ctx context.Context) {
	if p, ok := caddyhttp.GetVar(ctx, probeVar).(core.Permit); ok {
		caddyhttp.SetVar(ctx, probeVar, nil)
		p.Done(core.Ignored)
	}
}

// breaker returns the breaker that the transport will meet for the upstream, or
// nil if the address makes no sense, which reverse_proxy then says.
func (s *Selection) breaker(repl *caddy.Replacer, u *reverseproxy.Upstream, tenant string) *core.Breaker {
	name, ok := dialName(repl.ReplaceAll(u.Dial, ""))
	if !ok {
		return nil
	}
	return s.membership.group.Breaker(name, tenant)
}

var (
	_ caddy.Provisioner     = (*Selection)(nil)
	_ caddy.CleanerUpper    = (*Selection)(nil)
	_ caddyfile.Unmarshaler = (*Selection)(nil)
	_ reverseproxy.Selector = (*Selection)(nil)
)
