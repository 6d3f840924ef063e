//go:build !unix

package handover

import "net"

// drain does nothing: here Caddy shares one socket between servers anyway.
func drain(*net.TCPListener) []net.Conn { return nil }
