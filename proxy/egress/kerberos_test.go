package egress

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

const testRealm = "EXAMPLE.TEST"

// serviceKeys are those of the proxy's service.
func serviceKeys(t *testing.T) *keytab.Keytab {
	t.Helper()
	kt := keytab.New()
	if err := kt.AddEntry("HTTP/127.0.0.1", testRealm, "the service's own", time.Now(), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	return kt
}

// writeCache makes a ticket cache, version 4, with one ticket of jane's, and returns its name.
func writeCache(t *testing.T, service string, keys *keytab.Keytab, end time.Time) string {
	t.Helper()
	jane := types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "jane")
	server := types.NewPrincipalName(nametype.KRB_NT_SRV_INST, service)
	start := end.Add(-10 * time.Hour)
	tkt, key, err := messages.NewTicket(jane, testRealm, types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "HTTP/127.0.0.1"), testRealm,
		types.NewKrbFlags(), keys, etypeID.AES256_CTS_HMAC_SHA1_96, 1, start, start, end, end)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tkt.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{5, 4, 0, 12, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	u32 := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	data := func(d []byte) { u32(len(d)); b = append(b, d...) }
	principal := func(p types.PrincipalName, realm string) {
		u32(int(p.NameType))
		u32(len(p.NameString))
		data([]byte(realm))
		for _, s := range p.NameString {
			data([]byte(s))
		}
	}
	principal(jane, testRealm)
	principal(jane, testRealm)
	principal(server, testRealm)
	b = binary.BigEndian.AppendUint16(b, uint16(key.KeyType))
	data(key.KeyValue)
	for _, at := range []time.Time{start, start, end, end} {
		u32(int(at.Unix()))
	}
	b = append(b, 0, 0, 0, 0, 0)
	u32(0)
	u32(0)
	data(raw)
	data(nil)
	path := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return "FILE:" + path
}

// kerberosProxy takes tickets for its keys.
func kerberosProxy(t *testing.T, keys *keytab.Keytab, ask string) conversation {
	return func(c *proxyConn) {
		for {
			r := c.request()
			if r == nil {
				return
			}
			sent := r.Header.Get("Proxy-Authorization")
			if !strings.HasPrefix(sent, "Negotiate ") {
				c.say(ask)
				continue
			}
			var token spnego.SPNEGOToken
			if err := token.Unmarshal(token68Of(t, sent, "Negotiate")); err != nil {
				t.Error(err)
			}
			var inner spnego.KRB5Token
			if err := inner.Unmarshal(token.NegTokenInit.MechTokenBytes); err != nil {
				t.Error(err)
			}
			// The library's own acceptor starts a goroutine that never ends.
			ok, err := inner.APReq.Verify(keys, time.Minute, types.HostAddress{}, nil)
			if !ok || err != nil || inner.APReq.Authenticator.CName.PrincipalNameString() != "jane" {
				c.say(ask)
				continue
			}
			c.say("HTTP/1.1 200 OK\r\n\r\n")
			c.echo()
			return
		}
	}
}

func TestNegotiateWithTicket(t *testing.T) {
	keys := serviceKeys(t)
	ask := status(407, "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=x\r\n", "")
	f := newFaultyProxy(t, kerberosProxy(t, keys, ask))
	o := testOptions(f.url()) // no user: the ticket is enough
	o.Kerberos.Cache = writeCache(t, "HTTP/127.0.0.1", keys, time.Now().Add(time.Hour))
	d := mustNew(t, o)
	for range 2 {
		conn, e := dial(t, d, testTarget)
		if e != nil {
			t.Fatal(e)
		}
		checkEcho(t, conn)
	}
	if got := f.authorizations(); len(got) != 2+1 {
		t.Errorf("%d requests", len(got))
	}
}

// A proxy that goes on asking after the ticket wants a mechanism that the ticket is not for, and keeps the half of a
// handshake on that connection: another scheme starts on a new one.
func TestTicketIsNotEnough(t *testing.T) {
	keys := serviceKeys(t)
	basicToo := "Proxy-Authenticate: Basic realm=x\r\n"
	f := newFaultyProxy(t, replies(status(407, "Proxy-Authenticate: Negotiate\r\n"+basicToo, ""), status(407, "Proxy-Authenticate: Negotiate oQcwBaADCgEB\r\n"+basicToo, ""), ok200),
		replies(ok200))
	o := testOptions(f.url())
	o.Username, o.Password, o.Schemes = "jane", testPassword, []string{"negotiate", "basic"}
	o.Kerberos.Cache = writeCache(t, "HTTP/127.0.0.1", keys, time.Now().Add(time.Hour))
	d := mustNew(t, o)
	d.schemes = slices.DeleteFunc(d.schemes, func(s scheme) bool { return s.bound() })
	conn, e := dial(t, d, testTarget)
	if e != nil {
		t.Fatal(e)
	}
	checkEcho(t, conn)
	if got := f.authorizations(); len(got) != 3 || f.connections() != 2 || !strings.HasPrefix(got[2], "Basic ") {
		t.Errorf("%q on %d connections", got, f.connections())
	}
}

// Why there is no ticket is told; with a password something else is tried.
func TestNegotiateWithoutTicket(t *testing.T) {
	keys := serviceKeys(t)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	other := keytab.New()
	if err := other.AddEntry("HTTP/127.0.0.1", testRealm, "another key", time.Now(), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte{5, 4, 0, 12, 0, 1, 0, 8}, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, cache string
		want        error
		text        string
	}{
		{"none", "FILE:testdata/no-tickets", ErrCredentialsMissing, "there is no cache testdata/no-tickets; run kinit"},
		{"expired", writeCache(t, "krbtgt/"+testRealm, keys, past), ErrCredentialsMissing, "ticket of jane@EXAMPLE.TEST expired at " + past.Format(time.DateOnly)},
		{"of another kind", "KCM:0", ErrCredentialsMissing, "of kind KCM, and only FILE and DIR can be read"},
		{"not for this service", writeCache(t, "HTTP/elsewhere", keys, soon), ErrCredentialsMissing, "no ticket of jane@EXAMPLE.TEST for the realm"},
		{"broken", broken, ErrCredentialsMissing, "malformed"},
		{"refused by the proxy", writeCache(t, "HTTP/127.0.0.1", other, soon), ErrCredentialsRefused, "the proxy refused the Kerberos ticket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ask := status(407, "Proxy-Authenticate: Negotiate\r\n", "")
			f := newFaultyProxy(t, kerberosProxy(t, keys, ask))
			o := testOptions(f.url())
			o.Kerberos.Cache = c.cache
			_, e := dial(t, mustNew(t, o), testTarget)
			if e == nil || !errors.Is(e, c.want) || !strings.Contains(e.Error(), c.text) || !e.Permanent() {
				t.Errorf("%v", e)
			}
			// With a user and a password, Basic is left.
			ask = status(407, "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=x\r\n", "")

			f = newFaultyProxy(t, func(p *proxyConn) {
				for r := p.request(); r != nil; r = p.request() {
					if r.Header.Get("Proxy-Authorization") == wantBasic {
						p.say("HTTP/1.1 200 OK\r\n\r\n")
						p.echo()
						return
					}

					p.say(ask)
				}
			})
			o = withCredentials(testOptions(f.url()))
			o.Kerberos.Cache = c.cache
			conn, e := dial(t, mustNew(t, o), testTarget)
			if e != nil {
				t.Fatal(e)
			}
			checkEcho(t, conn)
		})
	}
}
