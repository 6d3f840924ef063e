package invitation_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/backends/idempotency"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// modelInvitation is what the state machine must hold about one invitation.
type modelInvitation struct {
	id, token, email string // the token is the one that can be used, "" if none
	role             int64  // 0: it was deleted
	inviter          string
	status           string // as stored; lapsed ones count as expired
	expires, touched time.Time
	sends, audits    int
	delivery, reason string
	handedOut        bool
	mail             *modelMail // its row in the outbox, nil if it has none
}

// modelMail is a row of the outbox.
type modelMail struct {
	attempts    int
	queued, due time.Time
}

// modelSlot is what an Idempotency-Key is unique in.
type modelSlot struct{ who, route, key string }

// modelKey is what an Idempotency-Key came with and what it was answered.
type modelKey struct {
	body, answer string
	status       int
	expires      time.Time
}

// model drives the service and knows what each answer must be.
type model struct {
	f           *fixture
	hex         string // the SQL of a token's hash
	invitations []*modelInvitation
	members     map[string]int64 // roles of the addresses that joined tenant 1
	accounts    map[string]bool  // addresses that have an account
	dead        []string         // tokens that were replaced, or whose invitation is gone
	events      map[string]int   // of the webhook, by type
	keys        map[modelSlot]modelKey
	guest       int64 // the role Guest, 0 if there is none
	guests      int64 // the last id of such a role
	editor      string
	seats       int
	domains     string
	mail        error // how mails fail
}

// modelRetention is how long the model keeps what has ended.
const modelRetention = 24 * time.Hour

const viewerRole = 3

var addresses = []string{"a@x.test", "B@x.test", "c@y.test"}

// item is what is asked for.
type item struct {
	email, role string
	deliver     bool
}

func (x item) body() string {
	return fmt.Sprintf(`{"email":%q,"role":%q,"deliver":%t}`, x.email, x.role, x.deliver)
}

func drawItem(t *rapid.T) item {
	return item{
		rapid.SampledFrom(addresses).Draw(t, "email"), rapid.SampledFrom([]string{"Viewer", "Viewer", "Guest"}).Draw(t, "role"),
		rapid.SampledFrom([]bool{true, true, false}).Draw(t, "deliver"),
	}
}

func (m *model) now() time.Time { return m.f.clock.Now() }

func (m *model) effective(i *modelInvitation) string {
	if i.status == "pending" && !m.now().Before(i.expires) {
		return "expired"
	}
	return i.status
}

func (m *model) pending(email string) *modelInvitation {
	for _, i := range m.invitations {
		if i.email == email && i.status == "pending" {
			return i
		}
	}
	return nil
}

// countMembers returns how many members tenant 1 has.
func (m *model) countMembers() int {
	n := 1 + len(m.members)
	if m.editor != "left" {
		n++
	}
	return n
}

// denied reports whether the domain lists keep an address out.
func (m *model) denied(email string) bool {
	return m.domains != "all" && strings.HasSuffix(email, "@y.test")
}

// save returns a function that undoes what happens to the invitations until
// it is called, as a rollback does.
func (m *model) save() (undo func()) {
	invitations, events := make([]*modelInvitation, 0, len(m.invitations)), maps.Clone(m.events)
	for _, i := range m.invitations {
		kept := *i
		if i.mail != nil {
			mail := *i.mail
			kept.mail = &mail
		}
		invitations = append(invitations, &kept)
	}
	return func() { m.invitations, m.events = invitations, events }
}

// happened counts an event in the audit log and, if it is told, the webhook.
func (m *model) happened(i *modelInvitation, what string) {
	i.audits++
	if what != "sent" && what != "resent" && what != "accept_failed" {
		m.events["invitation."+what]++
	}
}

// invite returns the new invitation, or the status and code of the refusal.
func (m *model) invite(who string, x item) (*modelInvitation, string) {
	role := map[string]int64{"Viewer": viewerRole, "Guest": m.guest}[x.role]
	switch {
	case role == 0:
		return nil, "422 invalid-fields"
	case who == editor && (m.editor == "left" || m.editor == "poorer"):
		return nil, "403 role-exceeds-yours"
	case !x.deliver && who != admin:
		return nil, "403 permission-denied"
	case m.denied(x.email):
		return nil, "422 invalid-fields"
	case m.members[x.email] != 0:
		return nil, "409 already-member"
	}
	if old := m.pending(x.email); old != nil {
		if m.effective(old) == "pending" {
			return nil, "409 invitation-already-pending"
		}
		old.status = "expired"
		m.happened(old, "expired")
	}
	taken := m.countMembers()
	for _, i := range m.invitations {
		if m.effective(i) == "pending" {
			taken++
		}
	}
	if m.seats > 0 && taken >= m.seats {
		return nil, "409 seats-full"
	}
	i := &modelInvitation{
		email: x.email, role: role, inviter: who, status: "pending", expires: m.now().Add(invitation.DefaultLifetime), touched: m.now(), sends: 1,
		delivery: "pending", handedOut: !x.deliver,
	}
	if x.deliver {
		i.mail = &modelMail{queued: m.now(), due: m.now()}
	}
	m.happened(i, "created")
	m.invitations = append(m.invitations, i)
	return i, ""
}

// attempt is what an attempt to send the mail of i did.
func (m *model) attempt(t *rapid.T, i *modelInvitation) {
	if i.token != "" {
		m.dead = append(m.dead, i.token)
	}
	i.token = m.f.mails.offered(t, i.email) // of a mail that failed too: who knows where it got to
	i.touched = m.now()
	i.mail.attempts++
	switch {
	case m.mail == nil:
		i.delivery, i.reason, i.mail = "sent", "", nil
		m.happened(i, "sent")
		return
	case errors.Is(m.mail, errMail):
		i.reason = "unavailable"
		pause := min(30*time.Second<<(2*min(i.mail.attempts-1, 10)), 4*time.Hour)
		soonest, latest := m.now().Add(pause-pause/5), m.now().Add(pause+pause/5)
		last := i.mail.queued.Add(invitation.DefaultMailRetry)
		if due := m.f.text(t, `SELECT due_at FROM invitation_mails WHERE invitation_id = $1 UNION ALL SELECT 0 LIMIT 1`, i.id); due != "0" {
			ms, err := strconv.ParseInt(due, 10, 64)
			require.NoError(t, err)
			i.mail.due = time.UnixMilli(ms)
			require.False(t, i.mail.due.Before(soonest.Truncate(time.Millisecond)), "the pause is %s", i.mail.due.Sub(m.now()))
			require.False(t, i.mail.due.After(latest), "the pause is %s", i.mail.due.Sub(m.now()))
			require.False(t, i.mail.due.After(last), "it is tried for too long")
			require.True(t, i.mail.due.Before(i.expires), "nobody could use the mail")
			return
		}
		require.True(t, latest.After(last) || !latest.Before(i.expires), "it was given up too early")
	default:
		i.reason = "refused-permanently"
	}
	i.delivery, i.mail = "failed", nil
	m.happened(i, "delivery_failed")
}

// ask sends a request, with an Idempotency-Key or without. It is done if the
// key made the answer, which must be the right one.
func (m *model) ask(t *rapid.T, who, route, path, body string) (a answer, slot modelSlot, done bool) {
	slot = modelSlot{who, "invitations/" + route, rapid.SampledFrom([]string{"", "", "k1", "k2"}).Draw(t, "key")}
	path = "/api/invitations/" + path
	if slot.key == "" {
		return m.f.as(t, who, 1, http.MethodPost, path, body), slot, false
	}
	a = m.f.as(t, who, 1, http.MethodPost, path, body, idempotency.Header, slot.key)
	known, ok := m.keys[slot]
	switch {
	case !ok || !m.now().Before(known.expires):
		require.Empty(t, a.Header().Get("Idempotency-Replayed"))
		return a, slot, false
	case known.body != body:
		require.Equal(t, "422 idempotency-key-reused", fmt.Sprint(a.Code, " ", a.code()))
	default:
		require.Equal(t, known.status, a.Code, a.Body)
		require.Equal(t, "true", a.Header().Get("Idempotency-Replayed"))
		require.Equal(t, known.answer, a.Body.String())
	}
	return a, slot, true
}

// remember notes what a key was answered.
func (m *model) remember(t *rapid.T, slot modelSlot, body string, a answer, ids ...string) {
	if slot.key == "" {
		return
	}
	stored := m.f.text(t, `SELECT response FROM idempotency_keys WHERE caller_id = $1 AND route = $2 AND key = $3 AND expires_at = $4 AND status = $5`,
		slot.who, slot.route, slot.key, m.now().Add(idempotency.TTL).UnixMilli(), a.Code)
	for _, id := range ids {
		require.Contains(t, stored, id)
	}
	require.NotContains(t, stored, "inv_", "a token")
	m.keys[slot] = modelKey{body: body, answer: stored, status: a.Code, expires: m.now().Add(idempotency.TTL)}
}

func drawInviter(t *rapid.T) string {
	return rapid.SampledFrom([]string{admin, editor}).Draw(t, "inviter")
}

func (m *model) create(t *rapid.T) {
	who, x := drawInviter(t), drawItem(t)
	a, slot, done := m.ask(t, who, "create", "", x.body())
	if done {
		return
	}
	undo := m.save()
	i, refusal := m.invite(who, x)
	if i == nil {
		undo()
		require.Equal(t, refusal, fmt.Sprint(a.Code, " ", a.code()), a.Body)
		return
	}
	require.Equal(t, http.StatusCreated, a.Code, a.Body)
	i.id = a.body["id"].(string)
	i.token, _ = a.body["token"].(string)
	require.Equal(t, i.handedOut, i.token != "")
	m.f.service.Settle()
	if i.mail != nil {
		m.attempt(t, i)
	}
	m.remember(t, slot, x.body(), a, i.id)
}

func (m *model) bulk(t *rapid.T) {
	who, atomic := drawInviter(t), rapid.Bool().Draw(t, "atomic")
	items := rapid.SliceOfN(rapid.Custom(drawItem), 1, 4).Draw(t, "items")
	bodies := make([]string, 0, len(items))
	for _, x := range items {
		bodies = append(bodies, x.body())
	}
	body := fmt.Sprintf(`{"atomic":%t,"invitations":[%s]}`, atomic, strings.Join(bodies, ","))
	a, slot, done := m.ask(t, who, "bulk", "bulk/", body)
	if done {
		return
	}
	undo := m.save()
	made, want, refused := make([]*modelInvitation, len(items)), make([]string, len(items)), false
	for n, x := range items {
		if made[n], want[n] = m.invite(who, x); made[n] == nil {
			refused = true
			continue
		}
		want[n] = "201"
	}
	if refused && atomic {
		undo()
		for n := range want {
			if made[n] != nil {
				made[n], want[n] = nil, "424 not-created"
			}
		}
	}
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	require.Equal(t, want, a.results())
	var ids []string
	for n, i := range made {
		if i == nil {
			continue
		}
		one := answer{body: a.body["results"].([]any)[n].(map[string]any)}
		i.id = one.at("invitation", "id").(string)
		i.token, _ = one.at("invitation", "token").(string)
		require.Equal(t, i.handedOut, i.token != "")
		ids = append(ids, i.id)
	}
	require.InDelta(t, len(ids), a.body["created"], 0)
	require.InDelta(t, len(items)-len(ids), a.body["failed"], 0)
	if !refused || !atomic {
		m.remember(t, slot, body, a, ids...)
	}
}

func (m *model) pick(t *rapid.T) *modelInvitation {
	if len(m.invitations) == 0 {
		t.Skip("none yet")
	}
	return rapid.SampledFrom(m.invitations).Draw(t, "invitation")
}

// standsInTheWay returns the status and code of what keeps i from being
// accepted, whatever the password, or from being sent again.
func (m *model) standsInTheWay(i *modelInvitation) string {
	switch status := m.effective(i); {
	case status != "pending":
		return "410 invitation-" + status
	case i.role == 0:
		return "409 role-gone"
	case m.denied(i.email):
		return "409 domain-not-allowed"
	case m.seats > 0 && m.countMembers() >= m.seats:
		return "409 seats-full"
	case i.inviter == editor && m.editor != "well":
		return "409 inviter-not-allowed"
	}
	return ""
}

func (m *model) accept(t *rapid.T) {
	i := m.pick(t)
	if i.token == "" {
		t.Skip("it has no token yet")
	}
	look := m.f.look(t, i.token)
	password := rapid.SampledFrom([]string{goodPassword, goodPassword, "short"}).Draw(t, "password")
	a := m.f.accept(t, i.token, password)
	if refusal := m.standsInTheWay(i); refusal != "" {
		require.Equal(t, refusal, fmt.Sprint(a.Code, " ", a.code()), a.Body)
		require.Equal(t, refusal, fmt.Sprint(look.Code, " ", look.code()), look.Body)
		return
	}
	require.Equal(t, http.StatusOK, look.Code, look.Body)
	require.Equal(t, m.accounts[i.email], look.body["account_exists"])
	switch {
	case password != goodPassword && m.accounts[i.email]:
		require.Contains(t, []int{http.StatusUnprocessableEntity, http.StatusTooManyRequests}, a.Code)
		if a.Code == http.StatusUnprocessableEntity {
			m.happened(i, "accept_failed")
		}
	case password != goodPassword:
		require.Equal(t, http.StatusUnprocessableEntity, a.Code, a.Body)
	case a.Code == http.StatusTooManyRequests:
		require.True(t, m.accounts[i.email])
	default:
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, !m.accounts[i.email], a.at("user", "new"))
		i.status = "accepted"
		m.happened(i, "accepted")
		m.members[i.email], m.accounts[i.email] = i.role, true
		members := m.f.text(t, `SELECT COUNT(*) FROM memberships WHERE tenant_id = 1`)
		require.Equal(t, strconv.Itoa(m.countMembers()), members)
		require.True(t, m.seats == 0 || m.countMembers() <= m.seats, "%s members on %d seats", members, m.seats)
	}
}

func (m *model) cancel(t *rapid.T) {
	i := m.pick(t)
	a := m.f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+i.id+"/cancel/", "")
	if m.effective(i) != "pending" {
		require.Equal(t, http.StatusConflict, a.Code, a.Body)
		return
	}
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	i.status = "cancelled"
	m.happened(i, "cancelled")
}

func (m *model) resend(t *rapid.T) {
	i := m.pick(t)
	body := rapid.SampledFrom([]string{`{}`, `{"deliver":false}`}).Draw(t, "body")
	a, slot, done := m.ask(t, admin, "resend/"+i.id, i.id+"/resend/", body)
	if done {
		return
	}
	quiet := i.delivery != "failed" && i.reason == "" && m.now().Before(i.touched.Add(invitation.DefaultCooldown))
	switch {
	case m.effective(i) != "pending":
		require.Equal(t, "409 invitation-not-pending", fmt.Sprint(a.Code, " ", a.code()), a.Body)
		return
	case i.sends >= 10:
		require.Equal(t, "429 resend-limit", fmt.Sprint(a.Code, " ", a.code()), a.Body)
		return
	case quiet:
		require.Equal(t, "429 resend-cooldown", fmt.Sprint(a.Code, " ", a.code()), a.Body)
		return
	}
	if refusal := m.standsInTheWay(i); refusal != "" {
		require.Equal(t, refusal, fmt.Sprint(a.Code, " ", a.code()), a.Body)
		return
	}
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	if i.token != "" {
		m.dead = append(m.dead, i.token)
	}
	i.token, _ = a.body["token"].(string)
	i.expires, i.touched, i.sends = m.now().Add(invitation.DefaultLifetime), m.now(), i.sends+1
	i.delivery, i.reason, i.mail = "pending", "", nil
	i.handedOut = body != `{}`
	require.Equal(t, i.handedOut, i.token != "")
	m.happened(i, "resent")
	m.f.service.Settle()
	if !i.handedOut {
		i.mail = &modelMail{queued: m.now(), due: m.now()}
		m.attempt(t, i)
	}
	m.remember(t, slot, body, a, i.id)
}

func (m *model) mailServer(t *rapid.T) {
	m.mail = rapid.SampledFrom([]error{nil, errMail, errRefused}).Draw(t, "mails fail with")
	m.f.mails.failWith(m.mail)
}

// sendDue is a look at the outbox.
func (m *model) sendDue(t *rapid.T) {
	require.NoError(t, m.f.service.SendDue(t.Context()))
	for _, i := range m.invitations {
		switch {
		case i.mail == nil || i.mail.due.After(m.now()):
		case m.effective(i) == "pending":
			m.attempt(t, i)
		default:
			i.mail = nil
		}
	}
}

func (m *model) tick(t *rapid.T) {
	m.f.clock.Advance(rapid.SampledFrom([]time.Duration{
		time.Second, time.Minute, 10 * time.Minute, 5 * time.Hour, 25 * time.Hour, invitation.DefaultLifetime - time.Minute, invitation.DefaultLifetime,
	}).Draw(t, "by"))
}

func (m *model) markExpired(t *rapid.T) {
	n, err := invitation.MarkExpired(t.Context(), m.f.db, m.f.config.Webhook, false)
	require.NoError(t, err)
	want := 0
	for _, i := range m.invitations {
		if i.status == "pending" && m.effective(i) == "expired" {
			i.status = "expired"
			m.happened(i, "expired")
			want++
		}
	}
	require.Equal(t, want, n)
}

func (m *model) purge(t *rapid.T) {
	n, err := invitation.PurgeEnded(t.Context(), m.f.db, modelRetention, false)
	require.NoError(t, err)
	before := len(m.invitations)
	m.invitations = slices.DeleteFunc(m.invitations, func(i *modelInvitation) bool {
		old := i.status != "pending" && !i.expires.After(m.now().Add(-modelRetention))
		if old && i.token != "" {
			m.dead = append(m.dead, i.token)
		}
		return old
	})
	require.Equal(t, before-len(m.invitations), n)
}

func (m *model) removeMember(t *rapid.T) {
	email := rapid.SampledFrom(addresses).Draw(t, "email")
	m.f.exec(t, `DELETE FROM memberships WHERE tenant_id = 1 AND user_id IN (SELECT id FROM users WHERE email = $1)`, email)
	delete(m.members, email)
}

func (m *model) setSeats(t *rapid.T) {
	m.seats = rapid.SampledFrom([]int{0, 2, 3, 4}).Draw(t, "seats")
	m.f.exec(t, `UPDATE tenants SET seats = NULLIF($1, 0) WHERE id = 1`, m.seats)
}

func (m *model) setDomains(t *rapid.T) {
	m.domains = rapid.SampledFrom([]string{"all", "only x", "not y"}).Draw(t, "domains")
	m.f.exec(t, `UPDATE tenants SET allowed_domains = $1, denied_domains = $2 WHERE id = 1`,
		map[string]string{"only x": "x.test"}[m.domains], map[string]string{"not y": "*.z.test,y.test"}[m.domains])
}

// The ways in which the editor fares, and how it came to them.
var editorStates = map[string]string{
	"well":     ``,
	"left":     `DELETE FROM memberships WHERE user_id = 'editor-user'`,
	"disabled": `UPDATE users SET status = 'disabled' WHERE id = 'editor-user'`,
	"mute":     `DELETE FROM role_feature_permissions WHERE role_id = 2 AND feature_id = 2 AND action = 'write'`,
	"poorer":   `DELETE FROM role_feature_permissions WHERE role_id = 2 AND feature_id = 1 AND action = 'read'`,
}

const editorWell = `DELETE FROM memberships WHERE user_id = 'editor-user'; DELETE FROM role_feature_permissions WHERE role_id = 2;
	UPDATE users SET status = 'active' WHERE id = 'editor-user'; INSERT INTO memberships VALUES (1, 'editor-user', 2, 0, 0);
	INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (2, 1, 'read'), (2, 1, 'write'), (2, 2, 'read'), (2, 2, 'write');`

func (m *model) setEditor(t *rapid.T) {
	m.editor = rapid.SampledFrom([]string{"well", "well", "left", "disabled", "mute", "poorer"}).Draw(t, "editor")
	m.f.exec(t, editorWell+editorStates[m.editor])
}

// changeGuest deletes the role Guest, or makes another one of this name.
func (m *model) changeGuest(t *rapid.T) {
	if m.guest == 0 {
		m.guests++
		m.guest = m.guests
		m.f.exec(t, fmt.Sprintf(`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (%[1]d, 1, 'Guest', 0, 0);
			INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (%[1]d, 1, 'read')`, m.guest))
		return
	}
	for _, role := range m.members {
		if role == m.guest {
			t.Skip("it has members")
		}
	}
	m.f.exec(t, `DELETE FROM roles WHERE id = $1`, m.guest)
	for _, i := range m.invitations {
		if i.role == m.guest {
			i.role = 0
		}
	}
	m.guest = 0
}

// row is what the store must hold of i: an invitation has a row in the outbox
// from the time when its mail is wanted until it is sent, has failed, was given
// to the inviter, or the outbox was looked at after the invitation's end.
func (m *model) row(i *modelInvitation) string {
	hash := ""
	if i.token != "" {
		sum := sha256.Sum256([]byte(i.token))
		hash = hex.EncodeToString(sum[:])
	}
	handedOut := 0
	if i.handedOut {
		handedOut = 1
	}
	mail := "none"
	if i.mail != nil {
		mail = fmt.Sprintf("%d %d %d", i.mail.attempts, i.mail.queued.UnixMilli(), i.mail.due.UnixMilli())
	}
	return fmt.Sprintf("%s %s role %d sends %d out %d: %s %s audits %d mail %s token %s",
		i.id, i.status, i.role, i.sends, handedOut, i.delivery, i.reason, i.audits, mail, hash)
}

// shown is what the API must say of the delivery of i.
func (m *model) shown(i *modelInvitation) string {
	status, next := i.delivery, "<nil>"
	if i.handedOut {
		status = "none"
	}
	if i.mail != nil && i.reason != "" && m.effective(i) == "pending" {
		next = i.mail.due.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
	return fmt.Sprint(i.id, " ", status, " ", i.reason, " ", i.sends, " ", next)
}

// check holds after every step.
func (m *model) check(t *rapid.T) {
	alive := 0
	for _, key := range m.keys {
		if m.now().Before(key.expires) {
			alive++
		}
	}
	require.Equal(t, fmt.Sprintf("1 pending, 0 odd ends, 0 mails without an invitation, %d keys", alive), m.f.text(t, `SELECT
		(SELECT COALESCE(MAX(n), 1) FROM (SELECT COUNT(*) AS n FROM invitations WHERE status = 'pending' GROUP BY tenant_id, email_key) AS counts) || ' pending, ' ||
		(SELECT COUNT(*) FROM invitations WHERE (status = 'accepted') <> (accepted_user_id IS NOT NULL)) || ' odd ends, ' ||
		(SELECT COUNT(*) FROM invitation_mails WHERE invitation_id NOT IN (SELECT id FROM invitations)) || ' mails without an invitation, ' ||
		(SELECT COUNT(*) FROM idempotency_keys WHERE expires_at > $1) || ' keys'`, m.now().UnixMilli()))
	status := rapid.SampledFrom([]string{"pending", "accepted", "cancelled", "expired"}).Draw(t, "listed status")
	rows, shown := make([]string, 0, len(m.invitations)), []string{}
	for _, i := range m.invitations {
		rows = append(rows, m.row(i))
		if m.effective(i) == status {
			shown = append(shown, m.shown(i))
		}
	}
	slices.Sort(rows)
	require.Equal(t, rows, m.f.lines(t, `SELECT i.id || ' ' || i.status || ' role ' || COALESCE(i.role_id, 0) || ' sends ' || i.send_count || ' out ' || i.handed_out ||
		': ' || i.delivery || ' ' || i.delivery_error || ' audits ' || (SELECT COUNT(*) FROM audit_events a WHERE a.target = 'invitation/' || i.id) ||
		' mail ' || COALESCE(m.attempts || ' ' || m.queued_at || ' ' || m.due_at, 'none') || ' token ' || COALESCE(`+m.hex+`, '')
		FROM invitations i LEFT JOIN invitation_mails m ON m.invitation_id = i.id ORDER BY i.id`))

	listed := []string{}
	for _, one := range m.f.as(t, admin, 1, http.MethodGet, "/api/invitations/?limit=100&status="+status, "").body["items"].([]any) {
		a := answer{body: one.(map[string]any)}
		reason, _ := a.at("delivery", "error").(string)
		listed = append(listed, fmt.Sprint(a.body["id"], " ", a.at("delivery", "status"), " ", reason, " ", a.at("delivery", "sends"), " ", a.at("delivery", "next_attempt_at")))
	}
	slices.Sort(listed)
	slices.Sort(shown)
	require.Equal(t, shown, listed, status)

	events := []string{}
	for _, what := range slices.Sorted(maps.Keys(m.events)) {
		events = append(events, fmt.Sprintf("%s %d", what, m.events[what]))
	}
	require.Equal(t, events, m.f.lines(t, `SELECT type || ' ' || COUNT(*) FROM webhook_events GROUP BY type ORDER BY type`))
	if len(m.dead) > 0 {
		dead := rapid.SampledFrom(m.dead).Draw(t, "dead token")
		require.Equal(t, "invitation-unknown", m.f.accept(t, dead, goodPassword).code())
	}
}

func TestStateMachineIsTheModel(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url, withWebhook(t))
		f.exec(t, `INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (1, 2, 'read_token')`)
		hash := `encode(i.token_hash, 'hex')`
		if strings.HasPrefix(url, "sqlite:") {
			hash = `lower(hex(i.token_hash))`
		}
		rapid.Check(t, func(t *rapid.T) {
			f.exec(t, `DELETE FROM audit_events; DELETE FROM invitations; DELETE FROM idempotency_keys; DELETE FROM webhook_events;
				DELETE FROM memberships WHERE user_id NOT LIKE '%-%user' AND user_id <> 'globex-admin'; DELETE FROM users WHERE email LIKE '%@x.test' OR email LIKE '%@y.test';
				DELETE FROM roles WHERE id >= 20; UPDATE tenants SET seats = NULL, allowed_domains = '', denied_domains = '' WHERE id = 1;`+editorWell)
			f.mails.failWith(nil)
			f.clock.Advance(time.Hour) // the throttle forgets the last round
			m := &model{
				f: f, hex: hash, members: map[string]int64{}, accounts: map[string]bool{}, events: map[string]int{}, keys: map[modelSlot]modelKey{},
				guests: 19, editor: "well", domains: "all",
			}
			m.changeGuest(t)
			t.Repeat(map[string]func(*rapid.T){
				"create": m.create, "create another": m.create, "bulk": m.bulk, "accept": m.accept, "accept another": m.accept, "cancel": m.cancel,
				"resend": m.resend, "tick": m.tick, "mail server": m.mailServer, "send due": m.sendDue, "mark expired": m.markExpired, "purge": m.purge,
				"remove member": m.removeMember, "seats": m.setSeats, "domains": m.setDomains, "editor": m.setEditor, "guest": m.changeGuest, "": m.check,
			})
		})
	})
}

func countLines(log, message string) int {
	return strings.Count(log, `"msg":"`+message+`"`)
}
