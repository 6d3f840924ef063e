package tracecontext_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/tracecontext"
)

// The grammar as the specification writes it, to judge the parser by.
var (
	traceparentGrammar = regexp.MustCompile(`^(?:00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})|[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-(?s:.)*)?)$`)
	memberGrammar      = regexp.MustCompile(`^[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$`)
)

func FuzzTraceparent(f *testing.F) {
	for _, requests := range w3cSuite() {
		for _, r := range requests {
			for _, line := range r.headers {
				_, value, _ := strings.Cut(line, ": ")
				f.Add(value)
			}
		}
	}
	f.Fuzz(func(t *testing.T, value string) {
		trimmed := strings.Trim(value, " \t")
		want := traceparentGrammar.MatchString(trimmed) && !strings.HasPrefix(trimmed, "ff") &&
			(!strings.HasPrefix(trimmed, "00") || len(trimmed) == 55) &&
			trimmed[3:35] != strings.Repeat("0", 32) && trimmed[36:52] != strings.Repeat("0", 16)
		parsed, ok := tracecontext.ParseTraceparent(value)
		require.Equal(t, want, ok, "%q", value)

		out := tracecontext.Start(http.Header{"Traceparent": {value}}, tracecontext.Options{Trusted: true})
		require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]$`, out.Traceparent())
		if ok {
			require.Equal(t, parsed.TraceID, out.TraceID)
			again, ok := tracecontext.ParseTraceparent(parsed.Traceparent())
			require.True(t, ok)
			require.Equal(t, parsed, again)
		}
	})
}

func FuzzTracestate(f *testing.F) {
	for _, requests := range w3cSuite() {
		for _, r := range requests {
			for _, line := range r.headers {
				if name, value, _ := strings.Cut(line, ": "); name == "tracestate" {
					f.Add(value, "")
				}
			}
		}
	}
	f.Add("a=1", "a=2,b=3")
	f.Fuzz(func(t *testing.T, first, second string) {
		got := tracecontext.ParseTracestate([]string{first, second})
		var want []string
		keys := map[string]bool{}
		members := 0
		for _, member := range strings.Split(first+","+second, ",") {
			member = strings.Trim(member, " \t")
			if member == "" {
				continue
			}
			if members++; members > 32 || !memberGrammar.MatchString(member) {
				want = nil
				break
			}
			key, _, _ := strings.Cut(member, "=")
			if !keys[key] {
				want = append(want, member)
			}
			keys[key] = true
		}
		require.Equal(t, strings.Join(want, ","), got)
		require.Equal(t, got, tracecontext.ParseTracestate([]string{got}), "parsing is idempotent")
	})
}

func FuzzNamedTrace(f *testing.F) {
	f.Add(hexID)
	f.Add(uuidID)
	f.Add(strings.Repeat("-", 36))
	grammar := regexp.MustCompile(`^(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})$`)
	f.Fuzz(func(t *testing.T, value string) {
		want := strings.ToLower(strings.ReplaceAll(value, "-", ""))
		valid := grammar.MatchString(value) && strings.Trim(want, "0") != ""
		trace := tracecontext.Start(http.Header{"X-Trace-Id": {value}}, tracecontext.Options{})
		require.Regexp(t, "^[0-9a-f]{32}$", trace.TraceID)
		if valid {
			require.Equal(t, want, trace.ClientTraceID)
		} else {
			require.Empty(t, trace.ClientTraceID)
		}
	})
}
