package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/secret"
	"github.com/tenantgate/tenantgate/internal/smtptest"
)

// event is one request to a webhook's receiver.
type event struct {
	path   string
	header http.Header
	body   []byte
	at     time.Time
	answer int

	Type, ID string
	TenantID int64 `json:"tenant_id"`
	Data     struct {
		Invitation struct {
			ID, Status, Email string
			Delivery          struct{ Status, Error string }
		}
		UserID, Reason string
	}
}

// receiver takes events on an address that it has from the start.
type receiver struct {
	address string
	mu      sync.Mutex
	status  int // that it answers
	events  []event
}

// open has the receiver listen from now on.
func (r *receiver) open(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", r.address)
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
}

// ServeHTTP notes an event.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	e := event{path: request.RequestURI, header: request.Header, body: body, at: time.Now(), answer: r.status}
	if err == nil && json.Unmarshal(body, &e) == nil {
		r.events = append(r.events, e)
	}
	w.WriteHeader(r.status)
}

// answer sets what the receiver answers from now on.
func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// all returns the events that came until now.
func (r *receiver) all() []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// newSecret returns a secret of a webhook.
func newSecret(fill byte) secret.String {
	return secret.String("whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32)))
}

// TestTheWebhookTellsEverythingOnce has invitations go every way that they can,
// first with nobody at the receiver's address, then with a receiver that fails,
// and then with one that takes what comes.
func TestTheWebhookTellsEverythingOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		server := smtptest.Start(t, smtptest.Plain)
		to := &receiver{address: FreeAddress(t), status: http.StatusInternalServerError}
		old, current, other := newSecret(1), newSecret(2), newSecret(3)
		hook := []string{
			"WEBHOOK_URL=http://hook:password@" + to.address + "/events?source=tenantgate",
			"WEBHOOK_SECRET=" + current.Reveal() + " " + old.Reveal(),
		}
		i := openInstallation(t, url, append(hook, "MAIL_DIR=", "SMTP_URL="+server.URL())...)
		admin := i.Login(t, "admin@acme.test", Password)
		want := map[string]int{}
		happens := func(kind string, id any) { want[fmt.Sprint(kind, " ", id)] = 1 }
		create := func(email string) string {
			t.Helper()
			id := i.invite(t, admin, email)["id"].(string)
			happens("invitation.created", id)
			return id
		}

		accepted := create("accepted@example.com")
		token := tokenOf(t, mailed(t, server, "accepted@example.com", 1))
		require.Equal(t, http.StatusCreated, i.accept(t, token).StatusCode)
		happens("invitation.accepted", accepted)
		failed := func(reason string) {
			t.Helper()
			require.Eventually(t, func() bool {
				return i.number(t, `SELECT COUNT(*) FROM webhook_events WHERE last_error = $1`, reason) == 2
			}, secs(20), ms(20), reason)
		}
		soon := func() { i.exec(t, `UPDATE webhook_events SET due_at = 1`) } // instead of in 5 s or 5 minutes

		failed("connection refused")
		to.open(t)
		soon()
		failed("answered 500")
		to.answer(http.StatusNoContent)
		soon()

		cancelled := create("cancelled@example.com")
		answer := Call(t, http.MethodPost, i.URL+"/api/invitations/"+cancelled+"/cancel/", nil, admin...)
		require.Equal(t, http.StatusOK, answer.StatusCode, "%s", answer.Body)
		happens("invitation.cancelled", cancelled)
		for _, email := range []string{"late1@example.com", "late2@example.com"} {
			lapsed := create(email)
			require.Eventually(t, func() bool { return i.delivery(t, admin, lapsed)["status"] == "sent" }, secs(10), ms(20))
			i.exec(t, `UPDATE invitations SET expires_at = created_at WHERE id = $1`, lapsed)
			happens("invitation.expired", lapsed)
		}
		for range 2 { // the second finds none
			command := exec.CommandContext(t.Context(), filepath.Join(binaries, "backends"), "mark-expired-invitations")
			command.Env = append(os.Environ(), i.env...)
			out, err := command.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		server.Reply("RCPT", "550 5.1.1 no such user")
		happens("invitation.delivery_failed", create("gone@example.com"))
		refused := Call(t, http.MethodPost, i.URL+"/api/invitations/", map[string]string{"email": "gone@example.com"}, admin...)
		require.Equal(t, http.StatusConflict, refused.StatusCode, "nothing happens")

		require.Eventually(t, func() bool { return i.number(t, `SELECT COUNT(*) FROM webhook_events`) == 0 }, secs(30), ms(50), "all are delivered")
		took, ids := map[string]int{}, map[string]bool{}
		for _, e := range to.all() {
			require.NoError(t, webhook.Verify([]secret.String{current}, e.header, e.body, e.at, webhook.DefaultTolerance))
			require.NoError(t, webhook.Verify([]secret.String{old}, e.header, e.body, e.at, webhook.DefaultTolerance), "of a receiver that has not got the new one yet")
			require.Error(t, webhook.Verify([]secret.String{other}, e.header, e.body, e.at, webhook.DefaultTolerance))
			require.Error(t, webhook.Verify([]secret.String{current}, e.header, append(e.body, ' '), e.at, webhook.DefaultTolerance))
			require.Error(t, webhook.Verify([]secret.String{current}, e.header, e.body, e.at.Add(time.Hour), webhook.DefaultTolerance))
			whole := fmt.Sprint(e.path, e.header, string(e.body))
			for _, private := range []string{"inv_", "whsec_", "token_hash", "plum tree river stone"} {
				require.NotContains(t, whole, private)
			}
			require.Equal(t, "/events?source=tenantgate", e.path)
			require.Equal(t, e.header.Get(webhook.HeaderID), e.ID)
			require.Equal(t, int64(1), e.TenantID)
			if e.answer != http.StatusNoContent {
				continue
			}
			require.False(t, ids[e.ID], "%s was taken twice", e.ID)
			ids[e.ID] = true
			took[e.Type+" "+e.Data.Invitation.ID]++
			if e.Type == "invitation.delivery_failed" {
				require.Equal(t, "refused-permanently", e.Data.Reason)
				require.Equal(t, "failed", e.Data.Invitation.Delivery.Status)
			}
		}
		require.Equal(t, want, took)
		require.Len(t, ids, 10)
	})
}
