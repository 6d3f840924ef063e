package invitation

import (
	"context"
	"time"
)

// Sweep is one round of the sweeper.
func (s *Service) Sweep(ctx context.Context) { s.sweep(ctx) }

// SendDue starts an attempt for each mail that is due and waits until all
// attempts have ended.
func (s *Service) SendDue(ctx context.Context) error {
	err := s.dispatch(ctx)
	s.Settle()
	return err
}

// Settle waits until all attempts that are being made have ended. Two of it at
// a time would wait for each other.
func (s *Service) Settle() {
	for range mailParallel {
		s.outbox.slots <- struct{}{}
	}
	for range mailParallel {
		<-s.outbox.slots
	}
}

// EndAttempts cuts off the attempts that are being made, as the end of Run does
// after its grace.
func (s *Service) EndAttempts() { s.outbox.endThem() }

// The times and bounds of the outbox.
const (
	MailLease    = mailLease
	MailPatience = mailPatience
	MailTimeout  = mailTimeout
	MailGrace    = mailGrace
	MailParallel = mailParallel
	MailBatch    = mailBatch
)

// Throttle is a throttle with what it holds.
type Throttle struct{ *throttle }

// NewThrottle is newThrottle.
func NewThrottle(limit int, window time.Duration) Throttle {
	return Throttle{newThrottle(limit, window)}
}

// Take is throttle.take.
func (t Throttle) Take(key string, now time.Time) time.Duration { return t.take(key, now) }

// Keys is how many keys the throttle knows.
func (t Throttle) Keys() int { return len(t.tries) }

// MaxThrottled bounds the keys of a throttle.
const MaxThrottled = maxThrottled

// The parsers, for the fuzz tests.
var (
	NewToken   = newToken
	ParseToken = parseToken
)

// EncodeCursor is cursor.encode.
func EncodeCursor(createdAt int64, id, status, emailKey string) string {
	return cursor{createdAt: createdAt, id: id}.encode(filter{status: status, emailKey: emailKey})
}

// ParseCursor is parseCursor.
func ParseCursor(text, status, emailKey string) (createdAt int64, id string, ok bool) {
	c, ok := parseCursor(text, filter{status: status, emailKey: emailKey})
	return c.createdAt, c.id, ok
}
