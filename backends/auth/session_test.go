package auth_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func TestRefreshRotatesTheToken(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		first := f.login("viewer@acme.test")
		f.clock.Advance(time.Hour)
		second := f.refresh(first.text("refresh_token"))
		require.Equal(t, 200, second.Code, second.Body.String())
		require.Equal(t, "no-store", second.Header().Get("Cache-Control"))
		require.NotEqual(t, first.text("refresh_token"), second.text("refresh_token"))
		require.Equal(t, first.body["user"], second.body["user"])
		old, err := f.verify(second.text("access_token"))
		require.NoError(t, err)
		require.InDelta(t, float64(f.clock.Now().Unix()), old["iat"], 0)
		require.Equal(t, 200, f.refresh(second.text("refresh_token")).Code)
	})
}

func TestRefreshFollowsTheRoleAndTheAccount(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		a := f.login("viewer@acme.test")
		f.exec(`UPDATE memberships SET role_id = (SELECT id FROM roles WHERE tenant_id = 1 AND name = 'Editor') WHERE user_id = $1`, f.userID("viewer@acme.test"))
		a = f.refresh(a.text("refresh_token"))
		require.Equal(t, []any{"Editor"}, a.body["roles"], "the roles are those of now")

		for name, change := range map[string]string{
			"a disabled user":    `UPDATE users SET status = 'disabled' WHERE email_key = 'viewer@acme.test'`,
			"a lost membership":  `DELETE FROM memberships WHERE user_id = (SELECT id FROM users WHERE email_key = 'editor@acme.test')`,
			"a suspended tenant": `UPDATE tenants SET status = 'suspended' WHERE id = 2`,
		} {
			email := map[string]string{"a disabled user": "viewer@acme.test", "a lost membership": "editor@acme.test", "a suspended tenant": "admin@globex.test"}[name]
			a := f.login(email)
			f.exec(change)
			refused := f.refresh(a.text("refresh_token"))
			require.Equal(t, http.StatusUnauthorized, refused.Code, name)
			require.Equal(t, "invalid-refresh-token", refused.text("code"), name)
		}
		require.Equal(t, 3, f.scalar(`SELECT COUNT(*) FROM audit_events WHERE action = 'session.ended'`))
	})
}

func TestRefreshRefusesWhatIsNotALiveToken(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		a := f.login("viewer@acme.test")
		token := a.text("refresh_token")
		bodies := map[string]bool{}
		for _, bad := range []string{
			"x", "rt_", token[3:], token + "x", token[:45], "RT_" + token[3:], "rt_" + strings.Repeat("A", 43), a.text("access_token"), "rt_' OR '1'='1",
		} {
			refused := f.refresh(bad)
			require.Equal(t, 401, refused.Code, bad)
			bodies[refused.Body.String()] = true
		}
		f.clock.Advance(7*24*time.Hour - time.Millisecond)
		a = f.refresh(token)
		require.Equal(t, 200, a.Code, "a token lives for 7 days")
		f.clock.Advance(7 * 24 * time.Hour)
		refused := f.refresh(a.text("refresh_token"))
		require.Equal(t, 401, refused.Code, "and no longer")
		bodies[refused.Body.String()] = true
		require.Len(t, bodies, 1, "the answers differ: %v", bodies)
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM sessions WHERE revoked_at IS NOT NULL`), "a token that got old is no attack")
		require.Equal(t, 422, f.call("POST", "/api/auth/refresh", `{}`).Code)
		require.Equal(t, 400, f.call("POST", "/api/auth/refresh", `{"refresh_token":7}`).Code)
	})
}

func TestSessionEndsAfterThirtyDaysWhateverIsRefreshed(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		a := f.login("viewer@acme.test")
		for range 4 {
			f.clock.Advance(7*24*time.Hour - time.Millisecond)
			a = f.refresh(a.text("refresh_token"))
			require.Equal(t, 200, a.Code)
		}
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.expires_at > s.expires_at`))
		f.exec(`UPDATE refresh_tokens SET expires_at = expires_at * 2`) // the session's own end counts too
		f.clock.Advance(2*24*time.Hour + 4*time.Millisecond)
		require.Equal(t, 401, f.refresh(a.text("refresh_token")).Code)

		require.NoError(t, f.service.PurgeSessions(t.Context()))
		require.Zero(t, f.scalar(`SELECT COUNT(*) FROM sessions`)+f.scalar(`SELECT COUNT(*) FROM refresh_tokens`))
	})
}

func TestReuseOfARefreshTokenRevokesTheFamily(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		other := f.login("viewer@acme.test")
		stolen := f.login("viewer@acme.test").text("refresh_token")
		fresh := f.refresh(stolen).text("refresh_token")

		require.Equal(t, 401, f.refresh(stolen).Code)
		require.Equal(t, 401, f.refresh(fresh).Code, "the newest token of the family is dead too")
		require.Equal(t, 200, f.refresh(other.text("refresh_token")).Code, "the user's other login is not touched")
		require.Equal(t, 401, f.refresh(stolen).Code)
		require.Equal(t, 1, f.scalar(`SELECT COUNT(*) FROM audit_events WHERE action = 'session.reuse'`), "recorded once")
		require.Contains(t, f.log.String(), "refresh token used twice")
		require.NotContains(t, f.log.String(), stolen)
	})
}

func TestOfManyRefreshesAtOnceOneWinsAndTheFamilyEnds(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		token := f.login("viewer@acme.test").text("refresh_token")
		const callers = 16
		codes := make([]int, callers)
		var next string
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				r := httptest.NewRequest("POST", "/api/auth/refresh", strings.NewReader(`{"refresh_token":"`+token+`"}`))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				f.handler.ServeHTTP(w, r)
				if codes[i] = w.Code; w.Code == 200 {
					_, rest, _ := strings.Cut(w.Body.String(), `"refresh_token":"`)
					next, _, _ = strings.Cut(rest, `"`)
				}
			})
		}
		wg.Wait()
		count := map[int]int{}
		for _, code := range codes {
			count[code]++
		}
		require.Equal(t, map[int]int{200: 1, 401: callers - 1}, count)
		require.Equal(t, 401, f.refresh(next).Code, "the winner may have been the thief")
	})
}

func TestLogoutEndsTheSession(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		a := f.login("viewer@acme.test")
		other := f.login("viewer@acme.test")
		used := a.text("refresh_token")
		newest := f.refresh(used).text("refresh_token")
		logout := func(token string) int {
			return f.call("POST", "/api/auth/logout", `{"refresh_token":"`+token+`"}`).Code
		}
		require.Equal(t, 204, logout(used), "any token of the session will do")
		require.Equal(t, 401, f.refresh(newest).Code)
		require.Equal(t, 204, logout(used), "twice is fine")
		require.Equal(t, 204, logout("rt_"+strings.Repeat("A", 43)))
		require.Equal(t, 204, logout("nonsense"))
		require.Equal(t, 422, f.call("POST", "/api/auth/logout", `{}`).Code)
		require.Equal(t, 200, f.refresh(other.text("refresh_token")).Code)
		require.Equal(t, 1, f.scalar(`SELECT COUNT(*) FROM audit_events WHERE action = 'session.logout'`))
	})
}

func TestSwitchTenantMovesTheSession(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := setUp(t, url)
		f.join("viewer@acme.test", 2, "Admin")
		id := f.userID("viewer@acme.test")
		a := f.login("viewer@acme.test")
		token := a.text("refresh_token")
		to := func(tenant, token string, header ...string) answer {
			return f.call("POST", "/api/auth/switch-tenant", `{"tenant":`+tenant+`,"refresh_token":"`+token+`"}`, header...)
		}
		unknown := to(`99`, token, as(id, 1)...)
		require.Equal(t, 404, unknown.Code)
		require.Equal(t, 401, to(`2`, token).Code, "no caller")
		require.Equal(t, 422, to(`""`, token, as(id, 1)...).Code)
		require.Equal(t, 422, f.call("POST", "/api/auth/switch-tenant", `{"tenant":2}`, as(id, 1)...).Code)
		require.Equal(t, 401, to(`2`, token, as(f.userID("admin@globex.test"), 2)...).Code, "the token of somebody else")

		b := to(`"globex"`, token, as(id, 1)...)
		require.Equal(t, 200, b.Code, "the refused calls did not use the token up")
		claims, err := f.verify(b.text("access_token"))
		require.NoError(t, err)
		require.Equal(t, "2", claims["tenant_id"])
		require.Equal(t, []any{"Admin"}, b.body["roles"])
		c := f.refresh(b.text("refresh_token"))
		require.InDelta(t, 2, c.body["tenant"].(map[string]any)["id"], 0, "a refresh stays there")
		require.Equal(t, 1, f.scalar(`SELECT COUNT(*) FROM audit_events WHERE action = 'session.moved' AND tenant_id = 2`))

		f.exec(`DELETE FROM memberships WHERE tenant_id = 1 AND user_id = $1`, id)
		left := to(`1`, c.text("refresh_token"), as(id, 2)...)
		require.Equal(t, unknown.Body.String(), left.Body.String(), "a tenant of others and no tenant look the same")
	})
}
