package ws

import (
	"crypto/rand"
	"encoding/binary"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Opcodes of control frames (RFC 6455 §5.5).
const (
	opClose = 0x8
	opPong  = 0xA
)

// maxControlPayload is what a control frame carries at most, in bytes.
const maxControlPayload = 125

// closeFrame is a close frame (RFC 6455 §5.5.1). It is made here because the
// library, having sent one, waits seconds for the peer's.
func closeFrame(code websocket.StatusCode, reason string, masked bool) []byte {
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	return controlFrame(opClose, append(payload, truncate(reason, maxControlPayload-2)...), masked)
}

// controlFrame is a frame with a payload of at most maxControlPayload bytes,
// masked for a client to send (RFC 6455 §5.2).
func controlFrame(opcode byte, payload []byte, masked bool) []byte {
	const fin, maskBit = 0x80, 0x80
	frame := []byte{fin | opcode, byte(len(payload))}
	if !masked {
		return append(frame, payload...)
	}
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails
	frame[1] |= maskBit
	frame = append(frame, key[:]...)
	for i, b := range payload {
		frame = append(frame, b^key[i%4])
	}
	return frame
}

// truncate cuts s to at most limit bytes of valid UTF-8.
func truncate(s string, limit int) string {
	s = clean(s, limit)
	for len(s) > limit {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}
