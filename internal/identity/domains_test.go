package identity_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/identity"
)

func domains(t *testing.T, list ...string) identity.Domains {
	t.Helper()
	d, err := identity.ParseDomains(list)
	require.NoError(t, err)
	return d
}

func TestDomainsHaveOneForm(t *testing.T) {
	t.Parallel()
	for want, list := range map[identity.Domains][]string{
		"":                                   {},
		"a.test,b.test":                      {"b.test", "a.test", "B.TEST", "b.test"},
		"*.example.com,example.com":          {"example.com", "*.Example.COM"},
		"*.xn--bcher-kva.example":            {"*.Bücher.example", "*.XN--BCHER-KVA.example", "*.bücher\u3002example"},
		"*.co.uk,a-b.c1.test,xn--p1ai.rf.de": {"a-b.c1.test", "*.co.uk", "рф.rf.de"},
	} {
		require.Equal(t, want, domains(t, list...), list)
		require.Equal(t, want, domains(t, want.List()...))
	}
	require.Empty(t, domains(t))
	require.Equal(t, []string{}, domains(t).List())

	encoded, err := json.Marshal(identity.DomainPolicy{Denied: "*.example.com,example.com"})
	require.NoError(t, err)
	require.JSONEq(t, `{"allowed":[],"denied":["*.example.com","example.com"]}`, string(encoded))
}

func TestWhatIsNoDomain(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", ".", "*", "*.", "com", "*.com", "localhost", "example.com.", ".example.com", "a..b.test", "a\u3002\u3002b.test", "*..example.com", "*.*.example.com",
		"a.*.example.com", "*example.com", "@example.com", "ann@example.com", "example.com,b.test", "example.com/x", " example.com", "example.com ",
		"127.0.0.1", "*.0.0.1", "::1", "[::1]", "[127.0.0.1]", "example.com:25", "a_b.test", "-a.test", "a-.test", "xn--a.test", "a\u0000.test", "a\xff.test",
		strings.Repeat("a.", 127) + "test",
	} {
		_, err := identity.ParseDomains([]string{"a.test", bad, "b.test"})
		var wrong *identity.DomainsError
		require.ErrorAs(t, err, &wrong, "%q", bad)
		require.Equal(t, []int{1}, wrong.Bad)
	}
	_, err := identity.ParseDomains([]string{"*", "a.test", "com"})
	require.EqualError(t, err, "no domains such as example.com or *.example.com at [0 2]")

	many := make([]string, identity.MaxDomains+1)
	for i := range many {
		many[i] = fmt.Sprintf("d%d.test", i)
	}
	_, err = identity.ParseDomains(many)
	require.ErrorIs(t, err, identity.ErrTooManyDomains)
	require.Len(t, domains(t, many[1:]...).List(), identity.MaxDomains)
}

func TestWhomATenantInvites(t *testing.T) {
	t.Parallel()
	all := identity.DomainPolicy{}
	only := identity.DomainPolicy{Allowed: domains(t, "example.com", "*.example.org", "bücher.example")}
	but := identity.DomainPolicy{Denied: domains(t, "*.example.com", "evil.test")}
	both := identity.DomainPolicy{Allowed: domains(t, "*.example.com"), Denied: domains(t, "dev.example.com", "*.dev.example.com")}
	for address, want := range map[string][4]bool{ // all, only, but, both
		"ann@example.com":                  {true, true, true, false},
		"ann@EXAMPLE.com":                  {true, true, true, false},
		"ann@sub.example.com":              {true, false, false, true},
		"ann@a.b.example.com":              {true, false, false, true},
		"ann@dev.example.com":              {true, false, false, false},
		"ann@x.dev.example.com":            {true, false, false, false},
		"ann@notdev.example.com":           {true, false, false, true},
		"ann@example.org":                  {true, false, true, false},
		"ann@sub.example.org":              {true, true, true, false},
		"ann@notexample.org":               {true, false, true, false},
		"ann@example.com.evil.test":        {true, false, true, false},
		"ann@evil.test":                    {true, false, false, false},
		"example.com@evil.test":            {true, false, false, false},
		"ann@Bücher.example":               {true, true, true, false},
		"ann@xn--bcher-kva.example":        {true, true, true, false},
		"ann@xn--bcher-kva.example.com.xn": {true, false, true, false},
	} {
		key, err := identity.EmailKey(address)
		require.NoError(t, err, address)
		require.Equal(t, want, [4]bool{all.Permits(key), only.Permits(key), but.Permits(key), both.Permits(key)}, address)
	}
}

func FuzzDomains(f *testing.F) {
	for _, seed := range [][2]string{
		{"example.com *.example.com", "ann@a.example.com"}, {"Bücher.example *.co.uk", "a@xn--bcher-kva.example"}, {"* *. . a..b 1.2.3.4", "@"}, {"", ""},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, address string) {
		d, err := identity.ParseDomains(strings.Fields(text))
		if err != nil {
			return
		}
		again, err := identity.ParseDomains(d.List())
		require.NoError(t, err, "%q", d)
		require.Equal(t, d, again, "its list is a list")
		allowed, denied := identity.DomainPolicy{Allowed: d}.Permits(address), identity.DomainPolicy{Denied: d}.Permits(address)
		require.Equal(t, d == "" || !denied, allowed, "%q %q", d, address)
		for _, entry := range d.List() {
			if parent, below := strings.CutPrefix(entry, "*."); below {
				require.False(t, identity.Domains(entry).Match("x@"+parent), "a wildcard is not what is above: %q", entry)
			}
			require.True(t, d.Match("x@"+strings.Replace(entry, "*", "a", 1)), "%q in %q", entry, d)
		}
	})
}
