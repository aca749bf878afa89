package egress

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// What these tests count is how often a proxy sees a password, or what proves one: each time may be one of the few that
// an account has before it gets locked.

// proofs counts the requests that show a password: all with credentials, but for NTLM's first message.
func (p *faultyProxy) proofs() (n int) {
	first, _ := base64.StdEncoding.DecodeString("TlRMTVNTUAABAAAA")
	start := base64.StdEncoding.EncodeToString(first)
	for _, sent := range p.authorizations() {
		if sent != "" && !strings.HasPrefix(sent, "NTLM "+start) && !strings.HasPrefix(sent, "Negotiate "+start) {
			n++
		}
	}
	return n
}

// A proxy that cuts the connection instead of refusing sees what it cut at once more, not as often as there are redials.
func TestCutAtCredentials(t *testing.T) {
	challenge := status(407, "Proxy-Authenticate: NTLM "+base64.StdEncoding.EncodeToString(ntlmChallenge(0))+"\r\n", "")
	for name, script := range map[string]conversation{
		"NTLM": func(c *proxyConn) {
			for r := c.request(); r != nil; r = c.request() {
				switch sent := r.Header.Get("Proxy-Authorization"); {
				case sent == "":
					c.say(status(407, "Proxy-Authenticate: NTLM\r\n", ""))
				case strings.HasPrefix(sent, "NTLM TlRMTVNTUAAB"):
					c.say(challenge)
				default:
					return
				}
			}
		},
		"Basic": func(c *proxyConn) {
			for r := c.request(); r != nil; r = c.request() {
				if r.Header.Get("Proxy-Authorization") != "" {
					return
				}
				c.say(ask407)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFaultyProxy(t, script)
			_, e := dial(t, mustNew(t, withCredentials(testOptions(f.url()))), testTarget)
			if e == nil || e.Permanent() || e.Leg != LegCONNECT {
				t.Errorf("%v", e)
			}
			if n := f.proofs(); n != 2 {
				t.Errorf("the password was shown %d times", n)
			}
		})
	}
}

// A user without a password says whose ticket to use. No empty password is tried for him, unless a URL says so.
func TestUserWithoutPassword(t *testing.T) {
	ask := status(407, "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Digest realm=x, nonce=y\r\nProxy-Authenticate: Basic realm=x\r\n", "")
	for _, c := range []struct {
		inURL, user string
		want        error
		proofs      int
	}{
		{"", "jane@EXAMPLE.TEST", ErrCredentialsMissing, 0},
		{"", `DOM\jane`, ErrCredentialsMissing, 0},
		{"jane@", "", ErrCredentialsMissing, 0},
		{"token:@", "", ErrCredentialsRefused, 1},
	} {
		f := newFaultyProxy(t, replies(ask, ask, ask, ask), replies(ask))
		o := testOptions("http://" + c.inURL + f.Addr().String())
		o.Username = c.user
		o.Schemes = []string{"negotiate", "digest", "basic"}
		_, e := dial(t, mustNew(t, o), testTarget)
		if e == nil || !errors.Is(e, c.want) || f.proofs() != c.proofs {
			t.Errorf("%q %q: %d proofs, %v", c.inURL, c.user, f.proofs(), e)
		}
		if c.proofs == 0 && (!strings.Contains(e.Error(), "no password") || !strings.Contains(e.Error(), "no Kerberos ticket")) {
			t.Errorf("%q %q: %v", c.inURL, c.user, e)
		}
	}
}

// A scheme that is no longer offered after its password was shown was refused: no other gets to show it again.
func TestSchemeTakenBackIsARefusal(t *testing.T) {
	ask := func(schemes ...string) string {
		return status(407, "Proxy-Authenticate: "+strings.Join(schemes, "\r\nProxy-Authenticate: ")+"\r\n", "")
	}
	const digest = `Digest realm=x, nonce=y, qop="auth"`
	f := newFaultyProxy(t, replies(ask(digest, "Basic realm=x"), ask("Basic realm=x"), ok200))
	_, e := dial(t, mustNew(t, withCredentials(testOptions(f.url()))), testTarget)
	if e == nil || !errors.Is(e, ErrCredentialsRefused) || f.proofs() != 1 {
		t.Errorf("%d proofs: %v", f.proofs(), e)
	}
	// What was sent from memory is another matter: the proxy may have been set up anew.
	f = newFaultyProxy(t, replies(ask(digest), ok200), replies(ask("Basic realm=x"), ok200))
	d := mustNew(t, withCredentials(testOptions(f.url())))
	for range 2 {
		if _, e := dial(t, d, testTarget); e != nil {
			t.Fatal(e)
		}
	}
	if got := f.authorizations(); got[len(got)-1] != wantBasic {
		t.Errorf("%q", got)
	}
}

// Refused credentials are refused for every proxy that a script names, however it spells them.
func TestRefusalHoldsForAllProxiesOfAScript(t *testing.T) {
	refusing := replies(ask407, ask407)
	first, second := newFaultyProxy(t, refusing), newFaultyProxy(t, refusing)
	_, port, _ := strings.Cut(first.Addr().String(), ":")
	path := writePAC(t, fmt.Sprintf(`return {
			"a.example.com": "PROXY %s", "b.example.com": "PROXY %s", "c.example.com": "PROXY localhost:%s", "d.example.com": "PROXY LOCALHOST:%[3]s"
		}[host]`, first.Addr(), second.Addr(), port))
	o := withCredentials(pacOptions(path))
	o.Trust = []string{"*"}
	d := mustNew(t, o)
	for _, host := range []string{"a", "b", "c", "d"} {
		if _, e := dial(t, d, host+".example.com:443"); e == nil || !errors.Is(e, ErrCredentialsRefused) {
			t.Errorf("%s: %v", host, e)
		}
	}
	if n := first.proofs() + second.proofs(); n != 1 {
		t.Errorf("the password was shown %d times", n)
	}
}

// In a row of proxies with one account, too.
func TestRefusalHoldsForAChain(t *testing.T) {
	refusing := newFaultyProxy(t, replies(ask407, ask407))
	near := newFaultyProxy(t, func(c *proxyConn) { c.request(); c.say(ask407); relay(c) })
	o := testOptions("http://jane:s3cr@" + near.Addr().String())
	o.Proxy = append(o.Proxy, "http://jane:s3cr@"+refusing.Addr().String())
	d := mustNew(t, o)
	for range 3 {
		if _, e := dial(t, d, testTarget); e == nil || !errors.Is(e, ErrCredentialsRefused) {
			t.Errorf("%v", e)
		}
	}
	if n := refusing.proofs() + near.proofs(); n != 2 { // one that was accepted, one that was not
		t.Errorf("the password was shown %d times", n)
	}
}

// However many carriers are dialled at once: the first finds out what the password is worth, the others wait for that.
func TestManyAtOnce(t *testing.T) {
	ask := status(407, "Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=x\r\n", "")
	for _, good := range []bool{true, false} {
		password := testPassword
		if !good {
			password = "another"
		}
		f := newFaultyProxy(t, ntlmProxy(t, "NTLM", password, false, ask))
		d := mustNew(t, withCredentials(testOptions(f.url())))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				conn, err := d.DialContext(t.Context(), "tcp", testTarget)
				if err == nil {
					conn.Close()
				}
				if good != (err == nil) || !good && !errors.Is(err, ErrCredentialsRefused) {
					t.Errorf("good %v: %v", good, err)
				}
			})
		}
		wg.Wait()
		if n := f.proofs(); good && n != 20 || !good && n != 1 {
			t.Errorf("good %v: the password was shown %d times", good, n)
		}
	}
}

// Connections that were let through while the password was good do not go on with it once another learnt that it is not.
func TestRefusalStopsThoseOnTheirWay(t *testing.T) {
	ask := status(407, "Proxy-Authenticate: NTLM\r\n", "")
	challenge := status(407, "Proxy-Authenticate: NTLM "+base64.StdEncoding.EncodeToString(ntlmChallenge(0))+"\r\n", "")
	arrived, goOn := make(chan struct{}), make(chan struct{})
	f := newFaultyProxy(t,
		ntlmProxy(t, "NTLM", testPassword, false, ask),
		func(c *proxyConn) { // sends its challenge only when the other connection was refused
			c.request()
			close(arrived)
			<-goOn
			c.say(challenge)
			c.request()
		},
		ntlmProxy(t, "NTLM", "changed", false, ask),
	)
	d := mustNew(t, withCredentials(testOptions(f.url())))
	if _, e := dial(t, d, testTarget); e != nil {
		t.Fatal(e)
	}
	slow := make(chan error, 1)
	go func() {
		conn, err := d.DialContext(t.Context(), "tcp", testTarget)
		if err == nil {
			conn.Close()
		}
		slow <- err
	}()
	<-arrived
	_, e := dial(t, d, testTarget)
	close(goOn)
	if err := <-slow; e == nil || !errors.Is(e, ErrCredentialsRefused) || !errors.Is(err, ErrCredentialsRefused) {
		t.Errorf("%v, %v", e, err)
	}
	if n := f.proofs(); n != 2 { // one accepted, one refused
		t.Errorf("the password was shown %d times", n)
	}
}
