package handover_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenantgate/tenantgate/caddymodules/adapttest"
	"github.com/tenantgate/tenantgate/caddymodules/handover"
)

func TestAdapt(t *testing.T) { adapttest.Run(t, "testdata/*.caddyfiletest") }

func load(t *testing.T, bind, body string) {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `{
		admin off
		persist_config off
		grace_period 5s
		log default {
			output discard
		}
		servers {
			listener_wrappers {
				handover {
					settle 250ms # the tests of other packages run beside this one
				}
			}
		}
	}
	:80 {
		bind %s
		respond %q
	}`, bind, body), nil)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(config, true))
}

// TestReloadsLoseNoNewConnection opens a connection for every request, which
// no client tries again, while the configuration changes. The socket comes from
// outside, as systemd passes it: no second one ever exists.
func TestReloadsLoseNoNewConnection(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, socket.Close()) })
	address := socket.Addr().String()
	file, err := socket.(*net.TCPListener).File()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) }) // and keeps it from the collector
	bind := fmt.Sprintf("fd/%d", file.Fd())
	load(t, bind, "0")
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })

	var served, failed atomic.Int64
	var first atomic.Value
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := get(client, "http://"+address); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, err.Error())
				}
				served.Add(1)
			}
		})
	}
	for i := range 50 {
		load(t, bind, fmt.Sprint(i+1))
	}
	close(stop)
	clients.Wait()
	require.Zero(t, failed.Load(), "of %d; the first: %v", served.Load(), first.Load())
	require.Greater(t, served.Load(), int64(50))
	t.Logf("%d connections over 50 reloads, none lost", served.Load())
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// pipe is a socket whose connections the test makes.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	errs  chan error
}

func newPipe() *pipe {
	return &pipe{conns: make(chan net.Conn), done: make(chan struct{}), errs: make(chan error)}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}
func (*pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "test"} }

func TestTheNewestServerGetsTheConnectionsOfAllSockets(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
	wrapper := &handover.Wrapper{Settle: 1}
	oldSocket, newSocket := newPipe(), newPipe()
	old := wrapper.WrapListener(oldSocket)
	connect := func(p *pipe) net.Conn {
		client, server := net.Pipe()
		t.Cleanup(func() { _ = client.Close() })
		p.conns <- server
		return server
	}
	want := connect(oldSocket)
	got, err := old.Accept()
	require.NoError(t, err)
	require.Same(t, want, got)

	successor := wrapper.WrapListener(newSocket)
	for _, socket := range []*pipe{oldSocket, newSocket} {
		want = connect(socket)
		got, err = successor.Accept()
		require.NoError(t, err)
		require.Same(t, want, got)
	}

	// A successor that does not come up gives way to the one before it.
	waiting := connect(newSocket)
	require.NoError(t, successor.Close())
	got, err = old.Accept()
	require.NoError(t, err)
	require.Same(t, waiting, got)

	oldSocket.errs <- fmt.Errorf("accept: too many open files")
	want = connect(oldSocket)
	got, err = old.Accept()
	require.NoError(t, err)
	require.Same(t, want, got, "an error of the system does not end the server")

	require.NoError(t, old.Close())
	require.NoError(t, old.Close())
	_, err = old.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}
