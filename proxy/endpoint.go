package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The networks that an [Endpoint] can be on.
const (
	networkTCP  = "tcp"
	networkUnix = "unix"
)

// wildcard as an endpoint's host means every local address.
const wildcard = "*"

// defaultBind is where a listener binds when nothing else was asked for (DESIGN: loopback unless told otherwise).
const defaultBind = "localhost"

// maxPath and maxHost bound what an endpoint may be called: a Linux socket path has 107 usable bytes, some systems
// allow more; a DNS name has 253 (RFC 1035 §2.3.4), an address with a zone fits too.
const (
	maxPath = 1024
	maxHost = 255
)

// Endpoint is a place to dial or to listen at: a TCP host and port, or the path of a unix socket.
// The zero value is no endpoint. Endpoints are comparable.
type Endpoint struct {
	// Host is a DNS name or an IP address without brackets. "*" is every local address (listeners only).
	// Empty for a unix socket.
	Host string
	// Port is the TCP port. 0 asks for an ephemeral one (listeners only).
	Port uint16
	// Path is the absolute path of a unix socket; empty for TCP.
	Path string
}

// Network returns "unix" for a socket path, else "tcp".
func (e Endpoint) Network() string {
	if e.Path != "" {
		return networkUnix
	}
	return networkTCP
}

// String returns the address as package net takes it: host:port with brackets around an IPv6 address, or the path.
func (e Endpoint) String() string {
	if e.Path != "" {
		return e.Path
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// IsZero reports whether e is no endpoint at all.
func (e Endpoint) IsZero() bool { return e == Endpoint{} }

// ParseTarget reads what is to be dialled: host:port, [IPv6]:port, an absolute path, or unix:path.
func ParseTarget(s string) (Endpoint, error) {
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		return parsePath(rest)
	}
	if isPath(s) {
		return parsePath(s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("target %q: write host:port, [IPv6]:port or unix:/path", s)
	}
	if strings.HasPrefix(s, "[") && !isIPv6(host) {
		return Endpoint{}, fmt.Errorf("target %q: only an IPv6 address stands in brackets", s)
	}
	e, err := parseTCP(host, port)
	if err != nil {
		return Endpoint{}, fmt.Errorf("target %q: %w", s, err)
	}
	if err := e.checkTarget(); err != nil {
		return Endpoint{}, fmt.Errorf("target %q: %w", s, err)
	}
	return e, nil
}

// parseEndpoint reads the address of a record, which is exactly what String of an endpoint gives.
func parseEndpoint(network, address string) (Endpoint, error) {
	switch network {
	case networkUnix:
		return parsePath(address)
	case networkTCP:
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return Endpoint{}, fmt.Errorf("address %q: want host:port", address)
		}
		e, err := parseTCP(host, port)
		if err == nil && e.String() != address {
			err = errors.New("not in its plain form")
		}
		if err != nil {
			return Endpoint{}, fmt.Errorf("address %q: %w", address, err)
		}
		return e, nil
	}
	return Endpoint{}, fmt.Errorf("network %q: want tcp or unix", network)
}

func parseTCP(host, port string) (Endpoint, error) {
	if err := checkHost(host); err != nil {
		return Endpoint{}, err
	}
	p, err := parsePort(port)
	if err != nil {
		return Endpoint{}, err
	}
	return Endpoint{Host: host, Port: p}, nil
}

// checkTarget refuses what can be listened at but not dialled.
func (e Endpoint) checkTarget() error {
	switch {
	case e.Path != "":
		return nil
	case e.Host == wildcard:
		return errors.New(`"*" is not a host to dial; name one`)
	case e.Port == 0:
		return errors.New("port 0 cannot be dialled; write 1-65535")
	}
	return nil
}

// parsePort accepts plain decimal digits only: no sign, no leading zero (which some tools read as octal).
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("port %q: write a number from 0 to 65535", s)
	}
	return uint16(n), nil
}

// checkHost lets through what can be a name or an address. Whether a name exists is for the resolver to say, and
// whether it may be reached is for the policy.
func checkHost(host string) error {
	if host == wildcard {
		return nil
	}
	if host == "" {
		return errors.New("the host is missing")
	}
	if len(host) > maxHost {
		return fmt.Errorf("the host has %d bytes; at most %d are possible", len(host), maxHost)
	}
	if strings.Contains(host, ":") {
		if !isIPv6(host) {
			return fmt.Errorf("host %q: not an IPv6 address", host)
		}
		return nil
	}
	for _, r := range host {
		if !isHostRune(r) {
			return fmt.Errorf("host %q: %q cannot be in a host name (an international one is written xn--…)", host, r)
		}
	}
	return nil
}

func isHostRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	}
	return r == '-' || r == '_' || r == '.'
}

// isIPv6 reports whether s is an IPv6 address, with or without a zone made of harmless characters.
func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() {
		return false
	}
	return strings.IndexFunc(a.Zone(), func(r rune) bool { return !isHostRune(r) }) < 0
}

// isPath reports whether s begins as an absolute path does, here (/dir) or on Windows (C:\dir, C:/dir):
// an endpoint is often on the other agent's machine.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") || hasDrive(s)
}

func hasDrive(s string) bool {
	return len(s) >= 3 && isLetter(s[0]) && s[1] == ':' && (s[2] == '\\' || s[2] == '/')
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// parsePath accepts an absolute path without detours, so that a policy's rule for a directory means that directory.
func parsePath(s string) (Endpoint, error) {
	if !isPath(s) {
		return Endpoint{}, fmt.Errorf("socket path %q: write an absolute path", s)
	}
	if len(s) > maxPath {
		return Endpoint{}, fmt.Errorf("the socket path has %d bytes; at most %d are possible", len(s), maxPath)
	}
	if !utf8.ValidString(s) || strings.IndexFunc(s, unicode.IsControl) >= 0 {
		return Endpoint{}, fmt.Errorf("socket path %q: write it in UTF-8 without control characters", s)
	}
	if strings.HasSuffix(s, `\`) {
		return Endpoint{}, fmt.Errorf("socket path %q: ends in a backslash", s) // \: would read as an escaped colon
	}
	rest, separators := s[1:], "/"
	if hasDrive(s) {
		rest, separators = s[3:], `/\`
	}
	for more := true; more; {
		elem := rest
		i := strings.IndexAny(rest, separators)
		if more = i >= 0; more {
			elem, rest = rest[:i], rest[i+1:]
		}
		if elem == "" || elem == "." || elem == ".." {
			return Endpoint{}, fmt.Errorf("socket path %q: write it without empty, . and .. elements", s)
		}
	}
	return Endpoint{Path: s}, nil
}
