package proxy

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

// A unix socket whose file is missing has nobody behind it, which is what "refused" says of a port.
func isRefused(err error) bool {
	return errors.Is(err, windows.WSAECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func isUnreachable(err error) bool {
	return errors.Is(err, windows.WSAEHOSTUNREACH) || errors.Is(err, windows.WSAENETUNREACH) ||
		errors.Is(err, windows.WSAENETDOWN) || errors.Is(err, windows.WSAEHOSTDOWN) ||
		errors.Is(err, windows.WSAEADDRNOTAVAIL)
}

func isAddrInUse(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }

func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED) ||
		errors.Is(err, windows.WSAESHUTDOWN)
}
