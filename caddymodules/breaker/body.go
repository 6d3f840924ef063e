package breaker

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// smallBody is what surely fits into the kernel's buffers, so that sending it
// cannot wait for the upstream.
const smallBody = 16 << 10

// watchedBody stands between the client's request body and the transport. It
// notices when the body cannot be read, which is the client's fault, and when
// the upstream stops taking it, which no timeout of net/http covers: the one for
// the response's head starts when the request has been sent.
type watchedBody struct {
	io.ReadCloser
	failed  atomic.Bool
	reading sync.Mutex // held while the client's body is read
	closed  atomic.Bool

	// Below is for bodies that can make the transport wait; cancel is nil for others.
	cancel   context.CancelFunc // of this attempt only
	patience time.Duration

	mu      sync.Mutex
	timer   *time.Timer // runs while the transport is sending what it read
	settled bool        // the attempt is over
	stalled bool        // ended by the timer
}

// watch replaces the body of the attempt's request, if it has one, and returns
// the request to send. The one it is given is reverse_proxy's own copy for this
// attempt. patience is how long the upstream may take nothing, 0 for ever.
func watch(r *http.Request, patience time.Duration) (*http.Request, *watchedBody) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	body := &watchedBody{ReadCloser: r.Body, patience: patience}
	if patience > 0 && (r.ContentLength < 0 || r.ContentLength > smallBody) {
		var ctx context.Context
		ctx, body.cancel = context.WithCancel(r.Context()) // ends with the request, for the response still uses it
		r = r.WithContext(ctx)
	}
	r.Body = body
	return r, body
}

// Read implements io.Reader. An error after Close says nothing: the transport
// closes the body when the upstream broke off, with a Read still under way.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.rest()
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.failed.Store(true)
	}
	if n > 0 && err == nil {
		b.run()
	}
	return n, err
}

// Close implements io.Closer: nothing is read afterwards. It leaves the client's
// body open, which the server closes by itself. The transport closes a body when
// the answer comes before all of it was read; the server would then take it for
// consumed, and the rest of it for the next request of the connection. net/http
// guards against that only in a body of its own type (server.go,
// closedRequestBodyEarly), and Caddy puts its idle timeout in front of it. What
// is left of an open body is read before the answer is sent or, if it is large,
// ends the connection.
func (b *watchedBody) Close() error {
	b.closed.Store(true)
	b.reading.Lock() // wait for a Read that is under way
	defer b.reading.Unlock()
	return nil
}

// closeAfter closes the body once an answer has come after which the upstream
// takes no more of it.
func (b *watchedBody) closeAfter(res *http.Response) {
	if b != nil && res != nil && res.Close && res.ProtoMajor == 1 {
		_ = b.Close() // never fails
	}
}

// run starts the time within which the upstream must take what was read.
func (b *watchedBody) run() {
	if b.cancel == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.settled:
	case b.timer == nil:
		b.timer = time.AfterFunc(b.patience, b.giveUp)
	default:
		b.timer.Reset(b.patience)
	}
}

// rest stops it: now it is the client that is waited for.
func (b *watchedBody) rest() {
	if b.cancel == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
}

// giveUp ends the attempt.
func (b *watchedBody) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.settled {
		b.stalled = true
		b.cancel()
	}
}

// settle says that the attempt is over and reports whether it was because the
// upstream stopped taking the body.
func (b *watchedBody) settle() (stalled bool) {
	if b == nil || b.cancel == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
	if b.timer != nil {
		b.timer.Stop()
	}
	return b.stalled
}

// failedAtClient reports whether the client's body could not be read.
func (b *watchedBody) failedAtClient() bool { return b != nil && b.failed.Load() }

// stallError is the timeout of an upstream that takes no more of a request. It
// is a net.Error, by which reverse_proxy knows a 504 from a 502.
type stallError struct{}

// Error implements error.
func (stallError) Error() string { return "upstream stopped reading the request" }

// Timeout implements net.Error.
func (stallError) Timeout() bool { return true }

// Temporary implements net.Error.
func (stallError) Temporary() bool { return true }
