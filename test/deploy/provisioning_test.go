package deploy_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	datasourceFile = "deploy/grafana/provisioning/datasources/loki.yaml"
	providerFile   = "deploy/grafana/provisioning/dashboards/tenantgate.yaml"
)

// datasources and providers are the provisioning files of Grafana, as far as we
// use them.
type datasources struct {
	APIVersion  int  `yaml:"apiVersion"`
	Prune       bool `yaml:"prune"`
	Datasources []struct {
		Name           string            `yaml:"name"`
		UID            string            `yaml:"uid"`
		Type           string            `yaml:"type"`
		Access         string            `yaml:"access"`
		URL            string            `yaml:"url"`
		IsDefault      bool              `yaml:"isDefault"`
		Editable       bool              `yaml:"editable"`
		SecureJSONData map[string]string `yaml:"secureJsonData"`
		JSONData       struct {
			Timeout         int    `yaml:"timeout"`
			MaxLines        string `yaml:"maxLines"`
			ManageAlerts    bool   `yaml:"manageAlerts"`
			HTTPHeaderName1 string `yaml:"httpHeaderName1"`
			DerivedFields   []struct {
				Name            string `yaml:"name"`
				MatcherType     string `yaml:"matcherType"`
				MatcherRegex    string `yaml:"matcherRegex"`
				URL             string `yaml:"url"`
				URLDisplayLabel string `yaml:"urlDisplayLabel"`
			} `yaml:"derivedFields"`
		} `yaml:"jsonData"`
	} `yaml:"datasources"`
}

type providers struct {
	APIVersion int `yaml:"apiVersion"`
	Providers  []struct {
		Name                  string `yaml:"name"`
		OrgID                 int    `yaml:"orgId"`
		Folder                string `yaml:"folder"`
		FolderUID             string `yaml:"folderUid"`
		Type                  string `yaml:"type"`
		DisableDeletion       bool   `yaml:"disableDeletion"`
		AllowUIUpdates        bool   `yaml:"allowUiUpdates"`
		UpdateIntervalSeconds int    `yaml:"updateIntervalSeconds"`
		Options               struct {
			Path                      string `yaml:"path"`
			FoldersFromFilesStructure bool   `yaml:"foldersFromFilesStructure"`
		} `yaml:"options"`
	} `yaml:"providers"`
}

// checkDatasource returns what is wrong with the file of the data source. trace is
// the dashboard that its derived field leads to.
func checkDatasource(content []byte, trace dashboard) []string {
	var file datasources
	if err := strict(content, &file); err != nil {
		return []string{err.Error()}
	}
	if file.APIVersion != 1 || len(file.Datasources) != 1 {
		return []string{"it is apiVersion 1 with one data source"}
	}
	var found []string
	d := file.Datasources[0]
	if d.UID != "loki" || d.Type != "loki" || d.Access != "proxy" || !d.IsDefault {
		found = append(found, "it is the default, of type and uid loki, which the dashboards choose first, and asked by Grafana")
	}
	if u, err := url.Parse(d.URL); err != nil || u.Host == "" {
		found = append(found, "its URL has no host")
	}
	if d.JSONData.HTTPHeaderName1 != "X-Scope-OrgID" || d.SecureJSONData["httpHeaderValue1"] != "$LOKI_TENANT" {
		found = append(found, "it names no tenant of Loki")
	}
	if len(d.JSONData.DerivedFields) != 1 {
		return append(found, "it has one derived field, the trace")
	}
	field := d.JSONData.DerivedFields[0]
	if field.MatcherType != "label" || field.MatcherRegex != "trace_id" {
		found = append(found, "the derived field is not that of the metadata trace_id")
	}
	link, err := url.Parse(strings.ReplaceAll(field.URL, "$$", "$")) // as Grafana reads its file
	if err != nil || !strings.HasPrefix(link.Path, "/d/"+trace.UID+"/") {
		return append(found, "the derived field does not lead to the dashboard "+trace.UID)
	}
	if link.Query().Get("var-trace") != "${__value.raw}" || link.Query().Get("var-datasource") != d.UID {
		found = append(found, "the derived field gives the dashboard no trace, or no data source")
	}
	for key := range link.Query() {
		name, isVariable := strings.CutPrefix(key, "var-")
		if isVariable && !slices.ContainsFunc(trace.Templating.List, func(v variable) bool { return v.Name == name }) {
			found = append(found, "the derived field sets a variable that the dashboard does not have: "+name)
		}
	}
	return found
}

// checkProvider returns what is wrong with the file of dashboards.
func checkProvider(content []byte, mounted []string) []string {
	var file providers
	if err := strict(content, &file); err != nil {
		return []string{err.Error()}
	}
	if file.APIVersion != 1 || len(file.Providers) != 1 || file.Providers[0].Type != "file" || file.Providers[0].AllowUIUpdates {
		return []string{"it is apiVersion 1 with one provider of files, which stay as they are"}
	}
	if path := file.Providers[0].Options.Path; !slices.Contains(mounted, path) {
		return []string{fmt.Sprintf("docker-compose.yml mounts nothing at %s", path)}
	}
	return nil
}

func TestProvisioningIsWhole(t *testing.T) {
	t.Parallel()
	require.Empty(t, checkDatasource(read(t, datasourceFile), traceDashboard(t)))
	require.Empty(t, checkProvider(read(t, providerFile), mounts(t)))
}

func traceDashboard(t *testing.T) dashboard {
	t.Helper()
	var trace dashboard
	require.NoError(t, json.Unmarshal(dashboards(t)["trace.json"], &trace))
	return trace
}

// mounts returns where Grafana has files of ours in its container.
func mounts(t *testing.T) []string {
	t.Helper()
	p, err := load(t.Context(), atRoot(composeFile), "")
	require.NoError(t, err)
	var targets []string
	for _, v := range p.Services["grafana"].Volumes {
		targets = append(targets, v.Target)
	}
	return targets
}

func TestProvisioningChecksCanFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, old, now, want string }{
		"a key that there is not":      {datasourceFile, "isDefault: true", "default: true", "default"},
		"another version":              {datasourceFile, "apiVersion: 1", "apiVersion: 2", "apiVersion"},
		"another uid":                  {datasourceFile, "uid: loki", "uid: logs", "uid"},
		"no URL":                       {datasourceFile, "http://loki:3100", "loki", "no host"},
		"no tenant":                    {datasourceFile, "$LOKI_TENANT", "fake", "no tenant"},
		"another field":                {datasourceFile, "matcherRegex: trace_id", "matcherRegex: span_id", "trace_id"},
		"another dashboard":            {datasourceFile, "/d/tenantgate-trace/", "/d/trace/", "does not lead"},
		"an unescaped dollar":          {datasourceFile, "$${__value.raw}", "none", "no trace"},
		"a variable that is none":      {datasourceFile, "var-env", "var-environment", "environment"},
		"a provider's key that is not": {providerFile, "folderUid", "folderID", "folderID"},
		"a provider of another type":   {providerFile, "type: file", "type: git", "of files"},
		"a path without a mount":       {providerFile, "path: /etc/grafana/dashboards", "path: /dashboards", "mounts nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := string(read(t, c.file))
			require.Contains(t, good, c.old)
			bad := []byte(strings.Replace(good, c.old, c.now, 1))
			found := checkProvider(bad, mounts(t))
			if c.file == datasourceFile {
				found = checkDatasource(bad, traceDashboard(t))
			}
			require.Contains(t, strings.Join(found, "\n"), c.want)
		})
	}
}

// TestLokiTakesItsConfiguration has Loki itself read deploy/loki/loki.yaml, and one
// with a key that there is not.
func TestLokiTakesItsConfiguration(t *testing.T) {
	t.Parallel()
	program := lokiProgram(t)
	run(t, t.TempDir(), program, "-config.file="+absolute(t, "deploy/loki/loki.yaml"), "-config.expand-env=true", "-verify-config")

	dir := t.TempDir()
	bad := regexp.MustCompile(`retention_period:`).ReplaceAll(read(t, "deploy/loki/loki.yaml"), []byte("retention:"))
	require.NoError(t, os.WriteFile(dir+"/loki.yaml", bad, 0o600))
	out, err := command(t, dir, program, "-config.file=loki.yaml", "-config.expand-env=true", "-verify-config").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "field retention not found")
}
