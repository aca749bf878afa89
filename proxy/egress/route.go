package egress

import (
	"context"
	"net"
	"strings"
)

// Route is the way that a connection to a target takes.
type Route struct {
	// Proxy is the proxy's URL without user and password, several in a row separated by " > ", the nearest first; ""
	// means direct, or that a script decides.
	Proxy string
	// Source is the setting that made the choice: "--proxy", a variable's name, "loopback target", "no proxy set".
	Source string
	// Script says that a PAC script decides, at each dial.
	Script bool
}

// String is one phrase for a log line, such as "via http://proxy:3128 (HTTPS_PROXY)" or "direct (NO_PROXY)".
func (r Route) String() string {
	switch {
	case r.Script:
		return "as the PAC script says (" + r.Source + ")"
	case r.Proxy == "":
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
	return d.find.route(net.JoinHostPort(host, port))
}

func targetError(err error) *Error {
	return &Error{Leg: LegSetting, Err: reason(ErrConfig, "target: %w", err), Hint: "check the server's URL"}
}

// way is one way to a target: through proxies, the nearest first, or direct.
type way struct {
	hops   []*proxy
	source string
}

// String is what a Route calls the proxies; "" is direct.
func (w way) String() string {
	var names []string
	for _, p := range w.hops {
		names = append(names, p.String())
	}
	return strings.Join(names, " > ")
}

// finder knows the ways to a target.
type finder interface {
	// ways returns them in the order in which they are to be tried, at least one.
	ways(ctx context.Context, d *Dialer, target string) ([]way, error)
	// failed says that none of them led anywhere.
	failed(target string)
	// route tells what ways would return first, or that only a script knows.
	route(target string) (Route, error)
}

// newFinder chooses who finds the way: the settings, else the environment, else the system, else it is direct.
func newFinder(o Options) (finder, error) {
	scheme := "https"
	switch o.Scheme {
	case "", "wss", "https":
	case "ws", "http":
		scheme = "http"
	default:
		return nil, settingError("the target's scheme is neither wss nor ws", "check the server's URL")
	}
	t, err := newTrust(o)
	if err != nil {
		return nil, err
	}
	if s := o.Kerberos.Service; s != "" && (!strings.Contains(s, "/") || strings.Contains(s, "@")) {
		return nil, settingError("--proxy-service is no service of a host", "write HTTP/proxy.example.com, with no realm")
	}
	switch {
	case o.PAC != "" && len(o.Proxy) > 0:
		return nil, settingError("--proxy and --pac exclude each other", "remove one of them")
	case o.PAC != "":
		return newPACFinder(o.PAC, "--pac", scheme, t)
	case len(o.Proxy) > 0:
		return fixedProxies(o)
	}
	return fromEnvironment(o, scheme, t)
}

// fixed is a setting that leaves no choice.
type fixed struct{ way }

func (f fixed) ways(context.Context, *Dialer, string) ([]way, error) { return []way{f.way}, nil }
func (fixed) failed(string)                                          {}
func (f fixed) route(string) (Route, error) {
	return Route{Proxy: f.way.String(), Source: f.source}, nil
}

// sourceFlag is the source of what the user typed for this program alone. Other programs read the other sources too.
const sourceFlag = "--proxy"

// fixedProxies reads Options.Proxy.
func fixedProxies(o Options) (finder, error) {
	f := fixed{way{source: sourceFlag}}
	for _, raw := range o.Proxy {
		if raw == None {
			if len(o.Proxy) > 1 {
				return nil, settingError("--proxy none stands alone", "remove it, or the other proxies")
			}
			return f, nil
		}
		p, err := parseProxy(raw, sourceFlag)
		if err != nil {
			return nil, err
		}
		f.hops = append(f.hops, p)
		if len(f.hops) > maxHops {
			return nil, settingError("more proxies in a row than anybody has", "")
		}
	}
	return f, trustHops(f.hops, o, sourceFlag)
}

// trustHops lets proxies that the user named see credentials. The separate ones are for the first.
func trustHops(hops []*proxy, o Options, source string) error {
	if o.Password != "" && o.Username == "" && hops[0].cred == nil {
		return settingError("a password for the proxy is set, but no user", "add --proxy-user")
	}
	accounts := make(map[credential]*account)
	for i, p := range hops {
		if i > 0 {
			o.Username, o.Password, o.Kerberos = "", "", Kerberos{}
		}
		p.trust(o)
		if p.cred != nil {
			if same := accounts[*p.cred]; same != nil {
				p.mem.account = same
			}
			accounts[*p.cred] = p.mem.account
		}
		if err := p.checkCredentials(source); err != nil {
			return err
		}
	}
	return nil
}
