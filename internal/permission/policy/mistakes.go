package policy

import (
	"fmt"
	"strings"
)

// maxMistakes is how many mistakes of one file are told.
const maxMistakes = 20

// Mistake is one thing that is wrong with a file.
type Mistake struct {
	// File is the name it was given, Line counts from 1; 0 is the file as a whole.
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	// Field is where it stands, such as tenants.acme.roles.Editor.inherits.
	Field string `json:"field,omitempty"`
	// Detail says what is wrong and what to do.
	Detail string `json:"detail"`
}

// String returns the mistake as file:line: field: detail.
func (m Mistake) String() string {
	text := m.File + ":"
	if m.Line > 0 {
		text += fmt.Sprintf("%d:", m.Line)
	}
	if m.Field != "" {
		text += " " + m.Field + ":"
	}
	return text + " " + m.Detail
}

// Mistakes is the error of a file that can't be used. There is at least one.
type Mistakes []Mistake

// Error returns the first mistake and how many follow.
func (m Mistakes) Error() string {
	if len(m) == 1 {
		return m[0].String()
	}
	return fmt.Sprintf("%s (and %d more)", m[0], len(m)-1)
}

// finder collects mistakes.
type finder struct {
	file  string
	found Mistakes
}

func (f *finder) add(p pos, format string, args ...any) {
	if len(f.found) < maxMistakes {
		f.found = append(f.found, Mistake{File: f.file, Line: p.line, Field: p.path, Detail: fmt.Sprintf(format, args...)})
	}
}

// err returns what was found, or nil.
func (f *finder) err() error {
	if len(f.found) == 0 {
		return nil
	}
	return f.found
}

// list names things in a sentence: "a, b or c".
func list(names []string, last string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " " + last + " " + names[len(names)-1]
}
