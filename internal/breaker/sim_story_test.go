package breaker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/breaker"
)

// The stories are histories that once went wrong, or that random ones seldom meet.

// simStory lets three replicas live through a story.
func simStory(t *testing.T, tell func(t *testing.T, s *sim)) {
	t.Helper()
	arbiter := newSimMini(t)
	settings := breaker.DefaultSettings()
	settings.Failures, settings.Window, settings.Open, settings.Lease = 2, 20*time.Second, 10*time.Second, 5*time.Second
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, arbiter, settings, 3)
		defer s.end()
		for _, r := range s.replicas {
			r.boot()
		}
		tell(t, s)
		s.check()
		for range 8 {
			s.tick(time.Second)
		}
		s.check()
		s.agree()
	})
}

// book returns what the arbiter holds of the first circuit: state and order.
func (s *sim) book(key int) string {
	b := s.judge.book.of(breaker.CircuitID(s.keys[key]))
	return b.state + " " + b.mode
}

// order gives an order and waits until it is obeyed, if it is.
func (r *simReplica) order(key int, o breaker.Order) {
	go func() { _ = r.store.Order(context.Background(), r.sim.keys[key], o) }()
	synctest.Wait()
}

// fail lets requests fail and reports them.
func (r *simReplica) fail(key, n int) {
	for range n {
		r.request(key, simDone(breaker.Failure))
	}
	r.hand.Flush()
}

func TestALateAnswerDoesNotUndoWhatCameAfter(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.plan = []simFate{simHoldReply}
		r.order(0, breaker.Order{Kind: breaker.OrderAuto})
		r.order(0, breaker.Order{Kind: breaker.OrderOpen})
		s.open(0, true) // "nothing to lift", from before
		require.Equal(t, breaker.ForcedOpen, r.breakers[0].Record().Forced)
	})
}

// The reply to an order is still under way when its replica, which knows of a
// later one, has lost Redis and decides by itself.
func TestALateAnswerDoesNotUndoWhatWasDecidedWithoutRedis(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.plan = []simFate{simHoldReply}
		r.order(0, breaker.Order{Kind: breaker.OrderOpen})
		r.order(0, breaker.Order{Kind: breaker.OrderAuto})
		r.hand = r.store.UseByHand(r)
		r.fail(0, 2)
		require.Equal(t, breaker.Open, r.breakers[0].Record().State)
		s.check()
		s.open(0, true)
		require.Equal(t, breaker.NotForced, r.breakers[0].Record().Forced)
		s.check()
	})
}

func TestAnOrderStaysUntilRedisWasToldOfIt(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.plan = []simFate{simDrop}
		r.order(0, breaker.Order{Kind: breaker.OrderClose})
		s.replicas[1].fail(0, 2)
		require.Equal(t, "O N", s.book(0))
		r.receive(len(r.inbox))
		require.Equal(t, breaker.ForcedClosed, r.breakers[0].Record().Forced)
		r.hand.Poll()
		require.Equal(t, "C C", s.book(0))
	})
}

// The copy that takes over has not got the order, and another replica writes
// before the one that knows of it looks.
func TestAnOrderOutlivesAFailoverThatLostIt(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		s.replicas[2].order(1, breaker.Order{Kind: breaker.OrderReset})
		s.replicas[0].order(0, breaker.Order{Kind: breaker.OrderOpen})
		s.failover(1, time.Second, false)
		require.Equal(t, "C N", s.book(0))
		s.replicas[1].order(1, breaker.Order{Kind: breaker.OrderReset})
		s.settle()
		require.Equal(t, "C O", s.book(0))
	})
}

// The copy that takes over has not got the order, and forgets the circuit since
// nobody has used it for so long.
func TestAnOrderOutlivesThatItsCircuitIsForgotten(t *testing.T) {
	t.Parallel()
	for first := range 2 {
		simStory(t, func(t *testing.T, s *sim) {
			s.replicas[1].fail(0, 2)
			s.settle()
			s.sleep(111 * time.Second)
			s.replicas[0].order(0, breaker.Order{Kind: breaker.OrderOpen})
			s.failover(1, time.Second, false)
			require.Equal(t, "O N", s.book(0))
			s.replicas[first].hand.Resync()
			s.settle()
			require.Equal(t, "C O", s.book(0))
		})
	}
}

// What the copy does next reaches the replica that knows of the order before it looks.
func TestAnOrderOutlivesNewsFromAnArbiterThatLostIt(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		s.replicas[2].order(1, breaker.Order{Kind: breaker.OrderReset})
		r.order(0, breaker.Order{Kind: breaker.OrderClose})
		s.failover(1, time.Second, false)
		s.replicas[1].fail(0, 2)
		require.Equal(t, "O N", s.book(0))
		r.receive(len(r.inbox))
		require.Equal(t, breaker.ForcedClosed, r.breakers[0].Record().Forced)
		r.hand.Resync()
		require.Equal(t, "C C", s.book(0))
	})
}

// The failures went to a Redis whose data were then given up for older ones.
func TestFailuresThatAnotherEpochWasToldOfAreToldAgain(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.fail(0, 1)
		data, book := s.data, s.judge.book.clone()
		s.load(simData{}, simBook{circuits: map[string]*simCircuit{}})
		s.replicas[1].fail(1, 1)
		r.fail(0, 1)
		require.False(t, r.breakers[0].Passes(), "it has seen enough")
		require.Equal(t, "C N", s.book(0))
		s.load(data, book)
		r.hand.Resync()
		r.hand.Poll()
		require.Equal(t, "O N", s.book(0))
	})
}

// A replica that has missed messages knows newer versions than it has counted up to.
func TestAFailoverIsNoticedThoughMessagesWereMissed(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.fail(0, 2)
		require.Zero(t, r.store.Status().Version)
		s.failover(1, time.Second, false)
		require.Equal(t, "C N", s.book(0))
		r.hand.Resync()
		require.Equal(t, "O N", s.book(0))
	})
}

func TestASyncThatFailedHalfwayIsMadeAgain(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.fail(0, 2)
		r.receive(len(r.inbox))
		r.hand.Poll()
		s.load(simData{}, simBook{circuits: map[string]*simCircuit{}})
		r.hand.Subscribed()
		r.plan = []simFate{simDeliver, simDrop}
		r.hand.Resync()
		require.Equal(t, "C N", s.book(0), "the circuit was to be stored anew")
		r.hand.Poll()
		require.Equal(t, "O N", s.book(0))
	})
}

func TestFailuresFromBeforeAClosingAreNotReplayed(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		alone, other := s.replicas[0], s.replicas[1]
		alone.plan = []simFate{simDrop}
		alone.hand = alone.store.UseByHand(alone)
		alone.hand.Poll()
		alone.request(0, simDone(breaker.Failure))
		other.fail(0, 2)
		s.sleep(10 * time.Second)
		other.request(0, simDone(breaker.Success))
		other.hand.Flush()
		require.Equal(t, "C N", s.book(0))
		for range 4 {
			alone.hand.Poll()
		}
		require.Equal(t, breaker.ModeShared, alone.hand.Mode())
		other.fail(0, 1)
		require.Equal(t, "C N", s.book(0), "it is the first failure since")
	})
}

// A replica that was cut off comes back with an open period, or an order, that
// is over: it has nothing to tell those that never stopped sharing.
func TestWhatIsOverIsNotMerged(t *testing.T) {
	t.Parallel()
	for name, cutOff := range map[string]func(r *simReplica){
		"an open period": func(r *simReplica) { r.fail(0, 2) },
		"an order":       func(r *simReplica) { r.order(0, breaker.Order{Kind: breaker.OrderOpen, TTL: 5 * time.Second}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simStory(t, func(t *testing.T, s *sim) {
				alone, other := s.replicas[0], s.replicas[1]
				alone.plan = []simFate{simDrop}
				alone.hand = alone.store.UseByHand(alone)
				alone.hand.Poll()
				cutOff(alone)
				require.False(t, alone.breakers[0].Passes())
				s.sleep(9 * time.Second)
				other.fail(0, 1)
				s.sleep(2 * time.Second)
				for range 4 {
					alone.hand.Poll()
				}
				require.Equal(t, breaker.ModeShared, alone.hand.Mode())
				require.Equal(t, "C N", s.book(0))
				s.settle()
				require.True(t, alone.breakers[0].Passes())
				other.fail(0, 1)
				require.Equal(t, "O N", s.book(0), "the failure before still counts")
			})
		})
	}
}

func TestAnUnusedCircuitIsClosedOnEveryReplica(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		s.replicas[0].fail(0, 2)
		s.settle()
		s.sleep(111 * time.Second)
		s.replicas[0].hand.Subscribed()
		s.settle()
		for _, r := range s.replicas {
			require.True(t, r.breakers[0].Passes())
		}
	})
}

// An arbiter far away answers after the request has given up. Without the spare
// no probe would ever be sent, and the circuit never close.
func TestALeaseThatComesTooLateIsForTheNextRequest(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.fail(0, 2)
		s.sleep(10 * time.Second)
		r.plan = []simFate{simHoldReply}
		r.request(0, nil)
		require.Empty(t, r.flying)
		require.Equal(t, 1, r.asking)
		s.sleep(breaker.AskBudget)
		require.Zero(t, r.asking, "it waits no longer")
		require.Empty(t, r.flying)
		s.sleep(15 * time.Millisecond)
		s.open(0, true)
		calls := r.calls
		r.request(0, nil)
		require.Equal(t, calls, r.calls)
		require.Len(t, r.flying, 1)
		require.True(t, r.flying[0].permit.Probe())
		r.report(r.flying[0], simDone(breaker.Success))
		r.hand.Flush()
		require.Equal(t, "C N", s.book(0))
	})
}

func TestALeaseThatNobodyUsesIsGivenBack(t *testing.T) {
	t.Parallel()
	simStory(t, func(t *testing.T, s *sim) {
		r := s.replicas[0]
		r.fail(0, 2)
		s.sleep(10 * time.Second)
		r.plan = []simFate{simHoldReply}
		r.request(0, nil)
		s.sleep(40 * time.Millisecond)
		s.open(0, true)
		s.sleep(time.Second)
		require.True(t, r.hand.Flush())
		s.settle()
		s.replicas[1].request(0, nil)
		require.Len(t, s.replicas[1].flying, 1, "long before the lease ends")
	})
}

// simLive lets three replicas with loops of their own live through a story.
func simLive(t *testing.T, tell func(t *testing.T, s *sim)) {
	t.Helper()
	arbiter := newSimMini(t)
	settings := breaker.DefaultSettings()
	settings.Failures, settings.Open = 2, 30*time.Second
	for range 10 { // polls are at random times
		synctest.Test(t, func(t *testing.T) {
			s := newSim(t, arbiter, settings, 3)
			defer s.end()
			for _, r := range s.replicas {
				r.live = true
				r.boot()
			}
			s.sleep(time.Second)
			tell(t, s)
			s.check()
		})
	}
}

// L1: a poll finds what messages did not tell.
func TestViewsFollowWithinAPollThoughNoMessageArrives(t *testing.T) {
	t.Parallel()
	simLive(t, func(t *testing.T, s *sim) {
		for _, r := range s.replicas {
			r.deaf = true
		}
		for range 2 {
			s.replicas[0].request(0, simDone(breaker.Failure))
		}
		s.sleep(time.Millisecond)
		require.Equal(t, "O N", s.book(0))
		s.sleep(1200 * time.Millisecond)
		s.agree()
		for _, r := range s.replicas {
			require.False(t, r.breakers[0].Passes())
		}
	})
}

// L3: when Redis is back all replicas share again.
func TestReplicasShareAgainWithinSevenSeconds(t *testing.T) {
	t.Parallel()
	simLive(t, func(t *testing.T, s *sim) {
		s.away = true
		s.sleep(4 * time.Second)
		for _, r := range s.replicas {
			require.Equal(t, breaker.ModeLocal, r.store.Status().Mode)
		}
		for range 2 {
			s.replicas[1].request(0, simDone(breaker.Failure))
		}
		require.False(t, s.replicas[1].breakers[0].Passes())
		require.True(t, s.replicas[0].breakers[0].Passes())
		s.sleep(5 * time.Second)
		s.mu.Lock()
		s.away = false
		s.mu.Unlock()
		s.sleep(7 * time.Second)
		s.agree()
		for _, r := range s.replicas {
			require.False(t, r.breakers[0].Passes(), "what one has opened")
		}
	})
}
