package loki

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxValues is how many values of a field can be values of one label: each
	// makes streams, and Loki is slow with many of them.
	maxValues = 100
	// otherValue is the label's value in place of those beyond.
	otherValue = "other"
	// unknownValue is the first label's value for a line that has no label.
	unknownValue = "unknown"
	// overflowSuffix makes a label's name that of the metadata with such a value.
	overflowSuffix = "_value"
)

// label is one label of streams while an encoder uses it.
type label struct {
	name string
	// slot is where the value is in the encoder's fields, -1 if it is static.
	slot int
	// static is the pair without a value from a field; it may be empty.
	static string
	// other is the pair for a value too many, and otherName its metadata's name.
	other, otherName string
	// pairs are what the values from the field look like in a stream's labels. It
	// outlives a change of the settings.
	pairs map[string]string
}

// newLabels returns the labels of the settings, in the order that Loki has them.
// kept are those before: they give their values.
func newLabels(s []Label, kept []label, f *fields) []label {
	var labels []label
	for _, l := range s {
		made := label{
			name: l.Name, slot: -1, static: pair(l.Name, l.Value.Static),
			other: pair(l.Name, otherValue), otherName: l.Name + overflowSuffix,
		}
		if l.Value.Field != "" {
			made.slot, made.pairs = f.slot(l.Value.Field), map[string]string{}
		}
		for _, k := range kept {
			if k.name == l.Name && k.pairs != nil && made.pairs != nil {
				made.pairs = k.pairs
			}
		}
		labels = append(labels, made)
	}
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(a.name, b.name) })
	return labels
}

// pair returns a label as it stands in a stream's labels, or "" without a value.
// Loki parses these as PromQL, which refuses U+FFFD, even in an escape.
func pair(name, value string) string {
	if value == "" {
		return ""
	}
	value = strings.Map(func(r rune) rune {
		if r == utf8.RuneError {
			return '?'
		}
		return r
	}, value)
	return name + "=" + strconv.Quote(value)
}

// pairOf returns the label for a value from the field, and whether that is one
// beyond the first maxValues.
func (l *label) pairOf(value []byte) (text string, overflow bool) {
	if len(value) == 0 {
		return l.static, false
	}
	value = cutText(value, maxLabelValue)
	if p, ok := l.pairs[string(value)]; ok {
		return p, false
	}
	if len(l.pairs) >= maxValues {
		return l.other, true
	}
	p := pair(l.name, string(value))
	l.pairs[string(value)] = p
	return p, false
}

// tenants finds the tenant of a line.
type tenants struct {
	Value
	slot int
	// seen are the tenants that lines named. It outlives a change of the settings.
	seen map[string]string
}

func newTenants(v Value, kept map[string]string, f *fields) tenants {
	t := tenants{Value: v, slot: -1, seen: kept}
	if v.Field != "" {
		t.slot = f.slot(v.Field)
	}
	if t.seen == nil {
		t.seen = map[string]string{}
	}
	return t
}

// of returns the tenant for a value from the field, and whether that can't be one
// or is one beyond the first maxValues.
func (t *tenants) of(value []byte) (tenant string, overflow bool) {
	if len(value) == 0 {
		return t.Static, false
	}
	if tenant, ok := t.seen[string(value)]; ok {
		return tenant, false
	}
	if len(t.seen) >= maxValues || checkTenant(string(value)) != nil {
		return t.Static, true
	}
	tenant = string(value)
	t.seen[tenant] = tenant
	return tenant, false
}

// overflowNote is what the diagnostics say of a label with too many values.
func overflowNote(l *label) string {
	return fmt.Sprintf("label %s has more than %d values: further ones become %q, and are metadata named %s",
		l.name, maxValues, otherValue, l.otherName)
}

// tenantNote is the same for the tenant.
func tenantNote(t *tenants) string {
	return fmt.Sprintf("field %s of the tenant has more than %d values, or one that Loki does not take: such lines go to tenant %q",
		t.Field, maxValues, t.Static)
}
