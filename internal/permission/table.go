package permission

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantgate/tenantgate/internal/clock"
	"github.com/tenantgate/tenantgate/internal/database"
)

const (
	// DefaultPoll is how often the change counter is read unless told otherwise.
	DefaultPoll = 500 * time.Millisecond
	// firstRetry is the wait after the first failure of the very first load;
	// it doubles up to the poll interval.
	firstRetry = 50 * time.Millisecond
	// lookTimeout bounds one look at the change counter, so that a file system or
	// a server that hangs is logged as lost, and loadTimeout reading what changed.
	lookTimeout = 10 * time.Second
	loadTimeout = time.Minute
	// After reading, the table rests as long as that took, so that however fast
	// small changes come, half of the time is left to others. But not for longer
	// than this: a right that is revoked just after a full load must not wait.
	maxRest = 50 * time.Millisecond
)

// Settings are what may be changed while a [Table] runs.
type Settings struct {
	// Poll is how often the change counter is read; 0 means [DefaultPoll].
	Poll time.Duration
	// MaxStale is how long the table may be used without having been confirmed
	// by the database; 0 means for ever.
	MaxStale time.Duration
	// Logger gets a line when the table is loaded, lost and found again; nil
	// means none.
	Logger *slog.Logger
}

// Table keeps a [Snapshot] current. Its methods are safe for concurrent use.
type Table struct {
	clock    clock.Clock
	epoch    time.Time
	settings atomic.Pointer[Settings]

	snapshot  atomic.Pointer[Snapshot]
	confirmed atomic.Int64 // nanoseconds after epoch, 0 before the first load
	loading   atomic.Int64 // nanoseconds that the last load took
	whole     atomic.Int64 // loads that read everything
	partial   atomic.Int64 // loads that read what had changed
	failures  atomic.Int64

	wake      chan struct{}
	attempted chan struct{} // closed after the first attempt to load

	mu          sync.Mutex // guards subscribers and calls to them
	subscribers map[*subscriber]struct{}

	// The fields below belong to Run.
	db      *database.DB
	file    bool   // the database is a file that may be replaced
	failure string // class of the failure that was logged, "" while all is well
	expired bool   // the passing of MaxStale was logged
}

type subscriber struct{ notify func(*Snapshot) }

// New returns a table for the database that url names (see database.Open). It
// opens nothing: [Table.Run] does. A malformed url is an error.
func New(url string, settings Settings, c clock.Clock) (*Table, error) {
	db, err := database.OpenReadOnly(url, c)
	if err != nil {
		return nil, err
	}
	t := &Table{
		db: db, file: strings.HasPrefix(url, "sqlite://"), clock: c, epoch: c.Now(),
		wake: make(chan struct{}, 1), attempted: make(chan struct{}),
		subscribers: map[*subscriber]struct{}{},
	}
	t.settings.Store(settings.withDefaults())
	return t, nil
}

// Close releases what [New] took. It must be called after Run has returned, or
// instead of Run.
func (t *Table) Close() error { return t.db.Close() }

// Configure changes the settings of a table, which may be running.
func (t *Table) Configure(s Settings) {
	t.settings.Store(s.withDefaults())
	t.Refresh()
}

func (s Settings) withDefaults() *Settings {
	if s.Poll <= 0 {
		s.Poll = DefaultPoll
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	return &s
}

// Snapshot returns the table to decide from, or nil: none was ever loaded, or
// it is older than MaxStale. Take it once per request.
func (t *Table) Snapshot() *Snapshot {
	s := t.snapshot.Load()
	if s == nil {
		return nil
	}
	if limit := t.settings.Load().MaxStale; limit > 0 {
		if age, _ := t.Age(); age > limit {
			return nil
		}
	}
	return s
}

// Age returns how long ago the database last confirmed that the snapshot is
// what it holds; ok is false if none was ever loaded.
func (t *Table) Age() (age time.Duration, ok bool) {
	confirmed := t.confirmed.Load()
	if confirmed == 0 {
		return 0, false
	}
	return t.clock.Now().Sub(t.epoch) - time.Duration(confirmed), true
}

// Info says how a table is doing, for metrics.
type Info struct {
	// Loaded tells whether there is a snapshot; without one, Stats, Seq and Age are zero.
	Loaded bool
	// Seq and Stats are the snapshot's, Age is [Table.Age].
	Seq   int64
	Stats Stats
	Age   time.Duration
	// LastLoad is how long reading took when something had changed last.
	LastLoad time.Duration
	// FullLoads and PartialLoads count the loads that read everything and those
	// that read what had changed, Failures the looks at the database that failed.
	FullLoads, PartialLoads, Failures int64
}

// Info says how the table is doing.
func (t *Table) Info() Info {
	info := Info{
		LastLoad: time.Duration(t.loading.Load()), FullLoads: t.whole.Load(), PartialLoads: t.partial.Load(), Failures: t.failures.Load(),
	}
	if s := t.snapshot.Load(); s != nil {
		info.Loaded, info.Seq, info.Stats = true, s.Seq(), s.Stats()
		info.Age, _ = t.Age()
	}
	return info
}

// Refresh makes Run look for changes now instead of at the next poll.
func (t *Table) Refresh() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Attempted returns a channel that is closed once Run has tried to load the
// table, whether that worked or not.
func (t *Table) Attempted() <-chan struct{} { return t.attempted }

// Subscribe calls notify with the snapshot now, if there is one, and then with
// every snapshot that has another catalogue of products and features. notify
// must not call Subscribe or cancel. After cancel returned it is not called
// any more.
func (t *Table) Subscribe(notify func(*Snapshot)) (cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &subscriber{notify}
	t.subscribers[s] = struct{}{}
	if current := t.snapshot.Load(); current != nil {
		notify(current)
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subscribers, s)
	}
}

// Run loads the table and keeps it current until ctx ends. A database that is
// missing, locked or of another schema leaves the last snapshot in place. Call
// it once.
func (t *Table) Run(ctx context.Context) {
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() { t.listen(ctx) })
	retry := firstRetry
	for ctx.Err() == nil {
		before, began := t.snapshot.Load(), t.clock.Now()
		err := t.refresh(ctx, began)
		if ctx.Err() != nil {
			return
		}
		took := t.clock.Now().Sub(began)
		t.report(ctx, before, took, err)
		select {
		case <-t.attempted:
		default:
			close(t.attempted)
		}
		wait := t.settings.Load().Poll
		rest := min(took, maxRest)
		if err != nil {
			rest = min(took, wait)
		}
		if t.snapshot.Load() == nil {
			wait = min(wait, retry)
			retry = 2 * wait
		}
		t.wait(ctx, rest, wait)
	}
}

// wait returns when the time to poll has come or somebody calls Refresh, but
// not before rest has passed, or when ctx ends.
func (t *Table) wait(ctx context.Context, rest, poll time.Duration) {
	if !sleep(ctx, rest) {
		return
	}
	timer := time.NewTimer(poll - rest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-t.wake:
	}
}

// refresh takes over what changed in the database. What it saw is current as
// of began, the time before it looked.
func (t *Table) refresh(ctx context.Context, began time.Time) error {
	pool := t.db.Reader()
	pool.SetMaxIdleConns(1)
	if t.file {
		// No connection stays open until the next look: it would go on reading a
		// file that was deleted or replaced, and keep SQLite from removing the
		// write-ahead log, which would then be applied to the new file.
		defer pool.SetMaxIdleConns(-1)
	}
	old := t.snapshot.Load()
	current, err := t.look(ctx, old)
	if err == nil && !current {
		err = t.load(ctx, old)
	}
	if err != nil {
		t.failures.Add(1)
		return err
	}
	t.confirmed.Store(max(1, int64(began.Sub(t.epoch))))
	return nil
}

// look reports whether the database still holds what old does.
func (t *Table) look(ctx context.Context, old *Snapshot) (current bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := t.db.CheckSchema(ctx); err != nil || old == nil {
		return false, err
	}
	v, err := newest(ctx, t.db.Reader())
	return v == old.version, err
}

// load reads what changed after old.
func (t *Table) load(ctx context.Context, old *Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	began := t.clock.Now()
	next, err := Load(ctx, t.db, old)
	if err != nil || next == old {
		return err
	}
	// The schema may have changed between the first check and the load.
	if err := t.db.CheckSchema(ctx); err != nil {
		return err
	}
	t.loading.Store(int64(t.clock.Now().Sub(began)))
	if next.whole {
		t.whole.Add(1)
	} else {
		t.partial.Add(1)
	}
	t.publish(old, next)
	return nil
}

func (t *Table) publish(old, next *Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.snapshot.Store(next)
	if old != nil && old.catalogue == next.catalogue {
		return
	}
	for s := range t.subscribers {
		s.notify(next)
	}
}

// report logs changes of state, once each: a database that is away for a day
// makes two lines.
func (t *Table) report(ctx context.Context, before *Snapshot, took time.Duration, err error) {
	log := t.settings.Load().Logger
	if err != nil {
		t.reportFailure(ctx, log, err)
		return
	}
	now := t.snapshot.Load()
	level, msg := slog.LevelDebug, "permission table updated"
	switch {
	case before == nil:
		level, msg = slog.LevelInfo, "permission table loaded"
	case t.failure != "":
		level, msg = slog.LevelInfo, "permission table recovered"
	case before == now:
		return
	}
	t.failure, t.expired = "", false
	log.LogAttrs(ctx, level, msg,
		slog.Int64("seq", now.version.seq),
		slog.Int("tenants", now.stats.Tenants),
		slog.Int("members", now.stats.Members),
		slog.Int("rows", now.stats.Rows),
		slog.Float64("duration_ms", float64(took.Microseconds())/1e3))
}

func (t *Table) reportFailure(ctx context.Context, log *slog.Logger, err error) {
	class := "unavailable"
	var schema *database.SchemaError
	if errors.As(err, &schema) {
		class = "schema"
	}
	age, loaded := t.Age()
	if class != t.failure {
		t.failure = class
		if loaded {
			log.LogAttrs(ctx, slog.LevelWarn, "permission table lost: deciding from the last one", slog.String("error", err.Error()))
		} else {
			log.LogAttrs(ctx, slog.LevelWarn, "permission table not loaded: checked requests get 503", slog.String("error", err.Error()))
		}
	}
	if limit := t.settings.Load().MaxStale; loaded && limit > 0 && age > limit && !t.expired {
		t.expired = true
		log.LogAttrs(ctx, slog.LevelWarn, "permission table older than max_stale: checked requests get 503", slog.String("error", err.Error()))
	}
}
