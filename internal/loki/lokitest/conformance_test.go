package lokitest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

type line struct {
	age      time.Duration
	text     string
	metadata map[string]string
}

type stream struct {
	labels map[string]string
	lines  []line
}

func one(label string, lines ...line) stream {
	return stream{map[string]string{"a": label}, lines}
}

func many(n int, l line) []line {
	lines := make([]line, n)
	for i := range lines {
		lines[i] = l
		lines[i].age -= time.Duration(i) // no two are the same
	}
	return lines
}

func pairs(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m["n"+strconv.Itoa(i)] = "v"
	}
	return m
}

// jsonOf returns the JSON form of a push.
func jsonOf(t *testing.T, now time.Time, streams ...stream) []byte {
	t.Helper()
	type wire struct {
		Stream map[string]string `json:"stream"`
		Values [][]any           `json:"values"`
	}
	out := []wire{}
	for _, s := range streams {
		w := wire{Stream: s.labels, Values: [][]any{}}
		for _, l := range s.lines {
			value := []any{strconv.FormatInt(now.Add(-l.age).UnixNano(), 10), l.text}
			if l.metadata != nil {
				value = append(value, l.metadata)
			}
			w.Values = append(w.Values, value)
		}
		out = append(out, w)
	}
	body, err := json.Marshal(map[string]any{"streams": out})
	require.NoError(t, err)
	return body
}

// protobufOf returns the protobuf form of a push of one line of now.
func protobufOf(labels, text string) []byte {
	field := func(number int, value string) string {
		head := binary.AppendUvarint([]byte{byte(number<<3 | 2)}, uint64(len(value)))
		return string(head) + value
	}
	now := string(binary.AppendUvarint([]byte{1 << 3}, uint64(time.Now().Unix())))
	return s2.EncodeSnappy(nil, []byte(field(1, field(1, labels)+field(2, field(1, now)+field(2, text)))))
}

type response struct {
	status int
	header http.Header
	body   string
}

func request(t *testing.T, method, url string, header map[string]string, body []byte) response {
	t.Helper()
	got, err := tryRequest(t, method, url, header, body)
	require.NoError(t, err)
	return got
}

// tryRequest is request for a server that may end the connection.
func tryRequest(t *testing.T, method, url string, header map[string]string, body []byte) (response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	require.NoError(t, err)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	got, err := client.Do(r)
	if err != nil {
		return response{}, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	return response{got.StatusCode, got.Header, string(text)}, err
}

const pushPath = "/loki/api/v1/push"

// One configuration for the rates and one for the rest: in the first nothing larger
// gets through.
var (
	normal = lokitest.Config{}
	tight  = lokitest.Config{Limits: map[string]string{
		"ingestion_rate_mb": "0.1", "ingestion_burst_size_mb": "0.2",
		"per_stream_rate_limit": "20KB", "per_stream_rate_limit_burst": "40KB", "max_global_streams_per_user": "3",
	}}
)

// onBoth runs a test on a fake, and on the real Loki if it is there.
func onBoth(t *testing.T, c lokitest.Config, test func(t *testing.T, loki lokitest.Loki)) {
	t.Helper()
	t.Run("the fake", func(t *testing.T) {
		t.Parallel()
		fake := lokitest.NewFake(t)
		fake.RequireTenant()
		if c.Limits != nil {
			limits := lokitest.DefaultLimits()
			limits.Rate, limits.Burst = 104_857, 209_715
			limits.StreamRate, limits.StreamBurst = 20<<10, 40<<10
			limits.Streams = 3
			fake.SetLimits(limits)
		}
		test(t, fake)
	})
	t.Run("the real one", func(t *testing.T) {
		t.Parallel()
		test(t, lokitest.Start(t, c))
	})
}

func TestAPushIsAnsweredAsLokiDoes(t *testing.T) {
	t.Parallel()
	const (
		hour, day = time.Hour, 24 * time.Hour
		tooOld    = `timestamp too old: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, oldest acceptable timestamp is: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`
		ignored   = `entry with timestamp \S+ \S+ \+0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: \S+Z, oldest acceptable timestamp is: \S+Z',\n`
		slow      = `entry with timestamp \S+ \S+ \+0000 UTC ignored, reason: 'Per stream rate limit exceeded \(limit: 20KB/sec\) while attempting to ingest for stream '\{a="1"\}' totaling 1000B, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased',\n`
		fullOf    = `maximum active stream limit exceeded when trying to create stream \{a="%s"\}, reduce the number of active streams \(reduce labels or reduce label values\), or contact your Loki administrator to see if the limit can be increased, user: '%s'`
	)
	protobuf := map[string]string{"Content-Type": "application/x-protobuf"}
	kilobyte := strings.Repeat("x", 1000)
	cases := []struct {
		name    string
		tight   bool
		before  []stream // pushed and taken before
		streams []stream
		header  map[string]string
		body    []byte // instead of the streams
		status  int
		text    string   // a pattern of the whole body, but for its last newline
		stored  []string // the first bytes of the lines that are there afterwards
	}{
		{name: "lines", streams: []stream{one("1", line{text: "x"}, line{text: "y", metadata: pairs(3)}), one("2", line{text: "z"})}, status: 204, stored: []string{"x", "y", "z"}},
		{name: "the same twice", before: []stream{one("1", line{age: hour, text: "x"}, line{text: "y"})}, streams: []stream{one("1", line{age: hour, text: "x"}, line{text: "y"})}, status: 204, stored: []string{"x", "y"}},
		{name: "one time and other metadata", streams: []stream{one("1", line{text: "x", metadata: pairs(1)}, line{text: "x", metadata: pairs(2)})}, status: 204, stored: []string{"x", "x"}},
		{name: "no entries", streams: []stream{one("1")}, status: 204},
		{name: "no streams", status: 422, text: "error at least one valid stream is required for ingestion"},
		{name: "no streams in protobuf", header: protobuf, body: []byte{0}, status: 422, text: "error at least one valid stream is required for ingestion"},

		{name: "broken JSON", body: []byte("{"), status: 400, text: ".+"},
		{name: "an empty body", body: []byte{}, status: 400, text: ".+"},
		{name: "a number as time", body: []byte(`{"streams":[{"stream":{"a":"1"},"values":[[1,"x"]]}]}`), status: 400, text: "(?s).+"},
		{name: "a number as metadata", body: []byte(`{"streams":[{"stream":{"a":"1"},"values":[["1","x",{"n":1}]]}]}`), status: 400, text: "(?s).+"},
		{name: "broken snappy", header: protobuf, body: []byte("garbage"), status: 400, text: "snappy: corrupt input"},
		{name: "no snappy", header: protobuf, body: []byte{}, status: 400, text: "snappy: corrupt input"},
		{name: "broken protobuf", header: protobuf, body: s2.EncodeSnappy(nil, []byte("garbage")), status: 400, text: "proto: .+"},
		{name: "cut protobuf", header: protobuf, body: s2.EncodeSnappy(nil, []byte{1<<3 | 2, 9, 1}), status: 400, text: "unexpected EOF"},
		{name: "another encoding", header: map[string]string{"Content-Encoding": "zstd"}, streams: []stream{one("1", line{text: "x"})}, status: 400, text: `Content-Encoding "zstd" not supported`},
		{name: "a bad label name", streams: []stream{one("1", line{text: "x"}), {map[string]string{"a-b": "1"}, []line{{text: "y"}}}}, status: 400, text: "couldn't parse labels: .+"},

		{name: "text that is not UTF-8 in a label", header: protobuf, body: protobufOf("{a=\"\xff\"}", "x"), status: 400, text: "couldn't parse labels: .+"},
		{name: "text that is not UTF-8 in a line", header: protobuf, body: protobufOf(`{a="1"}`, "x\xff"), status: 204, stored: []string{"x"}},
		{name: "a label twice", header: protobuf, body: protobufOf(`{a="1", a="2"}`, "x"), status: 400, text: `stream '\{a="1", a="2"\}' has duplicate label name: 'a'`},
		{name: "an expression as labels", header: protobuf, body: protobufOf(`{a=~"1"}`, "x"), status: 400, text: "couldn't parse labels: .+"},
		{name: "more than labels", header: protobuf, body: protobufOf(`{a="1"} |= "x"`, "x"), status: 400, text: "couldn't parse labels: .+"},

		{name: "no labels", streams: []stream{{map[string]string{}, []line{{text: "x"}}}, one("1", line{text: "y"})}, status: 400, text: "error at least one label pair is required per stream", stored: []string{"y"}},
		{name: "too many labels", streams: []stream{{pairs(16), []line{{text: "x"}, {text: "y"}}}, one("1", line{text: "z"})}, status: 400, text: `entry for stream '\{n0="v", .*\}' has 16 label names; limit 15`, stored: []string{"z"}},
		{name: "a long label name", streams: []stream{{map[string]string{strings.Repeat("n", 1025): "v"}, []line{{text: "x"}}}, one("1", line{text: "z"})}, status: 400, text: `stream '\{n+="v"\}' has label name too long: 'n+'`, stored: []string{"z"}},
		{name: "a long label value", streams: []stream{one(strings.Repeat("v", 2049), line{text: "x"}), one("1", line{text: "z"})}, status: 400, text: `stream '\{a="v+"\}' has label value too long: 'v+'`, stored: []string{"z"}},
		{name: "a long line", streams: []stream{one("1", line{text: strings.Repeat("x", 256<<10+1)}, line{text: "y"}), one("2", line{text: strings.Repeat("z", 256<<10)})}, status: 400, text: `max entry size '262144' bytes exceeded for stream '\{a="1"\}' while adding an entry with length '262145' bytes`, stored: []string{"y", "z"}},
		{name: "large metadata", streams: []stream{one("1", line{text: "x", metadata: map[string]string{"m": strings.Repeat("v", 64<<10)}}, line{text: "y"})}, status: 400, text: "stream '\\{a=\"1\"\\}' has structured metadata too large: '65537' bytes, limit: '65536' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it", stored: []string{"y"}},
		{name: "much metadata", streams: []stream{one("1", line{text: "x", metadata: pairs(129)}, line{text: "y"})}, status: 400, text: "stream '\\{a=\"1\"\\}' has too many structured metadata labels: '129', limit: '128'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it", stored: []string{"y"}},
		{name: "a metadata name without a letter", streams: []stream{one("1", line{text: "x"}, line{text: "y", metadata: map[string]string{"_": "v"}})}, status: 500, text: `normalization for label name "_" resulted in invalid name "_"`},
		{name: "an old line", streams: []stream{one("1", line{age: 8 * day, text: "x"}, line{text: "y"}), one("2", line{text: "z"})}, status: 400, text: `entry for stream '\{a="1"\}' has ` + tooOld, stored: []string{"y", "z"}},
		{name: "nothing but an old line", streams: []stream{one("1", line{age: 8 * day, text: "x"})}, status: 400, text: `entry for stream '\{a="1"\}' has ` + tooOld},
		{name: "old lines of one time", streams: []stream{one("1", many(3, line{age: 8*day - time.Millisecond, text: "x"})...)}, status: 400, text: `3 errors like: entry for stream '\{a="1"\}' has ` + tooOld},
		{name: "old lines of two times", streams: []stream{one("1", line{age: 8 * day, text: "x"}, line{age: 9 * day, text: "x"})}, status: 400, text: `1 errors like: entry for stream '\{a="1"\}' has ` + tooOld + `; 1 errors like: entry for stream '\{a="1"\}' has ` + tooOld},
		{name: "a new line", streams: []stream{one("1", line{age: -hour, text: "x"}, line{text: "y"})}, status: 400, text: `entry for stream '\{a="1"\}' has timestamp too new: \S+Z`, stored: []string{"y"}},

		{name: "a line that is far behind", before: []stream{one("1", line{text: "x"})}, streams: []stream{one("1", line{age: 2 * hour, text: "y"}, line{text: "z"})}, status: 400, text: ignored + `user 'T', total ignored: 1 out of 2 for stream: \{a="1"\}`, stored: []string{"x", "z"}},
		{name: "lines that are behind, but not far", before: []stream{one("1", line{text: "x"})}, streams: []stream{one("1", line{age: hour - time.Minute, text: "y"})}, status: 204, stored: []string{"y", "x"}},
		{name: "many lines that are far behind", before: []stream{one("1", line{text: "x"})}, streams: []stream{one("1", many(12, line{age: 2 * hour, text: "y"})...)}, status: 400, text: "(" + ignored + `){10}user 'T', total ignored: 12 out of 12 for stream: \{a="1"\}`, stored: []string{"x"}},
		{name: "far behind and old", before: []stream{one("1", line{text: "x"})}, streams: []stream{one("1", line{age: 2 * hour, text: "y"}, line{age: 8 * day, text: "y"}, line{text: "z"})}, status: 400, text: ignored + `user 'T', total ignored: 1 out of 2 for stream: \{a="1"\}`, stored: []string{"x", "z"}},
		{name: "far behind, then another stream: nothing is said", before: []stream{one("1", line{text: "x"})}, streams: []stream{one("1", line{age: 2 * hour, text: "y"}), one("2", line{text: "z"})}, status: 204, stored: []string{"x", "z"}},
		{name: "another stream, then far behind", before: []stream{one("1", line{text: "x"})}, streams: []stream{one("2", line{text: "z"}), one("1", line{age: 2 * hour, text: "y"})}, status: 400, text: ignored + `user 'T', total ignored: 1 out of 1 for stream: \{a="1"\}`, stored: []string{"x", "z"}},

		{name: "no tenant", header: map[string]string{"X-Scope-OrgID": ""}, streams: []stream{one("1", line{text: "x"})}, status: 401, text: "no org id"},
		{name: "a bad tenant", header: map[string]string{"X-Scope-OrgID": "a/b"}, streams: []stream{one("1", line{text: "x"})}, status: 400, text: "tenant ID 'a/b' contains unsupported character '/'"},
		{name: "two tenants", header: map[string]string{"X-Scope-OrgID": "a|b"}, streams: []stream{one("1", line{text: "x"})}, status: 400, text: "multiple org IDs present"},
		{name: "a long tenant", header: map[string]string{"X-Scope-OrgID": strings.Repeat("a", 151)}, streams: []stream{one("1", line{text: "x"})}, status: 400, text: "tenant ID is too long: max 150 characters"},
		{name: "a folder as tenant", header: map[string]string{"X-Scope-OrgID": ".."}, streams: []stream{one("1", line{text: "x"})}, status: 400, text: `tenant ID is '.' or '..'`},

		{name: "more than the tenant's burst", tight: true, streams: []stream{one("1", many(250, line{text: kilobyte})...)}, status: 429, text: "ingestion rate limit exceeded for user T \\(limit: 104857 bytes/sec\\) while attempting to ingest '250' lines totaling '250000' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased"},
		{name: "more than the stream's burst", tight: true, streams: []stream{one("2", line{text: "x"}), one("1", many(50, line{text: kilobyte})...)}, status: 429, text: "(" + slow + `){10}user 'T', total ignored: 50 out of 50 for stream: \{a="1"\}`, stored: []string{"x"}},
		{name: "more than the stream's burst, then another: nothing is said", tight: true, streams: []stream{one("1", many(50, line{text: kilobyte})...), one("2", line{text: "x"})}, status: 204, stored: []string{"x"}},
		{name: "too many streams", tight: true, streams: []stream{one("1", line{text: "x"}), one("2", line{text: "x"}), one("3", line{text: "x"}), one("4", line{text: "y"})}, status: 429, text: fmt.Sprintf(fullOf, "4", "T"), stored: []string{"x", "x", "x"}},
		{name: "too many streams, then a known one: nothing is said", tight: true, before: []stream{one("1", line{text: "x"}), one("2", line{text: "x"}), one("3", line{text: "x"})}, streams: []stream{one("4", line{text: "y"}), one("1", line{text: "z"})}, status: 204, stored: []string{"x", "x", "x", "z"}},
	}
	for kind, config := range map[string]lokitest.Config{"usual limits": normal, "tight limits": tight} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			onBoth(t, config, func(t *testing.T, loki lokitest.Loki) {
				for i, c := range cases {
					if c.tight != (config.Limits != nil) {
						continue
					}
					t.Run(c.name, func(t *testing.T) {
						tenant := fmt.Sprintf("tenant-%d", i)
						now := time.Now()
						header := map[string]string{"Content-Type": "application/json", "X-Scope-OrgID": tenant}
						if c.before != nil {
							got := request(t, "POST", loki.URL()+pushPath, header, jsonOf(t, now, c.before...))
							require.Equal(t, 204, got.status, got.body)
						}
						for name, value := range c.header {
							header[name] = value
						}
						body := c.body
						if body == nil {
							body = jsonOf(t, now, c.streams...)
						}
						got := request(t, "POST", loki.URL()+pushPath, header, body)
						require.Equal(t, c.status, got.status, got.body)
						require.Regexp(t, "^"+strings.ReplaceAll(c.text, "'T'", "'"+tenant+"'")+"\n?$", strings.ReplaceAll(got.body, "user "+tenant+" ", "user T "))
						require.Empty(t, got.header.Get("Retry-After"))
						var stored []string
						for _, e := range loki.Query(t, tenant, `{a=~".+"}`, now.Add(-10*24*time.Hour), now.Add(2*time.Hour)) {
							stored = append(stored, e.Line[:1])
						}
						require.ElementsMatch(t, c.stored, stored)
					})
				}
			})
		})
	}
}

func TestARequestToAnotherPlace(t *testing.T) {
	t.Parallel()
	onBoth(t, normal, func(t *testing.T, loki lokitest.Loki) {
		header := map[string]string{"X-Scope-OrgID": "a"}
		require.Equal(t, 404, request(t, "POST", loki.URL()+pushPath+"x", header, nil).status)
		require.Equal(t, 404, request(t, "POST", loki.URL()+pushPath+"/", header, nil).status)
		require.Contains(t, []int{404, 405}, request(t, "GET", loki.URL()+pushPath, header, nil).status, "Loki's router gives the one or the other")
		require.Equal(t, 401, request(t, "GET", loki.URL()+"/loki/api/v1/query_range?query=%7Ba%3D%221%22%7D", nil, nil).status)
		require.Equal(t, "ready\n", request(t, "GET", loki.URL()+"/ready", nil, nil).body)
	})
}

// A server that does not want to read all of a body answers and closes the
// connection, so that the client may see only that.
func TestABodyThatIsTooLarge(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	random := make([]byte, 2*limit)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	body := s2.EncodeSnappy(nil, random)
	header := map[string]string{"Content-Type": "application/x-protobuf", "X-Scope-OrgID": "a"}
	test := func(t *testing.T, loki lokitest.Loki) {
		// It ends the connection before it has read everything, so who is still
		// sending may find it broken in place of the answer.
		var got response
		err := errors.New("not asked")
		for try := 0; err != nil && try < 50; try++ {
			got, err = tryRequest(t, "POST", loki.URL()+pushPath, header, body)
		}
		require.NoError(t, err)
		require.Equal(t, 413, got.status, got.body)
		require.Contains(t, got.body, "request body too large: ")
	}
	t.Run("the fake", func(t *testing.T) {
		t.Parallel()
		fake := lokitest.NewFake(t)
		limits := lokitest.DefaultLimits()
		limits.BodyBytes = limit
		fake.SetLimits(limits)
		test(t, fake)
	})
	t.Run("the real one", func(t *testing.T) {
		t.Parallel()
		test(t, lokitest.Start(t, lokitest.Config{Options: []string{"-distributor.max-recv-msg-size=" + strconv.Itoa(limit)}}))
	})
}

func TestQueries(t *testing.T) {
	t.Parallel()
	onBoth(t, normal, func(t *testing.T, loki lokitest.Loki) {
		now := time.Now()
		header := map[string]string{"Content-Type": "application/json", "X-Scope-OrgID": "acme"}
		push := func(streams ...stream) {
			got := request(t, "POST", loki.URL()+pushPath, header, jsonOf(t, now, streams...))
			require.Equal(t, 204, got.status, got.body)
		}
		push(
			stream{map[string]string{"service": "gateway", "env": "test"}, []line{
				{age: 3 * time.Second, text: "first", metadata: map[string]string{"trace_id": "1", "user": "ada"}},
				{age: time.Second, text: "third", metadata: map[string]string{"trace_id": "1"}},
			}},
			stream{map[string]string{"service": "auth", "env": "test"}, []line{
				{age: 2 * time.Second, text: "second", metadata: map[string]string{"trace_id": "1"}},
				{age: 0, text: "fourth \"quoted\"", metadata: map[string]string{"trace_id": "2"}},
			}},
		)
		ask := func(logql string) (lines []string) {
			for _, e := range loki.Query(t, "acme", logql, now.Add(-time.Hour), now.Add(time.Hour)) {
				lines = append(lines, strings.Fields(e.Line)[0])
			}
			return lines
		}
		require.Equal(t, []string{"first", "second", "third", "fourth"}, ask(`{env="test"}`))
		require.Equal(t, []string{"first", "second", "third"}, ask(`{env="test"} | trace_id="1"`))
		require.Equal(t, []string{"first", "third"}, ask(`{env="test", service="gateway"} | trace_id="1"`))
		require.Equal(t, []string{"first"}, ask("{env=`test`} | trace_id=\"1\" | user=~\"a.*\""))
		require.Equal(t, []string{"second", "fourth"}, ask(`{env="test",service!="gateway"}`))
		require.Equal(t, []string{"fourth"}, ask(`{env="test"} |= "\"quoted\""`))
		require.Equal(t, []string{"first", "second", "fourth"}, ask(`{env="test"} != "thi"`))
		require.Equal(t, []string{"fourth"}, ask(`{env=~"t.*", service!~"gate.*"} | trace_id!="1"`))
		require.Empty(t, ask(`{env="other"}`))

		entries := loki.Query(t, "acme", `{service="gateway"}`, now.Add(-3*time.Second), now.Add(-time.Second))
		require.Equal(t, []lokitest.Entry{{
			Time: now.Add(-3 * time.Second).UTC().Round(0), Line: "first",
			Labels: map[string]string{"service": "gateway", "env": "test"}, Metadata: map[string]string{"trace_id": "1", "user": "ada"},
		}}, entries, "the end is not included")

		for _, bad := range []string{`{}`, `{env="test"`, `{env="test"} | `, `env`, `{env="test"} nonsense`, `{env=~"("}`, ``} {
			got := request(t, "GET", loki.URL()+"/loki/api/v1/query_range?query="+strings.NewReplacer(" ", "%20", "{", "%7B", "}", "%7D", "|", "%7C", `"`, "%22").Replace(bad), header, nil)
			require.Equal(t, 400, got.status, bad)
		}
	})
}

func TestAQueryReturnsMoreThanAPage(t *testing.T) {
	t.Parallel()
	onBoth(t, normal, func(t *testing.T, loki lokitest.Loki) {
		const count = 12_345
		now := time.Now()
		var streams [3]stream
		for i := range streams {
			streams[i] = one(strconv.Itoa(i))
		}
		for i := range count {
			s := &streams[i%3]
			// Three lines at a time.
			s.lines = append(s.lines, line{age: time.Hour - time.Duration(i/3)*time.Millisecond, text: strconv.Itoa(i)})
		}
		header := map[string]string{"Content-Type": "application/json", "X-Scope-OrgID": "acme"}
		got := request(t, "POST", loki.URL()+pushPath, header, jsonOf(t, now, streams[:]...))
		require.Equal(t, 204, got.status, got.body)
		seen := map[string]bool{}
		entries := loki.Query(t, "acme", `{a=~".+"}`, now.Add(-2*time.Hour), now)
		for i, e := range entries {
			seen[e.Line] = true
			require.False(t, i > 0 && e.Time.Before(entries[i-1].Time))
		}
		require.Len(t, entries, count)
		require.Len(t, seen, count)
	})
}

func TestLinesOutliveACrash(t *testing.T) {
	t.Parallel()
	onBoth(t, normal, func(t *testing.T, loki lokitest.Loki) {
		now := time.Now()
		header := map[string]string{"Content-Type": "application/json", "X-Scope-OrgID": "acme"}
		got := request(t, "POST", loki.URL()+pushPath, header, jsonOf(t, now, one("1", line{text: "x"})))
		require.Equal(t, 204, got.status, got.body)
		url := loki.URL()
		loki.Kill()
		_, err := (&http.Client{Timeout: time.Second}).Get(url + "/ready")
		require.Error(t, err)
		loki.Restart(t)
		require.Equal(t, url, loki.URL())
		require.Len(t, loki.Query(t, "acme", `{a="1"}`, now.Add(-time.Hour), now.Add(time.Hour)), 1)

		loki.Freeze()
		client := &http.Client{Timeout: 50 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
		_, err = client.Get(url + "/ready")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		loki.Thaw()
		require.Equal(t, 200, request(t, "GET", url+"/ready", nil, nil).status)
		loki.Freeze()
		loki.Kill()
	})
}
