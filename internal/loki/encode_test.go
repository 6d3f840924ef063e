package loki

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	e.apply(Settings{
		Labels:   []Label{{"level", Value{Field: "level"}}, {"env", Value{Static: "test"}}},
		Metadata: []string{"trace_id", "user_id"}, Tenant: Value{Field: "tenant_id", Static: "ours"},
	})
	lines := []string{
		`{"level":"info","trace_id":"t1","user_id":"u1","tenant_id":"acme"}`,
		`{"level":"warn","trace_id":"t1","user_id":null,"tenant_id":"acme"}`,
		`{"level":"info","trace_id":""}`,
		`{"level":"info","user_id":7,"tenant_id":"acme"}`,
		``,
		`no JSON`,
	}
	for i, line := range lines {
		require.False(t, e.add(int64(1000+i), []byte(line)))
	}
	require.Equal(t, []pushedChunk{
		{
			tenant: "acme", oldest: 1000, newest: 1003, streams: []pushedStream{
				{`{env="test", level="info"}`, []pushedEntry{
					{1000, lines[0], []string{"trace_id", "t1", "user_id", "u1"}},
					{1003, lines[3], []string{"user_id", "7"}},
				}},
				{`{env="test", level="warn"}`, []pushedEntry{{1001, lines[1], []string{"trace_id", "t1"}}}},
			},
		},
		{
			tenant: "ours", oldest: 1002, newest: 1005, streams: []pushedStream{
				{`{env="test", level="info"}`, []pushedEntry{{1002, lines[2], nil}}},
				{`{env="test"}`, []pushedEntry{{1004, "", nil}, {1005, "no JSON", nil}}},
			},
		},
	}, flushed(t, e))
	require.Empty(t, flushed(t, e), "all is gone")

	require.False(t, e.add(2000, []byte(lines[1])))
	again := flushed(t, e)
	require.Len(t, again, 1)
	require.Equal(t, []pushedEntry{{2000, lines[1], []string{"trace_id", "t1"}}}, again[0].streams[0].entries)
}

func TestNewSettingsAreForLinesFromNowOn(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	e.apply(Settings{Labels: []Label{{"a", Value{Field: "a"}}}, Metadata: []string{"b"}})
	e.add(1, []byte(`{"a":"1","b":"2","c":"3"}`))
	e.apply(Settings{Labels: []Label{{"c", Value{Field: "c"}}}, Metadata: []string{"a"}, Tenant: Value{Field: "b"}})
	e.add(2, []byte(`{"a":"1","b":"2","c":"3"}`))
	chunks := flushed(t, e)
	require.Len(t, chunks, 2)
	require.Empty(t, chunks[0].tenant)
	require.Equal(t, `{a="1"}`, chunks[0].streams[0].labels)
	require.Equal(t, []string{"b", "2"}, chunks[0].streams[0].entries[0].metadata)
	require.Equal(t, "2", chunks[1].tenant)
	require.Equal(t, `{c="3"}`, chunks[1].streams[0].labels)
	require.Equal(t, []string{"a", "1"}, chunks[1].streams[0].entries[0].metadata)
}

func TestFullChunksKeepTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 8 << 10
	for name, line := range map[string]func(i int) string{
		"one stream":   func(i int) string { return fmt.Sprintf(`{"level":"info","n":%d}`, i) },
		"many streams": func(i int) string { return fmt.Sprintf(`{"level":"%d"}`, i%90) },
		"many tenants": func(i int) string { return fmt.Sprintf(`{"tenant_id":"%d"}`, i%90) },
		"longer lines": func(int) string { return `{"msg":"` + strings.Repeat("x", 900) + `"}` },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEncoder(limit)
			e.apply(Settings{Labels: DefaultLabels(), Tenant: Value{Field: "tenant_id"}})
			i := 0
			for !e.add(int64(i+1), []byte(line(i))) {
				i++
			}
			lines, size := 0, 0
			require.NoError(t, e.flush(func(_ string, f segment.Frame) error {
				lines += f.Lines
				size += len(f.Payload)
				return nil
			}))
			require.Equal(t, i+1, lines)
			require.LessOrEqual(t, size, limit)
			require.Greater(t, size, limit/2)
			require.False(t, e.add(int64(i+2), []byte(line(i))), "it has begun anew")
		})
	}
}

func TestAChunkThatWasNotTakenComesAgain(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	e.apply(Settings{Labels: DefaultLabels(), Tenant: Value{Field: "t"}})
	for i, tenant := range []string{"a", "b", "a", "c"} {
		e.add(int64(i+1), fmt.Appendf(nil, `{"t":%q,"n":%d}`, tenant, i))
	}
	full := errors.New("disk full")
	var got []pushedChunk
	take := func(failing string) error {
		return e.flush(func(tenant string, f segment.Frame) error {
			if tenant == failing {
				return full
			}
			got = append(got, readFrame(t, tenant, f))
			return nil
		})
	}
	require.ErrorIs(t, take("b"), full)
	e.add(10, []byte(`{"t":"a"}`))
	e.add(11, []byte(`{"t":"b"}`))
	require.ErrorIs(t, take("b"), full)
	require.NoError(t, take(""))

	var told []string
	for _, c := range got {
		times := ""
		for _, e := range c.streams[0].entries {
			times += fmt.Sprintf(" %d", e.ns)
		}
		told = append(told, c.tenant+times)
	}
	require.Equal(t, []string{"a 1 3", "b 2 11", "c 4", "a 10"}, told)
	require.Empty(t, flushed(t, e))
}

func TestLinesThatAreTooLong(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	e.apply(Settings{Labels: DefaultLabels(), Metadata: []string{"trace_id", "msg"}})
	head := `{"ts":"2026-11-23T16:04:05.123456Z","level":"error","service":"s","trace_id":"t\n1","user_id":7,"msg":"` +
		strings.Repeat("m", 2000) + `","stack":"`
	longest := head + strings.Repeat("x", maxLine-len(head)-2) + `"}`
	e.add(1, []byte(longest))
	require.Zero(t, e.truncated)
	e.add(2, []byte(longest+" "))
	e.add(3, []byte(head+strings.Repeat("\"é\xff", 300_000))) // without an end
	require.EqualValues(t, 2, e.truncated)

	chunk := flushed(t, e)[0]
	require.Len(t, chunk.streams, 1)
	require.Equal(t, `{level="error", service="s"}`, chunk.streams[0].labels)
	entries := chunk.streams[0].entries
	require.Equal(t, longest, entries[0].line)
	metadata := []string{"trace_id", "t\n1", "msg", strings.Repeat("m", 1024)}
	for i, original := range []string{longest + " ", string(appendValid(nil, []byte(head+strings.Repeat("\"é\xff", 300_000))))} {
		entry := entries[i+1]
		require.Equal(t, metadata, entry.metadata)
		require.LessOrEqual(t, len(entry.line), maxLine)
		require.Greater(t, len(entry.line), maxLine-40)
		var got struct {
			TS, Level, Service, Logger, Msg, Line string
			TraceID                               string `json:"trace_id"`
			UserID                                string `json:"user_id"`
			TruncatedBytes                        int    `json:"truncated_bytes"`
		}
		require.NoError(t, json.Unmarshal([]byte(entry.line), &got))
		require.Equal(t, original[:len(original)-got.TruncatedBytes], got.Line)
		require.Equal(t, []string{"2026-11-23T16:04:05.123456Z", "error", "s", "t\n1", "7"},
			[]string{got.TS, got.Level, got.Service, got.TraceID, got.UserID})
		require.Empty(t, got.Msg, "it is not short")
	}
}

func TestMetadataIsCutAtARune(t *testing.T) {
	t.Parallel()
	chunks := encode(t, Settings{Labels: DefaultLabels(), Metadata: []string{"m"}}, `{"m":"x`+strings.Repeat("é", 1000)+`"}`)
	require.Equal(t, []string{"m", "x" + strings.Repeat("é", 511)}, chunks[0].streams[0].entries[0].metadata)
}

func TestWhatIsNoUTF8IsReplaced(t *testing.T) {
	t.Parallel()
	chunks := encode(t, Settings{Labels: DefaultLabels(), Metadata: []string{"m"}}, "{\"m\":\"a\xff\xc3\",\"b\":\"\xe2\x82\"}", "\xff")
	require.Equal(t, []pushedEntry{
		{1, "{\"m\":\"a\ufffd\ufffd\",\"b\":\"\ufffd\ufffd\"}", []string{"m", "a\ufffd\ufffd"}},
		{2, "\ufffd", nil},
	}, chunks[0].streams[0].entries)
}

func TestStreamsOfThePastAreForgotten(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	e.apply(Settings{Labels: []Label{{"a", Value{Field: "a"}}, {"b", Value{Field: "b"}}}, Tenant: Value{Field: "t"}})
	for i := range 20 * maxStreams {
		if e.add(int64(i+1), fmt.Appendf(nil, `{"a":%d,"b":%d,"t":%d}`, i%90, i/90%90, i%7)) || i%500 == 0 {
			require.NoError(t, e.flush(func(string, segment.Frame) error { return nil }))
			require.LessOrEqual(t, len(e.streams), maxStreams)
		}
	}
}

func TestALineCostsNoAllocation(t *testing.T) {
	e := newEncoder(64 << 10)
	e.apply(benchSettings())
	lines, i := sampleLines(), 0
	add := func() {
		i++
		if e.add(int64(i), lines[i%len(lines)]) {
			require.NoError(t, e.flush(discard))
		}
	}
	for range 2000 {
		add()
	}
	require.Zero(t, testing.AllocsPerRun(2000, add))
}

// FuzzEncode sends lines all the way to the request and back.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("{\"level\":\"info\",\"trace_id\":\"t\",\"tenant_id\":\"acme\"}\n{\"level\":\"wa\\\"rn\"}\n\nno JSON\n\xff"), int64(1_795_000_000_123_456_789))
	f.Add([]byte(`{"level":null,"trace_id":1}`), int64(0))
	f.Fuzz(func(t *testing.T, text []byte, ns int64) {
		ns &= 1<<62 - 1
		e := newEncoder(4 << 10)
		e.apply(Settings{
			Labels:   []Label{{"level", Value{Field: "level"}}, {"service", Value{Field: "service", Static: "s"}}},
			Metadata: []string{"trace_id", "level_2"}, Tenant: Value{Field: "tenant_id", Static: "ours"},
		})
		want, got := map[int64]string{}, map[int64]string{}
		take := func() {
			for _, c := range flushed(t, e) {
				require.NoError(t, checkTenant(c.tenant))
				for _, s := range c.streams {
					require.Regexp(t, `^\{(level="([^"\\\n]|\\.)+", )?service="([^"\\\n]|\\.)+"\}$`, s.labels)
					require.NotContains(t, s.labels, "\ufffd")
					before := c.oldest - 1
					for _, entry := range s.entries {
						require.Greater(t, entry.ns, before, "in order of time")
						require.LessOrEqual(t, entry.ns, c.newest)
						before = entry.ns
						got[entry.ns] = entry.line
						require.True(t, utf8.ValidString(strings.Join(entry.metadata, "")))
					}
				}
			}
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			ns++
			want[ns] = string([]rune(line)) // as Go replaces what is no UTF-8
			if e.add(ns, []byte(line)) {
				take()
			}
		}
		take()
		require.Equal(t, want, got)
	})
}
