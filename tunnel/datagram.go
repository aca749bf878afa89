package tunnel

import (
	"context"
	"errors"
	"fmt"

	"sallyport/tunnel/internal/frame"
)

// datagram is one unreliable message of a flow, which is named by a stream.
type datagram struct {
	stream *Stream
	data   []byte
}

// Errors of SendDatagram.
var (
	ErrDatagramTooLarge = fmt.Errorf("a datagram may have at most %d bytes", maxDatagram)
	ErrNoDatagrams      = errors.New("the peer takes no datagrams")
)

// SendDatagram sends p unreliably, on the flow that the stream names: it may be
// lost, overtaken or dropped, silently, when too many wait: the new one beyond 64
// of a flow, the oldest beyond 256 KiB of a session. It is never sent twice.
func (st *Stream) SendDatagram(p []byte) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case st.abandoned:
		return s.err
	case st.forgotten || st.released:
		return errClosedStream
	case s.peerData == 0:
		return ErrNoDatagrams
	case uint64(len(p)) > min(s.peerData, maxDatagram):
		return ErrDatagramTooLarge
	}
	if s.pick() == nil || st.datagramsDue == maxFlowDatagrams {
		s.counters.datagramsDropped++
		return nil
	}
	s.datagrams.push(datagram{st, append([]byte(nil), p...)})
	s.datagramBytes += len(p)
	st.datagramsDue++
	for s.datagramBytes > maxDatagramBytes {
		s.popDatagram()
		s.counters.datagramsDropped++
	}
	s.wakeAny()
	return nil
}

// appendDatagrams appends those that wait, as far as there is room.
func (s *Session) appendDatagrams(b []byte, largest int) []byte {
	for s.datagrams.len() > 0 {
		d := s.datagrams.at(0)
		if len(b)+len(d.data)+streamOverhead+maxControl > largest && len(b) > maxControl {
			break
		}
		b = frame.AppendDatagram(b, d.stream.id, d.data)
		s.popDatagram()
	}
	return b
}

// popDatagram takes the first of those that wait out of the queue.
func (s *Session) popDatagram() {
	d := s.datagrams.pop()
	d.stream.datagramsDue--
	s.datagramBytes -= len(d.data)
}

// ReceiveDatagram waits for the next datagram of the stream's flow.
func (st *Stream) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.wait(ctx, &st.readable, func() bool {
		return st.datagrams.len() > 0 || st.in.done() || st.in.discard
	})
	switch {
	case st.datagrams.len() > 0:
		d := st.datagrams.pop()
		s.counters.datagramsHeld -= len(d.data)
		return d.data, nil
	case err != nil:
		return nil, err
	}
	return nil, errClosedStream
}

// onDatagram hands a datagram to its flow, or drops it if too many wait.
func (s *Session) onDatagram(f *frame.Frame) error {
	st, err := s.peerStream(f.Stream)
	if st == nil || err != nil {
		return err
	}
	if len(f.Data) > maxDatagram {
		return protocolError("datagram of %d bytes", len(f.Data))
	}
	if st.in.discard || st.in.done() || st.datagrams.len() >= maxFlowDatagrams || s.counters.datagramsHeld+len(f.Data) > maxDatagramBytes {
		s.counters.datagramsDropped++
		return nil
	}
	st.datagrams.push(datagram{st, append([]byte(nil), f.Data...)})
	s.counters.datagramsHeld += len(f.Data)
	st.readable.Broadcast()
	return nil
}

// dropDatagrams drops those that nobody will receive any more.
func (st *Stream) dropDatagrams() {
	for st.datagrams.len() > 0 {
		st.session.counters.datagramsHeld -= len(st.datagrams.pop().data)
	}
}
