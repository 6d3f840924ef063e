package invitation

import (
	"sync"
	"time"
)

// The bound on wrong passwords for an existing account, over all its
// invitations: a stolen link must not become a way to guess a password.
const (
	maxGuesses  = 5
	guessWindow = 15 * time.Minute
)

// maxThrottled bounds the memory of a throttle. Only holders of a live token
// for an existing account ever make an entry.
const maxThrottled = 10_000

// throttle allows a number of attempts for a key in a window that starts with
// the first one.
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tries) >= maxThrottled {
		for k, v := range t.tries {
			if now.Sub(v.since) >= t.window {
				delete(t.tries, k)
			}
		}
	}
	v, ok := t.tries[key]
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

// forget clears a key after a right answer.
func (t *throttle) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, key)
}
