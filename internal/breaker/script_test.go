package breaker_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// call is one operation on one circuit, as every arbiter takes it. Times are in
// milliseconds.
type call struct {
	op       string // as script.lua knows it
	circuit  int
	replica  string
	name     occurrence // of the failure or of the probe
	age      int64
	admitted uint64
	good     int64
	outcome  breaker.Outcome
	order    breaker.OrderKind
	ttl      int64
	left     int64
	trips    int
	random   float64
	seen     uint64
}

// occurrence names a failure or a probe in the whole cluster.
type occurrence struct {
	replica string
	number  uint64
}

func (o occurrence) String() string { return fmt.Sprintf("%s:%d", o.replica, o.number) }

// answer is what an arbiter says to a call. An empty verdict: it does not tell.
type answer struct {
	verdict string
	wait    int64
	record  breaker.WireRecord
}

// ledger is a circuit as one would write it down: it keeps everything that
// happened in the closed period, and looks at all of it every time.
type ledger struct {
	settings breaker.Settings
	coarse   int64                 // by how many slices a tally may be off, besides the one that is its nature
	round    func(float64) float64 // of the open period to milliseconds
	now      int64

	state    breaker.State
	forced   breaker.Forced
	period   int // number of the closed period
	log      []failure
	requests []portion
	due, dur int64 // end and length of the open period
	trips    int
	good     int // probes that succeeded
	failures int // that opened it
	leases   map[occurrence]int64
	ends     int64 // of the order, 0 if it has no end
	reason   breaker.Reason
	origin   string

	changes []breaker.Reason // of the latest call
}

// failure is one entry of the log.
type failure struct {
	name occurrence
	at   int64
}

// portion is some requests that are counted for the ratio.
type portion struct {
	at, good, bad int64
	unsure        bool // whether they are
}

// apply is the call as the ledger has it. Where the tally leaves it open whether
// the ratio is reached, the arbiter's answer decides.
func (l *ledger) apply(c call, a answer) (verdict string, wait int64) {
	l.changes = nil
	if l.forced != breaker.NotForced && l.ends > 0 && l.now >= l.ends {
		l.close(breaker.ReasonOrderOver, c.replica)
	}
	switch c.op {
	case "fail":
		return l.fail(c, a), 0
	case "count":
		if l.plainlyClosed() {
			l.requests = append(l.requests, portion{at: l.now, good: c.good})
		}
		return "counted", 0
	case "acquire":
		return l.acquire(c)
	case "result":
		return l.result(c), 0
	case "force":
		return l.force(c), 0
	case "reset":
		l.close(breaker.ReasonReset, c.replica)
		return "closed", 0
	case "merge":
		return l.merge(c), 0
	}
	return "ignored", 0
}

func (l *ledger) plainlyClosed() bool {
	return l.state == breaker.Closed && l.forced == breaker.NotForced
}

func (l *ledger) commit(why breaker.Reason, origin string) {
	l.reason, l.origin = why, origin
	l.changes = append(l.changes, why)
}

func (l *ledger) forget() { l.log, l.requests, l.leases = nil, nil, map[occurrence]int64{} }

func (l *ledger) close(why breaker.Reason, origin string) {
	l.state, l.forced, l.ends = breaker.Closed, breaker.NotForced, 0
	l.trips, l.good, l.failures = 0, 0, 0
	l.period++
	l.forget()
	l.commit(why, origin)
}

func (l *ledger) open(failures int, random float64, why breaker.Reason, origin string) {
	l.state, l.failures, l.good = breaker.Open, failures, 0
	l.trips++
	period, most := l.settings.Open.Milliseconds(), l.settings.OpenMax.Milliseconds()
	for range l.trips - 1 {
		if most > 0 {
			period = min(2*period, most)
		}
	}
	l.dur = int64(l.round(float64(period) * (1 + l.settings.Jitter*(2*random-1))))
	l.due = l.now + l.dur
	l.forget()
	l.commit(why, origin)
}

func (l *ledger) fail(c call, a answer) string {
	window := l.settings.Window.Milliseconds()
	switch {
	case !l.plainlyClosed():
		return "ignored"
	case c.admitted != uint64(l.period):
		return "stale"
	case c.age >= window:
		return "old"
	}
	known := slices.ContainsFunc(l.log, func(f failure) bool { return f.name == c.name })
	if !known {
		l.log = append(l.log, failure{name: c.name, at: l.now - c.age})
	}
	// A repeated report of one that is no longer among the newest may be tallied again.
	l.requests = append(l.requests, portion{at: l.now, bad: 1, unsure: known})
	count, reporters := 0, map[string]bool{}
	for _, f := range l.log {
		if f.at > l.now-window {
			count++
			reporters[f.name.replica] = true
		}
	}
	count = min(count, l.settings.Failures)
	if count < l.settings.Failures || len(reporters) < l.settings.MinReporters {
		return "counted"
	}
	least, most := l.share()
	undecided := known || least < l.settings.MinRatio // a repeated report need not be looked at
	if most < l.settings.MinRatio || undecided && a.record.State != breaker.Open {
		return "counted"
	}
	l.open(count, c.random, breaker.ReasonFailures, c.replica)
	return "opened"
}

// share returns the bounds of the fraction of failed requests: the window is
// tallied by slices, so the oldest slice may count or not.
func (l *ledger) share() (least, most float64) {
	if l.settings.MinRatio == 0 {
		return 1, 1
	}
	width := max(1, l.settings.Window.Milliseconds()/10)
	var sure, maybe portion
	for _, p := range l.requests {
		switch age := l.now - p.at; {
		case age >= 11*width:
		case age <= (10-l.coarse)*width && !p.unsure:
			sure.good, sure.bad = sure.good+p.good, sure.bad+p.bad
		default:
			maybe.good, maybe.bad = maybe.good+p.good, maybe.bad+p.bad
		}
	}
	share := func(bad, good int64) float64 { return float64(bad) / max(1, float64(bad+good)) }
	return share(sure.bad, sure.good+maybe.good), share(sure.bad+maybe.bad, sure.good)
}

func (l *ledger) acquire(c call) (verdict string, wait int64) {
	switch {
	case l.forced == breaker.ForcedOpen:
		return "denied", -1
	case l.state == breaker.Closed:
		return "closed", 0
	case l.state == breaker.Open && l.now < l.due:
		return "denied", l.due - l.now
	case l.state == breaker.Open:
		l.state, l.good = breaker.HalfOpen, 0
		l.leases = map[occurrence]int64{}
		l.commit(breaker.ReasonOpenPeriodOver, c.replica)
	}
	first := int64(0)
	for name, ends := range l.leases {
		if l.now >= ends {
			delete(l.leases, name)
		} else if first == 0 || ends < first {
			first = ends
		}
	}
	if _, mine := l.leases[c.name]; mine {
		return "granted", 0
	}
	if len(l.leases) >= l.settings.Probes {
		return "denied", first - l.now
	}
	l.leases[c.name] = l.now + l.settings.Lease.Milliseconds()
	return "granted", 0
}

func (l *ledger) result(c call) string {
	ends := l.leases[c.name]
	delete(l.leases, c.name)
	switch {
	case l.state != breaker.HalfOpen || l.now >= ends:
		return "stale"
	case c.outcome == breaker.Failure:
		l.open(0, c.random, breaker.ReasonProbeFailed, c.replica)
		return "opened"
	case c.outcome == breaker.Success:
		if l.good++; l.good >= l.settings.Need {
			l.close(breaker.ReasonProbeSucceeded, c.replica)
			return "closed"
		}
	}
	l.commit(breaker.ReasonPlaceFree, c.replica)
	return "released"
}

func (l *ledger) force(c call) string {
	want := map[breaker.OrderKind]breaker.Forced{breaker.OrderOpen: breaker.ForcedOpen, breaker.OrderClose: breaker.ForcedClosed}[c.order]
	switch {
	case want == l.forced && (want == breaker.NotForced || c.ttl == 0 && l.ends == 0):
		return "ignored"
	case want == breaker.NotForced:
		l.close(breaker.ReasonForced, c.replica)
		return "closed"
	}
	l.close(breaker.ReasonForced, c.replica)
	l.forced = want
	if c.ttl > 0 {
		l.ends = l.now + c.ttl
	}
	return "forced"
}

// mergeSlack is by how much a merge must be longer to change anything.
const mergeSlack = 100

func (l *ledger) merge(c call) string {
	until := l.now + c.left
	switch {
	case l.forced != breaker.NotForced || l.state == breaker.HalfOpen:
		return "ignored"
	case l.state == breaker.Open && until <= l.due+mergeSlack:
		return "ignored"
	case l.state == breaker.Closed:
		l.trips, l.failures = max(1, c.trips), 0
	}
	l.state, l.due = breaker.Open, until
	l.dur = max(l.settings.Open.Milliseconds(), c.left, 10_000) // who merges need not know the settings
	l.forget()
	l.commit(breaker.ReasonMerged, c.replica)
	return "opened"
}

// reasonForgotten is the reason that only the script gives.
const reasonForgotten breaker.Reason = "forgotten"

// abandoned reports whether a sync closes the circuit, because nobody has asked
// for it in ten open periods and no probe is under way.
func (l *ledger) abandoned() bool {
	for _, ends := range l.leases {
		if l.state == breaker.HalfOpen && ends > l.now {
			return false
		}
	}
	return l.forced == breaker.NotForced && l.state != breaker.Closed && l.now > l.due+10*l.dur
}

// scale is how long the times of a run are, in milliseconds.
type scale struct {
	unit int64
	// Besides units, so that on a clock that nobody can hold no two moments meet.
	window, open, lease, left int64
	coarse                    int64
	// windows are those of a run with a ratio, nil for any.
	windows []int64
	jitter  bool
}

func (s scale) some(t *rapid.T, label string, from, to int, more int64) int64 {
	return int64(rapid.IntRange(from, to).Draw(t, label))*s.unit + more
}

// circuits are two whose names are as odd as names get.
var circuits = []breaker.Key{
	{Name: "billing", Upstream: "unix//run/a b.sock", Tenant: "50% @ {x}"},
	{Name: "billing", Upstream: "[::1]:80"},
}

var replicas = []string{"aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"}

// arbiter is Memory or the script.
type arbiter interface {
	do(t *rapid.T, c call) answer
	// admits is what a request carries that the circuit admits now.
	admits(circuit int) uint64
	pass(t *rapid.T, milliseconds int64)
}

// memoryArbiter drives Memory.
type memoryArbiter struct {
	clock    *clock.Fake
	store    *breaker.Memory
	random   float64
	settings breaker.Settings
}

func newMemoryArbiter(t *rapid.T, settings breaker.Settings) *memoryArbiter {
	a := &memoryArbiter{clock: clock.NewFake(time.UnixMilli(1_800_000_000_123)), settings: settings}
	a.store = breaker.NewMemory(a.clock, func() float64 { return a.random })
	for _, key := range circuits {
		t.Cleanup(a.store.Watch(key, func(breaker.Record) {}))
	}
	return a
}

func (a *memoryArbiter) pass(_ *rapid.T, ms int64) {
	a.clock.Advance(time.Duration(ms) * time.Millisecond)
}

func (a *memoryArbiter) record(circuit int) breaker.Record {
	records := a.store.Records()
	i := slices.IndexFunc(records, func(r breaker.Record) bool { return r.Key == circuits[circuit] })
	return records[i]
}

func (a *memoryArbiter) admits(circuit int) uint64 { return a.record(circuit).Seq }

func (a *memoryArbiter) do(t *rapid.T, c call) (got answer) {
	key, ctx := circuits[c.circuit], context.Background()
	a.random = c.random
	switch c.op {
	case "fail":
		number := c.name.number*10 + uint64(slices.Index(replicas, c.name.replica))
		a.store.Report(key, breaker.Report{Event: number, Age: time.Duration(c.age) * time.Millisecond, Admitted: c.admitted}, a.settings)
	case "count":
		a.store.Count(key, c.good, a.settings)
	case "acquire":
		g := a.store.Acquire(ctx, key, c.name.number, a.settings)
		switch {
		case g.Probe:
			got.verdict = "granted"
		case g.Closed:
			got.verdict = "closed"
		case a.record(c.circuit).Forced == breaker.ForcedOpen:
			got.verdict, got.wait = "denied", -1
		default:
			got.verdict, got.wait = "denied", g.RetryAfter.Milliseconds()
		}
	case "result":
		a.store.Result(key, c.name.number, c.outcome, a.settings)
	case "force", "reset", "lapse":
		order := breaker.Order{Kind: c.order, TTL: time.Duration(c.ttl) * time.Millisecond}
		require.NoError(t, a.store.Order(ctx, key, order))
	}
	r := a.record(c.circuit)
	got.record = breaker.WireRecord{
		Key: r.Key, State: r.State, Forced: r.Forced, Remaining: r.Remaining, ForcedFor: r.ForcedFor, // to the nanosecond
		Trips: r.Trips, Failures: r.Failures, Reason: r.Reason,
	}
	return got
}

// scriptArbiter drives the script through the link.
type scriptArbiter struct {
	link     *breaker.RedisLink
	client   *redis.Client
	mini     *miniredis.Miniredis // nil: a real server
	settings breaker.Settings
	closedAt [2]uint64
	version  uint64
	moment   int64 // of the real server's clock, when time was last made to pass

	published <-chan miniredis.PubsubMessage
}

const scriptPrefix = "test:{breaker}:"

// scriptServer is a Redis for many runs.
type scriptServer struct {
	client    *redis.Client
	mini      *miniredis.Miniredis
	published chan miniredis.PubsubMessage
}

func miniServer(t testing.TB) *scriptServer {
	t.Helper()
	mini := miniredis.RunT(t)
	s := &scriptServer{mini: mini, client: plainClient(t, mini.Addr()), published: make(chan miniredis.PubsubMessage, 100)}
	subscriber := mini.NewSubscriber()
	subscriber.Subscribe(scriptPrefix + "changes")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range subscriber.Messages() {
			select {
			case s.published <- m:
			default: // the test does not look
			}
		}
	}()
	t.Cleanup(func() {
		subscriber.Close()
		<-done
	})
	return s
}

func realServer(t testing.TB) *scriptServer {
	t.Helper()
	return &scriptServer{client: plainClient(t, redistest.Start(t).Addr())}
}

// plainClient is a client that the test may use beside the link.
func plainClient(t testing.TB, address string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address, Protocol: 2, DisableIdentity: true, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = client.Close() }) // a link may have done so
	return client
}

func (s *scriptServer) arbiter(t require.TestingT, settings breaker.Settings) *scriptArbiter {
	require.NoError(t, s.client.FlushAll(context.Background()).Err())
	a := &scriptArbiter{
		link: breaker.NewRedisLink(s.client, "test"), client: s.client, mini: s.mini, settings: settings, published: s.published,
	}
	for len(s.published) > 0 {
		<-s.published // of a run that failed
	}
	if s.mini != nil {
		s.mini.SetTime(time.UnixMilli(1_800_000_000_123))
		a.moment = 1_800_000_000_123
	} else {
		now, err := s.client.Time(context.Background()).Result()
		require.NoError(t, err)
		a.moment = now.UnixMilli()
	}
	return a
}

func (a *scriptArbiter) admits(circuit int) uint64 { return a.closedAt[circuit] }

// agingScript makes the data older instead of the clock later.
var agingScript = redis.NewScript(`
local prefix, ms, last, width = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local d = ms - (now - last) -- so much has passed by itself
local function num(n) return string.format('%.0f', n) end
for _, key in ipairs(redis.call('KEYS', prefix .. '*')) do
	local kind, ttl = redis.call('TYPE', key).ok, redis.call('PTTL', key)
	if kind == 'zset' then
		local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
		for i = 1, #all, 2 do redis.call('ZADD', key, num(tonumber(all[i + 1]) - d), all[i]) end
	elseif key == prefix .. 'states' then
		local all = redis.call('HGETALL', key)
		for i = 1, #all, 2 do
			local f = {}
			for word in string.gmatch(all[i + 1], '%S+') do f[#f + 1] = word end
			for _, field in ipairs({ 3, 7 }) do
				if tonumber(f[field]) > 0 then f[field] = num(tonumber(f[field]) - d) end
			end
			redis.call('HSET', key, all[i], table.concat(f, ' '))
		end
	elseif string.sub(key, 1, #prefix + 8) == prefix .. 'tallies:' then
		local all = redis.call('HGETALL', key)
		redis.call('DEL', key)
		for i = 1, #all, 2 do
			local w, at, what = string.match(all[i], '^(%d+):(%d+):(%a)$')
			redis.call('HINCRBY', key, w .. ':' .. num(tonumber(at) - math.floor(ms / w)) .. ':' .. what, all[i + 1])
		end
		redis.call('PEXPIRE', key, ttl)
	end
	if ttl >= 0 then redis.call('PEXPIRE', key, ttl - d) end
end
return num(now)
`)

func (a *scriptArbiter) pass(t *rapid.T, ms int64) {
	if a.mini != nil {
		a.moment += ms
		a.mini.SetTime(time.UnixMilli(a.moment))
		a.mini.FastForward(time.Duration(ms) * time.Millisecond)
		return
	}
	moment, err := agingScript.Run(context.Background(), a.client, nil, scriptPrefix, ms, a.moment, a.settings.Window.Milliseconds()/10).Int64()
	require.NoError(t, err)
	a.moment = moment
}

func (a *scriptArbiter) command(c call) breaker.Command {
	s := a.settings
	command := breaker.Command{Op: c.op, ID: breaker.WireWriteID(circuits[c.circuit]), Replica: c.replica, Seen: c.seen, Epoch: "e" + c.replica}
	open := []any{s.Open.Milliseconds(), s.OpenMax.Milliseconds(), s.Jitter, c.random}
	switch c.op {
	case "fail":
		command.Args = slices.Concat([]any{s.Failures, s.Window.Milliseconds()}, open,
			[]any{s.MinReporters, s.MinRatio, c.admitted, c.name.String(), c.age})
	case "count":
		command.Args = []any{s.Window.Milliseconds(), c.good}
	case "acquire":
		command.Args = []any{s.Probes, s.Lease.Milliseconds(), c.name.String()}
	case "result":
		word := []string{breaker.Success: "good", breaker.Failure: "bad", breaker.Ignored: "none"}[c.outcome]
		command.Args = slices.Concat([]any{c.name.String(), word, s.Need}, open)
	case "force":
		command.Args = []any{map[breaker.OrderKind]string{breaker.OrderOpen: "O", breaker.OrderClose: "C", breaker.OrderAuto: "N"}[c.order], c.ttl}
	case "merge":
		command.Args = []any{c.left, s.Open.Milliseconds(), c.trips}
	}
	return command
}

// run sends one command to the script.
func (a *scriptArbiter) run(t require.TestingT, command breaker.Command) breaker.Reply {
	replies, errs := a.link.Run(context.Background(), []breaker.Command{command})
	require.NoError(t, errs[0], command)
	return replies[0]
}

func (a *scriptArbiter) do(t *rapid.T, c call) (got answer) {
	reply := a.run(t, a.command(c))
	require.Len(t, reply.Lines, 1)
	require.NotContains(t, reply.Lines[0], "e+")
	r, err := breaker.WireReadRecord(reply.Lines[0])
	require.NoError(t, err)
	require.Equal(t, circuits[c.circuit], r.Key)
	a.closedAt[c.circuit] = r.ClosedAt
	got = answer{verdict: reply.Verdict, wait: reply.Wait.Milliseconds(), record: r}
	return got
}

// auditScript returns what S13 is about: the time to live of every key of a
// circuit, and the sizes of those that have one.
var auditScript = redis.NewScript(`
local reply = {}
for _, key in ipairs(KEYS) do
	local kind = redis.call('TYPE', key)
	kind = kind.ok or kind
	reply[#reply + 1] = kind == 'none' and 1 or redis.call('PTTL', key)
	reply[#reply + 1] = kind == 'zset' and redis.call('ZCARD', key) or kind == 'hash' and redis.call('HLEN', key) or 0
end
return reply
`)

func (a *scriptArbiter) facts(t *rapid.T, keys []string) (facts []int64) {
	if a.mini == nil {
		facts, err := auditScript.Run(context.Background(), a.client, keys).Int64Slice()
		require.NoError(t, err)
		return facts
	}
	for _, key := range keys { // the same, without the pain of Lua
		ttl, size := int64(1), 0
		if a.mini.Exists(key) {
			ttl = a.mini.TTL(key).Milliseconds()
		}
		switch a.mini.Type(key) {
		case "zset":
			members, err := a.mini.ZMembers(key)
			require.NoError(t, err)
			size = len(members)
		case "hash":
			fields, err := a.mini.HKeys(key)
			require.NoError(t, err)
			size = len(fields)
		}
		facts = append(facts, ttl, int64(size))
	}
	return facts
}

// audit checks that nothing of a circuit is kept for ever, nor without bound.
func (a *scriptArbiter) audit(t *rapid.T, circuit int) {
	keys := a.link.WireKeys(breaker.WireWriteID(circuits[circuit]))[2:]
	facts := a.facts(t, keys)
	s := a.settings
	window, lease := s.Window.Milliseconds(), s.Lease.Milliseconds()
	for i, most := range []struct{ ttl, size int64 }{
		{window + 1000, int64(s.Failures)},
		{lease + 1000, int64(s.Probes)},
		{window + 1000, int64(len(replicas))},
		{window + 2*max(1, window/10), 24},
	} {
		require.GreaterOrEqual(t, facts[2*i], int64(0), "time to live of %s", keys[i])
		require.LessOrEqual(t, facts[2*i], most.ttl, "time to live of %s", keys[i])
		require.LessOrEqual(t, facts[2*i+1], most.size, "size of %s", keys[i])
	}
}

// news checks that every change was published, each as a version that follows
// the one before.
func (a *scriptArbiter) news(t *rapid.T, c call, l *ledger, got answer) {
	for i, why := range l.changes {
		next := max(a.version+1, c.seen+1)
		if a.mini != nil {
			next = max(next, uint64(a.moment))
			select {
			case m := <-a.published:
				r, err := breaker.WireReadRecord(m.Message)
				require.NoError(t, err)
				require.Equal(t, []any{a.version, next, next, why, c.replica}, []any{r.Before, r.Group, r.Version, r.Reason, r.Origin}, m.Message)
				if i == len(l.changes)-1 && c.op != "sync" {
					require.Equal(t, got.record, r, "the reply tells what was published")
				}
			case <-time.After(10 * time.Second):
				require.Fail(t, "not published", "%v %s", c, why)
			}
			a.version = next
		}
	}
	if a.mini != nil {
		require.Equal(t, a.version, got.record.Group)
		require.Empty(t, a.published)
		return
	}
	if len(l.changes) > 0 {
		require.Greater(t, got.record.Group, max(a.version, c.seen), "versions only grow")
		require.Equal(t, got.record.Group, got.record.Version)
	} else {
		require.Equal(t, a.version, got.record.Group)
	}
	a.version = got.record.Group
}

// within runs a property as often as the time allows, unless the command line
// asks for a number of checks. Once it has failed time does not matter, so that
// a small example is found.
func within(limit time.Duration, property func(*rapid.T)) func(*rapid.T) {
	var failed atomic.Bool
	started := time.Now()
	checks := flag.Lookup("rapid.checks")
	patient := checks.Value.String() != checks.DefValue
	return func(t *rapid.T) {
		if time.Since(started) > limit && !failed.Load() && !patient {
			return
		}
		passed := false
		defer func() {
			if !passed {
				failed.Store(true)
			}
		}()
		property(t)
		passed = true
	}
}

func drawSettings(t *rapid.T, s scale, script bool) breaker.Settings {
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	settings := breaker.Settings{
		Failures: rapid.IntRange(1, 5).Draw(t, "failures"),
		Window:   ms(s.some(t, "window", 1, 10, s.window)),
		Open:     ms(s.some(t, "open", 1, 10, s.open)),
		Probes:   rapid.IntRange(1, 3).Draw(t, "probes"),
		Need:     rapid.IntRange(1, 3).Draw(t, "need"),
		Lease:    ms(s.some(t, "lease", 1, 6, s.lease)), MinReporters: 1,
	}
	if rapid.Bool().Draw(t, "back-off") {
		settings.OpenMax = settings.Open + ms(s.some(t, "max", 0, 30, 0))
	}
	if s.jitter && rapid.Bool().Draw(t, "spread") {
		settings.Jitter = rapid.Float64Range(0, 0.5).Draw(t, "jitter")
	}
	if script {
		settings.MinReporters = rapid.IntRange(1, 3).Draw(t, "reporters")
	}
	if rapid.Bool().Draw(t, "with ratio") {
		settings.MinRatio = rapid.SampledFrom([]float64{0.07, 0.1, 0.29, 0.3, 0.5, 0.57, 1}).Draw(t, "ratio")
		if s.windows != nil {
			settings.Window = ms(rapid.SampledFrom(s.windows).Draw(t, "window of the ratio"))
		}
	}
	return settings
}

// run is one random course of events.
type run struct {
	scale    scale
	settings breaker.Settings
	arbiter  arbiter
	script   *scriptArbiter // nil: it is Memory
	ledgers  [2]*ledger
	numbers  uint64
	failures [2][]failure // that were ever reported
	probes   [2][]occurrence
	// admitted are the requests that may still report: by the period that
	// admitted them, as the ledger and as the arbiter knows it.
	admitted [2]map[int]uint64
}

func newRun(s scale, settings breaker.Settings, a arbiter) *run {
	r := &run{scale: s, settings: settings, arbiter: a}
	r.script, _ = a.(*scriptArbiter)
	for i := range r.ledgers {
		r.ledgers[i] = &ledger{settings: settings, coarse: s.coarse, round: math.Floor, leases: map[occurrence]int64{}}
		if r.script == nil {
			r.ledgers[i].round = func(ms float64) float64 { // it counts whole nanoseconds, and as many milliseconds have to pass
				return math.Ceil(math.Floor(ms*1e6) / 1e6)
			}
		}
		r.admitted[i] = map[int]uint64{0: a.admits(i)}
	}
	return r
}

// call has the arbiter and the ledger do the same, and compares.
func (r *run) call(t *rapid.T, c call) {
	c.replica = rapid.SampledFrom(replicas).Draw(t, "replica")
	c.random = rapid.Float64Range(0, 1).Draw(t, "random")
	if r.script == nil {
		c.replica = replicas[0]
	} else if rapid.IntRange(0, 9).Draw(t, "ahead") == 0 {
		c.seen = r.script.version + uint64(rapid.IntRange(0, 1_000_000).Draw(t, "by"))
	}
	if c.op == "fail" {
		c.replica = c.name.replica
	}
	l := r.ledgers[c.circuit]
	asked := c
	if c.op == "fail" {
		asked.admitted = r.admitted[c.circuit][int(c.admitted)]
	}
	got := r.arbiter.do(t, asked)
	verdict, wait := l.apply(c, got)
	if got.verdict != "" {
		require.Equal(t, verdict, got.verdict, "%s", c.op)
		r.near(t, wait, got.wait, "wait")
	}
	r.compare(t, l, got.record)
	if r.script != nil {
		r.script.audit(t, c.circuit)
		r.script.news(t, c, l, got)
		require.Equal(t, l.good, got.record.Good)
		if l.reason != "" {
			require.Equal(t, []any{l.reason, l.origin}, []any{got.record.Reason, got.record.Origin})
		}
	}
	if _, ok := r.admitted[c.circuit][l.period]; !ok {
		r.admitted[c.circuit][l.period] = r.arbiter.admits(c.circuit)
	}
}

// near compares milliseconds. A real clock does not stand still meanwhile.
func (r *run) near(t *rapid.T, want, got int64, what string) {
	tolerance := 0.0
	switch {
	case r.script != nil && r.script.mini == nil:
		tolerance = 3000
	case r.settings.Jitter > 0:
		tolerance = 1
	}
	require.InDelta(t, want, got, tolerance, what)
}

func (r *run) compare(t *rapid.T, l *ledger, got breaker.WireRecord) {
	require.Equal(t, []any{l.state, l.forced, l.trips}, []any{got.State, got.Forced, got.Trips}, "state, forced, trips")
	require.Equal(t, l.failures, got.Failures)
	if l.state == breaker.Open {
		r.near(t, max(0, l.due-l.now), got.Remaining.Milliseconds(), "remaining")
	} else {
		require.Zero(t, got.Remaining)
	}
	switch {
	case l.forced == breaker.NotForced || l.ends == 0:
		require.Zero(t, got.ForcedFor)
	default:
		require.Positive(t, got.ForcedFor, "nothing left is not for ever")
		r.near(t, max(0, l.ends-l.now), got.ForcedFor.Milliseconds(), "rest of the order")
	}
}

func (r *run) actions() map[string]func(*rapid.T) {
	which := func(t *rapid.T) int { return rapid.IntRange(0, 3).Draw(t, "circuit") / 3 } // one of them more often
	actions := map[string]func(*rapid.T){
		"time passes":        func(t *rapid.T) { r.pass(t, r.scale.some(t, "units", 1, 12, 0)) },
		"little time passes": func(t *rapid.T) { r.pass(t, r.scale.some(t, "units", 1, 3, 0)) },
		"many failures": func(t *rapid.T) {
			i := which(t)
			for n := range r.settings.Failures {
				r.numbers++
				name := occurrence{replica: replicas[0], number: r.numbers}
				if r.script != nil {
					name.replica = replicas[n%len(replicas)]
				}
				r.failures[i] = append(r.failures[i], failure{name: name, at: r.ledgers[i].now})
				r.call(t, call{op: "fail", circuit: i, name: name, admitted: uint64(r.ledgers[i].period)})
			}
		},
		"the open period ends": func(t *rapid.T) {
			l := r.ledgers[which(t)]
			if l.state != breaker.Open || l.now >= l.due {
				t.Skip("not open")
			}
			r.passExactly(t, l.due-l.now)
		},
		"a failure leaves the window": func(t *rapid.T) {
			l := r.ledgers[which(t)]
			if len(l.log) == 0 {
				t.Skip("none")
			}
			f := rapid.SampledFrom(l.log).Draw(t, "failure")
			if left := f.at + r.settings.Window.Milliseconds() - l.now; left > 0 {
				r.passExactly(t, left)
			}
		},
		"an order ends": func(t *rapid.T) {
			l := r.ledgers[which(t)]
			if l.forced == breaker.NotForced || l.ends <= l.now {
				t.Skip("none that ends")
			}
			r.passExactly(t, l.ends-l.now)
		},
		"nobody asks for long": func(t *rapid.T) {
			rarely(t)
			l := r.ledgers[which(t)]
			if left := l.due + 10*l.dur - l.now; l.state != breaker.Closed && left > 0 {
				r.passExactly(t, left)
			}
		},
		"a lease ends": func(t *rapid.T) {
			first := int64(math.MaxInt64)
			for _, l := range r.ledgers {
				for _, ends := range l.leases {
					if ends > l.now {
						first = min(first, ends-l.now)
					}
				}
			}
			if first == math.MaxInt64 {
				t.Skip("none")
			}
			r.passExactly(t, first)
		},
		"failure": func(t *rapid.T) {
			i := which(t)
			l := r.ledgers[i]
			c := call{op: "fail", circuit: i, age: r.scale.some(t, "age", 0, 12, 0), admitted: uint64(l.period)}
			c.age *= int64(rapid.IntRange(0, 1).Draw(t, "late"))
			if rapid.IntRange(0, 4).Draw(t, "from before") == 0 {
				c.admitted = uint64(rapid.IntRange(0, l.period).Draw(t, "period"))
			}
			r.numbers++
			c.name = occurrence{replica: replicas[0], number: r.numbers}
			if r.script != nil {
				c.name.replica = rapid.SampledFrom(replicas).Draw(t, "reporter")
			}
			if known := r.failures[i]; len(known) > 0 && rapid.IntRange(0, 4).Draw(t, "again") == 0 {
				f := rapid.SampledFrom(known).Draw(t, "event")
				c.name, c.age = f.name, l.now-f.at
				// A command that is obeyed twice says the same again although time has passed.
				plain := r.settings.MinRatio == 0 && r.settings.MinReporters == 1
				if plain && c.age < r.settings.Window.Milliseconds() && slices.Contains(l.log, f) && rapid.Bool().Draw(t, "same command") {
					c.age = 0
				}
				r.call(t, c)
				return
			}
			r.failures[i] = append(r.failures[i], failure{name: c.name, at: l.now - c.age})
			r.call(t, c)
		},
		"successes": func(t *rapid.T) {
			if r.settings.MinRatio == 0 {
				t.Skip("not counted")
			}
			r.call(t, call{op: "count", circuit: which(t), good: int64(rapid.IntRange(1, 20).Draw(t, "how many"))})
		},
		"request": func(t *rapid.T) {
			i := which(t)
			r.numbers++
			c := call{op: "acquire", circuit: i, name: occurrence{replica: replicas[0], number: r.numbers}}
			if known := r.probes[i]; r.script != nil && len(known) > 0 && rapid.IntRange(0, 4).Draw(t, "again") == 0 {
				c.name = rapid.SampledFrom(known).Draw(t, "token")
			}
			r.call(t, c)
			if _, granted := r.ledgers[i].leases[c.name]; granted || rapid.IntRange(0, 9).Draw(t, "all the same") == 0 {
				r.probes[i] = append(r.probes[i], c.name)
			}
		},
		"result": func(t *rapid.T) {
			i := which(t)
			if len(r.probes[i]) == 0 {
				t.Skip("none")
			}
			recent := r.probes[i][max(0, len(r.probes[i])-3):]
			outcome := rapid.SampledFrom([]breaker.Outcome{breaker.Success, breaker.Success, breaker.Failure, breaker.Ignored}).Draw(t, "outcome")
			r.call(t, call{op: "result", circuit: i, name: rapid.SampledFrom(recent).Draw(t, "token"), outcome: outcome})
		},
		"order": func(t *rapid.T) {
			rarely(t)
			c := call{op: "force", circuit: which(t)}
			c.order = rapid.SampledFrom([]breaker.OrderKind{
				breaker.OrderOpen, breaker.OrderClose, breaker.OrderAuto, breaker.OrderReset, breaker.WireLapse,
			}).Draw(t, "order")
			switch c.order {
			case breaker.OrderReset:
				c.op = "reset"
			case breaker.WireLapse:
				c.op = "lapse"
			case breaker.OrderOpen, breaker.OrderClose:
				if rapid.Bool().Draw(t, "limited") {
					c.ttl = r.scale.some(t, "ttl", 1, 10, r.scale.lease)
				}
			}
			r.call(t, c)
		},
	}
	actions["another request"], actions["another result"] = actions["request"], actions["result"]
	if r.script != nil {
		actions["merge"], actions["sync"], actions["the scripts are lost"] = r.merge, r.sync, r.loseScripts
	}
	return actions
}

// rarely skips most of the times.
func rarely(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "not") > 0 {
		t.Skip("this is rare")
	}
}

// passExactly makes so much time pass as is left of something: on a clock that
// obeys to the very moment of its end.
func (r *run) passExactly(t *rapid.T, left int64) {
	r.pass(t, (left+r.scale.unit-1)/r.scale.unit*r.scale.unit)
}

func (r *run) pass(t *rapid.T, ms int64) {
	r.arbiter.pass(t, ms)
	for _, l := range r.ledgers {
		l.now += ms
	}
}

func (r *run) merge(t *rapid.T) {
	rarely(t)
	c := call{op: "merge", circuit: rapid.IntRange(0, 1).Draw(t, "circuit"), left: r.scale.some(t, "left", 0, 12, r.scale.left)}
	c.trips = rapid.IntRange(0, 4).Draw(t, "trips")
	if r.script.mini != nil {
		c.left += int64(rapid.SampledFrom([]int{0, 0, mergeSlack, mergeSlack + 1}).Draw(t, "more"))
	} else if l := r.ledgers[c.circuit]; l.state == breaker.Open && l.now+c.left == l.due {
		t.Skip("a real clock is not exact enough")
	}
	r.call(t, c)
}

func (r *run) loseScripts(t *rapid.T) {
	rarely(t)
	require.NoError(t, r.script.client.ScriptFlush(context.Background()).Err())
}

// sync compares all that the arbiter knows, after it has closed what is abandoned.
func (r *run) sync(t *rapid.T) {
	c := call{op: "sync", replica: rapid.SampledFrom(replicas).Draw(t, "replica")}
	both := &ledger{} // that of what is published
	for i, l := range r.ledgers {
		if l.abandoned() {
			l.close(reasonForgotten, c.replica)
			both.commit(reasonForgotten, c.replica)
			defer func() { r.admitted[i][l.period] = r.arbiter.admits(i) }()
		}
	}
	reply := r.script.run(t, breaker.Command{Op: c.op, Replica: c.replica, Epoch: "ex"})
	snap, err := breaker.WireReadSnapshot(reply.Lines)
	require.NoError(t, err)
	r.script.news(t, c, both, answer{record: breaker.WireRecord{Group: snap.Version, Version: snap.Version}})
	for i, l := range r.ledgers {
		got, known := snap.Records[circuits[i]]
		if l.reason == reasonForgotten {
			r.script.closedAt[i] = got.ClosedAt
		}
		require.Equal(t, r.script.closedAt[i], got.ClosedAt)
		require.Equal(t, known, l.period > 0 || l.state != breaker.Closed)
		if l.plainlyClosed() { // then all that is known is how it was closed
			l = &ledger{state: breaker.Closed, reason: l.reason, origin: l.origin, period: l.period}
		}
		r.compare(t, l, got)
		if known {
			require.Equal(t, []any{l.reason, l.origin}, []any{got.Reason, got.Origin})
		}
	}
}

// exact is the scale for a clock that obeys: all moments are multiples of half a
// second, so that they often meet.
var exact = scale{unit: 500, jitter: true}

// loose is the scale for a real clock, which is made to jump by minutes: no two
// moments are less than 4 s apart.
var loose = scale{
	unit: 60_000, window: 30_000, open: 7_000, lease: 30_000, left: 20_000, coarse: 1, windows: []int64{30_000, 150_000},
}

func TestMemoryEqualsTheLedger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, within(time.Second, func(t *rapid.T) {
		settings := drawSettings(t, exact, false)
		r := newRun(exact, settings, newMemoryArbiter(t, settings))
		t.Repeat(r.actions())
	}))
}

func TestTheScriptOnMiniredisEqualsTheLedger(t *testing.T) {
	t.Parallel()
	server := miniServer(t)
	rapid.Check(t, within(3*time.Second, func(t *rapid.T) {
		settings := drawSettings(t, exact, true)
		r := newRun(exact, settings, server.arbiter(t, settings))
		t.Repeat(r.actions())
	}))
}

func TestTheScriptOnRedisEqualsTheLedger(t *testing.T) {
	t.Parallel()
	server := realServer(t)
	rapid.Check(t, within(3*time.Second, func(t *rapid.T) {
		settings := drawSettings(t, loose, true)
		r := newRun(loose, settings, server.arbiter(t, settings))
		t.Repeat(r.actions())
	}))
}

// onBothServers runs a test of the script on miniredis, whose clock obeys, and
// on Redis, where the data ages instead.
func onBothServers(t *testing.T, settings breaker.Settings, test func(t *testing.T, a *ruleArbiter)) {
	t.Helper()
	for name, start := range map[string]func(testing.TB) *scriptServer{"miniredis": miniServer, "redis": realServer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &ruleArbiter{start(t).arbiter(t, settings)})
		})
	}
}

// ruleArbiter is the script for a test that is written down step by step.
type ruleArbiter struct{ *scriptArbiter }

// does sends a call by the first replica, if it names none, and returns the verdict.
func (a *ruleArbiter) does(t *testing.T, c call) string {
	t.Helper()
	verdict, _ := a.asks(t, c)
	return verdict
}

func (a *ruleArbiter) asks(t *testing.T, c call) (string, breaker.WireRecord) {
	t.Helper()
	if c.replica == "" {
		c.replica = replicas[0]
	}
	if c.name.replica == "" {
		c.name.replica = c.replica
	}
	reply := a.run(t, a.command(c))
	r, err := breaker.WireReadRecord(reply.Lines[0])
	require.NoError(t, err)
	a.closedAt[c.circuit] = r.ClosedAt
	return reply.Verdict, r
}

func (a *ruleArbiter) syncs(t *testing.T) breaker.WireSnapshot {
	t.Helper()
	snap, err := breaker.WireReadSnapshot(a.run(t, breaker.Command{Op: "sync", Replica: replicas[1], Epoch: "ex"}).Lines)
	require.NoError(t, err)
	return snap
}

func (a *ruleArbiter) fails(t *testing.T, number uint64) string {
	t.Helper()
	return a.does(t, call{op: "fail", name: occurrence{number: number}, admitted: a.closedAt[0]})
}

// trips opens the first circuit.
func (a *ruleArbiter) trips(t *testing.T) {
	t.Helper()
	for n := range a.settings.Failures {
		a.fails(t, uint64(1000+n))
	}
	require.Equal(t, breaker.Open, a.syncs(t).Records[circuits[0]].State)
}

func (a *ruleArbiter) asksToProbe(t *testing.T, number uint64) string {
	t.Helper()
	return a.does(t, call{op: "acquire", name: occurrence{number: number}})
}

// passes makes time pass, or come back.
func (a *ruleArbiter) passes(t *testing.T, d time.Duration) {
	t.Helper()
	if a.mini != nil {
		a.moment += d.Milliseconds()
		a.mini.SetTime(time.UnixMilli(a.moment))
		if d > 0 {
			a.mini.FastForward(d)
			return
		}
		for _, key := range a.mini.Keys() { // Redis keeps points in time
			if ttl := a.mini.TTL(key); ttl > 0 {
				a.mini.SetTTL(key, ttl-d)
			}
		}
		return
	}
	moment, err := agingScript.Run(t.Context(), a.client, nil, scriptPrefix, d.Milliseconds(), a.moment, a.settings.Window.Milliseconds()/10).Int64()
	require.NoError(t, err)
	a.moment = moment
}

const late = time.Hour // by how much the clock is set back

func TestAClockThatIsSetBackKeepsNoCircuitOpenForLonger(t *testing.T) {
	t.Parallel()
	onBothServers(t, breaker.DefaultSettings(), func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		a.passes(t, 100*time.Second)
		a.passes(t, -late)
		require.InDelta(t, 120, a.syncs(t).Records[circuits[0]].Remaining.Seconds(), 10)
		require.Equal(t, "denied", a.asksToProbe(t, 1))
		a.passes(t, 121*time.Second)
		require.Equal(t, "granted", a.asksToProbe(t, 2), "however often somebody has asked")
	})
}

func TestAClockThatIsSetBackForgetsFailuresOfTheFuture(t *testing.T) {
	t.Parallel()
	onBothServers(t, breaker.DefaultSettings(), func(t *testing.T, a *ruleArbiter) {
		require.Equal(t, "counted", a.fails(t, 1))
		require.Equal(t, "counted", a.fails(t, 2))
		a.passes(t, -late)
		require.Equal(t, "counted", a.fails(t, 3))
		require.Equal(t, "counted", a.fails(t, 4))
		require.Equal(t, "opened", a.fails(t, 5))
	})
}

func TestAClockThatIsSetBackForgetsReportersOfTheFuture(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.MinReporters = 2
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		require.Equal(t, "counted", a.does(t, call{op: "fail", replica: replicas[1], name: occurrence{number: 1}}))
		a.passes(t, -late)
		for n := range uint64(5) {
			require.Equal(t, "counted", a.fails(t, n), "nobody else has seen a failure since")
		}
	})
}

func TestAClockThatIsSetBackLetsNoLostProbeBlockTheCircuit(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		a.passes(t, settings.Open+time.Second)
		require.Equal(t, "granted", a.asksToProbe(t, 1))
		a.passes(t, -late)
		require.Equal(t, "denied", a.asksToProbe(t, 2))
		a.passes(t, settings.Lease+time.Second)
		a.asksToProbe(t, 3)
		a.passes(t, settings.Lease+time.Second)
		require.Equal(t, "granted", a.asksToProbe(t, 4), "after two leases at the most")
	})
}

func TestAClockThatIsSetBackLetsNoOrderHoldForLonger(t *testing.T) {
	t.Parallel()
	onBothServers(t, breaker.DefaultSettings(), func(t *testing.T, a *ruleArbiter) {
		require.Equal(t, "forced", a.does(t, call{op: "force", order: breaker.OrderOpen, ttl: 60_000}))
		a.passes(t, -late)
		_, r := a.asks(t, call{op: "lapse"})
		require.Equal(t, breaker.ForcedOpen, r.Forced)
		require.LessOrEqual(t, r.ForcedFor, time.Minute)
		a.passes(t, 61*time.Second)
		a.does(t, call{op: "lapse"})
		a.passes(t, 61*time.Second)
		_, r = a.asks(t, call{op: "lapse"})
		require.Equal(t, breaker.NotForced, r.Forced)
	})
}

func TestACircuitWithAProbeUnderWayIsNotForgotten(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Open = time.Second
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		a.passes(t, 2*time.Second)
		require.Equal(t, "granted", a.asksToProbe(t, 1))
		a.passes(t, 15*time.Second) // of a lease of 20 s
		require.Equal(t, breaker.HalfOpen, a.syncs(t).Records[circuits[0]].State)
		require.Equal(t, "opened", a.does(t, call{op: "result", name: occurrence{number: 1}, outcome: breaker.Failure}))
	})
}

func TestForgettingACircuitIsAChangeLikeAnyOther(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Open = time.Second
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		before := a.syncs(t)
		require.Equal(t, breaker.Open, before.Records[circuits[0]].State)
		a.passes(t, 24*time.Hour)
		a.syncs(t)
		after := a.syncs(t)
		if r := after.Records[circuits[0]]; r.State == breaker.Closed {
			require.Greater(t, after.Version, before.Version, "or no replica that has a copy ever hears of it")
			require.Equal(t, after.Version, r.ClosedAt)
		}
	})
}

func TestALeaseLastsAsLongAsItsHolderWasTold(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Probes = 2
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		a.passes(t, settings.Open+time.Second)
		a.settings.Lease = time.Minute
		require.Equal(t, "granted", a.asksToProbe(t, 1))
		a.settings.Lease = time.Second // another replica has another configuration
		require.Equal(t, "granted", a.asksToProbe(t, 2))
		a.passes(t, 10*time.Second)
		require.Equal(t, "closed", a.does(t, call{op: "result", name: occurrence{number: 1}, outcome: breaker.Success}))
	})
}

func TestALateReportMakesNoReporterForgotten(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.MinReporters = 2
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		reports := func(replica int, number uint64, age time.Duration) string {
			return a.does(t, call{op: "fail", replica: replicas[replica], name: occurrence{number: number}, age: age.Milliseconds()})
		}
		require.Equal(t, "counted", reports(1, 1, 0))
		require.Equal(t, "counted", reports(1, 2, 50*time.Second))
		a.passes(t, 30*time.Second)
		require.Equal(t, "counted", reports(0, 1, 0))
		require.Equal(t, "opened", reports(0, 2, 0), "the other has seen one half a minute ago")
	})
}

func TestAReporterIsForgottenWithItsFailures(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.MinReporters = 2
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		require.Equal(t, "counted", a.does(t, call{op: "fail", replica: replicas[1], name: occurrence{number: 1}}))
		a.passes(t, 35*time.Second)
		require.Equal(t, "counted", a.fails(t, 1))
		a.passes(t, 30*time.Second)
		for n := range uint64(5) {
			require.Equal(t, "counted", a.fails(t, 10+n))
		}
	})
}

func TestAClosingForgetsWhoHasReported(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.MinReporters = 2
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		require.Equal(t, "counted", a.does(t, call{op: "fail", replica: replicas[1], name: occurrence{number: 1}}))
		require.Equal(t, "closed", a.does(t, call{op: "reset"}))
		for n := range uint64(5) {
			require.Equal(t, "counted", a.fails(t, n))
		}
	})
}

// A client may send a command again that was obeyed.
func TestACommandThatIsObeyedTwiceIsOneFailureOfTheFirstTime(t *testing.T) {
	t.Parallel()
	onBothServers(t, breaker.DefaultSettings(), func(t *testing.T, a *ruleArbiter) {
		for range 4 {
			require.Equal(t, "counted", a.fails(t, 1))
			a.passes(t, 10*time.Second)
		}
		a.passes(t, 21*time.Second)
		require.Equal(t, "counted", a.fails(t, 2))
		require.Equal(t, "counted", a.fails(t, 3), "the first has left the window")
		require.Equal(t, "opened", a.fails(t, 4))
	})
}

func TestATallyKnowsTheWholeWindowAndNotMuchMore(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Failures, settings.MinRatio = 1, 0.5
	for name, c := range map[string]struct {
		age  time.Duration
		want string
	}{
		"at the window's end":  {60 * time.Second, "counted"},
		"a slice and more ago": {67 * time.Second, "opened"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
				a.does(t, call{op: "count", good: 2})
				a.passes(t, c.age)
				require.Equal(t, c.want, a.fails(t, 1))
			})
		})
	}
}

func TestAFailureIsTalliedOnce(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Failures, settings.MinRatio = 1, 0.5
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		a.does(t, call{op: "count", good: 3})
		for range 10 {
			require.Equal(t, "counted", a.fails(t, 1))
		}
		require.Equal(t, "counted", a.fails(t, 2))
		require.Equal(t, "opened", a.fails(t, 3), "3 of 6")
	})
}

// A reply can be the first that a replica hears of a closing.
func TestAClosedCircuitsRecordTellsHowItWasClosed(t *testing.T) {
	t.Parallel()
	onBothServers(t, breaker.DefaultSettings(), func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		a.passes(t, 121*time.Second)
		require.Equal(t, "granted", a.asksToProbe(t, 1))
		_, closed := a.asks(t, call{op: "result", name: occurrence{number: 1}, outcome: breaker.Success})
		require.Equal(t, breaker.ReasonProbeSucceeded, closed.Reason)
		verdict, r := a.asks(t, call{op: "acquire", replica: replicas[1], name: occurrence{number: 2}})
		require.Equal(t, "closed", verdict)
		require.Equal(t, closed.Version, r.Version)
		require.Equal(t, closed.Reason, r.Reason, "the same version is the same record")
		require.Equal(t, closed.Origin, r.Origin)
	})
}

func TestAProbeThatAsksAgainHasItsLeaseAlready(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.Probes = 2
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		a.trips(t)
		a.passes(t, 121*time.Second)
		for range 3 {
			require.Equal(t, "granted", a.asksToProbe(t, 1))
		}
		require.Equal(t, "granted", a.asksToProbe(t, 2))
		require.Equal(t, "denied", a.asksToProbe(t, 3))
		require.Equal(t, "granted", a.asksToProbe(t, 1))
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, settings)
		b.trip(t)
		b.clock.Advance(settings.Open)
		asks := func(token uint64) bool { return b.store.Acquire(t.Context(), b.Key(), token, settings).Probe }
		for range 3 {
			require.True(t, asks(1))
		}
		require.True(t, asks(2))
		require.False(t, asks(3))
		require.True(t, asks(1))
	})
}

func TestReplicasWithDifferentWindowsDoNotSpoilEachOthersTally(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.MinRatio = 0.5
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		require.Equal(t, "counted", a.does(t, call{op: "count", good: 1000}))
		a.settings.Window = 10 * time.Second
		require.Equal(t, "counted", a.does(t, call{op: "count", good: 10}))
		a.settings.Window = time.Minute
		for n := range uint64(5) {
			require.Equal(t, "counted", a.fails(t, n), "1,000 went well")
		}
	})
}

func TestAClosingIsForgottenWhenNoRequestFromBeforeCanBeUnderWay(t *testing.T) {
	t.Parallel()
	onBothServers(t, breaker.DefaultSettings(), func(t *testing.T, a *ruleArbiter) {
		ctx, meta := t.Context(), scriptPrefix+"meta"
		now := a.moment
		young := strconv.FormatInt(now-3_000_000, 10) + " aaaaaaaaaaaa reset"
		old := strconv.FormatInt(now-3_700_000, 10) + " aaaaaaaaaaaa probe_succeeded"
		closings := map[string]any{}
		for n := range 500 {
			closings[fmt.Sprintf("c:billing@young-%d:80", n)] = young
			closings[fmt.Sprintf("c:billing@old-%d:80", n)] = old
		}
		require.NoError(t, a.client.HSet(ctx, meta, closings).Err())
		count := func() int64 {
			n, err := a.client.HLen(ctx, meta).Result()
			require.NoError(t, err)
			return n
		}
		for tries := 0; count() > 600; tries++ {
			require.Less(t, tries, 2000)
			require.Equal(t, "closed", a.does(t, call{op: "reset"}))
			if a.mini != nil {
				a.moment++
				a.mini.SetTime(time.UnixMilli(a.moment))
			}
		}
		require.Equal(t, int64(500+1+2), count(), "the young, this one, epoch and version")
		snap := a.syncs(t)
		require.Len(t, snap.Records, 501)
		require.Equal(t, breaker.ReasonReset, snap.Records[circuits[0]].Reason)

		for range 200 { // fewer than a thousand stay, however old
			require.NoError(t, a.client.HSet(ctx, meta, "c:billing@older:80", old).Err())
			a.does(t, call{op: "reset"})
		}
		require.Equal(t, int64(500+1+2+1), count())
	})
}

// TestNoNumberIsStoredInexactly looks at everything that all operations leave
// behind: Lua likes to write 1.79e+12.
func TestNoNumberIsStoredInexactly(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	settings.MinReporters, settings.MinRatio, settings.OpenMax, settings.Jitter = 2, 0.01, time.Hour, 0.1
	onBothServers(t, settings, func(t *testing.T, a *ruleArbiter) {
		b := replicas[1]
		look := func() (text string) {
			ctx := context.Background()
			keys, err := a.client.Keys(ctx, "*").Result()
			require.NoError(t, err)
			for _, key := range keys {
				require.True(t, strings.HasPrefix(key, scriptPrefix), key)
				switch kind := a.client.Type(ctx, key).Val(); kind {
				case "zset":
					all, err := a.client.Do(ctx, "ZRANGE", key, 0, -1, "WITHSCORES").StringSlice()
					require.NoError(t, err)
					text += fmt.Sprintln(key, all)
				case "hash":
					text += fmt.Sprintln(key, a.client.HGetAll(ctx, key).Val())
				default:
					require.Fail(t, "an unexpected key", "%s is a %s", key, kind)
				}
			}
			require.NotContains(t, text, "e+")
			require.NotContains(t, text, "inf")
			require.NotContains(t, text, "nan")
			return text
		}
		require.Equal(t, "counted", a.does(t, call{op: "count", good: 1 << 40}))
		require.Contains(t, look(), ":g:1099511627776")
		require.Equal(t, "forced", a.does(t, call{op: "force", order: breaker.OrderOpen, ttl: breaker.WireMaxMillis}))
		look()
		require.Equal(t, "closed", a.does(t, call{op: "reset"}))
		require.Equal(t, "counted", a.fails(t, 1))
		require.Equal(t, "counted", a.fails(t, 2))
		look()
		require.Equal(t, "opened", a.does(t, call{op: "fail", replica: b, name: occurrence{number: 1}, admitted: a.closedAt[0]}))
		look()
		a.passes(t, 3*time.Minute)
		require.Equal(t, "granted", a.asksToProbe(t, 1))
		look()
		require.Equal(t, "opened", a.does(t, call{op: "merge", circuit: 1, left: breaker.WireMaxMillis, trips: 30}))
		look()
		_, r := a.asks(t, call{op: "lapse", circuit: 1, seen: 1 << 52})
		require.Equal(t, 30, r.Trips)
		_, r = a.asks(t, call{op: "reset", circuit: 1, seen: 1 << 52})
		require.Equal(t, uint64(1<<52+1), r.Version)
		look()
		a.syncs(t)
	})
}

// slot is what Redis Cluster makes of a key.
func slot(key string) uint16 {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for _, b := range []byte(key) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}

func TestAllKeysOfALinkAreInOneSlot(t *testing.T) {
	t.Parallel()
	require.Equal(t, uint16(12739), slot("123456789"), "the example of the cluster's specification")
	require.Equal(t, slot("a"), slot("{a}b{c}"))
	for _, namespace := range []string{"prod", "a:b", "_-.:", "0"} {
		link := breaker.NewRedisLink(redis.NewClient(&redis.Options{}), namespace)
		for _, key := range []breaker.Key{
			{Name: "billing", Upstream: "10.0.0.1:80"},
			{Name: "{x}", Upstream: "{y}"},
			{Name: "b", Upstream: "}{", Tenant: "{}"},
			{Name: "b", Upstream: "{a", Tenant: "b}"},
			{Name: "b", Upstream: "u", Tenant: "{breaker}x{y}"},
			{},
		} {
			keys := link.WireKeys(breaker.WireWriteID(key))
			require.Len(t, keys, 6)
			for _, k := range append(keys, link.WireChannel()) {
				require.True(t, strings.HasPrefix(k, namespace+":"), k)
				require.Equal(t, slot("breaker"), slot(k), k)
			}
		}
		require.NoError(t, link.Close())
	}
}
