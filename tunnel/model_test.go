package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestModel plays whole lives of sessions in virtual time: several carriers
// with different delays that are cut, go silent and come back at random, lost
// HELLOs, streams that are opened by either side, half-closed, reset and left
// unread; and checks every byte at both ends against what the model says must
// arrive. SALLYPORT_MODEL_SEED repeats one run, SALLYPORT_LONG=1 plays many.
func TestModel(t *testing.T) {
	runs := 40
	if os.Getenv("SALLYPORT_LONG") != "" {
		runs = 2000
	}
	if testing.Short() {
		runs = 10
	}
	seed := rand.Uint64()
	if env := os.Getenv("SALLYPORT_MODEL_SEED"); env != "" {
		var err error
		if seed, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatal(err)
		}
		runs = 1
	}
	for range runs {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newModel(t, seed).run() })
		})
		if !ok {
			t.Fatalf("again with SALLYPORT_MODEL_SEED=%d", seed)
		}
		seed++
	}
}

// model is one run. Everything random comes from rng, which only the test's
// main goroutine and, through sub, others draw from.
type model struct {
	*pair
	rng   *rand.Rand
	links []*memLink
	work  sync.WaitGroup // streams under way
	mem   [2]*Memory
	cuts  int
}

func newModel(t *testing.T, seed uint64) *model {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := &model{rng: rng, mem: [2]*Memory{NewMemory(0), NewMemory(0)}}
	budget := []int{1, 256 << 10, 64 << 20}[rng.IntN(3)]
	streams := []uint64{4, 100}[rng.IntN(2)]
	m.pair = newPair(t,
		Options{Memory: m.mem[0], MaxStreams: streams, ReceiveBudget: budget, SendBudget: budget},
		HostOptions{Options: Options{Memory: m.mem[1], MaxStreams: streams, ReceiveBudget: budget, SendBudget: budget}})
	return m
}

func (m *model) sub() *rand.Rand { return rand.New(rand.NewPCG(m.rng.Uint64(), 2)) }

func (m *model) run() {
	m.link()
	server, err := m.host.Accept(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server = server
	if _, err := m.client.Ping(m.ctx); err != nil { // before, the session dies with its carrier: rule 8
		m.t.Fatal(err)
	}
	m.wg.Go(func() { m.hedges() })
	for _, s := range []*Session{m.client, m.server} {
		m.wg.Go(func() { m.acceptAll(s) })
	}
	for i := range 3 + m.rng.IntN(10) {
		s := []*Session{m.client, m.server}[i%2]
		rng := m.sub()
		m.work.Go(func() { m.opener(s, rng) })
	}
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	m.trouble(done)
	m.settle()
}

// trouble cuts, silences and adds carriers until the streams are done.
func (m *model) trouble(done chan struct{}) {
	start := time.Now()
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(m.rng.IntN(400)) * time.Millisecond):
		}
		if time.Since(start) > 10*time.Minute {
			m.t.Fatalf("streams are stuck after %d cuts: client %+v, server %+v", m.cuts, m.client.Stats(), m.server.Stats())
		}
		if time.Since(start) > time.Minute && m.live() > 0 {
			continue // enough: let them finish
		}
		switch l := m.links[m.rng.IntN(len(m.links))]; m.rng.IntN(6) {
		case 0, 1:
			l.cut()
			m.cuts++
		case 2:
			l.mute(true)
			m.cuts++
		case 3:
			l.mute(false)
		default:
			if m.live() < 3 {
				m.link()
			}
		}
	}
}

// live counts the links that work.
func (m *model) live() (n int) {
	for _, l := range m.links {
		if l.client.failed() == nil && !l.client.muted() {
			n++
		}
	}
	return n
}

func (c *memCarrier) muted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mute
}

// link adds a carrier with delays of its own, which now and then dies during
// the handshake or after a certain message.
func (m *model) link() {
	l := newMemLink()
	l.client.delay = time.Duration(m.rng.IntN(100)) * time.Millisecond
	l.server.delay = l.client.delay
	if m.rng.IntN(3) == 0 && len(m.links) > 0 {
		n := 1 + m.rng.IntN(20)
		doomed := []*memCarrier{l.client, l.server}[m.rng.IntN(2)]
		doomed.onMsg = func(k int) {
			if k == n {
				l.cut()
			}
		}
	}
	m.links = append(m.links, l)
	m.serve(l)
}

// hedges adds a carrier whenever the session wants one.
func (m *model) hedges() {
	for m.client.Hedge(m.ctx) == nil {
		l := newMemLink()
		m.serve(l)
		time.Sleep(time.Second)
	}
}

// plan is what one direction of a stream does; both ends derive it from a seed
// in the stream's first bytes.
type plan struct {
	seed  uint64
	size  int
	reset bool // ends in an abort instead of a FIN
}

func newPlan(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 3))
	size := []int{0, 1, 100, 10_000, 300_000, 2_000_000}[rng.IntN(6)]
	if size > 0 {
		size = rng.IntN(2 * size)
	}
	return plan{seed, size, rng.IntN(8) == 0}
}

// content is the endless byte sequence of a plan.
func (p plan) content() io.Reader {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%032d", p.seed))
	return rand.NewChaCha8(key)
}

// send writes a plan's bytes in random pieces and ends the direction.
func (p plan) send(st *Stream) error {
	rng := rand.New(rand.NewPCG(p.seed, 4))
	src := p.content()
	for left := p.size; left > 0; {
		piece := make([]byte, min(left, 1+rng.IntN(1+[]int{10, 2000, 200_000}[rng.IntN(3)])))
		io.ReadFull(src, piece)
		var err error
		if rng.IntN(2) == 0 {
			_, err = st.ReadFrom(bytes.NewReader(piece))
		} else {
			_, err = st.Write(piece)
		}
		if err != nil {
			return fmt.Errorf("write with %d of %d bytes left: %w", left, p.size, err)
		}
		left -= len(piece)
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
	}
	if p.reset {
		return st.Reset(99, "planned")
	}
	return st.CloseWrite()
}

// receive checks a direction byte by byte. An abort may cut it anywhere, a FIN
// only at its end.
func (p plan) receive(st *Stream) error {
	rng := rand.New(rand.NewPCG(p.seed, 5))
	want, got := p.content(), 0
	var expected [8 << 10]byte
	for {
		piece := make([]byte, 1+rng.IntN(len(expected)))
		n, err := st.Read(piece)
		io.ReadFull(want, expected[:n])
		if !bytes.Equal(piece[:n], expected[:n]) {
			return fmt.Errorf("stream %d: bytes differ somewhere in %d to %d", st.ID(), got, got+n)
		}
		got += n
		var se *StreamError
		switch {
		case err == nil:
		case err == io.EOF && !p.reset && got == p.size:
			return nil
		case errors.As(err, &se) && se.Code == 99 && se.Remote:
			return errPlanned
		default:
			return fmt.Errorf("stream %d: %d of %d bytes, then %w (reset planned: %v)", st.ID(), got, p.size, err, p.reset)
		}
		if rng.IntN(20) == 0 {
			time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		}
	}
}

var errPlanned = errors.New("the planned reset")

// opener opens a few streams, one after the other, and plays both its parts.
func (m *model) opener(s *Session, rng *rand.Rand) {
	for range 1 + rng.IntN(4) {
		st, err := s.Open(m.ctx)
		if err != nil {
			m.t.Errorf("open: %v", err)
			return
		}
		out, back := newPlan(rng.Uint64()), newPlan(rng.Uint64())
		if _, err := fmt.Fprintf(st, "%020d%020d", out.seed, back.seed); err != nil {
			m.t.Errorf("header: %v", err)
			return
		}
		m.play(st, out, back)
	}
}

func (m *model) acceptAll(s *Session) {
	for {
		st, err := s.Accept(m.ctx)
		if err != nil {
			return
		}
		m.wg.Go(func() {
			header := make([]byte, 40)
			if _, err := io.ReadFull(st, header); err != nil {
				var se *StreamError
				if !errors.As(err, &se) || se.Code != 99 {
					m.t.Errorf("header: %v", err)
				}
				st.Close()
				return
			}
			in, _ := strconv.ParseUint(string(header[:20]), 10, 64)
			back, _ := strconv.ParseUint(string(header[20:]), 10, 64)
			m.play(st, newPlan(back), newPlan(in))
		})
	}
}

// play runs both directions of one end.
func (m *model) play(st *Stream, out, in plan) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := out.send(st); err != nil && !in.reset {
			m.t.Errorf("stream %d: %v", st.ID(), err)
		}
	})
	wg.Go(func() {
		err := in.receive(st)
		if err != nil && !(in.reset && errors.Is(err, errPlanned)) && !out.reset {
			m.t.Error(err)
		}
	})
	wg.Wait()
	st.Close()
}

// settle checks that nothing is left over on either side.
func (m *model) settle() {
	m.link()
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Minute)
	defer cancel()
	if err := m.client.Drain(ctx); err != nil {
		m.t.Errorf("drain: %v; client %+v, server %+v", err, m.client.Stats(), m.server.Stats())
	}
	<-m.server.Done()
	m.close()
	for i, mem := range m.mem {
		if n := mem.Used(); n != 0 {
			m.t.Errorf("side %d still holds %d bytes", i, n)
		}
	}
}
