package jwtauth

import (
	"strings"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// bytesPerEntry is the memory that the cache may use for each entry of its
// size, on average, in bytes.
const bytesPerEntry = 4 << 10

// entryOverhead estimates what an entry takes besides the token, in bytes.
const entryOverhead = 1 << 10

// entry is a token that was verified.
type entry struct {
	verified Verified
	// The verdict holds for these keys only: a set that replaced them may lack
	// the one that verified the token.
	keys *Keys
	set  *keySet
	// notBefore and expires bound the validity, with the leeway counted in.
	notBefore, expires time.Time
}

// cache remembers verified tokens. Its key is the whole token: everything else
// that a verdict depends on is fixed for a Verifier or checked at each hit.
type cache struct {
	entries *otter.Cache[string, *entry] // nil: off
	clock   clock.Clock
}

// newCache returns a cache of at most size tokens and size*bytesPerEntry bytes.
func newCache(size int, c clock.Clock) (*cache, error) {
	if size == 0 {
		return &cache{clock: c}, nil
	}
	// Every entry weighs at least its share, so the weight bounds the count too.
	// Nothing is expired by time: an entry that no one asks for is evicted when
	// room is needed, and get checks the rest.
	entries, err := otter.New(&otter.Options[string, *entry]{
		MaximumWeight: uint64(size) * bytesPerEntry,
		Weigher: func(token string, _ *entry) uint32 {
			return uint32(max(bytesPerEntry, len(token)+entryOverhead))
		},
	})
	return &cache{entries: entries, clock: c}, err
}

// get returns the verdict about token if it is known: an identity, or the
// error that it has expired or, after the clock was set back, is not valid yet.
func (c *cache) get(token string) (*Verified, *Error) {
	if c.entries == nil {
		return nil, nil
	}
	e, ok := c.entries.GetIfPresent(token)
	if !ok {
		return nil, nil
	}
	if e.keys.set.Load() != e.set {
		c.entries.Invalidate(token)
		return nil, nil
	}
	now := c.clock.Now()
	if !now.Before(e.expires) {
		c.entries.Invalidate(token)
		return nil, errExpired
	}
	if now.Before(e.notBefore) {
		return nil, errEarly
	}
	return &e.verified, nil
}

// put remembers e. The token is copied: a substring would keep the whole
// header of the request alive.
func (c *cache) put(token string, e *entry) {
	if c.entries != nil {
		c.entries.Set(strings.Clone(token), e)
	}
}
