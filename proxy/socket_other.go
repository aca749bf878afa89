//go:build !unix

package proxy

import "net"

// watchReset cannot wait for a reset on this system: it shows at the next write.
func watchReset(net.Conn) error { return nil }

// restrict has nothing to do: files have no modes here.
func restrict(uintptr) {}
