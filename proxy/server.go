package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/proxy/access"
	"sallyport/tunnel"
	"sallyport/tunnel/ws"
)

// Subprotocol is the WebSocket subprotocol of the session protocol (RFC 6455 §1.9).
const Subprotocol = "sallyport.v1"

// DefaultPath is the URL path of the tunnel unless told otherwise.
const DefaultPath = "/tunnel"

// resumeHeader tells the server agent that the carrier is for a session that exists: while draining it takes those.
const resumeHeader = "Sallyport-Resume"

const (
	defaultMaxSessions = 4096
	// headerTimeout bounds a connection's TLS handshake and its request's header.
	headerTimeout = 10 * time.Second
	// closeGrace is how long a stopping server agent waits for its carriers to end; a session's CLOSE takes up to a second.
	closeGrace = 1500 * time.Millisecond
	// maxHeader bounds the size of that header.
	maxHeader = 16 << 10
)

// ServerOptions sets up a server agent.
type ServerOptions struct {
	// Access says who a peer is and what it may do. Required: who wants no authentication says so with a store whose
	// only entry lets everyone in.
	Access *access.Store
	// Path is the URL path of the tunnel; "" means [DefaultPath].
	Path string
	// TLS is for the listener given to Run; nil serves plaintext, for a TLS-terminating proxy in front or on loopback.
	TLS *tls.Config

	// Resolver looks up targets; nil means net.DefaultResolver.
	Resolver access.Resolver
	// DialTimeout bounds resolving and dialling a target; 0 means 10 seconds.
	DialTimeout time.Duration
	// MaxSessions bounds the sessions of all identities together; 0 means 4,096.
	MaxSessions int

	// Session sets up each session; the resume timeout is in there. Its Logger defaults to Logger; its Trace is also
	// used by the server agent.
	Session tunnel.Options
	// Logger gets a line a stream, and what happens to sessions and listeners; nil discards.
	Logger *slog.Logger
	// Handler answers requests to other paths; nil means 404.
	Handler http.Handler
}

// Server is a server agent. Make one with [NewServer]; its methods may be called from any goroutine.
type Server struct {
	agent
	o       ServerOptions
	host    *tunnel.Host
	usage   usage
	reverse reverseTable

	running  atomic.Bool
	serving  atomic.Bool
	draining atomic.Bool
	carriers sync.WaitGroup  // carriers being served
	alive    context.Context // what they are served in; set by Run before serving
}

// NewServer checks the options and starts nothing.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Access == nil {
		return nil, errors.New("server agent: no authenticator")
	}
	if o.Path == "" {
		o.Path = DefaultPath
	}
	if !strings.HasPrefix(o.Path, "/") || strings.ContainsAny(o.Path, " {}?#") {
		return nil, fmt.Errorf("server agent: path %q: write it with a leading slash and without ?, #, braces and spaces", o.Path)
	}
	setDefault(&o.DialTimeout, defaultDialTimeout)
	setDefault(&o.MaxSessions, defaultMaxSessions)
	s := &Server{o: o}
	s.agent.init(o.Logger)
	if s.o.Session.Logger == nil {
		s.o.Session.Logger = s.log
	}
	s.o.Session.Trace = s.trace(o.Session.Trace)
	s.host = tunnel.NewHost(tunnel.HostOptions{Options: s.o.Session, Admit: s.admit})
	return s, nil
}

// Run serves carriers and their sessions on l, a plain TCP listener, until ctx ends; then it closes l, tells the
// clients that the sessions are over, and returns when all below it has ended: nil, or why l stopped accepting. Drain
// first to let streams finish. A Server runs once.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if s.running.Swap(true) {
		return errors.New("server agent: already running")
	}
	s.start()
	alive, die := context.WithCancel(context.WithoutCancel(ctx))
	defer die()
	s.alive = alive
	s.serving.Store(true)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	web := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.acceptSessions(ctx) })
	wg.Go(func() { _ = s.host.Run(alive) })
	wg.Go(func() {
		<-ctx.Done()
		_ = web.Close()
		s.shut()
		die()
	})
	s.log.Info("listening", "addr", l.Addr().String(), "path", s.o.Path, "tls", s.o.TLS != nil)
	err := web.Serve(ws.NewListener(l, s.o.TLS))
	stopped := ctx.Err() != nil
	cancel()
	wg.Wait()
	s.carriers.Wait()
	if stopped || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("server agent: %w", err)
}

// shut ends all sessions and waits for their carriers, which take the news along; those still without a HELLO have none
// to take, and their time is up.
func (s *Server) shut() {
	s.mu.Lock()
	s.stopped = errStopped
	s.mu.Unlock()
	for _, sess := range s.host.Sessions() {
		sess.Close(&tunnel.CloseError{Code: tunnel.CloseShutdown, Reason: "server agent stopped"})
	}
	s.stop(errStopped)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.carriers.Wait()
	}()
	select {
	case <-done:
	case <-time.After(closeGrace):
	}
}

// carry serves a carrier in a goroutine of its own, unless the agent is stopping.
func (s *Server) carry(conn tunnel.Carrier, identity, remote string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return s.stopped
	}
	s.counters.carriersOpened.Add(1)
	s.carriers.Go(func() {
		err := s.host.Serve(s.alive, conn, identity)
		s.log.Debug("carrier ended", "identity", identity, "remote", remote, "error", explainLoss(err))
	})
	return nil
}

// ServeHTTP answers one request: it authenticates, upgrades and hands the carrier to its session. Run's own listener
// uses it; it may also stand behind another http.Server while Run is going on.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != s.o.Path {
		if s.o.Handler != nil {
			s.o.Handler.ServeHTTP(w, r)
		} else {
			http.NotFound(w, r)
		}
		return
	}
	id, err := s.o.Access.Authenticate(r)
	if err != nil {
		s.counters.authFailures.Add(1)
		s.log.Warn("authentication failed", "remote", r.RemoteAddr, "error", err)
		access.Refuse(w)
		return
	}
	if !s.serving.Load() || s.draining.Load() && r.Header.Get(resumeHeader) == "" {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the server agent takes no new sessions", http.StatusServiceUnavailable)
		return
	}
	conn, err := ws.Accept(w, r, ws.AcceptOptions{Subprotocols: []string{Subprotocol}})
	if err != nil {
		s.log.Info("not a carrier", "identity", id.Name, "error", err)
		return
	}
	// The handler returns, which frees what net/http holds for a connection.
	if err := s.carry(conn, id.Name, r.RemoteAddr); err != nil {
		_ = conn.Close(err)
	}
}

// Drain stops taking new sessions and reverse connections, lets streams finish until ctx ends, and closes the sessions;
// meanwhile carriers that resume one are still welcome. It returns nil when all streams have finished and what they
// carried was passed on, else ctx's error. Run goes on; end its context next, which aborts what is left.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	s.log.Info("draining", "streams", len(s.streams()), "sessions", len(s.host.Sessions()))
	s.host.GoAway(tunnel.GoAway{Reason: "server agent is draining"})
	for _, live := range s.streams() {
		if live.listen {
			live.end(&OpenError{Code: CodeShuttingDown, Target: live.target, Reason: "server agent is draining"})
		}
	}
	return s.finishStreams(ctx, s.host.Sessions())
}

// Reload checks all sessions and streams against what Access says now: sessions of removed identities are closed, and
// streams and listeners that are not allowed any more. Call it after a change of Access.
func (s *Server) Reload() {
	for _, sess := range s.host.Sessions() {
		if _, ok := s.o.Access.Lookup(sess.Identity()); !ok {
			s.log.Info("session closed: identity removed", "identity", sess.Identity())
			sess.Close(&tunnel.CloseError{Code: tunnel.CloseRevoked, Reason: "the identity was removed"})
		}
	}
	for _, live := range s.streams() {
		live.check()
	}
}

// Ready returns nil while the server agent takes new sessions, else why not.
func (s *Server) Ready() error {
	switch {
	case !s.serving.Load():
		return errors.New("not running")
	case s.draining.Load():
		return ErrShuttingDown
	}
	return nil
}

// Status returns a snapshot.
func (s *Server) Status() Status {
	st := s.status("server")
	st.Draining = s.draining.Load()
	st.Listeners = s.reverse.status()
	return st
}
