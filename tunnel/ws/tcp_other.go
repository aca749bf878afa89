//go:build !linux

package ws

import "net"

// limitUnsent does nothing: the option is Linux's.
func limitUnsent(*net.TCPConn) {}
