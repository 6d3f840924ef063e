package breaker

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	core "github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/redisclient"
)

// registries holds the circuits over reloads: Caddy sets up the new
// configuration before it takes down the old one, so there is always a user.
var registries = caddy.NewUsagePool()

// registryKey is the key of the one registry in the pool. There is one whatever
// Redis the configurations name: circuits go over from one to the other.
const registryKey = "breakers"

// registry is all circuits of this process, and which arbiter each of the
// configurations that are loaded wants for them.
type registry struct {
	*core.Registry
	store *core.Shared

	mu     sync.Mutex
	wishes []*wish // oldest first; the newest that was started is in force
	inUse  *wish
}

// wish is the arbiter that one configuration wants.
type wish struct {
	generation any
	members    int
	started    bool
	arrived    func()               // ends the waiting for redis
	redis      *redisclient.Options // nil: none, each gateway by itself
	namespace  string
	logger     *slog.Logger
}

func newRegistry(c clock.Clock) *registry {
	store := core.NewShared(c)
	return &registry{Registry: core.New(store, c), store: store}
}

// current returns the registry in use, or nil if no configuration has breakers.
func current() *registry {
	var found *registry
	registries.Range(func(_, value any) bool {
		found, _ = value.(*registry)
		return false
	})
	return found
}

// Destruct implements caddy.Destructor.
func (r *registry) Destruct() error {
	r.store.Use(nil, nil)
	return nil
}

// enter counts one more member of a configuration.
func (r *registry) enter(next *wish) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.wishes, func(w *wish) bool { return w.generation == next.generation })
	if i < 0 {
		i = len(r.wishes)
		r.wishes = append(r.wishes, next)
		next.arrived = func() {}
		if next.redis != nil {
			next.arrived = r.store.Expect()
		}
	}
	r.wishes[i].members++
}

// start fulfils the wish of a configuration that now runs.
func (r *registry) start(generation any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.wishes {
		if w.generation == generation {
			w.started = true
			r.fulfil()
			w.arrived()
		}
	}
}

// exit counts one member less. The wish of a configuration without any is
// forgotten, and that of the one before is in force again: so it is when a
// reload fails.
func (r *registry) exit(generation any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.wishes, func(w *wish) bool { return w.generation == generation })
	if i < 0 {
		return
	}
	r.wishes[i].members--
	if r.wishes[i].members > 0 {
		return
	}
	r.wishes[i].arrived()
	r.wishes = slices.Delete(r.wishes, i, i+1)
	if len(r.wishes) > 0 { // the last one goes with the registry
		r.fulfil()
	}
}

// fulfil makes the newest wish of a configuration that runs come true.
func (r *registry) fulfil() {
	var newest *wish
	for _, w := range r.wishes {
		if w.started {
			newest = w
		}
	}
	if newest == nil || newest.same(r.inUse) {
		return
	}
	r.inUse = newest
	if newest.redis == nil {
		r.store.Use(nil, nil)
		return
	}
	client, err := newest.redis.Open()
	if err != nil { // its files were readable when the configuration was loaded
		newest.logger.Error("redis can't be used: breakers work on each replica by itself", slog.String("error", err.Error()))
		r.store.Use(nil, nil)
		return
	}
	r.store.Use(core.NewRedisLink(client, newest.namespace),
		newest.logger.With(slog.String("redis", newest.redis.String())))
}

// same reports whether two wishes come to the same thing.
func (w *wish) same(other *wish) bool {
	if other == nil {
		return w.redis == nil
	}
	if w.redis == nil || other.redis == nil {
		return w.redis == other.redis
	}
	return w.redis.Key() == other.redis.Key() && w.namespace == other.namespace
}

// membership is one module's use of the breakers of a name.
type membership struct {
	group    *core.Group // valid for ever, for requests that outlive the module
	member   *core.Member
	registry *registry
	hasRedis bool // is configured
	onStart  func(func())
	once     sync.Once
}

// join makes m a member of the breakers of the name.
func join(ctx caddy.Context, name string, m *core.Member) (*membership, error) {
	app, err := gateway.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	m.Generation = ctx.Done() // one channel per configuration
	named, learns := upstreamsOf(ctx)
	m.Upstreams, m.Learns = append(m.Upstreams, named...), learns
	pooled, _, err := registries.LoadOrNew(registryKey, func() (caddy.Destructor, error) {
		return newRegistry(clock.System{}), nil
	})
	if err != nil {
		return nil, err
	}
	r, ok := pooled.(*registry)
	if !ok {
		return nil, fmt.Errorf("breaker registry is a %T", pooled)
	}
	group, err := r.Join(name, m)
	if err != nil {
		_, _ = registries.Delete(registryKey) // Destruct cannot fail
		return nil, err
	}
	r.enter(&wish{generation: m.Generation, redis: app.RedisOptions(), namespace: app.Namespace, logger: ctx.Slogger()})
	app.OnStart(func() { r.start(m.Generation) })
	return &membership{group: group, member: m, registry: r, hasRedis: app.RedisOptions() != nil, onStart: app.OnStart}, nil
}

// upstreamsOf returns the addresses that the reverse_proxy names whose part is
// being set up, as circuits know them, and whether requests can bring it others.
func upstreamsOf(ctx caddy.Context) (named []string, learns bool) {
	var proxy *reverseproxy.Handler // the innermost
	for _, m := range ctx.Modules() {
		if h, ok := m.(*reverseproxy.Handler); ok {
			proxy = h
		}
	}
	if proxy == nil {
		return nil, true
	}
	learns = proxy.DynamicUpstreamsRaw != nil
	for _, u := range proxy.Upstreams {
		if strings.Contains(u.Dial, "{") { // a placeholder
			learns = true
		} else if name, ok := dialName(u.Dial); ok {
			named = append(named, name)
		}
	}
	return named, learns
}

// leave ends the membership; a second call, or one of a module that never
// became a member, does nothing.
func (m *membership) leave() {
	if m == nil {
		return
	}
	m.once.Do(func() {
		m.group.Leave(m.member)
		m.registry.exit(m.member.Generation)
		_, _ = registries.Delete(registryKey) // Destruct cannot fail
	})
}
