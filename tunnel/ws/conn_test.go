package ws

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
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

func TestEcho(t *testing.T) {
	sizes := []int{0, 1, 2, 125, 126, 127, 511, 512, 513, 1 << 10, 4095, 4096, 4097, 16376, 16380,
		16383, 16384, 16385, 32768, 49152, 65519, 65520, 65527, 65528, 65529, 65532}
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			client, server := startServer(t, secure).pair(t)
			for _, n := range sizes {
				m := pattern(n)
				if n <= client.MaxMessage() {
					write(t, client, m)
					if got := read(t, server); !bytes.Equal(got, m) {
						t.Fatalf("client to server, %d bytes: got %d other bytes", n, len(got))
					}
				}
				write(t, server, m)
				if got := read(t, client); !bytes.Equal(got, m) {
					t.Fatalf("server to client, %d bytes: got %d other bytes", n, len(got))
				}
			}
		})
	}
}
