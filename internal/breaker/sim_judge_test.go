package breaker_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/breaker"
)

// simJudge watches the arbiter: it sees every command, what it led to and what
// was published, keeps books of its own, and says what must not have happened.
// S1 to S16 are the invariants of the design.
type simJudge struct {
	settings breaker.Settings
	book     simBook
	// issued has every record ever published, also those that a failover lost.
	issued map[simVersion]simRecord
	// announced counts who has told of a published record as its own doing.
	announced map[simVersion]int
	// truth is when the failed requests were admitted.
	truth map[string]time.Time
	// tokens has every lease ever granted.
	tokens map[string]bool
	// jumped: the arbiter's clock or data went back, so that it may know less than the book.
	jumped bool
	wrong  []string
}

// simVersion names a record for ever.
type simVersion struct {
	epoch, id string
	version   uint64
}

// simBook is what the arbiter must know. It is copied with the arbiter's data.
type simBook struct {
	epoch    string
	version  uint64
	circuits map[string]*simCircuit
}

// simCircuit is one circuit in the book.
type simCircuit struct {
	state, mode string
	version     uint64
	closed      uint64    // version that closed it
	since       time.Time // when that was
	good        int64
	log         []simFailure
	leases      map[string]int64 // token → end in ms of the arbiter's clock
}

// simFailure is one failure that the arbiter was told of.
type simFailure struct {
	event, replica string
	at             int64
	again          bool // it was told once more when it had left the window: the arbiter may know it or not
}

// simRecord is a record as it is published, read without the code under test.
type simRecord struct {
	epoch                  string
	before, group, version uint64
	state, mode            string
	left, trips, good      int64
	by, why                string
	closed                 uint64
	id                     string
	quiet                  bool // nothing changed for him who caused it, as far as he knows
}

func simParse(line string) (r simRecord) {
	f := strings.SplitN(line, " ", 15)
	number := func(i int) uint64 { return must(strconv.ParseUint(f[i], 10, 64)) }
	return simRecord{
		epoch: f[0], before: number(1), group: number(2), state: f[3], version: number(4), left: int64(number(5)),
		trips: int64(number(6)), good: int64(number(7)), mode: f[8], by: f[11], why: f[12], closed: number(13), id: f[14],
	}
}

func newSimJudge(settings breaker.Settings) *simJudge {
	return &simJudge{
		settings: settings, book: simBook{circuits: map[string]*simCircuit{}},
		issued: map[simVersion]simRecord{}, announced: map[simVersion]int{}, truth: map[string]time.Time{}, tokens: map[string]bool{},
	}
}

func (b simBook) clone() simBook {
	next := b
	next.circuits = map[string]*simCircuit{}
	for id, c := range b.circuits {
		clone := *c
		clone.log, clone.leases = slices.Clone(c.log), maps.Clone(c.leases)
		next.circuits[id] = &clone
	}
	return next
}

func (b simBook) of(id string) *simCircuit {
	c := b.circuits[id]
	if c == nil {
		c = &simCircuit{state: "C", mode: "N", leases: map[string]int64{}}
		b.circuits[id] = c
	}
	return c
}

func (c *simCircuit) live(now int64) (n int) {
	for _, ends := range c.leases {
		if now < ends {
			n++
		}
	}
	return n
}

func (j *simJudge) say(format string, args ...any) {
	j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
}

// simCall is one command that was executed.
type simCall struct {
	command  breaker.Command
	reply    breaker.Reply
	messages []string
	before   simData
	after    simData
	at       int64     // on the arbiter's clock
	when     time.Time // in truth
	view     uint64    // the version that the caller has of the circuit
}

// arg returns a number among the arguments.
func (c simCall) arg(i int) int64 {
	return must(strconv.ParseInt(fmt.Sprint(c.command.Args[i]), 10, 64))
}

func (c simCall) word(i int) string { return fmt.Sprint(c.command.Args[i]) }

// observe judges one call.
func (j *simJudge) observe(c simCall) {
	meta := c.after[simPrefix+"meta"].hash
	if j.book.epoch == "" {
		j.book.epoch = meta["epoch"]
	}
	if meta["epoch"] != j.book.epoch {
		j.say("the epoch was %s and is %s", j.book.epoch, meta["epoch"])
	}
	records := make([]simRecord, 0, len(c.messages))
	for _, m := range c.messages {
		records = append(records, simParse(m))
	}
	if c.command.Op != "sync" {
		now := simParse(c.reply.Lines[0])
		if longest := max(j.settings.Open, j.settings.OpenMax).Milliseconds(); now.left > longest && now.why != "merged" {
			j.say("S10: %s is open for %d ms, no more than %d are allowed", now.id, now.left, longest)
		}
	}
	if len(records) > 0 && records[0].why == "order_over" {
		j.publish(c, records[0])
		records = records[1:]
	}
	id := c.command.ID
	switch c.command.Op {
	case "fail":
		j.fail(c, j.book.of(id), records)
	case "acquire":
		records = j.acquire(c, j.book.of(id), records)
	case "result":
		j.result(c, j.book.of(id), records)
	}
	for _, r := range records {
		j.publish(c, r)
	}
	j.compare(c)
}

// fail checks S4 and S5 against the complete log.
func (j *simJudge) fail(c simCall, b *simCircuit, records []simRecord) {
	limit, window, quorum, admitted, event, age := int(c.arg(0)), c.arg(1), int(c.arg(6)), uint64(c.arg(8)), c.word(9), c.arg(10)
	opened := c.reply.Verdict == "opened"
	switch c.reply.Verdict {
	case "ignored":
		if b.state == "C" && b.mode == "N" {
			j.say("a failure in the closed state was ignored")
		}
		return
	case "stale":
		if admitted >= b.closed {
			j.say("a failure admitted at %d was stale, the circuit was closed at %d", admitted, b.closed)
		}
		return
	case "old":
		if age < window {
			j.say("a failure %d ms ago was old", age)
		}
		return
	}
	if b.state != "C" || b.mode != "N" || admitted < b.closed || age >= window {
		j.say("S4: a failure was %s: circuit %s %s closed at %d, admitted at %d, age %d", c.reply.Verdict, b.state, b.mode, b.closed, admitted, age)
	}
	next := simFailure{event, c.command.Replica, c.at - max(0, age), false}
	switch i := slices.IndexFunc(b.log, func(f simFailure) bool { return f.event == event }); {
	case i < 0:
		b.log = append(b.log, next)
	case b.log[i].at <= c.at-window:
		b.log[i], b.log[i].again = next, true
	}
	count, sound, sure, replicas := 0, 0, 0, map[string]bool{}
	for _, f := range b.log {
		if f.at > c.at-window && f.at <= c.at {
			count++
			replicas[f.replica] = true
			if !f.again {
				sure++
			}
			if !j.truth[f.event].Before(b.since) {
				sound++
			}
		}
	}
	switch full := count >= limit && len(replicas) >= quorum; {
	case opened && !full:
		j.say("S4: opened by %d failures of %d replicas: %v at %d", count, len(replicas), b.log, c.at)
	case opened && sound < limit:
		j.say("S4: opened by %d failures, %d of requests from before the circuit was closed", count, count-sound)
	case !opened && full && sure == count && !j.jumped:
		j.say("S4: not opened by %d failures of %d replicas", count, len(replicas))
	}
	if opened != (len(records) == 1) {
		j.say("%s, and %d messages", c.reply.Verdict, len(records))
	}
}

// acquire checks S1. It takes the message that the circuit is half-open now.
func (j *simJudge) acquire(c simCall, b *simCircuit, records []simRecord) []simRecord {
	limit, lease, token := int(c.arg(0)), c.arg(1), c.word(2)
	for _, r := range records {
		j.publish(c, r)
	}
	switch c.reply.Verdict {
	case "granted":
		if b.state != "H" || b.mode != "N" {
			j.say("S1: a probe was granted, the circuit is %s %s", b.state, b.mode)
		}
		if ends := b.leases[token]; c.at >= ends {
			if b.live(c.at) >= limit {
				j.say("S1: a probe was granted, %d are under way: %v", b.live(c.at), b.leases)
			}
			b.leases[token] = c.at + lease
		}
		j.tokens[token] = true
	case "denied":
		if b.state == "H" && b.mode == "N" && b.live(c.at) < limit && !j.jumped {
			j.say("L4: a probe was denied, %d are under way: %v at %d", b.live(c.at), b.leases, c.at)
		}
		if b.state == "C" && b.mode != "O" {
			j.say("a probe was denied, the circuit is closed")
		}
		if b.state == "H" && b.mode == "N" && (c.reply.Wait <= 0 || c.reply.Wait > time.Duration(lease)*time.Millisecond) && !j.jumped {
			j.say("a probe was denied for %s", c.reply.Wait)
		}
	case "closed":
		if b.mode == "O" || b.mode == "N" && b.state != "C" {
			j.say("S9: a circuit that is %s %s was said to be closed", b.state, b.mode)
		}
	}
	return nil
}

// result checks S2, S10 and S11.
func (j *simJudge) result(c simCall, b *simCircuit, records []simRecord) {
	token, outcome, need := c.word(0), c.word(1), c.arg(2)
	live := b.state == "H" && b.mode == "N" && c.at < b.leases[token]
	delete(b.leases, token)
	want := "stale"
	switch {
	case live && outcome == "bad":
		want = "opened"
	case live && outcome == "good" && b.good+1 >= need:
		want = "closed"
	case live:
		want = "released"
	}
	if c.reply.Verdict != want {
		j.say("S2: a probe that came back %s was %s, not %s; %s %s %v at %d", outcome, c.reply.Verdict, want, b.state, b.mode, b.leases, c.at)
	}
	if want != "stale" != (len(records) == 1) {
		j.say("S10: %s, and %d messages", c.reply.Verdict, len(records))
	}
}

// simEdges are the legal ones: from, to and why.
var simEdges = map[string]bool{
	"C O failures": true, "C O merged": true, "O O merged": true, "O H open_period_over": true,
	"H C probe_succeeded": true, "H O probe_failed": true, "H H place_free": true,
	"O C forgotten": true, "H C forgotten": true,
}

// publish checks S3 and S6 and writes the change into the book.
func (j *simJudge) publish(c simCall, r simRecord) {
	b := j.book.of(r.id)
	if r.epoch != j.book.epoch || r.before != j.book.version || r.group <= r.before || r.version != r.group {
		j.say("S6: a message of %s goes from %d to %d and %d, the book says %s %d", r.epoch, r.before, r.group, r.version, j.book.epoch, j.book.version)
	}
	for v := range j.issued {
		if v.epoch == r.epoch && v.version == r.version {
			j.say("S6: version %d is given to %s %s and was given to %s %s", r.version, r.id, r.state, v.id, j.issued[v].state)
		}
	}
	r.quiet = c.view != b.version || b.state == r.state && b.mode == r.mode
	j.issued[simVersion{r.epoch, r.id, r.version}] = r
	edge := b.state + " " + r.state + " " + r.why
	ordered := (r.why == "forced" || r.why == "reset" || r.why == "order_over" && b.mode != "N") && r.state == "C"
	if !ordered && (!simEdges[edge] || b.mode != "N" || r.mode != "N") {
		j.say("S3: %s %s became %s %s: %s", b.state, b.mode, r.state, r.mode, r.why)
	}
	if r.why == "merged" && c.command.Op != "merge" || r.why == "reset" && c.command.Op != "reset" {
		j.say("S3: %s by %s", r.why, c.command.Op)
	}
	if r.by != c.command.Replica {
		j.say("S16: a change by %s was put down to %s", c.command.Replica, r.by)
	}
	if r.state != "H" || b.state != "H" {
		b.leases = map[string]int64{}
	}
	b.log = nil
	b.state, b.mode, b.version, b.closed, b.good = r.state, r.mode, r.version, r.closed, r.good
	if r.state == "C" {
		b.since = c.when
		if r.closed != r.version {
			j.say("closed at %d, which the record calls %d", r.version, r.closed)
		}
	}
	j.book.version = r.group
}

// compare checks that the arbiter holds what the book says, and no more (S13).
func (j *simJudge) compare(c simCall) {
	states := c.after[simPrefix+"states"].hash
	if was := c.before[simPrefix+"states"].hash; len(c.messages) == 0 && !maps.EqualFunc(states, was, simSame) {
		j.say("S10: %s changed %v to %v without a word", c.command.Op, was, states)
	}
	meta := c.after[simPrefix+"meta"].hash
	if got, _ := strconv.ParseUint(meta["version"], 10, 64); got != j.book.version {
		j.say("S6: the version is %d, the book says %d", got, j.book.version)
	}
	for id, b := range j.book.circuits {
		want := "C N"
		if text, ok := states[id]; ok {
			f := strings.Fields(text)
			want = f[0] + " " + f[5]
		}
		if got := b.state + " " + b.mode; got != want {
			j.say("the arbiter says %s, the book %s", want, got)
		}
	}
	if most := len(j.book.circuits); len(states) > most || len(meta) > most+2 {
		j.say("S13: %d circuits, %v %v", most, states, meta)
	}
	for key, v := range c.after {
		kind, _, _ := strings.Cut(strings.TrimPrefix(key, simPrefix), ":")
		most := map[string]int{"failures": j.settings.Failures, "probes": j.settings.Probes, "reporters": 3, "tallies": 22}[kind]
		switch kind {
		case "states", "meta":
		case "reporters": // a replica that is restarted has another name
			most = 1000
			fallthrough
		default:
			if len(v.zset)+len(v.hash) > most || v.ttl <= 0 {
				j.say("S13: %s has %d members and lives %s", key, len(v.zset)+len(v.hash), v.ttl)
			}
		}
	}
	for id, b := range j.book.circuits {
		now := 0
		for _, ends := range c.after[simPrefix+"probes:"+id].zset {
			if int64(ends) > c.at {
				now++
			}
		}
		if n := max(now, b.live(c.at)); n > j.settings.Probes && b.state == "H" {
			j.say("S1: %d probes are under way", n)
		}
	}
}

// simSame compares stored circuits. An open period may end earlier than it did,
// as it does if the clock was set back.
func simSame(now, was string) bool {
	a, b := strings.Fields(now), strings.Fields(was)
	sooner := a[2] <= b[2]
	a[2], b[2] = "", ""
	return sooner && slices.Equal(a, b)
}
