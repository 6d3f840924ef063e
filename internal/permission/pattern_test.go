package permission_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tenantgate/tenantgate/internal/permission"
)

func TestParsePattern(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"abc/reports/read": "abc/reports/read",
		"abc/reports/*":    "abc/reports/*",
		"abc/*":            "abc/*/*",
		"abc/*/read":       "abc/*/read",
		"*":                "*/*/*",
		"*/*":              "*/*/*",
		"*/*/read":         "*/*/read",
	} {
		p, err := permission.ParsePattern(text)
		require.NoError(t, err, text)
		require.Equal(t, want, p.String())
		require.Equal(t, strings.Contains(want, "*"), p.Wildcard())
	}
	for text, want := range map[string]string{
		"":                   "write product/feature/action",
		"abc":                "write product/feature/action",
		"abc/reports":        "write product/feature/action",
		"abc/reports/read/x": "write product/feature/action",
		"*/reports/read":     "name the product",
		"*/reports/*":        "name the product",
		"Abc/*":              `product "Abc" is not a valid name`,
		"abc/re*/read":       `feature "re*" is not a valid name`,
		"abc/reports/":       `action "" is not a valid name`,
	} {
		_, err := permission.ParsePattern(text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestPatternCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wide, narrow string
		want         bool
	}{
		{"abc/reports/read", "abc/reports/read", true},
		{"abc/reports/read", "abc/reports/write", false},
		{"abc/*", "abc/reports/write", true},
		{"abc/*", "abc/*/read", true},
		{"abc/*/read", "abc/*", false},
		{"abc/*", "abd/reports/read", false},
		{"*", "abc/*", true},
		{"*", "tenantgate/tenants/read", true},
		{"*", "tenantgate/platform/read", false},
		{"tenantgate/*", "tenantgate/platform/*", false},
		{"tenantgate/platform/*", "tenantgate/platform/read", false},
		{"tenantgate/platform/read", "tenantgate/platform/read", true},
	} {
		wide, err := permission.ParsePattern(c.wide)
		require.NoError(t, err)
		narrow, err := permission.ParsePattern(c.narrow)
		require.NoError(t, err)
		require.Equal(t, c.want, wide.Covers(narrow), "%s over %s", c.wide, c.narrow)
	}
}

// What a pattern covers, the patterns that cover it cover too.
func TestCoveringIsTransitive(t *testing.T) {
	t.Parallel()
	part := rapid.SampledFrom([]string{"*", "tenantgate", "platform", "a"})
	pattern := rapid.Custom(func(t *rapid.T) permission.Pattern {
		return permission.Pattern{Product: part.Draw(t, "product"), Feature: part.Draw(t, "feature"), Action: part.Draw(t, "action")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		a, b, c := pattern.Draw(rt, "a"), pattern.Draw(rt, "b"), pattern.Draw(rt, "c")
		if a.Covers(b) && b.Covers(c) {
			require.True(rt, a.Covers(c), "%v %v %v", a, b, c)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	for _, seed := range []string{"", "*", "a/b/c", "abc/*", "*/*/read", "*/x/*", "a/b/c/d", "//", "a/*/*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := permission.ParsePattern(text)
		if err != nil {
			return
		}
		require.NoError(t, p.Validate())
		again, err := permission.ParsePattern(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
		require.True(t, strings.HasPrefix(p.String(), strings.TrimSuffix(text, "*")))
	})
}
