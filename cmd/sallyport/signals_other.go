//go:build !unix

package main

import "os"

// stopSignals drain an agent, and end it when they come twice.
func stopSignals() []os.Signal { return []os.Signal{os.Interrupt} }

// reloadSignals are none: this system has no signal that asks for it.
func reloadSignals() []os.Signal { return nil }

// hangupSignals end connect.
func hangupSignals() []os.Signal { return []os.Signal{os.Interrupt} }
