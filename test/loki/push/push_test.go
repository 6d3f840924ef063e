// Package push_test reads what the shipper sends to Loki with Loki's own package.
package push_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/grafana/loki/pkg/push"
	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/loki"
)

// start is the time of the first line; each further one is a nanosecond later.
var start = time.Unix(1_795_000_000, 123_456_789).UTC()

// receiver keeps what is pushed. It refuses what is not, byte for byte, what Loki's
// package makes of the same streams.
type receiver struct {
	mu      sync.Mutex
	streams []push.Stream
	fault   error
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	streams, err := decode(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams = append(r.streams, streams...)
	if err != nil {
		r.fault = err
	}
	w.WriteHeader(http.StatusNoContent)
}

func decode(body io.Reader) ([]push.Stream, error) {
	compressed, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	raw, err := s2.Decode(nil, compressed)
	if err != nil {
		return nil, err
	}
	var request push.PushRequest
	if err := request.Unmarshal(raw); err != nil {
		return nil, err
	}
	again, err := request.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(raw, again) {
		return nil, fmt.Errorf("the shipper sent\n%x, Loki's package makes\n%x of it", raw, again)
	}
	return request.Streams, nil
}

// take returns what has come since the last time.
func (r *receiver) take(t *testing.T) []push.Stream {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	streams := r.streams
	r.streams = nil
	require.NoError(t, r.fault)
	return streams
}

func ship(tb testing.TB, s loki.Settings) (*loki.Shipper, *receiver) {
	tb.Helper()
	r := new(receiver)
	server := httptest.NewServer(r)
	tb.Cleanup(server.Close)
	s.URL, s.BatchWait = server.URL, time.Millisecond
	o := loki.Options{Dir: tb.TempDir(), Sync: loki.SyncNever, Service: "test", Diagnostics: io.Discard, Clock: clock.NewFake(start)}
	shipper, err := loki.Open(o, s)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, shipper.Close(context.Background())) })
	return shipper, r
}

// send ships lines and waits until they are there.
func send(t *testing.T, s *loki.Shipper, lines ...string) {
	t.Helper()
	for _, line := range lines {
		_, err := s.Write([]byte(line))
		require.NoError(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Flush(ctx))
}

func entry(n int, line string, metadata ...push.LabelAdapter) push.Entry {
	return push.Entry{Timestamp: start.Add(time.Duration(n)), Line: line, StructuredMetadata: metadata}
}

func TestLokisPackageReadsWhatWasWritten(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 40_000)
	level := func(v string) string { return `{level=` + strconv.Quote(v) + `, service="s"}` }
	none := `{service="s"}`
	for name, c := range map[string]struct {
		lines []string
		want  []push.Stream
	}{
		"a line": {
			[]string{`{"level":"info","trace_id":"t1","user_id":7}` + "\n"},
			[]push.Stream{{Labels: level("info"), Entries: []push.Entry{entry(0, `{"level":"info","trace_id":"t1","user_id":7}`,
				push.LabelAdapter{Name: "trace_id", Value: "t1"}, push.LabelAdapter{Name: "user_id", Value: "7"})}}},
		},
		"two streams": {
			[]string{`{"level":"info","n":1}`, `{"level":"warn","n":2}`, `{"level":"info","n":3}`},
			[]push.Stream{
				{Labels: level("info"), Entries: []push.Entry{entry(0, `{"level":"info","n":1}`), entry(2, `{"level":"info","n":3}`)}},
				{Labels: level("warn"), Entries: []push.Entry{entry(1, `{"level":"warn","n":2}`)}},
			},
		},
		"empty lines": {
			[]string{"", "\n", "{}"},
			[]push.Stream{{Labels: none, Entries: []push.Entry{entry(0, ""), entry(1, ""), entry(2, "{}")}}},
		},
		"no JSON": {
			[]string{"panic: oh no", "\tmain.go:7"},
			[]push.Stream{{Labels: none, Entries: []push.Entry{entry(0, "panic: oh no"), entry(1, "\tmain.go:7")}}},
		},
		"bytes that are no UTF-8": {
			[]string{"{\"level\":\"\xff\",\"trace_id\":\"\xc3\"}", "\xe2\x82"},
			[]push.Stream{
				{Labels: level("?"), Entries: []push.Entry{entry(0, "{\"level\":\"\ufffd\",\"trace_id\":\"\ufffd\"}",
					push.LabelAdapter{Name: "trace_id", Value: "\ufffd"})}},
				{Labels: none, Entries: []push.Entry{entry(1, "\ufffd\ufffd")}},
			},
		},
		"odd labels": {
			[]string{`{"level":"a\"b\\c\nd\u0000e"}`, `{"level":"{}, =~\u2028"}`},
			[]push.Stream{
				{Labels: level("a\"b\\c\nd\x00e"), Entries: []push.Entry{entry(0, `{"level":"a\"b\\c\nd\u0000e"}`)}},
				{Labels: level("{}, =~\u2028"), Entries: []push.Entry{entry(1, `{"level":"{}, =~\u2028"}`)}},
			},
		},
		"huge values": {
			[]string{`{"level":"` + long + `","trace_id":"` + long + `"}`},
			[]push.Stream{{Labels: level(long[:2048]), Entries: []push.Entry{entry(0, `{"level":"`+long+`","trace_id":"`+long+`"}`,
				push.LabelAdapter{Name: "trace_id", Value: long[:1024]})}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, r := ship(t, loki.Settings{
				Labels:   []loki.Label{{Name: "service", Value: loki.Value{Static: "s"}}, {Name: "level", Value: loki.Value{Field: "level"}}},
				Metadata: []string{"trace_id", "user_id"},
			})
			send(t, s, c.lines...)
			require.Equal(t, c.want, r.take(t))
		})
	}
}

// oneLabel are settings by which every line tells what became of its fields.
var oneLabel = loki.Settings{
	Labels:   []loki.Label{{Name: "level", Value: loki.Value{Field: "level", Static: "none"}}},
	Metadata: []string{"trace_id"},
}

// FuzzPush compares what arrives with what encoding/json reads in the lines.
func FuzzPush(f *testing.F) {
	f.Add([]byte("{\"level\":\"info\",\"trace_id\":\"t1\"}\n{\"level\":3,\"trace_id\":null}\n\nno JSON\n{\"level\":\"\\ud800\\n\"}\n\xff"))
	f.Add([]byte(`{"level":"a\"b","level":"c\\d","trace_id":{"level":"x"}}`))
	f.Add([]byte(`{"level":"other","trace_id":false}`))
	s, r := ship(f, oneLabel)
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 200<<10 {
			t.Skip("lines that are too long are cut")
		}
		lines := strings.Split(string(text), "\n")
		send(t, s, lines...)
		check(t, lines, arrived(r.take(t)))
	})
}

// TestRandomLines does the same with many lines at once, most of which are JSON.
func TestRandomLines(t *testing.T) {
	t.Parallel()
	s, r := ship(t, oneLabel)
	random := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		lines := make([]string, 1000)
		objects := 0
		for i := range lines {
			lines[i] = randomLine(random)
			if _, ok := parse(lines[i]); ok {
				objects++
			}
		}
		require.Greater(t, objects, len(lines)/2)
		send(t, s, lines...)
		check(t, lines, arrived(r.take(t)))
	}
}

// randomLine returns an object, with a fault in one of ten.
func randomLine(r *rand.Rand) string {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	text := func() string {
		s := ""
		for range r.IntN(6) {
			s += pick("a", "warn", `\"`, `\\`, `\/`, `\n`, `\u0000`, `\u00e9`, `\ud83d`, `\ude00`, "é", "😀", "\u2028", "{", "}", "[", ",", ":", " ", "\xff", "\xe2\x82", "\ufffd")
		}
		return `"` + s + `"`
	}
	value := func() string {
		switch r.IntN(10) {
		case 0:
			return pick("null", "true", "false", "0", "-1.50e+3", "42")
		case 1:
			return `{"level":` + text() + `,"trace_id":[{}]}`
		case 2:
			return `[` + text() + `,"]"]`
		case 3:
			return `"` + strings.Repeat(pick("x", "é", "😀"), r.IntN(3000)) + `"`
		}
		return text()
	}
	var members []string
	for range r.IntN(5) {
		name := pick(`"level"`, `"trace_id"`, `"\u006cevel"`, `"trace\u005fid"`, `"levels"`, `"msg"`, text())
		members = append(members, name+pick(":", " : ", "\t:")+value())
	}
	line := pick("{", " { ") + strings.Join(members, pick(",", " , ")) + pick("}", " }\t")
	if r.IntN(10) == 0 {
		line = line[:r.IntN(len(line))]
	}
	return line
}

// check compares what arrived with the lines that were sent.
func check(t *testing.T, lines []string, got []shipped) {
	t.Helper()
	require.Len(t, got, len(lines))
	for i, g := range got {
		require.Equal(t, string([]rune(lines[i])), g.Line, "U+FFFD stands for what is no UTF-8")
		if i > 0 {
			require.True(t, g.Timestamp.After(got[i-1].Timestamp))
		}
		if object, ok := parse(lines[i]); ok {
			checkLabels(t, g, cmp.Or(object["level"], "none"))
			require.Equal(t, cutText(object["trace_id"], 1024), g.metadata("trace_id"), "of %s", lines[i])
		}
	}
}

// checkLabels checks that the level is the label, or metadata if there were too many.
func checkLabels(t *testing.T, g shipped, level string) {
	t.Helper()
	if g.labels == `{level="other"}` && level != "other" {
		require.Equal(t, cutText(level, 1024), g.metadata("level_value"))
		return
	}
	want := strings.ReplaceAll(cutText(level, 2048), "\ufffd", "?")
	require.Equal(t, "{level="+strconv.Quote(want)+"}", g.labels)
}

// shipped is an entry with the labels of its stream.
type shipped struct {
	push.Entry
	labels string
}

func (s shipped) metadata(name string) string {
	for _, m := range s.StructuredMetadata {
		if m.Name == name {
			return m.Value
		}
	}
	return ""
}

// arrived returns the entries of all streams in order of time, but not those about
// the shipping itself.
func arrived(streams []push.Stream) (all []shipped) {
	for _, s := range streams {
		for _, e := range s.Entries {
			if !strings.Contains(e.Line, `"logger":"loki","msg":"log shipping"`) {
				all = append(all, shipped{e, s.Labels})
			}
		}
	}
	slices.SortFunc(all, func(a, b shipped) int { return a.Timestamp.Compare(b.Timestamp) })
	return all
}

// parse returns the texts, numbers and booleans of a JSON object.
func parse(line string) (object map[string]string, ok bool) {
	d := json.NewDecoder(strings.NewReader(line))
	d.UseNumber()
	var raw map[string]any
	if !json.Valid([]byte(line)) || d.Decode(&raw) != nil || raw == nil {
		return nil, false
	}
	object = map[string]string{}
	for name, value := range raw {
		switch value.(type) {
		case string, json.Number, bool:
			object[name] = fmt.Sprint(value)
		}
	}
	return object, true
}

// cutText returns the beginning of s of at most n bytes, in whole runes.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
