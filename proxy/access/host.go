package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// maxName is the longest host name in its textual form, without the trailing dot (RFC 1035 §2.3.4).
const maxName = 253

// host is what stands before the port, in the one spelling in which hosts are compared.
type host struct {
	name string     // lower case ASCII without trailing dot; "" when addr is valid
	fqdn bool       // the name was written with a trailing dot: no search domains
	addr netip.Addr // never IPv4-mapped; keeps its zone
}

// lookup is the name to ask a resolver for.
func (h host) lookup() string {
	if h.fqdn {
		return h.name + "."
	}
	return h.name
}

// parseHost reads a host name or an IP address (IPv6 without brackets). It is strict where resolvers are lax: spellings such
// as 0177.0.0.1, 127.1 or 2130706433, which many of them take for 127.0.0.1, are errors.
func parseHost(s string) (host, error) {
	switch {
	case s == "":
		return host{}, errors.New("host is empty; write a name or an IP address")
	case len(s) > 4*maxName:
		return host{}, fmt.Errorf("host is longer than %d characters", maxName)
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return hostOfAddr(addr)
	}
	if strings.ContainsAny(s, ":%[]") {
		return host{}, fmt.Errorf("%s is not an IP address", quote(s))
	}
	return hostOfName(s)
}

func hostOfAddr(addr netip.Addr) (host, error) {
	if addr.Zone() != "" && !addr.IsLinkLocalUnicast() {
		return host{}, fmt.Errorf("%q has a zone, which only a link-local address may have", addr.String())
	}
	return host{addr: addr.Unmap()}, nil
}

func hostOfName(s string) (host, error) {
	name := s
	if !isASCII(s) {
		var err error
		if name, err = idna.Lookup.ToASCII(s); err != nil {
			return host{}, fmt.Errorf("%s is not a valid international name", quote(s))
		}
	}
	name, fqdn := strings.CutSuffix(lowerASCII(name), ".")
	if len(name) > maxName {
		return host{}, fmt.Errorf("host is longer than %d characters", maxName)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return host{}, fmt.Errorf("%s is not a host name: %w", quote(s), err)
		}
		last = label
	}
	if isNumber(last) {
		return host{}, fmt.Errorf("%s looks like an IP address but isn't one; write four decimal numbers such as 10.1.2.3", quote(s))
	}
	return host{name: name, fqdn: fqdn}, nil
}

// checkLabel accepts letters, digits, hyphens inside and underscores, which many internal names have.
func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("a part between dots is empty")
	case len(label) > 63:
		return errors.New("a part between dots is longer than 63 characters")
	case label[0] == '-' || label[len(label)-1] == '-':
		return errors.New("a part begins or ends with a hyphen")
	}
	for _, c := range []byte(label) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return fmt.Errorf("it has the character %q", rune(c))
		}
	}
	return nil
}

// isNumber tells whether a name's last label makes resolvers take the whole for an IPv4 address.
func isNumber(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// lowerASCII leaves everything but A to Z alone: Unicode's case folding would let other letters become ASCII ones.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
