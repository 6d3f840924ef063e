package auth

import (
	"context"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// What the black-box tests see of the inside.
var (
	ParseTenant       = parseTenant
	ParseRefreshToken = parseRefreshToken
	AddressKey        = addressKey
)

// The limits of the throttle.
const (
	AccountBurst = accountBurst
	AddressBurst = addressBurst
)

// Throttle is a throttle of one kind.
type Throttle struct{ t *throttle }

// NewThrottle returns a throttle.
func NewThrottle(c clock.Clock, burst int, every time.Duration, size int) Throttle {
	return Throttle{newThrottle(c, burst, every, size)}
}

// Take uses up an attempt.
func (t Throttle) Take(key string) time.Duration { return t.t.take(key) }

// Refund gives one back.
func (t Throttle) Refund(key string) { t.t.refund(key) }

// Len is how many buckets there are.
func (t Throttle) Len() int { return len(t.t.buckets) }

// PurgeSessions deletes ended sessions now.
func (s *Service) PurgeSessions(ctx context.Context) error { return s.purgeSessions(ctx) }
