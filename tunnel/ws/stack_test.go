package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"
)

// recordCounter counts application data records (RFC 8446 §5.1) in a stream of
// bytes.
type recordCounter struct {
	mu      sync.Mutex
	pending []byte
	records int
}

func (r *recordCounter) add(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, p...)
	for len(r.pending) >= 5 {
		size := 5 + int(binary.BigEndian.Uint16(r.pending[3:]))
		if len(r.pending) < size {
			return
		}
		if r.pending[0] == 23 {
			r.records++
		}
		r.pending = append(r.pending[:0], r.pending[size:]...)
	}
}

func (r *recordCounter) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records
}

// countedPair is a carrier with counters below TLS at both ends.
func countedPair(t *testing.T) (client, server *Conn, below map[*Conn]*countingConn, records map[*Conn]*recordCounter) {
	t.Helper()
	atClient, atServer := &recordCounter{}, &recordCounter{}
	s := startServer(t, true, func(s *testServer, _ *http.Server, _ *tls.Config) { s.inner.record = atServer.add })
	var dialled *countingConn
	s.client.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		dialled = &countingConn{Conn: conn, record: atClient.add}
		return dialled, nil
	}
	client, server = s.pair(t)
	return client, server,
		map[*Conn]*countingConn{client: dialled, server: s.inner.last.Load()},
		map[*Conn]*recordCounter{client: atClient, server: atServer}
}

// TestOneWritePerFlush is what the corks are for.
func TestOneWritePerFlush(t *testing.T) {
	client, server, below, records := countedPair(t)
	for _, p := range []struct {
		name     string
		from, to *Conn
	}{{"client", client, server}, {"server", server, client}} {
		t.Run(p.name, func(t *testing.T) {
			full := [][]byte{pattern(p.from.MaxMessage())}
			small := make([][]byte, 60)
			for i := range small {
				small[i] = pattern(1 << 10)
			}
			flush := func(msgs [][]byte) (writes int64, made int) {
				writes, made = -below[p.from].writes.Load(), -records[p.from].count()
				if err := transfer(t, p.from, p.to, msgs); err != nil {
					t.Fatal(err)
				}
				return writes + below[p.from].writes.Load(), made + records[p.from].count()
			}
			for range 5 {
				if writes, made := flush(full); writes != 1 || made != 4 {
					t.Errorf("a full message: %d writes of %d records, want 1 of 4", writes, made)
				}
				if writes, made := flush(small); writes != 1 || made != 4 {
					t.Errorf("60 messages of 1 KB: %d writes of %d records, want 1 of 4", writes, made)
				}
				if writes, made := flush([][]byte{{1}}); writes != 1 || made != 1 {
					t.Errorf("a byte: %d writes of %d records, want 1 of 1", writes, made)
				}
			}
		})
	}
}

// TestNoAllocations: nothing above crypto/tls allocates for a message.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector makes sync.Pool drop buffers; only the messages' arrival is checked")
	}
	client, server := startServer(t, false).pair(t)
	buf := make([]byte, readLimit)
	take := func() []byte { return buf }
	for _, p := range []struct {
		name     string
		from, to *Conn
		size     int
	}{{"up small", client, server, 100}, {"up", client, server, 20000}, {"down small", server, client, 100}, {"down", server, client, 20000}} {
		msgs := [][]byte{make([]byte, p.size)}
		per := testing.AllocsPerRun(200, func() {
			if err := p.from.WriteMessages(msgs); err != nil {
				t.Fatal(err)
			}
			if n, err := p.to.ReadMessage(take); err != nil || n != p.size {
				t.Fatal(n, err)
			}
		})
		if per > 0 && !raceEnabled {
			t.Errorf("%s: %v allocations a message", p.name, per)
		}
	}
}

// TestIdleCarriersHoldNoBuffers measures what a carrier costs, both ends with
// their readers' stacks together, that has carried messages and now waits. After
// full records crypto/tls itself keeps a buffer of 40 KiB at each end.
func TestIdleCarriersHoldNoBuffers(t *testing.T) {
	for _, tt := range []struct {
		name      string
		size      int
		limitEach int64
	}{{"after small messages", 100, 45 << 10}, {"after full messages", corkSize - maxHeaderClient, 128 << 10}} {
		t.Run(tt.name, func(t *testing.T) {
			count := 100
			if raceEnabled { // not measured then, and slow
				count = 5
			}
			each, open := idleCarriers(t, count, tt.size)
			t.Logf("%d bytes for both ends of an idle carrier", each)
			if each > tt.limitEach && !raceEnabled {
				t.Errorf("%d bytes for both ends of an idle carrier, want at most %d", each, tt.limitEach)
			}
			for _, c := range open {
				if holdsBuffer(c) {
					t.Error("an idle carrier holds a buffer")
				}
			}
		})
	}
}

// idleCarriers opens count carriers that carry a message of size bytes each way
// and then are only read from. It returns their memory and all their ends.
func idleCarriers(t *testing.T, count, size int) (each int64, open []*Conn) {
	s := startServer(t, true)
	warm, _ := s.pair(t) // what is made once
	_ = warm.Close(nil)
	before := memoryInUse()
	var readers sync.WaitGroup
	for range count {
		client, server := s.pair(t)
		for _, p := range []struct{ from, to *Conn }{{client, server}, {server, client}} {
			if err := transfer(t, p.from, p.to, [][]byte{make([]byte, size)}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []*Conn{client, server} {
			open = append(open, c)
			readers.Go(func() { _, _ = c.ReadMessage(func() []byte { return nil }) })
		}
	}
	t.Cleanup(func() {
		for _, c := range open {
			_ = c.Close(errors.New("measured"))
		}
		readers.Wait()
	})
	return (memoryInUse() - before) / int64(count), open
}

// memoryInUse is the heap and all stacks, garbage collected.
func memoryInUse() int64 {
	for range 3 {
		runtime.GC() // sync.Pool lets go in two steps
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func holdsBuffer(c *Conn) bool {
	above, below := c.cork, c.cork.below
	above.mu.Lock()
	defer above.mu.Unlock()
	below.mu.Lock()
	defer below.mu.Unlock()
	return above.data != nil || above.control != nil || below.buf != nil
}

func TestThroughATLSProxy(t *testing.T) {
	// The connection to an https proxy is TLS itself; the proxy here passes on
	// what comes.
	s := startServer(t, true)
	cert, pool := testCert(t, "Proxy Authority")
	proxy, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	relays.Go(func() {
		in, err := proxy.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", s.addr)
		if err != nil {
			return
		}
		defer out.Close()
		relays.Go(func() { _, _ = io.Copy(in, out) })
		_, _ = io.Copy(out, in)
	})
	s.client.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: "localhost"}}
		return d.DialContext(ctx, "tcp", proxy.Addr().String())
	}
	client, server := s.pair(t)
	if err := transfer(t, client, server, [][]byte{pattern(client.MaxMessage())}); err != nil {
		t.Fatal(err)
	}
	if _, ok := client.NetConn().(*net.TCPConn); !ok {
		t.Errorf("NetConn is %T, want the TCP connection at the bottom", client.NetConn())
	}
	// Two layers of close_notify, nobody reading: Close must not mind.
	var ended sync.WaitGroup
	<-writeUntilBlocked(t, client, &ended)
	start := time.Now()
	_ = client.Close(nil)
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	ended.Wait()
	_ = server.Close(nil)
	_ = proxy.Close()
	relays.Wait()
}

// stubConn records writes and fails on demand.
type stubConn struct {
	net.Conn
	writes   [][]byte
	err      error
	deadline time.Time
}

func (c *stubConn) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func (c *stubConn) Close() error                       { return nil }
func (c *stubConn) SetReadDeadline(t time.Time) error  { c.deadline = t; return nil }
func (c *stubConn) SetWriteDeadline(t time.Time) error { c.deadline = t; return nil }
func (c *stubConn) SetDeadline(t time.Time) error      { c.deadline = t; return nil }

func TestRecordCork(t *testing.T) {
	t.Run("overflow keeps the order", func(t *testing.T) {
		below := &stubConn{}
		c := &recordCork{Conn: below}
		var sent []byte
		c.cork()
		for _, n := range []int{10, 16000, 50000, 16000, recordCorkSize, recordCorkSize + 1, 3} {
			p := pattern(n)
			sent = append(sent, p...)
			if m, err := c.Write(p); m != n || err != nil {
				t.Fatalf("Write: %d, %v", m, err)
			}
		}
		if err := c.uncork(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte{9}); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(below.writes, nil); !bytes.Equal(got, append(sent, 9)) {
			t.Errorf("%d bytes arrived as %d others", len(sent)+1, len(got))
		}
		if c.buf != nil {
			t.Error("a buffer is held while not corked")
		}
	})
	t.Run("an error sticks", func(t *testing.T) {
		below := &stubConn{err: io.ErrClosedPipe}
		c := &recordCork{Conn: below}
		c.cork()
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatalf("gathering failed: %v", err)
		}
		if err := c.uncork(); err != io.ErrClosedPipe {
			t.Errorf("uncork: %v", err)
		}
		below.err = nil
		if _, err := c.Write([]byte{2}); err != io.ErrClosedPipe || len(below.writes) > 0 {
			t.Errorf("after a lost record: %v, %d writes", err, len(below.writes))
		}
	})
	t.Run("frozen deadline", func(t *testing.T) {
		below := &stubConn{}
		c := &recordCork{Conn: below}
		at := time.Unix(100, 0)
		c.freezeWriteDeadline(at)
		if err := c.SetWriteDeadline(time.Unix(200, 0)); err != nil || !below.deadline.Equal(at) {
			t.Errorf("the write deadline moved to %v, %v", below.deadline, err)
		}
	})
}
