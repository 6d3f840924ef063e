package permission

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	"github.com/tenantgate/tenantgate/internal/permission/policy"
)

// writeLines writes lines for a person.
func writeLines(w io.Writer, lines ...string) error {
	var out strings.Builder
	for _, line := range lines {
		out.WriteString(operator.Printable(line) + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// writeTable writes rows in columns, the first as a header.
func writeTable(w io.Writer, rows [][]string) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(operator.Printable(cell)))
		}
	}
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			if cell = operator.Printable(cell); cell == "" {
				cell = "-"
			}
			line += cell + strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell))+2)
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return writeLines(w, lines...)
}

// writeHolders writes who may use a permission.
func writeHolders(w io.Writer, h policy.Holders) error {
	if h.Text != "" {
		return writeLines(w, h.Text)
	}
	rows := [][]string{{"EMAIL", "USER", "ROLE", "RULE"}}
	for _, one := range h.Holders {
		rows = append(rows, []string{one.Email, one.UserID, one.Role, one.Rule})
	}
	return writeTable(w, rows)
}

// writeDifference writes changes and what they mean for people.
func writeDifference(w io.Writer, d policy.Difference) error {
	var lines []string
	for _, c := range d.Changes {
		lines = append(lines, c.Lines()...)
	}
	if effects := d.EffectLines(); len(effects) > 0 {
		lines = append(append(lines, "", "in effect:"), effects...)
	}
	return writeLines(w, lines...)
}

// writeEvents writes the history.
func writeEvents(w io.Writer, events []policy.Event) error {
	if len(events) == 0 {
		return writeLines(w, "nothing was changed")
	}
	rows := [][]string{{"TIME", "ACTOR", "TENANT", "ACTION", "TARGET", "DETAIL", "TRACE"}}
	for _, e := range events {
		actor, target := e.ActorEmail, e.TargetEmail
		if actor == "" {
			actor = e.Actor
		}
		if target == "" {
			target = e.Target
		}
		tenant := e.Tenant
		if tenant == "" && e.TenantID != 0 { // it is gone
			tenant = fmt.Sprint(e.TenantID)
		}
		rows = append(rows, []string{e.Time.Format(time.RFC3339), actor, tenant, e.Action, target, e.Text, e.TraceID})
	}
	return writeTable(w, rows)
}
