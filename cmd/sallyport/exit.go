package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"sallyport/proxy"
	"sallyport/proxy/egress"
	certs "sallyport/tls"
	"sallyport/tunnel"
)

// The exit codes are part of the interface: scripts tell causes apart by them, and their numbers never change.
const (
	exitOK      = 0
	exitOther   = 1
	exitUsage   = 2
	exitAuth    = 3
	exitNetwork = 4
	exitProxy   = 5
	exitTLS     = 6
	exitBusy    = 7
	exitListen  = 8

	exitDenied      = 10
	exitDNS         = 11
	exitRefused     = 12
	exitUnreachable = 13
	exitTimeout     = 14
	exitTarget      = 15
	exitAborted     = 16

	exitSignal = 128 // and the signal's number
)

// exitCode is one line of the table that the help shows.
type exitCode struct {
	code    int
	meaning string
}

// agentCodes are what every command may exit with.
func agentCodes() []exitCode {
	return []exitCode{
		{exitOK, "done; also after a drain"},
		{exitOther, "anything that has no code of its own"},
		{exitUsage, "wrong flag, setting or file: nothing was tried"},
		{exitAuth, "the server agent refused the token or the client certificate"},
		{exitNetwork, "the server agent or the proxy was not reached, or the session was lost"},
		{exitProxy, "the proxy in between refused: credentials, or its rules"},
		{exitTLS, "a certificate was not accepted, by either side"},
		{exitBusy, "the server agent is full or draining"},
		{exitListen, "an address to listen at is taken or not permitted"},
	}
}

// targetCodes are what connect may exit with besides.
func targetCodes() []exitCode {
	return []exitCode{
		{exitDenied, "the server agent's policy does not allow the target"},
		{exitDNS, "the target's name does not resolve"},
		{exitRefused, "the target refused the connection"},
		{exitUnreachable, "no route to the target"},
		{exitTimeout, "the target did not answer in time"},
		{exitTarget, "the target was not reached for another reason"},
		{exitAborted, "the connection was reset after it stood"},
	}
}

// describeCodes is the table for a command's help.
func describeCodes(codes []exitCode) string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "  %3d  %s\n", c.code, c.meaning)
	}
	b.WriteString("  128 and the signal's number when a signal ended it")
	return b.String()
}

// usageError is a command line that cannot be understood.
type usageError struct {
	command string // whose help tells more
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Hint says what to try.
func (e *usageError) Hint() string { return "see \"" + e.command + " --help\"" }

// setupError is a setting, or a file that a setting names, that is wrong.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// setup marks err as a mistake in the settings; nil stays nil.
func setup(err error) error {
	if err == nil {
		return nil
	}
	return &setupError{err}
}

// interrupted says that a signal ended the command before it was done.
type interrupted struct{ signal os.Signal }

func (e *interrupted) Error() string { return "ended by signal: " + e.signal.String() }

func (e *interrupted) exitCode() int {
	if n, ok := e.signal.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitOther
}

// report tells a person what failed and what to try, and returns the exit code.
func (p *program) report(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*interrupted](err); ok {
		return e.exitCode() // whoever sent the signal knows
	}
	text, hint := explain(err)
	for line := range strings.Lines(text) { // several mistakes are joined line by line
		fmt.Fprintf(p.stderr, "sallyport: %s\n", strings.TrimRight(line, "\n"))
	}
	if hint != "" {
		fmt.Fprintf(p.stderr, "hint: %s\n", hint)
	}
	return codeOf(err)
}

// explain returns what to print for err: what failed, and what to try. Some errors have the hint in their text too;
// it is taken out there.
func explain(err error) (text, hint string) {
	text = err.Error()
	inText := ""
	if e, ok := errors.AsType[*certs.VerifyError](err); ok {
		inText = e.Hint
	} else if e, ok := errors.AsType[*certs.FileError](err); ok {
		inText = e.Hint
	}
	if inText != "" {
		return strings.Replace(text, "; "+inText, "", 1), inText
	}
	if e, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		hint = e.Hint()
	}
	if e, ok := errors.AsType[*egress.Error](err); ok && hint == "" {
		hint = e.Hint
	}
	return text, hint
}

// codeOf returns the exit code for a failure, by its type.
func codeOf(err error) int {
	if _, ok := errors.AsType[*demoError](err); ok {
		return exitOther
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*setupError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*proxy.ListenError](err); ok {
		return exitListen
	}
	if e, ok := errors.AsType[*proxy.CarrierError](err); ok {
		return carrierCode(e)
	}
	if e, ok := errors.AsType[*proxy.OpenError](err); ok {
		return targetCode(e.Code)
	}
	if errors.Is(err, proxy.ErrSessionLost) {
		return exitNetwork
	}
	if _, ok := errors.AsType[*tunnel.StreamError](err); ok || errors.Is(err, proxy.ErrAborted) {
		return exitAborted
	}
	return exitOther
}

// carrierCode sorts the ways in which the server agent was not reached.
func carrierCode(e *proxy.CarrierError) int {
	if out, ok := errors.AsType[*egress.Error](e); ok {
		switch out.Leg {
		case egress.LegSetting:
			return exitUsage
		case egress.LegProxyTLS:
			return exitTLS
		case egress.LegCONNECT, egress.LegProxyAuth:
			if out.Permanent() {
				return exitProxy
			}
		}
		return exitNetwork
	}
	switch e.Cause {
	case proxy.CauseAuth:
		return exitAuth
	case proxy.CauseTLS:
		return exitTLS
	case proxy.CauseConfig:
		return exitUsage
	case proxy.CauseLimit:
		return exitBusy
	}
	return exitNetwork
}

// targetCode sorts the ways in which a target was not reached.
func targetCode(c proxy.Code) int {
	switch c {
	case proxy.CodeDenied:
		return exitDenied
	case proxy.CodeDNS:
		return exitDNS
	case proxy.CodeRefused:
		return exitRefused
	case proxy.CodeUnreachable:
		return exitUnreachable
	case proxy.CodeTimeout:
		return exitTimeout
	case proxy.CodeAborted:
		return exitAborted
	}
	return exitTarget
}
