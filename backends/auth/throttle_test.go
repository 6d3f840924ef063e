package auth_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/auth"
	"github.com/tenantgate/tenantgate/internal/clock"
)

func TestThrottle(t *testing.T) {
	t.Parallel()
	c := clock.NewFake(time.Unix(0, 0))
	th := auth.NewThrottle(c, 2, 10*time.Second, 3)
	require.Zero(t, th.Take("a"))
	require.Zero(t, th.Take("a"))
	require.Equal(t, 10*time.Second, th.Take("a"))
	require.Zero(t, th.Take("b"), "keys do not share")
	c.Advance(4 * time.Second)
	require.Equal(t, 6*time.Second, th.Take("a"), "a refused attempt does not lengthen the wait")
	c.Advance(6 * time.Second)
	require.Zero(t, th.Take("a"))
	require.NotZero(t, th.Take("a"))
	th.Refund("a")
	require.Zero(t, th.Take("a"))
	c.Advance(-time.Hour)
	require.NotZero(t, th.Take("a"), "a clock that goes back gives nothing")
	c.Advance(3 * time.Hour)
	require.Zero(t, th.Take("a"))
	require.Zero(t, th.Take("a"))
	require.NotZero(t, th.Take("a"), "a long wait gives a burst, no more")
	th.Refund("b")
	th.Refund("b")
	th.Refund("b")
	require.Zero(t, th.Take("b"))
	require.Zero(t, th.Take("b"))
	require.NotZero(t, th.Take("b"), "nor do refunds")
}

func TestThrottleIsBoundedAndForgetsTheOldestFirst(t *testing.T) {
	t.Parallel()
	th := auth.NewThrottle(clock.NewFake(time.Unix(0, 0)), 1, time.Hour, 100)
	require.Zero(t, th.Take("victim"))
	for i := range 1000 {
		require.Zero(t, th.Take(strconv.Itoa(i)))
		require.NotZero(t, th.Take("victim"), "a bucket in use is kept")
	}
	require.Equal(t, 100, th.Len())
}

func TestAddressKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8::1":      "2001:db8::/64",
		"2001:db8::2":      "2001:db8::/64",
		"fe80::1%eth0":     "fe80::/64",
		"":                 "",
	} {
		require.Equal(t, want, auth.AddressKey(in), in)
	}
}

func BenchmarkThrottle(b *testing.B) {
	th := auth.NewThrottle(clock.System{}, 10, time.Second, 1<<16)
	b.ReportAllocs()
	for b.Loop() {
		th.Take("admin@acme.test")
	}
}
