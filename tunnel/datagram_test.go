package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

// received takes the datagrams that have come on a flow.
func received(st *Stream) (got [][]byte) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		d, err := st.ReceiveDatagram(ctx)
		cancel()
		if err != nil {
			return got
		}
		got = append(got, d)
	}
}

func TestDatagramsBothWays(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		c, s := p.open()
		for _, n := range []int{0, 1, 1400, maxDatagram} {
			for _, way := range [][2]*Stream{{c, s}, {s, c}} {
				d := noise(9, n)
				if err := way[0].SendDatagram(d); err != nil {
					t.Fatal(err)
				}
				if got, err := way[1].ReceiveDatagram(p.ctx); err != nil || !bytes.Equal(got, d) {
					t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
				}
			}
		}
		if err := c.SendDatagram(make([]byte, maxDatagram+1)); !errors.Is(err, ErrDatagramTooLarge) {
			t.Errorf("too large: %v", err)
		}
	})
}

// TestDatagramsKeepTheirFlows checks that flows do not mix and that a message
// may hold datagrams of many.
func TestDatagramsKeepTheirFlows(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		var cs, ss []*Stream
		for range 5 {
			c, s := p.open()
			cs, ss = append(cs, c), append(ss, s)
		}
		for n := range 20 {
			for i, c := range cs {
				c.SendDatagram(fmt.Appendf(nil, "%d of flow %d", n, i))
			}
		}
		for i, s := range ss {
			for n, d := range received(s) {
				if want := fmt.Sprintf("%d of flow %d", n, i); string(d) != want {
					t.Fatalf("got %q, want %q", d, want)
				}
			}
		}
	})
}

// TestDatagramQueueBounds checks both ends' bounds: 64 a flow, 256 KiB a session.
func TestDatagramQueueBounds(t *testing.T) {
	for _, c := range []struct {
		name        string
		flows, size int
		most        int // delivered in all
	}{
		{"one flow", 1, 10, maxFlowDatagrams},
		{"one flow of three", 3, 10, maxFlowDatagrams},
		{"large ones", 1, 10_000, maxDatagramBytes / 10_000},
	} {
		t.Run("receiving/"+c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(time.Millisecond, 0))
				client, server := p.open()
				for range c.flows - 1 {
					p.open()
				}
				for range 200 {
					client.SendDatagram(make([]byte, c.size))
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Second)
				if n := len(received(server)); n != c.most {
					t.Errorf("%d were kept, want %d", n, c.most)
				}
				if n := p.server.Stats().DatagramsDropped; n != uint64(200-c.most) {
					t.Errorf("%d counted as dropped", n)
				}
			})
		})
		t.Run("sending/"+c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := newBed(t, true, Options{})
				st, _ := b.session.Open(b.ctx)
				for range c.flows - 1 {
					b.session.Open(b.ctx)
				}
				b.end.set(func() { b.end.stuck = true })
				st.SendDatagram(nil) // the writer gets stuck with this one
				synctest.Wait()
				for range 200 {
					st.SendDatagram(make([]byte, c.size))
				}
				b.end.set(func() { b.end.stuck = false })
				synctest.Wait()
				if n := b.count()[frame.TypeDatagram]; n != c.most+1 {
					t.Errorf("%d were sent, want %d", n, c.most+1)
				}
			})
		})
	}
}

// TestDatagramsOfClosedStreamsAreForgotten checks that datagrams nobody reads
// any more do not count against those of other flows.
func TestDatagramsOfClosedStreamsAreForgotten(t *testing.T) {
	for name, end := range map[string]func(c, s *Stream){
		"closed": func(c, s *Stream) { c.Close(); s.Close() },
		"reset":  func(c, s *Stream) { s.Reset(1, "") },
		"remote": func(c, s *Stream) { c.Reset(1, ""); time.Sleep(time.Second); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(time.Millisecond, 0))
				for range 10 {
					c, s := p.open()
					for range 10 {
						c.SendDatagram(make([]byte, 10_000))
						time.Sleep(time.Millisecond)
					}
					end(c, s)
					time.Sleep(time.Second)
				}
				c, s := p.open()
				c.SendDatagram(make([]byte, 10_000))
				if got := received(s); len(got) != 1 {
					t.Fatalf("%d datagrams came", len(got))
				}
			})
		})
	}
}

// TestReadAndReceiveDatagramTogether checks that a byte wakes the reader of
// bytes and a datagram the reader of datagrams, whoever waited first.
func TestReadAndReceiveDatagramTogether(t *testing.T) {
	for _, first := range []string{"datagrams", "bytes"} {
		t.Run(first+" first", func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(time.Millisecond, 0))
				c, s := p.open()
				ctx, cancel := context.WithCancel(p.ctx)
				defer cancel()
				read, got := make(chan string, 1), make(chan string, 1)
				waitBytes := func() {
					b := make([]byte, 10)
					n, _ := s.Read(b)
					read <- string(b[:n])
				}
				waitDatagram := func() {
					d, _ := s.ReceiveDatagram(ctx)
					got <- string(d)
				}
				one, other := waitDatagram, waitBytes
				if first == "bytes" {
					one, other = waitBytes, waitDatagram
				}
				go one()
				synctest.Wait()
				go other()
				synctest.Wait()
				fmt.Fprint(c, "bytes")
				select {
				case b := <-read:
					if b != "bytes" {
						t.Errorf("read %q", b)
					}
				case <-time.After(time.Minute):
					t.Error("the reader sleeps although bytes have come")
					s.SetReadDeadline(time.Now())
				}
				c.SendDatagram([]byte("datagram"))
				select {
				case d := <-got:
					if d != "datagram" {
						t.Errorf("received %q", d)
					}
				case <-time.After(time.Minute):
					t.Error("the receiver sleeps although a datagram has come")
				}
			})
		})
	}
}

// TestDatagramsAreNeverSentAgain checks that a loss stays a loss, and that
// without a carrier they are dropped.
func TestDatagramsAreNeverSentAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(time.Millisecond, 0)
		p.start(w)
		c, s := p.open()
		w.hold(true)
		c.SendDatagram([]byte("lost"))
		fmt.Fprint(c, "not lost")
		time.Sleep(100 * time.Millisecond)
		w.client.Close(errCut)
		w.server.Close(errCut)
		synctest.Wait()
		if err := c.SendDatagram([]byte("dropped")); err != nil {
			t.Fatal(err)
		}
		p.join(newWire(time.Millisecond, 0), "alice")
		mustRead(t, s, "not lost")
		c.SendDatagram([]byte("new"))
		if got := received(s); len(got) != 1 || string(got[0]) != "new" {
			t.Fatalf("got %q", got)
		}
		if n := p.client.Stats().DatagramsDropped; n != 1 {
			t.Errorf("%d counted as dropped", n)
		}
	})
}

func TestDatagramErrors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		c, s := p.open()
		s.Close()
		if err := s.SendDatagram(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send on a closed stream: %v", err)
		}
		c.Close()
		if _, err := c.ReceiveDatagram(p.ctx); !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive on a closed stream: %v", err)
		}
		ctx, cancel := context.WithTimeout(p.ctx, time.Second)
		defer cancel()
		c, s = p.open()
		if _, err := c.ReceiveDatagram(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("receive with nothing to come: %v", err)
		}
		p.client.Close(&CloseError{Code: CloseDone})
		if err := c.SendDatagram(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after the session: %v", err)
		}
		if _, err := s.ReceiveDatagram(p.ctx); !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive after the session: %v", err)
		}
	})
	t.Run("a peer that takes none", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newHostBed(t, HostOptions{})
			h := rawHello()
			h.MaxDatagram = 0
			b.dial(h)
			b.reply()
			s, err := b.host.Accept(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			st, err := s.Open(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := st.SendDatagram([]byte("x")); !errors.Is(err, ErrNoDatagrams) {
				t.Errorf("send: %v", err)
			}
		})
	})
}
