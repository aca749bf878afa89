package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

const (
	sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// The demo's checks can fail: what does not hold is an error, and shows.
func TestDemoChecks(t *testing.T) {
	// passed stands for the bytes of a transfer at the proxy.
	passed := func(p *demoProxy) { p.count(1 << 20) }
	reopened := func(p *demoProxy) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.opened = append(p.opened, p.cutAt.Add(1))
	}
	for name, c := range map[string]struct {
		there, here string
		err         error
		steps       []func(*demoProxy)
		want        string // "" is no error
	}{
		"holds":          {sumA, sumA, nil, []func(*demoProxy){passed, reopened}, ""},
		"stream died":    {sumA, sumA, io.ErrUnexpectedEOF, []func(*demoProxy){passed, reopened}, "did not survive"},
		"bytes differ":   {sumA, sumB, nil, []func(*demoProxy){passed, reopened}, "differs"},
		"no sums":        {"", "", nil, []func(*demoProxy){passed, reopened}, "differs"},
		"never cut":      {sumA, sumA, nil, nil, "over before the cut"},
		"nobody returns": {sumA, sumA, nil, []func(*demoProxy){passed}, "no new tunnel"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			gate := &demoProxy{}
			s := &demoShow{world: &demoWorld{gate: gate, payload: demoPayload{size: 1 << 20}}, out: &out}
			err := s.acrossCut(func() (string, string, error) {
				for _, step := range c.steps {
					step(gate)
				}
				return c.there, c.here, c.err
			}, "there", "here")
			if c.want == "" {
				if err != nil || !strings.Contains(out.String(), "survived") {
					t.Errorf("%v\n%s", err, &out)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if strings.Contains(out.String(), "[ok]") {
				t.Errorf("says ok all the same:\n%s", &out)
			}
		})
	}
}

// A part that breaks ends the show, with its name.
func TestDemoPartBreaks(t *testing.T) {
	w, err := newDemoWorld(slog.New(slog.DiscardHandler), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.launch("last straw", func(context.Context) error { return errors.New("broken") })
	var out bytes.Buffer
	s := &demoShow{world: w, out: &out}
	// The failure may come at any step, or be there before the first.
	if err := s.run(t.Context()); err == nil {
		select {
		case err = <-w.failed:
		default:
		}
		if err == nil {
			t.Fatal("nobody was told")
		}
	} else if !strings.Contains(err.Error(), "last straw: broken") {
		t.Errorf("got %v", err)
	}
}

// The demo's proxy asks for a password and means it.
func TestDemoProxyAsks(t *testing.T) {
	w, err := newDemoWorld(slog.New(slog.DiscardHandler), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, c := range []struct {
		user, password, target string
		works                  bool
	}{
		{demoUser, w.gate.password, w.serverAt.String(), true},
		{demoUser, "guess", w.serverAt.String(), false},
		{"mallory", w.gate.password, w.serverAt.String(), false},
		{"", "", w.serverAt.String(), false},
		{demoUser, w.gate.password, w.web.String(), false}, // only the server agent is let through
	} {
		out, err := w.wayOut(c.user, c.password)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := out.DialContext(t.Context(), "tcp", c.target)
		if (err == nil) != c.works {
			t.Errorf("%q to %s: %v", c.user, c.target, err)
		}
		if err == nil {
			conn.Close()
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.gateAddr.String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d, want 405", resp.StatusCode)
	}
}

// What is started is ended, also when the start fails half-way or nobody ran the show.
func TestDemoWorldCloses(t *testing.T) {
	w, err := newDemoWorld(slog.New(slog.DiscardHandler), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	w.close()
	w.close()
	for _, addr := range []net.Addr{w.web, w.echo, w.serverAt, w.gateAddr} {
		if c, err := net.Dial("tcp", addr.String()); err == nil {
			c.Close()
			t.Errorf("%v is still open", addr)
		}
	}
}
