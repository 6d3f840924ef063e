package breaker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tenantgate/tenantgate/internal/problem"
)

// maxFile is the size of the largest file that a fallback may send: it is kept
// in memory.
const maxFile = 1 << 20

// Fallback is what a client gets in place of the error while every circuit is
// open: a fixed response, a file, or what another handler answers. Exactly one
// of them must be given.
type Fallback struct {
	// Status is the status of the fixed response or the file, 200 to 599. Default: 503.
	Status int `json:"status,omitempty"`
	// Body is the body of the fixed response. It is sent as it is: placeholders
	// are not expanded.
	Body string `json:"body,omitempty"`
	// ContentType is the media type of the body or the file. Default: plain text
	// for a body, what the extension says for a file.
	ContentType string `json:"content_type,omitempty"`
	// File is the path of a file to send, at most 1 MiB. A relative path starts at
	// the working directory. It is read when the configuration is loaded, and not again.
	File string `json:"file,omitempty"`
	// HandlerRaw is a handler to answer with, such as a reverse_proxy with other
	// upstreams. If it passes the request on, the client gets the error after all.
	HandlerRaw json.RawMessage `json:"handler,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	content     []byte // of the fixed response or the file
	contentType string
	handler     caddyhttp.MiddlewareHandler
}

// provision reads the file or loads the handler.
func (f *Fallback) provision(ctx caddy.Context) (err error) {
	switch {
	case f == nil:
	case f.HandlerRaw != nil:
		module, err := ctx.LoadModule(f, "HandlerRaw")
		if err != nil {
			return fmt.Errorf("loading handler: %w", err)
		}
		f.handler = module.(caddyhttp.MiddlewareHandler) //nolint:forcetypeassert // the namespace holds nothing else
	case f.File != "":
		f.contentType = mime.TypeByExtension(filepath.Ext(f.File))
		if f.contentType == "" {
			f.contentType = "application/octet-stream"
		}
		f.content, err = readFile(f.File)
	case f.Body != "":
		f.contentType, f.content = "text/plain; charset=utf-8", []byte(f.Body)
	}
	if f != nil && f.ContentType != "" {
		f.contentType = f.ContentType
	}
	return err
}

// readFile returns the content of a file that is small enough to be kept.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		wd, _ := os.Getwd()
		return nil, fmt.Errorf("file %s does not exist (working directory: %s); put it there or correct the path", path, wd)
	case err != nil:
		return nil, fmt.Errorf("file %s is out of reach; correct the path or its permissions: %w", path, err)
	case !info.Mode().IsRegular(): // reading a pipe could wait for ever
		return nil, fmt.Errorf("%s is not a regular file; give the path of one", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("file %s can't be opened; let the gateway's user read it: %w", path, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("file %s can't be read: %w", path, err)
	case len(content) > maxFile:
		return nil, fmt.Errorf("file %s is larger than 1 MiB, the most that is kept in memory; give a smaller one", path)
	}
	return content, nil
}

// check reports the first mistake.
func (f *Fallback) check() error {
	if f == nil {
		return nil
	}
	isHandler, isFile := f.HandlerRaw != nil || f.handler != nil, f.File != "" // LoadModule drops what it has read
	isResponse := f.Body != "" || f.Status != 0 && !isFile
	switch {
	case !isHandler && !isFile && !isResponse:
		return errors.New("it says nothing; give a status and a body, a file or a handler")
	case isHandler && (isFile || isResponse || f.ContentType != ""), isFile && isResponse:
		return errors.New("it says more than one thing; give either a status and a body, or a file, or a handler")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status is %d, must be 200 to 599", f.Status)
	case isBodiless(f.Status) && (isFile || f.Body != "" || f.ContentType != ""):
		return fmt.Errorf("status %d allows no content; give another status or no content", f.Status)
	case f.ContentType != "" && !isMediaType(f.ContentType):
		return fmt.Errorf("content type %q is not a media type, such as text/html; charset=utf-8", f.ContentType)
	}
	return nil
}

func isMediaType(value string) bool {
	name, _, err := mime.ParseMediaType(value)
	return err == nil && strings.Contains(name, "/")
}

// isBodiless reports whether responses of the status have no content (RFC 9110
// section 15).
func isBodiless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusResetContent || status == http.StatusNotModified
}

// serve answers in place of the refusal.
func (f *Fallback) serve(w http.ResponseWriter, r *http.Request, p *problem.Error, refusal error) error {
	extra, _ := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if extra != nil {
		extra.Set(zap.Bool("fallback", true))
	}
	if f.handler == nil {
		f.respond(w, r, p)
		return nil
	}
	return f.handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		if extra != nil {
			extra.Set(zap.Bool("fallback", false))
		}
		return refusal
	}))
}

// respond sends the fixed response or the file.
func (f *Fallback) respond(w http.ResponseWriter, r *http.Request, p *problem.Error) {
	status := f.Status
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	header := w.Header()
	if status == http.StatusServiceUnavailable {
		maps.Copy(header, p.Header)
	}
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if f.contentType != "" {
		header.Set("Content-Type", f.contentType)
	}
	if !isBodiless(status) {
		header.Set("Content-Length", strconv.Itoa(len(f.content)))
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead && len(f.content) > 0 {
		_, _ = w.Write(f.content) // if the client is gone nobody is left to tell
	}
}

// holdBody watches the request's body if the fallback may have to send it. It
// returns nil if there is nothing to watch.
func (f *Fallback) holdBody(r *http.Request) *heldBody {
	if f == nil || f.handler == nil || r.Body == nil || r.ContentLength == 0 {
		return nil
	}
	b := &heldBody{ReadCloser: r.Body}
	r.Body = b
	return b
}

// heldBody is a request body that can be had by one side only: by the guarded
// upstreams or, if none of them began to read it, by the fallback. A refused
// request was not sent, but an attempt before a retry may have sent half of it,
// and may even go on reading after it ended (net/http, RoundTripper).
type heldBody struct {
	io.ReadCloser
	side atomic.Uint32
}

// The sides that may have the body.
const (
	undecided uint32 = iota
	guarded
	standIn
)

var errTaken = errors.New("the request body belongs to the fallback now")

// Read implements io.Reader for the guarded upstreams.
func (b *heldBody) Read(p []byte) (int, error) {
	if !b.decide(guarded) {
		return 0, errTaken
	}
	return b.ReadCloser.Read(p)
}

// Close implements io.Closer for the guarded upstreams.
func (b *heldBody) Close() error {
	if !b.decide(guarded) {
		return nil
	}
	return b.ReadCloser.Close()
}

// take gives the body to the fallback and reports whether that was possible.
func (b *heldBody) take(r *http.Request) bool {
	if b == nil {
		return true
	}
	if !b.decide(standIn) {
		return false
	}
	r.Body = b.ReadCloser
	return true
}

// decide reports whether the side has the body, which it gets if nobody has it.
func (b *heldBody) decide(side uint32) bool {
	return b.side.CompareAndSwap(undecided, side) || b.side.Load() == side
}
