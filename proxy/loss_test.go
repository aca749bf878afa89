package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel"
	"sallyport/tunnel/ws"
)

// TestExplainLoss: each way to lose a carrier in words that name neither a library's functions nor the loss itself, and
// with what it was still to be found in it.
func TestExplainLoss(t *testing.T) {
	lost := func(err error) error {
		return fmt.Errorf("carrier lost: %w", fmt.Errorf("read from carrier: %w", fmt.Errorf("failed to get reader: %w", err)))
	}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	silent := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	for _, tt := range []struct {
		err   error
		is    error
		want  string // how it begins
		cause string // for metrics
	}{
		{lost(io.EOF), io.EOF, "connection closed without a WebSocket close (a bare EOF), by the other agent or by", "eof"},
		{lost(io.ErrUnexpectedEOF), io.ErrUnexpectedEOF, "connection closed in the middle of a message", "eof"},
		{lost(reset), syscall.ECONNRESET, "connection reset, by the other agent or by something between the agents", "reset"},
		{lost(silent), syscall.ETIMEDOUT, "connection failed: read: " + syscall.ETIMEDOUT.Error(), "timeout"},
		{lost(&ws.CloseError{Code: 1012, Reason: "restart"}), io.EOF, "carrier closed by the peer with status 1012 (restart)", "closed"},
		{
			fmt.Errorf("carrier lost: %w", fmt.Errorf("read from carrier: %w", ws.ErrTextMessage)), ws.ErrTextMessage,
			"read from carrier: text message", "other",
		},
		{tunnel.ErrDead, tunnel.ErrDead, "the carrier is dead", "dead"},
		{&tunnel.CloseError{Code: tunnel.CloseDone}, net.ErrClosed, "session ended: done", "session_ended"},
	} {
		got := explainLoss(tt.err)
		if !strings.HasPrefix(got.Error(), tt.want) || !errors.Is(got, tt.is) || lossCause(got) != tt.cause || lossCause(tt.err) != tt.cause {
			t.Errorf("%v: got %q, cause %s", tt.err, got, lossCause(got))
		}
	}
	if err := explainLoss(nil); err != nil {
		t.Errorf("no loss: %v", err)
	}
}

// TestIdleHint: only a cut without a reason, after a silence, hints at the keepalive.
func TestIdleHint(t *testing.T) {
	reset := fmt.Errorf("carrier lost: %w", syscall.ECONNRESET)
	for _, tt := range []struct {
		err     error
		silence time.Duration
		want    string
	}{
		{io.EOF, 30*time.Second + 60*time.Millisecond, "nothing had come for 30s: "},
		{reset, 10 * time.Second, "nothing had come for 10s: "},
		{io.EOF, 2 * time.Second, ""},
		{&ws.CloseError{Code: 1001}, 30 * time.Second, ""},
		{tunnel.ErrDead, 30 * time.Second, ""},
		{&tunnel.CloseError{Code: tunnel.CloseDone}, 30 * time.Second, ""},
	} {
		got := idleHint(tt.err, tt.silence)
		if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") || got != "" && !strings.Contains(got, "--keepalive") {
			t.Errorf("%v after %v: got %q", tt.err, tt.silence, got)
		}
	}
}

// TestSilence: a watched carrier knows for how long nothing had come.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memPair()
		w := &watchedCarrier{Carrier: near, joined: func() {}}
		take := func() []byte { return make([]byte, tunnel.MaxMessage) }
		for range 3 {
			time.AfterFunc(50*time.Second, func() { _ = far.WriteMessages([][]byte{{0}}) })
			if _, err := w.ReadMessage(take); err != nil {
				t.Fatal(err)
			}
		}
		time.AfterFunc(30*time.Second, func() { _ = far.Close(nil) })
		if _, err := w.ReadMessage(take); !errors.Is(err, io.EOF) || w.silence != 30*time.Second {
			t.Errorf("%v after %v", err, w.silence)
		}
	})
}
