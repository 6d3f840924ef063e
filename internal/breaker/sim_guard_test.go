package breaker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
)

// simCase is the script alone, with callers that the test plays: failures 2,
// window 60 s, open 10 s, one probe with a lease of 5 s that decides alone.
type simCase struct {
	t       *testing.T
	arbiter *simArbiter
	now     time.Time
	seen    map[string]uint64 // the newest version that a replica knows
	quorum  int
	need    int
}

func newSimCase(t *testing.T) *simCase {
	t.Helper()
	return &simCase{t: t, arbiter: newSimMini(t), now: time.Unix(1_800_000_000, 0), seen: map[string]uint64{}, quorum: 1, need: 1}
}

func (c *simCase) pass(d time.Duration) { c.now = c.now.Add(d) }

// call is one operation by a replica, which learns of the answer.
func (c *simCase) call(replica, op string, args ...any) (verdict string, r simRecord) {
	c.t.Helper()
	reply, _, _, err := c.arbiter.run(c.now, breaker.Command{
		Op: op, ID: "x@u", Replica: replica, Seen: c.seen[replica], Epoch: "epoch", Args: args,
	})
	require.NoError(c.t, err)
	if op == "sync" {
		return reply.Verdict, r
	}
	r = simParse(reply.Lines[0])
	c.seen[replica] = max(c.seen[replica], r.group)
	return reply.Verdict, r
}

// fail reports a failure of a request that was admitted at a version.
func (c *simCase) fail(replica, event string, admitted uint64) string {
	c.t.Helper()
	verdict, _ := c.call(replica, "fail", 2, 60_000, 10_000, 0, 0, 0.5, c.quorum, 0, admitted, replica+":"+event, 0)
	return verdict
}

func (c *simCase) acquire(replica, token string) string {
	c.t.Helper()
	verdict, _ := c.call(replica, "acquire", 1, 5000, replica+":"+token)
	return verdict
}

func (c *simCase) result(replica, token, outcome string) string {
	c.t.Helper()
	verdict, _ := c.call(replica, "result", replica+":"+token, outcome, c.need, 10_000, 0, 0, 0.5)
	return verdict
}

// look returns the circuit's record, which a failure long ago does not change.
func (c *simCase) look() simRecord {
	c.t.Helper()
	_, r := c.call("observer", "lapse")
	return r
}

// trip opens the circuit and waits for the end of the open period.
func (c *simCase) trip() {
	c.t.Helper()
	require.Equal(c.t, "counted", c.fail("a", "1", 0))
	require.Equal(c.t, "opened", c.fail("b", "1", 0))
	c.pass(10 * time.Second)
}

func TestAProbeThatLostItsLeaseDecidesNothing(t *testing.T) {
	t.Parallel()
	for _, outcome := range []string{"good", "bad", "none"} {
		c := newSimCase(t)
		c.trip()
		require.Equal(t, "granted", c.acquire("a", "t"))
		before := c.look()
		c.pass(5 * time.Second)
		require.Equal(t, "stale", c.result("a", "t", outcome), "its lease ends at this moment")
		require.Equal(t, "stale", c.result("b", "made up", outcome), "nobody gave it a lease")
		require.Equal(t, before, c.look())
	}
}

func TestAProbeHasOneVerdict(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.need = 2
	c.trip()
	require.Equal(t, "granted", c.acquire("a", "t"))
	require.Equal(t, "released", c.result("a", "t", "good"))
	require.Equal(t, "stale", c.result("a", "t", "good"), "the answer was lost and it was told again")
	require.Equal(t, "H", c.look().state)
}

func TestAFailureFromBeforeTheTripDoesNotCount(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.trip()
	require.Equal(t, "granted", c.acquire("a", "t"))
	require.Equal(t, "closed", c.result("a", "t", "good"))
	closed := c.look().closed
	require.Equal(t, "stale", c.fail("b", "slow 1", 0))
	require.Equal(t, "stale", c.fail("b", "slow 2", closed-1))
	require.Equal(t, "counted", c.fail("b", "new", closed))
	require.Equal(t, "C", c.look().state)
}

func TestAFailureToldAgainLaterIsNoNewerThanItWas(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	require.Equal(t, "counted", c.fail("a", "1", 0))
	require.Equal(t, "counted", c.fail("a", "1", 0), "once")
	c.pass(50 * time.Second)
	require.Equal(t, "counted", c.fail("a", "1", 0), "a frozen connection wakes up")
	c.pass(10 * time.Second)
	require.Equal(t, "counted", c.fail("a", "2", 0), "60 s after the first")
}

func TestAReplicaToldOfAFailureAgainIsNoNewReporter(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.quorum = 2
	require.Equal(t, "counted", c.fail("a", "1", 0))
	c.pass(50 * time.Second)
	require.Equal(t, "counted", c.fail("a", "1", 0), "a frozen connection wakes up")
	c.pass(10 * time.Second)
	require.Equal(t, "counted", c.fail("b", "1", 0))
	require.Equal(t, "counted", c.fail("b", "2", 0), "b alone has seen failures in the window")
	require.Equal(t, "opened", c.fail("a", "2", 0))
}

func TestALostProbeGivesItsPlaceBackWhenItsLeaseEnds(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.trip()
	require.Equal(t, "granted", c.acquire("a", "lost"))
	c.pass(5*time.Second - time.Millisecond)
	require.Equal(t, "denied", c.acquire("b", "early"))
	c.pass(time.Millisecond)
	require.Equal(t, "granted", c.acquire("b", "next"))
	require.Equal(t, "denied", c.acquire("a", "third"), "one at a time")
}

func TestAnOpenPeriodLastsNoLongerWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	require.Equal(t, "counted", c.fail("a", "1", 0))
	require.Equal(t, "opened", c.fail("b", "1", 0))
	c.pass(-time.Hour)
	require.Equal(t, int64(10_000), c.look().left)
	c.pass(4 * time.Second)
	require.Equal(t, int64(6_000), c.look().left)
	c.pass(6 * time.Second)
	require.Equal(t, "granted", c.acquire("a", "t"))
}

func TestALeaseLastsNoLongerWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.trip()
	require.Equal(t, "granted", c.acquire("a", "lost"))
	c.pass(-time.Hour)
	require.Equal(t, "denied", c.acquire("b", "early"))
	c.pass(5 * time.Second)
	require.Equal(t, "granted", c.acquire("b", "next"))
}

func TestAFailureOfTheFutureIsForgottenWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	require.Equal(t, "counted", c.fail("a", "1", 0))
	c.pass(-time.Hour)
	require.Equal(t, "counted", c.fail("a", "2", 0), "nobody knows how far apart they are")
	require.Equal(t, "opened", c.fail("a", "3", 0))
}

// A replica that hears late that Redis has lost its data tells of what it knew;
// others may have told of it before, and an operator may have lifted it since.
func TestAClaimDoesNotUndoWhatWasDecidedSince(t *testing.T) {
	t.Parallel()
	for _, claim := range [][]any{{"force", "O", 0, "forced"}, {"merge", 5000, 10_000, 1}} {
		op, args := claim[0].(string), claim[1:]
		claims := func(c *simCase, known uint64) string {
			verdict, _ := c.call("b", op, append(args, known)...)
			return verdict
		}
		c := newSimCase(t)
		c.call("a", "force", "O", 0)
		known := c.look().version
		_, lifted := c.call("a", "force", "N", 0)
		require.Equal(t, "ignored", claims(c, known))
		require.Equal(t, lifted.version, c.look().version)
		require.NotEqual(t, "ignored", claims(c, lifted.version), "it was lost with what came after")

		c = newSimCase(t)
		c.call("a", "force", "C", 0)
		require.Equal(t, "ignored", claims(c, 1), "there is another order")
		require.Equal(t, "C", c.look().mode)
	}
	c := newSimCase(t)
	c.call("a", "reset")
	_, r := c.call("b", "force", "O", 0, "forced", 0)
	require.Equal(t, "O", r.mode, "a new order")
}

// A copy of Redis that has not got the latest order may have a circuit that
// nobody uses any more. To forget it is no decision on the order.
func TestACircuitThatIsForgottenDoesNotSettleAClaim(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.trip()
	c.pass(101 * time.Second)
	known := uint64(c.now.UnixMilli())
	c.pass(time.Second)
	c.seen["a"] = known
	c.call("a", "sync")
	require.Equal(t, "O", c.look().state, "a finds out that Redis has lost an order")
	c.call("b", "sync")
	require.Equal(t, "forgotten", c.look().why)
	_, r := c.call("a", "force", "O", 0, "forced", known)
	require.Equal(t, "O", r.mode)
}

func TestAnOrderThatIsOverDoesNotSettleAClaim(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.call("a", "force", "C", 1000)
	known := c.look().version
	c.pass(time.Second)
	require.Equal(t, "order_over", c.look().why)
	_, r := c.call("a", "force", "O", 0, "forced", known)
	require.Equal(t, "O", r.mode, "which followed that one and was lost")
}

// Nobody may have told Redis of the order again when it is lifted.
func TestALiftOfAnOrderThatRedisHasLostIsKept(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	known := uint64(c.now.UnixMilli()) - 1
	verdict, _ := c.call("a", "force", "N", 0, "forced", known)
	require.Equal(t, "closed", verdict)
	closed := c.look().version
	require.Greater(t, closed, known)
	verdict, _ = c.call("b", "force", "O", 0, "forced", known)
	require.Equal(t, "ignored", verdict)
	verdict, _ = c.call("b", "force", "N", 0, "forced", known)
	require.Equal(t, "ignored", verdict, "once")
	require.Equal(t, closed, c.look().version)
}

// A copy that takes over has not got the latest writes. Replicas that have seen
// them must not take other changes for them.
func TestNoVersionIsGivenTwiceAfterAFailover(t *testing.T) {
	t.Parallel()
	failover := func(t *testing.T, skew time.Duration) (c *simCase, lost simRecord) {
		c = newSimCase(t)
		c.call("a", "reset")
		var copied simData
		c.arbiter.do(func() { copied = c.arbiter.dump() })
		c.pass(time.Second)
		_, lost = c.call("a", "force", "O", 0)
		c.pass(time.Second + skew)
		c.arbiter.do(func() { c.arbiter.load(copied) })
		return c, lost
	}
	t.Run("to a replica that has not seen the lost ones", func(t *testing.T) {
		t.Parallel()
		c, lost := failover(t, 0)
		_, next := c.call("b", "reset")
		require.Greater(t, next.version, lost.version)
	})
	t.Run("to a replica that has, by a clock that is behind", func(t *testing.T) {
		t.Parallel()
		c, lost := failover(t, -time.Minute)
		_, next := c.call("a", "reset")
		require.Greater(t, next.version, lost.version)
	})
}

func TestACircuitThatNobodyUsesIsClosedForEverybody(t *testing.T) {
	t.Parallel()
	c := newSimCase(t)
	c.trip()
	before := c.look()
	c.pass(100*time.Second + time.Millisecond)
	_, messages, _, err := c.arbiter.run(c.now, breaker.Command{Op: "sync", Replica: "a", Epoch: "epoch"})
	require.NoError(t, err)
	require.Len(t, messages, 1, "views of the circuit end, too")
	r := simParse(messages[0])
	require.Equal(t, "C", r.state)
	require.Greater(t, r.version, before.version)
}
