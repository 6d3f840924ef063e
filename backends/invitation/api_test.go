package invitation_test

import (
	"fmt"
	"net/http"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/secret"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/",
			`{"email":"Nina@Example.com","tenant":1,"role":"Editor","name":"Nina","metadata":{"ip_address":"::ffff:192.0.2.7","note":"met at the fair"}}`)
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		id := a.body["id"].(string)
		require.Equal(t, "/api/invitations/"+id+"/", a.Header().Get("Location"))
		require.Equal(t, "pending", a.body["status"])
		require.Equal(t, "Nina@Example.com", a.body["email"])
		require.Equal(t, "Editor", a.at("role", "name"))
		require.Equal(t, "acme", a.at("tenant", "name"))
		require.Equal(t, "Ada Admin", a.at("inviter", "name"))
		require.Equal(t, "192.0.2.7", a.at("metadata", "ip_address"))
		require.Equal(t, "met at the fair", a.at("metadata", "note"))
		require.Equal(t, "sent", a.at("delivery", "status"))
		require.Equal(t, "2026-03-08T12:00:00.000Z", a.body["expires_at"])
		require.Equal(t, []string{"invitation.created", "invitation.sent"}, f.audits(t, id))
		require.Equal(t, "203.0.113.9", f.text(t, `SELECT request_ip FROM invitations WHERE id = $1`, id))

		token := tokenIn(t, f.mails.last(t).Text)
		require.NotContains(t, a.Body.String(), token)
		require.Equal(t, "nina@example.com", f.text(t, `SELECT email_key FROM invitations WHERE id = $1`, id))
		require.Equal(t, "32", f.text(t, `SELECT length(token_hash) FROM invitations WHERE id = $1`, id))
	})
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, test := range map[string]struct {
		user   string
		tenant int
		body   string
		status int
		code   string
		fields []string
	}{
		"a body that is no JSON":                {admin, 1, `{"email"`, 400, "bad-json", nil},
		"an unknown field":                      {admin, 1, `{"email":"n@x.test","admin":true}`, 400, "bad-json", []string{" invalid"}},
		"a body over 64 KiB":                    {admin, 1, `{"name":"` + long(70000) + `"}`, 413, "body-too-large", nil},
		"no e-mail":                             {admin, 1, `{}`, 422, "invalid-fields", []string{"/email required"}},
		"an address with a display name":        {admin, 1, `{"email":"Bob <b@x.test>"}`, 422, "invalid-fields", []string{"/email not-an-email"}},
		"two addresses":                         {admin, 1, `{"email":"a@x.test,b@x.test"}`, 422, "invalid-fields", []string{"/email not-an-email"}},
		"an address with a header behind it":    {admin, 1, `{"email":"a@x.test\r\nBcc: b@x.test"}`, 422, "invalid-fields", []string{"/email not-an-email"}},
		"a long name and a note on two lines":   {admin, 1, `{"email":"a@x.test","name":"` + long(101) + `","metadata":{"note":"a\nb"}}`, 422, "invalid-fields", []string{"/name too-long", "/metadata/note unprintable"}},
		"a name that turns the text around":     {admin, 1, `{"email":"a@x.test","name":"\u202eevil"}`, 422, "invalid-fields", []string{"/name unprintable"}},
		"an ip_address with a zone":             {admin, 1, `{"email":"a@x.test","metadata":{"ip_address":"fe80::1%eth0"}}`, 422, "invalid-fields", []string{"/metadata/ip_address not-an-ip"}},
		"an ip_address that is a name":          {admin, 1, `{"email":"a@x.test","metadata":{"ip_address":"localhost"}}`, 422, "invalid-fields", []string{"/metadata/ip_address not-an-ip"}},
		"a role of another tenant":              {stranger, 2, `{"email":"a@x.test","role":"Editor"}`, 422, "invalid-fields", []string{"/role unknown-role"}},
		"an empty role":                         {admin, 1, `{"email":"a@x.test","role":""}`, 422, "invalid-fields", []string{"/role unknown-role"}},
		"a role with rights the inviter lacks":  {editor, 1, `{"email":"a@x.test","role":"Admin"}`, 403, "role-exceeds-yours", nil},
		"an inviter who is no member":           {stranger, 1, `{"email":"a@x.test"}`, 403, "role-exceeds-yours", nil},
		"another tenant than the caller's":      {admin, 1, `{"email":"a@x.test","tenant":2}`, 404, "tenant-not-found", nil},
		"a tenant that does not exist":          {admin, 1, `{"email":"a@x.test","tenant":99}`, 404, "tenant-not-found", nil},
		"a caller of a tenant that was deleted": {admin, 99, `{"email":"a@x.test"}`, 404, "tenant-not-found", nil},
		"a suspended tenant":                    {admin, 3, `{"email":"a@x.test"}`, 409, "tenant-inactive", nil},
		"a member":                              {admin, 1, `{"email":"EDITOR@acme.test"}`, 409, "already-member", nil},
		"an address that is invited already":    {admin, 1, `{"email":"Pending@acme.test"}`, 409, "invitation-already-pending", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, dbtest.SQLite(t))
			pending, _ := f.invite(t, "pending@acme.test")
			before := f.text(t, `SELECT COUNT(*) FROM audit_events`)
			a := f.as(t, test.user, test.tenant, http.MethodPost, "/api/invitations/", test.body)
			require.Equal(t, test.status, a.Code, a.Body)
			require.Equal(t, "application/problem+json", a.Header().Get("Content-Type"))
			require.Equal(t, test.code, a.code())
			require.Equal(t, test.fields, a.fields())
			require.Equal(t, "1", f.text(t, `SELECT COUNT(*) FROM invitations`))
			require.Equal(t, before, f.text(t, `SELECT COUNT(*) FROM audit_events`))
			if test.code == "invitation-already-pending" {
				require.Equal(t, pending, a.body["invitation_id"])
			}
			if test.code == "role-exceeds-yours" {
				require.NotEmpty(t, a.body["missing"])
			}
		})
	}
}

// TestNobodyInvitesIntoMoreThanTheyHold is about rights that stand in no row of
// the role itself: inherited ones, wildcards, and all that an owner has.
func TestNobodyInvitesIntoMoreThanTheyHold(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.exec(t, `
			INSERT INTO roles (id, tenant_id, name, kind, created_at, updated_at) VALUES (11, 1, 'Chief', 'custom', 0, 0),
				(12, 1, 'Auditor', 'custom', 0, 0), (13, 1, 'Owner', 'owner', 0, 0), (14, 1, 'Operator', 'custom', 0, 0);
			INSERT INTO role_parents (tenant_id, role_id, parent_id) VALUES (1, 11, 1);
			INSERT INTO role_wildcards (role_id, action) VALUES (12, 'read');
			INSERT INTO products (id, name, created_at, updated_at) VALUES (2, 'tenantgate', 0, 0);
			INSERT INTO features (id, product_id, name, created_at, updated_at) VALUES (3, 2, 'platform', 0, 0);
			INSERT INTO role_feature_permissions (role_id, feature_id, action) VALUES (14, 3, 'read');
			INSERT INTO users (id, email, email_key, created_at, updated_at) VALUES ('owner-user', 'o@acme.test', 'o@acme.test', 0, 0);
			INSERT INTO memberships (tenant_id, user_id, role_id, created_at, updated_at) VALUES (1, 'owner-user', 13, 0, 0)`)
		for i, test := range []struct {
			user, role string
			missing    any
		}{
			{admin, "Chief", nil},
			{editor, "Chief", []any{"abc/dashboard/delete", "abc/invitations/delete"}},
			{admin, "Auditor", []any{"*/*/read"}},
			{admin, "Owner", []any{"*/*/*", "owner"}},
			{admin, "Operator", []any{"tenantgate/platform/read"}},
			{"owner-user", "Chief", nil},
			{"owner-user", "Auditor", nil},
			{"owner-user", "Owner", nil},
			{"owner-user", "Operator", []any{"tenantgate/platform/read"}},
		} {
			a := f.as(t, test.user, 1, http.MethodPost, "/api/invitations/", fmt.Sprintf(`{"email":"n%d@x.test","role":%q}`, i, test.role))
			if test.missing == nil {
				require.Equal(t, http.StatusCreated, a.Code, "%s invites %s: %s", test.user, test.role, a.Body)
				continue
			}
			require.Equal(t, http.StatusForbidden, a.Code, "%s invites %s", test.user, test.role)
			require.Equal(t, test.missing, a.body["missing"])
		}
	})
}

func TestDefaultRole(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`)
		require.Equal(t, "Viewer", a.at("role", "name"))
		f.exec(t, `UPDATE roles SET name = 'Guest' WHERE id = 3`)
		a = f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"b@x.test"}`)
		require.Equal(t, http.StatusUnprocessableEntity, a.Code)
		require.Equal(t, []string{"/role unknown-role"}, a.fields())
	})
}

func TestEveryRouteNeedsTheGateway(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t), func(c *invitation.Config) { c.GatewaySecret = secret.String("between us") })
	id := "01890a5d-ac96-774b-bcce-b302099a8057"
	for _, route := range []string{
		"POST /api/invitations/", "GET /api/invitations/", "GET /api/invitations/" + id + "/", "POST /api/invitations/" + id + "/cancel/",
		"POST /api/invitations/" + id + "/resend/", "POST /api/invitations/accept/",
	} {
		method, path, _ := strings.Cut(route, " ")
		a := f.as(t, admin, 1, method, path, `{"email":"a@x.test"}`)
		require.Equal(t, http.StatusForbidden, a.Code, route)
		require.Equal(t, "not-from-gateway", a.code(), route)
		if strings.HasSuffix(path, "/accept/") {
			continue
		}
		a = f.do(t, method, path, `{"email":"a@x.test"}`, "X-Gateway-Secret", "between us")
		require.Equal(t, http.StatusUnauthorized, a.Code, route)
		a = f.do(t, method, path, `{"email":"a@x.test"}`, "X-Gateway-Secret", "between us", "X-User-Id", admin, "X-Tenant-Id", "1",
			"X-Permission", "abc/invitations/delete")
		require.Equal(t, http.StatusForbidden, a.Code, route)
		require.Equal(t, "permission-not-checked", a.code(), route)
	}
}

func TestGetCancelAndResendKnowNoOtherTenant(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, _ := f.invite(t, "a@x.test")
		for _, route := range []string{"GET %s", "POST %scancel/", "POST %sresend/"} {
			method, path, _ := strings.Cut(route, " ")
			unknown := f.as(t, stranger, 2, method, fmt.Sprintf(path, "/api/invitations/01890a5d-ac96-774b-bcce-b302099a8057/"), "")
			require.Equal(t, http.StatusNotFound, unknown.Code)
			for _, other := range []string{id, strings.ToUpper(id), "%2e%2e%2fadmin", "inv_x"} {
				a := f.as(t, stranger, 2, method, fmt.Sprintf(path, "/api/invitations/"+other+"/"), "")
				require.Equal(t, http.StatusNotFound, a.Code, other)
				require.Equal(t, unknown.body["code"], a.body["code"], other)
				require.Equal(t, unknown.body["detail"], a.body["detail"], other)
			}
		}
		require.Equal(t, "pending", f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+id, "").body["status"])
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "a@x.test")
		a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "")
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.Equal(t, "cancelled", a.body["status"])
		require.NotNil(t, a.body["cancelled_at"])
		require.Equal(t, []string{"invitation.created", "invitation.sent", "invitation.cancelled"}, f.audits(t, id))

		a = f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/cancel/", "")
		require.Equal(t, http.StatusConflict, a.Code)
		require.Equal(t, "invitation-not-pending", a.code())
		require.Equal(t, "cancelled", a.body["invitation_status"])

		a = f.accept(t, token, goodPassword)
		require.Equal(t, http.StatusGone, a.Code)
		require.Equal(t, "cancelled", a.body["reason"])
		f.invite(t, "a@x.test") // and the person can be invited again
	})
}

func TestExpiryIsTrueWhenReadAndExclusive(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, token := f.invite(t, "a@x.test")
		status := func() any { return f.as(t, admin, 1, http.MethodGet, "/api/invitations/"+id+"/", "").body["status"] }

		f.clock.Advance(invitation.DefaultLifetime - time.Millisecond)
		require.Equal(t, "pending", status())
		f.clock.Advance(time.Millisecond)
		require.Equal(t, "expired", status())
		require.Equal(t, "pending", f.text(t, `SELECT status FROM invitations`), "nobody has written it down")

		a := f.accept(t, token, goodPassword)
		require.Equal(t, http.StatusGone, a.Code)
		require.Equal(t, "invitation-expired", a.code())
		require.Equal(t, "expired", a.body["reason"])
		for _, action := range []string{"cancel", "resend"} {
			a = f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/"+action+"/", "")
			require.Equal(t, http.StatusConflict, a.Code)
			require.Equal(t, "expired", a.body["invitation_status"])
		}
		list := func(filter string) int {
			return len(f.as(t, admin, 1, http.MethodGet, "/api/invitations/?status="+filter, "").body["items"].([]any))
		}
		require.Equal(t, 1, list("expired"))
		require.Equal(t, 0, list("pending"))

		again, _ := f.invite(t, "a@x.test")
		require.NotEqual(t, id, again)
		require.Equal(t, "expired", f.text(t, `SELECT status FROM invitations WHERE id = $1`, id))
		require.Equal(t, []string{"invitation.created", "invitation.sent", "invitation.expired"}, f.audits(t, id))
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		var want []string
		for i := range 5 {
			id, _ := f.invite(t, fmt.Sprintf("p%d@x.test", i))
			want = append([]string{id}, want...)
			if i%2 == 0 { // some share their time, so that the id decides
				f.clock.Advance(time.Minute)
			}
		}
		cancelled := want[2]
		f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+cancelled+"/cancel/", "")

		var got []string
		path := "/api/invitations/?limit=2"
		for path != "" {
			a := f.as(t, admin, 1, http.MethodGet, path, "")
			require.Equal(t, http.StatusOK, a.Code, a.Body)
			for _, item := range a.body["items"].([]any) {
				got = append(got, item.(map[string]any)["id"].(string))
			}
			path = ""
			if link := a.Header().Get("Link"); link != "" {
				path = strings.TrimPrefix(strings.TrimSuffix(link, `>; rel="next"`), "<")
				next, err := neturl.Parse(path)
				require.NoError(t, err)
				require.Equal(t, a.body["next_cursor"], next.Query().Get("after"))
			} else {
				require.Nil(t, a.body["next_cursor"])
			}
		}
		require.Equal(t, want, got)

		only := func(query string) []any {
			return f.as(t, admin, 1, http.MethodGet, "/api/invitations/?"+query, "").body["items"].([]any)
		}
		require.Len(t, only("status=cancelled"), 1)
		require.Len(t, only("status=pending"), 4)
		require.Empty(t, only("status=accepted"))
		require.Len(t, only("email=P1@X.TEST"), 1)
		require.Empty(t, f.as(t, stranger, 2, http.MethodGet, "/api/invitations/", "").body["items"])
	})
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	f.invite(t, "a@x.test")
	f.invite(t, "b@x.test")
	cursor := f.as(t, admin, 1, http.MethodGet, "/api/invitations/?limit=1", "").body["next_cursor"].(string)
	for query, pointer := range map[string]string{
		"status=open": "?status", "email=nobody": "?email", "limit=0": "?limit", "limit=101": "?limit", "after=x": "?after",
		"after=" + cursor + "A":                "?after",
		"status=pending&after=" + cursor:       "?after",
		"after=" + strings.Repeat("A", 38):     "?after",
		"after=" + cursor[:len(cursor)-1] + "": "?after",
	} {
		a := f.as(t, admin, 1, http.MethodGet, "/api/invitations/?"+query, "")
		require.Equal(t, http.StatusBadRequest, a.Code, query)
		require.Equal(t, []string{pointer + " invalid"}, a.fields(), query)
	}
}

func TestResend(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		id, first := f.invite(t, "a@x.test")
		path := "/api/invitations/" + id + "/resend/"

		a := f.as(t, admin, 1, http.MethodPost, path, "")
		require.Equal(t, http.StatusTooManyRequests, a.Code)
		require.Equal(t, "resend-cooldown", a.code())
		require.Equal(t, "60", a.Header().Get("Retry-After"))

		f.clock.Advance(time.Minute)
		a = f.as(t, admin, 1, http.MethodPost, path, "")
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.Equal(t, "2026-03-08T12:01:00.000Z", a.body["expires_at"])
		require.InDelta(t, 2, a.at("delivery", "sends"), 0)
		second := tokenIn(t, f.mails.last(t).Text)
		require.NotEqual(t, first, second)
		require.Equal(t, http.StatusNotFound, f.accept(t, first, goodPassword).Code, "the old link is dead")

		for range 8 {
			f.clock.Advance(time.Minute)
			require.Equal(t, http.StatusOK, f.as(t, admin, 1, http.MethodPost, path, "").Code)
		}
		f.clock.Advance(time.Minute)
		a = f.as(t, admin, 1, http.MethodPost, path, "")
		require.Equal(t, http.StatusTooManyRequests, a.Code)
		require.Equal(t, "resend-limit", a.code())
		require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
		require.Equal(t, http.StatusConflict, f.as(t, admin, 1, http.MethodPost, path, "").Code)
	})
}

func TestMailFailureIsVisibleAndRepaired(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.mails.failWith(errMail)
		a := f.as(t, admin, 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`)
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Equal(t, "pending", a.at("delivery", "status"))
		require.Equal(t, "unavailable", a.at("delivery", "error"))
		require.NotEmpty(t, a.at("delivery", "next_attempt_at"))
		require.NotContains(t, a.Body.String(), "10.0.0.3", "the network inside is nobody's business")
		id := a.body["id"].(string)

		f.mails.failWith(nil)
		a = f.as(t, admin, 1, http.MethodPost, "/api/invitations/"+id+"/resend/", "")
		require.Equal(t, http.StatusOK, a.Code, "no cooldown after a failure: %s", a.Body)
		require.Equal(t, "sent", a.at("delivery", "status"))
		require.Nil(t, a.at("delivery", "error"))
		require.Equal(t, []string{"invitation.created", "invitation.resent", "invitation.sent"}, f.audits(t, id))
		require.Equal(t, http.StatusCreated, f.accept(t, tokenIn(t, f.mails.last(t).Text), goodPassword).Code)
	})
}

func TestInviterMayBeKnownToAnIdentityProviderOnly(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		f := newFixture(t, url)
		f.exec(t, `DELETE FROM role_feature_permissions WHERE role_id = 3`)
		a := f.as(t, "idp|7", 1, http.MethodPost, "/api/invitations/", `{"email":"a@x.test"}`)
		require.Equal(t, http.StatusCreated, a.Code, a.Body)
		require.Nil(t, a.at("inviter", "id"))
		require.Equal(t, "idp|7", a.at("inviter", "name"))
	})
}

func TestUnknownRoutesAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	f := newFixture(t, dbtest.SQLite(t))
	require.Equal(t, http.StatusNotFound, f.as(t, admin, 1, http.MethodPost, "/api/invitations/x/y/z/", "").Code)
	a := f.as(t, admin, 1, http.MethodDelete, "/api/invitations/", "")
	require.Equal(t, http.StatusMethodNotAllowed, a.Code)
	require.Equal(t, "application/problem+json", a.Header().Get("Content-Type"))
	a = f.do(t, http.MethodPost, "/api/invitations/", "", "X-User-Id", admin, "X-Tenant-Id", "1", "X-Permission", "abc/invitations/write")
	require.Equal(t, http.StatusUnsupportedMediaType, a.Code)
}
