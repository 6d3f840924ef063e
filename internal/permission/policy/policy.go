// Package policy is the permission table as operators work with it: a file that
// holds products, roles and members, its differences from the database or from
// another file, expectations that a table must meet, and the words that say why
// a decision came out as it did.
//
// A [Policy] is what a file says or what the database holds. [Parse] and [Load]
// make one, [Policy.Encode] writes it, [Compare] finds what differs, [Import]
// makes the database so, [Policy.Check] asks it questions.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

const (
	// MaxSize is how many bytes a file may have.
	MaxSize = 32 << 20
	// maxTenantName is the longest name of a tenant in code points.
	maxTenantName = 100
	// maxUserID is the longest id of a user in bytes (see identity.Principal).
	maxUserID = 255
	// ownerName is how a new tenant's owner role is called, unless the file says.
	ownerName = "Owner"
)

// Policy is a permission table. From a file it holds what the file names; what
// is nil in it was not said.
type Policy struct {
	// Products by name; nil if the file has no section products.
	Products map[string]*Product
	// Tenants by name. In a file a key of digits is a tenant's id.
	Tenants map[string]*Tenant
}

// Product is a product with its features by name.
type Product struct {
	Features map[string]*Feature

	id  int64 // in the database, 0 if it is not there
	pos pos
}

// Feature is a feature with the actions that it has beside read, write and
// delete, sorted.
type Feature struct {
	Extra []string

	id  int64
	pos pos
}

// actions returns all actions of the feature.
func (f *Feature) actions() []string {
	return append([]string{permission.Read, permission.Write, permission.Delete}, f.Extra...)
}

// Tenant is a tenant's part of the table.
type Tenant struct {
	// Status is identity.StatusActive or StatusSuspended, empty if not said.
	Status string
	// Roles by name; nil if not said.
	Roles map[string]*Role
	// Members by [memberKey]; nil if not said or not loaded.
	Members map[string]*Member

	id     int64
	counts map[string]count // members by role's name, from the database
	pos    pos
}

// Role is what a role holds.
type Role struct {
	// Owner says that it is the tenant's built-in owner, which may do everything
	// but run the installation.
	Owner bool
	// Inherits are the names of the roles from which it inherits.
	Inherits map[string]bool
	// Permissions are the rows of the role itself.
	Permissions map[permission.Pattern]bool

	id      int64
	pos     pos
	parents map[string]pos             // where the file names them
	rows    map[permission.Pattern]pos // where the file names them
}

// Member is one user's place in a tenant.
type Member struct {
	Role string

	userID   string // known after the database was asked
	disabled bool   // the account
	pos      pos
}

// count is how many members a role has.
type count struct{ all, active int }

// pos is a place in a file and how the field there is called; the zero value is none.
type pos struct {
	line int
	path string
}

// idPrefix marks a member's key that is a user's id although it has an "@".
const idPrefix = "id:"

// memberKey returns how a file names a user: by the canonical e-mail address,
// or, if the account has none, by its id.
func memberKey(userID, emailKey string) string {
	if canonical, err := identity.EmailKey(emailKey); err == nil && canonical == emailKey {
		return emailKey
	}
	return idKey(userID)
}

// idKey returns how a file names a user by id.
func idKey(userID string) string {
	if strings.Contains(userID, "@") || strings.HasPrefix(userID, idPrefix) {
		return idPrefix + userID
	}
	return userID
}

// parseMember returns the key of what a file or a command calls a user: an
// e-mail address, or an id, which is written id:… if it has an "@". byEmail
// tells which, value is the canonical address or the id.
func parseMember(text string) (value string, byEmail bool, err error) {
	if id, ok := strings.CutPrefix(text, idPrefix); ok {
		text = id
	} else if strings.Contains(text, "@") {
		if value, err = identity.EmailKey(text); err != nil {
			return "", false, fmt.Errorf("%q is no e-mail address; write a user id that has an @ as id:%s", text, text)
		}
		return value, true, nil
	}
	invisible := func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }
	if text == "" || len(text) > maxUserID || strings.ContainsFunc(text, invisible) {
		return "", false, fmt.Errorf("%q is no user: give an e-mail address or a user id of at most %d bytes", text, maxUserID)
	}
	return text, false, nil
}

// parseTenantID returns the id that a text of digits is. Names of tenants have more than digits.
func parseTenantID(text string) (id int64, ok bool) {
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id > 0 && strconv.FormatInt(id, 10) == text
}

// checkTenantName says what is wrong with a tenant's name or id.
func checkTenantName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a tenant needs a name")
	case utf8.RuneCountInString(name) > maxTenantName:
		return fmt.Errorf("%q is no tenant's name: use at most %d characters", name, maxTenantName)
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }):
		return fmt.Errorf("%q is no tenant's name: use visible characters, without spaces at the ends", name)
	case strings.Trim(name, "0123456789") == "":
		if _, ok := parseTenantID(name); !ok {
			return fmt.Errorf("%q is no tenant's id: write it without zeros in front", name)
		}
	}
	return nil
}

// sorted returns the keys of a map in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// sortedPatterns returns the patterns in the order of their text.
func sortedPatterns[V any](m map[permission.Pattern]V) []permission.Pattern {
	return slices.SortedFunc(maps.Keys(m), func(a, b permission.Pattern) int { return strings.Compare(a.String(), b.String()) })
}
