// Package permission is the permission table: who may do what with which
// feature of which product, in which tenant. It reads the table from the
// database into an immutable [Snapshot], keeps that current with a [Table],
// and decides from it without I/O, locks or allocation.
//
// The path of a decision is tenant → member's role → bit for (feature, action).
// What the table doesn't hold is denied.
package permission

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// MaxActions is how many actions one feature may declare.
const MaxActions = 16

// The actions that every feature starts with.
const (
	Read   = "read"
	Write  = "write"
	Delete = "delete"
)

// Permission names one right: an action on a feature of a product.
type Permission struct {
	Product, Feature, Action string
}

// String returns the permission as product/feature/action.
func (p Permission) String() string { return p.Product + "/" + p.Feature + "/" + p.Action }

// ParsePermission reads product/feature/action. A wildcard is no permission.
func ParsePermission(s string) (Permission, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Permission{}, fmt.Errorf("give the permission as product/feature/action, not %q", s)
	}
	p := Permission{parts[0], parts[1], parts[2]}
	return p, p.Validate()
}

// Validate returns an error that names the first part that isn't a [ValidName].
func (p Permission) Validate() error {
	for _, part := range []struct{ kind, name string }{{"product", p.Product}, {"feature", p.Feature}, {"action", p.Action}} {
		if !ValidName(part.name) {
			return fmt.Errorf("%s %q is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit", part.kind, part.name)
		}
	}
	return nil
}

// Reason says why a decision came out as it did. The values are stable: they
// stand in logs and in problem bodies.
type Reason string

// The reasons of a [Decision].
const (
	// Allowed is the one reason that allows.
	Allowed Reason = "allowed"
	// UnknownProduct means that the table has no such product.
	UnknownProduct Reason = "unknown_product"
	// UnknownFeature means that the product has no such feature.
	UnknownFeature Reason = "unknown_feature"
	// UnknownAction means that the feature declares no such action.
	UnknownAction Reason = "unknown_action"
	// UnknownTenant means that there is no such tenant.
	UnknownTenant Reason = "unknown_tenant"
	// NotAMember means that the user is no active member of the tenant or,
	// with roles from claims, that the tenant has none of these roles.
	NotAMember Reason = "not_a_member"
	// TenantSuspended means that the tenant was suspended: nobody may do
	// anything in it. Only members are told.
	TenantSuspended Reason = "tenant_suspended"
	// RoleLacksAction means that the user's role doesn't hold the permission.
	RoleLacksAction Reason = "role_lacks_action"
)

// Decision is the answer to one question. The zero value denies.
type Decision struct {
	// Allowed is true only with the reason [Allowed].
	Allowed bool
	// Reason says why.
	Reason Reason

	// What was looked at is kept as it is: most callers need no names.
	tenant    *tenant
	catalogue *catalogue
	role, bit int32
}

// Role returns the name of the role that decided, empty if none did.
func (d Decision) Role() string {
	if d.tenant == nil {
		return ""
	}
	return d.tenant.roles.list[d.role].name
}

// Rule returns in one line what allowed, for logs: the role, the roles it
// inherits from down to the one that holds the permission, and what that one
// holds it by, such as "Editor: abc/reports/read", "Manager > Editor: abc/*/*"
// or "Owner: owner". It is empty if nothing allowed.
func (d Decision) Rule() string { return Rule(d.trace()) }

func (d Decision) trace() (path []string, row string) {
	if !d.Allowed || d.tenant == nil {
		return nil, ""
	}
	return d.tenant.roles.trace(int(d.role), int(d.bit), d.catalogue)
}

// ValidName reports whether s may name a product, a feature or an action: 1 to
// 63 bytes of a-z, 0-9, "_" and "-", the first a letter or digit.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '_' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// ValidRole reports whether s may name a role. Role names are shown to people
// ("Admin", "Support level 2") and stand in the header X-Roles, a list with
// commas: 1 to 63 bytes of letters, digits, space, ".", "_" and "-" in ASCII,
// with a letter or digit at either end.
func ValidRole(s string) bool {
	if s == "" || len(s) > 63 || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && !strings.ContainsRune(" ._-", rune(s[i])) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// ActionOf returns the action that an HTTP method stands for: read for GET,
// HEAD and OPTIONS, write for POST, PUT and PATCH, delete for DELETE. Methods
// are compared as RFC 9110 section 9.1 says, with case: "get" is none of them.
func ActionOf(method string) (action string, ok bool) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return Read, true
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return Write, true
	case http.MethodDelete:
		return Delete, true
	}
	return "", false
}

// ParseActions returns the names in a feature's list of actions, as the column
// features.actions holds it ("read,write,delete"). With an error it also
// returns those that are usable.
func ParseActions(list string) ([]string, error) {
	var (
		actions []string
		errs    []error
	)
	for name := range strings.SplitSeq(list, ",") {
		switch {
		case !ValidName(name):
			errs = append(errs, fmt.Errorf("action %q is not a valid name", name))
		case slices.Contains(actions, name):
			errs = append(errs, fmt.Errorf("action %q stands there twice", name))
		case len(actions) == MaxActions:
			return actions, errors.Join(append(errs, fmt.Errorf("a feature has at most %d actions", MaxActions))...)
		default:
			actions = append(actions, name)
		}
	}
	return actions, errors.Join(errs...)
}
