package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxRule is the longest rule in bytes: room for any name or socket path and a long list of ports.
const maxRule = 8 << 10

type ruleKind uint8

const (
	ruleNone   ruleKind = iota // the zero Rule: covers nothing
	ruleAny                    // *
	ruleName                   // name
	ruleSuffix                 // *.name
	ruleNet                    // net
	ruleSocket                 // unix:path
	ruleDir                    // unix:path/*
)

// Rule is one line of a policy: which hosts and ports, or which unix sockets. See the package comment for the grammar.
// The zero Rule covers nothing. A Rule is immutable.
type Rule struct {
	kind  ruleKind
	name  string       // ruleName, ruleSuffix: as in host
	net   netip.Prefix // ruleNet: masked; a single address has all its bits
	ports ports
	path  string // ruleSocket; ruleDir: the directory with the slash at its end
}

// RuleError says what is wrong with a rule's text, and where.
type RuleError struct {
	Rule   string // as it was written
	Column int    // where the mistake is, in characters from 1
	Err    error  // what is wrong and what to write
}

// Error implements error.
func (e *RuleError) Error() string {
	return fmt.Sprintf("rule %s: column %d: %v", quote(e.Rule), e.Column, e.Err)
}

// Unwrap returns what is wrong without rule and column.
func (e *RuleError) Unwrap() error { return e.Err }

// quote is strconv.Quote, shortened so that a message stays a message.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}

// ParseRule reads one rule: host:ports or unix:path. The error is a *RuleError.
func ParseRule(s string) (Rule, error) {
	r, at, err := parseRule(s)
	if err != nil {
		return Rule{}, &RuleError{Rule: s, Column: utf8.RuneCountInString(s[:min(at, len(s))]) + 1, Err: err}
	}
	return r, nil
}

// ParseRules reads several rules; the error joins a *RuleError for each bad one.
func ParseRules(texts []string) ([]Rule, error) {
	rules := make([]Rule, 0, len(texts))
	var errs []error
	for _, s := range texts {
		r, err := ParseRule(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rules = append(rules, r)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return rules, nil
}

// parseRule is ParseRule that counts where the mistake is in bytes.
func parseRule(s string) (r Rule, at int, err error) {
	switch {
	case s == "":
		return Rule{}, 0, errors.New("rule is empty; write host:ports or unix:path")
	case len(s) > maxRule:
		return Rule{}, maxRule, fmt.Errorf("rule is longer than %d bytes", maxRule)
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		r, err := parseSocketRule(path)
		return r, len("unix:"), err
	}
	hostPart, portPart, at, err := splitRule(s)
	if err != nil {
		return Rule{}, at, err
	}
	r, err = parseHostRule(hostPart, s[0] == '[')
	if err != nil {
		return Rule{}, 0, err
	}
	portsAt := len(s) - len(portPart)
	r.ports, at, err = parsePorts(portPart)
	return r, portsAt + at, err
}

// splitRule cuts at the colon before the ports. On error at is the byte where the mistake is.
func splitRule(s string) (hostPart, portPart string, at int, err error) {
	if s[0] == '[' {
		hostPart, rest, ok := strings.Cut(s[1:], "]")
		if !ok {
			return "", "", 0, errors.New("the bracket is not closed; write [2001:db8::1]:22")
		}
		at = len(s) - len(rest)
		if !strings.HasPrefix(rest, ":") {
			return "", "", at, errors.New("a colon and ports must follow the bracket; write [2001:db8::1]:22 or [2001:db8::/32]:22")
		}
		return hostPart, rest[1:], 0, nil
	}
	hostPart, portPart, ok := strings.Cut(s, ":")
	if !ok {
		return "", "", len(s), errors.New("the port is missing; write host:22, or host:* for every port")
	}
	if strings.Contains(portPart, ":") {
		return "", "", 0, errors.New("more than one colon; write an IPv6 address in brackets: [2001:db8::1]:22")
	}
	return hostPart, portPart, 0, nil
}

func parseHostRule(s string, bracketed bool) (Rule, error) {
	if bracketed && !strings.Contains(s, ":") {
		return Rule{}, errors.New("brackets are for IPv6 addresses only; write the host without them")
	}
	if s == "*" {
		return Rule{kind: ruleAny}, nil
	}
	if suffix, ok := strings.CutPrefix(s, "*."); ok {
		h, err := parseHost(suffix)
		if err != nil {
			return Rule{}, err
		}
		if h.name == "" {
			return Rule{}, fmt.Errorf("*. goes before a name, not an address; write a network such as %s", "10.0.0.0/8")
		}
		return Rule{kind: ruleSuffix, name: h.name}, nil
	}
	if strings.Contains(s, "*") {
		return Rule{}, errors.New("* stands alone or as the first part of a name: *.example.com")
	}
	if strings.Contains(s, "/") {
		return parseNetRule(s)
	}
	h, err := parseHost(s)
	if err != nil {
		return Rule{}, err
	}
	if h.name != "" {
		return Rule{kind: ruleName, name: h.name}, nil
	}
	if h.addr.Zone() != "" {
		return Rule{}, fmt.Errorf("an address in a rule has no zone; write %s, it covers every zone", h.addr.WithZone(""))
	}
	return Rule{kind: ruleNet, net: netip.PrefixFrom(h.addr, h.addr.BitLen())}, nil
}

func parseNetRule(s string) (Rule, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return Rule{}, fmt.Errorf("%s is not a network; write 10.0.0.0/8 or [2001:db8::/32]", quote(s))
	case p.Addr().Is4In6():
		return Rule{}, errors.New("write a network of IPv4-mapped addresses as IPv4: 10.0.0.0/8")
	case p.Masked() != p:
		return Rule{}, fmt.Errorf("%s has bits set after /%d; write %s", p, p.Bits(), p.Masked())
	}
	return Rule{kind: ruleNet, net: p}, nil
}

func parseSocketRule(path string) (Rule, error) {
	if dir, ok := strings.CutSuffix(path, "*"); ok {
		if !strings.HasSuffix(dir, "/") && !strings.HasSuffix(dir, `\`) {
			return Rule{}, errors.New("* in a path stands for every name in a directory: /run/app/*")
		}
		// The directory itself is checked through a name in it, so that / is a directory too.
		if err := checkSocketPath(dir + "x"); err != nil {
			return Rule{}, err
		}
		return Rule{kind: ruleDir, path: dir}, nil
	}
	if err := checkSocketPath(path); err != nil {
		return Rule{}, err
	}
	return Rule{kind: ruleSocket, path: path}, nil
}

// checkSocketPath accepts an absolute path in its one plain spelling, so that paths can be compared as text: nothing like .. or
// a doubled slash, and no abstract sockets (@name).
func checkSocketPath(path string) error {
	if !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl) {
		return errors.New("path has control characters or is not UTF-8")
	}
	rest, drive := cutDrive(path)
	if !drive && strings.Contains(path, `\`) {
		return fmt.Errorf("path %s has a backslash; write /", quote(path))
	}
	if rest == "" || !isSeparator(rune(rest[0])) {
		return fmt.Errorf("path %s is not absolute; write unix:/run/app.sock", quote(path))
	}
	names := strings.FieldsFunc(rest, isSeparator)
	length := 0
	for _, name := range names {
		if name == "." || name == ".." {
			return fmt.Errorf("path %s contains %s; write where it leads", quote(path), name)
		}
		length += 1 + len(name)
	}
	if length != len(rest) {
		return fmt.Errorf("path %s has an empty part; write single slashes and none at the end", quote(path))
	}
	return nil
}

func isSeparator(r rune) bool { return r == '/' || r == '\\' }

// cutDrive removes a Windows drive letter and its colon.
func cutDrive(path string) (rest string, ok bool) {
	if len(path) >= 2 && path[1] == ':' && ('a' <= path[0]|0x20 && path[0]|0x20 <= 'z') {
		return path[2:], true
	}
	return path, false
}

// String returns the rule in the form that ParseRule reads: names in lower case, ports in order.
func (r Rule) String() string {
	switch r.kind {
	case ruleAny:
		return "*:" + r.ports.String()
	case ruleName:
		if r.name == "unix" { // a host of that name: the dot tells it from the prefix
			return "unix.:" + r.ports.String()
		}
		return r.name + ":" + r.ports.String()
	case ruleSuffix:
		return "*." + r.name + ":" + r.ports.String()
	case ruleNet:
		s := r.net.String()
		if r.net.IsSingleIP() {
			s = r.net.Addr().String()
		}
		if r.net.Addr().Is6() {
			s = "[" + s + "]"
		}
		return s + ":" + r.ports.String()
	case ruleSocket:
		return "unix:" + r.path
	case ruleDir:
		return "unix:" + r.path + "*"
	}
	return ""
}

// MarshalText implements encoding.TextMarshaler with String.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with ParseRule.
func (r *Rule) UnmarshalText(text []byte) error {
	parsed, err := ParseRule(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}
