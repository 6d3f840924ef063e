package loki

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/filelock"
	"github.com/tenantgate/tenantgate/internal/loki/segment"
)

const (
	// gather is how long lines wait in memory for others to share a write to the
	// disk: what a killed process can lose.
	gather = 50 * time.Millisecond
	// chunkBytes bounds the lines of one write, and so of what is read at once.
	chunkBytes = 256 << 10
	// segments is how many files make up a full buffer: what is dropped at once.
	segments = 16
	// poll is how often a folder that another process has is tried again, and how
	// often a closing shipper looks whether it is done.
	poll = 20 * time.Millisecond
)

// Shipper takes lines and ships them. All methods are safe for concurrent use.
type Shipper struct {
	options     Options
	settings    atomic.Pointer[Settings]
	queue       *queue
	diagnostics *diagnostics
	quarantine  quarantine
	tally       *tally

	reported Stats // by the last line about the shipping
	quiet    int   // how many lines about it were left out since

	updating sync.Mutex
	updated  chan struct{} // closed and made anew by an update; guarded by updating

	syncs   chan chan struct{} // requests to put everything on disk
	storing chan struct{}      // the request that run is about to meet; nil: none
	stop    chan struct{}      // closed by Close: no more lines come
	stored  chan struct{}      // closed when the last line is on disk
	closed  sync.Once

	mu     sync.Mutex
	lanes  map[string]*lane
	ctx    context.Context //nolint:containedctx // ends the lanes, which are made as tenants appear
	cancel context.CancelFunc
	work   sync.WaitGroup
	lock   io.Closer // nil: the folder was never ours; for who knows that stored is closed
}

// Open returns a shipper that has begun to work. The error says what is wrong with
// the settings, or that the folder can't be made or written. A folder that another
// process has is no error: lines wait in memory until it is free.
func Open(o Options, s Settings) (*Shipper, error) {
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultBufferBytes)
	o.Sync = cmp.Or(o.Sync, DefaultSync)
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Diagnostics == nil {
		o.Diagnostics = os.Stderr
	}
	settings, err := s.Complete()
	if err != nil {
		return nil, err
	}
	if o.MaxBytes < MinBufferBytes {
		return nil, fmt.Errorf("buffer of %d bytes: give at least %d", o.MaxBytes, MinBufferBytes)
	}
	if err := prepareFolder(o.Dir); err != nil {
		return nil, fmt.Errorf("buffer folder: %w", err)
	}
	shipper := &Shipper{
		options: o, queue: newQueue(o.Clock), diagnostics: &diagnostics{w: o.Diagnostics}, quarantine: quarantine{dir: o.Dir},
		tally: newTally(), updated: make(chan struct{}), syncs: make(chan chan struct{}), stop: make(chan struct{}),
		stored: make(chan struct{}), lanes: map[string]*lane{},
	}
	shipper.settings.Store(&settings)
	shipper.ctx, shipper.cancel = context.WithCancel(context.Background())
	go shipper.run()
	return shipper, nil
}

// prepareFolder makes the folder and sees that files can be made in it.
func prepareFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// current returns the settings of now.
func (s *Shipper) current() Settings { return *s.settings.Load() }

// Update changes the settings, for all lines from now on and for those that wait:
// these keep their labels, metadata and tenant.
func (s *Shipper) Update(settings Settings) error {
	settings, err := settings.Complete()
	if err != nil {
		return err
	}
	s.updating.Lock()
	defer s.updating.Unlock()
	s.settings.Store(&settings)
	close(s.updated)
	s.updated = make(chan struct{})
	return nil
}

// changed returns a channel that is closed at the next update.
func (s *Shipper) changed() <-chan struct{} {
	s.updating.Lock()
	defer s.updating.Unlock()
	return s.updated
}

// Write takes one line, a JSON object with or without its newline, and never
// blocks. It copies p. The error is always nil: what can't be taken is counted.
func (s *Shipper) Write(p []byte) (int, error) {
	if !s.queue.put(p) {
		s.diagnostics.line(p)
	}
	return len(p), nil
}

// Sync implements zapcore.WriteSyncer: it returns when all lines taken so far are
// on disk, or can't be put there.
func (s *Shipper) Sync() error {
	done := make(chan struct{})
	select {
	case s.syncs <- done:
		<-done
	case <-s.stored:
	}
	return nil
}

// run puts lines on disk until the shipper is closed.
func (s *Shipper) run() {
	defer close(s.stored)
	if !s.takeFolder() {
		s.queue.close()
		s.queue.take(func(_ int64, line []byte) { s.diagnostics.line(append(line, '\n')) })
		return
	}
	if s.options.Sync > 0 {
		s.work.Go(func() { s.keepSynced(s.ctx) })
	}
	reports := time.NewTicker(reportEvery)
	defer reports.Stop()
	encoder := newEncoder(chunkBytes)
	encoder.notes = func(text string) { s.diagnostics.printf("%s", text) }
	var applied *Settings
	for open := true; open; {
		s.storing, open = s.awaitLines(reports.C)
		if now := s.settings.Load(); now != applied {
			encoder.apply(*now)
			encoder.limit = min(chunkBytes, now.BatchBytes)
			applied = now
		}
		s.store(encoder)
		s.synced()
	}
}

// synced meets the request to put everything on disk, as far as it can be met.
func (s *Shipper) synced() {
	if s.storing != nil {
		close(s.storing)
		s.storing = nil
	}
}

// awaitLines waits until there are lines to store: enough, or some after a while.
// It reports false when the shipper is being closed: then no more come. If somebody
// waits for the lines to be stored, done is to be closed after it.
func (s *Shipper) awaitLines(reports <-chan time.Time) (done chan struct{}, open bool) {
	select {
	case <-s.queue.some:
	case done = <-s.syncs:
		return done, true
	case <-reports:
		s.report()
		return nil, true
	case <-s.stop:
	}
	timer := time.NewTimer(gather)
	defer timer.Stop()
	select {
	case <-s.queue.full:
	case <-timer.C:
	case done = <-s.syncs:
	case <-s.stop:
		s.report()
		s.queue.close()
		return nil, false
	}
	return done, true
}

// takeFolder waits until the folder is ours and opens what is in it. It reports
// false if the shipper is closed first.
func (s *Shipper) takeFolder() bool {
	told := false
	for {
		err := s.openFolder()
		if err == nil {
			return true
		}
		// A process that has just ended may be about to let go of the folder.
		if !told || !errors.As(err, new(filelock.InUseError)) {
			told = true
			s.diagnostics.printf("%v: lines wait in memory", err)
		}
		select {
		case <-s.stop:
			return false
		case done := <-s.syncs:
			close(done)
		case <-time.After(poll):
		}
	}
}

// openFolder takes the lock, unless an earlier try got it, and opens the lanes.
func (s *Shipper) openFolder() error {
	if s.lock == nil {
		lock, err := filelock.Lock(filepath.Join(s.options.Dir, "lock"))
		if errors.As(err, new(filelock.InUseError)) {
			return fmt.Errorf("buffer folder %s is %w: give each process its own", s.options.Dir, err)
		}
		if err != nil {
			return err
		}
		s.lock = lock
	}
	return s.openLanes()
}

// openLanes opens the lanes that have lines from earlier processes.
func (s *Shipper) openLanes() error {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if tenant, ok := strings.CutPrefix(entry.Name(), lanePrefix); ok && entry.IsDir() {
			if _, err := s.lane(tenant); err != nil {
				return err
			}
		}
	}
	return nil
}

// lane returns the lane of a tenant, which is opened if need be.
func (s *Shipper) lane(tenant string) (*lane, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[tenant]; l != nil {
		return l, nil
	}
	log, err := segment.Open(filepath.Join(s.options.Dir, lanePrefix+tenant), segment.Options{SegmentBytes: min(s.options.MaxBytes/segments, 8<<20)})
	if err != nil {
		return nil, err
	}
	if resent := log.Stats().Resent; resent > 0 {
		s.tally.change(func(t *Stats) { t.ResentLines["restart"] += resent })
	}
	l := &lane{s: s, tenant: tenant, log: log, hurry: make(chan struct{}, 1)}
	l.delivery = newDelivery(s.current, l.hooks())
	s.lanes[tenant] = l
	s.work.Go(func() { l.run(s.ctx) })
	return l, nil
}

// all returns the lanes.
func (s *Shipper) all() []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]*lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		lanes = append(lanes, l)
	}
	return lanes
}

// store puts what is in the queue on disk.
func (s *Shipper) store(e *encoder) {
	s.queue.take(func(ns int64, line []byte) {
		if e.add(ns, line) {
			s.flush(e)
		}
	})
	s.flush(e)
	s.tally.change(func(t *Stats) { t.OverflowedValues, t.TruncatedLines = e.overflowed(), e.truncated })
}

func (s *Shipper) flush(e *encoder) {
	_ = e.flush(func(tenant string, f segment.Frame) error { // only the function's own error
		s.append(tenant, f)
		return nil
	})
}

// append puts a frame on disk, as often as it takes. A disk that does not work is
// waited for: meanwhile lines gather in memory as far as there is room.
func (s *Shipper) append(tenant string, f segment.Frame) {
	for {
		l, err := s.lane(tenant)
		if err == nil {
			if err = l.log.Append(f); err == nil {
				break
			}
		}
		s.diagnostics.printf("%v: lines wait in memory", err)
		s.synced()
		if isFull(err) && s.dropOldest() {
			continue
		}
		select {
		case <-s.stop:
			s.diagnostics.printf("%d lines are lost: they could not be put on disk before the end", f.Lines)
			s.tally.drop("disk", int64(f.Lines))
			return
		case done := <-s.syncs:
			close(done)
		case <-time.After(retryPause):
		}
	}
	s.tally.change(func(t *Stats) { t.StoredLines += int64(f.Lines) })
	if s.options.Sync == SyncAlways {
		s.syncLanes()
	}
	for s.bufferBytes() > s.options.MaxBytes && s.dropOldest() {
		s.diagnostics.printf("the buffer %s is full (%d bytes): the oldest lines are dropped", s.options.Dir, s.options.MaxBytes)
	}
}

func (s *Shipper) bufferBytes() (n int64) {
	for _, l := range s.all() {
		n += l.log.Stats().Bytes
	}
	return n
}

// dropOldest drops the oldest file of the largest lane that can spare one.
func (s *Shipper) dropOldest() bool {
	lanes := s.all()
	slices.SortFunc(lanes, func(a, b *lane) int { return cmp.Compare(b.log.Stats().Bytes, a.log.Stats().Bytes) })
	for _, l := range lanes {
		lines, bytes, err := l.log.DropOldest()
		if err != nil {
			s.diagnostics.printf("%v", err)
		}
		s.tally.drop("buffer_full", lines)
		if bytes > 0 {
			return true
		}
	}
	return false
}

// isFull reports whether an error says that the disk is full.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// keepSynced forces lines to the disk at the interval that is set, until ctx ends.
func (s *Shipper) keepSynced(ctx context.Context) {
	ticker := time.NewTicker(s.options.Sync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.syncLanes()
		}
	}
}

func (s *Shipper) syncLanes() {
	for _, l := range s.all() {
		if err := l.log.Sync(); err != nil {
			s.diagnostics.printf("%v", err)
		}
	}
}

// retrying reports whether Loki does not take lines at the moment.
func (s *Shipper) retrying() bool {
	return slices.ContainsFunc(s.all(), func(l *lane) bool { return l.retrying.Load() })
}

// Flush waits until all lines taken so far are acknowledged, rejected or dropped,
// or until ctx ends.
func (s *Shipper) Flush(ctx context.Context) error {
	_ = s.Sync() // never fails
	for !s.idle() {
		if pause(ctx, poll); ctx.Err() != nil {
			return fmt.Errorf("lines wait: %w", ctx.Err())
		}
	}
	return nil
}

// idle reports whether no line waits, in memory or on disk. Those that do are told
// to hurry.
func (s *Shipper) idle() bool {
	idle := s.queue.taken() == s.tally.stored()
	for _, l := range s.all() {
		if l.log.Stats().Lines > 0 {
			idle = false
			signal(l.hurry)
		}
	}
	return idle
}

// Close stops the shipper. Lines go to Loki until ctx ends, if it answers; the rest
// stays on disk for the next start. Lines written after Close go to the
// diagnostics. A second call does nothing.
func (s *Shipper) Close(ctx context.Context) error {
	s.closed.Do(func() {
		close(s.stop)
		<-s.stored
		for s.lock != nil && !s.idle() && !s.retrying() && ctx.Err() == nil {
			pause(ctx, poll)
		}
		s.cancel()
		s.work.Wait()
		s.closeLanes()
		if s.lock != nil {
			s.lock.Close()
		}
	})
	return nil
}

func (s *Shipper) closeLanes() {
	var left int64
	for _, l := range s.all() {
		l.delivery.client.CloseIdleConnections()
		left += l.log.Stats().Lines
		if err := errors.Join(l.log.Sync(), l.log.Close()); err != nil {
			s.diagnostics.printf("%v", err)
		}
	}
	if left > 0 {
		s.diagnostics.printf("%d lines wait in %s for the next start", left, s.options.Dir)
	}
	s.diagnostics.finish()
}
