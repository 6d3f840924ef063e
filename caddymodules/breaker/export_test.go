package breaker

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// UseClock makes the modules of the next configurations meet in a registry with
// this clock, until release is called and all of them are gone. It fails while
// an earlier registry is in use.
func UseClock(c clock.Clock) (release func(), err error) {
	_, loaded := registries.LoadOrStore(registryKey, newRegistry(c))
	release = func() { _, _ = registries.Delete(registryKey) }
	if loaded {
		release()
		return nil, errors.New("a registry is in use")
	}
	return release, nil
}

// RegistriesInUse returns how many references to the registry there are.
func RegistriesInUse() int {
	n, _ := registries.References(registryKey)
	return n
}

// Refusal is the error of a refused request.
func Refusal(wait time.Duration) error { return refusal(wait) }

// IsDialError reports whether reverse_proxy retries the error with any method.
func IsDialError(err error) bool {
	var dial reverseproxy.DialError
	return errors.As(err, &dial)
}
