package invitation

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// The bound on wrong passwords for an existing account, over all its
// invitations: a stolen link must not become a way to guess a password.
const (
	maxGuesses  = 5
	guessWindow = 15 * time.Minute
)

// maxThrottled bounds the memory of a throttle.
const maxThrottled = 10_000

// throttle allows a number of attempts for a key, any number if the limit is 0,
// in a window that starts with the first one.
type throttle struct {
	limit  int
	window time.Duration

	mu    sync.Mutex
	tries map[string]tries
}

type tries struct {
	since time.Time
	n     int
}

func newThrottle(limit int, window time.Duration) *throttle {
	return &throttle{limit: limit, window: window, tries: make(map[string]tries)}
}

// take counts an attempt before its outcome is known, so that parallel ones
// can't slip by, and returns 0, or how long to wait if there were too many.
func (t *throttle) take(key string, now time.Time) time.Duration {
	if t.limit == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.tries[key]
	if !ok && len(t.tries) >= maxThrottled {
		t.makeRoom(now)
	}
	if !ok || now.Sub(v.since) >= t.window {
		v = tries{since: now}
	}
	if v.n >= t.limit {
		return v.since.Add(t.window).Sub(now)
	}
	v.n++
	t.tries[key] = v
	return 0
}

// makeRoom drops the keys whose window is over and, if those are few, any ones:
// who has thousands of addresses, or live tokens, is not held by a throttle. It
// leaves an eighth free, for it goes through all keys and must not for each.
func (t *throttle) makeRoom(now time.Time) {
	maps.DeleteFunc(t.tries, func(_ string, v tries) bool { return now.Sub(v.since) >= t.window })
	for k := range t.tries {
		if len(t.tries) <= maxThrottled-maxThrottled/8 {
			return
		}
		delete(t.tries, k)
	}
}

// addressKey is the key of a client address: all of an IPv4 address, of an IPv6
// address the 64 bits of its network, which is what one customer has.
func addressKey(text string) string {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	if address = address.Unmap(); address.Is4() {
		return address.String()
	}
	network, _ := address.WithZone("").Prefix(64) // 64 is in range
	return network.String()
}

// forget clears a key after a right answer.
func (t *throttle) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, key)
}
