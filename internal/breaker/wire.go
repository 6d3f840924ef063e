package breaker

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Command is one operation of the script in script.lua on one circuit.
type Command struct {
	Op string
	ID string // of the circuit, see circuitID
	// Replica, Seen and Epoch are what every operation needs, see script.lua.
	Replica string
	Seen    uint64
	Epoch   string
	Args    []any
}

// Reply is what the script answers.
type Reply struct {
	Verdict string
	Wait    time.Duration // -1ms: nobody knows
	Lines   []string      // the circuit's record, or of a sync the group's version and all records
}

// remoteRecord is a circuit as the script describes it.
type remoteRecord struct {
	epoch         string
	before, group uint64 // the group's version before and after the operation
	key           Key
	state         State
	version       uint64 // at which the record was made
	closedAt      uint64 // at which the circuit was last closed
	remaining     time.Duration
	trips, good   int
	forced        Forced
	forcedFor     time.Duration // 0: until it is lifted
	failures      int
	origin        string // replica that caused it
	reason        Reason
	orderReason   string
}

// The words of the wire.
const (
	wordGood = "good"
	wordBad  = "bad"
	wordNone = "none"
)

var (
	escapeID   = strings.NewReplacer("%", "%25", "@", "%40", " ", "%20", "\n", "%0A")
	unescapeID = strings.NewReplacer("%25", "%", "%40", "@", "%20", " ", "%0A", "\n")
)

// circuitID returns the key as Redis knows it: name@upstream or
// name@upstream@tenant, with % @ space and newline escaped as in a URL.
func circuitID(k Key) string {
	id := k.Name + "@" + escapeID.Replace(k.Upstream)
	if k.Tenant != "" {
		id += "@" + escapeID.Replace(k.Tenant)
	}
	return id
}

func parseID(id string) (Key, error) {
	parts := strings.Split(id, "@")
	if len(parts) < 2 || len(parts) > 3 {
		return Key{}, fmt.Errorf("circuit id %q is not name@upstream", id)
	}
	k := Key{Name: parts[0], Upstream: unescapeID.Replace(parts[1])}
	if len(parts) == 3 {
		k.Tenant = unescapeID.Replace(parts[2])
	}
	return k, nil
}

var errWire = errors.New("malformed record")

// wireFields is how many fields a described record has, its id last.
const wireFields = 15

// parseRecord reads what describe in script.lua writes.
func parseRecord(line string) (r remoteRecord, err error) {
	f := strings.SplitN(line, " ", wireFields)
	if len(f) != wireFields {
		return r, fmt.Errorf("%w: %q", errWire, line)
	}
	n := numbers{}
	r.epoch, r.before, r.group = f[0], n.uint(f[1]), n.uint(f[2])
	r.version, r.remaining = n.uint(f[4]), n.millis(f[5])
	r.trips, r.good, r.failures = n.count(f[6]), n.count(f[7]), n.count(f[10])
	r.origin, r.closedAt = f[11], n.uint(f[13])
	r.reason, r.orderReason = parseReason(f[12])
	if f[9] != "-1" {
		r.forcedFor = max(time.Nanosecond, n.millis(f[9])) // 0 ms left is not for ever
	}
	states := map[string]State{"C": Closed, "O": Open, "H": HalfOpen}
	orders := map[string]Forced{"N": NotForced, "O": ForcedOpen, "C": ForcedClosed}
	var known, ordered bool
	r.state, known = states[f[3]]
	r.forced, ordered = orders[f[8]]
	if r.key, err = parseID(f[14]); err != nil || n.bad || !known || !ordered {
		return r, fmt.Errorf("%w: %q", errWire, line)
	}
	return r, nil
}

// snapshot is everything that the arbiter knows.
type snapshot struct {
	epoch   string
	version uint64
	records map[Key]remoteRecord // of all circuits that are not plainly closed, and those that once were not
}

// of returns what the snapshot says of a circuit: closed, if nothing.
func (s snapshot) of(key Key) remoteRecord {
	r, ok := s.records[key]
	if !ok {
		r.key = key
	}
	return r
}

// parseSnapshot reads the reply to a sync.
func parseSnapshot(lines []string) (s snapshot, err error) {
	if len(lines) == 0 {
		return s, errWire
	}
	n := numbers{}
	epoch, version, ok := strings.Cut(lines[0], " ")
	s = snapshot{epoch: epoch, version: n.uint(version), records: map[Key]remoteRecord{}}
	if !ok || n.bad {
		return s, fmt.Errorf("%w: %q", errWire, lines[0])
	}
	for _, line := range lines[1:] {
		if rest, ok := strings.CutPrefix(line, "c "); ok {
			r, err := parseClosing(rest)
			if err != nil {
				return s, err
			}
			if _, ok := s.records[r.key]; !ok {
				s.records[r.key] = r
			}
			continue
		}
		r, err := parseRecord(line)
		if err != nil {
			return s, err
		}
		s.records[r.key] = r
	}
	return s, nil
}

// parseClosing reads the closing of a circuit: version, replica, reason, id.
func parseClosing(line string) (r remoteRecord, err error) {
	f := strings.SplitN(line, " ", 4)
	if len(f) != 4 {
		return r, fmt.Errorf("%w: %q", errWire, line)
	}
	n := numbers{}
	r.version, r.origin = n.uint(f[0]), f[1]
	r.reason, _ = parseReason(f[2]) // an order says more in the circuit's record
	r.closedAt = r.version
	if r.key, err = parseID(f[3]); err != nil || n.bad {
		return r, fmt.Errorf("%w: %q", errWire, line)
	}
	return r, nil
}

// saidPrefix stands in the word for a reason before what an operator said.
const saidPrefix = "forced:_"

// In the word an underscore stands for a space, so that gateways that take all
// of it for the reason show "forced: provider maintenance".
var (
	escapeSaid   = strings.NewReplacer("%", "%25", "_", "%5F", " ", "_")
	unescapeSaid = strings.NewReplacer("%25", "%", "%5F", "_", "_", " ")
)

// maxSaid is how many characters are kept of what an operator said.
const maxSaid = 100

// oneLine returns what is kept of what an operator said: one line of printable
// characters, not too long.
func oneLine(said string) string {
	said = strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, said))
	if runes := []rune(said); len(runes) > maxSaid {
		said = string(runes[:maxSaid-1]) + "…"
	}
	return said
}

// orderWord returns the word for the reason of an order.
func orderWord(said string) string {
	if said = oneLine(said); said == "" {
		return string(ReasonForced)
	}
	return saidPrefix + escapeSaid.Replace(said)
}

func parseReason(word string) (why Reason, said string) {
	if word, ok := strings.CutPrefix(word, saidPrefix); ok {
		return ReasonForced, oneLine(unescapeSaid.Replace(word))
	}
	return Reason(strings.ReplaceAll(word, "_", " ")), ""
}

// numbers parses decimal numbers and remembers whether one was none.
type numbers struct{ bad bool }

func (n *numbers) uint(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	n.bad = n.bad || err != nil
	return v
}

func (n *numbers) count(s string) int {
	v, err := strconv.ParseInt(s, 10, 32)
	n.bad = n.bad || err != nil || v < 0
	return int(v)
}

// maxMillis keeps durations from the wire within what a time.Duration holds.
const maxMillis = 100 * 365 * 24 * 3600 * 1000

func (n *numbers) millis(s string) time.Duration {
	v, err := strconv.ParseInt(s, 10, 64)
	n.bad = n.bad || err != nil || v < 0 || v > maxMillis
	return time.Duration(v) * time.Millisecond
}

// millis rounds up: nothing that lasts becomes nothing.
func millis(d time.Duration) int64 {
	whole := d.Milliseconds()
	if time.Duration(whole)*time.Millisecond < d {
		whole++
	}
	return whole
}

// openArgs are the arguments that the script's open takes.
func (s Settings) openArgs(random float64) []any {
	return []any{millis(s.Open), millis(s.OpenMax), s.Jitter, random}
}
