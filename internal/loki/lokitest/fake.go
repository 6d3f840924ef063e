package lokitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// Limits are what a [Fake] takes. Rates are in bytes a second, bursts in bytes;
// bytes are those of lines and structured metadata.
type Limits struct {
	LineBytes, LabelNames, LabelNameBytes, LabelValueBytes int
	MetadataBytes, MetadataEntries                         int // of one line
	// MaxAge and MaxFuture bound a line's time, Behind how much older it may be
	// than the newest of its stream.
	MaxAge, MaxFuture, Behind time.Duration
	Rate, Burst               int // of a tenant
	StreamRate, StreamBurst   int
	Streams                   int // of a tenant
	BodyBytes                 int
}

// DefaultLimits returns those of Loki, without its limits of rates.
func DefaultLimits() Limits {
	return Limits{
		LineBytes: 256 << 10, LabelNames: 15, LabelNameBytes: 1024, LabelValueBytes: 2048,
		MetadataBytes: 64 << 10, MetadataEntries: 128,
		MaxAge: 7 * 24 * time.Hour, MaxFuture: 10 * time.Minute, Behind: time.Hour,
		Rate: math.MaxInt, Burst: math.MaxInt, StreamRate: math.MaxInt, StreamBurst: math.MaxInt,
		Streams: 5000, BodyBytes: 100 << 20,
	}
}

// Answer is what a [Fake] answers to one push instead of what Loki would.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	// Stored says that the push is processed before, so that only its answer is
	// another one.
	Stored bool
	// Cut closes the connection without an answer.
	Cut bool
}

// Fake is Loki's push API, and the part of its query API that [Fake.Query] needs,
// with the answers of Loki 3.7; it keeps lines in memory. Its methods are safe for
// concurrent use. The zero value serves as a handler.
type Fake struct {
	// Clock is the time; nil means the system's. It is set before the first push.
	Clock clock.Clock
	// CountOnly keeps no lines: they are only counted. It is set before the first
	// push.
	CountOnly bool

	addr   string
	server *http.Server

	mu            sync.Mutex
	limits        *Limits // nil means DefaultLimits
	answers       []Answer
	status        int
	authorization string
	needsTenant   bool
	tenants       map[string]*tenant
	pushes        int
	lines         int64
	frozen        chan struct{} // closed by Thaw; nil if not frozen
	killed        chan struct{} // closed by Kill
}

// NewFake returns a fake that serves until the test has ended.
func NewFake(tb testing.TB) *Fake {
	tb.Helper()
	f := &Fake{addr: "127.0.0.1:0"}
	f.start(tb)
	tb.Cleanup(f.Kill)
	return f
}

func (f *Fake) start(tb testing.TB) {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", f.addr)
	if err != nil {
		tb.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addr = listener.Addr().String()
	f.server = &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	f.killed = make(chan struct{})
	go func(s *http.Server) {
		_ = s.Serve(listener) // says that it was closed
	}(f.server)
}

// URL returns where Loki is, without a path.
func (f *Fake) URL() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "http://" + f.addr
}

// Kill closes the listener and all connections. The lines remain.
func (f *Fake) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server != nil {
		_ = f.server.Close()
		close(f.killed)
		f.server, f.frozen = nil, nil
	}
}

// Restart serves again on the same address, after [Fake.Kill] if need be.
func (f *Fake) Restart(tb testing.TB) {
	tb.Helper()
	f.Kill()
	f.start(tb)
}

// Freeze holds all requests from now on back until [Fake.Thaw]. As with a frozen
// process, they are processed then even if the client has gone.
func (f *Fake) Freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen == nil {
		f.frozen = make(chan struct{})
	}
}

// Thaw ends [Fake.Freeze].
func (f *Fake) Thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen != nil {
		close(f.frozen)
		f.frozen = nil
	}
}

// SetLimits changes the limits.
func (f *Fake) SetLimits(l Limits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limits = &l
}

// Answer gives the answers to the next pushes, after those that were given before.
func (f *Fake) Answer(answers ...Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = append(f.answers, answers...)
}

// SetStatus makes all pushes from now on fail with the status; 0 ends it.
func (f *Fake) SetStatus(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
}

// RequireAuthorization refuses pushes without this value of the Authorization
// header; the empty one takes all.
func (f *Fake) RequireAuthorization(value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.authorization = value
}

// RequireTenant refuses requests without X-Scope-OrgID, as Loki does with
// auth_enabled. Until then these are for the tenant "fake".
func (f *Fake) RequireTenant() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.needsTenant = true
}

// Pushes returns how many pushes there were, whatever the answer.
func (f *Fake) Pushes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pushes
}

// Lines returns how many lines were taken, each time they were.
func (f *Fake) Lines() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lines
}

// Entries returns the lines of a tenant, sorted by time, each once. The empty
// tenant is the one of requests without a tenant.
func (f *Fake) Entries(tenant string) []Entry {
	return f.find(tenant, func(Entry) bool { return true })
}

// Query returns the lines of a query like {service="gateway"} | trace_id="1", from
// start to before end, sorted by time.
func (f *Fake) Query(tb testing.TB, tenant, logql string, start, end time.Time) []Entry {
	tb.Helper()
	return query(tb, f.URL(), tenant, logql, start, end)
}

// ServeHTTP implements [http.Handler].
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	f.mu.Lock()
	frozen, killed := f.frozen, f.killed
	f.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-killed:
			panic(http.ErrAbortHandler)
		}
	}
	id, refusal := f.tenantOf(r)
	switch {
	case r.URL.Path == "/ready":
		_, _ = io.WriteString(w, "ready\n")
	case r.URL.Path != "/loki/api/v1/push" && r.URL.Path != "/loki/api/v1/query_range":
		http.NotFound(w, r)
	case r.URL.Path == "/loki/api/v1/push" && r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.URL.Path == "/loki/api/v1/push":
		f.answerPush(w, r, id, refusal, body)
	case refusal.Status != 0:
		refusal.write(w)
	default:
		f.answerQuery(w, r, id)
	}
}

func (a Answer) write(w http.ResponseWriter) {
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	if a.Status == http.StatusNoContent {
		w.WriteHeader(a.Status)
		return
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(a.Status)
	_, _ = io.WriteString(w, a.Body) // the client may have gone
}

func (f *Fake) answerPush(w http.ResponseWriter, r *http.Request, id string, refusal Answer, body []byte) {
	f.mu.Lock()
	f.pushes++
	answer, scripted := Answer{}, false
	switch {
	case len(f.answers) > 0:
		answer, f.answers, scripted = f.answers[0], f.answers[1:], true
	case f.status != 0:
		answer, scripted = Answer{Status: f.status, Body: http.StatusText(f.status) + "\n"}, true
	case f.authorization != "" && r.Header.Get("Authorization") != f.authorization:
		answer, scripted = Answer{Status: http.StatusUnauthorized, Body: "unauthorized\n"}, true
	}
	f.mu.Unlock()
	if !scripted || answer.Stored {
		loki := refusal
		if loki.Status == 0 {
			loki = f.push(id, r.Header, body)
		}
		if !scripted {
			answer = loki
		}
	}
	if answer.Cut {
		panic(http.ErrAbortHandler)
	}
	answer.write(w)
}

const noTenant = "fake" // as Loki calls it

// tenantOf returns the tenant of a request, or the refusal of it.
func (f *Fake) tenantOf(r *http.Request) (string, Answer) {
	f.mu.Lock()
	needed := f.needsTenant
	f.mu.Unlock()
	id := r.Header.Get("X-Scope-OrgID")
	switch {
	case id == "" && needed:
		return "", Answer{Status: http.StatusUnauthorized, Body: "no org id\n"}
	case id == "":
		return noTenant, Answer{}
	}
	if err := checkTenant(id); err != nil {
		return "", Answer{Status: http.StatusBadRequest, Body: err.Error() + "\n"}
	}
	return id, Answer{}
}

func checkTenant(id string) error {
	for _, c := range id {
		switch {
		case c == '|':
			return errors.New("multiple org IDs present")
		case strings.ContainsRune("!-_.*'()", c), c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		default:
			return fmt.Errorf("tenant ID '%s' contains unsupported character '%c'", id, c)
		}
	}
	if len(id) > 150 {
		return errors.New("tenant ID is too long: max 150 characters")
	}
	if id == "." || id == ".." {
		return errors.New("tenant ID is '.' or '..'")
	}
	return nil
}

type tenant struct {
	streams map[string]*stream
	bucket  bucket
}

type stream struct {
	labels  []pair
	name    string // the labels as Loki writes them
	entries []string
	newest  int64
	bucket  bucket
}

// bucket counts bytes by time; it begins full.
type bucket struct {
	used float64
	last time.Time
}

// take reports whether n bytes fit, and counts them if so.
func (b *bucket) take(now time.Time, n, rate, burst int) bool {
	used := b.used
	if !b.last.IsZero() {
		used = max(0, used-now.Sub(b.last).Seconds()*float64(rate))
	}
	if used+float64(n) > float64(burst) {
		return false
	}
	b.used, b.last = used+float64(n), now
	return true
}

// push answers a push as Loki does: pkg/loghttp/push, then pkg/distributor, then
// pkg/ingester.
func (f *Fake) push(id string, header http.Header, body []byte) Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	limits := DefaultLimits()
	if f.limits != nil {
		limits = *f.limits
	}
	now := f.now()
	if len(body) > limits.BodyBytes {
		return refuse(http.StatusRequestEntityTooLarge, "request body too large: received message size %d exceeds limit %d", len(body), limits.BodyBytes)
	}
	streams, err := decodePush(header, body)
	if err != nil {
		return refuse(http.StatusBadRequest, "%s", err.Error())
	}
	if len(streams) == 0 {
		return refuse(http.StatusUnprocessableEntity, "error at least one valid stream is required for ingestion")
	}
	if f.tenants == nil {
		f.tenants = map[string]*tenant{}
	}
	t := f.tenants[id]
	if t == nil {
		t = &tenant{streams: map[string]*stream{}}
		f.tenants[id] = t
	}
	for _, p := range streams {
		for _, e := range p.entries {
			if e.badName != nil {
				return refuse(http.StatusInternalServerError, "%s", e.badName.Error())
			}
		}
	}
	valid, refusals, lines, bytes := limits.validate(now, streams)
	answer := Answer{Status: http.StatusNoContent}
	if len(refusals) > 0 {
		answer = refuse(http.StatusBadRequest, "%s", grouped(refusals))
	}
	if len(valid) == 0 {
		return answer
	}
	if !t.bucket.take(now, bytes, limits.Rate, limits.Burst) {
		return refuse(http.StatusTooManyRequests, "ingestion rate limit exceeded for user %s (limit: %d bytes/sec) while attempting to ingest '%d' lines totaling '%d' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased", id, limits.Rate, lines, bytes)
	}
	// Loki tells only what became of the last stream (instance.Push).
	last := Answer{}
	for _, s := range valid {
		last = f.store(id, t, s, limits, now)
	}
	if last.Status != 0 {
		return last
	}
	return answer
}

func refuse(status int, format string, args ...any) Answer {
	return Answer{Status: status, Body: fmt.Sprintf(format, args...) + "\n"}
}

// store is what an ingester does with one stream. The zero answer means that it
// has taken all of it.
func (f *Fake) store(id string, t *tenant, p pushed, limits Limits, now time.Time) Answer {
	s := t.streams[p.name]
	if s == nil {
		if len(t.streams) >= limits.Streams {
			return refuse(http.StatusTooManyRequests, "maximum active stream limit exceeded when trying to create stream %s, reduce the number of active streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can be increased, user: '%s'", p.name, id)
		}
		s = &stream{labels: p.labels, name: p.name}
		t.streams[p.name] = s
	}
	var behind []string
	var stored []entry
	ignored, bytes, newest := 0, 0, s.newest
	for _, e := range p.entries {
		if cutoff := newest - limits.Behind.Nanoseconds(); newest != 0 && e.ns < cutoff {
			if ignored++; ignored <= 10 {
				at := time.Unix(0, e.ns).UTC()
				behind = append(behind, fmt.Sprintf("entry with timestamp %s ignored, reason: 'entry too far behind, entry timestamp is: %s, oldest acceptable timestamp is: %s',\n", at, at.Format(time.RFC3339), time.Unix(0, cutoff).UTC().Format(time.RFC3339)))
			}
			continue
		}
		newest = max(newest, e.ns)
		bytes += e.bytes()
		stored = append(stored, e)
	}
	end := fmt.Sprintf("user '%s', total ignored: %%d out of %d for stream: %s", id, len(p.entries), p.name)
	if !s.bucket.take(now, bytes, limits.StreamRate, limits.StreamBurst) {
		var text strings.Builder
		for _, e := range stored[:min(10, len(stored))] {
			fmt.Fprintf(&text, "entry with timestamp %s ignored, reason: 'Per stream rate limit exceeded (limit: %s/sec) while attempting to ingest for stream '%s' totaling %s, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased',\n",
				time.Unix(0, e.ns).UTC(), byteSize(limits.StreamRate), p.name, byteSize(e.bytes()))
		}
		return refuse(http.StatusTooManyRequests, "%s", text.String()+fmt.Sprintf(end, len(stored)))
	}
	s.newest = newest
	f.lines += int64(len(stored))
	if !f.CountOnly {
		for _, e := range stored {
			s.entries = append(s.entries, e.raw)
		}
	}
	if ignored > 0 {
		return refuse(http.StatusBadRequest, "%s", strings.Join(behind, "")+fmt.Sprintf(end, ignored))
	}
	return Answer{}
}

// byteSize writes a number of bytes as Loki does.
func byteSize(n int) string {
	for _, unit := range []struct {
		name string
		size int
	}{{"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if n >= unit.size && n%unit.size == 0 {
			return strconv.Itoa(n/unit.size) + unit.name
		}
	}
	return strconv.Itoa(n) + "B"
}

// validate returns the streams with the entries that a distributor takes, what
// it says of the others, and the lines and bytes that are left.
func (l Limits) validate(now time.Time, streams []pushed) (valid []pushed, refusals []string, lines, bytes int) {
	for _, p := range streams {
		if len(p.entries) == 0 {
			continue
		}
		if text := l.checkLabels(p); text != "" {
			refusals = append(refusals, text)
			continue
		}
		kept := p.entries[:0]
		for _, e := range p.entries {
			if text := l.checkEntry(now, p.name, e); text != "" {
				refusals = append(refusals, text)
				continue
			}
			kept = append(kept, e)
			lines++
			bytes += e.bytes()
		}
		if p.entries = kept; len(kept) > 0 {
			valid = append(valid, p)
		}
	}
	return valid, refusals, lines, bytes
}

func (l Limits) checkLabels(p pushed) string {
	names := 0
	for _, label := range p.labels {
		if label.name != "service_name" {
			names++
		}
	}
	if len(p.labels) == 0 {
		return "error at least one label pair is required per stream"
	}
	if names > l.LabelNames {
		return fmt.Sprintf("entry for stream '%s' has %d label names; limit %d", p.name, names, l.LabelNames)
	}
	for i, label := range p.labels {
		switch {
		case len(label.name) > l.LabelNameBytes:
			return fmt.Sprintf("stream '%s' has label name too long: '%s'", p.name, label.name)
		case len(label.value) > l.LabelValueBytes:
			return fmt.Sprintf("stream '%s' has label value too long: '%s'", p.name, label.value)
		case i > 0 && p.labels[i-1].name == label.name:
			return fmt.Sprintf("stream '%s' has duplicate label name: '%s'", p.name, label.name)
		}
	}
	return ""
}

func (l Limits) checkEntry(now time.Time, name string, e entry) string {
	oldest := now.Add(-l.MaxAge)
	at := time.Unix(0, e.ns).UTC()
	switch {
	case at.Before(oldest):
		return fmt.Sprintf("entry for stream '%s' has timestamp too old: %s, oldest acceptable timestamp is: %s", name, at.Format(time.RFC3339), oldest.UTC().Format(time.RFC3339))
	case at.After(now.Add(l.MaxFuture)):
		return fmt.Sprintf("entry for stream '%s' has timestamp too new: %s", name, at.Format(time.RFC3339))
	case len(e.line) > l.LineBytes:
		return fmt.Sprintf("max entry size '%d' bytes exceeded for stream '%s' while adding an entry with length '%d' bytes", l.LineBytes, name, len(e.line))
	case e.metadataBytes > l.MetadataBytes:
		return fmt.Sprintf("stream '%s' has structured metadata too large: '%d' bytes, limit: '%d' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it", name, e.metadataBytes, l.MetadataBytes)
	case e.metadataEntries > l.MetadataEntries:
		return fmt.Sprintf("stream '%s' has too many structured metadata labels: '%d', limit: '%d'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it", name, e.metadataEntries, l.MetadataEntries)
	}
	return ""
}

// grouped joins texts as Loki's util.GroupedErrors does.
func grouped(texts []string) string {
	slices.Sort(texts)
	var joined []string
	for rest := texts; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n] == rest[0] {
			n++
		}
		text := rest[0]
		if n < len(texts) || n > 1 {
			text = fmt.Sprintf("%d errors like: %s", n, text)
		}
		joined = append(joined, text)
		rest = rest[n:]
	}
	return strings.Join(joined, "; ")
}

func (f *Fake) now() time.Time {
	if f.Clock == nil {
		return clock.System{}.Now()
	}
	return f.Clock.Now()
}

// find returns the entries of a tenant for which keep reports true.
func (f *Fake) find(id string, keep func(Entry) bool) []Entry {
	if id == "" {
		id = noTenant
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tenants[id]
	if t == nil {
		return nil
	}
	var found []Entry
	for _, s := range t.streams {
		labels := mapOf(s.labels)
		seen := make(map[string]bool, len(s.entries))
		for _, raw := range s.entries {
			if seen[raw] {
				continue
			}
			seen[raw] = true
			e, err := readEntry(raw)
			if err != nil {
				panic(err) // it was read when it was pushed
			}
			if out := (Entry{Time: time.Unix(0, e.ns).UTC(), Labels: labels, Metadata: e.metadata(), Line: e.line}); keep(out) {
				found = append(found, out)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return found
}

// decompress undoes snappy's block format.
func decompress(body []byte) ([]byte, error) {
	n, err := s2.DecodedLen(body)
	if err != nil || n > 1<<30 {
		return nil, errors.New("snappy: corrupt input")
	}
	b, err := s2.Decode(nil, body)
	if err != nil {
		return nil, errors.New("snappy: corrupt input")
	}
	return b, nil
}
