package deploy_test

import (
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// history is how far back the lines of the tests go.
const history = 15 * time.Minute

// chosen are the values of the variables that a reader would choose.
func chosen(logql string) string {
	return strings.NewReplacer(
		"$env", environment, "$service", ".+", "$tenant", ".*", "$trace", "4bf92f3577b34da6a3ce929d0e0e4736",
		"$__auto", "2m", "$__range", "20m",
	).Replace(logql)
}

// TestQueriesReturnData runs the query of every panel, alert and recording rule on
// a real Loki with deploy/loki/loki.yaml, over lines of real runs of `tenantgate dev`:
// in lines.jsonl the requests of its tour and some more, with mails and webhook
// events that failed; in shipping.jsonl what it told Loki of the shipping while
// Loki was away or refused lines.
func TestQueriesReturnData(t *testing.T) {
	t.Parallel()
	loki := startLoki(t)
	now := time.Now()
	troubled := slices.Concat(replay(recorded(t, "lines.jsonl"), now), replay(recorded(t, "shipping.jsonl"), now))
	slices.SortStableFunc(troubled, func(a, b line) int { return a.at.Compare(b.at) })
	loki.push(t, "trouble", troubled)
	loki.push(t, "calm", calm(troubled))
	loki.push(t, "slow", slow(troubled))
	loki.push(t, "silent", slices.DeleteFunc(slices.Clone(troubled), func(l line) bool { return l.field("service") != "tenantgate" }))

	for name, file := range dashboards(t) {
		var d dashboard
		require.NoError(t, json.Unmarshal(file, &d))
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				t.Run(name+"/"+p.Title+" "+q.RefID, func(t *testing.T) {
					t.Parallel()
					requirePanel(t, loki, p, q, now)
				})
			}
		}
	}
	for _, r := range rules(t) {
		t.Run("rule/"+r.Record+r.Alert, func(t *testing.T) {
			t.Parallel()
			requireRule(t, loki, r, now)
		})
	}
	t.Run("Loki's ruler reads the rules", func(t *testing.T) {
		t.Parallel()
		requireRulerReads(t, loki)
	})
	t.Run("a query that finds nothing is noticed", func(t *testing.T) {
		t.Parallel()
		require.False(t, hasNumber(t, loki.instant(t, "trouble", `sum(count_over_time({env="elsewhere"}[20m]))`, now)))
		require.False(t, hasNumber(t, loki.instant(t, "trouble", `sum(count_over_time({env="elsewhere"}[20m])) or vector(0)`, now)))
		require.Empty(t, loki.ranged(t, "trouble", `{env="elsewhere"}`, now.Add(-history), now, time.Minute))
	})
	t.Run("a query that is none is noticed", func(t *testing.T) {
		t.Parallel()
		status, body := loki.get(t, "trouble", "/loki/api/v1/query", url.Values{"query": {`sum by (rate({env="staging"}[5m]))`}, "time": {nanoseconds(now)}})
		require.Equal(t, http.StatusBadRequest, status, "%s", body)
	})
}

// calm returns the lines without any that tell of trouble.
func calm(lines []line) []line {
	bad := regexp.MustCompile(`"status":[45]|circuit|upstream failed|blocked|denied|not sent|not delivered|given up|"(dropped|rejected|oldest_ms)":[1-9]`)
	return slices.DeleteFunc(slices.Clone(lines), func(l line) bool { return bad.MatchString(l.text) })
}

// slow returns the lines of requests, each of which took minutes.
func slow(lines []line) []line {
	var slowed []line
	for _, l := range lines {
		if before, after, ok := strings.Cut(l.text, `"duration_ms":`); ok {
			l.text = before + `"duration_ms":9999` + after
			slowed = append(slowed, l)
		}
	}
	return slowed
}

// requirePanel holds that the query returns something that a panel can show:
// lines, or a number other than 0, with the labels that the legend names.
func requirePanel(t *testing.T, loki *lokiServer, p panel, q target, now time.Time) {
	t.Helper()
	var found []series
	if q.QueryType == "instant" {
		found = loki.instant(t, "trouble", chosen(q.Expr), now)
	} else {
		found = loki.ranged(t, "trouble", chosen(q.Expr), now.Add(-history), now, 15*time.Second)
	}
	if p.Type == "logs" {
		require.NotEmpty(t, found)
		return
	}
	requireNumber(t, found)
	for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
		if p.Type == "state-timeline" && label[1] == "tenant_id" {
			continue // circuits in the lines are not kept per tenant
		}
		require.True(t, slices.ContainsFunc(found, func(s series) bool { return s.Metric[label[1]] != "" }), "no series has the label %s of the legend", label[1])
	}
}

func requireNumber(t *testing.T, found []series) {
	t.Helper()
	require.True(t, hasNumber(t, found), "no number but 0: %v", found)
}

// hasNumber reports whether a series has a sample that is a number other than 0.
func hasNumber(t *testing.T, found []series) bool {
	t.Helper()
	return slices.ContainsFunc(found, func(s series) bool {
		return slices.ContainsFunc(s.samples(t), func(f float64) bool { return f != 0 && !math.IsNaN(f) && !math.IsInf(f, 0) })
	})
}

// requireRule holds that a recording rule returns numbers, and that an alert fires
// on trouble, slowness or silence, and not without.
func requireRule(t *testing.T, loki *lokiServer, r rule, now time.Time) {
	t.Helper()
	if r.Record != "" {
		requireNumber(t, loki.instant(t, "trouble", r.Expr, now))
		return
	}
	fires := func(tenant string) bool {
		return len(loki.ranged(t, tenant, r.Expr, now.Add(-5*time.Minute), now, 5*time.Second)) > 0
	}
	require.True(t, slices.ContainsFunc([]string{"trouble", "slow", "silent", "nobody"}, fires), "the alert never fires")
	require.False(t, fires("calm"), "the alert fires without a reason")
}

// requireRulerReads gives Loki's ruler the file and asks for what it made of it.
func requireRulerReads(t *testing.T, loki *lokiServer) {
	t.Helper()
	folder := filepath.Join(loki.rules, "trouble")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "tenantgate.yaml"), read(t, rulesFile), 0o600))
	status, body := loki.get(t, "trouble", "/loki/api/v1/rules", url.Values{})
	require.Equal(t, http.StatusOK, status, "%s", body)
	var groups map[string][]ruleGroup
	require.NoError(t, yaml.Unmarshal(body, &groups), "%s", body)
	var want, got []string
	for _, r := range rules(t) {
		want = append(want, r.Record+r.Alert)
	}
	for _, file := range slices.Sorted(maps.Keys(groups)) {
		for _, g := range groups[file] {
			for _, r := range g.Rules {
				got = append(got, r.Record+r.Alert)
			}
		}
	}
	require.ElementsMatch(t, want, got)
}
