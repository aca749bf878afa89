//go:build !windows

package egress

import "syscall"

var (
	errnosRefused     = []error{syscall.ECONNREFUSED}
	errnosUnreachable = []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN}
	errnosTimeout     = []error{syscall.ETIMEDOUT}
)
