package proxy

import (
	"io"
	"net"
	"sync"

	"sallyport/tunnel"
)

// memCarrier is one end of a carrier in memory. As with TCP, what was written before one end closed still arrives at
// the other, and what the other writes after that vanishes.
type memCarrier struct {
	in, out chan []byte
	once    sync.Once
	closed  chan struct{}
	theirs  <-chan struct{} // the other end's closed
}

func memPair() (client, server *memCarrier) {
	a, b := make(chan []byte, 64), make(chan []byte, 64)
	client = &memCarrier{in: a, out: b, closed: make(chan struct{})}
	server = &memCarrier{in: b, out: a, closed: make(chan struct{}), theirs: client.closed}
	client.theirs = server.closed
	return client, server
}

func (c *memCarrier) ReadMessage(take func() []byte) (int, error) {
	select {
	case m := <-c.in:
		return copy(take(), m), nil
	case <-c.closed:
		return 0, net.ErrClosed
	case <-c.theirs:
	}
	select {
	case m := <-c.in:
		return copy(take(), m), nil
	default:
		return 0, io.EOF
	}
}

func (c *memCarrier) WriteMessages(msgs [][]byte) error {
	for _, m := range msgs {
		select {
		case <-c.closed:
			return net.ErrClosed
		default:
		}
		select {
		case c.out <- append([]byte(nil), m...):
		case <-c.closed:
			return net.ErrClosed
		case <-c.theirs:
		}
	}
	return nil
}

func (c *memCarrier) MaxMessage() int { return tunnel.MaxMessage }

func (c *memCarrier) Close(error) error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
