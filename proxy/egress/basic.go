package egress

import (
	"encoding/base64"
	"errors"
	"strings"
)

// basic is RFC 7617, in UTF-8 (§2.1) whatever the challenge says: no other charset is defined.
type basic struct{}

func (basic) name() string { return "Basic" }

func (basic) usable(c credential) error {
	if strings.Contains(c.user, ":") {
		return errors.New("cannot carry a user name that contains a colon")
	}
	return nil
}

func (basic) start(c credential, _ string) exchange { return &basicExchange{cred: c} }

type basicExchange struct {
	cred credential
	sent bool
}

func (x *basicExchange) opening() string {
	x.sent = true
	return "Basic " + basicToken(x.cred)
}

func (x *basicExchange) answer(challenge) (string, error) {
	if x.sent {
		return "", errRefused
	}
	return x.opening(), nil
}

func basicToken(c credential) string {
	return base64.StdEncoding.EncodeToString([]byte(c.user + ":" + c.password))
}
