package deploy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the repository, seen from this folder.
const root = "../.."

// read returns a file of the repository.
func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	require.NoError(t, err)
	return content
}

// dashboard is what is checked of a dashboard in Grafana's JSON, version 1 of the
// schema. Everything else is held against Grafana's own types by
// tools/check-dashboards.sh.
type dashboard struct {
	UID         string   `json:"uid"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	Tags        []string `json:"tags"`
	ID          *int     `json:"id"`
	Templating  struct {
		List []variable `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type variable struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Type        string          `json:"type"`
	Datasource  *datasource     `json:"datasource"`
	Query       json.RawMessage `json:"query"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"`
	Title       string      `json:"title"`
	Description string      `json:"description"`
	Datasource  *datasource `json:"datasource"`
	GridPos     struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets     []target `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

type target struct {
	RefID        string      `json:"refId"`
	Datasource   *datasource `json:"datasource"`
	Expr         string      `json:"expr"`
	QueryType    string      `json:"queryType"`
	LegendFormat string      `json:"legendFormat"`
}

// dashboards returns the checked-in dashboards by file name.
func dashboards(t *testing.T) map[string][]byte {
	t.Helper()
	folder := os.DirFS(filepath.Join(root, "deploy/grafana/dashboards"))
	names, err := fs.Glob(folder, "*.json")
	require.NoError(t, err)
	require.Len(t, names, 6)
	found := map[string][]byte{}
	for _, name := range names {
		found[name], err = fs.ReadFile(folder, name)
		require.NoError(t, err)
	}
	return found
}

// ours is the only data source that a panel may name: the one that the reader chose.
var ours = datasource{Type: "loki", UID: "${datasource}"}

// builtIn are Grafana's own variables.
var builtIn = []string{"__auto", "__range", "__interval"}

var variableUse = regexp.MustCompile(`\$\{?(\w+)`)

// checkDashboards returns what is wrong with the dashboards.
func checkDashboards(files map[string][]byte) []string {
	var found []string
	uids, titles := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var d dashboard
		if err := json.Unmarshal(files[name], &d); err != nil {
			found = append(found, name+": "+err.Error())
			continue
		}
		say := func(format string, args ...any) { found = append(found, name+": "+fmt.Sprintf(format, args...)) }
		if doubled := repeatedKey(files[name]); doubled != "" {
			say("key %s is there twice in one object", doubled)
		}
		if other := uids[d.UID]; other != "" || d.UID == "" {
			say("uid %q: it is missing, or that of %s", d.UID, other)
		}
		if other := titles[d.Title]; other != "" || d.Title == "" {
			say("title %q: it is missing, or that of %s", d.Title, other)
		}
		uids[d.UID], titles[d.Title] = name, name
		if d.ID != nil {
			say("id is %d: Grafana gives it", *d.ID)
		}
		if d.Description == "" || !slices.Contains(d.Tags, "tenantgate") {
			say("it has no description, or no tag tenantgate")
		}
		checkPanels(d.Panels, say)
		checkVariables(d, files[name], say)
	}
	return found
}

func checkPanels(panels []panel, say func(string, ...any)) {
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range panels {
		if ids[p.ID] || p.ID == 0 {
			say("panel %q: id %d is missing or taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			say("panel %q: it is outside of the 24 columns", p.Title)
			continue
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					say("panel %q covers %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Title == "" {
			say("panel %d has no title", p.ID)
		}
		if p.Type != "row" {
			checkPanel(p, say)
		}
	}
}

func checkPanel(p panel, say func(string, ...any)) {
	if p.Description == "" {
		say("panel %q has no description", p.Title)
	}
	if p.Type != "logs" && p.FieldConfig.Defaults.Unit == "" {
		say("panel %q has no unit", p.Title)
	}
	if p.Datasource == nil || *p.Datasource != ours {
		say("panel %q: its data source is not ${datasource}", p.Title)
	}
	if len(p.Targets) == 0 {
		say("panel %q has no query", p.Title)
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if q.RefID == "" || refs[q.RefID] {
			say("panel %q: refId %q is missing or taken", p.Title, q.RefID)
		}
		refs[q.RefID] = true
		if q.Datasource == nil || *q.Datasource != ours {
			say("panel %q, query %s: its data source is not ${datasource}", p.Title, q.RefID)
		}
		if q.QueryType != "range" && q.QueryType != "instant" {
			say("panel %q, query %s: queryType %q", p.Title, q.RefID, q.QueryType)
		}
		if metadata, parser := strings.LastIndex(q.Expr, `tenant_id=~"$tenant"`), strings.Index(q.Expr, "| json"); parser >= 0 && metadata > parser && strings.Count(q.Expr, "{") == 1 {
			say("panel %q, query %s: it filters by metadata after | json, where tenant_id may be tenant_id_extracted", p.Title, q.RefID)
		}
	}
}

func checkVariables(d dashboard, text []byte, say func(string, ...any)) {
	defined := map[string]bool{}
	for _, v := range d.Templating.List {
		if defined[v.Name] || v.Name == "" || v.Description == "" {
			say("variable %q: its name or description is missing, or the name is taken", v.Name)
		}
		defined[v.Name] = true
		if v.Type == "query" && (v.Datasource == nil || *v.Datasource != ours) {
			say("variable %q: its data source is not ${datasource}", v.Name)
		}
	}
	for _, name := range []string{"datasource", "env"} {
		if !defined[name] {
			say("variable %s is missing", name)
		}
	}
	used := map[string]bool{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			for _, use := range variableUse.FindAllStringSubmatch(q.Expr, -1) {
				used[use[1]] = true
				if !defined[use[1]] && !slices.Contains(builtIn, use[1]) {
					say("panel %q uses $%s, which is not defined", p.Title, use[1])
				}
			}
		}
	}
	used["datasource"] = bytes.Contains(text, []byte(`"${datasource}"`))
	for name := range defined {
		if !used[name] {
			say("variable %s is used by no panel", name)
		}
	}
}

// repeatedKey returns a key that one object of the document has twice, or "".
func repeatedKey(document []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(document))
	type object struct {
		keys   map[string]bool // nil for an array
		expect bool            // the next token is a key
	}
	var open []object
	for {
		token, err := decoder.Token()
		if err != nil {
			return "" // the end
		}
		if n := len(open); n > 0 && open[n-1].expect {
			if key, ok := token.(string); ok {
				if open[n-1].keys[key] {
					return key
				}
				open[n-1].keys[key], open[n-1].expect = true, false
				continue
			}
		}
		switch token {
		case json.Delim('{'):
			open = append(open, object{keys: map[string]bool{}, expect: true})
			continue
		case json.Delim('['):
			open = append(open, object{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if n := len(open); n > 0 && open[n-1].keys != nil {
			open[n-1].expect = true
		}
	}
}

func TestDashboardsAreWhole(t *testing.T) {
	t.Parallel()
	require.Empty(t, checkDashboards(dashboards(t)))
}

// TestDashboardChecksCanFail changes one thing of a good dashboard at a time.
func TestDashboardChecksCanFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, now, want string }{
		"no JSON":                        {`"tags": [`, `"tags": [,`, "invalid character"},
		"a key twice":                    {`"editable": true,`, `"editable": true, "editable": true,`, "key editable"},
		"no uid":                         {`"uid": "tenantgate-traffic"`, `"uid": ""`, "uid"},
		"the uid of another":             {`"uid": "tenantgate-traffic"`, `"uid": "tenantgate-trace"`, "uid"},
		"no title":                       {`"title": "Tenantgate / Traffic"`, `"title": ""`, "title"},
		"an id":                          {`"id": null`, `"id": 7`, "id is 7"},
		"no tag":                         {`"tags": [` + "\n    \"tenantgate\"\n  ]", `"tags": []`, "no tag"},
		"a panel's id twice":             {`"id": 2,`, `"id": 1,`, "id 1 is missing or taken"},
		"a panel over another":           {`"x": 4,`, `"x": 3,`, "covers"},
		"a panel outside":                {`"x": 20,`, `"x": 21,`, "outside"},
		"no unit":                        {`"unit": "reqps"`, `"unit": ""`, "no unit"},
		"no description of a panel":      {`"description": "Requests per second over the time range."`, `"description": ""`, "no description"},
		"a data source of its own":       {`"uid": "${datasource}"`, `"uid": "loki"`, "data source"},
		"a refId twice":                  {`"refId": "B"`, `"refId": "A"`, "refId"},
		"a query type that there is not": {`"queryType": "instant"`, `"queryType": "stream"`, "queryType"},
		"a variable that is not defined": {`service=~\"$service\"`, `service=~\"$services\"`, "$services"},
		"a variable that is not used":    {`"name": "tenant"`, `"name": "tenants"`, "variable tenants is used by no panel"},
		"a filter after the parser":      {`| tenant_id=~\"$tenant\" | json duration_ms`, `| json duration_ms | tenant_id=~\"$tenant\"`, "after | json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := dashboards(t)
			good := files["traffic.json"]
			require.Contains(t, string(good), c.old)
			files["traffic.json"] = bytes.Replace(good, []byte(c.old), []byte(c.now), 1)
			require.Contains(t, strings.Join(checkDashboards(files), "\n"), c.want)
		})
	}
}
