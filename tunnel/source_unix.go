//go:build unix

package tunnel

import "syscall"

// canPoll says that a reader's descriptor can be read without blocking.
const canPoll = true

func readFD(fd uintptr, p []byte) (int, error) { return syscall.Read(int(fd), p) }
