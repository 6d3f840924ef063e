package invitation_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

// modelInvitation is what the state machine must hold about one invitation.
type modelInvitation struct {
	id, token, email string
	status           string // as stored; lapsed ones count as expired
	expires, touched time.Time
	sends            int
	audits           int
}

// model drives the service and knows what each answer must be.
type model struct {
	f           *fixture
	invitations []*modelInvitation
	members     map[string]bool // addresses that joined tenant 1
	accounts    map[string]bool // addresses that have an account
	seenTokens  []string        // dead by a resend
}

var addresses = []string{"a@x.test", "B@x.test", "c@x.test"}

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

func (m *model) create(t *rapid.T) {
	email := rapid.SampledFrom(addresses).Draw(t, "email")
	a := m.f.as(t, admin, 1, http.MethodPost, "/api/invitations/", fmt.Sprintf(`{"email":%q}`, email))
	old := m.pending(email)
	switch {
	case m.members[email]:
		require.Equal(t, "already-member", a.code())
		return
	case old != nil && m.effective(old) == "pending":
		require.Equal(t, "invitation-already-pending", a.code())
		return
	case old != nil:
		old.status = "expired"
		old.audits++
	}
	require.Equal(t, http.StatusCreated, a.Code, a.Body)
	m.invitations = append(m.invitations, &modelInvitation{
		id: a.body["id"].(string), token: tokenIn(t, m.f.mails.last(t).Text), email: email, status: "pending",
		expires: m.now().Add(invitation.DefaultLifetime), touched: m.now(), sends: 1, audits: 2,
	})
}

func (m *model) pick(t *rapid.T) *modelInvitation {
	if len(m.invitations) == 0 {
		t.Skip("none yet")
	}
	return rapid.SampledFrom(m.invitations).Draw(t, "invitation")
}

func (m *model) accept(t *rapid.T) {
	i := m.pick(t)
	password := rapid.SampledFrom([]string{goodPassword, "short"}).Draw(t, "password")
	a := m.f.accept(t, i.token, password)
	status := m.effective(i)
	switch {
	case status != "pending":
		require.Equal(t, http.StatusGone, a.Code, a.Body)
		require.Equal(t, status, a.body["reason"])
	case password != goodPassword && m.accounts[i.email]:
		require.Contains(t, []int{http.StatusUnprocessableEntity, http.StatusTooManyRequests}, a.Code)
	case password != goodPassword:
		require.Equal(t, http.StatusUnprocessableEntity, a.Code, a.Body)
	case a.Code == http.StatusTooManyRequests:
		require.True(t, m.accounts[i.email])
	default:
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, !m.accounts[i.email], a.at("user", "new"))
		i.status = "accepted"
		i.audits++
		m.members[i.email], m.accounts[i.email] = true, true
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
	i.audits++
}

func (m *model) resend(t *rapid.T) {
	i := m.pick(t)
	a := m.f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+i.id+"/resend/", "")
	switch {
	case m.effective(i) != "pending":
		require.Equal(t, http.StatusConflict, a.Code, a.Body)
		return
	case i.sends >= 10, m.now().Before(i.touched.Add(invitation.DefaultCooldown)):
		require.Equal(t, http.StatusTooManyRequests, a.Code, a.Body)
		return
	}
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	m.seenTokens = append(m.seenTokens, i.token)
	i.token, i.expires, i.touched = tokenIn(t, m.f.mails.last(t).Text), m.now().Add(invitation.DefaultLifetime), m.now()
	i.sends++
	i.audits += 2
}

func (m *model) tick(t *rapid.T) {
	m.f.clock.Advance(rapid.SampledFrom([]time.Duration{
		time.Second, time.Minute, invitation.DefaultLifetime - time.Minute, invitation.DefaultLifetime,
	}).Draw(t, "by"))
}

func (m *model) markExpired(t *rapid.T) {
	n, err := invitation.MarkExpired(t.Context(), m.f.db, false)
	require.NoError(t, err)
	want := 0
	for _, i := range m.invitations {
		if i.status == "pending" && m.effective(i) == "expired" {
			i.status = "expired"
			i.audits++
			want++
		}
	}
	require.Equal(t, want, n)
}

func (m *model) removeMember(t *rapid.T) {
	email := rapid.SampledFrom(addresses).Draw(t, "email")
	m.f.exec(t, `DELETE FROM memberships WHERE tenant_id = 1 AND user_id IN (SELECT id FROM users WHERE email = $1)`, email)
	delete(m.members, email)
}

// check holds after every step.
func (m *model) check(t *rapid.T) {
	require.Equal(t, "1", m.f.text(t, `SELECT COALESCE(MAX(n), 1) FROM (SELECT COUNT(*) AS n FROM invitations WHERE status = 'pending' GROUP BY tenant_id, email_key) AS counts`))
	require.Equal(t, "0", m.f.text(t, `SELECT COUNT(*) FROM invitations WHERE (status = 'accepted') <> (accepted_user_id IS NOT NULL)`))
	byStatus, want := map[string][]string{}, []string{}
	for _, i := range m.invitations {
		want = append(want, fmt.Sprintf("%s %s %d", i.id, i.status, i.audits))
		byStatus[m.effective(i)] = append(byStatus[m.effective(i)], i.id)
	}
	slices.Sort(want)
	require.Equal(t, want, m.f.lines(t, `SELECT i.id || ' ' || i.status || ' ' || COUNT(*)
		FROM invitations i JOIN audit_events a ON a.target = 'invitation/' || i.id GROUP BY i.id, i.status ORDER BY i.id`))
	status := rapid.SampledFrom([]string{"pending", "accepted", "cancelled", "expired"}).Draw(t, "listed status")
	var ids []string
	for _, item := range m.f.as(t, admin, 1, http.MethodGet, "/api/invitations/?limit=100&status="+status, "").body["items"].([]any) {
		ids = append(ids, item.(map[string]any)["id"].(string))
	}
	slices.Sort(ids)
	slices.Sort(byStatus[status])
	require.Equal(t, byStatus[status], ids, status)
	for _, token := range m.seenTokens {
		require.Equal(t, http.StatusNotFound, m.f.accept(t, token, goodPassword).Code)
	}
}

func TestStateMachineIsTheModel(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		rapid.Check(t, func(t *rapid.T) {
			f.exec(t, `DELETE FROM audit_events; DELETE FROM invitations; DELETE FROM memberships WHERE user_id NOT LIKE '%-%user' AND user_id <> 'globex-admin';
			DELETE FROM users WHERE email LIKE '%@x.test'`)
			f.clock.Advance(time.Hour) // the throttle forgets the last round
			m := &model{f: f, members: map[string]bool{}, accounts: map[string]bool{}}
			t.Repeat(map[string]func(*rapid.T){
				"create": m.create, "accept": m.accept, "cancel": m.cancel, "resend": m.resend, "tick": m.tick,
				"mark expired": m.markExpired, "remove member": m.removeMember, "": m.check,
			})
		})
	})
}

func countLines(log, message string) int {
	return strings.Count(log, `"msg":"`+message+`"`)
}
