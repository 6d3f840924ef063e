package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
)

const tokenSecret = "a secret of the test, which nobody else knows"

const permissionsCaddyfile = `{
	admin unix/{$DIR}/admin
	persist_config off
	grace_period 1s
	tenantgate {
		database {$DATABASE_URL}
		redis "{$REDIS_URL}"
		namespace e2e
		permissions {
			poll {$POLL}
		}
	}
	log default {
		output file {$DIR}/log {
			roll_disabled
		}
		format tenantgate
	}
}
http:// {
	bind unix/{$DIR}/site
	trace_context
	jwt_auth {
		issuer test {
			hmac_secret "` + tokenSecret + `"
			audience test
			algorithms HS256
		}
	}
	handle /reports {
		check_permission abc reports read
		respond 204
	}
	handle /api/roles/* {
		check_permission tenantgate permissions
		reverse_proxy {$TENANT_UPSTREAM}
	}
	handle_errors {
		problem_details
	}
}
`

// manyTenants fills a store with n tenants. Tenant i has the roles Admin
// (10 i + 1), Editor (10 i + 2) and Viewer (10 i + 3), each with one user: a<i>,
// e<i> and v<i>. All may read abc/reports.
func manyTenants(t *testing.T, url string, n int) {
	t.Helper()
	db, err := database.Open(t.Context(), url, clock.System{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	numbers := func(statement string) string {
		return fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d),
			r (k, letter, name) AS (VALUES (1, 'a', 'Admin'), (2, 'e', 'Editor'), (3, 'v', 'Viewer'))
			%s`, n, statement)
	}
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, statement := range []string{
			`INSERT INTO products (id, name, created_at, updated_at) VALUES (1, 'abc', 1, 1), (2, 'tenantgate', 1, 1)`,
			`INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (1, 1, 'reports', 1, 1), (2, 1, 'dashboard', 1, 1),
				(3, 2, 'permissions', 1, 1), (4, 2, 'members', 1, 1)`,
			numbers(`INSERT INTO tenants (id, name, created_at, updated_at) SELECT i, 't' || i, 1, 1 FROM n`),
			numbers(`INSERT INTO roles (id, tenant_id, name, created_at, updated_at) SELECT 10 * i + k, i, name, 1, 1 FROM n, r`),
			numbers(`INSERT INTO users (id, email, email_key, created_at, updated_at) SELECT letter || i, letter || i || '@x.test', letter || i || '@x.test', 1, 1 FROM n, r`),
			numbers(`INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) SELECT i, letter || i, 10 * i + k, 1, 1 FROM n, r`),
			numbers(`INSERT INTO role_feature_permissions (role_id, feature_id, action) SELECT 10 * i + k, f.id, 'read' FROM n, r, features f`),
			numbers(`INSERT INTO role_feature_permissions (role_id, feature_id, action) SELECT 10 * i + 1, f.id, a.name FROM n, features f,
				(SELECT 'write' AS name UNION ALL SELECT 'delete') a`),
		} {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return permission.TouchCatalogue(t.Context(), tx)
	}))
}

// bearer returns a token of the test's issuer.
func bearer(t *testing.T, user, tenant string) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "test", "aud": "test", "sub": user, "tenant_id": tenant,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}).SignedString([]byte(tokenSecret))
	require.NoError(t, err)
	return "Bearer " + token
}

// office is a gateway and the tenant service on one store.
type office struct {
	gateway *Gateway
	service *Process
	env     []string
}

// openService starts the tenant service.
func (o *office) openService(t *testing.T) {
	t.Helper()
	o.service = Start(t, t.TempDir(), o.env, filepath.Join(binaries, "backends"), "serve")
	o.service.WaitFor(t, `"service":"invitation-service","address"`)
}

// openOffice migrates the store, fills it with tenants and starts both.
func openOffice(t *testing.T, url, redisURL string, poll time.Duration, tenants int) *office {
	t.Helper()
	tenantAddress := FreeAddress(t)
	env := []string{
		"DATABASE_URL=" + url, "REDIS_URL=" + redisURL, "NAMESPACE=e2e", "MAIL_DIR=" + filepath.Join(t.TempDir(), "mail"),
		"AUTH_LISTEN=" + FreeAddress(t), "TENANT_LISTEN=" + tenantAddress, "INVITATION_LISTEN=" + FreeAddress(t),
		"TENANT_UPSTREAM=" + tenantAddress, "POLL=" + poll.String(),
	}
	backends := filepath.Join(binaries, "backends")
	migrate := exec.CommandContext(t.Context(), backends, "migrate")
	migrate.Env = append(os.Environ(), env...)
	out, err := migrate.CombinedOutput()
	require.NoError(t, err, "%s", out)
	manyTenants(t, url, tenants)
	o := &office{env: env}
	o.openService(t)
	o.gateway = runGateway(t, permissionsCaddyfile, env...)
	require.Eventually(t, func() bool {
		status, err := o.gateway.ask(t.Context(), bearer(t, "v1", "1"))
		return err == nil && status == http.StatusNoContent
	}, secs(60), ms(20), "the table is loaded")
	return o
}

// ask requests what abc/reports/read guards and returns the status.
func (g *Gateway) ask(ctx context.Context, token string) (int, error) {
	return g.send(ctx, http.MethodGet, "/reports", token, "")
}

func (g *Gateway) send(ctx context.Context, method, path, token, body string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://gate"+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := g.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// setReports gives a role abc/reports/read or takes it away, by the API.
func (g *Gateway) setReports(ctx context.Context, admin string, role int, allowed bool) error {
	path := fmt.Sprintf("/api/roles/%d/permissions/", role)
	method, body, want := http.MethodPost, `{"product":"abc","feature":"reports","action":"read"}`, http.StatusOK
	if !allowed {
		method, path, body, want = http.MethodDelete, path+"abc/reports/read/", "", http.StatusNoContent
	}
	status, err := g.send(ctx, method, path, admin, body)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s: status %d", method, path, status)
	}
	return err
}

// right is the history of one right: when it was given and taken. Between the
// two times of a change it may be either.
type right struct {
	tenant, role int
	token, admin string

	mu    sync.Mutex
	flips []flip
}

type flip struct {
	from, to time.Time // of the call that made the change; to is zero while it is under way
	allowed  bool      // afterwards
}

// staleness returns for how long an answer, given to a request that lasted from
// began to ended, had been wrong when the request began; ok is false if it was
// never right.
func (r *right) staleness(allowed bool, began, ended time.Time) (age time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, f := range r.flips {
		if f.allowed != allowed || f.from.After(ended) {
			continue
		}
		late := time.Duration(0)
		if i+1 < len(r.flips) && !r.flips[i+1].to.IsZero() {
			late = max(0, began.Sub(r.flips[i+1].to))
		}
		if !ok || late < age {
			age, ok = late, true
		}
	}
	return age, ok
}

// change gives or takes the right and notes when.
func (r *right) change(ctx context.Context, g *Gateway, allowed bool) error {
	r.mu.Lock()
	r.flips = append(r.flips, flip{from: time.Now(), allowed: allowed})
	r.mu.Unlock()
	err := g.setReports(ctx, r.admin, r.role, allowed)
	r.mu.Lock()
	r.flips[len(r.flips)-1].to = time.Now()
	r.mu.Unlock()
	return err
}

// stream changes rights at random for a while as clients ask all the time,
// and returns how stale the answers were, those that were right at once left out.
func (o *office) stream(t *testing.T, rights []*right, clients int, length time.Duration) (stale []time.Duration, asked, changed int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var (
		mu   sync.Mutex
		errs []error
		work sync.WaitGroup
	)
	note := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	for range clients {
		work.Go(func() {
			for ctx.Err() == nil {
				r := rights[rand.IntN(len(rights))]
				began := time.Now()
				status, err := o.gateway.ask(context.WithoutCancel(ctx), r.token)
				age, ok := r.staleness(status == http.StatusNoContent, began, time.Now())
				if err == nil && (status != http.StatusNoContent && status != http.StatusForbidden || !ok) {
					err = fmt.Errorf("role %d: status %d, which was never right", r.role, status)
				}
				note(func() {
					asked++
					if err != nil {
						errs = append(errs, err)
					} else if age > 0 {
						stale = append(stale, age)
					}
				})
				time.Sleep(pick(ms(1), ms(5))) // a machine whose processors are all busy measures its scheduler
			}
		})
	}
	work.Go(func() {
		for ctx.Err() == nil {
			r := rights[rand.IntN(len(rights))]
			if err := r.change(context.WithoutCancel(ctx), o.gateway, !r.flips[len(r.flips)-1].allowed); err != nil {
				note(func() { errs = append(errs, err) })
				return
			}
			note(func() { changed++ })
			time.Sleep(rand.N(ms(40))) // #nosec G404 -- changes at random times
		}
	})
	work.Wait()
	require.Empty(t, errs)
	return stale, asked, changed
}

// somebodysRights returns the Viewers' rights of some tenants.
func somebodysRights(t *testing.T, tenants, n int) []*right {
	t.Helper()
	var rights []*right
	for _, i := range rand.Perm(tenants)[:n] {
		id := i + 1
		name := fmt.Sprint(id)
		rights = append(rights, &right{
			tenant: id, role: 10*id + 3, token: bearer(t, "v"+name, name), admin: bearer(t, "a"+name, name),
			flips: []flip{{allowed: true}},
		})
	}
	return rights
}

// TestEveryAnswerIsRightWithinTheBound changes rights by the API at random
// while clients ask all the time, and judges every answer by the history of
// the right: no right that was given or taken may be answered otherwise for
// longer than the bound, and none that was not touched may be refused at all.
func TestEveryAnswerIsRightWithinTheBound(t *testing.T) {
	if !measuring {
		t.Parallel()
	}
	tenants := pick(10_000, 500)
	for _, tt := range []struct {
		name            string
		postgres, redis bool
		poll, bound     time.Duration
	}{
		{"SQLite, by poll", false, false, ms(500), time.Second},
		{"SQLite, by Redis", false, true, time.Minute, ms(100)},
		{"PostgreSQL, by NOTIFY and poll", true, false, ms(500), ms(100)},
		{"PostgreSQL, by NOTIFY alone", true, false, time.Minute, ms(100)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url, redisURL := "sqlite://"+filepath.Join(t.TempDir(), "t.db"), ""
			if tt.postgres {
				url = dbtest.Postgres(t)
			}
			if tt.redis {
				redisURL = redistest.Start(t).URL()
			}
			o := openOffice(t, url, redisURL, tt.poll, tenants)
			rights := somebodysRights(t, tenants, 40)
			stale, asked, changed := o.stream(t, rights, 4, pick(secs(30), secs(3)))
			require.Greater(t, changed, 3)
			require.Greater(t, asked, 10*changed)
			worst := percentile(stale, 1)
			t.Logf("%d answers, %d changes; stale: p50 %v, p99 %v, most %v", asked, changed, percentile(stale, 0.5), percentile(stale, 0.99), worst)
			if measuring {
				require.LessOrEqual(t, worst, tt.bound)
				reportPropagation(tt.name, changed, asked, percentile(stale, 0.99), worst)
				return
			}
			require.LessOrEqual(t, worst, tt.bound+secs(4), "the machine is slow, but not so slow")
		})
	}
}
