package tenant

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// maxTenantName is the longest name of a tenant in code points.
const maxTenantName = 100

// maxUserID is the longest user id in bytes (see identity.Principal).
const maxUserID = 255

// maxNote is the longest note on a dashboard in code points.
const maxNote = 500

// fault collects what is wrong with a request's body.
type fault []problem.Field

func (f *fault) add(pointer, code, detail string) {
	*f = append(*f, problem.Field{Pointer: pointer, Code: code, Detail: detail})
}

func (f *fault) required(pointer string) { f.add(pointer, "required", "This field is required.") }

// problem returns the 422 problem, or nil if nothing is wrong.
func (f *fault) problem() error {
	if len(*f) == 0 {
		return nil
	}
	return server.Invalid(*f...)
}

// tenantName checks a tenant's name.
func (f *fault) tenantName(pointer, name string) {
	if code, detail := CheckName(name); code != "" {
		f.add(pointer, code, detail)
	}
}

// CheckName returns the code of the rule that a tenant's name breaks and what to
// do about it, or "". A name is text for people on one line. One of digits would
// look like an id where either may be given.
func CheckName(name string) (code, detail string) {
	switch {
	case name == "":
		return "required", "This field is required."
	case utf8.RuneCountInString(name) > maxTenantName:
		return "too-long", "Use at most " + strconv.Itoa(maxTenantName) + " characters."
	case !printable(name) || strings.TrimSpace(name) != name:
		return "invalid", "Use visible characters, without spaces at the ends."
	case strings.Trim(name, "0123456789") == "":
		return "invalid", "Use more than digits: a tenant's id is a number."
	}
	return "", ""
}

// role checks a role's name, which stands in the header X-Roles.
func (f *fault) role(pointer, name string) {
	switch {
	case name == "":
		f.required(pointer)
	case !permission.ValidRole(name):
		f.add(pointer, "invalid", `Use 1 to 63 ASCII letters, digits, spaces, ".", "_" and "-", with a letter or digit at either end.`)
	}
}

// name checks the name of a product, a feature or an action.
func (f *fault) name(pointer, name string) {
	switch {
	case name == "":
		f.required(pointer)
	case !permission.ValidName(name):
		f.add(pointer, "invalid", "Use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit.")
	}
}

// right checks what a grant names.
func (f *fault) right(pointer string, p permission.Pattern, known catalogue) {
	switch err := p.Validate(); {
	case p == permission.Pattern{}:
		f.required(pointer)
	case err != nil:
		f.add(pointer, "invalid", "Give names as they are in the catalogue, or * for all: "+err.Error()+".")
	case p.Product == builtInProduct && p.Feature == featurePlatform && p.Action == permission.Any:
		f.add(pointer, "invalid", "Name the action: rights to run the installation are given one by one.")
	case !known.has(p):
		f.add(pointer, "unknown", "The catalogue has no "+strconv.Quote(p.String())+".")
	}
}

// printable reports whether s is one line of text without characters that
// nobody sees: no controls, no bidi overrides, no zero-width spaces.
func printable(s string) bool {
	for _, c := range s {
		if !unicode.IsPrint(c) || c == utf8.RuneError {
			return false
		}
	}
	return true
}
