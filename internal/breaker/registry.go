package breaker

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// maxUpstreams bounds the breakers of one name. Addresses can come from
// placeholders, and so from requests: they must not fill the memory.
const maxUpstreams = 1024

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
}

// Group is all breakers of one name.
type Group struct {
	registry *Registry
	name     string
	breakers atomic.Pointer[map[string]*Breaker] // by upstream; replaced, never changed
	active   atomic.Pointer[active]
	refusing atomic.Int64 // breakers that are not passing

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
		g = &Group{registry: r, name: name}
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
	for _, b := range *g.breakers.Load() {
		b.stop()
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
	g.active.Store(next)
}

// Settings returns the settings in force.
func (g *Group) Settings() Settings { return g.active.Load().settings }

// Refusing reports whether any breaker of the group isn't passing.
func (g *Group) Refusing() bool { return g.refusing.Load() > 0 }

// Breaker returns the breaker of an upstream address, or nil if the group has
// too many of them to take another.
func (g *Group) Breaker(upstream string) *Breaker {
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
	if len(next) >= maxUpstreams {
		for name, b := range next {
			if b.view.Load().passes { // at worst it forgets a failure or two
				b.stop()
				delete(next, name)
			}
		}
		if len(next) >= maxUpstreams {
			return nil
		}
	}
	b := &Breaker{key: Key{Name: g.name, Upstream: upstream}, group: g}
	b.stop = g.registry.store.Watch(b.key, b.apply)
	next[upstream] = b
	g.breakers.Store(&next)
	return b
}

// Breakers returns all breakers of the group, in no order.
func (g *Group) Breakers() []*Breaker {
	return slices.Collect(maps.Values(*g.breakers.Load()))
}

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
