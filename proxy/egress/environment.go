package egress

import (
	"context"
	"errors"
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// envFinder is what the variables say.
type envFinder struct {
	proxy  *proxy // nil: err
	source string // the variable's name
	err    error  // what is wrong with it, for the targets that it concerns

	byRules, byDefault func(*url.URL) (*url.URL, error) // whether a target goes through the proxy: by NO_PROXY, without it
	scheme             string                           // for these: https or http
}

// fromEnvironment returns only errors of the options; those of the environment are kept for the targets that they
// concern.
func fromEnvironment(o Options, scheme string, t *trust) (finder, error) {
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
	if scheme == "http" {
		names = []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}
	}
	e := &envFinder{scheme: scheme}
	var raw string
	if e.source, raw = first(names...); raw == "" {
		return fromSystem(o, scheme, t)
	}
	_, noProxy := first("no_proxy", "NO_PROXY")
	// The library decides about NO_PROXY only, with a stand-in for the proxy: it swallows a proxy's parse errors.
	const standIn = "http://proxy.invalid"
	cfg := httpproxy.Config{HTTPProxy: standIn, HTTPSProxy: standIn}
	e.byDefault = cfg.ProxyFunc()
	cfg.NoProxy = noProxy
	e.byRules = cfg.ProxyFunc()

	// In a CGI process HTTP_PROXY is set by whoever sends a "Proxy:" header (https://go.dev/s/cgihttpproxy).
	if e.source == "HTTP_PROXY" && env("REQUEST_METHOD") != "" {
		e.err = settingError("HTTP_PROXY is not trusted in a CGI environment", "use http_proxy or --proxy")
		return e, nil
	}
	if e.proxy, e.err = parseProxy(raw, e.source); e.err != nil {
		return e, nil
	}
	return e, trustHops([]*proxy{e.proxy}, o, e.source)
}

func (e *envFinder) choose(target string) (way, error) {
	u := &url.URL{Scheme: e.scheme, Host: target}
	if through, err := e.byDefault(u); err == nil && through == nil {
		return way{source: "loopback target"}, nil
	}
	if through, err := e.byRules(u); err == nil && through == nil {
		return way{source: "NO_PROXY"}, nil
	}
	if e.err != nil {
		err, _ := errors.AsType[*Error](e.err)
		withTarget := *err
		withTarget.Target = target
		return way{}, &withTarget
	}
	return way{[]*proxy{e.proxy}, e.source}, nil
}

func (e *envFinder) ways(_ context.Context, _ *Dialer, target string) ([]way, error) {
	w, err := e.choose(target)
	if err != nil {
		return nil, err
	}
	return []way{w}, nil
}

func (*envFinder) failed(string) {}

func (e *envFinder) route(target string) (Route, error) {
	w, err := e.choose(target)
	if err != nil {
		return Route{}, err
	}
	return Route{Proxy: w.String(), Source: w.source}, nil
}
