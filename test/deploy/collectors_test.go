package deploy_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/alloy/syntax/ast"
	"github.com/grafana/alloy/syntax/parser"
	"github.com/stretchr/testify/require"
)

func command(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	return cmd
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(atRoot(name))
	require.NoError(t, err)
	return path
}

// The labels and metadata of every line, whoever ships it.
var (
	labels   = []string{"level", "service"} // and env, which the collector adds
	metadata = []string{"tenant_id", "trace_id", "user_id"}
)

// alloyFile is what a configuration of Alloy is made of.
type alloyFile struct {
	components []string            // loki.write.loki
	uses       []string            // loki.write.loki, of loki.write.loki.receiver
	keys       map[string][]string // by stage, the sorted keys of its only object
	attributes []string            // by path: loki.write.loki/endpoint/url
}

// readAlloy reads a configuration with Alloy's own parser, which knows the
// language, but neither components nor their arguments.
func readAlloy(content []byte) (*alloyFile, error) {
	file, err := parser.ParseFile("config.alloy", content)
	if err != nil {
		return nil, err
	}
	a := &alloyFile{keys: map[string][]string{}}
	for _, statement := range file.Body {
		block, ok := statement.(*ast.BlockStmt)
		if !ok {
			return nil, fmt.Errorf("an attribute outside of a block")
		}
		name := strings.Join(append(slices.Clone(block.Name), block.Label), ".")
		a.components = append(a.components, name)
		a.body(name, block.Body)
	}
	return a, nil
}

func (a *alloyFile) body(path string, body ast.Body) {
	for _, statement := range body {
		switch s := statement.(type) {
		case *ast.BlockStmt:
			a.body(path+"/"+strings.Join(s.Name, "."), s.Body)
		case *ast.AttributeStmt:
			a.attributes = append(a.attributes, path+"/"+s.Name.Name)
			a.expression(path, s.Value)
		}
	}
}

func (a *alloyFile) expression(path string, e ast.Expr) {
	switch e := e.(type) {
	case *ast.ObjectExpr:
		var keys []string
		for _, f := range e.Fields {
			keys = append(keys, f.Name.Name)
			a.expression(path, f.Value)
		}
		a.keys[path] = slices.Sorted(slices.Values(keys))
	case *ast.ArrayExpr:
		for _, element := range e.Elements {
			a.expression(path, element)
		}
	case *ast.AccessExpr:
		if name := access(e); strings.Count(name, ".") == 3 {
			a.uses = append(a.uses, name[:strings.LastIndex(name, ".")])
		}
	}
}

// access returns a.b.c of the expression a.b.c.
func access(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.AccessExpr:
		return access(e.Value) + "." + e.Name.Name
	case *ast.IdentifierExpr:
		return e.Ident.Name
	}
	return ""
}

// alloyAttributes are the arguments and blocks that config.alloy may have, from
// the reference of its components.
var alloyAttributes = []string{
	"local.file_match.tenantgate/path_targets",
	"loki.process.tenantgate/forward_to",
	"loki.process.tenantgate/stage.json/expressions",
	"loki.process.tenantgate/stage.label_drop/values",
	"loki.process.tenantgate/stage.labels/values",
	"loki.process.tenantgate/stage.structured_metadata/values",
	"loki.process.tenantgate/stage.timestamp/format",
	"loki.process.tenantgate/stage.timestamp/source",
	"loki.source.file.tenantgate/forward_to",
	"loki.source.file.tenantgate/targets",
	"loki.write.loki/endpoint/tenant_id",
	"loki.write.loki/endpoint/url",
	"loki.write.loki/external_labels",
}

// checkAlloy returns what is wrong with a configuration of Alloy.
func checkAlloy(content []byte) []string {
	a, err := readAlloy(content)
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, use := range a.uses {
		if !slices.Contains(a.components, use) {
			found = append(found, use+" is used and is not there")
		}
	}
	for _, c := range a.components {
		if !strings.HasPrefix(c, "loki.source.") && !slices.Contains(a.uses, c) {
			found = append(found, c+" is used by nothing")
		}
	}
	if got := slices.Sorted(slices.Values(a.attributes)); !slices.Equal(got, alloyAttributes) {
		found = append(found, fmt.Sprintf("the arguments are %v", got))
	}
	return append(found, checkShape("loki.process.tenantgate/stage.", a.keys, a.keys["loki.write.loki"])...)
}

// checkShape holds labels, metadata and extracted fields against those of the
// services' own writer.
func checkShape(prefix string, keys map[string][]string, external []string) []string {
	var found []string
	for stage, want := range map[string][]string{
		"labels": labels, "structured_metadata": metadata,
		"json": slices.Sorted(slices.Values(slices.Concat([]string{"ts"}, labels, metadata))),
	} {
		if !slices.Equal(keys[prefix+stage], want) {
			found = append(found, fmt.Sprintf("%s has %v, not %v", stage, keys[prefix+stage], want))
		}
	}
	if !slices.Equal(external, []string{"env"}) {
		found = append(found, fmt.Sprintf("the external labels are %v, not env", external))
	}
	return found
}

// promtail is the part of Promtail's configuration that we use.
type promtail struct {
	Server struct {
		HTTPListenAddress string `yaml:"http_listen_address"`
		HTTPListenPort    int    `yaml:"http_listen_port"`
		GRPCListenPort    int    `yaml:"grpc_listen_port"`
	} `yaml:"server"`
	Positions struct {
		Filename string `yaml:"filename"`
	} `yaml:"positions"`
	Clients []struct {
		URL            string            `yaml:"url"`
		TenantID       string            `yaml:"tenant_id"`
		ExternalLabels map[string]string `yaml:"external_labels"`
	} `yaml:"clients"`
	ScrapeConfigs []struct {
		JobName       string `yaml:"job_name"`
		StaticConfigs []struct {
			Targets []string          `yaml:"targets"`
			Labels  map[string]string `yaml:"labels"`
		} `yaml:"static_configs"`
		PipelineStages []promtailStage `yaml:"pipeline_stages"`
	} `yaml:"scrape_configs"`
}

// promtailStage is one stage; one field is set.
type promtailStage struct {
	JSON *struct {
		Expressions map[string]string `yaml:"expressions"`
	} `yaml:"json"`
	Timestamp *struct {
		Source string `yaml:"source"`
		Format string `yaml:"format"`
	} `yaml:"timestamp"`
	Labels             map[string]*string `yaml:"labels"`
	StructuredMetadata map[string]*string `yaml:"structured_metadata"`
	LabelDrop          []string           `yaml:"labeldrop"`
}

// checkPromtail returns what is wrong with a configuration of Promtail.
func checkPromtail(content []byte) []string {
	var p promtail
	if err := strict(content, &p); err != nil {
		return []string{err.Error()}
	}
	if len(p.Clients) != 1 || len(p.ScrapeConfigs) != 1 {
		return []string{"it has one client and one job"}
	}
	keys := map[string][]string{}
	timed := false
	for _, s := range p.ScrapeConfigs[0].PipelineStages {
		switch {
		case s.JSON != nil:
			keys["json"] = slices.Sorted(maps.Keys(s.JSON.Expressions))
		case s.Timestamp != nil:
			timed = s.Timestamp.Source == "ts" && s.Timestamp.Format == "RFC3339Nano"
		case s.Labels != nil:
			keys["labels"] = slices.Sorted(maps.Keys(s.Labels))
		case s.StructuredMetadata != nil:
			keys["structured_metadata"] = slices.Sorted(maps.Keys(s.StructuredMetadata))
		}
	}
	found := checkShape("", keys, slices.Sorted(maps.Keys(p.Clients[0].ExternalLabels)))
	if !timed {
		found = append(found, "lines do not keep their own time")
	}
	return found
}

func TestCollectorsAreWhole(t *testing.T) {
	t.Parallel()
	require.Empty(t, checkAlloy(read(t, "deploy/collectors/config.alloy")))
	require.Empty(t, checkPromtail(read(t, "deploy/collectors/promtail.yaml")))
}

func TestCollectorChecksCanFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		check          func([]byte) []string
		old, now, want string
	}{
		"Alloy: a brace":                 {checkAlloy, "stage.labels {", "stage.labels", "expected"},
		"Alloy: a component of nothing":  {checkAlloy, "[loki.write.loki.receiver]", "[loki.write.logs.receiver]", "loki.write.logs is used and is not there"},
		"Alloy: an argument that is not": {checkAlloy, "format = \"RFC3339Nano\"", "layout = \"RFC3339Nano\"", "the arguments are"},
		"Alloy: a label too many":        {checkAlloy, "			service = \"service\",\n		}\n	}\n\n	stage.structured", "			service = \"service\",\n			user_id = \"user_id\",\n		}\n	}\n\n	stage.structured", "labels has"},
		"Alloy: no environment":          {checkAlloy, "env = sys", "environment = sys", "external labels"},
		"Promtail: a key that is not":    {checkPromtail, "tenant_id: ${", "tenant: ${", "tenant"},
		"Promtail: a label too many":     {checkPromtail, "          service:\n      - struct", "          service:\n          user_id:\n      - struct", "labels has"},
		"Promtail: no time":              {checkPromtail, "source: ts", "source: time", "own time"},
		"Promtail: metadata that is not": {checkPromtail, "          trace_id:\n          user_id:\n", "          trace_id:\n", "structured_metadata has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := "deploy/collectors/config.alloy"
			if strings.HasPrefix(name, "Promtail") {
				file = "deploy/collectors/promtail.yaml"
			}
			good := string(read(t, file))
			require.Contains(t, good, c.old)
			require.Contains(t, strings.Join(c.check([]byte(strings.Replace(good, c.old, c.now, 1))), "\n"), c.want)
		})
	}
}

// TestUnitsAreTaken has systemd read the units, where it is installed.
func TestUnitsAreTaken(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze")
	}
	dir := t.TempDir()
	for _, name := range []string{"tenantgate.service", "backends.service"} {
		// The programs need not be installed to read a unit.
		unit := strings.NewReplacer("/usr/local/bin/tenantgate", "/bin/true", "/usr/local/bin/backends", "/bin/true").Replace(string(read(t, "deploy/systemd/"+name)))
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(unit), 0o600))
		out, err := command(t, dir, analyze, "verify", "--man=no", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotContains(t, string(out), name, "%s", out)
		out, err = command(t, dir, analyze, "security", "--offline=true", "--threshold=20", file).CombinedOutput()
		require.NoError(t, err, "%s", out)

		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(unit, "NoNewPrivileges=", "NoPrivileges=", 1)), 0o600))
		out, _ = command(t, dir, analyze, "verify", "--man=no", file).CombinedOutput() // an unknown key is a warning only
		require.Contains(t, string(out), "NoPrivileges")
	}
}
