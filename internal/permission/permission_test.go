package permission_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/permission"
)

func TestNamesOfProductsFeaturesAndActions(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"": false, "a": true, "0": true, "abc-1_x": true, "-a": false, "_a": false, "Abc": false, "a/b": false, "a b": false, "*": false,
		"ä": false, "a\x00": false, "a,b": false, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
	} {
		require.Equal(t, want, permission.ValidName(name), "%q", name)
	}
	require.NoError(t, perm("abc", "dashboard", "read").Validate())
	require.ErrorContains(t, perm("Abc", "dashboard", "read").Validate(), `product "Abc" is not a valid name`)
	require.ErrorContains(t, perm("abc", "", "read").Validate(), `feature "" is not a valid name`)
	require.ErrorContains(t, perm("abc", "dashboard", "re/ad").Validate(), `action "re/ad" is not a valid name`)
	require.Equal(t, "abc/dashboard/read", perm("abc", "dashboard", "read").String())
}

func TestNamesOfRoles(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"": false, "A": true, "Admin": true, "Support level 2": true, "a.b_c-d": true, " Admin": false, "Admin ": false, "-x": false,
		"Admin,Viewer": false, "Admin\r\nX": false, "Ädmin": false, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
	} {
		require.Equal(t, want, permission.ValidRole(name), "%q", name)
	}
}

func TestActionOfMethod(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]string{
		"GET": "read", "HEAD": "read", "OPTIONS": "read", "POST": "write", "PUT": "write", "PATCH": "write", "DELETE": "delete",
		"get": "", "TRACE": "", "CONNECT": "", "PROPFIND": "", "": "", "GET ": "",
	} {
		action, ok := permission.ActionOf(method)
		require.Equal(t, want, action, method)
		require.Equal(t, want != "", ok, method)
	}
}

func TestParseActions(t *testing.T) {
	t.Parallel()
	actions, err := permission.ParseActions("read,write,delete,export")
	require.NoError(t, err)
	require.Equal(t, []string{"read", "write", "delete", "export"}, actions)

	for list, want := range map[string]string{
		"":                                  `action "" is not a valid name`,
		"read, write":                       `action " write" is not a valid name`,
		"read,read":                         `action "read" stands there twice`,
		"a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q": "at most 16 actions",
	} {
		actions, err := permission.ParseActions(list)
		require.ErrorContains(t, err, want, list)
		require.LessOrEqual(t, len(actions), permission.MaxActions)
	}
}

func FuzzParseActions(f *testing.F) {
	for _, seed := range []string{"", ",", "read,write,delete", "read,,x", "A", strings.Repeat("a,b", 40)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		actions, err := permission.ParseActions(list)
		require.LessOrEqual(t, len(actions), permission.MaxActions)
		seen := map[string]bool{}
		for _, a := range actions {
			require.True(t, permission.ValidName(a))
			require.False(t, seen[a])
			seen[a] = true
		}
		if err == nil {
			require.Equal(t, list, strings.Join(actions, ","))
		}
	})
}
