package loki

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
)

// deliveryHooks is how a [delivery] learns of changes and tells what it does. All
// are set; they are called by several goroutines at once and must not block.
type deliveryHooks struct {
	clock clock.Clock
	// changed returns a channel that is closed when the settings change. It is
	// called before the settings are read.
	changed func() <-chan struct{}
	// onRequest is told of each request: its status, 0 for none, and how long it
	// took; sent of what went out with it, bytes of the request's body.
	onRequest func(status int, took time.Duration)
	sent      func(lines, bytes int)
	// retrying is told when requests begin to fail, and when none does any more.
	retrying func(bool)
	// diagnose is told of trouble, one line without its end.
	diagnose func(text string)
	// quarantine is given an entry, with its tag and length, that Loki refuses
	// alone.
	quarantine func(tenant, labels string, entry []byte, why string)
}

const (
	// Waits are random up to the first backoff, doubled with each try.
	firstBackoff, maxBackoff = 250 * time.Millisecond, 30 * time.Second
	// minPark and maxPark bound the wait for somebody to mend the configuration.
	minPark, maxPark = 10 * time.Second, 30 * time.Second
	// splitAfter tries a request that is over a limit is split: Loki does not tell
	// the burst, and what is larger never succeeds.
	splitAfter = 5
	// giveUpAfter tries a stream that is one too many is rejected, and an entry
	// that is over the limit alone is set aside.
	giveUpAfter = 10
	// neverTooLarge is the size of a body that no server has reason to refuse.
	neverTooLarge = 64 << 10
	// confidence is how long Loki is known to take a stream, or to take it not.
	confidence = 10 * time.Minute
	// maxRemembered bounds the streams of which that is known.
	maxRemembered = 10_000
)

// result is what became of the lines of a batch; each is counted once.
type result struct {
	acknowledged int
	// repeated were sent again although Loki may have taken them already.
	repeated int64
	// rejected were refused by Loki for good, dropped became too old; by reason.
	rejected, dropped map[string]int64
}

// delivery brings batches of one lane to Loki. Its methods are safe for
// concurrent use; a request that fails holds the others back.
type delivery struct {
	settings func() Settings
	hooks    deliveryHooks
	client   *http.Client // if the settings have none

	mu      sync.Mutex
	until   time.Time // nothing is sent before
	success time.Time // when the last request that succeeded ended
	failing int       // batches that are failing
	// known is when Loki last took all of a stream and would have said otherwise,
	// exceeding when it was one too many; by labels.
	known, exceeding map[string]time.Time
}

// newDelivery returns a delivery that asks for the complete settings before each
// request.
func newDelivery(settings func() Settings, hooks deliveryHooks) *delivery {
	return &delivery{
		settings: settings, hooks: hooks, client: NewClient(nil),
		known: map[string]time.Time{}, exceeding: map[string]time.Time{},
	}
}

// batch is what one deliver has in hand.
type batch struct {
	tenant  string
	result  result
	failing bool // its last request failed and will be repeated
}

// part is what one request holds.
type part struct {
	streams []stream
	lines   int
	body    []byte // encoded; nil if it is not yet
	// faulty says that Loki itself, not something before it, refuses this part.
	faulty bool
	// tries counts failures; the first one was at since, and the next try is not
	// before until, if settings have not changed: changed is closed then.
	tries        int
	since, until time.Time
	changed      <-chan struct{}
}

func newPart(faulty bool, streams ...stream) *part {
	p := &part{streams: streams, faulty: faulty}
	for _, s := range streams {
		p.lines += s.lines
	}
	return p
}

// deliver sends a batch for a tenant, in part and again as Loki's answers ask for,
// until all of its lines are acknowledged, rejected or older than MaxAge. An error
// means that ctx has ended: then nothing is known of the batch.
func (d *delivery) deliver(ctx context.Context, tenant string, streams []stream) (result, error) {
	b := &batch{tenant: tenant, result: result{rejected: map[string]int64{}, dropped: map[string]int64{}}}
	defer d.succeeds(b)
	for todo := d.plan(streams); len(todo) > 0; {
		next, err := d.try(ctx, b, todo[0])
		if err != nil {
			return result{}, err
		}
		todo = append(next, todo[1:]...)
	}
	return b.result, nil
}

// plan divides a batch into requests. Loki tells only what became of the last
// stream of a request (its instance.Push forgets the others), so one of which it
// is not known that Loki takes it goes alone. Of the others the largest, which is
// the first to exceed a rate, goes last.
func (d *delivery) plan(streams []stream) []*part {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.hooks.clock.Now()
	var parts []*part
	var together []stream
	for _, s := range streams {
		if s.lines == 0 {
			continue
		}
		if last, found := d.known[s.labels]; found && now.Sub(last) < confidence {
			together = append(together, s)
		} else {
			parts = append(parts, newPart(false, s))
		}
	}
	if len(together) > 0 {
		slices.SortStableFunc(together, func(a, b stream) int { return cmp.Compare(size(a), size(b)) })
		parts = append(parts, newPart(false, together...))
	}
	return parts
}

func size(s stream) (n int) {
	for _, piece := range s.entries {
		n += len(piece)
	}
	return n
}

// try sends a part once, when it is time to, and returns what is left of it.
func (d *delivery) try(ctx context.Context, b *batch, p *part) ([]*part, error) {
	if err := d.wait(ctx, p); err != nil {
		return nil, err
	}
	p.changed = d.hooks.changed()
	s := d.settings()
	if dropped := d.dropOld(p, s.MaxAge); dropped > 0 {
		b.result.dropped["too_old"] += int64(dropped)
		d.hooks.diagnose(fmt.Sprintf("%d lines could not be sent for %s and are dropped", dropped, s.MaxAge))
	}
	if p.lines == 0 {
		return nil, nil
	}
	if p.body == nil {
		p.body = encodePush(p.streams)
	}
	v := d.push(ctx, s, b.tenant, p.body, p.lines)
	if v.action == refuse && !p.faulty && ctx.Err() == nil {
		v = d.blame(ctx, s, b.tenant, p, v)
	}
	if err := ctx.Err(); err != nil && v.action != accept {
		return nil, err
	}
	return d.act(b, p, v), nil
}

// push sends one request.
func (d *delivery) push(ctx context.Context, s Settings, tenant string, body []byte, lines int) verdict {
	client := s.Client
	if client == nil {
		client = d.client
	}
	start := d.hooks.clock.Now()
	a, err := post(ctx, client, s, tenant, body)
	now := d.hooks.clock.Now()
	d.hooks.onRequest(a.status, now.Sub(start))
	d.hooks.sent(lines, len(body))
	if err != nil {
		dial, _ := errors.AsType[*net.OpError](err)
		return verdict{action: retry, text: summary(withoutSecrets(err.Error(), s)), unsent: dial != nil && dial.Op == "dial"}
	}
	v := parseResponse(a.status, a.header, a.body, now)
	v.text = withoutSecrets(v.text, s)
	return v
}

// blame returns a refusal, if it is Loki that refuses this part and would take
// others: it answers a request without streams with 422. Otherwise the answer
// comes from elsewhere, or is about the tenant, and somebody has to mend that.
func (d *delivery) blame(ctx context.Context, s Settings, tenant string, p *part, v verdict) verdict {
	probe := d.push(ctx, s, tenant, encodePush(nil), 0)
	switch {
	case probe.action == accept || probe.status == http.StatusUnprocessableEntity:
		p.faulty = true
		return v
	case probe.action == refuse:
		v.action = park
		return v
	}
	return probe
}

// act does what an answer asks for and returns what is left to send.
func (d *delivery) act(b *batch, p *part, v verdict) []*part {
	if v.lastStream && len(p.streams) > 1 {
		d.forget(p)
		b.result.repeated += int64(p.lines) // Loki has taken most of them
		if v.action == throttle {
			return d.later(b, p, v, each(p)...)
		}
		return each(p)
	}
	switch v.action {
	case accept:
		refused, ok := v.count(p.lines)
		if !ok {
			return d.divide(b, p, v)
		}
		d.accepted(b, p, v, refused)
		return nil
	case refuse, split:
		return d.divide(b, p, v)
	case exceed:
		if d.isOneTooMany(p) {
			d.hooks.diagnose(fmt.Sprintf("Loki has too many streams and refuses %d lines for good: %s", p.lines, v.text))
			b.result.rejected["stream_limit"] += int64(p.lines)
			return nil
		}
	case throttle:
		if v.lastStream {
			d.forget(p)
		}
		if v.overLimit && p.lines == 1 && p.tries+1 >= giveUpAfter {
			return d.divide(b, p, v)
		}
		if p.lines > 1 && (v.overLimit || p.tries+1 >= splitAfter) {
			return d.later(b, p, v, halves(p)...)
		}
	case retry:
		if !v.unsent {
			b.result.repeated += int64(p.lines)
		}
		// A server that closes the connection before it has read a body that is too
		// large may not be heard.
		if v.status == 0 && p.lines > 1 && len(p.body) > neverTooLarge && p.tries+1 >= splitAfter {
			return d.later(b, p, v, halves(p)...)
		}
	case park:
		v.text += " (are the URL, the credentials and the tenant right?)"
	}
	return d.later(b, p, v, p)
}

// accepted counts the lines of a part that Loki has taken, but for the refused.
func (d *delivery) accepted(b *batch, p *part, v verdict, refused map[string]int64) {
	taken := p.lines
	for reason, n := range refused {
		b.result.rejected[reason] += n
		taken -= int(n)
	}
	b.result.acknowledged += taken
	if taken < p.lines {
		d.hooks.diagnose(fmt.Sprintf("Loki refuses %d of %d lines for good: %s", p.lines-taken, p.lines, v.text))
	}
	d.succeeds(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.success = d.hooks.clock.Now()
	last := p.streams[len(p.streams)-1].labels
	delete(d.exceeding, last)
	if taken < p.lines {
		delete(d.known, last)
		return
	}
	remember(d.known, last, d.success)
}

func remember(m map[string]time.Time, labels string, now time.Time) {
	if len(m) >= maxRemembered {
		clear(m)
	}
	m[labels] = now
}

// forget makes the streams of a part go alone in later batches.
func (d *delivery) forget(p *part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range p.streams {
		delete(d.known, s.labels)
	}
}

// isOneTooMany reports whether a part's stream was refused often enough.
func (d *delivery) isOneTooMany(p *part) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	labels, now := p.streams[0].labels, d.hooks.clock.Now()
	last, found := d.exceeding[labels]
	if p.tries+1 < giveUpAfter && (!found || now.Sub(last) > confidence) {
		return false
	}
	remember(d.exceeding, labels, now)
	return true
}

// divide returns the halves of a part to be sent at once. It sets a single line
// aside.
func (d *delivery) divide(b *batch, p *part, v verdict) []*part {
	if p.lines > 1 {
		return halves(p)
	}
	d.hooks.quarantine(b.tenant, p.streams[0].labels, p.streams[0].entries[0], v.text)
	d.hooks.diagnose("Loki refuses a line, which is set aside: " + v.text)
	b.result.rejected["quarantined"]++
	return nil
}

// later returns what is left of a part, or itself, to be sent after a while.
func (d *delivery) later(b *batch, p *part, v verdict, left ...*part) []*part {
	d.mu.Lock()
	wait := v.wait
	if wait == 0 {
		wait = backoff(v.action, p.tries)
	}
	now := d.hooks.clock.Now()
	if p.since.IsZero() {
		p.since = now
	}
	// Others wait too, unless one has succeeded since this part failed first: then
	// it is its own trouble.
	if !d.success.After(p.since) {
		d.until = latest(d.until, now.Add(wait))
	}
	if !b.failing {
		b.failing = true
		if d.failing++; d.failing == 1 {
			d.hooks.retrying(true)
		}
	}
	p.tries++
	for _, l := range left {
		l.since, l.until, l.changed = p.since, now.Add(wait), p.changed
	}
	d.mu.Unlock()
	d.hooks.diagnose(fmt.Sprintf("lines wait, next try in %s: %s", wait.Round(time.Millisecond), v.text))
	return left
}

// backoff returns how long to wait after a number of tries.
func backoff(a action, tries int) time.Duration {
	if a == park {
		return minPark + rand.N(maxPark-minPark) //nolint:gosec // jitter need not be unguessable
	}
	return rand.N(min(firstBackoff<<min(tries, 10), maxBackoff)) //nolint:gosec // as above
}

// succeeds notes that nothing of a batch has failed last.
func (d *delivery) succeeds(b *batch) {
	if !b.failing {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b.failing = false
	if d.failing--; d.failing == 0 {
		d.hooks.retrying(false)
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wait returns when it is time to send a part: after its own wait and that of all,
// or when the settings have changed.
func (d *delivery) wait(ctx context.Context, p *part) error {
	changed := p.changed
	if changed == nil {
		changed = d.hooks.changed()
	}
	for last := (time.Time{}); ; {
		d.mu.Lock()
		until := latest(d.until, p.until)
		d.mu.Unlock()
		left := until.Sub(d.hooks.clock.Now())
		if left <= 0 || until.Equal(last) {
			return ctx.Err()
		}
		last = until
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		case <-changed:
			timer.Stop()
			d.mu.Lock()
			d.until = time.Time{}
			d.mu.Unlock()
			return nil
		}
	}
}

// each returns the streams of a part alone.
func each(p *part) (parts []*part) {
	for _, s := range p.streams {
		parts = append(parts, newPart(p.faulty, s))
	}
	return parts
}

// halves divides a part of more than one line by its lines.
func halves(p *part) []*part {
	var first, second []stream
	room := p.lines / 2
	for _, s := range p.streams {
		a, b := cut(s, min(room, s.lines))
		room -= a.lines
		if a.lines > 0 {
			first = append(first, a)
		}
		if b.lines > 0 {
			second = append(second, b)
		}
	}
	return []*part{newPart(p.faulty, first...), newPart(p.faulty, second...)}
}

// cut divides a stream after n entries.
func cut(s stream, n int) (first, second stream) {
	first, second = stream{labels: s.labels, lines: n}, stream{labels: s.labels, lines: s.lines - n}
	for _, piece := range s.entries {
		rest := piece
		for ok := true; ok && n > 0; {
			var next []byte
			if _, next, ok = nextEntry(rest); ok {
				rest = next
				n--
			}
		}
		if head := piece[:len(piece)-len(rest)]; len(head) > 0 {
			first.entries = append(first.entries, head)
		}
		if len(rest) > 0 {
			second.entries = append(second.entries, rest)
		}
	}
	return first, second
}

// dropOld takes lines that are older than maxAge out of a part and returns how
// many they were.
func (d *delivery) dropOld(p *part, maxAge time.Duration) int {
	oldest := d.hooks.clock.Now().Add(-maxAge).UnixNano()
	if !slices.ContainsFunc(p.streams, func(s stream) bool {
		return slices.ContainsFunc(s.entries, func(piece []byte) bool { return timeOf(piece) < oldest }) // pieces are in order
	}) {
		return 0
	}
	before := p.lines
	kept := newPart(p.faulty)
	for _, s := range p.streams {
		young := stream{labels: s.labels}
		for _, piece := range s.entries {
			for entry, rest, ok := nextEntry(piece); ok; entry, rest, ok = nextEntry(rest) {
				if timeOf(entry) >= oldest {
					young.entries = append(young.entries, entry)
					young.lines++
				}
			}
		}
		if young.lines > 0 {
			kept.streams = append(kept.streams, young)
			kept.lines += young.lines
		}
	}
	p.streams, p.lines, p.body = kept.streams, kept.lines, nil
	return before - p.lines
}

// timeOf returns the time, in unix nanoseconds, of the first entry of a piece.
func timeOf(piece []byte) int64 {
	value := piece
	for range 2 { // the entry, and in it the timestamp: a tag and a length
		_, n := binary.Uvarint(value)
		_, m := binary.Uvarint(value[max(n, 0):])
		value = value[max(n, 0)+max(m, 0):]
	}
	ns := int64(0)
	for _, unit := range []int64{1e9, 1} { // a tag and the number of seconds, then of nanoseconds
		if len(value) == 0 || (value[0] != 1<<3 && value[0] != 2<<3) {
			break
		}
		if value[0] == 2<<3 {
			unit = 1
		}
		number, n := binary.Uvarint(value[1:])
		ns += int64(number) * unit
		value = value[1+max(n, 0):]
	}
	return ns
}
