package egress

import "syscall"

// Winsock's numbers: package syscall's names for these are inventions on Windows that no call ever returns.
var (
	errnosRefused     = []error{syscall.Errno(10061)}                       // WSAECONNREFUSED
	errnosUnreachable = []error{syscall.Errno(10065), syscall.Errno(10051)} // WSAEHOSTUNREACH, WSAENETUNREACH
	errnosTimeout     = []error{syscall.Errno(10060)}                       // WSAETIMEDOUT
)
