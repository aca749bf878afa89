package ws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestPeerCloses(t *testing.T) {
	library, server := startServer(t, false).libraryPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := library.Close(websocket.StatusGoingAway, "lunch\x1b[31m"); err != nil {
			t.Errorf("the close was not answered: %v", err)
		}
	}()
	_, err := server.ReadMessage(func() []byte { return make([]byte, readLimit) })
	ce, ok := errors.AsType[*CloseError](err)
	if !ok || ce.Code != 1001 || ce.Reason != "lunch[31m" || !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a CloseError with 1001 and io.EOF in it", err)
	}
	<-done
}

func TestPeerVanishes(t *testing.T) {
	client, server := startServer(t, true).pair(t)
	if err := client.NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	_, err := server.ReadMessage(func() []byte { return make([]byte, readLimit) })
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want an EOF", err)
	}
}

func TestCloseTellsThePeer(t *testing.T) {
	long := strings.Repeat("ü", 200)
	tests := []struct {
		name   string
		cause  error
		code   int
		reason string
	}{
		{"nil", nil, 1000, ""},
		{"cause", errors.New("session over"), 1001, "session over"},
		{"long cause", errors.New(long), 1001, long[:122]},
	}
	for _, secure := range []bool{true, false} {
		s := startServer(t, secure)
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, tls=%v", tt.name, secure), func(t *testing.T) {
				for _, fromClient := range []bool{true, false} {
					from, to := s.pair(t)
					if !fromClient {
						from, to = to, from
					}
					write(t, from, []byte("last words"))
					if err := from.Close(tt.cause); err != nil {
						t.Errorf("Close: %v", err)
					}
					if got := read(t, to); string(got) != "last words" {
						t.Errorf("got %q before the close", got)
					}
					_, err := to.ReadMessage(func() []byte { return make([]byte, readLimit) })
					ce, ok := errors.AsType[*CloseError](err)
					if !ok || ce.Code != tt.code || ce.Reason != tt.reason {
						t.Errorf("got %v, want a CloseError with %d %q", err, tt.code, tt.reason)
					}
				}
			})
		}
	}
}

func TestCloseUnblocks(t *testing.T) {
	for _, secure := range []bool{true, false} {
		for _, cause := range []error{nil, errors.New("dead")} {
			t.Run(fmt.Sprintf("tls=%v, cause=%v", secure, cause), func(t *testing.T) {
				client, server := startServer(t, secure).pair(t)
				var ended sync.WaitGroup
				ended.Go(func() {
					if _, err := client.ReadMessage(func() []byte { return make([]byte, readLimit) }); !errors.Is(err, net.ErrClosed) {
						t.Errorf("the reader got %v, want net.ErrClosed", err)
					}
				})
				blocked := writeUntilBlocked(t, client, &ended)
				<-blocked
				start := time.Now()
				var closers sync.WaitGroup
				for range 4 {
					closers.Go(func() { _ = client.Close(cause) })
				}
				closers.Wait()
				if took := time.Since(start); took > time.Second {
					t.Errorf("Close took %v", took)
				}
				ended.Wait()
				_ = server.Close(cause)
			})
		}
	}
}

// writeUntilBlocked writes on c, whose peer does not read, until c is closed.
// The channel it returns is closed once nothing has moved for a while.
func writeUntilBlocked(t *testing.T, c *Conn, ended *sync.WaitGroup) <-chan struct{} {
	progress := make(chan struct{}, 1)
	ended.Go(func() {
		m := [][]byte{make([]byte, c.MaxMessage())}
		for {
			if err := c.WriteMessages(m); err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("the writer got %v, want net.ErrClosed", err)
				}
				return
			}
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	})
	blocked := make(chan struct{})
	ended.Go(func() {
		defer close(blocked)
		for {
			select {
			case <-progress:
			case <-time.After(200 * time.Millisecond):
				return
			}
		}
	})
	return blocked
}

func TestPingIsAnsweredWhenIdle(t *testing.T) {
	s := startServer(t, false)
	library, server := s.libraryPair(t)
	var reader sync.WaitGroup
	reader.Go(func() { echo(server) })
	ctx := library.CloseRead(context.Background())
	for range 20 {
		if err := library.Ping(ctx); err != nil {
			t.Fatalf("ping: %v", err)
		}
	}
	_ = server.Close(nil)
	reader.Wait()
}

// TestPingBehindBlockedWriter is the trap: pings are answered from the reader,
// which must not wait for a writer whose peer does not read.
func TestPingBehindBlockedWriter(t *testing.T) {
	peer, frames, server := startServer(t, false).rawClient(t, nil)
	var ended sync.WaitGroup
	<-writeUntilBlocked(t, server, &ended)

	var out []byte
	for i := range 100 {
		out = append(out, controlFrame(opPing, fmt.Appendf(nil, "ping %d", i), true)...)
	}
	out = append(out, controlFrame(opBinary, []byte("past the pings"), true)...)
	if _, err := peer.Write(out); err != nil {
		t.Fatal(err)
	}
	if got := read(t, server); string(got) != "past the pings" {
		t.Errorf("got %q", got)
	}
	server.cork.mu.Lock()
	waiting := string(server.cork.ping)
	held := len(server.cork.control)
	server.cork.mu.Unlock()
	if waiting != "ping 99" || held > 0 {
		t.Errorf("%q waits for an answer and %d bytes are held, want the newest and none", waiting, held)
	}

	// Once the peer reads, the answer comes between two messages.
	for {
		opcode, payload := readFrame(t, frames)
		if opcode == opPong {
			if string(payload) != "ping 99" {
				t.Errorf("the answer is to %q", payload)
			}
			break
		}
		if opcode != opBinary || len(payload) != server.MaxMessage() {
			t.Fatalf("a frame with opcode %d and %d bytes", opcode, len(payload))
		}
	}
	_ = server.Close(errors.New("done"))
	ended.Wait()
}
