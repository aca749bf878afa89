package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// ticketSource is where service tickets come from: a TGT, or what it takes to get one.
type ticketSource struct {
	config  *krb5Config
	library *config.Config // config as the library wants it
	realm   string
	name    types.PrincipalName
	secret  *credentials.Credentials // password or keytab; nil with a cache
	cached  map[string]*ticket       // with a cache: by service
}

// ticketSource chooses where tickets come from, without a packet.
func (p *proxy) ticketSource() (_ *ticketSource, err error) {
	defer recovered(&err)
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
	switch c := p.login(); {
	case p.kerberos.Keytab != "":
		err = s.fromKeytab(p.kerberos.Keytab, user)
	case c != nil && s.realm != "":
		s.secret = credentials.New(user, s.realm).WithPassword(c.password)
	default:
		err = s.fromCache(p.kerberos.Cache, user, s.realm, p.getenv)
	}
	if err != nil {
		return nil, err
	}
	if s.secret != nil {
		s.name = types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, s.secret.UserName())
	}
	s.library, err = config.library(s.realm)
	return s, err
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
	s.secret = credentials.New(user, s.realm).WithKeytab(kt)
	return nil
}

// errNoService: the proxy's service is not known by the name that was asked for.
var errNoService = errors.New("unknown service")

// newTicket gets a ticket for the proxy.
func (p *proxy) newTicket(ctx context.Context) (_ *ticket, err error) {
	defer recovered(&err)
	s, err := p.ticketSource()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, kerberosTimeout, noAnswer(kerberosTimeout))
	defer cancel()
	service := p.serviceName()
	t, err := s.service(ctx, service)
	if p.kerberos.Service != "" || !errors.Is(err, errNoService) || isFalse(s.config.libdefaults["dns_canonicalize_hostname"]) {
		return t, err
	}
	// libkrb5 looks for the name behind an alias too, and so browsers do.
	if host := p.canonicalHost(ctx); host != "" && "HTTP/"+host != service {
		if t, err := s.service(ctx, "HTTP/"+host); err == nil {
			return t, nil
		}
	}
	return nil, err
}

// serviceName is the proxy's service principal.
func (p *proxy) serviceName() string {
	if p.kerberos.Service != "" {
		return p.kerberos.Service
	}
	return "HTTP/" + strings.ToLower(strings.TrimSuffix(p.host, "."))
}

// canonicalHost is the name that DNS has the proxy's name as an alias of, or the long form of a short one; "" if none.
func (p *proxy) canonicalHost(ctx context.Context) string {
	lookup := p.lookupCNAME
	if lookup == nil {
		lookup = net.DefaultResolver.LookupCNAME
	}
	if _, err := netip.ParseAddr(p.host); err == nil {
		return ""
	}
	name, err := lookup(ctx, p.host)
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// service gets the ticket for a service: from the cache, or with a TGT.
func (s *ticketSource) service(ctx context.Context, name string) (*ticket, error) {
	if t := s.cached[name]; t != nil {
		return t, nil
	}
	tgt := s.cached["krbtgt/"+s.realm]
	switch {
	case s.secret != nil:
		var err error
		if tgt, err = s.login(ctx); err != nil {
			return nil, err
		}
	case tgt == nil:
		return nil, &kindError{errNoService, fmt.Errorf("the Kerberos ticket cache has no ticket of %s for the realm; run kinit", s.who())}
	}
	return s.exchange(ctx, tgt, name)
}

// who is the principal that tickets are for.
func (s *ticketSource) who() string { return s.name.PrincipalNameString() + "@" + s.realm }

// explain says what a Kerberos server's refusal means. Other errors stay as they are.
func (s *ticketSource) explain(err error) error {
	refusal, ok := errors.AsType[messages.KRBError](err)
	if !ok {
		return err
	}
	switch refusal.ErrorCode {
	case errorcode.KDC_ERR_PREAUTH_FAILED:
		return reason(errRefused, "the Kerberos server refused the password or key of %s", s.who())
	case errorcode.KDC_ERR_CLIENT_REVOKED:
		return reason(errRefused, "the Kerberos server has locked %s", s.who())
	case errorcode.KDC_ERR_KEY_EXPIRED:
		return reason(errRefused, "the Kerberos password of %s has expired", s.who())
	case errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN:
		return fmt.Errorf("the Kerberos server does not know %s", s.who())
	case errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN:
		return reason(errNoService, "the Kerberos server does not know this proxy's service; name the proxy by the host name that the service has, or set --proxy-service")
	case errorcode.KRB_AP_ERR_SKEW:
		return errors.New("this machine's clock differs too much from the Kerberos server's")
	case errorcode.KRB_AP_ERR_TKT_EXPIRED:
		return errors.New("the Kerberos ticket has expired; run kinit")
	}
	return fmt.Errorf("Kerberos for %s: %s", s.who(), clean(refusal.Error(), maxExcerpt))
}

// odd is the error for what the library cannot read or make.
func (s *ticketSource) odd(err error) error {
	return fmt.Errorf("Kerberos for %s: %s", s.who(), clean(err.Error(), maxExcerpt))
}

// uid is the number in the usual cache's name.
func uid() string { return fmt.Sprint(os.Getuid()) }
