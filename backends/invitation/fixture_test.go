package invitation_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/mail"
	neturl "net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// The people and places of the tests. Tenant 1 is acme, 2 is globex, 3 is
// suspended; in 1 and 2 there are the roles Admin, Editor and Viewer.
const (
	admin    = "admin-user"
	editor   = "editor-user"
	stranger = "globex-admin"

	goodPassword = "seven sleepy herons wade"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// catalogue is the store before each test. The hashes are those of plainHasher.
const catalogue = `
INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'acme', 0, 0), (2, 'globex', 0, 0);
INSERT INTO tenants (id, name, status, created_at, updated_at) VALUES (3, 'sleepy', 'suspended', 0, 0);
INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 0, 0);
INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (1, 1, 'dashboard', 0, 0), (2, 1, 'invitations', 0, 0);
INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES
	(1, 1, 'Admin', 0, 0), (2, 1, 'Editor', 0, 0), (3, 1, 'Viewer', 0, 0), (4, 2, 'Admin', 0, 0), (5, 2, 'Viewer', 0, 0), (6, 3, 'Viewer', 0, 0);
INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES
	(1, 1, 'read'), (1, 1, 'write'), (1, 1, 'delete'), (1, 2, 'read'), (1, 2, 'write'), (1, 2, 'delete'),
	(2, 1, 'read'), (2, 1, 'write'), (2, 2, 'read'), (2, 2, 'write'), (3, 1, 'read'), (4, 1, 'read'), (4, 2, 'write'), (5, 1, 'read');
INSERT INTO users (id, email, email_key, name, password_hash, created_at, updated_at) VALUES
	('admin-user', 'admin@acme.test', 'admin@acme.test', 'Ada Admin', 'plain:the admin password', 0, 0),
	('editor-user', 'editor@acme.test', 'editor@acme.test', '', 'plain:the editor password', 0, 0),
	('globex-admin', 'admin@globex.test', 'admin@globex.test', 'Gil', 'plain:the globex password', 0, 0);
INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES
	(1, 'admin-user', 1, 0, 0), (1, 'editor-user', 2, 0, 0), (2, 'globex-admin', 4, 0, 0);`

// plainHasher stands in for argon2id where a test is not about passwords.
type plainHasher struct{}

func (plainHasher) Hash(_ context.Context, password string) (string, error) {
	return "plain:" + password, nil
}

func (plainHasher) Verify(_ context.Context, phc, password string) (ok, needsRehash bool, err error) {
	return phc == "plain:"+password, false, nil
}

// outbox keeps mails, or fails or hangs as told.
type outbox struct {
	mu    sync.Mutex
	mails []invitation.Mail // that were taken
	tried []invitation.Mail // that were offered
	fail  error
	hang  chan struct{} // what an attempt waits for, nil for nothing
}

func (o *outbox) Send(ctx context.Context, m invitation.Mail) error {
	o.mu.Lock()
	o.tried = append(o.tried, m)
	hang := o.hang
	o.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return &invitation.SendError{Reason: "unavailable", Err: ctx.Err()}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	o.mails = append(o.mails, m)
	return nil
}

func (o *outbox) failWith(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

// hangFromNow has the attempts from now on wait for release, or their context,
// except those after goOn.
func (o *outbox) hangFromNow(t *testing.T) (goOn, release func()) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	hang := make(chan struct{})
	o.hang = hang
	goOn = func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.hang = nil
	}
	release = sync.OnceFunc(func() { goOn(); close(hang) })
	t.Cleanup(release)
	return goOn, release
}

func (o *outbox) last(t require.TestingT) invitation.Mail {
	o.mu.Lock()
	defer o.mu.Unlock()
	require.NotEmpty(t, o.mails, "no mail was sent")
	return o.mails[len(o.mails)-1]
}

// count returns how many mails were taken.
func (o *outbox) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.mails)
}

// attempts returns how many mails were offered.
func (o *outbox) attempts() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.tried)
}

// wait waits until so many mails were offered.
func (o *outbox) wait(t *testing.T, attempts int) {
	t.Helper()
	require.Eventually(t, func() bool { return o.attempts() >= attempts }, 10*time.Second, time.Millisecond)
}

// offered returns the token of the last mail that was offered for an address.
func (o *outbox) offered(t require.TestingT, email string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range slices.Backward(o.tried) {
		if m.To.Address == email {
			return tokenIn(t, m.Text)
		}
	}
	require.Fail(t, "no mail was offered for "+email)
	return ""
}

// fixture is a running service with its store, clock, mails and log.
type fixture struct {
	db      *database.DB
	raw     *sql.DB // to look and to break things
	clock   *clock.Fake
	mails   *outbox
	log     *bytes.Buffer
	config  invitation.Config
	service *invitation.Service
	handler http.Handler
}

// newFixture starts a service on the database that url names; change may alter
// its configuration.
func newFixture(t testing.TB, url string, change ...func(*invitation.Config)) *fixture {
	t.Helper()
	f := &fixture{clock: clock.NewFake(start), mails: &outbox{}, log: &bytes.Buffer{}}
	f.db = dbtest.Open(t, url, f.clock)
	driver, source := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		driver, source = "sqlite3", "file:"+path+"?_busy_timeout=5000&_foreign_keys=on"
	}
	var err error
	f.raw, err = sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.raw.Close() })
	f.exec(t, catalogue)

	f.config = invitation.Config{
		DB: f.db, Log: logging.New("invitation-service", zapcore.Lock(zapcore.AddSync(f.log)), zap.DebugLevel), Clock: f.clock,
		Hasher: plainHasher{}, Mail: f.mails, From: mail.Address{Name: "Acme Gate", Address: "no-reply@gate.test"},
		PublicURL: &neturl.URL{Scheme: "https", Host: "app.example.com"}, Random: rand.Reader,
	}
	for _, c := range change {
		c(&f.config)
	}
	f.service, err = invitation.New(f.config)
	require.NoError(t, err)
	f.handler = f.service.Handler()
	return f
}

func (f *fixture) exec(t require.TestingT, statement string, args ...any) {
	_, err := f.raw.ExecContext(context.Background(), statement, args...)
	require.NoError(t, err)
}

// text returns the only value of a query as text.
func (f *fixture) text(t require.TestingT, query string, args ...any) string {
	var value sql.NullString
	require.NoError(t, f.raw.QueryRowContext(context.Background(), query, args...).Scan(&value))
	return value.String
}

// answer is a response with its decoded body.
type answer struct {
	*httptest.ResponseRecorder
	body map[string]any
}

// code returns the problem's code.
func (a answer) code() string { code, _ := a.body["code"].(string); return code }

// fields returns the pointers and codes of a problem's errors.
func (a answer) fields() []string {
	var fields []string
	list, _ := a.body["errors"].([]any)
	for _, one := range list {
		field := one.(map[string]any)
		fields = append(fields, field["pointer"].(string)+" "+field["code"].(string))
	}
	return fields
}

// at returns a value inside the body by its path of keys.
func (a answer) at(keys ...string) any {
	var value any = a.body
	for _, key := range keys {
		object, _ := value.(map[string]any)
		value = object[key]
	}
	return value
}

// do sends a request; body nil sends none.
func (f *fixture) do(t require.TestingT, method, path, body string, headers ...string) answer {
	r := httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a := answer{ResponseRecorder: httptest.NewRecorder()}
	f.handler.ServeHTTP(a.ResponseRecorder, r)
	if strings.Contains(a.Header().Get("Content-Type"), "json") {
		require.NoError(t, json.Unmarshal(a.Body.Bytes(), &a.body))
	}
	return a
}

// as sends a request that the gateway let through for a user of a tenant.
func (f *fixture) as(t require.TestingT, user string, tenant int, method, path, body string, headers ...string) answer {
	permission := "abc/invitations/write"
	if method == http.MethodGet {
		permission = "abc/invitations/read"
	}
	return f.do(t, method, path, body, append([]string{
		"X-User-Id", user, "X-Tenant-Id", strconv.Itoa(tenant), "X-Permission", permission, "X-Forwarded-For", "203.0.113.9",
	}, headers...)...)
}

// create asks as the admin of acme for an invitation.
func (f *fixture) create(t require.TestingT, body string, headers ...string) answer {
	return f.as(t, admin, 1, http.MethodPost, "/api/invitations/", body, headers...)
}

// resend asks as the admin of acme to send an invitation again.
func (f *fixture) resend(t require.TestingT, id, body string, headers ...string) answer {
	return f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/resend/", body, headers...)
}

// bulk asks as the admin of acme for many invitations.
func (f *fixture) bulk(t require.TestingT, body string, headers ...string) answer {
	return f.as(t, admin, 1, http.MethodPost, "/api/invitations/bulk/", body, headers...)
}

// get returns an invitation of acme as it is now.
func (f *fixture) get(t require.TestingT, id string) answer {
	a := f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+id+"/", "")
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	return a
}

// results returns what a bulk says of its items: status, and code of the error.
func (a answer) results() (all []string) {
	list, _ := a.body["results"].([]any)
	for _, one := range list {
		result := answer{body: one.(map[string]any)}
		text := fmt.Sprint(result.at("status"))
		if code, ok := result.at("error", "code").(string); ok {
			text += " " + code
		}
		all = append(all, text)
	}
	return all
}

// events returns the types of the events for the webhook, in order.
func (f *fixture) events(t require.TestingT) []string {
	return f.lines(t, `SELECT type FROM webhook_events ORDER BY id`)
}

// withWebhook has events stored for a receiver; nobody sends them.
func withWebhook(t testing.TB) func(*invitation.Config) {
	t.Helper()
	return func(c *invitation.Config) {
		var err error
		c.Webhook, err = webhook.New(webhook.Config{
			DB: c.DB, Clock: c.Clock, URL: "https://hooks.test/x",
			Secrets: []secret.String{secret.String("whsec_" + base64.StdEncoding.EncodeToString([]byte("a secret of the tests, 32 bytes.")))},
		})
		require.NoError(t, err)
	}
}

// invite creates an invitation by the admin of acme and returns its id and
// token.
func (f *fixture) invite(t require.TestingT, email string) (id, token string) {
	a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":`+strconv.Quote(email)+`}`)
	require.Equal(t, http.StatusCreated, a.Code, a.Body)
	f.service.Settle() // the create waited for the mail, but not for ever
	return a.body["id"].(string), tokenIn(t, f.mails.last(t).Text)
}

// accept sends the token with a password.
func (f *fixture) accept(t require.TestingT, token, password string) answer {
	body, err := json.Marshal(map[string]string{"token": token, "password": password})
	require.NoError(t, err)
	return f.do(t, http.MethodPost, "/api/invitations/accept/", string(body))
}

var tokenLine = regexp.MustCompile(`(?m)^Token: (inv_[A-Za-z0-9_-]{43})\r?$`)

func tokenIn(t require.TestingT, text string) string {
	found := tokenLine.FindStringSubmatch(text)
	require.NotNil(t, found, "no token in %q", text)
	return found[1]
}

// lines returns the first column of a query.
func (f *fixture) lines(t require.TestingT, query string, args ...any) []string {
	rows, err := f.raw.QueryContext(context.Background(), query, args...)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	all := []string{}
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		all = append(all, line)
	}
	require.NoError(t, rows.Err())
	return all
}

// audits returns the actions recorded for an invitation, in order.
func (f *fixture) audits(t require.TestingT, id string) []string {
	return f.lines(t, `SELECT action FROM audit_events WHERE target = $1 ORDER BY id`, "invitation/"+id)
}

// The ways in which mails fail: for now, and for ever.
var (
	errMail    = &invitation.SendError{Reason: "unavailable", Err: errors.New("dial tcp 10.0.0.3:587: refused")}
	errRefused = &invitation.SendError{Reason: "refused-permanently", Err: errors.New("550 no such user")}
)
