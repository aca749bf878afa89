package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// sendAll writes data to a connection, and an end of file, in a goroutine. The channel gets the error.
func sendAll(c *net.TCPConn, data []byte) <-chan error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	return sent
}

// overfill returns more than the system keeps for c while its reader is slow: a relay has to wait for that.
func overfill(c *net.TCPConn) []byte {
	_ = c.SetReadBuffer(128 << 10)
	data := make([]byte, 6<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	return data
}

// readUntil reads c slowly until the session is over.
func readUntil(t *testing.T, c net.Conn, over func() bool) []byte {
	t.Helper()
	var got bytes.Buffer
	until(t, "the session's end", func() bool {
		if over() {
			return true
		}
		_, err := io.CopyN(&got, c, 64<<10)
		return err != nil
	})
	return got.Bytes()
}

// TestDrainSlowReader: whichever agent drains, who takes the last bytes slowly gets them all, at either end: the session
// is over long before.
func TestDrainSlowReader(t *testing.T) {
	for name, drains := range map[string]struct{ server, near bool }{
		"client agent drains, origin is slow": {false, true},
		"client agent drains, target is slow": {false, false},
		"server agent drains, origin is slow": {true, true},
		"server agent drains, target is slow": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, slow, from := pair(t, false)
			if !drains.near {
				slow, from = from, slow
			}
			_ = slow.CloseWrite()
			mustEOF(t, from)
			data := overfill(slow)
			sent := sendAll(from, data)
			session := w.client.sessions.all()[0]
			over := func() bool { return session.Err() != nil }
			drain := func() error {
				defer w.server.stop() // as the command does
				return w.server.Drain(context.Background())
			}
			if !drains.server {
				over = func() bool { return len(w.client.sessions.all()) == 0 }
				drain = func() error { return w.client.Drain(context.Background()) }
			}
			done := make(chan error, 1)
			go func() { done <- drain() }()
			got := readUntil(t, slow, over)
			rest, err := io.ReadAll(slow)
			if got = append(got, rest...); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
			}
			if err := errors.Join(<-sent, <-done); err != nil {
				t.Error(err)
			}
			w.until("the log lines", func() bool { return strings.Count(w.log.text(), `msg="stream ended"`) == 2 })
			if log := w.log.text(); strings.Count(log, "cause=eof") != 2 || strings.Contains(log, "session lost") {
				t.Error("the log tells of a loss")
			}
		})
	}
}

// lateSocket is a socket whose peer takes nothing until it is let, and sends nothing but an end of file.
type lateSocket struct {
	said    chan struct{} // closed when the end of file comes
	let     chan struct{} // closed when the peer takes what there is
	stuck   chan struct{} // closed when there is something for it
	ended   chan struct{} // closed by close and abort
	once    sync.Once
	aborted bool   // rather than closed; valid after ended
	got     []byte // valid after ended
}

func newLateSocket() *lateSocket {
	return &lateSocket{
		said: make(chan struct{}), let: make(chan struct{}), stuck: make(chan struct{}), ended: make(chan struct{}),
	}
}

func (s *lateSocket) Read([]byte) (int, error) {
	select {
	case <-s.said:
		return 0, io.EOF
	case <-s.ended:
		return 0, net.ErrClosed
	}
}

func (s *lateSocket) Write(p []byte) (int, error) {
	if s.got == nil {
		close(s.stuck)
	}
	select {
	case <-s.let:
		s.got = append(s.got, p...)
		return len(p), nil
	case <-s.ended:
		return 0, net.ErrClosed
	}
}

func (s *lateSocket) reader() io.Reader { return s }
func (s *lateSocket) writer() io.Writer { return s }
func (s *lateSocket) closeWrite() error { return nil }
func (s *lateSocket) watch() error      { <-s.ended; return nil }
func (s *lateSocket) close()            { s.once.Do(func() { close(s.ended) }) }
func (s *lateSocket) abort()            { s.once.Do(func() { s.aborted = true; close(s.ended) }) }

const lastWords = "that is all"

// sayLast serves a target that says that and ends.
func sayLast(c net.Conn) {
	_, _ = io.WriteString(c, lastWords)
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c)
	_ = c.Close()
}

// TestDrainWaitsForRelays: a drain waits for what a relay still has to pass on, for as long as it may, and for nothing
// else: listen streams end with it.
func TestDrainWaitsForRelays(t *testing.T) {
	for _, who := range []string{"client", "server"} {
		for _, inTime := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, in time: %v", who, inTime), func(t *testing.T) {
				addr := target(t, "tcp", "127.0.0.1:0", sayLast)
				reverse := forward(t, "0:"+addr.String())
				w := newWorld(t, worldOptions{listen: []string{"localhost:*"}, client: withReverse(reverse)})
				w.run()
				w.reverseAddr()
				req := &request{action: actionConnect, address: reverse.Target, origin: "test"}
				a, session, drain := &w.client.agent, w.client.sessions.all()[0], w.client.Drain
				if who == "server" {
					a, session, drain = &w.server.agent, w.server.sessions.all()[0], w.server.Drain
					req.forward = w.client.forwards.reverse[0].id
				}
				st, err := session.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				sock := newLateSocket()
				close(sock.said)
				relayed := make(chan error, 1)
				go func() { relayed <- a.openAndRelay(&liveStream{stream: st}, req, sock) }()
				<-sock.stuck

				ctx, cancel := context.WithCancelCause(t.Context())
				errEnough := errors.New("enough")
				drained := make(chan error, 1)
				go func() {
					err := drain(ctx)
					if !isClosed(sock.let) && ctx.Err() == nil {
						err = errors.New("it did not wait")
					}
					drained <- err
				}()
				w.until("the session's end", func() bool { return session.Err() != nil })
				if inTime {
					close(sock.let)
				} else {
					cancel(errEnough)
				}
				switch err := <-drained; {
				case inTime && err != nil, !inTime && !errors.Is(err, errEnough):
					t.Errorf("drain: %v", err)
				}
				if who == "client" {
					w.clientEnds()
				} else {
					w.stopServer(w.server)
				}
				if err := <-relayed; inTime != (err == nil) {
					t.Errorf("relay: %v", err)
				}
				if inTime && string(sock.got) != lastWords || sock.aborted == inTime {
					t.Errorf("passed on: %q, aborted: %v", sock.got, sock.aborted)
				}
				cancel(nil)
			})
		}
	}
}

// TestPeerDrains: when the peer has drained, the session is over before our end of file was acked. That is no loss.
func TestPeerDrains(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", sayLast)
	w := newWorld(t, worldOptions{})
	w.run()
	w.ready()
	session := w.client.sessions.all()[0]
	st, err := session.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sock := newLateSocket()
	relayed := make(chan error, 1)
	req := &request{action: actionConnect, address: forward(t, "0:"+addr.String()).Target, origin: "test"}
	go func() { relayed <- w.client.openAndRelay(&liveStream{stream: st}, req, sock) }()
	<-sock.stuck
	drained := make(chan error, 1)
	go func() { drained <- w.server.Drain(t.Context()) }()
	w.until("GOAWAY", func() bool { _, leaving := session.PeerGoAway(); return leaving })
	close(sock.said)
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	w.until("the session's end", func() bool { return session.Err() != nil })
	close(sock.let)
	if err := <-relayed; err != nil || string(sock.got) != lastWords || sock.aborted {
		t.Errorf("relay: %v; passed on: %q, aborted: %v", err, sock.got, sock.aborted)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
