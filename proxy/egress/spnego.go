package egress

import (
	"errors"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// readNegTokenResp returns the mechanism's token that a proxy's SPNEGO reply holds (RFC 4178 §4.2.2).
func readNegTokenResp(b []byte) (token []byte, err error) {
	// The ASN.1 reader is not ours, and what it reads is a stranger's.
	defer func() {
		if recover() != nil {
			err = errSPNEGO
		}
	}()
	isInit, any, err := spnego.UnmarshalNegToken(b)
	resp, ok := any.(spnego.NegTokenResp)
	if err != nil || isInit || !ok {
		return nil, errSPNEGO
	}
	if resp.State() == spnego.NegStateReject {
		return nil, errors.New("the proxy accepts no mechanism that we have")
	}
	return resp.ResponseToken, nil
}

var errSPNEGO = errors.New("the proxy's token is neither NTLM nor SPNEGO")

// writeNegTokenResp wraps the mechanism's next token.
func writeNegTokenResp(token []byte) ([]byte, error) {
	resp := spnego.NegTokenResp{NegState: asn1.Enumerated(spnego.NegStateAcceptIncomplete), ResponseToken: token}
	return resp.Marshal()
}
