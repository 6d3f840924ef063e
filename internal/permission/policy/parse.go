package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Parse reads a policy file. name is what the errors call it. Whether products,
// roles and users exist that it refers to is found out later. The error is of
// type [Mistakes].
func Parse(name string, content []byte) (*Policy, error) {
	f := &finder{file: name}
	root := document(f, content)
	if root == nil {
		return nil, f.err()
	}
	p := &Policy{}
	readFields(f, root, pos{}, map[string]func(*yaml.Node, pos){
		"products": func(n *yaml.Node, at pos) { p.Products = readProducts(f, n, at) },
		"tenants":  func(n *yaml.Node, at pos) { p.Tenants = readTenants(f, n, at) },
	})
	if err := f.err(); err != nil {
		return nil, err
	}
	return p, nil
}

// yamlLine finds the line in an error of the YAML library.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// document returns the root of the one document in content, or notes why there
// is none.
func document(f *finder, content []byte) *yaml.Node {
	if len(content) > MaxSize {
		f.add(pos{}, "the file is longer than %d MiB: split it by tenants", MaxSize>>20)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var doc, more yaml.Node
	err := decoder.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		f.add(pos{}, "the file is empty: see `tenantgate permissions export` for what stands in one")
		return nil
	case err != nil:
		match := yamlLine.FindStringSubmatch(err.Error())
		line, _ := strconv.Atoi(match[1]) // 0 if there is none
		f.add(pos{line: line}, "this is no YAML: %s", strings.TrimPrefix(err.Error(), match[0]))
		return nil
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		f.add(pos{line: more.Line}, "there is more than one document: remove the --- and what follows")
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		f.add(pos{}, "the file is empty: see `tenantgate permissions export` for what stands in one")
		return nil
	}
	return doc.Content[0]
}

// plain reports whether a node is free of what could hide its meaning: anchors,
// aliases and tags. Notes it otherwise.
func plain(f *finder, n *yaml.Node, at pos) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		f.add(at, "anchors and aliases (& and *) are not for this file: write it out")
	case n.Style&yaml.TaggedStyle != 0:
		f.add(at, "tags (!) are not for this file: remove %s", n.Tag)
	default:
		return true
	}
	return false
}

// child returns the position of a field below at.
func (p pos) child(n *yaml.Node, name string) pos {
	if p.path != "" {
		name = p.path + "." + name
	}
	return pos{n.Line, name}
}

// kinds is how the kinds of nodes are called.
var kinds = map[yaml.Kind]string{yaml.ScalarNode: "a value", yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}

// isKind reports whether n is of the kind that is wanted, and notes it otherwise.
func isKind(f *finder, n *yaml.Node, at pos, kind yaml.Kind, example string) bool {
	if !plain(f, n, at) {
		return false
	}
	if n.Kind != kind {
		f.add(at, "this must be %s, not %s: write %s", kinds[kind], kinds[n.Kind], example)
		return false
	}
	return true
}

// readMap calls each for the entries of a mapping, in their order. A key that
// stands there twice is a mistake.
func readMap(f *finder, n *yaml.Node, at pos, example string, each func(key string, value *yaml.Node, at pos)) {
	if !isKind(f, n, at, yaml.MappingNode, example) {
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		below := at.child(key, printable(key.Value))
		if !plain(f, key, below) {
			continue
		}
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || key.Tag == "!!null" {
			f.add(pos{key.Line, at.path}, "a key must be a name")
			continue
		}
		if line, ok := seen[key.Value]; ok {
			f.add(below, "this stands in line %d already: keep one of them", line)
			continue
		}
		seen[key.Value] = key.Line
		each(key.Value, value, below)
	}
}

// printable returns the text as it may stand in a message.
func printable(text string) string {
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

// readFields reads a mapping whose keys are known.
func readFields(f *finder, n *yaml.Node, at pos, fields map[string]func(*yaml.Node, pos)) {
	names := sorted(fields)
	readMap(f, n, at, "the fields "+list(names, "and"), func(key string, value *yaml.Node, below pos) {
		if read, ok := fields[key]; ok {
			read(value, below)
			return
		}
		f.add(below, "unknown field %q: use %s", key, list(names, "or"))
	})
}

// readText returns a scalar's text as it is written: a role may be called 1.0.
func readText(f *finder, n *yaml.Node, at pos, example string) (string, bool) {
	if !isKind(f, n, at, yaml.ScalarNode, example) {
		return "", false
	}
	if n.Tag == "!!null" {
		f.add(at, "a value is missing: write %s", example)
		return "", false
	}
	return n.Value, true
}

// readTexts calls each for the items of a list of scalars.
func readTexts(f *finder, n *yaml.Node, at pos, example string, each func(text string, at pos)) {
	if !isKind(f, n, at, yaml.SequenceNode, example) {
		return
	}
	seen := map[string]int{}
	for i, item := range n.Content {
		below := pos{item.Line, fmt.Sprintf("%s[%d]", at.path, i)}
		text, ok := readText(f, item, below, example)
		if !ok {
			continue
		}
		if line, ok := seen[text]; ok {
			f.add(below, "%q stands in line %d already: keep one of them", text, line)
			continue
		}
		seen[text] = item.Line
		each(text, below)
	}
}

func readProducts(f *finder, n *yaml.Node, at pos) map[string]*Product {
	products := map[string]*Product{}
	readMap(f, n, at, "abc: {dashboard: [], reports: [export]}", func(name string, value *yaml.Node, at pos) {
		if !permission.ValidName(name) {
			f.add(at, "product %q is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit", name)
			return
		}
		p := &Product{Features: map[string]*Feature{}, pos: at}
		products[name] = p
		readMap(f, value, at, "dashboard: [] for a feature with read, write and delete, or {}", func(name string, value *yaml.Node, at pos) {
			if !permission.ValidName(name) {
				f.add(at, "feature %q is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit", name)
				return
			}
			p.Features[name] = readFeature(f, value, at)
		})
	})
	return products
}

func readFeature(f *finder, n *yaml.Node, at pos) *Feature {
	feature := &Feature{pos: at}
	readTexts(f, n, at, "the actions beside read, write and delete, such as [export], or []", func(action string, at pos) {
		switch {
		case !permission.ValidName(action):
			f.add(at, "action %q is not a valid name: use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit", action)
		case slices.Contains([]string{permission.Read, permission.Write, permission.Delete}, action):
			f.add(at, "every feature has %s: name only further actions", action)
		default:
			feature.Extra = append(feature.Extra, action)
		}
	})
	if len(feature.actions()) > permission.MaxActions {
		f.add(at, "a feature has at most %d actions, with read, write and delete", permission.MaxActions)
	}
	slices.Sort(feature.Extra)
	return feature
}

func readTenants(f *finder, n *yaml.Node, at pos) map[string]*Tenant {
	tenants := map[string]*Tenant{}
	readMap(f, n, at, `acme: {roles: {Viewer: {permissions: ["abc/*/read"]}}}`, func(name string, value *yaml.Node, at pos) {
		if err := checkTenantName(name); err != nil {
			f.add(at, "%v", err)
			return
		}
		tenants[name] = readTenant(f, value, at)
	})
	return tenants
}

func readTenant(f *finder, n *yaml.Node, at pos) *Tenant {
	t := &Tenant{pos: at}
	readFields(f, n, at, map[string]func(*yaml.Node, pos){
		"status": func(n *yaml.Node, at pos) {
			status, ok := readText(f, n, at, "active or suspended")
			if ok && status != identity.StatusActive && status != identity.StatusSuspended {
				f.add(at, "status %q: write active or suspended", status)
			}
			t.Status = status
		},
		"roles":   func(n *yaml.Node, at pos) { t.Roles = readRoles(f, n, at) },
		"members": func(n *yaml.Node, at pos) { t.Members = readMembers(f, n, at) },
	})
	return t
}

func readRoles(f *finder, n *yaml.Node, at pos) map[string]*Role {
	roles := map[string]*Role{}
	owner := ""
	readMap(f, n, at, `Viewer: {permissions: ["abc/*/read"]}`, func(name string, value *yaml.Node, at pos) {
		if !permission.ValidRole(name) {
			f.add(at, `role %q is not a valid name: use 1 to 63 ASCII letters, digits, spaces, ".", "_" and "-", with a letter or digit at either end`, name)
			return
		}
		role := readRole(f, value, at)
		roles[name] = role
		switch {
		case role.Owner && owner != "":
			f.add(at, "the tenant has the owner role %s already: it can have one", owner)
		case role.Owner:
			owner = name
		}
		if role.Inherits[name] {
			f.add(role.parents[name], "a role can't inherit from itself")
		}
	})
	return roles
}

func readRole(f *finder, n *yaml.Node, at pos) *Role {
	r := &Role{
		Inherits: map[string]bool{}, Permissions: map[permission.Pattern]bool{},
		pos: at, parents: map[string]pos{}, rows: map[permission.Pattern]pos{},
	}
	defer func() {
		if r.Owner && len(r.Inherits)+len(r.Permissions) > 0 {
			f.add(at, "the owner holds everything already: remove inherits and permissions; the right to run the installation is for another role")
		}
	}()
	readFields(f, n, at, map[string]func(*yaml.Node, pos){
		"owner": func(n *yaml.Node, at pos) {
			if !isKind(f, n, at, yaml.ScalarNode, "true or false") {
				return
			}
			if n.Tag != "!!bool" {
				f.add(at, "owner must be true or false, not %q", n.Value)
				return
			}
			r.Owner = strings.EqualFold(n.Value, "true")
		},
		"inherits": func(n *yaml.Node, at pos) {
			readTexts(f, n, at, "the names of roles, such as [Viewer]", func(name string, at pos) {
				r.Inherits[name], r.parents[name] = true, at
			})
		},
		"permissions": func(n *yaml.Node, at pos) {
			readTexts(f, n, at, `a list such as [abc/reports/read, "abc/*"]`, func(text string, at pos) { r.readPermission(f, text, at) })
		},
	})
	return r
}

func (r *Role) readPermission(f *finder, text string, at pos) {
	p, err := permission.ParsePattern(text)
	switch {
	case err != nil:
		f.add(at, "%v", err)
	case p.Wildcard() && p.Platform():
		f.add(at, "permission %q: no wildcard gives the right to run the installation: name read, write or delete", text)
	case r.Permissions[p]:
		f.add(at, "permission %q stands in line %d already: keep one of them", text, r.rows[p].line)
	default:
		r.Permissions[p], r.rows[p] = true, at
	}
}

func readMembers(f *finder, n *yaml.Node, at pos) map[string]*Member {
	members := map[string]*Member{}
	readMap(f, n, at, "ann@example.com: Editor", func(name string, value *yaml.Node, at pos) {
		user, byEmail, err := parseMember(name)
		if err != nil {
			f.add(at, "%v", err)
			return
		}
		if !byEmail {
			user = idKey(user)
		}
		if other := members[user]; other != nil {
			f.add(at, "this is the user of line %d: keep one of them", other.pos.line)
			return
		}
		role, ok := readText(f, value, at, "the name of a role")
		if ok {
			members[user] = &Member{Role: role, pos: at}
		}
	})
	return members
}
