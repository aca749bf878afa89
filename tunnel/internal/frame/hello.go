package frame

import (
	"crypto/subtle"
	"fmt"
	"time"
)

// Limits of a HELLO, so that nothing before authentication costs more than a few KiB.
const (
	MaxHello    = 4 << 10 // bytes of its body
	MaxCarriers = 64      // carriers that one HELLO may name in each of its lists
	maxSoftware = 64      // bytes of the software version
)

// SessionID names a session. It is not a secret.
type SessionID [16]byte

// Secret is what resuming a session needs, beside the same identity.
type Secret [32]byte

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s[:], o[:]) == 1 }

// String hides the secret from every log.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[secret]" }

// Received says how many messages of a lost carrier had arrived.
type Received struct {
	Carrier uint64
	Count   uint64
}

// Hello is the body of a HELLO frame: the range of versions that the sender
// speaks, and parameters. A zero parameter is left out.
type Hello struct {
	MinVersion, MaxVersion uint64

	Session       SessionID     // zero in a client's first HELLO: asks for a new session
	Secret        Secret        // with Session
	Carrier       uint64        // chosen by the client: unique in its session, growing, from 1
	ResumeTimeout time.Duration // how long the sender keeps a session without a carrier; whole ms
	MaxStreams    uint64        // how many streams the receiver may open at first
	Window        uint64        // credit in bytes that the sender grants on each new stream
	MaxDatagram   uint64        // largest DATAGRAM payload accepted; 0: DATAGRAM is not understood
	Software      string        // name and version, for logs
	Received      []Received    // of carriers that the sender has lost
	Suspects      []uint64      // carriers that went silent on the sender
}

// The parameters of a HELLO. Unknown ones are ignored, so that a new one needs no new version.
const (
	paramSession       = 0x01 // 16 bytes
	paramSecret        = 0x02 // 32 bytes
	paramCarrier       = 0x03 // varint
	paramResumeTimeout = 0x04 // varint, ms
	paramMaxStreams    = 0x05 // varint
	paramWindow        = 0x06 // varint, bytes
	paramMaxDatagram   = 0x07 // varint, bytes
	paramSoftware      = 0x08 // UTF-8
	paramReceived      = 0x09 // carrier id, count; repeated
	paramSuspects      = 0x0a // carrier id; repeated
)

// AppendHello appends a HELLO frame.
func AppendHello(b []byte, h *Hello) []byte {
	body := make([]byte, 0, 256)
	body = AppendVarint(body, h.MinVersion)
	body = AppendVarint(body, h.MaxVersion)
	if h.Session != (SessionID{}) {
		body = appendParam(body, paramSession, h.Session[:])
		body = appendParam(body, paramSecret, h.Secret[:])
	}
	for _, p := range []struct{ id, v uint64 }{
		{paramCarrier, h.Carrier},
		{paramResumeTimeout, uint64(h.ResumeTimeout.Milliseconds())},
		{paramMaxStreams, h.MaxStreams},
		{paramWindow, h.Window},
		{paramMaxDatagram, h.MaxDatagram},
	} {
		if p.v != 0 {
			body = appendParam(body, p.id, AppendVarint(nil, p.v))
		}
	}
	if h.Software != "" {
		body = appendParam(body, paramSoftware, []byte(h.Software[:min(len(h.Software), maxSoftware)]))
	}
	var list []byte
	for _, r := range h.Received[:min(len(h.Received), MaxCarriers)] {
		list = AppendVarint(AppendVarint(list, r.Carrier), r.Count)
	}
	if list != nil {
		body = appendParam(body, paramReceived, list)
	}
	list = nil
	for _, id := range h.Suspects[:min(len(h.Suspects), MaxCarriers)] {
		list = AppendVarint(list, id)
	}
	if list != nil {
		body = appendParam(body, paramSuspects, list)
	}
	b = append(b, byte(TypeHello))
	b = AppendVarint(b, uint64(len(body)))
	return append(b, body...)
}

func appendParam(b []byte, id uint64, value []byte) []byte {
	b = AppendVarint(b, id)
	b = AppendVarint(b, uint64(len(value)))
	return append(b, value...)
}

// ParseHello parses the body of a HELLO frame ([Frame.Data]). A parameter
// that stands twice is an error: two readings of one message are one too many.
func ParseHello(body []byte) (*Hello, error) {
	if len(body) > MaxHello {
		return nil, fmt.Errorf("HELLO of %d bytes, %d allowed: %w", len(body), MaxHello, ErrMalformed)
	}
	r := reader{b: body}
	h := &Hello{MinVersion: r.varint(), MaxVersion: r.varint()}
	if r.err == nil && h.MinVersion > h.MaxVersion {
		r.fail(ErrMalformed)
	}
	var seen uint64
	for r.err == nil && len(r.b) > 0 {
		id := r.varint()
		value := reader{b: r.bytes(r.varint())}
		if r.err != nil || id >= 64 {
			continue
		}
		if seen&(1<<id) != 0 {
			r.fail(ErrMalformed)
			break
		}
		seen |= 1 << id
		if err := h.param(id, &value); err != nil {
			return nil, fmt.Errorf("HELLO parameter 0x%02x: %w", id, err)
		}
	}
	if (h.Session == SessionID{}) != (h.Secret == Secret{}) {
		r.fail(ErrMalformed) // one is of no use without the other
	}
	if r.err != nil {
		return nil, fmt.Errorf("HELLO: %w", r.err)
	}
	return h, nil
}

// param takes one parameter's value; an unknown parameter is skipped.
func (h *Hello) param(id uint64, v *reader) error {
	switch id {
	case paramSession:
		copy(h.Session[:], v.exactly(len(h.Session)))
	case paramSecret:
		copy(h.Secret[:], v.exactly(len(h.Secret)))
	case paramCarrier:
		h.Carrier = v.varint()
	case paramResumeTimeout:
		h.ResumeTimeout = time.Duration(min(v.varint(), uint64((365*24*time.Hour).Milliseconds()))) * time.Millisecond
	case paramMaxStreams:
		h.MaxStreams = v.varint()
	case paramWindow:
		h.Window = v.varint()
	case paramMaxDatagram:
		h.MaxDatagram = v.varint()
	case paramSoftware:
		if len(v.b) > maxSoftware {
			v.fail(ErrMalformed)
		}
		h.Software = string(v.bytes(uint64(len(v.b))))
	case paramReceived:
		for v.err == nil && len(v.b) > 0 && len(h.Received) < MaxCarriers {
			h.Received = append(h.Received, Received{v.varint(), v.varint()})
		}
	case paramSuspects:
		for v.err == nil && len(v.b) > 0 && len(h.Suspects) < MaxCarriers {
			h.Suspects = append(h.Suspects, v.varint())
		}
	default:
		return nil
	}
	if v.err == nil && len(v.b) > 0 {
		return ErrMalformed
	}
	return v.err
}

func (r *reader) exactly(n int) []byte {
	if len(r.b) != n {
		r.fail(ErrMalformed)
	}
	return r.bytes(uint64(len(r.b)))
}
