//go:build !unix

package sock

import "syscall"

// CanPoll says that a socket can be read and written without blocking.
const CanPoll = false

const quick = false

// Read is not to be called here.
func Read(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }

// Write is not to be called here.
func Write(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }
