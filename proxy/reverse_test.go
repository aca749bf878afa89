package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/proxy/access"
)

func withReverse(specs ...Forward) func(*ClientOptions) {
	return func(o *ClientOptions) { o.Reverse = specs }
}

// TestReverse: the server agent listens, the client agent dials; half-close and reset pass as with forwards.
func TestReverse(t *testing.T) {
	transports(t, func(t *testing.T, real bool) {
		addr, accepted := conns(t, "tcp", "127.0.0.1:0")
		w := newWorld(t, worldOptions{
			real: real, listen: []string{"localhost:*"}, client: withReverse(forward(t, "0:"+addr.String())),
		})
		w.run()
		origin := dialTest(t, "tcp", w.reverseAddr()).(*net.TCPConn)
		far := (<-accepted).(*net.TCPConn)
		mustWrite(t, origin, "question")
		_ = origin.CloseWrite()
		mustRead(t, far, "question")
		mustEOF(t, far)
		w.cut()
		mustWrite(t, far, "answer")
		mustRead(t, origin, "answer")
		abortTest(far)
		mustReset(t, origin)

		origin = dialTest(t, "tcp", w.reverseAddr()).(*net.TCPConn)
		far = (<-accepted).(*net.TCPConn)
		abortTest(origin)
		mustReset(t, far)
		w.until("the client's counters", func() bool {
			return w.client.Status().Counters.StreamsEnded["aborted"] == 2 && w.server.Status().Counters.StreamsEnded["aborted"] == 2
		})
		w.stopClient()
		w.until("the listener's end", func() bool { return len(w.server.Status().Listeners) == 0 })
	})
}

// TestReverseUnix: unix sockets at both ends, and a stale socket file is replaced.
func TestReverseUnix(t *testing.T) {
	dir := t.TempDir()
	near, far := filepath.Join(dir, "near"), filepath.Join(dir, "far")
	target(t, "unix", far, echo)
	stale, err := net.Listen("unix", near)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	w := newWorld(t, worldOptions{listen: []string{"unix:" + dir + "/*"}, client: withReverse(forward(t, near+":"+far))})
	w.run()
	c := dialTest(t, "unix", w.reverseAddr())
	mustWrite(t, c, "hello")
	mustRead(t, c, "hello")
}

// TestReverseRefusedTarget: the origin sees a reset when the client agent cannot dial.
func TestReverseRefusedTarget(t *testing.T) {
	w := newWorld(t, worldOptions{listen: []string{"localhost:*"}, client: withReverse(forward(t, "0:"+closedPort(t)))})
	w.run()
	mustRefuse(t, w.reverseAddr())
	w.until("its count", func() bool { return w.server.Status().Counters.OpenFailures["refused"] == 1 })
}

// TestReverseDenied: a listener needs a rule, comes when there is one, and goes with it, and so do its streams.
func TestReverseDenied(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: withReverse(forward(t, "0:"+addr.String()))})
	w.run()
	w.until("a refusal", func() bool { return w.client.Status().Counters.OpenFailures["denied"] > 0 })
	allowed := w.entry(worldOptions{listen: []string{"localhost:*"}})
	if _, err := w.store.Replace([]access.Entry{allowed}); err != nil {
		t.Fatal(err)
	}
	c := dialTest(t, "tcp", w.reverseAddr())
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	if _, err := w.store.Replace([]access.Entry{w.entry(worldOptions{})}); err != nil {
		t.Fatal(err)
	}
	w.server.Reload()
	mustReset(t, c)
	w.until("the listener's end", func() bool { return len(w.server.Status().Listeners) == 0 })
}

// TestReverseForwardsChange: SetForwards gives listeners back and asks for others; live streams go on.
func TestReverseForwardsChange(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	one, two := forward(t, "0:"+addr.String()), forward(t, "127.0.0.1:0:"+addr.String())
	w := newWorld(t, worldOptions{listen: []string{"127.0.0.1:*"}, client: withReverse(one)})
	w.run()
	first := w.reverseAddr()
	c := dialTest(t, "tcp", first)
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	if err := w.client.SetForwards(nil, []Forward{two}); err != nil {
		t.Fatal(err)
	}
	w.until("the change", func() bool {
		l := w.server.Status().Listeners
		return len(l) == 1 && l[0].Addr != first
	})
	mustWrite(t, c, "y")
	mustRead(t, c, "y")
	d := dialTest(t, "tcp", w.reverseAddr())
	mustWrite(t, d, "z")
	mustRead(t, d, "z")
}

// TestTakeover: a new session of the same identity takes a listener over from a detached session, with the connections
// that wait in its queue, and never from an attached one.
func TestTakeover(t *testing.T) {
	port := closedPort(t)
	a, fromA := conns(t, "tcp", "127.0.0.1:0")
	b, fromB := conns(t, "tcp", "127.0.0.1:0")
	w := newWorld(t, worldOptions{listen: []string{"127.0.0.1:*"}, client: withReverse(forward(t, port+":"+a.String()))})
	w.run()
	w.reverseAddr()

	other, err := NewClient(ClientOptions{
		Dial: w.dialAlways, Reverse: []Forward{forward(t, port+":"+b.String())}, Logger: w.log.logger("other"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	w.until("a refusal", func() bool { return other.Status().Counters.OpenFailures["in_use"] > 0 })
	dialTest(t, "tcp", port)
	<-fromA // the attached session keeps it

	w.away(errors.New("away"))
	w.cut() // detaches both; the other comes back
	w.until("the takeover", func() bool { return strings.Contains(w.log.text(), "cause=taken_over") })
	dialTest(t, "tcp", port)
	select {
	case <-fromB:
	case <-fromA:
		t.Error("the connection went to the session that lost the listener")
	case <-time.After(patience):
		t.Error("the connection went nowhere")
	}
	if n := len(w.server.Status().Listeners); n != 1 {
		t.Errorf("%d listeners", n)
	}
}

// TestForeignListener: another identity never gets a listener, not even a detached session's.
func TestForeignListener(t *testing.T) {
	port := closedPort(t)
	w := newWorld(t, worldOptions{listen: []string{"127.0.0.1:*"}, client: withReverse(forward(t, port+":127.0.0.1:9"))})
	alice := w.entry(worldOptions{listen: []string{"127.0.0.1:*"}})
	bob := alice
	bob.Name, bob.SHA256 = "bob", access.HashToken("spt_bob's-own-token-here")
	if _, err := w.store.Replace([]access.Entry{alice, bob}); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.reverseAddr()
	w.away(errors.New("away"))
	w.cut()
	w.until("detached", func() bool { return w.server.Status().Sessions[0].Carriers == 0 })
	w.mu.Lock()
	w.identity = "bob"
	w.mu.Unlock()
	other, err := NewClient(ClientOptions{
		Dial: w.dialAlways, Reverse: []Forward{forward(t, port+":127.0.0.1:9")}, Logger: w.log.logger("other"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx) }()
	w.until("a refusal", func() bool { return other.Status().Counters.OpenFailures["in_use"] > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if l := w.server.Status().Listeners; len(l) != 1 || l[0].Identity != "alice" {
		t.Errorf("%+v", l)
	}
}

// TestReverseAfterRestart: a reverse forward is asked for again in the new session.
func TestReverseAfterRestart(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	o := worldOptions{listen: []string{"127.0.0.1:*"}, client: withReverse(forward(t, closedPort(t)+":"+addr.String()))}
	w := newWorld(t, o)
	w.run()
	before := w.reverseAddr()
	w.away(errors.New("down"))
	w.crashServer()
	w.startServer(o)
	w.away(nil)
	if after := w.reverseAddr(); after != before {
		t.Errorf("listens at %s, before at %s", after, before)
	}
	c := dialTest(t, "tcp", before)
	mustWrite(t, c, "hello")
	mustRead(t, c, "hello")
}

// TestReverseExpiry: the listener goes with its session when nobody resumes it.
func TestReverseExpiry(t *testing.T) {
	w := newWorld(t, worldOptions{
		listen: []string{"127.0.0.1:*"}, client: withReverse(forward(t, "127.0.0.1:0:127.0.0.1:9")),
		server: func(o *ServerOptions) { o.Session.ResumeTimeout = 50 * time.Millisecond },
	})
	w.run()
	w.reverseAddr()
	w.away(errors.New("gone"))
	w.cut()
	w.until("the listener's end", func() bool { return len(w.server.Status().Listeners) == 0 })
	w.until("its session's end", func() bool { return len(w.server.Status().Sessions) == 0 })
	if n := w.server.Status().Counters.SessionsLost; n != 1 {
		t.Errorf("%d sessions lost", n)
	}
}

// TestReverseDrain: a draining server agent gives its listeners back at once, so that the next one can have them.
func TestReverseDrain(t *testing.T) {
	addr, accepted := conns(t, "tcp", "127.0.0.1:0")
	w := newWorld(t, worldOptions{listen: []string{"127.0.0.1:*"}, client: withReverse(forward(t, "127.0.0.1:0:"+addr.String()))})
	w.run()
	origin := dialTest(t, "tcp", w.reverseAddr())
	far := <-accepted
	w.away(errors.New("no other server agent"))
	done := make(chan error, 1)
	go func() { done <- w.server.Drain(context.Background()) }()
	w.until("the listener's end", func() bool { return len(w.server.Status().Listeners) == 0 })
	mustWrite(t, origin, "x")
	mustRead(t, far, "x")
	_ = origin.Close()
	mustEOF(t, far)
	_ = far.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestReverseStuckTarget: a target that takes nothing keeps what has arrived for it waiting, but not the client agent
// from making a new session when the old one is lost.
func TestReverseStuckTarget(t *testing.T) {
	addr, accepted := conns(t, "tcp", "127.0.0.1:0")
	o := worldOptions{listen: []string{"localhost:*"}, client: withReverse(forward(t, "0:"+addr.String()))}
	w := newWorld(t, o)
	w.run()
	origin := dialTest(t, "tcp", w.reverseAddr())
	stuck := (<-accepted).(*net.TCPConn)
	_ = stuck.SetReadBuffer(64 << 10)
	_ = origin.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := origin.Write(make([]byte, 32<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("32 MiB went to a target that reads nothing: %v", err)
	}
	w.crashServer()
	w.startServer(o)
	w.ready()
	fresh := dialTest(t, "tcp", w.reverseAddr())
	mustWrite(t, fresh, "through the new session")
	mustRead(t, <-accepted, "through the new session")
	mustReset(t, stuck)
}
