package invitation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/secret"
)

const (
	// mailParallel is how many mails a process sends at a time.
	mailParallel = 8
	// mailTimeout bounds an attempt, and then the store's time to note how it went.
	mailTimeout = 20 * time.Second
	// mailLease is how long an attempt keeps a row for itself. It is longer than
	// an attempt can take, so that no two are made at a time.
	mailLease = time.Minute
	// mailPatience is how long the caller of a create waits for the mail.
	mailPatience = 500 * time.Millisecond
	// mailGrace is how long an attempt may go on when the service ends.
	mailGrace = 5 * time.Second
	// mailPoll is how often the outbox is looked at, mailBatch how many rows at a time.
	mailPoll  = 5 * time.Second
	mailBatch = 100
)

// The pauses between attempts: the first, growing fourfold up to the longest.
const (
	firstMailPause   = 30 * time.Second
	longestMailPause = 4 * time.Hour
)

// outbox is what a process has of the outbox in the store: the slots of the
// attempts that it makes at a time.
type outbox struct {
	slots   chan struct{}
	woken   chan struct{}
	ended   context.Context // when attempts must end
	endThem context.CancelFunc
}

func newOutbox() *outbox {
	o := &outbox{slots: make(chan struct{}, mailParallel), woken: make(chan struct{}, 1)}
	o.ended, o.endThem = context.WithCancel(context.Background())
	return o
}

// wake has the outbox looked at now.
func (o *outbox) wake() {
	select {
	case o.woken <- struct{}{}:
	default: // it is about to be
	}
}

// enqueue puts the mail of an invitation into the outbox, or makes it due now.
func enqueue(ctx context.Context, tx *database.Tx, id string, caller server.Caller) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO invitation_mails (invitation_id, actor_id, trace_id, queued_at, due_at) VALUES ($1, $2, $3, $4, $4)
		ON CONFLICT (invitation_id) DO UPDATE SET attempts = 0, actor_id = excluded.actor_id, trace_id = excluded.trace_id,
		queued_at = excluded.queued_at, due_at = excluded.due_at`, id, caller.UserID, caller.TraceID, tx.NowMS())
	if err != nil {
		return fmt.Errorf("queue a mail: %w", err)
	}
	return nil
}

// dequeue takes the mail of an invitation out of the outbox.
func dequeue(ctx context.Context, tx *database.Tx, id string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM invitation_mails WHERE invitation_id = $1`, id); err != nil {
		return fmt.Errorf("take a mail out of the queue: %w", err)
	}
	return nil
}

// postponeDue makes the mail of an invitation due later, if it is due now. An
// error of an earlier attempt is forgotten: with one, people are shown when the
// next attempt is, and that would tell of other tenants' mails to the address.
func postponeDue(ctx context.Context, tx *database.Tx, id string, due time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE invitations SET delivery_error = '' WHERE id = $1
		AND EXISTS (SELECT 1 FROM invitation_mails WHERE invitation_id = $1 AND due_at <= $2)`, id, tx.NowMS())
	if err != nil {
		return fmt.Errorf("postpone a mail: %w", err)
	}
	_, err = tx.ExecContext(ctx, `UPDATE invitation_mails SET due_at = $1 WHERE invitation_id = $2 AND due_at <= $3`, due.UnixMilli(), id, tx.NowMS())
	if err != nil {
		return fmt.Errorf("postpone a mail: %w", err)
	}
	return nil
}

// postpone makes the mail of an invitation due at another time. It uncounts
// the attempt that was not one.
func postpone(ctx context.Context, tx *database.Tx, id string, due time.Time, uncount int) error {
	_, err := tx.ExecContext(ctx, `UPDATE invitation_mails SET due_at = $1, attempts = attempts - $2 WHERE invitation_id = $3`, due.UnixMilli(), uncount, id)
	if err != nil {
		return fmt.Errorf("postpone a mail: %w", err)
	}
	return nil
}

// sendSoon makes the first attempt to send the mail of an invitation and waits
// for it, but not longer than mailPatience: if the server is slow, or enough
// attempts are being made, the caller finds the mail pending.
func (s *Service) sendSoon(ctx context.Context, id string) {
	select {
	case s.outbox.slots <- struct{}{}:
	default:
		s.outbox.wake()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.attempt(id)
	}()
	patience := time.NewTimer(mailPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// sendDue sends what is due in the outbox until ctx ends, and then waits for
// the attempts of this process.
func (s *Service) sendDue(ctx context.Context) {
	ticker := time.NewTicker(mailPoll)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := s.dispatch(ctx); err != nil {
			s.complain(ctx, "mails not sent", err)
		}
		select {
		case <-ctx.Done():
		case <-s.outbox.woken:
		case <-ticker.C:
		}
	}
	grace := time.AfterFunc(mailGrace, s.outbox.endThem)
	defer grace.Stop()
	for range mailParallel { // whoever holds all slots knows that nobody sends
		s.outbox.slots <- struct{}{}
	}
}

// dispatch starts an attempt for each mail that is due, and none twice: what
// can't be attempted waits for the next look.
func (s *Service) dispatch(ctx context.Context) error {
	now, last := s.config.DB.Now().UnixMilli(), dueMail{}
	for {
		due, err := dueMails(ctx, s.config.DB, now, last)
		if err != nil {
			return err
		}
		for _, m := range due {
			select {
			case <-ctx.Done():
				return nil
			case s.outbox.slots <- struct{}{}:
				go s.attempt(m.id)
			}
		}
		if len(due) < mailBatch {
			return nil
		}
		last = due[len(due)-1]
	}
}

// dueMail is a row of the outbox.
type dueMail struct {
	id  string
	due int64
}

// dueMails returns a batch of what is due at nowMS, in the order of time and id,
// that comes after a row.
func dueMails(ctx context.Context, db *database.DB, nowMS int64, after dueMail) (due []dueMail, err error) {
	rows, err := db.Reader().QueryContext(ctx, `SELECT invitation_id, due_at FROM invitation_mails
		WHERE due_at <= $1 AND (due_at, invitation_id) > ($2, $3) ORDER BY due_at, invitation_id LIMIT $4`, nowMS, after.due, after.id, mailBatch)
	if err != nil {
		return nil, fmt.Errorf("look for mails: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var m dueMail
		if err := rows.Scan(&m.id, &m.due); err != nil {
			return nil, fmt.Errorf("look for mails: %w", err)
		}
		due = append(due, m)
	}
	return due, rows.Err()
}

// attempt sends the mail of an invitation once, unless somebody else does or it
// need not go out any more. It frees a slot at the end.
func (s *Service) attempt(id string) {
	defer func() { <-s.outbox.slots }()
	ctx, cancel := context.WithTimeout(s.outbox.ended, mailTimeout)
	defer cancel()
	claim, err := s.claim(ctx, id)
	if err != nil {
		s.complain(s.outbox.ended, "mail not sent", err)
		return
	}
	if claim != nil {
		s.note(ctx, claim, s.send(ctx, claim))
	}
}

// claim is an attempt that is being made: the invitation with the token that
// its mail brings.
type claim struct {
	record
	token            secret.String
	hash             []byte
	attempts         int
	actorID, traceID string
	queuedAt         int64
}

// claim takes the row of an invitation out of everybody's sight until the lease
// ends, and gives the invitation a new token. It is nil if there is nothing to
// send now.
func (s *Service) claim(ctx context.Context, id string) (c *claim, err error) {
	token, hash, err := newToken(s.config.Random)
	if err != nil {
		return nil, err
	}
	err = s.inTx(ctx, func(tx *database.Tx) error {
		c = nil
		taken := &claim{token: token, hash: hash}
		var tenantID int64
		var emailKey string
		err := tx.QueryRowContext(ctx, `SELECT tenant_id, email_key FROM invitations WHERE id = $1`, id).Scan(&tenantID, &emailKey)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // it was deleted, and its mail with it
		}
		if err != nil {
			return fmt.Errorf("claim a mail: %w", err)
		}
		wait, err := s.takeMail(ctx, tx, emailKey)
		if err != nil {
			return err
		}
		if wait > 0 {
			return postponeDue(ctx, tx, id, tx.Now.Add(wait))
		}
		// The invitation is locked before its mail, as everywhere.
		if ok, err := setToken(ctx, tx, id, hash); err != nil {
			return err
		} else if !ok {
			return errEnded
		}
		err = tx.QueryRowContext(ctx, `UPDATE invitation_mails SET due_at = $1, attempts = attempts + 1 WHERE invitation_id = $2 AND due_at <= $3
			RETURNING attempts, actor_id, trace_id, queued_at`, tx.Now.Add(mailLease).UnixMilli(), id, tx.NowMS()).
			Scan(&taken.attempts, &taken.actorID, &taken.traceID, &taken.queuedAt)
		if errors.Is(err, sql.ErrNoRows) {
			return errNotDue
		}
		if err != nil {
			return fmt.Errorf("claim a mail: %w", err)
		}
		taken.record, err = find(ctx, tx, tenantID, id)
		c = taken
		return err
	})
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, errNotDue):
		return nil, nil
	case errors.Is(err, errEnded):
		return nil, s.inTx(ctx, func(tx *database.Tx) error { return dequeue(ctx, tx, id) })
	}
	return nil, err
}

// They undo a claim: of a mail that somebody else has claimed, and of one whose
// invitation has ended in the meantime. Neither counts as a mail to the address.
var (
	errNotDue = errors.New("the mail is not due")
	errEnded  = errors.New("the invitation has ended")
)

// setToken gives a pending invitation a token, and is false if it is not
// pending any more.
func setToken(ctx context.Context, tx *database.Tx, id string, hash []byte) (bool, error) {
	return changed(tx.ExecContext(ctx, `UPDATE invitations SET token_hash = $1, version = version + 1
		WHERE id = $2 AND status = 'pending' AND expires_at > $3`, hash, id, tx.NowMS()))
}

// send builds and sends the mail.
func (s *Service) send(ctx context.Context, c *claim) error {
	m, err := s.mails.invitation(&c.record, s.config.PublicURL, c.token)
	if err != nil {
		return err
	}
	m.From, m.Date = s.config.From, s.config.Clock.Now()
	return s.config.Mail.Send(ctx, m)
}

// note writes down how an attempt went.
func (s *Service) note(ctx context.Context, c *claim, sendErr error) {
	ended := s.outbox.ended.Err() != nil // the attempt was cut off by us
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mailTimeout)
	defer cancel()
	log := s.config.Log.With(zap.String("invitation_id", c.id), zap.Int64("tenant_id", c.tenantID), zap.String("trace_id", c.traceID), zap.Int("attempt", c.attempts))
	var retry time.Time
	err := s.inTx(ctx, func(tx *database.Tx) (err error) {
		retry = time.Time{}
		switch {
		case sendErr == nil:
			return s.noteSent(ctx, tx, c)
		case ended:
			return noteCutOff(ctx, tx, c)
		default:
			retry, err = s.noteFailed(ctx, tx, c, deliveryReason(sendErr))
			return err
		}
	})
	switch {
	case err != nil:
		log.Error("delivery not noted", zap.Error(err))
	case sendErr == nil:
		log.Info("invitation mail sent")
	case retry.IsZero():
		log.Warn("invitation mail not sent", zap.String("reason", deliveryReason(sendErr)), zap.Error(sendErr))
	default:
		log.Warn("invitation mail not sent", zap.String("reason", deliveryReason(sendErr)), zap.Error(sendErr), zap.Time("next_attempt_at", retry))
	}
}

func (s *Service) noteSent(ctx context.Context, tx *database.Tx, c *claim) error {
	ok, err := changed(tx.ExecContext(ctx, `UPDATE invitations SET delivery = 'sent', delivery_error = '', sent_at = $1, updated_at = $1, version = version + 1
		WHERE id = $2 AND token_hash = $3`, tx.NowMS(), c.id, c.hash))
	if err != nil || !ok {
		return err // another token has replaced this one
	}
	if err := dequeue(ctx, tx, c.id); err != nil {
		return err
	}
	return s.happened(ctx, tx, c.tenantID, c.id, c.event("invitation.sent", nil), nil)
}

// noteCutOff makes the mail due at once, for another process. It was no attempt.
func noteCutOff(ctx context.Context, tx *database.Tx, c *claim) error {
	ok, err := changed(tx.ExecContext(ctx, `UPDATE invitations SET version = version + 1 WHERE id = $1 AND token_hash = $2`, c.id, c.hash))
	if err != nil || !ok {
		return err // another token has replaced this one, and another attempt
	}
	return postpone(ctx, tx, c.id, tx.Now, 1)
}

// noteFailed returns when the next attempt is, the zero time if none is.
func (s *Service) noteFailed(ctx context.Context, tx *database.Tx, c *claim, reason string) (time.Time, error) {
	state, retry := deliveryPending, tx.Now.Add(mailPause(c.attempts))
	end := time.UnixMilli(c.queuedAt).Add(s.config.MailRetry)
	if reason == reasonPermanent || retry.After(end) || retry.UnixMilli() >= c.expiresAt {
		state, retry = deliveryFailed, time.Time{}
	}
	ok, err := changed(tx.ExecContext(ctx, `UPDATE invitations SET delivery = $1, delivery_error = $2, updated_at = $3, version = version + 1
		WHERE id = $4 AND token_hash = $5`, state, reason, tx.NowMS(), c.id, c.hash))
	if err != nil || !ok {
		return retry, err
	}
	if state == deliveryPending {
		return retry, postpone(ctx, tx, c.id, retry, 0)
	}
	if err := dequeue(ctx, tx, c.id); err != nil {
		return retry, err
	}
	detail := map[string]any{"reason": reason}
	return retry, s.happened(ctx, tx, c.tenantID, c.id, c.event("invitation.delivery_failed", detail), detail)
}

// event is what became of the mail that somebody asked for.
func (c *claim) event(action string, detail any) identity.AuditEvent {
	return identity.AuditEvent{ActorID: c.actorID, Action: action, Detail: detail, TraceID: c.traceID}
}

// mailPause returns how long to wait after the given number of attempts, give
// or take a fifth.
func mailPause(attempts int) time.Duration {
	pause := firstMailPause
	for i := 1; i < attempts && pause < longestMailPause; i++ {
		pause *= 4
	}
	pause = min(pause, longestMailPause)
	return pause - pause/5 + rand.N(2*pause/5) //nolint:gosec // a pause need not be unguessable
}
