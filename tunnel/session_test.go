package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pair is a client session and a host, joined by carriers in memory.
type pair struct {
	t      *testing.T
	client *Session
	host   *Host
	server *Session // the host's side of client
	ctx    context.Context
	wg     sync.WaitGroup
	stop   context.CancelFunc
}

func newPair(t *testing.T, co Options, so HostOptions) *pair {
	t.Helper()
	p := &pair{t: t, client: NewSession(co), host: NewHost(so)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.wg.Go(func() { p.client.Run(p.ctx) })
	p.wg.Go(func() { p.host.Run(p.ctx) })
	t.Cleanup(p.close)
	return p
}

func (p *pair) close() {
	p.stop()
	p.wg.Wait()
}

// attach joins the two by another carrier.
func (p *pair) attach() *memLink {
	l := newMemLink()
	p.serve(l)
	return l
}

func (p *pair) serve(l *memLink) {
	p.wg.Go(func() { p.client.Attach(p.ctx, l.client) })
	p.wg.Go(func() { p.host.Serve(p.ctx, l.server, "alice") })
}

// connect attaches the first carrier and returns when the session is up.
func (p *pair) connect() *memLink {
	p.t.Helper()
	l := p.attach()
	var err error
	if p.server, err = p.host.Accept(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	return l
}

// open returns both ends of a stream that the client opened and wrote "!" to.
func (p *pair) open() (client, server *Stream) {
	p.t.Helper()
	return openPair(p.ctx, p.t, p.client, p.server)
}

func openPair(ctx context.Context, t *testing.T, from, to *Session) (opener, acceptor *Stream) {
	t.Helper()
	opener, err := from.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opener.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if acceptor, err = to.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(acceptor, b[:]); err != nil || b[0] != '!' {
		t.Fatalf("first byte: %q, %v", b, err)
	}
	return opener, acceptor
}

func TestEchoAndHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.connect()
		c, s := p.open()
		fmt.Fprint(c, "hello")
		c.CloseWrite()
		got, err := io.ReadAll(s)
		if string(got) != "hello" || err != nil {
			t.Fatalf("server read %q, %v", got, err)
		}
		fmt.Fprint(s, "and back")
		s.Close()
		got, err = io.ReadAll(c)
		if string(got) != "and back" || err != nil {
			t.Fatalf("client read %q, %v", got, err)
		}
		c.Close()
		synctest.Wait()
		time.Sleep(time.Second) // virtual: the acks
		synctest.Wait()
		if a, b := p.client.Stats().Streams, p.server.Stats().Streams; a != 0 || b != 0 {
			t.Fatalf("%d and %d streams are not forgotten", a, b)
		}
		p.close()
	})
}

func TestBulkBothWays(t *testing.T) {
	for _, size := range []int{1, 1000, 64 << 10, 5 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			p.connect()
			c, s := p.open()
			exchange(t, c, s, size)
			p.close()
		})
	}
}

// exchange sends size random bytes each way at once and checks them.
func exchange(t *testing.T, a, b *Stream, size int) {
	t.Helper()
	var wg sync.WaitGroup
	send := func(from, to *Stream) {
		data := make([]byte, size)
		rand.Read(data)
		wg.Go(func() {
			if _, err := from.Write(data); err != nil {
				t.Errorf("write: %v", err)
			}
			from.CloseWrite()
		})
		wg.Go(func() {
			got, err := io.ReadAll(to)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d of %d bytes, equal %v: %v", len(got), size, bytes.Equal(got, data), err)
			}
		})
	}
	send(a, b)
	send(b, a)
	wg.Wait()
}

func TestAbortArrivesAsAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.connect()
		c, s := p.open()
		c.Reset(42, "no more")
		_, err := s.Read(make([]byte, 1))
		var se *StreamError
		if !errors.As(err, &se) || se.Code != 42 || se.Reason != "no more" || !se.Remote || !errors.Is(err, net.ErrClosed) {
			t.Fatalf("read: %v", err)
		}
		if _, err := s.Write([]byte("x")); !errors.As(err, &se) || se.Code != 42 {
			t.Fatalf("write: %v", err)
		}
		<-s.Done()
		s.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if a, b := p.client.Stats().Streams, p.server.Stats().Streams; a != 0 || b != 0 {
			t.Fatalf("%d and %d streams are not forgotten", a, b)
		}
		p.close()
	})
}

func TestCutAndResume(t *testing.T) {
	p := newPair(t, Options{}, HostOptions{})
	l := p.connect()
	c, s := p.open()
	done := make(chan struct{})
	go func() {
		defer close(done)
		exchange(t, c, s, 20<<20)
	}()
	for cuts := 0; ; cuts++ {
		select {
		case <-done:
			if cuts == 0 {
				t.Error("nothing was cut")
			}
			t.Logf("%d cuts, %+v", cuts, p.client.Stats())
			p.close()
			return
		case <-time.After(2 * time.Millisecond):
			l.cut()
			l = p.attach()
		}
	}
}

// TestWaiting: a write without a carrier asks for one; what was asked before
// there was one does not count after.
func TestWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		asked := func() bool {
			select {
			case <-p.client.Waiting():
				return true
			default:
				return false
			}
		}
		w := newWire(time.Millisecond, 0)
		p.start(w)
		c, _ := p.open()
		fmt.Fprint(c, "attached")
		time.Sleep(time.Second)
		if asked() {
			t.Error("a write on a carrier asked for one")
		}
		w.client.Close(errCut)
		time.Sleep(time.Second)
		if asked() {
			t.Error("one is asked for though nothing was under way")
		}
		fmt.Fprint(c, "a key")
		if !asked() {
			t.Error("a write without a carrier asked for none")
		}
		fmt.Fprint(c, "another")
		p.join(newWire(time.Millisecond, 0), "alice")
		time.Sleep(time.Second)
		if asked() {
			t.Error("the carrier has come, and one is still asked for")
		}
	})
}

// TestWaitingForData: who receives a steady flow asks for a carrier when the last
// one is lost, and goes on asking.
func TestWaitingForData(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(time.Millisecond, 0)
		p.start(w)
		c, s := p.open()
		for range 10 {
			fmt.Fprint(s, "data")
			mustRead(t, c, "data")
			time.Sleep(100 * time.Millisecond)
		}
		w.client.Close(errCut)
		time.Sleep(time.Second)
		for range 2 {
			select {
			case <-p.client.Waiting():
			default:
				t.Error("nothing is asked for")
			}
		}
	})
}

// TestEndFreesAHandshake checks that a carrier over which nobody answers does not
// outlast its session.
func TestEndFreesAHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		silent := newWire(time.Millisecond, 0)
		silent.hold(true)
		attach, _ := p.join(silent, "alice")
		time.Sleep(time.Second)
		start := time.Now()
		p.client.Close(&CloseError{Code: CloseDone})
		mustCloseError(t, <-attach, CloseDone)
		if took := time.Since(start); took > time.Second || !silent.client.isClosed() {
			t.Errorf("it took %v, closed: %v", took, silent.client.isClosed())
		}
	})
}
