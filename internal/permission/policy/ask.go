package policy

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/permission"
)

// Desk answers questions from a snapshot, with the names that the database has.
type Desk struct {
	Snapshot *permission.Snapshot
	// Names reads the database that the snapshot is from. While it fails,
	// questions must give ids, and answers have no names.
	Names identity.Queryer
}

// Question is whether somebody may use a permission in a tenant.
type Question struct {
	// Tenant is its name or id.
	Tenant string
	// User is an e-mail address or id; with Role instead of it the question is
	// about anybody with that role.
	User, Role string
	Permission permission.Permission
}

// Person is a user in an answer.
type Person struct {
	ID     string `json:"id"`
	Email  string `json:"email,omitempty"`
	Status string `json:"status,omitempty"`
}

func (p *Person) text() string {
	if p.Email != "" {
		return p.Email
	}
	return p.ID
}

// Answer is a decision, what it rests on, and the same in words.
type Answer struct {
	Verdict
	// Rule is what decided in one line, as in logs.
	Rule       string  `json:"rule,omitempty"`
	Permission string  `json:"permission"`
	Tenant     Named   `json:"tenant"`
	User       *Person `json:"user,omitempty"`
	// Seq is the number of the newest change that the table held.
	Seq int64 `json:"seq"`
	// RolesWithIt are the roles of the tenant that hold what was denied.
	RolesWithIt []string `json:"roles_with_it,omitempty"`
	Text        string   `json:"text"`
}

// tenant finds a tenant. An id is taken as it is while the database is away.
func (d Desk) tenant(ctx context.Context, text string) (Named, error) {
	t, err := FindTenant(ctx, d.Names, text)
	id, isID := parseTenantID(text)
	switch {
	case err == nil || isNotFound(err):
		return t, err
	case isID:
		return Named{ID: id, Name: text}, nil
	}
	return t, fmt.Errorf("names can't be looked up, give ids: %w", err)
}

// user finds a user. An id is taken as it is while the database is away.
func (d Desk) user(ctx context.Context, text string) (*Person, error) {
	u, err := FindUser(ctx, d.Names, text)
	switch {
	case err == nil:
		return &Person{ID: u.ID, Email: u.Email, Status: u.Status}, nil
	case isNotFound(err):
		return nil, err
	}
	if id, byEmail, _ := parseMember(text); !byEmail {
		return &Person{ID: id}, nil
	}
	return nil, fmt.Errorf("names can't be looked up, give ids: %w", err)
}

// Explain answers a question. A tenant or user that is not there is an error of
// identity.ErrNotFound.
func (d Desk) Explain(ctx context.Context, q Question) (Answer, error) {
	a := Answer{Permission: q.Permission.String()}
	var err error
	if a.Tenant, err = d.tenant(ctx, q.Tenant); err != nil {
		return a, err
	}
	id := strconv.FormatInt(a.Tenant.ID, 10)
	var e permission.Explanation
	if q.Role != "" {
		e = d.Snapshot.ExplainRoles(id, []string{q.Role}, q.Permission)
	} else {
		if a.User, err = d.user(ctx, q.User); err != nil {
			return a, err
		}
		e = d.Snapshot.Explain(id, a.User.ID, q.Permission)
	}
	a.Verdict = Verdict{Allowed: e.Allowed, Reason: e.Reason, Role: e.Role, Path: e.Path, Row: e.Row}
	a.Rule, a.Seq = a.Verdict.Rule(), e.Seq
	if e.Reason == permission.RoleLacksAction || e.Reason == permission.NotAMember {
		a.RolesWithIt = d.rolesWith(ctx, a.Tenant.ID, q.Permission)
	}
	a.Text = a.words(q)
	return a, nil
}

const selectRoleNames = `SELECT name FROM roles WHERE tenant_id = $1 ORDER BY name`

// rolesWith returns the roles of a tenant that hold a permission, none while the
// database is away.
func (d Desk) rolesWith(ctx context.Context, tenantID int64, p permission.Permission) (names []string) {
	rows, err := d.Names.QueryContext(ctx, selectRoleNames, tenantID)
	if err != nil {
		return nil
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		if rows.Scan(&name) == nil && d.Snapshot.ExplainRoles(strconv.FormatInt(tenantID, 10), []string{name}, p).Allowed {
			names = append(names, name)
		}
	}
	if rows.Err() != nil {
		return nil
	}
	return names
}

// words says the answer in a sentence.
func (a Answer) words(q Question) string {
	who, is := q.Role+" of "+a.Tenant.Name, ""
	if a.User != nil {
		who = a.User.text()
		is = fmt.Sprintf("%s is %s in %s; ", who, a.Role, a.Tenant.Name)
	}
	if a.Allowed {
		return "allowed: " + is + a.holds()
	}
	text := "denied: "
	switch {
	case a.Reason == permission.NotAMember && a.User != nil && a.User.Status == identity.StatusDisabled:
		text += "the account " + who + " is disabled"
	case a.Reason == permission.NotAMember && a.User == nil:
		text += fmt.Sprintf("%s has no role %s", a.Tenant.Name, q.Role)
	case a.Reason == permission.RoleLacksAction:
		text += fmt.Sprintf("%sneither %s nor what it inherits holds %s", is, a.Role, a.Permission)
	default:
		text += a.why(who, a.Tenant.Name, q.Permission)
	}
	switch {
	case len(a.RolesWithIt) > 0:
		text += fmt.Sprintf("; %s of %s would", list(a.RolesWithIt, "or"), a.Tenant.Name)
	case a.Reason == permission.RoleLacksAction:
		text += fmt.Sprintf("; no role of %s does", a.Tenant.Name)
	}
	if a.Reason == permission.RoleLacksAction && permission.Pattern(q.Permission).Platform() {
		text += " (owners and wildcards never give the right to run the installation)"
	}
	return text
}

// holds says what gives the permission: "Editor inherits Viewer, which holds abc/*/read".
func (v Verdict) holds() string {
	text := strings.Join(v.Path, " inherits ")
	if len(v.Path) > 1 {
		text = v.Path[0] + " inherits " + strings.Join(v.Path[1:], ", which inherits ") + ", which"
	}
	if v.Row == permission.OwnerRow {
		return text + " is the owner role: it may do everything but run the installation"
	}
	return text + " holds " + v.Row
}

// Holder is one who may use a permission.
type Holder struct {
	UserID string `json:"user_id"`
	Email  string `json:"email,omitempty"`
	Role   string `json:"role"`
	Rule   string `json:"rule"`
}

// Holders is who may use a permission in a tenant.
type Holders struct {
	Permission string `json:"permission"`
	Tenant     Named  `json:"tenant"`
	Seq        int64  `json:"seq"`
	// Reason is allowed, or why nobody can: the permission is unknown or the
	// tenant is suspended.
	Reason  permission.Reason `json:"reason"`
	Holders []Holder          `json:"holders"`
	// Text says why nobody can, or is empty.
	Text string `json:"text,omitempty"`
}

// WhoCan answers who may use a permission in a tenant, in the order of user ids.
func (d Desk) WhoCan(ctx context.Context, tenant string, p permission.Permission) (Holders, error) {
	h := Holders{Permission: p.String(), Seq: d.Snapshot.Seq(), Holders: []Holder{}}
	var err error
	if h.Tenant, err = d.tenant(ctx, tenant); err != nil {
		return h, err
	}
	found, reason := d.Snapshot.Holders(strconv.FormatInt(h.Tenant.ID, 10), p)
	h.Reason = reason
	if reason != permission.Allowed {
		h.Text = Verdict{Reason: reason}.why("", h.Tenant.Name, p)
		return h, nil
	}
	emails := d.emails(ctx, h.Tenant.ID)
	for _, one := range found {
		h.Holders = append(h.Holders, Holder{one.UserID, emails[one.UserID], one.Role, one.Rule})
	}
	if len(found) == 0 {
		h.Text = "nobody in " + h.Tenant.Name + " may use " + h.Permission
	}
	return h, nil
}

const selectEmails = `SELECT u.id, u.email FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.tenant_id = $1`

// emails returns the addresses of a tenant's members, none while the database is away.
func (d Desk) emails(ctx context.Context, tenantID int64) map[string]string {
	emails := map[string]string{}
	rows, err := d.Names.QueryContext(ctx, selectEmails, tenantID)
	if err != nil {
		return nil
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, email string
		if rows.Scan(&id, &email) == nil {
			emails[id] = email
		}
	}
	if rows.Err() != nil {
		return nil
	}
	return emails
}

// Permissions is everything that a user may do in a tenant.
type Permissions struct {
	Tenant Named  `json:"tenant"`
	User   Person `json:"user"`
	Seq    int64  `json:"seq"`
	Role   string `json:"role,omitempty"`
	// Reason is allowed for an active member of an active tenant.
	Reason      permission.Reason `json:"reason"`
	Permissions []string          `json:"permissions"`
}

// Of answers what a user may do in a tenant, in the order of names.
func (d Desk) Of(ctx context.Context, tenant, user string) (Permissions, error) {
	p := Permissions{Seq: d.Snapshot.Seq(), Permissions: []string{}}
	var err error
	if p.Tenant, err = d.tenant(ctx, tenant); err != nil {
		return p, err
	}
	person, err := d.user(ctx, user)
	if err != nil {
		return p, err
	}
	p.User = *person
	role, all, reason := d.Snapshot.PermissionsOf(strconv.FormatInt(p.Tenant.ID, 10), person.ID)
	p.Role, p.Reason = role, reason
	for _, one := range all {
		p.Permissions = append(p.Permissions, one.String())
	}
	return p, nil
}
