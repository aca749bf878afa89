//go:build unix

package ws

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cpuSeconds is the processor time this process has used.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return (time.Duration(u.Utime.Nano()) + time.Duration(u.Stime.Nano())).Seconds()
}

// measure runs transfer, which moves b.N times size bytes, and reports bytes
// for each second of processor time of both ends together: what a wall clock
// shows depends on who else uses the machine.
func measure(b *testing.B, size int, transfer func()) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuSeconds()
	transfer()
	b.StopTimer()
	if used := cpuSeconds() - start; used > 0 {
		b.ReportMetric(float64(b.N)*float64(size)/used/1e6, "MB/cpu-s")
	}
}

// rawTLS is a pair of bare crypto/tls connections.
func rawTLS(b *testing.B) (client, server *tls.Conn) {
	b.Helper()
	cert, pool := testCert(b, "Test Authority")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	other, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	client = tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	server = tls.Server(other, &tls.Config{Certificates: []tls.Certificate{cert}})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = raw.Close()
		_ = other.Close()
	})
	return client, server
}

// BenchmarkRawTLS is the yardstick: crypto/tls with nothing above it.
func BenchmarkRawTLS(b *testing.B) {
	for _, size := range []int{64 << 10, 4 << 10, 1 << 10} {
		b.Run(fmt.Sprintf("%dKB", size>>10), func(b *testing.B) {
			client, server := rawTLS(b)
			out, in := make([]byte, size), make([]byte, 64<<10)
			measure(b, size, func() {
				var writer sync.WaitGroup
				defer writer.Wait()
				writer.Go(func() {
					for range b.N {
						if _, err := client.Write(out); err != nil {
							b.Error(err)
							return
						}
					}
				})
				if _, err := io.CopyBuffer(discard{}, io.LimitReader(server, int64(b.N)*int64(size)), in); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// discard has no ReadFrom, so that io.CopyBuffer uses its buffer.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkThroughput(b *testing.B) {
	for _, up := range []bool{true, false} {
		name := "server-to-client"
		if up {
			name = "client-to-server"
		}
		b.Run(name, func(b *testing.B) {
			for _, shape := range []struct{ size, batch int }{
				{0, 1}, {4 << 10, 1}, {4 << 10, 16}, {1 << 10, 1}, {1 << 10, 16}, {1 << 10, 64},
			} {
				label := fmt.Sprintf("%dKB/%d-a-cork", shape.size>>10, shape.batch)
				if shape.size == 0 {
					label = "full/1-a-cork"
				}
				b.Run(label, func(b *testing.B) {
					client, server := startServer(b, true).pair(b)
					from, to := server, client
					if up {
						from, to = client, server
					}
					size := shape.size
					if size == 0 {
						size = from.MaxMessage()
					}
					stream(b, from, to, size, shape.batch)
				})
			}
		})
	}
}

// stream sends b.N messages of size bytes, batch of them a WriteMessages.
func stream(b *testing.B, from, to *Conn, size, batch int) {
	b.Helper()
	msgs := make([][]byte, batch)
	for i := range msgs {
		msgs[i] = make([]byte, size)
	}
	in := make([]byte, readLimit)
	take := func() []byte { return in }
	measure(b, size, func() {
		var writer sync.WaitGroup
		defer writer.Wait()
		writer.Go(func() {
			for left := b.N; left > 0; left -= batch {
				if err := from.WriteMessages(msgs[:min(batch, left)]); err != nil {
					b.Error(err)
					return
				}
			}
		})
		for range b.N {
			if _, err := to.ReadMessage(take); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRoundTrip is an echo of a small message.
func BenchmarkRoundTrip(b *testing.B) {
	b.Run("carrier", func(b *testing.B) {
		client, server := startServer(b, true).pair(b)
		done := make(chan struct{})
		go func() {
			defer close(done)
			echo(server)
		}()
		out, in := [][]byte{make([]byte, 32)}, make([]byte, readLimit)
		take := func() []byte { return in }
		b.ReportAllocs()
		for b.Loop() {
			if err := client.WriteMessages(out); err != nil {
				b.Fatal(err)
			}
			if _, err := client.ReadMessage(take); err != nil {
				b.Fatal(err)
			}
		}
		_ = client.Close(nil)
		<-done
	})
	b.Run("raw", func(b *testing.B) {
		client, server := rawTLS(b)
		go func() { _, _ = io.Copy(server, server) }()
		out, in := make([]byte, 32), make([]byte, 32)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Write(out); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
