package egress

import (
	"net"
	"strings"
	"sync"
)

// trust decides which proxies that a script names may be shown credentials, and remembers each such proxy, so that what
// it accepted or refused is known at the next dial.
type trust struct {
	patterns []string // in lower case: host, *.suffix or *, with :port or without
	options  Options
	account  *account // of the one user and password that there are

	mu      sync.Mutex
	proxies map[string]*proxy // by kind://host:port
}

func newTrust(o Options) (*trust, error) {
	t := &trust{options: o, account: &account{}, proxies: make(map[string]*proxy)}
	for _, pattern := range o.Trust {
		pattern = strings.ToLower(strings.TrimSpace(pattern))
		name, port := splitPattern(pattern)
		host := strings.TrimPrefix(strings.TrimPrefix(name, "*"), ".")
		ascii, err := asciiHost(host)
		if err != nil && name != "*" || name != "*" && strings.HasPrefix(name, "*") && !strings.HasPrefix(name, "*.") ||
			port != "" && !validPort(port) {
			return nil, settingError("a pattern of trusted proxies is not valid", `--proxy-trust takes host, *.suffix or *, with :port if wanted`)
		}
		t.patterns = append(t.patterns, strings.Replace(pattern, host, ascii, 1))
	}
	if o.Password != "" && o.Username == "" && len(o.Proxy) == 0 && o.PAC != "" {
		return nil, settingError("a password for the proxy is set, but no user", "add --proxy-user")
	}
	return t, nil
}

// splitPattern takes the port off; an IPv6 address has one only behind brackets.
func splitPattern(pattern string) (name, port string) {
	if host, port, err := net.SplitHostPort(pattern); err == nil {
		return host, port
	}
	return strings.Trim(pattern, "[]"), ""
}

func (t *trust) covers(p *proxy) bool {
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, pattern := range t.patterns {
		name, wantPort := splitPattern(pattern)
		if wantPort != "" && wantPort != port {
			continue
		}
		suffix, wild := strings.CutPrefix(name, "*")
		if name == host || wild && strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

// proxy returns the one at kind://host:port, which the caller has made from parts that it checked. named says that the
// user or the system named it, not a script.
func (t *trust) proxy(raw, source string, named bool) (*proxy, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := parseProxy(raw, source)
	if err != nil {
		return nil, err
	}
	if known := t.proxies[p.String()]; known != nil {
		return known, nil
	}
	if p.cred = nil; named || t.covers(p) {
		p.trust(t.options)
	}
	if p.cred != nil {
		p.mem.account = t.account
	}
	if err := p.checkCredentials(source); err != nil {
		return nil, err
	}
	if len(t.proxies) >= maxRemembered {
		clear(t.proxies)
	}
	t.proxies[p.String()] = p
	return p, nil
}
