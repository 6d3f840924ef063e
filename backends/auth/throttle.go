package auth

import (
	"container/list"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// throttle is a set of token buckets, one a key. It holds at most max of them;
// beyond that it forgets the one that was not used for longest, which is the
// one nearest to being full again, and a full bucket is the same as none.
type throttle struct {
	clock clock.Clock
	// burst is how many attempts a fresh key has, every how often one comes back.
	burst int
	every time.Duration
	max   int

	mu      sync.Mutex
	buckets map[string]*list.Element
	recent  *list.List // of *bucket, the most recently used first
}

type bucket struct {
	key    string
	tokens float64
	at     time.Time
}

func newThrottle(c clock.Clock, burst int, every time.Duration, size int) *throttle {
	return &throttle{clock: c, burst: burst, every: every, max: size, buckets: make(map[string]*list.Element), recent: list.New()}
}

// take uses up one attempt of key. It returns zero, or how long to wait until
// the next attempt is allowed.
func (t *throttle) take(key string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bucket(key)
	if b.tokens >= 1 {
		b.tokens--
		return 0
	}
	return time.Duration(math.Ceil((1 - b.tokens) * float64(t.every)))
}

// refund gives an attempt back: it succeeded.
func (t *throttle) refund(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bucket(key)
	b.tokens = min(b.tokens+1, float64(t.burst))
}

// bucket returns the bucket of key, filled up to now. The caller holds mu.
func (t *throttle) bucket(key string) *bucket {
	now := t.clock.Now()
	if element, ok := t.buckets[key]; ok {
		t.recent.MoveToFront(element)
		b := element.Value.(*bucket)
		if passed := now.Sub(b.at); passed > 0 {
			b.tokens = min(b.tokens+float64(passed)/float64(t.every), float64(t.burst))
			b.at = now
		}
		return b
	}
	if oldest := t.recent.Back(); len(t.buckets) >= t.max && oldest != nil {
		delete(t.buckets, t.recent.Remove(oldest).(*bucket).key)
	}
	b := &bucket{key: key, tokens: float64(t.burst), at: now}
	t.buckets[key] = t.recent.PushFront(b)
	return b
}

// addressKey is what is counted for a client address: one customer of an
// IPv6 provider has a whole /64.
func addressKey(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	if addr = addr.Unmap().WithZone(""); addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
}
