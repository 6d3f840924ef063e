package deploy_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const composeFile = "docker-compose.yml"

// load reads a compose file as docker compose would, with the variables of an
// .env file, or of none.
func load(ctx context.Context, file, env string) (*types.Project, error) {
	folder, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	options := []cli.ProjectOptionsFn{cli.WithWorkingDirectory(folder), cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true)}
	if env != "" {
		options = append(options, cli.WithEnvFiles(env), cli.WithDotEnv)
	}
	o, err := cli.NewProjectOptions([]string{file}, options...)
	if err != nil {
		return nil, err
	}
	return o.LoadProject(ctx)
}

// atRoot returns the path of a file of the repository.
func atRoot(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }

// known are the environment variables that the program of a service reads.
type known struct {
	names    []string
	prefixes []string
}

func (k known) has(name string) bool {
	return slices.Contains(k.names, name) || slices.ContainsFunc(k.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// environments returns, by service, the variables that it reads: those of the
// Caddyfile, of the table in cmd/backends/README.md, of Loki's configuration and
// of Grafana's provisioning. Those of others' images are given here.
func environments(t *testing.T) map[string]known {
	t.Helper()
	names := func(pattern string, contents ...[]byte) (found []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(bytes.Join(contents, []byte("\n")), -1) {
			found = append(found, string(match[1]))
		}
		return found
	}
	gateway := known{names: names(`\{\$([A-Z0-9_]+)`, read(t, "deploy/Caddyfile"))}
	backends := known{names: []string{"PASSWORD_FILE"}}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z0-9_]+)` \\|.*\\| (yes)? ?\\|$").FindAllSubmatch(read(t, "cmd/backends/README.md"), -1) {
		backends.names = append(backends.names, string(row[1]))
		if len(row[2]) > 0 {
			backends.names = append(backends.names, string(row[1])+"_FILE")
		}
	}
	require.Greater(t, len(gateway.names), 10)
	require.Greater(t, len(backends.names), 25)
	return map[string]known{
		"gateway-1": gateway, "gateway-2": gateway,
		"backends": backends, "migrate": backends, "seed": backends, "bootstrap": backends,
		"postgres": {
			names:    names(`\$([A-Z_]+)`, read(t, "deploy/postgres/gateway-role.sh")),
			prefixes: []string{"POSTGRES_"},
		},
		"redis": {},
		"loki":  {names: names(`\$\{([A-Z_]+)`, read(t, "deploy/loki/loki.yaml"))},
		"grafana": {
			names:    names(`[^$]\$([A-Z_]+)`, read(t, "deploy/grafana/provisioning/datasources/loki.yaml")),
			prefixes: []string{"GF_"},
		},
		"mailpit": {prefixes: []string{"MP_"}},
	}
}

// once are services that end by themselves.
var once = []string{"migrate", "seed", "bootstrap"}

// checkCompose returns what is wrong with the services of a project.
func checkCompose(p *types.Project, environments map[string]known) []string {
	var found []string
	if want := slices.Sorted(maps.Keys(environments)); !slices.Equal(want, slices.Sorted(maps.Keys(p.Services))) {
		found = append(found, fmt.Sprintf("the services are %v, not %v", p.ServiceNames(), want))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		s := p.Services[name]
		say := func(format string, args ...any) { found = append(found, name+": "+fmt.Sprintf(format, args...)) }
		for _, variable := range slices.Sorted(maps.Keys(s.Environment)) {
			if !environments[name].has(variable) {
				say("nothing reads %s", variable)
			}
		}
		checkContainer(s, say)
		checkHealth(p, s, say)
		checkMounts(s, say)
	}
	return found
}

// version is a tag that names one: 15.18-bookworm, v1.27.8.
var version = regexp.MustCompile(`:v?\d+\.\d+\.?\d*(-[a-z]+)?$`)

func checkContainer(s types.ServiceConfig, say func(string, ...any)) {
	if s.Build == nil && !version.MatchString(s.Image) {
		say("image %s is not pinned to a version", s.Image)
	}
	if s.Build == nil && (s.User == "" || s.User == "root" || strings.HasPrefix(s.User, "0")) {
		say("it runs as root")
	}
	if s.Build != nil {
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			say("its Dockerfile is missing: %v", err)
		}
	}
	if !s.ReadOnly || s.Privileged || !slices.Contains(s.CapDrop, "ALL") || len(s.CapAdd) > 0 || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		say("it is not hardened: read_only, cap_drop ALL and no-new-privileges")
	}
	if limit := s.Logging; limit == nil || limit.Options["max-size"] == "" {
		say("its output fills the disk: logging has no max-size")
	}
	for _, port := range s.Ports {
		if port.HostIP != "127.0.0.1" {
			say("port %s is open to all by default", port.Published)
		}
	}
	for variable, value := range s.Environment {
		if value != nil && !strings.HasSuffix(variable, "_FILE") && !strings.HasPrefix(*value, "{file.") && regexp.MustCompile(`PASSWORD|SECRET`).MatchString(variable) {
			say("%s is a secret in the open: give a file", variable)
		}
	}
}

func checkHealth(p *types.Project, s types.ServiceConfig, say func(string, ...any)) {
	// Images of ours have a HEALTHCHECK of their own: see TestDockerfilesAreWhole.
	healthy := s.Build != nil && (s.HealthCheck == nil || !s.HealthCheck.Disable) || s.HealthCheck != nil && len(s.HealthCheck.Test) > 1
	if slices.Contains(once, s.Name) {
		if s.Restart != "no" {
			say("it is done once, and is restarted")
		}
	} else if !healthy || s.Restart != "unless-stopped" {
		say("it has no health check, or is not restarted")
	}
	for name, on := range s.DependsOn {
		other := p.Services[name]
		switch want := on.Condition; {
		case slices.Contains(once, name) && want != types.ServiceConditionCompletedSuccessfully:
			say("it does not wait until %s is done", name)
		case !slices.Contains(once, name) && want != types.ServiceConditionHealthy:
			say("it does not wait until %s is healthy", name)
		case len(other.Profiles) > 0:
			say("it waits for %s, which starts by a profile only", name)
		}
	}
}

func checkMounts(s types.ServiceConfig, say func(string, ...any)) {
	for _, v := range s.Volumes {
		if v.Type != types.VolumeTypeBind {
			continue
		}
		if _, err := os.Stat(v.Source); err != nil {
			say("it mounts what is not there: %v", err)
		}
		if !v.ReadOnly {
			say("it may write to %s", v.Source)
		}
	}
}

func TestComposeFileIsWhole(t *testing.T) {
	t.Parallel()
	p, err := load(t.Context(), atRoot(composeFile), "")
	require.NoError(t, err)
	require.Empty(t, checkCompose(p, environments(t)))
}

// TestEnvExampleIsTheDefault holds that .env.example names every variable of the
// compose file, says what each is, and changes nothing.
func TestEnvExampleIsTheDefault(t *testing.T) {
	t.Parallel()
	bare, err := load(t.Context(), atRoot(composeFile), "")
	require.NoError(t, err)
	example, err := load(t.Context(), atRoot(composeFile), atRoot(".env.example"))
	require.NoError(t, err)
	want, err := bare.MarshalYAML()
	require.NoError(t, err)
	got, err := example.MarshalYAML()
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.Empty(t, checkEnvExample(t, read(t, ".env.example"), read(t, composeFile)))
}

// checkEnvExample returns what is wrong with an .env file for a compose file.
func checkEnvExample(t *testing.T, env, compose []byte) []string {
	t.Helper()
	var model map[string]any
	require.NoError(t, yaml.Unmarshal(compose, &model))
	used := slices.Sorted(maps.Keys(template.ExtractVariables(model, template.DefaultPattern)))
	var found, named []string
	commented := false
	for line := range strings.Lines(string(env)) {
		line = strings.TrimSpace(line)
		name, _, isVariable := strings.Cut(line, "=")
		switch {
		case line == "":
			commented = false
		case strings.HasPrefix(line, "#"):
			commented = true
		case !isVariable:
			found = append(found, "no variable: "+line)
		default:
			if !commented {
				found = append(found, name+" has no comment")
			}
			named = append(named, name)
		}
	}
	for _, name := range used {
		if !slices.Contains(named, name) {
			found = append(found, name+" is missing")
		}
	}
	for i, name := range named {
		if !slices.Contains(used, name) || slices.Contains(named[:i], name) {
			found = append(found, name+" is not used, or there twice")
		}
	}
	return found
}

// TestCaddyfileIsTaken has the gateway read deploy/Caddyfile with the variables
// that the compose file gives it.
func TestCaddyfileIsTaken(t *testing.T) {
	t.Parallel()
	p, err := load(t.Context(), atRoot(composeFile), "")
	require.NoError(t, err)
	adapt := command(t, root, "go", "run", "./cmd/tenantgate", "adapt", "--config", "deploy/Caddyfile")
	adapt.Env = os.Environ()
	for name, value := range p.Services["gateway-1"].Environment {
		adapt.Env = append(adapt.Env, name+"="+*value)
	}
	out, err := adapt.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{
		`":8080"`, `":8081"`, `"/healthz"`, `"{file./run/secrets/gateway_database_url}"`, `"{file./run/secrets/gateway_secret}"`,
		`"allow_http":true`, `"redis://redis:6379/0"`, `"backends:9001"`, `"backends:9002"`, `"backends:9003"`, `"http://loki:3100"`, `"/data/loki-buffer/gateway"`,
	} {
		require.Contains(t, string(out), want)
	}
}

// additions returns the lines that deploy/Caddyfile has and the root Caddyfile has
// not, or what else differs. The comment at the top is each file's own.
func additions(deployed, rooted string) (added []string, err error) {
	body := func(text string) []string {
		_, text, _ = strings.Cut(text, "\n{\n")
		return strings.Split(strings.TrimSpace(text), "\n")
	}
	want := body(rooted)
	for _, line := range body(deployed) {
		if len(want) > 0 && line == want[0] {
			want = want[1:]
		} else {
			added = append(added, strings.TrimSpace(line))
		}
	}
	if len(want) > 0 {
		return nil, fmt.Errorf("deploy/Caddyfile lacks, or has elsewhere: %s", want[0])
	}
	return added, nil
}

// TestCaddyfilesAreTheSame holds that a route or an option is not changed in one of
// the two Caddyfiles only.
func TestCaddyfilesAreTheSame(t *testing.T) {
	t.Parallel()
	deployed, rooted := string(read(t, "deploy/Caddyfile")), string(read(t, "Caddyfile"))
	added, err := additions(deployed, rooted)
	require.NoError(t, err)
	require.Len(t, added, 9)
	require.Equal(t, []string{
		"trusted_proxies static {$TRUSTED_PROXIES} # deploy: the addresses of load balancers; empty: none is believed",
		"trusted_proxies_strict # deploy",
		"allow_http # deploy: the backends are other containers in a network of their own",
	}, added[:3])
	require.Equal(t, []string{"http://:8081 {", "respond /healthz 200", "respond 404", "}"}, added[5:])

	_, err = additions(strings.Replace(deployed, "failures 3", "failures 5", 1), rooted)
	require.ErrorContains(t, err, "failures 3")
	added, err = additions(strings.Replace(deployed, "	log\n", "	log\n	encode\n", 1), rooted)
	require.NoError(t, err)
	require.Contains(t, added, "encode")
}

// TestSecretsAreMade holds that deploy/secrets.sh makes each file that the compose
// file mounts, and changes none at a second run.
func TestSecretsAreMade(t *testing.T) {
	t.Parallel()
	p, err := load(t.Context(), atRoot(composeFile), "")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secrets.sh"), read(t, "deploy/secrets.sh"), 0o700))
	run(t, dir, "bash", "./secrets.sh")
	first := map[string]string{}
	for _, s := range p.Secrets {
		content, err := os.ReadFile(filepath.Join(dir, "secrets", filepath.Base(s.File)))
		require.NoError(t, err)
		require.NotContains(t, slices.Collect(maps.Values(first)), string(content))
		first[s.File] = string(content)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "secrets"))
	require.NoError(t, err)
	require.Len(t, entries, len(first), "secrets.sh makes what nothing mounts")
	require.Empty(t, run(t, dir, "bash", "./secrets.sh"))
	for file, content := range first {
		again, err := os.ReadFile(filepath.Join(dir, "secrets", filepath.Base(file)))
		require.NoError(t, err)
		require.Equal(t, content, string(again))
	}
}

// TestComposeChecksCanFail changes one thing of the good file at a time.
func TestComposeChecksCanFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, now, want string }{
		"no YAML":                      {"services:", "services", "could not find expected"},
		"a key that there is not":      {"    stop_grace_period: 20s", "    stop_grace: 20s", "stop_grace"},
		"a dependency that is none":    {"      redis: { condition", "      rediss: { condition", "rediss"},
		"a secret that is none":        {"secrets: [grafana_password]", "secrets: [grafana]", "grafana"},
		"a service that is missing":    {"  mailpit:\n", "  mail:\n", "mail"},
		"a variable that nobody reads": {"PUBLIC_URL: $", "PUBLIC_ADDRESS: $", "nothing reads PUBLIC_ADDRESS"},
		"a file for what is no secret": {"PUBLIC_URL: $", "PUBLIC_URL_FILE: $", "nothing reads PUBLIC_URL_FILE"},
		"an image without a version":   {"grafana/loki:3.7.8", "grafana/loki:latest", "not pinned"},
		"root":                         {"user: redis", "user: root", "runs as root"},
		"a writable file system":       {"  read_only: true\n", "  read_only: false\n", "not hardened"},
		"output without an end":        {"max-size: 20m, ", "", "max-size"},
		"a port for all":               {"${BIND:-127.0.0.1}:${GRAFANA_PORT", "0.0.0.0:${GRAFANA_PORT", "open to all"},
		"a password in the open":       {"POSTGRES_PASSWORD_FILE: /run/secrets/database_password", "POSTGRES_PASSWORD: hunter2", "in the open"},
		"no health check":              {"test: [CMD, redis-cli, ping]", "disable: true", "no health check"},
		"a start too early":            {"loki: { condition: service_healthy }", "loki: { condition: service_started }", "until loki is healthy"},
		"a wait for a profile":         {"mailpit: { condition: service_healthy }", "seed: { condition: service_completed_successfully }", "by a profile only"},
		"a mount of nothing":           {"./deploy/loki/loki.yaml:", "./deploy/loki/none.yaml:", "not there"},
		"a mount that can be written":  {"/etc/loki/loki.yaml:ro", "/etc/loki/loki.yaml", "may write"},
		"a Dockerfile that is none":    {"deploy/docker/backends.Dockerfile", "deploy/docker/none.Dockerfile", "Dockerfile is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := string(read(t, composeFile))
			require.Contains(t, good, c.old)
			file := filepath.Join(t.TempDir(), composeFile)
			require.NoError(t, os.WriteFile(file, []byte(strings.Replace(good, c.old, c.now, 1)), 0o600))
			p, err := load(t.Context(), file, "")
			if err != nil {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.Contains(t, strings.Join(checkCompose(p, environments(t)), "\n"), c.want)
		})
	}
}

func TestEnvChecksCanFail(t *testing.T) {
	t.Parallel()
	good, compose := string(read(t, ".env.example")), read(t, composeFile)
	for name, c := range map[string]struct{ old, now, want string }{
		"a variable that is missing":  {"GRAFANA_PORT=3000\n", "", "GRAFANA_PORT is missing"},
		"one that nobody uses":        {"GRAFANA_PORT=3000\n", "GRAFANA_PORT=3000\nGRAFANA_HOST=a\n", "GRAFANA_HOST is not used"},
		"one without a comment":       {"# Where people reach", "\nTOKEN=a\n# Where people reach", "TOKEN has no comment"},
		"a line that is no variable":  {"GRAFANA_PORT=3000", "GRAFANA_PORT: 3000", "no variable"},
		"the same variable once more": {"GRAFANA_PORT=3000\n", "GRAFANA_PORT=3000\nGRAFANA_PORT=3001\n", "there twice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, good, c.old)
			require.Contains(t, strings.Join(checkEnvExample(t, []byte(strings.Replace(good, c.old, c.now, 1)), compose), "\n"), c.want)
		})
	}
}
