package loki

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
)

// direct is a transport without a network, so that time stands still meanwhile.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder, ended := httptest.NewRecorder(), make(chan any, 1)
	go func() {
		defer func() { ended <- recover() }()
		d.ServeHTTP(recorder, r.Clone(context.WithoutCancel(r.Context())))
	}()
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case failure := <-ended:
		if failure != nil {
			return nil, io.ErrUnexpectedEOF
		}
	}
	return recorder.Result(), nil
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// rig is a delivery whose hooks are written down.
type rig struct {
	*delivery

	mu          sync.Mutex
	current     Settings
	updated     chan struct{}
	statuses    []int
	at          []time.Time // of the ends of the requests
	sentLines   int
	retrying    []bool
	told        []string
	quarantined []string // labels, lines and reasons
	repeated    int64    // lines of all that must has delivered
}

func newRig(t *testing.T, transport http.RoundTripper) *rig {
	t.Helper()
	settings, err := Settings{URL: "http://loki:3100", Client: &http.Client{Transport: transport}}.Complete()
	require.NoError(t, err)
	g := &rig{current: settings, updated: make(chan struct{})}
	g.delivery = newDelivery(func() Settings {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.current
	}, deliveryHooks{
		clock: clock.System{},
		changed: func() <-chan struct{} {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.updated
		},
		onRequest: func(status int, _ time.Duration) {
			g.note(func() { g.statuses, g.at = append(g.statuses, status), append(g.at, time.Now()) })
		},
		sent:     func(lines, _ int) { g.note(func() { g.sentLines += lines }) },
		retrying: func(on bool) { g.note(func() { g.retrying = append(g.retrying, on) }) },
		diagnose: func(text string) { g.note(func() { g.told = append(g.told, text) }) },
		quarantine: func(_, labels string, entry []byte, why string) {
			line := decodePush(t, appendPush(nil, []stream{{labels: labels, lines: 1, entries: [][]byte{entry}}}))[0].entries[0].line
			g.note(func() { g.quarantined = append(g.quarantined, labels+" "+line+" "+why) })
		},
	})
	return g
}

func (g *rig) note(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// update changes the settings.
func (g *rig) update(f func(*Settings)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.current)
	close(g.updated)
	g.updated = make(chan struct{})
}

func (g *rig) must(t *testing.T, streams ...stream) result {
	t.Helper()
	r, err := g.deliver(t.Context(), "acme", streams)
	require.NoError(t, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repeated += r.repeated
	r.repeated = 0
	return r
}

// Lines that Loki may have are counted each time they are sent again; those that it
// can't have are not.
func TestLinesThatMayBeSentTwiceAreCounted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fail func(*http.Request) (*http.Response, error)
		want int64
	}{
		"a refused connection": {func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}, 0},
		"a broken one": {func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, 10},
		"a 502": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 502, Body: http.NoBody}, nil
		}, 10},
		"a 429": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 429, Body: io.NopCloser(strings.NewReader("ingestion rate limit exceeded"))}, nil
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake, failures := &lokitest.Fake{}, 2
				g := newRig(t, transport(func(r *http.Request) (*http.Response, error) {
					if failures > 0 {
						failures--
						return c.fail(r)
					}
					return direct{fake}.RoundTrip(r)
				}))
				require.Equal(t, acked(5), g.must(t, lines("1", 5)))
				require.Equal(t, c.want, g.repeated)
			})
		})
	}
}

// lines makes a stream of n lines of now, a nanosecond apart, named after label.
func lines(label string, n int) stream {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = label + "-" + strconv.Itoa(i)
	}
	return linesOf(label, time.Now(), texts...)
}

func linesOf(label string, at time.Time, texts ...string) stream {
	s := stream{labels: `{a="` + label + `"}`, lines: len(texts)}
	for i, text := range texts {
		entry := appendEntry(nil, at.UnixNano()+int64(i), []byte(text), []metadatum{{"trace_id", []byte("1")}})
		if i%3 == 1 { // pieces of one and of two entries
			s.entries[len(s.entries)-1] = append(s.entries[len(s.entries)-1], entry...)
			continue
		}
		s.entries = append(s.entries, entry)
	}
	return s
}

func texts(entries []lokitest.Entry) (lines []string) {
	for _, e := range entries {
		lines = append(lines, e.Line)
	}
	return lines
}

func acked(n int) result {
	return result{acknowledged: n, rejected: map[string]int64{}, dropped: map[string]int64{}}
}

func TestLinesArriveOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		g := newRig(t, direct{fake})
		require.Equal(t, acked(9), g.must(t, lines("1", 5), lines("2", 4)))
		require.ElementsMatch(t, []string{"1-0", "1-1", "1-2", "1-3", "1-4", "2-0", "2-1", "2-2", "2-3"}, texts(fake.Entries("acme")))
		require.Equal(t, map[string]string{"trace_id": "1"}, fake.Entries("acme")[0].Metadata)
		require.Equal(t, 2, fake.Pushes(), "streams of which nothing is known go alone")
		require.Equal(t, acked(3), g.must(t, lines("1", 1), lines("2", 2)))
		require.Equal(t, 3, fake.Pushes())
		require.Equal(t, acked(0), g.must(t))
		require.Equal(t, acked(0), g.must(t, stream{labels: `{a="1"}`}))
		require.Equal(t, 3, fake.Pushes())
		require.Equal(t, 12, g.sentLines)
		require.Equal(t, []int{204, 204, 204}, g.statuses)
		require.Empty(t, g.retrying)
		require.Empty(t, g.told)
	})
}

func TestRefusedLinesAreCountedAndTheOthersArrive(t *testing.T) {
	t.Parallel()
	const tooLong = 256<<10 + 1
	labels := func(n int) string {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf(`n%02d="v; 5 errors like: max entry size }"`, i)
		}
		return "{" + strings.Join(names, ", ") + "}"
	}
	old := func(t *testing.T, age time.Duration, n int) stream {
		t.Helper()
		return linesOf("old", time.Now().Add(-age), slices.Repeat([]string{"old"}, n)...)
	}
	cases := map[string]struct {
		streams     func(t *testing.T) []stream
		arrive      int
		rejected    map[string]int64
		quarantined int
	}{
		"long lines": {func(*testing.T) []stream {
			long := strings.Repeat("x", tooLong)
			return []stream{lines("1", 3), linesOf("2", time.Now(), long, "a", long, "b", long+"x"), lines("3", 1)}
		}, 6, map[string]int64{"line_too_long": 3}, 0},
		"lines of the future": {func(*testing.T) []stream {
			return []stream{linesOf("1", time.Now().Add(time.Hour), "a", "b", "c"), lines("2", 2)}
		}, 2, map[string]int64{"too_far_in_future": 3}, 0},
		"much metadata": {func(*testing.T) []stream {
			big := appendEntry(nil, time.Now().UnixNano(), []byte("x"), []metadatum{{"m", make([]byte, 65<<10)}})
			many := appendEntry(nil, time.Now().UnixNano(), []byte("x"), slices.Repeat([]metadatum{{"m", []byte("v")}}, 129))
			return []stream{{`{a="1"}`, 3, [][]byte{big, many, big}}, lines("1", 2)}
		}, 2, map[string]int64{"structured_metadata_too_large": 2, "structured_metadata_too_many": 1}, 0},
		"many labels": {func(*testing.T) []stream {
			s := lines("1", 7)
			s.labels = labels(16)
			return []stream{s, lines("2", 2)}
		}, 2, map[string]int64{"max_label_names_per_series": 7}, 0},
		"a long label": {func(*testing.T) []stream {
			s := lines("1", 7)
			s.labels = `{a="` + strings.Repeat("v", 3000) + `"}`
			return []stream{s, lines("2", 2)}
		}, 2, map[string]int64{"label_value_too_long": 7}, 0},
		"lines that Loki has for old": {func(t *testing.T) []stream {
			return []stream{old(t, 7*24*time.Hour-time.Minute, 4), old(t, 0, 3)}
		}, 3, map[string]int64{"greater_than_max_sample_age": 4}, 0},
		"labels that are none": {func(*testing.T) []stream {
			s := lines("1", 3)
			s.labels = "{a-b}"
			return []stream{lines("2", 4), s, lines("3", 2)}
		}, 6, map[string]int64{"quarantined": 3}, 3},
		"all refused": {func(*testing.T) []stream {
			return []stream{linesOf("1", time.Now().Add(time.Hour), "a", "b")}
		}, 0, map[string]int64{"too_far_in_future": 2}, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				limits := lokitest.DefaultLimits()
				limits.MaxAge -= time.Hour // as if Loki's clock were ahead
				fake := &lokitest.Fake{}
				fake.SetLimits(limits)
				g := newRig(t, direct{fake})
				streams := c.streams(t)
				for range 2 { // the second time streams go together
					g.note(func() { g.quarantined = nil })
					start := time.Now()
					require.Equal(t, result{acknowledged: c.arrive, rejected: c.rejected, dropped: map[string]int64{}}, g.must(t, streams...))
					require.Len(t, fake.Entries("acme"), c.arrive)
					require.Len(t, g.quarantined, c.quarantined)
					require.Zero(t, time.Since(start), "waiting helps nothing")
				}
				require.Empty(t, g.retrying)
			})
		})
	}
}

func TestOneBadLineOfAThousandIsSetAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake, requests := &lokitest.Fake{}, 0
		g := newRig(t, transport(func(r *http.Request) (*http.Response, error) {
			requests++
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			shadow := &lokitest.Fake{} // sees what is in the request
			probe := r.Clone(r.Context())
			probe.Body = io.NopCloser(strings.NewReader(string(body)))
			shadow.ServeHTTP(httptest.NewRecorder(), probe)
			if slices.Contains(texts(shadow.Entries("acme")), "3-77") {
				return &http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader("proto: bad entry"))}, nil
			}
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			return direct{fake}.RoundTrip(r)
		}))
		streams := []stream{lines("1", 250), lines("2", 150), lines("3", 350), lines("4", 250)}
		require.Equal(t, result{acknowledged: 999, rejected: map[string]int64{"quarantined": 1}, dropped: map[string]int64{}}, g.must(t, streams...))
		require.Len(t, fake.Entries("acme"), 999)
		require.EqualValues(t, 999, fake.Lines(), "each once")
		require.Equal(t, []string{`{a="3"} 3-77 400 proto: bad entry`}, g.quarantined)
		require.LessOrEqual(t, requests, len(streams)+2*10+1)

		// Now that Loki is known to take the others, all go together.
		requests = 0
		g.quarantined = nil
		require.Equal(t, 999, g.must(t, streams...).acknowledged)
		require.LessOrEqual(t, requests, len(streams)+2*10+1)
		require.Len(t, g.quarantined, 1)
	})
}

// Loki says nothing of a stream that is not the last of a request.
func TestLinesThatAreFarBehindAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		g := newRig(t, direct{fake})
		other := newRig(t, direct{fake}) // of another gateway
		for range 2 {
			other.must(t, lines("1", 1), lines("2", 1), lines("3", 1))
		}
		before := len(fake.Entries("acme"))
		time.Sleep(time.Second)
		old := func(label string, n int) stream {
			s := linesOf(label, time.Now().Add(-2*time.Hour), slices.Repeat([]string{"old"}, n)...)
			fresh := lines(label, 2)
			return stream{s.labels, s.lines + 2, append(s.entries, fresh.entries...)}
		}
		require.Equal(t, result{acknowledged: 6, rejected: map[string]int64{"too_far_behind": 5 + 11}, dropped: map[string]int64{}}, g.must(t, old("1", 5), old("2", 11), lines("3", 2)))
		require.Len(t, fake.Entries("acme"), before+6)

		// A distributor and an ingester refuse lines of one stream.
		future := linesOf("1", time.Now().Add(time.Hour), "x", "y")
		s := old("1", 5)
		s = stream{s.labels, s.lines + 2, append(s.entries, future.entries...)}
		time.Sleep(time.Second)
		require.Equal(t, result{acknowledged: 2, rejected: map[string]int64{"too_far_behind": 5, "other": 2}, dropped: map[string]int64{}}, g.must(t, s))
	})
}

func TestWhatMayPassIsTriedUntilItHas(t *testing.T) {
	t.Parallel()
	page := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	cases := map[string]lokitest.Answer{
		"500":                           {Status: 500, Body: "empty ring\n"},
		"502 with a page":               {Status: 502, Header: page, Body: "<html><h1>Bad Gateway</h1></html>"},
		"503":                           {Status: 503},
		"504":                           {Status: 504},
		"a cut connection":              {Cut: true},
		"a cut connection, but stored":  {Cut: true, Stored: true},
		"500, but stored":               {Status: 500, Stored: true},
		"408":                           {Status: 408},
		"429 without a known text":      {Status: 429, Body: "slow down"},
		"401":                           {Status: 401, Body: "no org id\n"},
		"403":                           {Status: 403},
		"404":                           {Status: 404, Body: "404 page not found\n"},
		"405":                           {Status: 405},
		"407":                           {Status: 407},
		"418":                           {Status: 418},
		"422 for a request with lines":  {Status: 422},
		"301":                           {Status: 301, Header: http.Header{"Location": {"http://elsewhere/"}}},
		"307":                           {Status: 307, Header: http.Header{"Location": {"/loki/api/v1/push2"}}},
		"200 with a page to log in":     {Status: 200, Header: page, Body: "<html>log in</html>"},
		"260, which is Loki's own code": {Status: 260, Body: "ingestion blocked for user 'acme' until '2030-01-01T00:00:00Z' with status code '260'\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := &lokitest.Fake{}
				fake.Answer(slices.Repeat([]lokitest.Answer{c}, 20)...)
				g := newRig(t, direct{fake})
				start := time.Now()
				require.Equal(t, acked(3), g.must(t, lines("1", 3)))
				require.Len(t, fake.Entries("acme"), 3)
				require.Equal(t, 21, fake.Pushes())
				require.Equal(t, []bool{true, false}, g.retrying)
				require.Len(t, g.told, 20)
				require.Less(t, time.Since(start), 20*maxBackoff)
			})
		})
	}
}

func TestOtherSuccessesAreSuccess(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 201, 202} {
		synctest.Test(t, func(t *testing.T) {
			fake := &lokitest.Fake{}
			fake.Answer(lokitest.Answer{Status: status, Stored: true, Body: "{}"})
			require.Equal(t, acked(3), newRig(t, direct{fake}).must(t, lines("1", 3)))
			require.Equal(t, 1, fake.Pushes())
		})
	}
}

// What answers 400 to everything is not Loki, or Loki's opinion of the tenant: no
// line is to blame.
func TestNoLineIsSetAsideForWhatIsNotItsFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		page := lokitest.Answer{Status: 400, Body: "<html>The plain HTTP request was sent to HTTPS port</html>", Header: http.Header{"Content-Type": {"text/html"}}}
		fake.Answer(slices.Repeat([]lokitest.Answer{page}, 20)...)
		g := newRig(t, direct{fake})
		start := time.Now()
		require.Equal(t, acked(100), g.must(t, lines("1", 100)))
		require.GreaterOrEqual(t, time.Since(start), 10*minPark)
		require.Empty(t, g.quarantined)
		require.EqualValues(t, 100, fake.Lines())

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := g.deliver(ctx, "a|b", []stream{lines("1", 100)})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, g.quarantined)
		require.Contains(t, g.told[len(g.told)-1], "400 multiple org IDs present (are the URL, the credentials and the tenant right?)")

		// The question whether Loki is there can fail too.
		fake.Answer(lokitest.Answer{Status: 400}, lokitest.Answer{Status: 503}, lokitest.Answer{Status: 400}, lokitest.Answer{Cut: true})
		require.Equal(t, acked(100), g.must(t, lines("1", 100)))
	})
}

func TestATooLargeRequestIsSplit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := lokitest.DefaultLimits()
		limits.BodyBytes = 200
		fake := &lokitest.Fake{}
		fake.SetLimits(limits)
		g := newRig(t, direct{fake})
		noise := ""
		for i := range 300 {
			noise += strconv.Itoa(i * i)
		}
		s := linesOf("1", time.Now(), "a", "b", noise, "c", "d", "e")
		start := time.Now()
		require.Equal(t, result{acknowledged: 50 + 5, rejected: map[string]int64{"quarantined": 1}, dropped: map[string]int64{}}, g.must(t, lines("2", 50), s))
		require.EqualValues(t, 55, fake.Lines())
		require.Len(t, g.quarantined, 1)
		require.Contains(t, g.quarantined[0], "413 request body too large")
		require.Zero(t, time.Since(start))
	})
}

// Such a server's 413 is often not heard.
func TestARequestIsSplitIfTheServerClosesTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		g := newRig(t, transport(func(r *http.Request) (*http.Response, error) {
			if r.ContentLength > 100<<10 {
				return nil, errors.New("write: broken pipe")
			}
			return direct{fake}.RoundTrip(r)
		}))
		var noise []string
		for i := range 50_000 {
			noise = append(noise, strconv.Itoa(i*i*i))
		}
		require.Equal(t, acked(50_000), g.must(t, linesOf("1", time.Now(), noise...)))
		require.EqualValues(t, 50_000, fake.Lines())
	})
}

func TestALimitOfTheRateIsWaitedFor(t *testing.T) {
	t.Parallel()
	kilobyte := strings.Repeat("x", 1000-len("trace_id1"))
	cases := map[string]func(*lokitest.Limits){
		"of the tenant":                      func(l *lokitest.Limits) { l.Rate, l.Burst = 50_000, 80_000 },
		"of the tenant, the burst is lower":  func(l *lokitest.Limits) { l.Rate, l.Burst = 200_000, 20_000 },
		"of the stream":                      func(l *lokitest.Limits) { l.StreamRate, l.StreamBurst = 50_000, 80_000 },
		"of the stream, the burst is lower":  func(l *lokitest.Limits) { l.StreamRate, l.StreamBurst = 200_000, 20_000 },
		"of the tenant, far below a request": func(l *lokitest.Limits) { l.Rate, l.Burst = 2000, 2000 },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				limits := lokitest.DefaultLimits()
				change(&limits)
				fake := &lokitest.Fake{}
				fake.SetLimits(limits)
				g := newRig(t, direct{fake})
				for range 3 {
					large := linesOf("large", time.Now(), slices.Repeat([]string{kilobyte}, 100)...)
					require.Equal(t, acked(110), g.must(t, lines("small", 10), large))
				}
				require.Len(t, fake.Entries("acme"), 330, "each is there")
				require.Empty(t, g.quarantined)
				require.False(t, g.retrying[len(g.retrying)-1])
			})
		})
	}
}

func TestALineThatIsMoreThanTheRateIsSetAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := lokitest.DefaultLimits()
		limits.Rate, limits.Burst = 500, 500
		fake := &lokitest.Fake{}
		fake.SetLimits(limits)
		g := newRig(t, direct{fake})
		s := linesOf("1", time.Now(), "a", strings.Repeat("x", 1000), "b")
		require.Equal(t, result{acknowledged: 2, rejected: map[string]int64{"quarantined": 1}, dropped: map[string]int64{}}, g.must(t, s))
		require.Len(t, g.quarantined, 1)
	})
}

func TestStreamsThatAreTooManyAreRejectedInTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := lokitest.DefaultLimits()
		limits.Streams = 2
		fake := &lokitest.Fake{}
		fake.SetLimits(limits)
		g := newRig(t, direct{fake})
		want := result{acknowledged: 5, rejected: map[string]int64{"stream_limit": 8}, dropped: map[string]int64{}}
		require.Equal(t, want, g.must(t, lines("1", 2), lines("2", 3), lines("3", 8)))
		require.Equal(t, 2+giveUpAfter, fake.Pushes())
		require.Equal(t, []bool{true, false}, g.retrying)

		start := time.Now()
		require.Equal(t, want, g.must(t, lines("1", 2), lines("2", 3), lines("3", 8)))
		require.Zero(t, time.Since(start), "it holds nobody up again")

		limits.Streams = 3
		fake.SetLimits(limits)
		require.Equal(t, acked(13), g.must(t, lines("1", 2), lines("2", 3), lines("3", 8)))
	})
}

// A stream that goes together with others can become one too many when Loki has
// forgotten it.
func TestAStreamThatIsNotTheLastIsAskedForAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		g := newRig(t, direct{fake})
		require.Equal(t, acked(3), g.must(t, lines("1", 2), lines("2", 1)))
		limits := lokitest.DefaultLimits()
		limits.Streams = 0
		again := &lokitest.Fake{}
		again.SetLimits(limits)
		g.update(func(s *Settings) { s.Client = &http.Client{Transport: direct{again}} })
		r := g.must(t, lines("1", 2), lines("2", 1))
		require.Equal(t, map[string]int64{"stream_limit": 3}, r.rejected)

		// What was long ago is not known.
		time.Sleep(confidence)
		before := fake.Pushes()
		g.update(func(s *Settings) { s.Client = &http.Client{Transport: direct{fake}} })
		require.Equal(t, acked(3), g.must(t, lines("1", 2), lines("2", 1)))
		require.Equal(t, before+2, fake.Pushes())
	})
}

func TestTriesBecomeRarer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		fake.SetStatus(503)
		g := newRig(t, direct{fake})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := g.deliver(ctx, "acme", []stream{lines("1", 3)})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		longest := time.Duration(0)
		for i := 1; i < len(g.at); i++ {
			pause := g.at[i].Sub(g.at[i-1])
			require.LessOrEqual(t, pause, min(maxBackoff, firstBackoff<<min(i-1, 20)))
			longest = max(longest, pause)
		}
		require.Greater(t, longest, maxBackoff*2/3)
		require.Greater(t, len(g.at), 120)
		require.Less(t, len(g.at), 600)
		require.Equal(t, []bool{true, false}, g.retrying, "nothing is retried any more")
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			header func() string
			wait   time.Duration
		}{
			{func() string { return "7" }, 7 * time.Second},
			{func() string { return time.Now().Add(42 * time.Second).UTC().Format(http.TimeFormat) }, 42 * time.Second},
			{func() string { return "86400" }, 5 * time.Minute},
			{func() string { return time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat) }, 5 * time.Minute},
		} {
			for _, status := range []int{429, 503, 401} {
				fake := &lokitest.Fake{}
				fake.Answer(lokitest.Answer{Status: status, Header: http.Header{"Retry-After": {c.header()}}})
				start := time.Now()
				newRig(t, direct{fake}).must(t, lines("1", 1))
				require.Equal(t, c.wait, time.Since(start))
			}
		}
		for _, nonsense := range []string{"-1", "soon", "0", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), "99999999999999999999"} {
			fake := &lokitest.Fake{}
			fake.Answer(lokitest.Answer{Status: 503, Header: http.Header{"Retry-After": {nonsense}}})
			start := time.Now()
			newRig(t, direct{fake}).must(t, lines("1", 1))
			require.Less(t, time.Since(start), firstBackoff)
		}
	})
}

func TestARequestThatFailsHoldsTheOthersBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		fake.Answer(lokitest.Answer{Status: 503, Header: http.Header{"Retry-After": {"60"}}})
		g := newRig(t, direct{fake})
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				if i > 0 {
					time.Sleep(time.Duration(i) * time.Second) // the first has failed
				}
				g.must(t, lines(strconv.Itoa(i), 1))
			})
		}
		time.Sleep(59 * time.Second)
		require.Equal(t, 1, fake.Pushes())
		time.Sleep(time.Second)
		all.Wait()
		require.Equal(t, 4, fake.Pushes())
		require.Equal(t, []bool{true, false}, g.retrying)
	})
}

// A batch that fails while others succeed is waited for alone.
func TestATroubleOfOneBatchDoesNotHoldTheOthersBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		g := newRig(t, transport(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("X-Scope-OrgID") == "bad" {
				return &http.Response{StatusCode: 500, Body: http.NoBody}, nil
			}
			return direct{fake}.RoundTrip(r)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = g.deliver(ctx, "bad", []stream{lines("bad", 1)}) }()
		start := time.Now()
		for range 100 {
			time.Sleep(time.Second)
			require.Equal(t, acked(1), g.must(t, lines("1", 1)))
		}
		// Until the first success both wait, and who is first afterwards is chance.
		require.Less(t, time.Since(start), 500*time.Second, "a hundred waits of half a minute would be an hour")
		require.Less(t, len(g.statuses), 150, "its own waits grow")
		require.Equal(t, []bool{true}, g.retrying)
		cancel()
		synctest.Wait()
		require.Equal(t, []bool{true, false}, g.retrying)
	})
}

func TestNewSettingsCountAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		fake.RequireAuthorization("Bearer right")
		g := newRig(t, direct{fake})
		g.update(func(s *Settings) { s.Bearer = "wrong" })
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond) // the second is held back by the first
				require.Equal(t, acked(1), g.must(t, lines(strconv.Itoa(i), 1)))
			})
		}
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, fake.Pushes())
		start := time.Now()
		g.update(func(s *Settings) { s.Bearer = "right" })
		all.Wait()
		require.Zero(t, time.Since(start))
		require.Equal(t, 3, fake.Pushes())
	})
}

func TestLinesAreDroppedWhenTheyAreTooOldAndNotBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		fake.SetStatus(503)
		g := newRig(t, direct{fake})
		g.update(func(s *Settings) { s.MaxAge = time.Hour })
		start := time.Now()
		var all sync.WaitGroup
		all.Go(func() {
			// 20 lines, a minute apart; the last is of now.
			s := stream{labels: `{a="1"}`, lines: 20}
			for i := range 20 {
				s.entries = append(s.entries, linesOf("1", start.Add(time.Duration(i-19)*time.Minute), strconv.Itoa(i)).entries...)
			}
			other := lines("2", 5)
			require.Equal(t, result{acknowledged: 15, rejected: map[string]int64{}, dropped: map[string]int64{"too_old": 10}}, g.must(t, s, other))
		})
		// 10 lines are older than an hour, the 11th will be in 10 s. The longest
		// pause is 30 s; the hold is ended by new settings.
		time.Sleep(50*time.Minute + 30*time.Second)
		require.Empty(t, fake.Entries("acme"))
		fake.SetStatus(0)
		g.update(func(*Settings) {})
		all.Wait()
		require.ElementsMatch(t, []string{"10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "2-0", "2-1", "2-2", "2-3", "2-4"}, texts(fake.Entries("acme")))

		fake.SetStatus(503)
		start = time.Now()
		require.Equal(t, result{rejected: map[string]int64{}, dropped: map[string]int64{"too_old": 7}}, g.must(t, lines("1", 7)))
		require.GreaterOrEqual(t, time.Since(start), time.Hour)
		require.LessOrEqual(t, time.Since(start), time.Hour+maxBackoff)
		pushes := fake.Pushes()
		require.Equal(t, map[string]int64{"too_old": 1}, g.must(t, linesOf("1", time.Now().Add(-2*time.Hour), "x")).dropped)
		require.Equal(t, pushes, fake.Pushes(), "nothing is sent")
	})
}

func TestAFrozenLokiMakesNoLineTwo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &lokitest.Fake{}
		fake.Freeze()
		g := newRig(t, direct{fake})
		time.AfterFunc(time.Minute, fake.Thaw)
		require.Equal(t, acked(5), g.must(t, lines("1", 5)))
		synctest.Wait()
		require.Greater(t, fake.Pushes(), 2)
		require.EqualValues(t, 5*fake.Pushes(), fake.Lines())
		require.Len(t, fake.Entries("acme"), 5)
		require.Contains(t, g.told[0], "context deadline exceeded")
		require.Equal(t, 0, g.statuses[0])
	})
}

func TestWhenTheContextEndsNothingIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, prepare := range map[string]func(*lokitest.Fake){
			"while it waits": func(f *lokitest.Fake) { f.SetStatus(503) },
			"in a request":   func(f *lokitest.Fake) { f.Freeze() },
		} {
			fake := &lokitest.Fake{}
			prepare(fake)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			start := time.Now()
			r, err := newRig(t, direct{fake}).deliver(ctx, "acme", []stream{lines("1", 5)})
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.Equal(t, result{}, r)
			require.Equal(t, 5*time.Second, time.Since(start), name)
			cancel()
			fake.Thaw()
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := newRig(t, direct{&lokitest.Fake{}}).deliver(ctx, "acme", []stream{lines("1", 5)})
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*Settings){
		func(s *Settings) { s.Username, s.Password = "ada", "hunter2hunter2" },
		func(s *Settings) { s.Bearer = "hunter2hunter2" },
	} {
		synctest.Test(t, func(t *testing.T) {
			fake := &lokitest.Fake{}
			fake.Answer(lokitest.Answer{Status: 403, Body: "you are hunter2hunter2"}, lokitest.Answer{Status: 400, Body: "hunter2hunter2"}, lokitest.Answer{Status: 422})
			g := newRig(t, direct{fake})
			g.update(change)
			require.Equal(t, map[string]int64{"quarantined": 1}, g.must(t, lines("1", 1)).rejected)
			require.NotContains(t, fmt.Sprint(g.told, g.quarantined), "hunter2")
			require.Contains(t, g.told[0], "403 you are [redacted]")
		})
	}
}

func TestHalvesHaveAllEntriesInOrder(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3, 7, 100} {
		streams := []stream{lines("1", n/3), lines("2", n-n/3-n/4), lines("3", n/4)}
		parts := halves(newPart(true, streams...))
		require.Len(t, parts, 2)
		require.Equal(t, n/2, parts[0].lines)
		require.Equal(t, n-n/2, parts[1].lines)
		got := map[string][]string{}
		for _, p := range parts {
			require.True(t, p.faulty)
			for i, s := range decodePush(t, appendPush(nil, p.streams)) {
				require.Len(t, s.entries, p.streams[i].lines)
				for _, e := range s.entries {
					got[s.labels] = append(got[s.labels], e.line)
				}
			}
		}
		for _, s := range decodePush(t, appendPush(nil, streams)) {
			for i, e := range s.entries {
				require.Equal(t, e.line, got[s.labels][i])
			}
		}
	}
}

func TestTheTimeOfAnEntryIsRead(t *testing.T) {
	t.Parallel()
	for _, ns := range []int64{0, 1, 999_999_999, 1_000_000_000, 1_764_150_000_123_456_789, -1, -1_000_000_001} {
		require.Equal(t, ns, timeOf(appendEntry(nil, ns, []byte("line"), nil)))
	}
}

func FuzzTimeOf(f *testing.F) {
	f.Add(appendEntry(nil, 1_764_150_000_123_456_789, []byte("line"), nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, piece []byte) { timeOf(piece) })
}

// The same on a real Loki, which can't be hurried.
func TestARealLokiGetsAllButTheBad(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) lokitest.Loki{
		"the fake":     func(t *testing.T) lokitest.Loki { t.Helper(); return lokitest.NewFake(t) },
		"the real one": func(t *testing.T) lokitest.Loki { t.Helper(); return lokitest.Start(t, lokitest.Config{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loki := start(t)
			g := newRig(t, nil)
			t.Cleanup(g.client.CloseIdleConnections)
			g.update(func(s *Settings) { s.Client, s.URL = nil, loki.URL()+pushPath })
			begin := time.Now()
			query := func(tenant string) []lokitest.Entry {
				return loki.Query(t, tenant, `{a=~".+"}`, begin.Add(-8*24*time.Hour), begin.Add(time.Hour))
			}
			require.Equal(t, acked(6), g.must(t, lines("1", 3), lines("2", 2), lines("3", 1)))
			require.Len(t, query("acme"), 6)

			long := linesOf("2", time.Now(), "ok", strings.Repeat("x", 300<<10), "ok", strings.Repeat("x", 300<<10))
			future := linesOf("3", time.Now().Add(time.Hour), "x", "y", "z")
			behind := linesOf("1", begin.Add(-2*time.Hour), "p", "q")
			none := lines("4", 3)
			none.labels = "{a-b}"
			empty := stream{`{a="5"}`, 1, [][]byte{appendEntry(nil, time.Now().UnixNano(), []byte("x"), []metadatum{{"m", make([]byte, 70<<10)}})}}
			g.must(t, lines("1", 1), lines("2", 1), lines("3", 1))
			before := len(query("acme"))
			require.Equal(t, result{acknowledged: 7 + 2, rejected: map[string]int64{
				"line_too_long": 2, "too_far_in_future": 3, "too_far_behind": 2, "quarantined": 3, "structured_metadata_too_large": 1,
			}, dropped: map[string]int64{}}, g.must(t, behind, long, future, none, empty, lines("6", 7)))
			require.Len(t, query("acme"), before+9)
			require.Len(t, g.quarantined, 3)

			// One line among a thousand that Loki answers with an error to all.
			many := stream{labels: `{a="7"}`}
			for i := range 1000 {
				text := "line " + strconv.Itoa(i)
				many.entries = append(many.entries, appendEntry(nil, time.Now().UnixNano()+int64(i), []byte(text), nil))
				many.lines++
			}
			require.Equal(t, acked(1000), g.must(t, many))
			require.Equal(t, acked(1000), g.must(t, many), "again")
			require.Len(t, query("acme"), before+9+1000, "each once")
		})
	}
}

func BenchmarkDeliver(b *testing.B) {
	fake := lokitest.NewFake(b)
	fake.CountOnly = true
	settings, err := Settings{URL: fake.URL()}.Complete()
	require.NoError(b, err)
	d := newDelivery(func() Settings { return settings }, deliveryHooks{
		clock: clock.System{}, changed: func() <-chan struct{} { return nil },
		onRequest: func(int, time.Duration) {}, sent: func(int, int) {}, retrying: func(bool) {},
		diagnose: func(text string) { b.Error(text) }, quarantine: func(string, string, []byte, string) {},
	})
	defer d.client.CloseIdleConnections()
	const perBatch = 1300 // 512 KiB
	line := strings.Repeat("a line of a log, ", 20)
	streams := []stream{
		linesOf("1", time.Now(), slices.Repeat([]string{line}, perBatch-300)...),
		linesOf("2", time.Now(), slices.Repeat([]string{line}, 300)...),
	}
	b.ReportAllocs()
	for b.Loop() {
		if r, err := d.deliver(b.Context(), "acme", streams); err != nil || r.acknowledged != perBatch {
			b.Fatal(r, err)
		}
	}
	b.ReportMetric(float64(b.N*perBatch)/b.Elapsed().Seconds(), "lines/s")
}
