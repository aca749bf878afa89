package frame

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestVectors reads the test vectors of PROTOCOL.md: each must be written and
// read as it stands there.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```vectors\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("PROTOCOL.md has no block of vectors")
	}
	seen := map[string]bool{}
	for line := range strings.Lines(block) {
		words := strings.Fields(line)
		name, wire := words[0], words[len(words)-1]
		fields := map[string]string{}
		for _, w := range words[1 : len(words)-1] {
			k, v, _ := strings.Cut(w, "=")
			fields[k] = v
		}
		seen[name] = true
		if got := hex.EncodeToString(write(t, name, fields)); got != wire {
			t.Errorf("%s writes %s, PROTOCOL.md has %s", strings.TrimSpace(line), got, wire)
		}
		raw, err := hex.DecodeString(wire)
		if err != nil {
			t.Fatal(err)
		}
		var f Frame
		if rest, err := Next(&f, raw); err != nil || len(rest) > 0 || f.Type.String() != name {
			t.Errorf("%s reads as %v, rest %d, %v", wire, f.Type, len(rest), err)
		}
	}
	for _, name := range typeNames {
		if name != "" && !seen[name] {
			t.Errorf("PROTOCOL.md has no vector for %s", name)
		}
	}
}

// write appends the frame that a vector's words describe.
func write(t *testing.T, name string, f map[string]string) []byte {
	t.Helper()
	n := func(key string) uint64 {
		v, err := strconv.ParseUint(f[key], 10, 62)
		if err != nil {
			t.Fatalf("%s: %s: %v", name, key, err)
		}
		return v
	}
	switch name {
	case "PING":
		return AppendPing(nil, n("number"))
	case "PONG":
		return AppendPong(nil, n("number"))
	case "RESET_STREAM":
		return AppendResetStream(nil, n("stream"), n("code"), n("size"), f["reason"])
	case "STOP_SENDING":
		return AppendStopSending(nil, n("stream"), n("code"), f["reason"])
	case "CREDIT":
		return AppendCredit(nil, n("stream"), n("limit"))
	case "MAX_STREAMS":
		return AppendMaxStreams(nil, n("count"))
	case "CARRIER_ACK":
		return AppendCarrierAck(nil, n("count"), n("delay"))
	case "DATAGRAM":
		return AppendDatagram(nil, n("stream"), []byte(f["data"]))
	case "GOAWAY":
		return AppendGoAway(nil, n("code"), n("delay"), f["url"], f["reason"])
	case "CLOSE":
		return AppendClose(nil, n("code"), f["reason"])
	case "STREAM":
		return AppendStream(nil, n("stream"), n("offset"), []byte(f["data"]), f["fin"] == "yes", f["length"] == "no")
	case "HELLO":
		h := Hello{Carrier: n("carrier"), MaxStreams: n("max_streams"), Window: n("window")}
		fmt.Sscanf(f["versions"], "%d-%d", &h.MinVersion, &h.MaxVersion)
		return AppendHello(nil, &h)
	}
	t.Fatalf("unknown frame %s", name)
	return nil
}
