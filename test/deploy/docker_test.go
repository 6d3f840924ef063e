package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// run runs a program in a folder and returns what it prints.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// anyImage stands for a registry: every image is an empty one for this platform.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers"}}`)
	return ref, digest.FromBytes(config), config, nil
}

// checkDockerfile returns what BuildKit's own reader and linter say of a
// Dockerfile, and what breaks our rules. ignored reports whether a path is kept out of the build.
func checkDockerfile(ctx context.Context, content []byte, ignored func(string) bool) []string {
	source := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", content)
	source.Definition = &llb.Definition{}
	lint, err := dockerfile2llb.DockerfileLint(ctx, content, dockerfile2llb.ConvertOpt{MetaResolver: anyImage{}, SourceMap: source})
	if err != nil {
		return []string{err.Error()}
	}
	if lint.Error != nil {
		return []string{lint.Error.Message}
	}
	var found []string
	for _, w := range lint.Warnings {
		found = append(found, w.RuleName+": "+w.Detail)
	}
	document, err := parser.Parse(bytes.NewReader(content))
	if err != nil {
		return append(found, err.Error())
	}
	stages, _, err := instructions.Parse(document.AST, linter.New(&linter.Config{}))
	if err != nil {
		return append(found, err.Error())
	}
	for i, stage := range stages {
		if stage.BaseName != "scratch" && !version.MatchString(stage.BaseName) {
			found = append(found, "image "+stage.BaseName+" is not pinned to a version")
		}
		found = append(found, checkSources(stage, stages[:i], ignored)...)
	}
	return append(found, checkLastStage(stages[len(stages)-1])...)
}

// checkSources returns what a stage copies, from the build's folder or from a stage
// before it, and is not there.
func checkSources(stage instructions.Stage, before []instructions.Stage, ignored func(string) bool) []string {
	var found []string
	for _, command := range stage.Commands {
		c, ok := command.(*instructions.CopyCommand)
		if !ok {
			continue
		}
		if c.From != "" {
			if _, known := instructions.HasStage(before, c.From); !known {
				found = append(found, "COPY --from="+c.From+": there is no such stage")
			}
			continue
		}
		for _, source := range c.SourcePaths {
			if _, err := os.Stat(atRoot(source)); err != nil {
				found = append(found, "COPY "+source+": it is not there")
			} else if source != "." && ignored(source) {
				found = append(found, "COPY "+source+": .dockerignore leaves it out")
			}
		}
	}
	return found
}

// checkLastStage holds what an image of ours promises: nothing in it but programs,
// no root, a health check and a command that need no shell.
func checkLastStage(stage instructions.Stage) []string {
	var user string
	var health, entry bool
	for _, command := range stage.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.HealthCheckCommand:
			health = c.Health != nil && len(c.Health.Test) > 1 && c.Health.Test[0] == "CMD"
		case *instructions.EntrypointCommand:
			entry = !c.PrependShell
		case *instructions.RunCommand:
			return []string{"the last stage runs a command, and has no shell"}
		}
	}
	var found []string
	if stage.BaseName != "scratch" {
		found = append(found, "the image is made from "+stage.BaseName+", not from scratch")
	}
	if user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
		found = append(found, "the image runs as root")
	}
	if !health || !entry {
		found = append(found, "HEALTHCHECK or ENTRYPOINT is missing, or needs a shell")
	}
	return found
}

// dockerignore returns the paths that .dockerignore keeps out.
func dockerignore(t *testing.T) func(string) bool {
	t.Helper()
	patterns, err := ignorefile.ReadAll(bytes.NewReader(read(t, ".dockerignore")))
	require.NoError(t, err)
	matcher, err := patternmatcher.New(patterns)
	require.NoError(t, err)
	return func(path string) bool {
		ignored, err := matcher.MatchesOrParentMatches(path)
		require.NoError(t, err)
		return ignored
	}
}

func TestDockerfilesAreWhole(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(os.DirFS(root), "deploy/docker/*.Dockerfile")
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			require.Empty(t, checkDockerfile(t.Context(), read(t, file), dockerignore(t)))
		})
	}
}

func TestDockerfileChecksCanFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, now, want string }{
		"an instruction that there is not": {"WORKDIR /src", "WORKDR /src", "WORKDR"},
		"a stage that there is not":        {"--from=build /out/healthcheck", "--from=builder /out/healthcheck", "--from=builder"},
		"a variable that is not set":       {"XDG_DATA_HOME=/data", "XDG_DATA_HOME=$DATA", "UndefinedVar"},
		"two spellings of a keyword":       {"AS build", "as build", "FromAsCasing"},
		"a secret in the image":            {"ENV PATH=/bin", "ENV DATABASE_PASSWORD=a PATH=/bin", "SecretsUsedInArgOrEnv"},
		"an image without a version":       {"golang:1.26.8-bookworm", "golang:latest", "not pinned"},
		"a file that is not there":         {"COPY deploy/Caddyfile ", "COPY deploy/Caddyfil ", "not there"},
		"a file that is left out":          {"COPY deploy/Caddyfile ", "COPY deploy/README.md ", ".dockerignore"},
		"another base":                     {"FROM scratch", "FROM debian:12.12", "not from scratch"},
		"root":                             {"USER 65532:65532", "USER 0", "runs as root"},
		"no health check":                  {"HEALTHCHECK --interval", "HEALTHCHECK NONE\n#", "HEALTHCHECK"},
		"a command by a shell":             {`ENTRYPOINT ["/bin/tenantgate"]`, `ENTRYPOINT /bin/tenantgate`, "needs a shell"},
		"a command in the last stage":      {"USER 65532:65532", "RUN true\nUSER 65532:65532", "has no shell"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := string(read(t, "deploy/docker/tenantgate.Dockerfile"))
			require.Contains(t, good, c.old)
			found := checkDockerfile(t.Context(), []byte(strings.Replace(good, c.old, c.now, 1)), dockerignore(t))
			require.Contains(t, strings.Join(found, "\n"), c.want)
		})
	}
}

// TestBuildHasAllPackages holds that .dockerignore leaves in each file that the
// programs of the images are compiled from, and leaves out what is not.
func TestBuildHasAllPackages(t *testing.T) {
	t.Parallel()
	ignored := dockerignore(t)
	folder, err := filepath.Abs(root)
	require.NoError(t, err)
	files := compiled(t, folder)
	require.Greater(t, len(files), 100)
	for _, file := range files {
		require.False(t, ignored(file), "%s is left out", file)
	}
	for _, secret := range []string{".git/config", ".env", "deploy/secrets/gateway_secret", "data/tenantgate.db", "bin/tenantgate", "tenantgate.log", "loki-buffer/gateway/lock"} {
		require.True(t, ignored(secret), "%s is left in", secret)
	}
}

// compiled returns the files of ours that the images' programs are made of, with
// those that are embedded.
func compiled(t *testing.T, folder string) []string {
	t.Helper()
	list := run(t, folder, "go", "list", "-deps", "-json=Dir,Standard,GoFiles,CgoFiles,EmbedFiles", "./cmd/tenantgate", "./cmd/backends", "./deploy/docker/healthcheck")
	var files []string
	for decoder := json.NewDecoder(strings.NewReader(list)); decoder.More(); {
		var p struct {
			Dir                           string
			Standard                      bool
			GoFiles, CgoFiles, EmbedFiles []string
		}
		require.NoError(t, decoder.Decode(&p))
		inside, err := filepath.Rel(folder, p.Dir)
		require.NoError(t, err)
		if p.Standard || strings.HasPrefix(inside, "..") {
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.EmbedFiles) {
			files = append(files, filepath.ToSlash(filepath.Join(inside, name)))
		}
	}
	return files
}
