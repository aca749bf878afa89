package access

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Policy is what an identity may do. The zero Policy denies everything. A Policy is not changed after it was built, so
// copies may share its rules.
type Policy struct {
	Connect []Rule // targets that may be dialled
	Listen  []Rule // addresses that may be bound
}

// Action is what a policy decides on.
type Action uint8

// The two actions.
const (
	Connect Action = iota // dial a target
	Listen                // bind an address
)

// String returns "connect" or "listen", the policy's key.
func (a Action) String() string {
	if a == Listen {
		return "listen"
	}
	return "connect"
}

// DeniedError says that the policy does not allow an action. Its text is for the agent that holds the policy: it tells
// which rule would be missing, and where a name points. The peer gets Public.
type DeniedError struct {
	Action  Action
	Target  string     // what was asked for: host:port, or unix:path
	Addr    netip.Addr // the first address that the target has but may not be used; invalid if it wasn't resolved
	Special string     // why only a rule for Addr itself would do: "loopback", "cloud metadata" ...; "" when Addr is ordinary
	Missing string     // a rule that would allow it
}

// Error implements error.
func (e *DeniedError) Error() string {
	why := "no rule covers it"
	switch {
	case e.Special != "":
		why = fmt.Sprintf("%s (%s) must be named by a rule of its own", e.Addr, e.Special)
	case e.Addr.IsValid():
		why = fmt.Sprintf("no rule covers it or its address %s", e.Addr)
	}
	return fmt.Sprintf("%s; to allow it add %q to the identity's %s rules: %s", e.Public(), e.Missing, e.Action, why)
}

// Public is the text for the peer: it tells nothing of the policy, nor where a name points.
func (e *DeniedError) Public() string {
	return fmt.Sprintf("%s %s is denied by policy", e.Action, e.Target)
}

// TargetError says that a host, port or path can't be one, whoever asks. Policy has not been looked at.
type TargetError struct {
	Target string // as asked for, shortened
	Err    error  // what is wrong with it
}

// Error implements error.
func (e *TargetError) Error() string { return fmt.Sprintf("bad target %s: %v", e.Target, e.Err) }

// Unwrap returns what is wrong.
func (e *TargetError) Unwrap() error { return e.Err }

// ConnectUnix decides whether the unix socket at path may be dialled. The error is a *DeniedError or *TargetError.
//
// Paths are compared as text: whoever can put symbolic links into a directory decides what its names mean.
func (p Policy) ConnectUnix(path string) error { return checkSocket(Connect, p.Connect, path) }

// ListenUnix decides whether a unix socket may be made at path. The error is a *DeniedError or *TargetError.
func (p Policy) ListenUnix(path string) error { return checkSocket(Listen, p.Listen, path) }

func checkSocket(action Action, rules []Rule, path string) error {
	if err := checkSocketPath(path); err != nil {
		return &TargetError{Target: quote("unix:" + path), Err: err}
	}
	for _, r := range rules {
		if r.coversSocket(path) {
			return nil
		}
	}
	return &DeniedError{Action: action, Target: "unix:" + path, Missing: "unix:" + path}
}

func (r Rule) coversSocket(path string) bool {
	switch r.kind {
	case ruleSocket:
		return path == r.path
	case ruleDir:
		name, ok := strings.CutPrefix(path, r.path)
		return ok && name != "" && !strings.ContainsFunc(name, isSeparator)
	}
	return false
}

// namesHost tells whether the rule is one for names and the name is among them.
func (r Rule) namesHost(h host) bool {
	switch r.kind {
	case ruleName:
		return h.name == r.name
	case ruleSuffix:
		prefix, ok := strings.CutSuffix(h.name, "."+r.name)
		return ok && prefix != ""
	}
	return false
}

// mayCover tells whether the rule could cover h once h is resolved, so that it is worth a DNS query.
func (r Rule) mayCover(h host, port uint16) bool {
	return r.ports.contains(port) &&
		(r.kind == ruleAny || r.kind == ruleNet || r.namesHost(h) || r.isLocalhost() && isLocalhost(h.addr))
}

// coversConnect decides on dialling addr (without zone), which h is or was resolved to. Ports are the caller's part.
func (r Rule) coversConnect(h host, addr netip.Addr) bool {
	switch {
	case r.kind == ruleNet:
		return r.coversAddr(addr)
	case r.isLocalhost():
		return isLocalhost(addr) && (h.name == localhost || h.addr.IsValid())
	}
	if _, isSpecial := special(addr); isSpecial {
		return false
	}
	return r.kind == ruleAny || r.namesHost(h)
}

// coversAddr: a special address takes a network that lies within its special range.
func (r Rule) coversAddr(addr netip.Addr) bool {
	if !r.net.Contains(addr) {
		return false
	}
	s, isSpecial := special(addr)
	return !isSpecial || r.net.Bits() >= s.prefix.Bits()
}

// coversListen is coversConnect for binding: nothing is special there, except that a name must not turn into all interfaces.
func (r Rule) coversListen(h host, addr netip.Addr) bool {
	switch {
	case h.name != "" && addr.IsUnspecified():
		return false
	case r.kind == ruleAny:
		return true
	case r.kind == ruleNet:
		return r.net.Contains(addr)
	case r.isLocalhost():
		return isLocalhost(addr) && (h.name == localhost || h.addr.IsValid())
	}
	return r.namesHost(h)
}

func (r Rule) isLocalhost() bool { return r.kind == ruleName && r.name == localhost }

// denied is the error for a host that no rule covers; addrs is what it was resolved to, if it was.
func denied(action Action, h host, port uint16, addrs []netip.Addr) *DeniedError {
	name := h.name
	if name == "" {
		name = h.addr.String()
	}
	e := &DeniedError{Action: action, Target: hostPort(name, port)}
	e.Missing = hostPort(strings.TrimSuffix(name, zoneSuffix(h.addr)), port)
	if len(addrs) > 0 {
		e.Addr = addrs[0]
		if s, ok := special(e.Addr); ok && action == Connect {
			e.Special = s.what
		}
		if e.Special != "" || e.Addr.IsUnspecified() {
			e.Missing = hostPort(e.Addr.WithZone("").String(), port)
		}
	}
	if port == 0 {
		e.Missing = strings.TrimSuffix(e.Missing, "0") + "*"
	}
	return e
}

func zoneSuffix(a netip.Addr) string {
	if a.Zone() == "" {
		return ""
	}
	return "%" + a.Zone()
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
