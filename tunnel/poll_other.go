//go:build !unix

package tunnel

import "syscall"

const canPoll = false

func readFD(uintptr, []byte) (int, error)  { return 0, syscall.ENOSYS }
func writeFD(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }
