package webhook

import "context"

// RetryAfter is the parser, for the fuzz test.
var RetryAfter = retryAfter

// Schedule is when an event is tried again.
var Schedule = schedule[:]

// Lease, MaxRetryAfter and Parallel are the limits.
const (
	Lease         = lease
	MaxRetryAfter = maxRetryAfter
	Parallel      = parallel
)

// WakeTaken reports whether Run has taken the last Wake.
func (o *Outbox) WakeTaken() bool { return len(o.wake) == 0 }

// Claim claims events like a program that dies at once, and returns their ids.
func (o *Outbox) Claim(ctx context.Context, limit int) ([]string, error) {
	var ids []string
	events, err := o.claim(ctx, limit)
	for _, e := range events {
		ids = append(ids, e.id)
	}
	return ids, err
}
