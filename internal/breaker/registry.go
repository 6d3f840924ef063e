package breaker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// maxUpstreams and maxTenants bound the breakers of one name. Addresses can come
// from placeholders, and so from requests: they must not fill the memory.
const (
	maxUpstreams = 1024
	maxTenants   = 16_384
)

// Registry holds all breakers of a process. It outlives configurations: members
// of the old and the new one meet in the same groups.
type Registry struct {
	store    Store
	clock    clock.Clock
	start    time.Time
	sequence atomic.Uint64 // numbers events and tokens

	mu     sync.Mutex
	groups map[string]*Group
}

// New returns an empty registry. c must have a monotonic reading.
func New(store Store, c clock.Clock) *Registry {
	return &Registry{store: store, clock: c, start: c.Now(), groups: map[string]*Group{}}
}

// Member is one user of a group: a part of one configuration.
type Member struct {
	// Generation tells configurations apart. Members of the same generation must
	// agree on their settings. It is only compared.
	Generation any
	// Settings is nil for a member that takes what the others set.
	Settings *Settings
	// Listener hears every transition, if it belongs to the newest member with
	// settings. It is called on a request's goroutine and must be quick.
	Listener func(Transition)
	// Upstreams is the addresses that its part of the configuration names.
	Upstreams []string
	// Learns: requests can bring it other addresses.
	Learns bool
}

// Group is all breakers of one name.
type Group struct {
	registry *Registry
	name     string
	breakers atomic.Pointer[map[string]*Breaker] // by upstream; replaced, never changed
	tenants  sync.RWMutex
	byTenant map[Key]*Breaker // of upstream and tenant, guarded by tenants
	active   atomic.Pointer[active]
	refusing atomic.Int64 // breakers that are not passing
	requests meter        // since the group began
	began    time.Time

	members []*Member // guarded by registry.mu
}

// active is what the newest member with settings wants.
type active struct {
	settings Settings
	listener func(Transition)
}

// Join adds a member to the group of that name. The newest member's settings
// apply to all its breakers at once, open or not.
func (r *Registry) Join(name string, m *Member) (*Group, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[name]
	if g == nil {
		g = &Group{registry: r, name: name, byTenant: map[Key]*Breaker{}, began: r.clock.Now()}
		g.breakers.Store(&map[string]*Breaker{})
	}
	if m.Settings != nil {
		if err := m.Settings.Validate(); err != nil {
			return nil, err
		}
		for _, other := range g.members {
			if other.Settings != nil && other.Generation == m.Generation && !sameRules(*other.Settings, *m.Settings) {
				return nil, fmt.Errorf("breaker %q has different settings in two places; give it the same ones or another name", name)
			}
		}
	}
	g.members = append(g.members, m)
	g.update()
	r.groups[name] = g
	return g, nil
}

// sameRules compares settings but for the lease, which follows the timeouts of
// the request that probes.
func sameRules(a, b Settings) bool {
	a.Lease = b.Lease
	return a == b
}

// Leave removes a member. Requests that are under way may go on using the
// group's breakers. When the last member leaves, the group is forgotten.
func (g *Group) Leave(m *Member) {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	i := slices.Index(g.members, m)
	if i < 0 {
		return
	}
	g.members = slices.Delete(g.members, i, i+1)
	if len(g.members) > 0 {
		g.update()
		return
	}
	delete(g.registry.groups, g.name)
	for _, b := range g.Breakers() {
		b.end()
	}
}

// update makes the newest member's wishes the active ones. The lease is the
// longest of all members, lest a slow but sound probe lose its verdict.
func (g *Group) update() {
	next := &active{settings: DefaultSettings()}
	var lease time.Duration
	for _, m := range g.members {
		if m.Settings != nil {
			next.settings, next.listener = *m.Settings, m.Listener
			lease = max(lease, m.Settings.Lease)
		}
	}
	if lease > 0 {
		next.settings.Lease = lease
	}
	before := g.active.Swap(next)
	if before != nil && before.settings.MinRatio > 0 != (next.settings.MinRatio > 0) {
		for _, b := range g.Breakers() {
			b.refresh()
		}
	}
}

// Settings returns the settings in force.
func (g *Group) Settings() Settings { return g.active.Load().settings }

// Upstreams returns the addresses that the configuration names, in order.
func (g *Group) Upstreams() (all []string) {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	for _, m := range g.members {
		all = append(all, m.Upstreams...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Learns reports whether requests can bring other addresses.
func (g *Group) Learns() bool {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	return slices.ContainsFunc(g.members, func(m *Member) bool { return m.Learns })
}

// Request counts one request, for [Group.Rate].
func (g *Group) Request() { g.requests.add() }

// Rate returns how many requests a second there were since the group began, and
// for how long that is.
func (g *Group) Rate() (perSecond float64, over time.Duration) {
	over = g.registry.clock.Now().Sub(g.began)
	return float64(g.requests.total()) / max(over.Seconds(), 1), over
}

// Refusing reports whether any breaker of the group isn't passing.
func (g *Group) Refusing() bool { return g.refusing.Load() > 0 }

// Breaker returns the breaker of an upstream address, or nil if the group has
// too many of them to take another. With [Settings.PerTenant] each tenant has its
// own; "" stands for requests of nobody, which share one.
func (g *Group) Breaker(upstream, tenant string) *Breaker {
	if tenant != "" && g.active.Load().settings.PerTenant {
		return g.ofTenant(Key{Name: g.name, Upstream: upstream, Tenant: tenant})
	}
	if b := (*g.breakers.Load())[upstream]; b != nil {
		return b
	}
	return g.add(upstream)
}

func (g *Group) add(upstream string) *Breaker {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	old := *g.breakers.Load()
	if b := old[upstream]; b != nil {
		return b
	}
	next := maps.Clone(old)
	if !makeRoom(next, maxUpstreams) {
		return nil
	}
	b := g.watch(Key{Name: g.name, Upstream: upstream})
	next[upstream] = b
	g.breakers.Store(&next)
	return b
}

// ofTenant looks in a map with a lock: there are too many tenants to copy the
// map for each new one.
func (g *Group) ofTenant(key Key) *Breaker {
	g.tenants.RLock()
	b := g.byTenant[key]
	g.tenants.RUnlock()
	if b != nil {
		return b
	}
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	g.tenants.Lock()
	defer g.tenants.Unlock()
	if b := g.byTenant[key]; b != nil {
		return b
	}
	if !makeRoom(g.byTenant, maxTenants) {
		return nil
	}
	b = g.watch(key)
	g.byTenant[key] = b
	return b
}

// makeRoom drops breakers that pass, if there are too many: at worst that
// forgets a failure or two.
func makeRoom[K comparable](breakers map[K]*Breaker, most int) bool {
	if len(breakers) < most {
		return true
	}
	for key, b := range breakers {
		if b.view.Load().passes {
			b.end()
			delete(breakers, key)
		}
	}
	return len(breakers) < most
}

func (g *Group) watch(key Key) *Breaker {
	b := &Breaker{key: key, group: g}
	b.stop = g.registry.store.Watch(key, b.apply)
	return b
}

// Breakers returns all breakers of the group, in no order.
func (g *Group) Breakers() []*Breaker {
	all := slices.Collect(maps.Values(*g.breakers.Load()))
	g.tenants.RLock()
	defer g.tenants.RUnlock()
	return slices.AppendSeq(all, maps.Values(g.byTenant))
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Groups returns all groups, ordered by name.
func (r *Registry) Groups() []*Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.groups), func(a, b *Group) int { return strings.Compare(a.name, b.name) })
}

// Group returns the group of that name, or nil.
func (r *Registry) Group(name string) *Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.groups[name]
}

// Store returns the arbiter.
func (r *Registry) Store() Store { return r.store }

func (g *Group) countRefusing(passes bool) {
	if passes {
		g.refusing.Add(-1)
	} else {
		g.refusing.Add(1)
	}
}

func (g *Group) notify(t Transition) {
	if a := g.active.Load(); a.listener != nil {
		a.listener(t)
	}
}
