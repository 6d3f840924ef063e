package breaker

import "log/slog"

// ScriptText is the arbiter's script, for tests that run it with changes.
func ScriptText() string { return scriptText }

// AskBudget is how long a request may wait for the arbiter.
const AskBudget = askBudget

// Hand is a session without goroutines: its work is done when the test says so.
type Hand struct{ session *session }

// UseByHand is Use, but for what the session would do by itself.
func (s *Shared) UseByHand(link Link) *Hand {
	s.using.Lock()
	defer s.using.Unlock()
	n := newSession(s, link, nil)
	n.open()
	if old := s.session.Swap(n); old != nil {
		old.close()
	}
	return &Hand{n}
}

// LogTo is the logger of Use.
func (h *Hand) LogTo(logger *slog.Logger) { h.session.logger = logger }

// Poll is what the loop does when it is time to poll.
func (h *Hand) Poll() { h.session.poll(h.session.ctx) }

// Flush is what the loop does when there is something in the queue. It reports
// whether there was.
func (h *Hand) Flush() bool {
	select {
	case j := <-h.session.queue:
		h.session.flush(h.session.ctx, j)
		return true
	default:
		return false
	}
}

// Resync is what the loop does when somebody wants a sync. It reports whether
// somebody did.
func (h *Hand) Resync() bool {
	select {
	case <-h.session.resync:
		if h.session.isShared() {
			h.session.sync(h.session.ctx)
		}
		return true
	default:
		return false
	}
}

// Receive is what the link does with a published message.
func (h *Hand) Receive(message string) { h.session.receive(message) }

// Subscribed is what the link does when it has subscribed anew.
func (h *Hand) Subscribed() { h.session.wantSync() }

// Queued returns how many jobs wait to be sent.
func (h *Hand) Queued() int { return len(h.session.queue) }

// Mode returns who decides.
func (h *Hand) Mode() Mode { return Mode(h.session.mode.Load()) }

// Inside is what a circuit does not tell of itself.
type Inside struct {
	Provisional, Own, OrderEnds bool
	ClosedAt                    uint64
}

// Inside looks into a circuit.
func (s *Shared) Inside(key Key) (i Inside) {
	if c := s.local.find(key); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		sh := &c.shared
		i = Inside{sh.provisional != 0, sh.own, !c.orderEnds.IsZero(), sh.closedAt}
	}
	return i
}

// Lost reports whether the arbiter must still be told what it has lost.
func (s *Shared) Lost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Sequence returns the newest number given to an event or a token.
func (r *Registry) Sequence() uint64 { return r.sequence.Load() }

// Token returns the token of a probe's lease.
func (p Permit) Token() uint64 { return p.ref }

// EventName returns the name that events and tokens of that number have in the
// whole cluster.
func (s *Shared) EventName(n uint64) string { return s.eventName(n) }

// CircuitID returns the key as the arbiter knows it.
func CircuitID(k Key) string { return circuitID(k) }
