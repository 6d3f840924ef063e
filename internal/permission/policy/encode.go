package policy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Encode returns the policy as a file: sorted, so that equal tables are equal
// bytes, and as [Parse] reads it.
func (p *Policy) Encode() ([]byte, error) {
	var out bytes.Buffer
	if p.Products != nil {
		if err := encode(&out, "", "products", encodeProducts(p.Products)); err != nil {
			return nil, err
		}
	}
	switch {
	case p.Tenants != nil && len(p.Tenants) == 0:
		out.WriteString("tenants: {}\n")
	case p.Tenants != nil:
		out.WriteString("tenants:\n")
	case p.Products == nil:
		out.WriteString("{}\n")
	}
	// One by one: as one document of many tenants they would take a hundred times their size.
	for _, name := range sorted(p.Tenants) {
		if err := encode(&out, "  ", name, encodeTenant(p.Tenants[name])); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// encode writes an entry of a mapping, each line after indent: no text has
// several lines.
func encode(out *bytes.Buffer, indent, key string, value *yaml.Node) error {
	root := mapping()
	put(root, key, value)
	var content bytes.Buffer
	encoder := yaml.NewEncoder(&content)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	for line := range strings.Lines(content.String()) {
		out.WriteString(indent)
		escape(out, line)
	}
	return nil
}

// escape writes what nobody sees, such as U+202E, as YAML escapes. It can stand
// only in the quotes that [text] chose.
func escape(out *bytes.Buffer, content string) {
	for _, r := range content {
		if unicode.IsPrint(r) || r == '\n' {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(out, `\U%08x`, r)
		}
	}
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

// text returns a string, which the library quotes if it would be read as something else.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// put adds an entry to a mapping. An empty value stands on the line of its key.
func put(n *yaml.Node, key string, value *yaml.Node) {
	if value.Kind != yaml.ScalarNode && len(value.Content) == 0 {
		value.Style = yaml.FlowStyle
	}
	n.Content = append(n.Content, text(key), value)
}

func encodeProducts(products map[string]*Product) *yaml.Node {
	all := mapping()
	for _, name := range sorted(products) {
		features := mapping()
		for _, feature := range sorted(products[name].Features) {
			extra := texts(products[name].Features[feature].Extra)
			extra.Style = yaml.FlowStyle
			put(features, feature, extra)
		}
		put(all, name, features)
	}
	return all
}

func texts(values []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, v := range values {
		n.Content = append(n.Content, text(v))
	}
	return n
}

func encodeTenant(t *Tenant) *yaml.Node {
	n := mapping()
	if t.Status != "" {
		put(n, "status", text(t.Status))
	}
	if t.Roles != nil {
		roles := mapping()
		for _, name := range sorted(t.Roles) {
			put(roles, name, encodeRole(t.Roles[name]))
		}
		put(n, "roles", roles)
	}
	if t.Members != nil {
		members := mapping()
		for _, user := range sorted(t.Members) {
			put(members, user, text(t.Members[user].Role))
		}
		put(n, "members", members)
	}
	return n
}

func encodeRole(r *Role) *yaml.Node {
	n := mapping()
	if r.Owner {
		put(n, "owner", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "true"})
	}
	if len(r.Inherits) > 0 {
		inherits := texts(sorted(r.Inherits))
		inherits.Style = yaml.FlowStyle
		put(n, "inherits", inherits)
	}
	if len(r.Permissions) > 0 {
		var rows []string
		for _, p := range sortedPatterns(r.Permissions) {
			rows = append(rows, p.String())
		}
		put(n, "permissions", texts(rows))
	}
	return n
}
