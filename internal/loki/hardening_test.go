package loki_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// hostile is a line that somebody has a hand in, for example by a path, and what
// Loki is to make of its fields.
type hostile struct {
	line            string
	level, trace, x string
	shortened       bool
}

// Loki refuses a whole request for one entry that it can't read, and the lines of
// others with it.
func hostileLines() []hostile {
	x := strings.Repeat("x", 3000)
	longest := `{"level":"info","msg":"` + strings.Repeat("é", 127_900) + `"}`
	longest = longest[:len(longest)-2] + strings.Repeat("y", 250<<10-len(longest)) + `"}`
	lines := []hostile{
		{line: `{"level":"a\"} |= \"","trace_id":"\"}"}`, level: `a"} |= "`, trace: `"}`},
		{line: `{"level":"a\\","trace_id":"\\"}`, level: `a\`, trace: `\`},
		{line: `{"level":"a\nb\r\tc","trace_id":"a\nb"}`, level: "a\nb\r\tc", trace: "a\nb"},
		{line: `{"level":"a\u0000b\u0007\u001f\u007f","trace_id":"\u0000"}`, level: "a\x00b\x07\x1f\x7f", trace: "\x00"},
		{line: `{"level":"a\u2028\u200b\u00a0😀\udbff\udfff","trace_id":"😀"}`, level: "a\u2028\u200b\u00a0😀\U0010ffff", trace: "😀"},
		{line: `{"level":"\ud83d","trace_id":"\ud83dx"}`, level: "?", trace: "\ufffdx"},
		{line: "{\"level\":\"\xff\xfe\",\"trace_id\":\"\xc3\"}", level: "??", trace: "\ufffd"},
		{line: "{\"level\":\"\ufffd\"}", level: "?"},
		{line: `{"level":"` + x + `","trace_id":"` + x + `"}`, level: x[:2048], trace: x[:1024]},
		{line: `{"level":" ","trace_id":" "}`, level: " ", trace: " "},
		{line: `{"level":"","trace_id":""}`},
		{line: `{"level":{"a":1},"trace_id":["a"]}`},
		{line: `{"level":-1.5e3,"trace_id":true}`, level: "-1.5e3", trace: "true"},
		{line: `{`},
		{line: "\x00"},
		{line: "no JSON, but \xff"},
		{line: longest, level: "info"},
		{line: longest + " ", level: "info", shortened: true},
		{line: `{"level":"info","trace_id":"t","msg":"` + strings.Repeat("\\\"", 500_000), level: "info", trace: "t", shortened: true},
	}
	for i := range 120 { // more values than one label may have
		lines = append(lines, hostile{line: fmt.Sprintf(`{"x":"%d\"\\"}`, i), x: fmt.Sprintf(`%d"\`, i)})
	}
	return lines
}

func TestLokiTakesWhateverALineHolds(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) lokitest.Loki{
		"fake": func(t *testing.T) lokitest.Loki { t.Helper(); return lokitest.NewFake(t) },
		"real": func(t *testing.T) lokitest.Loki { t.Helper(); return lokitest.Start(t, lokitest.Config{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			s, _ := open(t, t.TempDir(), server.URL(), func(_ *loki.Options, s *loki.Settings) {
				s.Tenant.Static = "acme"
				s.Labels = []loki.Label{
					{Name: "service", Value: loki.Value{Static: `s"\`}},
					{Name: "level", Value: loki.Value{Field: "level"}},
					{Name: "x", Value: loki.Value{Field: "x"}},
				}
				s.Metadata = []string{"trace_id", "user_id"}
			})
			before, lines := time.Now(), hostileLines()
			for _, l := range lines {
				_, err := s.Write([]byte(l.line))
				require.NoError(t, err)
			}
			flush(t, s)
			stats := s.Stats()
			require.EqualValues(t, len(lines), stats.AcknowledgedLines)
			require.Empty(t, stats.RejectedLines)
			require.Empty(t, stats.DroppedLines)
			require.EqualValues(t, 2, stats.TruncatedLines)
			require.Equal(t, map[string]int64{"x": 20}, stats.OverflowedValues)

			entries := server.Query(t, "acme", `{service="s\"\\"}`, before, time.Now().Add(time.Second))
			require.Len(t, entries, len(lines))
			for i, e := range entries {
				lines[i].check(t, e)
			}
			checkLargest(t, s, server)
		})
	}
}

// checkLargest ships a line with as many labels and as much metadata as there can be.
func checkLargest(t *testing.T, s *loki.Shipper, server lokitest.Loki) {
	t.Helper()
	value := strings.Repeat("é", 2000)
	settings := loki.Settings{URL: server.URL(), Tenant: loki.Value{Static: "largest"}, BatchWait: time.Millisecond}
	var members []string
	for i := range 15 {
		name := fmt.Sprintf("label_%d", i)
		settings.Labels = append(settings.Labels, loki.Label{Name: name, Value: loki.Value{Field: name}})
		members = append(members, fmt.Sprintf("%q:%q", name, value))
	}
	for i := range 16 {
		settings.Metadata = append(settings.Metadata, fmt.Sprintf("metadata_%d", i))
		members = append(members, fmt.Sprintf("%q:%q", settings.Metadata[i], value))
	}
	require.NoError(t, s.Update(settings))
	before := time.Now()
	_, err := s.Write([]byte("{" + strings.Join(members, ",") + "}"))
	require.NoError(t, err)
	flush(t, s)
	require.Empty(t, s.Stats().RejectedLines)
	entries := server.Query(t, "largest", `{label_0=~".+"}`, before, time.Now().Add(time.Second))
	require.Len(t, entries, 1)
	require.Len(t, entries[0].Labels, 15)
	require.Equal(t, value[:2048], entries[0].Labels["label_14"])
	require.Len(t, entries[0].Metadata, 16)
	require.Equal(t, value[:1024], entries[0].Metadata["metadata_15"])
}

func TestMetadataThatLokiWouldRename(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"_": false, "__": false, "a__b": false, "a_b": true, "_a": true, "a_": true} {
		_, err := loki.Settings{URL: "http://localhost", Metadata: []string{name}}.Complete()
		if ok {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, fmt.Sprintf("metadata %q", name))
		}
	}
}

func (h hostile) check(t *testing.T, e lokitest.Entry) {
	t.Helper()
	if h.shortened {
		require.Contains(t, e.Line, `"truncated_bytes":`)
		require.LessOrEqual(t, len(e.Line), 250<<10)
	} else {
		require.Equal(t, string([]rune(h.line)), e.Line)
	}
	labels, metadata := map[string]string{"service": `s"\`}, map[string]string{}
	set := func(m map[string]string, name, value string) {
		if value != "" {
			m[name] = value
		}
	}
	set(labels, "level", h.level)
	set(labels, "x", h.x)
	set(metadata, "trace_id", h.trace)
	if e.Labels["x"] == "other" {
		labels["x"], metadata["x_value"] = "other", h.x
	}
	require.Equal(t, labels, e.Labels)
	for name, value := range metadata { // Loki has a space instead of U+FFFD
		metadata[name] = strings.ReplaceAll(value, "\ufffd", " ")
	}
	for name, value := range e.Metadata {
		e.Metadata[name] = strings.ReplaceAll(value, "\ufffd", " ")
	}
	require.Equal(t, metadata, e.Metadata)
}
