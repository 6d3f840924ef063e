//go:build unix

package handover

import (
	"net"
	"os"
	"syscall"
)

// drain accepts what waits in the queue of a socket and never blocks.
func drain(tcp *net.TCPListener) []net.Conn {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	var conns []net.Conn
	_ = raw.Control(func(fd uintptr) {
		if syscall.SetNonblock(int(fd), true) != nil {
			return
		}
		for {
			accepted, _, err := syscall.Accept(int(fd))
			if err != nil { // EAGAIN: the queue is empty
				return
			}
			syscall.CloseOnExec(accepted)
			file := os.NewFile(uintptr(accepted), "connection")
			if conn, err := net.FileConn(file); err == nil {
				conns = append(conns, conn)
			}
			_ = file.Close() // conn has a descriptor of its own
		}
	})
	return conns
}
