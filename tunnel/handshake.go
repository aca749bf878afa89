package tunnel

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"sallyport/tunnel/internal/frame"
)

// Version is the protocol version that this package speaks.
const Version = 1

// Attach makes a carrier one of the session's, serves it, and returns when it
// is lost: why. The first Attach makes the session; while it does, others
// wait. The carrier is closed in any case.
//
// If the server does not know the session and no other carrier is attached,
// the session is over: Attach, like every call on it, returns a *CloseError
// with CloseUnknownSession. Every other failure ends this carrier only.
func (s *Session) Attach(ctx context.Context, c Carrier) error {
	a, err := s.attach(ctx, c)
	if err != nil {
		c.Close(err)
		return err
	}
	return a.serve(ctx)
}

func (s *Session) attach(ctx context.Context, c Carrier) (*attachment, error) {
	hello, err := s.clientHello(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := s.exchange(ctx, c, hello)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creating = false
	s.changed.Broadcast()
	if err != nil {
		s.attachFailed(err)
		return nil, err
	}
	if err := s.adopt(reply); err != nil {
		return nil, err
	}
	a := s.newAttachment(c, hello.Carrier)
	if err := s.arrivals(reply.Received); err != nil {
		return nil, err
	}
	if err := s.join(a, reply); err != nil {
		return nil, err
	}
	a.ping() // tells the server that its HELLO came through, and measures
	return a, nil
}

// clientHello waits while another carrier is making the session, and then
// says what this one is for. It takes the lock itself.
func (s *Session) clientHello(ctx context.Context) (*frame.Hello, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.wait(ctx, &s.changed, func() bool { return s.established || !s.creating }); err != nil {
		return nil, err
	}
	if len(s.attached) >= maxCarriers && !s.makeRoom() {
		return nil, ErrTooManyCarriers
	}
	s.creating = !s.established
	s.lastCarrier++
	h := s.hello(s.lastCarrier)
	if s.established {
		h.Session, h.Secret = s.id, s.secret
	}
	for _, a := range s.attached {
		if a.suspect {
			h.Suspects = append(h.Suspects, a.id)
		}
	}
	return h, nil
}

// makeRoom loses the oldest carrier if all have gone silent.
func (s *Session) makeRoom() bool {
	for _, a := range s.attached {
		if !a.suspect {
			return false
		}
	}
	s.attached[0].lose(ErrReplaced)
	return true
}

// hello returns what both sides say in theirs.
func (s *Session) hello(carrier uint64) *frame.Hello {
	return &frame.Hello{
		MinVersion: Version, MaxVersion: Version,
		Carrier:       carrier,
		ResumeTimeout: s.opt.ResumeTimeout,
		MaxStreams:    s.opt.MaxStreams,
		Window:        initialWindow,
		MaxDatagram:   maxDatagram,
		Software:      s.opt.Software,
		Received:      append([]frame.Received(nil), s.lostCounts...),
	}
}

// exchange sends a HELLO and returns the answer. It takes no lock.
func (s *Session) exchange(ctx context.Context, c Carrier, hello *frame.Hello) (*frame.Hello, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opt.HandshakeTimeout, ErrHandshake)
	defer cancel()
	defer s.closeAfter(ctx, c)()
	err := c.WriteMessages([][]byte{frame.AppendHello(nil, hello)})
	var reply *frame.Hello
	if err == nil {
		reply, err = readHello(c, s.opt.Memory)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case s.Err() != nil:
		return nil, s.Err()
	case err != nil:
		return nil, fmt.Errorf("exchanging HELLOs: %w", err)
	case reply.MinVersion > Version || reply.MaxVersion < Version:
		return nil, versionError(reply)
	}
	return reply, nil
}

// closeAfter closes a carrier that is not attached yet when ctx or the session
// ends, unless stop is called before.
func (s *Session) closeAfter(ctx context.Context, c Carrier) (stop func()) {
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		select {
		case <-stopped:
		case <-ctx.Done():
			c.Close(context.Cause(ctx))
		case <-s.done:
			c.Close(s.Err())
		}
	})
	return func() {
		close(stopped)
		wg.Wait()
	}
}

func versionError(h *frame.Hello) *CloseError {
	return &CloseError{Code: CloseVersion, Reason: fmt.Sprintf(
		"this agent speaks version %d of the protocol, the peer (%q) versions %d to %d: update the older one",
		Version, h.Software, h.MinVersion, h.MaxVersion)}
}

// readHello reads a carrier's first message: a HELLO, or a CLOSE, which it
// returns as a *CloseError.
func readHello(c Carrier, mem *Memory) (*frame.Hello, error) {
	r := newMessageReader(c, mem)
	defer r.release()
	n, err := r.next()
	if err != nil || n == 0 {
		return nil, cmp.Or(err, error(protocolError("the first message is empty")))
	}
	return parseFirst(r.buf.b[:n])
}

func parseFirst(msg []byte) (*frame.Hello, error) {
	var f frame.Frame
	rest, err := frame.Next(&f, msg)
	switch {
	case err != nil:
		return nil, protocolError("first message: %v", err)
	case f.Type == frame.TypeClose:
		return nil, &CloseError{Code: CloseCode(f.Code), Reason: string(f.Reason), Remote: true}
	case f.Type != frame.TypeHello || len(rest) > 0:
		return nil, protocolError("the first message must be one HELLO, got %v", f.Type)
	}
	h, err := frame.ParseHello(f.Data)
	if err != nil {
		return nil, protocolError("%v", err)
	}
	return h, nil
}

// attachFailed ends the session if the server does not know it and no carrier
// is left that proves otherwise.
func (s *Session) attachFailed(err error) {
	var refused *CloseError
	if errors.As(err, &refused) && refused.Remote && s.established && len(s.attached) == 0 {
		switch refused.Code {
		case CloseUnknownSession, CloseRefused, CloseExpired, CloseRevoked:
			s.end(refused)
		}
	}
}

// adopt takes over what the server said in its HELLO.
func (s *Session) adopt(h *frame.Hello) error {
	if s.established {
		if h.Session != s.id {
			return protocolError("the server answered for another session")
		}
		return nil
	}
	if h.Session == (frame.SessionID{}) {
		return protocolError("the server's HELLO names no session")
	}
	s.id, s.secret = h.Session, h.Secret
	s.peerSays(h)
	s.peerResume = h.ResumeTimeout
	return nil
}

// peerSays takes over the limits of the peer's first HELLO.
func (s *Session) peerSays(h *frame.Hello) {
	s.established = true
	s.maxOpen = max(s.maxOpen, h.MaxStreams)
	s.peerWindow = h.Window
	s.peerData = h.MaxDatagram
	s.changed.Broadcast()
}

// newServerSession returns the server side of a session that hello asks for.
func newServerSession(o Options, identity string, hello *frame.Hello) *Session {
	s := newSession(o)
	s.identity = identity
	rand.Read(s.id[:])
	rand.Read(s.secret[:])
	s.peerSays(hello)
	return s
}

// resumable says whether a carrier with this HELLO may join.
func (s *Session) resumable(identity string, h *frame.Hello) error {
	if !s.secret.Equal(h.Secret) || identity != s.identity {
		return &CloseError{Code: CloseRefused, Reason: "the resume secret or the identity is not the session's"}
	}
	return nil
}

// accept answers a client's HELLO and makes its carrier one of the session's.
// It takes the lock itself.
func (s *Session) accept(c Carrier, hello *frame.Hello) (*attachment, error) {
	reply, err := s.serverHello(hello)
	if err != nil {
		return nil, err
	}
	if err := c.WriteMessages([][]byte{frame.AppendHello(nil, reply)}); err != nil {
		return nil, fmt.Errorf("answering HELLO: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.newAttachment(c, hello.Carrier)
	if err := s.join(a, hello); err != nil {
		return nil, err
	}
	return a, nil
}

// knows reports whether a carrier id was used before, or is so old that it may
// have been. Ids may arrive somewhat out of order: handshakes run side by side.
func (s *Session) knows(id uint64) bool {
	for _, a := range s.attached {
		if a.id == id {
			return true
		}
	}
	for _, r := range s.lostCounts {
		if r.Carrier == id {
			return true
		}
	}
	return id+maxLost < s.lastCarrier
}

func (s *Session) serverHello(hello *frame.Hello) (*frame.Hello, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if hello.Carrier == 0 || s.knows(hello.Carrier) {
		return nil, protocolError("carrier id %d is not new", hello.Carrier)
	}
	s.lastCarrier = max(s.lastCarrier, hello.Carrier)
	s.confirmed = s.confirmed || hello.Session == s.id // the client has had our HELLO
	if err := s.arrivals(hello.Received); err != nil {
		return nil, err
	}
	reply := s.hello(hello.Carrier)
	reply.Session, reply.Secret = s.id, s.secret
	return reply, nil
}
