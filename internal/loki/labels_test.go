package loki

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// labelsOf returns the labels of the streams that lines make, in their order.
func labelsOf(t *testing.T, s Settings, lines ...string) []string {
	t.Helper()
	var labels []string
	for _, c := range encode(t, s, lines...) {
		for _, s := range c.streams {
			labels = append(labels, s.labels)
		}
	}
	return labels
}

func TestLabels(t *testing.T) {
	t.Parallel()
	service := Label{"service", Value{Static: "tenantgate"}}
	level := Label{"level", Value{Field: "level"}}
	withDefault := Label{"level", Value{Field: "severity", Static: "info"}}
	for name, c := range map[string]struct {
		labels []Label
		line   string
		want   string
	}{
		"names are sorted":                       {[]Label{service, level}, `{"level":"warn"}`, `{level="warn", service="tenantgate"}`},
		"a field is taken from the line":         {[]Label{level}, `{"level":"warn"}`, `{level="warn"}`},
		"a number is its text":                   {[]Label{level}, `{"level":30}`, `{level="30"}`},
		"a boolean is its text":                  {[]Label{level}, `{"level":true}`, `{level="true"}`},
		"a line without the field lacks it":      {[]Label{service, level}, `{"msg":"x"}`, `{service="tenantgate"}`},
		"null is no value":                       {[]Label{service, level}, `{"level":null}`, `{service="tenantgate"}`},
		"an object is no value":                  {[]Label{service, level}, `{"level":{"level":"warn"}}`, `{service="tenantgate"}`},
		"an empty text is no value":              {[]Label{service, level}, `{"level":""}`, `{service="tenantgate"}`},
		"the default stands in":                  {[]Label{withDefault}, `{}`, `{level="info"}`},
		"the default gives way":                  {[]Label{withDefault}, `{"severity":"error"}`, `{level="error"}`},
		"what is no JSON has no fields":          {[]Label{service, level}, `{"level":"warn",`, `{service="tenantgate"}`},
		"a stream has a label in any case":       {[]Label{level}, `plain text`, `{level="unknown"}`},
		"a quote is escaped":                     {[]Label{level}, `{"level":"a\"b"}`, `{level="a\"b"}`},
		"a backslash is escaped":                 {[]Label{level}, `{"level":"a\\b"}`, `{level="a\\b"}`},
		"a new line is escaped":                  {[]Label{level}, `{"level":"a\nb"}`, `{level="a\nb"}`},
		"a zero byte is escaped":                 {[]Label{level}, `{"level":"a\u0000b"}`, `{level="a\x00b"}`},
		"a rune that is not printed is escaped":  {[]Label{level}, `{"level":"a\u200bb"}`, `{level="a\u200bb"}`},
		"other runes are as they are":            {[]Label{level}, `{"level":"grün \ud83d\ude00"}`, `{level="grün 😀"}`},
		"half a pair is a question mark":         {[]Label{level}, `{"level":"a\ud83d"}`, `{level="a?"}`},
		"bytes that are no UTF-8 are so, too":    {[]Label{level}, "{\"level\":\"a\xff\xfe\"}", `{level="a??"}`},
		"U+FFFD, which Loki refuses, is so, too": {[]Label{level}, `{"level":"a\ufffd"}`, `{level="a?"}`},
		"braces and commas are plain":            {[]Label{level}, `{"level":"{a=\"b\", c}"}`, `{level="{a=\"b\", c}"}`},
		"a long value is cut at a rune": {
			[]Label{level}, `{"level":"x` + strings.Repeat("é", 1500) + `"}`, `{level="x` + strings.Repeat("é", 1023) + `"}`,
		},
		"a static value is checked, too": {[]Label{{"a", Value{Static: "\xff"}}}, `{}`, `{a="?"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, []string{c.want}, labelsOf(t, Settings{Labels: c.labels}, c.line))
		})
	}
}

func TestLabelWithTooManyValues(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	var notes []string
	e.notes = func(s string) { notes = append(notes, s) }
	s := Settings{Labels: []Label{{"path", Value{Field: "path"}}, {"service", Value{Static: "s"}}}}
	e.apply(s)
	for i := range maxValues + 5 {
		e.add(int64(i), fmt.Appendf(nil, `{"path":"/%d"}`, i))
	}
	chunk := flushed(t, e)[0]
	require.Len(t, chunk.streams, maxValues+1)
	require.Equal(t, `{path="/99", service="s"}`, chunk.streams[maxValues-1].labels)
	other := chunk.streams[maxValues]
	require.Equal(t, `{path="other", service="s"}`, other.labels)
	require.Equal(t, []pushedEntry{
		{100, `{"path":"/100"}`, []string{"path_value", "/100"}},
		{101, `{"path":"/101"}`, []string{"path_value", "/101"}},
		{102, `{"path":"/102"}`, []string{"path_value", "/102"}},
		{103, `{"path":"/103"}`, []string{"path_value", "/103"}},
		{104, `{"path":"/104"}`, []string{"path_value", "/104"}},
	}, other.entries)
	require.Equal(t, map[string]int64{"path": 5}, e.overflowed())
	require.Equal(t, []string{
		`label path has more than 100 values: further ones become "other", and are metadata named path_value`,
	}, notes, "said once")

	s.Labels = append(s.Labels, Label{"level", Value{Field: "level"}})
	e.apply(s)
	e.add(200, []byte(`{"path":"/7","level":"info"}`))
	e.add(201, []byte(`{"path":"/new","level":"info"}`))
	chunk = flushed(t, e)[0]
	require.Equal(t, `{level="info", path="/7", service="s"}`, chunk.streams[0].labels, "what it has seen stays")
	require.Equal(t, `{level="info", path="other", service="s"}`, chunk.streams[1].labels, "what is new is too much still")
	require.Equal(t, map[string]int64{"path": 6}, e.overflowed())
}

func TestTenant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tenant Value
		line   string
		want   string
		over   int64
	}{
		"none":                               {Value{}, `{"tenant_id":"acme"}`, "", 0},
		"the same for all":                   {Value{Static: "ours"}, `{"tenant_id":"acme"}`, "ours", 0},
		"of the line":                        {Value{Field: "tenant_id"}, `{"tenant_id":"acme"}`, "acme", 0},
		"a line without it":                  {Value{Field: "tenant_id", Static: "ours"}, `{}`, "ours", 0},
		"a line without it, and no default":  {Value{Field: "tenant_id"}, `{}`, "", 0},
		"one that Loki does not take":        {Value{Field: "tenant_id", Static: "ours"}, `{"tenant_id":"a/b"}`, "ours", 1},
		"several, as of a query":             {Value{Field: "tenant_id", Static: "ours"}, `{"tenant_id":"a|b"}`, "ours", 1},
		"a header's end":                     {Value{Field: "tenant_id"}, `{"tenant_id":"a\r\nX-Evil: 1"}`, "", 1},
		"a way out of the folder":            {Value{Field: "tenant_id"}, `{"tenant_id":".."}`, "", 1},
		"one that is too long":               {Value{Field: "tenant_id"}, `{"tenant_id":"` + strings.Repeat("a", 151) + `"}`, "", 1},
		"bytes that are no UTF-8 are no one": {Value{Field: "tenant_id"}, "{\"tenant_id\":\"a\xff\"}", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEncoder(1 << 20)
			e.apply(Settings{Tenant: c.tenant, Labels: DefaultLabels()})
			e.add(1, []byte(c.line))
			chunks := flushed(t, e)
			require.Len(t, chunks, 1)
			require.Equal(t, c.want, chunks[0].tenant)
			require.Equal(t, c.over, e.overflowed()["tenant"])
		})
	}
}

func TestTooManyTenants(t *testing.T) {
	t.Parallel()
	e := newEncoder(1 << 20)
	var notes []string
	e.notes = func(s string) { notes = append(notes, s) }
	e.apply(Settings{Tenant: Value{Field: "t", Static: "ours"}, Labels: DefaultLabels()})
	for i := range 2 * maxValues {
		e.add(int64(i), fmt.Appendf(nil, `{"t":"t%d"}`, i))
	}
	e.apply(Settings{Tenant: Value{Field: "t", Static: "ours"}, Labels: DefaultLabels()})
	e.add(1000, []byte(`{"t":"t5"}`))
	e.add(1001, []byte(`{"t":"t500"}`))
	chunks := flushed(t, e)
	require.Len(t, chunks, maxValues+1)
	require.Equal(t, "t5", chunks[5].tenant)
	require.Equal(t, 2, chunks[5].lines())
	require.Equal(t, "ours", chunks[maxValues].tenant)
	require.Equal(t, maxValues+1, chunks[maxValues].lines())
	require.Equal(t, map[string]int64{"tenant": maxValues + 1}, e.overflowed())
	require.Len(t, notes, 1)
	require.Contains(t, notes[0], `"ours"`)
}
