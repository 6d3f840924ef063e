package repo

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	problemPage    = "docs/problems.md"
	problemPackage = "internal/problem"
)

// problemRow is a line of the table of problem codes: code and statuses.
var problemRow = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9, ]+) \\|")

// composed are the codes that are put together while the program runs, by their
// constant part.
var composed = map[string][]string{
	"invitation-": {"accepted", "cancelled", "expired"}, // the states in which an invitation has ended
}

// Problems returns the statuses of every problem code in the text of
// docs/problems.md.
func Problems(page string) map[string][]string {
	codes := map[string][]string{}
	for _, m := range problemRow.FindAllStringSubmatch(page, -1) {
		codes[m[1]] = append(codes[m[1]], strings.Split(m[2], ", ")...)
	}
	return codes
}

// CheckProblems returns the problem codes that the code uses and the page does
// not list, those that the page lists and nothing uses, and the places where it
// can't tell which code is used.
func CheckProblems(fsys fs.FS) ([]string, error) {
	page, err := fs.ReadFile(fsys, problemPage)
	if err != nil {
		return nil, err
	}
	listed := Problems(string(page))
	sources := map[string]*source{}
	var broken error
	err = eachFile(fsys, func(name string, content []byte) {
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata/") {
			return
		}
		folder := path.Dir(name)
		if sources[folder] == nil {
			sources[folder] = &source{folder: folder, fset: token.NewFileSet(), used: map[string]bool{}}
		}
		s := sources[folder]
		file, err := parser.ParseFile(s.fset, name, content, parser.SkipObjectResolution)
		if err != nil {
			broken = err
			return
		}
		s.files = append(s.files, file)
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return nil, err
	}
	var found []string
	used := map[string]bool{}
	for _, folder := range slices.Sorted(maps.Keys(sources)) {
		s := sources[folder]
		s.collect()
		found = append(found, s.unclear...)
		for _, code := range slices.Sorted(maps.Keys(s.used)) {
			if used[code] = true; listed[code] == nil {
				found = append(found, fmt.Sprintf("%s uses the code %s, which %s does not list", folder, code, problemPage))
			}
		}
	}
	for _, code := range slices.Sorted(maps.Keys(listed)) {
		if !used[code] {
			found = append(found, problemPage+" lists the code "+code+", which nothing uses")
		}
	}
	return found, nil
}

// source is a package as far as problem codes need it.
type source struct {
	folder  string
	fset    *token.FileSet
	files   []*ast.File
	used    map[string]bool
	unclear []string
}

// collect finds the codes in all files that can name package problem.
func (s *source) collect() {
	for _, file := range s.files {
		qualifier := ""
		for _, imp := range file.Imports {
			if imp.Path.Value == strconv.Quote(Module+"/"+problemPackage) {
				qualifier = path.Base(problemPackage)
				if imp.Name != nil {
					qualifier = imp.Name.Name
				}
			}
		}
		if qualifier == "" && s.folder != problemPackage {
			continue
		}
		for _, decl := range file.Decls {
			f, _ := decl.(*ast.FuncDecl)
			if f != nil && s.folder == problemPackage && (f.Name.Name == "New" || f.Name.Name == "Wrap") {
				continue // their callers say which code
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				if code := codeOf(n, qualifier); code != nil {
					s.add(code, f)
				}
				return true
			})
		}
	}
}

// codeOf returns the expression of the problem code in n, or nil: an argument
// of problem.New or problem.Wrap, the field Code of a problem.Error literal, or
// what is assigned to the field Code of something.
func codeOf(n ast.Node, qualifier string) ast.Expr {
	switch n := n.(type) {
	case *ast.CallExpr:
		switch name := qualified(n.Fun, qualifier); {
		case name == "New" && len(n.Args) == 3:
			return n.Args[1]
		case name == "Wrap" && len(n.Args) == 4:
			return n.Args[2]
		}
	case *ast.CompositeLit:
		if qualified(n.Type, qualifier) != "Error" {
			return nil
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok && qualified(kv.Key, "") == "Code" {
				return kv.Value
			}
		}
	case *ast.AssignStmt:
		for i, left := range n.Lhs {
			if selector, ok := left.(*ast.SelectorExpr); ok && selector.Sel.Name == "Code" && i < len(n.Rhs) {
				return n.Rhs[i]
			}
		}
	}
	return nil
}

// qualified returns X of qualifier.X, or of X itself if there is no qualifier.
func qualified(e ast.Expr, qualifier string) string {
	switch e := e.(type) {
	case *ast.Ident:
		if qualifier == "" {
			return e.Name
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && x.Name == qualifier {
			return e.Sel.Name
		}
	}
	return ""
}

// add notes the codes that an expression inside f can be.
func (s *source) add(e ast.Expr, f *ast.FuncDecl) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if code, err := strconv.Unquote(e.Value); err == nil {
			if code != "" {
				s.used[code] = true
			}
			return
		}
	case *ast.BinaryExpr:
		if prefix, ok := e.X.(*ast.BasicLit); ok {
			text, _ := strconv.Unquote(prefix.Value)
			for _, end := range composed[text] {
				s.used[text+end] = true
			}
			if composed[text] != nil {
				return
			}
		}
	case *ast.IndexExpr:
		if s.addColumn(e, f) {
			return
		}
	case *ast.Ident:
		if s.addConstant(e.Name, f) || s.addArguments(e.Name, f) || s.addResults(e.Name, f) {
			return
		}
	}
	s.unclear = append(s.unclear, s.fset.Position(e.Pos()).String()+": can't tell which problem code this is")
}

// declared calls do for every constant or variable of that name with a value,
// in the package or in a function.
func (s *source) declared(name string, do func(value ast.Expr)) {
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok {
				for i, ident := range spec.Names {
					if ident.Name == name && i < len(spec.Values) {
						do(spec.Values[i])
					}
				}
			}
			return true
		})
	}
}

// addConstant adds the value of a constant.
func (s *source) addConstant(name string, f *ast.FuncDecl) (ok bool) {
	s.declared(name, func(value ast.Expr) {
		if _, literal := value.(*ast.BasicLit); literal {
			s.add(value, f)
			ok = true
		}
	})
	return ok
}

// addColumn adds what table[key][n] can be, of a table written out in the package.
func (s *source) addColumn(e *ast.IndexExpr, f *ast.FuncDecl) (ok bool) {
	row, isRow := e.X.(*ast.IndexExpr)
	n, isNumber := e.Index.(*ast.BasicLit)
	if !isRow || !isNumber {
		return false
	}
	column, err := strconv.Atoi(n.Value)
	if err != nil {
		return false
	}
	s.declared(qualified(row.X, ""), func(value ast.Expr) {
		table, _ := value.(*ast.CompositeLit)
		if table == nil {
			return
		}
		for _, element := range table.Elts {
			if kv, isPair := element.(*ast.KeyValueExpr); isPair {
				if cells, isCells := kv.Value.(*ast.CompositeLit); isCells && column < len(cells.Elts) {
					s.add(cells.Elts[column], f)
					ok = true
				}
			}
		}
	})
	return ok
}

// addArguments adds what the package's calls of f pass for a parameter.
func (s *source) addArguments(name string, f *ast.FuncDecl) (ok bool) {
	at := position(f, name)
	if at < 0 {
		return false
	}
	for _, file := range s.files {
		for _, decl := range file.Decls {
			caller, _ := decl.(*ast.FuncDecl)
			ast.Inspect(decl, func(n ast.Node) bool {
				if call, isCall := n.(*ast.CallExpr); isCall && called(call) == f.Name.Name && at < len(call.Args) {
					s.add(call.Args[at], caller)
					ok = true
				}
				return true
			})
		}
	}
	return ok
}

// addResults adds what a function of the package returns for a variable of f.
func (s *source) addResults(name string, f *ast.FuncDecl) (ok bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		assign, isAssign := n.(*ast.AssignStmt)
		if !isAssign || len(assign.Rhs) != 1 {
			return true
		}
		call, isCall := assign.Rhs[0].(*ast.CallExpr)
		at := slices.IndexFunc(assign.Lhs, func(e ast.Expr) bool { return qualified(e, "") == name })
		if !isCall || at < 0 {
			return true
		}
		for _, file := range s.files {
			for _, decl := range file.Decls {
				callee, _ := decl.(*ast.FuncDecl)
				if callee == nil || callee.Name.Name != called(call) {
					continue
				}
				ast.Inspect(callee, func(n ast.Node) bool {
					if r, isReturn := n.(*ast.ReturnStmt); isReturn && at < len(r.Results) {
						s.add(r.Results[at], callee)
						ok = true
					}
					return true
				})
			}
		}
		return true
	})
	return ok
}

// called returns the name of the function or method of a call.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// position returns which parameter of f has the name, or -1.
func position(f *ast.FuncDecl, name string) int {
	if f == nil {
		return -1
	}
	var names []string
	for _, field := range f.Type.Params.List {
		for _, ident := range field.Names {
			names = append(names, ident.Name)
		}
	}
	return slices.Index(names, name)
}
