package access

import "net/netip"

// specialRange is a range of addresses that only a rule within the range covers.
type specialRange struct {
	prefix netip.Prefix
	what   string // for messages: "10.0.0.1 (what)"
}

// specialRanges may overlap: the longest prefix counts. So a rule for 169.254.0.0/16 covers link-local addresses but not the
// metadata services among them.
var specialRanges = []specialRange{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},

	// Where clouds hand credentials to whoever asks.
	{netip.MustParsePrefix("169.254.169.0/24"), "cloud metadata"},    // EC2, GCE, Azure, OpenStack, Oracle, DigitalOcean ...
	{netip.MustParsePrefix("169.254.170.0/24"), "cloud metadata"},    // ECS task roles, EKS pod identity
	{netip.MustParsePrefix("169.254.0.23/32"), "cloud metadata"},     // Tencent
	{netip.MustParsePrefix("169.254.42.42/32"), "cloud metadata"},    // Scaleway
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud metadata"},  // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"},    // Azure's wire server
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud metadata"},      // Oracle, classic
	{netip.MustParsePrefix("fd00:ec2::/32"), "cloud metadata"},       // EC2 (::254), EKS (::23)
	{netip.MustParsePrefix("fd20:ce::254/128"), "cloud metadata"},    // GCE
	{netip.MustParsePrefix("fd00:42::42/128"), "cloud metadata"},     // Scaleway
	{netip.MustParsePrefix("::/96"), "IPv4-compatible"},              // deprecated, RFC 4291 §2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "IPv4-translated"},    // RFC 7915
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local-use NAT64"},     // RFC 8215: where the IPv4 address stands is local choice
	{netip.MustParsePrefix("2001::/32"), "Teredo, an IPv4 tunnel"},   // RFC 4380
	{netip.MustParsePrefix("fec0::/10"), "site-local, long retired"}, // RFC 3879
}

// Ranges whose addresses hold an IPv4 address that the packet will reach in the end.
var (
	nat64Prefix = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 §2.1
	sixToFour   = netip.MustParsePrefix("2002::/16")    // RFC 3056 §2
)

// special returns the narrowest special range that a lies in, and false when a is an ordinary address.
// For an IPv6 address that leads to a special IPv4 one it is that single address.
func special(a netip.Addr) (specialRange, bool) {
	a = a.Unmap().WithZone("")
	best, found := specialRange{}, false
	for _, r := range specialRanges {
		if r.prefix.Contains(a) && (!found || r.prefix.Bits() > best.prefix.Bits()) {
			best, found = r, true
		}
	}
	if found {
		return best, true
	}
	if v4, how := embeddedIPv4(a); how != "" {
		if r, ok := special(v4); ok {
			return specialRange{netip.PrefixFrom(a, 128), how + " form of " + v4.String() + ", " + r.what}, true
		}
	}
	return specialRange{}, false
}

// embeddedIPv4 returns the IPv4 address inside an IPv6 one, and the name of the form, "" if there is none. A network's own
// NAT64 prefix can't be known here.
func embeddedIPv4(a netip.Addr) (v4 netip.Addr, how string) {
	if !a.Is6() {
		return netip.Addr{}, ""
	}
	b := a.As16()
	switch {
	case nat64Prefix.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), "NAT64"
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), "6to4"
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // RFC 5214 §6.1
		return netip.AddrFrom4([4]byte(b[12:16])), "ISATAP"
	}
	return netip.Addr{}, ""
}
