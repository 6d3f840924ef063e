package contract_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/contract"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/caddymodules/gateway"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// token stands for jwt_auth: the header Token is the user's id, and the tenant is 1.
type token struct{}

func init() { caddy.RegisterModule(token{}) }

func (token) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.contract_token", New: func() caddy.Module { return new(token) }}
}

func (token) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if id := r.Header.Get("Token"); id != "" {
		gateway.SetPrincipal(r.Context(), &identity.Principal{UserID: id, TenantID: "1", Seat: new(identity.Seat)})
	}
	return next.ServeHTTP(w, r)
}

// plain stands for argon2.
type plain struct{}

func (plain) Hash(_ context.Context, password string) (string, error) {
	return "plain$" + password, nil
}

// answers is what the gateway answers itself, with the permission table of the
// demo, held against the description.
type answers struct {
	t       *testing.T
	doc     *contract.Document
	handler http.Handler
	seen    map[string]bool
}

// newAnswers returns the answers, without a table until start is called, and
// the id of the demo's viewer.
func newAnswers(t *testing.T) (a *answers, start func(), viewer string) {
	t.Helper()
	url := dbtest.SQLite(t)
	db := dbtest.Open(t, url, clock.System{})
	require.NoError(t, seed.Demo(t.Context(), db, plain{}))
	require.NoError(t, db.Reader().QueryRow(`SELECT id FROM users WHERE email_key = 'viewer@acme.test'`).Scan(&viewer))
	config := fmt.Sprintf(`{
		"admin": {"disabled": true},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"storage": {"module": "file_system", "root": %q},
		"apps": {
			"tenantgate": {"database": %q},
			"http": {"servers": {"s": {
				"routes": [{"handle": [{"handler": "contract_token"}, {"handler": "permission_answers"}]}],
				"errors": {"routes": [{"handle": [{"handler": "problem_details"}]}]}
			}}}
		}
	}`, t.TempDir(), url)
	var caddyConfig caddy.Config
	require.NoError(t, caddy.StrictUnmarshalJSON([]byte(config), &caddyConfig))
	ctx, err := caddy.ProvisionContext(&caddyConfig)
	require.NoError(t, err)
	server, err := ctx.App("http")
	require.NoError(t, err)
	table, err := ctx.App("tenantgate")
	require.NoError(t, err)
	doc, err := contract.Load(description)
	require.NoError(t, err)
	a = &answers{t: t, doc: doc, handler: server.(*caddyhttp.App).Servers["s"], seen: map[string]bool{}}
	return a, func() {
		require.NoError(t, table.(caddy.App).Start())
		t.Cleanup(func() { require.NoError(t, table.(caddy.App).Stop()) })
		require.Eventually(t, func() bool {
			return a.send(viewer, "GET", "/api/permissions/me", "").Code == http.StatusOK
		}, 10*time.Second, 10*time.Millisecond, "the table is loaded")
	}, viewer
}

// send sends a request, with headers given as names and values.
func (a *answers) send(user, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Token", user)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w
}

// do is send that requires an answer which is documented. code is that of a refusal.
func (a *answers) do(status int, code, user, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	a.t.Helper()
	i := slices.IndexFunc(a.doc.Operations, func(o contract.Operation) bool { return o.Path == path && (o.Method == method || status == 405) })
	require.GreaterOrEqual(a.t, i, 0, path)
	o := a.doc.Operations[i]
	w := a.send(user, method, path, body, headers...)
	require.Equal(a.t, status, w.Code, w.Body)
	a.seen[fmt.Sprint(o, " ", status)] = true
	if code != "" {
		var answer struct{ Code string }
		require.NoError(a.t, json.Unmarshal(w.Body.Bytes(), &answer))
		require.Equal(a.t, code, answer.Code)
		if !slices.Contains(a.doc.Statuses(o), status) {
			require.Contains(a.t, a.doc.Codes(o, 0), code, "%s %d", o, status)
			return w
		}
		require.Contains(a.t, a.doc.Codes(o, status), code, "%s %d", o, status)
	}
	require.Empty(a.t, a.doc.CheckResponse(o, status, w.Header(), w.Body.Bytes()), "%s: %s", o, w.Body)
	if status == 200 {
		require.Empty(a.t, a.doc.CheckRequest(o, []byte(body)), o)
	}
	return w
}

// TestTheGatewayAnswersAsDocumented walks through every documented status of
// what the gateway answers itself.
func TestTheGatewayAnswersAsDocumented(t *testing.T) {
	a, start, viewer := newAnswers(t)
	const me, check = "/api/permissions/me", "/api/permissions/check"
	const questions = `{"permissions":["abc/reports/read","abc/reports/delete","xyz/reports/read"]}`
	a.do(503, "permissions-not-loaded", viewer, "GET", me, "")
	a.do(503, "permissions-not-loaded", viewer, "POST", check, questions)
	start()

	w := a.do(200, "", viewer, "GET", me, "")
	require.JSONEq(t, `{"tenant_id":"1","user_id":"`+viewer+`","roles":["Viewer"],
		"permissions":["abc/billing/read","abc/dashboard/read","abc/invitations/read","abc/reports/read"]}`, w.Body.String())
	require.Equal(t, "private, no-cache", w.Header().Get("Cache-Control"))
	a.do(304, "", viewer, "GET", me, "", "If-None-Match", w.Header().Get("ETag"))
	w = a.do(200, "", "nobody", "GET", me, "")
	require.JSONEq(t, `{"tenant_id":"1","user_id":"nobody","roles":[],"permissions":[]}`, w.Body.String())
	a.do(401, "token-missing", "", "GET", me, "")
	a.do(405, "method-not-allowed", viewer, "POST", me, "")

	w = a.do(200, "", viewer, "POST", check, questions)
	require.JSONEq(t, `{"tenant_id":"1","results":[{"permission":"abc/reports/read","allowed":true,"reason":"allowed"},
		{"permission":"abc/reports/delete","allowed":false,"reason":"role_lacks_action"},
		{"permission":"xyz/reports/read","allowed":false,"reason":"unknown_product"}]}`, w.Body.String())
	w = a.do(200, "", viewer, "POST", check, `{"permissions":[]}`)
	require.JSONEq(t, `{"tenant_id":"1","results":[]}`, w.Body.String())
	a.do(401, "token-missing", "", "POST", check, questions)
	a.do(400, "bad-json", viewer, "POST", check, `{`)
	a.do(413, "body-too-large", viewer, "POST", check, `{"permissions":["`+strings.Repeat("x", 1<<20)+`"]}`)
	a.do(415, "not-json", viewer, "POST", check, questions, "Content-Type", "text/plain")
	w = a.do(422, "invalid-fields", viewer, "POST", check, `{"permissions":["abc/reports/read","abc/reports/read","abc/reports/read","abc/*/read"]}`)
	require.Contains(t, w.Body.String(), `"/permissions/3"`)
	a.do(422, "invalid-fields", viewer, "POST", check, `{"permissions":["abc/reports/read"`+strings.Repeat(`,"abc/reports/read"`, 1000)+`]}`)
	a.do(405, "method-not-allowed", viewer, "GET", check, "")

	for _, o := range a.doc.Operations {
		for _, status := range a.doc.Statuses(o) {
			require.True(t, !o.Gateway || a.seen[fmt.Sprint(o, " ", status)], "%s %d is documented, but no test has seen it", o, status)
		}
	}
}
