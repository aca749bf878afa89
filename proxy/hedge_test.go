package proxy

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/tunnel"
)

// heldUp is a carrier on which, from time to time, nothing gets through for a while.
type heldUp struct {
	tunnel.Carrier
	mu   sync.Mutex
	cond *sync.Cond
	on   bool
}

func newHeldUp(c tunnel.Carrier) *heldUp {
	h := &heldUp{Carrier: c}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *heldUp) hold(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on = on
	h.cond.Broadcast()
}

func (h *heldUp) pass() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.on {
		h.cond.Wait()
	}
}

func (h *heldUp) ReadMessage(take func() []byte) (int, error) {
	n, err := h.Carrier.ReadMessage(take)
	h.pass()
	return n, err
}

func (h *heldUp) WriteMessages(msgs [][]byte) error {
	h.pass()
	return h.Carrier.WriteMessages(msgs)
}

func (h *heldUp) Close(cause error) error {
	h.hold(false)
	return h.Carrier.Close(cause)
}

// TestHedge: a hedge that the path swallows is given up for another one soon, and one that is not needed any more ends.
func TestHedge(t *testing.T) {
	var mu sync.Mutex
	var first *heldUp
	dials := 0
	w := crowdedWorld(t, func(o *ClientOptions) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, resume bool) (tunnel.Carrier, error) {
			mu.Lock()
			defer mu.Unlock()
			if dials++; dials == 2 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			c, err := dial(ctx, resume)
			if dials == 1 && err == nil {
				first = newHeldUp(c)
				return first, nil
			}
			return c, err
		}
	})
	witness := dialTest(t, "tcp", w.addr(1))
	exchange := func() {
		mustWrite(t, witness, "ping")
		mustRead(t, witness, "ping")
	}
	exchange()
	first.hold(true)
	start := time.Now()
	exchange()
	if took := time.Since(start); took > 6*time.Second || took < time.Second {
		t.Errorf("the stream went on after %v", took)
	}
	if log := w.log.text(); !strings.Contains(log, "no further carrier within 2s, beside those that have gone silent") {
		t.Error("the log does not tell of the first hedge")
	}
	first.hold(false)
	w.until("the end of the carrier that is one too many", func() bool {
		exchange()
		return w.carriersNow() == 1
	})
	if c := w.client.Status().Counters; c.SessionsLost != 0 || c.Resumes != 0 {
		t.Errorf("counters: %+v", c)
	}
}
