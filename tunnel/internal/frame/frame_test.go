package frame

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestVarintRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64Range(0, MaxVarint).Draw(t, "v")
		b := AppendVarint(nil, v)
		if len(b) != VarintLen(v) {
			t.Fatalf("VarintLen(%d) = %d, wrote %d", v, VarintLen(v), len(b))
		}
		r := reader{b: b}
		if got := r.varint(); got != v || r.err != nil || len(r.b) != 0 {
			t.Fatalf("read %d, %v, rest %d; want %d", got, r.err, len(r.b), v)
		}
	})
}

// RFC 9000 §A.1 gives these.
func TestVarintVectors(t *testing.T) {
	for _, c := range []struct {
		b []byte
		v uint64
	}{
		{[]byte{0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c}, 151288809941952652},
		{[]byte{0x9d, 0x7f, 0x3e, 0x7d}, 494878333},
		{[]byte{0x7b, 0xbd}, 15293},
		{[]byte{0x25}, 37},
		{[]byte{0x40, 0x25}, 37},
	} {
		r := reader{b: c.b}
		if got := r.varint(); got != c.v || r.err != nil {
			t.Errorf("% x: got %d, %v; want %d", c.b, got, r.err, c.v)
		}
	}
}

// every returns one frame of each type, with the bytes it is written as.
func every() map[string]struct {
	wire []byte
	want Frame
} {
	type row = struct {
		wire []byte
		want Frame
	}
	return map[string]row{
		"ping":     {AppendPing(nil, 7), Frame{Type: TypePing, Count: 7}},
		"pong":     {AppendPong(nil, 1<<20), Frame{Type: TypePong, Count: 1 << 20}},
		"reset":    {AppendResetStream(nil, 3, 9, 100, "gone"), Frame{Type: TypeResetStream, Stream: 3, Code: 9, Offset: 100, Reason: []byte("gone")}},
		"stop":     {AppendStopSending(nil, 3, 9, "enough"), Frame{Type: TypeStopSending, Stream: 3, Code: 9, Reason: []byte("enough")}},
		"credit":   {AppendCredit(nil, 2, 1<<32), Frame{Type: TypeCredit, Stream: 2, Offset: 1 << 32}},
		"streams":  {AppendMaxStreams(nil, 500), Frame{Type: TypeMaxStreams, Count: 500}},
		"ack":      {AppendCarrierAck(nil, 12, 250), Frame{Type: TypeCarrierAck, Count: 12, Delay: 250}},
		"datagram": {AppendDatagram(nil, 4, []byte("udp")), Frame{Type: TypeDatagram, Stream: 4, Data: []byte("udp")}},
		"goaway":   {AppendGoAway(nil, 1, 500, "wss://b/", "moving"), Frame{Type: TypeGoAway, Code: 1, Delay: 500, Data: []byte("wss://b/"), Reason: []byte("moving")}},
		"close":    {AppendClose(nil, 2, "bye"), Frame{Type: TypeClose, Code: 2, Reason: []byte("bye")}},
		"stream":   {AppendStream(nil, 6, 70000, []byte("data"), true, false), Frame{Type: TypeStream, Stream: 6, Offset: 70000, Fin: true, Data: []byte("data")}},
		"last":     {AppendStream(nil, 6, 0, []byte("data"), false, true), Frame{Type: TypeStream, Stream: 6, Data: []byte("data")}},
	}
}

func TestRoundTripAndTruncation(t *testing.T) {
	for name, c := range every() {
		var f Frame
		rest, err := Next(&f, c.wire)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(f, c.want) {
			t.Errorf("%s: got %+v, rest %d, %v; want %+v", name, f, len(rest), err, c.want)
		}
		if name == "last" {
			continue // without a length, a shorter one is another valid frame
		}
		for n := range c.wire {
			if _, err := Next(&f, c.wire[:n]); !errors.Is(err, ErrTruncated) {
				t.Errorf("%s cut to %d of %d bytes: %v, want ErrTruncated", name, n, len(c.wire), err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("x", MaxReason+1)
	for name, c := range map[string]struct {
		wire []byte
		want error
	}{
		"type 0":            {[]byte{0}, ErrUnknown},
		"type above CLOSE":  {[]byte{0x0c}, ErrUnknown},
		"type above STREAM": {[]byte{0x14}, ErrUnknown},
		"huge type":         {AppendVarint(nil, MaxVarint), ErrUnknown},
		"offset overflow":   {AppendStream(nil, 1, MaxVarint, []byte("x"), false, true), ErrMalformed},
		"long reason":       {append(append(append([]byte{byte(TypeClose)}, 1), AppendVarint(nil, uint64(len(long)))...), long...), ErrMalformed},
	} {
		var f Frame
		if _, err := Next(&f, c.wire); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestLongReasonIsCutAtARune(t *testing.T) {
	var f Frame
	if _, err := Next(&f, AppendClose(nil, 0, "x"+strings.Repeat("é", MaxReason))); err != nil {
		t.Fatal(err)
	}
	if len(f.Reason) > MaxReason || !bytes.HasSuffix(f.Reason, []byte("é")) {
		t.Fatalf("reason of %d bytes ends in % x", len(f.Reason), f.Reason[len(f.Reason)-2:])
	}
}

func TestHelloRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string) uint64 { return rapid.Uint64Range(0, MaxVarint).Draw(t, name) }
		h := Hello{
			MinVersion: 1, MaxVersion: 1 + rapid.Uint64Range(0, 9).Draw(t, "versions"),
			Carrier: n("carrier"), MaxStreams: n("streams"), Window: n("window"), MaxDatagram: n("datagram"),
			ResumeTimeout: time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "resume")) * time.Millisecond,
			Software:      rapid.StringMatching(`[a-z./0-9]{0,64}`).Draw(t, "software"),
		}
		if rapid.Bool().Draw(t, "resumes") {
			h.Session[3], h.Secret[31] = 1, 2
		}
		for range rapid.IntRange(0, MaxCarriers).Draw(t, "received") {
			h.Received = append(h.Received, Received{n("id"), n("count")})
		}
		for range rapid.IntRange(0, MaxCarriers).Draw(t, "suspects") {
			h.Suspects = append(h.Suspects, n("id"))
		}
		var f Frame
		if _, err := Next(&f, AppendHello(nil, &h)); err != nil {
			t.Fatal(err)
		}
		got, err := ParseHello(f.Data)
		if err != nil || !reflect.DeepEqual(*got, h) {
			t.Fatalf("got %+v, %v; want %+v", got, err, h)
		}
	})
}

func TestHelloUnknownParameterIsIgnored(t *testing.T) {
	for _, id := range []uint64{0x3f, 0x40, MaxVarint} {
		body := appendParam(AppendVarint(AppendVarint(nil, 1), 1), id, []byte("whatever"))
		if h, err := ParseHello(body); err != nil || h.MaxVersion != 1 {
			t.Errorf("parameter 0x%x: %+v, %v", id, h, err)
		}
	}
}

func TestHelloRefused(t *testing.T) {
	ok := AppendVarint(AppendVarint(nil, 1), 1)
	for name, body := range map[string][]byte{
		"empty":             {},
		"versions crossed":  AppendVarint(AppendVarint(nil, 2), 1),
		"short session":     appendParam(ok, paramSession, make([]byte, 15)),
		"long secret":       appendParam(ok, paramSecret, make([]byte, 33)),
		"number and more":   appendParam(ok, paramCarrier, []byte{1, 2}),
		"only a session":    appendParam(ok, paramSession, []byte("0123456789abcdef")),
		"twice":             appendParam(appendParam(ok, paramCarrier, []byte{1}), paramCarrier, []byte{2}),
		"half a pair":       appendParam(ok, paramReceived, []byte{1}),
		"software too long": appendParam(ok, paramSoftware, make([]byte, maxSoftware+1)),
		"too large":         append(ok, make([]byte, MaxHello)...),
	} {
		if h, err := ParseHello(body); err == nil {
			t.Errorf("%s: accepted as %+v", name, h)
		}
	}
}

func TestSecretNeverPrints(t *testing.T) {
	h := Hello{Secret: Secret{1, 2, 3}}
	for _, s := range []string{h.Secret.String(), h.Secret.GoString()} {
		if s != "[secret]" {
			t.Errorf("prints %q", s)
		}
	}
}

// FuzzNext: any bytes parse into frames or an error, and never allocate.
func FuzzNext(f *testing.F) {
	for _, c := range every() {
		f.Add(c.wire)
	}
	f.Add(AppendHello(nil, &Hello{MinVersion: 1, MaxVersion: 1, Session: SessionID{1}, Received: []Received{{1, 2}}}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		for len(msg) > 0 {
			var fr Frame
			rest, err := Next(&fr, msg)
			if err != nil {
				return
			}
			if len(rest) >= len(msg) {
				t.Fatal("no progress")
			}
			if fr.Type == TypeHello {
				if h, err := ParseHello(fr.Data); err == nil {
					h2, err := ParseHello(helloBody(h))
					if err != nil || !reflect.DeepEqual(h, h2) {
						t.Fatalf("%+v written again reads %+v, %v", h, h2, err)
					}
				}
			}
			msg = rest
		}
	})
}

func helloBody(h *Hello) []byte {
	var f Frame
	if _, err := Next(&f, AppendHello(nil, h)); err != nil {
		panic(err)
	}
	return f.Data
}

func BenchmarkNextStream(b *testing.B) {
	msg := AppendStream(nil, 6, 70000, make([]byte, 32<<10), false, false)
	var f Frame
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := Next(&f, msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendStream(b *testing.B) {
	data, buf := make([]byte, 32<<10), make([]byte, 0, MaxMessage)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		buf = AppendStream(buf[:0], 6, 70000, data, false, false)
	}
}
