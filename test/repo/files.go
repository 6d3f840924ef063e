package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
)

// xcaddyForm is the one form of xcaddy.txt that builds from a checkout: the
// made-up version keeps the go command from asking for ours anywhere else.
const xcaddyForm = "build %s --with " + Module + "@v0.0.0=."

// Requirement is one line of go.mod's require blocks.
type Requirement struct {
	Path, Version string
	// Indirect is set when no package of ours imports the module itself.
	Indirect bool
}

// ListRequirements asks the go command what the go.mod in dir requires.
func ListRequirements(ctx context.Context, dir string) ([]Requirement, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "edit", "-json")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod edit -json: %w", err)
	}
	var file struct {
		Require []Requirement
	}
	if err := json.Unmarshal(out, &file); err != nil {
		return nil, fmt.Errorf("read go mod edit -json: %w", err)
	}
	return file.Require, nil
}

// CheckXcaddy returns what is wrong with the text of xcaddy.txt: it names the
// Caddy version that go.mod requires, in the form that builds.
func CheckXcaddy(xcaddy string, required []Requirement) []string {
	for _, r := range required {
		if r.Path != caddy+"/v2" {
			continue
		}
		if got, want := strings.TrimSpace(xcaddy), fmt.Sprintf(xcaddyForm, r.Version); got != want {
			return []string{fmt.Sprintf("xcaddy.txt is %q, go.mod asks for %q", got, want)}
		}
		return nil
	}
	return []string{"go.mod does not require " + caddy + "/v2"}
}

// CheckDependencyPage returns the modules that are required directly and that
// the text of docs/dependencies.md does not name.
func CheckDependencyPage(page string, required []Requirement) []string {
	var found []string
	for _, r := range required {
		if !r.Indirect && !strings.Contains(page, "`"+r.Path+"`") {
			found = append(found, "docs/dependencies.md has no line for "+r.Path)
		}
	}
	return found
}

// CheckModuleFolders returns the folders under caddymodules that register a
// Caddy module and have no README.md.
func CheckModuleFolders(fsys fs.FS) ([]string, error) {
	var folders []string
	err := eachFile(fsys, func(name string, content []byte) {
		if strings.HasPrefix(name, "caddymodules/") && path.Ext(name) == ".go" &&
			!strings.HasSuffix(name, "_test.go") && bytes.Contains(content, []byte("caddy.RegisterModule(")) {
			folders = append(folders, path.Dir(name))
		}
	})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, folder := range slices.Compact(folders) {
		if _, err := fs.Stat(fsys, folder+"/README.md"); err != nil {
			found = append(found, folder+" registers a Caddy module and has no README.md")
		}
	}
	return found, nil
}

// unwanted are words that mean unfinished work or a slip, with the reason.
// The patterns are spelled so that this file does not match itself.
var unwanted = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|HA` + `CK)\b`), "finish it, or open an issue and say what is missing"},
	{regexp.MustCompile(`(?m)^(<{7}|>{7}) `), "merge conflict"},
	{regexp.MustCompile(`(^|[\s"'=(` + "`" + `])/(root|work|home/[a-z]+)/`), "a path of one machine"},
	{regexp.MustCompile(`(?i)lorem` + ` ipsum`), "filler text"},
}

// CheckWords returns the lines of the text files of fsys that hold an unwanted
// word. Licence texts and checksums are not read.
func CheckWords(fsys fs.FS) ([]string, error) {
	var found []string
	err := eachFile(fsys, func(name string, content []byte) {
		if path.Ext(name) == ".sum" || bytes.IndexByte(content, 0) >= 0 {
			return
		}
		number := 0
		for line := range strings.Lines(string(content)) {
			number++
			for _, word := range unwanted {
				if match := word.pattern.FindString(line); match != "" {
					found = append(found, fmt.Sprintf("%s:%d: %q: %s", name, number, strings.TrimSpace(match), word.why))
				}
			}
		}
	})
	return found, err
}
