package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"sallyport/proxy"
	"sallyport/proxy/egress"
	certs "sallyport/tls"
	"sallyport/tunnel"
	"sallyport/tunnel/ws"
)

// carrier makes the error that the client agent ends with.
func carrier(cause proxy.Cause, err error) error {
	return &proxy.CarrierError{Cause: cause, Advice: "try this", Err: err}
}

func TestExitCodes(t *testing.T) {
	out := func(leg egress.Leg, err error) error {
		return &egress.Error{Leg: leg, Proxy: "p:1", Target: "t:2", Err: err}
	}
	for name, c := range map[string]struct {
		err  error
		code int
	}{
		"none":             {nil, exitOK},
		"other":            {io.ErrUnexpectedEOF, exitOther},
		"usage":            {&usageError{command: "sallyport", err: errors.New("no")}, exitUsage},
		"setting":          {setup(errors.New("no")), exitUsage},
		"demo":             {&demoError{carrier(proxy.CauseAuth, io.EOF)}, exitOther},
		"auth":             {carrier(proxy.CauseAuth, &ws.HandshakeError{Leg: ws.LegUpgrade, Status: 401, Err: io.EOF}), exitAuth},
		"network":          {carrier(proxy.CauseNetwork, io.EOF), exitNetwork},
		"tls":              {carrier(proxy.CauseTLS, io.EOF), exitTLS},
		"path":             {carrier(proxy.CauseConfig, io.EOF), exitUsage},
		"full":             {carrier(proxy.CauseLimit, io.EOF), exitBusy},
		"proxy refused":    {carrier(proxy.CauseNetwork, out(egress.LegConnectProxy, egress.ErrRefused)), exitNetwork},
		"proxy password":   {carrier(proxy.CauseAuth, out(egress.LegProxyAuth, egress.ErrCredentialsRefused)), exitProxy},
		"proxy forbids":    {carrier(proxy.CauseConfig, out(egress.LegCONNECT, egress.ErrForbidden)), exitProxy},
		"proxy overloaded": {carrier(proxy.CauseNetwork, out(egress.LegCONNECT, egress.ErrUnavailable)), exitNetwork},
		"proxy's cert":     {carrier(proxy.CauseTLS, out(egress.LegProxyTLS, io.EOF)), exitTLS},
		"proxy setting":    {carrier(proxy.CauseConfig, out(egress.LegSetting, egress.ErrConfig)), exitUsage},
		"session lost":     {fmt.Errorf("%w: %w", proxy.ErrSessionLost, &tunnel.CloseError{}), exitNetwork},
		"listener":         {fmt.Errorf("forward: %w", &proxy.ListenError{Address: "a", Err: syscall.EADDRINUSE}), exitListen},
		"denied":           {&proxy.OpenError{Code: proxy.CodeDenied}, exitDenied},
		"dns":              {&proxy.OpenError{Code: proxy.CodeDNS}, exitDNS},
		"refused":          {&proxy.OpenError{Code: proxy.CodeRefused}, exitRefused},
		"unreachable":      {&proxy.OpenError{Code: proxy.CodeUnreachable}, exitUnreachable},
		"timeout":          {&proxy.OpenError{Code: proxy.CodeTimeout}, exitTimeout},
		"limit":            {&proxy.OpenError{Code: proxy.CodeLimit}, exitTarget},
		"draining":         {&proxy.OpenError{Code: proxy.CodeShuttingDown}, exitTarget},
		"aborted":          {&tunnel.StreamError{Code: 27}, exitAborted},
		"signal":           {&interrupted{syscall.SIGTERM}, 143},
	} {
		var stderr bytes.Buffer
		if code := (&program{stderr: &stderr}).report(c.err); code != c.code {
			t.Errorf("%s: exit code %d, want %d", name, code, c.code)
		}
		silent := c.err == nil || c.code > exitSignal
		if silent != (stderr.Len() == 0) || !silent && !strings.HasPrefix(stderr.String(), "sallyport: ") {
			t.Errorf("%s: prints %q", name, &stderr)
		}
	}
}

// The documented table has each code once, and all of them.
func TestExitCodeTable(t *testing.T) {
	seen := make(map[int]bool)
	for _, c := range append(agentCodes(), targetCodes()...) {
		if seen[c.code] {
			t.Errorf("code %d is there twice", c.code)
		}
		seen[c.code] = true
	}
	for code := range exitSignal {
		if within := code <= exitListen || exitDenied <= code && code <= exitAborted; within != seen[code] {
			t.Errorf("code %d: documented %v, used %v", code, seen[code], within)
		}
	}
}

// A hint stands on a line of its own, once, wherever the error has it; several mistakes get a line each.
func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"hint in a method": {
			carrier(proxy.CauseNetwork, errors.New("gone")),
			"sallyport: connect to server agent: gone\nhint: try this\n",
		},
		"hint in the text": {
			setup(&certs.FileError{Path: "ca.pem", Problem: "does not exist", Hint: "make one", Err: os.ErrNotExist}),
			"sallyport: ca.pem: does not exist\nhint: make one\n",
		},
		"hint in a field": {
			setup(&egress.Error{Leg: egress.LegSetting, Err: egress.ErrConfig, Hint: "write it so"}),
			"sallyport: proxy setting: invalid proxy setting\nhint: write it so\n",
		},
		"certificate": {
			carrier(proxy.CauseTLS, &certs.VerifyError{Host: "h", Err: errors.New("expired"), Hint: "renew it"}),
			"sallyport: connect to server agent: certificate of \"h\" refused: expired\nhint: renew it\n",
		},
		"several": {
			setup(errors.Join(errors.New("a:1: no"), errors.New("a:2: neither"))),
			"sallyport: a:1: no\nsallyport: a:2: neither\n",
		},
	} {
		var stderr bytes.Buffer
		(&program{stderr: &stderr}).report(c.err)
		if stderr.String() != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, &stderr, c.want)
		}
	}
}
