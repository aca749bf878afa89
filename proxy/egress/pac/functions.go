package pac

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// functions are what a script may call, beyond JavaScript itself: Netscape's, as browsers have them, and Microsoft's Ex
// ones for IPv6. Arguments come as texts; one that is missing is "".
type functions struct {
	now      func() time.Time
	deadline time.Time // of the whole evaluation, name look-ups included
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	resolved map[string][]netip.Addr // by host: scripts ask again and again
}

func (f *functions) table() map[string]func(args []string) any {
	if f.lookup == nil {
		f.lookup = net.DefaultResolver.LookupNetIP
	}
	f.resolved = make(map[string][]netip.Addr)
	arg := func(args []string, i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	return map[string]func(args []string) any{
		"isPlainHostName": func(a []string) any { return !strings.Contains(arg(a, 0), ".") && !strings.Contains(arg(a, 0), ":") },
		"dnsDomainIs": func(a []string) any {
			return strings.HasSuffix(strings.ToLower(arg(a, 0)), strings.ToLower(arg(a, 1)))
		},
		"localHostOrDomainIs": func(a []string) any {
			host, full := strings.ToLower(arg(a, 0)), strings.ToLower(arg(a, 1))
			return host == full || !strings.Contains(host, ".") && strings.HasPrefix(full, host+".")
		},
		"dnsDomainLevels": func(a []string) any { return strings.Count(arg(a, 0), ".") },
		"shExpMatch":      func(a []string) any { return glob(arg(a, 0), arg(a, 1)) },

		"isResolvable":   func(a []string) any { return len(f.resolve(arg(a, 0), true)) > 0 },
		"isResolvableEx": func(a []string) any { return len(f.resolve(arg(a, 0), false)) > 0 },
		"dnsResolve": func(a []string) any {
			if addrs := f.resolve(arg(a, 0), true); len(addrs) > 0 {
				return addrs[0].String()
			}
			return nil
		},
		"dnsResolveEx": func(a []string) any { return join(f.resolve(arg(a, 0), false)) },
		"isInNet":      func(a []string) any { return f.isInNet(arg(a, 0), arg(a, 1), arg(a, 2)) },
		"isInNetEx": func(a []string) any {
			addr, err := netip.ParseAddr(arg(a, 0))
			prefix, err2 := netip.ParsePrefix(arg(a, 1))
			return err == nil && err2 == nil && prefix.Contains(addr.Unmap())
		},
		"convert_addr": func(a []string) any {
			addr, err := netip.ParseAddr(arg(a, 0))
			if err != nil || !addr.Is4() {
				return 0
			}
			return int64(number(addr))
		},
		"myIpAddress": func([]string) any {
			for _, addr := range ownAddresses() {
				if addr.Is4() {
					return addr.String()
				}
			}
			return "127.0.0.1"
		},
		"myIpAddressEx":     func([]string) any { return join(ownAddresses()) },
		"sortIpAddressList": func(a []string) any { return sortAddresses(arg(a, 0)) },
		"getClientVersion":  func([]string) any { return "1.0" },

		"weekdayRange": func(a []string) any { return weekdayRange(f.now(), a) },
		"dateRange":    func(a []string) any { return dateRange(f.now(), a) },
		"timeRange":    func(a []string) any { return timeRange(f.now(), a) },
		"alert":        func([]string) any { return true },
	}
}

// resolve looks a host up within the evaluation's time. It returns no error: scripts know none.
func (f *functions) resolve(host string, only4 bool) []netip.Addr {
	host = strings.Trim(strings.TrimSuffix(host, "."), "[]")
	addrs, known := f.resolved[host]
	if addr, err := netip.ParseAddr(host); err == nil {
		addrs, known = []netip.Addr{addr.Unmap()}, true
	}
	if !known && host != "" {
		ctx, cancel := context.WithDeadline(context.Background(), f.deadline)
		addrs, _ = f.lookup(ctx, "ip", host)
		cancel()
		for i := range addrs {
			addrs[i] = addrs[i].Unmap()
		}
		if len(f.resolved) < maxDepth {
			f.resolved[host] = addrs
		}
	}
	if !only4 {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !a.Is4() })
}

func (f *functions) isInNet(host, pattern, mask string) bool {
	network, err := netip.ParseAddr(pattern)
	bits, err2 := netip.ParseAddr(mask)
	addrs := f.resolve(host, true)
	if err != nil || err2 != nil || !network.Is4() || !bits.Is4() || len(addrs) == 0 {
		return false
	}
	return number(addrs[0])&number(bits) == number(network)&number(bits)
}

// number is an IPv4 address as one.
func number(addr netip.Addr) uint32 {
	b := addr.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func join(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ";")
}

// ownAddresses are this machine's, the one that leads outside first. Connecting UDP sends nothing.
func ownAddresses() []netip.Addr {
	var all []netip.Addr
	add := func(a net.Addr) {
		var ip net.IP
		switch a := a.(type) {
		case *net.UDPAddr:
			ip = a.IP
		case *net.IPNet:
			ip = a.IP
		}
		addr, ok := netip.AddrFromSlice(ip)
		if addr = addr.Unmap(); ok && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	for _, remote := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		if conn, err := net.Dial("udp", remote); err == nil {
			add(conn.LocalAddr())
			conn.Close()
		}
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		add(a)
	}
	return all
}

// sortAddresses orders a list as Microsoft's function does: IPv6 first, each family by value; "" if one is none.
func sortAddresses(list string) string {
	var addrs []netip.Addr
	for item := range strings.SplitSeq(list, ";") {
		addr, err := netip.ParseAddr(strings.TrimSpace(item))
		if err != nil {
			return ""
		}
		addrs = append(addrs, addr)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(b.BitLen(), a.BitLen()), a.Compare(b))
	})
	return join(addrs)
}

// glob matches a shell pattern with * and ?, in time at most the product of the lengths.
func glob(s, pattern string) bool {
	text, want := []rune(s), []rune(pattern)
	i, j, star, mark := 0, 0, -1, 0
	for i < len(text) {
		switch {
		case j < len(want) && want[j] == '*':
			star, mark = j, i
			j++
		case j < len(want) && (want[j] == '?' || want[j] == text[i]):
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	for j < len(want) && want[j] == '*' {
		j++
	}
	return j == len(want)
}
