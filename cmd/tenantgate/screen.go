package main

import (
	"fmt"
	"io"
	"strings"
)

// step is one line of the tour on the start-up screen.
type step struct {
	// what the step shows.
	what string
	// command can be pasted into a POSIX shell with curl. Later steps use
	// variables that earlier ones set.
	command string
	// want is what the command prints, or a part of it; empty if it prints nothing.
	want string
}

// screen is what `tenantgate dev` prints when everything is up.
type screen struct {
	gateway string // http://localhost:8080
	admin   string // localhost:2019
	data    string // ./data
	config  string // Caddyfile
	builtIn bool   // there is no such file: the program's own is used
	binary  string // how the user started this program
	fresh   bool   // demo data was just made
}

const demoPassword = "correct horse battery staple"

// login returns a command that logs in and keeps the token in a variable.
func (s screen) login(variable, email, password string) string {
	return fmt.Sprintf(`%s=$(curl -s %s/api/auth/login -H 'Content-Type: application/json' -d '{"email":"%s","password":"%s"}' | sed 's/.*"access_token":"\([^"]*\)".*/\1/')`,
		variable, s.gateway, email, password)
}

// steps returns the tour, to be followed in order.
func (s screen) steps() []step {
	const status = `curl -s -o /dev/null -w '%{http_code}\n' `
	token := ` -H "Authorization: Bearer $TOKEN"`
	admin := ` -H "Authorization: Bearer $ADMIN"`
	return []step{
		{"log in as a viewer of tenant 1", s.login("TOKEN", "viewer@acme.test", demoPassword), ""},
		{"without a token", "curl -s " + s.gateway + "/api/permissions/dashboard/", `"status":401`},
		{"a viewer may read the dashboard", "curl -s " + s.gateway + "/api/permissions/dashboard/" + token, `"tenant"`},
		{"but not write it: the answer names the missing right", "curl -s -X POST " + s.gateway + "/api/permissions/dashboard/" + token, `"permission":"abc/dashboard/write"`},
		{"what a viewer may do: a front end draws its menus from it", "curl -s " + s.gateway + "/api/permissions/me" + token, `"permissions":["abc/billing/read","abc/dashboard/read"`},
		{"an operator asks which row decides", s.binary + " permissions explain abc/dashboard/write --tenant acme --user viewer@acme.test --gateway " + s.admin, "denied: viewer@acme.test is Viewer in acme"},
		{"a trace goes on through gateway, auth and tenant service", "curl -s " + s.gateway + "/api/auth/log/" + token + " -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'", `"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"`},
		{"and all their lines carry it", "cat " + s.data + "/logs/*.jsonl | grep 4bf92f3577b34da6a3ce929d0e0e4736 | grep -o '\"service\":\"[a-z-]*\"' | sort -u", `"service":"auth-service"` + "\n" + `"service":"tenant-service"` + "\n" + `"service":"tenantgate"`},
		{"three failures in a minute open the breaker", "for i in 1 2 3 4; do " + status + `"` + s.gateway + `/api/billing/?status=500"` + token + "; done", "500\n500\n500\n503"},
		{"now the gateway itself answers, with Retry-After", "curl -si " + s.gateway + "/api/billing/" + token, "503 Service Unavailable\nRetry-After:\n" + `"code":"circuit-open"`},
		{"an operator sees why", s.binary + " breakers list --address " + s.admin, "TRIPS  FAILURES  REASON\n1      3         failures"},
		{"and lets requests through again", s.binary + " breakers reset billing --address " + s.admin + "; " + status + s.gateway + "/api/billing/" + token, "200"},
		{"log in as an admin", s.login("ADMIN", "admin@acme.test", demoPassword), ""},
		{"invite somebody", "EMAIL=ann$(date +%s)@example.com; curl -s " + s.gateway + "/api/invitations/" + admin + ` -H 'Content-Type: application/json' -d "{\"email\":\"$EMAIL\",\"role\":\"Editor\",\"metadata\":{\"note\":\"welcome\"}}"`, `"status":"pending"`},
		{"the mail is a file: take the token out of it", "INVITE=$(sed -n 's/^Token: \\(inv_[A-Za-z0-9_-]*\\).*/\\1/p' \"$(ls -t " + s.data + "/mail/*.eml | head -n 1)\")", ""},
		{"accept it with a password of one's own", "curl -s " + s.gateway + `/api/invitations/accept/ -H 'Content-Type: application/json' -d "{\"token\":\"$INVITE\",\"password\":\"plum tree river stone\"}"`, `"status":"accepted"`},
		{"a second time it is gone", status + s.gateway + `/api/invitations/accept/ -H 'Content-Type: application/json' -d "{\"token\":\"$INVITE\",\"password\":\"plum tree river stone\"}"`, "410"},
		{"the new user logs in", s.login("ANN", `'"$EMAIL"'`, "plum tree river stone"), ""},
		{"and may write the dashboard: the gateway has read the new member by now", "sleep 1; " + status + "-X POST " + s.gateway + `/api/permissions/dashboard/ -H "Authorization: Bearer $ANN" -H 'Content-Type: application/json' -d '{"note":"hello"}'`, "201"},
	}
}

// print writes the screen.
func (s screen) print(w io.Writer) {
	var b strings.Builder
	fmt.Fprintf(&b, `
Tenantgate is up.

  gateway    %s
%s
  admin API  http://%s
  mails      %s/mail/*.eml
  logs       %s/logs/*.jsonl
  data       %s/tenantgate.db   (%s)

  tenants    1 acme, 2 globex; product abc: dashboard, reports, billing, invitations
  users      admin@acme.test    editor@acme.test    viewer@acme.test
             admin@globex.test  editor@globex.test  viewer@globex.test
  password   %s   (for all of them; demo data, not for production)

Paste these into a second terminal, in this order, from this folder. After "->" stands what is printed, or a part of it.

`, s.gateway, s.configuration(), s.admin, s.data, s.data, s.data, s.origin(), demoPassword)
	for i, step := range s.steps() {
		fmt.Fprintf(&b, "%2d. %s\n%s\n", i+1, step.what, step.command)
		if step.want != "" {
			fmt.Fprintf(&b, "    -> %s\n", strings.ReplaceAll(step.want, "\n", "\n    -> "))
		}
		b.WriteByte('\n')
	}
	b.WriteString("Ctrl-C stops everything.\n\n")
	_, _ = io.WriteString(w, b.String())
}

// configuration returns the lines about it. There is nothing to reload where
// there is no file.
func (s screen) configuration() string {
	if s.builtIn {
		return "  config     built in; a file named " + s.config + " in this folder would take its place"
	}
	return fmt.Sprintf("  config     %s\n  reload     . %s/dev.env; %s reload --config %s", s.config, s.data, s.binary, s.config)
}

func (s screen) origin() string {
	if s.fresh {
		return "new, with demo data"
	}
	return "from an earlier start; --fresh begins anew"
}
