package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// killedStore is an SQLite store whose backends are killed while people accept.
type killedStore struct {
	folder, path string
	db           *sql.DB
	people       []*invited
}

// invited is somebody with an invitation.
type invited struct {
	id, email, token string

	mu       sync.Mutex
	user     string // whom the answer 201 named
	taken    bool   // an answer said that it is accepted already
	answered int    // how often 201 came
}

// start runs the backends and returns where they take accepts.
func (k *killedStore) start(t *testing.T) (p *Process, accept string) {
	t.Helper()
	p = Start(t, k.folder, []string{
		"DATABASE_URL=sqlite://" + k.path, "MAIL_DIR=" + filepath.Join(k.folder, "mail"), "HASH_PARALLEL=4",
		"AUTH_LISTEN=127.0.0.1:0", "TENANT_LISTEN=127.0.0.1:0", "INVITATION_LISTEN=127.0.0.1:0",
	}, filepath.Join(binaries, "backends"), "serve")
	p.WaitFor(t, `"service":"invitation-service","address"`)
	address := regexp.MustCompile(`"service":"invitation-service","address":"([^"]+)"`).FindStringSubmatch(p.Stdout.String())
	require.NotNil(t, address)
	return p, "http://" + address[1] + "/api/invitations/accept/"
}

// exec changes the store beside the backends.
func (k *killedStore) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := k.db.ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

// count returns the only number of a query.
func (k *killedStore) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, k.db.QueryRowContext(t.Context(), query, args...).Scan(&n))
	return n
}

// invite adds people, and invitations that have lapsed, for the sweeper.
func (k *killedStore) invite(t *testing.T, people, lapsed int) {
	t.Helper()
	now := time.Now().UnixMilli()
	for range people {
		p := &invited{id: fmt.Sprintf("live-%d", len(k.people)), email: fmt.Sprintf("p%d@x.test", len(k.people))}
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // never fails
		p.token = "inv_" + base64.RawURLEncoding.EncodeToString(raw)
		hash := sha256.Sum256([]byte(p.token))
		k.exec(t, `INSERT INTO invitations (id, tenant_id, email, email_key, role_id, token_hash, expires_at, created_at, updated_at)
			VALUES ($1, 1, $2, $2, 1, $3, $4, $5, $5)`, p.id, p.email, hash[:], now+time.Hour.Milliseconds(), now)
		k.people = append(k.people, p)
	}
	k.exec(t, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO invitations (id, tenant_id, email, email_key, role_id, expires_at, created_at, updated_at)
		SELECT 'lapsed-' || $2 || '-' || i, 1, 'e', 'lapsed-' || $2 || '-' || i, 1, $3, 0, 0 FROM n`, lapsed, len(k.people), now-1)
}

// accept sends one accept. A connection that breaks says nothing.
func (p *invited) accept(ctx context.Context, t *testing.T, client *http.Client, url string) {
	body, err := json.Marshal(map[string]string{"token": p.token, "password": "seven sleepy herons wade"})
	if err != nil {
		t.Error(err)
		return
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.%d.%d", mathrand.IntN(256), mathrand.IntN(256)))
	resp, err := client.Do(r)
	if err != nil {
		return
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Code string
		User struct{ ID string }
	}
	decoded := json.NewDecoder(resp.Body).Decode(&answer) == nil
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case resp.StatusCode == http.StatusCreated:
		p.answered++
		if decoded {
			p.user = answer.User.ID
		}
	case resp.StatusCode == http.StatusGone && (!decoded || answer.Code == "invitation-accepted"):
		p.taken = true
	default:
		t.Errorf("accept of %s: status %d, code %q", p.id, resp.StatusCode, answer.Code)
	}
}

// settled reports whether an answer said that the invitation is accepted.
func (p *invited) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered > 0 || p.taken
}

// crowd has everybody whose invitation is not settled accept it, each twice and
// eight at once, until all have tried or ctx ends.
func (k *killedStore) crowd(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	var open []*invited
	for _, p := range k.people {
		if !p.settled() {
			open = append(open, p, p)
		}
	}
	queue := make(chan *invited, len(open))
	for _, p := range open {
		queue <- p
	}
	close(queue)
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for p := range queue {
				if ctx.Err() != nil {
					return
				}
				p.accept(ctx, t, client, url)
			}
		})
	}
	clients.Wait()
}

// check holds the store against itself and against what was answered.
func (k *killedStore) check(t *testing.T) {
	t.Helper()
	var integrity string
	require.NoError(t, k.db.QueryRowContext(t.Context(), `PRAGMA integrity_check`).Scan(&integrity))
	require.Equal(t, "ok", integrity)
	require.Zero(t, k.count(t, `SELECT COUNT(*) FROM invitations i WHERE i.status = 'accepted' AND NOT EXISTS (
		SELECT 1 FROM users u JOIN memberships m ON m.user_id = u.id
		WHERE u.id = i.accepted_user_id AND u.email_key = i.email_key AND m.tenant_id = i.tenant_id AND m.role_id = i.role_id)`),
		"an accepted invitation without its user or membership")
	require.Zero(t, k.count(t, `SELECT COUNT(*) FROM users u WHERE 1 <> (
		SELECT COUNT(*) FROM invitations i WHERE i.status = 'accepted' AND i.accepted_user_id = u.id)`), "a user without an accepted invitation")
	require.Zero(t, k.count(t, `SELECT COUNT(*) FROM memberships m WHERE 1 <> (
		SELECT COUNT(*) FROM invitations i WHERE i.status = 'accepted' AND i.accepted_user_id = m.user_id AND i.tenant_id = m.tenant_id)`),
		"a membership without an accepted invitation")
	for status, action := range map[string]string{"accepted": "invitation.accepted", "expired": "invitation.expired"} {
		require.Zero(t, k.count(t, `SELECT COUNT(*) FROM invitations i
			LEFT JOIN (SELECT target, COUNT(*) AS n FROM audit_events WHERE action = $1 GROUP BY target) a ON a.target = 'invitation/' || i.id
			WHERE (i.status = $2) <> COALESCE(a.n, 0)`, action, status), "an audit event too few or too many")
	}
	for _, p := range k.people {
		p.mu.Lock()
		user, answered, settled := p.user, p.answered, p.answered > 0 || p.taken
		p.mu.Unlock()
		require.LessOrEqual(t, answered, 1, "%s was accepted twice", p.id)
		var status string
		var accepted sql.NullString
		require.NoError(t, k.db.QueryRowContext(t.Context(), `SELECT status, accepted_user_id FROM invitations WHERE id = $1`, p.id).Scan(&status, &accepted))
		if settled {
			require.Equal(t, "accepted", status, p.id)
		}
		if user != "" {
			require.Equal(t, user, accepted.String, p.id)
		}
	}
}

// TestAcceptIsWholeWhateverKillsTheBackends kills the backends with -9 while
// people accept and the sweeper marks: at any moment, and right after a commit.
func TestAcceptIsWholeWhateverKillsTheBackends(t *testing.T) {
	besideOthers(t)
	k := &killedStore{folder: t.TempDir()}
	k.path = filepath.Join(k.folder, "tenantgate.db")
	var err error
	k.db, err = sql.Open("sqlite3", "file:"+k.path+"?_busy_timeout=20000&_foreign_keys=on&_journal_mode=WAL")
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.db.Close() })
	first, _ := k.start(t) // makes the schema
	require.Equal(t, 0, first.Stop(t, syscall.SIGTERM))
	k.exec(t, `INSERT INTO tenants (id, name, created_at, updated_at) VALUES (1, 'acme', 0, 0)`)
	k.exec(t, `INSERT INTO roles (id, tenant_id, name, created_at, updated_at) VALUES (1, 1, 'Viewer', 0, 0)`)

	rounds, lost := pick(50, 10), 0
	for round := range rounds {
		k.invite(t, 6, 600)
		p, url := k.start(t)
		ctx, cancel := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		crowd.Go(func() { k.crowd(ctx, t, url) })
		if round%2 == 0 {
			p.WaitFor(t, `"invitation accepted"`)
		} else {
			time.Sleep(mathrand.N(700 * time.Millisecond))
		}
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGKILL))
		<-p.done
		cancel()
		crowd.Wait()
		k.check(t)
		accepted := k.count(t, `SELECT COUNT(*) FROM invitations WHERE status = 'accepted'`)
		for _, p := range k.people {
			if p.settled() {
				accepted--
			}
		}
		lost += accepted // of these the next round hears that they are accepted
	}
	p, url := k.start(t)
	k.crowd(t.Context(), t, url)
	require.Eventually(t, func() bool { return k.count(t, `SELECT COUNT(*) FROM invitations WHERE status = 'pending'`) == 0 }, time.Minute, 50*time.Millisecond)
	require.Equal(t, 0, p.Stop(t, syscall.SIGTERM))
	k.check(t)
	require.Equal(t, len(k.people), k.count(t, `SELECT COUNT(*) FROM users`), "everybody got in, once")
	t.Logf("%d kills, %d people, %d accepts committed whose answer was lost", rounds, len(k.people), lost)
}
