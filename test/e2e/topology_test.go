package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tenantgate/tenantgate/internal/database/dbtest"
	"github.com/tenantgate/tenantgate/internal/loki/lokitest"
	"github.com/tenantgate/tenantgate/internal/redisclient/redistest"
	"github.com/tenantgate/tenantgate/internal/smtptest"
)

// TestTheTopologyOfDockerCompose runs what docker-compose.yml runs as processes of
// this machine, with its commands, settings and secrets, and with those of
// .env.example and of the Dockerfiles. Only addresses and folders are others.
func TestTheTopologyOfDockerCompose(t *testing.T) {
	t.Parallel()
	eachLoki(t, func(t *testing.T, loki lokitest.Loki) {
		c := startTopology(t, loki)
		one, two := c.gateways[0], c.gateways[1]

		for _, g := range c.gateways {
			viewer := g.Login(t, "viewer@acme.test", Password)
			dashboard := g.URL + "/api/permissions/dashboard/"
			require.Equal(t, http.StatusOK, Call(t, http.MethodGet, dashboard, nil, viewer...).StatusCode)
			denied := requireProblem(t, Call(t, http.MethodPost, dashboard, map[string]string{"note": "x"}, viewer...), http.StatusForbidden, "permission-denied")
			require.Equal(t, "abc/dashboard/write", denied["permission"])
			require.Equal(t, http.StatusOK, Call(t, http.MethodPost, g.URL+"/api/auth/log/", nil, viewer...).StatusCode)
		}

		// Nothing listens at the demo's upstream. What one gateway sees there counts for both.
		admin := one.Login(t, "admin@acme.test", Password)
		for range 3 {
			requireProblem(t, Call(t, http.MethodGet, one.URL+"/api/billing/", nil, admin...), http.StatusBadGateway, "upstream-failed")
		}
		require.Eventually(t, func() bool { return two.circuit(t, "billing") == "open" }, secs(10), ms(50), "the other gateway learns of it")
		for _, g := range c.gateways {
			requireProblem(t, Call(t, http.MethodGet, g.URL+"/api/billing/", nil, admin...), http.StatusServiceUnavailable, "circuit-open")
		}

		invitation := Call(t, http.MethodPost, two.URL+"/api/invitations/", map[string]string{"email": "ann@example.com", "role": "Viewer"}, admin...)
		require.Equal(t, http.StatusCreated, invitation.StatusCode, "%s", invitation.Body)
		accepted := Call(t, http.MethodPost, one.URL+"/api/invitations/accept/",
			map[string]string{"token": c.token(t, "ann@example.com"), "password": "plum tree river stone"})
		require.Equal(t, http.StatusCreated, accepted.StatusCode, "%s", accepted.Body)
		ann := two.Login(t, "ann@example.com", "plum tree river stone")
		require.Eventually(t, func() bool { // the table is polled
			return Call(t, http.MethodGet, two.URL+"/api/permissions/dashboard/", nil, ann...).StatusCode == http.StatusOK
		}, secs(10), ms(50))

		awaitInLoki(t, loki, "tenantgate", "production", len(c.lines()))
		for _, p := range []*Process{one.Process, two.Process, c.backends} {
			require.Equal(t, 0, p.Stop(t, syscall.SIGTERM))
		}
		lines := c.lines()
		services := map[string]bool{}
		for _, line := range lines {
			services[regexp.MustCompile(`"service":"([^"]+)"`).FindStringSubmatch(line)[1]] = true
		}
		require.Equal(t, map[string]bool{"tenantgate": true, "auth-service": true, "tenant-service": true, "invitation-service": true}, services)
		requireInLoki(t, loki, "tenantgate", "production", lines)
	})
}

// topology is what docker-compose.yml starts.
type topology struct {
	gateways []*Dev
	backends *Process
	mails    *smtptest.Server
}

// lines returns what the gateways and the backends wrote to stdout in the course
// of requests.
func (c *topology) lines() []string {
	var lines []string
	for _, p := range []*Process{c.gateways[0].Process, c.gateways[1].Process, c.backends} {
		for line := range strings.Lines(p.Stdout.String()) {
			if strings.Contains(line, `"trace_id":"`) {
				lines = append(lines, strings.TrimSuffix(line, "\n"))
			}
		}
	}
	return lines
}

// circuit returns the state of a breaker of a gateway.
func (d *Dev) circuit(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(binaries, "tenantgate"), "breakers", "list", "--address", d.Admin, "--output", "json").Output()
	require.NoError(t, err, "%s", out)
	var status gatewayStatus
	require.NoError(t, json.Unmarshal(out, &status))
	require.Equal(t, "shared", status.Mode)
	return status.state(name)
}

// compose is docker-compose.yml, as far as processes need it, with the settings of
// .env.example in place of its variables.
type compose struct {
	Services map[string]struct {
		Command     []string
		Environment map[string]string
	}
	// dir holds the secrets and a copy of the gateway's configuration.
	dir string
	// local are names and addresses in the containers, and what is in their place
	// here, in turn.
	local []string
}

var composeVariable = regexp.MustCompile(`\$\{([A-Z0-9_]+)(?::-([^}]*))?\}`)

func readCompose(t *testing.T) *compose {
	t.Helper()
	settings := map[string]string{}
	for line := range strings.Lines(read(t, ".env.example")) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), "="); found && !strings.HasPrefix(name, "#") {
			settings[name] = value
		}
	}
	content := composeVariable.ReplaceAllStringFunc(read(t, "docker-compose.yml"), func(variable string) string {
		match := composeVariable.FindStringSubmatch(variable)
		if value := settings[match[1]]; value != "" {
			return value
		}
		return match[2]
	})
	c := &compose{dir: t.TempDir()}
	require.NoError(t, yaml.Unmarshal([]byte(content), c))
	return c
}

// read returns a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(content)
}

// write writes a file of the copy.
func (c *compose) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(c.dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// makeSecrets runs deploy/secrets.sh in the copy, and then the first start of the
// database, whose passwords are among them.
func (c *compose) makeSecrets(t *testing.T) {
	t.Helper()
	c.write(t, "deploy/secrets.sh", read(t, "deploy/secrets.sh"))
	out, err := exec.CommandContext(t.Context(), "bash", filepath.Join(c.dir, "deploy/secrets.sh")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	secret := func(name string) string { return filepath.Join(c.dir, "deploy/secrets", name) }
	c.local = append(c.local, "/run/secrets/", secret("")+"/")

	server := dbtest.StartServer(t)
	server.Exec("postgres", "CREATE DATABASE tenantgate TEMPLATE template0")
	role := exec.CommandContext(t.Context(), "sh", "deploy/postgres/gateway-role.sh")
	role.Dir = root
	host, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	role.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGPASSWORD="+server.Password(),
		"POSTGRES_USER=tenantgate", "POSTGRES_DB=tenantgate", "GATEWAY_DATABASE_PASSWORD_FILE="+secret("gateway_database_password"))
	out, err = role.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"database_url", "gateway_database_url"} {
		content, err := os.ReadFile(secret(name))
		require.NoError(t, err)
		u, err := url.Parse(strings.TrimSpace(string(content)))
		require.NoError(t, err)
		require.Equal(t, "postgres:5432", u.Host)
		u.Host = server.Addr()
		require.NoError(t, os.WriteFile(secret(name), []byte(u.String()+"\n"), 0o600))
		if password, _ := u.User.Password(); u.User.Username() == "tenantgate" {
			defer server.Exec("postgres", "ALTER ROLE tenantgate PASSWORD '"+password+"'") // the last that this test does there
		}
	}
}

// environment returns a service's variables: those of its image, of the file, and
// those given here.
func (c *compose) environment(t *testing.T, service, image, data string, more ...string) []string {
	t.Helper()
	require.Contains(t, c.Services, service)
	local := strings.NewReplacer(append([]string{"/data/", data + "/"}, c.local...)...)
	var env []string
	dockerfile := read(t, "deploy/docker/"+image+".Dockerfile")
	for line := range strings.Lines(dockerfile[strings.LastIndex(dockerfile, "\nFROM "):]) {
		for _, variable := range strings.Fields(line) {
			if strings.HasPrefix(line, "ENV ") && variable != "ENV" && !strings.HasPrefix(variable, "PATH=") {
				env = append(env, local.Replace(variable))
			}
		}
	}
	for name, value := range c.Services[service].Environment {
		env = append(env, name+"="+local.Replace(value))
	}
	return append(env, more...)
}

// once runs a service that ends.
func (c *compose) once(t *testing.T, service string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "backends"), c.Services[service].Command...)
	cmd.Env = append(os.Environ(), c.environment(t, service, "backends", t.TempDir())...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", service, out)
}

// startTopology starts everything but Grafana, with the demo's data.
func startTopology(t *testing.T, loki lokitest.Loki) *topology {
	t.Helper()
	c := readCompose(t)
	redis := redistest.Start(t, c.Services["redis"].Command[1:]...)
	mails := smtptest.Start(t, smtptest.Plain)
	auth, tenant, invitation := FreeAddress(t), FreeAddress(t), FreeAddress(t)
	c.makeSecrets(t)
	c.local = append(c.local,
		"redis:6379", redis.Addr(), "http://loki:3100", loki.URL(), "mailpit:1025", mails.Addr(),
		"backends:9001", auth, "backends:9002", tenant, "backends:9003", invitation,
		"0.0.0.0:9001", auth, "0.0.0.0:9002", tenant, "0.0.0.0:9003", invitation, "127.0.0.1:9004", FreeAddress(t))
	c.once(t, "migrate")
	c.once(t, "seed")

	result := &topology{mails: mails}
	data := t.TempDir()
	result.backends = Start(t, data, c.environment(t, "backends", "backends", data), filepath.Join(binaries, "backends"), c.Services["backends"].Command...)
	result.backends.WaitFor(t, `"service":"invitation-service","address"`)
	for _, name := range []string{"gateway-1", "gateway-2"} {
		result.gateways = append(result.gateways, c.startGateway(t, name))
	}
	return result
}

// startGateway starts a gateway with deploy/Caddyfile, and waits until it says that
// it is healthy.
func (c *compose) startGateway(t *testing.T, name string) *Dev {
	t.Helper()
	const port = "http://:8081"
	caddyfile, health := read(t, "deploy/Caddyfile"), "http://"+FreeAddress(t)
	require.Equal(t, 1, strings.Count(caddyfile, port))
	c.write(t, name+"/Caddyfile", strings.Replace(caddyfile, port, health, 1))

	data, address, admin := t.TempDir(), FreeAddress(t), FreeAddress(t)
	env := c.environment(t, name, "tenantgate", data, "HOME="+data, "XDG_DATA_HOME="+data,
		"TENANTGATE_ADDRESS=http://"+address, "TENANTGATE_BIND=127.0.0.1", "TENANTGATE_ADMIN="+admin)
	p := Start(t, data, env, filepath.Join(binaries, "tenantgate"), "run", "--config", filepath.Join(c.dir, name, "Caddyfile"))
	p.WaitFor(t, "serving initial configuration")
	require.Eventually(t, func() bool {
		return Call(t, http.MethodGet, health+"/healthz", nil).StatusCode == http.StatusOK
	}, secs(20), ms(50))
	require.Equal(t, http.StatusNotFound, Call(t, http.MethodGet, health+"/api/auth/me", nil).StatusCode)
	require.FileExists(t, filepath.Join(data, "log/tenantgate.jsonl"))
	return &Dev{Process: p, URL: "http://" + address, Admin: admin}
}

// token waits for the mail to an address and returns the token in it.
func (c *topology) token(t *testing.T, address string) string {
	t.Helper()
	var token string
	require.Eventually(t, func() bool {
		mails := c.mails.Mails()
		at := slices.IndexFunc(mails, func(mail smtptest.Mail) bool { return slices.Contains(mail.To, address) })
		if at >= 0 {
			token = tokenPattern.FindString(strings.ReplaceAll(mails[at].Data, "=\n", "")) // quoted-printable
		}
		return token != ""
	}, secs(20), ms(20), "a mail to %s", address)
	return token
}
