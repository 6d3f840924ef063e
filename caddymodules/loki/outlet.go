package loki

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	core "github.com/tenantgate/tenantgate/internal/loki"
)

const (
	// closeTimeout is how long a shipper goes on sending when nobody wants it any
	// more. What it does not get rid of stays on disk.
	closeTimeout = 5 * time.Second
	// handOverTimeout is the same when another shipper takes over its folder:
	// that one keeps new lines in memory meanwhile.
	handOverTimeout = time.Second
)

// outlets are the outlets by folder. None is ever removed, because Caddy keeps
// what a log writer opened for ever.
var outlets sync.Map

// outlet is where the lines of one folder's logs go: to its shipper while a
// configuration has one, else to stderr.
type outlet struct {
	// life is held while the shipper is changed.
	life    sync.Mutex
	writers []*Writer // of the configurations that live, the newest last
	applied *plan
	client  *http.Client // of applied.ca; nil: the shipper's own

	// mu guards shipper: it is held for reading during a write, so that no line
	// meets a shipper that is closed.
	mu      sync.RWMutex
	shipper *core.Shipper // nil: none
}

func outletOf(dir string) *outlet {
	o, _ := outlets.LoadOrStore(dir, new(outlet))
	return o.(*outlet) //nolint:forcetypeassert // there is nothing else in it
}

// Write implements io.Writer.
func (o *outlet) Write(line []byte) (int, error) {
	o.mu.RLock()
	if o.shipper == nil {
		o.mu.RUnlock()
		return os.Stderr.Write(line)
	}
	defer o.mu.RUnlock()
	return o.shipper.Write(line)
}

// Close implements io.Closer. Caddy never calls it; [Writer.Cleanup] ends the
// shipper.
func (*outlet) Close() error { return nil }

// add makes w the newest writer and its plan the shipper's.
func (o *outlet) add(w *Writer) error {
	o.life.Lock()
	defer o.life.Unlock()
	for _, other := range o.writers {
		if other.registry == w.registry && !reflect.DeepEqual(other.plan, w.plan) {
			return fmt.Errorf("two logs have the buffer %s, but not the same settings: give each a folder of its own", w.plan.options.dir)
		}
	}
	if err := o.apply(w.plan); err != nil {
		return err
	}
	o.writers = append(o.writers, w)
	return nil
}

// remove takes w out. The plan of the newest writer that is left counts again,
// which matters after a load that failed. Without one the shipper ends; if the
// process ends, that is left to closeAll, so that what other modules have to say
// until then is shipped.
func (o *outlet) remove(w *Writer) error {
	o.life.Lock()
	defer o.life.Unlock()
	o.writers = slices.DeleteFunc(o.writers, func(other *Writer) bool { return other == w })
	switch {
	case len(o.writers) > 0:
		return o.apply(o.writers[len(o.writers)-1].plan)
	case !caddy.Exiting():
		o.end()
	}
	return nil
}

// apply makes the shipper work by p. What does not change is not touched.
func (o *outlet) apply(p *plan) error {
	if o.shipper != nil && reflect.DeepEqual(o.applied, p) {
		return nil
	}
	client := o.client
	if o.applied == nil || o.applied.ca != p.ca {
		client = p.client()
	}
	settings := p.settings
	settings.Client = client
	var err error
	if o.shipper != nil && o.applied.options == p.options {
		err = o.shipper.Update(settings)
	} else {
		err = o.open(p.options, settings)
	}
	if err != nil {
		return err
	}
	if o.client != nil && o.client != client {
		o.client.CloseIdleConnections()
	}
	o.applied, o.client = p, client
	return nil
}

// open starts a shipper. It waits for the folder until the one before, if there
// is one, has ended.
func (o *outlet) open(opts options, settings core.Settings) error {
	shipper, err := core.Open(core.Options{
		Dir: opts.dir, MaxBytes: opts.maxBytes, Sync: opts.sync, Service: opts.service,
		OnRequest: func(status int, took time.Duration) { metrics.Request(opts.dir, status, took) },
	}, settings)
	if err != nil {
		return err
	}
	closeWithin(handOverTimeout, o.replace(shipper))
	return nil
}

// end closes the shipper. Later lines go to stderr.
func (o *outlet) end() {
	if o.shipper == nil {
		return
	}
	closeWithin(closeTimeout, o.replace(nil))
	if o.client != nil {
		o.client.CloseIdleConnections()
	}
	metrics.Forget(o.applied.options.dir)
	o.applied, o.client = nil, nil
}

// replace gives later lines to another shipper and returns the one before.
func (o *outlet) replace(shipper *core.Shipper) (previous *core.Shipper) {
	o.mu.Lock()
	defer o.mu.Unlock()
	previous, o.shipper = o.shipper, shipper
	return previous
}

// closeWithin closes a shipper, if there is one. What it has not sent by then is on
// disk.
func closeWithin(limit time.Duration, shipper *core.Shipper) {
	if shipper == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := shipper.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		_, _ = fmt.Fprintln(os.Stderr, "loki:", err) // no logger: it could lead back here
	}
}

// closeAll ends all shippers at the same time.
func closeAll() {
	var ending sync.WaitGroup
	outlets.Range(func(_, value any) bool {
		ending.Go(func() {
			o := value.(*outlet) //nolint:forcetypeassert // there is nothing else in it
			o.life.Lock()
			defer o.life.Unlock()
			o.end()
		})
		return true
	})
	ending.Wait()
}

// stats returns what the shipper has done; ok is false if there is none.
func (o *outlet) stats() (s core.Stats, ok bool) {
	o.mu.RLock()
	shipper := o.shipper
	o.mu.RUnlock()
	if shipper == nil {
		return s, false
	}
	return shipper.Stats(), true
}
