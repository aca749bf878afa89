package egress

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"sallyport/proxy/egress/pac"
)

// pacFinder asks a PAC script.
type pacFinder struct {
	script *pacScript
	source string // the setting that named it
	scheme string // of the URLs that it is asked about
	trust  *trust
	eval   pac.Evaluator

	turn     chan struct{} // one evaluation at a time: each is a process
	mu       sync.Mutex
	known    map[string]pacAnswer // by host
	outdated bool                 // the script is to be read again
	seed     maphash.Seed
}

// pacAnswer is what a script said.
type pacAnswer struct {
	script uint64 // its hash
	text   string
	until  time.Time
}

func newPACFinder(where, source, scheme string, t *trust) (*pacFinder, error) {
	if !pac.Available {
		return nil, settingError(source+": this program was built without PAC scripts (build tag nopac)", "name the proxy with --proxy")
	}
	script, err := newPACScript(where, source)
	if err != nil {
		return nil, err
	}
	return &pacFinder{
		script: script, source: source, scheme: scheme, trust: t, eval: pac.Evaluator{},
		turn: make(chan struct{}, 1), known: make(map[string]pacAnswer), seed: maphash.MakeSeed(),
	}, nil
}

func (f *pacFinder) route(string) (Route, error) {
	return Route{Source: f.source + " " + f.script.name, Script: true}, nil
}

// failed has the script read and asked again: this machine may be in another network now.
func (f *pacFinder) failed(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, target)
	f.outdated = true
}

func (f *pacFinder) ways(ctx context.Context, d *Dialer, target string) ([]way, error) {
	fail := func(err error) *Error {
		return &Error{Leg: LegPAC, Target: target, Err: err, Hint: pacHint(err)}
	}
	text, err := f.ask(ctx, d, target)
	if err != nil {
		return nil, fail(err)
	}
	ways, err := f.read(text)
	if err != nil {
		return nil, fail(err)
	}
	for _, w := range ways {
		d.log.Debug("the PAC script names a way", "target", target, "proxy", w.String())
	}
	return ways, nil
}

// ask returns the script's answer for a target, from memory if it gave one lately.
func (f *pacFinder) ask(ctx context.Context, d *Dialer, target string) (string, error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return "", ended(ctx, ctx.Err())
	}
	f.mu.Lock()
	again := f.outdated
	f.outdated = false
	f.mu.Unlock()
	script, err := f.script.load(ctx, d, again)
	if err != nil {
		return "", err
	}
	sum := maphash.String(f.seed, script)
	f.mu.Lock()
	known, ok := f.known[target]
	f.mu.Unlock()
	if ok && known.script == sum && time.Now().Before(known.until) {
		return known.text, nil
	}
	host, port, err := net.SplitHostPort(strings.ToLower(target)) // as browsers have it: scripts compare texts
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: f.scheme, Host: net.JoinHostPort(host, port), Path: "/"}
	if port == map[string]string{"https": "443", "http": "80"}[f.scheme] {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	text, err := f.eval.Find(ctx, script, u.String(), host)
	if err != nil {
		if ctx.Err() != nil {
			return "", ended(ctx, err)
		}
		f.failed(target)
		return "", fmt.Errorf("%s: %w", f.script.name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) >= maxRemembered {
		clear(f.known)
	}
	f.known[target] = pacAnswer{sum, text, time.Now().Add(pacFresh)}
	return text, nil
}

// read turns an answer into ways. What we cannot use is passed over, unless nothing is left.
func (f *pacFinder) read(text string) ([]way, error) {
	var ways []way
	var odd []string
	for _, c := range parsePAC(text) {
		switch {
		case c.kind == "direct":
			ways = append(ways, way{source: f.source})
		case c.kind == "":
			odd = append(odd, clean(c.word, maxReason)) // not the address: it may hold a password
		default:
			p, err := f.trust.proxy(c.kind+"://"+c.addr, f.source, false)
			if err != nil {
				odd = append(odd, clean(c.word, maxReason)) // not the address: it may hold a password
				continue
			}
			ways = append(ways, way{[]*proxy{p}, f.source})
		}
		if len(ways) == maxCandidates {
			break
		}
	}
	if len(ways) > 0 {
		return ways, nil
	}
	if len(odd) > 0 {
		return nil, reason(ErrPAC, "%s names no proxy that can be used (but %s)", f.script.name, strings.Join(odd[:min(len(odd), 3)], ", "))
	}
	return []way{{source: f.source}}, nil // an empty answer is DIRECT, as browsers have it
}

// candidate is one element of a script's answer: kind "" is none that we know.
type candidate struct{ kind, addr, word string }

// parsePAC reads "PROXY host:port; SOCKS5 host:port; DIRECT". The kinds are ours. SOCKS means version 4 in some
// browsers, but few servers speak only that.
func parsePAC(text string) []candidate {
	var all []candidate
	for item := range strings.SplitSeq(text, ";") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		word, addr := item, ""
		if i := strings.IndexAny(item, " \t\r\n"); i >= 0 {
			word, addr = item[:i], strings.TrimSpace(item[i:])
		}
		c := candidate{addr: addr, word: word}
		switch strings.ToUpper(word) {
		case "DIRECT":
			if c.addr == "" {
				c.kind = "direct"
			}
		case "PROXY", "HTTP":
			c.kind = "http"
		case "HTTPS":
			c.kind = "https"
		case "SOCKS", "SOCKS5":
			c.kind = "socks5h"
		}
		if c.kind != "" && c.kind != "direct" && (c.addr == "" || strings.ContainsAny(c.addr, "/@?#\\ ") || hasControl(c.addr)) {
			c.kind = ""
		}
		all = append(all, c)
	}
	return all
}

func pacHint(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, ErrConfig):
		return "check the file's name or the URL"
	case errors.Is(err, ErrCaptivePortal):
		return portalHint
	case isUntrusted(err):
		return "add the certificate of the CA that issued it, with --proxy-ca-file"
	case errors.Is(err, pac.ErrHelper):
		return "the script is evaluated by a second process of this program: see that it may start one, or name the proxy with --proxy"
	case errors.Is(err, pac.ErrLimit), errors.Is(err, pac.ErrScript), errors.Is(err, ErrPAC):
		return "tell whoever keeps the script, and name the proxy with --proxy until it is mended"
	}
	return "check the script's URL, or name the proxy with --proxy"
}
