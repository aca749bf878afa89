package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two ends of a TCP connection, the first one wrapped.
func pair(t testing.TB) (net.Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return Wrap(near), far.(*net.TCPConn)
}

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		near, far := pair(t)
		return near, Wrap(far), func() { near.Close(); far.Close() }, nil
	})
}

// Wrap says what this system and build are expected to do; otherwise the tests here would test package net.
func TestWrap(t *testing.T) {
	near, far := pair(t)
	if _, wrapped := near.(*Conn); wrapped != quick {
		t.Errorf("a TCP connection became a %T; quick is %v", near, quick)
	}
	if c, ok := near.(interface{ NetConn() net.Conn }); ok {
		if _, ok := c.NetConn().(*net.TCPConn); !ok {
			t.Errorf("NetConn is a %T", c.NetConn())
		}
	}
	if pipe, other := net.Pipe(); Wrap(pipe) != pipe {
		t.Error("a pipe was wrapped")
	} else {
		pipe.Close()
		other.Close()
	}
	_ = far
}

// Errors are those of package net, text included.
func TestErrors(t *testing.T) {
	buf := make([]byte, 10)
	for _, tt := range []struct {
		name string
		op   func(near net.Conn, far *net.TCPConn) error
		want error
	}{
		{"end of file", func(near net.Conn, far *net.TCPConn) error {
			far.CloseWrite()
			_, err := near.Read(buf)
			return err
		}, io.EOF},
		{"read after close", func(near net.Conn, _ *net.TCPConn) error {
			near.Close()
			_, err := near.Read(buf)
			return err
		}, net.ErrClosed},
		{"write after close", func(near net.Conn, _ *net.TCPConn) error {
			near.Close()
			_, err := near.Write(buf)
			return err
		}, net.ErrClosed},
		{"read deadline", func(near net.Conn, _ *net.TCPConn) error {
			near.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := near.Read(buf)
			return err
		}, os.ErrDeadlineExceeded},
		{"write deadline", func(near net.Conn, _ *net.TCPConn) error {
			near.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := near.Write(make([]byte, 64<<20))
			return err
		}, os.ErrDeadlineExceeded},
		{"reset", func(near net.Conn, far *net.TCPConn) error {
			far.SetLinger(0)
			far.Close()
			_, err := near.Read(buf)
			return err
		}, syscall.ECONNRESET},
		{"write to who is gone", func(near net.Conn, far *net.TCPConn) error {
			far.SetLinger(0)
			far.Close()
			near.Read(buf)
			_, err := near.Write(buf)
			return err
		}, syscall.EPIPE},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := pair(t)
			err := tt.op(near, far)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err == io.EOF { // the bare one
				return
			}
			plain, far := pair(t)
			if c, ok := plain.(*Conn); ok {
				plain = c.TCPConn
			}
			if want := tt.op(plain, far); strip(err) != strip(want) {
				t.Errorf("%q, package net says %q", strip(err), strip(want))
			}
		})
	}
}

// strip returns an error's text without the addresses.
func strip(err error) string {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return err.Error()
	}
	return op.Op + " " + op.Net + ": " + op.Err.Error()
}

// Much at once, in both directions, through deadlines that come and go.
func TestBulk(t *testing.T) {
	near, far := pair(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	written := make(chan error, 2)
	go func() { _, err := near.Write(data); written <- err }()
	go func() { _, err := far.Write(data); written <- err }()
	got := make(chan []byte, 2)
	read := func(c net.Conn) {
		b := make([]byte, len(data))
		_, _ = io.ReadFull(c, b)
		got <- b
	}
	go read(near)
	go read(far)
	for range 2 {
		if err := <-written; err != nil {
			t.Error(err)
		}
		if !bytes.Equal(<-got, data) {
			t.Error("what arrived differs")
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	near, far := pair(b)
	other := Wrap(far)
	go func() {
		buf := make([]byte, 1)
		for {
			if _, err := other.Read(buf); err != nil {
				return
			}
			if _, err := other.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := near.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := near.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
