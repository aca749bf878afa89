package main

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// demoProxy plays the corporate proxy of the demo: it tunnels by HTTP CONNECT (RFC 9110 §9.3.6) for who has a password
// (Basic, RFC 7617), and can be told to cut its tunnels after some bytes, as proxies do for reasons of their own.
type demoProxy struct {
	user, password string
	target         string // the only one that it lets through

	mu      sync.Mutex
	tunnels map[*demoTunnel]struct{}
	refused int           // requests without the right password
	opened  []time.Time   // when each tunnel stood
	left    int64         // bytes until the cut
	cut     chan struct{} // closed by the cut; nil: none is due
	cutAt   time.Time
	wg      sync.WaitGroup
}

// demoTunnel is one CONNECT: both of its connections.
type demoTunnel struct{ client, server *net.TCPConn }

// run serves until ctx ends.
func (p *demoProxy) run(ctx context.Context, l net.Listener) error {
	err := serveHTTP(ctx, l, p)
	p.mu.Lock()
	for t := range p.tunnels {
		t.reset()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// ServeHTTP implements http.Handler.
func (p *demoProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect:
		http.Error(w, "this proxy only tunnels", http.StatusMethodNotAllowed)
	case !p.knows(r):
		p.mu.Lock()
		p.refused++
		p.mu.Unlock()
		w.Header().Set("Proxy-Authenticate", `Basic realm="corporate proxy"`)
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
	case r.Host != p.target:
		http.Error(w, "not there", http.StatusForbidden)
	default:
		p.tunnel(w, r)
	}
}

// knows checks the password. Basic for a proxy is Basic for a server under another header.
func (p *demoProxy) knows(r *http.Request) bool {
	user, password, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
	return ok && subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(p.user+"\x00"+p.password)) == 1
}

func (p *demoProxy) tunnel(w http.ResponseWriter, r *http.Request) {
	server, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, "the target does not answer", http.StatusBadGateway)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		server.Close()
		return
	}
	t := &demoTunnel{client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
	p.mu.Lock()
	p.tunnels[t] = struct{}{}
	p.opened = append(p.opened, time.Now())
	p.mu.Unlock()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		t.reset()
	}
	p.wg.Go(func() { p.pass(t, buffered.Reader) })
}

// pass copies both ways until both have ended.
func (p *demoProxy) pass(t *demoTunnel, fromClient *bufio.Reader) {
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(t.server, fromClient) })
	wg.Go(func() { p.copy(t.client, t.server) })
	wg.Wait()
	t.client.Close()
	t.server.Close()
	p.mu.Lock()
	delete(p.tunnels, t)
	p.mu.Unlock()
}

func (p *demoProxy) copy(to *net.TCPConn, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			to.CloseWrite()
			return
		}
		p.count(n)
	}
}

// count resets all tunnels once enough has passed through them.
func (p *demoProxy) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut == nil {
		return
	}
	if p.left -= int64(n); p.left > 0 {
		return
	}
	for t := range p.tunnels {
		t.reset()
	}
	p.cutAt = time.Now()
	close(p.cut)
	p.cut = nil
}

// reset ends both connections as a failing middle box does: with a TCP reset, and without a word to anybody.
func (t *demoTunnel) reset() {
	for _, c := range []*net.TCPConn{t.client, t.server} {
		c.SetLinger(0)
		c.Close()
	}
}

// cutAfter makes the proxy reset its tunnels once n more bytes have passed. The channel is closed when it has.
func (p *demoProxy) cutAfter(n int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.cut = n, make(chan struct{})
	return p.cut
}

// demoFigures are what the proxy has seen.
type demoFigures struct {
	refused, tunnels int
	recovery         time.Duration // from the last cut to the next tunnel
}

func (p *demoProxy) figures() (demoFigures, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := demoFigures{refused: p.refused, tunnels: len(p.opened)}
	if p.cutAt.IsZero() {
		return f, nil
	}
	for _, at := range p.opened {
		if at.After(p.cutAt) {
			f.recovery = at.Sub(p.cutAt)
			return f, nil
		}
	}
	return f, errors.New("the proxy has seen no new tunnel after the cut")
}
