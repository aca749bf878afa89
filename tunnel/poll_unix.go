//go:build unix

package tunnel

import "syscall"

// canPoll says that a socket's descriptor can be read and written without
// blocking.
const canPoll = true

func readFD(fd uintptr, p []byte) (int, error)  { return syscall.Read(int(fd), p) }
func writeFD(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
