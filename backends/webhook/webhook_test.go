package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/secret"
)

func TestAnEventArrivesSignedInTheFormOfStandardWebhooks(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, func(c *webhook.Config) {
			c.URL = "http://someone:pass%20word@" + c.URL[len("http://"):] + "?key=value"
		})
		run(t, f.outbox)
		f.clock.Advance(1500 * time.Millisecond)
		f.enqueue(t, "invitation.created", map[string]any{"email": "nina@example.com", "note": "<ä\x00\n>"})
		line := f.wait(t, "webhook delivered", 1)[0]
		f.empty(t)

		require.Len(t, f.receiver.got(), 1)
		got := f.receiver.got()[0]
		require.Equal(t, "POST /hook?key=value", got.method+" "+got.path)
		require.Equal(t, "application/json", got.header.Get("Content-Type"))
		require.NotContains(t, got.header, "Idempotency-Key")
		user, password, ok := (&http.Request{Header: got.header}).BasicAuth()
		require.True(t, ok)
		require.Equal(t, "someone/pass word", user+"/"+password)
		require.Equal(t, strconv.FormatInt(start.Unix()+1, 10), got.header.Get("webhook-timestamp"))
		for _, one := range secrets {
			require.NoError(t, webhook.Verify([]secret.String{one}, got.header, got.body, f.clock.Now(), webhook.DefaultTolerance))
		}
		require.ErrorContains(t, webhook.Verify([]secret.String{secretOf("another secret of 24 by.")}, got.header, got.body, f.clock.Now(),
			webhook.DefaultTolerance), "no signature")

		var body map[string]any
		require.NoError(t, json.Unmarshal(got.body, &body))
		require.Equal(t, map[string]any{
			"type": "invitation.created", "timestamp": "2026-03-01T12:00:01.500Z", "id": got.id(), "tenant_id": 1.0,
			"data": map[string]any{"email": "nina@example.com", "note": "<ä\x00\n>"},
		}, body)
		require.Regexp(t, `^[0-9a-f-]{36}$`, got.id())
		require.Contains(t, line, `"level":"debug"`)
		require.Contains(t, line, `"event_id":"`+got.id()+`","event_type":"invitation.created","tenant_id":"1","attempt":1`)
	})
}

func TestAnEventArrivesByTLS(t *testing.T) {
	t.Parallel()
	receiver := &receiver{}
	server := httptest.NewTLSServer(receiver)
	defer server.Close()
	f := newFixture(t, dbtest.SQLite(t), func(c *webhook.Config) { c.URL, c.Client = server.URL, server.Client() })
	run(t, f.outbox)
	f.enqueue(t, "invitation.created", nil)
	f.empty(t)
	require.Len(t, receiver.got(), 1)
	require.JSONEq(t, `{"type":"invitation.created","timestamp":"2026-03-01T12:00:00.000Z","id":"`+receiver.got()[0].id()+`","tenant_id":1,"data":null}`,
		string(receiver.got()[0].body))
}

func TestAnEventOfARolledBackTransactionIsNotSent(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		run(t, f.outbox)
		boom := errors.New("boom")
		require.ErrorIs(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
			require.NoError(t, f.outbox.Enqueue(t.Context(), tx, webhook.Event{Type: "lost"}))
			return boom
		}), boom)
		f.enqueue(t, "kept", nil)
		f.wait(t, "webhook delivered", 1)
		f.empty(t)
		require.Len(t, f.receiver.got(), 1)
		require.Contains(t, string(f.receiver.got()[0].body), `"type":"kept"`)
	})
}

func TestAnEventThatIsNoJSONIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	err := f.db.InTx(t.Context(), func(tx *database.Tx) error {
		return f.outbox.Enqueue(t.Context(), tx, webhook.Event{Type: "odd", Data: make(chan int)})
	})
	require.ErrorContains(t, err, "webhook event odd: json: unsupported type")
	require.Empty(t, f.rows(t))
}

func TestANilOutboxForgetsEvents(t *testing.T) {
	t.Parallel()
	var none *webhook.Outbox
	f := newFixture(t, dbtest.SQLite(t))
	require.NoError(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
		return none.Enqueue(t.Context(), tx, webhook.Event{Type: "forgotten", Data: make(chan int)})
	}))
	none.Wake()
	stop := run(t, none)
	stop()
	require.Empty(t, f.rows(t))
}

func TestWakeNeverBlocks(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	for range 100 { // nobody runs
		f.outbox.Wake()
	}
	f.enqueue(t, "x", nil)
	run(t, f.outbox)
	f.empty(t)
	require.Len(t, f.receiver.got(), 1)
}

// TestAWakeIsHeardAtOnce: without it each event would wait for a poll, 2 s.
func TestAWakeIsHeardAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	run(t, f.outbox)
	began := time.Now()
	for range 10 {
		f.enqueue(t, "x", nil)
		f.empty(t)
	}
	require.Less(t, time.Since(began), 10*time.Second)
	require.Len(t, f.receiver.got(), 10)
}

// TestEventsAreFoundWithoutAWake is about programs that died before it.
func TestEventsAreFoundWithoutAWake(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	run(t, f.outbox)
	require.NoError(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
		return f.outbox.Enqueue(t.Context(), tx, webhook.Event{Type: "x"})
	}))
	f.empty(t)
	require.Len(t, f.receiver.got(), 1)
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	db := dbtest.Open(t, dbtest.SQLite(t), clock.System{})
	good := webhook.Config{DB: db, URL: "https://hooks.example.com/x", Secrets: secrets}
	_, err := webhook.New(good)
	require.NoError(t, err)
	with := func(change func(*webhook.Config)) error {
		config := good
		change(&config)
		_, err := webhook.New(config)
		return err
	}
	require.ErrorContains(t, with(func(c *webhook.Config) { c.DB = nil }), "a database is needed")
	require.ErrorContains(t, with(func(c *webhook.Config) { c.Secrets = nil }), "there is none")
	for url, want := range map[string]string{
		"":                              "the scheme is neither https nor http",
		"hooks.example.com/Zx9":         "the scheme is neither",
		"ftp://hooks.example.com/Zx9":   "the scheme is neither",
		"https://":                      "there is no host",
		"https:Zx9":                     "there is no host",
		"https://:443/Zx9":              "there is no host",
		"https://u:Zx9@":                "there is no host",
		"https://u:Zx9@h/%zz":           "this is no URL",
		"https://u:Zx9@h:x/":            "this is no URL",
		"https://u:Zx9@h:0/":            "the port is no number from 1 to 65535",
		"https://u:Zx9@h:65536/":        "the port is no number",
		"https://u:Zx9@h/\n":            "this is no URL",
		"https://hooks.example.com/#Zx": "a fragment",
		"https://u:Zx9@h:65535/?k=Zx9":  "",
		"http://[::1]:8080":             "",
		"HTTPS://hooks.example.com":     "",
	} {
		err := with(func(c *webhook.Config) { c.URL = url })
		if want == "" {
			require.NoError(t, err, url)
			continue
		}
		require.ErrorContains(t, err, "webhook URL: "+want, url)
		require.NotContains(t, err.Error(), "Zx9")
	}
}

func TestSlowReceiversDoNotKeepRunFromEnding(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		arrived := make(chan struct{}, webhook.Parallel)
		f.receiver.answerWith(func(_ http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			<-r.Context().Done()
		})
		stop := run(t, f.outbox)
		for range webhook.Parallel + 1 {
			f.enqueue(t, "x", nil)
		}
		for range webhook.Parallel {
			<-arrived
		}
		began := time.Now()
		stop()
		require.Less(t, time.Since(began), 8*time.Second, "not even an attempt's timeout")
		rows := f.rows(t)
		require.Len(t, rows, webhook.Parallel+1)
		for _, r := range rows {
			require.Equal(t, row{id: r.id, due: r.due}, r, "the attempt counts for nothing")
			require.LessOrEqual(t, r.due.Int64, f.clock.Now().UnixMilli(), "due at once")
		}
		require.NotContains(t, f.log.String(), "not delivered")

		f.receiver.answerWith(nil)
		run(t, f.outbox)
		f.empty(t)
	})
}

func TestFourAttemptsAreMadeAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	var inside, most atomic.Int64
	proceed := make(chan struct{})
	f.receiver.answerWith(func(http.ResponseWriter, *http.Request) {
		n := inside.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-proceed
		inside.Add(-1)
	})
	for range 60 {
		f.enqueue(t, "x", nil)
	}
	run(t, f.outbox)
	require.Eventually(t, func() bool { return inside.Load() == webhook.Parallel }, patience, time.Millisecond)
	require.Equal(t, webhook.Parallel, f.claimed(t), "the others stay free for other programs")
	began := time.Now()
	close(proceed)
	f.empty(t)
	require.Less(t, time.Since(began), 15*time.Second, "no four of them wait for a poll")
	require.Len(t, f.receiver.got(), 60)
	require.EqualValues(t, webhook.Parallel, most.Load())
}

func TestTheOldestGoFirst(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		for range 5 {
			f.enqueue(t, "x", nil)
			f.enqueue(t, "x", nil)
			f.clock.Advance(time.Millisecond)
		}
		var want, got []string
		for _, r := range f.rows(t) {
			want = append(want, r.id)
		}
		for _, n := range []int{3, 1, 4, 4, 4} {
			ids, err := f.outbox.Claim(t.Context(), n)
			require.NoError(t, err)
			got = append(got, ids...)
		}
		require.Equal(t, want, got)
		require.Len(t, got, 10)
	})
}

// claimed returns how many events somebody delivers.
func (f *fixture) claimed(t testing.TB) int {
	t.Helper()
	var n int
	require.NoError(t, f.db.Reader().QueryRowContext(context.Background(), `SELECT COUNT(*) FROM webhook_events WHERE due_at > $1`,
		f.clock.Now().UnixMilli()).Scan(&n))
	return n
}
