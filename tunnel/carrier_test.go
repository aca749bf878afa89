package tunnel

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memLink is a pair of carriers in memory that can be cut or go silent.
type memLink struct {
	client, server *memCarrier
}

// arrival is a message that can be read from a certain time on.
type arrival struct {
	data []byte
	due  time.Time
}

// memCarrier is one end.
type memCarrier struct {
	peer  *memCarrier
	mu    sync.Mutex
	cond  sync.Cond
	queue []arrival // sent to this end, not read
	bytes int
	most  int // bytes that queue takes before the writer blocks
	dead  error
	mute  bool          // what is written vanishes, what arrives does too
	delay time.Duration // of each message to this end
	wrote int           // messages written
	onMsg func(n int)   // called with the number of each message written
}

func newMemLink() *memLink {
	l := &memLink{&memCarrier{most: 1 << 20}, &memCarrier{most: 1 << 20}}
	l.client.peer, l.server.peer = l.server, l.client
	l.client.cond.L, l.server.cond.L = &l.client.mu, &l.server.mu
	return l
}

func (l *memLink) cut() {
	l.client.Close(errors.New("cut by the test"))
	l.server.Close(errors.New("cut by the test"))
}

// mute makes everything vanish from now on, while nothing is closed.
func (l *memLink) mute(on bool) {
	for _, c := range []*memCarrier{l.client, l.server} {
		c.mu.Lock()
		c.mute = on
		c.cond.Broadcast()
		c.mu.Unlock()
	}
}

func (c *memCarrier) MaxMessage() int { return MaxMessage - 4 }

func (c *memCarrier) ReadMessage(take func() []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.dead != nil {
			return 0, c.dead
		}
		if len(c.queue) > 0 && !c.mute {
			first := c.queue[0]
			if wait := time.Until(first.due); wait > 0 {
				time.AfterFunc(wait, func() {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.cond.Broadcast()
				})
			} else {
				c.queue, c.bytes = c.queue[1:], c.bytes-len(first.data)
				c.cond.Broadcast()
				return copy(take(), first.data), nil
			}
		}
		c.cond.Wait()
	}
}

func (c *memCarrier) WriteMessages(msgs [][]byte) error {
	for _, m := range msgs {
		if len(m) > c.MaxMessage() {
			return errors.New("message too large")
		}
		if err := c.peer.arrive(append([]byte(nil), m...)); err != nil {
			return err
		}
		c.wrote++
		if c.onMsg != nil {
			c.onMsg(c.wrote)
		}
	}
	return nil
}

// arrive is called on the receiving end.
func (c *memCarrier) arrive(msg []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.bytes >= c.most && c.dead == nil {
		c.cond.Wait()
	}
	if c.dead != nil {
		return c.dead
	}
	c.queue, c.bytes = append(c.queue, arrival{msg, time.Now().Add(c.delay)}), c.bytes+len(msg)
	c.cond.Broadcast()
	return nil
}

func (c *memCarrier) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

func (c *memCarrier) Close(cause error) error {
	for _, e := range []*memCarrier{c, c.peer} {
		e.mu.Lock()
		if e.dead == nil {
			e.dead = io.EOF
		}
		e.cond.Broadcast()
		e.mu.Unlock()
	}
	return nil
}
