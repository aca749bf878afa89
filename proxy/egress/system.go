package egress

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"path"
	"strings"
)

// systemSetting is what a desktop system has set for its user. The zero value is nothing.
type systemSetting struct {
	pac                string // the script's URL
	https, http, socks string // host:port
	bypass             []string
	bypassPlain        bool // names without a dot go direct
}

// systemFinder goes by the system's setting: its exceptions, then its script, then its proxies.
type systemFinder struct {
	setting systemSetting
	pac     *pacFinder // nil without a script
	through way        // when there is no script
}

const systemSource = "the system's setting"

// fromSystem is the last place to look.
func fromSystem(o Options, scheme string, t *trust) (finder, error) {
	setting, err := systemProxies()
	if err != nil { // what cannot be read is not set
		setting = systemSetting{}
	}
	return bySystem(setting, o, scheme, t)
}

func bySystem(setting systemSetting, o Options, scheme string, t *trust) (finder, error) {
	f := &systemFinder{setting: setting, through: way{source: systemSource}}
	raw := setting.https
	if scheme == "http" {
		raw = setting.http
	}
	switch {
	case setting.pac != "":
		var err error
		if f.pac, err = newPACFinder(setting.pac, systemSource, scheme, t); err != nil {
			return nil, err
		}
		return f, nil
	case raw == "" && setting.socks != "":
		raw = "socks5h://" + setting.socks
	case raw == "":
		return fixed{way{source: "no proxy set"}}, nil
	case !strings.Contains(raw, "://"):
		raw = "http://" + raw
	}
	if o.Password != "" && o.Username == "" {
		return nil, settingError("a password for the proxy is set, but no user", "add --proxy-user")
	}
	p, err := t.proxy(raw, systemSource, true)
	if err != nil {
		return nil, err
	}
	f.through.hops = []*proxy{p}
	return f, nil
}

// direct tells the setting that lets a target go direct, "" if none does.
func (f *systemFinder) direct(target string) string {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return ""
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	addr, err := netip.ParseAddr(host)
	isAddr := err == nil
	if host == "localhost" || isAddr && addr.Unmap().IsLoopback() {
		return "loopback target"
	}
	if f.setting.bypassPlain && !isAddr && !strings.Contains(host, ".") {
		return systemSource + ": exception"
	}
	for _, pattern := range f.setting.bypass {
		pattern = strings.ToLower(strings.TrimSpace(pattern))
		if prefix, err := netip.ParsePrefix(pattern); err == nil && isAddr && prefix.Contains(addr.Unmap()) {
			return systemSource + ": exception"
		}
		if ok, err := path.Match(pattern, host); err == nil && ok {
			return systemSource + ": exception"
		}
	}
	return ""
}

func (f *systemFinder) ways(ctx context.Context, d *Dialer, target string) ([]way, error) {
	if why := f.direct(target); why != "" {
		return []way{{source: why}}, nil
	}
	if f.pac != nil {
		return f.pac.ways(ctx, d, target)
	}
	return []way{f.through}, nil
}

func (f *systemFinder) failed(target string) {
	if f.pac != nil {
		f.pac.failed(target)
	}
}

func (f *systemFinder) route(target string) (Route, error) {
	if why := f.direct(target); why != "" {
		return Route{Source: why}, nil
	}
	if f.pac != nil {
		return f.pac.route(target)
	}
	return Route{Proxy: f.through.String(), Source: f.through.source}, nil
}

// windowsSetting reads the values under Internet Settings: ProxyServer is host:port, or kind=host:port for some kinds;
// ProxyOverride lists patterns, and <local> for names without a dot.
func windowsSetting(enabled bool, server, override, pac string) systemSetting {
	s := systemSetting{pac: pac}
	if !enabled {
		return s
	}
	for item := range strings.SplitSeq(server, ";") {
		kind, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		switch kind = strings.ToLower(kind); {
		case !ok && kind != "":
			s.http, s.https = strings.TrimSpace(item), strings.TrimSpace(item)
		case kind == "http":
			s.http = addr
		case kind == "https":
			s.https = addr
		case kind == "socks":
			s.socks = addr
		}
	}
	for item := range strings.SplitSeq(override, ";") {
		if item = strings.TrimSpace(item); strings.EqualFold(item, "<local>") {
			s.bypassPlain = true
		} else if item != "" {
			s.bypass = append(s.bypass, item)
		}
	}
	return s
}

// macSetting reads what "scutil --proxy" prints: lines of "key : value", the exceptions in a block of their own.
func macSetting(text string) systemSetting {
	var s systemSetting
	values := make(map[string]string)
	inList := false
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		key, value, ok := strings.Cut(lines.Text(), " : ")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case key == "}":
			inList = false
		case !ok:
		case key == "ExceptionsList":
			inList = true
		case inList:
			s.bypass = append(s.bypass, value)
		default:
			values[key] = value
		}
	}
	addr := func(kind string) string {
		if values[kind+"Enable"] != "1" || values[kind+"Proxy"] == "" {
			return ""
		}
		return net.JoinHostPort(values[kind+"Proxy"], values[kind+"Port"])
	}
	s.http, s.https, s.socks = addr("HTTP"), addr("HTTPS"), addr("SOCKS")
	if values["ProxyAutoConfigEnable"] == "1" {
		s.pac = values["ProxyAutoConfigURLString"]
	}
	s.bypassPlain = values["ExcludeSimpleHostnames"] == "1"
	return s
}
