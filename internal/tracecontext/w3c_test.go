package tracecontext_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

const (
	w3cTrace  = "12345678901234567890123456789012"
	w3cParent = "1234567890123456"
	parent00  = "00-" + w3cTrace + "-" + w3cParent + "-00"
	parent01  = "00-" + w3cTrace + "-" + w3cParent + "-01"
)

// request is one request of the W3C test harness and what must come out of it.
type request struct {
	// headers are "name: value" lines as sent.
	headers []string
	// keeps says that the trace must be continued; otherwise it must be new.
	keeps bool
	// state is the tracestate that must be sent on.
	state string
	// flags, if not empty, are the trace-flags that must be sent on.
	flags string
}

// TestW3CTraceContextSuite holds the 41 tests of the test harness of
// github.com/w3c/trace-context (test/test.py, level 2) under their names: what
// each sends, and what each expects of the outgoing headers.
func TestW3CTraceContextSuite(t *testing.T) {
	t.Parallel()
	suite := w3cSuite()
	require.Len(t, suite, 41)
	for name, requests := range suite {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parents := map[string]bool{}
			for _, r := range requests {
				out := runW3C(t, r)
				require.False(t, parents[out.SpanID], "a parent-id was used twice")
				parents[out.SpanID] = true
			}
		})
	}
}

func runW3C(t *testing.T, r request) tracecontext.Trace {
	t.Helper()
	in := make(http.Header)
	for _, line := range r.headers {
		name, value, _ := strings.Cut(line, ": ")
		in.Add(name, value)
	}
	out := make(http.Header)
	tracecontext.Start(in, tracecontext.Options{Trusted: true}).Inject(out)

	sent, ok := tracecontext.FromHeader(out)
	require.True(t, ok, "the outgoing traceparent is valid: %v", out)
	require.True(t, strings.HasPrefix(out.Get("traceparent"), "00-"))
	require.NotEqual(t, w3cParent, sent.SpanID)
	if r.keeps {
		require.Equal(t, w3cTrace, sent.TraceID, "%v", r.headers)
	} else {
		for _, line := range r.headers {
			require.NotContains(t, line, sent.TraceID)
		}
	}
	require.Equal(t, r.state, out.Get("tracestate"), "%v", r.headers)
	if r.flags != "" {
		require.True(t, strings.HasSuffix(out.Get("traceparent"), "-"+r.flags), out.Get("traceparent"))
	}
	return sent
}

// fresh are requests whose traceparent must be ignored.
func fresh(traceparents ...string) []request {
	var requests []request
	for _, p := range traceparents {
		requests = append(requests, request{headers: []string{"traceparent: " + p}})
	}
	return requests
}

// continued are requests whose traceparent must be followed.
func continued(traceparents ...string) []request {
	requests := fresh(traceparents...)
	for i := range requests {
		requests[i].keeps = true
	}
	return requests
}

// state is a request with a valid traceparent and tracestate headers.
func state(want string, headers ...string) request {
	r := request{headers: []string{"traceparent: " + parent00}, keeps: true, state: want}
	for _, h := range headers {
		r.headers = append(r.headers, "tracestate: "+h)
	}
	return r
}

func bars(from, to int) string {
	var members []string
	for i := from; i <= to; i++ {
		n := strconv.Itoa(100 + i)[1:]
		members = append(members, "bar"+n+"="+n)
	}
	return strings.Join(members, ",")
}

func named(names ...string) []request {
	var requests []request
	for _, name := range names {
		requests = append(requests, request{headers: []string{name}})
	}
	return requests
}

func w3cSuite() map[string][]request {
	suite := map[string][]request{
		// AdvancedTest: a test's requests must all have different parent-ids.
		"test_multiple_requests_with_valid_traceparent":   continued(parent01, parent01, parent01),
		"test_multiple_requests_without_traceparent":      {{}, {}, {}},
		"test_multiple_requests_with_illegal_traceparent": fresh("00-00000000000000000000000000000000-1234567890123456-01", "00-00000000000000000000000000000000-1234567890123456-01", "00-00000000000000000000000000000000-1234567890123456-01"),
		// TraceContext2Test.
		"test_propagates_random_flag": {{headers: []string{"traceparent: 00-" + w3cTrace + "-" + w3cParent + "-02"}, keeps: true, flags: "02"}},
	}
	w3cTraceparent(suite)
	w3cTracestate(suite)
	return suite
}

// w3cTraceparent adds the tests of traceparent of class TraceContextTest.
func w3cTraceparent(suite map[string][]request) {
	suite["test_both_traceparent_and_tracestate_missing"] = []request{{}}
	suite["test_traceparent_included_tracestate_missing"] = continued(parent01)
	suite["test_traceparent_duplicated"] = []request{{headers: []string{
		"traceparent: 00-12345678901234567890123456789011-1234567890123456-01", "traceparent: " + parent01,
	}}}
	suite["test_traceparent_header_name"] = named("trace-parent: "+parent01, "trace.parent: "+parent01)
	suite["test_traceparent_header_name_valid_casing"] = []request{
		{headers: []string{"TraceParent: " + parent01}, keeps: true},
		{headers: []string{"TrAcEpArEnT: " + parent01}, keeps: true},
		{headers: []string{"TRACEPARENT: " + parent01}, keeps: true},
	}
	rest := "-12345678901234567890123456789012-1234567890123456-01"
	suite["test_traceparent_version_0x00"] = fresh("00"+rest+".", "00"+rest+"-what-the-future-will-be-like")
	suite["test_traceparent_version_0xcc"] = append(continued("cc"+rest, "cc"+rest+"-what-the-future-will-be-like"),
		fresh("cc"+rest+".what-the-future-will-be-like")...)
	suite["test_traceparent_version_0xff"] = fresh("ff" + rest)
	suite["test_traceparent_version_illegal_characters"] = fresh(".0"+rest, "0."+rest)
	suite["test_traceparent_version_too_long"] = fresh("000"+rest, "0000"+rest)
	suite["test_traceparent_version_too_short"] = fresh("0" + rest)
	suite["test_traceparent_trace_id_all_zero"] = fresh("00-00000000000000000000000000000000-1234567890123456-01")
	suite["test_traceparent_trace_id_illegal_characters"] = fresh("00-.2345678901234567890123456789012-1234567890123456-01", "00-1234567890123456789012345678901.-1234567890123456-01")
	suite["test_traceparent_trace_id_too_long"] = fresh("00-123456789012345678901234567890123-1234567890123456-01")
	suite["test_traceparent_trace_id_too_short"] = fresh("00-1234567890123456789012345678901-1234567890123456-01")
	suite["test_traceparent_parent_id_all_zero"] = fresh("00-" + w3cTrace + "-0000000000000000-01")
	suite["test_traceparent_parent_id_illegal_characters"] = fresh("00-"+w3cTrace+"-.234567890123456-01", "00-"+w3cTrace+"-123456789012345.-01")
	suite["test_traceparent_parent_id_too_long"] = fresh("00-" + w3cTrace + "-12345678901234567-01")
	suite["test_traceparent_parent_id_too_short"] = fresh("00-" + w3cTrace + "-123456789012345-01")
	suite["test_traceparent_trace_flags_illegal_characters"] = fresh("00-"+w3cTrace+"-"+w3cParent+"-.0", "00-"+w3cTrace+"-"+w3cParent+"-0.")
	suite["test_traceparent_trace_flags_too_long"] = fresh("00-" + w3cTrace + "-" + w3cParent + "-001")
	suite["test_traceparent_trace_flags_too_short"] = fresh("00-" + w3cTrace + "-" + w3cParent + "-1")
	suite["test_traceparent_ows_handling"] = continued(" "+parent01, "\t"+parent01, parent01+" ", parent01+"\t", "\t "+parent01+" \t")
}

// w3cTracestate adds the tests of tracestate of class TraceContextTest.
func w3cTracestate(suite map[string][]request) {
	suite["test_tracestate_included_traceparent_missing"] = named("tracestate: foo=1", "tracestate: foo=1,bar=2")
	suite["test_tracestate_included_traceparent_included"] = []request{state("foo=1,bar=2", "foo=1,bar=2")}
	suite["test_tracestate_header_name"] = []request{
		{headers: []string{"traceparent: " + parent00, "trace-state: foo=1"}, keeps: true},
		{headers: []string{"traceparent: " + parent00, "trace.state: foo=1"}, keeps: true},
	}
	suite["test_tracestate_header_name_valid_casing"] = []request{
		{headers: []string{"traceparent: " + parent00, "TraceState: foo=1"}, keeps: true, state: "foo=1"},
		{headers: []string{"traceparent: " + parent00, "TrAcEsTaTe: foo=1"}, keeps: true, state: "foo=1"},
		{headers: []string{"traceparent: " + parent00, "TRACESTATE: foo=1"}, keeps: true, state: "foo=1"},
	}
	suite["test_tracestate_empty_header"] = []request{state("", ""), state("foo=1", "foo=1", ""), state("foo=1", "", "foo=1")}
	suite["test_tracestate_multiple_headers_different_keys"] = []request{
		state("foo=1,bar=2,rojo=1,congo=2,baz=3", "foo=1,bar=2", "rojo=1,congo=2", "baz=3"),
	}
	// The suite lets an implementation keep duplicates or drop one of them.
	suite["test_tracestate_duplicated_keys"] = []request{
		state("foo=1", "foo=1,foo=1"), state("foo=1", "foo=1,foo=2"), state("foo=1", "foo=1", "foo=1"), state("foo=1", "foo=1", "foo=2"),
	}
	var value strings.Builder
	for c := byte(0x20); c <= 0x7e; c++ {
		if c != ',' && c != '=' {
			value.WriteByte(c)
		}
	}
	key := "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
	plain, vendor := key+"="+value.String(), key+"@a-z0-9_-*/="+value.String()
	suite["test_tracestate_all_allowed_characters"] = []request{state(plain, plain), state(vendor, vendor)}
	suite["test_tracestate_ows_handling"] = []request{
		state("foo=1,bar=2,baz=3", "foo=1 \t , \t bar=2, \t baz=3"),
		state("foo=1,bar=2,baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3"),
		state("foo=1", " foo=1"), state("foo=1", "\tfoo=1"), state("foo=1", "foo=1 "), state("foo=1", "foo=1\t"), state("foo=1", "\t foo=1 \t"),
	}
	suite["test_tracestate_key_illegal_characters"] = []request{state("", "foo =1"), state("", "FOO=1"), state("", "foo.bar=1")}
	suite["test_tracestate_key_illegal_vendor_format"] = []request{
		state("foo@=1,bar=2", "foo@=1,bar=2"), state("", "@foo=1,bar=2"),
		state("foo@@bar=1,bar=2", "foo@@bar=1,bar=2"), state("foo@bar@baz=1,bar=2", "foo@bar@baz=1,bar=2"),
	}
	suite["test_tracestate_member_count_limit"] = []request{
		state(bars(1, 32), bars(1, 10), bars(11, 20), bars(21, 30), bars(31, 32)),
		state("", bars(1, 10), bars(11, 20), bars(21, 30), bars(31, 33)),
	}
	long := func(n int) string { return strings.Repeat("z", n) + "=1" }
	tenant := strings.Repeat("t", 241) + "@" + strings.Repeat("v", 14) + "=1"
	suite["test_tracestate_key_length_limit"] = []request{
		state("foo=1,"+long(256), "foo=1", long(256)), state("", "foo=1", long(257)), state("foo=1,"+tenant, "foo=1", tenant),
		state("foo=1,"+strings.Repeat("t", 242)+"@v=1", "foo=1", strings.Repeat("t", 242)+"@v=1"),
		state("foo=1,t@"+strings.Repeat("v", 15)+"=1", "foo=1", "t@"+strings.Repeat("v", 15)+"=1"),
	}
	suite["test_tracestate_value_illegal_characters"] = []request{state("", "foo=bar=baz"), state("", "foo=,bar=3")}
}
