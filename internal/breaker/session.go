package breaker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// callBudget bounds a call to the arbiter that no request waits for.
	callBudget = 100 * time.Millisecond
	// syncBudget bounds a sync, which with 10,000 circuits takes some 150 ms.
	syncBudget = time.Second
	// askBudget is how long a request may wait to learn whether it is a probe.
	askBudget = 25 * time.Millisecond
	// bootBudget is how long the first requests may wait for the first look.
	bootBudget = 250 * time.Millisecond
	// spareLife is how long a lease that came too late is kept for a next request.
	spareLife = time.Second

	queueLength = 1024
	batchLength = 64

	pollInterval = time.Second            // while the arbiter decides
	pollSoon     = 250 * time.Millisecond // after a failure
	retryMin     = 500 * time.Millisecond // while it is away
	retryMax     = 2 * time.Second

	failuresToLose = 3 // in a row
	pollsToFind    = 2 // in a row
)

// Mode is who decides about circuits.
type Mode int32

// The modes. Alone: there is no link. Local: there is one but the arbiter does
// not answer. Shared: the arbiter decides.
const (
	ModeAlone Mode = iota
	ModeLocal
	ModeShared
)

// String returns the mode's name as logs show it.
func (m Mode) String() string {
	switch m {
	case ModeLocal:
		return "local"
	case ModeShared:
		return "shared"
	}
	return "alone"
}

// Status is how a process stands with the arbiter.
type Status struct {
	Mode    Mode
	Replica string
	Epoch   string
	Version uint64
	// Age is the time since the arbiter last answered.
	Age time.Duration
	// Cause is why the last call to the arbiter failed, empty if it did not.
	Cause string
	// Dropped counts reports that found the queue full and went later, Errors the
	// calls that failed, by operation.
	Dropped int64
	Errors  map[string]int64
}

// The operations of script.lua.
const (
	opFail    = "fail"
	opCount   = "count"
	opAcquire = "acquire"
	opResult  = "result"
	opForce   = "force"
	opReset   = "reset"
	opLapse   = "lapse"
	opMerge   = "merge"
	opSync    = "sync"
	opPoll    = "poll" // not the script's
)

// job is one operation that waits to be sent.
type job struct {
	op       string
	key      Key
	settings Settings

	event, admitted uint64    // of fail
	at              time.Time // of fail and result: when it happened
	successes       int64
	token           uint64
	outcome         Outcome
	order           Order
	left            time.Duration
	trips           int
	known           uint64 // of what the arbiter has lost, see script.lua
	lost            bool   // the arbiter has lost what it is told of
}

// session is the use of one link. Its loop is the only one that sends, but for
// requests that ask for a probe and operators' orders.
type session struct {
	store  *Shared
	link   Link
	logger *slog.Logger

	mode    atomic.Int32
	queue   chan job
	resync  chan struct{} // wants a sync
	booted  chan struct{} // closed when requests need not wait any more
	boot    sync.Once
	dropped atomic.Int64

	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu          sync.Mutex
	joined      bool // the arbiter has decided at least once
	failures    int  // in a row
	found       int  // good polls in a row while local
	unfinished  bool // the last sync was
	retry       time.Duration
	contact     time.Time // the last good answer
	errors      map[string]int64
	cause       string             // the error of the last call, empty if it went well
	told        bool               // that the arbiter has not decided yet
	undelivered []job              // verdicts of probes
	hangUp      context.CancelFunc // ends the present subscription
}

func newSession(s *Shared, link Link, logger *slog.Logger) *session {
	n := &session{
		store: s, link: link, logger: logger,
		queue: make(chan job, queueLength), resync: make(chan struct{}, 1), booted: make(chan struct{}),
		errors: map[string]int64{}, contact: s.clock.Now(), retry: retryMin,
	}
	n.mode.Store(int32(ModeLocal))
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

func (n *session) start() {
	timer := time.AfterFunc(bootBudget, n.open)
	n.work.Go(func() {
		defer timer.Stop()
		n.poll(n.ctx)
		n.open()
		n.run()
	})
	n.work.Go(n.listen)
}

// listen hears what is published, with a new subscription each time that the
// arbiter was lost and found: the old one may hang on a connection that a
// network cut has left half dead, which sends nothing and knows nothing of it.
func (n *session) listen() {
	for n.ctx.Err() == nil {
		ctx, cancel := context.WithCancel(n.ctx)
		n.mu.Lock()
		n.hangUp = cancel
		n.mu.Unlock()
		n.link.Listen(ctx, n.receive, n.wantSync)
		cancel()
	}
}

// open lets the first requests in.
func (n *session) open() { n.boot.Do(func() { close(n.booted) }) }

// close ends the session once what waits has been sent. Circuits go on as they are.
func (n *session) close() {
	n.cancel()
	n.open()
	n.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), callBudget)
	defer cancel()
	for n.isShared() && len(n.queue) > 0 && ctx.Err() == nil {
		n.flush(ctx, <-n.queue)
	}
	n.lose(nil)
	for len(n.queue) > 0 {
		n.setAside(<-n.queue)
	}
	_ = n.link.Close() // nobody is left to tell
}

func (n *session) run() {
	timer := time.NewTimer(n.nextPoll())
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case j := <-n.queue:
			n.flush(context.WithoutCancel(n.ctx), j) // it is finished, also at the end
		case <-n.resync:
			if n.isShared() {
				n.sync(n.ctx)
			}
		case <-timer.C:
			n.poll(n.ctx)
			timer.Reset(n.nextPoll())
		}
	}
}

func (n *session) isShared() bool { return n.mode.Load() == int32(ModeShared) }

// nextPoll returns how long to wait for the next look at the arbiter.
func (n *session) nextPoll() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	random := rand.Float64() // #nosec G404 -- it only spreads the polls of many replicas
	spread := func(d time.Duration) time.Duration { return d + time.Duration((random-0.5)*0.4*float64(d)) }
	switch {
	case n.isShared() && n.failures > 0:
		return pollSoon
	case n.isShared():
		return spread(pollInterval)
	case n.found >= pollsToFind: // spread out the return of many replicas
		return time.Duration(random * float64(time.Second))
	case n.found > 0:
		return retryMin
	}
	d := n.retry
	n.retry = min(2*n.retry, retryMax)
	return spread(d)
}

// wantSync asks the loop for a sync.
func (n *session) wantSync() {
	select {
	case n.resync <- struct{}{}:
	default:
	}
}

// enqueue gives a job to the loop. It never blocks.
func (n *session) enqueue(j job) {
	select {
	case n.queue <- j:
	default:
		n.dropped.Add(1)
		n.setAside(j)
	}
}

// setAside keeps what must not be lost of a job that could not be sent.
func (n *session) setAside(j job) {
	switch j.op {
	case opFail:
		n.store.markUnsent(j.key)
	case opResult:
		if !n.isShared() {
			n.store.resultHere(j.key, j.token, j.outcome, j.settings)
			return
		}
		n.mu.Lock()
		n.undelivered = append(n.undelivered, j)
		n.mu.Unlock()
	}
}

// flush sends the job and those that are waiting behind it.
func (n *session) flush(ctx context.Context, first job) {
	jobs := []job{first}
	for len(jobs) < batchLength {
		select {
		case j := <-n.queue:
			jobs = append(jobs, j)
			continue
		default:
		}
		break
	}
	n.send(ctx, jobs)
}

// send sends jobs if the arbiter decides.
func (n *session) send(ctx context.Context, jobs []job) {
	if n.isShared() {
		n.deliver(ctx, jobs)
		return
	}
	for _, j := range jobs {
		n.setAside(j)
	}
}

// deliver sends jobs and adopts the answers. It reports whether all were answered.
func (n *session) deliver(ctx context.Context, jobs []job) bool {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	commands := make([]Command, len(jobs))
	for i, j := range jobs {
		commands[i] = n.command(j)
	}
	replies, errs := n.link.Run(ctx, commands)
	var failed error // the first: it was one call
	for i, j := range jobs {
		if errs[i] == nil {
			errs[i] = n.answered(j, replies[i])
		}
		if errs[i] != nil && failed == nil {
			failed = errs[i]
			n.failed(j.op, failed)
		}
		if errs[i] != nil {
			n.setAside(j)
		}
	}
	return failed == nil
}

// answered takes the arbiter's answer to a job.
func (n *session) answered(j job, reply Reply) error {
	r, err := parseRecord(reply.Lines[0])
	if err != nil {
		return err
	}
	n.ok()
	if !n.known(r) {
		n.setAside(j)
		return nil
	}
	n.store.mu.Lock()
	lost := j.lost || n.store.lost
	n.store.mu.Unlock()
	n.store.adopt(r, func(c *circuit) bool {
		// One that is older than what is known answers to an earlier decision.
		own := c.shared.own && (r.version >= c.record.Version || lost)
		switch j.op {
		case opFail:
			return c.shared.provisional != 0 && j.event >= c.shared.provisional
		case opMerge:
			return own && c.record.Forced == NotForced
		case opForce, opReset, opLapse:
			return own
		case opAcquire:
			return r.version == c.record.Version && r.state != c.record.State
		case opResult:
			c.giveBack(n.store.clock.Now(), j.token)
		}
		return false
	})
	return nil
}

// known reports whether the arbiter still has the data that we know; otherwise
// it asks for a sync.
func (n *session) known(r remoteRecord) bool {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if n.store.epoch != r.epoch {
		n.wantSync()
		return false
	}
	if r.before < n.store.newest && n.store.newest < r.group {
		n.store.lost = true // this change should have come after what is known
		n.wantSync()
		return false
	}
	n.store.newest = max(n.store.newest, r.group)
	return true
}

// command returns what the script is told of a job.
func (n *session) command(j job) Command {
	c := n.newCommand(j.op, circuitID(j.key))
	random := n.store.local.random()
	switch s := j.settings; j.op {
	case opFail:
		c.Args = append(append([]any{s.Failures, millis(s.Window)}, s.openArgs(random)...),
			s.MinReporters, s.MinRatio, j.admitted, n.store.eventName(j.event), millis(max(0, n.store.clock.Now().Sub(j.at))))
	case opCount:
		c.Args = []any{millis(s.Window), j.successes}
	case opAcquire:
		c.Args = []any{s.Probes, millis(s.Lease), n.store.eventName(j.token)}
	case opResult:
		word := map[Outcome]string{Success: wordGood, Failure: wordBad, Ignored: wordNone}[j.outcome]
		c.Args = append([]any{n.store.eventName(j.token), word, s.Need}, s.openArgs(random)...)
	case opForce:
		c.Args = []any{map[OrderKind]string{OrderOpen: "O", OrderClose: "C", OrderAuto: "N"}[j.order.Kind], millis(j.order.TTL), orderWord(j.order.Reason), j.known}
	case opMerge:
		c.Args = []any{millis(j.left), millis(s.Open), j.trips, j.known}
	}
	return c
}

func (n *session) newCommand(op, id string) Command {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	return Command{Op: op, ID: id, Replica: n.store.replica, Seen: max(n.store.version, n.store.newest), Epoch: randomID()}
}

// one sends a single job.
func (n *session) one(ctx context.Context, j job) (Reply, error) {
	replies, errs := n.link.Run(ctx, []Command{n.command(j)})
	err := errs[0]
	if err == nil {
		err = n.answered(j, replies[0])
	}
	if err != nil {
		n.failed(j.op, err)
	}
	return replies[0], err
}

// receive takes a published change.
func (n *session) receive(message string) {
	if !n.isShared() {
		return
	}
	r, err := parseRecord(message)
	if err != nil {
		n.failed("message", err)
		return
	}
	if !n.known(r) {
		return
	}
	n.store.mu.Lock()
	switch {
	case r.group <= n.store.version: // late or twice
	case r.before == n.store.version:
		n.store.version = r.group
	default:
		n.wantSync() // one between was lost
	}
	n.store.mu.Unlock()
	n.store.adopt(r, unasked)
}

// ask asks for a probe's lease on behalf of a request that waits for at most
// askBudget. A lease that comes later is kept for the next request, so that an
// arbiter far away does not keep the circuit from ever closing.
func (n *session) ask(ctx context.Context, c *circuit, token uint64, settings Settings) Grant {
	answer, gone := make(chan Grant), make(chan struct{})
	go n.lease(c, token, settings, answer, gone)
	timer := time.NewTimer(askBudget)
	defer timer.Stop()
	select {
	case g := <-answer:
		return g
	case <-timer.C:
	case <-ctx.Done():
	}
	close(gone)
	return Grant{State: HalfOpen, RetryAfter: halfOpenRetry}
}

// lease is one call for a probe's lease, whose answer goes to the request unless
// that is gone.
func (n *session) lease(c *circuit, token uint64, settings Settings, answer chan<- Grant, gone <-chan struct{}) {
	started := n.store.clock.Now()
	ctx, cancel := context.WithTimeout(n.ctx, callBudget)
	defer cancel()
	j := job{op: opAcquire, key: c.key, settings: settings, token: token}
	reply, err := n.one(ctx, j)
	if err != nil { // it may have been granted: give the place back
		n.enqueue(job{op: opResult, key: j.key, settings: settings, token: token, outcome: Ignored, at: started})
	}
	g := n.granted(c, reply, lease{token: token, expires: started.Add(settings.Lease)})
	select {
	case answer <- g:
	case <-gone:
		if g.Probe {
			n.keepSpare(c, token, settings)
		}
	}
}

// granted turns the arbiter's answer to a call for a lease into a grant.
func (n *session) granted(c *circuit, reply Reply, l lease) Grant {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared.asking = false
	now := n.store.clock.Now()
	g := Grant{State: c.record.State, RetryAfter: halfOpenRetry, Seq: c.record.Seq}
	switch {
	case reply.Verdict == "granted":
		c.leases = append(c.leases, l)
		g.Probe = true
	case reply.Verdict == "closed":
		g.Closed = true
	case reply.Verdict == "denied" && c.record.State == Open:
		g.RetryAfter = max(0, c.until.Sub(now))
	case reply.Verdict == "denied" && reply.Wait > 0:
		// If a place had become free since, the circuit would have a newer version.
		if r, err := parseRecord(reply.Lines[0]); err == nil && r.version == c.record.Version {
			c.shared.denied = now.Add(reply.Wait)
		}
		g.RetryAfter = reply.Wait
	}
	return g
}

// keepSpare keeps a lease for the next request, and gives it back if none comes.
func (n *session) keepSpare(c *circuit, token uint64, settings Settings) {
	c.mu.Lock()
	c.shared.spare = lease{token: token, expires: n.store.clock.Now().Add(spareLife)}
	c.mu.Unlock()
	time.AfterFunc(spareLife, func() {
		c.mu.Lock()
		unused := c.shared.spare.token == token
		if unused {
			c.shared.spare = lease{}
		}
		c.mu.Unlock()
		if unused {
			n.store.Result(c.key, token, Ignored, settings)
		}
	})
}

// order has the arbiter obey. It reports whether it did. ordered is the version
// of the order that holds so far.
func (n *session) order(ctx context.Context, key Key, o Order, ordered uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	j := job{op: opForce, key: key, order: o}
	switch o.Kind {
	case OrderReset:
		j.op = opReset
	case orderLapse:
		j.op = opLapse
	case OrderAuto:
		j.known = ordered
	}
	reply, err := n.one(ctx, j)
	if err != nil {
		return false
	}
	r, err := parseRecord(reply.Lines[0])
	return err == nil && n.known(r) // else what it did is not known here, and may be lost
}

// poll looks whether something was missed, or whether the arbiter is back.
func (n *session) poll(ctx context.Context) {
	if n.firstLook() || n.isShared() && n.mustSync() {
		n.sync(ctx)
		return
	}
	call, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	epoch, version, err := n.link.Version(call)
	if err != nil {
		n.failed(opPoll, err)
		return
	}
	n.ok()
	if !n.isShared() {
		n.mu.Lock()
		n.found++
		back := n.found > pollsToFind
		n.mu.Unlock()
		if back {
			n.sync(ctx)
		}
		return
	}
	n.store.mu.Lock()
	same := epoch == n.store.epoch && version == n.store.version
	n.store.mu.Unlock()
	if !same {
		n.sync(ctx)
	}
	n.resend(ctx)
}

func (n *session) firstLook() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.joined && n.failures == 0 && n.found == 0
}

// mustSync reports whether the last sync failed: what it was for may not show in
// the version.
func (n *session) mustSync() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unfinished
}

// resend sends what could not be sent before.
func (n *session) resend(ctx context.Context) {
	jobs, unsure := n.store.unsent()
	if unsure {
		n.wantSync()
	}
	n.mu.Lock()
	now := n.store.clock.Now()
	for _, j := range n.undelivered {
		if now.Sub(j.at) < j.settings.Lease {
			jobs = append(jobs, j)
		}
	}
	n.undelivered = nil
	n.mu.Unlock()
	for batch := range slices.Chunk(jobs, batchLength) {
		n.send(ctx, batch)
	}
}

// sync makes the circuits what the arbiter says, tells it what it does not know
// and, if this process was on its own, makes the arbiter decide from now on.
func (n *session) sync(ctx context.Context) {
	s := n.store
	n.mu.Lock()
	n.unfinished = true
	n.mu.Unlock()
	s.mu.Lock()
	epoch, newest := s.epoch, max(s.version, s.newest)
	s.mu.Unlock()
	snap, err := n.snapshot(ctx)
	if err != nil {
		n.failed(opSync, err)
		return
	}
	n.ok()
	s.mu.Lock()
	s.lost = s.lost || epoch != "" && (epoch != snap.epoch || snap.version < newest)
	if s.epoch != snap.epoch || s.lost || snap.version > s.version {
		s.epoch, s.version, s.newest = snap.epoch, snap.version, snap.version
	}
	lost := s.lost
	s.mu.Unlock()
	for batch := range slices.Chunk(s.reconcile(snap, lost), batchLength) {
		if !n.deliver(ctx, batch) {
			return // and again from the start
		}
	}
	s.mu.Lock()
	s.lost = false
	s.mu.Unlock()
	s.sweep(snap)
	if lost {
		n.log(slog.LevelWarn, "redis has lost what breakers had stored: open circuits were stored anew")
	}
	n.find()
	n.resend(ctx)
}

// snapshot asks for everything that the arbiter knows.
func (n *session) snapshot(ctx context.Context) (snapshot, error) {
	budget := syncBudget
	if n.firstLook() {
		budget = bootBudget
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	replies, errs := n.link.Run(ctx, []Command{n.newCommand(opSync, "")})
	if errs[0] != nil {
		return snapshot{}, errs[0]
	}
	return parseSnapshot(replies[0].Lines)
}

// ok notes that the arbiter has answered.
func (n *session) ok() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures, n.cause, n.contact = 0, "", n.store.clock.Now()
}

// failed notes that a call failed. After a few in a row, or at once if the
// arbiter refuses to work, this process goes on by itself.
func (n *session) failed(op string, err error) {
	if n.ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	n.failures++
	n.errors[op]++
	n.cause = causeOf(err)
	n.found = 0
	lost := n.failures >= failuresToLose || refuses(err) || !n.joined
	n.mu.Unlock()
	if lost {
		n.lose(err)
	}
}

// find makes the arbiter decide.
func (n *session) find() {
	n.mu.Lock()
	back := n.joined && !n.isShared()
	n.joined, n.found, n.retry, n.unfinished = true, 0, retryMin, false
	if back && n.hangUp != nil {
		n.hangUp()
	}
	n.mu.Unlock()
	if n.mode.Swap(int32(ModeShared)) != int32(ModeShared) {
		n.log(slog.LevelInfo, "breakers share their state with all replicas")
	}
}

// lose makes this process decide. err is why, nil at the end of the session.
func (n *session) lose(err error) {
	was := n.mode.Swap(int32(ModeLocal))
	n.mu.Lock()
	tell := err != nil && (was == int32(ModeShared) || !n.joined && !n.told)
	n.told = n.told || tell
	undelivered := n.undelivered
	n.undelivered = nil
	n.mu.Unlock()
	if tell {
		n.log(slog.LevelWarn, "redis does not answer: breakers work on each replica by itself until it does", slog.String("error", causeOf(err)))
	}
	if was != int32(ModeShared) {
		return
	}
	n.store.alone()
	for _, j := range undelivered {
		n.setAside(j)
	}
}

func (n *session) log(level slog.Level, message string, attrs ...slog.Attr) {
	if n.logger != nil {
		n.logger.LogAttrs(context.Background(), level, message, attrs...)
	}
}

// Status tells how the process stands with the arbiter.
func (s *Shared) Status() Status {
	st := Status{Replica: s.replica}
	s.mu.Lock()
	st.Epoch, st.Version = s.epoch, s.version
	s.mu.Unlock()
	n := s.session.Load()
	if n == nil {
		return st
	}
	st.Mode, st.Dropped = Mode(n.mode.Load()), n.dropped.Load()
	n.mu.Lock()
	defer n.mu.Unlock()
	st.Age, st.Cause = s.clock.Now().Sub(n.contact), n.cause
	st.Errors = map[string]int64{}
	for op, count := range n.errors {
		st.Errors[op] = count
	}
	return st
}
