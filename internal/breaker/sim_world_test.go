package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// sim is a cluster: replicas, the network and one arbiter. It lives in a
// synctest bubble, whose time stands still until every goroutine waits, and
// whose goroutines run one after the other as the test wants.
type sim struct {
	t        rapid.TB
	arbiter  *simArbiter
	settings breaker.Settings
	keys     []breaker.Key
	replicas []*simReplica
	clock    clock.System

	mu        sync.Mutex // guards what calls of several goroutines touch
	judge     *simJudge
	data      simData
	offset    time.Duration     // the arbiter's clock less the true time
	away      bool              // nobody reaches the arbiter
	refusing  bool              // it does not write
	late      []breaker.Command // to be executed later
	gates     []*simGate
	snapshots []simSnapshot
	faults    int // what went wrong so far; without any, everything must be exact
}

// simReplica is one gateway.
type simReplica struct {
	sim      *sim
	number   int
	clock    *simClockOf
	store    *breaker.Shared
	registry *breaker.Registry
	group    *breaker.Group
	member   *breaker.Member
	breakers []*breaker.Breaker
	hand     *breaker.Hand

	live bool        // it has a loop of its own
	feed chan string // messages to one that is live, "" for a new subscription

	plan   []simFate // of its next calls
	cut    bool      // it does not reach the arbiter
	deaf   bool      // no message reaches it, if it is live
	calls  int
	inbox  []string // published, not yet delivered
	busy   bool     // its loop is waiting for an answer
	asking int      // requests that wait for an answer
	flying []simFlight

	// What its views must not fall behind of.
	suspect bool // the arbiter has lost data and this replica has not looked since
	looked  bool
	epoch   string
	seen    map[breaker.Key]uint64
}

// simFlight is a request under way.
type simFlight struct {
	permit   breaker.Permit
	key      int
	admitted time.Time
}

// simClockOf is a replica's clock: it shows another time than others and runs
// at another speed.
type simClockOf struct {
	start  time.Time
	offset time.Duration
	rate   float64
}

func (c *simClockOf) Now() time.Time {
	passed := clock.System{}.Now().Sub(c.start)
	return c.start.Add(c.offset + time.Duration(float64(passed)*c.rate)).Round(0)
}

// simFate is what the network does with a call.
type simFate int

const (
	simDeliver   simFate = iota
	simDrop              // the request is lost
	simLose              // the reply is lost
	simDelay             // an error now; the arbiter executes it later
	simRepeat            // the arbiter executes it, and later again
	simHold              // the request waits in the network
	simHoldReply         // the reply does
)

// simGate is a call that waits in the network.
type simGate struct {
	replica *simReplica
	open    chan bool // false: the connection is lost
}

// simSnapshot is what a copy of the arbiter knew at some time.
type simSnapshot struct {
	data simData
	book simBook
	when time.Time
}

var (
	errSimGone = errors.New("i/o timeout")
	errSimDown = errors.New("connection refused")
)

// simRefusal is an answer of Redis that it does not want to.
type simRefusal string

func (e simRefusal) Error() string { return string(e) }

// RedisError makes it one of Redis's own.
func (simRefusal) RedisError() {}

func newSim(t rapid.TB, arbiter *simArbiter, settings breaker.Settings, replicas int) *sim {
	s := &sim{
		t: t, arbiter: arbiter, settings: settings, data: simData{}, judge: newSimJudge(settings),
		keys: []breaker.Key{{Name: "x", Upstream: "a:1"}, {Name: "x", Upstream: "b:2"}},
	}
	arbiter.do(func() {
		arbiter.load(simData{})
		arbiter.setTime(s.clock.Now())
		arbiter.published()
	})
	for i := range replicas {
		r := &simReplica{sim: s, number: i, clock: &simClockOf{start: s.clock.Now(), rate: 1}}
		s.replicas = append(s.replicas, r)
	}
	return s
}

// boot starts a replica, with an empty memory.
func (r *simReplica) boot() {
	s := r.sim
	r.plan, r.inbox, r.flying, r.seen, r.epoch, r.suspect = nil, nil, nil, map[breaker.Key]uint64{}, "", false
	r.store = breaker.NewShared(r.clock)
	r.registry = breaker.New(r.store, r.clock)
	store := r.store
	r.member = &breaker.Member{Settings: &s.settings, Listener: func(tr breaker.Transition) { s.heard(store, tr) }}
	r.feed = make(chan string, 1000)
	if r.live {
		r.store.Use(r, nil)
	} else {
		hand := r.store.UseByHand(r)
		r.hand = hand
		r.loop("boot", hand.Poll)
	}
	var err error
	r.group, err = r.registry.Join("x", r.member)
	require.NoError(s.t, err)
	var breakers []*breaker.Breaker
	for _, key := range s.keys {
		breakers = append(breakers, r.group.Breaker(key.Upstream, ""))
	}
	s.mu.Lock()
	r.breakers = breakers
	s.mu.Unlock()
}

// stop ends a replica. What it has not sent is lost.
func (r *simReplica) stop() {
	r.store.Use(nil, nil)
	r.group.Leave(r.member)
	synctest.Wait()
}

// loop does some work of a replica's loop, which is not done before the calls
// that it makes are.
func (r *simReplica) loop(what string, work func()) bool {
	if r.busy {
		return false
	}
	r.busy = true
	calls := r.calls
	go func() {
		work()
		r.busy = false
	}()
	synctest.Wait()
	if r.calls != calls {
		r.sim.t.Logf("  %d %s: %s", r.number, what, r)
	}
	return true
}

func (r *simReplica) String() string {
	text := r.store.Status().Mode.String()
	for _, b := range r.breakers {
		rec, in := b.Record(), r.store.Inside(b.Key())
		text += fmt.Sprintf(" %s %s%s v%d", b.Key().Upstream, rec.State, rec.Forced, rec.Version)
		if rec.State == breaker.Open {
			text += " for " + rec.Remaining.String()
		}
		if in.Own {
			text += " own"
		}
		if in.Provisional {
			text += " provisional"
		}
	}
	return text
}

// sleep lets time pass.
func (s *sim) sleep(d time.Duration) {
	s.mu.Lock()   // so that what timers do comes after what was done here
	s.mu.Unlock() //nolint:staticcheck // see above
	time.Sleep(d)
	synctest.Wait()
}

// now is the time on the arbiter's clock, in ms.
func (s *sim) now() int64 { return s.clock.Now().Add(s.offset).UnixMilli() }

// exec has the arbiter execute a command. from is nil for one that is late.
func (s *sim) exec(from *simReplica, c breaker.Command) (breaker.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	replica, view := "late", uint64(0)
	if from != nil {
		replica = fmt.Sprint(from.number)
		for _, b := range from.breakers {
			if breaker.CircuitID(b.Key()) == c.ID {
				view = b.Record().Version
			}
		}
	}
	at := s.clock.Now().Add(s.offset)
	reply, messages, data, err := s.arbiter.run(at, c)
	s.t.Logf("    %s %s %s %v seen %d -> %s %s %v %v", replica, c.Op, c.ID, c.Args, c.Seen, reply.Verdict, reply.Wait, reply.Lines, err)
	if err != nil {
		s.judge.say("the arbiter: %v", err)
		return reply, err
	}
	s.judge.observe(simCall{
		command: c, reply: reply, messages: messages, before: s.data, after: data, at: at.UnixMilli(), when: s.clock.Now(), view: view,
	})
	s.data = data
	if c.Op != "sync" {
		s.snapshots = append(s.snapshots, simSnapshot{data: data, book: s.judge.book.clone(), when: s.clock.Now()})
		s.snapshots = s.snapshots[max(0, len(s.snapshots)-8):]
	}
	for _, m := range messages {
		for _, r := range s.replicas {
			r.published(m)
		}
	}
	return reply, nil
}

// published puts a message on its way to a replica.
func (r *simReplica) published(message string) {
	switch {
	case !r.live:
		r.inbox = append(r.inbox, message)
	case !r.cut && !r.deaf && !r.sim.away:
		r.feed <- message
	}
}

// fate says what happens to a replica's next call.
func (r *simReplica) fate() (f simFate, err error) {
	r.sim.mu.Lock()
	defer r.sim.mu.Unlock()
	r.calls++
	if len(r.plan) > 0 {
		f, r.plan = r.plan[0], r.plan[1:]
	}
	if r.sim.away || r.cut {
		return f, errSimDown
	}
	return f, nil
}

// hold waits in the network.
func (r *simReplica) hold(ctx context.Context) error {
	g := &simGate{replica: r, open: make(chan bool, 1)}
	r.sim.mu.Lock()
	r.sim.gates = append(r.sim.gates, g)
	r.sim.mu.Unlock()
	select {
	case ok := <-g.open:
		if !ok {
			return errSimGone
		}
		return nil
	case <-ctx.Done():
		r.sim.mu.Lock()
		defer r.sim.mu.Unlock()
		r.sim.gates = slices.DeleteFunc(r.sim.gates, func(other *simGate) bool { return other == g })
		return ctx.Err()
	}
}

// Run implements [breaker.Link].
func (r *simReplica) Run(ctx context.Context, commands []breaker.Command) ([]breaker.Reply, []error) {
	s := r.sim
	replies, errs := make([]breaker.Reply, len(commands)), make([]error, len(commands))
	all := func(err error) ([]breaker.Reply, []error) {
		for i := range commands {
			replies[i], errs[i] = breaker.Reply{}, err
		}
		return replies, errs
	}
	later := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.late = append(s.late, commands...)
	}
	f, err := r.fate()
	if err != nil {
		return all(err)
	}
	switch f {
	case simDrop:
		return all(errSimGone)
	case simDelay:
		later()
		return all(errSimGone)
	case simHold:
		if err := r.hold(ctx); err != nil {
			if ctx.Err() != nil {
				later()
			}
			return all(err)
		}
	}
	s.mu.Lock()
	refusing := s.refusing
	s.mu.Unlock()
	if refusing {
		return all(simRefusal("READONLY You can't write against a read only replica."))
	}
	for i, c := range commands {
		replies[i], errs[i] = s.exec(r, c)
	}
	switch f {
	case simRepeat:
		later()
	case simLose:
		return all(errSimGone)
	case simHoldReply:
		if err := r.hold(ctx); err != nil {
			return all(err)
		}
	}
	if commands[0].Op == "sync" {
		r.looked = true
	}
	return replies, errs
}

// Version implements [breaker.Link].
func (r *simReplica) Version(ctx context.Context) (epoch string, version uint64, err error) {
	f, err := r.fate()
	if err != nil {
		return "", 0, err
	}
	if f == simHold {
		if err := r.hold(ctx); err != nil {
			return "", 0, err
		}
	}
	r.sim.mu.Lock()
	meta := r.sim.data[simPrefix+"meta"].hash
	r.sim.mu.Unlock()
	epoch = meta["epoch"]
	version, _ = strconv.ParseUint(meta["version"], 10, 64)
	switch f {
	case simDrop, simLose, simDelay:
		return "", 0, errSimGone
	case simHoldReply:
		if err := r.hold(ctx); err != nil {
			return "", 0, err
		}
	}
	return epoch, version, nil
}

// Listen implements [breaker.Link]; a session by hand does not listen.
func (r *simReplica) Listen(ctx context.Context, message func(string), subscribed func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-r.feed:
			if m == "" {
				subscribed()
			} else {
				message(m)
			}
		}
	}
}

// Close implements [breaker.Link].
func (r *simReplica) Close() error { return nil }

// heard judges what a replica tells of a change as its own doing (S16).
func (s *sim) heard(store *breaker.Shared, tr breaker.Transition) {
	status := store.Status()
	alone := store.Inside(tr.Key).Own || tr.Reason == breaker.ReasonOrderOver && status.Mode != breaker.ModeShared
	if !tr.Local || alone {
		return // by another replica, or decided without the arbiter
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := simVersion{status.Epoch, breaker.CircuitID(tr.Key), tr.Version}
	r, ok := s.judge.issued[v]
	same := ok && simState(tr.State) == r.state && simMode(tr.Forced) == r.mode && string(tr.Reason) == strings.ReplaceAll(r.why, "_", " ")
	if !same {
		s.judge.say("S16: %s %s of %s at %d was announced, and is %s %s", tr.State, tr.Forced, v.id, v.version, r.state, r.mode)
	}
	if s.judge.announced[v]++; s.judge.announced[v] > 1 {
		s.judge.say("S16: version %d of %s was announced twice", v.version, v.id)
	}
	if r.by != status.Replica {
		s.judge.say("S16: version %d of %s was announced by %s and caused by %s", v.version, v.id, status.Replica, r.by)
	}
}

func simState(s breaker.State) string {
	return map[breaker.State]string{breaker.Closed: "C", breaker.Open: "O", breaker.HalfOpen: "H"}[s]
}

func simMode(f breaker.Forced) string {
	return map[breaker.Forced]string{breaker.NotForced: "N", breaker.ForcedOpen: "O", breaker.ForcedClosed: "C"}[f]
}

// check fails the test if anything was wrong so far, or is wrong now.
func (s *sim) check() {
	synctest.Wait()
	for _, r := range s.replicas {
		r.checkViews()
	}
	if len(s.judge.wrong) > 0 {
		s.t.Fatalf("%s", s.judge.wrong[0])
	}
}

// checkViews checks S6, S7 and S8.
func (r *simReplica) checkViews() {
	j, status := r.sim.judge, r.store.Status()
	if status.Epoch != r.epoch {
		r.epoch, r.seen = status.Epoch, map[breaker.Key]uint64{}
	}
	if r.suspect && r.looked && !r.busy {
		r.suspect = false
	}
	if r.suspect || r.store.Lost() {
		r.seen = map[breaker.Key]uint64{}
		return
	}
	for _, key := range r.sim.keys {
		in := r.store.Inside(key)
		var rec breaker.Record
		for _, b := range r.breakers {
			if b.Key() == key {
				rec = b.Record()
			}
		}
		id := breaker.CircuitID(key)
		if rec.Version < r.seen[key] {
			j.say("S6: replica %d went back from version %d of %s to %d", r.number, r.seen[key], id, rec.Version)
		}
		r.seen[key] = rec.Version
		if status.Mode != breaker.ModeShared || in.Own || in.Provisional {
			continue
		}
		want := simRecord{state: "C", mode: "N"}
		if rec.Version != 0 {
			var ok bool
			if want, ok = j.issued[simVersion{status.Epoch, id, rec.Version}]; !ok {
				j.say("S7: replica %d has version %d of %s, which was never given", r.number, rec.Version, id)
			}
		}
		if simState(rec.State) != want.state || simMode(rec.Forced) != want.mode {
			j.say("S7: replica %d is %s %s at version %d of %s, which is %s %s",
				r.number, rec.State, rec.Forced, rec.Version, id, want.state, want.mode)
		}
		if in.ClosedAt != want.closed {
			j.say("S7: replica %d has %s closed at %d, it was at %d", r.number, id, in.ClosedAt, want.closed)
		}
		if status.Epoch == j.book.epoch && rec.Version > j.book.version {
			j.say("S8: replica %d is at version %d, the arbiter at %d", r.number, rec.Version, j.book.version)
		}
	}
}
