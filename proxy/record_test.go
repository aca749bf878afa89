package proxy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// vectors reads the table of test vectors in PROTOCOL.md.
func vectors(t testing.TB) (rows [][3]string) {
	t.Helper()
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## Test vectors")
	if !ok {
		t.Fatal("no test vectors")
	}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| re") {
			continue
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(cells[1], "` "), " ", ""))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		rows = append(rows, [3]string{strings.TrimSpace(cells[0]), string(raw), strings.Trim(cells[2], " ")})
	}
	if len(rows) < 20 {
		t.Fatalf("only %d vectors found", len(rows))
	}
	return rows
}

// describe reads a record and puts it as PROTOCOL.md does.
func describe(kind string, raw []byte) (text string, again []byte, err error) {
	r := iotest.OneByteReader(bytes.NewReader(raw))
	if kind == "request" {
		req, err := readRequest(r)
		if err != nil {
			return "malformed", nil, err
		}
		verb := map[action]string{actionConnect: "connect", actionListen: "listen"}[req.action]
		return fmt.Sprintf("%s %s %s origin=%s forward=%s", verb, req.address.Network(), req.address, req.origin, req.forward),
			req.append(nil), nil
	}
	rep, err := readReply(r)
	if err != nil {
		return "malformed", nil, err
	}
	return fmt.Sprintf("code=%v text=%s", rep.code, rep.text), rep.append(nil), nil
}

func TestVectors(t *testing.T) {
	for _, row := range vectors(t) {
		kind, raw, want := row[0], []byte(row[1]), row[2]
		got, again, err := describe(kind, raw)
		if got != strings.TrimSpace(want) {
			t.Errorf("%s %x: %s, %v; want %s", kind, raw, got, err, want)
			continue
		}
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("%s %x: %v is no errRecord", kind, raw, err)
			}
			continue
		}
		if second, _, _ := describe(kind, again); second != got {
			t.Errorf("%x reads as %s, written and read again as %s", raw, got, second)
		}
	}
}

// TestRecordEndsExactly: not a byte of the payload behind a record is taken.
func TestRecordEndsExactly(t *testing.T) {
	req := request{action: actionConnect, address: Endpoint{Host: "db", Port: 5432}, origin: "10.0.0.1:2"}
	r := strings.NewReader(string(req.append(nil)) + "payload")
	got, err := readRequest(r)
	if err != nil || *got != req {
		t.Fatalf("%+v, %v", got, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "payload" {
		t.Errorf("left: %q", rest)
	}
}

// TestRecordCutShort: a stream that ends within a record never looks like one that ended well, or not at all.
func TestRecordCutShort(t *testing.T) {
	rep := reply{code: CodeDenied, text: strings.Repeat("because ", 20)}
	raw := rep.append(nil)
	for n := range raw {
		_, err := readReply(bytes.NewReader(raw[:n]))
		if n == 0 {
			if err != io.EOF {
				t.Errorf("nothing: %v", err)
			}
		} else if !errors.Is(err, errRecord) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: %v", n, len(raw), err)
		}
	}
}

func TestLongTextsAreCut(t *testing.T) {
	raw := (&reply{code: CodeInternal, text: strings.Repeat("ä", 5000)}).append(nil)
	rep, err := readReply(bytes.NewReader(raw))
	if err != nil || len(rep.text) > 1024 || strings.Trim(rep.text, "ä") != "" {
		t.Errorf("%d bytes, %v", len(rep.text), err)
	}
	long := "/" + strings.Repeat("p", maxPath-1)
	raw = (&request{
		action: actionListen, address: Endpoint{Path: long}, origin: strings.Repeat("o", 5000), forward: newForwardID(),
	}).append(nil)
	if _, err := readRequest(bytes.NewReader(raw)); err != nil {
		t.Errorf("the longest request: %v", err)
	}
}

// TestTextsCannotForge: what a peer says goes into logs and to terminals.
func TestTextsCannotForge(t *testing.T) {
	raw := (&reply{code: CodeInternal, text: "a\nlevel=INFO\x1b[31m\x00"}).append(nil)
	rep, err := readReply(bytes.NewReader(raw))
	if err != nil || strings.ContainsAny(rep.text, "\n\x1b\x00") {
		t.Errorf("%q, %v", rep.text, err)
	}
}

func TestVarints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64Range(0, 1<<62-1).Draw(t, "v") >> rapid.IntRange(0, 61).Draw(t, "shift")
		b := appendVarint(nil, v)
		got, n, err := cutVarint(append(b, 0xff))
		if got != v || n != len(b) || err != nil {
			t.Fatalf("%d became %d in %d of %d bytes, %v", v, got, n, len(b), err)
		}
		if _, _, err := cutVarint(b[:len(b)-1]); !errors.Is(err, errRecord) {
			t.Fatalf("cut short: %v", err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	for _, row := range vectors(f) {
		f.Add([]byte(row[1]))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		req, err := readRequest(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := readRequest(bytes.NewReader(req.append(nil)))
		if err != nil {
			t.Fatalf("%+v cannot be read again: %v", req, err)
		}
		again.origin, req.origin = "", "" // may have been cut
		if *again != *req {
			t.Fatalf("%+v became %+v", req, again)
		}
	})
}

func FuzzReply(f *testing.F) {
	for _, row := range vectors(f) {
		f.Add([]byte(row[1]))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		rep, err := readReply(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := readReply(bytes.NewReader(rep.append(nil)))
		if err != nil || again.code != rep.code {
			t.Fatalf("%+v became %+v, %v", rep, again, err)
		}
	})
}
