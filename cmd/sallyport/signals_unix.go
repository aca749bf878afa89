//go:build unix

package main

import (
	"os"
	"syscall"
)

// stopSignals drain an agent, and end it when they come twice.
func stopSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// reloadSignals make an agent read its configuration again.
func reloadSignals() []os.Signal { return []os.Signal{syscall.SIGHUP} }

// hangupSignals end connect: ssh sends SIGHUP to its ProxyCommand when it is done with it.
func hangupSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} }
