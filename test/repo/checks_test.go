package repo_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/test/repo"
)

// The tests here show that each check fails on bad input and is quiet on good.

func TestCheckDependencies(t *testing.T) {
	t.Parallel()
	const ours, caddy = repo.Module, "github.com/caddyserver/caddy/v2"
	clock := repo.Package{ImportPath: ours + "/internal/clock", Imports: []string{"time"}}
	database := repo.Package{ImportPath: ours + "/internal/database", Imports: []string{clock.ImportPath}}
	permission := repo.Package{ImportPath: ours + "/internal/permission", Imports: []string{database.ImportPath}}
	tests := []struct {
		name string
		pkg  repo.Package
		want string // part of the one finding, "" for none
	}{
		{"internal may import a leaf", repo.Package{ImportPath: ours + "/internal/a", Imports: []string{clock.ImportPath}}, ""},
		{"internal may import a shared package", repo.Package{ImportPath: ours + "/internal/a", Imports: []string{database.ImportPath}}, ""},
		{"a package's black-box test may import it", repo.Package{
			ImportPath: ours + "/internal/a", Imports: []string{database.ImportPath}, XTestImports: []string{ours + "/internal/a"},
		}, ""},
		{"a part of a core may import the core", repo.Package{
			ImportPath: ours + "/internal/permission/policy", Imports: []string{permission.ImportPath},
		}, ""},
		{"adapters may import Caddy and any core", repo.Package{
			ImportPath: ours + "/caddymodules/a", Imports: []string{caddy, permission.ImportPath}, Deps: []string{caddy, permission.ImportPath},
		}, ""},
		{"commands may import both halves", repo.Package{
			ImportPath: ours + "/cmd/a", Imports: []string{ours + "/caddymodules/a", ours + "/backends/a"},
		}, ""},
		{"internal must not import another core", repo.Package{
			ImportPath: ours + "/internal/a", Imports: []string{permission.ImportPath},
		}, "leaves may be imported"},
		{"a core's test is held to the same rule", repo.Package{
			ImportPath: ours + "/internal/a", TestImports: []string{permission.ImportPath},
		}, "leaves may be imported"},
		{"internal must not import Caddy", repo.Package{
			ImportPath: ours + "/internal/a", Imports: []string{caddy + "/caddyconfig"}, Deps: []string{caddy + "/caddyconfig"},
		}, "internal knows nothing of Caddy"},
		{"internal must not reach Caddy through others", repo.Package{
			ImportPath: ours + "/internal/a", Deps: []string{caddy},
		}, "internal knows nothing of Caddy"},
		{"internal must not import an adapter", repo.Package{
			ImportPath: ours + "/internal/a", Imports: []string{ours + "/caddymodules/a"},
		}, "internal imports only internal"},
		{"adapters must not import backends", repo.Package{
			ImportPath: ours + "/caddymodules/a", Imports: []string{ours + "/backends/a"},
		}, "never import each other"},
		{"adapters must not reach backends through others", repo.Package{
			ImportPath: ours + "/caddymodules/a", Deps: []string{ours + "/backends/a"},
		}, "never import each other"},
		{"backends must not import adapters, not even in tests", repo.Package{
			ImportPath: ours + "/backends/a", XTestImports: []string{ours + "/caddymodules/a"},
		}, "never import each other"},
		{"backends must not import Caddy", repo.Package{
			ImportPath: ours + "/backends/a", Imports: []string{caddy},
		}, "a backend is plain net/http"},
		{"nothing imports a command", repo.Package{
			ImportPath: ours + "/backends/a", Imports: []string{ours + "/cmd/tenantgate"},
		}, "nothing imports a command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			found := repo.CheckDependencies([]repo.Package{clock, database, permission, tt.pkg})
			if tt.want == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Contains(t, found[0], tt.want)
		})
	}
}

func TestCheckPackages(t *testing.T) {
	t.Parallel()
	found := repo.CheckPackages([]repo.Package{
		{ImportPath: "x/good", Doc: "Package good is.", GoFiles: []string{"a.go"}},
		{ImportPath: "x/onlytests"},
		{ImportPath: "x/silent", GoFiles: []string{"a.go"}},
		{ImportPath: "x/utils", Doc: "Package utils is a drawer.", GoFiles: []string{"a.go"}},
	})
	require.Len(t, found, 2)
	require.Contains(t, found[0], "x/silent has no package comment")
	require.Contains(t, found[1], `"utils" says nothing`)
}

func TestCheckLinks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       []string
	}{
		{"a file, a folder and another host", "[a](other.md) [b](sub/) [c](https://example.com/x) [d](mailto:a@example.com)", nil},
		{"a heading here and in another file", "# One & two\n[a](#one--two) [b](other.md#the-end)", nil},
		{"the second of two equal headings", "# A\n# A\n[a](#a-1)", nil},
		{"a heading with a link and code", "## [x](other.md) and `y z`\n[a](#x-and-y-z)", nil},
		{"an anchor set by hand", "<a id=\"here\"></a>\n[a](#here)", nil},
		{"a link in a code block or span is no link", "```\n[a](gone.md)\n```\nand `[a](gone.md)`", nil},
		{"a longer fence is closed by its own", "````\n```\n[a](gone.md)\n````\n[b](other.md)", nil},
		{"a missing file", "text\n[a](gone.md)", []string{"README.md:2: link gone.md: no such file"}},
		{"a missing heading", "[a](#gone)", []string{"README.md:1: link #gone: no such heading in README.md"}},
		{"a missing heading elsewhere", "[a](other.md#gone)", []string{"README.md:1: link other.md#gone: no such heading in other.md"}},
		{"a missing picture", "![a](gone.png)", []string{"README.md:1: link gone.png: no such file"}},
		{"a missing reference", "[a]: gone.md", []string{"README.md:1: link gone.md: no such file"}},
		{"two on one line", "[a](x.md) [b](y.md \"title\")", []string{"README.md:1: link x.md: no such file", "README.md:1: link y.md: no such file"}},
		{"outside the repository", "[a](../x.md)", []string{"README.md:1: link ../x.md: leaves the repository"}},
		{"an absolute path", "[a](/other.md)", []string{"README.md:1: link /other.md: absolute path; write it relative to this file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			found, err := repo.CheckLinks(tree(map[string]string{
				"README.md": tt.text, "other.md": "# Start\n## The end ##\n", "sub/x.txt": "",
			}))
			require.NoError(t, err)
			require.Equal(t, tt.want, found)
		})
	}
}

func TestCheckMakeTargets(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckMakeTargets(tree(map[string]string{
		"Makefile": "run: build ## start\n\techo\nbuild:\n",
		"README.md": "Then make sure that `make run` and `make build ARGS=x` work.\n" +
			"```sh\n$ make run\nmake deploy\n```\nand `make tea`.\n",
	}))
	require.NoError(t, err)
	require.Equal(t, []string{
		"README.md: `make deploy`: the Makefile has no such target",
		"README.md: `make tea`: the Makefile has no such target",
	}, found)

	_, err = repo.CheckMakeTargets(tree(nil))
	require.ErrorContains(t, err, "read the Makefile")
}

func TestCheckModuleFolders(t *testing.T) {
	t.Parallel()
	const register = "func init() { caddy.RegisterModule(new(X)) }"
	found, err := repo.CheckModuleFolders(tree(map[string]string{
		"caddymodules/good/module.go":         register,
		"caddymodules/good/README.md":         "# good",
		"caddymodules/bare/a.go":              register,
		"caddymodules/bare/module.go":         register,
		"caddymodules/nomodule/order.go":      "package nomodule",
		"caddymodules/nomodule/order_test.go": register,
		"internal/elsewhere/text.go":          register,
	}))
	require.NoError(t, err)
	require.Equal(t, []string{"caddymodules/bare registers a Caddy module and has no README.md"}, found)
}

func TestCheckWords(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckWords(tree(map[string]string{
		"a.go":                          "package a\n// TO" + "DO: later\n",
		"b.md":                          "see /ro" + "ot/file and https://example.com/ro" + "ot/x\n",
		"c.txt":                         "<<<<" + "<<< HEAD\n",
		"d.html":                        "Lorem" + " Ipsum dolor\n",
		"go.sum":                        "TO" + "DO\n",
		"picture":                       "\x00TO" + "DO",
		"bin/x.txt":                     "TO" + "DO",
		".git/x":                        "TO" + "DO",
		"a/testdata/rapid/TestX/1.fail": "TO" + "DO",
		"good.go":                       "package good // TODOs are fine as a word's part, root/x and work/y too\n",
	}))
	require.NoError(t, err)
	require.Len(t, found, 4)
	require.Contains(t, found[0], "a.go:2:")
	require.Contains(t, found[1], "b.md:1:")
	require.Contains(t, found[2], "c.txt:1:")
	require.Contains(t, found[3], "d.html:1:")
}

func TestCheckXcaddy(t *testing.T) {
	t.Parallel()
	caddy := []repo.Requirement{{Path: "example.com/x", Version: "v1.0.0"}, {Path: "github.com/caddyserver/caddy/v2", Version: "v2.11.9"}}
	good := "build v2.11.9 --with " + repo.Module + "@v0.0.0=.\n"
	require.Empty(t, repo.CheckXcaddy(good, caddy))
	require.Len(t, repo.CheckXcaddy(strings.ReplaceAll(good, "v2.11.9", "v2.11.8"), caddy), 1)
	require.Len(t, repo.CheckXcaddy(good+"--with example.com/x\n", caddy), 1)
	require.Equal(t, []string{"go.mod does not require github.com/caddyserver/caddy/v2"}, repo.CheckXcaddy(good, nil))
}

func TestCheckDependencyPage(t *testing.T) {
	t.Parallel()
	required := []repo.Requirement{{Path: "example.com/a"}, {Path: "example.com/b"}, {Path: "example.com/c", Indirect: true}}
	require.Empty(t, repo.CheckDependencyPage("`example.com/a` and `example.com/b`", required))
	require.Equal(t, []string{"docs/dependencies.md has no line for example.com/b"},
		repo.CheckDependencyPage("`example.com/a` and `example.com/bb`", required))
}

// tree returns a file system of the given files.
func tree(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return fsys
}
