package tunnel_test

import (
	"io"
	"testing"
)

// BenchmarkUpload and BenchmarkDownload move 64 KiB a turn through one stream
// from end to end: over TCP without TLS, and over a WebSocket with it.
func BenchmarkUpload(b *testing.B)   { benchmarkBulk(b, true) }
func BenchmarkDownload(b *testing.B) { benchmarkBulk(b, false) }

func benchmarkBulk(b *testing.B, up bool) {
	for _, kind := range []string{"tcp", "websocket"} {
		b.Run(kind, func(b *testing.B) {
			e := join(b, carriers(b)[kind])
			from, to := e.open()
			if !up {
				from, to = to, from
			}
			done := make(chan struct{})
			go func() { defer close(done); to.WriteTo(io.Discard) }()
			data := pattern(64 << 10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := from.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			from.CloseWrite()
			<-done
		})
	}
}

// BenchmarkRoundTrip echoes one byte.
func BenchmarkRoundTrip(b *testing.B) {
	for _, kind := range []string{"tcp", "websocket"} {
		b.Run(kind, func(b *testing.B) {
			e := join(b, carriers(b)[kind])
			from, to := e.open()
			go func() {
				p := make([]byte, 1)
				for {
					if _, err := to.Read(p); err != nil {
						return
					}
					to.Write(p)
				}
			}()
			p := make([]byte, 1)
			b.ReportAllocs()
			for b.Loop() {
				from.Write(p)
				if _, err := from.Read(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpenClose opens a stream, echoes one byte and closes it.
func BenchmarkOpenClose(b *testing.B) {
	e := join(b, carriers(b)["websocket"])
	go func() {
		for {
			st, err := e.server.Accept(e.ctx)
			if err != nil {
				return
			}
			go func() {
				p := make([]byte, 1)
				if _, err := st.Read(p); err == nil {
					st.Write(p)
				}
				st.Close()
			}()
		}
	}()
	p := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		st, err := e.client.Open(e.ctx)
		if err != nil {
			b.Fatal(err)
		}
		st.Write(p)
		if _, err := st.Read(p); err != nil {
			b.Fatal(err)
		}
		st.Close()
	}
}
