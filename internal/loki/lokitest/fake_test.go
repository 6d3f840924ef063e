package lokitest_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

func pushTo(t *testing.T, fake *lokitest.Fake, now time.Time, header map[string]string, streams ...stream) response {
	t.Helper()
	all := map[string]string{"Content-Type": "application/json"}
	for name, value := range header {
		all[name] = value
	}
	return request(t, "POST", fake.URL()+pushPath, all, jsonOf(t, now, streams...))
}

func TestAFakeAnswersAsItIsTold(t *testing.T) {
	t.Parallel()
	fake, now := lokitest.NewFake(t), time.Now()
	x := one("1", line{text: "x"})
	fake.Answer(
		lokitest.Answer{Status: 503, Header: http.Header{"Retry-After": {"7"}}, Body: "no"},
		lokitest.Answer{Status: 500, Stored: true},
		lokitest.Answer{Status: 204},
	)
	got := pushTo(t, fake, now, nil, x)
	require.Equal(t, 503, got.status)
	require.Equal(t, "7", got.header.Get("Retry-After"))
	require.Equal(t, "no", got.body)
	require.Empty(t, fake.Entries(""))
	require.Equal(t, 500, pushTo(t, fake, now, nil, x).status)
	require.Len(t, fake.Entries(""), 1)
	require.Equal(t, 204, pushTo(t, fake, now, nil, one("1", line{text: "lost"})).status)
	require.Len(t, fake.Entries(""), 1)

	fake.SetStatus(429)
	require.Equal(t, 429, pushTo(t, fake, now, nil, x).status)
	fake.SetStatus(0)
	require.Equal(t, 204, pushTo(t, fake, now, nil, x).status)
	require.Equal(t, 5, fake.Pushes())
	require.EqualValues(t, 2, fake.Lines(), "the second one is taken, and is the same")
	require.Equal(t, []lokitest.Entry{{Time: now.UTC().Round(0), Labels: map[string]string{"a": "1"}, Metadata: map[string]string{}, Line: "x"}}, fake.Entries(""))

	for _, stored := range []bool{false, true} {
		fake.Answer(lokitest.Answer{Cut: true, Stored: stored})
		_, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Post(fake.URL()+pushPath, "application/json", bytes.NewReader(jsonOf(t, now, one("1", line{text: "cut"}))))
		require.Error(t, err)
		require.Equal(t, stored, len(fake.Entries("")) == 2)
	}
}

func TestAFakeAsksForCredentialsAndATenant(t *testing.T) {
	t.Parallel()
	fake, now := lokitest.NewFake(t), time.Now()
	x := one("1", line{text: "x"})
	fake.RequireAuthorization("Bearer right")
	require.Equal(t, 401, pushTo(t, fake, now, map[string]string{"Authorization": "Bearer wrong"}, x).status)
	require.Equal(t, 204, pushTo(t, fake, now, map[string]string{"Authorization": "Bearer right"}, x).status)
	fake.RequireTenant()
	require.Equal(t, 401, pushTo(t, fake, now, map[string]string{"Authorization": "Bearer right"}, x).status)
	require.Equal(t, 204, pushTo(t, fake, now, map[string]string{"Authorization": "Bearer right", "X-Scope-OrgID": "acme"}, x).status)
	require.Len(t, fake.Entries(""), 1)
	require.Len(t, fake.Entries("acme"), 1)
	require.Empty(t, fake.Entries("other"))
}

func TestAFakeMayOnlyCount(t *testing.T) {
	t.Parallel()
	fake := &lokitest.Fake{CountOnly: true, Clock: clock.NewFake(time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC))}
	server := httptest.NewServer(fake)
	defer server.Close()
	body := jsonOf(t, fake.Clock.Now(), one("1", line{text: "x"}, line{text: "y"}))
	require.Equal(t, 204, request(t, "POST", server.URL+pushPath, map[string]string{"Content-Type": "application/json"}, body).status)
	require.EqualValues(t, 2, fake.Lines())
	require.Empty(t, fake.Entries(""))
	body = jsonOf(t, fake.Clock.Now(), one("1", line{age: -time.Hour, text: "x"}))
	require.Equal(t, 400, request(t, "POST", server.URL+pushPath, map[string]string{"Content-Type": "application/json"}, body).status)
}

func TestAFrozenFakeProcessesWhatItGotWhenItThaws(t *testing.T) {
	t.Parallel()
	fake, now := lokitest.NewFake(t), time.Now()
	fake.Freeze()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	_, err := client.Post(fake.URL()+pushPath, "application/json", bytes.NewReader(jsonOf(t, now, one("1", line{text: "x"}))))
	require.Error(t, err)
	require.Empty(t, fake.Entries(""))
	fake.Thaw()
	require.Eventually(t, func() bool { return len(fake.Entries("")) == 1 }, 10*time.Second, time.Millisecond)
}

// outcome is a test whose end we watch.
type outcome struct {
	testing.TB
	skipped, failed bool
}

func (o *outcome) Skipf(string, ...any) { o.skipped = true; panic(o) }

func (o *outcome) Fatalf(string, ...any) { o.failed = true; panic(o) }

func TestWithoutLokiATestIsSkippedOrFails(t *testing.T) {
	for _, required := range []string{"", "1"} {
		t.Setenv("TENANTGATE_LOKI", "/nowhere/loki")
		t.Setenv("TENANTGATE_REQUIRE_LOKI", required)
		o := &outcome{TB: t}
		require.PanicsWithValue(t, o, func() { lokitest.Start(o, lokitest.Config{}) })
		require.Equal(t, required == "", o.skipped)
		require.Equal(t, required != "", o.failed)
	}
}

func TestALokiForOneTenant(t *testing.T) {
	t.Parallel()
	loki := lokitest.Start(t, lokitest.Config{SingleTenant: true})
	now := time.Now()
	got := request(t, "POST", loki.URL()+pushPath, map[string]string{"Content-Type": "application/json"}, jsonOf(t, now, one("1", line{text: "x"})))
	require.Equal(t, 204, got.status, got.body)
	require.Len(t, loki.Query(t, "", `{a="1"}`, now.Add(-time.Hour), now.Add(time.Hour)), 1)
}

func TestALokiThatDoesNotStartFailsTheTest(t *testing.T) {
	t.Parallel()
	lokitest.Start(t, lokitest.Config{}).Kill() // skips if there is none
	o := &outcome{TB: t}
	require.PanicsWithValue(t, o, func() { lokitest.Start(o, lokitest.Config{Options: []string{"-nonsense"}}) })
	require.True(t, o.failed)
}

func FuzzPush(f *testing.F) {
	f.Add("application/json", []byte(`{"streams":[{"stream":{"a":"1"},"values":[["1","x",{"n":"v"}]]}]}`), `{a="1"} | n="v"`)
	f.Add("application/x-protobuf", protobufOf(`{a="1", b="\xff"}`, "x"), `{a=~".+"} |= "x" != "y"`)
	f.Add("application/x-protobuf", s2.EncodeSnappy(nil, []byte{0xff, 0xff}), `{a=`)
	f.Fuzz(func(t *testing.T, contentType string, body []byte, logql string) {
		fake := &lokitest.Fake{}
		r := httptest.NewRequest("POST", pushPath, bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		fake.ServeHTTP(w, r)
		require.Contains(t, []int{204, 400, 422, 500}, w.Code)
		require.GreaterOrEqual(t, fake.Lines(), int64(len(fake.Entries(""))))

		r = httptest.NewRequest("GET", "/loki/api/v1/query_range", nil)
		r.Form = map[string][]string{"query": {logql}}
		w = httptest.NewRecorder()
		fake.ServeHTTP(w, r)
		require.Contains(t, []int{200, 400}, w.Code)
	})
}
