package deploy_test

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const rulesFile = "deploy/loki/rules/tenantgate.yaml"

// ruleGroup and rule are the format of Prometheus, which Loki's ruler reads.
type ruleGroup struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval,omitempty"`
	Rules    []rule `yaml:"rules"`
}

type rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// strict decodes one YAML document into v and refuses keys that v does not have.
func strict(content []byte, v any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if err := decoder.Decode(new(any)); err != io.EOF { //nolint:errorlint // the decoder returns it as it is
		return fmt.Errorf("more than one document")
	}
	return nil
}

// rules returns all rules of the file.
func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []ruleGroup `yaml:"groups"`
	}
	require.NoError(t, strict(read(t, rulesFile), &file))
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// checkRules returns what is wrong with a file of rules.
func checkRules(content []byte) []string {
	var file struct {
		Groups []ruleGroup `yaml:"groups"`
	}
	if err := strict(content, &file); err != nil {
		return []string{err.Error()}
	}
	var found, names []string
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			name := r.Record + r.Alert
			say := func(text string) { found = append(found, name+": "+text) }
			switch {
			case (r.Record == "") == (r.Alert == ""):
				say("it is a recording rule or an alert, one of them")
			case r.Record != "" && !regexp.MustCompile(`^tenantgate:[a-z_]+:[a-z0-9_]+$`).MatchString(name):
				say("its name is not tenantgate:what:how")
			case r.Alert != "" && !strings.HasPrefix(name, "Tenantgate"):
				say("its name does not begin with Tenantgate")
			case slices.Contains(names, name):
				say("the name is taken")
			}
			names = append(names, name)
			if r.Expr == "" {
				say("it has no expression")
			}
			if r.Alert == "" {
				continue
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				say("it has no summary or no description")
			}
			if severity := r.Labels["severity"]; severity != "critical" && severity != "warning" {
				say("severity is critical or warning")
			}
			for _, use := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(r.Annotations["summary"], -1) {
				if !regexp.MustCompile(`by \([^)]*\b` + use[1] + `\b`).MatchString(r.Expr) {
					say("its summary uses the label " + use[1] + ", which the expression drops")
				}
			}
		}
	}
	return found
}

func TestRulesAreWhole(t *testing.T) {
	t.Parallel()
	require.Empty(t, checkRules(read(t, rulesFile)))
	require.Len(t, rules(t), 19)
}

func TestRuleChecksCanFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, now, want string }{
		"a key that there is not":     {"interval:", "every:", "every"},
		"a name twice":                {"alert: TenantgateSlow", "alert: TenantgateErrors", "taken"},
		"a foreign name":              {"alert: TenantgateSlow", "alert: Slow", "Tenantgate"},
		"no severity":                 {"labels: { severity: critical }", "labels: { team: a }", "severity"},
		"no summary":                  {"summary: no gateway", "runbook: no gateway", "summary"},
		"a label that is not there":   {"$labels.service }} in", "$labels.host }} in", "label host"},
		"both an alert and a record":  {"- alert: TenantgateSlow", "- alert: TenantgateSlow\n        record: tenantgate:a:b", "one of them"},
		"a record without its prefix": {"record: tenantgate:requests:rate5m", "record: requests", "tenantgate:what:how"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := read(t, rulesFile)
			require.Contains(t, string(good), c.old)
			require.Contains(t, strings.Join(checkRules(bytes.Replace(good, []byte(c.old), []byte(c.now), 1)), "\n"), c.want)
		})
	}
}
