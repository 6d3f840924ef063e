package webhook

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/internal/database"
)

const (
	// parallel is how many attempts are made at once.
	parallel = 4
	// pollEvery is how often the store is looked at without a Wake: for retries,
	// and for events of programs that died before they could send them.
	pollEvery = 2 * time.Second
	// lease is for how long an event belongs to who claimed it. It covers waiting
	// for the lock, the attempt and storing what came of it.
	lease = time.Minute
	// storeTimeout bounds storing what came of an attempt, also at the end of Run.
	storeTimeout = 5 * time.Second
)

// schedule is how long after each failed attempt the next one comes, from
// Standard Webhooks. After one more the event is given up.
var schedule = [...]time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// claimed is an event that is ours to deliver until the lease ends.
type claimed struct {
	id, kind, payload string
	tenantID          int64
	attempt           int // 1 for the first
}

// Run delivers events until ctx ends, and then returns nil. Attempts that are
// under way are broken off and count for nothing. Any number of programs may
// run on one store and share its events. A nil *Outbox only waits for ctx.
func (o *Outbox) Run(ctx context.Context) error {
	if o == nil {
		<-ctx.Done()
		return nil
	}
	defer o.client.CloseIdleConnections()
	var workers sync.WaitGroup
	defer workers.Wait()
	poll, purge := time.NewTicker(pollEvery), time.NewTicker(purgeEvery)
	defer poll.Stop()
	defer purge.Stop()
	o.purge(ctx)

	done := make(chan struct{}, parallel)
	free, look := parallel, true
	for ctx.Err() == nil {
		if look && free > 0 {
			events := o.due(ctx, free)
			look = len(events) == free // then there may be more
			free -= len(events)
			for _, e := range events {
				workers.Go(func() {
					o.deliver(ctx, e)
					done <- struct{}{}
				})
			}
		}
		select {
		case <-ctx.Done():
		case <-done:
			free++
		case <-o.wake:
			look = true
		case <-poll.C:
			look = true
		case <-purge.C:
			o.purge(ctx)
		}
	}
	return nil
}

// due claims up to limit events that are due. Trouble with the store it logs
// once, until it is over.
func (o *Outbox) due(ctx context.Context, limit int) []claimed {
	events, err := o.claim(ctx, limit)
	if err != nil && ctx.Err() == nil && !o.troubled {
		o.log.Error("webhook events can't be read", zap.Error(err))
	}
	o.troubled = err != nil
	return events
}

// claim claims up to limit events, those first that have been due for longest,
// by moving due_at behind the lease: if we die they come due again.
func (o *Outbox) claim(ctx context.Context, limit int) (events []claimed, err error) {
	var some bool // most looks find nothing and leave SQLite's writer alone
	err = o.db.Reader().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM webhook_events WHERE due_at <= $1)`, o.db.Now().UnixMilli()).Scan(&some)
	if err != nil {
		return nil, fmt.Errorf("look for webhook events: %w", err)
	}
	if !some {
		return nil, nil
	}
	err = o.db.InTx(ctx, func(tx *database.Tx) error {
		// Two programs would choose the same rows, and one of them get none.
		if err := tx.Lock(ctx, "webhook_events"); err != nil {
			return err
		}
		events, err = claimOldest(ctx, tx, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim webhook events: %w", err)
	}
	return events, nil
}

func claimOldest(ctx context.Context, tx *database.Tx, limit int) ([]claimed, error) {
	// The + keeps SQLite from going through all due rows by their index.
	rows, err := tx.QueryContext(ctx, `UPDATE webhook_events SET attempts = attempts + 1, due_at = $1
		WHERE +due_at <= $2 AND id IN (SELECT id FROM webhook_events WHERE due_at <= $2 ORDER BY due_at, id LIMIT $3)
		RETURNING id, type, tenant_id, payload, attempts`, tx.Now.Add(lease).UnixMilli(), tx.NowMS(), limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var events []claimed
	for rows.Next() {
		var e claimed
		if err := rows.Scan(&e.id, &e.kind, &e.tenantID, &e.payload, &e.attempt); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	slices.SortFunc(events, func(a, b claimed) int { return strings.Compare(a.id, b.id) }) // ids are ordered by time
	return events, rows.Err()
}

// deliver makes an attempt and stores what came of it, also if ctx has ended
// meanwhile: what the receiver took must not be sent again.
func (o *Outbox) deliver(ctx context.Context, e claimed) {
	r := o.send(ctx, e)
	broken := r.status == 0 && ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	var err error
	switch {
	case r.delivered():
		err = o.change(ctx, `DELETE FROM webhook_events WHERE id = $1`, e.id)
		o.log.Debug("webhook delivered", e.fields()...)
	case broken:
		// The attempt does not count, and whoever runs next makes it again.
		err = o.change(ctx, `UPDATE webhook_events SET attempts = attempts - 1, due_at = $1 WHERE id = $2 AND attempts = $3`,
			o.db.Now().UnixMilli(), e.id, e.attempt)
	default:
		err = o.fail(ctx, e, r)
	}
	if err != nil {
		o.log.Error("webhook's outcome not stored, it will be sent again", append(e.fields(), zap.Error(err))...)
	}
}

// fail stores that an attempt failed and when the next one comes, if any.
func (o *Outbox) fail(ctx context.Context, e claimed, r reply) error {
	fields := append(e.fields(), zap.String("reason", r.reason))
	var next sql.NullInt64
	if e.attempt > len(schedule) || r.status == http.StatusGone {
		o.log.Error("webhook given up", fields...)
	} else {
		wait := pause(e.attempt, r.wait)
		next = sql.NullInt64{Int64: o.db.Now().Add(wait).UnixMilli(), Valid: true}
		o.log.Warn("webhook not delivered", append(fields, zap.Duration("next_in", wait))...)
	}
	// If the lease has ended, the event may be another's: the attempts say so.
	return o.change(ctx, `UPDATE webhook_events SET due_at = $1, last_error = $2 WHERE id = $3 AND attempts = $4`,
		next, r.reason, e.id, e.attempt)
}

// pause returns how long after the failed attempt the next one comes: what the
// schedule says, or what the receiver asks for if that is longer, and up to a
// tenth more, so that not all come at once.
func pause(attempt int, asked time.Duration) time.Duration {
	wait := max(schedule[attempt-1], asked)
	return wait + rand.N(wait/10) //nolint:gosec // how long we wait need not be unguessable
}

// change runs one statement in a transaction.
func (o *Outbox) change(ctx context.Context, statement string, args ...any) error {
	return o.db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	})
}

// fields are what log lines say of an event.
func (e claimed) fields() []zap.Field {
	return []zap.Field{
		zap.String("event_id", e.id), zap.String("event_type", e.kind), zap.Int64("tenant_id", e.tenantID), zap.Int("attempt", e.attempt),
	}
}
