//go:build unix && (!linux || race)

package sock

import (
	"errors"
	"syscall"
)

// CanPoll says that a socket can be read and written without blocking.
const CanPoll = true

const quick = false

// Read reads what the socket has, and fails with EAGAIN if it has nothing.
func Read(fd uintptr, p []byte) (int, error) { return retry(syscall.Read, fd, p) }

// Write writes what the socket takes, and fails with EAGAIN if it takes nothing.
func Write(fd uintptr, p []byte) (int, error) { return retry(syscall.Write, fd, p) }

func retry(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		switch {
		case err == nil:
			return n, nil
		case !errors.Is(err, syscall.EINTR):
			return 0, err
		}
	}
}
