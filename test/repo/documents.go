package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

var (
	fence      = regexp.MustCompile("^ {0,3}(```+|~~~+)")
	heading    = regexp.MustCompile(`^#{1,6}\s+(.*?)\s*#*$`)
	codeSpan   = regexp.MustCompile("`+[^`]+`+")
	inlineLink = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)`)
	refLink    = regexp.MustCompile(`^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)`)
	htmlAnchor = regexp.MustCompile(`<a\s+(?:id|name)="([^"]+)"`)
	linkText   = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
	scheme     = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*:`)
	makeTarget = regexp.MustCompile(`^([a-zA-Z0-9_-]+):`)
	makeLine   = regexp.MustCompile(`^\s*(?:\$ )?make ([a-z][a-z0-9-]*)`)
	makeSpan   = regexp.MustCompile("`make ([a-z][a-z0-9-]*)[^`]*`")
)

// document is a Markdown file taken apart: its prose line by line, with code
// blanked, the lines of its code blocks, and the anchors that can be linked to.
type document struct {
	prose   []string
	code    []string
	anchors map[string]bool
}

// parseDocument splits Markdown into prose, code and anchors.
func parseDocument(text string) document {
	doc := document{anchors: map[string]bool{}}
	open := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if mark := fence.FindStringSubmatch(line); mark != nil && (open == "" || strings.HasPrefix(mark[1], open)) {
			if open == "" {
				open = mark[1]
			} else {
				open = ""
			}
			doc.prose = append(doc.prose, "")
			continue
		}
		if open != "" {
			doc.code = append(doc.code, line)
			doc.prose = append(doc.prose, "")
			continue
		}
		doc.prose = append(doc.prose, line)
		for _, m := range htmlAnchor.FindAllStringSubmatch(line, -1) {
			doc.anchors[m[1]] = true
		}
		if m := heading.FindStringSubmatch(line); m != nil {
			doc.addHeading(m[1])
		}
	}
	return doc
}

// addHeading adds the heading's anchor; a repeated one gets a number.
func (d document) addHeading(text string) {
	slug := anchorOf(text)
	for i := 0; ; i++ {
		name := slug
		if i > 0 {
			name = fmt.Sprintf("%s-%d", slug, i)
		}
		if !d.anchors[name] {
			d.anchors[name] = true
			return
		}
	}
}

// anchorOf returns the anchor that GitHub gives a heading: lower case, letters,
// digits, hyphens and underscores kept, spaces made hyphens, the rest dropped.
func anchorOf(headingText string) string {
	text := linkText.ReplaceAllString(headingText, "$1")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

// CheckLinks returns every relative link and anchor in the Markdown files of
// fsys that leads nowhere. Links to other hosts are not followed.
func CheckLinks(fsys fs.FS) ([]string, error) {
	docs := map[string]document{}
	var names []string
	err := eachFile(fsys, func(name string, content []byte) {
		if path.Ext(name) == ".md" {
			names = append(names, name)
			docs[name] = parseDocument(string(content))
		}
	})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		for i, line := range docs[name].prose {
			for _, target := range linksIn(line) {
				if why := deadLink(fsys, docs, name, target); why != "" {
					found = append(found, fmt.Sprintf("%s:%d: link %s: %s", name, i+1, target, why))
				}
			}
		}
	}
	return found, nil
}

// linksIn returns the targets of the links in one line of prose.
func linksIn(line string) []string {
	line = codeSpan.ReplaceAllString(line, "")
	var targets []string
	for _, m := range inlineLink.FindAllStringSubmatch(line, -1) {
		targets = append(targets, m[1])
	}
	if m := refLink.FindStringSubmatch(line); m != nil {
		targets = append(targets, m[1])
	}
	return targets
}

// deadLink says why target, written in the document from, leads nowhere, or "".
func deadLink(fsys fs.FS, docs map[string]document, from, target string) string {
	if scheme.MatchString(target) {
		return ""
	}
	file, anchor, hasAnchor := strings.Cut(target, "#")
	name := from
	if file != "" {
		if path.IsAbs(file) {
			return "absolute path; write it relative to this file"
		}
		name = path.Join(path.Dir(from), file)
		if !fs.ValidPath(name) {
			return "leaves the repository"
		}
		if _, err := fs.Stat(fsys, name); err != nil {
			return "no such file"
		}
	}
	if doc, ok := docs[name]; hasAnchor && (!ok || !doc.anchors[anchor]) {
		return "no such heading in " + name
	}
	return ""
}

// CheckMakeTargets returns every `make X` in the Markdown files of fsys, in
// code spans and code blocks, for which the Makefile has no target X.
func CheckMakeTargets(fsys fs.FS) ([]string, error) {
	makefile, err := fs.ReadFile(fsys, "Makefile")
	if err != nil {
		return nil, fmt.Errorf("read the Makefile: %w", err)
	}
	targets := map[string]bool{}
	for line := range strings.Lines(string(makefile)) {
		if m := makeTarget.FindStringSubmatch(line); m != nil {
			targets[m[1]] = true
		}
	}
	var found []string
	err = eachFile(fsys, func(name string, content []byte) {
		if path.Ext(name) != ".md" {
			return
		}
		for _, target := range makeMentions(parseDocument(string(content))) {
			if !targets[target] {
				found = append(found, fmt.Sprintf("%s: `make %s`: the Makefile has no such target", name, target))
			}
		}
	})
	return found, err
}

// makeMentions returns the targets of the make commands in a document.
func makeMentions(doc document) []string {
	var targets []string
	for _, line := range doc.code {
		if m := makeLine.FindStringSubmatch(line); m != nil {
			targets = append(targets, m[1])
		}
	}
	for _, line := range doc.prose {
		for _, m := range makeSpan.FindAllStringSubmatch(line, -1) {
			targets = append(targets, m[1])
		}
	}
	return targets
}

// ignored are the top-level folders that hold no sources.
var ignored = []string{".git", "bin", "data"}

// eachFile calls f with every source file of fsys in lexical order. It reads
// neither what .gitignore keeps out nor what rapid notes of a failed run.
func eachFile(fsys fs.FS, f func(name string, content []byte)) error {
	return fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		if entry.IsDir() {
			if slices.Contains(ignored, name) || strings.HasSuffix(name, "testdata/rapid") {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := fs.ReadFile(fsys, name)
		if err != nil {
			return gone(err)
		}
		f(name, content)
		return nil
	})
}

// gone forgives a file that vanished after its folder was read: other tests
// run at the same time.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
