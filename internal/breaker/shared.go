package breaker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// Shared is the store of a process that shares its circuits with others. Redis
// is the arbiter, reached through a [Link]; the circuits of the local store are
// copies of what it says. Reports leave by a queue, changes arrive by pub/sub,
// and a poll every second finds what was lost on the way, so no request waits
// for Redis but one that asks for a probe, and that one 25 ms at most.
//
// Without a link, or while Redis is away, the copies go on by themselves: every
// replica decides by what it alone has seen. When Redis is back, open circuits
// are merged, failures that are still in the window are replayed, and Redis
// decides again. Events, tokens and versions make every message harmless that
// comes late, twice or not at all.
type Shared struct {
	local   *Memory
	clock   clock.Clock
	replica string // names this process, also one that was restarted

	using   sync.Mutex // held while the link is exchanged
	session atomic.Pointer[session]
	coming  atomic.Pointer[chan struct{}] // closed when what Expect announced is there

	mu      sync.Mutex
	epoch   string // of the arbiter's data that the circuits are copies of
	version uint64 // up to which every change has been seen
	newest  uint64 // of all versions that messages and answers have told of
	lost    bool   // the arbiter has lost data and was not told all of it anew
}

// sharedCircuit is what a circuit needs to be a copy. It is guarded by the
// circuit's lock.
type sharedCircuit struct {
	settings    Settings  // of the latest call
	closedAt    uint64    // the arbiter's version that began the closed period
	provisional uint64    // event by which it opened before the arbiter has said so
	own         bool      // what it is now was decided here, without the arbiter
	known       uint64    // if it was not: the version that the arbiter has lost
	unsent      bool      // it has failures that the arbiter may not know of
	asking      bool      // a request for a probe is under way
	denied      time.Time // until then the arbiter has no probe to give
	spare       lease     // of a probe that came too late for its request
}

// NewShared returns a store without a link.
func NewShared(c clock.Clock) *Shared {
	s := &Shared{local: NewMemory(c, nil), clock: c, replica: randomID()}
	s.local.copies = func() bool { return s.shared() != nil }
	return s
}

// randomID returns 12 hex digits.
func randomID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Use makes link the way to the arbiter from now on, in the place of the one
// before, which is closed. The circuits go over to it as they are. With nil the
// process is on its own. The logger is told when Redis is lost and found.
func (s *Shared) Use(link Link, logger *slog.Logger) {
	s.using.Lock()
	defer s.using.Unlock()
	var next *session
	if link != nil {
		next = newSession(s, link, logger)
	}
	old := s.session.Swap(next)
	if old != nil {
		old.close()
	}
	if next != nil {
		next.start()
		return
	}
	s.sweep(snapshot{})
}

// Expect says that Use will be called when everything else has been set up.
// Requests that are faster wait for it as Watch says, until over is called.
func (s *Shared) Expect() (over func()) {
	coming := make(chan struct{})
	s.coming.Store(&coming)
	return sync.OnceFunc(func() {
		s.coming.CompareAndSwap(&coming, nil)
		close(coming)
	})
}

// Watch implements [Store]. The first looks wait until the arbiter was asked for
// its circuits, or for a quarter of a second: a replica that was restarted must
// not send requests to an upstream that is cut off.
func (s *Shared) Watch(key Key, push func(Record)) (stop func()) {
	if coming := s.coming.Load(); coming != nil && s.session.Load() == nil {
		select {
		case <-*coming:
		case <-time.After(bootBudget):
		}
	}
	if n := s.session.Load(); n != nil {
		<-n.booted
	}
	return s.local.Watch(key, push)
}

// Report implements [Store].
func (s *Shared) Report(key Key, r Report, settings Settings) {
	c := s.local.find(key)
	if c == nil {
		return
	}
	n := s.shared()
	var counted bool
	j := job{op: opFail, key: key, settings: settings, event: r.Event}
	s.local.change(c, func(now time.Time) (changed bool) {
		c.shared.settings = settings
		var tripped bool
		counted, tripped = c.fail(now, r, settings)
		j.at, j.admitted = now.Add(-r.Age), c.shared.closedAt
		switch {
		case n == nil:
			c.shared.unsent = c.shared.unsent || counted
			return tripped && s.decide(c, c.open(now, settings.openPeriod(1, s.local.random()), ReasonFailures))
		case tripped && settings.MinReporters <= 1 && settings.MinRatio == 0:
			c.openAhead(now, r.Event)
			return true
		}
		return false
	})
	if counted && n != nil {
		n.enqueue(j)
	}
}

// openAhead opens before the arbiter has said so: it will, for this process alone
// has seen enough. The failures stay, in case it never hears of them.
func (c *circuit) openAhead(now time.Time, event uint64) {
	stamps, s := c.stamps, c.shared.settings
	c.open(now, s.openPeriod(1, 0.5), ReasonFailures)
	c.stamps, c.shared.provisional, c.record.Local = stamps, event, false
}

// decide notes that a change was made without the arbiter.
func (s *Shared) decide(c *circuit, changed bool) bool {
	if changed {
		c.shared.own, c.shared.known, c.shared.provisional = true, 0, 0
	}
	return changed
}

// Count implements [Store].
func (s *Shared) Count(key Key, successes int64, settings Settings) {
	s.local.Count(key, successes, settings)
	if n := s.shared(); n != nil {
		n.enqueue(job{op: opCount, key: key, settings: settings, successes: successes})
	}
}

// Acquire implements [Store]. One request at a time asks the arbiter; others
// are refused meanwhile, and so are all while it is known to have no probe.
func (s *Shared) Acquire(ctx context.Context, key Key, token uint64, settings Settings) (g Grant) {
	c := s.local.find(key)
	if c == nil {
		return Grant{Closed: true}
	}
	n := s.shared()
	if n == nil {
		s.local.change(c, func(now time.Time) (changed bool) {
			c.shared.settings = settings
			g, changed = c.acquire(now, token, settings)
			return s.decide(c, changed)
		})
		return g
	}
	var ask bool
	s.local.change(c, func(now time.Time) bool {
		c.shared.settings = settings
		g, ask = c.mayAsk(now, settings)
		return false
	})
	if !ask {
		return g
	}
	return n.ask(ctx, c, token, settings)
}

// mayAsk returns what is known without the arbiter, or that it must be asked.
func (c *circuit) mayAsk(now time.Time, s Settings) (g Grant, ask bool) {
	sh := &c.shared
	switch spare := sh.spare; {
	case c.record.Forced == ForcedOpen:
		return Grant{State: Open, RetryAfter: s.Open}, false
	case c.record.Forced == ForcedClosed || c.record.State == Closed:
		return Grant{Closed: true, Seq: c.record.Seq}, false
	case c.record.State == Open && now.Before(c.until):
		return Grant{State: Open, RetryAfter: c.until.Sub(now)}, false
	case now.Before(spare.expires):
		sh.spare = lease{}
		return Grant{Probe: true, Token: spare.token, State: HalfOpen}, false
	case now.Before(sh.denied):
		return Grant{State: HalfOpen, RetryAfter: sh.denied.Sub(now)}, false
	case sh.asking:
		return Grant{State: HalfOpen, RetryAfter: halfOpenRetry}, false
	}
	sh.asking = true
	return Grant{}, true
}

// Result implements [Store].
func (s *Shared) Result(key Key, token uint64, o Outcome, settings Settings) {
	if n := s.shared(); n != nil {
		n.enqueue(job{op: opResult, key: key, settings: settings, token: token, outcome: o, at: s.clock.Now()})
		return
	}
	s.resultHere(key, token, o, settings)
}

// resultHere takes a probe's verdict without the arbiter.
func (s *Shared) resultHere(key Key, token uint64, o Outcome, settings Settings) {
	if c := s.local.find(key); c != nil {
		s.local.change(c, func(now time.Time) bool {
			return s.decide(c, c.result(now, token, o, settings, s.local.random()))
		})
	}
}

// Order implements [Store]. If the arbiter does not answer, the order holds here
// at once and everywhere when it is back.
func (s *Shared) Order(ctx context.Context, key Key, o Order) error {
	_, err := s.Obey(ctx, key, o)
	return err
}

// Obey is Order, and reports whether the arbiter has taken the order, so that it
// holds on every replica. Without a link it never has.
func (s *Shared) Obey(ctx context.Context, key Key, o Order) (everywhere bool, err error) {
	c := s.local.find(key)
	if c == nil {
		return false, ErrUnknown
	}
	if n := s.shared(); n != nil && n.order(ctx, key, o, c.ordered()) {
		return true, nil
	}
	if o.Kind == orderLapse && s.shared() != nil {
		return false, nil // the arbiter ends it; who asked asks again
	}
	s.local.change(c, func(now time.Time) bool { return s.decide(c, c.obey(now, o)) })
	return false, nil
}

// ordered returns the version of the order that holds, 0 if none does.
func (c *circuit) ordered() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record.Forced == NotForced {
		return 0
	}
	return c.record.Version
}

// Records implements [Store].
func (s *Shared) Records() []Record { return s.local.Records() }

// shared returns the session if the arbiter decides, or nil if this process is
// on its own.
func (s *Shared) shared() *session {
	if n := s.session.Load(); n != nil && n.mode.Load() == int32(ModeShared) {
		return n
	}
	return nil
}

// adopt takes the arbiter's word for a circuit if it is news, or if it is the
// answer to what the circuit has asked. An order that the arbiter was not told
// of yet stays.
func (s *Shared) adopt(r remoteRecord, answers func(*circuit) bool) *circuit {
	c := s.local.findOrAdd(r.key)
	s.local.change(c, func(now time.Time) bool {
		newer := r.version > c.record.Version
		untold := c.shared.own && c.record.Forced != NotForced && r.forced == NotForced
		if !answers(c) && (!newer || untold) {
			return false
		}
		c.take(now, r, newer && r.origin == s.replica)
		return true
	})
	return c
}

// unasked is the answers of a message that nobody asked for.
func unasked(*circuit) bool { return false }

// take makes the circuit what the arbiter says. mine: this process caused it.
func (c *circuit) take(now time.Time, r remoteRecord, mine bool) {
	sh, rec := &c.shared, &c.record
	if sh.provisional != 0 {
		rec.From = Closed // for the arbiter
	}
	newPeriod := rec.State != Closed || sh.closedAt != r.closedAt
	if r.state != rec.State || r.forced != NotForced || r.state == Closed && newPeriod {
		c.forget()
	}
	rec.Version, rec.State, rec.Forced, rec.Local = r.version, r.state, r.forced, mine
	rec.Trips, rec.Failures, rec.Reason, rec.OrderReason = r.trips, r.failures, r.reason, r.orderReason
	c.until, c.verdicts, c.orderEnds = now.Add(r.remaining), r.good, time.Time{}
	if r.forcedFor > 0 {
		c.orderEnds = now.Add(r.forcedFor)
	}
	sh.closedAt, sh.provisional, sh.own, sh.known, sh.denied = r.closedAt, 0, false, 0, time.Time{}
	if r.state != HalfOpen {
		sh.spare = lease{}
	}
}

// alone makes every circuit go on without the arbiter. What was opened ahead of
// its word is now this process's own decision, and announced as such.
func (s *Shared) alone() {
	for _, c := range s.local.all() {
		s.local.change(c, func(time.Time) bool {
			if c.shared.provisional == 0 {
				return false
			}
			c.shared.provisional, c.record.From = 0, Closed
			return s.decide(c, true)
		})
	}
}

// reconcile adopts what the arbiter knows better, and returns what to tell it.
// lost: it has lost data since it was last heard of.
func (s *Shared) reconcile(snap snapshot, lost bool) (tell []job) {
	for key := range snap.records {
		s.local.findOrAdd(key) // also a closed one: who watches it later must know since when it is
	}
	for _, c := range s.local.all() {
		s.local.change(c, func(now time.Time) (changed bool) {
			var j job
			if j, changed = s.reconcileOne(c, now, snap, lost); j.op != "" {
				tell = append(tell, j)
			}
			return changed
		})
	}
	return tell
}

func (s *Shared) reconcileOne(c *circuit, now time.Time, snap snapshot, lost bool) (tell job, changed bool) {
	r, rec, sh := snap.of(c.key), &c.record, &c.shared
	// An arbiter whose latest writes were lost may have gone on since, and a
	// circuit's version never falls.
	lost = lost || r.version < rec.Version && rec.Version <= snap.version
	if r.forced == NotForced && (sh.own || lost) {
		if !sh.own {
			sh.known = rec.Version
		}
		if tell = c.claim(now, lost); tell.op == opForce || tell.op == opMerge && r.state != HalfOpen {
			sh.own, sh.provisional = true, 0 // until the arbiter agrees
			return tell, false
		}
	}
	switch {
	case sh.provisional != 0 && !lost:
		return job{}, false // its report is under way
	case !lost && snap.version < rec.Version:
		return job{}, false // the snapshot is older than a message that came before it
	case rec.Version == r.version && rec.State == r.state && rec.Forced == r.forced && sh.closedAt == r.closedAt && !sh.own:
		return job{}, false
	}
	c.take(now, r, r.version > rec.Version && r.origin == s.replica)
	return job{}, true
}

// claim returns what to tell an arbiter that does not know of this circuit's
// state: an order or an open period, if it is not over. One that is over still
// has to be probed before the circuit closes, so an arbiter that lost its data
// is told of it all the same; one that has gone on without us is not.
func (c *circuit) claim(now time.Time, lost bool) job {
	j := job{key: c.key, settings: c.shared.settings, known: c.shared.known, lost: lost}
	switch {
	case c.record.Forced != NotForced:
		j.order.Kind, j.order.Reason = OrderOpen, c.record.OrderReason
		if c.record.Forced == ForcedClosed {
			j.order.Kind = OrderClose
		}
		if !c.orderEnds.IsZero() {
			if j.order.TTL = c.orderEnds.Sub(now); j.order.TTL < time.Millisecond { // what Redis counts in
				return job{}
			}
		}
		j.op = opForce
	case c.record.State != Closed:
		if j.left = max(0, c.until.Sub(now)); j.left == 0 && !lost {
			return job{}
		}
		j.op, j.trips = opMerge, c.record.Trips
	}
	return j
}

// unsent returns what the arbiter may not know: failures, which it knows by their
// events, so that none counts twice, and what was decided here between the last
// sync and the moment from which it decides. unsure: there is a circuit of which
// only a sync can tell.
func (s *Shared) unsent() (jobs []job, unsure bool) {
	now := s.clock.Now()
	for _, c := range s.local.all() {
		c.mu.Lock()
		switch j := c.claim(now, false); {
		case c.shared.own && j.op != "":
			jobs = append(jobs, j)
		case c.shared.own:
			unsure = true
		case c.shared.unsent:
			for _, st := range c.stamps {
				jobs = append(jobs, job{
					op: opFail, key: c.key, settings: c.shared.settings,
					event: st.event, at: st.at, admitted: c.shared.closedAt,
				})
			}
		}
		c.shared.unsent = false
		c.mu.Unlock()
	}
	return jobs, unsure
}

// markUnsent notes that the arbiter may not know the circuit's failures.
func (s *Shared) markUnsent(key Key) {
	if c := s.local.find(key); c != nil {
		c.mu.Lock()
		c.shared.unsent = true
		c.mu.Unlock()
	}
}

// sweep drops the circuits that nobody watches and the arbiter knows nothing of.
func (s *Shared) sweep(snap snapshot) {
	m := s.local
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, c := range m.circuits {
		if _, ok := snap.records[key]; ok {
			continue
		}
		c.mu.Lock()
		if len(c.watchers) == 0 {
			delete(m.circuits, key)
		}
		c.mu.Unlock()
	}
}

// eventName names a failure in the whole cluster.
func (s *Shared) eventName(n uint64) string { return s.replica + ":" + strconv.FormatUint(n, 10) }

var _ Store = (*Shared)(nil)
