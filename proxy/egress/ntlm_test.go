package egress

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //nolint:staticcheck // NTLM is made of it ([MS-NLMP] 3.3.2)
)

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// ntlmChallenge is a CHALLENGE_MESSAGE (MS-NLMP §2.2.1.2) as a domain controller sends it.
func ntlmChallenge(flags uint32) []byte {
	pair := func(id uint16, v []byte) []byte {
		b := binary.LittleEndian.AppendUint16(nil, id)
		return append(binary.LittleEndian.AppendUint16(b, uint16(len(v))), v...)
	}
	name := utf16le("DOM")
	info := slices.Concat(pair(2, name), pair(1, utf16le("DC1")), pair(7, []byte("\x00\x01\x02\x03\x04\x05\x06\x07")), pair(0, nil))
	b := append(bytes.Clone(ntlmSignature), 2, 0, 0, 0)
	field := func(n, at int) {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint32(b, uint32(at))
	}
	field(len(name), 48)
	b = binary.LittleEndian.AppendUint32(b, 0x00828205|flags) // UNICODE, TARGET, NTLM, TARGET_INFO
	b = append(append(b, "12345678"...), make([]byte, 8)...)
	field(len(info), 48+len(name))
	return slices.Concat(b, name, info)
}

// ntlmProves reports whether an AUTHENTICATE_MESSAGE was made with the password (MS-NLMP §3.3.2).
func ntlmProves(t *testing.T, message []byte, user, domain, password string) bool {
	t.Helper()
	if !bytes.HasPrefix(message, append(bytes.Clone(ntlmSignature), 3, 0, 0, 0)) {
		t.Fatalf("no third message: %x", message)
	}
	field := func(at int) []byte {
		n, from := binary.LittleEndian.Uint16(message[at:]), binary.LittleEndian.Uint32(message[at+4:])
		return message[from : from+uint32(n)]
	}
	if !bytes.Equal(field(28), utf16le(domain)) || !bytes.Equal(field(36), utf16le(user)) {
		t.Errorf("for %q of %q", field(36), field(28))
	}
	sum := func(key, data []byte) []byte {
		h := hmac.New(md5.New, key)
		h.Write(data)
		return h.Sum(nil)
	}
	h := md4.New()
	h.Write(utf16le(password))
	key := sum(h.Sum(nil), utf16le(strings.ToUpper(user)+domain))
	response := field(20)
	return bytes.Equal(response[:16], sum(key, append([]byte("12345678"), response[16:]...)))
}

func token68Of(t *testing.T, authorization, scheme string) []byte {
	t.Helper()
	name, token, _ := strings.Cut(authorization, " ")
	b, err := base64.StdEncoding.DecodeString(token)
	if name != scheme || err != nil {
		t.Fatalf("sent %q", authorization)
	}
	return b
}

// ntlmProxy speaks NTLM under a scheme's name; wrap puts its challenge into SPNEGO.
func ntlmProxy(t *testing.T, scheme, password string, wrap bool, ask string) conversation {
	return func(c *proxyConn) {
		challenged := false
		for {
			r := c.request()
			if r == nil {
				return
			}
			sent := r.Header.Get("Proxy-Authorization")
			if sent == "" || !strings.HasPrefix(sent, scheme) {
				c.say(ask)
				continue
			}
			message := token68Of(t, sent, scheme)
			if !challenged {
				if !bytes.HasPrefix(message, append(bytes.Clone(ntlmSignature), 1, 0, 0, 0)) {
					t.Errorf("the first message: %x", message)
				}
				challenged = true
				token := ntlmChallenge(0x40000000)
				if wrap {
					token, _ = writeNegTokenResp(token)
				}
				c.say(status(407, "Proxy-Authenticate: "+scheme+" "+base64.StdEncoding.EncodeToString(token)+"\r\n", ""))
				continue
			}
			if wrap {
				var err error
				if message, err = readNegTokenResp(message); err != nil {
					t.Error(err)
				}
			}
			if !ntlmProves(t, message, "jane", "DOM", password) {
				c.say(ask)
				continue
			}
			c.say("HTTP/1.1 200 OK\r\n\r\n")
			c.echo()
			return
		}
	}
}

func TestNTLM(t *testing.T) {
	for _, c := range []struct {
		scheme string
		wrap   bool
	}{{"NTLM", false}, {"Negotiate", false}, {"Negotiate", true}} {
		ask := status(407, "Proxy-Authenticate: "+c.scheme+"\r\n", "")
		closing := strings.Replace(ask, "Content-Length", "Connection: close\r\nContent-Length", 1)
		f := newFaultyProxy(t, replies(closing), ntlmProxy(t, c.scheme, testPassword, c.wrap, ask))
		d := mustNew(t, withCredentials(testOptions(f.url())))
		for range 2 {
			conn, e := dial(t, d, testTarget)
			if e != nil {
				t.Fatal(e)
			}
			checkEcho(t, conn)
		}
		// Bare, first and third message; then the winner opens.
		if got := f.authorizations(); len(got) != 3+2 || f.connections() != 3 {
			t.Errorf("%d requests on %d connections", len(got), f.connections())
		}

		f = newFaultyProxy(t, ntlmProxy(t, c.scheme, "another", c.wrap, ask))
		d = mustNew(t, withCredentials(testOptions(f.url())))
		for range 2 {
			if _, e := dial(t, d, testTarget); !errors.Is(e, ErrCredentialsRefused) {
				t.Fatal(e)
			}
		}
		if got := f.authorizations(); len(got) != 3 {
			t.Errorf("%d requests", len(got))
		}
	}
}

// What is no refusal falls back, on a new connection; what is one never does.
func TestFallingBack(t *testing.T) {
	basicToo := "Proxy-Authenticate: Basic realm=x\r\n"
	ask := func(schemes ...string) string {
		header := basicToo
		for _, s := range schemes {
			header = "Proxy-Authenticate: " + s + "\r\n" + header
		}
		return status(407, header, "")
	}
	for _, c := range []struct {
		name        string
		scripts     []conversation
		schemes     []string
		requests    int
		connections int
		want        error
	}{
		{"Negotiate that knows only Kerberos", []conversation{replies(ask("Negotiate"), ask("Negotiate")), replies(ok200)}, nil, 3, 2, nil},
		{"a malformed NTLM challenge", []conversation{replies(ask("NTLM"), ask("NTLM TlRMTVNTUAAC")), replies(ok200)}, nil, 3, 2, nil},
		{"NTLM that is closed half-way", []conversation{
			replies(ask("NTLM"), strings.Replace(ask("NTLM "+base64.StdEncoding.EncodeToString(ntlmChallenge(0))), "Content-Length", "Connection: close\r\nContent-Length", 1)),
			replies(ask("NTLM"), ok200),
		}, nil, 4, 2, nil},
		{"NTLM not allowed", []conversation{replies(ask("NTLM", "Negotiate"), ok200)}, []string{"basic"}, 2, 1, nil},
		{"wrong password by NTLM", []conversation{ntlmProxy(t, "NTLM", "another", false, ask("NTLM"))}, nil, 3, 1, ErrCredentialsRefused},
		{"nothing allowed is offered", []conversation{replies(ask("NTLM"))}, []string{"digest", "negotiate"}, 1, 1, ErrSchemeUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaultyProxy(t, c.scripts...)
			o := withCredentials(testOptions(f.url()))
			o.Schemes = c.schemes
			conn, e := dial(t, mustNew(t, o), testTarget)
			switch {
			case c.want == nil && e != nil:
				t.Fatal(e)
			case c.want == nil:
				checkEcho(t, conn)
				if last := f.authorizations(); last[len(last)-1] != wantBasic {
					t.Errorf("ended with %q", last)
				}
			case !errors.Is(e, c.want):
				t.Errorf("%v", e)
			}
			if got := f.authorizations(); len(got) != c.requests || f.connections() != c.connections {
				t.Errorf("%d requests on %d connections: %q", len(got), f.connections(), got)
			}
		})
	}
}

func TestSchemeSetting(t *testing.T) {
	if _, err := New(Options{Schemes: []string{"kerberos5"}}); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
	all, err := knownSchemes([]string{"NTLM", " Digest"})
	if err != nil || len(all) < 2 || all[len(all)-1] != scheme(digestScheme{}) {
		t.Errorf("%v %v", all, err)
	}
}

// Whatever a proxy sends as a token, it is answered or refused, and no password shows.
func FuzzNTLMToken(f *testing.F) {
	f.Add(ntlmChallenge(0), false)
	f.Add(ntlmChallenge(0xffffffff), true)
	wrapped, _ := writeNegTokenResp(ntlmChallenge(0))
	f.Add(wrapped, true)
	f.Add([]byte("\xa1\x03\x0a\x01\x02"), true)
	f.Fuzz(func(t *testing.T, token []byte, negotiate bool) {
		x := ntlmScheme{negotiate}.start(&proxy{cred: &credential{user: testUser, password: testPassword}}, testTarget)
		x.opening(t.Context())
		value, err := x.answer(t.Context(), challenge{scheme: x.(*ntlmExchange).scheme.name(), token68: base64.StdEncoding.EncodeToString(token)})
		if (value == "") == (err == nil) || errors.Is(err, errRefused) {
			t.Fatalf("%q, %v", value, err)
		}
		if err != nil {
			leaks(t, err.Error())
		}
		if x.shown() != (err == nil) && token != nil {
			t.Fatal("shown")
		}
	})
}
