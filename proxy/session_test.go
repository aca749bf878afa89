package proxy

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"sallyport/proxy/access"
)

// TestWaiting: connections accepted while the server agent is away wait, and then go, with what was sent meanwhile.
func TestWaiting(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: func(o *ClientOptions) {
		o.Forwards = []Forward{forward(t, "0:"+addr.String())}
		o.MaxWaiting = 2
	}})
	w.away(errors.New("not yet"))
	w.run()
	a, b := dialTest(t, "tcp", w.addr(0)), dialTest(t, "tcp", w.addr(0))
	mustWrite(t, a, "early")
	w.until("two waiting", func() bool { return w.client.Status().Waiting == 2 })
	mustRefuse(t, w.addr(0)) // one too many
	w.away(nil)
	mustRead(t, a, "early")
	mustWrite(t, b, "late")
	mustRead(t, b, "late")
	if n := w.client.Status().Counters.ConnectionsDropped; n != 1 {
		t.Errorf("%d connections dropped; want 1", n)
	}
}

// TestWaitingEnds: nobody waits for ever.
func TestWaitingEnds(t *testing.T) {
	w := newWorld(t, worldOptions{client: func(o *ClientOptions) {
		o.Forwards = []Forward{forward(t, "0:127.0.0.1:9")}
		o.WaitTimeout = 50 * time.Millisecond
	}})
	w.away(errors.New("not now"))
	w.run()
	mustReset(t, dialTest(t, "tcp", w.addr(0)))
}

// TestServerRestart: the client says that its streams were lost, and new connections work soon after. What was sent
// into the lost session is not sent again (rule 1).
func TestServerRestart(t *testing.T) {
	transports(t, func(t *testing.T, real bool) {
		addr, accepted := conns(t, "tcp", "127.0.0.1:0")
		o := worldOptions{real: real, client: withForwards(forward(t, "0:"+addr.String()))}
		w := newWorld(t, o)
		w.run()
		old := dialTest(t, "tcp", w.addr(0))
		mustWrite(t, old, "once")
		far := <-accepted
		mustRead(t, far, "once")

		w.away(errors.New("down"))
		w.crashServer()
		mustReset(t, far)
		w.until("the loss to be noticed", func() bool { return !isReady(w.client) })
		waiting := dialTest(t, "tcp", w.addr(0))
		mustWrite(t, waiting, "twice")
		w.startServer(o)
		back := time.Now()
		w.away(nil)
		mustRead(t, <-accepted, "twice")
		if took := time.Since(back); took > 2*time.Second {
			t.Errorf("a new connection took %v after the server agent was back", took)
		}
		mustReset(t, old)
		w.until("the log line", func() bool {
			return strings.Contains(w.log.text(), "session lost: the server agent restarted, the session expired, or a balancer led to another server agent") &&
				strings.Contains(w.log.text(), "streams_reset=1")
		})
		st := w.client.Status()
		if st.Counters.SessionsLost != 1 || st.Counters.SessionsOpened != 2 || st.Counters.StreamsEnded["session_lost"] != 1 {
			t.Errorf("counters: %+v", st.Counters)
		}
	})
}

// TestResume: streams survive the loss of every carrier, and the counters say so.
func TestResume(t *testing.T) {
	w, a, b := pair(t, true)
	for range 3 {
		w.cut()
		mustWrite(t, a, "ping")
		mustRead(t, b, "ping")
		mustWrite(t, b, "pong")
		mustRead(t, a, "pong")
	}
	c := w.client.Status().Counters
	if c.Resumes < 3 || c.SessionsLost != 0 || c.SessionsOpened != 1 {
		t.Errorf("counters: %+v", c)
	}
	lost := uint64(0)
	for _, n := range c.CarrierLosses {
		lost += n
	}
	if lost < 3 {
		t.Errorf("%d losses counted: %v", lost, c.CarrierLosses)
	}
}

// TestReady: the client's readiness follows its session, the server's ends with the drain.
func TestReady(t *testing.T) {
	w := newWorld(t, worldOptions{})
	if w.client.Ready(t.Context()) == nil {
		t.Error("ready before it runs")
	}
	w.run()
	w.ready()
	w.until("an RTT", func() bool { return w.client.Status().Sessions[0].RTT > 0 })
	w.away(errors.New("away"))
	w.cut()
	w.until("not ready", func() bool { return !isReady(w.client) })
	w.away(nil)
	w.ready()
	if err := w.server.Ready(); err != nil {
		t.Error(err)
	}
	if err := w.server.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.server.Ready(); !errors.Is(err, ErrShuttingDown) {
		t.Errorf("draining server agent: %v", err)
	}
	if !w.server.Status().Draining {
		t.Error("its status does not tell")
	}
}

// TestClientDrain: streams finish, new connections are refused, and Run ends.
func TestClientDrain(t *testing.T) {
	w, a, b := pair(t, true)
	mustWrite(t, a, "x")
	mustRead(t, b, "x")
	addr := w.addr(0)
	done := make(chan error, 1)
	go func() { done <- w.client.Drain(context.Background()) }()
	w.until("the listener's end", func() bool { return len(w.client.Status().Listeners) == 0 })
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("the listener is still open")
	}
	mustWrite(t, a, "more")
	mustRead(t, b, "more")
	_ = a.CloseWrite()
	mustEOF(t, b)
	mustWrite(t, b, "last")
	_ = b.Close()
	mustRead(t, a, "last")
	mustEOF(t, a)
	if err := <-done; err != nil {
		t.Errorf("drain: %v", err)
	}
	w.clientEnds()
}

// TestDrainTimeout: what does not finish in time is aborted.
func TestDrainTimeout(t *testing.T) {
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			w, a, b := pair(t, false)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			drain := w.client.Drain
			if who == "server" {
				drain = w.server.Drain
			}
			if err := drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("drain: %v", err)
			}
			mustReset(t, a)
			mustReset(t, b)
		})
	}
}

// TestServerDrain: old streams finish, also over a carrier that resumes the session; new ones go to the next server
// agent.
func TestServerDrain(t *testing.T) {
	transports(t, func(t *testing.T, real bool) {
		addr, accepted := conns(t, "tcp", "127.0.0.1:0")
		o := worldOptions{real: real, client: withForwards(forward(t, "0:"+addr.String()))}
		w := newWorld(t, o)
		w.run()
		old := dialTest(t, "tcp", w.addr(0)).(*net.TCPConn)
		far := <-accepted
		mustWrite(t, old, "x")
		mustRead(t, far, "x")

		first := w.server
		done := make(chan error, 1)
		go func() { done <- first.Drain(context.Background()) }()
		w.until("GOAWAY", func() bool { return strings.Contains(w.log.text(), "takes no new streams") })
		w.cut()
		mustWrite(t, old, "over a new carrier")
		mustRead(t, far, "over a new carrier")
		w.startServer(o)
		fresh := dialTest(t, "tcp", w.addr(0))
		mustWrite(t, fresh, "to the next")
		farFresh := <-accepted
		mustRead(t, farFresh, "to the next")

		_ = old.Close()
		mustEOF(t, far)
		_ = far.Close()
		if err := <-done; err != nil {
			t.Errorf("drain: %v", err)
		}
		mustWrite(t, farFresh, "still here")
		mustRead(t, fresh, "still here")
	})
}

// TestReload: sessions of removed identities and streams that are not allowed any more end; others live on.
func TestReload(t *testing.T) {
	keep, drop := target(t, "tcp", "127.0.0.1:0", echo), target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: withForwards(forward(t, "0:"+keep.String()), forward(t, "0:"+drop.String()))})
	w.run()
	a, b := dialTest(t, "tcp", w.addr(0)), dialTest(t, "tcp", w.addr(1))
	for _, c := range []net.Conn{a, b} {
		mustWrite(t, c, "x")
		mustRead(t, c, "x")
	}
	if _, err := w.store.Replace([]access.Entry{w.entry(worldOptions{connect: []string{keep.String()}})}); err != nil {
		t.Fatal(err)
	}
	w.server.Reload()
	mustReset(t, b)
	mustWrite(t, a, "y")
	mustRead(t, a, "y")
	mustRefuse(t, w.addr(1))

	w.away(errors.New("401"))
	other := w.entry(worldOptions{})
	other.Name = "bob"
	if _, err := w.store.Replace([]access.Entry{other}); err != nil {
		t.Fatal(err)
	}
	w.server.Reload()
	mustReset(t, a)
	w.until("the session's end", func() bool { return len(w.server.Status().Sessions) == 0 })
}

// TestSetForwards: listeners come and go, all or none; those that stay are not touched, nor is any stream.
func TestSetForwards(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	stay, gone := forward(t, "0:"+addr.String()), forward(t, "*:0:"+addr.String())
	w := newWorld(t, worldOptions{client: withForwards(stay, gone)})
	w.run()
	stayAddr, goneAddr := w.addr(0), w.addr(1)
	c := dialTest(t, "tcp", "127.0.0.1:"+goneAddr[strings.LastIndexByte(goneAddr, ':')+1:])
	mustWrite(t, c, "x")
	mustRead(t, c, "x")

	taken, err := ParseForward(addr.String() + ":h:1") // the target listens there
	if err != nil {
		t.Fatal(err)
	}
	fresh := forward(t, "[::1]:0:"+addr.String())
	var le *ListenError
	if err := w.client.SetForwards([]Forward{stay, fresh, taken}, nil); !errors.As(err, &le) || le.Hint() == "" {
		t.Fatalf("got %v", err)
	}
	if n := len(w.client.Status().Listeners); n != 2 {
		t.Fatalf("%d listeners after a refused change", n)
	}
	if err := w.client.SetForwards([]Forward{stay}, nil); err != nil {
		t.Fatal(err)
	}
	if got := w.client.Status().Listeners; len(got) != 1 || got[0].Addr != stayAddr {
		t.Fatalf("listeners: %v", got)
	}
	if c, err := net.Dial("tcp", goneAddr); err == nil {
		_ = c.Close()
		t.Error("the removed listener is still open")
	}
	mustWrite(t, c, "y")
	mustRead(t, c, "y")
	if err := w.client.SetForwards([]Forward{stay, stay}, nil); err == nil {
		t.Error("the same forward twice was accepted")
	}
}

// TestPortInUse: a listener that cannot be opened ends Run at once, with a hint.
func TestPortInUse(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: withForwards(forward(t, addr.String()+":h:1"))})
	err := w.client.Run(t.Context())
	var le *ListenError
	if !errors.As(err, &le) || le.Hint() == "" || !isAddrInUse(err) {
		t.Fatalf("got %v", err)
	}
}

// TestStatus shows what is live.
func TestStatus(t *testing.T) {
	w, a, b := pair(t, false)
	mustWrite(t, a, "x")
	mustRead(t, b, "x")
	for _, st := range []Status{w.client.Status(), w.server.Status()} {
		if len(st.Streams) != 1 || st.Streams[0].Origin != a.LocalAddr().String() || st.Streams[0].State != StreamOpen ||
			len(st.Sessions) != 1 || st.Sessions[0].Carriers != 1 || st.Started.IsZero() {
			t.Errorf("%+v", st)
		}
	}
	if id := w.server.Status().Sessions[0].Identity; id != "alice" {
		t.Errorf("identity %q", id)
	}
	_ = a.Close()
	_ = b.Close()
	w.until("the log lines", func() bool { return strings.Count(w.log.text(), `msg="stream ended"`) == 2 })
	for line := range strings.Lines(w.log.text()) {
		if strings.Contains(line, "stream ended") && !strings.Contains(line, "sent=1 received=0") {
			t.Error(line)
		}
	}
}
