package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tenantgate/tenantgate/backends/app"
	"github.com/tenantgate/tenantgate/backends/invitation"
	"github.com/tenantgate/tenantgate/backends/seed"
	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/logging"
)

// settings returns a lookup over the given variables, for a server in a folder
// of its own.
func settings(t *testing.T, variables map[string]string) func(string) (string, bool) {
	t.Helper()
	folder := t.TempDir()
	all := map[string]string{
		"DATABASE_URL": "sqlite://" + filepath.Join(folder, "test.db"), "MAIL_DIR": filepath.Join(folder, "mail"),
		"AUTH_LISTEN": "127.0.0.1:0", "TENANT_LISTEN": "127.0.0.1:0", "INVITATION_LISTEN": "127.0.0.1:0",
	}
	for name, value := range variables {
		all[name] = value
	}
	return func(name string) (string, bool) { value, ok := all[name]; return value, ok }
}

func TestDefaultsAreValidButForMail(t *testing.T) {
	t.Parallel()
	config, err := app.FromEnv(func(string) (string, bool) { return "", false })
	require.NoError(t, err)
	require.EqualError(t, config.Validate(), "SMTP_URL: required, or MAIL_DIR for development")
	config.MailDir = t.TempDir()
	require.NoError(t, config.Validate())
	require.Equal(t, "sqlite://tenantgate.db", config.DatabaseURL)
	require.Equal(t, "127.0.0.1:9002", config.TenantListen)
	require.Equal(t, 15*time.Minute, config.AccessTTL)

	require.Equal(t, invitation.Limits{PerInviter: 100, PerTenant: 1000, Pending: 1000, PerRecipient: 5, PerAddress: 120}, config.InvitationLimits)
	require.Equal(t, 24*time.Hour, config.InvitationMailRetry)
	require.Equal(t, "en", config.InvitationLocale)
	require.Empty(t, config.InvitationTemplates)
	require.False(t, config.InvitationTrustInviter)
	outbox, err := config.Webhook(nil, nil)
	require.NoError(t, err)
	require.Nil(t, outbox, "nobody is told")
}

// goodSecret is one of a webhook.
const goodSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestValidate(t *testing.T) {
	t.Parallel()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, []byte("no certificate"), 0o600))
	for name, test := range map[string]struct {
		set   map[string]string
		fault string
	}{
		"beyond loopback without a secret":   {map[string]string{"TENANT_LISTEN": "0.0.0.0:9002"}, "GATEWAY_SECRET: required, because a service listens beyond loopback and would believe anybody's X-User-Id"},
		"beyond loopback with one":           {map[string]string{"TENANT_LISTEN": ":9002", "GATEWAY_SECRET": "sixteen random b"}, ""},
		"loopback by name and IPv6":          {map[string]string{"TENANT_LISTEN": "localhost:9002", "AUTH_LISTEN": "[::1]:9001"}, ""},
		"an address without a port":          {map[string]string{"AUTH_LISTEN": "localhost"}, `AUTH_LISTEN: "localhost" is not host:port`},
		"a Redis that is none":               {map[string]string{"REDIS_URL": "http://:secret@redis.test"}, "REDIS_URL: the URL begins with no known scheme: write redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"},
		"a namespace with a space":           {map[string]string{"NAMESPACE": "my gateway"}, `NAMESPACE: "my gateway" is no namespace of a gateway: use 1 to 64 letters, digits and . _ : -`},
		"a short gateway secret":             {map[string]string{"GATEWAY_SECRET": "short"}, "GATEWAY_SECRET: has 5 bytes, give at least 16 random ones"},
		"a short key secret":                 {map[string]string{"KEY_ENCRYPTION_SECRET": "short"}, "KEY_ENCRYPTION_SECRET: has 5 bytes, give at least 32 random ones"},
		"a public URL without a scheme":      {map[string]string{"PUBLIC_URL": "app.example.com"}, `PUBLIC_URL: "app.example.com" is not a URL such as https://app.example.com`},
		"a public URL with a query":          {map[string]string{"PUBLIC_URL": "https://a.test/?x=1"}, `PUBLIC_URL: "https://a.test/?x=1" is not a URL such as https://app.example.com`},
		"a public URL with a path":           {map[string]string{"PUBLIC_URL": "https://a.test/app"}, `PUBLIC_URL: "https://a.test/app" is not a URL such as https://app.example.com`},
		"a tenant URL that is none":          {map[string]string{"TENANT_URL": "ftp://x"}, `TENANT_URL: "ftp://x" is not a URL such as https://app.example.com`},
		"short passwords":                    {map[string]string{"PASSWORD_MIN": "7"}, "PASSWORD_MIN: is 7, NIST SP 800-63B allows no less than 8"},
		"nothing to hash with":               {map[string]string{"HASH_PARALLEL": "0"}, "HASH_PARALLEL: is 0, give at least 1"},
		"long tokens":                        {map[string]string{"ACCESS_TTL": "1h"}, "ACCESS_TTL: is 1h0m0s, give 1s to 30m"},
		"eternal invitations":                {map[string]string{"INVITATION_LIFETIME": "10000h"}, "INVITATION_LIFETIME: is 10000h0m0s, give 1m to 720h"},
		"a sender that is none":              {map[string]string{"MAIL_FROM": "nobody"}, `MAIL_FROM: "nobody" is not an address`},
		"a folder and a server":              {map[string]string{"SMTP_URL": "smtp://mail.test"}, "SMTP_URL: set it or MAIL_DIR, not both"},
		"a server":                           {map[string]string{"MAIL_DIR": "", "SMTP_URL": "smtps://gate:p%40ss@mail.test"}, ""},
		"a server on a port":                 {map[string]string{"MAIL_DIR": "", "SMTP_URL": "smtp://[::1]:2525?tls=none"}, ""},
		"a server with a scheme of another":  {map[string]string{"MAIL_DIR": "", "SMTP_URL": "https://:secret@mail.test"}, "SMTP_URL: use smtp:// (STARTTLS), smtps:// or smtp://…?tls=none"},
		"a server without a name":            {map[string]string{"MAIL_DIR": "", "SMTP_URL": "smtp://"}, "SMTP_URL: is not a URL such as smtp://mail.example.com:587"},
		"a password in the clear":            {map[string]string{"MAIL_DIR": "", "SMTP_URL": "smtp://u:secret@mail.test?tls=none"}, "SMTP_URL: mail server: a password needs TLS"},
		"two users":                          {map[string]string{"MAIL_DIR": "", "SMTP_URL": "smtp://u:secret@mail.test", "SMTP_USERNAME": "v"}, "SMTP_URL: names a user, so SMTP_USERNAME and SMTP_PASSWORD must not be set"},
		"an authority file without any":      {map[string]string{"MAIL_DIR": "", "SMTP_URL": "smtp://mail.test", "SMTP_CA_FILE": ca}, "SMTP_CA_FILE: " + ca + " holds no certificate"},
		"a Loki without a scheme":            {map[string]string{"LOKI_URL": "//gate:pa55word@loki:3100"}, "LOKI_URL: push URL //gate:xxxxx@loki:3100: give one like http://loki:3100"},
		"a Loki that reads like one":         {map[string]string{"LOKI_URL": "gate:pa55word@loki"}, "LOKI_URL: push URL can't be read: give one like http://loki:3100"},
		"a tenant and a label that are none": {map[string]string{"LOKI_URL": "http://loki:3100", "LOKI_TENANT": "a b", "ENVIRONMENT": strings.Repeat("x", 2049)}, `LOKI_TENANT: tenant "a b": Loki takes 1 to 150 letters, digits and !-_.*'(); ENVIRONMENT: label env: a value has at most 2048 bytes`},
		"a tenant without a Loki":            {map[string]string{"LOKI_TENANT": "a b"}, ""},
		"negative limits":                    {map[string]string{"INVITATIONS_PER_INVITER": "-1", "INVITATIONS_PER_TENANT": "-2", "INVITATIONS_PENDING": "-3", "INVITATION_MAILS_PER_ADDRESS": "-4", "INVITATION_TRIES": "-5"}, "INVITATIONS_PER_INVITER: is -1, give 0 or more; INVITATIONS_PER_TENANT: is -2, give 0 or more; INVITATIONS_PENDING: is -3, give 0 or more; INVITATION_MAILS_PER_ADDRESS: is -4, give 0 or more; INVITATION_TRIES: is -5, give 0 or more"},
		"no limits":                          {map[string]string{"INVITATIONS_PER_INVITER": "0", "INVITATIONS_PER_TENANT": "0", "INVITATIONS_PENDING": "0", "INVITATION_MAILS_PER_ADDRESS": "0", "INVITATION_TRIES": "0"}, ""},
		"templates that are a file":          {map[string]string{"INVITATION_TEMPLATES": ca}, "INVITATION_TEMPLATES: open " + ca + ": not a directory"},
		"templates that are not there":       {map[string]string{"INVITATION_TEMPLATES": "/no/such/folder"}, "INVITATION_TEMPLATES: open /no/such/folder: no such file or directory"},
		"a webhook":                          {map[string]string{"WEBHOOK_URL": "https://hook.test", "WEBHOOK_SECRET": goodSecret}, ""},
		"a webhook with two secrets":         {map[string]string{"WEBHOOK_URL": "http://gate:secret@hook.test:8080/x?y=1", "WEBHOOK_SECRET": goodSecret + ", " + goodSecret}, ""},
		"a webhook without a secret":         {map[string]string{"WEBHOOK_URL": "https://gate:secret@hook.test"}, "WEBHOOK_SECRET: required, because WEBHOOK_URL is set"},
		"a webhook without a URL":            {map[string]string{"WEBHOOK_SECRET": goodSecret}, "WEBHOOK_URL: required, because WEBHOOK_SECRET is set"},
		"a webhook that is none":             {map[string]string{"WEBHOOK_URL": "ftp://gate:secret@hook.test", "WEBHOOK_SECRET": goodSecret}, "WEBHOOK_URL: webhook URL: the scheme is neither https nor http: want https://host/path"},
		"a webhook's secret without prefix":  {map[string]string{"WEBHOOK_URL": "https://hook.test", "WEBHOOK_SECRET": "secret@home"}, "WEBHOOK_SECRET: webhook secret 1 does not begin with whsec_"},
		"a webhook's second secret short":    {map[string]string{"WEBHOOK_URL": "https://hook.test", "WEBHOOK_SECRET": goodSecret + " whsec_c2VjcmV0QA=="}, "WEBHOOK_SECRET: webhook secret 2 has 7 bytes in base64: want 24 to 64"},
		"three faults at once":               {map[string]string{"MAIL_DIR": "", "PUBLIC_URL": "x", "PASSWORD_MIN": "1"}, `PUBLIC_URL: "x" is not a URL such as https://app.example.com; PASSWORD_MIN: is 1, NIST SP 800-63B allows no less than 8; SMTP_URL: required, or MAIL_DIR for development`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := app.FromEnv(settings(t, test.set))
			require.NoError(t, err)
			err = config.Validate()
			if test.fault == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, test.fault)
			require.NotContains(t, err.Error(), "secret@")
			require.NotContains(t, err.Error(), "c2Vjcm")
			require.NotContains(t, err.Error(), goodSecret)
		})
	}
}

func TestFromEnvNamesEverythingThatCantBeRead(t *testing.T) {
	t.Parallel()
	secretFile := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secretFile, []byte("from the file, 26 bytes or so\n"), 0o600))
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))

	config, err := app.FromEnv(settings(t, map[string]string{"GATEWAY_SECRET_FILE": secretFile}))
	require.NoError(t, err)
	require.Equal(t, "from the file, 26 bytes or so", config.GatewaySecret.Reveal())

	config, err = app.FromEnv(settings(t, map[string]string{
		"ACCESS_TTL": "0s", "PASSWORD_MIN": "x", "LOG_LEVEL": "fatal", "GATEWAY_SECRET": "a", "GATEWAY_SECRET_FILE": secretFile,
		"INVITATION_TRUST_INVITERS": "maybe", "INVITATION_MAIL_RETRY": "0s", "INVITATION_TRIES": "many",
		"KEY_ENCRYPTION_SECRET_FILE": empty, "SMTP_PASSWORD_FILE": "/no/such/file", "PUBLIC_URL_FILE": secretFile,
	}))
	require.EqualError(t, err, strings.Join([]string{
		"PUBLIC_URL: PUBLIC_URL_FILE is not supported: it is no secret",
		`ACCESS_TTL: "0s" is not a duration such as 15m or 1h30m`,
		"GATEWAY_SECRET: set it or GATEWAY_SECRET_FILE, not both",
		"KEY_ENCRYPTION_SECRET: the file " + empty + " is empty",
		"SMTP_PASSWORD: open /no/such/file: no such file or directory",
		`PASSWORD_MIN: "x" is not a whole number`,
		`INVITATION_MAIL_RETRY: "0s" is not a duration such as 15m or 1h30m`,
		`INVITATION_TRUST_INVITERS: "maybe" is neither true nor false`,
		`INVITATION_TRIES: "many" is not a whole number`,
		`LOG_LEVEL: "fatal" is not debug, info, warn or error`,
	}, "; "))
	require.NoError(t, config.Validate(), "what could not be read is not named twice")
}

// running is an App that serves until the test ends.
type running struct {
	*app.App
	stop func() error
}

func start(t *testing.T, log *bytes.Buffer, variables map[string]string) running {
	t.Helper()
	config, err := app.FromEnv(settings(t, variables))
	require.NoError(t, err)
	a, err := app.New(t.Context(), config, logging.New("backends", zapcore.Lock(zapcore.AddSync(log)), zap.InfoLevel))
	require.NoError(t, err)
	require.Empty(t, a.AuthAddr())
	require.NoError(t, seed.Demo(t.Context(), a.DB(), a.Hasher()))
	require.NoError(t, a.Listen(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { _ = stop() })
	return running{a, stop}
}

// call sends a request and returns status and body.
func call(t *testing.T, method, url, body string, headers ...string) (status int, answer map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	_ = json.NewDecoder(resp.Body).Decode(&answer)
	return resp.StatusCode, answer
}

func TestServesAllThree(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, url string) {
		var log bytes.Buffer
		a := start(t, &log, map[string]string{"DATABASE_URL": url, "GATEWAY_SECRET": "sixteen random b"})
		gateway := []string{"X-Gateway-Secret", "sixteen random b", "X-Trace-Id", "0af7651916cd43dd8448eb211c80319c"}

		status, answer := call(t, http.MethodPost, "http://"+a.AuthAddr()+"/api/auth/login",
			`{"email":"admin@acme.test","password":"`+seed.Password+`"}`, gateway...)
		require.Equal(t, http.StatusOK, status, answer)
		require.NotEmpty(t, answer["access_token"])
		var admin string
		require.NoError(t, a.DB().Reader().QueryRowContext(t.Context(), `SELECT id FROM users WHERE email = 'admin@acme.test'`).Scan(&admin))

		caller := append(gateway, "X-User-Id", admin, "X-Tenant-Id", "1")
		status, _ = call(t, http.MethodGet, "http://"+a.AuthAddr()+"/api/auth/log/?user_id="+admin, "", caller...)
		require.Equal(t, http.StatusOK, status, "auth reaches tenant: %s", &log)
		status, answer = call(t, http.MethodPost, "http://"+a.InvitationAddr()+"/api/invitations/", `{"email":"nina@x.test"}`,
			append(caller, "X-Permission", "abc/invitations/write")...)
		require.Equal(t, http.StatusCreated, status, answer)
		require.Equal(t, "sent", answer["delivery"].(map[string]any)["status"])

		for _, address := range []string{a.AuthAddr(), a.TenantAddr(), a.InvitationAddr()} {
			status, _ = call(t, http.MethodGet, "http://"+address+"/healthz", "")
			require.Equal(t, http.StatusOK, status)
		}
		require.NoError(t, a.DB().Close())
		status, _ = call(t, http.MethodGet, "http://"+a.TenantAddr()+"/healthz", "")
		require.Equal(t, http.StatusServiceUnavailable, status)

		_ = a.stop()
		require.NotContains(t, log.String(), "healthz")
		for _, service := range []string{"auth-service", "tenant-service", "invitation-service"} {
			require.Regexp(t, `"trace_id":"0af7651916cd43dd8448eb211c80319c".*"service":"`+service+`"`, log.String())
		}
	})
}

func TestRunEndsCleanlyAndLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	var log bytes.Buffer
	a := start(t, &log, map[string]string{"REDIS_URL": "redis://127.0.0.1:1"})
	address := a.TenantAddr()
	require.NoError(t, a.stop())
	require.NoError(t, a.Close(), "twice does no harm")
	goleak.VerifyNone(t, before)
	_, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.Error(t, err)
	require.Error(t, a.DB().Reader().PingContext(t.Context()), "the store is closed")
}

func TestRunLetsRequestsInFlightEnd(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := start(t, &log, nil)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.AuthAddr())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	const body = `{"email":"admin@acme.test","password":"wrong but long enough"}`
	_, err = conn.Write([]byte("POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 62\r\n\r\n"))
	require.NoError(t, err)
	require.Len(t, body, 62)
	answer := make([]byte, 4096)
	n, err := conn.Read(answer) // "100 Continue": the handler reads now
	require.NoError(t, err)
	require.Contains(t, string(answer[:n]), "100 Continue")
	stopped := make(chan error, 1)
	go func() { stopped <- a.stop() }()
	require.Eventually(t, func() bool {
		probe, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", conn.RemoteAddr().String())
		if err == nil {
			_ = probe.Close()
		}
		return err != nil
	}, 10*time.Second, 5*time.Millisecond, "no new connections")
	_, err = conn.Write([]byte(body))
	require.NoError(t, err)
	n, err = conn.Read(answer)
	require.NoError(t, err)
	require.Contains(t, string(answer[:n]), "HTTP/1.1 401")
	require.NoError(t, <-stopped)
}

func TestListenReleasesWhatItBoundWhenOneIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	config, err := app.FromEnv(settings(t, map[string]string{"INVITATION_LISTEN": taken.Addr().String()}))
	require.NoError(t, err)
	a, err := app.New(t.Context(), config, zap.NewNop())
	require.NoError(t, err)
	require.ErrorContains(t, a.Listen(t.Context()), "INVITATION_LISTEN: ")
	require.Empty(t, a.AuthAddr())
	require.ErrorContains(t, a.Run(t.Context()), "INVITATION_LISTEN: ")
	require.Error(t, a.DB().Reader().PingContext(t.Context()), "Run closes the store in any case")
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	config, err := app.FromEnv(settings(t, map[string]string{"PASSWORD_MIN": "1"}))
	require.NoError(t, err)
	_, err = app.New(t.Context(), config, zap.NewNop())
	require.ErrorContains(t, err, "PASSWORD_MIN")
	config, err = app.FromEnv(settings(t, map[string]string{"DATABASE_URL": "sqlite:///no/such/folder/x.db"}))
	require.NoError(t, err)
	_, err = app.New(t.Context(), config, zap.NewNop())
	require.ErrorContains(t, err, "/no/such/folder does not exist")
}
