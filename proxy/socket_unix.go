//go:build unix

package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchReset blocks until c is reset by its peer (an error) or closed at this end (nil). c has given an end of file, so
// nothing else can make it readable: the poller wakes once for the reset, with which the socket's error is set.
func watchReset(c net.Conn) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil // closed already
	}
	var reset error
	_ = raw.Read(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			reset = syscall.Errno(errno)
		}
		return reset != nil
	})
	return reset
}

// restrict sets the mode that a socket's file will have. Not every system can; whoever needs it also sets the file's.
func restrict(fd uintptr) { _ = unix.Fchmod(int(fd), 0o600) }
