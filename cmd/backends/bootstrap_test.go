package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

const (
	bootstrapLine = "bootstrap --tenant acme --email ann@acme.test"
	adminPassword = "nine quiet otters swim"
)

// newInstallation is a shell whose store is empty but ready.
func newInstallation(t *testing.T) shell {
	t.Helper()
	s := newShell(t)
	s.ok(t, "migrate")
	return s
}

func TestBootstrapFromAPipe(t *testing.T) {
	t.Parallel()
	s := newInstallation(t)
	s["stdin"] = adminPassword + "\n"
	stdout := s.ok(t, bootstrapLine)
	require.Contains(t, stdout, `Tenant "acme" (id 1) is ready; ann@acme.test is its Admin`)
	require.NotContains(t, stdout, adminPassword)

	stdout, stderr, code := s.run(t.Context(), bootstrapLine)
	require.Equal(t, exitFailed, code)
	require.Empty(t, stdout)
	require.Equal(t, "backends: bootstrap: the store holds tenants already: only a new installation is bootstrapped\n", stderr)
	require.JSONEq(t, `{"seeded":false}`, s.ok(t, "seed --demo -o json"))
}

func TestBootstrapFromAFile(t *testing.T) {
	t.Parallel()
	s := newInstallation(t)
	s["PASSWORD_FILE"] = filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(s["PASSWORD_FILE"], []byte(adminPassword+"\r\n"), 0o600))
	var made map[string]any
	require.NoError(t, json.Unmarshal([]byte(s.ok(t, bootstrapLine+" --name Ann --output json")), &made))
	require.NotEmpty(t, made["user_id"])
	delete(made, "user_id")
	require.Equal(t, map[string]any{"tenant_id": 1.0, "tenant": "acme", "email": "ann@acme.test", "role": "Admin"}, made)
}

func TestBootstrapRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		line, stdin, file string
		message           string
	}{
		"no password":                          {bootstrapLine, "", "", "password: nothing was given"},
		"two lines":                            {bootstrapLine, "nine quiet\notters swim", "", "password: give one line"},
		"more than a password":                 {bootstrapLine, strings.Repeat("x", 5000), "", "password: give one line"},
		"a weak password":                      {bootstrapLine, "otters", "", "password: Use at least 15 characters"},
		"a file that is not":                   {bootstrapLine, adminPassword, "/no/such/file", "PASSWORD_FILE: open /no/such/file"},
		"an address that is not":               {"bootstrap --tenant acme --email ann", adminPassword, "", `e-mail "ann": give an address`},
		"a tenant like an id":                  {"bootstrap --tenant 7 --email ann@acme.test", adminPassword, "", `tenant "7": Use more than digits`},
		"no address, no password is asked for": {"bootstrap --tenant acme --email ann", "", "/no/such/file", `e-mail "ann": give an address`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstallation(t)
			s["stdin"], s["PASSWORD_FILE"] = test.stdin, test.file
			stdout, stderr, code := s.run(t.Context(), test.line)
			require.Equal(t, exitFailed, code, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, test.message)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
			require.JSONEq(t, `{"seeded":true}`, s.ok(t, "seed --demo -o json"), "the store is still empty")
		})
	}
}

// TestWhatBootstrapPrintsLeadsToAnInvitation pastes it: the product and the role
// are then what the services are set to.
func TestWhatBootstrapPrintsLeadsToAnInvitation(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]shell{
		"as it is":             {},
		"with names of my own": {"INVITATION_PRODUCT": "shop", "INVITATION_ROLE": "no"},
		"admins only":          {"INVITATION_ROLE": "Admin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstallation(t)
			maps.Copy(s, set)
			s["stdin"] = adminPassword
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), environment{
				args:  []string{"bootstrap", "--tenant", `Ann's "Acme": Ltd`, "--email", "ann@acme.test"},
				stdin: strings.NewReader(adminPassword), stdout: &stdout, stderr: &stderr, lookup: s.lookup,
			})
			require.Equal(t, exitOK, code, &stderr)
			_, rest, _ := strings.Cut(stdout.String(), "\ntenantgate permissions import - <<'END'\n")
			pasted, _, found := strings.Cut(rest, "\nEND\n")
			require.True(t, found, &stdout)

			running, stop := serve(t, s["DATABASE_URL"], set)
			defer stop()
			rules, err := policy.Parse("pasted", []byte(pasted))
			require.NoError(t, err)
			_, err = policy.Import(t.Context(), running.DB(), policy.File{Name: "pasted", Policy: rules}, "cli:ann", false)
			require.NoError(t, err)

			session := post(t, http.StatusOK, "http://"+running.AuthAddr()+"/api/auth/login", object{"email": "ann@acme.test", "password": adminPassword})
			product := cmp.Or(set["INVITATION_PRODUCT"], "abc")
			made := post(t, http.StatusCreated, "http://"+running.InvitationAddr()+"/api/invitations/", object{"email": "nina@x.test"},
				"X-User-Id", session["user"].(object)["id"].(string), "X-Tenant-Id", "1", "X-Permission", product+"/invitations/write")
			require.Equal(t, cmp.Or(set["INVITATION_ROLE"], "Viewer"), made["role"].(object)["name"])
			table, err := permission.Load(t.Context(), running.DB(), nil)
			require.NoError(t, err)
			for _, right := range []permission.Permission{
				{Product: product, Feature: "invitations", Action: "write"},
				{Product: "tenantgate", Feature: "members", Action: "write"},
				{Product: "tenantgate", Feature: "platform", Action: "write"},
			} {
				require.Equal(t, permission.Allowed, table.Explain("1", session["user"].(object)["id"].(string), right).Reason, right)
			}
		})
	}
}
