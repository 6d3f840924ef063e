package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/problem"
)

type thing struct {
	Name string `json:"name"`
}

// tagOf returns the tag of a thing.
func tagOf(t *testing.T, name string) string {
	t.Helper()
	tag, err := server.Tag(thing{name})
	require.NoError(t, err)
	return tag
}

func TestTagsAreStrongAndFollowTheBody(t *testing.T) {
	t.Parallel()
	tag := tagOf(t, "a")
	require.Regexp(t, `^"[A-Za-z0-9_-]{22}"$`, tag)
	require.Equal(t, tag, tagOf(t, "a"))
	require.NotEqual(t, tag, tagOf(t, "b"))
	_, err := server.Tag(func() {})
	require.ErrorContains(t, err, "encode entity")
}

func TestALookIsAnsweredInFullOnlyIfSomethingChanged(t *testing.T) {
	t.Parallel()
	router, _ := newRouter("")
	router.Handle("GET /thing", func(w http.ResponseWriter, r *http.Request) error {
		return server.WriteTagged(w, r, http.StatusOK, thing{"a"})
	})
	tag, other := tagOf(t, "a"), tagOf(t, "b")
	for header, status := range map[string]int{
		"":                            200,
		tag:                           304,
		"W/" + tag:                    304, // If-None-Match compares weakly
		"*":                           304,
		other:                         200,
		other + ", " + tag:            304,
		`"x,y" ,, W/"z",` + tag + `,`: 304,
		strings.Trim(tag, `"`):        200, // not a list of tags: ignored
		tag + " nonsense":             200,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			r := request(method, "/thing", "")
			if header != "" {
				r.Header.Set("If-None-Match", header)
			}
			w := serve(router, r)
			require.Equal(t, status, w.Code, "%s %s", method, header)
			require.Equal(t, []string{tag}, w.Header()["Etag"])
			require.Equal(t, "private, no-cache", w.Header().Get("Cache-Control"))
			if status == 304 {
				require.Empty(t, w.Body.String())
				require.Empty(t, w.Header().Get("Content-Type"))
			} else {
				require.JSONEq(t, `{"name":"a"}`, w.Body.String())
			}
		}
	}
}

func TestAChangeIsNeverNotModified(t *testing.T) {
	t.Parallel()
	router, _ := newRouter("")
	router.Handle("POST /thing", func(w http.ResponseWriter, r *http.Request) error {
		return server.WriteTagged(w, r, http.StatusCreated, thing{"a"})
	})
	w := serve(router, request("POST", "/thing", "", "If-None-Match", tagOf(t, "a")))
	require.Equal(t, http.StatusCreated, w.Code)
	require.Equal(t, tagOf(t, "a"), w.Header().Get("Etag"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}

func TestPreconditions(t *testing.T) {
	t.Parallel()
	tag, other := tagOf(t, "a"), tagOf(t, "b")
	for _, tt := range []struct {
		ifMatch, ifNoneMatch string // "-" is no header
		status               int    // 0: go on
	}{
		{"-", "-", 0},
		{tag, "-", 0},
		{"*", "-", 0},
		{" * ", "-", 0},
		{other + "," + tag, "-", 0},
		{other, "-", 412},
		{"W/" + tag, "-", 412}, // If-Match compares strongly
		{`""`, "-", 412},
		{"", "-", 400},
		{",", "-", 400},
		{"*, " + tag, "-", 400},
		{"**", "-", 400},
		{"abc", "-", 400},
		{`"abc`, "-", 400},
		{`abc"`, "-", 400},
		{`"`, "-", 400},
		{`"a b"`, "-", 400},
		{tag + tag, "-", 400},
		{`w/` + tag, "-", 400},
		{`W/`, "-", 400},
		{`W/*`, "-", 400},
		{"-", other, 0},
		{"-", tag, 412},
		{"-", "W/" + tag, 412},
		{"-", "*", 412},
		{"-", "abc", 400},
		{tag, tag, 412},
		{tag, other, 0},
	} {
		r := request("PUT", "/thing", "")
		for name, value := range map[string]string{"If-Match": tt.ifMatch, "If-None-Match": tt.ifNoneMatch} {
			if value != "-" {
				r.Header.Set(name, value)
			}
		}
		err := server.CheckPreconditions(r, thing{"a"})
		if tt.status == 0 {
			require.NoError(t, err, tt)
			continue
		}
		require.Error(t, err, tt)
		e := problem.From(err)
		require.Equal(t, map[int]string{400: "400 bad-header", 412: "412 precondition-failed"}[tt.status], fmt.Sprint(e.Status, " ", e.Code), tt)
		require.Contains(t, e.Detail, "Match")
	}
	r := request("PUT", "/thing", "")
	r.Header["If-Match"] = []string{other, tag}
	require.NoError(t, server.CheckPreconditions(r, thing{"a"}), "several lines are one list")
}

func FuzzParseTags(f *testing.F) {
	for _, seed := range []string{`*`, `"a"`, `W/"a", "b"`, `,,"a",`, `"a`, `"a" b`, `"a,b"`, "\"a\x00\"", "\"\xff\"", `*, "a"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		everything, strong, weak, err := server.ParseTags([]string{value})
		if err != nil {
			require.False(t, everything || len(strong)+len(weak) > 0)
			return
		}
		require.NotEqual(t, everything, len(strong)+len(weak) > 0, "either * or tags")
		for _, tag := range append(strong, weak...) {
			require.Contains(t, value, tag)
			require.Equal(t, 2, strings.Count(tag, `"`))
			again, same, _, err := server.ParseTags([]string{tag})
			require.NoError(t, err)
			require.False(t, again)
			require.Equal(t, []string{tag}, same)
		}
	})
}
