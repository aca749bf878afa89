package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
)

// basic is RFC 7617, in UTF-8 (§2.1) whatever the challenge says: no other charset is defined.
type basic struct{}

func (basic) name() string { return "Basic" }
func (basic) bound() bool  { return false }

func (basic) usable(p *proxy, _ challenge) error {
	if p.login() == nil {
		return errNoPassword
	}
	if strings.Contains(p.cred.user, ":") {
		return errors.New("cannot carry a user name that contains a colon")
	}
	return nil
}

func (basic) start(p *proxy, _ string) exchange { return &basicExchange{cred: *p.cred} }

type basicExchange struct {
	cred credential
	sent bool
}

func (x *basicExchange) opening(context.Context) string {
	x.sent = true
	return "Basic " + basicToken(x.cred)
}

func (x *basicExchange) answer(ctx context.Context, _ challenge) (string, error) {
	if x.sent {
		return "", errRefused
	}
	return x.opening(ctx), nil
}

func (x *basicExchange) shown() bool { return x.sent }
func (x *basicExchange) end()        {}

func basicToken(c credential) string {
	return base64.StdEncoding.EncodeToString([]byte(c.user + ":" + c.password))
}
