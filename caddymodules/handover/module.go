// Package handover is the Caddy listener wrapper handover: a reload that loses
// no new connection.
package handover

import (
	"errors"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(Wrapper{})
}

// defaultSettle is how long the old server gets to read the requests of the
// connections it has just accepted.
const defaultSettle = 50 * time.Millisecond

// Wrapper is a listener wrapper that hands a server's new connections over to
// its successor at a reload.
//
// A reload opens a second socket beside the old one (SO_REUSEPORT), starts the
// new server on it and shuts the old server down. Two things get lost in
// between: what waits in the old socket's queue is reset when that is closed,
// and what the old server has accepted but not yet read when its shutdown
// begins, net/http drops without an answer (net/http/server.go, after
// readRequest). With this wrapper an address keeps one socket as long as it is
// listened on. The new server gets all new connections from the moment it
// exists, and is held back for `settle`, so that the old one can read what it
// has accepted.
//
// Idle keep-alive connections are still closed by the old server, which HTTP/1.1
// allows at any time and clients answer by trying again (RFC 9112 section 9.3.1).
// A connection whose TCP handshake is going on during the fraction of a
// millisecond in which the second socket exists can still be reset; on Linux
// `sysctl net.ipv4.tcp_migrate_req=1` closes that gap too. keepalive_interval
// and its like in `servers` have no effect: TCP keep-alive has Go's defaults.
type Wrapper struct {
	// Settle is how long a reload waits on each socket before the old server is
	// shut down. New connections wait as long. Default: 50ms; a machine whose
	// processors are overloaded needs more.
	Settle caddy.Duration `json:"settle,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Wrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.handover",
		New: func() caddy.Module { return new(Wrapper) },
	}
}

// UnmarshalCaddyfile reads the wrapper in `servers { listener_wrappers { … } }`:
//
//	handover {
//		settle <duration>
//	}
func (w *Wrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // wrapper name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(d.Nesting()) {
		if d.Val() != "settle" {
			return d.Errf("unrecognized option '%s': only settle is known", d.Val())
		}
		if w.Settle != 0 {
			return d.Err("settle is given twice")
		}
		var text string
		if !d.AllArgs(&text) {
			return d.ArgErr()
		}
		settle, err := caddy.ParseDuration(text)
		if err != nil || settle <= 0 || settle > 5*time.Second {
			return d.Errf("settle is '%s': give a duration up to 5s, such as 50ms", text)
		}
		w.Settle = caddy.Duration(settle)
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (w *Wrapper) WrapListener(socket net.Listener) net.Listener {
	key := socket.Addr().Network() + "/" + socket.Addr().String()
	value, _, err := hubs.LoadOrNew(key, func() (caddy.Destructor, error) { return new(hub), nil })
	if err != nil { // the constructor above has none
		return socket
	}
	h := value.(*hub)
	l := &listener{Listener: socket, hub: h, key: key, conns: make(chan net.Conn), done: make(chan struct{})}
	reload := h.add(l)
	if !h.keep(socket) {
		go h.acceptAll(socket)
	}
	if reload {
		settle := time.Duration(w.Settle)
		if settle == 0 {
			settle = defaultSettle
		}
		time.Sleep(settle)
	}
	return l
}

// hubs holds one hub for each address that is listened on.
var hubs = caddy.NewUsagePool()

// hub knows the servers of one address, the newest last: two during a reload,
// else one.
type hub struct {
	mu        sync.Mutex
	listeners []*listener
	socket    net.Listener // the TCP socket that outlives reloads
}

// Destruct implements caddy.Destructor: the address is no longer listened on.
func (h *hub) Destruct() error {
	if h.socket == nil {
		return nil
	}
	return h.socket.Close()
}

// keep makes the TCP socket of the first server the one of the address, and
// closes those of its successors with nothing left in their queue. It returns
// false for any other kind of socket: Caddy itself keeps Unix sockets.
func (h *hub) keep(socket net.Listener) bool {
	tcp := tcpListener(socket)
	if tcp == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.socket == nil {
		kept, err := duplicate(tcp)
		if err != nil {
			return false
		}
		h.socket = kept
		go h.acceptAll(kept)
	} else {
		for _, conn := range drain(tcp) {
			go h.deliver(conn)
		}
	}
	_ = tcp.Close()
	return true
}

// tcpListener returns the TCP listener that Caddy has wrapped only to count
// its users (deleteListener in listen_unix.go, which embeds it), or nil.
func tcpListener(socket net.Listener) *net.TCPListener {
	if tcp, ok := socket.(*net.TCPListener); ok {
		return tcp
	}
	wrapper := reflect.Indirect(reflect.ValueOf(socket))
	if wrapper.Kind() != reflect.Struct {
		return nil
	}
	inner := wrapper.FieldByName("Listener")
	if !inner.IsValid() || !inner.CanInterface() {
		return nil
	}
	tcp, _ := inner.Interface().(*net.TCPListener)
	return tcp
}

// duplicate returns a listener with a descriptor of its own for the same
// socket, which lives on when the first is closed.
func duplicate(tcp *net.TCPListener) (net.Listener, error) {
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return net.FileListener(file)
}

// add makes l the one that gets new connections and reports whether there was
// another before.
func (h *hub) add(l *listener) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners = append(h.listeners, l)
	return len(h.listeners) > 1
}

func (h *hub) remove(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners = slices.DeleteFunc(h.listeners, func(other *listener) bool { return other == l })
}

// newest returns the listener that gets new connections, or nil.
func (h *hub) newest() *listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.listeners) == 0 {
		return nil
	}
	return h.listeners[len(h.listeners)-1]
}

// deliver gives a connection to the newest server that takes it. Without any
// it is closed.
func (h *hub) deliver(conn net.Conn) {
	for {
		l := h.newest()
		if l == nil {
			_ = conn.Close() // the process is stopping
			return
		}
		select {
		case l.conns <- conn:
			return
		case <-l.done: // closed meanwhile: to the next
		}
	}
}

// acceptAll accepts from a socket until it is closed. A connection never waits
// in here for another.
func (h *hub) acceptAll(socket net.Listener) {
	var pause time.Duration
	for {
		conn, err := socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files: as net/http does it
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		pause = 0
		select {
		case h.conns() <- conn:
		default:
			go h.deliver(conn)
		}
	}
}

// conns returns where the newest server accepts from; nil if there is none.
func (h *hub) conns() chan<- net.Conn {
	if newest := h.newest(); newest != nil {
		return newest.conns
	}
	return nil
}

// listener is what one server accepts from.
type listener struct {
	net.Listener // the server's own socket
	hub          *hub
	key          string
	conns        chan net.Conn
	done         chan struct{}
	closeOnce    sync.Once
	closeErr     error
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.closeOnce.Do(func() {
		l.hub.remove(l)
		close(l.done)
		l.closeErr = l.Listener.Close() // for Caddy's count of users, too
		if errors.Is(l.closeErr, net.ErrClosed) {
			l.closeErr = nil // keep has closed the socket
		}
		_, err := hubs.Delete(l.key)
		l.closeErr = errors.Join(l.closeErr, err)
	})
	return l.closeErr
}

var (
	_ caddy.ListenerWrapper = (*Wrapper)(nil)
	_ caddyfile.Unmarshaler = (*Wrapper)(nil)
)
