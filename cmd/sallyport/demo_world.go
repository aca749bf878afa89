package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"sallyport/proxy"
	"sallyport/proxy/access"
	"sallyport/proxy/egress"
	certs "sallyport/tls"
	"sallyport/tunnel"
)

// demoWorld is everything that runs in the demo. Each part is made as the other commands make it, but for where its
// certificates and secrets come from: memory.
type demoWorld struct {
	log    *slog.Logger
	failed chan error // the first part that broke

	web, echo net.Addr // targets
	gate      *demoProxy
	gateAddr  net.Addr
	server    *proxy.Server
	serverAt  net.Addr
	client    *proxy.Client
	payload   demoPayload

	stops []func() // of what runs, in the order of its start
}

const demoUser = "EXAMPLE\\alice"

// newDemoWorld starts all of it, for a payload of size bytes each way; close ends it.
func newDemoWorld(log *slog.Logger, size int64) (*demoWorld, error) {
	w := &demoWorld{log: log, failed: make(chan error, 1), payload: demoPayload{size: size}}
	_, _ = rand.Read(w.payload.seed[:]) // never fails
	if err := w.start(); err != nil {
		w.close()
		return nil, &demoError{err}
	}
	return w, nil
}

func (w *demoWorld) start() error {
	var err error
	if w.web, err = w.listen("web target", (&demoWeb{payload: w.payload}).run); err != nil {
		return err
	}
	if w.echo, err = w.listen("echo target", demoEcho); err != nil {
		return err
	}
	token, entry, err := access.NewToken("demo")
	if err != nil {
		return err
	}
	if entry.Policy.Connect, err = access.ParseRules([]string{w.web.String(), w.echo.String()}); err != nil {
		return err
	}
	ca, err := certs.NewDevCA()
	if err != nil {
		return err
	}
	if err := w.startServer(ca, entry); err != nil {
		return err
	}
	w.gate = &demoProxy{
		user: demoUser, password: rand.Text(), target: w.serverAt.String(), tunnels: make(map[*demoTunnel]struct{}),
	}
	if w.gateAddr, err = w.listen("corporate proxy", w.gate.run); err != nil {
		return err
	}
	return w.startClient(ca, token)
}

func (w *demoWorld) startServer(ca *certs.DevCA, entry access.Entry) error {
	store, err := access.NewStore([]access.Entry{entry})
	if err != nil {
		return err
	}
	cert, err := ca.Server()
	if err != nil {
		return err
	}
	material, err := certs.Server(certs.ServerOptions{Certificate: &cert})
	if err != nil {
		return err
	}
	w.server, err = proxy.NewServer(proxy.ServerOptions{
		Access: store, TLS: material.Config(), Logger: w.log, Session: tunnel.Options{Software: software},
	})
	if err != nil {
		return err
	}
	w.serverAt, err = w.listen("server agent", w.server.Run)
	return err
}

func (w *demoWorld) startClient(ca *certs.DevCA, token string) error {
	material, err := certs.Client(certs.ClientOptions{CA: ca.PEM()})
	if err != nil {
		return err
	}
	out, err := w.wayOut(demoUser, w.gate.password)
	if err != nil {
		return err
	}
	forwards, err := parseForwards([]string{"127.0.0.1:0:" + w.web.String(), "127.0.0.1:0:" + w.echo.String()})
	if err != nil {
		return err
	}
	dialer := proxy.WebSocket{
		URL:         "wss://" + w.serverAt.String() + proxy.DefaultPath,
		Token:       func() (string, error) { return token, nil },
		TLS:         func() *tls.Config { return material.Config("127.0.0.1") },
		DialContext: out.DialContext,
	}
	w.client, err = proxy.NewClient(proxy.ClientOptions{
		Dial: dialer.Dial, Forwards: forwards, Logger: w.log, Session: tunnel.Options{Software: software},
	})
	if err != nil {
		return err
	}
	w.launch("client agent", w.client.Run)
	return nil
}

// wayOut is the client agent's: through the proxy.
func (w *demoWorld) wayOut(user, password string) (*egress.Dialer, error) {
	return egress.New(egress.Options{
		Proxy: []string{"http://" + w.gateAddr.String()}, Username: user, Password: password, UserAgent: software,
	})
}

// listen starts a part with a listener on a free port of loopback.
func (w *demoWorld) listen(name string, run func(context.Context, net.Listener) error) (net.Addr, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, &proxy.ListenError{Address: "127.0.0.1:0", Err: err}
	}
	w.launch(name, func(ctx context.Context) error { return run(ctx, l) })
	return l.Addr(), nil
}

// launch runs a part until close.
func (w *demoWorld) launch(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		select {
		case w.failed <- fmt.Errorf("%s: %w", name, err):
		default: // the first failure explains the others
		}
	}()
	w.stops = append(w.stops, func() { cancel(); <-done })
}

// close ends all parts, those that started last first, and waits for them.
func (w *demoWorld) close() {
	for i := len(w.stops) - 1; i >= 0; i-- {
		w.stops[i]()
	}
	w.stops = nil
}

// forward returns where the client agent listens for a target, "" while it does not.
func (w *demoWorld) forward(target net.Addr) string {
	want := "127.0.0.1:0:" + target.String()
	for _, l := range w.client.Status().Listeners {
		if l.Forward == want {
			return l.Addr
		}
	}
	return ""
}

// page is the forwarded page's URL.
func (w *demoWorld) page() string { return "http://" + w.forward(w.web) + "/" }
