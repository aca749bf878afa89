//go:build unix

package proxy

import (
	"errors"
	"io/fs"
	"syscall"
)

// A unix socket whose file is missing has nobody behind it, which is what "refused" says of a port.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func isUnreachable(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.ENETDOWN) || errors.Is(err, syscall.EHOSTDOWN) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

func isAddrInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}
