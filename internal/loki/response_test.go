package loki

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

const (
	oldText    = `entry for stream '{a="q"}' has timestamp too old: 2026-11-18T10:56:58Z, oldest acceptable timestamp is: 2026-11-19T10:56:58Z`
	behindText = "entry with timestamp 2026-11-26 08:56:58.69274368 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: 2026-11-26T08:56:58Z, oldest acceptable timestamp is: 2026-11-26T09:56:58Z',\n"
)

func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		body  string
		lines int
		want  map[string]int64 // nil: not told
	}{
		"one":                    {oldText + "\n", 5, map[string]int64{"greater_than_max_sample_age": 1}},
		"several of one text":    {"3 errors like: " + oldText + "\n", 5, map[string]int64{"greater_than_max_sample_age": 3}},
		"several texts":          {"2 errors like: " + oldText + "; 1 errors like: max entry size '262144' bytes exceeded for stream '{a=\"q\"}' while adding an entry with length '300000' bytes; 1 errors like: " + strings.ReplaceAll(oldText, "18T", "17T"), 5, map[string]int64{"greater_than_max_sample_age": 3, "line_too_long": 1}},
		"too new":                {`entry for stream '{a="q"}' has timestamp too new: 2026-11-26T11:56:58Z`, 1, map[string]int64{"too_far_in_future": 1}},
		"a label that lies":      {`2 errors like: entry for stream '{a="x'}; 9 errors like: max entry size \"}{"}' has timestamp too new: 2026-11-26T11:56:58Z`, 5, map[string]int64{"too_far_in_future": 2}},
		"metadata":               {"4 errors like: stream '{a=\"q\"}' has structured metadata too large: '70001' bytes, limit: '65536' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it; 1 errors like: stream '{a=\"q\"}' has too many structured metadata labels: '200', limit: '128'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it", 5, map[string]int64{"structured_metadata_too_large": 4, "structured_metadata_too_many": 1}},
		"no metadata allowed":    {"5 errors like: stream '{a=\"q\"}' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it", 5, map[string]int64{"disallowed_structured_metadata": 5}},
		"labels of all":          {`entry for stream '{a="1", b="2"}' has 17 label names; limit 15`, 5, map[string]int64{"max_label_names_per_series": 5}},
		"a label name":           {`stream '{a="1"}' has label name too long: 'a'`, 5, map[string]int64{"label_name_too_long": 5}},
		"a label value":          {`stream '{a="1"}' has label value too long: '1'`, 5, map[string]int64{"label_value_too_long": 5}},
		"labels that must be":    {`missing required labels 'env,team' for user 'acme' for stream '{a="1"}' (policy: '')`, 5, map[string]int64{"missing_enforced_labels": 5}},
		"far behind":             {behindText + `user 't1', total ignored: 1 out of 5 for stream: {a="far"}` + "\n", 5, map[string]int64{"too_far_behind": 1}},
		"more than are told":     {strings.Repeat(behindText, 10) + `user 't1', total ignored: 700 out of 1000 for stream: {a="far"}`, 1000, map[string]int64{"too_far_behind": 700}},
		"far behind, and others": {behindText + `user 't1', total ignored: 1 out of 3 for stream: {a="far"}`, 5, map[string]int64{"too_far_behind": 1, "other": 2}},
		"far behind in a shard":  {behindText + `user 't1', total ignored: 1 out of 3 for stream: {__stream_shard__="1", a="far"}`, 5, map[string]int64{"too_far_behind": 1}},
		"out of order":           {"entry with timestamp 2026-11-26 08:56:58 +0000 UTC ignored, reason: 'entry out of order',\nuser 't1', total ignored: 2 out of 5 for stream: {a=\"far\"}", 5, map[string]int64{"out_of_order": 2}},

		"more than there are":       {"6 errors like: " + oldText, 5, nil},
		"more than reached":         {behindText + `user 't1', total ignored: 1 out of 9 for stream: {a="far"}`, 5, nil},
		"an unknown reason":         {"entry with timestamp 2026-11-26 08:56:58 +0000 UTC ignored, reason: 'bad mood',\nuser 't1', total ignored: 2 out of 5 for stream: {a=\"far\"}", 5, nil},
		"a known and an unknown":    {"1 errors like: " + oldText + "; 1 errors like: something new", 5, nil},
		"bad labels":                {"couldn't parse labels: 1:3: parse error: unexpected character inside braces: '-'", 5, nil},
		"bad snappy":                {"snappy: corrupt input", 5, nil},
		"bad protobuf":              {"proto: illegal wireType 7", 5, nil},
		"a bad tenant":              {"tenant ID 'a/b' contains unsupported character '/'", 5, nil},
		"nothing":                   {"", 5, nil},
		"a page":                    {"<html><body>400 Bad Request</body></html>", 5, nil},
		"more than is read":         {strings.Repeat(oldText+"; ", maxAnswer/100), 1 << 30, nil},
		"a number that is too long": {"99999999999999999999 errors like: nothing", 5, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := []byte(c.body)
			v := parseResponse(400, nil, body[:min(len(body), maxAnswer+1)], now)
			counts, ok := v.count(c.lines)
			if c.want == nil {
				require.True(t, v.action == refuse || !ok)
				return
			}
			require.Equal(t, accept, v.action)
			require.True(t, v.lastStream)
			require.True(t, ok)
			require.Equal(t, c.want, counts)
		})
	}
}

func TestAnswersAskForWhatHelps(t *testing.T) {
	t.Parallel()
	const (
		tenantRate = "ingestion rate limit exceeded for user t1 (limit: 104857 bytes/sec) while attempting to ingest '250' lines totaling '%' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased"
		streamRate = "entry with timestamp 2026-11-26 11:02:30.47 +0000 UTC ignored, reason: 'Per stream rate limit exceeded (limit: 20KB/sec) while attempting to ingest for stream '{a=\"1\"}' totaling %, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased',\nuser 't1', total ignored: 50 out of 50 for stream: {a=\"1\"}"
	)
	page := http.Header{"Content-Type": {"text/html"}}
	for _, c := range []struct {
		status     int
		header     http.Header
		body       string
		want       action
		lastStream bool
		overLimit  bool
	}{
		{status: 204, want: accept},
		{status: 200, want: accept},
		{status: 200, header: page, want: park},
		{status: 206, want: park},
		{status: 260, want: park},
		{status: 301, want: park},
		{status: 401, body: "no org id", want: park},
		{status: 403, want: park},
		{status: 404, want: park},
		{status: 405, want: park},
		{status: 408, want: retry},
		{status: 413, want: split},
		{status: 422, want: park},
		{status: 425, want: retry},
		{status: 429, want: retry},
		{status: 429, body: strings.Replace(tenantRate, "%", "250000", 1), want: throttle, overLimit: true},
		{status: 429, body: strings.Replace(tenantRate, "%", "104857", 1), want: throttle},
		{status: 429, body: strings.Replace(streamRate, "%", "1000B", 1), want: throttle, lastStream: true},
		{status: 429, body: strings.Replace(streamRate, "%", "20481B", 1), want: throttle, lastStream: true, overLimit: true},
		{status: 429, body: strings.Replace(streamRate, "%", "1MB", 1), want: throttle, lastStream: true, overLimit: true},
		{status: 429, body: `maximum active stream limit exceeded when trying to create stream {a="4"}, reduce the number of active streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can be increased, user: 't4'`, want: exceed, lastStream: true},
		{status: 500, want: retry},
		{status: 502, header: page, want: retry},
		{status: 599, want: retry},
	} {
		v := parseResponse(c.status, c.header, []byte(c.body), now)
		require.Equal(t, c.want, v.action, c.status)
		require.Equal(t, c.lastStream, v.lastStream, c.body)
		require.Equal(t, c.overLimit, v.overLimit, c.body)
		require.Equal(t, c.status, v.status)
	}
}

func TestAnAnswerIsToldInShort(t *testing.T) {
	t.Parallel()
	require.Equal(t, "502 <html> <h1>Bad Gateway</h1> </html>", parseResponse(502, nil, []byte("<html>\r\n<h1>Bad\tGateway</h1>\x00\x1b\n</html>\xff"), now).text)
	long := parseResponse(500, nil, []byte(strings.Repeat("ä", 100_000)), now).text
	require.Len(t, long, len("500 ")+maxText+len("…"))
	require.True(t, utf8.ValidString(long))
	require.Equal(t, "503", strings.TrimSpace(parseResponse(503, nil, nil, now).text))
}

func FuzzParseResponse(f *testing.F) {
	f.Add(400, "", []byte("2 errors like: "+oldText+"; 1 errors like: "+oldText), 5)
	f.Add(400, "", []byte(strings.Repeat(behindText, 2)+`user 't1', total ignored: 2 out of 3 for stream: {a="far"}`), 5)
	f.Add(400, "", []byte(`entry for stream '{a="\"}"}' has 17 label names; limit 15`), 5)
	f.Add(429, "7", []byte("(limit: 20KB/sec) totaling '1' bytes Per stream rate limit exceeded"), 1)
	f.Add(429, "Wed, 21 Oct 2015 07:28:00 GMT", []byte("ingestion rate limit exceeded"), 1)
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte, lines int) {
		v := parseResponse(status, http.Header{"Retry-After": {retryAfter}}, body, now)
		require.True(t, utf8.ValidString(v.text))
		require.NotContains(t, v.text, "\n")
		require.LessOrEqual(t, len(v.text), maxText+30)
		require.GreaterOrEqual(t, v.wait, time.Duration(0))
		require.LessOrEqual(t, v.wait, maxRetryAfter)
		if v.action == accept {
			require.Contains(t, []int{200, 201, 202, 204, 400}, status)
		}
		if counts, ok := v.count(lines); ok && lines > 0 {
			sum := int64(0)
			for reason, n := range counts {
				require.NotEmpty(t, reason)
				require.GreaterOrEqual(t, n, int64(0))
				sum += n
			}
			require.LessOrEqual(t, sum, int64(lines))
		}
	})
}
