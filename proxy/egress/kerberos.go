package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Kerberos says where tickets for a proxy come from. The zero value is what every Kerberos program uses: the
// configuration and the ticket cache that KRB5_CONFIG and KRB5CCNAME name, or the usual places.
//
// A keytab is used if there is one; else the proxy's password, if its user is written user@REALM (the realm is never
// guessed, because the password then goes to that realm's servers); else the ticket cache. A Kerberos server is waited
// for at most 5 s, whatever the dial's context says.
type Kerberos struct {
	// Config is the configuration file. "" means KRB5_CONFIG, or /etc/krb5.conf, which need not exist.
	Config string
	// Cache is the ticket cache, FILE:path, DIR:path, DIR::path or a path. "" means KRB5CCNAME, or default_ccache_name
	// in the configuration, or /tmp/krb5cc_UID.
	Cache string
	// Keytab is a file with the key of the proxy's user. "" means none.
	Keytab string
	// Service is the proxy's service principal. "" means HTTP/host, with the proxy's host as it is written.
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
	proxy *proxy
	sent  bool
}

func (x *kerberosExchange) opening(ctx context.Context) string {
	value, err := x.answer(ctx, challenge{})
	if err != nil {
		return ""
	}
	return value
}

func (x *kerberosExchange) answer(ctx context.Context, _ challenge) (string, error) {
	if x.sent {
		x.proxy.mem.keepTicket(nil)
		return "", errTicket
	}
	token, err := x.proxy.ticketToken(ctx)
	if err != nil {
		return "", err
	}
	x.sent = true
	return "Negotiate " + base64.StdEncoding.EncodeToString(token), nil
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

// ticketToken returns the SPNEGO token for the proxy (RFC 4178 §4.2.1).
func (p *proxy) ticketToken(ctx context.Context) (token []byte, err error) {
	// The library reads files and network replies and is not ours.
	defer func() {
		if recover() != nil {
			err = errors.New("a Kerberos file or reply is malformed")
		}
	}()
	t := p.mem.recallTicket()
	if t == nil {
		source, err := p.ticketSource()
		if err != nil {
			return nil, err
		}
		if t, err = source.service(ctx, p.serviceName()); err != nil {
			return nil, err
		}
		p.mem.keepTicket(t)
	}
	cl := client.NewWithPassword("", t.realm, "", nil)
	cl.Credentials.SetCName(t.name)
	init, err := spnego.NewNegTokenInitKRB5(cl, t.ticket, t.key)
	if err != nil {
		return nil, errors.New("the Kerberos ticket cannot be used: " + clean(err.Error(), maxExcerpt))
	}
	return (&spnego.SPNEGOToken{Init: true, NegTokenInit: init}).Marshal()
}

func (p *proxy) serviceName() string {
	if p.kerberos.Service != "" {
		return p.kerberos.Service
	}
	return "HTTP/" + strings.ToLower(strings.TrimSuffix(p.host, "."))
}

// ticketSource is where service tickets come from: a TGT, or what it takes to get one.
type ticketSource struct {
	config  *krb5Config
	realm   string
	name    types.PrincipalName
	cl      *client.Client // knows password or keytab; nil with a cache
	tgt     *ticket        // from the cache
	service func(ctx context.Context, name string) (*ticket, error)
}

// ticketSource chooses where tickets come from, without a packet.
func (p *proxy) ticketSource() (_ *ticketSource, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("a Kerberos file is malformed")
		}
	}()
	if !p.trusted {
		return nil, errNoPassword
	}
	paths, explicit := krb5Paths(p.kerberos.Config, p.getenv)
	config, err := readKrb5(paths, explicit)
	if err != nil {
		return nil, fmt.Errorf("the Kerberos configuration: %w", err)
	}
	s := &ticketSource{config: config}
	var user string
	if p.cred != nil {
		user, s.realm = splitRealm(p.cred.user)
	}
	switch {
	case p.kerberos.Keytab != "":
		return s, s.fromKeytab(p.kerberos.Keytab, user)
	case p.cred != nil && p.cred.password != "" && s.realm != "":
		conf, err := config.library(s.realm)
		if err != nil {
			return nil, err
		}
		s.name = types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, user)
		s.cl = client.NewWithPassword(user, s.realm, p.cred.password, conf, client.DisablePAFXFAST(true))
		s.service = s.byLogin
		return s, nil
	}
	return s, s.fromCache(p.kerberos.Cache, p.getenv)
}

// splitRealm reads user@REALM and, where the domain can only be a realm, REALM.EXAMPLE\user. Realms of Windows domains
// are in upper case, and nobody has others.
func splitRealm(name string) (user, realm string) {
	if domain, user, ok := strings.Cut(name, `\`); ok {
		if strings.Contains(domain, ".") {
			return user, strings.ToUpper(domain)
		}
		return user, ""
	}
	if i := strings.LastIndexByte(name, '@'); i > 0 {
		return name[:i], strings.ToUpper(name[i+1:])
	}
	return name, ""
}

func (s *ticketSource) fromKeytab(path, user string) error {
	kt, err := keytab.Load(path)
	if err != nil {
		return fmt.Errorf("the keytab: %s", clean(err.Error(), maxExcerpt))
	}
	if len(kt.Entries) == 0 {
		return fmt.Errorf("the keytab %s is empty", path)
	}
	first := kt.Entries[0].Principal
	if user == "" {
		user, s.realm = strings.Join(first.Components, "/"), first.Realm
	}
	if s.realm == "" {
		s.realm = first.Realm
	}
	conf, err := s.config.library(s.realm)
	if err != nil {
		return err
	}
	s.cl = client.NewWithKeytab(user, s.realm, kt, conf, client.DisablePAFXFAST(true))
	s.name = s.cl.Credentials.CName()
	s.service = s.byLogin
	return nil
}

// byLogin gets a TGT by password or keytab, and with it the service's ticket.
func (s *ticketSource) byLogin(ctx context.Context, service string) (*ticket, error) {
	req, err := messages.NewASReqForTGT(s.realm, s.cl.Config, s.name)
	if err != nil {
		return nil, s.explain(err)
	}
	rep, err := s.cl.ASExchange(s.realm, req, 0)
	if err != nil {
		return nil, s.explain(err)
	}
	tgt := &ticket{ticket: rep.Ticket, key: rep.DecryptedEncPart.Key}
	if err := ctx.Err(); err != nil { // the library does not know contexts
		return nil, err
	}
	return s.exchange(tgt, service)
}

// exchange gets the service's ticket with a TGT, over the realm that the configuration names for the service's host.
// Other referrals are followed by the library.
func (s *ticketSource) exchange(tgt *ticket, service string) (*ticket, error) {
	// A referral makes the library start a goroutine that would renew the foreign TGT.
	defer s.cl.Destroy()
	s.cl.Config.LibDefaults.Canonicalize = true // asks for referrals (RFC 6806 §8)
	realm := s.realm
	name := types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, service)
	if host := name.NameString[len(name.NameString)-1]; len(name.NameString) > 1 {
		if other := s.cl.Config.ResolveRealm(host); other != "" && other != realm {
			cross := types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", other}}
			_, rep, err := s.cl.TGSREQGenerateAndExchange(cross, realm, tgt.ticket, tgt.key, false)
			if err != nil {
				return nil, s.explain(err)
			}
			realm, tgt = other, &ticket{ticket: rep.Ticket, key: rep.DecryptedEncPart.Key}
		}
	}
	_, rep, err := s.cl.TGSREQGenerateAndExchange(name, realm, tgt.ticket, tgt.key, false)
	if err != nil {
		return nil, s.explain(err)
	}
	return &ticket{rep.Ticket, rep.DecryptedEncPart.Key, s.name, s.realm, rep.DecryptedEncPart.EndTime}, nil
}

// explain says what a Kerberos server's error means. The library keeps the code in the text only, so the library's own
// words for each code are looked for.
func (s *ticketSource) explain(err error) error {
	who := s.name.PrincipalNameString() + "@" + s.realm
	text := err.Error()
	has := func(code int32) bool { return strings.Contains(text, errorcode.Lookup(code)) }
	for _, known := range []struct {
		code int32
		kind error
		text string
	}{
		{errorcode.KDC_ERR_PREAUTH_FAILED, errRefused, "the Kerberos server refused the password or key of " + who},
		{errorcode.KDC_ERR_CLIENT_REVOKED, errRefused, "the Kerberos server has locked " + who},
		{errorcode.KDC_ERR_KEY_EXPIRED, errRefused, "the Kerberos password of " + who + " has expired"},
		{errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN, nil, "the Kerberos server does not know " + who},
		{errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN, nil, "the Kerberos server does not know this proxy's service; name the proxy by the host name that the service has, or set --proxy-service"},
		{errorcode.KRB_AP_ERR_SKEW, nil, "this machine's clock differs too much from the Kerberos server's"},
		{errorcode.KRB_AP_ERR_TKT_EXPIRED, nil, "the Kerberos ticket has expired; run kinit"},
	} {
		if has(known.code) {
			if known.kind == nil {
				return errors.New(known.text)
			}
			return &kindError{known.kind, errors.New(known.text)}
		}
	}
	if strings.Contains(text, "client password/keytab incorrect") { // found out here, without pre-authentication
		return &kindError{errRefused, errors.New("the password or key of " + who + " is wrong")}
	}
	return errors.New("Kerberos for " + who + ": " + clean(text, maxExcerpt))
}

// uid is the number in the usual cache's name.
func uid() string { return fmt.Sprint(os.Getuid()) }
