package repo_test

import (
	"os"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/test/repo"
)

func TestEveryProblemCodeIsDocumented(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckProblems(os.DirFS(root))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestCheckProblems(t *testing.T) {
	t.Parallel()
	const header = "package a\n\nimport p \"" + repo.Module + "/internal/problem\"\n\n"
	for name, test := range map[string]struct {
		code string
		want []string
	}{
		"a literal that is listed":      {`var _ = p.New(404, "listed", "x")`, nil},
		"a literal that is not":         {`var _ = p.New(404, "other", "x")`, []string{"other"}},
		"a wrapped cause":               {`var _ = p.Wrap(nil, 404, "other", "x")`, []string{"other"}},
		"a constant":                    {`const c = "other"; var _ = p.New(404, c, "x")`, []string{"other"}},
		"a field of a literal":          {`var _ = &p.Error{Status: 1, Code: "other"}`, []string{"other"}},
		"the code of a field is none":   {`var _ = p.Field{Code: "other"}`, []string{}},
		"an assignment":                 {`func f(e *p.Error) { e.Code = "other" }`, []string{"other"}},
		"a parameter":                   {`func f(c string) any { return p.New(1, c, "x") }; var _, _ = f("other"), f("listed")`, []string{"other"}},
		"a parameter of a method":       {`func (t) f(c string) any { return p.New(1, c, "x") }; func g() { t{}.f("other") }`, []string{"other"}},
		"a result":                      {`func f() any { _, c := g(); return p.New(1, c, "x") }; func g() (int, string) { return 1, "other" }`, []string{"other"}},
		"a table":                       {`var m = map[int][2]string{1: {"other", "x"}}; func f() any { return p.New(1, m[1][0], "x") }`, []string{"other"}},
		"parts that are known":          {`func f(s string) any { return p.New(1, "invitation-"+s, "x") }`, []string{"invitation-accepted", "invitation-cancelled", "invitation-expired"}},
		"no code at all":                {`var _ = p.New(404, "", "x")`, []string{}},
		"another package's constructor": {`var _ = q.New(404, "other", "x")`, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := fstest.MapFS{
				"docs/problems.md": {Data: []byte("| code | status |\n|---|---|\n| `listed` | 404 |\n")},
				"a/a.go":           {Data: []byte(header + test.code)},
				"b/b.go":           {Data: []byte(header + `var _ = p.New(404, "listed", "x")`)},
				"b/b_test.go":      {Data: []byte(header + `var _ = p.New(404, "tests-may", "x")`)},
			}
			var want []string
			for _, code := range test.want {
				want = append(want, "a uses the code "+code+", which docs/problems.md does not list")
			}
			found, err := repo.CheckProblems(files)
			require.NoError(t, err)
			require.Equal(t, want, found)
		})
	}
}

func TestCheckProblemsFindsWhatNobodyUsesAndWhatItCantTell(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{
		"docs/problems.md": {Data: []byte("| `spare` | 404, 410 |\n")},
		"a/a.go":           {Data: []byte("package a\n\nimport \"" + repo.Module + "/internal/problem\"\n\nvar _ = problem.New(1, x.y, \"\")\n")},
	}
	found, err := repo.CheckProblems(files)
	require.NoError(t, err)
	require.Equal(t, []string{"a/a.go:5:24: can't tell which problem code this is", "docs/problems.md lists the code spare, which nothing uses"}, found)
	require.Equal(t, map[string][]string{"spare": {"404", "410"}}, repo.Problems("| `spare` | 404, 410 |\n"))

	_, err = repo.CheckProblems(fstest.MapFS{})
	require.Error(t, err)
	files["a/b.go"] = &fstest.MapFile{Data: []byte("pack")}
	_, err = repo.CheckProblems(files)
	require.Error(t, err)
}
