package ws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"pgregory.net/rapid"
)

// pattern is n bytes that differ from place to place.
func pattern(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// transfer writes msgs at one end and compares what the other end reads.
func transfer(t testing.TB, from, to *Conn, msgs [][]byte) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- from.WriteMessages(msgs) }()
	for i, want := range msgs {
		if got := read(t, to); !bytes.Equal(got, want) {
			return fmt.Errorf("message %d: sent %d bytes, got %d others", i, len(want), len(got))
		}
	}
	return <-done
}

func TestEcho(t *testing.T) {
	sizes := []int{
		0, 1, 2, 125, 126, 127, 511, 512, 513, 1 << 10, 4095, 4096, 4097, 16376, 16380,
		16383, 16384, 16385, 32768, 49152, 65519, 65520, 65527, 65528, 65529, 65532,
	}
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			client, server := startServer(t, secure).pair(t)
			for _, c := range []*Conn{client, server} {
				if _, ok := c.TLS(); ok != secure {
					t.Errorf("TLS says %v", ok)
				}
			}
			for _, n := range sizes {
				m := [][]byte{pattern(n)}
				if n <= client.MaxMessage() {
					if err := transfer(t, client, server, m); err != nil {
						t.Fatalf("client to server: %v", err)
					}
				}
				if err := transfer(t, server, client, m); err != nil {
					t.Fatalf("server to client: %v", err)
				}
			}
		})
	}
}

func TestAnySequenceArrives(t *testing.T) {
	s := startServer(t, true)
	client, server := s.pair(t)
	source := pattern(corkSize)
	rapid.Check(t, func(rt *rapid.T) {
		from, to := server, client
		if rapid.Bool().Draw(rt, "up") {
			from, to = client, server
		}
		lengths := rapid.SliceOfN(rapid.OneOf(
			rapid.IntRange(0, 300),
			rapid.IntRange(16000, 17000),
			rapid.IntRange(0, from.MaxMessage()),
			rapid.Just(from.MaxMessage()),
		), 1, 12).Draw(rt, "lengths")
		var msgs [][]byte
		for _, n := range lengths {
			at := rapid.IntRange(0, len(source)-n).Draw(rt, "at")
			msgs = append(msgs, source[at:at+n])
		}
		if err := transfer(t, from, to, msgs); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestWriteLeavesSlicesAlone(t *testing.T) {
	client, server := startServer(t, true).pair(t)
	m := pattern(20000)
	if err := transfer(t, client, server, [][]byte{m}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m, pattern(20000)) {
		t.Error("the message was modified: masked in place?")
	}
}

func TestTooLargeToWrite(t *testing.T) {
	client, server := startServer(t, true).pair(t)
	for _, c := range []*Conn{client, server} {
		err := c.WriteMessages([][]byte{{1}, make([]byte, c.MaxMessage()+1)})
		if !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("got %v, want ErrMessageTooLarge", err)
		}
	}
	if err := transfer(t, client, server, [][]byte{{2}}); err != nil {
		t.Errorf("after a refused write: %v", err)
	}
}

func TestTakeOnlyWhenAMessageHasBegun(t *testing.T) {
	client, server := startServer(t, true).pair(t)
	taken := make(chan struct{}, 1)
	got := make(chan int, 1)
	go func() {
		n, _ := server.ReadMessage(func() []byte {
			taken <- struct{}{}
			return make([]byte, readLimit)
		})
		got <- n
	}()
	// A round trip the other way shows that time has passed for the reader.
	if err := transfer(t, server, client, [][]byte{{1}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-taken:
		t.Fatal("a buffer was taken while nothing came")
	default:
	}
	write(t, client, []byte("abc"))
	if n := <-got; n != 3 || len(taken) != 1 {
		t.Errorf("read %d bytes with %d buffers", n, len(taken))
	}
}

func TestBufferSizes(t *testing.T) {
	tests := []struct {
		buffer, message int
		fits            bool
	}{
		{10, 10, true},
		{10, 11, false},
		{0, 0, true},
		{0, 1, false},
		{1 << 17, readLimit, true},
		{1 << 17, readLimit + 1, false},
		{readLimit, readLimit, true},
		{readLimit, readLimit + 1, false},
	}
	s := startServer(t, false)
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d in %d", tt.message, tt.buffer), func(t *testing.T) {
			library, server := s.libraryPair(t)
			go func() { _ = library.Write(context.Background(), websocket.MessageBinary, make([]byte, tt.message)) }()
			n, err := server.ReadMessage(func() []byte { return make([]byte, tt.buffer) })
			if tt.fits && (err != nil || n != tt.message) {
				t.Errorf("got %d, %v", n, err)
			}
			if tt.fits {
				return
			}
			if !errors.Is(err, ErrMessageTooLarge) {
				t.Errorf("got %d, %v, want ErrMessageTooLarge", n, err)
			}
			_ = server.Close(err)
			expectStatus(t, library, websocket.StatusMessageTooBig)
		})
	}
}

// libraryPair is a carrier at the server whose client is the bare library.
func (s *testServer) libraryPair(t *testing.T) (*websocket.Conn, *Conn) {
	t.Helper()
	library, _, err := websocket.Dial(t.Context(), s.url, &websocket.DialOptions{Subprotocols: []string{testProtocol}})
	if err != nil {
		t.Fatal(err)
	}
	server := <-s.accepted
	t.Cleanup(func() {
		_ = server.Close(nil)
		_ = library.CloseNow()
	})
	return library, server
}

// expectStatus reads until the peer's close frame.
func expectStatus(t *testing.T, c *websocket.Conn, want websocket.StatusCode) websocket.CloseError {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		_, _, err := c.Read(ctx)
		if err == nil {
			continue
		}
		ce, _ := errors.AsType[websocket.CloseError](err)
		if ce.Code != want {
			t.Errorf("got %v, want a close frame with %v", err, want)
		}
		return ce
	}
}

func TestTextMessage(t *testing.T) {
	library, server := startServer(t, false).libraryPair(t)
	if err := library.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, err := server.ReadMessage(func() []byte {
		t.Error("a buffer was taken for a text message")
		return make([]byte, readLimit)
	})
	if !errors.Is(err, ErrTextMessage) {
		t.Errorf("got %v, want ErrTextMessage", err)
	}
	if err := server.WriteMessages([][]byte{{1}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write afterwards: %v, want net.ErrClosed", err)
	}
	expectStatus(t, library, websocket.StatusUnsupportedData)
}

func TestFragmentedMessage(t *testing.T) {
	library, server := startServer(t, false).libraryPair(t)
	w, err := library.Writer(t.Context(), websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	var sent []byte
	for _, n := range []int{1, 0, 5000, 126} {
		p := pattern(n)
		sent = append(sent, p...)
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, server); !bytes.Equal(got, sent) {
		t.Errorf("%d fragments' bytes arrived as %d others", len(sent), len(got))
	}
}

func TestBothWaysAtOnce(t *testing.T) {
	client, server := startServer(t, true).pair(t)
	const rounds = 60
	source := pattern(corkSize)
	batch := func(from *Conn, i int) [][]byte {
		return [][]byte{source[:i], source[:from.MaxMessage()], source[i : i*101]}
	}
	var all sync.WaitGroup
	for _, p := range []struct{ from, to *Conn }{{client, server}, {server, client}} {
		all.Go(func() {
			for i := range rounds {
				if err := p.from.WriteMessages(batch(p.from, i)); err != nil {
					t.Errorf("write: %v", err)
				}
			}
		})
		all.Go(func() {
			buf := make([]byte, readLimit)
			for i := range rounds {
				for _, want := range batch(p.from, i) {
					n, err := p.to.ReadMessage(func() []byte { return buf })
					if err != nil || !bytes.Equal(buf[:n], want) {
						t.Errorf("round %d: %d bytes, %v", i, n, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
}
