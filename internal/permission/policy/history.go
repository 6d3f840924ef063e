package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tenantgate/tenantgate/internal/identity"
)

// MaxHistory is how many events [History] returns at most.
const MaxHistory = 1000

// Event is one change of the permission table, from the audit log.
type Event struct {
	Time time.Time `json:"time"`
	// Actor is the user's id or cli:<name>; ActorEmail is the user's address.
	Actor      string `json:"actor"`
	ActorEmail string `json:"actor_email,omitempty"`
	TenantID   int64  `json:"tenant_id,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	Action     string `json:"action"`
	// Target is what changed: role/12, user/0192…; TargetEmail is the user's address.
	Target      string          `json:"target"`
	TargetEmail string          `json:"target_email,omitempty"`
	Detail      json.RawMessage `json:"detail"`
	// Text is the detail in words.
	Text    string `json:"text"`
	TraceID string `json:"trace_id,omitempty"`
}

const (
	historyColumns = `SELECT a.created_at, a.actor_id, COALESCE(a.tenant_id, 0), COALESCE(t.name, ''), a.action, a.target, a.detail, a.trace_id
		FROM audit_events a LEFT JOIN tenants t ON t.id = a.tenant_id WHERE a.created_at >= $1
		AND (a.action LIKE 'tenant.%' OR a.action LIKE 'product.%' OR a.action LIKE 'feature.%' OR a.action LIKE 'role.%'
			OR a.action LIKE 'member.%' OR a.action LIKE 'user.%' OR a.action = 'invitation.accepted')`
	selectHistory         = historyColumns + ` ORDER BY a.created_at DESC, a.id DESC LIMIT $2`
	selectHistoryOfTenant = historyColumns + ` AND a.tenant_id = $2 ORDER BY a.created_at DESC, a.id DESC LIMIT $3`
)

// History returns the changes of the permission table since a time, the newest
// first and at most limit of them; tenantID 0 is all tenants and the catalogue.
func History(ctx context.Context, q identity.Queryer, tenantID int64, since time.Time, limit int) ([]Event, error) {
	args, statement := []any{since.UnixMilli(), limit}, selectHistory
	if since.IsZero() {
		args[0] = int64(0)
	}
	if tenantID != 0 {
		args, statement = []any{args[0], tenantID, limit}, selectHistoryOfTenant
	}
	rows, err := q.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer func() { _ = rows.Close() }()
	events := []Event{}
	for rows.Next() {
		var (
			e      Event
			at     int64
			detail string
		)
		if err := rows.Scan(&at, &e.Actor, &e.TenantID, &e.Tenant, &e.Action, &e.Target, &detail, &e.TraceID); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		e.Time, e.Detail = time.UnixMilli(at).UTC(), json.RawMessage(detail)
		if !json.Valid(e.Detail) { // written by hand
			e.Detail = json.RawMessage("null")
		}
		e.Text = words(e.Action, e.Detail)
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return events, addEmails(ctx, q, events)
}

// addEmails names the users of the events.
func addEmails(ctx context.Context, q identity.Queryer, events []Event) error {
	known := map[string]string{}
	email := func(id string) (string, error) {
		if found, ok := known[id]; ok {
			return found, nil
		}
		user, err := identity.FindUser(ctx, q, id)
		if err != nil && !isNotFound(err) {
			return "", err
		}
		known[id] = user.Email
		return user.Email, nil
	}
	for i := range events {
		e := &events[i]
		var err error
		if !strings.HasPrefix(e.Actor, "cli:") {
			if e.ActorEmail, err = email(e.Actor); err != nil {
				return err
			}
		}
		if id, ok := strings.CutPrefix(e.Target, "user/"); ok {
			if e.TargetEmail, err = email(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// detail is what audit rows of the permission table say. From, To, Added and
// Removed have several forms.
type detail struct {
	Name, Product, Role      string
	Actions                  []string
	From, To, Added, Removed json.RawMessage
}

// words says the detail of an event in words, as far as it is known; otherwise
// as it stands there.
func words(action string, raw json.RawMessage) string {
	var d detail
	if json.Unmarshal(raw, &d) != nil {
		return string(raw)
	}
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	name := d.Name
	if d.Product != "" && name != "" {
		name = d.Product + "/" + name
	}
	if name != "" {
		add("%s", name)
	}
	if d.Role != "" && strings.HasPrefix(action, "role.") {
		add("%s", d.Role)
	} else if d.Role != "" {
		add("as %s", d.Role)
	}
	if len(d.Actions) > 0 {
		add("with %s", strings.Join(d.Actions, ", "))
	}
	if len(d.From) > 0 && len(d.To) > 0 {
		add("%s", fromTo(d.From, d.To))
	}
	gains, loses := "gains", "loses"
	if action == parentsChanged {
		gains, loses = "inherits", "no longer inherits"
	}
	if added := names(d.Added); added != "" {
		add("%s %s", gains, added)
	}
	if removed := names(d.Removed); removed != "" {
		add("%s %s", loses, removed)
	}
	return strings.Join(parts, " ")
}

// fromTo says what differs between two values: two texts, or the fields of two objects.
func fromTo(from, to json.RawMessage) string {
	var before, after map[string]json.RawMessage
	if json.Unmarshal(from, &before) != nil || json.Unmarshal(to, &after) != nil {
		return plainJSON(from) + " -> " + plainJSON(to)
	}
	var parts []string
	for _, field := range union(before, after) {
		if field != "updated_at" && string(before[field]) != string(after[field]) {
			parts = append(parts, fmt.Sprintf("%s %s -> %s", field, plainJSON(before[field]), plainJSON(after[field])))
		}
	}
	return strings.Join(parts, ", ")
}

// plainJSON returns a text without its quotes, a list of texts with commas, and
// anything else as JSON.
func plainJSON(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var texts []string
	if json.Unmarshal(raw, &texts) == nil {
		return strings.Join(texts, ",")
	}
	return string(raw)
}

// names lists rights or names.
func names(raw json.RawMessage) string {
	var (
		texts  []string
		rights []right
	)
	if json.Unmarshal(raw, &rights) == nil {
		for _, r := range rights {
			texts = append(texts, r.Product+"/"+r.Feature+"/"+r.Action)
		}
	} else if json.Unmarshal(raw, &texts) != nil {
		return ""
	}
	return strings.Join(texts, ", ")
}
