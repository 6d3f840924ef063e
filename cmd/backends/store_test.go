package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
)

func TestMigrateStatus(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	_, stderr, code := s.run(t.Context(), "migrate status")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "backends: DATABASE_URL: there is no database to read yet (`backends migrate` makes it): no file "+
		strings.TrimPrefix(s["DATABASE_URL"], "sqlite://")+"\n", stderr)
	eachStore(t, func(t *testing.T, s shell) {
		if strings.HasPrefix(s["DATABASE_URL"], "sqlite") {
			require.NoError(t, os.WriteFile(strings.TrimPrefix(s["DATABASE_URL"], "sqlite://"), nil, 0o600))
		}
		require.Contains(t, s.ok(t, "migrate status"), "current 0\nnewest  3\npending 00001_init.sql\npending 00002_permission_table.sql\npending 00003_invitations.sql\n")
		require.JSONEq(t, `{"current":0,"newest":3,"pending":[{"version":1,"name":"00001_init.sql"},{"version":2,"name":"00002_permission_table.sql"},{"version":3,"name":"00003_invitations.sql"}]}`,
			s.ok(t, "migrate status -o json"))
		s.ok(t, "migrate")
		require.Equal(t, "current 3\nnewest  3\nThe schema is up to date.\n", s.ok(t, "migrate status"))
		require.JSONEq(t, `{"current":3,"newest":3,"pending":[]}`, s.ok(t, "migrate status --output json"))
	})
}

func TestServeWantsAMigratedPostgreSQL(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s["DATABASE_URL"] = dbtest.PostgresEmpty(t)
	_, stderr, code := s.run(t.Context(), "serve")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "backends: database schema is version 0, this program needs 3: run `backends migrate`\n", stderr)
}

// services are the backends on a store.
type services struct {
	*app.App
	mails string
}

func serve(t *testing.T, store string, more ...shell) (s services, stop func()) {
	t.Helper()
	s.mails = filepath.Join(t.TempDir(), "mail")
	settings := shell{
		"DATABASE_URL": store, "MAIL_DIR": s.mails, "AUTH_LISTEN": "127.0.0.1:0", "TENANT_LISTEN": "127.0.0.1:0", "INVITATION_LISTEN": "127.0.0.1:0",
	}
	for _, set := range more {
		maps.Copy(settings, set)
	}
	config, err := app.FromEnv(settings.lookup)
	require.NoError(t, err)
	s.App, err = app.New(t.Context(), config, zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, s.Listen(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// post sends JSON and returns the answer, which must have the status.
func post(t *testing.T, status int, url string, body any, headers ...string) (answer map[string]any) {
	t.Helper()
	encoded, err := json.Marshal(body)
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(encoded))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	_ = json.NewDecoder(resp.Body).Decode(&answer) // some have no body
	require.Equal(t, status, resp.StatusCode, answer)
	return answer
}

func (s services) keys(t *testing.T) (all string) {
	t.Helper()
	rows, err := s.DB().Reader().Query(`SELECT state || ' ' || kid FROM signing_keys ORDER BY state`)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var key string
		require.NoError(t, rows.Scan(&key))
		all += key + "\n"
	}
	require.NoError(t, rows.Err())
	return all
}

type object = map[string]any

// TestCopyMovesAnInstallation goes on with a login and an invitation after its
// store was moved.
func TestCopyMovesAnInstallation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ from, to func(testing.TB) string }{
		"to PostgreSQL": {dbtest.SQLite, dbtest.Postgres},
		"to SQLite":     {dbtest.Postgres, dbtest.SQLite},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := test.from(t), test.to(t)
			before, stop := serve(t, from)
			require.NoError(t, seed.Demo(t.Context(), before.DB(), before.Hasher()))
			session := post(t, http.StatusOK, "http://"+before.AuthAddr()+"/api/auth/login", object{"email": "admin@acme.test", "password": seed.Password})
			admin := session["user"].(object)["id"].(string)
			post(t, http.StatusCreated, "http://"+before.InvitationAddr()+"/api/invitations/", object{"email": "nina@x.test"},
				"X-User-Id", admin, "X-Tenant-Id", "1", "X-Permission", "abc/invitations/write")
			keys := before.keys(t)
			token := tokenOf(t, before.mails)
			stop()

			s := newShell(t)
			report := s.ok(t, "copy --from "+from+" --to "+to)
			require.Regexp(t, `(?m)^users +6$`, report)
			require.Regexp(t, `(?m)^ +\d+ rows copied and compared$`, report)

			after, _ := serve(t, to)
			require.Equal(t, keys, after.keys(t), "tokens that were issued before stay good")
			joined := post(t, http.StatusCreated, "http://"+after.InvitationAddr()+"/api/invitations/accept/", object{"token": token, "password": "nine quiet otters swim"})
			require.Equal(t, "accepted", joined["invitation"].(object)["status"])
			post(t, http.StatusOK, "http://"+after.AuthAddr()+"/api/auth/login", object{"email": "nina@x.test", "password": "nine quiet otters swim"})
			post(t, http.StatusOK, "http://"+after.AuthAddr()+"/api/auth/refresh", object{"refresh_token": session["refresh_token"]})

			_, stderr, code := s.run(t.Context(), "copy --from "+from+" --to "+to)
			require.Equal(t, exitFailed, code)
			require.Regexp(t, `^backends: copy: the target is not empty: there are rows in \w+\n$`, stderr)
		})
	}
}

// tokenOf returns the token in the only mail of a folder.
func tokenOf(t *testing.T, folder string) string {
	t.Helper()
	mails, err := filepath.Glob(filepath.Join(folder, "*.eml"))
	require.NoError(t, err)
	require.Len(t, mails, 1)
	content, err := os.ReadFile(mails[0])
	require.NoError(t, err)
	found := regexp.MustCompile(`inv_[A-Za-z0-9_-]{43}`).Find(content)
	require.NotNil(t, found, "%s", content)
	return string(found)
}

func TestCopyRefuses(t *testing.T) {
	t.Parallel()
	ready, missing := dbtest.SQLite(t), "sqlite://"+filepath.Join(t.TempDir(), "none.db")
	old := "sqlite://" + filepath.Join(t.TempDir(), "old.db")
	require.NoError(t, os.WriteFile(strings.TrimPrefix(old, "sqlite://"), nil, 0o600))
	s := newShell(t)
	for line, want := range map[string]string{
		"copy --from " + missing + " --to " + ready:     "--from: there is no database to read yet",
		"copy --from " + ready + " --to " + missing:     "--to: there is no database to read yet",
		"copy --from " + old + " --to " + ready:         "--from: database schema is version 0, this program needs 3: run `backends migrate`",
		"copy --from " + ready + " --to " + old:         "--to: database schema is version 0",
		"copy --from mysql://a:pw@b/c --to " + ready:    "--from: the database must be given as",
		"copy --from " + ready + " --to postgres://a@@": "--to: open database: this is no URL of a PostgreSQL database",
	} {
		stdout, stderr, code := s.run(t.Context(), line)
		require.Equal(t, exitFailed, code, line)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want, line)
		require.NotContains(t, stderr, "pw")
		require.Equal(t, 1, strings.Count(stderr, "\n"))
	}
	require.NoFileExists(t, strings.TrimPrefix(missing, "sqlite://"))
	require.JSONEq(t, `0`, string(fieldsOf(t, s.ok(t, "copy --output json --from "+ready+" --to "+dbtest.SQLite(t)))["rows"]))
}

// fieldsOf returns the fields of a JSON object.
func fieldsOf(t *testing.T, text string) (fields map[string]json.RawMessage) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &fields))
	return fields
}
