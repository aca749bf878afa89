package egress

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/Azure/go-ntlmssp"
)

// ntlmScheme is NTLMv2 (MS-NLMP), for which MS-NTHT and RFC 4559 are the rules in HTTP: three legs on one connection. With
// inNegotiate the same messages go under the name of Negotiate, bare as Windows sends them when it has no ticket, or
// in SPNEGO (RFC 4178) if that is how the proxy answers.
type ntlmScheme struct{ inNegotiate bool }

func (s ntlmScheme) name() string {
	if s.inNegotiate {
		return "Negotiate"
	}
	return "NTLM"
}

func (ntlmScheme) bound() bool { return true }

func (ntlmScheme) usable(p *proxy, _ challenge) error {
	if p.login() == nil {
		return errNoPassword
	}
	return nil
}

func (s ntlmScheme) start(p *proxy, _ string) exchange {
	return &ntlmExchange{scheme: s, cred: *p.cred}
}

type ntlmExchange struct {
	scheme ntlmScheme
	cred   credential
	leg    int // messages sent
}

var ntlmSignature = []byte("NTLMSSP\x00")

// opening is the first message, which holds neither user nor password.
func (x *ntlmExchange) opening(context.Context) string {
	message, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		return ""
	}
	x.leg = 1
	return x.scheme.name() + " " + base64.StdEncoding.EncodeToString(message)
}

func (x *ntlmExchange) answer(ctx context.Context, ch challenge) (string, error) {
	switch {
	case x.leg == 0: // whatever a connection before this one was told
		return x.opening(ctx), nil
	case x.leg == 2:
		return "", errRefused
	case ch.token68 == "":
		return "", errors.New("the proxy did not take up the handshake")
	}
	token, err := base64.StdEncoding.DecodeString(ch.token68)
	if err != nil {
		return "", errors.New("the proxy's token is malformed")
	}
	wrapped := false
	if x.scheme.inNegotiate && !bytes.HasPrefix(token, ntlmSignature) {
		wrapped = true
		if token, err = readNegTokenResp(token); err != nil {
			return "", err
		}
	}
	message, err := ntlmAnswer(token, x.cred)
	if err != nil {
		return "", err
	}
	if wrapped {
		if message, err = writeNegTokenResp(message); err != nil {
			return "", err
		}
	}
	x.leg = 2
	return x.scheme.name() + " " + base64.StdEncoding.EncodeToString(message), nil
}

func (x *ntlmExchange) shown() bool { return x.leg == 2 }
func (x *ntlmExchange) end()        {}

// ntlmFlags is where a CHALLENGE_MESSAGE has its flags (MS-NLMP §2.2.1.2). Those for a session key say how later
// messages would be sealed. There are none, and the library gives up on them, so they are cleared.
const (
	ntlmFlags           = 20
	ntlmSessionKeyFlags = 0x4000_0000 /* KEY_EXCH */ | 0x0000_0080 /* LM_KEY */ | 0x0000_0030 /* SIGN, SEAL */
)

// ntlmAnswer makes the third message from the second.
func ntlmAnswer(token []byte, c credential) ([]byte, error) {
	if len(token) < ntlmFlags+4 || !bytes.HasPrefix(token, ntlmSignature) {
		return nil, errors.New("the proxy's token is no NTLM challenge")
	}
	token = bytes.Clone(token)
	flags := binary.LittleEndian.Uint32(token[ntlmFlags:])
	binary.LittleEndian.PutUint32(token[ntlmFlags:], flags&^ntlmSessionKeyFlags)
	message, err := ntlmssp.NewAuthenticateMessage(token, c.user, c.password, nil)
	if err != nil {
		return nil, errors.New("the proxy's NTLM challenge: " + strings.ToLower(clean(err.Error(), maxReason)))
	}
	return message, nil
}
