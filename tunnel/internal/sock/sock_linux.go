//go:build linux && !race

package sock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// CanPoll says that a socket can be read and written without blocking.
const CanPoll = true

// quick says that Read and Write cost less than package net's.
const quick = true

// Read reads what the socket has, and fails with EAGAIN if it has nothing.
func Read(fd uintptr, p []byte) (int, error) {
	return transfer(unix.SYS_RECVFROM, fd, p, unix.MSG_DONTWAIT)
}

// Write writes what the socket takes, and fails with EAGAIN if it takes nothing.
func Write(fd uintptr, p []byte) (int, error) {
	return transfer(unix.SYS_SENDTO, fd, p, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// transfer is recv or send. MSG_DONTWAIT makes sure that the call cannot block, whatever mode the socket is in: nobody
// would notice, and the processor that runs it would be lost to all other goroutines.
func transfer(call, fd uintptr, p []byte, flags uintptr) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
