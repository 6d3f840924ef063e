package breaker

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// circuit is the arbiter's side of one breaker: the state machine. All methods
// but deliver expect mu to be held, and those that return changed expect the
// caller to publish the new record.
type circuit struct {
	key       Key // never changes
	mu        sync.Mutex
	record    Record
	until     time.Time // end of the open period
	orderEnds time.Time // end of the operator's order, zero if there is none
	closedSeq uint64    // Seq at which the current closed period began
	stamps    []stamp   // the newest failures, oldest first; no more than the threshold
	leases    []lease   // probes under way
	verdicts  int       // probes that succeeded in this half-open round
	tally     tally

	watchers []*func(Record)
	outbox   []Record   // changes that the watchers have not been told of
	delivery sync.Mutex // held while they are told, so that they hear the changes in order

	shared sharedCircuit
}

// stamp is one failure in the window.
type stamp struct {
	at    time.Time
	event uint64
}

// lease is one probe under way.
type lease struct {
	token   uint64
	expires time.Time
}

// deliver tells the watchers of all changes so far, each once and in order.
func (c *circuit) deliver() {
	c.delivery.Lock()
	defer c.delivery.Unlock()
	for {
		c.mu.Lock()
		records, watchers := c.outbox, c.watchers
		c.outbox = nil
		c.mu.Unlock()
		if len(records) == 0 {
			return
		}
		for _, r := range records {
			for _, push := range watchers {
				(*push)(r)
			}
		}
	}
}

// tell returns the record with the times that are left.
func (c *circuit) tell(now time.Time) Record {
	r := c.record
	if r.State == Open {
		r.Remaining = max(0, c.until.Sub(now))
	}
	if r.Forced != NotForced && !c.orderEnds.IsZero() {
		r.ForcedFor = max(time.Nanosecond, c.orderEnds.Sub(now))
	}
	return r
}

// lapse lifts an order whose time is over.
func (c *circuit) lapse(now time.Time) (changed bool) {
	if c.record.Forced == NotForced || c.orderEnds.IsZero() || now.Before(c.orderEnds) {
		return false
	}
	return c.close(ReasonOrderOver)
}

// fail counts one failure and reports whether the circuit must open. Results of
// requests from before the current closed period don't count: they tell of the
// upstream that was cut off then, not of the one that works now.
func (c *circuit) fail(now time.Time, r Report, s Settings) (counted, tripped bool) {
	if c.record.State != Closed || c.record.Forced != NotForced || r.Admitted < c.closedSeq || r.Age >= s.Window {
		return false, false
	}
	if slices.ContainsFunc(c.stamps, func(st stamp) bool { return st.event == r.Event }) {
		return false, false
	}
	at := now.Add(-max(0, r.Age))
	i, _ := slices.BinarySearchFunc(c.stamps, at, func(st stamp, t time.Time) int {
		return cmp.Or(st.at.Compare(t), -1) // behind its equals
	})
	c.stamps = slices.Insert(c.stamps, i, stamp{at: at, event: r.Event})
	start := now.Add(-s.Window)
	old, _ := slices.BinarySearchFunc(c.stamps, start, func(st stamp, t time.Time) int {
		return cmp.Or(st.at.Compare(t), -1) // a failure exactly one window ago is out
	})
	old = max(old, len(c.stamps)-s.Failures) // only the newest can ever matter
	c.stamps = slices.Delete(c.stamps, 0, old)
	if s.MinRatio > 0 {
		good, bad := c.tally.add(now, s.Window, 0, 1)
		if float64(bad)/float64(good+bad)+1e-9 < s.MinRatio {
			return true, false
		}
	}
	return true, len(c.stamps) >= s.Failures
}

// count counts requests that went well, for the ratio.
func (c *circuit) count(now time.Time, successes int64, s Settings) {
	if c.record.State == Closed && c.record.Forced == NotForced {
		c.tally.add(now, s.Window, successes, 0)
	}
}

// open starts an open period.
func (c *circuit) open(now time.Time, period time.Duration, why Reason) (changed bool) {
	c.until = now.Add(period)
	c.record.State, c.record.Reason = Open, why
	c.record.Trips++
	c.record.Failures = len(c.stamps)
	c.forget()
	return true
}

// close starts a closed period, whatever was before.
func (c *circuit) close(why Reason) (changed bool) {
	c.record.State, c.record.Forced, c.record.Reason, c.record.OrderReason = Closed, NotForced, why, ""
	c.record.Trips, c.record.Failures, c.verdicts = 0, 0, 0
	c.orderEnds = time.Time{}
	c.forget()
	return true
}

// forget drops what led to the present state.
func (c *circuit) forget() {
	c.stamps, c.leases, c.tally = nil, nil, tally{}
}

// obey does what an operator ordered. A forced circuit forgets everything else,
// so that it is closed and clean once the order is lifted.
func (c *circuit) obey(now time.Time, o Order) (changed bool) {
	forced := ForcedOpen
	switch o.Kind {
	case OrderReset:
		return c.close(ReasonReset)
	case OrderAuto:
		return c.record.Forced != NotForced && c.close(ReasonForced)
	case orderLapse:
		return c.lapse(now)
	case OrderClose:
		forced = ForcedClosed
	}
	said := oneLine(o.Reason)
	if c.record.Forced == forced && o.TTL == 0 && c.orderEnds.IsZero() && (said == "" || said == c.record.OrderReason) {
		return false
	}
	c.close(ReasonForced)
	c.record.Forced, c.record.OrderReason = forced, said
	if o.TTL > 0 {
		c.orderEnds = now.Add(o.TTL)
	}
	return true
}

// acquire decides about a probe.
func (c *circuit) acquire(now time.Time, token uint64, s Settings) (g Grant, changed bool) {
	switch {
	case c.record.Forced == ForcedOpen:
		return Grant{State: Open, RetryAfter: s.Open}, false
	case c.record.Forced == ForcedClosed || c.record.State == Closed:
		return Grant{Closed: true, Seq: c.record.Seq}, false
	case c.record.State == Open && now.Before(c.until):
		return Grant{State: Open, RetryAfter: c.until.Sub(now)}, false
	case c.record.State == Open:
		c.record.State, c.record.Reason = HalfOpen, ReasonOpenPeriodOver
		c.leases, c.verdicts = nil, 0
		changed = true
	}
	c.leases = slices.DeleteFunc(c.leases, func(l lease) bool { return !now.Before(l.expires) })
	if slices.ContainsFunc(c.leases, func(l lease) bool { return l.token == token }) {
		return Grant{Probe: true, State: HalfOpen}, changed
	}
	if len(c.leases) >= s.Probes {
		first := slices.MinFunc(c.leases, func(a, b lease) int { return a.expires.Compare(b.expires) })
		return Grant{State: HalfOpen, RetryAfter: first.expires.Sub(now)}, changed
	}
	c.leases = append(c.leases, lease{token: token, expires: now.Add(s.Lease)})
	return Grant{Probe: true, State: HalfOpen}, changed
}

// result takes the verdict of a probe.
func (c *circuit) result(now time.Time, token uint64, o Outcome, s Settings, random float64) (changed bool) {
	if !c.giveBack(now, token) || c.record.State != HalfOpen || c.record.Forced != NotForced {
		return false
	}
	switch o {
	case Success:
		c.verdicts++
		return c.verdicts >= s.Need && c.close(ReasonProbeSucceeded)
	case Failure:
		return c.open(now, s.openPeriod(c.record.Trips+1, random), ReasonProbeFailed)
	}
	return false
}

// giveBack ends a lease and reports whether it was still valid. That is the
// fence: a probe that lost its lease no longer decides anything.
func (c *circuit) giveBack(now time.Time, token uint64) bool {
	i := slices.IndexFunc(c.leases, func(l lease) bool { return l.token == token })
	if i < 0 {
		return false
	}
	valid := now.Before(c.leases[i].expires)
	c.leases = slices.Delete(c.leases, i, i+1)
	return valid
}

// tallySlices is how finely a window is divided to count the requests in it.
const tallySlices = 10

// tally counts the requests of a window, for a ratio of failures. Unlike the
// failures themselves they are counted by slices of the window: the oldest of
// them leave it a tenth of the window late.
type tally struct {
	width  time.Duration
	slices [tallySlices + 1]struct{ number, good, bad int64 }
}

// add counts requests and returns the totals of the window.
func (t *tally) add(now time.Time, window time.Duration, good, bad int64) (allGood, allBad int64) {
	width := max(1, window/tallySlices)
	if t.width != width {
		*t = tally{width: width}
	}
	number := now.UnixNano() / int64(width)
	s := &t.slices[number%int64(len(t.slices))]
	if s.number != number {
		s.number, s.good, s.bad = number, 0, 0
	}
	s.good += good
	s.bad += bad
	for _, s := range t.slices {
		if s.number > number-int64(len(t.slices)) && s.number <= number {
			allGood += s.good
			allBad += s.bad
		}
	}
	return allGood, allBad
}
