package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/alexbrainman/sspi"
	"github.com/alexbrainman/sspi/negotiate"
	"github.com/alexbrainman/sspi/ntlm"
)

// platformSchemes are those that the system provides, the strongest first. They serve the user who is logged in; a
// user and a password that are set go by our own schemes, except for Negotiate, where the system knows the realm.
func platformSchemes() []scheme { return []scheme{sspiNegotiate{}, sspiNTLM{}} }

type sspiNegotiate struct{}

func (sspiNegotiate) name() string { return "Negotiate" }
func (sspiNegotiate) bound() bool  { return true }

func (sspiNegotiate) usable(p *proxy, _ challenge) error {
	if !p.trusted {
		return errNoPassword
	}
	if p.kerberos.Keytab != "" {
		return errors.New("a keytab is set")
	}
	return nil
}

func (sspiNegotiate) start(p *proxy, _ string) exchange {
	x := &sspiExchange{scheme: "Negotiate", password: p.login() != nil}
	x.begin = func() (sspiContext, []byte, error) {
		acquire := negotiate.AcquireCurrentUserCredentials
		if c := p.login(); c != nil {
			domain, user := splitDomain(c.user)
			acquire = func() (*sspi.Credentials, error) { return negotiate.AcquireUserCredentials(domain, user, c.password) }
		}
		credentials, err := acquire()
		if err != nil {
			return nil, nil, err
		}
		x.credentials = credentials
		c, token, err := negotiate.NewClientContext(credentials, p.serviceName())
		return negotiateContext{c}, token, err
	}
	return x
}

type sspiNTLM struct{}

func (sspiNTLM) name() string { return "NTLM" }
func (sspiNTLM) bound() bool  { return true }

func (sspiNTLM) usable(p *proxy, _ challenge) error {
	if !p.trusted || p.login() != nil {
		return errors.New("is for the user who is logged in")
	}
	return nil
}

func (sspiNTLM) start(*proxy, string) exchange {
	x := &sspiExchange{scheme: "NTLM"}
	x.begin = func() (sspiContext, []byte, error) {
		credentials, err := ntlm.AcquireCurrentUserCredentials()
		if err != nil {
			return nil, nil, err
		}
		x.credentials = credentials
		c, token, err := ntlm.NewClientContext(credentials)
		return ntlmContext{c}, token, err
	}
	return x
}

// sspiContext is what the two packages have in common.
type sspiContext interface {
	update(token []byte) (done bool, next []byte, err error)
	Release() error
}

type negotiateContext struct{ *negotiate.ClientContext }

func (c negotiateContext) update(token []byte) (bool, []byte, error) { return c.Update(token) }

type ntlmContext struct{ *ntlm.ClientContext }

func (c ntlmContext) update(token []byte) (bool, []byte, error) {
	next, err := c.Update(token)
	return true, next, err
}

type sspiExchange struct {
	scheme   string
	password bool // one was set: a refusal is about it
	begin    func() (sspiContext, []byte, error)

	credentials *sspi.Credentials
	context     sspiContext
	legs        int
	done        bool
}

func (x *sspiExchange) opening(ctx context.Context) string {
	value, err := x.answer(ctx, challenge{})
	if err != nil {
		return ""
	}
	return value
}

func (x *sspiExchange) answer(_ context.Context, ch challenge) (string, error) {
	var token []byte
	var err error
	switch {
	case x.legs == 0:
		if x.context, token, err = x.begin(); err != nil {
			x.context = nil
		}
	case ch.token68 == "" && (x.done || x.legs > 1):
		if x.password {
			return "", errRefused
		}
		return "", errors.New("the proxy refused the user who is logged in")
	case ch.token68 == "":
		return "", errors.New("the proxy did not take up the handshake")
	default:
		var received []byte
		if received, err = base64.StdEncoding.DecodeString(ch.token68); err == nil {
			x.done, token, err = x.context.update(received)
		}
	}
	if err != nil {
		return "", errors.New("Windows: " + clean(err.Error(), maxExcerpt))
	}
	if len(token) == 0 {
		return "", errors.New("the proxy goes on although the handshake is done")
	}
	x.legs++
	return x.scheme + " " + base64.StdEncoding.EncodeToString(token), nil
}

func (x *sspiExchange) shown() bool { return x.password && x.legs > 0 }

func (x *sspiExchange) end() {
	if x.context != nil {
		_ = x.context.Release()
		x.context = nil
	}
	if x.credentials != nil {
		_ = x.credentials.Release()
		x.credentials = nil
	}
}

// splitDomain reads DOMAIN\user; user@realm stays whole, with no domain.
func splitDomain(name string) (domain, user string) {
	if domain, user, ok := strings.Cut(name, `\`); ok {
		return domain, user
	}
	return "", name
}
