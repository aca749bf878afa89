//go:build unix

package tunnel

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"sallyport/tunnel/internal/frame"
)

// loopback returns the two ends of a TCP connection.
func loopback(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestWriteLater checks that what WriteLater was given goes out in one frame
// with what ReadFrom finds at once, alone if that finds nothing, and with the
// FIN if that finds the end.
func TestWriteLater(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(far net.Conn)
		first   string
		fin     bool
	}{
		{"with what is there", func(far net.Conn) { io.WriteString(far, "payload") }, "requestpayload", false},
		{"alone", func(net.Conn) {}, "request", false},
		{"with the end", func(far net.Conn) { far.(*net.TCPConn).CloseWrite() }, "request", true},
	} {
		for _, kind := range []string{"socket", "reader"} {
			if kind == "reader" && tt.name != "alone" {
				continue // a reader cannot tell what is there: nothing waits for it
			}
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				b := newBed(t, false, Options{})
				st, err := b.session.Open(b.ctx)
				if err != nil {
					t.Fatal(err)
				}
				near, far := loopback(t)
				tt.prepare(far)
				if tt.name != "alone" {
					awaitReadable(t, near)
				}
				st.WriteLater([]byte("request"))
				var from io.Reader = near
				if kind == "reader" {
					from = struct{ io.Reader }{near}
				}
				var copying sync.WaitGroup
				copying.Go(func() { st.ReadFrom(from); st.CloseWrite() })
				defer copying.Wait()
				defer far.Close()
				f := b.expect(frame.TypeStream)
				if string(f.Data) != tt.first || f.Fin != tt.fin {
					t.Errorf("the first frame is %q, FIN %v; want %q, %v", f.Data, f.Fin, tt.first, tt.fin)
				}
			})
		}
	}
}

// TestWriteLaterMuch checks that what is not short does not wait for a ReadFrom,
// which would itself wait for it to be sent.
func TestWriteLaterMuch(t *testing.T) {
	for _, size := range []int{maxUnsent, maxUnsent / 5} {
		b := newBed(t, false, Options{})
		st, err := b.session.Open(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		st.SetWriteDeadline(time.Now().Add(5 * time.Second))
		for done := 0; done < maxUnsent; done += size {
			if _, err := st.WriteLater(make([]byte, size)); err != nil {
				t.Fatalf("after %d bytes: %v", done, err)
			}
		}
		if _, err := st.ReadFrom(strings.NewReader("more")); err != nil {
			t.Errorf("ReadFrom after pieces of %d bytes: %v", size, err)
		}
	}
}

// awaitReadable waits until the connection has something to read, or its end.
func awaitReadable(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMessageAround checks that a message made in its data's headroom is the one
// that copying makes, and that what is sent again later is, too.
func TestMessageAround(t *testing.T) {
	mem := NewMemory(0)
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfN(rapid.Byte(), 0, headroom-streamOverhead).Draw(t, "before")
		data := rapid.SliceOfN(rapid.Byte(), 1, 2000).Draw(t, "data")
		st := &Stream{id: rapid.Uint64Range(0, frame.MaxVarint).Draw(t, "id")}
		o := &st.out
		o.written = rapid.Uint64Range(0, 1<<40).Draw(t, "offset")
		o.base, o.sent = o.written, o.written
		o.limit = o.written + 1<<20
		buf := mem.get(headroom + len(data))
		o.push(buf, append(buf.b[headroom:headroom], data...), true)
		room := rapid.IntRange(1, 3000).Draw(t, "room")
		f, ok := o.next(st, room, 1)
		if !ok || !f.room {
			t.Fatalf("frame %v, room %v", ok, f.room)
		}
		want := frame.AppendStream(bytes.Clone(before), st.id, f.off, f.data, f.fin, true)
		if got := f.around(bytes.Clone(before)); !bytes.Equal(got, want) {
			t.Fatalf("made in place %x\nwant %x", got, want)
		}
		o.onLoss(f.off, f.off+uint64(len(f.data)), false)
		again, _ := o.next(st, 3000, 1)
		if again.room || !bytes.Equal(again.data, f.data) {
			t.Fatalf("sent again: %x, room %v; first %x", again.data, again.room, f.data)
		}
		f.buf.release()
		again.buf.release()
		o.drop()
	})
	if used := mem.Used(); used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
}

// TestAfterDone checks that AfterDone's function runs once when the stream is
// done, at once if it is, and not after stop.
func TestAfterDone(t *testing.T) {
	b := newBed(t, true, Options{})
	b.send(frame.AppendStream(nil, b.peerID(0), 0, []byte("a"), false, true))
	st := accepted(t, b)
	ran := make(chan int, 10)
	st.AfterDone(func() { ran <- 1 })
	stop := st.AfterDone(func() { ran <- 2 })
	if !stop() || stop() {
		t.Error("stop must succeed once")
	}
	kept := st.AfterDone(func() { ran <- 3 })
	select {
	case n := <-ran:
		t.Errorf("function %d ran before the stream was done", n)
	default:
	}
	b.send(frame.AppendResetStream(nil, b.peerID(0), 20, 1, "gone"),
		frame.AppendStopSending(nil, b.peerID(0), 20, "gone"))
	if got := <-ran + <-ran; got != 4 {
		t.Errorf("functions that ran sum to %d, want 1 and 3", got)
	}
	<-st.Done()
	if kept() {
		t.Error("stop succeeded after the function ran")
	}
	st.AfterDone(func() { ran <- 5 })
	if got := <-ran; got != 5 {
		t.Errorf("function %d ran, want 5", got)
	}
	st.Reset(20, "over")
}
