package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Kerberos says where tickets for a proxy come from. The zero value is what every Kerberos program uses: the
// configuration and the ticket cache that KRB5_CONFIG and KRB5CCNAME name, or the usual places.
//
// A keytab is used if there is one; else the proxy's password, if its user is written user@REALM (the realm is never
// guessed, because the password then goes to that realm's servers); else the ticket cache, if its ticket is that of the
// user, where one is named.
type Kerberos struct {
	// Config is the configuration file. "" means KRB5_CONFIG, or /etc/krb5.conf, which need not exist.
	Config string
	// Cache is the ticket cache, FILE:path, DIR:path, DIR::path or a path. "" means KRB5CCNAME, or default_ccache_name
	// in the configuration, or /tmp/krb5cc_UID.
	Cache string
	// Keytab is a file with the key of the proxy's user. "" means none.
	Keytab string
	// Service is the proxy's service principal. "" means HTTP/host, with the proxy's host as it is written, or if no
	// Kerberos server knows that, with the name that DNS has it as an alias of.
	Service string
}

// kerberos is Negotiate with a Kerberos ticket (RFC 4559): one leg, and no password goes to the proxy.
type kerberos struct{}

func (kerberos) name() string { return "Negotiate" }
func (kerberos) bound() bool  { return false }

func (kerberos) usable(p *proxy, _ challenge) error {
	if p.mem.recallTicket() != nil {
		return nil
	}
	_, err := p.ticketSource()
	return err
}

func (kerberos) start(p *proxy, _ string) exchange { return &kerberosExchange{proxy: p} }

type kerberosExchange struct {
	proxy    *proxy
	sent     bool
	recalled bool // what was sent is a remembered ticket, which the proxy's key may not have outlived
}

// opening sends the ticket that is remembered. Without one it waits for the challenge, so that a Kerberos server is
// asked, perhaps with a password, only once.
func (x *kerberosExchange) opening(context.Context) string {
	t := x.proxy.mem.recallTicket()
	if t == nil {
		return ""
	}
	value, err := t.authorization()
	if err != nil {
		return ""
	}
	x.sent, x.recalled = true, true
	return value
}

// answer sends a ticket; when a remembered one was refused, a new one.
func (x *kerberosExchange) answer(ctx context.Context, _ challenge) (string, error) {
	mem := x.proxy.mem
	if x.sent && !x.recalled {
		mem.keepTicket(nil)
		return "", errTicket
	}
	t := mem.recallTicket()
	if x.sent {
		t = nil
	}
	x.recalled = t != nil
	if t == nil {
		var err error
		if t, err = x.proxy.newTicket(ctx); err != nil {
			mem.keepTicket(nil)
			return "", err
		}
		mem.keepTicket(t)
	}
	value, err := t.authorization()
	x.sent = err == nil
	return value, err
}

// shown is false: a ticket is no password.
func (*kerberosExchange) shown() bool { return false }
func (*kerberosExchange) end()        {}

// ticket is one for a service, with its session key.
type ticket struct {
	ticket messages.Ticket
	key    types.EncryptionKey
	name   types.PrincipalName // of whom it identifies
	realm  string
	end    time.Time
}

// authorization makes the header's value: the SPNEGO token (RFC 4178 §4.2.1), which does not ask the proxy to prove
// itself in turn. Browsers do not check such a proof either, and the tunnel has TLS to the server agent in it.
func (t *ticket) authorization() (value string, err error) {
	defer recovered(&err)
	cl := client.NewWithPassword("", t.realm, "", nil)
	cl.Credentials.SetCName(t.name)
	init, err := spnego.NewNegTokenInitKRB5(cl, t.ticket, t.key)
	if err != nil {
		return "", errors.New("the Kerberos ticket cannot be used: " + clean(err.Error(), maxExcerpt))
	}
	token, err := (&spnego.SPNEGOToken{Init: true, NegTokenInit: init}).Marshal()
	if err != nil {
		return "", errors.New("the Kerberos ticket cannot be used: " + clean(err.Error(), maxExcerpt))
	}
	return "Negotiate " + base64.StdEncoding.EncodeToString(token), nil
}

// recovered turns a panic into an error: the library reads files and a stranger's replies, and is not ours.
func recovered(err *error) {
	if recover() != nil {
		*err = errors.New("a Kerberos file or reply is malformed")
	}
}
