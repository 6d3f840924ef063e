package loki

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestScan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		line string
		want string // of the field "a"
		ok   bool
	}{
		"a text":                           {`{"a":"x"}`, "x", true},
		"among others":                     {`{"b":1,"a":"x","c":[1,2]}`, "x", true},
		"with spaces":                      {" {\t\"a\" :\r\n \"x\" , \"b\" : 1 } ", "x", true},
		"an integer":                       {`{"a":42}`, "42", true},
		"a number as it is written":        {`{"a":-1.50E+3}`, "-1.50E+3", true},
		"a boolean":                        {`{"a":false}`, "false", true},
		"null":                             {`{"a":null}`, "", true},
		"an object":                        {`{"a":{"a":"x"}}`, "", true},
		"an array":                         {`{"a":["x"]}`, "", true},
		"only inside of another":           {`{"b":{"a":"x"}}`, "", true},
		"the last of two":                  {`{"a":"x","a":"y"}`, "y", true},
		"the last of two is null":          {`{"a":"x","a":null}`, "", true},
		"the last of two is an object":     {`{"a":"x","a":{}}`, "", true},
		"the last of two is empty":         {`{"a":"x","a":""}`, "", true},
		"escapes":                          {`{"a":"\"\\\/\b\f\n\r\t\u0041\u00e9"}`, "\"\\/\b\f\n\r\tAé", true},
		"a pair of surrogates":             {`{"a":"\ud83d\ude00"}`, "😀", true},
		"half a pair, twice":               {`{"a":"\ud83d\ud83dx"}`, "\ufffd\ufffdx", true},
		"the second half alone":            {`{"a":"\ude00"}`, "\ufffd", true},
		"a name with an escape":            {`{"\u0061":"x"}`, "x", true},
		"brackets in texts inside":         {`{"b":{"c":"}]\"}"},"a":"x"}`, "x", true},
		"an empty object":                  {`{}`, "", true},
		"an empty object with spaces":      {` { } `, "", true},
		"nothing":                          {``, "", false},
		"an array at the top":              {`["a"]`, "", false},
		"a text at the top":                {`"a"`, "", false},
		"no JSON":                          {`a: x`, "", false},
		"something after it":               {`{"a":"x"} y`, "x", false},
		"cut in a text":                    {`{"b":"x","a":"y`, "", false},
		"cut after an escape":              {`{"a":"y\`, "", false},
		"cut after a colon":                {`{"a":`, "", false},
		"cut after a comma":                {`{"a":"x",`, "x", false},
		"cut after a number":               {`{"a":1`, "1", false},
		"cut in an object":                 {`{"a":"x","b":{"c":"`, "x", false},
		"an escape that does not exist":    {`{"a":"\x"}`, "", false},
		"too few digits":                   {`{"a":"\u12"}`, "", false},
		"no digits":                        {`{"a":"\u12gh"}`, "", false},
		"a colon is missing":               {`{"a" "x"}`, "", false},
		"a comma is missing":               {`{"a":"x" "b":"y"}`, "x", false},
		"a name without quotes":            {`{a:"x"}`, "", false},
		"a word":                           {`{"a":nil}`, "", false},
		"the value is missing":             {`{"a":}`, "", false},
		"a comma too many":                 {`{"a":"x",}`, "x", false},
		"a closing bracket that opens not": {`{"a":"x","b":]}`, "x", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var f fields
			slot := f.slot("a")
			require.Equal(t, c.ok, f.scan([]byte(c.line)))
			require.Equal(t, c.want, string(f.values[slot]))
		})
	}
}

func TestScanForgetsTheLineBefore(t *testing.T) {
	t.Parallel()
	var f fields
	a, b := f.slot("a"), f.slot("b")
	require.Equal(t, a, f.slot("a"), "a name has one slot")
	require.True(t, f.scan([]byte(`{"a":"\u0041\u0042","b":"\u0043"}`)))
	require.Equal(t, []string{"AB", "C"}, []string{string(f.values[a]), string(f.values[b])})
	require.True(t, f.scan([]byte(`{"b":"\u0044"}`)))
	require.Equal(t, []string{"", "D"}, []string{string(f.values[a]), string(f.values[b])})
	require.False(t, f.scan([]byte(`x`)))
	require.Equal(t, []string{"", ""}, []string{string(f.values[a]), string(f.values[b])})
}

func TestAppendQuoted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text  string
		limit int
		want  string
		taken int
	}{
		"all of it":              {`abc`, 5, `"abc"`, 3},
		"its beginning":          {`abcdef`, 5, `"abc"`, 3},
		"no half escape":         {"ab\n", 9, `"ab"`, 2},
		"a whole escape":         {"ab\n", 10, `"ab\u000a"`, 3},
		"no half rune":           {"ab😀", 7, `"ab"`, 2},
		"a whole rune":           {"ab😀", 8, `"ab😀"`, 6},
		"quotes and backslashes": {`"\`, 100, `"\"\\"`, 2},
		"nothing":                {``, 2, `""`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, taken := appendQuoted([]byte("x"), []byte(c.text), c.limit)
			require.Equal(t, "x"+c.want, string(out))
			require.Equal(t, c.taken, taken)
		})
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	require.Equal(t, "abc", string(cutText([]byte("abc"), 3)))
	require.Equal(t, "ab", string(cutText([]byte("abc"), 2)))
	require.Equal(t, "a", string(cutText([]byte("aéb"), 2)))
	require.Equal(t, "aé", string(cutText([]byte("aéb"), 3)))
	require.Empty(t, cutText([]byte("😀"), 3))
}

// FuzzScan compares with encoding/json.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		`{"a":"x","b":1.5e3,"level":true,"ts":null,"c":{"a":[{}]},"\u0061":"\ud83d\ude00\n"}`, `{"a":"\ud800"}`,
		`{"a":"x","a":2}`, `[]`, `{`, ` { } `, "{\"a\":\"\xff\"}", "{\"\xff\":1}", `{"a":"x"}}`, `{"":""}`, `{"a":"\ufffd"}`, `{"a":-0}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var f fields
		for _, name := range []string{"a", "b", "level", "ts", "é", ""} {
			f.slot(name)
		}
		valid := appendValid(nil, line)
		require.True(t, utf8.Valid(valid))
		ok := f.scan(valid)

		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		var object map[string]any
		if !json.Valid(line) || d.Decode(&object) != nil || object == nil {
			return
		}
		require.True(t, ok, "%s", line)
		for i, name := range f.names {
			require.Equal(t, jsonText(object[name]), string(f.values[i]), "%s of %s", name, line)
		}
	})
}

// jsonText is what scan makes of a value of encoding/json.
func jsonText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return map[bool]string{true: "true", false: "false"}[v]
	}
	return ""
}

// FuzzAppendQuoted checks that all of a text comes back, or a beginning within the
// limit.
func FuzzAppendQuoted(f *testing.F) {
	f.Add([]byte("a\"b\\c\n\x00é\xff😀"), 20)
	f.Fuzz(func(t *testing.T, text []byte, limit int) {
		text = appendValid(nil, text)
		limit = 2 + max(limit, 0)%1000
		out, taken := appendQuoted(nil, text, limit)
		require.LessOrEqual(t, len(out), limit)
		var got string
		require.NoError(t, json.Unmarshal(out, &got))
		require.Equal(t, string(text[:taken]), got)
		if taken < len(text) {
			require.Greater(t, len(out)+6, limit, "there was room for more")
		}
		require.True(t, strings.HasPrefix(string(text), got))
	})
}
