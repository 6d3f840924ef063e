package breaker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
	"github.com/tenantgate/tenantgate/internal/clock"
)

// The colours of states, as parameters of a terminal's SGR sequence.
var stateColours = map[string]string{"closed": "32", "open": "31", "half-open": "33", "forced-open": "1;31", "forced-closed": "1;36"}

func paint(text, colour string, colours bool) string {
	if !colours || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// writeText writes an answer for a person.
func writeText(w *bytes.Buffer, l listing, colours bool) {
	colour := ""
	if l.Mode == "local" {
		colour = "33"
	}
	w.WriteString(paint(operator.Printable(l.headline()), colour, colours) + "\n")
	if s := l.Settings; s != nil {
		w.WriteString(operator.Printable(s.text()) + "\n")
	}
	if l.Order != "" {
		w.WriteString(operator.Printable(l.Order+": "+l.Note) + "\n")
	}
	if len(l.Breakers) == 0 {
		w.WriteString("no breaker is configured, and none is known from other gateways\n")
		return
	}
	writeTable(w, l.Breakers, colours)
}

// headline says who decides about circuits.
func (l listing) headline() string {
	redis, age := "", time.Duration(0)
	if l.Redis != nil {
		redis = *l.Redis
	}
	if l.AgeMS != nil {
		age = time.Duration(*l.AgeMS) * time.Millisecond
	}
	who := ""
	if l.Replica != "" {
		who = " (replica " + l.Replica + ")"
	}
	switch l.Mode {
	case "shared":
		return fmt.Sprintf("shared: all gateways decide together through %s, which answered %.1fs ago%s", redis, age.Seconds(), who)
	case "local":
		if l.Cause != "" {
			return fmt.Sprintf("local: %s has failed for %s (%s), each gateway decides by itself%s", redis, age.Round(time.Second), l.Cause, who)
		}
		return fmt.Sprintf("local: %s has not answered for %s, each gateway decides by itself%s", redis, age.Round(time.Second), who)
	}
	return "alone: no redis, this gateway decides by itself" + who
}

func (s *settingsView) text() string {
	text := fmt.Sprintf("opens after %d failures within %s", s.Failures, ms(s.WindowMS))
	if s.MinRatio > 0 {
		text += fmt.Sprintf(" if %g%% of the requests failed", 100*s.MinRatio)
	}
	if s.MinReporters > 1 {
		text += fmt.Sprintf(" and %d gateways have seen it", s.MinReporters)
	}
	text += fmt.Sprintf(", for %s", ms(s.OpenMS))
	if s.OpenMaxMS > 0 {
		text += fmt.Sprintf(" to %s", ms(s.OpenMaxMS))
	}
	plural := "probes"
	if s.Need == 1 {
		plural = "probe"
	}
	return text + fmt.Sprintf("; needs %d good %s, %d at a time; scope %s, mode %s", s.Need, plural, s.Probes, s.Scope, s.Mode)
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// left is the rest of the open period or of the order.
func (c circuitView) left() string {
	n := c.RemainingMS
	if n == nil {
		n = c.ForcedForMS
	}
	if n == nil {
		return "-"
	}
	return ((ms(*n) + time.Second - 1) / time.Second * time.Second).String()
}

// because is the reason of a change with what the operator said.
func because(reason, said string) string {
	if said == "" {
		return reason
	}
	return reason + ": " + said
}

// writeTable writes the circuits as a table.
func writeTable(w *bytes.Buffer, circuits []circuitView, colours bool) {
	header := []string{"NAME", "UPSTREAM", "TENANT", "STATE", "LEFT", "TRIPS", "FAILURES", "REASON"}
	const tenant, state = 2, 3
	hasTenant := false
	rows := [][]string{header}
	for _, c := range circuits {
		hasTenant = hasTenant || c.Tenant != ""
		row := []string{c.Name, c.Upstream, c.Tenant, c.State, c.left(), strconv.Itoa(c.Trips), strconv.Itoa(c.Failures), because(c.Reason, c.OrderReason)}
		for i, cell := range row {
			if row[i] = operator.Printable(cell); cell == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	widths := make([]int, len(header))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i == tenant && !hasTenant {
				continue
			}
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			switch {
			case n == 0:
				cell = paint(cell, "1", colours)
			case i == state:
				cell = paint(cell, stateColours[cell], colours)
			}
			if i == len(row)-1 {
				padding = ""
			}
			line.WriteString(cell + padding)
		}
		w.WriteString(line.String() + "\n")
	}
}

// screen shows one look after the other.
type screen interface {
	// show shows a look, or why there is none.
	show(l listing, err error) error
	// end leaves the terminal as it was.
	end()
}

// watch looks at the circuits every interval until ctx ends. Only if the first
// look fails it gives up: a gateway that is restarted comes back.
func (b *breakerCommands) watch(ctx context.Context, name string, interval time.Duration, s screen) error {
	l, err := b.list(ctx, name)
	if err != nil {
		return unless(ctx, err)
	}
	defer s.end()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := s.show(l, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if l, err = b.list(ctx, name); ctx.Err() != nil {
			return nil
		}
	}
}

// unless returns the error if it isn't the end of ctx that caused it.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// fullScreen is the table on a terminal, written over the one before.
type fullScreen struct {
	out      io.Writer
	colours  bool
	interval time.Duration
	size     func() (columns, rows int)
	begun    bool
	last     listing
}

// The sequences of a terminal.
const (
	clearAll   = "\x1b[2J"
	goHome     = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
	wrapOff    = "\x1b[?7l"
	wrapOn     = "\x1b[?7h"
)

func (f *fullScreen) show(l listing, err error) error {
	var text bytes.Buffer
	if err != nil {
		l = f.last
	}
	f.last = l
	writeText(&text, l, f.colours)
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	foot := fmt.Sprintf("every %s, Ctrl-C ends", f.interval)
	if err != nil {
		foot = paint(operator.Printable(err.Error()), "31", f.colours)
	}
	if _, rows := f.size(); rows > 2 && len(lines) > rows-2 {
		hidden := len(lines) - (rows - 2)
		lines, foot = lines[:rows-2], fmt.Sprintf("%d more; ", hidden)+foot
	}
	out := goHome
	if !f.begun {
		f.begun = true
		out = wrapOff + clearAll + goHome
	}
	for _, line := range append(lines, foot) {
		out += line + clearLine + "\n"
	}
	_, err = io.WriteString(f.out, out+clearBelow)
	return err
}

func (f *fullScreen) end() {
	_, _ = io.WriteString(f.out, wrapOn) // nobody is left to tell
}

// changes is a line for each change.
type changes struct {
	out   io.Writer
	json  bool
	clock clock.Clock

	begun   bool
	mode    string
	known   map[string]circuitView
	failing bool
}

// change is one line. A change of mode names no breaker.
type change struct {
	Time     string `json:"time"`
	Error    string `json:"error,omitempty"`
	Mode     string `json:"mode,omitempty"`
	Name     string `json:"name,omitempty"`
	Upstream string `json:"upstream,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	LeftMS   *int64 `json:"left_ms,omitempty"`
	Trips    int    `json:"trips,omitempty"`
	Failures int    `json:"failures,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// OrderReason is what the operator said.
	OrderReason string `json:"order_reason,omitempty"`
}

func (c *changes) show(l listing, err error) error {
	if err != nil {
		again := c.failing
		c.failing = true
		if again {
			return nil
		}
		return c.write(change{Error: err.Error()})
	}
	c.failing = false
	if c.mode != l.Mode {
		if err := c.write(change{Mode: l.Mode}); err != nil {
			return err
		}
	}
	now := make(map[string]circuitView, len(l.Breakers))
	for _, v := range l.Breakers {
		key := v.Name + "\n" + v.Upstream + "\n" + v.Tenant
		now[key] = v
		before, ok := c.known[key]
		if !ok {
			before.State = "closed"
		}
		if before.State == v.State && before.Trips == v.Trips {
			continue
		}
		if !c.begun {
			before.State = "" // it may have been so for long
		}
		if err := c.write(changeTo(v, before.State)); err != nil {
			return err
		}
	}
	for key, before := range c.known {
		if _, ok := now[key]; !ok && before.State != "closed" { // forgotten
			if err := c.write(changeTo(circuitView{Name: before.Name, Upstream: before.Upstream, Tenant: before.Tenant, State: "closed"}, before.State)); err != nil {
				return err
			}
		}
	}
	c.begun, c.mode, c.known = true, l.Mode, now
	return nil
}

func (c *changes) end() {}

func changeTo(v circuitView, from string) change {
	left := v.RemainingMS
	if left == nil {
		left = v.ForcedForMS
	}
	return change{
		Name: v.Name, Upstream: v.Upstream, Tenant: v.Tenant, From: from, To: v.State,
		LeftMS: left, Trips: v.Trips, Failures: v.Failures, Reason: v.Reason, OrderReason: v.OrderReason,
	}
}

func (c *changes) write(line change) error {
	line.Time = c.clock.Now().UTC().Format(time.RFC3339)
	var out bytes.Buffer
	if !c.json {
		out.WriteString(operator.Printable(line.text()) + "\n")
	} else if err := operator.WriteJSON(&out, line, ""); err != nil {
		return err
	}
	_, err := out.WriteTo(c.out)
	return err
}

// text returns the line for a person.
func (c change) text() string {
	switch {
	case c.Error != "":
		return c.Time + " " + c.Error
	case c.Mode != "":
		return c.Time + " mode " + c.Mode
	}
	text := c.Time + " " + c.Name + " " + c.Upstream
	if c.Tenant != "" {
		text += " tenant " + c.Tenant
	}
	if c.From != "" {
		text += " " + c.From + " ->"
	}
	text += " " + c.To
	if c.LeftMS != nil {
		text += " for " + circuitView{RemainingMS: c.LeftMS}.left()
	}
	if c.Reason != "" {
		text += " (" + because(c.Reason, c.OrderReason) + ")"
	}
	return text
}
