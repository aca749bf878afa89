package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// deadlineListener is what package net's TCP and unix listeners are: a deadline in the past stops Accept without
// closing them.
type deadlineListener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// ListenError says that a listener could not be opened.
type ListenError struct {
	// Address is what was asked for.
	Address string
	// Err is the cause.
	Err error
}

// Error says what failed.
func (e *ListenError) Error() string {
	return fmt.Sprintf("listen at %s: %v", e.Address, plainError(e.Err))
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// Hint says what to try, or "".
func (e *ListenError) Hint() string {
	switch {
	case isAddrInUse(e.Err):
		return "another process has that address: stop it, or choose another port (0 takes a free one)"
	case errors.Is(e.Err, os.ErrPermission):
		return "choose a port above 1023, or a directory that this user may write to"
	}
	return ""
}

// listen opens a listener at one address: an IP with its port, a name, or "*". A unix socket is made for this user only
// (0600), and replaces a socket file that nobody listens at any more.
func listen(ctx context.Context, e Endpoint) (deadlineListener, error) {
	if e.Path != "" {
		return listenUnix(ctx, e.Path)
	}
	if e.Host == wildcard {
		e.Host = ""
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, networkTCP, e.String())
	if err != nil {
		return nil, &ListenError{Address: e.String(), Err: err}
	}
	return l.(*net.TCPListener), nil
}

func listenUnix(ctx context.Context, path string) (deadlineListener, error) {
	config := net.ListenConfig{Control: privateSocket}
	l, err := config.Listen(ctx, networkUnix, path)
	if err != nil && isAddrInUse(err) && isStale(ctx, path) && os.Remove(path) == nil {
		l, err = config.Listen(ctx, networkUnix, path)
	}
	if err == nil {
		if err = os.Chmod(path, 0o600); err != nil {
			_ = l.Close()
		}
	}
	if err != nil {
		return nil, &ListenError{Address: path, Err: err}
	}
	return l.(*net.UnixListener), nil
}

// isStale reports whether path is a socket that nobody listens at: its process died without removing it.
func isStale(ctx context.Context, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	c, err := (&net.Dialer{}).DialContext(ctx, networkUnix, path)
	if err == nil {
		_ = c.Close()
		return false
	}
	return isRefused(err)
}

// plainError strips package net's and os's wrapping, which repeats addresses.
func plainError(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		err = e.Err
	}
	return err
}

// origin names who connected. A unix socket's peer has no name: the socket's own stands in.
func originOf(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil && a.Network() == networkTCP {
		return a.String()
	}
	return "unix:" + c.LocalAddr().String()
}

// privateSocket makes a unix socket's file accessible for its owner only, from its first moment on where the system
// takes the mode from the socket (Linux); listenUnix sets it again for those that don't.
func privateSocket(_, _ string, c syscall.RawConn) error {
	_ = c.Control(func(fd uintptr) { restrict(fd) })
	return nil
}
