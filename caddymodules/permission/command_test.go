package permission_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/caddymodules/permission"
	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

// office is a policy for the commands.
const office = `products:
  abc:
    dashboard: []
    reports: [export]
  tenantgate:
    members: []
    platform: []
tenants:
  acme:
    status: active
    roles:
      Admin:
        permissions:
          - '*/*/*'
          - tenantgate/platform/write
      Editor:
        inherits: [Viewer]
        permissions:
          - abc/reports/write
      Owner:
        owner: true
      Viewer:
        permissions:
          - abc/*/read
    members:
      ann@acme.test: Admin
      ed@acme.test: Editor
      vic@acme.test: Viewer
`

// newOffice fills a database and returns its URL.
func newOffice(t *testing.T, url string) *database.DB {
	t.Helper()
	db := dbtest.Open(t, url, clock.System{})
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, id := range []string{"ann", "ed", "vic", "new"} {
			email := id + "@acme.test"
			if err := identity.InsertUser(t.Context(), tx, identity.User{ID: id, Email: email, EmailKey: email, Status: identity.StatusActive}); err != nil {
				return err
			}
		}
		return nil
	}))
	p, err := policy.Parse("office", []byte(office))
	require.NoError(t, err)
	_, err = policy.Import(t.Context(), db, policy.File{Policy: p, Name: "office"}, "cli:test", false)
	require.NoError(t, err)
	return db
}

// file writes a file and returns its path.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// noon is the time that commands know in these tests.
// It is later than all that the system's clock stamps in these tests.
var noon = time.Date(2126, 11, 26, 12, 0, 0, 0, time.UTC)

// runCommand runs `tenantgate permissions` with the arguments.
func runCommand(ctx context.Context, stdin string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	cmd := permission.PermissionsCommand(clock.NewFake(noon))
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		code = 1
		if err.Error() == "exiting with status 2" {
			code = 2
		}
	}
	return out.String(), errs.String(), code
}

func TestTheCommandsAnswerFromTheDatabase(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		newOffice(t, url)
		changed := file(t, "tenants: {acme: {roles: {Viewer: {permissions: [abc/reports/read]}}, members: {new@acme.test: Viewer}}}")
		good := file(t, "checks: [{tenant: acme, role: Viewer, allow: [abc/dashboard/read], deny: [abc/reports/write]}]")
		bad := file(t, "checks:\n- {tenant: acme, user: ed@acme.test, allow: [abc/reports/delete]}")
		const differences = `role Viewer of acme gains abc/reports/read
role Viewer of acme loses abc/*/read
member new@acme.test of acme is new, with the role Viewer

in effect:
2 members of acme (Editor and Viewer) lose abc/dashboard/read
1 member of acme (Viewer) gains abc/reports/read
`
		for name, test := range map[string]struct {
			args []string
			code int
			want string
		}{
			"explain": {[]string{"explain", "abc/reports/read", "--tenant", "acme", "--user", "ed@acme.test"}, 0, "allowed: ed@acme.test is Editor in acme; Editor inherits Viewer, which holds abc/*/read\n"},
			"explain by flags": {
				[]string{"explain", "--tenant", "1", "--user", "vic", "--product", "abc", "--feature", "reports", "--action", "write"},
				0,
				"denied: vic@acme.test is Viewer in acme; neither Viewer nor what it inherits holds abc/reports/write; Admin, Editor or Owner of acme would\n",
			},
			"explain a role":     {[]string{"explain", "abc/reports/write", "--tenant", "1", "--role", "Owner"}, 0, "allowed: Owner is the owner role: it may do everything but run the installation\n"},
			"can-user: yes":      {[]string{"can-user", "abc/reports/read", "--tenant", "acme", "--user", "ed"}, 0, "allowed: Editor > Viewer: abc/*/read\n"},
			"can-user: no":       {[]string{"can-user", "abc/reports/write", "--tenant", "acme", "--user", "vic"}, 1, "denied: role_lacks_action\n"},
			"can-user: a typo":   {[]string{"can-user", "abc/report/write", "--tenant", "acme", "--user", "ann"}, 1, "denied: unknown_feature\n"},
			"who-can":            {[]string{"who-can", "abc/reports/write", "--tenant", "acme"}, 0, "EMAIL          USER  ROLE    RULE\nann@acme.test  ann   Admin   Admin: */*/*\ned@acme.test   ed    Editor  Editor: abc/reports/write\n"},
			"who-can: nobody":    {[]string{"who-can", "tenantgate/platform/read", "--tenant", "1"}, 0, "nobody in acme may use tenantgate/platform/read\n"},
			"export":             {[]string{"export", "--members"}, 0, office},
			"export of a tenant": {[]string{"export", "--members", "--tenant", "1", "--tenant", "acme"}, 0, office},
			"diff: same":         {[]string{"diff", file(t, office), "--prune"}, 0, ""},
			"diff":               {[]string{"diff", changed}, 1, differences},
			"diff of two files": {
				[]string{"diff", file(t, office), file(t, strings.Replace(office, "abc/reports/write", "abc/reports/export", 1))},
				1,
				"role Editor of acme gains abc/reports/export\nrole Editor of acme loses abc/reports/write\n\nin effect:\n1 member of acme (Editor) gains abc/reports/export\n1 member of acme (Editor) loses abc/reports/write\n",
			},
			"import: a dry run": {[]string{"import", changed, "--dry-run"}, 0, differences + "\nnothing was changed: --dry-run\n"},
			"import: nothing":   {[]string{"import", file(t, office)}, 0, "nothing to change\n"},
			"check: good":       {[]string{"check", good}, 0, "2 expectations, 0 not met\n"},
			"check: bad": {
				[]string{"check", bad},
				1,
				bad + ":2: ed@acme.test in acme should be allowed abc/reports/delete: it is denied: Editor does not hold abc/reports/delete\n1 expectations, 1 not met\n",
			},
			"history: nothing since": {[]string{"history", "--since", "2999-01-01"}, 0, "nothing was changed\n"},
		} {
			stdout, stderr, code := runCommand(t.Context(), "", append(test.args, "--database", url)...)
			require.Equal(t, test.code, code, "%s: %s", name, stderr)
			require.Equal(t, test.want, stdout, name)
			require.Empty(t, stderr, name)

			stdout, _, code = runCommand(t.Context(), "", append(test.args, "--database", url, "--output", "json")...)
			require.Equal(t, test.code, code, name)
			require.True(t, json.Valid([]byte(stdout)), name)
		}
	})
}

func TestImportChangesAndHistoryTells(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		newOffice(t, url)
		content := strings.Replace(office, "abc/reports/write", "abc/reports/export", 1)
		stdout, stderr, code := runCommand(t.Context(), content, "import", "-", "--database", url)
		require.Zero(t, code, stderr)
		require.True(t, strings.HasSuffix(stdout, "\nimported\n"), stdout)
		stdout, _, _ = runCommand(t.Context(), "", "export", "--members", "--database", url)
		require.Equal(t, content, stdout)

		// JSON is YAML.
		asJSON, _, code := runCommand(t.Context(), "", "export", "--members", "--output", "json", "--database", url)
		require.Zero(t, code)
		stdout, _, code = runCommand(t.Context(), asJSON, "diff", "-", "--prune", "--database", url)
		require.Zero(t, code, stdout)

		stdout, _, code = runCommand(t.Context(), "", "history", "--tenant", "acme", "--since", "1h", "--limit", "1", "--database", url)
		require.Zero(t, code)
		require.Regexp(t, `^TIME +ACTOR +TENANT +ACTION +TARGET +DETAIL +TRACE\n2126-11-26T12:00:00Z  cli:\S+ +acme +role.permissions_changed  role/\d+  Editor gains abc/reports/export loses abc/reports/write  -\n$`, stdout)
		stdout, _, _ = runCommand(t.Context(), "", "history", "--output", "json", "--limit", "1000", "--database", url)
		var view struct{ Events []policy.Event }
		require.NoError(t, json.Unmarshal([]byte(stdout), &view))
		require.Len(t, view.Events, 19)
		require.Equal(t, "acme", view.Events[0].Tenant)
	})
}

func TestCheckWithoutADatabase(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://nobody:secret@127.0.0.1:1/none")
	checks := file(t, "checks: [{tenant: acme, role: Viewer, allow: [abc/dashboard/read]}, {tenant: acme, user: ann@acme.test, allow: [tenantgate/platform/write]}]")
	stdout, stderr, code := runCommand(t.Context(), "", "check", checks, "--policy", file(t, office))
	require.Zero(t, code, stderr)
	require.Equal(t, "2 expectations, 0 not met\n", stdout)
	_, stderr, code = runCommand(t.Context(), "", "check", checks)
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "Error: DATABASE_URL: ")
	require.NotContains(t, stderr, "secret")
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)

	t.Setenv("DATABASE_URL", "")
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	require.NoError(t, err)
	_, stderr, code = runCommand(t.Context(), "", "export")
	require.Equal(t, 1, code)
	require.Equal(t, "Error: neither --database nor DATABASE_URL is set: there is no database to read yet (`backends migrate` makes it): no file "+
		filepath.Join(here, "tenantgate.db")+"\n", stderr)
}

func TestMistakesAreOneLineAndAnExitCode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url := "sqlite://" + filepath.Join(dir, "t.db")
	empty, err := database.Open(t.Context(), "sqlite://"+filepath.Join(dir, "empty.db"), clock.System{})
	require.NoError(t, err)
	require.NoError(t, empty.Close())
	full, err := database.Open(t.Context(), url, clock.System{})
	require.NoError(t, err)
	require.NoError(t, full.Migrate(t.Context()))
	require.NoError(t, full.Close())
	newOffice(t, url)
	newer := dbtest.SQLite(t)
	db := dbtest.Open(t, newer, clock.System{})
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
		return err
	}))
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	two := file(t, "products: {ABC: {}}\ntenant: {}")
	who := []string{"--tenant", "acme", "--user", "ann"}
	with := func(verb string, args ...string) []string { return append([]string{verb}, args...) }
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing to do":                  {nil, 2, "say what to do: explain, can-user, who-can, import, export, diff, check or history; see permissions --help"},
		"an unknown command":             {with("expain"), 2, `unknown command "expain": use explain, can-user`},
		"an unknown flag":                {with("explain", "--users", "ann"), 2, "unknown flag: --users"},
		"a form unknown":                 {with("export", "--output", "xml"), 2, "--output xml: use text or json"},
		"no permission":                  {with("explain", who...), 2, "give one permission, such as abc/reports/read, or --product, --feature and --action"},
		"two permissions":                {with("explain", append(who, "a/b/c", "--product", "a")...), 2, "give one permission"},
		"no such permission":             {with("can-user", append(who, "abc/reports")...), 2, `give the permission as product/feature/action, not "abc/reports"`},
		"a wildcard":                     {with("who-can", "abc/*/read", "--tenant", "acme"), 2, `feature "*" is not a valid name`},
		"half a permission":              {with("explain", append(who, "--product", "abc")...), 2, `feature "" is not a valid name`},
		"no tenant":                      {with("explain", "a/b/c", "--user", "ann"), 2, "give the tenant, by name or id: --tenant, and --user or --role"},
		"no tenant to list":              {with("who-can", "a/b/c"), 2, "give the tenant by name or id: --tenant"},
		"nobody":                         {with("explain", "a/b/c", "--tenant", "acme"), 2, "give the user, by e-mail address or id, or a role"},
		"user and role":                  {with("explain", append(who, "a/b/c", "--role", "x")...), 2, "give the user or a role, not both"},
		"an unknown tenant":              {with("explain", "a/b/c", "--tenant", "acne", "--user", "ann"), 1, `there is no tenant "acne": give its name or id`},
		"an unknown user":                {with("explain", "a/b/c", "--tenant", "acme", "--user", "anne@acme.test"), 1, `there is no user "anne@acme.test"`},
		"can-user: no such user":         {with("can-user", "a/b/c", "--tenant", "acme", "--user", "anne"), 2, `there is no user "anne"`},
		"no file":                        {with("import"), 2, "give one file, or - to read it from stdin"},
		"no such file":                   {with("import", filepath.Join(dir, "none")), 2, "no such file or directory"},
		"a folder":                       {with("diff", dir), 2, "is a directory"},
		"three files":                    {with("diff", "a", "b", "c"), 2, "give one file, or two to compare them"},
		"prune between files":            {with("diff", "a", "b", "--prune"), 2, "--prune is for a file and the database: leave it out"},
		"a file with a mistake":          {with("import", file(t, "tenants: {acme: {roles: {X: {inherits: [Y]}}}}")), 2, `f.yaml:1: tenants.acme.roles.X.inherits[0]: there is no role "Y"`},
		"the last holder":                {with("import", file(t, "tenants: {acme: {members: {ann: Viewer}}}")), 1, "nobody would be left to manage this"},
		"no expectations":                {with("check"), 2, "give one file of expectations"},
		"expectations that are none":     {with("check", file(t, "checks: 1")), 2, "f.yaml:1: checks: this must be a list, not a value"},
		"a policy that does not hold":    {with("check", file(t, "checks: [{tenant: a, role: b, deny: ['*']}]"), "--policy", file(t, "tenants: {a: {roles: {b: {permissions: [a/b/c]}}}}")), 2, "there is no product a"},
		"an argument too many":           {with("export", "acme"), 2, `unexpected argument "acme": name tenants with --tenant`},
		"export of none":                 {with("export", "--tenant", "acne"), 1, `there is no tenant "acne"`},
		"history with an argument":       {with("history", "acme"), 2, `unexpected argument "acme"`},
		"no time":                        {with("history", "--since", "yesterday"), 2, `--since "yesterday" is no time: give how long ago, such as 24h or 7d`},
		"no limit":                       {with("history", "--limit", "0"), 2, "--limit 0: give a number from 1 to 1000"},
		"history of none":                {with("history", "--tenant", "7"), 1, `there is no tenant "7"`},
		"no database":                    {with("export", "--database", "sqlite://"+filepath.Join(dir, "none.db")), 1, "Error: --database: there is no database to read yet (`backends migrate` makes it): no file " + filepath.Join(dir, "none.db")},
		"a folder as database":           {with("export", "--database", "sqlite://"+dir), 1, "Error: --database: " + dir + " is a directory"},
		"no database to import into":     {with("import", file(t, office), "--database", "sqlite://"+filepath.Join(dir, "none.db")), 1, "there is no database to read yet"},
		"no database to compare with":    {with("diff", file(t, office), "--database", "sqlite://"+filepath.Join(dir, "none.db")), 2, "there is no database to read yet"},
		"no database to ask":             {with("explain", append(who, "a/b/c", "--database", "sqlite://"+filepath.Join(dir, "none.db"))...), 1, "there is no database to read yet"},
		"an empty database":              {with("export", "--database", "sqlite://"+filepath.Join(dir, "empty.db")), 1, "database schema is version 0, this program needs"},
		"a newer database":               {with("history", "--database", newer), 1, "database schema is version 9999, newer than this program's"},
		"a URL that is none":             {with("export", "--database", "t.db"), 2, "--database: "},
		"a server that is down":          {with("export", "--database", "postgres://u:secret@127.0.0.1:1/d"), 1, "connect"},
		"a gateway's address":            {with("explain", append(who, "a/b/c", "--gateway", "nowhere")...), 2, "--gateway nowhere is no address of an admin API: give host:port or unix//path"},
		"a gateway that is down":         {with("who-can", "a/b/c", "--tenant", "acme", "--gateway", "localhost:1"), 1, "the admin API at localhost:1 can't be reached (connection refused): is the gateway running?"},
		"a gateway that is down: cannot": {with("can-user", append(who, "a/b/c", "--gateway", "localhost:1")...), 2, "can't be reached"},
		"another server":                 {with("explain", append(who, "a/b/c", "--gateway", other.Listener.Addr().String())...), 1, "answers 404 and knows nothing of permissions: is it Tenantgate's?"},
	} {
		args := test.args
		if len(args) > 0 && !strings.Contains(strings.Join(args, " "), "--database") {
			args = append(args[:len(args):len(args)], "--database", url)
		}
		stdout, stderr, code := runCommand(t.Context(), "", args...)
		require.Equal(t, test.code, code, "%s: %s", name, stderr)
		require.Contains(t, stderr, test.want, name)
		require.True(t, strings.HasPrefix(stderr, "Error: "), "%s: %s", name, stderr)
		require.Equal(t, 1, strings.Count(stderr, "\n"), "%s: %s", name, stderr)
		require.NotContains(t, stderr, "secret", name)
		require.Empty(t, stdout, name)
	}
	require.NoFileExists(t, filepath.Join(dir, "none.db"))

	_, stderr, code := runCommand(t.Context(), "", "diff", two, "--database", url)
	require.Equal(t, 2, code)
	require.Equal(t, "Error: "+two+`:1: products.ABC: product "ABC" is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit`+"\n"+
		"Error: "+two+`:2: tenant: unknown field "tenant": use products or tenants`+"\n", stderr, "each mistake on a line of its own")
}

// TestCVE_2003_0063_NoEscapeSequenceReachesTheTerminal is the class of attacks by
// text that a terminal obeys: names of tenants and users are other people's.
func TestCVE_2003_0063_NoEscapeSequenceReachesTheTerminal(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]0;owned\x07\u009b31m\u202e"
	url := dbtest.SQLite(t)
	db := newOffice(t, url)
	require.NoError(t, db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, statement := range []string{
			`UPDATE tenants SET name = $1 || '\n'`, `UPDATE users SET email = $1 || id`, `UPDATE roles SET name = $1 || name`,
			`INSERT INTO audit_events (id, actor_id, action, target, detail, trace_id, created_at) VALUES ('x', $1, 'role.' || $1, $1, '{"name":"' || $1 || '"}', $1, 1)`,
		} {
			if _, err := tx.ExecContext(t.Context(), statement, evil); err != nil {
				return err
			}
		}
		return nil
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"text": evil, "allowed": true, "rule": evil, "holders": []any{map[string]any{"email": evil, "role": evil}}})
	}))
	defer server.Close()
	gateway := []string{"--gateway", server.Listener.Addr().String()}
	for _, args := range [][]string{
		{"explain", "abc/reports/read", "--tenant", "1", "--user", "ed"},
		{"explain", "abc/reports/read", "--tenant", "1", "--user", evil},
		{"explain", "abc/reports/delete", "--tenant", "1", "--user", "ed"},
		{"can-user", "abc/reports/read", "--tenant", "1", "--user", "ed"},
		{"who-can", "abc/reports/read", "--tenant", "1"},
		{"history"},
		{"export", "--members"},
		{"diff", file(t, "tenants: {1: {roles: {Viewer: {}}}}")},
		append([]string{"explain", "abc/reports/read", "--tenant", "1", "--user", "ed"}, gateway...),
		append([]string{"can-user", "abc/reports/read", "--tenant", "1", "--user", "ed"}, gateway...),
		append([]string{"who-can", "abc/reports/read", "--tenant", "1"}, gateway...),
	} {
		for _, form := range []string{"text", "json"} {
			stdout, stderr, _ := runCommand(t.Context(), "", append(args, "--database", url, "--output", form)...)
			for _, c := range []string{"\x1b", "\x07", "\u009b", "\u202e"} {
				require.NotContains(t, stdout+stderr, c, "%q", args)
			}
		}
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"", "explain", "can-user", "who-can", "import", "export", "diff", "check", "history"} {
		stdout, stderr, code := runCommand(t.Context(), "", strings.Fields(verb+" --help")...)
		require.Zero(t, code)
		require.Empty(t, stderr)
		require.Contains(t, stdout, "Examples:\n  tenantgate permissions "+verb, verb)
		require.Contains(t, stdout, "--database", verb)
		require.NotContains(t, stdout, "--version", verb)
	}
}

// TestTheProcess is the process of [TestTheExitCodesOfTheProcess].
func TestTheProcess(*testing.T) {
	if args := os.Getenv("TENANTGATE_TEST_ARGS"); args != "" {
		os.Args = strings.Split(args, "\n")
		caddycmd.Main()
		os.Exit(0)
	}
}

func TestTheExitCodesOfTheProcess(t *testing.T) {
	t.Parallel()
	url := dbtest.SQLite(t)
	newOffice(t, url)
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"can-user", "abc/reports/read", "--tenant", "acme", "--user", "ed"}, 0, ""},
		{[]string{"can-user", "abc/reports/delete", "--tenant", "acme", "--user", "ed"}, 1, ""},
		{[]string{"diff", file(t, "tenants: {acme: {status: suspended}}")}, 1, ""},
		{[]string{"export", "--tenant", "acne"}, 1, "Error: there is no tenant \"acne\": give its name or id: not found\n"},
		{[]string{"can-user"}, 2, "Error: give one permission, such as abc/reports/read, or --product, --feature and --action\n"},
		{[]string{"export", "--nonsense"}, 2, "Error: unknown flag: --nonsense\n"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheProcess$")
		cmd.Env = append(os.Environ(), "DATABASE_URL="+url, "TENANTGATE_TEST_ARGS="+strings.Join(append([]string{"tenantgate", "permissions"}, test.args...), "\n"))
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		require.Equal(t, test.code, cmd.ProcessState.ExitCode(), "%v", test.args)
		require.Equal(t, test.want, stderr.String(), "%v", test.args)
		require.Equal(t, test.want == "", stdout.Len() > 0, "%v", test.args)
	}
}

// The command is part of every build with this module, such as xcaddy's.
func TestTheCommandIsRegistered(t *testing.T) {
	t.Parallel()
	require.Contains(t, caddycmd.Commands(), "permissions")
	_, err := caddy.GetModule("admin.api.permissions")
	require.NoError(t, err)
}
