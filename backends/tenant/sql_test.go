package tenant_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSQLParametersAppearInOrder: SQLite numbers $2,$1 by first appearance, so
// parameters out of order would swap their values in silence. Surplus
// arguments are ignored as silently, but a number that is left out shows here.
func TestSQLParametersAppearInOrder(t *testing.T) {
	t.Parallel()
	parameter := regexp.MustCompile(`\$(\d+)`)
	statements := 0
	for _, folder := range []string{".", "rights", "../auth", "../seed"} {
		for name, text := range constants(t, folder) {
			if !regexp.MustCompile(`^(SELECT|INSERT|UPDATE|DELETE|WITH) `).MatchString(text) {
				continue
			}
			statements++
			next := 1
			for _, match := range parameter.FindAllStringSubmatch(text, -1) {
				n, err := strconv.Atoi(match[1])
				require.NoError(t, err)
				require.LessOrEqual(t, n, next, "%s/%s: $%d comes before $%d", folder, name, n, next)
				if n == next {
					next++
				}
			}
		}
	}
	require.Greater(t, statements, 50)
}

// TestTenantTablesAreAlwaysScoped: a statement of this service that touches a
// tenant's rows names tenant_id, unless it is about what a user or operator has
// everywhere.
func TestTenantTablesAreAlwaysScoped(t *testing.T) {
	t.Parallel()
	owned := regexp.MustCompile(`(FROM|JOIN|INTO|UPDATE) (roles|memberships|role_feature_permissions|role_wildcards|role_parents|invitations|audit_events)\b`)
	acrossTenants := map[string]bool{
		"operatorsExist": true, // anybody who runs the installation
		"deleteAction":   true, // an action left the catalogue
	}
	for _, folder := range []string{".", "rights"} {
		for name, text := range constants(t, folder) {
			if owned.MatchString(text) && !acrossTenants[name] {
				require.Contains(t, text, "tenant_id", name)
			}
		}
	}
}

// constants returns the string constants of a package, with those they are
// made of put in.
func constants(t *testing.T, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	require.NoError(t, err)
	values := map[string]ast.Expr{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.CONST {
				for _, spec := range d.Specs {
					if s := spec.(*ast.ValueSpec); len(s.Values) == 1 {
						values[s.Names[0].Name] = s.Values[0]
					}
				}
			}
		}
	}
	var text func(ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, _ := strconv.Unquote(e.Value)
			return s
		case *ast.Ident:
			return text(values[e.Name])
		case *ast.BinaryExpr:
			return text(e.X) + text(e.Y)
		}
		return ""
	}
	all := map[string]string{}
	for name, e := range values {
		all[name] = text(e)
	}
	return all
}
