package breaker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/breaker"
)

// The weather of a history.
const (
	simCalm    = iota // nothing goes wrong
	simLossy          // calls and messages are lost, late, twice
	simCrashes        // and Redis and replicas crash
	simSkewed         // and the new Redis's clock is behind
)

// simEverywhere runs a property in a bubble of its own.
func simEverywhere(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) { simBubble(t, func() { property(rt) }) })
}

// simBubble runs f in a synctest bubble. What f panics with, as a failed or
// skipped rapid test does, comes out of it.
func simBubble(t *testing.T, f func()) {
	t.Helper()
	var failure any
	synctest.Test(t, func(*testing.T) {
		defer func() { failure = recover() }()
		f()
	})
	if failure != nil {
		// rapid tells failures apart by their stacks, of which nothing is left.
		kind, _, _ := strings.Cut(fmt.Sprintf("%T %v", failure, failure), ":")
		depth := 0
		for _, letter := range kind {
			depth += int(letter)
		}
		simRethrow(failure, depth%20)
	}
}

func simRethrow(failure any, depth int) {
	if depth == 0 {
		panic(failure)
	}
	simRethrow(failure, depth-1)
}

// TestReplicasAgreeWhateverHappens lets three replicas live through random
// histories: requests whose results come in any order or never, calls that are
// lost, late, slow or repeated, messages that are lost, repeated or overtake one
// another, Redis that freezes, refuses, loses some or all of its data, replicas
// that are cut off, start again or load a new configuration, and operators.
//
// After every step the invariants hold, and when the weather is fine again all
// replicas agree with the arbiter, and healthy upstreams come back.
func TestReplicasAgreeWhateverHappens(t *testing.T) {
	t.Parallel()
	arbiter := newSimMini(t)
	simEverywhere(t, func(t *rapid.T) { simHistory(t, arbiter, rapid.IntRange(simCalm, simSkewed).Draw(t, "weather")) })
}

// TestReplicasAgreeOnARealRedis is the same on redis-server.
func TestReplicasAgreeOnARealRedis(t *testing.T) {
	t.Parallel()
	arbiter := newSimReal(t)
	simEverywhere(t, func(t *rapid.T) { simHistory(t, arbiter, rapid.IntRange(simCalm, simSkewed).Draw(t, "weather")) })
}

func simSettings(t *rapid.T) breaker.Settings {
	seconds := func(label string, from, to int) time.Duration {
		return time.Duration(rapid.IntRange(from, to).Draw(t, label)) * time.Second
	}
	s := breaker.Settings{
		Failures: rapid.IntRange(1, 4).Draw(t, "failures"), Window: seconds("window", 1, 20), Open: seconds("open", 1, 10),
		Probes: rapid.IntRange(1, 2).Draw(t, "probes"), Need: rapid.IntRange(1, 2).Draw(t, "need"), Lease: seconds("lease", 1, 6),
		MinReporters: rapid.SampledFrom([]int{1, 1, 2}).Draw(t, "min_reporters"),
	}
	if rapid.Bool().Draw(t, "back-off") {
		s.OpenMax = 3 * s.Open
	}
	return s
}

// simMachine is what the actions of a history share.
type simMachine struct {
	*sim
	weather int
	ordered map[breaker.Key][]breaker.Order // since a replica that may be the only one to know was restarted
}

func simHistory(t *rapid.T, arbiter *simArbiter, weather int) {
	s := newSim(t, arbiter, simSettings(t), 3)
	defer s.end()
	m := &simMachine{sim: s, weather: weather, ordered: map[breaker.Key][]breaker.Order{}}
	for _, r := range s.replicas {
		if weather > simCalm {
			r.clock.offset = time.Duration(rapid.IntRange(-100, 100).Draw(t, "offset")) * time.Hour
			r.clock.rate = rapid.SampledFrom([]float64{1, 1, 0.99, 1.01}).Draw(t, "rate")
		}
		r.boot()
	}
	s.check()
	actions := map[string]func(*rapid.T){
		"":              func(*rapid.T) { s.check() },
		"time passes":   m.passTime,
		"time passes 2": m.passTime,
		"request":       m.request,
		"request 2":     m.request,
		"result":        m.result,
		"result 2":      m.result,
		"failures":      m.burst,
		"failures 2":    m.burst,
		"probe":         m.probe,
		"probe 2":       m.probe,
		"flush":         func(t *rapid.T) { m.work(t, "flush", func(h *breaker.Hand) { h.Flush() }) },
		"resync":        func(t *rapid.T) { m.work(t, "resync", func(h *breaker.Hand) { h.Resync() }) },
		"poll":          func(t *rapid.T) { m.work(t, "poll", func(h *breaker.Hand) { h.Poll() }) },
		"messages":      m.deliver,
		"messages 2":    m.deliver,
		"settle":        func(*rapid.T) { s.settle() },
		"settle 2":      func(*rapid.T) { s.settle() },
		"order":         m.order,
		"reload":        m.reload,
	}
	if weather > simCalm {
		actions["late call"] = m.lateCall
		actions["answers come"] = m.release
		actions["answers come 2"] = m.release
		actions["message lost"] = m.spoilMessage
		actions["cut"] = m.cut
		actions["a request is forgotten"] = m.forget
	}
	if weather > simLossy {
		actions["redis"] = m.crash
		actions["restart"] = m.restart
	}
	t.Repeat(actions)
	m.finish(t)
}

// end lets nothing live on.
func (s *sim) end() {
	for _, r := range s.replicas {
		if r.store != nil {
			r.group.Leave(r.member)
			r.store.Use(nil, nil)
		}
	}
}

func (m *simMachine) replica(t *rapid.T) *simReplica {
	return m.replicas[rapid.IntRange(0, len(m.replicas)-1).Draw(t, "replica")]
}

func (m *simMachine) key(t *rapid.T) int {
	return rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "upstream")
}

// draw says what the network does with the next calls of a replica.
func (m *simMachine) draw(t *rapid.T, r *simReplica, calls int) {
	r.plan = nil
	if m.weather == simCalm {
		return
	}
	fates := []simFate{simDeliver, simDeliver, simDeliver, simDeliver, simDrop, simLose, simDelay, simRepeat, simHold, simHoldReply}
	for range calls {
		f := rapid.SampledFrom(fates).Draw(t, "fate")
		if f != simDeliver {
			m.faults++
		}
		r.plan = append(r.plan, f)
	}
}

// passTime lets time pass, often exactly up to a point where something ends.
func (m *simMachine) passTime(t *rapid.T) {
	ends := []int64{1, 25, 100, 250, 1000, 3000, m.settings.Open.Milliseconds(), 11 * m.settings.Open.Milliseconds()}
	now := m.now()
	for _, key := range m.keys {
		b := m.judge.book.of(breaker.CircuitID(key))
		for _, e := range b.leases {
			ends = append(ends, e-now)
		}
		for _, f := range b.log {
			ends = append(ends, f.at+m.settings.Window.Milliseconds()-now)
		}
	}
	for _, r := range m.replicas {
		for _, b := range r.breakers {
			ends = append(ends, (b.Record().Remaining + time.Millisecond - 1).Milliseconds())
		}
	}
	slices.Sort(ends)
	d := rapid.SampledFrom(ends).Draw(t, "ms") + rapid.SampledFrom([]int64{0, 0, 0, -1, 1}).Draw(t, "off by")
	if d <= 0 {
		t.Skip("time does not go back")
	}
	m.sleep(time.Duration(d) * time.Millisecond)
}

// request sends a request, whose result comes later.
func (m *simMachine) request(t *rapid.T) {
	r, key := m.replica(t), m.key(t)
	m.draw(t, r, 1)
	r.request(key, nil)
}

// request asks for admission. then is called with the permit, or else it is kept.
func (r *simReplica) request(key int, then func(breaker.Permit)) {
	s, b := r.sim, r.breakers[key]
	store := r.store
	rec, in, started, calls := b.Record(), r.store.Inside(b.Key()), s.clock.Now(), r.calls
	shared := store.Status().Mode == breaker.ModeShared
	r.asking++
	go func() {
		p, ok := b.Acquire(context.Background())
		s.mu.Lock()
		r.asking--
		if waited := s.clock.Now().Sub(started); waited > breaker.AskBudget {
			s.judge.say("S14: a request waited %s", waited)
		}
		switch forced := rec.Forced == breaker.ForcedOpen && (!in.OrderEnds || rec.ForcedFor > 0); {
		case ok && forced, ok && rec.Forced == breaker.NotForced && rec.State == breaker.Open && rec.Remaining > 0:
			s.judge.say("S9: a request was admitted in state %s%s", rec.State, rec.Forced)
		case shared && !ok && rec.Forced == breaker.NotForced && rec.State == breaker.Closed:
			s.judge.say("a request was refused in state closed")
		case ok && p.Probe() && shared && store.Status().Mode == breaker.ModeShared && !s.judge.tokens[store.EventName(p.Token())]:
			s.judge.say("S9: a request was a probe and has no lease")
		case rec.State == breaker.Closed && rec.Forced != breaker.ForcedOpen && r.calls != calls && started.Equal(s.clock.Now()):
			s.judge.say("S12: a request in the closed state made %d calls", r.calls-calls)
		}
		f := simFlight{p, key, started}
		if ok && then == nil {
			r.flying = append(r.flying, f)
		}
		s.mu.Unlock()
		if ok && then != nil {
			r.report(f, then)
		}
	}()
	synctest.Wait()
	s.t.Logf("  %d request %s: %s", r.number, b.Key().Upstream, r)
}

// report tells how a request went, with what the judge must know of it.
func (r *simReplica) report(f simFlight, done func(breaker.Permit)) {
	r.sim.mu.Lock()
	r.sim.judge.truth[r.store.EventName(r.registry.Sequence()+1)] = f.admitted
	r.sim.mu.Unlock()
	done(f.permit)
}

func simDone(o breaker.Outcome) func(breaker.Permit) { return func(p breaker.Permit) { p.Done(o) } }

// result reports one of the requests under way.
func (m *simMachine) result(t *rapid.T) {
	r := m.replica(t)
	if len(r.flying) == 0 {
		t.Skip("nothing under way")
	}
	i := rapid.IntRange(0, len(r.flying)-1).Draw(t, "which")
	f := r.flying[i]
	r.flying = slices.Delete(r.flying, i, i+1)
	outcome := rapid.SampledFrom([]breaker.Outcome{breaker.Success, breaker.Failure, breaker.Failure, breaker.Ignored}).Draw(t, "outcome")
	before, calls := r.hand.Queued(), r.calls
	was := r.String()
	r.report(f, simDone(outcome))
	if !f.permit.Probe() && outcome != breaker.Failure && (r.hand.Queued() != before || r.calls != calls || r.String() != was) {
		m.judge.say("S11, S12: a request that did not fail had an effect")
	}
	t.Logf("  %d result %d of %s: %s", r.number, outcome, m.keys[f.key].Upstream, r)
}

// burst lets some requests fail at once.
func (m *simMachine) burst(t *rapid.T) {
	r, key := m.replica(t), m.key(t)
	m.draw(t, r, 1)
	for range rapid.IntRange(1, m.settings.Failures).Draw(t, "failures") {
		r.request(key, simDone(breaker.Failure))
	}
	if rapid.Bool().Draw(t, "flush") {
		r.loop("flush", func() { r.hand.Flush() })
	}
}

// probe waits for the end of an open period and sends a request.
func (m *simMachine) probe(t *rapid.T) {
	r, key := m.replica(t), m.key(t)
	rec := r.breakers[key].Record()
	if rec.State == breaker.Closed || rec.Forced != breaker.NotForced {
		t.Skip("not open")
	}
	m.sleep(rec.Remaining)
	m.draw(t, r, 1)
	if rapid.Bool().Draw(t, "and the result comes") {
		outcome := rapid.SampledFrom([]breaker.Outcome{breaker.Success, breaker.Success, breaker.Failure, breaker.Ignored}).Draw(t, "outcome")
		r.request(key, simDone(outcome))
		return
	}
	r.request(key, nil)
}

// forget loses a request: its result never comes.
func (m *simMachine) forget(t *rapid.T) {
	r := m.replica(t)
	if len(r.flying) == 0 {
		t.Skip("nothing under way")
	}
	r.flying = slices.Delete(r.flying, 0, 1)
}

// work lets a replica's loop do something.
func (m *simMachine) work(t *rapid.T, what string, do func(*breaker.Hand)) {
	r := m.replica(t)
	if r.busy {
		t.Skip("the loop waits for an answer")
	}
	m.draw(t, r, 3)
	r.loop(what, func() { do(r.hand) })
}

// deliver gives a replica the messages that it has not seen, or some of them.
func (m *simMachine) deliver(t *rapid.T) {
	r := m.replica(t)
	n := len(r.inbox)
	if n == 0 {
		t.Skip("no messages")
	}
	r.receive(rapid.IntRange(1, n).Draw(t, "messages"))
}

func (r *simReplica) receive(n int) {
	messages := r.inbox[:n]
	r.inbox = slices.Clone(r.inbox[n:])
	for _, message := range messages {
		r.hand.Receive(message)
		r.sim.t.Logf("  %d receive %s: %s", r.number, message, r)
	}
}

// spoilMessage loses a message, doubles it or lets it be overtaken, or breaks
// the subscription.
func (m *simMachine) spoilMessage(t *rapid.T) {
	r := m.replica(t)
	if len(r.inbox) == 0 {
		t.Skip("no messages")
	}
	m.faults++
	i := rapid.IntRange(0, len(r.inbox)-1).Draw(t, "message")
	message := r.inbox[i]
	switch rapid.SampledFrom([]string{"lost", "twice", "late", "new subscription"}).Draw(t, "what") {
	case "lost":
		r.inbox = slices.Delete(r.inbox, i, i+1)
	case "twice":
		r.inbox = append(r.inbox, message)
	case "late":
		r.inbox = append(slices.Delete(r.inbox, i, i+1), message)
	default:
		r.inbox = nil
		r.hand.Subscribed()
	}
}

// cut takes a replica off the network, or puts it on again.
func (m *simMachine) cut(t *rapid.T) {
	r := m.replica(t)
	m.faults++
	r.cut = !r.cut
	r.inbox = nil
	if !r.cut {
		r.hand.Subscribed()
	}
}

// lateCall lets a call arrive that was thought lost.
func (m *simMachine) lateCall(t *rapid.T) {
	if len(m.late) == 0 {
		t.Skip("none")
	}
	i := rapid.IntRange(0, len(m.late)-1).Draw(t, "call")
	l := m.late[i]
	m.late = slices.Delete(m.late, i, i+1)
	if rapid.Bool().Draw(t, "arrives") && !m.away && !m.refusing {
		_, _ = m.exec(nil, l)
	}
}

// release lets a call go on that waits in the network.
func (m *simMachine) release(t *rapid.T) {
	if len(m.gates) == 0 {
		t.Skip("none")
	}
	m.open(rapid.IntRange(0, len(m.gates)-1).Draw(t, "call"), true)
}

func (s *sim) open(i int, ok bool) {
	s.mu.Lock()
	g := s.gates[i]
	s.gates = slices.Delete(s.gates, i, i+1)
	s.mu.Unlock()
	g.open <- ok
	synctest.Wait()
}

// order has an operator do something.
func (m *simMachine) order(t *rapid.T) {
	r, key := m.replica(t), m.keys[m.key(t)]
	o := breaker.Order{Kind: rapid.SampledFrom([]breaker.OrderKind{breaker.OrderOpen, breaker.OrderClose, breaker.OrderAuto, breaker.OrderReset}).Draw(t, "order")}
	if o.Kind == breaker.OrderOpen || o.Kind == breaker.OrderClose {
		o.TTL = time.Duration(rapid.SampledFrom([]int{0, 1, 5}).Draw(t, "seconds")) * time.Second
	}
	m.draw(t, r, 1)
	m.ordered[key] = append(m.ordered[key], o)
	store := r.store
	go func() { _ = store.Order(context.Background(), key, o) }()
	synctest.Wait()
	t.Logf("  %d order %v of %s: %s", r.number, o, key.Upstream, r)
}

// reload has a replica use a new connection.
func (m *simMachine) reload(t *rapid.T) {
	r := m.replica(t)
	if r.busy {
		t.Skip("the loop waits for an answer")
	}
	m.faults++
	m.draw(t, r, 2)
	r.hand = r.store.UseByHand(r)
	hand := r.hand
	r.loop("reload", hand.Poll)
}

// restart ends a replica and starts it again.
func (m *simMachine) restart(t *rapid.T) {
	r := m.replica(t)
	if r.busy || r.asking > 0 {
		t.Skip("calls are under way")
	}
	m.faults++
	r.stop()
	for key := range m.ordered {
		m.ordered[key] = append(m.ordered[key], breaker.Order{})
	}
	r.boot()
}

// crash is what may happen to Redis.
func (m *simMachine) crash(t *rapid.T) {
	m.faults++
	switch rapid.SampledFrom([]string{"away", "refusing", "flushed", "restarted", "failover"}).Draw(t, "redis is") {
	case "away":
		m.away = !m.away
		m.disconnect()
	case "refusing":
		m.refusing = !m.refusing
	case "flushed":
		m.load(simData{}, simBook{circuits: map[string]*simCircuit{}})
	case "restarted":
		m.arbiter.do(m.arbiter.forgetScripts)
		m.disconnect()
		m.load(simData{}, simBook{circuits: map[string]*simCircuit{}})
	case "failover":
		if len(m.snapshots) == 0 {
			t.Skip("nothing was written")
		}
		m.failover(rapid.IntRange(1, len(m.snapshots)).Draw(t, "writes lost"),
			time.Duration(rapid.IntRange(20, 3000).Draw(t, "ms away"))*time.Millisecond, m.weather == simSkewed && rapid.Bool().Draw(t, "skew"))
	}
	for _, r := range m.replicas {
		t.Logf("  %d: %s", r.number, r)
	}
}

// disconnect breaks all connections.
func (s *sim) disconnect() {
	s.late = nil
	for len(s.gates) > 0 {
		s.open(0, false)
	}
	for _, r := range s.replicas {
		r.inbox = nil
		r.hand.Subscribed()
	}
}

// load replaces what the arbiter holds. A call that was executed before is not
// executed again after that: it might begin an epoch a second time.
func (s *sim) load(data simData, book simBook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = nil
	s.judge.announced = map[simVersion]int{} // what has come back may be announced again
	s.data, s.judge.book, s.judge.jumped = data, book, true
	s.arbiter.do(func() {
		s.arbiter.setTime(s.clock.Now().Add(s.offset))
		s.arbiter.load(data)
	})
}

// failover makes a copy the arbiter that has not got the latest writes. Its
// clock is behind by less than it took.
func (s *sim) failover(lost int, took time.Duration, skew bool) {
	was := s.away
	s.away = true
	s.disconnect()
	s.sleep(took)
	s.away = was
	if skew {
		s.offset -= took - 10*time.Millisecond
	}
	var data simData
	book := simBook{circuits: map[string]*simCircuit{}}
	if i := len(s.snapshots) - 1 - lost; i >= 0 {
		snap := s.snapshots[i]
		data, book = snap.data.aged(s.clock.Now().Sub(snap.when)), snap.book.clone()
		s.snapshots = s.snapshots[:i+1]
	} else {
		s.snapshots = nil
	}
	s.load(data, book)
	for _, r := range s.replicas {
		r.suspect, r.looked = true, false
	}
}

// settle is a moment in which everything works that may.
func (s *sim) settle() {
	for range 3 {
		for _, r := range s.replicas {
			r.receive(len(r.inbox))
			for r.hand.Queued() > 0 && r.loop("flush", func() { r.hand.Flush() }) {
			}
			r.loop("resync", func() { r.hand.Resync() })
		}
	}
}

// finish makes the weather fine and checks that everything is well in the end.
func (m *simMachine) finish(t *rapid.T) {
	t.Logf("the weather is fine")
	m.away, m.refusing = false, false
	for len(m.gates) > 0 {
		m.open(0, true)
	}
	for _, l := range m.late {
		_, _ = m.exec(nil, l)
	}
	m.late = nil
	for _, r := range m.replicas {
		r.plan, r.cut = nil, false
	}
	m.sleep(time.Second)
	for range 5 {
		m.tick(400 * time.Millisecond)
	}
	m.check()
	m.agree()
	for key, orders := range m.ordered {
		if len(orders) == 1 && orders[0].TTL == 0 && orders[0].Kind <= breaker.OrderClose {
			if got := m.judge.book.of(breaker.CircuitID(key)).mode; got != map[breaker.OrderKind]string{breaker.OrderOpen: "O", breaker.OrderClose: "C"}[orders[0].Kind] {
				t.Fatalf("S15: the order %v for %s is forgotten, it is %s", orders[0], key, got)
			}
		}
	}
	if m.faults == 0 {
		for v, r := range m.judge.issued {
			if n := m.judge.announced[v]; n == 0 && !r.quiet {
				t.Fatalf("S16: %s of %s at %d was never announced", r.why, v.id, v.version)
			}
		}
	}
	patience := max(m.settings.Open, m.settings.OpenMax) + m.settings.Lease + 5*time.Second
	for until := m.clock.Now().Add(patience); !m.closed(); {
		if m.clock.Now().After(until) {
			t.Fatalf("L2: after %s of healthy traffic the arbiter holds\n%s", patience, m.data)
		}
		for _, r := range m.replicas {
			for key := range m.keys {
				r.request(key, simDone(breaker.Success))
			}
		}
		m.settle()
		m.tick(time.Second)
		m.check()
	}
	m.agree()
}

// closed reports whether everything is closed that is not forced.
func (s *sim) closed() bool {
	for _, b := range s.judge.book.circuits {
		if b.mode == "N" && b.state != "C" {
			return false
		}
	}
	return true
}

// tick is the work of some time.
func (s *sim) tick(d time.Duration) {
	s.sleep(d)
	s.settle()
	for _, r := range s.replicas {
		r.loop("poll", r.hand.Poll)
	}
	s.settle()
}

// agree checks L1 and L3.
func (s *sim) agree() {
	for _, r := range s.replicas {
		if mode := r.store.Status().Mode; mode != breaker.ModeShared || r.store.Lost() || r.suspect {
			s.t.Fatalf("L3: replica %d is %s, lost %t, suspect %t", r.number, mode, r.store.Lost(), r.suspect)
		}
		for _, b := range r.breakers {
			want, in := s.judge.book.of(breaker.CircuitID(b.Key())), r.store.Inside(b.Key())
			got := fmt.Sprintf("%s %s", simState(b.Record().State), simMode(b.Record().Forced))
			if got != want.state+" "+want.mode || in.Own || in.Provisional {
				s.t.Fatalf("L1: replica %d says %s is %s, the arbiter %s %s; %+v", r.number, b.Key(), got, want.state, want.mode, in)
			}
		}
	}
}
