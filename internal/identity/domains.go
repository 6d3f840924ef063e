package identity

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// MaxDomains is the most entries that a list for [ParseDomains] may have.
const MaxDomains = 100

// ErrTooManyDomains says that a list has more than [MaxDomains] entries.
var ErrTooManyDomains = fmt.Errorf("a list may have at most %d domains", MaxDomains)

// DomainsError says which entries of a list are neither a domain nor a wildcard.
type DomainsError struct {
	// Bad are their indexes, ascending.
	Bad []int
}

// Error implements error.
func (e *DomainsError) Error() string {
	return fmt.Sprintf("no domains such as example.com or *.example.com at %d", e.Bad)
}

// Domains is a list of domains as a column holds it: in the form that [EmailKey]
// gives them, sorted, each once, separated by commas, "" for none. "example.com"
// is exactly that, "*.example.com" everything below it but not itself.
type Domains string

// ParseDomains returns the list of the given domains. It returns
// [ErrTooManyDomains], or a [*DomainsError] for what is no domain of at least two
// labels (after "*.", if it starts so) that an e-mail address may have.
func ParseDomains(list []string) (Domains, error) {
	if len(list) > MaxDomains {
		return "", ErrTooManyDomains
	}
	var bad []int
	entries := make([]string, 0, len(list))
	for i, text := range list {
		domain, below := strings.CutPrefix(text, "*.")
		key, err := domainKey(domain)
		if err != nil {
			bad = append(bad, i)
			continue
		}
		if below {
			key = "*." + key
		}
		entries = append(entries, key)
	}
	if bad != nil {
		return "", &DomainsError{Bad: bad}
	}
	slices.Sort(entries)
	return Domains(strings.Join(slices.Compact(entries), ",")), nil
}

// List returns the domains, never nil.
func (d Domains) List() []string {
	if d == "" {
		return []string{}
	}
	return strings.Split(string(d), ",")
}

// MarshalJSON implements json.Marshaler: the array of the domains.
func (d Domains) MarshalJSON() ([]byte, error) { return json.Marshal(d.List()) }

// Match reports whether the domain of an address is in the list. The address is
// in the form of [EmailKey].
func (d Domains) Match(emailKey string) bool {
	domain := emailKey[strings.LastIndexByte(emailKey, '@')+1:]
	return slices.ContainsFunc(d.List(), func(entry string) bool {
		parent, below := strings.CutPrefix(entry, "*")
		if below {
			return len(domain) > len(parent) && strings.HasSuffix(domain, parent)
		}
		return domain == entry
	})
}

// DomainPolicy is whom a tenant invites.
type DomainPolicy struct {
	// Allowed are the domains of those it invites; with none it invites all.
	Allowed Domains `json:"allowed"`
	// Denied are the domains of those it never invites, whatever Allowed says.
	Denied Domains `json:"denied"`
}

// Permits reports whether the tenant invites an address. The address is in the
// form of [EmailKey].
func (p DomainPolicy) Permits(emailKey string) bool {
	return !p.Denied.Match(emailKey) && (p.Allowed == "" || p.Allowed.Match(emailKey))
}
