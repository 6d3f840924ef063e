package permission

import (
	"cmp"
	"fmt"
	"strings"
)

// Any stands in a [Pattern] for every product, feature or action.
const Any = "*"

// The gateway's own product, whose features guard its APIs, and the one among
// them that runs the installation.
const (
	OwnProduct      = "tenantgate"
	PlatformFeature = "platform"
)

// Pattern names one permission or, by [Any], many: also those of products and
// features that are added later. The rights to run the installation
// (tenantgate/platform) are never meant by a wildcard, only by their names.
type Pattern struct {
	Product, Feature, Action string
}

// Everything is the pattern of all permissions but those to run the
// installation: what the built-in owner of a tenant holds in it.
var Everything = Pattern{Any, Any, Any}

// ParsePattern reads product/feature/action. Parts at the end that are "*" may
// be left out after the first of them: "abc/*" is "abc/*/*" and "*" is "*/*/*".
// "abc/*/read" is reading everything of abc, "*/*/read" reading everything.
func ParsePattern(s string) (Pattern, error) {
	parts := strings.Split(s, "/")
	if n := len(parts); n < 3 && parts[n-1] == Any {
		for len(parts) < 3 {
			parts = append(parts, Any)
		}
	}
	if len(parts) != 3 {
		return Pattern{}, fmt.Errorf("permission %q: write product/feature/action, or product/* or * for all below", s)
	}
	p := Pattern{parts[0], parts[1], parts[2]}
	if err := p.Validate(); err != nil {
		return Pattern{}, fmt.Errorf("permission %q: %w", s, err)
	}
	return p, nil
}

// Validate returns an error that names the first part that is neither a
// [ValidName] nor [Any], or a feature of every product.
func (p Pattern) Validate() error {
	if p.Product == Any && p.Feature != Any {
		return fmt.Errorf("feature %q of every product: name the product, or write * for the feature too", p.Feature)
	}
	named := Permission(p)
	for _, part := range []*string{&named.Product, &named.Feature, &named.Action} {
		if *part == Any {
			*part = Read // any valid name
		}
	}
	return named.Validate()
}

// String returns the pattern as product/feature/action, all three parts: there
// is one spelling of each.
func (p Pattern) String() string { return p.Product + "/" + p.Feature + "/" + p.Action }

// Wildcard reports whether the pattern names more than one permission.
func (p Pattern) Wildcard() bool { return p.Product == Any || p.Feature == Any || p.Action == Any }

// Platform reports whether the pattern names rights to run the installation.
func (p Pattern) Platform() bool { return p.Product == OwnProduct && p.Feature == PlatformFeature }

// ComparePatterns sorts narrow patterns before wide ones, and abc/reports/*
// before abc/*/read. Of several that give a permission, the first is the one
// that a [Decision.Rule] names.
func ComparePatterns(a, b Pattern) int {
	return cmp.Or(cmp.Compare(a.anys(), b.anys()), strings.Compare(b.String(), a.String()))
}

// anys counts the wildcards among the three parts.
func (p Pattern) anys() int {
	n := 0
	for _, part := range []string{p.Product, p.Feature, p.Action} {
		if part == Any {
			n++
		}
	}
	return n
}

// Covers reports whether every permission that other names is one that p names.
func (p Pattern) Covers(other Pattern) bool {
	if p.Wildcard() && other.Platform() {
		return false
	}
	return covers(p.Product, other.Product) && covers(p.Feature, other.Feature) && covers(p.Action, other.Action)
}

func covers(part, other string) bool { return part == Any || part == other }
