package ws

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestExcerpt(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"plain words", "plain words"},
		{"  a \r\n\t b  ", "a b"},
		{"<p>one</p><p>two</p>", "one two"},
		{"a<br>b<", "a b"},
		{"a<unclosed", "a"},
		{"<!-- no > <b> --><b>yes</b>", "yes"},
		{"<style>p{}</style>x<SCRIPT type='a'>1<2</ScRiPt >y", "x y"},
		{"<script>never ends", ""},
		{"5 &lt; 6 &amp;&#7; 7", "5 < 6 & 7"},
		{"\x1b[31mred\x00", "[31mred"},
		{"bad \xff\xfe utf", "bad utf"},
		{strings.Repeat("ä", 300), strings.Repeat("ä", maxExcerpt)},
	}
	for _, tt := range tests {
		if got := excerpt([]byte(tt.in)); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzExcerpt(f *testing.F) {
	f.Add([]byte("<html><script>a<b</script>&amp;<!-- -->\xff\x1b"))
	f.Add([]byte("<style"))
	f.Add([]byte("<script>\xff\xff\xff\xff\xff\xff\xff</SCRIPT")) // once a panic: ToLower makes these longer
	f.Fuzz(func(t *testing.T, in []byte) {
		got := excerpt(in)
		if utf8.RuneCountInString(got) > maxExcerpt || !utf8.ValidString(got) {
			t.Errorf("%q is too long or invalid", got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q holds %U", got, r)
			}
		}
	})
}

func FuzzReadResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x82\x01x"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"))
	f.Add([]byte("SSH-2.0-x\r\n"))
	req, err := http.NewRequest(http.MethodGet, "http://x/", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		resp, rest, err := readResponse(bytes.NewReader(in), req, func() {})
		switch {
		case err != nil:
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		case resp.StatusCode == http.StatusSwitchingProtocols:
			if !bytes.Contains(in, rest) {
				t.Errorf("%q was not in the input", rest)
			}
		default:
			if len(rest) > maxFailureBody {
				t.Errorf("%d bytes of body", len(rest))
			}
			if len(statusError(resp).Error()) > 1000 {
				t.Error("a long error")
			}
		}
	})
}

func TestReadResponseIsBounded(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\nX: "), forever{})
	if _, _, err := readResponse(endless, nil, func() {}); err != errHeaderTooLarge {
		t.Errorf("got %v, want errHeaderTooLarge", err)
	}
}

// forever is a header line that never ends.
type forever struct{}

func (forever) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestCloseFrame(t *testing.T) {
	long := strings.Repeat("ü", 100)
	for _, masked := range []bool{true, false} {
		frame := closeFrame(1001, long, masked)
		limit := 2 + 125
		if masked {
			limit += 4
		}
		if len(frame) > limit || frame[0] != 0x88 || frame[1]&0x80 != 0 != masked {
			t.Errorf("masked=%v: % x", masked, frame[:2])
		}
		if masked && bytes.Contains(frame, []byte("üü")) {
			t.Error("the payload is not masked")
		}
	}
}

func TestIssuerIsOnlyNamedWhenKnown(t *testing.T) {
	err := tlsError(&tls.CertificateVerificationError{Err: io.ErrNoProgress})
	if strings.Contains(err.Error(), "issued by") || !strings.Contains(err.Error(), "not accepted") {
		t.Errorf("got %v", err)
	}
}
