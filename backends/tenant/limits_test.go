package tenant_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// at returns a member of an answer as JSON.
func (a answer) at(name string) string {
	encoded, _ := json.Marshal(a.body[name]) // it was JSON
	return string(encoded)
}

// lastDetail returns the detail of the newest audit row.
func (f *fixture) lastDetail() (detail map[string]any) {
	f.t.Helper()
	var text string
	require.NoError(f.t, f.db.Reader().QueryRow(`SELECT detail FROM audit_events ORDER BY id DESC LIMIT 1`).Scan(&text))
	require.NoError(f.t, json.Unmarshal([]byte(text), &detail))
	return detail
}

// pointers returns what the errors of an answer name, with their codes.
func (a answer) pointers() []string {
	var all []string
	items, _ := a.body["errors"].([]any)
	for _, item := range items {
		field := item.(map[string]any)
		all = append(all, fmt.Sprint(field["pointer"], " ", field["code"]))
	}
	return all
}

func TestSeatsAreSetByWhoRunsTheInstallation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op, globex := f.as("admin@acme.test", 1), f.as("admin@globex.test", 2)
		a := op.call("GET", "/api/tenants/2/", "")
		require.Contains(t, a.Body.String(), `"seats":null,"invitation_domains":{"allowed":[],"denied":[]}`)

		a = op.changed(200, "tenant.updated", 2, "PATCH", "/api/tenants/2/", `{"seats":25}`)
		require.Equal(t, "25", a.at("seats"))
		detail := f.lastDetail()
		require.Equal(t, []any{nil, 25.0}, []any{detail["from"].(map[string]any)["seats"], detail["to"].(map[string]any)["seats"]})
		require.Equal(t, "25", globex.call("GET", "/api/tenant/", "").at("seats"))
		require.Equal(t, []any{nil, 25.0}, op.call("GET", "/api/tenants/", "").names("seats"))
		a = op.changed(200, "tenant.updated", 2, "PATCH", "/api/tenants/2/", `{"name":"globex two"}`)
		require.Equal(t, "25", a.at("seats"), "what is not given stays")
		require.Equal(t, "25", op.call("PATCH", "/api/tenants/2/", `{"status":"active","seats":25}`).at("seats"))
		a = op.changed(200, "tenant.updated", 2, "PATCH", "/api/tenants/2/", `{"seats":null}`)
		require.Equal(t, "null", a.at("seats"), "null lifts it")
		a = op.changed(200, "tenant.updated", 2, "PATCH", "/api/tenants/2/", `{"seats":1000000,"name":"globex"}`)
		require.Equal(t, "1000000", a.at("seats"))

		globex.refuse(400, "bad-json", "PATCH", "/api/tenant/", `{"seats":null}`)
		globex.refuse(400, "bad-json", "PATCH", "/api/tenant/", `{"name":"x","seats":5}`)
		for _, bad := range []string{`0`, `-1`, `1000001`, `1.5`, `1e3`, `99999999999999999999`, `"5"`, `""`, `true`, `[]`, `{}`} {
			a = op.refuse(422, "invalid-fields", "PATCH", "/api/tenants/2/", `{"seats":`+bad+`}`)
			require.Equal(t, []string{"/seats invalid"}, a.pointers(), bad)
			require.Contains(t, a.Body.String(), "from 1 to 1000000, or null")
			a = op.refuse(422, "invalid-fields", "POST", "/api/tenants/", `{"name":"initech","seats":`+bad+`}`)
			require.Equal(t, []string{"/seats invalid"}, a.pointers(), bad)
		}
		for body, want := range map[string]string{`{"name":"a1","seats":1}`: "1", `{"name":"a2","seats":null}`: "null", `{"name":"a3"}`: "null"} {
			a = op.changed(201, "tenant.created", f.scalar(`SELECT MAX(id) + 1 FROM tenants`), "POST", "/api/tenants/", body)
			require.Equal(t, want, a.at("seats"))
			encoded, _ := json.Marshal(f.lastDetail()["seats"])
			require.Equal(t, want, string(encoded))
		}
	})
}

func TestATenantSaysWhomItInvites(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		op, globex := f.as("admin@acme.test", 1), f.as("admin@globex.test", 2)
		for _, c := range []struct {
			who  caller
			path string
		}{{globex, "/api/tenant/"}, {op, "/api/tenants/2/"}} {
			a := c.who.changed(200, "tenant.updated", 2, "PATCH", c.path,
				`{"invitation_domains":{"allowed":["Example.com","*.Bücher.example","example.com"],"denied":["dev.example.com"]}}`)
			require.JSONEq(t, `{"allowed":["*.xn--bcher-kva.example","example.com"],"denied":["dev.example.com"]}`, a.at("invitation_domains"))
			to := f.lastDetail()["to"].(map[string]any)["invitation_domains"].(map[string]any)
			require.Equal(t, []any{"dev.example.com"}, to["denied"])
			before, _ := f.seq()
			require.Equal(t, 200, c.who.call("PATCH", c.path, `{"invitation_domains":{"denied":["DEV.example.com"],"allowed":["example.com","*.bücher.example"]}}`).Code)
			after, _ := f.seq()
			require.Equal(t, before, after, "the same lists are no change")
			a = c.who.changed(200, "tenant.updated", 2, "PATCH", c.path, `{"name":"`+strings.Trim(c.path, "/")+`"}`)
			require.Contains(t, a.at("invitation_domains"), "example.com", "what is not given stays")
			a = c.who.changed(200, "tenant.updated", 2, "PATCH", c.path, `{"invitation_domains":{"denied":["*.evil.test"]}}`)
			require.JSONEq(t, `{"allowed":[],"denied":["*.evil.test"]}`, a.at("invitation_domains"), "both lists are replaced")
			require.Equal(t, a.at("invitation_domains"), globex.call("GET", "/api/tenant/", "").at("invitation_domains"))

			a = c.who.refuse(422, "invalid-fields", "PATCH", c.path, `{"name":"","invitation_domains":{"allowed":["a.test","*","b.test","com","*.com"],"denied":["10.0.0.1"]}}`)
			require.Equal(t, []string{
				"/name required", "/invitation_domains/allowed/1 invalid", "/invitation_domains/allowed/3 invalid",
				"/invitation_domains/allowed/4 invalid", "/invitation_domains/denied/0 invalid",
			}, a.pointers())
			many, _ := json.Marshal(make([]string, 101))
			a = c.who.refuse(422, "invalid-fields", "PATCH", c.path, `{"invitation_domains":{"denied":`+string(many)+`}}`)
			require.Equal(t, []string{"/invitation_domains/denied too-many"}, a.pointers())
			c.who.refuse(400, "bad-json", "PATCH", c.path, `{"invitation_domains":["a.test"]}`)
			c.who.refuse(400, "bad-json", "PATCH", c.path, `{"invitation_domains":{"allowed":"a.test"}}`)
			c.who.refuse(400, "bad-json", "PATCH", c.path, `{"invitation_domains":{"blocked":[]}}`)

			a = c.who.changed(200, "tenant.updated", 2, "PATCH", c.path, `{"invitation_domains":{}}`)
			require.JSONEq(t, `{"allowed":[],"denied":[]}`, a.at("invitation_domains"))
		}
	})
}

func TestAFullTenantTakesNobody(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		members := f.scalar(`SELECT COUNT(*) FROM memberships WHERE tenant_id = 2`)
		f.addUser("ann", "ann@x.test")
		f.addUser("bob", "bob@x.test")
		f.exec(`UPDATE tenants SET seats = $1 WHERE id = 2`, members+1)
		f.exec(`UPDATE tenants SET seats = 1 WHERE id = 1`)

		admin.changed(201, "member.added", 2, "POST", "/api/members/", `{"user_id":"ann","role":"Viewer"}`)
		a := admin.refuse(409, "seats-full", "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)
		require.EqualValues(t, members+1, a.body["seats"])
		admin.refuse(409, "already-exists", "POST", "/api/members/", `{"user_id":"ann","role":"Viewer"}`)
		require.Equal(t, 200, admin.call("PATCH", "/api/members/ann/", `{"role":"Editor"}`).Code, "who is in stays in")
		f.exec(`UPDATE users SET status = 'disabled' WHERE id = 'ann'`)
		admin.refuse(409, "seats-full", "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)

		f.as("admin@acme.test", 1).changed(200, "tenant.updated", 2, "PATCH", "/api/tenants/2/", `{"seats":1}`)
		require.Equal(t, members+1, f.scalar(`SELECT COUNT(*) FROM memberships WHERE tenant_id = 2`), "nobody is removed")
		admin.changed(204, "member.removed", 2, "DELETE", "/api/members/ann/", "")
		admin.refuse(409, "seats-full", "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)
		f.as("admin@acme.test", 1).changed(200, "tenant.updated", 2, "PATCH", "/api/tenants/2/", `{"seats":null}`)
		admin.changed(201, "member.added", 2, "POST", "/api/members/", `{"user_id":"bob","role":"Viewer"}`)
	})
}

func TestATenantTakesNobodyOfADeniedDomain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		admin := f.as("admin@globex.test", 2)
		f.addUser("ann", "ann@sub.x.test")
		admin.changed(200, "tenant.updated", 2, "PATCH", "/api/tenant/", `{"invitation_domains":{"denied":["*.x.test"]}}`)
		a := admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"user_id":"ann","role":"Viewer"}`)
		require.Equal(t, []string{"/user_id domain-not-allowed"}, a.pointers())
		a = admin.refuse(422, "invalid-fields", "POST", "/api/members/", `{"email":"Ann@Sub.X.test","role":"Viewer"}`)
		require.Equal(t, []string{"/email domain-not-allowed"}, a.pointers())
		admin.changed(200, "tenant.updated", 2, "PATCH", "/api/tenant/", `{"invitation_domains":{"allowed":["sub.x.test"]}}`)
		admin.changed(201, "member.added", 2, "POST", "/api/members/", `{"email":"Ann@Sub.X.test","role":"Viewer"}`)
		viewer := "/api/members/" + f.user("viewer@globex.test") + "/"
		require.Equal(t, 200, admin.call("PATCH", viewer, `{"role":"Editor"}`).Code, "the lists are about who comes, not about who is there")
	})
}
