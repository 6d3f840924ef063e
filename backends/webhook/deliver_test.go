package webhook_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// TestTheScheduleOfAttempts also follows Retry, which begins it anew.
func TestTheScheduleOfAttempts(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.receiver.answerWith(status(http.StatusInternalServerError))
		run(t, f.outbox)
		f.enqueue(t, "invitation.created", nil)
		var at []string
		for i, pause := range webhook.Schedule {
			r := f.settled(t, i+1)
			at = append(at, strconv.FormatInt(f.clock.Now().Unix(), 10))
			require.Equal(t, "answered 500", r.lastError)
			wait := time.UnixMilli(r.due.Int64).Sub(f.clock.Now())
			require.GreaterOrEqual(t, wait, pause, "attempt %d", i+1)
			require.LessOrEqual(t, wait, pause+pause/10, "attempt %d", i+1)

			line := f.wait(t, "webhook not delivered", i+1)[i]
			require.Contains(t, line, `"level":"warn"`)
			require.Contains(t, line, fmt.Sprintf(`"event_id":%q,"event_type":"invitation.created","tenant_id":"1","attempt":%d,"reason":"answered 500","next_in":%d`,
				r.id, i+1, wait.Milliseconds()))
			ids, err := f.outbox.Claim(t.Context(), 1)
			require.NoError(t, err)
			require.Empty(t, ids, "it is not due yet")
			f.clock.Set(time.UnixMilli(r.due.Int64))
			f.outbox.Wake()
		}
		line := f.wait(t, "webhook given up", 1)[0]
		require.Contains(t, line, `"level":"error"`)
		require.Contains(t, line, `"attempt":10,"reason":"answered 500"`)
		require.Eventually(t, func() bool { return !f.rows(t)[0].due.Valid }, patience, time.Millisecond)
		require.Equal(t, row{id: f.rows(t)[0].id, lastError: "answered 500", attempts: 10}, f.rows(t)[0])
		at = append(at, strconv.FormatInt(f.clock.Now().Unix(), 10))

		got := f.receiver.got()
		require.Len(t, got, 10)
		for i, d := range got {
			require.Equal(t, got[0].id(), d.id())
			require.Equal(t, string(got[0].body), string(d.body))
			require.Equal(t, at[i], d.header.Get("webhook-timestamp"), "that of the attempt")
			require.NoError(t, webhook.Verify(secrets, d.header, d.body, start.Add(time.Duration(i)*time.Second), 100*time.Hour))
		}

		n, err := webhook.Retry(t.Context(), f.db)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		f.outbox.Wake()
		require.Equal(t, "answered 500", f.settled(t, 1).lastError)
		n, err = webhook.Retry(t.Context(), f.db)
		require.NoError(t, err)
		require.Zero(t, n, "it is not given up")

		f.receiver.answerWith(nil)
		f.clock.Set(time.UnixMilli(f.rows(t)[0].due.Int64))
		f.outbox.Wake()
		f.empty(t)
		require.Len(t, f.receiver.got(), 12)
	})
}

func TestWhatAnswersMean(t *testing.T) {
	t.Parallel()
	const first, day = 5 * time.Second, 24 * time.Hour
	for name, c := range map[string]struct {
		status     int
		retryAfter string
		reason     string        // "": delivered
		wait       time.Duration // 0: given up
	}{
		"201":                              {201, "", "", 0},
		"204":                              {204, "", "", 0},
		"299":                              {299, "", "", 0},
		"300":                              {300, "", "answered 300: redirects are not followed", first},
		"304":                              {304, "", "answered 304: redirects are not followed", first},
		"400":                              {400, "", "answered 400", first},
		"404 with Retry-After":             {404, "60", "answered 404", first},
		"410":                              {410, "", "answered 410: the receiver wants no events", 0},
		"429":                              {429, "", "answered 429", first},
		"429 with shorter Retry-After":     {429, "1", "answered 429", first},
		"429 with longer Retry-After":      {429, "60", "answered 429", time.Minute},
		"429 with Retry-After of a date":   {429, start.Add(time.Hour).Format(http.TimeFormat), "answered 429", time.Hour},
		"429 with Retry-After of the past": {429, start.Add(-time.Hour).Format(http.TimeFormat), "answered 429", first},
		"503 with Retry-After of weeks":    {503, "9999999", "answered 503", day},
		"503 with Retry-After of ages":     {503, strings.Repeat("9", 40), "answered 503", day},
		"503 with negative Retry-After":    {503, "-60", "answered 503", first},
		"503 with odd Retry-After":         {503, "soon", "answered 503", first},
		"599":                              {599, "60", "answered 599", first},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.SQLite(t))
			f.receiver.answerWith(func(w http.ResponseWriter, _ *http.Request) {
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
			})
			run(t, f.outbox)
			f.enqueue(t, "x", nil)
			if c.reason == "" {
				f.empty(t)
				return
			}
			r := f.settled(t, 1)
			require.Equal(t, c.reason, r.lastError)
			require.Equal(t, c.wait != 0, r.due.Valid)
			if c.wait == 0 {
				require.Contains(t, f.log.lines("webhook given up")[0], `"reason":"`+c.reason+`"`)
				return
			}
			wait := time.UnixMilli(r.due.Int64).Sub(start)
			require.GreaterOrEqual(t, wait, c.wait)
			require.LessOrEqual(t, wait, c.wait+c.wait/10)
		})
	}
}

// raw is a server that answers every connection with a text, and nothing else.
func raw(t *testing.T, answer string) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				_, _ = conn.Read(make([]byte, 64<<10)) // what it says is of no matter
				_, _ = conn.Write([]byte(answer))
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		group.Wait()
	})
	return listener.Addr().String()
}

// roundTripper is a transport that fails as told.
type roundTripper struct{ err error }

func (r roundTripper) RoundTrip(*http.Request) (*http.Response, error) { return nil, r.err }

func TestWhatKeepsAnAttemptFromAnAnswer(t *testing.T) {
	t.Parallel()
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	secure := httptest.NewTLSServer(&receiver{})
	t.Cleanup(secure.Close)
	picky := httptest.NewUnstartedServer(&receiver{})
	picky.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	picky.StartTLS()
	t.Cleanup(picky.Close)
	old := httptest.NewUnstartedServer(&receiver{})
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.StartTLS()
	t.Cleanup(old.Close)
	failing := func(err error) *http.Client { return &http.Client{Transport: roundTripper{err}} }
	elsewhere := secure.Client().Transport.(*http.Transport).Clone()
	elsewhere.TLSClientConfig.ServerName = "elsewhere.test"
	through := func(host string) *http.Client {
		return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword("Zx9", "Zx9"), Host: host})}}
	}

	for name, c := range map[string]struct {
		url    string
		client *http.Client
		reason string
	}{
		"nobody listens":          {"http://" + closed.Addr().String(), nil, "connection refused"},
		"no answer":               {"http://" + raw(t, ""), nil, "the connection was closed without an answer"},
		"half an answer":          {"http://" + raw(t, "HTTP/1.1 200 OK\r\n"), nil, "the connection was closed without an answer"},
		"no HTTP":                 {"http://" + raw(t, "Zx9 Zx9\r\n\r\n"), nil, "no valid answer"},
		"no header":               {"http://" + raw(t, "HTTP/1.1 200 OK\r\nZx9\r\n\r\n"), nil, "no valid answer"},
		"endless headers":         {"http://" + raw(t, "HTTP/1.1 200 OK\r\n"+strings.Repeat("a: Zx9\r\n", 10_000)+"\r\n"), nil, "no valid answer"},
		"no TLS":                  {"https://" + raw(t, "Zx9 Zx9\r\n\r\n"), nil, "TLS: the receiver does not speak it"},
		"HTTP instead of TLS":     {"https://" + raw(t, "HTTP/1.1 400 Bad Request\r\n\r\n"), nil, "TLS: the receiver does not speak it"},
		"an unknown authority":    {secure.URL, nil, "TLS: the certificate's authority is unknown"},
		"another's certificate":   {secure.URL, &http.Client{Transport: elsewhere}, "TLS: the certificate is for another host"},
		"an odd certificate":      {secure.URL, failing(&tls.CertificateVerificationError{Err: errors.New("Zx9")}), "TLS: the certificate is not valid"},
		"a certificate is wanted": {picky.URL, picky.Client(), "TLS: the receiver refused the connection"},
		"TLS 1.1":                 {old.URL, nil, "TLS: the receiver refused the connection"},
		"an unknown name":         {"https://x.test", failing(&net.OpError{Op: "dial", Err: &net.DNSError{Name: "Zx9", IsNotFound: true}}), "the host's name is unknown"},
		"a name server is down":   {"https://x.test", failing(&net.OpError{Op: "dial", Err: &net.DNSError{Name: "Zx9"}}), "the host's name can't be looked up"},
		"it takes too long":       {"https://x.test", failing(context.DeadlineExceeded), "no answer in time"},
		"the proxy refuses":       {"https://x.test", through(raw(t, "HTTP/1.1 407 Zx9\r\n\r\n")), "no valid answer"},
		"the proxy is away":       {"https://x.test", through(closed.Addr().String()), "the proxy makes no connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.SQLite(t), func(config *webhook.Config) { config.URL, config.Client = c.url, c.client })
			run(t, f.outbox)
			f.enqueue(t, "x", nil)
			require.Equal(t, c.reason, f.settled(t, 1).lastError)
			require.Contains(t, f.wait(t, "webhook not delivered", 1)[0], `"reason":"`+c.reason+`"`)
			require.NotContains(t, f.log.String(), "Zx9")
		})
	}
}

func TestAnEventOfAProgramThatDiedComesDueAgain(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.enqueue(t, "x", nil)
		ids, err := f.outbox.Claim(t.Context(), 10)
		require.NoError(t, err)
		require.Len(t, ids, 1)

		second, err := webhook.New(f.config)
		require.NoError(t, err)
		f.clock.Advance(webhook.Lease - time.Millisecond)
		again, err := second.Claim(t.Context(), 10)
		require.NoError(t, err)
		require.Empty(t, again, "it is the first one's until the lease ends")

		f.clock.Advance(time.Millisecond)
		run(t, second)
		f.empty(t)
		require.Len(t, f.receiver.got(), 1)
		require.Equal(t, ids[0], f.receiver.got()[0].id())
		require.Contains(t, f.wait(t, "webhook delivered", 1)[0], `"attempt":2`)
	})
}

// TestALateAttemptLeavesTheEventToItsNewOwner has an attempt fail after its
// lease has ended and another program has claimed the event.
func TestALateAttemptLeavesTheEventToItsNewOwner(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		arrived, proceed := make(chan struct{}), make(chan struct{})
		f.receiver.answerWith(func(w http.ResponseWriter, _ *http.Request) {
			arrived <- struct{}{}
			<-proceed
			w.WriteHeader(http.StatusGone)
		})
		stop := run(t, f.outbox)
		f.enqueue(t, "x", nil)
		<-arrived
		second := newFixture(t, url)
		second.clock.Advance(webhook.Lease) // for the first one no time has passed
		ids, err := second.outbox.Claim(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, ids, 1)
		before := f.rows(t)
		close(proceed)
		f.wait(t, "webhook given up", 1)
		stop()
		require.Equal(t, before, f.rows(t))
		require.True(t, before[0].due.Valid)
	})
}

func TestProgramsShareTheEvents(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		const events = 150
		f := newFixture(t, url)
		fixtures := []*fixture{f, newFixture(t, url), newFixture(t, url)}
		var group sync.WaitGroup
		for _, other := range fixtures {
			other.config.URL = f.config.URL
			var err error
			other.outbox, err = webhook.New(other.config)
			require.NoError(t, err)
			run(t, other.outbox)
			group.Go(func() {
				for range events / len(fixtures) {
					other.enqueue(t, "x", nil)
				}
			})
		}
		group.Wait()
		f.empty(t)
		times := map[string]int{}
		for _, d := range f.receiver.got() {
			times[d.id()]++
		}
		require.Len(t, times, events)
		require.Len(t, f.receiver.got(), events, "each once")
		for _, other := range fixtures {
			require.NotContains(t, other.log.String(), `"level":"error"`)
		}
	})
}

func TestTroubleWithTheStoreIsLoggedOnceAndLosesNothing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		var repaired atomic.Bool
		f.receiver.answerWith(func(http.ResponseWriter, *http.Request) {
			if !repaired.Load() {
				f.exec(t, `ALTER TABLE webhook_events RENAME TO lost`)
			}
		})
		run(t, f.outbox)
		f.enqueue(t, "x", nil)
		require.Contains(t, f.wait(t, "webhook's outcome not stored, it will be sent again", 1)[0], `"attempt":1`)
		for range 5 { // it looks after each
			f.outbox.Wake()
			require.Eventually(t, f.outbox.WakeTaken, patience, time.Millisecond)
		}
		f.wait(t, "webhook events can't be read", 1)

		repaired.Store(true)
		f.exec(t, `ALTER TABLE lost RENAME TO webhook_events`)
		f.clock.Advance(webhook.Lease)
		f.empty(t)
		got := f.receiver.got()
		require.Len(t, got, 2)
		require.Equal(t, got[0].id(), got[1].id())
		require.Len(t, f.log.lines("webhook events can't be read"), 1)
	})
}

func TestGivenUpEventsAreKeptFor30Days(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		const insert = `INSERT INTO webhook_events (id, type, tenant_id, payload, created_at, due_at) VALUES ($1, 'x', 1, '{}', $2, $3)`
		old := start.UnixMilli()
		for i := range 1001 {
			f.exec(t, insert, "old-"+strconv.Itoa(i), old, nil)
		}
		f.exec(t, insert, "young", old+1, nil)
		f.exec(t, insert, "tried", old, start.AddDate(0, 1, 0).UnixMilli())

		f.clock.Advance(30 * 24 * time.Hour)
		run(t, f.outbox)
		require.Contains(t, f.wait(t, "old webhook events deleted", 1)[0], `"count":1001`)
		rows := f.rows(t)
		require.Len(t, rows, 2)
		require.Equal(t, "tried young", rows[0].id+" "+rows[1].id)
		require.Empty(t, f.receiver.got())
	})
}

// TestAConnectionIsKept is about answers with a body, too.
func TestAConnectionIsKept(t *testing.T) {
	t.Parallel()
	var connections, ended atomic.Int64
	inner := &receiver{answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(strings.Repeat("thanks ", 1000))) }}
	server := httptest.NewUnstartedServer(inner)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Add(1)
		case http.StateClosed:
			ended.Add(1)
		default:
		}
	}
	server.Start()
	defer server.Close()
	f := newFixture(t, dbtest.SQLite(t), func(c *webhook.Config) { c.URL = server.URL })
	stop := run(t, f.outbox)
	for range 5 {
		f.enqueue(t, "x", nil)
		f.empty(t)
	}
	require.Len(t, inner.got(), 5)
	require.EqualValues(t, 1, connections.Load())
	require.Zero(t, ended.Load())
	stop()
	require.Eventually(t, func() bool { return ended.Load() == 1 }, patience, time.Millisecond, "Run leaves none behind")
}

// TestAKeptConnectionThatIsGoneCostsNoAttempt: RFC 9110, section 9.2.2, lets a
// client send again what it knows how to repeat.
func TestAKeptConnectionThatIsGoneCostsNoAttempt(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	run(t, f.outbox)
	for range 5 {
		f.enqueue(t, "x", nil)
		f.empty(t)
		f.receiver.CloseClientConnections()
	}
	require.Len(t, f.receiver.got(), 5)
	require.Empty(t, f.log.lines("webhook not delivered"))
}

func TestTheMachinesClockIsTheDefault(t *testing.T) {
	t.Parallel()
	db := dbtest.Open(t, dbtest.SQLite(t), clock.System{})
	f := newFixture(t, dbtest.SQLite(t), func(c *webhook.Config) { c.DB, c.Clock, c.Log = db, nil, nil })
	f.db = db
	run(t, f.outbox)
	f.enqueue(t, "x", nil)
	f.empty(t)
	got := f.receiver.got()[0]
	require.NoError(t, webhook.Verify(secrets, got.header, got.body, time.Now(), webhook.DefaultTolerance))
}
