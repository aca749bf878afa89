package egress

import (
	"errors"
	"net"
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// Route is the way that a connection to a target takes.
type Route struct {
	// Proxy is the proxy's URL without user and password; "" means direct.
	Proxy string
	// Source is the setting that made the choice: "--proxy", a variable's name, "loopback target", "no proxy set".
	Source string
}

// String is one phrase for a log line, such as "via http://proxy:3128 (HTTPS_PROXY)" or "direct (NO_PROXY)".
func (r Route) String() string {
	if r.Proxy == "" {
		return "direct (" + r.Source + ")"
	}
	return "via " + r.Proxy + " (" + r.Source + ")"
}

// Route tells which way DialContext would take to addr, without a packet. Its error is an [*Error] with [LegSetting].
func (d *Dialer) Route(addr string) (Route, error) {
	host, port, err := splitTarget(addr)
	if err != nil {
		return Route{}, targetError(err)
	}
	p, source, err := d.way.choose(net.JoinHostPort(host, port))
	switch {
	case err != nil:
		return Route{}, err
	case p == nil:
		return Route{Source: source}, nil
	}
	return Route{Proxy: p.String(), Source: source}, nil
}

func targetError(err error) *Error {
	return &Error{Leg: LegSetting, Err: reason(ErrConfig, "target: %w", err), Hint: "check the server's URL"}
}

// chooser chooses between proxy and direct for a target.
type chooser struct {
	proxy  *proxy // nil: direct, or err
	source string // where proxy, err or the lack of both come from
	err    error  // what is wrong with the environment, for the targets that it concerns

	// Set for the environment only: whether a target goes through the proxy, by NO_PROXY and without it.
	byRules, byDefault func(*url.URL) (*url.URL, error)
	scheme             string // for these: https or http
}

func newChooser(o Options) (chooser, error) {
	c := chooser{source: "--proxy"}
	switch o.Scheme {
	case "", "wss", "https":
		c.scheme = "https"
	case "ws", "http":
		c.scheme = "http"
	default:
		return c, settingError("the target's scheme is neither wss nor ws", "check the server's URL")
	}
	switch o.Proxy {
	case None:
		return c, nil
	case "":
		return c, c.fromEnvironment(o)
	}
	var err error
	if c.proxy, err = parseProxy(o.Proxy, c.source); err != nil {
		return c, err
	}
	return c, c.proxy.authenticate(o, c.source)
}

// fromEnvironment returns only errors of the options; those of the environment are kept for choose.
func (c *chooser) fromEnvironment(o Options) error {
	env := getenv(o)
	first := func(names ...string) (name, value string) {
		for _, name := range names {
			if value := env(name); value != "" {
				return name, value
			}
		}
		return "", ""
	}
	names := []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
	if c.scheme == "http" {
		names = []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}
	}
	var raw string
	c.source, raw = first(names...)
	if raw == "" {
		c.source = "no proxy set"
		return nil
	}
	_, noProxy := first("no_proxy", "NO_PROXY")
	// The library decides about NO_PROXY only, with a stand-in for the proxy: it swallows a proxy's parse errors.
	const standIn = "http://proxy.invalid"
	cfg := httpproxy.Config{HTTPProxy: standIn, HTTPSProxy: standIn}
	c.byDefault = cfg.ProxyFunc()
	cfg.NoProxy = noProxy
	c.byRules = cfg.ProxyFunc()

	// In a CGI process HTTP_PROXY is set by whoever sends a "Proxy:" header (https://go.dev/s/cgihttpproxy).
	if c.source == "HTTP_PROXY" && env("REQUEST_METHOD") != "" {
		c.err = settingError("HTTP_PROXY is not trusted in a CGI environment", "use http_proxy or --proxy")
		return nil
	}
	if c.proxy, c.err = parseProxy(raw, c.source); c.err != nil {
		return nil
	}
	return c.proxy.authenticate(o, c.source)
}

// choose returns nil for direct, and the setting that made it so.
func (c *chooser) choose(addr string) (p *proxy, source string, err error) {
	if c.byRules != nil {
		u := &url.URL{Scheme: c.scheme, Host: addr}
		if through, err := c.byDefault(u); err == nil && through == nil {
			return nil, "loopback target", nil
		}
		if through, err := c.byRules(u); err == nil && through == nil {
			return nil, "NO_PROXY", nil
		}
	}
	if c.err != nil {
		e, _ := errors.AsType[*Error](c.err)
		withTarget := *e
		withTarget.Target = addr
		return nil, "", &withTarget
	}
	return c.proxy, c.source, nil
}
