package repo_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/test/repo"
)

// root is the repository, seen from this folder.
const root = "../.."

func TestDependenciesPointOneWay(t *testing.T) {
	t.Parallel()
	require.Empty(t, repo.CheckDependencies(packages(t)))
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	require.Empty(t, repo.CheckPackages(packages(t)))
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckLinks(os.DirFS(root))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestDocumentedMakeTargetsExist(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckMakeTargets(os.DirFS(root))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestModuleFoldersHaveAReadme(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckModuleFolders(os.DirFS(root))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestNoUnfinishedWork(t *testing.T) {
	t.Parallel()
	found, err := repo.CheckWords(os.DirFS(root))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestXcaddyBuildsTheCaddyOfGoMod(t *testing.T) {
	t.Parallel()
	require.Empty(t, repo.CheckXcaddy(read(t, "xcaddy.txt"), requirements(t)))
}

func TestEveryDependencyIsExplained(t *testing.T) {
	t.Parallel()
	require.Empty(t, repo.CheckDependencyPage(read(t, "docs/dependencies.md"), requirements(t)))
}

func packages(t *testing.T) []repo.Package {
	t.Helper()
	pkgs, err := repo.ListPackages(t.Context(), root)
	require.NoError(t, err)
	require.Greater(t, len(pkgs), 10, "go list must have seen the whole module")
	return pkgs
}

func requirements(t *testing.T) []repo.Requirement {
	t.Helper()
	required, err := repo.ListRequirements(t.Context(), root)
	require.NoError(t, err)
	require.NotEmpty(t, required)
	return required
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(root + "/" + name)
	require.NoError(t, err)
	return string(content)
}
