package loki

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// diagnostics tells an operator of trouble, never through a logger: its lines
// would come back here. It writes one line a second at most. Those that come too
// soon wait, one of each kind, which is the newest.
type diagnostics struct {
	mu      sync.Mutex
	w       io.Writer
	quiet   bool // a line was written less than a second ago
	waiting []message
}

type message struct {
	kind, text string
	omitted    int
}

const diagnosticsEvery = time.Second

func (d *diagnostics) printf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if !d.quiet {
		d.tell(text)
		return
	}
	kind := kindOf(text)
	i := slices.IndexFunc(d.waiting, func(m message) bool { return m.kind == kind })
	switch {
	case i >= 0:
		d.waiting[i].text = text
		d.waiting[i].omitted++
	case len(d.waiting) < maxKinds:
		d.waiting = append(d.waiting, message{kind: kind, text: text})
	}
}

// maxKinds is more kinds of messages than there are.
const maxKinds = 50

// kindOf returns the first words of a text that are no numbers.
func kindOf(text string) string {
	words := slices.DeleteFunc(strings.Fields(text), func(word string) bool { return word[0] >= '0' && word[0] <= '9' })
	return strings.Join(words[:min(3, len(words))], " ")
}

// tell writes a line; d.mu is held.
func (d *diagnostics) tell(text string) {
	_, _ = fmt.Fprintf(d.w, "log shipping: %s\n", text) // nobody is left to tell
	d.quiet = true
	time.AfterFunc(diagnosticsEvery, d.next)
}

// next tells the message that has waited longest.
func (d *diagnostics) next() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = false
	if len(d.waiting) > 0 {
		first := d.waiting[0]
		d.waiting = d.waiting[1:]
		d.tell(first.String())
	}
}

// finish tells all that wait: the process is about to end.
func (d *diagnostics) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.waiting {
		d.tell(m.String())
	}
	d.waiting = nil
}

func (m message) String() string {
	if m.omitted > 0 {
		return fmt.Sprintf("%s (and %d like it)", m.text, m.omitted)
	}
	return m.text
}

// line writes a log line that can't be kept.
func (d *diagnostics) line(p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _ = d.w.Write(p) // nobody is left to tell
}
