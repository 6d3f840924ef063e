package breaker

import (
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"

	core "github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// registries holds the circuits over reloads: Caddy sets up the new
// configuration before it takes down the old one, so there is always a user.
var registries = caddy.NewUsagePool()

// memoryKey is the pool's key of the registry whose state is in this process.
const memoryKey = "memory"

// registry makes a core registry a value of the pool.
type registry struct{ *core.Registry }

// Destruct implements caddy.Destructor; there is nothing to release.
func (registry) Destruct() error { return nil }

// membership is one module's use of the breakers of a name.
type membership struct {
	group  *core.Group // valid for ever, for requests that outlive the module
	member *core.Member
	once   sync.Once
}

// join makes m a member of the breakers of the name.
func join(name string, m *core.Member) (*membership, error) {
	pooled, _, err := registries.LoadOrNew(memoryKey, func() (caddy.Destructor, error) {
		return registry{core.New(core.NewMemory(clock.System{}, nil), clock.System{})}, nil
	})
	if err != nil {
		return nil, err
	}
	r, ok := pooled.(registry)
	if !ok {
		return nil, fmt.Errorf("breaker registry is a %T", pooled)
	}
	group, err := r.Join(name, m)
	if err != nil {
		_, _ = registries.Delete(memoryKey) // Destruct cannot fail
		return nil, err
	}
	return &membership{group: group, member: m}, nil
}

// leave ends the membership; a second call, or one of a module that never
// became a member, does nothing.
func (m *membership) leave() {
	if m == nil {
		return
	}
	m.once.Do(func() {
		m.group.Leave(m.member)
		_, _ = registries.Delete(memoryKey) // Destruct cannot fail
	})
}
