// Package repo holds the rules of this repository as checks: which way
// dependencies point, what every package and module must document, that links
// resolve and that files which name the same thing agree. Each check takes its
// input as a value, so that its own test can show that it fails on bad input.
package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// Module is this repository's module path.
const Module = "github.com/tenantgate/tenantgate"

const caddy = "github.com/caddyserver/caddy"

// Package is what `go list -json` says of a package, as far as a rule needs it.
type Package struct {
	// ImportPath names the package, Doc is the first sentence of its comment.
	ImportPath, Doc string
	// Imports are the packages that it imports itself, Deps all that end up in
	// a binary with it.
	Imports, Deps []string
	// TestImports and XTestImports are what its tests import.
	TestImports, XTestImports []string
	// GoFiles and CgoFiles are its sources without tests.
	GoFiles, CgoFiles []string
}

// ListPackages asks the go command in dir for all packages of the module.
func ListPackages(ctx context.Context, dir string) ([]Package, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Doc,Imports,Deps,TestImports,XTestImports,GoFiles,CgoFiles", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	return decodePackages(bytes.NewReader(out))
}

func decodePackages(r io.Reader) ([]Package, error) {
	var pkgs []Package
	for decoder := json.NewDecoder(r); ; {
		var p Package
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// shared are the internal packages that other internal packages may import;
// besides them only leaves, which import none of ours, and the packages of one
// core among themselves (internal/a and internal/a/b).
var shared = []string{"database", "database/dbtest", "identity", "problem", "redisclient/redistest", "tracecontext"}

// CheckDependencies returns what breaks the rule that dependencies point one
// way: cmd to caddymodules and backends, these to internal; caddymodules and
// backends never meet; internal knows no Caddy, and of itself imports only the
// shared packages and leaves. Tests of a package are held to the same rule.
func CheckDependencies(pkgs []Package) []string {
	leaf := map[string]bool{}
	for _, p := range pkgs {
		leaf[p.ImportPath] = !slices.ContainsFunc(p.Imports, isOurs)
	}
	var found []string
	for _, p := range pkgs {
		direct := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		slices.Sort(direct)
		for _, imp := range slices.Compact(direct) {
			if imp == p.ImportPath {
				continue // its own black-box test
			}
			if core(imp) != "" && core(imp) == core(p.ImportPath) {
				continue
			}
			if why := forbiddenImport(area(p.ImportPath), imp, leaf[imp]); why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", p.ImportPath, imp, why))
			}
		}
		for _, dep := range p.Deps {
			if why := forbiddenDep(area(p.ImportPath), dep); why != "" && !slices.Contains(p.Imports, dep) {
				found = append(found, fmt.Sprintf("%s depends on %s: %s", p.ImportPath, dep, why))
			}
		}
	}
	return found
}

// core returns the name of the internal package that the import path is or is
// part of, "" if it is none of internal.
func core(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, Module+"/internal/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// forbiddenImport says why a package of the area from must not import imp
// itself, or "".
func forbiddenImport(from, imp string, leaf bool) string {
	if why := forbiddenDep(from, imp); why != "" {
		return why
	}
	if isOurs(imp) && area(imp) == "cmd" {
		return "nothing imports a command"
	}
	if from == "internal" && isOurs(imp) {
		if area(imp) != "internal" {
			return "internal imports only internal"
		}
		if !leaf && !slices.Contains(shared, strings.TrimPrefix(imp, Module+"/internal/")) {
			return "of internal only " + strings.Join(shared, ", ") + " and leaves may be imported"
		}
	}
	return ""
}

// forbiddenDep says why a package of the area from must not depend on dep even
// through others, or "".
func forbiddenDep(from, dep string) string {
	switch {
	case from == "internal" && (dep == caddy || strings.HasPrefix(dep, caddy+"/")):
		return "internal knows nothing of Caddy"
	case from == "backends" && (dep == caddy || strings.HasPrefix(dep, caddy+"/")):
		return "a backend is plain net/http"
	case from == "caddymodules" && isOurs(dep) && area(dep) == "backends",
		from == "backends" && isOurs(dep) && area(dep) == "caddymodules":
		return "caddymodules and backends never import each other"
	}
	return ""
}

// isOurs reports whether the import path belongs to this module.
func isOurs(importPath string) bool {
	return importPath == Module || strings.HasPrefix(importPath, Module+"/")
}

// area returns the top folder of a package of ours, "" for the root package.
func area(importPath string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(importPath, Module), "/"), "/")
	return first
}

// vague are folder names that say nothing about what is inside.
var vague = []string{"common", "helper", "helpers", "lib", "misc", "models", "shared", "types", "util", "utils"}

// CheckPackages returns the packages without a doc comment and those whose
// name says nothing. A folder that holds only tests needs no comment.
func CheckPackages(pkgs []Package) []string {
	var found []string
	for _, p := range pkgs {
		if len(p.GoFiles)+len(p.CgoFiles) > 0 && p.Doc == "" {
			found = append(found, p.ImportPath+" has no package comment")
		}
		if name := path.Base(p.ImportPath); slices.Contains(vague, name) {
			found = append(found, fmt.Sprintf("%s: %q says nothing about what is inside; name the idea", p.ImportPath, name))
		}
	}
	return found
}
