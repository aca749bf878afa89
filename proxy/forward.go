package proxy

import (
	"errors"
	"fmt"
	"strings"
)

// Forward says where to listen and what to dial for each connection accepted there. A forward listens at the client
// agent and dials at the server agent; a reverse forward the other way round.
type Forward struct {
	// Listen is where origins connect.
	Listen Endpoint
	// Target is what gets dialled for each of them, by the other agent.
	Target Endpoint
}

// forwardForms is what an error of the grammar tells the reader to write.
const forwardForms = "[bind:]port:host:hostport, [bind:]port:/path, /path:host:hostport or /path:/path"

// ParseForward reads a forward in ssh's syntax (ssh(1), -L and -R):
//
//	[bind:]port:host:hostport   TCP to TCP
//	[bind:]port:/path           TCP to a unix socket
//	/path:host:hostport         a unix socket to TCP
//	/path:/path                 a unix socket to a unix socket
//
// Without bind the listener is at localhost; with an empty one or "*" at every local address. An IPv6 address stands in
// brackets. Port 0 lets the system choose one to listen at. Paths are absolute (C:\… and C:/… too); a colon within a
// path is written \:.
func ParseForward(s string) (Forward, error) {
	f, err := parseForward(s)
	if err != nil {
		return Forward{}, fmt.Errorf("forward %q: %w", s, err)
	}
	return f, nil
}

func parseForward(s string) (Forward, error) {
	fields, err := splitForward(s)
	if err != nil {
		return Forward{}, err
	}
	target, listen, err := takeTarget(fields)
	if err != nil {
		return Forward{}, err
	}
	l, err := parseListen(listen)
	if err != nil {
		return Forward{}, err
	}
	return Forward{Listen: l, Target: target}, nil
}

// takeTarget reads the last field or two, and returns the fields before them.
func takeTarget(fields []field) (Endpoint, []field, error) {
	last := len(fields) - 1
	if last < 1 {
		return Endpoint{}, nil, errors.New("write " + forwardForms)
	}
	if fields[last].kind == fieldPath {
		e, err := parsePath(fields[last].text)
		return e, fields[:last], err
	}
	if last < 2 {
		return Endpoint{}, nil, errors.New("the target needs a host and a port: write " + forwardForms)
	}
	host, port := fields[last-1], fields[last]
	if host.kind == fieldPath || port.kind != fieldPlain {
		return Endpoint{}, nil, errors.New("write " + forwardForms)
	}
	e, err := parseTCP(host.text, port.text)
	if err == nil {
		err = e.checkTarget()
	}
	if err != nil {
		return Endpoint{}, nil, fmt.Errorf("target: %w", err)
	}
	return e, fields[:last-1], nil
}

func parseListen(fields []field) (Endpoint, error) {
	switch {
	case len(fields) == 1 && fields[0].kind == fieldPath:
		return parsePath(fields[0].text)
	case len(fields) == 1 && fields[0].kind == fieldPlain:
		return listenAt(defaultBind, fields[0].text)
	case len(fields) == 2 && fields[0].kind != fieldPath && fields[1].kind == fieldPlain:
		host := fields[0].text
		if host == "" {
			host = wildcard
		}
		return listenAt(host, fields[1].text)
	}
	return Endpoint{}, errors.New("write " + forwardForms + " (an IPv6 address in brackets)")
}

func listenAt(host, port string) (Endpoint, error) {
	e, err := parseTCP(host, port)
	if err != nil {
		return Endpoint{}, fmt.Errorf("listener: %w", err)
	}
	return e, nil
}

// String returns the shortest form that [ParseForward] reads back as f.
func (f Forward) String() string {
	var b strings.Builder
	if f.Listen.Network() == networkTCP && f.Listen.Host == defaultBind {
		fmt.Fprintf(&b, "%d", f.Listen.Port)
	} else {
		b.WriteString(escape(f.Listen))
	}
	b.WriteByte(':')
	b.WriteString(escape(f.Target))
	return b.String()
}

// escape writes an endpoint so that the colons of a path do not read as separators.
func escape(e Endpoint) string {
	if e.Path == "" {
		return e.String()
	}
	drive := ""
	path := e.Path
	if hasDrive(path) {
		drive, path = path[:2], path[2:]
	}
	return drive + strings.ReplaceAll(path, ":", `\:`)
}

type fieldKind int

const (
	fieldPlain   fieldKind = iota // up to the next colon
	fieldBracket                  // [IPv6], text without the brackets
	fieldPath                     // an absolute path, text without escapes
)

// field is one of the parts between the colons of a forward.
type field struct {
	text string
	kind fieldKind
}

// splitForward cuts s at its colons, but not at those in brackets, after a drive letter or escaped within a path.
func splitForward(s string) ([]field, error) {
	var fields []field
	for {
		var f field
		var err error
		f, s, err = nextField(s)
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
		if s == "" {
			return fields, nil
		}
		s = s[1:] // the colon
	}
}

// nextField cuts the first field off s; what is left is empty or begins with a colon.
func nextField(s string) (f field, rest string, err error) {
	switch {
	case strings.HasPrefix(s, "["):
		inside, rest, ok := strings.Cut(s[1:], "]")
		if !ok || rest != "" && rest[0] != ':' {
			return field{}, "", errors.New("a bracket does not close before the next colon: write [IPv6]:port")
		}
		if !isIPv6(inside) {
			return field{}, "", fmt.Errorf("only an IPv6 address stands in brackets, and %q is none", inside)
		}
		return field{inside, fieldBracket}, rest, nil
	case isPath(s):
		text, rest := cutPath(s)
		return field{text, fieldPath}, rest, nil
	}
	i := strings.IndexByte(s, ':')
	if i < 0 {
		i = len(s)
	}
	return field{s[:i], fieldPlain}, s[i:], nil
}

// cutPath reads a path up to the first colon that is neither a drive's nor escaped.
func cutPath(s string) (path, rest string) {
	var b strings.Builder
	i := 0
	if hasDrive(s) {
		i = 2
		b.WriteString(s[:2])
	}
	for ; i < len(s) && s[i] != ':'; i++ {
		if s[i] == '\\' && i+1 < len(s) && s[i+1] == ':' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), s[i:]
}
