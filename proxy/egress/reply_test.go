package egress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// readAll reads the final reply and what follows it.
func readAll(r io.Reader) (*reply, string, error) {
	br := bufio.NewReader(r)
	rep, err := readReply(br, nil)
	if err != nil {
		return nil, "", err
	}
	rest, err := io.ReadAll(br)
	return rep, string(rest), err
}

var goodReplies = []struct {
	name, text, rest  string
	status, minor     int
	reason            string
	length            int64
	keepAlive, chunks bool
}{
	{name: "plain", text: "HTTP/1.1 200 Connection established\r\n\r\n", status: 200, minor: 1, reason: "Connection established", length: -1},
	{name: "no reason", text: "HTTP/1.1 200\r\n\r\n", status: 200, minor: 1, length: -1},
	{name: "empty reason", text: "HTTP/1.1 200 \r\n\r\n", status: 200, minor: 1, length: -1},
	{name: "bytes behind", text: "HTTP/1.1 200 OK\r\nVia: x\r\n\r\nSSH-2.0-x\r\n", rest: "SSH-2.0-x\r\n", status: 200, minor: 1, reason: "OK", length: -1},
	{name: "HTTP/1.0", text: "HTTP/1.0 200 OK\r\n\r\n", status: 200, reason: "OK", length: -1},
	{name: "LF only", text: "HTTP/1.1 200 OK\nA: b\n\nrest", rest: "rest", status: 200, minor: 1, reason: "OK", length: -1},
	{name: "blank lines first", text: "\r\n\nHTTP/1.1 200 OK\r\n\r\n", status: 200, minor: 1, reason: "OK", length: -1},
	{name: "interim", text: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", status: 200, minor: 1, reason: "OK", length: -1},
	{name: "lengths of a 200 are ignored", text: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabcdef", rest: "abcdef", status: 200, minor: 1, reason: "OK", length: 3, keepAlive: true},
	{name: "equal lengths twice", text: "HTTP/1.1 407 x\r\nContent-Length: 3, 3\r\ncontent-length: 3\r\n\r\nabc", rest: "abc", status: 407, minor: 1, reason: "x", length: 3, keepAlive: true},
	{name: "folded", text: "HTTP/1.1 407 x\r\nContent-Length:\r\n 3\r\n\r\n", status: 407, minor: 1, reason: "x", length: 3, keepAlive: true},
	{name: "close", text: "HTTP/1.1 407 x\r\nContent-Length: 3\r\nConnection: a, Close\r\n\r\n", status: 407, minor: 1, reason: "x", length: 3},
	{name: "proxy close", text: "HTTP/1.1 407 x\r\nContent-Length: 3\r\nProxy-Connection: close\r\n\r\n", status: 407, minor: 1, reason: "x", length: 3},
	{name: "1.0 closes", text: "HTTP/1.0 407 x\r\nContent-Length: 3\r\n\r\n", status: 407, reason: "x", length: 3},
	{name: "1.0 keeps", text: "HTTP/1.0 407 x\r\nContent-Length: 3\r\nProxy-Connection: Keep-Alive\r\n\r\n", status: 407, reason: "x", length: 3, keepAlive: true},
	{name: "no length", text: "HTTP/1.1 407 x\r\n\r\nuntil the end", rest: "until the end", status: 407, minor: 1, reason: "x", length: -1},
	{name: "chunked, and not at last", text: "HTTP/1.1 407 x\r\nTransfer-Encoding: chunked, x-odd\r\n\r\nabc", rest: "abc", status: 407, minor: 1, reason: "x", length: -1},
	{name: "chunked, and more", text: "HTTP/1.1 407 x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\nabc", rest: "abc", status: 407, minor: 1, reason: "x", length: -1},
	{name: "chunked", text: "HTTP/1.1 407 x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", rest: "0\r\n\r\n", status: 407, minor: 1, reason: "x", length: -1, keepAlive: true, chunks: true},
}

func TestReadReply(t *testing.T) {
	for _, c := range goodReplies {
		t.Run(c.name, func(t *testing.T) {
			r, rest, err := readAll(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if r.status != c.status || r.minor != c.minor || r.reason != c.reason || r.length != c.length || rest != c.rest ||
				r.keepAlive() != c.keepAlive || r.chunked() != c.chunks {
				t.Errorf("%+v keepAlive=%v chunked=%v rest=%q", r, r.keepAlive(), r.chunked(), rest)
			}
		})
	}
}

var badReplies = []struct {
	name, text, want string
	kind             error
}{
	{"nothing", "", "closed the connection without an answer", errSilent},
	{"cut in the status line", "HTTP/1.1 20", "in the middle", io.ErrUnexpectedEOF},
	{"cut in the header", "HTTP/1.1 200 OK\r\nA: b\r\n", "in the middle", io.ErrUnexpectedEOF},
	{"cut after an interim reply", "HTTP/1.1 100 x\r\n\r\n", "in the middle", io.ErrUnexpectedEOF},
	{"another trade", "SSH-2.0-OpenSSH_9.2\r\n", `this is not an HTTP reply: "SSH-2.0-OpenSSH_9.2"`, ErrBadReply},
	{"TLS alert", "\x15\x03\x01\x00\x02\x02\x46", "must begin with https://", ErrBadReply},
	{"SOCKS", "\x05\xff", "this is not an HTTP reply", ErrBadReply},
	{"almost", "HTTPS/1.1 200 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"HTTP/2", "HTTP/2 200\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"HTTP/1.x", "HTTP/1.x 200 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"long status", "HTTP/1.1 2000 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"short status", "HTTP/1.1 20 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"signed status", "HTTP/1.1 +20 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"status out of range", "HTTP/1.1 600 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"status too low", "HTTP/1.1 099 OK\r\n\r\n", "this is not an HTTP reply", ErrBadReply},
	{"no colon", "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", `has no colon: "no colon here"`, ErrBadReply},
	{"empty name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", "invalid name", ErrBadReply},
	{"space before colon", "HTTP/1.1 200 OK\r\nA : x\r\n\r\n", "invalid name", ErrBadReply},
	{"name beyond ASCII", "HTTP/1.1 200 OK\r\n\u0141: x\r\n\r\n", "invalid name", ErrBadReply},
	{"folding nothing", "HTTP/1.1 200 OK\r\n x: y\r\n\r\n", "starts with a space", ErrBadReply},
	{"NUL", "HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n", "control characters", ErrBadReply},
	{"bare CR", "HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", "control characters", ErrBadReply},
	{"101", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "101", ErrBadReply},
	{"conflicting lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "conflicting Content-Length", ErrBadReply},
	{"conflicting list", "HTTP/1.1 407 x\r\nContent-Length: 3, 4\r\n\r\n", "conflicting Content-Length", ErrBadReply},
	{"negative length", "HTTP/1.1 407 x\r\nContent-Length: -3\r\n\r\n", "not a number", ErrBadReply},
	{"huge length", "HTTP/1.1 407 x\r\nContent-Length: 99999999999999999999\r\n\r\n", "not a number", ErrBadReply},
	{"two ways to end", "HTTP/1.1 407 x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "both", ErrBadReply},
	{"giant line", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", maxHeader), "larger than 64 KiB", ErrBadReply},
	{"giant header", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: aaaaaaaaaaaaaaaaaaa\r\n", maxHeader/20), "larger than 64 KiB", ErrBadReply},
	{"endless blank lines", strings.Repeat("\r\n", maxHeader), "larger than 64 KiB", ErrBadReply},
	{"endless interim", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxInterim+1), "more than 8 interim", ErrBadReply},
}

func TestReadBadReply(t *testing.T) {
	for _, c := range badReplies {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := readAll(strings.NewReader(c.text))
			if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// splitReader returns its parts one by one.
type splitReader struct{ parts [][]byte }

func (r *splitReader) Read(p []byte) (int, error) {
	for len(r.parts) > 0 && len(r.parts[0]) == 0 {
		r.parts = r.parts[1:]
	}
	if len(r.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.parts[0])
	r.parts[0] = r.parts[0][n:]
	return n, nil
}

// However the network cuts a reply into segments, it reads the same.
func TestAnySplitReadsTheSame(t *testing.T) {
	var texts []string
	for _, c := range goodReplies {
		texts = append(texts, c.text)
	}
	for _, c := range badReplies {
		texts = append(texts, c.text)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom(texts).Draw(t, "text")
		if rapid.Bool().Draw(t, "mutate") && text != "" {
			b := []byte(text)
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			text = string(b)
		}
		var parts [][]byte
		for rest := []byte(text); len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, max(4, len(text)/20)).Draw(t, "n"))
			parts = append(parts, rest[:n])
			rest = rest[n:]
		}
		wantReply, wantRest, wantErr := readAll(strings.NewReader(text))
		reply, rest, err := readAll(&splitReader{parts})
		if !reflect.DeepEqual(reply, wantReply) || rest != wantRest || errorKind(err) != errorKind(wantErr) {
			t.Fatalf("split: %+v %q %v\nwhole: %+v %q %v", reply, rest, err, wantReply, wantRest, wantErr)
		}
	})
}

func errorKind(err error) error {
	for _, kind := range []error{ErrBadReply, errSilent, io.ErrUnexpectedEOF} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return err
}

func TestDrain(t *testing.T) {
	big := strings.Repeat("x", maxDrain+1)
	for _, c := range []struct {
		name, header, body string
		want               bool
	}{
		{"empty", "Content-Length: 0", "", true},
		{"length", "Content-Length: 5", "hello", true},
		{"cut", "Content-Length: 6", "hello", false},
		{"too long", fmt.Sprintf("Content-Length: %d", len(big)), big, false},
		{"just not too long", fmt.Sprintf("Content-Length: %d", len(big)-1), big[1:], true},
		{"chunked", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", true},
		{"chunked with trailer", "Transfer-Encoding: chunked", "5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n", true},
		{"chunked cut", "Transfer-Encoding: chunked", "5\r\nhello\r\n", false},
		{"chunked cut in the trailer", "Transfer-Encoding: chunked", "0\r\nA: b\r\n", false},
		{"chunked garbage", "Transfer-Encoding: chunked", "hello", false},
		{"chunked too long", "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(big), big), false},
	} {
		const next = "HTTP/1.1 200 OK\r\n\r\n"
		text := "HTTP/1.1 407 x\r\n" + c.header + "\r\n\r\n" + c.body
		if c.want {
			text += next
		}
		br := bufio.NewReader(strings.NewReader(text))
		r, err := readReply(br, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := r.drain(br); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if rest, _ := io.ReadAll(br); c.want && string(rest) != next {
			t.Errorf("%s: the next reply would be read as %q", c.name, rest)
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, c := range goodReplies {
		f.Add([]byte(c.text))
	}
	for _, c := range badReplies {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<p>no\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		src := bytes.NewReader(data)
		br := bufio.NewReader(src)
		r, err := readReply(br, scrubber{"hunter2"})
		if err != nil {
			if strings.Contains(err.Error(), "hunter2") || strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Fatalf("%q", err)
			}
			return
		}
		if r.status < 200 || r.status > 599 || len(data)-src.Len()-br.Buffered() > maxHeader {
			t.Fatalf("%+v", r)
		}
		header := len(data) - src.Len() - br.Buffered()
		split := make([][]byte, len(data))
		for i := range data {
			split[i] = data[i : i+1]
		}
		again, rest, err := readAll(&splitReader{split})
		if err != nil || !reflect.DeepEqual(r, again) || rest != string(data[header:]) {
			t.Fatalf("byte by byte: %+v %q %v", again, rest, err)
		}
		drained := bufio.NewReader(strings.NewReader(rest))
		r.drain(drained)
		text := r.excerpt(br, scrubber{"hunter2"})
		if len([]rune(text)) > maxExcerpt || strings.Contains(text, "hunter2") || strings.ContainsAny(text, "\n\x1b\x00") {
			t.Fatalf("%q", text)
		}
	})
}
