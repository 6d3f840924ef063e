package policy

import (
	"context"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Checks is a file of expectations.
type Checks struct {
	name string
	all  []check
}

// check is what one role or user of a tenant must and must not be allowed.
type check struct {
	tenant, role, user string
	allow, deny        []expectation
	pos                pos
}

type expectation struct {
	pattern permission.Pattern
	pos     pos
}

// Failure is an expectation that does not hold.
type Failure struct {
	File string `json:"file"`
	Line int    `json:"line"`
	// Subject is who was asked: "Viewer of acme".
	Subject string `json:"subject"`
	// Permission is what was expected to be allowed, or with Deny to be denied.
	Permission string `json:"permission"`
	Deny       bool   `json:"deny"`
	// Detail says how it is and why.
	Detail string `json:"detail"`
}

// String returns the failure as file:line: text.
func (f Failure) String() string {
	want := "allowed"
	if f.Deny {
		want = "denied"
	}
	return fmt.Sprintf("%s:%d: %s should be %s %s: %s", f.File, f.Line, f.Subject, want, f.Permission, f.Detail)
}

// Report is what became of a file of expectations.
type Report struct {
	// Checked is how many lines of allow and deny were held against the table.
	Checked  int       `json:"checked"`
	Failures []Failure `json:"failures"`
}

// ParseChecks reads a file of expectations. name is what errors call it. The
// error is of type [Mistakes].
func ParseChecks(name string, content []byte) (*Checks, error) {
	f := &finder{file: name}
	c := &Checks{name: name}
	root := document(f, content)
	if root == nil {
		return nil, f.err()
	}
	readFields(f, root, pos{}, map[string]func(*yaml.Node, pos){
		"checks": func(n *yaml.Node, at pos) {
			if !isKind(f, n, at, yaml.SequenceNode, "a list of checks, each with tenant, role or user, allow and deny") {
				return
			}
			for i, item := range n.Content {
				c.all = append(c.all, readCheck(f, item, pos{item.Line, fmt.Sprintf("%s[%d]", at.path, i)}))
			}
		},
	})
	if len(f.found) == 0 && len(c.all) == 0 {
		f.add(pos{}, "there is no check in it: write a list under checks")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func readCheck(f *finder, n *yaml.Node, at pos) check {
	c := check{pos: at}
	name := func(into *string, what string) func(*yaml.Node, pos) {
		return func(n *yaml.Node, at pos) {
			text, ok := readText(f, n, at, what)
			if ok && text == "" {
				f.add(at, "a value is missing: write %s", what)
			}
			*into = text
		}
	}
	patterns := func(into *[]expectation) func(*yaml.Node, pos) {
		return func(n *yaml.Node, at pos) {
			readTexts(f, n, at, `a list such as [abc/reports/read, "abc/*"]`, func(text string, at pos) {
				p, err := permission.ParsePattern(text)
				if err != nil {
					f.add(at, "%v", err)
				}
				*into = append(*into, expectation{p, at})
			})
		}
	}
	before := len(f.found)
	readFields(f, n, at, map[string]func(*yaml.Node, pos){
		"tenant": name(&c.tenant, "the name or id of a tenant"),
		"role":   name(&c.role, "the name of a role"),
		"user":   name(&c.user, "an e-mail address or a user id"),
		"allow":  patterns(&c.allow),
		"deny":   patterns(&c.deny),
	})
	if len(f.found) > before {
		return c
	}
	switch {
	case c.tenant == "":
		f.add(at, "the field tenant is missing: write the name or id of a tenant")
	case c.role == "" && c.user == "":
		f.add(at, "the field role is missing: write the name of a role, or user and an e-mail address or id")
	case c.role != "" && c.user != "":
		f.add(at, "there are both role and user: make two checks of it")
	case len(c.allow)+len(c.deny) == 0:
		f.add(at, "nothing is expected: write allow, deny or both")
	case c.user != "":
		if _, _, err := parseMember(c.user); err != nil {
			f.add(at, "%v", err)
		}
	}
	return c
}

// CheckDatabase holds the expectations against a database. q is a transaction
// (see [Read]). A tenant that is not there fails its checks.
func (c *Checks) CheckDatabase(ctx context.Context, q identity.Queryer) (Report, error) {
	ids, withMembers := []int64{}, []int64{}
	for _, one := range c.all {
		t, err := FindTenant(ctx, q, one.tenant)
		switch {
		case isNotFound(err):
			continue
		case err != nil:
			return Report{}, err
		}
		ids = appendNew(ids, t.ID)
		if one.user != "" {
			withMembers = appendNew(withMembers, t.ID)
		}
	}
	l, err := newLoader(ctx, q)
	if err != nil {
		return Report{}, err
	}
	if err := l.tenantsOf(ids); err != nil {
		return Report{}, err
	}
	if err := l.membersOf(withMembers); err != nil {
		return Report{}, err
	}
	return c.Check(l.policy), nil
}

// Check holds the expectations against a table. See [Validate] for a file's.
func (c *Checks) Check(p *Policy) Report {
	report := Report{Failures: []Failure{}}
	t := newTable(p, newIndex(p))
	for _, one := range c.all {
		for _, e := range one.allow {
			report.expect(c.name, t, one, e, false)
		}
		for _, e := range one.deny {
			report.expect(c.name, t, one, e, true)
		}
	}
	return report
}

// expect holds one line against a table.
func (r *Report) expect(file string, t *table, c check, e expectation, deny bool) {
	r.Checked++
	fail := func(format string, args ...any) {
		r.Failures = append(r.Failures, Failure{
			File: file, Line: e.pos.line, Subject: c.subject(), Permission: e.pattern.String(), Deny: deny, Detail: fmt.Sprintf(format, args...),
		})
	}
	named := t.named(e.pattern, deny)
	if len(named) == 0 {
		fail("the table has no such permission: correct the name, or remove the line")
		return
	}
	tenant := t.policy.tenant(c.tenant)
	if tenant == nil {
		fail("there is no tenant %q", c.tenant)
		return
	}
	role, problem := c.roleIn(tenant)
	if problem != "" {
		fail("%s", problem)
		return
	}
	wrong := 0
	var first Verdict
	var which permission.Permission
	for _, one := range named {
		v := Verdict{Reason: permission.NotAMember}
		if role != "" {
			v = t.judge(tenant, role, one)
		}
		if v.Allowed == deny {
			if wrong++; wrong == 1 {
				first, which = v, one
			}
		}
	}
	if wrong == 0 {
		return
	}
	detail := ""
	if e.pattern.Wildcard() {
		detail = which.String() + " is "
	} else {
		detail = "it is "
	}
	if first.Allowed {
		detail += "allowed by " + first.Rule()
	} else {
		detail += "denied: " + first.why(c.user, c.tenant, which)
	}
	if wrong > 1 {
		detail += fmt.Sprintf(" (and %d more)", wrong-1)
	}
	fail("%s", detail)
}

func (c *check) subject() string {
	if c.role != "" {
		return c.role + " of " + c.tenant
	}
	return c.user + " in " + c.tenant
}

// roleIn returns the role to ask about, "" for somebody without one, or what is
// wrong with the check.
func (c *check) roleIn(t *Tenant) (role, problem string) {
	if c.role != "" {
		if t.Roles[c.role] == nil {
			return "", fmt.Sprintf("%s has no role %q: it has %s", c.tenant, c.role, list(sorted(t.Roles), "and"))
		}
		return c.role, ""
	}
	if t.Members == nil {
		return "", "the policy does not say who is a member: export it with --members, or ask about a role"
	}
	member := t.member(c.user)
	if member == nil || member.disabled {
		return "", ""
	}
	return member.Role, ""
}

// member returns the member that a text names by e-mail address or id, or nil.
func (t *Tenant) member(text string) *Member {
	value, byEmail, err := parseMember(text)
	if err != nil {
		return nil
	}
	if byEmail {
		return t.Members[value]
	}
	if m := t.Members[idKey(value)]; m != nil {
		return m
	}
	for _, m := range t.Members {
		if m.userID == value {
			return m
		}
	}
	return nil
}

// named returns the known permissions that a pattern names. As in a role, a
// wildcard is not about the right to run the installation unless it names the
// feature; with all it is.
func (t *table) named(p permission.Pattern, all bool) (named []permission.Permission) {
	for i, one := range t.all {
		if !t.known.has(i) || !matches(p.Product, one.Product) || !matches(p.Feature, one.Feature) || !matches(p.Action, one.Action) {
			continue
		}
		if all || !permission.Pattern(one).Platform() || p.Feature != permission.Any {
			named = append(named, one)
		}
	}
	return named
}

func matches(part, name string) bool { return part == permission.Any || part == name }
