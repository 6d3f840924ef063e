package webhook_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// patience bounds what a test waits for.
const patience = 30 * time.Second

var (
	start   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	secrets = []secret.String{secretOf("the newest of our secrets, 32 B."), secretOf("an older secret 24 bytes")}
)

func secretOf(raw string) secret.String {
	return secret.String("whsec_" + base64.StdEncoding.EncodeToString([]byte(raw)))
}

// TestMain fails if a goroutine is left by any of the tests.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// delivery is a request as the receiver got it.
type delivery struct {
	method, path string
	header       http.Header
	body         []byte
}

func (d delivery) id() string { return d.header.Get("webhook-id") }

// receiver is an HTTP server that keeps what it gets and answers as told.
type receiver struct {
	*httptest.Server
	mu         sync.Mutex
	deliveries []delivery
	answer     http.HandlerFunc
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body) // what is cut is found by its signature
	r.mu.Lock()
	r.deliveries = append(r.deliveries, delivery{request.Method, request.URL.RequestURI(), request.Header, body})
	answer := r.answer
	r.mu.Unlock()
	if answer != nil {
		answer(w, request)
	}
}

// answerWith has it answer by f from now on, nil for 200.
func (r *receiver) answerWith(f http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

func (r *receiver) got() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]delivery(nil), r.deliveries...)
}

// log is where lines go.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines returns those with the message.
func (l *log) lines(message string) []string {
	var found []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, `"msg":"`+message+`"`) {
			found = append(found, line)
		}
	}
	return found
}

// fixture is an outbox on a store, with its clock, receiver and log.
type fixture struct {
	db       *database.DB
	clock    *clock.Fake
	receiver *receiver
	log      *log
	config   webhook.Config
	outbox   *webhook.Outbox
}

// newFixture makes an outbox on the database that url names; change may alter
// its configuration. It does not run yet.
func newFixture(t testing.TB, url string, change ...func(*webhook.Config)) *fixture {
	t.Helper()
	f := &fixture{clock: clock.NewFake(start), receiver: newReceiver(t), log: &log{}}
	f.db = dbtest.Open(t, url, f.clock)
	f.config = webhook.Config{
		DB: f.db, Log: logging.New("invitation-service", zapcore.AddSync(f.log), zap.DebugLevel), Clock: f.clock,
		URL: f.receiver.URL + "/hook", Secrets: secrets,
	}
	for _, c := range change {
		c(&f.config)
	}
	var err error
	f.outbox, err = webhook.New(f.config)
	require.NoError(t, err)
	return f
}

// run runs an outbox until the test or the returned function ends it.
func run(t testing.TB, o *webhook.Outbox) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(patience):
			require.Fail(t, "Run did not end with its context")
		}
	})
	t.Cleanup(stop)
	return stop
}

// enqueue commits an event of tenant 1.
func (f *fixture) enqueue(t testing.TB, kind string, data any) {
	t.Helper()
	require.NoError(t, f.db.InTx(t.Context(), func(tx *database.Tx) error {
		return f.outbox.Enqueue(t.Context(), tx, webhook.Event{Type: kind, TenantID: 1, Data: data})
	}))
	f.outbox.Wake()
}

func (f *fixture) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	require.NoError(t, f.db.InTx(context.Background(), func(tx *database.Tx) error {
		_, err := tx.ExecContext(context.Background(), statement, args...)
		return err
	}))
}

// row is what the store says of an event.
type row struct {
	id, lastError string
	attempts      int
	due           sql.NullInt64
}

// rows returns the store's events, the oldest first.
func (f *fixture) rows(t testing.TB) []row {
	t.Helper()
	result, err := f.db.Reader().QueryContext(context.Background(), `SELECT id, last_error, attempts, due_at FROM webhook_events ORDER BY created_at, id`)
	require.NoError(t, err)
	defer func() { _ = result.Close() }()
	var rows []row
	for result.Next() {
		var r row
		require.NoError(t, result.Scan(&r.id, &r.lastError, &r.attempts, &r.due))
		rows = append(rows, r)
	}
	require.NoError(t, result.Err())
	return rows
}

// wait waits until there are n lines with the message, and returns them.
func (f *fixture) wait(t testing.TB, message string, n int) []string {
	t.Helper()
	require.Eventually(t, func() bool { return len(f.log.lines(message)) >= n }, patience, 5*time.Millisecond,
		"%d times %q in\n%s", n, message, f.log)
	return f.log.lines(message)
}

// settled waits until the event that failed is stored so, and returns it.
func (f *fixture) settled(t testing.TB, attempts int) row {
	t.Helper()
	var last row
	require.Eventually(t, func() bool {
		rows := f.rows(t)
		if len(rows) != 1 {
			return false
		}
		last = rows[0]
		// While an attempt is made the row is due at the end of the lease.
		return last.attempts == attempts && last.lastError != "" && last.due.Int64 != f.clock.Now().Add(webhook.Lease).UnixMilli()
	}, patience, 5*time.Millisecond)
	return last
}

// empty waits until nothing is left in the store.
func (f *fixture) empty(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return len(f.rows(t)) == 0 }, patience, 5*time.Millisecond, "%s", f.log)
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
