package breaker_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/breaker"
)

// An example of each record that the script writes.
var wireRecords = map[string]breaker.WireRecord{
	"0a1b2c3d4e5f 1800000000000 1800000000123 O 1800000000123 119999 2 0 N -1 3 aaaaaaaaaaaa failures 1799999999999 billing@10.0.0.1:80": {
		Epoch: "0a1b2c3d4e5f", Before: 1_800_000_000_000, Group: 1_800_000_000_123,
		Key: breaker.Key{Name: "billing", Upstream: "10.0.0.1:80"}, State: breaker.Open, Version: 1_800_000_000_123,
		ClosedAt: 1_799_999_999_999, Remaining: 119_999 * time.Millisecond, Trips: 2, Failures: 3,
		Origin: "aaaaaaaaaaaa", Reason: breaker.ReasonFailures,
	},
	"e 5 6 H 6 0 1 2 N -1 3 r open_period_over 4 b@unix//run/a%20b.sock": {
		Epoch: "e", Before: 5, Group: 6, Key: breaker.Key{Name: "b", Upstream: "unix//run/a b.sock"}, State: breaker.HalfOpen, Version: 6,
		ClosedAt: 4, Trips: 1, Good: 2, Failures: 3, Origin: "r", Reason: breaker.ReasonOpenPeriodOver,
	},
	"e 5 5 C 4 0 0 0 N -1 0 - - 4 b@[::1]:80@7": {
		Epoch: "e", Before: 5, Group: 5, Key: breaker.Key{Name: "b", Upstream: "[::1]:80", Tenant: "7"},
		Version: 4, ClosedAt: 4, Origin: "-", Reason: "-",
	},
	"e 5 7 C 7 0 0 0 O 59999 0 r forced 7 b@u": {
		Epoch: "e", Before: 5, Group: 7, Key: breaker.Key{Name: "b", Upstream: "u"}, Forced: breaker.ForcedOpen,
		ForcedFor: 59_999 * time.Millisecond, Version: 7, ClosedAt: 7, Origin: "r", Reason: breaker.ReasonForced,
	},
	"e 5 7 C 7 0 0 0 O -1 0 r forced:_50%25_of_a%5Fb 7 b@u": {
		Epoch: "e", Before: 5, Group: 7, Key: breaker.Key{Name: "b", Upstream: "u"}, Forced: breaker.ForcedOpen,
		Version: 7, ClosedAt: 7, Origin: "r", Reason: breaker.ReasonForced, OrderReason: "50% of a_b",
	},
	"e 5 7 C 7 0 0 0 C -1 0 r forced 7 b@u": {
		Epoch: "e", Before: 5, Group: 7, Key: breaker.Key{Name: "b", Upstream: "u"}, Forced: breaker.ForcedClosed,
		Version: 7, ClosedAt: 7, Origin: "r", Reason: breaker.ReasonForced,
	},
	"e 5 7 C 7 0 0 0 C 0 0 r forced 7 b@u": { // nothing left of an order is not for ever
		Epoch: "e", Before: 5, Group: 7, Key: breaker.Key{Name: "b", Upstream: "u"}, Forced: breaker.ForcedClosed,
		ForcedFor: time.Nanosecond, Version: 7, ClosedAt: 7, Origin: "r", Reason: breaker.ReasonForced,
	},
	"e 5 7 H 7 0 1 0 N -1 0 r place_free 7 b@u with a space": { // the id is what is left
		Epoch: "e", Before: 5, Group: 7, Key: breaker.Key{Name: "b", Upstream: "u with a space"}, State: breaker.HalfOpen,
		Trips: 1, Version: 7, ClosedAt: 7, Origin: "r", Reason: breaker.ReasonPlaceFree,
	},
}

func TestARecordIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	for line, want := range wireRecords {
		got, err := breaker.WireReadRecord(line)
		require.NoError(t, err, line)
		require.Equal(t, want, got, line)
	}
}

func TestWhatAnOperatorSaysIsOneWordOnTheWire(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 100)
	for said, want := range map[string][2]string{ // the word and what is read of it
		"":                           {"forced", ""},
		" \t ":                       {"forced", ""},
		"provider maintenance":       {"forced:_provider_maintenance", "provider maintenance"},
		"4711":                       {"forced:_4711", "4711"}, // no number for the script
		"0x1F":                       {"forced:_0x1F", "0x1F"},
		"100%5F a_b %25":             {"forced:_100%255F_a%5Fb_%2525", "100%5F a_b %25"},
		"two\nlines\u00a0and\x1b[2J": {"forced:_two_lines_and_[2J", "two lines and [2J"},
		long:                         {"forced:_" + long, long},
		long + "ü":                   {"forced:_" + long[:198] + "…", long[:198] + "…"},
	} {
		word := breaker.WireOrderWord(said)
		require.Equal(t, want[0], word, "%q", said)
		require.Len(t, strings.Fields(word), 1, "%q", said)
		r, err := breaker.WireReadRecord("e 5 7 C 7 0 0 0 O -1 0 r " + word + " 7 b@u")
		require.NoError(t, err)
		require.Equal(t, breaker.ReasonForced, r.Reason)
		require.Equal(t, want[1], r.OrderReason, "%q", said)
		require.Equal(t, word, breaker.WireOrderWord(r.OrderReason), "told again it is the same")
	}
	closing, err := breaker.WireReadClosing("7 r forced:_provider_maintenance b@u")
	require.NoError(t, err)
	require.Equal(t, breaker.ReasonForced, closing.Reason)
	require.Empty(t, closing.OrderReason)
}

func TestAMalformedRecordIsAnError(t *testing.T) {
	t.Parallel()
	good := strings.Fields("e 5 7 O 7 1000 1 0 N -1 3 r failures 7 b@u")
	_, err := breaker.WireReadRecord(strings.Join(good, " "))
	require.NoError(t, err)
	for name, change := range map[string]struct {
		field int
		text  string
	}{
		"no number before":        {1, "x"},
		"a negative version":      {2, "-1"},
		"an inexact version":      {2, "1.8e+12"},
		"no such state":           {3, "X"},
		"a word as a state":       {3, "open"},
		"no number as a version":  {4, ""},
		"a negative rest":         {5, "-1"},
		"a rest without end":      {5, "99999999999999999"},
		"an inexact rest":         {5, "1e3"},
		"negative trips":          {6, "-1"},
		"more trips than fit":     {6, "4294967296"},
		"negative probes":         {7, "-2"},
		"no such order":           {8, "X"},
		"an order with a bad end": {9, "-2"},
		"an order without a rest": {9, ""},
		"too long an order":       {9, "9223372036854775807"},
		"not a number":            {10, "nan"},
		"negative closing":        {13, "-7"},
		"no upstream":             {14, "b"},
		"too many parts":          {14, "b@u@t@x"},
		"no id":                   {14, ""},
	} {
		f := append([]string(nil), good...)
		f[change.field] = change.text
		_, err := breaker.WireReadRecord(strings.Join(f, " "))
		require.ErrorContains(t, err, "malformed record", name)
	}
	for n := range len(good) {
		_, err := breaker.WireReadRecord(strings.Join(good[:n], " "))
		require.Error(t, err, "%d fields", n)
	}
}

func TestAClosingIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	got, err := breaker.WireReadClosing("1800000000123 aaaaaaaaaaaa probe_succeeded billing@u@a%20tenant")
	require.NoError(t, err)
	require.Equal(t, breaker.WireRecord{
		Key: breaker.Key{Name: "billing", Upstream: "u", Tenant: "a tenant"}, Version: 1_800_000_000_123, ClosedAt: 1_800_000_000_123,
		Origin: "aaaaaaaaaaaa", Reason: breaker.ReasonProbeSucceeded,
	}, got)
	for _, line := range []string{"", "1", "1 r", "1 r reset", "1 r reset b", "x r reset b@u", "-1 r reset b@u", "1.5 r reset b@u"} {
		_, err := breaker.WireReadClosing(line)
		require.Error(t, err, line)
	}
}

func TestASnapshotPrefersARecordToTheClosingBeforeIt(t *testing.T) {
	t.Parallel()
	record := "e 5 7 O 7 1000 1 0 N -1 3 r failures 4 b@u"
	for _, lines := range [][]string{
		{"e 7", record, "c 4 r reset b@u", "c 3 q probe_succeeded b@other"},
		{"e 7", "c 4 r reset b@u", "c 3 q probe_succeeded b@other", record},
	} {
		s, err := breaker.WireReadSnapshot(lines)
		require.NoError(t, err)
		require.Equal(t, "e", s.Epoch)
		require.Equal(t, uint64(7), s.Version)
		require.Len(t, s.Records, 2)
		require.Equal(t, breaker.Open, s.Records[breaker.Key{Name: "b", Upstream: "u"}].State)
		closed := s.Records[breaker.Key{Name: "b", Upstream: "other"}]
		require.Equal(t, breaker.Closed, closed.State)
		require.Equal(t, uint64(3), closed.ClosedAt)
		require.Equal(t, breaker.ReasonProbeSucceeded, closed.Reason)
	}
	s, err := breaker.WireReadSnapshot([]string{"e 0"})
	require.NoError(t, err)
	require.Empty(t, s.Records)
}

func TestAMalformedSnapshotIsAnError(t *testing.T) {
	t.Parallel()
	for _, lines := range [][]string{
		nil,
		{},
		{""},
		{"e"},
		{"e "},
		{"e x"},
		{"e -1"},
		{"e 1 2"},
		{"e 1", ""},
		{"e 1", "c"},
		{"e 1", "c "},
		{"e 1", "c 1 r reset"},
		{"e 1", "e 5 7 O 7 1000 1 0 N -1 3 r failures 4 b"},
	} {
		_, err := breaker.WireReadSnapshot(lines)
		require.Error(t, err, "%q", lines)
	}
}

func TestAReplyIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	r, err := breaker.WireReadReply([]any{"denied", "1500", "line"})
	require.NoError(t, err)
	require.Equal(t, breaker.Reply{Verdict: "denied", Wait: 1500 * time.Millisecond, Lines: []string{"line"}}, r)
	r, err = breaker.WireReadReply([]any{"denied", "-1", "a", "b"})
	require.NoError(t, err)
	require.Negative(t, r.Wait, "nobody knows")
	require.Len(t, r.Lines, 2)
	for _, values := range [][]any{
		nil,
		{},
		{"granted"},
		{"granted", "0"},
		{"granted", "", "line"},
		{"granted", "x", "line"},
		{"granted", "1.5", "line"},
		{"granted", int64(0), "line"},
		{"granted", "0", nil},
		{"granted", "0", []any{"line"}},
		{int64(1), "0", "line"},
		{"denied", "9223372036854775807", "line"},
		{"denied", "-9223372036854775808", "line"},
		{"denied", "-2", "line"},
	} {
		_, err := breaker.WireReadReply(values)
		require.Error(t, err, "%q", values)
	}
}

func TestADurationIsRoundedUpToMilliseconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]int64{
		0: 0, 1: 1, time.Millisecond - 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Hour: 3_600_000,
		math.MaxInt64: math.MaxInt64/int64(time.Millisecond) + 1,
	} {
		require.Equal(t, want, breaker.WireMillis(d), "%d ns", d)
	}
}

// wireKeys are names as they come in configurations and tokens.
var wireKeys = map[string]breaker.Key{
	"billing@10.0.0.1:80":             {Name: "billing", Upstream: "10.0.0.1:80"},
	"billing@[::1]:80":                {Name: "billing", Upstream: "[::1]:80"},
	"billing@unix//run/a%20b.sock":    {Name: "billing", Upstream: "unix//run/a b.sock"},
	"billing@unix/%40abstract":        {Name: "billing", Upstream: "unix/@abstract"},
	"billing@%40abstract":             {Name: "billing", Upstream: "@abstract"},
	"a.b-c_D9@u@7":                    {Name: "a.b-c_D9", Upstream: "u", Tenant: "7"},
	"b@u@a%40b.example":               {Name: "b", Upstream: "u", Tenant: "a@b.example"},
	"b@u@100%25":                      {Name: "b", Upstream: "u", Tenant: "100%"},
	"b@u@%2540":                       {Name: "b", Upstream: "u", Tenant: "%40"},
	"b@u@two%0Alines":                 {Name: "b", Upstream: "u", Tenant: "two\nlines"},
	"b@u@\xff\x00\t\r{x}ü":            {Name: "b", Upstream: "u", Tenant: "\xff\x00\t\r{x}ü"},
	"b@":                              {Name: "b"},
	"b@@t":                            {Name: "b", Tenant: "t"},
	"b@[fe80::1%25eth0]:80":           {Name: "b", Upstream: "[fe80::1%eth0]:80"},
	"b@unix+h2c//a%25b@%40%40%20%25x": {Name: "b", Upstream: "unix+h2c//a%b", Tenant: "@@ %x"},
}

func TestACircuitsIDNamesItAlone(t *testing.T) {
	t.Parallel()
	for id, key := range wireKeys {
		require.Equal(t, id, breaker.WireWriteID(key))
		got, err := breaker.WireReadID(id)
		require.NoError(t, err)
		require.Equal(t, key, got)
	}
	for _, id := range []string{"", "b", "b@u@t@x", "b@@@"} {
		_, err := breaker.WireReadID(id)
		require.Error(t, err, id)
	}
}

func TestEveryKeyComesBackFromItsID(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		odd := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOf(rapid.OneOf(
				rapid.SampledFrom([]string{"%", "@", " ", "\n", "%40", "%25", "2", "{", "}", ":", "/"}), rapid.String(),
				rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			)).Draw(t, "parts"), "")
		})
		key := breaker.Key{
			Name:     rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,63}`).Draw(t, "name"),
			Upstream: odd.Draw(t, "upstream"), Tenant: odd.Draw(t, "tenant"),
		}
		id := breaker.WireWriteID(key)
		got, err := breaker.WireReadID(id)
		require.NoError(t, err)
		require.Equal(t, key, got)
		require.NotContains(t, id, " ")
		require.NotContains(t, id, "\n")
		other := key
		other.Upstream, other.Tenant = other.Upstream+"@"+other.Tenant, ""
		if other != key {
			require.NotEqual(t, id, breaker.WireWriteID(other))
		}
	})
}

// sane fails unless a record that was read could have been written.
func sane(t *testing.T, r breaker.WireRecord) {
	t.Helper()
	require.LessOrEqual(t, r.State, breaker.HalfOpen)
	require.LessOrEqual(t, r.Forced, breaker.ForcedClosed)
	for _, d := range []time.Duration{r.Remaining, r.ForcedFor} {
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.LessOrEqual(t, d, breaker.WireMaxMillis*time.Millisecond)
	}
	for _, n := range []int{r.Trips, r.Good, r.Failures} {
		require.GreaterOrEqual(t, n, 0)
		require.LessOrEqual(t, n, math.MaxInt32)
	}
	require.NotContains(t, r.Origin, " ")
	again, err := breaker.WireReadID(breaker.WireWriteID(r.Key))
	if !strings.ContainsRune(r.Key.Name, '@') {
		require.NoError(t, err)
		require.Equal(t, r.Key, again)
	}
}

func FuzzRecord(f *testing.F) {
	for line := range wireRecords {
		f.Add(line)
	}
	f.Add("1800000000123 aaaaaaaaaaaa probe_succeeded billing@u@a%20tenant")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		if r, err := breaker.WireReadRecord(line); err == nil {
			sane(t, r)
		}
		if r, err := breaker.WireReadClosing(line); err == nil {
			sane(t, r)
			require.Equal(t, r.Version, r.ClosedAt)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	all := []string{"0a1b2c3d4e5f 1800000000123"}
	for line := range wireRecords {
		all = append(all, line)
	}
	f.Add(strings.Join(all, "\n") + "\nc 4 r reset b@u")
	f.Add("e 7\nc 4 r reset b@u\ne 5 7 O 7 1000 1 0 N -1 3 r failures 4 b@u")
	f.Add("e 0")
	f.Add("e 7\nc ")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		s, err := breaker.WireReadSnapshot(lines)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(s.Records), len(lines)-1)
		for key, r := range s.Records {
			require.Equal(t, key, r.Key)
			sane(t, r)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add("granted", "0", "e 5 7 H 7 0 1 0 N -1 0 r place_free 7 b@u", byte(0))
	f.Add("denied", "1500", "e 5 7 H 7 0 1 0 N -1 0 r place_free 7 b@u", byte(0))
	f.Add("denied", "-1", "e 5 7 C 7 0 0 0 O 59999 0 r forced 7 b@u", byte(0))
	f.Add("sync", "0", "e 7", byte(1))
	f.Add("denied", "9223372036854775807", "", byte(2))
	f.Fuzz(func(t *testing.T, verdict, wait, line string, kind byte) {
		values := []any{verdict, wait, line}
		switch kind % 5 {
		case 1:
			values = append(values, line, verdict)
		case 2:
			values = append(values, int64(kind))
		case 3:
			values = values[:kind%3]
		case 4:
			values[kind%3] = nil
		}
		r, err := breaker.WireReadReply(values)
		if err != nil {
			return
		}
		require.NotEmpty(t, r.Lines)
		require.GreaterOrEqual(t, r.Wait, -time.Millisecond)
		require.LessOrEqual(t, r.Wait, breaker.WireMaxMillis*time.Millisecond)
		require.Equal(t, verdict, r.Verdict)
	})
}

func FuzzCircuitID(f *testing.F) {
	for id, key := range wireKeys {
		f.Add(id, key.Upstream, key.Tenant)
	}
	f.Fuzz(func(t *testing.T, id, upstream, tenant string) {
		if key, err := breaker.WireReadID(id); err == nil {
			again, err := breaker.WireReadID(breaker.WireWriteID(key))
			require.NoError(t, err)
			require.Equal(t, key, again)
		}
		key := breaker.Key{Name: "billing", Upstream: upstream, Tenant: tenant}
		got, err := breaker.WireReadID(breaker.WireWriteID(key))
		require.NoError(t, err)
		require.Equal(t, key, got)
	})
}
