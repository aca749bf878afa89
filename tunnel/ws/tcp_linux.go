package ws

import (
	"net"

	"golang.org/x/sys/unix"
)

// notSentLowat is how much unsent data, in bytes, the kernel takes before it
// makes writers wait: bulk should wait in the session's scheduler, where it can
// be overtaken.
const notSentLowat = 128 << 10

// limitUnsent sets TCP_NOTSENT_LOWAT (tcp(7)).
func limitUnsent(tcp *net.TCPConn) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	})
}
