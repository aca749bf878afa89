package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// fakeKDC is a Kerberos server that answers each request with what reply returns; nil means silence.
type fakeKDC struct {
	addr  string
	asked atomic.Int32
	last  atomic.Pointer[[]byte] // request
}

func newFakeKDC(t *testing.T, reply func() []byte) *fakeKDC {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeKDC{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				size := make([]byte, 4)
				io.ReadFull(c, size)
				request, _ := io.ReadAll(io.LimitReader(c, int64(binary.BigEndian.Uint32(size))))
				k.last.Store(&request)
				k.asked.Add(1)
				if b := reply(); b != nil {
					c.Write(b)
					return
				}
				io.Copy(io.Discard, c) // until the client gives up
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return k
}

// refusing is a reply with an error, and what belongs to it.
func refusing(t *testing.T, code int32, data []byte) func() []byte {
	refusal := messages.NewKRBError(types.NewPrincipalName(nametype.KRB_NT_SRV_INST, "krbtgt/"+testRealm), testRealm, code, "because")
	refusal.EData = data
	b, err := refusal.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return func() []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
}

// kdcOptions make Kerberos servers those of the test's realm, and let a proxy ask for Negotiate and other schemes.
func kdcOptions(t *testing.T, user string, kdcs []*fakeKDC, others ...string) (Options, *faultyProxy) {
	t.Helper()
	var lines strings.Builder
	for _, k := range kdcs {
		fmt.Fprintf(&lines, " kdc = %s\n", k.addr)
	}
	conf := filepath.Join(t.TempDir(), "krb5.conf")
	text := "[libdefaults]\ndns_lookup_kdc = false\ndefault_realm = EXAMPLE.TEST\n[realms]\nEXAMPLE.TEST = {\n" + lines.String() + "}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	header := "Proxy-Authenticate: Negotiate\r\n"
	for _, other := range others {
		header += "Proxy-Authenticate: " + other + "\r\n"
	}
	ask := status(407, header, "")
	f := newFaultyProxy(t, func(c *proxyConn) {
		for c.request() != nil {
			c.say(ask)
		}
	})
	o := testOptions(f.url())
	o.Username, o.Password, o.Kerberos.Config = user, testPassword, conf
	return o, f
}

// A password goes to a Kerberos server only if the realm is written, and then it is the only one tried, once a minute.
func TestKerberosServerRefuses(t *testing.T) {
	kdc := newFakeKDC(t, refusing(t, errorcode.KDC_ERR_CLIENT_REVOKED, nil))
	for _, c := range []struct {
		user  string
		asked int32
	}{{"jane@example.test", 1}, {`EXAMPLE.TEST\jane`, 1}, {"jane", 0}, {`EXAMPLE\jane`, 0}} {
		for _, remembered := range []bool{false, true} {
			kdc.asked.Store(0)
			o, _ := kdcOptions(t, c.user, []*fakeKDC{kdc}, "Basic realm=x")
			d := mustNew(t, o)
			if remembered { // a ticket was accepted, and has come to its end
				firstProxy(d).mem.accept(kerberos{})
			}
			for range 2 {
				_, e := dial(t, d, testTarget)
				if e == nil || !errors.Is(e, ErrCredentialsRefused) {
					t.Errorf("%s: %v", c.user, e)
				}
				if c.asked > 0 && !strings.Contains(e.Error(), "has locked jane@EXAMPLE.TEST") && !strings.Contains(e.Error(), "has just refused") {
					t.Errorf("%s: %v", c.user, e)
				}
			}
			if n := kdc.asked.Load(); n != c.asked {
				t.Errorf("%s: the Kerberos server was asked %d times", c.user, n)
			}
		}
	}
}

// A Kerberos server that does not answer is nobody's fault for good, and the next is asked.
func TestKerberosServersOneAfterTheOther(t *testing.T) {
	cut := newFakeKDC(t, func() []byte { return []byte{} })
	large := newFakeKDC(t, func() []byte { return []byte{0xff, 0xff, 0xff, 0xff} })
	o, _ := kdcOptions(t, "jane@EXAMPLE.TEST", []*fakeKDC{cut, large})
	_, e := dial(t, mustNew(t, o), testTarget)
	if e == nil || !errors.Is(e, ErrNoKDC) || e.Permanent() || e.Leg != LegProxyAuth || e.Status != 407 || e.Hint == "" ||
		!strings.Contains(e.Error(), "no Kerberos server of EXAMPLE.TEST answers ("+cut.addr) {
		t.Errorf("%v", e)
	}
	if cut.asked.Load() != 1 || large.asked.Load() != 1 {
		t.Errorf("asked %d and %d times", cut.asked.Load(), large.asked.Load())
	}
	last := newFakeKDC(t, refusing(t, errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN, nil))
	o, _ = kdcOptions(t, "jane@EXAMPLE.TEST", []*fakeKDC{cut, large, last})
	if _, e = dial(t, mustNew(t, o), testTarget); e == nil || !strings.Contains(e.Error(), "does not know jane@EXAMPLE.TEST") || !e.Permanent() {
		t.Errorf("%v", e)
	}
}

// Waiting for a Kerberos server ends with the context, and that is what the error says.
func TestContextEndsKerberos(t *testing.T) {
	reached := make(chan struct{})
	kdc := newFakeKDC(t, func() []byte { close(reached); return nil })
	o, _ := kdcOptions(t, "jane@EXAMPLE.TEST", []*fakeKDC{kdc}, "Basic realm=x")
	cause := errors.New("the user has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-reached
		cancel(cause)
	}()
	begin := time.Now()
	_, err := mustNew(t, o).DialContext(ctx, "tcp", testTarget)
	if e := asError(t, err); e.Leg != LegProxyAuth || !errors.Is(e, cause) || e.Permanent() || time.Since(begin) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), e)
	}
}

// The service is asked for as one of a host: for no other kind of name does a server refer to the realm that has it.
func TestServiceIsAskedForAsAHost(t *testing.T) {
	kdc := newFakeKDC(t, refusing(t, errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN, nil))
	o, _ := kdcOptions(t, "", []*fakeKDC{kdc})
	o.Password = ""
	o.Kerberos.Cache = writeCache(t, "krbtgt/"+testRealm, serviceKeys(t), time.Now().Add(time.Hour))
	_, e := dial(t, mustNew(t, o), testTarget)
	if e == nil || !strings.Contains(e.Error(), "does not know this proxy's service") {
		t.Errorf("%v", e)
	}
	var request messages.TGSReq
	if err := request.Unmarshal(*kdc.last.Load()); err != nil {
		t.Fatal(err)
	}
	if name := request.ReqBody.SName; name.NameType != nametype.KRB_NT_SRV_HST || name.PrincipalNameString() != "HTTP/127.0.0.1" ||
		!types.IsFlagSet(&request.ReqBody.KDCOptions, flags.Canonicalize) {
		t.Errorf("%+v", request.ReqBody)
	}
}

// hintsOf says how keys are made from passwords.
func hintsOf(t testing.TB, iterations []byte) []byte {
	t.Helper()
	info, err := asn1.Marshal(types.ETypeInfo2{{EType: etypeID.AES256_CTS_HMAC_SHA1_96, Salt: "x", S2KParams: iterations}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := asn1.Marshal(types.PADataSequence{{PADataType: patype.PA_ETYPE_INFO2, PADataValue: info}})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Whatever a Kerberos server hints at, no more work is done than a bound.
func FuzzKeyHints(f *testing.F) {
	f.Add(hintsOf(f, []byte{0, 0, 16, 0}))
	f.Add(hintsOf(f, nil))
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		hints, err := func() (_ []types.ETypeInfo2Entry, err error) {
			defer recovered(&err) // as callers do
			var all types.PADataSequence
			if err := all.Unmarshal(data); err != nil {
				return nil, err
			}
			return keyHints(all)
		}()
		for _, h := range hints {
			if n := h.S2KParams; err == nil && len(n) > 0 && (len(n) != 4 || n[0] != 0 || n[1] > 16) {
				t.Fatalf("%x", n)
			}
		}
	})
}

// What a Kerberos server may ask for is bounded, since anybody may have answered in its place.
func TestKerberosServerAsksForTooMuch(t *testing.T) {
	for _, c := range []struct {
		data []byte
		want string
	}{
		{hintsOf(t, []byte{0xff, 0xff, 0xff, 0xff}), "more work"},
		{hintsOf(t, []byte{0, 0, 0, 0}), "more work"}, // means 2^32
		{hintsOf(t, []byte{1}), "more work"},
		{hintsOf(t, []byte{0, 0, 16, 0}), "KDC_ERR_PREAUTH_REQUIRED"}, // as it should be, so it was proven, and asked for again
		{[]byte{0x30}, "Kerberos for jane"},
		{nil, "Kerberos for jane"},
	} {
		kdc := newFakeKDC(t, refusing(t, errorcode.KDC_ERR_PREAUTH_REQUIRED, c.data))
		o, _ := kdcOptions(t, "jane@EXAMPLE.TEST", []*fakeKDC{kdc})
		begin := time.Now()
		_, e := dial(t, mustNew(t, o), testTarget)
		if e == nil || !strings.Contains(e.Error(), c.want) || time.Since(begin) > 5*time.Second {
			t.Errorf("%x after %v: %v", c.data, time.Since(begin), e)
		}
	}
}

// The ticket of somebody else than the user who is set is not used.
func TestTicketOfAnotherUser(t *testing.T) {
	keys := serviceKeys(t)
	ask := status(407, "Proxy-Authenticate: Negotiate\r\n", "")
	for user, mine := range map[string]bool{
		"jane": true, "jane@EXAMPLE.TEST": true, "Jane@example.test": true, `EXAMPLE\jane`: true,
		"joe": false, "jane@OTHER.TEST": false, `EXAMPLE\joe`: false,
	} {
		f := newFaultyProxy(t, kerberosProxy(t, keys, ask))
		o := testOptions(f.url())
		o.Kerberos.Cache, o.Username = writeCache(t, "HTTP/127.0.0.1", keys, time.Now().Add(time.Hour)), user
		_, e := dial(t, mustNew(t, o), testTarget)
		if mine != (e == nil) || !mine && (!errors.Is(e, ErrCredentialsMissing) || !strings.Contains(e.Error(), "the Kerberos ticket is of jane@EXAMPLE.TEST")) {
			t.Errorf("%s: %v", user, e)
		}
	}
}

// A ticket that was good and is refused may be for a key that the proxy no longer has: a new one is sent, once.
func TestRememberedTicketIsRefused(t *testing.T) {
	keys := serviceKeys(t)
	old := keytab.New()
	if err := old.AddEntry("HTTP/127.0.0.1", testRealm, "before", time.Now(), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour)
	ask := status(407, "Proxy-Authenticate: Negotiate\r\n", "")
	for _, renewed := range []bool{true, false} {
		f := newFaultyProxy(t, kerberosProxy(t, old, ask), kerberosProxy(t, keys, ask))
		o := testOptions(f.url())
		o.Kerberos.Cache = writeCache(t, "HTTP/127.0.0.1", old, soon)
		d := mustNew(t, o)
		if _, e := dial(t, d, testTarget); e != nil {
			t.Fatal(e)
		}
		if renewed {
			firstProxy(d).kerberos.Cache = writeCache(t, "HTTP/127.0.0.1", keys, soon)
		}
		_, e := dial(t, d, testTarget)
		if renewed != (e == nil) || !renewed && (!errors.Is(e, ErrCredentialsRefused) || !strings.Contains(e.Error(), "the proxy refused the Kerberos ticket")) {
			t.Errorf("renewed %v: %v", renewed, e)
		}
		if n := len(f.authorizations()); n != 2+2 {
			t.Errorf("renewed %v: %d requests", renewed, n)
		}
	}
}

// Many proxies are known by an alias, and their service by the name behind it.
func TestServiceBehindAnAlias(t *testing.T) {
	keys := serviceKeys(t)
	ask := status(407, "Proxy-Authenticate: Negotiate\r\n", "")
	for _, c := range []struct {
		service, host string
		allowed, want bool
	}{
		{"HTTP/px1.example.test", "localhost", true, true},
		{"HTTP/px1.example.test", "localhost", false, false},
		{"HTTP/px2.example.test", "localhost", true, false},
		{"HTTP/px1.example.test", "127.0.0.1", true, false}, // an address is no alias
	} {
		f := newFaultyProxy(t, kerberosProxy(t, keys, ask))
		_, port, _ := net.SplitHostPort(f.Addr().String())
		o := testOptions("http://" + net.JoinHostPort(c.host, port))
		o.Kerberos.Cache = writeCache(t, c.service, keys, time.Now().Add(time.Hour))
		o.Kerberos.Config = filepath.Join(t.TempDir(), "krb5.conf")
		if err := os.WriteFile(o.Kerberos.Config, fmt.Appendf(nil, "[libdefaults]\ndns_canonicalize_hostname = %v\n", c.allowed), 0o600); err != nil {
			t.Fatal(err)
		}
		d := mustNew(t, o)
		firstProxy(d).lookupCNAME = func(_ context.Context, host string) (string, error) {
			if host != "localhost" {
				t.Errorf("asked for %s", host)
			}
			return "PX1.example.test.", nil
		}
		_, e := dial(t, d, testTarget)
		if c.want != (e == nil) || !c.want && !strings.Contains(e.Error(), "run kinit") {
			t.Errorf("%+v: %v", c, e)
		}
	}
}
