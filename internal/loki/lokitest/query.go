package lokitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Entry is a line that Loki has.
type Entry struct {
	Time             time.Time
	Labels, Metadata map[string]string
	Line             string
}

// matcher is name="value" of a selector or of a filter after it, or |= "value".
type matcher struct {
	name, op, value string
	pattern         *regexp.Regexp
}

func (m matcher) matches(value string) bool {
	switch m.op {
	case "=":
		return value == m.value
	case "!=":
		return value != m.value
	case "=~":
		return m.pattern.MatchString(value)
	case "!~":
		return !m.pattern.MatchString(value)
	}
	return false
}

var (
	matcherForm = regexp.MustCompile(`^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*`)
	quotedForm  = regexp.MustCompile("^(\"(?:[^\"\\\\\n]|\\\\.)*\"|`[^`]*`)\\s*")
	errSyntax   = errors.New("parse error : syntax error")
)

// parseMatcher reads name="value" and returns what follows.
func parseMatcher(text string) (matcher, string, error) {
	form := matcherForm.FindStringSubmatch(text)
	if form == nil {
		return matcher{}, "", errSyntax
	}
	m := matcher{name: form[1], op: form[2]}
	var err error
	if m.value, text, err = parseQuoted(text[len(form[0]):]); err != nil {
		return matcher{}, "", err
	}
	if m.op == "=~" || m.op == "!~" {
		m.pattern, err = regexp.Compile("^(?:" + m.value + ")$")
	}
	return m, text, err
}

func parseQuoted(text string) (value, rest string, err error) {
	form := quotedForm.FindStringSubmatch(text)
	if form == nil {
		return "", "", errSyntax
	}
	value, err = strconv.Unquote(form[1])
	return value, text[len(form[0]):], err
}

// parseSelector reads {a="b", c="d"} and returns what follows.
func parseSelector(text string) (matchers []matcher, rest string, err error) {
	text, found := strings.CutPrefix(strings.TrimSpace(text), "{")
	if !found {
		return nil, "", errSyntax
	}
	for text = strings.TrimSpace(text); ; {
		if rest, found := strings.CutPrefix(text, "}"); found && len(matchers) == 0 {
			return nil, strings.TrimSpace(rest), nil
		}
		m, after, err := parseMatcher(text)
		if err != nil {
			return nil, "", err
		}
		matchers = append(matchers, m)
		if rest, found := strings.CutPrefix(after, "}"); found {
			return matchers, strings.TrimSpace(rest), nil
		}
		if text, found = strings.CutPrefix(after, ","); !found {
			return nil, "", errSyntax
		}
	}
}

// parseQuery reads the part of LogQL that a [Fake] knows: a selector, then any of
// |= "text", != "text" and | name="value".
func parseQuery(logql string) (func(Entry) bool, error) {
	selector, rest, err := parseSelector(logql)
	if err != nil || len(selector) == 0 {
		return nil, errSyntax
	}
	var lines, fields []matcher
	for rest != "" {
		m := matcher{}
		switch {
		case strings.HasPrefix(rest, "|="), strings.HasPrefix(rest, "!="):
			m.op = rest[:2]
			if m.value, rest, err = parseQuoted(strings.TrimSpace(rest[2:])); err != nil {
				return nil, err
			}
			lines = append(lines, m)
		case strings.HasPrefix(rest, "|"):
			if m, rest, err = parseMatcher(rest[1:]); err != nil {
				return nil, err
			}
			fields = append(fields, m)
		default:
			return nil, errSyntax
		}
	}
	return func(e Entry) bool {
		for _, m := range selector {
			if !m.matches(e.Labels[m.name]) {
				return false
			}
		}
		for _, m := range lines {
			if strings.Contains(e.Line, m.value) != (m.op == "|=") {
				return false
			}
		}
		for _, m := range fields {
			value, found := e.Metadata[m.name]
			if !found {
				value = e.Labels[m.name]
			}
			if !m.matches(value) {
				return false
			}
		}
		return true
	}, nil
}

// streamsAnswer is Loki's answer to a query for lines.
type streamsAnswer struct {
	Status string      `json:"status"`
	Data   streamsData `json:"data"`
}

type streamsData struct {
	ResultType    string         `json:"resultType"`
	EncodingFlags []string       `json:"encodingFlags,omitempty"`
	Result        []answerStream `json:"result"`
}

type answerStream struct {
	Stream map[string]string   `json:"stream"`
	Values [][]json.RawMessage `json:"values"`
}

// The request header, and its value, with which Loki tells labels and structured
// metadata apart.
const flagsHeader, categorize = "X-Loki-Response-Encoding-Flags", "categorize-labels"

// answerQuery serves /loki/api/v1/query_range.
func (f *Fake) answerQuery(w http.ResponseWriter, r *http.Request, tenant string) {
	keep, err := parseQuery(r.FormValue("query"))
	if err != nil {
		refuse(http.StatusBadRequest, "%s", err.Error()).write(w)
		return
	}
	limit := 100
	if text := r.FormValue("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			refuse(http.StatusBadRequest, "limit must be a positive value").write(w)
			return
		}
	}
	if limit > maxPage {
		refuse(http.StatusBadRequest, "max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", limit, maxPage).write(w)
		return
	}
	end, err := parseTime(r.FormValue("end"), f.now())
	start, err2 := parseTime(r.FormValue("start"), end.Add(-time.Hour))
	if err := errors.Join(err, err2); err != nil {
		refuse(http.StatusBadRequest, "%s", err.Error()).write(w)
		return
	}
	found := f.find(tenant, func(e Entry) bool { return !e.Time.Before(start) && e.Time.Before(end) && keep(e) })
	if r.FormValue("direction") != "forward" {
		slices.Reverse(found)
	}
	found = found[:min(limit, len(found))]
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_ = json.NewEncoder(w).Encode(answerOf(found, r.Header.Get(flagsHeader) == categorize)) // the client may have gone
}

func answerOf(entries []Entry, categorized bool) streamsAnswer {
	data := streamsData{ResultType: "streams", Result: []answerStream{}}
	if categorized {
		data.EncodingFlags = []string{categorize}
	}
	index := map[string]int{}
	for _, e := range entries {
		labels := map[string]string{}
		for name, value := range e.Labels {
			labels[name] = value
		}
		value := []json.RawMessage{quoted(strconv.FormatInt(e.Time.UnixNano(), 10)), quoted(e.Line)}
		if categorized {
			third := map[string]any{}
			if len(e.Metadata) > 0 {
				third["structuredMetadata"] = e.Metadata
			}
			value = append(value, quoted(third))
		} else {
			for name, text := range e.Metadata {
				labels[name] = text
			}
		}
		key := string(quoted(labels)) // sorted by name
		i, found := index[key]
		if !found {
			i = len(data.Result)
			index[key] = i
			data.Result = append(data.Result, answerStream{Stream: labels})
		}
		data.Result[i].Values = append(data.Result[i].Values, value)
	}
	return streamsAnswer{Status: "success", Data: data}
}

func quoted(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and maps of them
	}
	return b
}

// parseTime reads nanoseconds, seconds or RFC 3339.
func parseTime(text string, standard time.Time) (time.Time, error) {
	if text == "" {
		return standard, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if len(text) <= 10 {
			return time.Unix(n, 0), nil
		}
		return time.Unix(0, n), nil
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Unix(0, int64(n*1e9)), nil
	}
	return time.Parse(time.RFC3339Nano, text)
}

// maxPage is Loki's max_entries_limit_per_query.
const maxPage = 5000

// query asks Loki, or a fake, for all lines from start to before end.
func query(tb testing.TB, base, tenant, logql string, start, end time.Time) []Entry {
	tb.Helper()
	var found []Entry
	for {
		page, err := queryPage(tb.Context(), base, tenant, logql, start, end)
		if err != nil {
			tb.Fatalf("query %s: %v", logql, err)
		}
		if len(page) < maxPage {
			return append(found, page...)
		}
		// The next page begins with all lines of the last one's time.
		last := page[len(page)-1].Time
		i := slices.IndexFunc(page, func(e Entry) bool { return e.Time.Equal(last) })
		if i == 0 {
			tb.Fatalf("query %s: %d lines have one time", logql, len(page))
		}
		found, start = append(found, page[:i]...), last
	}
}

func queryPage(ctx context.Context, base, tenant, logql string, start, end time.Time) ([]Entry, error) {
	values := url.Values{
		"query": {logql}, "limit": {strconv.Itoa(maxPage)}, "direction": {"forward"},
		"start": {strconv.FormatInt(start.UnixNano(), 10)}, "end": {strconv.FormatInt(end.UnixNano(), 10)},
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/loki/api/v1/query_range?"+values.Encode(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(flagsHeader, categorize)
	if tenant != "" {
		request.Header.Set("X-Scope-OrgID", tenant)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, body)
	}
	return parseStreams(body)
}

// parseStreams returns the entries of an answer, sorted by time.
func parseStreams(body []byte) ([]Entry, error) {
	var answer streamsAnswer
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	if answer.Data.ResultType != "streams" {
		return nil, fmt.Errorf("not a query for lines: %s", answer.Data.ResultType)
	}
	var found []Entry
	for _, s := range answer.Data.Result {
		for _, value := range s.Values {
			var at, line string
			var third struct {
				StructuredMetadata map[string]string `json:"structuredMetadata"`
			}
			for i, target := range []any{&at, &line, &third}[:min(3, len(value))] {
				if err := json.Unmarshal(value[i], target); err != nil {
					return nil, err
				}
			}
			ns, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				return nil, err
			}
			metadata := third.StructuredMetadata
			if metadata == nil {
				metadata = map[string]string{}
			}
			found = append(found, Entry{Time: time.Unix(0, ns).UTC(), Labels: s.Stream, Metadata: metadata, Line: line})
		}
	}
	slices.SortStableFunc(found, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return found, nil
}
