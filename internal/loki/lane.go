package loki

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

const (
	// lanePrefix begins the name of a lane's folder; the tenant follows, whose
	// characters all file systems know.
	lanePrefix = "tenant-"
	// inFlight is how many requests of a lane are on their way at one time.
	inFlight = 2
	// maxSpan is how far the lines of requests on their way may be apart. Loki
	// refuses a line that is an hour behind the newest of its stream, so a request
	// must not overtake an earlier one by so much.
	maxSpan = 30 * time.Minute
	// retryPause is how long to wait after an error of the disk.
	retryPause = time.Second
)

// lane ships the lines of one tenant, in the order in which they were written.
// What Loki says of one tenant holds no other back.
type lane struct {
	s        *Shipper
	tenant   string
	log      *segment.Log
	delivery *delivery
	hurry    chan struct{} // has a value when lines shall not wait for others

	retrying atomic.Bool

	mu sync.Mutex
	// onWay are the requests on their way and those that overtook one of them. A
	// process that is killed sends them all again, so they count as one batch.
	onWay []*request
	freed chan struct{} // has a value when there are fewer
}

// request is one whose lines the position on disk does not count as acknowledged.
type request struct {
	oldest int64 // line of it, unix ns
	ended  bool
}

// run sends until ctx ends.
func (l *lane) run(ctx context.Context) {
	var requests sync.WaitGroup
	defer requests.Wait()
	for l.await(ctx) && l.room(ctx, func(onWay []*request) bool { return len(onWay) < inFlight }) {
		batch, err := l.log.Next(l.requestBytes())
		if err != nil {
			l.s.diagnostics.printf("%v", err)
			pause(ctx, retryPause)
			continue
		}
		if batch == nil || !l.room(ctx, func(onWay []*request) bool {
			return len(onWay) == 0 || batch.Newest()-onWay[0].oldest < int64(maxSpan)
		}) {
			continue
		}
		r := l.begin(batch)
		requests.Go(func() {
			l.send(ctx, batch)
			l.end(r)
		})
	}
}

func (l *lane) begin(batch *segment.Batch) *request {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &request{oldest: batch.Oldest()}
	l.onWay = append(l.onWay, r)
	return r
}

func (l *lane) end(r *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.ended = true
	for len(l.onWay) > 0 && l.onWay[0].ended {
		l.onWay = l.onWay[1:]
	}
	signal(l.freed)
}

func (l *lane) requestBytes() int { return l.s.current().BatchBytes / inFlight }

// await waits for lines that fill a request, or have waited for others as long as
// they should. It reports false when ctx has ended.
func (l *lane) await(ctx context.Context) bool {
	var patience <-chan time.Time
	for ctx.Err() == nil {
		unread := l.log.Stats().UnreadBytes
		if unread >= int64(l.requestBytes()) {
			return true
		}
		var hurry <-chan struct{}
		if unread > 0 {
			hurry = l.hurry
			if patience == nil {
				timer := time.NewTimer(l.s.current().BatchWait)
				defer timer.Stop()
				patience = timer.C
			}
		}
		select {
		case <-ctx.Done():
		case <-l.log.Changed():
		case <-hurry:
			return true
		case <-patience:
			return true
		}
	}
	return false
}

// room waits until the requests that are on their way leave room for another. It
// reports false when ctx has ended.
func (l *lane) room(ctx context.Context, enough func(onWay []*request) bool) bool {
	for ctx.Err() == nil {
		l.mu.Lock()
		ok := enough(l.onWay)
		l.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-ctx.Done():
		case <-l.freed:
		}
	}
	return false
}

// send delivers a batch and acknowledges it on disk. When ctx ends first it stays
// there for the next start.
func (l *lane) send(ctx context.Context, batch *segment.Batch) {
	streams, err := merge(batch)
	if err != nil { // its checksum was good, so another version wrote it
		l.s.diagnostics.printf("%d lines can't be read and are dropped: %v", batch.Lines(), err)
		l.s.tally.drop("unreadable", batch.Lines())
	} else {
		result, err := l.delivery.deliver(ctx, l.tenant, streams)
		if err != nil {
			return
		}
		l.s.tally.add(result)
	}
	if err := l.log.Done(batch); err != nil {
		l.s.diagnostics.printf("%v", err)
	}
}

// merge joins the frames of a batch to one list of streams, in the order of their
// first lines.
func merge(batch *segment.Batch) (streams []stream, err error) {
	index := map[string]int{}
	for _, frame := range batch.Frames {
		err := readChunk(frame.Payload, func(labels string, lines int, entries []byte) error {
			i, known := index[labels]
			if !known {
				i = len(streams)
				index[labels] = i
				streams = append(streams, stream{labels: labels})
			}
			streams[i].lines += lines
			streams[i].entries = append(streams[i].entries, entries)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return streams, nil
}

// hooks are what the lane's delivery tells of and reads from.
func (l *lane) hooks() deliveryHooks {
	return deliveryHooks{
		clock: l.s.options.Clock, changed: l.s.changed, retrying: l.retrying.Store,
		onRequest: func(status int, took time.Duration) {
			l.s.tally.request(status)
			if l.s.options.OnRequest != nil {
				l.s.options.OnRequest(status, took)
			}
		},
		sent:     func(lines, bytes int) { l.s.tally.sent(lines, bytes) },
		diagnose: func(text string) { l.s.diagnostics.printf("%s", text) },
		quarantine: func(tenant, labels string, entry []byte, why string) {
			if err := l.s.quarantine.keep(tenant, labels, entry, why); err != nil {
				l.s.diagnostics.printf("a line that Loki can't take is lost: %v", err)
			}
		},
	}
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
