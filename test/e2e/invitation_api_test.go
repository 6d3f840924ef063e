package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// invitationAPI calls the invitation API through the gateway, and writes down
// every answer.
type invitationAPI struct {
	*installation
	login map[string][]string // by the name of somebody in the demo
	codes map[string]string   // statuses of the codes in docs/problems.md
	// seen are the statuses of each kind of call, transcript is all answers, ids
	// the ids in them.
	seen       map[string]map[int]bool
	transcript []string
	ids        map[string]string
}

// statuses are what each kind of call answers, all of it.
var statuses = map[string][]int{
	"create": {201, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429},
	"bulk":   {200, 400, 401, 403, 413, 415, 422},
	"list":   {200, 400, 401, 403},
	"get":    {200, 401, 403, 404},
	"cancel": {200, 401, 403, 404, 409},
	"resend": {200, 400, 401, 403, 404, 409, 413, 415, 422, 429},
	"look":   {200, 400, 404, 409, 410, 413, 415, 429},
	"accept": {201, 400, 404, 409, 410, 413, 415, 422, 429},
}

// TestEveryStatusOfTheInvitationAPIIsTheSameOnBothDatabases asks for every
// answer that the calls have, and compares those on SQLite with those on
// PostgreSQL, byte for byte but for what is new in each run.
func TestEveryStatusOfTheInvitationAPIIsTheSameOnBothDatabases(t *testing.T) {
	t.Parallel()
	transcripts := make(chan []string, 2)
	t.Run("runs", func(t *testing.T) {
		dbtest.Each(t, func(t *testing.T, url string) {
			transcripts <- everyAnswer(t, url)
		})
	})
	if len(transcripts) < 2 {
		t.Skip("one database is missing, or its run has failed")
	}
	one, other := <-transcripts, <-transcripts
	t.Logf("%d answers", len(one))
	require.Len(t, other, len(one))
	for i := range one {
		require.Equal(t, one[i], other[i])
	}
}

// everyAnswer returns what the calls answered, in the order of the calls.
func everyAnswer(t *testing.T, url string) []string {
	a := &invitationAPI{
		installation: openInstallation(t, url, "INVITATIONS_PENDING=40", "INVITATIONS_PER_INVITER=50", "INVITATION_TRIES=100"),
		login:        map[string][]string{"": nil}, codes: documentedCodes(t), seen: map[string]map[int]bool{}, ids: map[string]string{},
	}
	for _, name := range []string{"admin@acme", "editor@acme", "viewer@acme", "admin@globex", "viewer@globex"} {
		a.login[name] = a.Login(t, name+".test", Password)
	}
	// The first tenant's Admin may be given tokens; the second one's Viewer may not look.
	a.exec(t, `INSERT INTO role_feature_permissions (role_id, feature_id, action)
		SELECT r.id, f.id, 'read_token' FROM roles r, features f WHERE r.tenant_id = 1 AND r.name = 'Admin' AND f.name = 'invitations'`)
	viewer := a.number(t, `SELECT id FROM roles WHERE tenant_id = 2 AND name = 'Viewer'`)
	a.admin(t, "admin@globex", http.MethodDelete, fmt.Sprintf("/api/roles/%d/permissions/abc/invitations/read/", viewer), "", http.StatusNoContent)
	require.Eventually(t, func() bool { // the table is polled
		return Call(t, http.MethodGet, a.URL+"/api/invitations/", nil, a.login["viewer@globex"]...).StatusCode == http.StatusForbidden
	}, secs(10), ms(50))

	a.create(t)
	a.bulk(t)
	a.listAndGet(t)
	a.cancel(t)
	a.resend(t)
	a.acceptAndLook(t)
	a.limits(t)

	for kind, want := range statuses {
		for _, status := range want {
			require.True(t, a.seen[kind][status], "%s: status %d was not asked for", kind, status)
		}
		require.Len(t, a.seen[kind], len(want), "%s: %v", kind, a.seen[kind])
	}
	return a.transcript
}

// documentedCodes returns the statuses of each code in docs/problems.md.
func documentedCodes(t *testing.T) map[string]string {
	t.Helper()
	codes := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9, ]+) \\|").FindAllStringSubmatch(read(t, "docs/problems.md"), -1) {
		codes[row[1]] = row[2]
	}
	require.NotEmpty(t, codes)
	return codes
}

// send sends a request with a body as it is, and returns the answer.
func (a *invitationAPI) send(t *testing.T, who, method, path, body string, header ...string) Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	header = append(slices.Clone(a.login[who]), header...)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return Answer{resp, content}
}

// admin sends a request of another API, whose answer is not written down.
func (a *invitationAPI) admin(t *testing.T, who, method, path, body string, status int) {
	t.Helper()
	answer := a.send(t, who, method, path, body)
	require.Equal(t, status, answer.StatusCode, "%s %s: %s", method, path, answer.Body)
}

// do sends a request and writes the answer down. code is that of the problem,
// empty for a success.
func (a *invitationAPI) do(t *testing.T, kind, who, method, path, body string, status int, code string, header ...string) Answer {
	t.Helper()
	answer := a.send(t, who, method, path, body, header...)
	require.Equal(t, status, answer.StatusCode, "%s %s %.200s: %s", method, path, body, answer.Body)
	if code != "" {
		problem := requireProblem(t, answer, status, code)
		require.Equal(t, "urn:tenantgate:problem:"+code, problem["type"])
		require.Contains(t, a.codes[code], strconv.Itoa(status), "docs/problems.md: %s", code)
	}
	if a.seen[kind] == nil {
		a.seen[kind] = map[int]bool{}
	}
	a.seen[kind][status] = true
	a.note(kind, fmt.Sprintf("%s %s by %q, %.200s", method, path, who, body), answer)
	return answer
}

var (
	idPattern     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	timePattern   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
	cursorPattern = regexp.MustCompile(`("next_cursor":"|after=)[A-Za-z0-9_-]+`)
	waitPattern   = regexp.MustCompile(`("retry_after":|Retry-After: )\d+`)
	tracePattern  = regexp.MustCompile(`"trace_id":"[0-9a-f]{32}"`)
	// mailPattern is a mail that went out at once, or took longer than the answer.
	mailPattern = regexp.MustCompile(`"status":"(?:pending|sent)","sends":(\d+),"sent_at":(?:null|"<time>.000Z")`)
)

// note writes an answer down: its status, the headers that say something, and
// its body, with a name for all that is new in each run.
func (a *invitationAPI) note(kind, request string, answer Answer) {
	text := fmt.Sprintf("%s: %s\n%d\n", kind, request, answer.StatusCode)
	for _, name := range []string{"Content-Type", "Cache-Control", "Location", "Link", "Retry-After", "Idempotency-Replayed", "Allow", "Www-Authenticate"} {
		for _, value := range answer.Header.Values(name) {
			text += name + ": " + value + "\n"
		}
	}
	text += "\n" + string(answer.Body)
	text = timePattern.ReplaceAllString(text, "<time>.000Z")
	text = cursorPattern.ReplaceAllString(text, "$1<cursor>")
	text = waitPattern.ReplaceAllString(text, "$1<seconds>")
	text = tracePattern.ReplaceAllString(text, `"trace_id":"<trace>"`)
	text = tokenPattern.ReplaceAllString(text, "<token>")
	text = idPattern.ReplaceAllStringFunc(text, func(id string) string {
		if a.ids[id] == "" {
			a.ids[id] = fmt.Sprintf("<id %d>", len(a.ids)+1)
		}
		return a.ids[id]
	})
	if kind != "list" && kind != "get" { // they come when all mails are out
		text = mailPattern.ReplaceAllString(text, `"status":"sent","sends":$1,"sent_at":"<time>.000Z"`)
	}
	a.transcript = append(a.transcript, text)
}

const invitationsPath = "/api/invitations/"

// large is a JSON string of more bytes than any body may have.
var large = `"` + strings.Repeat("x", 520<<10) + `"`

// refusedAlike asks for what all calls with a body refuse in the same way.
func (a *invitationAPI) refusedAlike(t *testing.T, kind, who, path string) {
	t.Helper()
	for _, body := range []string{`{`, `[]`, `{"tokens":"x"}`, `{} {}`} {
		a.do(t, kind, who, "POST", path, body, 400, "bad-json")
	}
	a.do(t, kind, who, "POST", path, `{"email":`+large+`}`, 413, "body-too-large")
	a.do(t, kind, who, "POST", path, `email=x`, 415, "not-json", "Content-Type", "application/x-www-form-urlencoded")
}

// given makes an invitation of acme whose token is given to its admin.
func (a *invitationAPI) given(t *testing.T, email, role string) (id, token string) {
	t.Helper()
	answer := a.do(t, "create", "admin@acme", "POST", invitationsPath, fmt.Sprintf(`{"email":%q,"role":%q,"deliver":false}`, email, role), 201, "")
	created := answer.JSON(t)
	require.Equal(t, "https://app.example.com/invite#token="+created["token"].(string), created["link"])
	return created["id"].(string), created["token"].(string)
}

func (a *invitationAPI) create(t *testing.T) {
	t.Helper()
	do := func(who, body string, status int, code string, header ...string) Answer {
		t.Helper()
		return a.do(t, "create", who, "POST", invitationsPath, body, status, code, header...)
	}
	const ann = `{"email":"Ann@Example.com","role":"Viewer","name":"Ann","locale":"de-AT","metadata":{"ip_address":"203.0.113.9","note":"from sales"}}`
	first := do("admin@acme", ann, 201, "", "Idempotency-Key", `"one"`)
	require.Equal(t, invitationsPath+first.JSON(t)["id"].(string)+"/", first.Header.Get("Location"))
	again := do("admin@acme", ann, 201, "", "Idempotency-Key", "one")
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	require.Equal(t, first.Header.Get("Location"), again.Header.Get("Location"))
	do("admin@acme", `{"email":"other@example.com"}`, 422, "idempotency-key-reused", "Idempotency-Key", "one")
	do("admin@acme", `{"email":"other@example.com"}`, 400, "bad-header", "Idempotency-Key", `"one`)
	a.given(t, "given@example.com", "Viewer")

	a.refusedAlike(t, "create", "admin@acme", invitationsPath)
	a.do(t, "create", "admin@acme", "PUT", invitationsPath, `{}`, 405, "method-not-allowed")
	do("", ann, 401, "token-missing")
	do("viewer@acme", ann, 403, "permission-denied")
	do("editor@acme", `{"email":"x@example.com","role":"Admin"}`, 403, "role-exceeds-yours")
	do("admin@globex", `{"email":"x@example.com","deliver":false}`, 403, "permission-denied")
	for _, tenant := range []int{2, 99} {
		do("admin@acme", fmt.Sprintf(`{"email":"x@example.com","tenant":%d}`, tenant), 404, "tenant-not-found")
	}
	do("admin@acme", `{"email":"VIEWER@acme.test"}`, 409, "already-member")
	do("admin@acme", `{"email":"ann@EXAMPLE.com"}`, 409, "invitation-already-pending")
	a.admin(t, "admin@acme", "PATCH", "/api/tenants/1/", `{"seats":4}`, 200) // three members, and more invitations
	do("admin@acme", `{"email":"x@example.com"}`, 409, "seats-full")
	a.admin(t, "admin@acme", "PATCH", "/api/tenants/1/", `{"seats":null,"invitation_domains":{"denied":["*.spam.test"]}}`, 200)
	for _, body := range []string{
		`{}`, `{"email":"Ann <ann@example.com>"}`, `{"email":"ann"}`, `{"email":"ann@localhost"}`,
		`{"email":"x@example.com","role":"Nobody"}`, `{"email":"x@example.com","role":""}`, `{"email":"x@example.com","locale":"xx"}`,
		`{"email":"x@example.com","name":"` + strings.Repeat("n", 300) + `"}`, `{"email":"x@example.com","name":"a\nb"}`,
		`{"email":"x@a.spam.test"}`, `{"email":"","locale":"?","name":"\u202e","metadata":{"ip_address":"1.2.3","note":"\u0000"}}`,
	} {
		do("admin@acme", body, 422, "invalid-fields")
	}
}

func (a *invitationAPI) bulk(t *testing.T) {
	t.Helper()
	const path = invitationsPath + "bulk/"
	do := func(who, body string, status int, code string, header ...string) Answer {
		t.Helper()
		answer := a.do(t, "bulk", who, "POST", path, body, status, code, header...)
		if status == 200 {
			for _, result := range answer.JSON(t)["results"].([]any) {
				if refusal, ok := result.(map[string]any)["error"].(map[string]any); ok {
					code, status := refusal["code"].(string), result.(map[string]any)["status"]
					require.Contains(t, a.codes[code], fmt.Sprint(status), "docs/problems.md: %s", code)
				}
			}
		}
		return answer
	}
	const mixed = `{"invitations":[{"email":"b1@example.com"},{"email":"nobody"},{"email":"B1@example.com"},{"email":"viewer@acme.test"},
		{"email":"b2@example.com","deliver":false},{"email":"b3@example.com","tenant":2},{"email":"b4@example.com","role":"Editor","locale":"fr"}]}`
	first := do("admin@acme", mixed, 200, "", "Idempotency-Key", "one").JSON(t)
	require.InDelta(t, 3, first["created"], 0)
	require.InDelta(t, 4, first["failed"], 0)
	again := do("admin@acme", mixed, 200, "", "Idempotency-Key", "one")
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	require.NotContains(t, string(again.Body), "inv_", "no token is kept")
	do("admin@acme", `{"invitations":[{"email":"b5@example.com"}]}`, 422, "idempotency-key-reused", "Idempotency-Key", "one")
	none := do("admin@acme", `{"atomic":true,"invitations":[{"email":"b5@example.com"},{"email":"nobody"}]}`, 200, "").JSON(t)
	require.InDelta(t, 0, none["created"], 0)
	do("editor@acme", `{"atomic":true,"invitations":[{"email":"b5@example.com"},{"email":"b6@example.com"}]}`, 200, "")
	do("editor@acme", `{"invitations":[{"email":"b7@example.com","role":"Admin"},{"email":"b7@example.com","deliver":false}]}`, 200, "")

	a.refusedAlike(t, "bulk", "admin@acme", path)
	do("admin@acme", `{"invitations":[{"email":"b7@example.com"}]}`, 400, "bad-header", "Idempotency-Key", "é")
	do("", mixed, 401, "token-missing")
	do("viewer@acme", mixed, 403, "permission-denied")
	do("admin@acme", `{"invitations":[]}`, 422, "invalid-fields")
	do("admin@acme", `{"invitations":[`+strings.TrimSuffix(strings.Repeat(`{"email":"x@example.com"},`, 101), ",")+`]}`, 422, "invalid-fields")
}

// mailed waits until all mails are out.
func (a *invitationAPI) mailed(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return a.number(t, `SELECT COUNT(*) FROM invitation_mails`) == 0 }, secs(20), ms(20))
}

func (a *invitationAPI) listAndGet(t *testing.T) {
	t.Helper()
	a.mailed(t)
	do := func(kind, who, path string, status int, code string) Answer {
		t.Helper()
		return a.do(t, kind, who, "GET", invitationsPath+path, "", status, code)
	}
	all := do("list", "viewer@acme", "?limit=100", 200, "").JSON(t)
	page := do("list", "viewer@acme", "?limit=2&status=pending", 200, "")
	link := regexp.MustCompile(`^<(/api/invitations/\?\S+)>; rel="next"$`).FindStringSubmatch(page.Header.Get("Link"))
	require.NotNil(t, link, page.Header.Get("Link"))
	next := do("list", "viewer@acme", strings.TrimPrefix(link[1], invitationsPath), 200, "").JSON(t)
	require.Len(t, next["items"], 2)
	require.Equal(t, all["items"].([]any)[2:4], next["items"])
	do("list", "admin@globex", "", 200, "")
	do("list", "viewer@acme", "?email=ANN@example.com&created_from=2026-01-01T00:00:00Z&created_before=2100-01-01T00:00:00Z", 200, "")
	for _, query := range []string{
		"limit=0", "limit=101", "limit=x", "after=x", "status=dead", "email=ann", "created_from=monday", "created_before=2026-01-01",
		"status=accepted&after=" + page.JSON(t)["next_cursor"].(string),
	} {
		do("list", "viewer@acme", "?"+query, 400, "bad-query")
	}
	do("list", "", "", 401, "token-missing")
	do("list", "viewer@globex", "", 403, "permission-denied")

	id := all["items"].([]any)[0].(map[string]any)["id"].(string)
	got := do("get", "viewer@acme", id+"/", 200, "").JSON(t)
	require.Equal(t, all["items"].([]any)[0], got)
	do("get", "", id+"/", 401, "token-missing")
	do("get", "viewer@globex", id+"/", 403, "permission-denied")
	do("get", "viewer@acme", "x/", 404, "invitation-not-found")
	do("get", "admin@globex", id+"/", 404, "invitation-not-found")
	do("get", "viewer@acme", "0190a1b2-0000-7000-8000-000000000000/", 404, "invitation-not-found")
}

func (a *invitationAPI) cancel(t *testing.T) {
	t.Helper()
	id, _ := a.given(t, "cancel@example.com", "Viewer")
	do := func(who, id string, status int, code string) {
		t.Helper()
		a.do(t, "cancel", who, "POST", invitationsPath+id+"/cancel/", "", status, code)
	}
	do("", id, 401, "token-missing")
	do("viewer@acme", id, 403, "permission-denied")
	for _, unknown := range []string{"0190a1b2-0000-7000-8000-000000000000", "x"} {
		do("admin@acme", unknown, 404, "invitation-not-found")
	}
	do("admin@globex", id, 404, "invitation-not-found")
	do("editor@acme", id, 200, "")
	do("admin@acme", id, 409, "invitation-not-pending")
}

func (a *invitationAPI) resend(t *testing.T) {
	t.Helper()
	created := a.do(t, "create", "editor@acme", "POST", invitationsPath, `{"email":"again@example.com"}`, 201, "").JSON(t)
	id := created["id"].(string)
	a.mailed(t)
	path := invitationsPath + id + "/resend/"
	do := func(who, path, body string, status int, code string, header ...string) Answer {
		t.Helper()
		return a.do(t, "resend", who, "POST", path, body, status, code, header...)
	}
	do("editor@acme", path, "", 429, "resend-cooldown")
	rested := func() { a.exec(t, `UPDATE invitations SET updated_at = updated_at - 60001 WHERE id = $1`, id) }
	rested()
	do("admin@acme", path, "", 200, "", "Idempotency-Key", "one")
	a.mailed(t)
	do("admin@acme", path, "", 200, "", "Idempotency-Key", "one")
	do("admin@acme", path, `{"deliver":false}`, 422, "idempotency-key-reused", "Idempotency-Key", "one")
	rested()
	do("editor@acme", path, `{"deliver":false}`, 403, "permission-denied")
	given := do("admin@acme", path, `{"deliver":false}`, 200, "", "Idempotency-Key", "two").JSON(t)
	require.Regexp(t, tokenPattern, given["token"])
	require.NotContains(t, string(do("admin@acme", path, `{"deliver":false}`, 200, "", "Idempotency-Key", "two").Body), "inv_")
	a.refusedAlike(t, "resend", "admin@acme", path)
	do("", path, "", 401, "token-missing")
	do("viewer@acme", path, "", 403, "permission-denied")
	do("admin@globex", path, "", 404, "invitation-not-found")
	do("admin@acme", invitationsPath+"x/resend/", "", 404, "invitation-not-found")
	rested()
	a.exec(t, `UPDATE invitations SET send_count = 10 WHERE id = $1`, id)
	do("admin@acme", path, "", 429, "resend-limit")
	a.exec(t, `UPDATE invitations SET expires_at = created_at WHERE id = $1`, id)
	do("admin@acme", path, "", 409, "invitation-not-pending")
}

func (a *invitationAPI) acceptAndLook(t *testing.T) {
	t.Helper()
	look := func(token string, status int, code string) Answer {
		t.Helper()
		return a.do(t, "look", "", "POST", invitationsPath+"look/", fmt.Sprintf(`{"token":%q}`, token), status, code)
	}
	accept := func(token, password string, status int, code string) Answer {
		t.Helper()
		return a.do(t, "accept", "", "POST", invitationsPath+"accept/", fmt.Sprintf(`{"token":%q,"password":%q}`, token, password), status, code)
	}
	// resend meets what an accept meets, once the invitation has rested.
	resend := func(id, code string) {
		t.Helper()
		a.exec(t, `UPDATE invitations SET updated_at = updated_at - 60001 WHERE id = $1`, id)
		a.do(t, "resend", "admin@acme", "POST", invitationsPath+id+"/resend/", "", 409, code)
	}
	const password = "plum tree river stone"
	a.refusedAlike(t, "look", "", invitationsPath+"look/")
	a.refusedAlike(t, "accept", "", invitationsPath+"accept/")
	for _, token := range []string{"", "inv_x", "inv_" + strings.Repeat("A", 43)} {
		look(token, 404, "invitation-unknown")
		accept(token, password, 404, "invitation-unknown")
	}

	cancelled, dead := a.given(t, "cancelled@example.com", "Viewer")
	a.admin(t, "admin@acme", "POST", invitationsPath+cancelled+"/cancel/", "", 200)
	lapsed, late := a.given(t, "late@example.com", "Viewer")
	a.exec(t, `UPDATE invitations SET expires_at = created_at WHERE id = $1`, lapsed)
	look(dead, 410, "invitation-cancelled")
	accept(dead, password, 410, "invitation-cancelled")
	look(late, 410, "invitation-expired")
	accept(late, password, 410, "invitation-expired")

	// One token, and everything that can stand in its way for a while.
	id, token := a.given(t, "dora@example.com", "Viewer")
	for _, obstacle := range []struct{ put, away, code string }{
		{`{"seats":3}`, `{"seats":null}`, "seats-full"},
		{`{"invitation_domains":{"denied":["example.com"]}}`, `{"invitation_domains":{}}`, "domain-not-allowed"},
	} {
		a.admin(t, "admin@acme", "PATCH", "/api/tenants/1/", obstacle.put, 200)
		look(token, 409, obstacle.code)
		accept(token, password, 409, obstacle.code)
		resend(id, obstacle.code)
		a.admin(t, "admin@acme", "PATCH", "/api/tenants/1/", obstacle.away, 200)
	}
	accept(token, "short", 422, "invalid-fields")
	accept(token, "dora acme abc dora", 422, "invalid-fields")
	look(token, 200, "")
	require.Equal(t, true, accept(token, password, 201, "").JSON(t)["user"].(map[string]any)["new"])
	look(token, 410, "invitation-accepted")
	accept(token, password, 410, "invitation-accepted")

	a.do(t, "create", "admin@globex", "POST", invitationsPath, `{"email":"gia@example.com"}`, 201, "")
	a.mailed(t)
	suspended := mailToken(t, a.Data, "gia@example.com")
	a.admin(t, "admin@acme", "PATCH", "/api/tenants/2/", `{"status":"suspended"}`, 200)
	look(suspended, 409, "tenant-inactive")
	accept(suspended, password, 409, "tenant-inactive")
	a.admin(t, "admin@acme", "PATCH", "/api/tenants/2/", `{"status":"active"}`, 200)

	a.admin(t, "admin@acme", "POST", "/api/roles/", `{"name":"Temp"}`, 201)
	id, token = a.given(t, "temp@example.com", "Temp")
	a.admin(t, "admin@acme", "DELETE", fmt.Sprintf("/api/roles/%d/", a.number(t, `SELECT id FROM roles WHERE name = 'Temp'`)), "", 204)
	accept(token, password, 409, "role-gone")
	resend(id, "role-gone")

	fired := a.do(t, "create", "editor@acme", "POST", invitationsPath, `{"email":"fired@example.com"}`, 201, "").JSON(t)
	a.mailed(t)
	var editor string
	require.NoError(t, a.db.Reader().QueryRowContext(t.Context(), `SELECT id FROM users WHERE email = 'editor@acme.test'`).Scan(&editor))
	a.admin(t, "admin@acme", "PATCH", "/api/members/"+editor+"/", `{"role":"Viewer"}`, 200)
	accept(mailToken(t, a.Data, "fired@example.com"), password, 409, "inviter-not-allowed")
	resend(fired["id"].(string), "inviter-not-allowed")

	// Somebody who has an account at another tenant, and then none that could join.
	_, token = a.given(t, "viewer@globex.test", "Viewer")
	require.Equal(t, true, look(token, 200, "").JSON(t)["account_exists"])
	accept(token, "", 422, "invalid-fields")
	accept(token, password, 422, "invalid-fields")
	a.exec(t, `UPDATE users SET status = 'disabled' WHERE email = 'viewer@globex.test'`)
	accept(token, Password, 409, "account-disabled")
	a.exec(t, `UPDATE users SET status = 'active', password_hash = NULL WHERE email = 'viewer@globex.test'`)
	accept(token, Password, 409, "account-without-password")
	a.exec(t, `UPDATE users SET password_hash = (SELECT password_hash FROM users WHERE email = 'admin@globex.test') WHERE email = 'viewer@globex.test'`)
	require.Equal(t, false, accept(token, Password, 201, "").JSON(t)["user"].(map[string]any)["new"])
	id, token = a.given(t, "editor@globex.test", "Viewer")
	for range 5 {
		accept(token, password, 422, "invalid-fields")
	}
	accept(token, Password, 429, "too-many-attempts")
	a.admin(t, "admin@acme", "POST", "/api/members/", `{"email":"editor@globex.test","role":"Viewer"}`, 201)
	accept(token, Password, 409, "already-member")
	resend(id, "already-member")
}

// limits meets those that end what comes after them.
func (a *invitationAPI) limits(t *testing.T) {
	t.Helper()
	many := func(name string, n int) string {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf(`{"email":"%s%d@example.com"}`, name, i))
		}
		return `{"invitations":[` + strings.Join(items, ",") + `]}`
	}
	globex := func(kind, path, body string, status int, code string) Answer {
		t.Helper()
		return a.do(t, kind, "admin@globex", "POST", path, body, status, code)
	}
	require.Eventually(t, func() bool { // the tenant was suspended, and the table is polled
		return a.send(t, "admin@globex", "GET", invitationsPath, "").StatusCode == http.StatusOK
	}, secs(10), ms(50))
	made := globex("bulk", invitationsPath+"bulk/", many("p", 41), 200, "").JSON(t) // one more is pending
	require.InDelta(t, 39, made["created"], 0)
	require.InDelta(t, 429, made["results"].([]any)[40].(map[string]any)["status"], 0)
	globex("create", invitationsPath, `{"email":"x@example.com"}`, 429, "too-many-pending")
	a.mailed(t)
	a.exec(t, `UPDATE invitations SET status = 'cancelled', cancelled_at = created_at WHERE tenant_id = 2 AND email <> 'p0@example.com'`)
	made = globex("bulk", invitationsPath+"bulk/", many("q", 12), 200, "").JSON(t)
	require.InDelta(t, 10, made["created"], 0)
	refused := globex("create", invitationsPath, `{"email":"x@example.com"}`, 429, "too-many-invitations")
	wait, err := strconv.Atoi(refused.Header.Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 3600, wait, 300)
	var id string
	require.NoError(t, a.db.Reader().QueryRowContext(t.Context(), `SELECT id FROM invitations WHERE email = 'p0@example.com'`).Scan(&id))
	a.exec(t, `UPDATE invitations SET updated_at = updated_at - 60001 WHERE id = $1`, id)
	globex("resend", invitationsPath+id+"/resend/", "", 429, "too-many-invitations")

	junk := fmt.Sprintf(`{"token":"inv_%s"}`, strings.Repeat("B", 43))
	for range 300 {
		if a.send(t, "", "POST", invitationsPath+"look/", junk).StatusCode == 429 {
			break
		}
	}
	a.do(t, "look", "", "POST", invitationsPath+"look/", junk, 429, "too-many-attempts")
	limited := a.do(t, "accept", "", "POST", invitationsPath+"accept/", junk, 429, "too-many-attempts")
	wait, err = strconv.Atoi(limited.Header.Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 30, wait, 30)
}
