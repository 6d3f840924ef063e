package breaker_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// simMutationVariable names the guard that the script is to be run without.
const simMutationVariable = "BREAKER_MUTATION"

// simMutations are the guards of the script, how to take each away, and the test
// that fails without it.
var simMutations = []struct {
	name string
	edit simEdit
	test string
}{
	{
		"a probe's verdict needs a live lease",
		simEdit{" or now >= ends then return 'stale'", " then return 'stale'"},
		"TestAProbeThatLostItsLeaseDecidesNothing",
	}, {
		"a lease ends with its verdict",
		simEdit{"redis.call('ZREM', probes, token)\n", ""},
		"TestAProbeHasOneVerdict",
	}, {
		"leases that ran out are dropped",
		simEdit{"redis.call('ZREMRANGEBYSCORE', probes, '-inf', num(now))\n", ""},
		"TestALostProbeGivesItsPlaceBackWhenItsLeaseEnds",
	}, {
		"failures from before the closing are stale",
		simEdit{"if admitted < closed then return 'stale' end", ""},
		"TestAFailureFromBeforeTheTripDoesNotCount",
	}, {
		"a failure keeps its time",
		simEdit{"'ZADD', failures, 'NX', ", "'ZADD', failures, "},
		"TestAFailureToldAgainLaterIsNoNewerThanItWas",
	}, {
		"only a new failure has a reporter",
		simEdit{"if added == 1 then redis.call('ZADD', reporters", "if true then redis.call('ZADD', reporters"},
		"TestAReplicaToldOfAFailureAgainIsNoNewReporter",
	}, {
		"versions keep up with the time",
		simEdit{"math.max(version + 1, now, seen + 1)", "math.max(version + 1, seen + 1)"},
		"TestNoVersionIsGivenTwiceAfterAFailover",
	}, {
		"versions keep up with what was seen",
		simEdit{"math.max(version + 1, now, seen + 1)", "math.max(version + 1, now)"},
		"TestNoVersionIsGivenTwiceAfterAFailover",
	}, {
		"versions are more than a count",
		simEdit{"math.max(version + 1, now, seen + 1)", "version + 1"},
		"TestNoVersionIsGivenTwiceAfterAFailover",
	}, {
		"open periods are clamped",
		simEdit{"if r.st == 'O' and r.due - now > r.dur then\n", "if false then\n"},
		"TestAnOpenPeriodLastsNoLongerWhenTheClockIsSetBack",
	}, {
		"a clamped open period is stored",
		simEdit{"r.due = now + r.dur\n\t\twrite()\n", "r.due = now + r.dur\n"},
		"TestAnOpenPeriodLastsNoLongerWhenTheClockIsSetBack",
	}, {
		"leases are clamped",
		simEdit{"'(' .. num(now + r.lease), '+inf')) do", "'(' .. num(now + r.lease), '(0')) do"},
		"TestALeaseLastsNoLongerWhenTheClockIsSetBack",
	}, {
		"failures of the future are dropped",
		simEdit{"redis.call('ZREMRANGEBYSCORE', failures, '(' .. num(now), '+inf')\n", ""},
		"TestAFailureOfTheFutureIsForgottenWhenTheClockIsSetBack",
	}, {
		"a claim does not undo what was decided since",
		simEdit{"and closed > known and", "and false and"},
		"TestAClaimDoesNotUndoWhatWasDecidedSince",
	}, {
		"what is only forgotten settles nothing",
		simEdit{" and closing ~= 'forgotten'", ""},
		"TestACircuitThatIsForgottenDoesNotSettleAClaim",
	}, {
		"what replicas know is not forgotten",
		simEdit{"if whole and abandoned()", "if abandoned()"},
		"TestACircuitThatIsForgottenDoesNotSettleAClaim",
	}, {
		"an order that is over settles nothing",
		simEdit{" and closing ~= 'order_over'", ""},
		"TestAnOrderThatIsOverDoesNotSettleAClaim",
	}, {
		"a lift of a lost order is kept",
		simEdit{" and (r.st ~= 'C' or (known or 0) <= closed) then", " then"},
		"TestALiftOfAnOrderThatRedisHasLostIsKept",
	}, {
		"forgetting is a change",
		simEdit{"close('forgotten')", "redis.call('HDEL', states, id)"},
		"TestACircuitThatNobodyUsesIsClosedForEverybody",
	},
}

// simMutation returns the edit that takes a guard away, if this process is one
// that TestEveryGuardIsNeeded has started.
func simMutation(t *testing.T) []simEdit {
	t.Helper()
	name := os.Getenv(simMutationVariable)
	if name == "" {
		return nil
	}
	for _, m := range simMutations {
		if m.name == name {
			return []simEdit{m.edit}
		}
	}
	t.Fatalf("no guard is called %q", name)
	return nil
}

// TestEveryGuardIsNeeded takes the guards of the script away, one at a time: the
// test that is named for each must fail without it.
func TestEveryGuardIsNeeded(t *testing.T) {
	t.Parallel()
	if os.Getenv(simMutationVariable) != "" {
		t.Skip("this process runs the script without a guard")
	}
	for _, m := range simMutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+m.test+"$", "-test.timeout=60s")
			c.Env = append(os.Environ(), simMutationVariable+"="+m.name)
			output, err := c.CombinedOutput()
			var failed *exec.ExitError
			require.ErrorAs(t, err, &failed, "%s passes without it:\n%s", m.test, output)
			require.Contains(t, string(output), "--- FAIL: "+m.test)
			require.NotContains(t, string(output), "the script must have this once")
		})
	}
}
