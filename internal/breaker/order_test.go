package breaker_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

// obey gives an order that must be taken.
func obey(t *testing.T, store breaker.Store, b *breaker.Breaker, kind breaker.OrderKind, ttl time.Duration) {
	t.Helper()
	require.NoError(t, store.Order(t.Context(), b.Key(), breaker.Order{Kind: kind, TTL: ttl}))
}

func TestAnOrderLapsesAtTheNextUse(t *testing.T) {
	t.Parallel()
	for kind, forced := range map[breaker.OrderKind]breaker.Forced{
		breaker.OrderOpen: breaker.ForcedOpen, breaker.OrderClose: breaker.ForcedClosed,
	} {
		b := newBench(t, breaker.DefaultSettings())
		obey(t, b.store, b.Breaker, kind, time.Hour) // by a clock that stands still
		require.Equal(t, forced, b.Record().Forced)
		require.Equal(t, time.Hour, b.Record().ForcedFor)
		require.Equal(t, forced == breaker.ForcedClosed, b.send(t, breaker.Failure))
		b.clock.Advance(59 * time.Minute)
		require.Equal(t, time.Minute, b.Record().ForcedFor)
		for range 5 {
			require.Equal(t, forced == breaker.ForcedClosed, b.send(t, breaker.Failure))
		}
		if forced == breaker.ForcedOpen {
			p, ok := b.Acquire(t.Context())
			require.False(t, ok)
			require.Equal(t, time.Minute, p.RetryAfter())
		}
		b.clock.Advance(time.Minute)
		outcome := breaker.Success // under an order to close it would be nothing to tell the store
		if forced == breaker.ForcedClosed {
			outcome = breaker.Failure
		}
		require.True(t, b.send(t, outcome), "at the very moment")
		r := b.Record()
		require.Equal(t, breaker.NotForced, r.Forced)
		require.Equal(t, breaker.ReasonOrderOver, r.Reason)
		require.Zero(t, r.ForcedFor)
		b.trip(t) // by as many as ever: what the order admitted does not count
	}
}

func TestANewOrderReplacesTheOneBefore(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	obey(t, b.store, b.Breaker, breaker.OrderOpen, time.Minute)
	obey(t, b.store, b.Breaker, breaker.OrderOpen, time.Hour)
	b.clock.Advance(2 * time.Minute)
	require.False(t, b.send(t, breaker.Success))
	require.Equal(t, 58*time.Minute, b.Record().ForcedFor)
	obey(t, b.store, b.Breaker, breaker.OrderOpen, 0)
	require.Zero(t, b.Record().ForcedFor)
	b.clock.Advance(1000 * time.Hour)
	require.False(t, b.send(t, breaker.Success), "without an end")
	seen := len(b.seen())
	obey(t, b.store, b.Breaker, breaker.OrderOpen, 0)
	require.Len(t, b.seen(), seen, "the same again is no change")
	obey(t, b.store, b.Breaker, breaker.OrderClose, time.Minute)
	require.True(t, b.send(t, breaker.Success))
	obey(t, b.store, b.Breaker, breaker.OrderAuto, 0)
	require.Equal(t, breaker.NotForced, b.Record().Forced)
	obey(t, b.store, b.Breaker, breaker.OrderAuto, 0)
	b.clock.Advance(time.Hour)
	require.True(t, b.send(t, breaker.Success))
	require.Equal(t, breaker.ReasonForced, b.Record().Reason, "an order that was lifted does not end once more")
}

func TestTheReasonOfAnOrderIsKeptAsLongAsItHolds(t *testing.T) {
	t.Parallel()
	b := newBench(t, breaker.DefaultSettings())
	give := func(kind breaker.OrderKind, reason string) (changed bool) {
		t.Helper()
		before := b.Record().Seq
		require.NoError(t, b.store.Order(t.Context(), b.Key(), breaker.Order{Kind: kind, Reason: reason}))
		return b.Record().Seq != before
	}
	require.True(t, give(breaker.OrderOpen, "provider\nmaintenance"))
	require.Equal(t, "provider maintenance", b.Record().OrderReason)
	require.Equal(t, breaker.ReasonForced, b.Record().Reason)
	require.False(t, give(breaker.OrderOpen, "provider maintenance"), "the same again")
	require.False(t, give(breaker.OrderOpen, ""), "no other reason is no change")
	require.True(t, give(breaker.OrderOpen, "and longer"))
	require.Equal(t, "and longer", b.Record().OrderReason)
	require.True(t, give(breaker.OrderClose, ""))
	require.Empty(t, b.Record().OrderReason)
	for _, lift := range []breaker.OrderKind{breaker.OrderAuto, breaker.OrderReset} {
		give(breaker.OrderOpen, "again")
		require.True(t, give(lift, "done"))
		require.Empty(t, b.Record().OrderReason)
	}
}

// Requests that pass look at no clock, so somebody else has to.
func TestAnOrderEndsByItselfAlthoughRequestsOnlyPass(t *testing.T) {
	t.Parallel()
	settings := breaker.DefaultSettings()
	for name, start := range map[string]func() breaker.Store{
		"memory":               func() breaker.Store { return breaker.NewMemory(clock.System{}, nil) },
		"shared without redis": func() breaker.Store { return breaker.NewShared(clock.System{}) },
	} {
		for _, kind := range []breaker.OrderKind{breaker.OrderOpen, breaker.OrderClose} {
			store, heard := start(), make(chan breaker.Transition, 100)
			registry := breaker.New(store, clock.System{})
			group, err := registry.Join("x", &breaker.Member{Settings: &settings, Listener: func(tr breaker.Transition) { heard <- tr }})
			require.NoError(t, err)
			b := group.Breaker("u", "")
			obey(t, store, b, kind, 100*time.Millisecond)
			require.NotEqual(t, breaker.NotForced, b.Record().Forced)
			eventually(t, func() bool { return b.Record().Forced == breaker.NotForced }, name)
			require.True(t, b.Passes())
			require.False(t, group.Refusing())
			<-heard
			over := <-heard
			require.Equal(t, breaker.ReasonOrderOver, over.Reason)
			require.True(t, over.Local)
			require.Empty(t, heard)
		}
	}
}

// localOnes takes what was heard so far and returns those of the reason that the
// replica has to announce.
func localOnes(reason breaker.Reason, replicas ...*replica) (local []breaker.Transition) {
	for _, r := range replicas {
		for len(r.heard) > 0 {
			if tr := <-r.heard; tr.Local && tr.Reason == reason {
				local = append(local, tr)
			}
		}
	}
	return local
}

// cut is a line to a server that a test can cut: the replica behind it is alone
// while the others go on.
type cut struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	off      bool
	lines    []net.Conn
}

func newCut(t *testing.T, target string) *cut {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cut{listener: listener, target: target}
	var work sync.WaitGroup
	work.Go(func() { c.serve(&work) })
	t.Cleanup(func() {
		_ = listener.Close() // nobody is left to tell
		c.set(true)
		work.Wait()
	})
	return c
}

func (c *cut) serve(work *sync.WaitGroup) {
	for {
		in, err := c.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.target)
		if err != nil || !c.take(in, out) {
			_ = in.Close() // the caller sees it
			continue
		}
		for _, ends := range [][2]net.Conn{{in, out}, {out, in}} {
			work.Go(func() {
				_, _ = io.Copy(ends[0], ends[1]) // until either is closed
				_, _ = ends[0].Close(), ends[1].Close()
			})
		}
	}
}

// take remembers a line, unless it is cut.
func (c *cut) take(in, out net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		_ = out.Close() // it was never used
		return false
	}
	c.lines = append(c.lines, in, out)
	return true
}

// set cuts the line, or mends it.
func (c *cut) set(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
	if off {
		for _, line := range c.lines {
			_ = line.Close() // the ends see it
		}
		c.lines = nil
	}
}

func pair(t *testing.T) (server *redistest.Server, a, b *replica) {
	t.Helper()
	server = redistest.Start(t)
	a, b = newReplica(t, server.Addr(), breaker.DefaultSettings()), newReplica(t, server.Addr(), breaker.DefaultSettings())
	shared(t, a, b)
	return server, a, b
}

// forced waits until the replicas obey.
func forced(t *testing.T, want breaker.Forced, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, func() bool { return r.Record().Forced == want }, want.String())
	}
}

func TestAnOrderReachesEveryReplica(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	obey(t, a.store, a.Breaker, breaker.OrderOpen, 0)
	require.Equal(t, breaker.ForcedOpen, a.Record().Forced, "here at once")
	forced(t, breaker.ForcedOpen, b)
	require.False(t, b.send(t, breaker.Success))
	require.Len(t, localOnes(breaker.ReasonForced, a, b), 1)

	obey(t, b.store, b.Breaker, breaker.OrderClose, 0)
	forced(t, breaker.ForcedClosed, a, b)
	for range 10 {
		require.True(t, a.send(t, breaker.Failure))
	}
	require.Len(t, localOnes(breaker.ReasonForced, a, b), 1)

	obey(t, a.store, a.Breaker, breaker.OrderAuto, 0)
	forced(t, breaker.NotForced, a, b)
	require.Len(t, localOnes(breaker.ReasonForced, a, b), 1)
	for range 3 {
		require.True(t, b.send(t, breaker.Failure), "what failed under the order is forgotten")
	}
	eventually(t, func() bool { return !a.Passes() && !b.Passes() }, "open")

	obey(t, a.store, a.Breaker, breaker.OrderReset, 0)
	require.True(t, a.Passes())
	eventually(t, b.Passes, "reset")
	require.Equal(t, breaker.ReasonReset, b.Record().Reason)
	require.Len(t, localOnes(breaker.ReasonReset, a, b), 1)
}

// said waits until the replicas know what the operator said.
func said(t *testing.T, want string, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, func() bool { return r.Record().OrderReason == want }, want)
	}
}

func TestEveryReplicaKnowsTheReasonOfAnOrder(t *testing.T) {
	t.Parallel()
	server, a, b := pair(t)
	order := func(r *replica, kind breaker.OrderKind, reason string) {
		t.Helper()
		require.NoError(t, r.store.Order(t.Context(), r.Key(), breaker.Order{Kind: kind, Reason: reason}))
	}
	order(a, breaker.OrderOpen, "4711")
	require.Equal(t, "4711", a.Record().OrderReason, "here at once")
	said(t, "4711", b)
	order(b, breaker.OrderOpen, "50 % of_all müll")
	said(t, "50 % of_all müll", a, b, newReplica(t, server.Addr(), breaker.DefaultSettings()))
	version := a.Record().Version
	order(a, breaker.OrderOpen, "")
	require.Equal(t, version, a.Record().Version, "the same again is no change")

	client := plainClient(t, server.Addr())
	require.NoError(t, client.FlushAll(t.Context()).Err())
	later := newReplica(t, server.Addr(), breaker.DefaultSettings())
	said(t, "50 % of_all müll", later, a, b)

	order(a, breaker.OrderAuto, "done")
	said(t, "", a, b, later)
	forced(t, breaker.NotForced, a, b, later)
}

// A gateway from before operators' reasons were kept gives the script two
// arguments, and takes the whole word for the reason.
func TestAnOrderOfAnOlderGatewayHasNoReason(t *testing.T) {
	t.Parallel()
	server, a, b := pair(t)
	link := openLink(t, server.URL())
	force := func(mode string) breaker.WireRecord {
		t.Helper()
		replies, errs := link.Run(t.Context(), []breaker.Command{{
			Op: "force", ID: breaker.CircuitID(a.Key()), Replica: "older", Epoch: "e", Args: []any{mode, 0},
		}})
		require.NoError(t, errs[0])
		r, err := breaker.WireReadRecord(replies[0].Lines[0])
		require.NoError(t, err)
		return r
	}
	require.Equal(t, breaker.ReasonForced, force("O").Reason)
	forced(t, breaker.ForcedOpen, a, b)
	require.NoError(t, a.store.Order(t.Context(), a.Key(), breaker.Order{Kind: breaker.OrderOpen, Reason: "deploy"}))
	said(t, "deploy", a, b)
	require.Equal(t, "deploy", force("O").OrderReason, "what is no change keeps it")
	require.Empty(t, force("C").OrderReason)
	forced(t, breaker.ForcedClosed, a, b)
	said(t, "", a, b)
}

func TestTheEndOfAnOrderIsAnnouncedOnce(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	for _, kind := range []breaker.OrderKind{breaker.OrderOpen, breaker.OrderClose, breaker.OrderOpen} {
		want := map[breaker.OrderKind]breaker.Forced{breaker.OrderOpen: breaker.ForcedOpen, breaker.OrderClose: breaker.ForcedClosed}[kind]
		obey(t, a.store, a.Breaker, kind, 500*time.Millisecond)
		forced(t, want, b)
		require.Positive(t, b.Record().ForcedFor)
		require.LessOrEqual(t, b.Record().ForcedFor, 500*time.Millisecond)
		forced(t, breaker.NotForced, a, b)
		eventually(t, func() bool { return a.Record().Version == b.Record().Version }, "the same")
		over := localOnes(breaker.ReasonOrderOver, a, b)
		require.Len(t, over, 1)
		require.Equal(t, want, over[0].FromForced)
		require.True(t, a.send(t, breaker.Success))
	}
}

func TestAnOrderEndsForAReplicaThatStartsLater(t *testing.T) {
	t.Parallel()
	server, a, _ := pair(t)
	obey(t, a.store, a.Breaker, breaker.OrderOpen, 300*time.Millisecond)
	late := newReplica(t, server.Addr(), breaker.DefaultSettings())
	require.Equal(t, breaker.ForcedOpen, late.Record().Forced, "known before its first request")
	forced(t, breaker.NotForced, late)
	require.True(t, late.send(t, breaker.Success))
}

// upstream returns the replica as it stands to another upstream.
func (r *replica) upstream(address string) *replica {
	other := *r
	other.Breaker = r.group.Breaker(address, "")
	return &other
}

func TestOrdersWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server, a, b := pair(t)
	const ending, lifted = "10.0.0.2:80", "10.0.0.3:80"
	obey(t, a.store, a.upstream(lifted).Breaker, breaker.OrderOpen, 0)
	obey(t, a.store, a.upstream(ending).Breaker, breaker.OrderOpen, 4*time.Second)
	forced(t, breaker.ForcedOpen, b.upstream(ending), b.upstream(lifted))
	server.Freeze()
	local(t, a, b)
	require.Len(t, localOnes(breaker.ReasonForced, a, b), 2)

	obey(t, a.store, a.Breaker, breaker.OrderOpen, time.Hour)
	require.False(t, a.send(t, breaker.Success), "it holds here at once")
	require.True(t, b.send(t, breaker.Success), "and elsewhere nobody can know")
	obey(t, a.store, a.upstream(lifted).Breaker, breaker.OrderAuto, 0)
	require.True(t, a.upstream(lifted).send(t, breaker.Success))
	forced(t, breaker.NotForced, a.upstream(ending), b.upstream(ending)) // each by itself
	require.True(t, a.upstream(ending).send(t, breaker.Success))

	server.Thaw()
	shared(t, a, b)
	forced(t, breaker.ForcedOpen, a, b)
	require.InDelta(t, time.Hour.Seconds(), b.Record().ForcedFor.Seconds(), 60)
	require.InDelta(t, a.Record().ForcedFor.Seconds(), b.Record().ForcedFor.Seconds(), 5)
	require.Len(t, localOnes(breaker.ReasonForced, a, b), 2, "announced when they were given, and no more")
	for _, upstream := range []string{ending, lifted} {
		eventually(t, func() bool {
			return a.upstream(upstream).Record().Version == b.upstream(upstream).Record().Version
		}, "the same")
	}
	forced(t, breaker.NotForced, a.upstream(ending), b.upstream(ending))  // for good
	forced(t, breaker.ForcedOpen, a.upstream(lifted), b.upstream(lifted)) // Redis has an order, and that wins
}

func TestOrdersAtAReplicaThatIsCutOff(t *testing.T) {
	t.Parallel()
	server, a, b := pair(t)
	const free = "10.0.0.2:80"
	obey(t, b.store, b.Breaker, breaker.OrderOpen, 0)
	forced(t, breaker.ForcedOpen, a)
	cut := newCut(t, server.Addr())
	alone := newReplica(t, "", breaker.DefaultSettings())
	alone.store.Use(openLink(t, "redis://"+cut.listener.Addr().String()), nil)
	shared(t, alone)
	forced(t, breaker.ForcedOpen, alone)

	cut.set(true)
	local(t, alone)
	require.False(t, alone.send(t, breaker.Success), "an order holds without Redis")
	obey(t, alone.store, alone.Breaker, breaker.OrderClose, time.Hour)
	require.True(t, alone.send(t, breaker.Success))
	obey(t, alone.store, alone.upstream(free).Breaker, breaker.OrderOpen, 0)
	require.False(t, a.send(t, breaker.Success))
	for range 3 {
		require.True(t, a.upstream(free).send(t, breaker.Failure))
	}
	eventually(t, func() bool { return b.upstream(free).Record().State == breaker.Open }, "open")

	cut.set(false)
	shared(t, alone)
	forced(t, breaker.ForcedOpen, alone, a, b) // Redis has an order of its own
	require.False(t, alone.send(t, breaker.Success))
	forced(t, breaker.ForcedOpen, alone.upstream(free), a.upstream(free), b.upstream(free)) // of this it has none
}

func TestOrdersSurviveRedisLosingItsData(t *testing.T) {
	t.Parallel()
	server, a, b := pair(t)
	obey(t, a.store, a.Breaker, breaker.OrderClose, time.Hour)
	forced(t, breaker.ForcedClosed, b)
	epoch := a.store.Status().Epoch
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { require.NoError(t, client.Close()) }()
	require.NoError(t, client.FlushAll(context.Background()).Err())
	for _, r := range []*replica{a, b} {
		eventually(t, func() bool { return r.store.Status().Epoch != epoch }, "new epoch")
	}
	forced(t, breaker.ForcedClosed, a, b, newReplica(t, server.Addr(), breaker.DefaultSettings()))
	require.InDelta(t, time.Hour.Seconds(), b.Record().ForcedFor.Seconds(), 60)
}

// heldLink is the link of a store that hears nothing new while it is held.
type heldLink struct {
	breaker.Link
	store *breaker.Shared
	held  atomic.Bool
}

func (l *heldLink) Version(ctx context.Context) (epoch string, version uint64, err error) {
	if l.held.Load() {
		st := l.store.Status()
		return st.Epoch, st.Version, nil
	}
	return l.Link.Version(ctx)
}

func (l *heldLink) Listen(ctx context.Context, message func(string), subscribed func()) {
	l.Link.Listen(ctx, func(m string) {
		if !l.held.Load() {
			message(m)
		}
	}, subscribed)
}

func TestALiftedOrderStaysLiftedThoughAReplicaHearsLateThatRedisLostItsData(t *testing.T) {
	t.Parallel()
	server, a, b := pair(t)
	link := &heldLink{Link: openLink(t, server.URL()), store: b.store}
	b.store.Use(link, nil)
	shared(t, b)
	obey(t, a.store, a.Breaker, breaker.OrderOpen, 0)
	forced(t, breaker.ForcedOpen, b)
	link.held.Store(true)
	epoch := b.store.Status().Epoch

	require.NoError(t, plainClient(t, server.Addr()).FlushAll(t.Context()).Err())
	eventually(t, func() bool { return a.store.Status().Epoch != epoch }, "one knows that all is lost")
	obey(t, a.store, a.Breaker, breaker.OrderAuto, 0)
	require.Equal(t, breaker.ForcedOpen, b.Record().Forced)
	link.held.Store(false)
	eventually(t, func() bool {
		st := b.store.Status()
		return st.Epoch == a.store.Status().Epoch && b.Record().Forced == breaker.NotForced
	}, "lifted")
	require.Never(t, func() bool { return a.Record().Forced != breaker.NotForced }, 300*time.Millisecond, 10*time.Millisecond)
}

func TestAnOrderForACircuitThatNobodyWatchesIsRefused(t *testing.T) {
	t.Parallel()
	_, a, _ := pair(t)
	for _, store := range []breaker.Store{a.store, breaker.NewMemory(clock.System{}, nil), breaker.NewShared(clock.System{})} {
		err := store.Order(t.Context(), breaker.Key{Name: "billing", Upstream: "nobody"}, breaker.Order{Kind: breaker.OrderOpen})
		require.ErrorIs(t, err, breaker.ErrUnknown)
	}
}

// oneOrder is a link to an arbiter that knows of one order, and that does not
// answer the first time it is asked whether the order is over.
type oneOrder struct {
	mu    sync.Mutex
	asked int
}

func (l *oneOrder) Run(_ context.Context, commands []breaker.Command) ([]breaker.Reply, []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	replies, errs := make([]breaker.Reply, len(commands)), make([]error, len(commands))
	for i, c := range commands {
		record := "e 1 1 C 1 0 0 0 O 100 0 other forced 1 billing@10.0.0.1:80"
		over := "e 1 2 C 2 0 0 0 N -1 0 other order_over 2 billing@10.0.0.1:80"
		switch {
		case c.Op == "lapse":
			if l.asked++; l.asked == 1 {
				errs[i] = context.DeadlineExceeded
				continue
			}
			replies[i] = breaker.Reply{Verdict: "ignored", Lines: []string{over}}
		case l.asked < 2:
			replies[i] = breaker.Reply{Verdict: "sync", Lines: []string{"e 1", record}}
		default:
			replies[i] = breaker.Reply{Verdict: "sync", Lines: []string{"e 2", "c 2 other order_over billing@10.0.0.1:80"}}
		}
	}
	return replies, errs
}

func (l *oneOrder) Version(context.Context) (string, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return "e", uint64(min(2, max(1, l.asked))), nil
}

func (l *oneOrder) Listen(ctx context.Context, _ func(string), _ func()) { <-ctx.Done() }

func (l *oneOrder) Close() error { return nil }

// While the arbiter decides, a replica that gets no answer asks again: otherwise
// each would announce the end of the order by itself.
func TestAnOrdersEndIsNotAnnouncedByAReplicaThatOnlyGotNoAnswer(t *testing.T) {
	t.Parallel()
	r := newReplica(t, "", breaker.DefaultSettings())
	r.store.Use(new(oneOrder), nil)
	forced(t, breaker.ForcedOpen, r)
	forced(t, breaker.NotForced, r)
	eventually(t, func() bool { return r.Record().Version == 2 }, "the arbiter's word")
	require.Empty(t, localOnes(breaker.ReasonOrderOver, r), "another replica has announced it")
}
